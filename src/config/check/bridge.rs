//! `[[bridge]]`: plain bridges to other brokers, and `[[uplink.down]]`: what comes down on an uplink.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::plan::{
    BridgePlan, DownPlan, Downlink, Notifications, OutPlan, Preset, ReceiveQos, RetainHere, UplinkPlan, Use,
};
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{Section, Spot};
use super::gateway::{Gateway, MAX_AGE, STORE_SIZE_MAX, STORE_SIZE_MIN};
use super::names::Unique;
use super::uplink::{self, KEEP_ALIVE, KEEP_ALIVE_RANGE, VERSIONS};
use super::{local, money, server};
use crate::model::mapping::{Mapping, intersect};
use crate::model::number::Class;
use crate::model::topic::{TOPIC_BYTES_MAX, check_filter, is_gateways};

const EXPIRY: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(365 * 86_400);
/// Of a bridge's own store, when it is not written.
const STORE_SIZE: u64 = 64 << 20;
/// Filters of one SUBSCRIBE: AWS takes 8, others hundreds; nobody reads more in a file.
const DOWNS_MAX: usize = 64;

/// What the gateway's own store is called beside those of bridges, in `/metrics`.
pub const GATEWAY: &str = "gateway";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Out,
    In,
    Both,
}

const DIRECTIONS: [(&str, Direction); 3] = [("out", Direction::Out), ("in", Direction::In), ("both", Direction::Both)];

/// `[[bridge]]`; none may be taken for another at a broker that an uplink or another bridge connects to.
pub fn bridges(root: &Section<'_, '_>, gateway: &Gateway<'_>, uplinks: &[UplinkPlan]) -> Vec<BridgePlan> {
    let list = Trail::Key(root.trail, "bridge");
    let mut names = Unique::default();
    let mut bridges: Vec<BridgePlan> = Vec::new();
    for (position, node) in root.tables("bridge").iter().enumerate() {
        let trail = Trail::Index(&list, position);
        let Some(section) = Section::open(root.cx, node, &trail, schema::BRIDGE) else { continue };
        let Some(name) = names.name(&section, "bridge") else { continue };
        let others = uplinks.iter().chain(bridges.iter().map(|bridge| &bridge.uplink));
        if uplinks.iter().any(|uplink| uplink.name == name.value) {
            section.report(section.wrong("name", name.at, "an uplink of this name exists already"));
        }
        if name.value == GATEWAY {
            let message = "is how the gateway's own store is called, beside that of each bridge";
            section.report(section.wrong("name", name.at, message).allowed("another name"));
        }
        let plan = bridge(&section, gateway, name);
        for server in &plan.uplink.servers {
            let mut same = others.clone().filter(|other| other.client_id == plan.uplink.client_id);
            let place = |other: &UplinkPlan| {
                other.servers.iter().any(|own| (&own.host, own.port) == (&server.host, server.port))
            };
            if let Some(other) = same.find(|other| place(other)) {
                let message = format!(
                    "\"{}\" connects to the same broker with this client id; they would throw each other out",
                    other.name
                );
                let at = section.get("client_id").map_or(section.at, |node| node.at);
                section.report(section.wrong("client_id", at, message));
            }
        }
        bridges.push(plan);
    }
    bridges
}

fn bridge(section: &Section<'_, '_>, gateway: &Gateway<'_>, name: Spot<&str>) -> BridgePlan {
    let servers = server::servers(section);
    local::no_bridge(section, &servers);
    let tls = uplink::tls(section, &servers);
    // As mosquitto has it, so that the topic of its state is the one that people look for.
    let client_id = uplink::client_id(section, gateway, &format!("{}.{}", gateway.plan.name, name.value));
    let silent = section.flag("notifications").is_some_and(|flag| !flag.value);
    let notifications = if silent { Notifications::None } else { Notifications::Told };
    let (username, password_file) = uplink::login(section, gateway);
    let proxy = server::proxy(section, &servers);
    let mut connection = UplinkPlan {
        servers,
        tls,
        proxy,
        client_id,
        username,
        password_file,
        mqtt_version: uplink::word(section, "mqtt_version", &VERSIONS),
        keep_alive: section.duration("keep_alive", KEEP_ALIVE_RANGE).unwrap_or(KEEP_ALIVE),
        max_rate: money::max_rate(section),
        classes: vec![Class::Telemetry],
        usage: Use::Bridge(notifications),
        ..UplinkPlan::plain(name.value)
    };
    expiry(section, &mut connection);
    let mut out = Vec::new();
    let list = Trail::Key(section.trail, "topic");
    for (position, node) in section.tables("topic").iter().enumerate() {
        let trail = Trail::Index(&list, position);
        let Some(topic) = Section::open(section.cx, node, &trail, schema::BRIDGE_TOPIC) else { continue };
        let direction = topic.choice("direction", &DIRECTIONS).map_or(Direction::Out, |spot| spot.value);
        let (qos, retain) = (qos(&topic), retain(&topic));
        let Some(mapping) = mapping(&topic, "", direction != Direction::Out) else { continue };
        if direction != Direction::In {
            out.push(OutPlan { mapping: mapping.clone(), retain });
        }
        if direction != Direction::Out {
            connection.downs.push(DownPlan { mapping, qos, retain, both_ways: false });
        }
    }
    if section.tables("topic").is_empty() {
        section.missing("topic", "a bridge without [[bridge.topic]] carries nothing");
    }
    for down in &mut connection.downs {
        down.both_ways = out.iter().any(|out| go_round(out, down));
    }
    few(section, "topic", &connection.downs);
    let max_size = section.size("max_size", STORE_SIZE_MIN..=STORE_SIZE_MAX).unwrap_or(STORE_SIZE);
    let max_age = section.duration("max_age", MAX_AGE);
    BridgePlan { uplink: connection, out, max_size, max_age, notifications }
}

