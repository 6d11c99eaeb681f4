//! The state of a bus's tags: from a reading to samples, through scale, limits and deadband.
//!
//! Fed by the bus, one call per block or failure. Owns what was last sent of each tag; knows no wire and no channel.

use std::collections::HashMap;

use super::modbus::decode::Cut;
use super::modbus::session::Reading;
use crate::config::blocks::Block;
use crate::config::plan::{Limits, Plan};
use crate::model::quality::{Cause, Quality};
use crate::model::registers::Unreadable;
use crate::model::sample::Sample;
use crate::model::tag::TagIx;
use crate::model::time::Stamp;
use crate::model::value::Value;
use crate::pipeline::deadband::{Filter, Worth};
use crate::pipeline::limits;
use crate::pipeline::scale::Scaling;

/// A tag's place in [`Tags`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(usize);

/// All polled tags of one bus.
#[derive(Debug, Default)]
pub struct Tags {
    states: Vec<State>,
    slots: HashMap<TagIx, Slot>,
}

#[derive(Debug)]
struct State {
    tag: TagIx,
    scaling: Scaling,
    limits: Limits,
    filter: Filter,
}

impl Tags {
    /// The tags of these blocks.
    pub fn new(plan: &Plan, blocks: &[Block]) -> Self {
        let mut tags = Self::default();
        for ix in blocks.iter().flat_map(|block| &block.tags) {
            if let Some(tag) = plan.tags.get(ix.0 as usize) {
                tags.slots.insert(*ix, Slot(tags.states.len()));
                // Due at the reading nearest to it: one that comes a hair early would put it off by a whole period.
                let heartbeat = tag.heartbeat.map(|heartbeat| heartbeat.saturating_sub(tag.poll / 2));
                tags.states.push(State {
                    tag: *ix,
                    scaling: Scaling::new(tag.scale),
                    limits: tag.limits,
                    filter: Filter::new(tag.deadband, heartbeat),
                });
            }
        }
        tags
    }

    /// A tag's place, if it is polled.
    pub fn slot(&self, tag: TagIx) -> Option<Slot> {
        self.slots.get(&tag).copied()
    }

    /// Where the tags of a block lie in its readings.
    pub fn cuts(&self, plan: &Plan, block: &Block) -> Vec<(Slot, Cut)> {
        let cut = |ix: &TagIx| Some((*self.slots.get(ix)?, Cut::new(plan.tags.get(ix.0 as usize)?, block.start)?));
        block.tags.iter().filter_map(cut).collect()
    }

    /// The samples of a block that was read.
    pub fn read(&mut self, cuts: &[(Slot, Cut)], reading: &Reading, at: Stamp) -> Vec<Sample> {
        let mut samples = Vec::with_capacity(cuts.len());
        for (slot, cut) in cuts {
            if let Some(state) = self.states.get_mut(slot.0) {
                let (value, quality) = state.judge(cut, reading);
                samples.extend(state.offer(value, quality, at));
            }
        }
        samples
    }

    /// The samples of tags that have no value for this reason.
    pub fn bad(&mut self, slots: impl IntoIterator<Item = Slot>, cause: Cause, at: Stamp) -> Vec<Sample> {
        let mut samples = Vec::new();
        for slot in slots {
            if let Some(state) = self.states.get_mut(slot.0) {
                samples.extend(state.offer(None, Quality::Bad(cause), at));
            }
        }
        samples
    }
}

impl State {
    fn judge(&self, cut: &Cut, reading: &Reading) -> (Option<Value>, Quality) {
        let raw = match cut.value(reading) {
            Ok(raw) => raw,
            Err(Unreadable::NotANumber) => return (None, Quality::Bad(Cause::Nan)),
            Err(Unreadable::NotText) => return (None, Quality::Bad(Cause::Config)),
            Err(Unreadable::TooShort) => return (None, Quality::Bad(Cause::Protocol)),
        };
        match self.scaling.apply(raw) {
            Some(value) => {
                let quality = limits::judge(self.limits, &value);
                (Some(value), quality)
            }
            None => (None, Quality::Bad(Cause::Nan)),
        }
    }

    fn offer(&mut self, value: Option<Value>, quality: Quality, at: Stamp) -> Option<Sample> {
        match self.filter.offer(value.as_ref(), quality, at) {
            Worth::Sample => Some(Sample { tag: self.tag, value, quality, at }),
            Worth::Nothing => None,
        }
    }
}
