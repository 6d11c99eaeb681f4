//! `[[uplink]]`: brokers the samples go to.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::super::plan::{
    BATCH_SAMPLES, Compress, Delivery, DevicePlan, Downlink, Format, Layout, MqttVersion, Overrun, Preset, ServerPlan,
    TagPlan, Transport, UplinkPlan, UplinkStart, UplinkTlsPlan,
};
use super::super::preset;
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{Section, Spot};
use super::super::source::At;
use super::gateway::Gateway;
use super::names::Unique;
use super::{bridge, local, money, path, server, sparkplug, topics};
use crate::model::number::Class;
use crate::model::topic::{GatewayTopics, TOPIC_BYTES_MAX};

/// `keep_alive` when it is not written.
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// MQTT keeps it as 16 bit of seconds.
pub const KEEP_ALIVE_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(18 * 3600);
const CLIENT_ID_BYTES_MAX: usize = 256;
const STARTS: [(&str, UplinkStart); 2] = [("now", UplinkStart::Now), ("oldest", UplinkStart::Oldest)];
const FORMATS: [(&str, Format); 3] =
    [("json", Format::Json), ("batch", Format::Batch), ("sparkplug", Format::Sparkplug)];
const COMPRESSIONS: [(&str, Compress); 3] =
    [("none", Compress::None), ("zstd", Compress::Zstd), ("gzip", Compress::Gzip)];
const DELIVERIES: [(&str, Delivery); 2] = [("strict", Delivery::Strict), ("live-first", Delivery::LiveFirst)];
const OVERRUNS: [(&str, Overrun); 2] = [("stop", Overrun::Stop), ("alarms", Overrun::Alarms)];
const PRESETS: [(&str, Preset); 5] = [
    ("plain", Preset::Plain),
    ("aws", Preset::Aws),
    ("azure", Preset::Azure),
    ("hivemq", Preset::HiveMq),
    ("emqx", Preset::Emqx),
];
/// `mqtt_version`
pub const VERSIONS: [(&str, MqttVersion); 3] =
    [("auto", MqttVersion::Auto), ("3.1.1", MqttVersion::V311), ("5", MqttVersion::V5)];
const BATCH_SAMPLES_MAX: u16 = 60_000;
const BATCH_INTERVAL_MAX: Duration = Duration::from_secs(3600);
const SUMMARY_AFTER: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(30 * 86_400);

/// `[[uplink]]`; what it may send depends on the topics of the tags.
pub fn uplinks(
    root: &Section<'_, '_>,
    gateway: &Gateway<'_>,
    devices: &[DevicePlan],
    tags: &[TagPlan],
) -> Vec<UplinkPlan> {
    let longest_topic = tags.iter().map(|tag| tag.topic.len()).max().unwrap_or(0);
    let list = Trail::Key(root.trail, "uplink");
    let mut names = Unique::default();
    let mut clients: HashMap<(String, u16, String), At> = HashMap::new();
    let mut uplinks = Vec::new();
    for (position, node) in root.tables("uplink").iter().enumerate() {
        let trail = Trail::Index(&list, position);
        let Some(section) = Section::open(root.cx, node, &trail, schema::UPLINK) else { continue };
        let name = names.name(&section, "uplink");
        let servers = server::servers(&section);
        let tls = tls(&section, &servers);
        let client_id = client_id(&section, gateway, &gateway.plan.name);
        for (at_place, server) in servers.iter().enumerate().filter(|(_, server)| server.transport != Transport::Local)
        {
            let twin = |other: &ServerPlan| (&other.host, other.port) == (&server.host, server.port);
            if servers[..at_place].iter().any(twin) {
                continue; // TCP and QUIC at the same port, or another path
            }
            let place = section.get("client_id").or(section.get("url")).or(section.get("urls"));
            let at = place.map_or(section.at, |node| node.at);
            let client = (server.host.clone(), server.port, client_id.clone());
            if let Some(first) = clients.insert(client, at) {
                let message =
                    "another uplink connects to the same broker with this client id; they would throw each other out";
                section.report(section.wrong("client_id", at, message).also(first));
            }
        }
        let (username, password_file) = login(&section, gateway);
        let (classes, proxy) = (classes(&section), server::proxy(&section, &servers));
        let mut plan = UplinkPlan {
            servers,
            tls,
            proxy,
            client_id,
            username,
            password_file,
            topic_prefix: topic_prefix(&section, gateway, longest_topic),
            start: word(&section, "start", &STARTS),
            max_rate: money::max_rate(&section),
            budgets: money::budgets(&section),
            reserve: money::reserve(&section),
            overrun: word(&section, "overrun", &OVERRUNS),
            paths: path::paths(&section, &classes),
            classes,
            keep_alive: section.duration("keep_alive", KEEP_ALIVE_RANGE).unwrap_or(KEEP_ALIVE),
            ..UplinkPlan::plain(name.map_or("", |name| name.value))
        };
        payload(&section, &mut plan);
        if let Some(template) = &gateway.template {
            template.text.clone_into(&mut plan.topic_template);
        }
        if plan.layout == Layout::Device {
            topics::device_topics(&section, gateway, devices, tags);
        }
        broker(&section, &mut plan);
        sparkplug::edge_node(&section, gateway, &mut plan);
        sparkplug::metrics(&section, &plan, devices, tags);
        local::uplink(&section, &mut plan, &uplinks);
        plan.downs = bridge::downs(&section, &mut plan);
        preset_problems(&section, &plan, gateway, tags);
        uplinks.push(plan);
    }
    uplinks
}