/// `[[uplink.down]]` and `session_expiry`; written into the plan but for the list.
pub fn downs(section: &Section<'_, '_>, plan: &mut UplinkPlan) -> Vec<DownPlan> {
    expiry(section, plan);
    let list = Trail::Key(section.trail, "down");
    let mut downs = Vec::new();
    for (position, node) in section.tables("down").iter().enumerate() {
        let trail = Trail::Index(&list, position);
        let Some(down) = Section::open(section.cx, node, &trail, schema::UPLINK_DOWN) else { continue };
        let (qos, retain) = (qos(&down), retain(&down));
        let coming = mapping(&down, &plan.topic_prefix, true);
        downs.extend(coming.map(|mapping| DownPlan { mapping, qos, retain, both_ways: false }));
    }
    few(section, "down", &downs);
    let at = section.get("down").map_or(section.at, |node| node.at);
    if !downs.is_empty() && plan.commands == Downlink::Accepted {
        let message = "commands need a session that forgets, so that none that waited out an outage moves anything; what \
                       comes down needs one that remembers: give it an [[uplink]] or a [[bridge]] of its own";
        section.report(section.wrong("down", at, message));
    }
    if !downs.is_empty() && plan.preset == Preset::Azure {
        let message = "Azure IoT Hub has no topics of yours to subscribe to";
        section.report(section.wrong("down", at, message));
    }
    downs
}

/// Does anything that goes out to be retained there come in to be retained here?
fn go_round(out: &OutPlan, down: &DownPlan) -> bool {
    let is_kept = out.retain == RetainHere::AsPublished && down.retain == RetainHere::AsPublished;
    let (there, coming) = (out.mapping.remote_filter(), down.mapping.remote_filter());
    is_kept && intersect(&there, &coming).is_some()
}

fn few(section: &Section<'_, '_>, key: &str, downs: &[DownPlan]) {
    if let (true, Some(node)) = (downs.len() > DOWNS_MAX, section.get(key)) {
        let message = format!("{} filters come in", downs.len());
        section.report(section.wrong(key, node.at, message).allowed(format!("at most {DOWNS_MAX}")));
    }
}

fn expiry(section: &Section<'_, '_>, plan: &mut UplinkPlan) {
    if let Some(expiry) = section.duration("session_expiry", EXPIRY) {
        plan.session_expiry = expiry;
    }
}

fn qos(section: &Section<'_, '_>) -> ReceiveQos {
    match section.whole("qos", 0..=2) {
        Some(0) => ReceiveQos::AtMostOnce,
        Some(2) => {
            let at = section.get("qos").map_or(section.at, |node| node.at);
            let message =
                "between brokers nothing goes exactly once here: with 1 some messages come twice, and none is lost";
            section.report(section.wrong("qos", at, message).allowed("0 or 1"));
            ReceiveQos::AtLeastOnce
        }
        _ => ReceiveQos::AtLeastOnce,
    }
}

fn retain(section: &Section<'_, '_>) -> RetainHere {
    let never = section.flag("retain").is_some_and(|flag| !flag.value);
    if never { RetainHere::Never } else { RetainHere::AsPublished }
}

/// `filter` and the prefixes; `comes_in`: clients' topics of ours are written to.
fn mapping(section: &Section<'_, '_>, above: &str, comes_in: bool) -> Option<Mapping> {
    let local_prefix = prefix(section, "local_prefix")?;
    let remote_prefix = format!("{above}{}", prefix(section, "remote_prefix")?);
    if section.get("filter").is_none() {
        section.missing("filter", "which topics, such as \"machines/#\"");
    }
    let filter = section.text("filter")?;
    let mapping = Mapping { filter: filter.value.to_owned(), local_prefix, remote_prefix };
    let problem = |message: String| section.report(section.wrong("filter", filter.at, message));
    for (side, whole) in [("here", mapping.local_filter()), ("on the other side", mapping.remote_filter())] {
        if let Err(bad) = check_filter(&whole) {
            problem(format!("{side} it would be \"{whole}\": {}", bad.to_string().replace("a topic", "a filter")));
            return None;
        }
        if whole.starts_with("$share/") || whole.chars().any(char::is_control) {
            problem(format!("{side} it would be \"{whole}\": no filter of a bridge"));
            return None;
        }
    }
    let here = mapping.local_filter();
    if is_gateways(&here) {
        let what = if comes_in { "nobody else may write there" } else { "it is not forwarded" };
        problem(format!("here it would be \"{here}\", which belongs to the gateway: {what}"));
        return None;
    }
    Some(mapping)
}

fn prefix(section: &Section<'_, '_>, key: &str) -> Option<String> {
    let Some(text) = section.text(key) else { return Some(String::new()) };
    let bad = text.value.chars().any(|c| matches!(c, '+' | '#') || c.is_control());
    if bad || text.value.len() >= TOPIC_BYTES_MAX {
        let message = "a prefix is part of a topic: no wildcards, no control characters";
        section.report(section.wrong(key, text.at, message));
        return None;
    }
    Some(text.value.to_owned())
}
