//! `protocol = "mqtt-sn"` of a listener: a gateway for sensors that speak MQTT-SN 1.2 over UDP.
//!
//! MQTT-SN 1.2 has neither passwords nor TLS: a client is who it says it is. So only ids of a list are let in, from networks
//! of a list, and an address that other machines can reach wants the words `insecure_network = true`: whoever writes them
//! has a network in mind that nobody else is on.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::plan::{
    AddressRange, AdvertisePlan, Listen, MqttSnPlan, SENSOR_ID_BYTES_MAX, SensorPlan, UnaskedPlan,
};
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{NOT_BUILT_IN, Section, Spot};
use super::super::source::At;
use crate::model::topic;

/// Does the listener speak it?
const PROTOCOLS: [(&str, bool); 2] = [("mqtt", false), ("mqtt-sn", true)];

/// A radio hop may take seconds (the specification, section 7.2, has 10 to 15 s); tests and wires want less.
const RETRY: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(300);
const RETRY_STANDARD: Duration = Duration::from_secs(10);
/// T_WAIT is more than 5 minutes (section 7.2).
const WAIT: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(3600);
const WAIT_STANDARD: Duration = Duration::from_secs(360);
const RETRIES_MAX: u16 = 20;
const RETRIES_STANDARD: u16 = 4;
/// A frame of IEEE 802.15.4 up to what UDP carries in one piece or several.
const DATAGRAM: RangeInclusive<u64> = 64..=16_384;
const DATAGRAM_STANDARD: u16 = 1400;
/// ADVERTISE counts seconds in two bytes (section 5.4.2).
const ADVERTISE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(65_535);

const NETWORK_ALLOWED: &str = "a network or an address, such as \"10.0.7.0/24\", \"fd00:7::/64\" or \"10.0.7.12\"";
const ADVERTISE_TO_ALLOWED: &str = "an address and a port, such as \"10.0.7.255:1884\" or \"239.1.7.1:1884\"";

/// Keys that only such a listener has, and those that it has not.
const OWN: [&str; 4] = ["mqtt_sn", "sensor", "topic", "insecure_network"];
const NOT_HERE: [&str; 5] = ["tls", "identity", "websocket", "origins", "require_client_id"];

/// What makes a listener a gateway of MQTT-SN; `None`: it is none.
pub fn door(section: &Section<'_, '_>, (listen, at): (&Listen, At)) -> Option<MqttSnPlan> {
    let protocol = section.choice("protocol", &PROTOCOLS);
    let is_one = protocol.is_some_and(|spot| spot.value);
    let address = if let Listen::Udp(address) = listen { Some(*address) } else { None };
    if !is_one {
        if address.is_some() && (protocol.is_some() || section.get("protocol").is_none()) {
            section.report(section.wrong("listen", at, "UDP is for `protocol = \"mqtt-sn\"`"));
        }
        for (key, node) in OWN.iter().filter_map(|key| Some((key, section.get(key)?))) {
            section.report(section.wrong(key, node.at, "goes with `protocol = \"mqtt-sn\"`"));
        }
        return None;
    }
    if !cfg!(feature = "mqtt-sn") {
        let message = format!("\"mqtt-sn\" is {NOT_BUILT_IN}: it was built without the feature mqtt-sn");
        section.report(section.wrong("protocol", protocol?.at, message));
    }
    for (key, node) in NOT_HERE.iter().filter_map(|key| Some((key, section.get(key)?))) {
        section.report(section.wrong(key, node.at, "does not go with `protocol = \"mqtt-sn\"`"));
    }
    let plan = plan(section);
    match address {
        None => {
            let refused = section.wrong("listen", at, "MQTT-SN comes in datagrams");
            section.report(refused.allowed("\"udp:\", an address and a port, such as \"udp:0.0.0.0:1884\""));
        }
        Some(address) if !address.ip().is_loopback() => check_reachable(section, at, &plan),
        Some(_) => {}
    }
    Some(plan)
}

/// Other machines.
fn check_reachable(section: &Section<'_, '_>, at: At, plan: &MqttSnPlan) {
    if !section.flag("insecure_network").is_some_and(|flag| flag.value) {
        let message = "MQTT-SN 1.2 has no passwords and no encryption: whoever reaches this address can read along and send \
                       in a sensor's name. On a network of its own, write `insecure_network = true`";
        section.report(section.wrong("listen", at, message).allowed("a loopback address, or insecure_network = true"));
    }
    if plan.sensors.is_empty() && plan.publish.is_none() {
        let message = "nobody could come in here: there is neither a [[broker.listener.sensor]] nor `publish_user`";
        section.report(section.wrong("listen", at, message));
    }
}