/// Keys that say what is sent and how; written into the plan.
fn payload(section: &Section<'_, '_>, plan: &mut UplinkPlan) {
    plan.format = word(section, "format", &FORMATS);
    plan.layout = word(section, "layout", &[("tag", Layout::Tag), ("device", Layout::Device)]);
    plan.compress = word(section, "compress", &COMPRESSIONS);
    if let (Compress::Gzip, Format::Json, Some(node)) = (plan.compress, plan.format, section.get("compress")) {
        section.report(section.wrong("compress", node.at, "gzip is for the format sparkplug").allowed("none, zstd"));
    }
    plan.delivery = word(section, "delivery", &DELIVERIES);
    if plan.format == Format::Batch {
        plan.batch_samples = BATCH_SAMPLES;
        for key in ["layout", "compress"] {
            if let Some(node) = section.get(key) {
                let message = "has a meaning with the format json only: batch has its own columns and is compressed";
                section.report(section.wrong(key, node.at, message));
            }
        }
    }
    if let Some(samples) = section.whole("batch_samples", 1..=BATCH_SAMPLES_MAX) {
        plan.batch_samples = samples.into();
        if let (true, Some(node)) = (plan.layout == Layout::Device && samples > 1, section.get("batch_samples")) {
            let message = "the layout device has a message per device and poll; it cannot be batched";
            section.report(section.wrong("batch_samples", node.at, message));
        }
    }
    if let Some(wait) = section.duration("batch_interval", Duration::ZERO..=BATCH_INTERVAL_MAX) {
        plan.batch_interval = wait;
    }
    plan.summary_after = summary_after(section);
}

/// Keys about the broker and its cloud.
fn broker(section: &Section<'_, '_>, plan: &mut UplinkPlan) {
    plan.preset = word(section, "preset", &PRESETS);
    plan.mqtt_version = word(section, "mqtt_version", &VERSIONS);
    plan.sas_key_file = section.path("sas_key_file").map(|file| file.value);
    if section.flag("commands").is_some_and(|spot| spot.value) {
        plan.commands = Downlink::Accepted;
    }
    let azure = plan.preset == Preset::Azure;
    if let (false, Some(node)) = (azure, section.get("sas_key_file")) {
        section.report(section.wrong("sas_key_file", node.at, "has a use with preset = \"azure\" only"));
    }
}

