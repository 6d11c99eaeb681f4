//! Places that stay: a new plan is arranged after the running one, so that whatever is in both has the place it had.
//!
//! Places ([`TagIx`], [`DeviceIx`], [`BusIx`]) are what samples on their way, alarms and commands are known by. So a place is
//! never given to anything else while the process lives: what is removed leaves a hole (a part without a name, of no
//! bus), what is new is appended. The places of a device's tags are one range; when a tag of it comes or goes, is no
//! longer the same tag for the store and for those who read its topic (name, type, class, topic), or is read and its values
//! mean something else ([`super::meaning`]), all of them are new.

use std::collections::HashMap;
use std::sync::Arc;

use super::meaning::is_read_alike;
use crate::config::plan::{BusLink, BusPlan, DevicePlan, Plan, Source, TagPlan};
use crate::model::tag::{Address, BusIx, DataType, DeviceIx, Table, TagIx};

/// The same plan, arranged after a running one. It may have been arranged itself, after an earlier one.
pub fn arranged(running: &Plan, new: Plan) -> Plan {
    let Plan { buses: new_buses, devices: new_devices, tags: new_tags, .. } = &new;
    let mut buses: Vec<BusPlan> = running.buses.iter().map(|_| BusPlan::hole()).collect();
    let known: HashMap<&str, usize> = places(running.buses.iter().map(|bus| bus.name.as_str()));
    let settle = |bus: &BusPlan| match bus.name.as_str() {
        "" => usize::MAX, // of a plan that was arranged itself
        name => put(&mut buses, known.get(name), bus.clone()),
    };
    let bus_at: Vec<usize> = new_buses.iter().map(settle).collect();

    let mut tags: Vec<TagPlan> = running.tags.iter().map(|tag| TagPlan::hole(tag.device)).collect();
    let mut devices: Vec<DevicePlan> = running.devices.iter().map(|_| DevicePlan::hole()).collect();
    let known: HashMap<&str, usize> = places(running.devices.iter().map(|device| device.name.as_str()));
    // Where each tag of the new plan goes to.
    let mut tag_at = vec![0; new_tags.len()];
    for device in new_devices.iter().filter(|device| !device.is_hole()) {
        let own = new_tags.get(device.tags.clone()).unwrap_or_default();
        let before = known.get(device.name.as_str()).and_then(|at| running.devices.get(*at));
        let same = before.filter(|before| is_same_sheet((running, before), (&new, device)));
        let start = same.map_or(tags.len(), |before| before.tags.start);
        if same.is_none() {
            tags.extend(own.iter().cloned());
        }
        for (offset, from) in device.tags.clone().enumerate() {
            tag_at[from] = start + offset;
        }
        let moved = DevicePlan {
            tags: start..start + own.len(),
            bus: device.bus.map(|bus| BusIx(number(bus_at[bus.0 as usize]))),
            ..device.clone()
        };
        put(&mut devices, known.get(device.name.as_str()), moved);
    }
    let device_at: HashMap<&str, usize> = places(devices.iter().map(|device| device.name.as_str()));
    for (from, tag) in new_tags.iter().enumerate().filter(|(_, tag)| !tag.is_hole()) {
        let name = new_devices.get(tag.device.0 as usize).map_or("", |device| device.name.as_str());
        let device = device_at.get(name).map_or(tag.device, |at| DeviceIx(number(*at)));
        tags[tag_at[from]] = moved(tag, device, &tag_at);
    }
    Plan { buses, devices, tags, ..new }
}

/// How many places belong to nothing.
pub fn holes(plan: &Plan) -> usize {
    let tags = plan.tags.iter().filter(|tag| tag.is_hole()).count();
    let devices = plan.devices.iter().filter(|device| device.name.is_empty()).count();
    tags + devices + plan.buses.iter().filter(|bus| bus.name.is_empty()).count()
}

fn places<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<&'a str, usize> {
    names.enumerate().filter(|(_, name)| !name.is_empty()).map(|(at, name)| (name, at)).collect()
}

/// At its place, or behind all others.
fn put<T>(all: &mut Vec<T>, at: Option<&usize>, it: T) -> usize {
    if let Some(slot) = at.and_then(|at| all.get_mut(*at)) {
        *slot = it;
    } else {
        all.push(it);
    }
    at.copied().unwrap_or(all.len() - 1)
}

fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// Have these the same tags, one by one, for everybody who keeps something of them?
fn is_same_sheet((running, before): (&Plan, &DevicePlan), (new, device): (&Plan, &DevicePlan)) -> bool {
    let same = |(old, now): (&TagPlan, &TagPlan)| {
        (old.name == now.name && old.topic == now.topic)
            && (old.data_type == now.data_type && old.class == now.class)
            // Their samples are another thing for whoever shows them.
            && old.kind() == now.kind()
            && (!old.is_of_device() && !now.is_of_device() || is_read_alike((running, old), (new, now)))
    };
    let sheets = running.tags.get(before.tags.clone()).zip(new.tags.get(device.tags.clone()));
    sheets.is_some_and(|(old, now)| old.len() == now.len() && old.iter().zip(now).all(same))
}

fn moved(tag: &TagPlan, device: DeviceIx, tag_at: &[usize]) -> TagPlan {
    let at = |ix: TagIx| tag_at.get(ix.0 as usize).map_or(ix, |at| TagIx(number(*at)));
    let mut tag = TagPlan { device, scale_from: tag.scale_from.map(at), ..tag.clone() };
    if let Source::Derived(derivation) = &mut tag.source {
        derivation.inputs.iter_mut().for_each(|ix| *ix = at(*ix));
    }
    tag
}

impl BusPlan {
    /// The place of a bus that was removed.
    pub(super) fn hole() -> Self {
        Self::plain("", BusLink::tcp(""))
    }
}

impl DevicePlan {
    /// The place of a device that was removed; of no bus of any plan.
    pub(super) fn hole() -> Self {
        Self::plain("", BusIx(u32::MAX), 0)
    }

    /// Nothing is here any more.
    pub fn is_hole(&self) -> bool {
        self.name.is_empty()
    }
}

impl TagPlan {
    /// The place of a tag that was removed.
    pub(super) fn hole(device: DeviceIx) -> Self {
        let address = Address { table: Table::Holding, start: 0, bit: None };
        Self { topic: Arc::from(""), ..Self::plain("", device, address, DataType::Int16) }
    }

    /// Nothing is here any more.
    pub fn is_hole(&self) -> bool {
        self.name.is_empty()
    }

    /// Are there values of it? Nobody asks for one that is only written; a late answer to an earlier plan is none of its.
    pub fn has_values(&self) -> bool {
        !self.is_hole() && (self.access.reads() || !self.is_of_device())
    }
}
