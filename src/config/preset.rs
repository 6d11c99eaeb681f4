//! The published limits of the clouds that `preset` names, as data: uplink, packer and window keep them, `check` says
//! beforehand what would not be taken.
//!
//! Where the figures come from (November 2026). What CONNACK says comes on top of them and counts where it is less. The
//! figures marked * are the commonly quoted ones; we found no page of the maker that states them, so they err on the small
//! side:
//!
//! | preset | where the figures stand |
//! |---|---|
//! | `aws` | "AWS IoT Core endpoints and quotas", tables "Message broker and protocol"; the same figures in the AWS IoT Device SDK (`AwsIotCoreDefaults`: 512 KB/s, 100 publishes/s, 256 bytes, 7 slashes, client id 128, 8 filters); keep alive from 30 s* |
//! | `azure` | "Communicate with an IoT hub using the MQTT protocol" and "IoT Hub quotas and throttling": 256 KB device-to-cloud, MQTT 3.1.1, keep alive up to 1177 s*, 100 at once*, topics `devices/{device}/messages/events/` |
//! | `hivemq` | HiveMQ Cloud: packets up to 5 MB*, 10 publishes at once* (its broker's `receive-maximum`) |
//! | `emqx` | EMQX Platform, "Quotas and Limits", Serverless: 1 MB, 10 publishes/s per client, 10 subscriptions per client, client id 1024; 32 at once* (its broker's `max_inflight`) |
//!
//! A dedicated plan that allows more is an uplink with the preset `plain`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::plan::{Downlink, MqttVersion, Preset, Transport, UplinkPlan};

/// Limits of one cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Its name in messages.
    pub cloud: &'static str,
    /// Largest publish, topic and headers included. Bytes.
    pub message_bytes_max: usize,
    /// Publishes that may be unacknowledged at once.
    pub in_flight_max: u16,
    /// Publishes per second of one connection.
    pub publishes_per_s: Option<u32>,
    /// Bytes per second of one connection.
    pub bytes_per_s: Option<u64>,
    /// Protocol in the TLS handshake (RFC 7301) that port 443 wants to hear.
    pub alpn_on_443: Option<&'static str>,
    /// MQTT keep alive.
    pub keep_alive: RangeInclusive<Duration>,
    /// Longest topic. Bytes.
    pub topic_bytes_max: usize,
    /// Most slashes in a topic.
    pub topic_slashes_max: usize,
    /// Longest client id. Bytes.
    pub client_id_bytes_max: usize,
    /// Filters in one subscription.
    pub filters_max: usize,
    /// The only version it speaks.
    pub version: Option<MqttVersion>,
}

const PLAIN: Limits = Limits {
    cloud: "the broker",
    message_bytes_max: 268_435_455, // MQTT 3.1.1, section 2.2.3
    in_flight_max: u16::MAX,
    publishes_per_s: None,
    bytes_per_s: None,
    alpn_on_443: None,
    keep_alive: Duration::from_secs(1)..=Duration::from_secs(65_535),
    topic_bytes_max: 65_535,
    topic_slashes_max: usize::MAX,
    client_id_bytes_max: 65_535,
    filters_max: usize::MAX,
    version: None,
};

const AWS: Limits = Limits {
    cloud: "AWS IoT Core",
    message_bytes_max: 128 << 10,
    in_flight_max: 100,
    publishes_per_s: Some(100),
    bytes_per_s: Some(512 << 10),
    alpn_on_443: Some("x-amzn-mqtt-ca"),
    keep_alive: Duration::from_secs(30)..=Duration::from_secs(1200),
    topic_bytes_max: 256,
    topic_slashes_max: 7,
    client_id_bytes_max: 128,
    filters_max: 8,
    version: None,
};

const AZURE: Limits = Limits {
    cloud: "Azure IoT Hub",
    message_bytes_max: 256 << 10,
    in_flight_max: 100,
    keep_alive: Duration::from_secs(1)..=Duration::from_secs(1177),
    client_id_bytes_max: 128, // a device id
    version: Some(MqttVersion::V311),
    ..PLAIN
};

