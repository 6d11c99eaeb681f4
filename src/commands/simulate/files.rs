//! The paths that a configuration names, as they must be written in one that lies elsewhere. Which keys hold paths, the schema
//! says; beside them there are the sockets of listeners (`unix:…`). Maps of devices are not here: their names may be shipped
//! ones. Pure.

use std::ops::Range;

use serde_spanned::Spanned;
use toml::Value;
use toml::de::{DeTable, DeValue};

use crate::config::schema::{Key, Kind, ROOT};

/// What a listener on a socket begins with.
const SOCKET: &str = "unix:";

/// Each path with its place, and as it is written there. What is not TOML has none.
pub(super) fn edits(text: &str, absolute: impl Fn(&str) -> String) -> Vec<(Range<usize>, String)> {
    let mut found = Vec::new();
    if let Ok(document) = DeTable::parse(text) {
        walk(document.get_ref(), ROOT, &mut |place, path| {
            let new = match path.strip_prefix(SOCKET) {
                Some(socket) => format!("{SOCKET}{}", absolute(socket)),
                None => absolute(path),
            };
            found.push((place, Value::String(new).to_string()));
        });
    }
    found
}

fn walk(table: &DeTable<'_>, keys: &[Key], take: &mut impl FnMut(Range<usize>, &str)) {
    for (name, value) in table {
        let Some(key) = keys.iter().find(|key| key.name == name.get_ref()) else { continue };
        let mut below = |value: &Spanned<DeValue<'_>>, keys| {
            if let DeValue::Table(table) = value.get_ref() {
                walk(table, keys, take);
            }
        };
        match (key.kind, value.get_ref()) {
            (Kind::Table(keys), _) => below(value, keys),
            (Kind::Tables(keys), DeValue::Array(tables)) => tables.iter().for_each(|table| below(table, keys)),
            (Kind::Path, DeValue::String(path)) => take(value.span(), path),
            (Kind::Text, DeValue::String(text)) if key.name == "listen" && text.starts_with(SOCKET) => {
                take(value.span(), text);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(keys: &[Key], found: &mut Vec<(&'static str, bool)>) {
        for key in keys {
            match key.kind {
                Kind::Table(below) | Kind::Tables(below) => named(below, found),
                kind => found.push((key.name, matches!(kind, Kind::Path))),
            }
        }
    }

    #[test]
    fn the_schema_knows_every_key_that_names_a_file() {
        let mut keys = Vec::new();
        named(ROOT, &mut keys);
        let others = ["certificate", "key", "client_ca", "data_dir"];
        for (name, is_path) in keys {
            assert_eq!(name.ends_with("_file") || others.contains(&name), is_path, "{name}");
        }
    }
}
