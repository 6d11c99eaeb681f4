//! `[[device]]` of the plan.

use std::ops::Range;
use std::time::Duration;

use crate::config::blocks::REGISTERS_PER_READ_MAX;
use crate::model::tag::BusIx;

/// `[[device]]`
#[derive(Debug, Clone, PartialEq)]
pub struct DevicePlan {
    /// Unique.
    pub name: String,
    /// Its bus. `None`: it has none, all its tags are derived.
    pub bus: Option<BusIx>,
    /// 0 ..= 255 on TCP (0 and 255 are "the device itself"), 1 ..= 247 on a serial line.
    pub unit_id: u8,
    /// Its tags in [`Plan::tags`].
    pub tags: Range<usize>,
    /// Longest read, registers: 1 ..= 125.
    pub max_registers_per_read: u16,
    /// Pause between two requests to this device (SDM72-like meters reboot without it). Default zero.
    pub delay_between_requests: Duration,
}

impl DevicePlan {
    /// A device that has every default, and no tags yet.
    pub fn plain(name: &str, bus: BusIx, unit_id: u8) -> Self {
        Self {
            name: name.to_owned(),
            bus: Some(bus),
            unit_id,
            tags: 0..0,
            max_registers_per_read: REGISTERS_PER_READ_MAX,
            delay_between_requests: Duration::ZERO,
        }
    }
}
