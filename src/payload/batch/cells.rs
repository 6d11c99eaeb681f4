//! The cells of a batch: values and qualities, column after column (fields 18 to 23 of the published schema).
//!
//! Real numbers become whole numbers where they are decimals, as scaled registers and the float32 of most PLCs are, and
//! only where the way back gives the very same bits.

use crate::model::quality::Quality;
use crate::model::value::Value;

use super::{BadBatch, DECIMALS_MAX};
use crate::payload::runs::{self, Runs};

const NONE: u32 = 0;
const BOOL: u32 = 1;
const INT: u32 = 2;
const UINT: u32 = 3;
/// float32 bits.
const SINGLE: u32 = 4;
const DOUBLE: u32 = 5;
const TEXT: u32 = 6;
const DIVIDED: u32 = 16;
const MULTIPLIED: u32 = 32;
const NARROWED: u32 = 48;
const NUDGED: u32 = 64;

const POWERS: [f64; DECIMALS_MAX + 1] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const FRACTIONS: [f64; DECIMALS_MAX + 1] = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9];
/// Whole numbers up to here are exact in an f64.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// The same.
const WHOLE_MAX: u64 = 1 << 53;
/// What scaling with an offset leaves as rounding.
const ULPS_MAX: i64 = 8;
/// A column of fewer samples follows its tag's earlier ones: 12.50 must not become one decimal because it can.
const OWN_OPINION: usize = 8;

/// The kind that the real numbers of a tag had last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hint(Option<u32>);

/// One cell.
pub(super) type Cell<'a> = (Option<&'a Value>, Quality);

/// Fields 18 to 23.
#[derive(Debug, Default)]
pub(super) struct Cells {
    pub(super) qualities: Vec<u32>,
    pub(super) kinds: Vec<u32>,
    pub(super) starts: Vec<i64>,
    pub(super) steps: Vec<i64>,
    pub(super) ulps: Vec<i32>,
    pub(super) texts: Vec<String>,
}

