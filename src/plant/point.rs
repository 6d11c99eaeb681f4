//! One tag of a living unit: how its engineering value lies in the image, and which values it ever had.
//!
//! Fed by `life`. Written and read with the same meaning that a gateway gives the words.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::plan::{Limits, Scale, TagPlan};
use crate::model::data_type::Kind;
use crate::model::registers::Form;
use crate::model::tag::{Address, DataType};
use crate::model::value::Value;
use crate::pipeline::meaning::{Factor, Meaning};

use super::image::Image;
use super::waves::Wave;

/// Remembered values per tag; the smallest goes first. Waves move on a grid of some 400 values, so that only counters
/// and clocks come near this, after a day.
const REMEMBERED_MAX: usize = 100_000;

/// What a simulated scale factor holds: everything beside it has one digit after the point.
pub const SCALE_FACTOR: i64 = -1;

/// One tag in the image of its unit.
#[derive(Debug)]
pub struct Point {
    address: Address,
    data_type: DataType,
    wire_bit: Option<u8>,
    meaning: Meaning,
    /// The point that holds its scale factor.
    pub factor: Option<usize>,
    /// How it moves.
    pub motion: Motion,
    /// Its first value.
    pub initial: Value,
    held: Held,
    /// What its registers hold when there is no value.
    sentinel: Option<Vec<u16>>,
}

/// How a value moves.
#[derive(Debug)]
pub enum Motion {
    /// By itself.
    Wave(Wave),
    /// It holds what was written.
    Written,
    /// Runs after another point.
    Follows {
        /// That one.
        source: usize,
        /// Aim per source.
        gain: f64,
        /// Largest change per second.
        rate: f64,
        /// Where it is.
        now: f64,
    },
}

/// Every value a tag has ever held. Numbers as bits that sort like the numbers.
#[derive(Debug, Default)]
struct Held {
    numbers: BTreeSet<i64>,
    texts: BTreeSet<Box<str>>,
}

impl Point {
    /// Of a tag at a place on the wire.
    pub fn of(tag: &TagPlan, address: Address) -> Self {
        // With a scale factor beside it the raw value is of another size.
        let factor = if tag.scale_from.is_some() { tag.scale.factor / 10.0 } else { tag.scale.factor };
        let moving = TagPlan { scale: Scale { factor, ..tag.scale }, ..tag.clone() };
        let (motion, initial) = if tag.access.writes() {
            let limits =
                Limits { min: tag.write.limits.min.or(tag.limits.min), max: tag.write.limits.max.or(tag.limits.max) };
            (Motion::Written, Wave::of(&TagPlan { limits, ..moving }).at(Duration::ZERO))
        } else {
            let wave = Wave::of(&moving);
            let initial = wave.at(Duration::ZERO);
            (Motion::Wave(wave), initial)
        };
        Self {
            address,
            data_type: tag.data_type,
            wire_bit: address.bit.map(|bit| tag.order.wire_bit(bit)),
            meaning: Meaning::of(tag),
            factor: None,
            motion,
            initial,
            held: Held::default(),
            sentinel: sentinel(tag),
        }
    }

    /// It holds a scale factor of others.
    pub fn becomes_scale_factor(&mut self) {
        self.always_is(Value::Int(SCALE_FACTOR));
    }

    /// It has this value and does not move by itself.
    pub fn always_is(&mut self, value: Value) {
        (self.motion, self.initial) = (Motion::Written, value);
    }

    /// Is its value a switch?
    pub fn is_switch(&self) -> bool {
        self.data_type.kind() == Kind::Bool
    }

    /// Writes an engineering value into the image, as the device itself would hold it. A value that it cannot hold changes
    /// nothing, but the place exists afterwards.
    pub fn put(&self, image: &mut Image, factor: Factor, value: &Value) {
        let Address { table, start, .. } = self.address;
        if self.data_type == DataType::Bool {
            let on = self.meaning.write_bit(value).unwrap_or(false);
            return image.set_bit(table, start, self.wire_bit, on);
        }
        let count = self.data_type.registers();
        let there = image.words(table, start, count);
        let written = match value {
            // Waves know nothing of steps.
            Value::Float(number) if self.data_type.is_integer() => {
                self.meaning.write(value, factor).or_else(|_| self.meaning.write(&Value::Float(number.round()), factor))
            }
            value => self.meaning.write(value, factor),
        };
        let mut words = match (written, &there) {
            (Ok(words), _) => words,
            (Err(_), Ok(_)) => return,
            (Err(_), Err(_)) => vec![0; count.into()],
        };
        if let (Some(mask), Ok(there)) = (self.meaning.form().mask_words(), there) {
            words = words.iter().zip(mask).zip(there).map(|((word, mask), there)| there & !mask | word).collect();
        }
        image.set_words(table, start, &words);
    }

    /// Writes its sentinel into the image, or NaN; changes nothing where there is neither.
    pub fn blank(&self, image: &mut Image) {
        if let Some(words) = &self.sentinel {
            image.set_words(self.address.table, self.address.start, words);
        }
    }

    /// Reads the engineering value back, exactly as a gateway would.
    pub fn get(&self, image: &Image, factor: Factor) -> Option<Value> {
        let Address { table, start, .. } = self.address;
        if table.is_bits() {
            let on = *image.bits(table, start, 1).ok()?.first()?;
            return self.meaning.read_bit(on).0;
        }
        let words = image.words(table, start, self.data_type.registers()).ok()?;
        match self.wire_bit {
            Some(bit) => self.meaning.read_bit(words.first()? >> bit & 1 == 1).0,
            None => self.meaning.read(&words, factor).0,
        }
    }

    /// Remembers a value.
    pub fn witness(&mut self, value: Value) {
        self.held.add(value);
    }

    /// Did it ever hold this value, as far as floating point can tell?
    pub fn held(&self, value: &Value) -> bool {
        match value {
            Value::Text(text) => self.held.texts.contains(text),
            number => number.as_f64().is_some_and(|number| self.held.has(number)),
        }
    }
}

/// What the registers of a tag hold when there is no value.
fn sentinel(tag: &TagPlan) -> Option<Vec<u16>> {
    let not_a_number = match tag.data_type {
        DataType::Float32 => Some(0x7FC0_0000),
        DataType::Float64 => Some(0x7FF8_0000_0000_0000),
        _ => None,
    };
    let raw = tag.nan.first().copied().or(not_a_number)?;
    let bits = match tag.data_type.registers() {
        1 => DataType::Uint16,
        2 => DataType::Uint32,
        4 => DataType::Uint64,
        _ => return None,
    };
    Form::plain(bits, tag.order).write(&Value::Uint(raw)).ok()
}

impl Held {
    fn add(&mut self, value: Value) {
        match value {
            Value::Text(text) => _ = self.texts.insert(text),
            number => _ = number.as_f64().map(|number| self.numbers.insert(sortable(number))),
        }
        while self.numbers.len() > REMEMBERED_MAX && self.numbers.pop_first().is_some() {}
        while self.texts.len() > REMEMBERED_MAX && self.texts.pop_first().is_some() {}
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
