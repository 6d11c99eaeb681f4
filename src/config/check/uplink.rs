//! `[[uplink]]`: brokers the samples go to.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::plan::{ServerPlan, Transport, UplinkPlan, UplinkStart, UplinkTlsPlan};
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{NOT_IN_THIS_VERSION, Section, Spot};
use super::super::source::At;
use super::bus::split_host;
use super::gateway::Gateway;
use super::names::Unique;
use super::tag::CLASSES;
use crate::model::number::Class;
use crate::model::topic::TOPIC_BYTES_MAX;

const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// MQTT keeps it as 16 bit of seconds.
const KEEP_ALIVE_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(18 * 3600);
const CLIENT_ID_BYTES_MAX: usize = 256;
const STARTS: [(&str, UplinkStart); 2] = [("now", UplinkStart::Now), ("oldest", UplinkStart::Oldest)];
const URL_FORM: &str = "mqtt://host[:1883] or mqtts://host[:8883]";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Url {
    host: String,
    port: u16,
    tls: Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    Yes,
    No,
}

/// `[[uplink]]`; `longest_topic` is that of the tags, bytes.
pub fn uplinks(root: &Section<'_, '_>, gateway: &Gateway<'_>, longest_topic: usize) -> Vec<UplinkPlan> {
    let list = Trail::Key(root.trail, "uplink");
    let mut names = Unique::default();
    let mut clients: HashMap<(String, u16, String), At> = HashMap::new();
    let mut uplinks = Vec::new();
    for (position, node) in root.tables("uplink").iter().enumerate() {
        let trail = Trail::Index(&list, position);
        let Some(section) = Section::open(root.cx, node, &trail, schema::UPLINK) else { continue };
        let name = names.name(&section, "uplink");
        let url = url(&section);
        let tls = tls(&section, url.as_ref().map(|url| url.tls));
        let client_id = client_id(&section, gateway);
        only_choices(&section);
        if let Some(url) = &url {
            let at = section.get("client_id").or(section.get("url")).map_or(section.at, |node| node.at);
            let client = (url.host.clone(), url.port, client_id.clone());
            if let Some(first) = clients.insert(client, at) {
                let message =
                    "another uplink connects to the same broker with this client id; they would throw each other out";
                section.report(section.wrong("client_id", at, message).also(first));
            }
        }
        let (username, password_file) = (username(&section, gateway), section.path("password_file"));
        if let (None, Some(file)) = (&username, &password_file) {
            let message = "a password goes with a `username` (MQTT 3.1.1, section 3.1.2.9)";
            section.report(section.wrong("password_file", file.at, message));
        }
        let plan = UplinkPlan {
            servers: url.into_iter().map(server).collect(),
            tls,
            client_id,
            username,
            password_file: password_file.map(|file| file.value),
            topic_prefix: topic_prefix(&section, gateway, longest_topic),
            classes: classes(&section),
            start: section.choice("start", &STARTS, &[]).map(|spot| spot.value).unwrap_or_default(),
            keep_alive: section.duration("keep_alive", KEEP_ALIVE_RANGE).unwrap_or(KEEP_ALIVE),
            ..UplinkPlan::plain(name.map_or("", |name| name.value))
        };
        uplinks.push(plan);
    }
    uplinks
}

fn server(url: Url) -> ServerPlan {
    let transport = if url.tls == Tls::Yes { Transport::Tls } else { Transport::Tcp };
    ServerPlan { host: url.host, port: url.port, transport }
}

/// Keys that have one landed word each.
fn only_choices(section: &Section<'_, '_>) {
    section.choice("format", &[("json", ())], &["batch", "sparkplug"]);
    section.choice("layout", &[("tag", ())], &["device"]);
    section.choice("delivery", &[("strict", ())], &["live-first"]);
    section.choice("preset", &[("plain", ())], &["aws", "azure", "hivemq", "emqx"]);
    if let Some(spot) = section.flag("commands").filter(|spot| spot.value) {
        let message = format!("commands from upstream are {NOT_IN_THIS_VERSION}");
        section.report(section.wrong("commands", spot.at, message).allowed("false"));
    }
}

fn url(section: &Section<'_, '_>) -> Option<Url> {
    if section.get("url").is_none() && section.get("urls").is_some() {
        return None; // `urls` was refused by name
    }
    let text = section.required_text("url", "where the broker is, such as \"mqtts://broker.example.com:8883\"")?;
    let refuse = |message: &str| section.report(section.wrong("url", text.at, message).allowed(URL_FORM));
    if text.value.contains('@') {
        let message = "user and password do not belong into the URL: there are `username` and `password_file`";
        section.report(section.wrong("url", text.at, message).allowed(URL_FORM).secret());
        return None;
    }
    let (scheme, rest) = text.value.split_once("://").unwrap_or(("", text.value));
    let (tls, port) = match scheme {
        "mqtt" => (Tls::No, 1883),
        "mqtts" => (Tls::Yes, 8883),
        "ws" | "wss" => {
            refuse(&format!("{scheme}:// is {NOT_IN_THIS_VERSION}"));
            return None;
        }
        _ => {
            refuse("does not begin with mqtt:// or mqtts://");
            return None;
        }
    };
    match split_host(rest.strip_suffix('/').unwrap_or(rest), port) {
        Ok((host, port)) => Some(Url { host: host.to_owned(), port, tls }),
        Err(message) => {
            refuse(message);
            None
        }
    }
}