const HIVEMQ: Limits = Limits { cloud: "HiveMQ Cloud", message_bytes_max: 5_000_000, in_flight_max: 10, ..PLAIN };

const EMQX: Limits = Limits {
    cloud: "EMQX Cloud",
    message_bytes_max: 1 << 20,
    in_flight_max: 32,
    publishes_per_s: Some(10),
    client_id_bytes_max: 1024,
    filters_max: 10,
    ..PLAIN
};

/// The limits of a preset.
pub const fn limits(preset: Preset) -> &'static Limits {
    match preset {
        Preset::Plain => &PLAIN,
        Preset::Aws => &AWS,
        Preset::Azure => &AZURE,
        Preset::HiveMq => &HIVEMQ,
        Preset::Emqx => &EMQX,
    }
}

/// Something that the cloud would not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresetProblem {
    /// The key to change.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// What would be right; may be empty.
    pub allowed: String,
}

/// Everything in an uplink that its cloud would not take. `topics`: every local topic that may go upstream or, with
/// `/set`, be subscribed to, without `topic_prefix`.
pub fn problems<'a>(plan: &UplinkPlan, topics: impl IntoIterator<Item = &'a str>) -> Vec<PresetProblem> {
    let limits = limits(plan.preset);
    let mut problems = Vec::new();
    let mut report = |key, message: String, allowed: String| problems.push(PresetProblem { key, message, allowed });
    if !limits.keep_alive.contains(&plan.keep_alive) {
        let (from, to) = (limits.keep_alive.start().as_secs(), limits.keep_alive.end().as_secs());
        let message = format!("{} does not take {} s", limits.cloud, plan.keep_alive.as_secs());
        report("keep_alive", message, format!("{from}s ..= {to}s"));
    }
    if plan.client_id.len() > limits.client_id_bytes_max {
        let message = format!("{} bytes are more than {} takes", plan.client_id.len(), limits.cloud);
        report("client_id", message, format!("at most {} bytes", limits.client_id_bytes_max));
    }
    if let Some(only) = limits.version.filter(|only| ![MqttVersion::Auto, *only].contains(&plan.mqtt_version)) {
        let word = if only == MqttVersion::V311 { "3.1.1" } else { "5" };
        report("mqtt_version", format!("{} speaks MQTT {word} only", limits.cloud), format!("{word:?} or \"auto\""));
    }
    let no_quic = matches!(plan.preset, Preset::Aws | Preset::Azure | Preset::HiveMq);
    if no_quic && plan.servers.iter().any(|server| server.transport == Transport::Quic) {
        report("url", format!("{} does not speak MQTT over QUIC", limits.cloud), "mqtts:// or wss://".into());
    }
    if plan.preset == Preset::Azure {
        azure(plan, &mut report);
    } else {
        topics_problem(plan, limits, topics, &mut report);
    }
    problems
}

