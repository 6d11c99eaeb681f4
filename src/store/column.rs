//! The cells of a segment's columns: qualities as runs, values as deltas. The format stands in [`super::segment`].
//!
//! Real numbers that are decimals with few digits (as scaled registers are) become whole numbers, but only where the way
//! back gives the very same bits.

use crate::model::quality::Quality;
use crate::model::value::Value;
use crate::payload::runs::{self, Runs};

const NONE: u32 = 0;
const BOOL: u32 = 1;
const INT: u32 = 2;
const UINT: u32 = 3;
const SINGLE: u32 = 4;
const DOUBLE: u32 = 5;
const TEXT: u32 = 6;
const DIVIDED: u32 = 16;
const MULTIPLIED: u32 = 32;

const POWERS: [f64; 7] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6];
const FRACTIONS: [f64; 7] = [1.0, 0.1, 0.01, 0.001, 0.000_1, 0.000_01, 0.000_001];
/// Whole numbers up to here are exact in an f64.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Fields 5 to 10 of the format.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Cells {
    #[prost(uint32, repeated, tag = "5")]
    qualities: Vec<u32>,
    #[prost(uint32, repeated, tag = "6")]
    kinds: Vec<u32>,
    #[prost(sint64, repeated, tag = "7")]
    numbers: Vec<i64>,
    #[prost(fixed32, repeated, tag = "8")]
    singles: Vec<u32>,
    #[prost(fixed64, repeated, tag = "9")]
    doubles: Vec<u64>,
    #[prost(string, repeated, tag = "10")]
    texts: Vec<String>,
}

impl Cells {
    /// Appends one column.
    pub(super) fn push(&mut self, samples: &[(Option<&Value>, Quality)]) {
        let float = kind_of_floats(samples);
        let mut before = 0i64;
        for (value, quality) in samples {
            runs::push(&mut self.qualities, u32::from(quality.code()));
            let (kind, number) = match value {
                None => (NONE, None),
                Some(Value::Bool(bit)) => (BOOL, Some(i64::from(*bit))),
                Some(Value::Int(number)) => (INT, Some(*number)),
                Some(Value::Uint(number)) => (UINT, Some(number.cast_signed())),
                Some(Value::Float(number)) if float >= DIVIDED => (float, whole(*number, float)),
                Some(Value::Float(number)) if float == SINGLE => {
                    self.singles.push(narrow(*number).to_bits());
                    (SINGLE, None)
                }
                Some(Value::Float(number)) => {
                    self.doubles.push(number.to_bits());
                    (DOUBLE, None)
                }
                Some(Value::Text(text)) => {
                    self.texts.push(text.to_string());
                    (TEXT, None)
                }
            };
            runs::push(&mut self.kinds, kind);
            if let Some(number) = number {
                self.numbers.push(number.wrapping_sub(before));
                before = number;
            }
        }
    }
}

/// The cheapest kind that gives every real number of the column back bit by bit.
fn kind_of_floats(samples: &[(Option<&Value>, Quality)]) -> u32 {
    let numbers = || {
        samples.iter().filter_map(|(value, _)| match value {
            Some(Value::Float(number)) => Some(*number),
            _ => None,
        })
    };
    (0..7)
        .flat_map(|digits| [DIVIDED + digits, MULTIPLIED + digits])
        .find(|kind| numbers().all(|number| whole(number, *kind).is_some()))
        .unwrap_or_else(|| {
            let fits = numbers().all(|number| f64::from(narrow(number)).to_bits() == number.to_bits());
            if fits { SINGLE } else { DOUBLE }
        })
}

#[expect(clippy::cast_possible_truncation, reason = "whether anything was cut off is checked by the way back")]
fn narrow(number: f64) -> f32 {
    number as f32
}

