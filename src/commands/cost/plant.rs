//! A plant made up from a configuration, for `ironbridge cost`: its tags, blocks, periods and deadbands, with values that
//! move as [`ASSUMED`] says. Always the same for one configuration. Knows no format and no link.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::config::blocks;
use crate::config::plan::{Plan, Scale, TagPlan};
use crate::flow::clock::{Clock, FakeTime, Fix};
use crate::model::data_type;
use crate::model::number::{Class, Epoch, Number, Seq};
use crate::model::quality::Quality;
use crate::model::tag::{BusIx, DataType};
use crate::model::time::{Boot, Stamp};
use crate::model::value::Value;
use crate::pipeline::deadband::{Filter, Worth};
use crate::pipeline::scale::Scaling;
use crate::store::{DictionaryTag, Owed, OwedBody};

/// What is assumed of values, for people.
pub const ASSUMED: &str = "whole numbers of 16 bits with a scale or a unit move by a step or two in 3 of 10 readings, those \
     without change in 1 of 100, bits too; longer ones count 14 to 18 a reading; real numbers are those of a 14-bit converter \
     with noise in its last 3 bits; texts stay. Tags that are worked out from others move like those of their type, as often \
     as the fastest of them is read. What a swinging door (compression) would leave out is not played";

/// Readings that are played at most.
const READINGS_MAX: usize = 200_000;
/// A device takes so long from one block to the next; replies vary by [`JITTER_MICROS`].
const BETWEEN_MICROS: i64 = 45_000;
const JITTER_MICROS: i64 = 12_000;
/// The plant is played after this long, so that every deadband has a past.
const BEGIN_MICROS: i64 = 200_000_000_000;
const BOOT: Boot = Boot(1);
/// 2026-11-20T20:00:00Z; which time it is costs nothing.
const UNIX_MS: i64 = 1_795_204_800_000;

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Play {
    /// Values move, and every reading is a sample.
    Everything,
    /// Values move, and what passes the deadbands is a sample.
    Changes,
    /// Nothing moves: heartbeats, and tags without a deadband.
    Nothing,
}

/// What came of it.
pub struct Played {
    /// In the order of their numbers.
    pub records: Vec<Owed>,
    /// How long it took, seconds of the plant.
    pub seconds: f64,
}

/// The clock that the times of [`Played::records`] are meant for.
pub fn clock() -> Clock {
    let clock = Clock::new(Arc::new(FakeTime::default()), BOOT, 0);
    clock.learn(Fix { at: Stamp { boot: BOOT, micros: BEGIN_MICROS }, unix_ms: UNIX_MS });
    clock
}

/// Plays the tags of one class until there are so many records, or for so long.
pub fn play(plan: &Plan, class: Class, play: Play, records_max: usize, lasts: Duration) -> Played {
    let mut stage = Stage::new(plan, class, play);
    let end = BEGIN_MICROS.saturating_add(micros(lasts));
    let (mut readings, mut now) = (0, BEGIN_MICROS);
    while stage.records.len() < records_max && readings < READINGS_MAX {
        let Some(Reverse((due, block))) = stage.due.pop() else { break };
        now = due;
        if due > end {
            break;
        }
        readings += stage.read(block, due);
        stage.due.push(Reverse((due + stage.blocks[block].period, block)));
    }
    #[expect(clippy::cast_precision_loss, reason = "days at most")]
    let seconds = (now - BEGIN_MICROS).max(1) as f64 / 1e6;
    Played { records: stage.records, seconds }
}

/// How long a play must last for its slowest tag to be seen, and the longest heartbeat.
pub fn slowest(plan: &Plan, class: Class) -> Duration {
    let of = |tag: &TagPlan| tag.poll.max(tag.heartbeat.unwrap_or_default());
    plan.tags.iter().filter(|tag| tag.class == class).map(of).max().unwrap_or_default()
}

struct Stage {
    class: Class,
    play: Play,
    blocks: Vec<Block>,
    /// By time: which block.
    due: BinaryHeap<Reverse<(i64, usize)>>,
    dice: StdRng,
    records: Vec<Owed>,
}

