//! A living unit: the tags of a device of a plan, kept moving in its image.
//!
//! Tags that may be written hold what was written last. A tag may follow another one (a pump's speed follows its set
//! point) at a limited rate. The room remembers which values each tag has ever held, so that a verifier can ask about
//! every value that arrived at the far end.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::config::plan::{DevicePlan, Limits, Plan, Scale, TagPlan};
use crate::model::registers::{decode, encode};
use crate::model::tag::{Address, DataType, Order};
use crate::model::value::Value;

use super::image::Image;
use super::waves::Wave;

/// Values are worked out at most this often; a burst of reads sees one moment.
const MOMENT: Duration = Duration::from_millis(20);

/// Remembered values per tag; the smallest goes first. Waves move on a grid of some 400 values, so that only counters
/// come near this, after a day.
const REMEMBERED_MAX: usize = 100_000;

/// One tag follows another of the same device: `target` moves towards `source * gain`, by at most `rate` per second.
#[derive(Debug, Clone, PartialEq)]
pub struct Follow {
    /// Name of the tag that is written.
    pub source: String,
    /// Name of the tag that reacts.
    pub target: String,
    /// Engineering target per engineering source.
    pub gain: f64,
    /// Largest change per second, engineering units of the target.
    pub rate: f64,
}

/// The moving tags of one unit: of one device, or of all that share its unit id.
#[derive(Debug, Default)]
pub struct Life {
    points: Vec<Point>,
    by_topic: HashMap<Arc<str>, usize>,
    last: Option<Duration>,
}

#[derive(Debug)]
struct Point {
    address: Address,
    data_type: DataType,
    order: Order,
    scale: Scale,
    motion: Motion,
    initial: Value,
    held: Held,
}

#[derive(Debug)]
enum Motion {
    /// Moves by itself.
    Wave(Wave),
    /// Holds what was written.
    Written,
    /// Runs after another point.
    Follows { source: usize, gain: f64, rate: f64, now: f64 },
}

/// Every value a tag has ever held. Numbers as bits that sort like the numbers.
#[derive(Debug, Default)]
struct Held {
    numbers: BTreeSet<i64>,
    texts: BTreeSet<Box<str>>,
}

impl Life {
    /// Adds the tags of a device of the plan. `follows` that name no tag of the device are without effect.
    pub fn add(&mut self, plan: &Plan, device: &DevicePlan, follows: &[Follow]) {
        let mut by_name = HashMap::new();
        for tag in plan.tags.get(device.tags.clone()).unwrap_or_default() {
            let Some(address) = tag.register() else { continue }; // not the device's own
            by_name.insert(tag.name.as_str(), self.points.len());
            self.by_topic.insert(Arc::clone(&tag.topic), self.points.len());
            self.points.push(Point::of(tag, address));
        }
        for follow in follows {
            let Some(source) = by_name.get(follow.source.as_str()) else { continue };
            let Some(target) = by_name.get(follow.target.as_str()) else { continue };
            let now = self.points[*source].initial.as_f64().unwrap_or(0.0) * follow.gain;
            self.points[*target].motion =
                Motion::Follows { source: *source, gain: follow.gain, rate: follow.rate, now };
        }
    }

    /// Maps every tag at its first value.
    pub(super) fn begin(&self, image: &mut Image) {
        for point in &self.points {
            point.put(image, &point.initial);
        }
    }

    /// Moves the image to a moment after start.
    pub(super) fn advance(&mut self, image: &mut Image, since_start: Duration) {
        let passed = since_start.saturating_sub(self.last.unwrap_or_default());
        if self.last.is_some() && passed < MOMENT {
            return;
        }
        self.last = Some(since_start);
        for at in 0..self.points.len() {
            let value = match &self.points[at].motion {
                Motion::Written => continue,
                Motion::Wave(wave) => wave.at(since_start),
                Motion::Follows { source, gain, rate, now } => {
                    let aim = self.points[*source].get(image).and_then(|value| value.as_f64()).unwrap_or(0.0) * gain;
                    let reach = rate * passed.as_secs_f64();
                    Value::Float(now + (aim - now).clamp(-reach, reach))
                }
            };
            let point = &mut self.points[at];
            match (&mut point.motion, value.as_f64()) {
                (Motion::Follows { now, .. }, Some(moved)) => {
                    *now = moved;
                    let is_switch = point.data_type == DataType::Bool;
                    point.put(image, &if is_switch { Value::Bool(moved > 0.5) } else { value });
                }
                _ => point.put(image, &value),
            }
        }
        self.witness(image);
    }