/// The whole number that stands for this decimal, if the way back gives the same bits.
#[expect(clippy::cast_possible_truncation, reason = "below 2^53 and rounded: nothing is cut off")]
fn whole(number: f64, kind: u32) -> Option<i64> {
    let digits = (kind & 15) as usize;
    let rounded = (number * POWERS.get(digits)?).round();
    if rounded.abs() > EXACT_MAX {
        return None;
    }
    let back = decimal(rounded as i64, kind)?;
    (back.to_bits() == number.to_bits()).then_some(rounded as i64)
}

#[expect(clippy::cast_precision_loss, reason = "at most 2^53 when written; anything else is refused by the CRC")]
fn decimal(whole: i64, kind: u32) -> Option<f64> {
    let digits = (kind & 15) as usize;
    match kind & !15 {
        DIVIDED => Some(whole as f64 / POWERS.get(digits)?),
        MULTIPLIED => Some(whole as f64 * FRACTIONS.get(digits)?),
        _ => None,
    }
}

/// All cells, tag-major; `None` when the arrays do not fit together.
pub(super) fn restore(cells: &Cells, counts: &[usize]) -> Option<Vec<(Option<Value>, Option<Quality>)>> {
    let (mut qualities, mut kinds) = (Runs::new(&cells.qualities), Runs::new(&cells.kinds));
    let mut numbers = cells.numbers.iter();
    let (mut singles, mut doubles) = (cells.singles.iter(), cells.doubles.iter());
    let mut texts = cells.texts.iter();
    let mut all = Vec::new();
    for count in counts {
        let mut before = 0i64;
        for _ in 0..*count {
            let quality = Quality::from_code(u8::try_from(qualities.next()?).ok()?)?;
            let kind = kinds.next()?;
            let mut number = || {
                before = before.wrapping_add(*numbers.next()?);
                Some(before)
            };
            let value = match kind {
                NONE => None,
                BOOL => Some(Value::Bool(number()? != 0)),
                INT => Some(Value::Int(number()?)),
                UINT => Some(Value::Uint(number()?.cast_unsigned())),
                SINGLE => Some(Value::Float(f64::from(f32::from_bits(*singles.next()?)))),
                DOUBLE => Some(Value::Float(f64::from_bits(*doubles.next()?))),
                TEXT => Some(Value::Text(texts.next()?.as_str().into())),
                _ => Some(Value::Float(decimal(number()?, kind)?)),
            };
            all.push((value, Some(quality)));
        }
    }
    Some(all)
}

/// The times of samples.
pub(super) enum Times<'a> {
    /// Runs in order of arrival: the current time and what is left of its run.
    Arrival { runs: std::iter::Zip<std::slice::Iter<'a, i64>, std::slice::Iter<'a, u32>>, micros: i64, left: u32 },
    /// As the columns lie.
    Columns(Vec<i64>),
}

impl<'a> Times<'a> {
    /// From fields 1 and 4, or 13 and 14.
    pub(super) fn of(
        (base, columns): (i64, &[i64]),
        (stamps, shared): (&'a [i64], &'a [u32]),
        counts: &[usize],
    ) -> Option<Self> {
        if columns.is_empty() {
            return Some(Self::Arrival { runs: stamps.iter().zip(shared), micros: base, left: 0 });
        }
        let (mut times, mut deltas, mut start) = (Vec::with_capacity(columns.len()), columns.iter(), base);
        for count in counts {
            let mut micros = start;
            for n in 0..*count {
                micros = micros.wrapping_add(*deltas.next()?);
                times.push(micros);
                if n == 0 {
                    start = micros;
                }
            }
        }
        Some(Self::Columns(times))
    }

    /// Of the next sample to arrive, which lies at `at`.
    pub(super) fn next(&mut self, at: usize) -> Option<i64> {
        match self {
            Self::Columns(times) => times.get(at).copied(),
            Self::Arrival { runs, micros, left } => {
                while *left == 0 {
                    let (delta, count) = runs.next()?;
                    (*micros, *left) = (micros.wrapping_add(*delta), *count);
                }
                *left -= 1;
                Some(*micros)
            }
        }
    }
}