/// What the cloud of the preset would not take.
fn preset_problems(section: &Section<'_, '_>, plan: &UplinkPlan, gateway: &Gateway<'_>, tags: &[TagPlan]) {
    let own = GatewayTopics::new(&gateway.plan.name);
    let own = [own.status(), own.event(), own.gap(), own.batch(), own.summary()];
    let owed = || tags.iter().filter(|tag| plan.classes.contains(&tag.class));
    let writable = owed().filter(|tag| plan.commands == Downlink::Accepted && tag.access.writes());
    let results: Vec<String> = writable.map(|tag| format!("{}/set/result", tag.topic)).collect();
    let topics = owed().map(|tag| &*tag.topic).chain(own.iter().chain(&results).map(String::as_str));
    for problem in preset::problems(plan, topics) {
        let at = section.get(problem.key).or(section.get("preset")).map_or(section.at, |node| node.at);
        section.report(section.wrong(problem.key, at, problem.message).allowed(problem.allowed));
    }
}

/// One word of a list, or the default.
pub fn word<T: Copy + Default>(section: &Section<'_, '_>, key: &str, words: &[(&str, T)]) -> T {
    section.choice(key, words).map(|spot| spot.value).unwrap_or_default()
}

fn summary_after(section: &Section<'_, '_>) -> Option<Duration> {
    if section.text("summary_after")?.value == "never" {
        return None;
    }
    section.duration("summary_after", SUMMARY_AFTER)
}

/// TLS files; `servers` is empty when the URL is wrong.
pub fn tls(section: &Section<'_, '_>, servers: &[ServerPlan]) -> Option<UplinkTlsPlan> {
    let secure = servers.iter().any(|server| server.transport.is_secure());
    if secure && section.get("ca_file").is_none() {
        section.missing("ca_file", "the CAs that may vouch for this broker, PEM; nothing is trusted by default");
    }
    let ca_file = section.path("ca_file");
    let (certificate, key) = (section.path("certificate"), section.path("key"));
    match (&certificate, &key) {
        (Some(_), None) if section.get("key").is_none() => section.missing("key", "it goes with `certificate`"),
        (None, Some(_)) if section.get("certificate").is_none() => section.missing("certificate", "it goes with `key`"),
        _ => {}
    }
    if !secure && !servers.is_empty() {
        let files = [("ca_file", &ca_file), ("certificate", &certificate), ("key", &key)];
        for (name, file) in files.into_iter().filter_map(|(name, file)| Some((name, file.as_ref()?))) {
            section.report(section.wrong(
                name,
                file.at,
                "has no use without TLS: the URL must begin with mqtts://, wss:// or quic://",
            ));
        }
        return None;
    }
    let identity = certificate.zip(key).map(|(certificate, key)| (certificate.value, key.value));
    Some(UplinkTlsPlan { ca_file: ca_file?.value, identity })
}

/// `client_id`, or what stands for it when it is not written.
pub fn client_id(section: &Section<'_, '_>, gateway: &Gateway<'_>, unwritten: &str) -> String {
    if section.get("client_id").is_none() {
        return unwritten.to_owned();
    }
    let Some(text) = section.required_text("client_id", "") else { return String::new() };
    let client_id = gateway.expand(text.value);
    if client_id.len() > CLIENT_ID_BYTES_MAX || client_id.chars().any(char::is_control) {
        let allowed = format!("1 ..= {CLIENT_ID_BYTES_MAX} bytes without control characters");
        section.report(section.wrong("client_id", text.at, "is no client id").allowed(allowed));
    }
    client_id
}

/// `username` and `password_file`.
pub fn login(section: &Section<'_, '_>, gateway: &Gateway<'_>) -> (Option<String>, Option<PathBuf>) {
    let (username, password_file) = (username(section, gateway), section.path("password_file"));
    if let (None, Some(file)) = (&username, &password_file) {
        let message = "a password goes with a `username` (MQTT 3.1.1, section 3.1.2.9)";
        section.report(section.wrong("password_file", file.at, message));
    }
    (username, password_file.map(|file| file.value))
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
pub fn classes(section: &Section<'_, '_>) -> Vec<Class> {
    let allowed = Class::ALL.map(Class::as_str).join(", ");
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
