//! The state of a bus's tags: from a reading to samples, through meaning, limits and deadband.
//!
//! Fed by the bus, one call per block or failure. Owns what was last sent of each tag, and the scale factors that other tags
//! wait for; knows no wire and no channel. Promise: a value with a scale factor is worked out only with a factor from the
//! same reading, or with one that was read in the last two rounds of its own block.

use std::collections::HashMap;
use std::time::Duration;

use super::modbus::decode::{Cut, Piece};
use super::modbus::session::Reading;
use crate::config::blocks::Block;
use crate::config::plan::{Limits, Plan, TagPlan};
use crate::model::alarm::Level;
use crate::model::quality::{Cause, Quality};
use crate::model::tag::TagIx;
use crate::model::time::Stamp;
use crate::model::value::Value;
use crate::pipeline::limits;
use crate::pipeline::meaning::{Factor, Meaning};
use crate::pipeline::point::{Harvest, Point};
use crate::pipeline::scale::Exponent;

/// The int16 of a scale factor that a device does not implement (SunSpec, `sunssf`).
const NOT_IMPLEMENTED: i128 = -0x8000;

/// Silent tags are not looked for more often than this.
const LOOK_MIN: Duration = Duration::from_millis(50);

/// A block may be late by a retry without its scale factors being old.
const RETRY_GRACE: Duration = Duration::from_secs(1);

/// A tag's place in [`Tags`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// By slot of the tag that holds it.
    factors: HashMap<Slot, Held>,
    shortest_stale: Option<Duration>,
}

#[derive(Debug)]
struct State {
    tag: TagIx,
    meaning: Meaning,
    needs: Needs,
    limits: Limits,
    point: Point,
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
    period: Duration,
    /// Time between its last two readings: a bus with more work than time has longer rounds than planned.
    round: Duration,
}

impl Held {
    fn note(&mut self, is: Result<Exponent, Cause>, at: Stamp) {
        self.round = self.at.map_or(self.period, |before| at.since(before).max(self.period));
        (self.is, self.at) = (is, Some(at));
    }

