//! The state of a bus's tags: from a reading to samples, through meaning, limits and deadband.
//!
//! Fed by the bus, one call per block or failure. Owns what was last sent of each tag, and the scale factors that other tags
//! wait for; knows no wire and no channel. Promise: a value with a scale factor is worked out only with a factor from the
//! same reading, or with one that was read within its own period (twice, for jitter).

use std::collections::HashMap;
use std::time::Duration;

use super::modbus::decode::{Cut, Piece};
use super::modbus::session::Reading;
use crate::config::blocks::Block;
use crate::config::plan::{Limits, Plan, TagPlan};
use crate::model::quality::{Cause, Quality};
use crate::model::sample::Sample;
use crate::model::tag::TagIx;
use crate::model::time::Stamp;
use crate::model::value::Value;
use crate::pipeline::deadband::{Filter, Worth};
use crate::pipeline::limits;
use crate::pipeline::meaning::{Factor, Meaning};
use crate::pipeline::scale::Exponent;

/// The int16 of a scale factor that a device does not implement (SunSpec, `sunssf`).
const NOT_IMPLEMENTED: i128 = -0x8000;

/// A tag's place in [`Tags`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(usize);

/// All polled tags of one bus.
#[derive(Debug, Default)]
pub struct Tags {
    states: Vec<State>,
    slots: HashMap<TagIx, Slot>,
    /// By slot of the tag that holds it.
    factors: HashMap<Slot, Held>,
}

#[derive(Debug)]
struct State {
    tag: TagIx,
    meaning: Meaning,
    needs: Needs,
    limits: Limits,
    filter: Filter,
}

/// Where a tag's scale factor is held.
#[derive(Debug, Clone, Copy)]
enum Needs {
    Nothing,
    From(Slot),
    /// Of a tag that this bus does not poll.
    Unknown,
}

/// A scale factor as it was last read.
#[derive(Debug)]
struct Held {
    is: Result<Exponent, Cause>,
    at: Option<Stamp>,
    /// Older ones do not count.
    lasts: Duration,
}

impl Tags {
    /// The tags of these blocks.
    pub fn new(plan: &Plan, blocks: &[Block]) -> Self {
        let mut tags = Self::default();
        for ix in blocks.iter().flat_map(|block| &block.tags) {
            if let Some(tag) = plan.tags.get(ix.0 as usize) {
                tags.slots.insert(*ix, Slot(tags.states.len()));
                tags.states.push(State::new(*ix, tag));
            }
        }
        for state in &mut tags.states {
            let factor = plan.tags.get(state.tag.0 as usize).and_then(|tag| tag.scale_from);
            let Some(factor) = factor else { continue };
            state.needs = tags.slots.get(&factor).map_or(Needs::Unknown, |slot| Needs::From(*slot));
            if let (Needs::From(slot), Some(holder)) = (state.needs, plan.tags.get(factor.0 as usize)) {
                tags.factors.insert(slot, Held { is: Err(Cause::Starting), at: None, lasts: 2 * holder.poll });
            }
        }
        tags
    }

    /// Where the tags of a block lie in its readings.
    pub fn cuts(&self, plan: &Plan, block: &Block) -> Vec<(Slot, Cut)> {
        let cut = |ix: &TagIx| Some((*self.slots.get(ix)?, Cut::new(plan.tags.get(ix.0 as usize)?, block.start)?));
        block.tags.iter().filter_map(cut).collect()
    }

    /// The samples of a block that was read.
    pub fn read(&mut self, cuts: &[(Slot, Cut)], reading: &Reading, at: Stamp) -> Vec<Sample> {
        if !self.factors.is_empty() {
            self.note_factors(cuts, reading, at);
        }
        let mut samples = Vec::with_capacity(cuts.len());
        for (slot, cut) in cuts {
            if let Some(state) = self.states.get_mut(slot.0) {
                let (value, quality) = match factor(&self.factors, state.needs, at) {
                    Ok(factor) => state.judge(cut, reading, factor),
                    Err(cause) => (None, Quality::Bad(cause)),
                };
                samples.extend(state.offer(value, quality, at));
            }
        }
        samples
    }

    /// Scale factors first: the values beside them are worked out with these.
    fn note_factors(&mut self, cuts: &[(Slot, Cut)], reading: &Reading, at: Stamp) {
        for (slot, cut) in cuts {
            if let (Some(held), Some(state)) = (self.factors.get_mut(slot), self.states.get(slot.0)) {
                held.at = Some(at);
                held.is = match state.judge(cut, reading, Factor::None) {
                    (Some(value), _) => exponent(&value),
                    (None, quality) => Err(quality.cause().unwrap_or(Cause::Nan)),
                };
            }
        }
    }

    /// The samples of tags that have no value for this reason.
    pub fn bad(&mut self, slots: impl IntoIterator<Item = Slot>, cause: Cause, at: Stamp) -> Vec<Sample> {
        let mut samples = Vec::new();
        for slot in slots {
            if let Some(held) = self.factors.get_mut(&slot) {
                held.is = Err(cause);
            }
            if let Some(state) = self.states.get_mut(slot.0) {
                samples.extend(state.offer(None, Quality::Bad(cause), at));
            }
        }
        samples
    }
}

/// The scale factor in the value of a tag; why not.
pub fn exponent(value: &Value) -> Result<Exponent, Cause> {
    let why_not = if value.as_whole() == Some(NOT_IMPLEMENTED) { Cause::Nan } else { Cause::Config };
    Exponent::of(value).ok_or(why_not)
}

fn factor(factors: &HashMap<Slot, Held>, needs: Needs, at: Stamp) -> Result<Factor, Cause> {
    let slot = match needs {
        Needs::Nothing => return Ok(Factor::None),
        Needs::Unknown => return Err(Cause::Config),
        Needs::From(slot) => slot,
    };
    let held = factors.get(&slot).ok_or(Cause::Config)?;
    let exponent = held.is?;
    if held.at.is_none_or(|read| at.since(read) > held.lasts) {
        return Err(Cause::Stale);
    }
    Ok(Factor::Known(exponent))
}

impl State {
    fn new(ix: TagIx, tag: &TagPlan) -> Self {
        // Due at the reading nearest to it: one that comes a hair early would put it off by a whole period.
        let heartbeat = tag.heartbeat.map(|heartbeat| heartbeat.saturating_sub(tag.poll / 2));
        Self {
            tag: ix,
            meaning: Meaning::of(tag),
            needs: Needs::Nothing,
            limits: tag.limits,
            filter: Filter::new(tag.deadband, heartbeat),
        }
    }

    fn judge(&self, cut: &Cut, reading: &Reading, factor: Factor) -> (Option<Value>, Quality) {
        let meant = match cut.piece(reading) {
            Piece::Bit(on) => self.meaning.read_bit(on),
            Piece::Words(words) => self.meaning.read(words, factor),
            Piece::Missing => (None, Quality::Bad(Cause::Protocol)),
        };
        match meant {
            (Some(value), Quality::Good) => {
                let quality = limits::judge(self.limits, &value);
                (Some(value), quality)
            }
            doubtful => doubtful,
        }
    }

    fn offer(&mut self, value: Option<Value>, quality: Quality, at: Stamp) -> Option<Sample> {
        match self.filter.offer(value.as_ref(), quality, at) {
            Worth::Sample => Some(Sample { tag: self.tag, value, quality, at }),
            Worth::Nothing => None,
        }
    }
}
