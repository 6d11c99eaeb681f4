//! The state of a bus's tags: from a reading to samples and alarms, through scale, limits and what `pipeline::point` does.
//!
//! Fed by the bus, one call per block or failure. Owns what was last sent of each tag; knows no wire and no channel.

use std::collections::HashMap;
use std::time::Duration;

use super::modbus::decode::Cut;
use super::modbus::session::Reading;
use crate::config::blocks::Block;
use crate::config::plan::{Limits, Plan};
use crate::model::alarm::Level;
use crate::model::quality::{Cause, Quality};
use crate::model::registers::Unreadable;
use crate::model::tag::TagIx;
use crate::model::time::Stamp;
use crate::model::value::Value;
use crate::pipeline::limits;
use crate::pipeline::point::{Harvest, Point};
use crate::pipeline::scale::Scaling;

/// Silent tags are not looked for more often than this.
const LOOK_MIN: Duration = Duration::from_millis(50);

/// A tag's place in [`Tags`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(usize);

/// What a device said of one tag.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// Its raw value, or why it has none.
    pub raw: Result<Value, Cause>,
    /// How far the device itself trusts it; good where it says nothing.
    pub doubt: Quality,
}

/// All polled tags of one bus.
#[derive(Debug, Default)]
pub struct Tags {
    states: Vec<State>,
    slots: HashMap<TagIx, Slot>,
    shortest_stale: Option<Duration>,
}

#[derive(Debug)]
struct State {
    scaling: Scaling,
    limits: Limits,
    point: Point,
}

impl Tags {
    /// The tags of these blocks.
    pub fn new(plan: &Plan, blocks: &[Block]) -> Self {
        Self::of(plan, blocks.iter().flat_map(|block| &block.tags))
    }

    /// These tags.
    pub fn of<'a>(plan: &Plan, wanted: impl IntoIterator<Item = &'a TagIx>) -> Self {
        let mut tags = Self::default();
        for ix in wanted {
            if let Some(tag) = plan.tags.get(ix.0 as usize) {
                tags.slots.insert(*ix, Slot(tags.states.len()));
                tags.states.push(State {
                    scaling: Scaling::new(tag.scale),
                    limits: tag.limits,
                    point: Point::new(*ix, tag),
                });
                tags.shortest_stale = tag.freshness.stale_after.into_iter().chain(tags.shortest_stale).min();
            }
        }
        tags
    }

    /// Alarms that are active already, of these and of other tags.
    #[must_use]
    pub fn resuming(mut self, active: &[(TagIx, Level)]) -> Self {
        for (tag, level) in active {
            if let Some(state) = self.slots.get(tag).and_then(|slot| self.states.get_mut(slot.0)) {
                state.point.resume(*level);
            }
        }
        self
    }

    /// The place of a tag.
    pub fn slot(&self, tag: TagIx) -> Option<Slot> {
        self.slots.get(&tag).copied()
    }

    /// What comes of what a device said of one tag.
    pub fn offer(&mut self, slot: Slot, said: Said, at: Stamp, into: &mut Harvest) {
        let Some(state) = self.states.get_mut(slot.0) else { return };
        let (value, quality) = match said.raw {
            Ok(raw) => state.scaled(raw),
            Err(cause) => (None, Quality::Bad(cause)),
        };
        let quality = if quality == Quality::Good { said.doubt } else { quality };
        state.point.offer(value, quality, at, into);
    }

    /// Where the tags of a block lie in its readings.
    pub fn cuts(&self, plan: &Plan, block: &Block) -> Vec<(Slot, Cut)> {
        let cut = |ix: &TagIx| Some((*self.slots.get(ix)?, Cut::new(plan.tags.get(ix.0 as usize)?, block.start)?));
        block.tags.iter().filter_map(cut).collect()
    }

    /// What comes of a block that was read.
    pub fn read(&mut self, cuts: &[(Slot, Cut)], reading: &Reading, at: Stamp) -> Harvest {
        let mut harvest = Harvest { samples: Vec::with_capacity(cuts.len()), ..Harvest::default() };
        for (slot, cut) in cuts {
            if let Some(state) = self.states.get_mut(slot.0) {
                let (value, quality) = state.judge(cut, reading);
                state.point.offer(value, quality, at, &mut harvest);
            }
        }
        harvest
    }

    /// What comes of tags that have no value for this reason.
    pub fn bad(&mut self, slots: impl IntoIterator<Item = Slot>, cause: Cause, at: Stamp) -> Harvest {
        self.each(slots, |point, harvest| point.offer(None, Quality::Bad(cause), at, harvest))
    }

    /// Tags that have been silent for longer than they may.
    pub fn look(&mut self, slots: impl IntoIterator<Item = Slot>, at: Stamp) -> Harvest {
        self.each(slots, |point, harvest| point.look(at, harvest))
    }

    /// What swinging doors hold, before a stop.
    pub fn flush(&mut self, slots: impl IntoIterator<Item = Slot>) -> Harvest {
        self.each(slots, Point::flush)
    }

    /// How often somebody has to look for silent tags, if at all.
    pub fn look_every(&self) -> Option<Duration> {
        self.shortest_stale.map(|shortest| (shortest / 4).max(LOOK_MIN))
    }

    fn each(&mut self, slots: impl IntoIterator<Item = Slot>, act: impl Fn(&mut Point, &mut Harvest)) -> Harvest {
        let mut harvest = Harvest::default();
        for slot in slots {
            if let Some(state) = self.states.get_mut(slot.0) {
                act(&mut state.point, &mut harvest);
            }
        }
        harvest
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
        self.scaled(raw)
    }

    /// Scale and limits.
    fn scaled(&self, raw: Value) -> (Option<Value>, Quality) {
        match self.scaling.apply(raw) {
            Some(value) => {
                let quality = limits::judge(self.limits, &value);
                (Some(value), quality)
            }
            None => (None, Quality::Bad(Cause::Nan)),
        }
    }
}
