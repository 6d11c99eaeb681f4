//! `[[device]]` of the plan.

use std::ops::Range;

use super::habits::{Grouping, Manners, Territory};
use super::line::TalkPlan;
use crate::config::blocks::{BITS_PER_READ_MAX, REGISTERS_PER_READ_MAX};
use crate::model::tag::BusIx;

/// `[[device]]`
#[derive(Debug, Clone, PartialEq)]
pub struct DevicePlan {
    /// Unique.
    pub name: String,
    /// Its bus; `None`: it is not asked at all, all its tags are expressions.
    pub bus: Option<BusIx>,
    /// 0 ..= 255 on TCP (0 and 255 are "the device itself"), 1 ..= 247 on a serial line.
    pub unit_id: u8,
    /// Its tags in [`Plan::tags`].
    ///
    /// [`Plan::tags`]: super::Plan::tags
    pub tags: Range<usize>,
    /// Longest read, registers: 1 ..= 125.
    pub max_registers_per_read: u16,
    /// Longest read, coils or discrete inputs: 1 ..= 2000.
    pub max_bits_per_read: u16,
    /// Largest hole that is read over, registers (16 times as many bits); `None`: what is quickest on its bus.
    pub max_gap: Option<u16>,
    /// How its tags become reads.
    pub grouping: Grouping,
    /// What may be read at all.
    pub territory: Territory,
    /// How it wants to be asked.
    pub manners: Manners,
    /// What it is asked and says, on a bus of type `line`.
    pub talk: Option<TalkPlan>,
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
            max_bits_per_read: BITS_PER_READ_MAX,
            max_gap: None,
            grouping: Grouping::default(),
            territory: Territory::default(),
            manners: Manners::default(),
            talk: None,
        }
    }
}
