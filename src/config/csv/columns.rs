//! Which key each column of a CSV file is: `scale`, `write.min`; `device.poll` where a file describes whole devices.

use super::super::schema::{self, Key, Kind};

/// What the columns of a device's keys begin with.
const OF_DEVICE: &str = "device.";

/// A key of a tag or of its device, as a column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Whose key it is.
    pub owner: Owner,
    /// The table that the key stands in, such as `write`.
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
        let owner = if self.owner == Owner::Device { OF_DEVICE } else { "" };
        let table = self.table.map_or_else(String::new, |table| format!("{table}."));
        format!("{owner}{table}{}", self.key.name)
    }

    /// Is it this key of the tag itself?
    pub fn is_tag(&self, key: &str) -> bool {
        self.owner == Owner::Tag && self.table.is_none() && self.key.name == key
    }
}

/// Every column there is, in the order they are written in.
pub fn all(scope: Scope) -> Vec<Column> {
    let mut columns = Vec::new();
    if scope == Scope::Devices {
        add(Owner::Device, schema::DEVICE, &mut columns);
    }
    add(Owner::Tag, schema::TAG, &mut columns);
    columns
}

fn add(owner: Owner, keys: &'static [Key], columns: &mut Vec<Column>) {
    for key in keys {
        let column = |table, key| Column { owner, table, key };
        match key.kind {
            Kind::Tables(_) => {}
            Kind::Table(below) => columns.extend(below.iter().map(|below| column(Some(key.name), below))),
            _ => columns.push(column(None, key)),
        }
    }
}

/// The column of this name.
pub fn find(name: &str, scope: Scope) -> Option<Column> {
    let (owner, keys, name) = match name.strip_prefix(OF_DEVICE) {
        Some(name) if scope == Scope::Devices => (Owner::Device, schema::DEVICE, name),
        _ => (Owner::Tag, schema::TAG, name),
    };
    let of = |keys: &'static [Key], name: &str| keys.iter().find(|key| key.name == name);
    match name.split_once('.') {
        None => of(keys, name).filter(|key| !matches!(key.kind, Kind::Table(_) | Kind::Tables(_))).map(|key| Column {
            owner,
            table: None,
            key,
        }),
        Some((table, name)) => match of(keys, table)? {
            Key { name: table, kind: Kind::Table(below), .. } => {
                of(below, name).map(|key| Column { owner, table: Some(table), key })
            }
            _ => None,
        },
    }
}
