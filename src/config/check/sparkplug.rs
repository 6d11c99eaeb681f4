//! Keys of an uplink that is an edge node (`format = "sparkplug"`).
//!
//! Sparkplug fixes much of what other formats leave open: topics, QoS, the order of live and backlog, the version of MQTT as far
//! as this gateway speaks it. A key that could change that is refused with the reason, never passed over.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::births::births;
use super::super::plan::{
    Compress, Datatypes, Delivery, DevicePlan, Format, HOST_TIMEOUT, MqttVersion, Preset, SparkplugPlan, TagPlan,
    UplinkPlan,
};
use super::super::preset::limits;
use super::super::section::Section;
use super::gateway::Gateway;
use super::uplink::word;
use crate::model::sparkplug::{Node, check_id, metric_name};

const KEYS: [&str; 5] = ["group_id", "edge_node_id", "primary_host", "host_timeout", "datatypes"];
const DATATYPES: [(&str, Datatypes); 2] = [("births", Datatypes::Births), ("always", Datatypes::Always)];
/// 0: what a broker has counts at once.
const HOST_TIMEOUTS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// As many records as one pull of the store may bring: data of one device go together, however they were polled.
const SAMPLES: u32 = 10_000;

/// Written into the plan, after everything else of it.
pub fn edge_node(section: &Section<'_, '_>, gateway: &Gateway<'_>, plan: &mut UplinkPlan) {
    if plan.format != Format::Sparkplug {
        for key in KEYS {
            if let Some(node) = section.get(key) {
                section.report(section.wrong(key, node.at, "has a meaning with the format sparkplug only"));
            }
        }
        return;
    }
    refuse_foreign(section, plan);
    plan.delivery = Delivery::LiveFirst;
    plan.mqtt_version = MqttVersion::V311;
    if section.get("batch_samples").is_none() {
        plan.batch_samples = SAMPLES;
    }
    let datatypes = word(section, "datatypes", &DATATYPES);
    let host_timeout = section.duration("host_timeout", HOST_TIMEOUTS).unwrap_or(HOST_TIMEOUT);
    let group = id(section, gateway, "group_id").or_else(|| group_of(gateway));
    let node = id(section, gateway, "edge_node_id").unwrap_or_else(|| gateway.plan.name.clone());
    let primary_host = id(section, gateway, "primary_host");
    if let (None, Some(key)) = (&primary_host, section.get("host_timeout")) {
        section.report(section.wrong("host_timeout", key.at, "has a use with a `primary_host` only"));
    }
    let Some(group) = group else {
        section.missing("group_id", "the group of edge nodes that this one belongs to, one level of a topic");
        return;
    };
    match Node::new(&group, &node) {
        Ok(node) => plan.sparkplug = Some(SparkplugPlan { node, primary_host, host_timeout, datatypes }),
        Err(error) => {
            let key = if check_id(&node).is_err() { "edge_node_id" } else { "group_id" };
            let at = section.get(key).map_or(section.at, |node| node.at);
            section.report(section.wrong(key, at, error.to_string()));
        }
    }
}

/// Keys whose meaning Sparkplug has fixed.
fn refuse_foreign(section: &Section<'_, '_>, plan: &UplinkPlan) {
    let refuse = |key: &str, message: &str| {
        if let Some(node) = section.get(key) {
            section.report(section.wrong(key, node.at, message));
        }
    };
    refuse("layout", "has a meaning with the format json only");
    refuse("topic_prefix", "has no place in the topics of Sparkplug: spBv1.0/<group_id>/…");
    refuse(
        "down",
        "an edge node subscribes to its commands alone, and its session forgets: give what comes down an [[uplink]] or a \
         [[bridge]] of its own",
    );
    refuse("summary_after", "has no form in Sparkplug: after an outage the samples themselves go, as historical");
    if plan.compress == Compress::Zstd {
        refuse("compress", "hosts of Sparkplug unpack gzip: none or gzip");
    }
    if plan.delivery == Delivery::Strict {
        refuse("delivery", "Sparkplug is always live-first: new values at once, the backlog beside them as historical");
    }
    if plan.mqtt_version == MqttVersion::V5 {
        refuse(
            "mqtt_version",
            "not in this version: an edge node speaks MQTT 3.1.1, which every Sparkplug server takes",
        );
    }
    if plan.preset == Preset::Azure {
        refuse("preset", "Azure IoT Hub has topics of its own and takes no Sparkplug");
    }
}

/// The births of devices, which must not be larger than the cloud takes; and their metrics, which a host knows by their names alone until it has read the birth.
pub fn metrics(section: &Section<'_, '_>, plan: &UplinkPlan, devices: &[DevicePlan], tags: &[TagPlan]) {
    if plan.format != Format::Sparkplug {
        return;
    }
    let at = section.get("format").map_or(section.at, |node| node.at);
    let limits = limits(plan.preset);
    if let Some((device, bytes)) = births(devices, tags, &plan.classes, plan.commands).largest
        && bytes > limits.message_bytes_max
    {
        // a birth has all metrics of its device (tck-id-topics-dbirth-metrics): it cannot be divided
        let message = format!(
            "the birth of the device {device} takes up to {bytes} bytes in one message, and {} takes {}: divide the device, or \
             give this uplink fewer `classes`",
            limits.cloud, limits.message_bytes_max
        );
        section.report(section.wrong("format", at, message));
    }
    for device in devices {
        let mut owners: HashMap<String, &str> = HashMap::new();
        let tags = tags.get(device.tags.clone()).unwrap_or_default();
        for tag in tags.iter().filter(|tag| !tag.topic.is_empty() && plan.classes.contains(&tag.class)) {
            let name = metric_name(&tag.topic, &device.name, &tag.name);
            let message = |other: &str| {
                format!(
                    "the tags {other} and {} of the device {} would both be the metric \"{name}\": what stands below the \
                     device in the `topic` of [gateway] must differ",
                    tag.name, device.name
                )
            };
            if let Some(other) = owners.get(&name) {
                return section.report(section.wrong("format", at, message(other)));
            }
            owners.insert(name, &tag.name);
        }
    }
}

fn id(section: &Section<'_, '_>, gateway: &Gateway<'_>, key: &str) -> Option<String> {
    section.get(key)?;
    let text = section.required_text(key, "")?;
    let id = gateway.expand(text.value);
    if let Err(error) = check_id(&id) {
        section.report(section.wrong(key, text.at, error.to_string()));
    }
    Some(id)
}

/// The first level of the gateway's topics, where that is a plain word.
fn group_of(gateway: &Gateway<'_>) -> Option<String> {
    let template = gateway.template.as_ref()?;
    let first = template.text.split('/').next()?;
    (!first.contains(['{', '}']) && check_id(first).is_ok()).then(|| first.to_owned())
}