/// TLS files; `scheme` is unknown when the URL is wrong.
fn tls(section: &Section<'_, '_>, scheme: Option<Tls>) -> Option<UplinkTlsPlan> {
    if scheme == Some(Tls::Yes) && section.get("ca_file").is_none() {
        section.missing("ca_file", "the CAs that may vouch for this broker, PEM; nothing is trusted by default");
    }
    let ca_file = section.path("ca_file");
    let (certificate, key) = (section.path("certificate"), section.path("key"));
    match (&certificate, &key) {
        (Some(_), None) if section.get("key").is_none() => section.missing("key", "it goes with `certificate`"),
        (None, Some(_)) if section.get("certificate").is_none() => section.missing("certificate", "it goes with `key`"),
        _ => {}
    }
    if scheme == Some(Tls::No) {
        let files = [("ca_file", &ca_file), ("certificate", &certificate), ("key", &key)];
        for (name, file) in files.into_iter().filter_map(|(name, file)| Some((name, file.as_ref()?))) {
            section.report(section.wrong(name, file.at, "has no use without TLS: the URL must begin with mqtts://"));
        }
        return None;
    }
    let identity = certificate.zip(key).map(|(certificate, key)| (certificate.value, key.value));
    Some(UplinkTlsPlan { ca_file: ca_file?.value, identity })
}

fn client_id(section: &Section<'_, '_>, gateway: &Gateway<'_>) -> String {
    if section.get("client_id").is_none() {
        return gateway.plan.name.clone();
    }
    let Some(text) = section.required_text("client_id", "") else { return String::new() };
    let client_id = gateway.expand(text.value);
    if client_id.len() > CLIENT_ID_BYTES_MAX || client_id.chars().any(char::is_control) {
        let allowed = format!("1 ..= {CLIENT_ID_BYTES_MAX} bytes without control characters");
        section.report(section.wrong("client_id", text.at, "is no client id").allowed(allowed));
    }
    client_id
}

fn username(section: &Section<'_, '_>, gateway: &Gateway<'_>) -> Option<String> {
    section.get("username")?;
    let text = section.required_text("username", "")?;
    if text.value.len() > TOPIC_BYTES_MAX || text.value.chars().any(char::is_control) {
        let allowed = "1 ..= 1024 bytes without control characters";
        section.report(section.wrong("username", text.at, "is no user name").allowed(allowed));
    }
    Some(gateway.expand(text.value))
}

fn topic_prefix(section: &Section<'_, '_>, gateway: &Gateway<'_>, longest_topic: usize) -> String {
    let Some(text) = section.text("topic_prefix") else { return String::new() };
    let prefix = gateway.expand(text.value);
    if prefix.chars().any(|c| matches!(c, '+' | '#') || c.is_control()) {
        let message = "wildcards, NUL and control characters cannot stand in a topic";
        section.report(section.wrong("topic_prefix", text.at, message));
    } else if prefix.len() + longest_topic > TOPIC_BYTES_MAX {
        let message = format!("with it the longest topic has {} bytes", prefix.len() + longest_topic);
        let allowed = format!("at most {TOPIC_BYTES_MAX} bytes together");
        section.report(section.wrong("topic_prefix", text.at, message).allowed(allowed));
    }
    prefix
}

/// Without the key: everything, so that nothing is missing upstream because of what was not written.
fn classes(section: &Section<'_, '_>) -> Vec<Class> {
    let allowed = CLASSES.map(|(word, _)| word).join(", ");
    let Some(words) = section.texts("classes") else { return Class::ALL.to_vec() };
    let mut classes: Vec<Class> = Vec::new();
    if let (true, Some(node)) = (words.is_empty(), section.get("classes")) {
        section
            .report(section.wrong("classes", node.at, "an uplink without classes carries nothing").allowed(&allowed));
    }
    for Spot { value: word, at } in words {
        match Class::from_name(word) {
            Some(class) if classes.contains(&class) => {
                section.report(section.wrong("classes", at, "the same class twice"));
            }
            Some(class) => classes.push(class),
            None => section.report(section.wrong("classes", at, "unknown class").allowed(&allowed)),
        }
    }
    classes
}
