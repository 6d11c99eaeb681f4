//! Which metric is which tag: made of the plan and of the store's dictionary whenever births are due. Pure.
//!
//! A metric's name is the tag's topic below its device; its alias is the id under which the store knows the tag, which is unique
//! over the node and stays for the life of the store. Tags of earlier plans, of which records may still be owed, are not here:
//! a device learns of them when such a record comes (`birth`).
//!
//! The gateway's own metrics have aliases above 32 bits, where no id of the store is.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::plan::{Plan, Scale, TagPlan};
use crate::flow::hub::Standing;
use crate::model::number::Class;
use crate::model::sample::Sample;
use crate::model::sparkplug::metric_name;
use crate::model::tag::{DeviceIx, TagIx};
use crate::model::time::millis;
use crate::payload::sparkplug::{DataType, Worked, type_of, value_of};
use crate::store::DictionaryTag;

/// Of alarms, as JSON.
pub(super) const ALARM: (&str, u64) = ("Node Info/Alarm", 1 << 32);
/// Of other events.
pub(super) const EVENT: (&str, u64) = ("Node Info/Event", (1 << 32) + 1);
/// Of commands, how they ended.
pub(super) const RESULT: (&str, u64) = ("Node Info/Command Result", (1 << 32) + 2);
/// Of what is lost.
pub(super) const GAP: (&str, u64) = ("Node Info/Gap", (1 << 32) + 3);
/// All of these, without a value until one was said.
pub(super) const OWN: [(&str, u64); 4] = [ALARM, EVENT, RESULT, GAP];
/// Of the gateway.
pub(super) const VERSION: (&str, u64) = ("Node Info/Version", (1 << 32) + 4);

/// A metric of a device.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) alias: u64,
    pub(super) name: String,
    pub(super) kind: DataType,
    /// Where it stands in the plan.
    pub(super) tag: TagIx,
}

impl Entry {
    /// Its newest value; `None` also where that is one that it cannot have: then it is of a time when the tag was another.
    pub(super) fn fitting(&self, newest: Option<Sample>) -> Option<Sample> {
        newest.filter(|sample| value_of(sample.value.as_ref(), self.kind).is_some())
    }
}

/// A device with its metrics.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    pub(super) name: Arc<str>,
    pub(super) ix: DeviceIx,
    pub(super) metrics: Vec<Entry>,
}

/// What the last births told of.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    /// In the order of the plan.
    pub(super) devices: Vec<Known>,
    /// By alias: device and place in it.
    places: HashMap<u64, (usize, usize)>,
    /// The shortest period of polling, ms.
    pub(super) scan_rate_ms: u64,
}

impl Catalogue {
    /// Devices with tags of these classes. A tag that the store does not know yet has no alias: it comes with the next births.
    pub(super) fn new(plan: &Plan, classes: &[Class], dictionary: &[Arc<DictionaryTag>]) -> Self {
        let ids: HashMap<_, u64> =
            dictionary.iter().map(|tag| ((&*tag.device, &*tag.name, tag.data_type), tag.id.into())).collect();
        let (mut devices, mut scan_rate_ms) = (Vec::new(), u64::MAX);
        for (ix, device) in plan.live_devices() {
            let mine = plan.tags_of(device).filter(|(_, tag)| !tag.is_hole() && classes.contains(&tag.class));
            let entry = |(ix, tag): (TagIx, &TagPlan)| {
                let alias = *ids.get(&(&*device.name, &*tag.name, tag.data_type))?;
                let name = metric_name(&tag.topic, &device.name, &tag.name);
                Some(Entry { alias, name, kind: kind(tag), tag: ix })
            };
            let metrics: Vec<Entry> = mine.filter_map(entry).collect();
            if metrics.is_empty() {
                continue;
            }
            let polls = metrics.iter().filter_map(|entry| plan.tag(entry.tag)).map(|tag| tag.poll);
            let shortest = polls.min().map_or(u64::MAX, millis);
            scan_rate_ms = scan_rate_ms.min(shortest);
            devices.push(Known { name: device.name.as_str().into(), ix, metrics });
        }
        let places = devices.iter().enumerate().flat_map(|(at, device)| {
            device.metrics.iter().enumerate().map(move |(place, entry)| (entry.alias, (at, place)))
        });
        let places = places.collect();
        Self { places, devices, scan_rate_ms: if scan_rate_ms == u64::MAX { 0 } else { scan_rate_ms } }
    }

    /// A device by its name.
    pub(super) fn device(&self, name: &str) -> Option<&Known> {
        self.devices.iter().find(|device| *device.name == *name)
    }

    /// A metric by its alias.
    pub(super) fn metric(&self, alias: u64) -> Option<(&Known, &Entry)> {
        let (device, place) = self.places.get(&alias)?;
        let device = self.devices.get(*device)?;
        Some((device, device.metrics.get(*place)?))
    }
}

/// The type that its values have.
pub(super) fn kind(tag: &TagPlan) -> DataType {
    let worked = if tag.map.is_some() {
        Worked::Mapped
    } else if tag.scale_from.is_some() {
        Worked::ByDevice { offset: tag.scale.offset }
    } else if tag.scale == Scale::IDENTITY {
        Worked::Raw
    } else {
        Worked::Scaled { factor: tag.scale.factor, offset: tag.scale.offset }
    };
    type_of(tag.data_type, worked)
}

/// Does a host believe that there is such a device?
pub(super) const fn is_there(standing: Standing) -> bool {
    matches!(standing, Standing::Answering | Standing::Suspect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::expression::Formula;
    use crate::config::plan::{Derivation, Source};
    use crate::model::tag::{Address, DataType as Type, Table};
    use crate::model::value::Value;
    use crate::payload::sparkplug::Value as Sent;

    #[test]
    fn a_derived_tag_has_the_type_of_one_that_is_read() {
        let address = Address { table: Table::Holding, start: 0, bit: None };
        let text = "{hi} * 4294967296 + {lo}";
        let formula = Formula::read(text).expect("an expression");
        let derivation = Derivation { text: text.to_owned(), formula, inputs: Vec::new(), every: None };
        let source = Source::Derived(Box::new(derivation));
        for (data_type, scale, expected) in [
            (Type::Uint64, Scale::IDENTITY, DataType::UInt64),
            (Type::Int64, Scale::IDENTITY, DataType::Int64),
            (Type::Int64, Scale { factor: 0.1, offset: 0.0 }, DataType::Double),
            (Type::Float64, Scale::IDENTITY, DataType::Double),
            (Type::Bool, Scale::IDENTITY, DataType::Boolean),
            (Type::Text(8), Scale::IDENTITY, DataType::String),
        ] {
            let tag =
                TagPlan { source: source.clone(), scale, ..TagPlan::plain("sum", DeviceIx(0), address, data_type) };
            assert_eq!(kind(&tag), expected, "{data_type} {scale:?}");
        }
        let whole = Value::Uint(9_007_199_254_740_993); // no double is
        assert_eq!(value_of(Some(&whole), DataType::UInt64), Some(Sent::Long(9_007_199_254_740_993)));
    }
}
