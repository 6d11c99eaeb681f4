//! How large births of Sparkplug are, before any were made: for `check`, for forecasts, and for the budget that has to pay for
//! them. Pure. Not the bytes themselves: those are made in `uplink/sparkplug`, whose tests hold these figures against them.
//!
//! ```text
//! a metric, bytes (protobuf: a key of one byte before each field, a length before what has one)
//!   around it                2 or 3        type          2
//!   name              2 + its length       value         2 (bit), 5 or 6 (number of 32 bits), 9 to 11 (of 64), 2 + text
//!   alias                   up to 6        Quality      16, engUnit 15 + its length, engLow 21, engHigh 22, readOnly 16,
//!   time                          7                     and 2 or 3 around them
//! ```

use super::plan::{DevicePlan, Downlink, TagPlan};
use crate::model::data_type::DataType;
use crate::model::number::Class;
use crate::model::sparkplug::metric_name;

/// The node's own: its counts, what can be asked of it, and what it tells by itself.
const NODE_BYTES: usize = 420;
/// Time and seq of a payload, topic and header of a publish, apart from names.
const MESSAGE_BYTES: usize = 10 + 40;
/// Around a metric; alias, time, type; Quality; around the properties.
const METRIC_BYTES: usize = 3 + 6 + 7 + 2 + 16 + 3;
/// Key and value of `engUnit` without the unit, `engLow`, `engHigh`, `readOnly`.
const UNIT_BYTES: usize = 9 + 6;
const LOW_BYTES: usize = 21;
const HIGH_BYTES: usize = 22;
const READ_ONLY_BYTES: usize = 16;

/// All births of an edge node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Births {
    /// NBIRTH, and a DBIRTH for each device.
    pub messages: usize,
    /// Of all of them, from above: topic, payload, MQTT header.
    pub bytes: usize,
    /// The device with the largest one, and its bytes.
    pub largest: Option<(String, usize)>,
}

/// Births of the tags of these classes, of an edge node that takes commands or not.
pub fn births(devices: &[DevicePlan], tags: &[TagPlan], classes: &[Class], commands: Downlink) -> Births {
    let mut all = Births { messages: 1, bytes: NODE_BYTES, largest: None };
    for device in devices.iter().filter(|device| !device.is_hole()) {
        let tags = tags.get(device.tags.clone()).unwrap_or_default();
        let mine = tags.iter().filter(|tag| !tag.is_hole() && classes.contains(&tag.class));
        let metrics: usize = mine.map(|tag| metric(&device.name, tag, commands)).sum();
        if metrics == 0 {
            continue;
        }
        let bytes = MESSAGE_BYTES + device.name.len() + metrics;
        all.messages += 1;
        all.bytes += bytes;
        if all.largest.as_ref().is_none_or(|(_, most)| bytes > *most) {
            all.largest = Some((device.name.clone(), bytes));
        }
    }
    all
}

fn metric(device: &str, tag: &TagPlan, commands: Downlink) -> usize {
    let text = |bytes: usize| bytes + if bytes > 127 { 3 } else { 2 };
    let name = text(metric_name(&tag.topic, device, &tag.name).len());
    let value = match tag.data_type {
        _ if tag.map.is_some() => 2 + 30, // a word; nobody writes novels into a register
        DataType::Bool => 2,
        DataType::Text(bytes) => text(bytes.into()),
        DataType::Bytes(bytes) => text(2 * usize::from(bytes)),
        kind if kind.is_number() && kind.registers() < 4 => 9, // may be a double by its scale
        _ => 11,
    };
    let unit = if tag.unit.is_empty() { 0 } else { UNIT_BYTES + tag.unit.len() };
    let low = tag.limits.min.map_or(0, |_| LOW_BYTES);
    let high = tag.limits.max.map_or(0, |_| HIGH_BYTES);
    let may_be_written = commands == Downlink::Accepted && tag.access.writes();
    let read_only = if may_be_written { 0 } else { READ_ONLY_BYTES };
    METRIC_BYTES + name + value + unit + low + high + read_only
}
