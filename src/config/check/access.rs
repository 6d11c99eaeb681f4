//! `users_file`, `[[broker.acl]]` and `identity`: who may log in, and what they may do then.

use std::path::PathBuf;

use super::super::files::Complete;
use super::super::nearest;
use super::super::plan::AclPlan;
use super::super::problem::Finding;
use super::super::raw::{Node, Table, Trail, Value};
use super::super::schema;
use super::super::section::{Section, Spot};
use crate::model::certificate::NameFrom;
use crate::model::topic;

const USER_ALLOWED: &str = "a user of `users_file`, \"*\" (everybody with a name), \"anonymous\", \"cert:\" and the name of a certificate, or \"sensor:\" and the user of an MQTT-SN client";

/// In `operate`.
const EVERY_DEVICE: &str = "*";

const IDENTITIES: [(&str, NameFrom); 4] = [
    ("cn", NameFrom::CommonName),
    ("san-dns", NameFrom::Dns),
    ("san-uri", NameFrom::Uri),
    ("san-email", NameFrom::Email),
];

/// `users_file`
pub fn users_file(broker: &Section<'_, '_>) -> Option<PathBuf> {
    broker.path("users_file").map(|file| file.value)
}

/// `identity` of a listener: what of a certificate is its owner's name.
pub fn identity(listener: &Section<'_, '_>) -> NameFrom {
    listener.choice("identity", &IDENTITIES).map(|spot| spot.value).unwrap_or_default()
}

/// `[[broker.acl]]`
pub fn acl(broker: &Section<'_, '_>) -> Vec<AclPlan> {
    let list = Trail::Key(broker.trail, "acl");
    let mut rules = Vec::new();
    for (position, node) in broker.tables("acl").iter().enumerate() {
        let trail = Trail::Index(&list, position);
        let Some(section) = Section::open(broker.cx, node, &trail, schema::ACL) else { continue };
        let Some(user) = section.required_text("user", "whom the rule is for") else { continue };
        if let Err(message) = check_user(user.value, broker.get("users_file").is_some()) {
            section.report(section.wrong("user", user.at, message).allowed(USER_ALLOWED));
        }
        let (read, write) = (filters(&section, "read", user), filters(&section, "write", user));
        let operate = section.texts("operate").unwrap_or_default();
        let operate = operate.iter().map(|device| device.value.to_owned()).collect();
        rules.push(AclPlan { user: user.value.to_owned(), read, write, operate });
    }
    rules
}

/// `operate`: the devices are there. Everything else about these tables is checked where they are read.
pub fn operate(root: &Section<'_, '_>, complete: Complete) {
    if complete == Complete::No {
        return;
    }
    let names: Vec<&str> = items(root.get("device")).filter_map(|device| text(device.get("name")?)).collect();
    let broker = Trail::Key(root.trail, "broker");
    let list = Trail::Key(&broker, "acl");
    let rules = root.get("broker").and_then(|node| table(node)?.get("acl"));
    for (position, rule) in items(rules).enumerate() {
        let trail = Trail::Index(&list, position);
        for device in rule.get("operate").into_iter().flat_map(list_of) {
            let Some(name) = text(device) else { continue };
            if name != EVERY_DEVICE && !names.contains(&name) {
                let message = format!("there is no device of this name{}", nearest::hint(name, names.iter().copied()));
                let finding = Finding::value(device.at, Trail::Key(&trail, "operate"), message);
                root.report(finding.allowed("names of [[device]], or \"*\" for all of them"));
            }
        }
    }
}

fn table(node: &Node) -> Option<&Table> {
    if let Value::Table(table) = &node.value { Some(table) } else { None }
}

fn text(node: &Node) -> Option<&str> {
    if let Value::Text(text) = &node.value { Some(text) } else { None }
}

fn list_of(node: &Node) -> &[Node] {
    if let Value::List(list) = &node.value { list } else { &[] }
}

fn items(list: Option<&Node>) -> impl Iterator<Item = &Table> {
    list.into_iter().flat_map(list_of).filter_map(table)
}

fn check_user(user: &str, users: bool) -> Result<(), &'static str> {
    match user {
        "anonymous" | "*" => Ok(()),
        "cert:" => Err("names no certificate"),
        "sensor:" => Err("names no sensor"),
        _ if user.starts_with("cert:") || user.starts_with("sensor:") => Ok(()),
        _ if user.contains(':') || user.chars().any(char::is_control) || user.trim() != user => Err("is no user"),
        _ if users => Ok(()),
        _ => Err("nobody can log in by this name: there is no `users_file` (ironbridge passwd writes one)"),
    }
}

fn filters(section: &Section<'_, '_>, key: &str, user: Spot<&str>) -> Vec<String> {
    let mut filters = Vec::new();
    for filter in section.texts(key).unwrap_or_default() {
        if let Err(bad) = topic::check_filter(filter.value) {
            section.report(section.wrong(key, filter.at, bad.to_string().replace("a topic", "a filter")));
        } else if filter.value.starts_with("$share/") {
            section.report(section.wrong(key, filter.at, "name the filter without $share/<group>/"));
        } else if filter.value.chars().any(char::is_control) {
            section.report(section.wrong(key, filter.at, "a filter must not contain control characters"));
        } else if user.value == "anonymous" && filter.value.contains("%u") {
            let message = "%u is the name of a client, and an anonymous one has none";
            section.report(section.wrong(key, filter.at, message).allowed("%c, the client id, or a rule for \"*\""));
        } else {
            filters.push(filter.value.to_owned());
        }
    }
    filters
}