struct Block {
    period: i64,
    tags: Vec<Source>,
}

/// A tag that makes its own values.
struct Source {
    tag: Arc<DictionaryTag>,
    kind: Kind,
    scaling: Scaling,
    span: (f64, f64),
    state: i64,
    filter: Filter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bit,
    State,
    Analog,
    Counter,
    Converter,
    Text,
}

impl Stage {
    fn new(plan: &Plan, class: Class, play: Play) -> Self {
        let mut stage = Self {
            class,
            play,
            blocks: Vec::new(),
            due: BinaryHeap::new(),
            dice: StdRng::seed_from_u64(7),
            records: Vec::new(),
        };
        let mut places: HashMap<u32, i64> = HashMap::new();
        stage.instruments(plan);
        stage.derived(plan);
        for bus in (0u32..).zip(&plan.buses).map(|(ix, _)| BusIx(ix)) {
            for block in blocks::plan_blocks(plan, bus) {
                let tags = block.tags.iter().map(|ix| (ix.0, &plan[*ix]));
                let tags = tags.filter(|(_, tag)| tag.class == class && tag.access.reads());
                let mut tags: Vec<Source> = tags.map(|(ix, tag)| Source::new(plan, ix, tag, &mut stage.dice)).collect();
                tags.sort_by(|one, other| one.tag.name.cmp(&other.tag.name)); // as the bus numbers them
                if tags.is_empty() {
                    continue;
                }
                let place = places.entry(bus.0).or_default();
                let period = micros(block.period).max(1);
                let first = BEGIN_MICROS + (*place * BETWEEN_MICROS) % period;
                *place += 1;
                stage.due.push(Reverse((first, stage.blocks.len())));
                stage.blocks.push(Block { period, tags });
            }
        }
        stage
    }

    /// What instruments on buses of type line say: a block each.
    fn instruments(&mut self, plan: &Plan) {
        for device in plan.devices.iter().filter(|device| device.talk.is_some()) {
            let tags = (0u32..).zip(&plan.tags).skip(device.tags.start).take(device.tags.len());
            let own = tags.filter(|(_, tag)| tag.class == self.class && tag.is_of_device());
            let mut tags: Vec<Source> = own.map(|(ix, tag)| Source::new(plan, ix, tag, &mut self.dice)).collect();
            tags.sort_by(|one, other| one.tag.name.cmp(&other.tag.name));
            if let Some(period) = plan.tags[device.tags.clone()].iter().map(|tag| micros(tag.poll).max(1)).min()
                && !tags.is_empty()
            {
                self.due.push(Reverse((BEGIN_MICROS, self.blocks.len())));
                self.blocks.push(Block { period, tags });
            }
        }
    }

    /// What is worked out from other tags has no block on a bus: each has its own time.
    fn derived(&mut self, plan: &Plan) {
        let own = (0u32..).zip(&plan.tags).filter(|(_, tag)| tag.class == self.class && !tag.is_of_device());
        for (ix, tag) in own {
            self.due.push(Reverse((BEGIN_MICROS, self.blocks.len())));
            let tags = vec![Source::new(plan, ix, tag, &mut self.dice)];
            self.blocks.push(Block { period: micros(tag.poll).max(1), tags });
        }
    }

    /// Reads a block; how many readings that were.
    fn read(&mut self, block: usize, due: i64) -> usize {
        let at = Stamp { boot: BOOT, micros: due + self.dice.random_range(0..JITTER_MICROS) };
        let Some(block) = self.blocks.get_mut(block) else { return 0 };
        for source in &mut block.tags {
            if self.play != Play::Nothing {
                source.advance(&mut self.dice);
            }
            let value = source.value();
            let worth = source.filter.offer(Some(&value), Quality::Good, at);
            if self.play == Play::Everything || worth == Worth::Sample {
                let seq = Seq(self.records.len() as u64 + 1);
                let number = Number { stream: self.class, epoch: Epoch(5_123_456_789_012_345), seq };
                let tag = Arc::clone(&source.tag);
                let body = OwedBody::Sample { tag, value: Some(value), quality: Quality::Good };
                self.records.push(Owed { number, previous: None, body, at });
            }
        }
        block.tags.len()
    }
}

