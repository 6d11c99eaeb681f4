//! How likely a value is to be what an engineer meant. Pure: a table of thumb rules, each with its reason.

use crate::model::registers::{self, Unreadable};
use crate::model::tag::{DataType, Order};
use crate::model::time::{Certainty, Wall};
use crate::model::value::Value;

/// A Unix time this close to now is taken for one.
const NEAR_NOW_SECONDS: i64 = 2 * 365 * 86_400;

/// How one value looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// 0 ..= 100.
    pub score: i32,
    /// What else there is to say.
    pub note: Option<String>,
}

impl Look {
    const fn plain(score: i32) -> Self {
        Self { score, note: None }
    }

    fn noted(score: i32, note: impl Into<String>) -> Self {
        Self { score, note: Some(note.into()) }
    }
}

/// How likely; `None`: not a reading at all.
pub fn plausibility(
    words: &[u16],
    data_type: DataType,
    order: Order,
    value: Result<&Value, &Unreadable>,
    now: i64,
) -> Option<Look> {
    match value {
        Ok(Value::Float(number)) if data_type == DataType::Float16 => Some(Look::plain((real(*number) - 30).max(1))),
        Ok(Value::Float(number)) => Some(Look::plain(real(*number))),
        Ok(Value::Bool(_)) => (words.first() <= Some(&1)).then(|| Look::plain(30)),
        Ok(Value::Text(time)) if data_type.is_time() => Some(Look::plain(moment(time, now))),
        Ok(Value::Text(text)) => letters(text).map(Look::plain),
        Ok(whole) if !data_type.is_binary_integer() => Some(Look::plain(decimal(data_type, whole))),
        Ok(whole) => Some(integer(data_type, whole, now)),
        Err(Unreadable::NotANumber) => not_a_number(words, data_type, order),
        Err(_) => None,
    }
}

/// Measurements lie between a thousandth and a million and mostly have few digits; random bits rarely do both.
fn real(number: f64) -> i32 {
    let size = number.abs();
    if size == 0.0 {
        return 34; // zeros are zeros of every type, and then of the plainest
    }
    if !(1e-6..1e9).contains(&size) {
        return 1;
    }
    let bonus = match digits(number) {
        0..=3 => 38,
        4 | 5 => 32,
        6 => 26,
        7 => 18,
        8 => 12,
        9 => 8,
        _ => 2,
    };
    if (1e-3..1e6).contains(&size) { 56 + bonus } else { 18 + bonus / 2 }
}

/// Significant decimal digits of the shortest text that means this number.
fn digits(number: f64) -> usize {
    let text = super::readings::short(number.abs());
    let mantissa = text.split('e').next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').len()
}

/// Counters and scaled measurements are small against their type.
fn integer(data_type: DataType, value: &Value, now: i64) -> Look {
    let number = value.as_whole().unwrap_or_default();
    let bits = 16 * u32::from(data_type.registers());
    let unsigned = matches!(value, Value::Uint(_));
    // SunSpec Device Information Model 1.0, section 3: "not implemented"; many other makers do the same.
    let all_ones = (1i128 << bits) - 1;
    let lowest = -(1i128 << (bits - 1));
    if (unsigned && number == all_ones) || (!unsigned && number == lowest) {
        return Look::noted(40, "often means: not available (SunSpec, many meters)");
    }
    if !unsigned && number == -1 - lowest {
        return Look::noted(20, "often means: not available");
    }
    // Of random words few are a small number of 32 bits; of 16 bits they all are.
    let score = match number.unsigned_abs() {
        0 => 50,
        1..=65_535 if bits > 16 => 80,
        65_536..=999_999 if bits > 32 => 80,
        1..=9_999 => 68,
        10_000..=32_767 => 58,
        32_768..=65_535 => 50,
        65_536..=999_999 => 74,
        1_000_000..=99_999_999 => 52,
        100_000_000..=999_999_999 => 16,
        _ => 6,
    };
    // Small negative numbers are meant; large ones are unsigned numbers, or something else, misread.
    let score = match number {
        -1_000..=-1 => score - 2,
        ..-1_000 => score - 24,
        _ if !unsigned => score - 1, // the same number, and nothing says that it may be negative
        _ => score,
    };
    let near_now = |seconds: i128| (seconds - i128::from(now)).unsigned_abs() < NEAR_NOW_SECONDS.unsigned_abs().into();
    match i64::try_from(number) {
        Ok(seconds) if bits >= 32 && near_now(seconds.into()) => {
            Look::noted(60 - i32::from(!unsigned), unix(seconds.saturating_mul(1000)))
        }
        Ok(ms) if bits == 64 && near_now((ms / 1000).into()) => {
            Look::noted(60 - i32::from(!unsigned), format!("{} in ms", unix(ms)))
        }
        _ => Look::plain(score),
    }
}

/// Numbers in decimal digits: all nibbles of two registers below ten are hardly chance, those of one may be.
fn decimal(data_type: DataType, value: &Value) -> i32 {
    match (data_type, value.as_whole().unwrap_or_default().unsigned_abs()) {
        (DataType::Bcd32, 10_000..) => 70,
        (DataType::Bcd16 | DataType::Bcd32, 0..10) => 40, // as any other type has them
        (DataType::Bcd16 | DataType::Bcd32, _) => 52,
        _ => 42,
    }
}

/// A clock tells about the present.
fn moment(text: &str, now: i64) -> i32 {
    let year = |text: &str| text.get(..4).and_then(|year| year.parse::<i32>().ok());
    let present = year(&Wall { unix_ms: now.saturating_mul(1000), certainty: Certainty::Fixed }.to_string());
    match (year(text), present) {
        (Some(year), Some(present)) if (present - 2..=present + 1).contains(&year) => 78,
        (Some(1990..=2037), _) => 8,
        _ => 1,
    }
}

fn unix(unix_ms: i64) -> String {
    format!("as Unix time: {}", Wall { unix_ms, certainty: Certainty::Fixed })
}

/// Text is printable from end to end; the longer, the less by chance.
fn letters(text: &str) -> Option<i32> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || " -_./:#%()".contains(letter);
    let count = i32::try_from(text.chars().count()).unwrap_or(i32::MAX);
    let odd = i32::try_from(text.chars().filter(|letter| !plain(*letter)).count()).unwrap_or(i32::MAX);
    if count == 0 || text.chars().any(char::is_control) {
        return None;
    }
    Some((12 + 12 * count.min(7) - 16 * odd.min(8)).clamp(2, 96))
}

fn not_a_number(words: &[u16], data_type: DataType, order: Order) -> Option<Look> {
    let bits = match data_type {
        DataType::Float32 => registers::decode(words, DataType::Uint32, order),
        DataType::Float64 => registers::decode(words, DataType::Uint64, order),
        _ => return None, // digits that are none: not that type
    };
    match (data_type, bits) {
        (_, Err(_)) => None,
        (DataType::Float32, Ok(Value::Uint(0x7FC0_0000))) | (_, Ok(Value::Uint(0x7FF8_0000_0000_0000))) => {
            Some(Look::noted(60, "NaN: the usual way of a float to say: not available"))
        }
        (DataType::Float32, Ok(Value::Uint(0x7F80_0000 | 0xFF80_0000)))
        | (_, Ok(Value::Uint(0x7FF0_0000_0000_0000 | 0xFFF0_0000_0000_0000))) => Some(Look::noted(30, "an infinity")),
        _ => Some(Look::noted(3, "NaN, of an unusual form")),
    }
}
