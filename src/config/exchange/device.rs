//! The devices in the tree of a configuration: by name, and with their tags taken away.

use super::super::nearest;
use super::super::raw::{Node, Table, Value};
use super::Refused;

/// All devices.
pub fn all(tree: &Node) -> &[Node] {
    match &tree.value {
        Value::Table(table) => match table.get("device").map(|list| &list.value) {
            Some(Value::List(devices)) => devices,
            _ => &[],
        },
        _ => &[],
    }
}

/// The keys of one of them, to be changed.
pub fn table_mut(tree: &mut Node, device: usize) -> Option<&mut Table> {
    let Value::Table(table) = &mut tree.value else { return None };
    let list = table.entries.iter_mut().find(|entry| entry.key == "device")?;
    let Value::List(devices) = &mut list.node.value else { return None };
    match &mut devices.get_mut(device)?.value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

/// The value of a key that is a text.
pub fn text<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    match &node.value {
        Value::Table(table) => match &table.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// Which device has this name.
pub fn find(tree: &Node, name: &str) -> Result<usize, Refused> {
    let names = || all(tree).iter().filter_map(|device| text(device, "name"));
    all(tree).iter().position(|device| text(device, "name") == Some(name)).ok_or_else(|| {
        let listed = match names().count() {
            0 => "the configuration has no devices".to_owned(),
            _ => format!("the configuration has {}", names().collect::<Vec<_>>().join(", ")),
        };
        Refused::Asked(format!("there is no device '{name}'{}: {listed}", nearest::hint(name, names())))
    })
}

/// Takes a device's tags and its profile away.
pub fn strip(table: &mut Table) {
    table.entries.retain(|entry| !matches!(entry.key.as_str(), "tag" | "profile"));
}
