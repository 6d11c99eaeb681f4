//! `[[uplink.path]]`: the ways to an uplink's brokers.

use super::super::plan::{Bind, PathPlan};
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{Section, Spot};
use super::names::Unique;
use super::{money, uplink};
use crate::model::number::Class;

/// Linux: IFNAMSIZ with its NUL (netdevice(7)).
const INTERFACE_BYTES_MAX: usize = 15;

/// All paths of an uplink that carries `classes`.
pub fn paths(uplink: &Section<'_, '_>, classes: &[Class]) -> Vec<PathPlan> {
    let list = Trail::Key(uplink.trail, "path");
    let mut names = Unique::default();
    let mut paths = Vec::new();
    for (position, node) in uplink.tables("path").iter().enumerate() {
        let trail = Trail::Index(&list, position);
        let Some(section) = Section::open(uplink.cx, node, &trail, schema::UPLINK_PATH) else { continue };
        let name = names.name(&section, "path");
        let carries = match section.get("classes") {
            Some(_) => uplink::classes(&section),
            None => classes.to_vec(),
        };
        if let (Some(node), Some(class)) =
            (section.get("classes"), carries.iter().find(|class| !classes.contains(class)))
        {
            let message = format!("the uplink does not carry \"{class}\", so no path of it can");
            section.report(section.wrong("classes", node.at, message));
        }
        paths.push(PathPlan {
            name: name.map_or_else(String::new, |name| name.value.to_owned()),
            bind: bind(&section),
            classes: carries,
            budgets: money::budgets(&section),
            max_rate: money::max_rate(&section),
            schedule: money::schedule(&section),
            price_per_mib: money::price(&section),
        });
    }
    paths
}

fn bind(section: &Section<'_, '_>) -> Bind {
    let (interface, source) = (section.text("interface"), section.text("source"));
    match (interface, source) {
        (Some(interface), None) => Bind::Interface(self::interface(section, interface).unwrap_or_default()),
        (None, Some(source)) => match source.value.parse() {
            Ok(address) => Bind::Source(address),
            Err(_) => {
                let allowed = "an address of this machine, such as \"10.0.0.7\"";
                section.report(section.wrong("source", source.at, "is no address").allowed(allowed));
                Bind::System
            }
        },
        (Some(_), Some(source)) => {
            section.report(section.wrong("source", source.at, "either `interface` or `source`, not both"));
            Bind::System
        }
        (None, None) => {
            if section.get("interface").is_none() && section.get("source").is_none() {
                section.missing("interface", "what the path is: an `interface`, or a `source` address");
            }
            Bind::System
        }
    }
}

/// The name of a network interface.
pub fn interface(section: &Section<'_, '_>, name: Spot<&str>) -> Option<String> {
    let Spot { value, at } = name;
    if value.is_empty() || value.len() > INTERFACE_BYTES_MAX || value.contains(['/', ' ']) || !value.is_ascii() {
        let allowed = "1 ..= 15 bytes, as `ip link` shows it";
        section.report(section.wrong("interface", at, "is no interface").allowed(allowed));
        return None;
    }
    Some(value.to_owned())
}