    /// Remembers what every tag holds now.
    pub(super) fn witness(&mut self, image: &Image) {
        for point in &mut self.points {
            if let Some(value) = point.get(image) {
                point.held.add(value);
            }
        }
    }

    /// Did the tag with this local topic ever hold this engineering value, as far as floating point can tell?
    /// `None`: no tag here has this topic.
    pub fn held(&self, topic: &str, value: &Value) -> Option<bool> {
        let point = &self.points[*self.by_topic.get(topic)?];
        Some(match value {
            Value::Text(text) => point.held.texts.contains(text),
            number => number.as_f64().is_some_and(|number| point.held.has(number)),
        })
    }
}

impl Point {
    fn of(tag: &TagPlan, address: Address) -> Self {
        let (motion, initial) = if tag.access.writes() {
            let limits =
                Limits { min: tag.write.limits.min.or(tag.limits.min), max: tag.write.limits.max.or(tag.limits.max) };
            (Motion::Written, Wave::of(&TagPlan { limits, ..tag.clone() }).at(Duration::ZERO))
        } else {
            let wave = Wave::of(tag);
            let initial = wave.at(Duration::ZERO);
            (Motion::Wave(wave), initial)
        };
        Self {
            address,
            data_type: tag.data_type,
            order: tag.order,
            scale: tag.scale,
            motion,
            initial,
            held: Held::default(),
        }
    }

    /// Writes an engineering value into the image, as the device itself would hold it.
    fn put(&self, image: &mut Image, value: &Value) {
        let Address { table, start, bit } = self.address;
        match value {
            Value::Bool(on) if table.is_bits() || bit.is_some() => image.set_bit(table, start, bit, *on),
            value => {
                if let Ok(words) = encode(&self.raw(value), self.data_type, self.order) {
                    image.set_words(table, start, &words);
                }
            }
        }
    }

    /// Reads the engineering value back, exactly as a gateway would.
    fn get(&self, image: &Image) -> Option<Value> {
        let Address { table, start, bit } = self.address;
        if table.is_bits() {
            return image.bits(table, start, 1).ok().map(|bits| Value::Bool(bits[0]));
        }
        let words = image.words(table, start, self.data_type.registers()).ok()?;
        if let Some(bit) = bit {
            return Some(Value::Bool(words[0] >> bit & 1 == 1));
        }
        let raw = decode(&words, self.data_type, self.order).ok()?;
        match raw.as_f64() {
            Some(number) if self.scale != Scale::IDENTITY && self.data_type.is_number() => {
                Some(Value::Float(number * self.scale.factor + self.scale.offset))
            }
            _ => Some(raw),
        }
    }

    /// Engineering to raw: the inverse scale, rounded for whole numbers.
    fn raw(&self, value: &Value) -> Value {
        match value {
            Value::Float(number) if self.scale != Scale::IDENTITY => {
                self.whole((number - self.scale.offset) / self.scale.factor)
            }
            Value::Float(number) => self.whole(*number),
            other => other.clone(),
        }
    }

    fn whole(&self, number: f64) -> Value {
        Value::Float(if self.data_type.is_integer() { number.round() } else { number })
    }
}

impl Held {
    fn add(&mut self, value: Value) {
        match value {
            Value::Text(text) => _ = self.texts.insert(text),
            number => _ = number.as_f64().map(|number| self.numbers.insert(sortable(number))),
        }
        while self.numbers.len() + self.texts.len() > REMEMBERED_MAX && self.numbers.pop_first().is_some() {}
    }

    /// The last bits may differ: a sum may be rounded once more or less on the way.
    fn has(&self, number: f64) -> bool {
        let slack = number.abs() * 1e-12;
        let near: RangeInclusive<i64> = sortable(number - slack)..=sortable(number + slack);
        self.numbers.range(near).next().is_some()
    }
}

/// The bits of a number as an integer that sorts like it (IEEE 754 total order).
fn sortable(number: f64) -> i64 {
    let bits = number.to_bits().cast_signed();
    let number_bits = if number == 0.0 { 0 } else { bits };
    number_bits ^ (((number_bits >> 63).cast_unsigned()) >> 1).cast_signed()
}