impl Source {
    fn new(plan: &Plan, ix: u32, tag: &TagPlan, dice: &mut StdRng) -> Self {
        let device = plan.device(tag.device).map_or_else(String::new, |device| device.name.clone());
        let known = DictionaryTag {
            id: ix + 1,
            device,
            name: tag.name.clone(),
            topic: tag.topic.to_string(),
            data_type: tag.data_type,
        };
        let (low, high) = (tag.limits.min.unwrap_or(-32.0), tag.limits.max.unwrap_or(128.0));
        let mut source = Self {
            tag: Arc::new(known),
            kind: kind(tag),
            scaling: Scaling::new(tag.scale),
            span: if low < high { (low, high) } else { (-32.0, 128.0) },
            state: 0,
            filter: Filter::new(tag.deadband, tag.heartbeat),
        };
        source.state = match source.kind {
            Kind::Bit | Kind::Text => 0,
            Kind::State => dice.random_range(0..6),
            Kind::Analog => dice.random_range(1000..9000),
            Kind::Counter => dice.random_range(1_000_000..9_000_000),
            Kind::Converter => dice.random_range(4000..12_000),
        };
        // Heartbeats of a plant that has run for a while are spread.
        let since = tag.heartbeat.map_or(0, |heartbeat| dice.random_range(0..=micros(heartbeat)));
        source.filter.offer(Some(&source.value()), Quality::Good, Stamp { boot: BOOT, micros: BEGIN_MICROS - since });
        source
    }

    fn advance(&mut self, dice: &mut StdRng) {
        match self.kind {
            Kind::Bit if dice.random_bool(0.01) => self.state = 1 - self.state,
            Kind::State if dice.random_bool(0.01) => self.state = dice.random_range(0..6),
            Kind::Analog if dice.random_bool(0.3) => self.state += dice.random_range(-2..=2),
            Kind::Counter => self.state += dice.random_range(14..=18),
            Kind::Converter => {
                // the last three bits are noise, the others drift
                let drift = (self.state >> 3) * 8 + dice.random_range(-3..=3);
                self.state = drift.clamp(8, 16_368) + dice.random_range(0..8);
            }
            Kind::Bit | Kind::State | Kind::Analog | Kind::Text => {}
        }
    }

    fn value(&self) -> Value {
        let raw = match self.kind {
            Kind::Bit => return Value::Bool(self.state == 1),
            Kind::Text => return Value::Text("as it was".into()),
            Kind::Converter => {
                #[expect(clippy::cast_precision_loss, reason = "14 bits")]
                let part = self.state as f64 / 16_384.0;
                let real = self.span.0 + part * (self.span.1 - self.span.0);
                #[expect(clippy::cast_possible_truncation, reason = "a float32 is what is on the wire")]
                let real = if self.tag.data_type == DataType::Float32 { f64::from(real as f32) } else { real };
                Value::Float(real)
            }
            Kind::State | Kind::Analog | Kind::Counter => Value::Int(self.state),
        };
        self.scaling.apply(raw.clone()).unwrap_or(raw)
    }
}

fn kind(tag: &TagPlan) -> Kind {
    let plain = tag.scale == Scale::IDENTITY;
    match tag.data_type {
        DataType::Bool => Kind::Bit,
        _ if tag.kind() == data_type::Kind::Text => Kind::Text,
        DataType::Float32 | DataType::Float64 => Kind::Converter,
        DataType::Int16 | DataType::Uint16 if plain && tag.unit.is_empty() => Kind::State,
        DataType::Int32 | DataType::Uint32 | DataType::Int64 | DataType::Uint64 if plain => Kind::Counter,
        _ => Kind::Analog,
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}