fn azure(plan: &UplinkPlan, report: &mut impl FnMut(&'static str, String, String)) {
    if plan.commands == Downlink::Accepted {
        report("commands", "Azure IoT Hub has no topics for commands to tags".into(), "false".into());
    }
    if plan.servers.iter().any(|server| !server.transport.is_secure()) {
        report("url", "Azure IoT Hub speaks TLS only".into(), "mqtts:// or wss://".into());
    }
    let certificate = plan.tls.as_ref().is_some_and(|tls| tls.identity.is_some());
    if plan.sas_key_file.is_none() && plan.password_file.is_none() && !certificate {
        let message = "Azure IoT Hub needs the device key, or a certificate, to let the device in";
        report("sas_key_file", message.into(), String::new());
    }
    let unfit = |c: char| !(c.is_ascii_alphanumeric() || "-.%_*?!(),:=@$'".contains(c));
    if plan.client_id.contains(unfit) {
        let message = "it is the device id of Azure IoT Hub, which takes no such characters";
        report("client_id", message.into(), "letters, digits and - . % _ * ? ! ( ) , : = @ $ '".into());
    }
}

/// One problem for the longest topic, one for the deepest, not one for each of thousands.
fn topics_problem<'a>(
    plan: &UplinkPlan,
    limits: &Limits,
    topics: impl IntoIterator<Item = &'a str>,
    report: &mut impl FnMut(&'static str, String, String),
) {
    let (mut longest, mut deepest) = ("", "");
    for topic in topics {
        let slashes = |topic: &str| topic.matches('/').count();
        longest = if topic.len() > longest.len() { topic } else { longest };
        deepest = if slashes(topic) > slashes(deepest) { topic } else { deepest };
    }
    let prefix = plan.topic_prefix.as_str();
    if prefix.len() + longest.len() > limits.topic_bytes_max {
        let bytes = prefix.len() + longest.len();
        let message = format!("{} does not take topics of {bytes} bytes, as {prefix}{longest}", limits.cloud);
        report("topic_prefix", message, format!("at most {} bytes with the topic", limits.topic_bytes_max));
    }
    let slashes = prefix.matches('/').count() + deepest.matches('/').count();
    if slashes > limits.topic_slashes_max {
        let message = format!("{} does not take topics with {slashes} slashes, as {prefix}{deepest}", limits.cloud);
        report("topic_prefix", message, format!("at most {} slashes with the topic", limits.topic_slashes_max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{ServerPlan, Transport};

    fn keys(plan: &UplinkPlan, topics: &[&str]) -> Vec<&'static str> {
        problems(plan, topics.iter().copied()).into_iter().map(|problem| problem.key).collect()
    }

    fn with(preset: Preset, change: impl FnOnce(&mut UplinkPlan)) -> UplinkPlan {
        let servers = vec![ServerPlan { host: "hub".into(), port: 8883, transport: Transport::Tls }];
        let mut plan = UplinkPlan { servers, preset, ..UplinkPlan::plain("cloud") };
        change(&mut plan);
        plan
    }

    #[test]
    fn the_defaults_suit_every_cloud_but_azure_wants_a_key() {
        for preset in [Preset::Plain, Preset::Aws, Preset::HiveMq, Preset::Emqx] {
            assert_eq!(keys(&with(preset, |_| {}), &["acme/gw/pump/speed", "acme/gw/pump/speed/set/result"]), [""; 0]);
        }
        assert_eq!(keys(&with(Preset::Azure, |_| {}), &[]), ["sas_key_file"]);
        assert_eq!(keys(&with(Preset::Azure, |plan| plan.sas_key_file = Some("key".into())), &[]), [""; 0]);
    }

    #[test]
    fn what_aws_does_not_take_is_said_with_the_limit() {
        let plan = with(Preset::Aws, |plan| {
            plan.keep_alive = Duration::from_secs(10);
            plan.client_id = "x".repeat(129);
            plan.topic_prefix = "a/b/c/d/".into();
        });
        let long = "x".repeat(250);
        assert_eq!(keys(&plan, &["e/f/g/h/i", &long]), ["keep_alive", "client_id", "topic_prefix", "topic_prefix"]);
        let all = problems(&plan, ["e/f/g/h/i"]);
        assert_eq!(all[0].allowed, "30s ..= 1200s");
        assert!(all[2].message.contains("8 slashes, as a/b/c/d/e/f/g/h/i"), "{}", all[2].message);
    }

    #[test]
    fn what_azure_cannot_do_is_said_by_name() {
        let plan = with(Preset::Azure, |plan| {
            plan.sas_key_file = Some("key".into());
            plan.commands = Downlink::Accepted;
            plan.mqtt_version = MqttVersion::V5;
            plan.client_id = "pump/7".into();
            plan.servers[0].transport = Transport::Tcp;
        });
        assert_eq!(
            keys(&plan, &["however/long/and/deep/it/may/be/it/is/a/property"]),
            ["mqtt_version", "commands", "url", "client_id"]
        );
    }
}