impl Cells {
    /// Appends one column.
    pub(super) fn push(&mut self, cells: &[Cell<'_>], hint: &mut Hint) {
        let real = kind_of_reals(cells, hint);
        let mut before = None;
        for (value, quality) in cells {
            // As in JSON: what is no number is no value. The way back would refuse the whole batch for it.
            let value = value.filter(|value| !matches!(value, Value::Float(real) if !real.is_finite()));
            runs::push(&mut self.qualities, u32::from(quality.code()));
            let (kind, number) = match value {
                None => (NONE, None),
                Some(Value::Bool(bit)) => (BOOL, Some(i64::from(*bit))),
                Some(Value::Int(number)) => (INT, Some(*number)),
                Some(Value::Uint(number)) => (UINT, Some(number.cast_signed())),
                Some(Value::Float(number)) => (real, self.real(*number, real)),
                Some(Value::Text(text)) => {
                    self.texts.push(text.to_string());
                    (TEXT, None)
                }
            };
            runs::push(&mut self.kinds, kind);
            if let Some(number) = number {
                match before {
                    None => self.starts.push(number),
                    Some(before) => self.steps.push(number.wrapping_sub(before)),
                }
                before = Some(number);
            }
        }
    }

    fn real(&mut self, real: f64, kind: u32) -> Option<i64> {
        let (number, ulps) = taken_apart(real, kind)?;
        if kind >= NUDGED {
            self.ulps.push(ulps);
        }
        Some(number)
    }
}

/// The cheapest kind that gives every real number of the column back bit by bit.
fn kind_of_reals(cells: &[Cell<'_>], hint: &mut Hint) -> u32 {
    let reals = || {
        cells.iter().filter_map(|(value, _)| match value {
            Some(Value::Float(number)) if number.is_finite() => Some(*number),
            _ => None,
        })
    };
    let fits = |kind: &u32| reals().all(|real| taken_apart(real, *kind).is_some());
    if reals().next().is_none() {
        return DOUBLE; // nothing asks
    }
    if let Some(kind) = hint.0
        && cells.len() < OWN_OPINION
        && fits(&kind)
    {
        return kind;
    }
    let digits = || 0..=9_u32;
    let exact = digits().flat_map(|k| [DIVIDED + k, MULTIPLIED + k, NARROWED + k]);
    let nudged = digits().map(|k| NUDGED + k).chain([SINGLE]);
    let found = exact.chain(nudged).find(fits).unwrap_or(DOUBLE);
    let kind = if (NARROWED..NUDGED).contains(&found) { cheaper(&reals(), found) } else { found };
    hint.0 = Some(kind);
    kind
}

/// A float32 with many decimals may be shorter as its bits.
fn cheaper(reals: &(impl Iterator<Item = f64> + Clone), decimal: u32) -> u32 {
    let cost = |kind: u32| {
        let mut before = 0_i64;
        let numbers = reals.clone().filter_map(|real| taken_apart(real, kind));
        numbers
            .map(|(number, _)| 64 - std::mem::replace(&mut before, number).abs_diff(number).leading_zeros())
            .sum::<u32>()
    };
    if cost(SINGLE) < cost(decimal) { SINGLE } else { decimal }
}

/// The number (and the ulps) that stand for this real number in this kind, if the way back gives the same bits.
#[expect(clippy::cast_possible_truncation, reason = "whatever is cut off is noticed by the way back")]
fn taken_apart(real: f64, kind: u32) -> Option<(i64, i32)> {
    match kind {
        SINGLE => (f64::from(real as f32).to_bits() == real.to_bits()).then(|| (i64::from((real as f32).to_bits()), 0)),
        DOUBLE => Some((real.to_bits().cast_signed(), 0)),
        _ => {
            let rounded = (real * POWERS.get((kind & 15) as usize)?).round();
            if rounded.abs() > EXACT_MAX {
                return None;
            }
            let back = decimal(rounded as i64, kind)?.to_bits();
            let ulps = real.to_bits().cast_signed().wrapping_sub(back.cast_signed());
            let allowed = if kind >= NUDGED { ULPS_MAX } else { 0 };
            (-allowed..=allowed).contains(&ulps).then_some((rounded as i64, ulps as i32))
        }
    }
}

/// The real number of a decimal kind, ulps not yet added.
#[expect(clippy::cast_precision_loss, reason = "at most 2^53, checked where it is read")]
#[expect(clippy::cast_possible_truncation, reason = "rounding to float32 is what this kind says")]
fn decimal(number: i64, kind: u32) -> Option<f64> {
    let digits = (kind & 15) as usize;
    let divided = number as f64 / POWERS.get(digits)?;
    match kind & !15 {
        DIVIDED | NUDGED => Some(divided),
        MULTIPLIED => Some(number as f64 * FRACTIONS.get(digits)?),
        NARROWED => Some(f64::from(divided as f32)),
        _ => None,
    }
}

/// A cell that was read.
pub(super) type Restored = (Option<Value>, Quality);

/// All cells, column after column, where `counts` says how many a column has.
pub(super) fn restore(cells: Cells, counts: &[usize]) -> Result<Vec<Restored>, BadBatch> {
    const SHORT: BadBatch = BadBatch::Damaged("its columns are too short");
    let (mut qualities, mut kinds) = (Runs::new(&cells.qualities), Runs::new(&cells.kinds));
    let mut texts = cells.texts.into_iter();
    let mut numbers = Numbers { starts: cells.starts.iter(), steps: cells.steps.iter(), before: None };
    let mut ulps = cells.ulps.iter();
    let mut all = Vec::with_capacity(counts.iter().sum());
    for count in counts {
        numbers.before = None;
        for _ in 0..*count {
            let code = qualities.next().ok_or(SHORT)?;
            let quality = u8::try_from(code).ok().and_then(Quality::from_code);
            let quality = quality.ok_or(BadBatch::Damaged("a quality that does not exist"))?;
            let value = match kinds.next().ok_or(SHORT)? {
                NONE => None,
                TEXT => Some(Value::Text(texts.next().ok_or(SHORT)?.into())),
                kind => {
                    let nudge = if kind >= NUDGED { *ulps.next().ok_or(SHORT)? } else { 0 };
                    let value = put_together(numbers.next().ok_or(SHORT)?, kind, nudge);
                    Some(value.ok_or(BadBatch::Damaged("a value that does not exist"))?)
                }
            };
            all.push((value, quality));
        }
    }
    let left = texts.len() + numbers.starts.len() + numbers.steps.len() + ulps.len();
    if left > 0 || !qualities.is_empty() || !kinds.is_empty() {
        return Err(BadBatch::Damaged("its columns are too long"));
    }
    Ok(all)
}

struct Numbers<'a> {
    starts: std::slice::Iter<'a, i64>,
    steps: std::slice::Iter<'a, i64>,
    before: Option<i64>,
}

impl Numbers<'_> {
    fn next(&mut self) -> Option<i64> {
        let number = match self.before {
            None => *self.starts.next()?,
            Some(before) => before.wrapping_add(*self.steps.next()?),
        };
        self.before = Some(number);
        Some(number)
    }
}

fn put_together(number: i64, kind: u32, ulps: i32) -> Option<Value> {
    let real = match kind {
        BOOL => return (number == 0 || number == 1).then_some(Value::Bool(number == 1)),
        INT => return Some(Value::Int(number)),
        UINT => return Some(Value::Uint(number.cast_unsigned())),
        SINGLE => f64::from(f32::from_bits(u32::try_from(number).ok()?)),
        DOUBLE => f64::from_bits(number.cast_unsigned()),
        _ if number.unsigned_abs() > WHOLE_MAX => return None,
        _ => {
            let bits = decimal(number, kind)?.to_bits().cast_signed();
            f64::from_bits(bits.wrapping_add(i64::from(ulps)).cast_unsigned())
        }
    };
    // never written: a value that is not a number is "none, bad, cause nan"
    real.is_finite().then_some(Value::Float(real))
}
