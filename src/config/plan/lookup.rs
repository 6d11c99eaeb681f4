//! Where things are in the plan. The numbers of the model ([`BusIx`], [`DeviceIx`], [`TagIx`]) are positions in its lists, and
//! nobody else needs to know that.
//!
//! `plan[ix]` is for a number of this very plan, `plan.tag(ix)` and its like for one that may be of another plan: whoever lived
//! through a reload holds such numbers.

use std::ops::Index;

use super::{BusPlan, DevicePlan, Plan, TagPlan, UplinkPlan};
use crate::model::tag::{BusIx, DeviceIx, TagIx};

impl Plan {
    /// The bus of this number, which may be a hole.
    pub fn bus(&self, ix: BusIx) -> Option<&BusPlan> {
        self.buses.get(ix.0 as usize)
    }

    /// The device of this number, which may be a hole.
    pub fn device(&self, ix: DeviceIx) -> Option<&DevicePlan> {
        self.devices.get(ix.0 as usize)
    }

    /// The tag of this number, which may be a hole.
    pub fn tag(&self, ix: TagIx) -> Option<&TagPlan> {
        self.tags.get(ix.0 as usize)
    }

    /// The device of this number, if it is still there.
    pub fn live_device(&self, ix: DeviceIx) -> Option<&DevicePlan> {
        self.device(ix).filter(|device| !device.is_hole())
    }

    /// The tag of this number, if it is still there.
    pub fn live_tag(&self, ix: TagIx) -> Option<&TagPlan> {
        self.tag(ix).filter(|tag| !tag.is_hole())
    }

    /// All buses with their numbers, holes too.
    pub fn numbered_buses(&self) -> impl Iterator<Item = (BusIx, &BusPlan)> {
        (0..).map(BusIx).zip(&self.buses)
    }

    /// All devices that are there.
    pub fn live_devices(&self) -> impl Iterator<Item = (DeviceIx, &DevicePlan)> {
        (0..).map(DeviceIx).zip(&self.devices).filter(|(_, device)| !device.is_hole())
    }

    /// All tags that are there.
    pub fn live_tags(&self) -> impl Iterator<Item = (TagIx, &TagPlan)> {
        (0..).map(TagIx).zip(&self.tags).filter(|(_, tag)| !tag.is_hole())
    }

    /// The devices of a bus.
    pub fn devices_on(&self, bus: BusIx) -> impl Iterator<Item = (DeviceIx, &DevicePlan)> {
        (0..).map(DeviceIx).zip(&self.devices).filter(move |(_, device)| device.bus == Some(bus))
    }

    /// The tags of a device, derived ones and holes too.
    pub fn tags_of(&self, device: &DevicePlan) -> impl Iterator<Item = (TagIx, &TagPlan)> {
        (0..).map(TagIx).zip(&self.tags).skip(device.tags.start).take(device.tags.len())
    }

    /// Every connection to an upstream broker: the uplinks, and those of the bridges.
    pub fn connections(&self) -> impl Iterator<Item = &UplinkPlan> {
        self.uplinks.iter().chain(self.bridges.iter().map(|bridge| &bridge.uplink))
    }
}

impl Index<BusIx> for Plan {
    type Output = BusPlan;

    fn index(&self, ix: BusIx) -> &BusPlan {
        &self.buses[ix.0 as usize]
    }
}

impl Index<DeviceIx> for Plan {
    type Output = DevicePlan;

    fn index(&self, ix: DeviceIx) -> &DevicePlan {
        &self.devices[ix.0 as usize]
    }
}

impl Index<TagIx> for Plan {
    type Output = TagPlan;

    fn index(&self, ix: TagIx) -> &TagPlan {
        &self.tags[ix.0 as usize]
    }
}