    fn is_old(&self, at: Stamp) -> bool {
        self.at.is_none_or(|read| at.since(read) > 2 * self.round + RETRY_GRACE)
    }
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
            if let Some(tag) = plan.tag(*ix) {
                tags.slots.insert(*ix, Slot(tags.states.len()));
                tags.states.push(State::new(*ix, tag));
                tags.shortest_stale = tag.freshness.stale_after.into_iter().chain(tags.shortest_stale).min();
            }
        }
        for state in &mut tags.states {
            let factor = plan.tag(state.tag).and_then(|tag| tag.scale_from);
            let Some(factor) = factor else { continue };
            state.needs = tags.slots.get(&factor).map_or(Needs::Unknown, |slot| Needs::From(*slot));
            if let (Needs::From(slot), Some(holder)) = (state.needs, plan.tag(factor)) {
                tags.factors
                    .insert(slot, Held { is: Err(Cause::Starting), at: None, period: holder.poll, round: holder.poll });
            }
        }
        tags
    }

    /// A tag's place, if it is polled.
    pub fn slot(&self, tag: TagIx) -> Option<Slot> {
        self.slots.get(&tag).copied()
    }

    /// The tags at these places.
    pub fn of_slots(&self, slots: &[Slot]) -> impl Iterator<Item = TagIx> {
        slots.iter().filter_map(|slot| Some(self.states.get(slot.0)?.tag))
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

    /// Goes on with what was known of the tags that stay, under an earlier plan in one arrangement with this one.
    #[must_use]
    pub fn taking_over(mut self, earlier: &mut Self, stays: impl Fn(TagIx) -> bool) -> Self {
        for (ix, slot) in self.slots.iter().filter(|(ix, _)| stays(**ix)) {
            let Some(old) = earlier.slots.get(ix) else { continue };
            if let (Some(now), Some(before)) = (self.states.get_mut(slot.0), earlier.states.get_mut(old.0)) {
                std::mem::swap(&mut now.point, &mut before.point);
            }
            if let (Some(now), Some(before)) = (self.factors.get_mut(slot), earlier.factors.remove(old)) {
                *now = before;
            }
        }
        self
    }

    /// What comes of what a device said of one tag.
    pub fn offer(&mut self, slot: Slot, said: Said, at: Stamp, into: &mut Harvest) {
        let Some(state) = self.states.get_mut(slot.0) else { return };
        let (value, quality) = match said.raw {
            Ok(raw) => state.limited(state.meaning.engineer(raw)),
            Err(cause) => (None, Quality::Bad(cause)),
        };
        let quality = if quality == Quality::Good { said.doubt } else { quality };
        state.point.offer(value, quality, at, into);
    }

    /// Where the tags of a block lie in its readings.
    pub fn cuts(&self, plan: &Plan, block: &Block) -> Vec<(Slot, Cut)> {
        let cut = |ix: &TagIx| Some((*self.slots.get(ix)?, Cut::new(plan.tag(*ix)?, block.start)?));
        block.tags.iter().filter_map(cut).collect()
    }

    /// What comes of a block that was read.
    pub fn read(&mut self, cuts: &[(Slot, Cut)], reading: &Reading, at: Stamp) -> Harvest {
        self.note_factors(cuts, reading, at);
        let mut harvest = Harvest { samples: Vec::with_capacity(cuts.len()), ..Harvest::default() };
        for (slot, cut) in cuts {
            if let Some(state) = self.states.get_mut(slot.0) {
                let (value, quality) = match factor(&self.factors, state.needs, at) {
                    Ok(factor) => state.judge(cut, reading, factor),
                    Err(cause) => (None, Quality::Bad(cause)),
                };
                state.point.offer(value, quality, at, &mut harvest);
            }
        }
        harvest
    }

    /// Learns the scale factors among these and makes samples of none. They come first: the values beside them are worked out
    /// with these.
    pub fn note_factors(&mut self, cuts: &[(Slot, Cut)], reading: &Reading, at: Stamp) {
        if self.factors.is_empty() {
            return;
        }
        for (slot, cut) in cuts {
            if let (Some(held), Some(state)) = (self.factors.get_mut(slot), self.states.get(slot.0)) {
                let is = match state.judge(cut, reading, Factor::None) {
                    (Some(value), _) => exponent(&value),
                    (None, quality) => Err(quality.cause().unwrap_or(Cause::Nan)),
                };
                held.note(is, at);
            }
        }
    }

    /// What comes of tags that have no value for this reason.
    pub fn bad(&mut self, slots: impl IntoIterator<Item = Slot> + Clone, cause: Cause, at: Stamp) -> Harvest {
        for slot in slots.clone() {
            if let Some(held) = self.factors.get_mut(&slot) {
                (held.is, held.at) = (Err(cause), None);
            }
        }
        self.each(slots, |point, harvest| point.offer(None, Quality::Bad(cause), at, harvest))
    }

    /// Tags that have been silent for longer than they may.
    pub fn look(&mut self, slots: impl IntoIterator<Item = Slot>, at: Stamp) -> Harvest {
        self.each(slots, |point, harvest| point.look(at, harvest))
    }

    /// When [`Tags::tick`] has something to tell, if nothing comes before.
    pub fn due(&self) -> Option<Stamp> {
        self.states.iter().filter_map(|state| state.point.due()).min()
    }

    /// Lets time pass over the last values, for instruments that speak of changes only.
    pub fn tick(&mut self, slots: impl IntoIterator<Item = Slot>, at: Stamp) -> Harvest {
        self.each(slots, |point, harvest| point.tick(at, harvest))
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
    if held.is_old(at) { Err(Cause::Stale) } else { Ok(Factor::Known(exponent)) }
}

impl State {
    fn new(ix: TagIx, tag: &TagPlan) -> Self {
        Self {
            tag: ix,
            meaning: Meaning::of(tag),
            needs: Needs::Nothing,
            limits: limits::of(tag),
            point: Point::new(ix, tag),
        }
    }

    fn judge(&self, cut: &Cut, reading: &Reading, factor: Factor) -> (Option<Value>, Quality) {
        let meant = match cut.piece(reading) {
            Piece::Bit(on) => self.meaning.read_bit(on),
            Piece::Words(words) => self.meaning.read(words, factor),
            // Answers of the wrong length never come this far: its SunSpec model ends before it.
            Piece::Missing => (None, Quality::Bad(Cause::Config)),
        };
        self.limited(meant)
    }

    fn limited(&self, meant: (Option<Value>, Quality)) -> (Option<Value>, Quality) {
        match meant {
            (Some(value), Quality::Good) => {
                let quality = limits::judge(self.limits, &value);
                (Some(value), quality)
            }
            doubtful => doubtful,
        }
    }
}
