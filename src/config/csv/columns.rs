//! Which key each column of a CSV file is: `scale`, `write.min`; `device.poll` where a file describes whole devices.

use super::super::schema::{self, Key, Kind};

/// A key of a tag or of its device, as a column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Whose key it is.
    pub owner: Owner,
    /// The table of a tag that the key stands in, such as `write`.
    pub table: Option<&'static str>,
    /// The key.
    pub key: &'static Key,
}

/// Whose keys stand in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// `[[device]]`
    Device,
    /// `[[device.tag]]`
    Tag,
}

/// What the columns of a file may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A register map: keys of a tag.
    Map,
    /// Whole devices: `device.` columns as well.
    Devices,
}

impl PartialEq for Column {
    fn eq(&self, other: &Self) -> bool {
        (self.owner, self.table, self.key.name) == (other.owner, other.table, other.key.name)
    }
}

impl Column {
    /// What stands in the header.
    pub fn name(&self) -> String {
        match (self.owner, self.table) {
            (Owner::Device, _) => format!("device.{}", self.key.name),
            (Owner::Tag, Some(table)) => format!("{table}.{}", self.key.name),
            (Owner::Tag, None) => self.key.name.to_owned(),
        }
    }

    /// Is it this key of the tag itself?
    pub fn is_tag(&self, key: &str) -> bool {
        self.owner == Owner::Tag && self.table.is_none() && self.key.name == key
    }
}

/// Every column there is, in the order they are written in.
pub fn all(scope: Scope) -> Vec<Column> {
    let plain = |kind| !matches!(kind, Kind::Table(_) | Kind::Tables(_));
    let mut columns = Vec::new();
    if scope == Scope::Devices {
        let keys = schema::DEVICE.iter().filter(|key| plain(key.kind));
        columns.extend(keys.map(|key| Column { owner: Owner::Device, table: None, key }));
    }
    for key in schema::TAG {
        let column = |table, key| Column { owner: Owner::Tag, table, key };
        match key.kind {
            Kind::Table(below) => columns.extend(below.iter().map(|below| column(Some(key.name), below))),
            _ => columns.push(column(None, key)),
        }
    }
    columns
}

/// The column of this name.
pub fn find(name: &str, scope: Scope) -> Option<Column> {
    let of = |keys: &'static [Key], name: &str| keys.iter().find(|key| key.name == name);
    let plain = |key: &&Key| !matches!(key.kind, Kind::Table(_) | Kind::Tables(_));
    match name.split_once('.') {
        None => of(schema::TAG, name).filter(plain).map(|key| Column { owner: Owner::Tag, table: None, key }),
        Some(("device", name)) if scope == Scope::Devices => {
            of(schema::DEVICE, name).filter(plain).map(|key| Column { owner: Owner::Device, table: None, key })
        }
        Some((table, name)) => match of(schema::TAG, table)? {
            Key { name: table, kind: Kind::Table(keys), .. } => {
                of(keys, name).map(|key| Column { owner: Owner::Tag, table: Some(table), key })
            }
            _ => None,
        },
    }
}