fn plan(listener: &Section<'_, '_>) -> MqttSnPlan {
    let mut plan = MqttSnPlan {
        gateway_id: 1,
        advertise: None,
        retry: RETRY_STANDARD,
        retries: RETRIES_STANDARD,
        wait: WAIT_STANDARD,
        datagram_bytes: DATAGRAM_STANDARD,
        topics: topics(listener),
        sensors: sensors(listener),
        publish: None,
    };
    let trail = Trail::Key(listener.trail, "mqtt_sn");
    let opened = listener.get("mqtt_sn").and_then(|node| Section::open(listener.cx, node, &trail, schema::MQTT_SN));
    let Some(section) = opened else { return plan };
    let gateway_id = section.whole("gateway_id", 0..=255).and_then(|id| u8::try_from(id).ok());
    plan.gateway_id = gateway_id.unwrap_or(plan.gateway_id);
    plan.retry = section.duration("retry", RETRY).unwrap_or(plan.retry);
    plan.retries = section.whole("retries", 1..=RETRIES_MAX).unwrap_or(plan.retries);
    plan.wait = section.duration("wait", WAIT).unwrap_or(plan.wait);
    let bytes = section.size("max_datagram", DATAGRAM).and_then(|bytes| u16::try_from(bytes).ok());
    plan.datagram_bytes = bytes.unwrap_or(plan.datagram_bytes);
    plan.advertise = advertise(&section);
    plan.publish = unasked(&section);
    plan
}

fn advertise(section: &Section<'_, '_>) -> Option<AdvertisePlan> {
    let every = section.duration("advertise", ADVERTISE);
    let to = section.text("advertise_to").and_then(|text| {
        let address = text.value.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
        if address.is_none() {
            let refused = section.wrong("advertise_to", text.at, "is no address with a port");
            section.report(refused.allowed(ADVERTISE_TO_ALLOWED));
        }
        address
    });
    for (key, other) in [("advertise", "advertise_to"), ("advertise_to", "advertise")] {
        if let (Some(node), None) = (section.get(key), section.get(other)) {
            section.report(section.wrong(key, node.at, format!("goes with `{other}`")));
        }
    }
    let every = Duration::from_secs(every?.as_secs());
    Some(AdvertisePlan { every, to: to? })
}

fn unasked(section: &Section<'_, '_>) -> Option<UnaskedPlan> {
    let from = networks(section, "publish_from");
    if let (Some(node), None) = (section.get("publish_from"), section.get("publish_user")) {
        section.report(section.wrong("publish_from", node.at, "goes with `publish_user`"));
    }
    let user = section.text("publish_user").and_then(|text| user(section, "publish_user", text))?;
    Some(UnaskedPlan { user, from })
}

fn sensors(listener: &Section<'_, '_>) -> Vec<SensorPlan> {
    let list = Trail::Key(listener.trail, "sensor");
    let mut sensors: Vec<SensorPlan> = Vec::new();
    for (position, node) in listener.tables("sensor").iter().enumerate() {
        let trail = Trail::Index(&list, position);
        let Some(section) = Section::open(listener.cx, node, &trail, schema::SENSOR) else { continue };
        let user = section.text("user").and_then(|text| user(&section, "user", text));
        let from = networks(&section, "from");
        let Some(id) = section.required_text("client_id", "the id that the sensor connects with") else { continue };
        let begin = id.value.strip_suffix('*').unwrap_or(id.value);
        if begin.contains('*') || id.value.len() > SENSOR_ID_BYTES_MAX || id.value.chars().any(char::is_control) {
            let refused = section.wrong("client_id", id.at, "is no client id");
            section.report(refused.allowed("an id of at most 256 bytes, or the beginning of ids and \"*\" behind it"));
        } else if sensors.iter().any(|known| known.client_id == id.value) {
            section.report(section.wrong("client_id", id.at, "another sensor of this listener has this id"));
        } else {
            sensors.push(SensorPlan { client_id: id.value.to_owned(), user, from });
        }
    }
    sensors
}

fn topics(listener: &Section<'_, '_>) -> Vec<(u16, String)> {
    let list = Trail::Key(listener.trail, "topic");
    let mut topics: Vec<(u16, String)> = Vec::new();
    for (position, node) in listener.tables("topic").iter().enumerate() {
        let trail = Trail::Index(&list, position);
        let Some(section) = Section::open(listener.cx, node, &trail, schema::PREDEFINED_TOPIC) else { continue };
        if section.get("id").is_none() {
            section.missing("id", "the number that sensors know the topic by");
        }
        let id = section.whole("id", 1..=65_534); // 0 and 65535 are reserved (section 5.3.11)
        let Some(name) = section.required_text("name", "the topic") else { continue };
        if let Err(bad) = topic::check_topic(name.value) {
            section.report(section.wrong("name", name.at, bad.to_string()));
            continue;
        }
        let Some(id) = id else { continue };
        if topics.iter().any(|(known, _)| *known == id) {
            let at = section.get("id").map_or(section.at, |node| node.at);
            section.report(section.wrong("id", at, "another topic of this listener has this id"));
            continue;
        }
        topics.push((id, name.value.to_owned()));
    }
    topics
}

fn user(section: &Section<'_, '_>, key: &str, text: Spot<&str>) -> Option<String> {
    let name = text.value;
    if name.is_empty() || name.contains([':', '*']) || name.chars().any(char::is_control) || name.trim() != name {
        let refused = section.wrong(key, text.at, "is no name");
        section.report(refused.allowed("a name; in rules it is \"sensor:\" and the name"));
        return None;
    }
    Some(name.to_owned())
}

fn networks(section: &Section<'_, '_>, key: &str) -> Vec<AddressRange> {
    let mut networks = Vec::new();
    for text in section.texts(key).unwrap_or_default() {
        match AddressRange::parse(text.value) {
            Some(network) => networks.push(network),
            None => section.report(section.wrong(key, text.at, "is no network").allowed(NETWORK_ALLOWED)),
        }
    }
    networks
}
