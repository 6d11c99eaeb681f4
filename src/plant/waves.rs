//! The values of a simulated tag over time: plausible, moving, within its limits, the same in every run.
//!
//! Pure: a tag's plan gives the wave, the time since start gives the value. Numbers move on a grid of a few hundred
//! steps, so that the set of values a tag ever had stays small and can be remembered.

use std::time::Duration;

use crate::config::plan::{Limits, TagPlan};
use crate::model::registers::Encoding;
use crate::model::tag::DataType;
use crate::model::time::{Certainty, Wall};
use crate::model::value::Value;

/// How an engineering value moves.
#[derive(Debug, Clone, PartialEq)]
pub enum Wave {
    /// On and off, each this long.
    Square(Duration),
    /// Up and down between two values.
    Sine {
        /// The range.
        range: Span,
        /// One full swing.
        period: Duration,
    },
    /// Up from low to high, then back at once.
    Saw {
        /// The range.
        range: Span,
        /// One rise.
        period: Duration,
    },
    /// Another value in the range every so often.
    Steps {
        /// The range.
        range: Span,
        /// How long each holds.
        hold: Duration,
        /// Where the sequence begins.
        seed: u64,
    },
    /// Counts up from a start, this much per second; begins again when the wire type is full.
    Counter {
        /// First value.
        start: f64,
        /// Step, once per second.
        step: f64,
        /// Steps until it begins again.
        steps: f64,
    },
    /// Always the same text.
    Text(Box<str>),
    /// One word after the other.
    Words {
        /// The words of a map.
        words: Vec<Value>,
        /// How long each holds.
        hold: Duration,
    },
    /// The time, from the beginning of 2026 on.
    Clock,
}

/// Low, high and grid of a moving number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Lowest value.
    pub low: f64,
    /// Highest value.
    pub high: f64,
    /// Values are `low` plus a whole number of these.
    pub grid: f64,
}

/// What a quantity usually looks like, by its unit, where the plan has no limits: low and high.
const USUAL: &[(&str, f64, f64)] = &[
    ("V", 225.0, 235.0),
    ("kV", 19.0, 21.0),
    ("A", 2.0, 18.0),
    ("W", 500.0, 4000.0),
    ("kW", 0.5, 40.0),
    ("var", -400.0, 400.0),
    ("VA", 500.0, 4200.0),
    ("Hz", 49.9, 50.1),
    ("bar", 1.0, 6.0),
    ("°C", 15.0, 60.0),
    ("rpm", 900.0, 1500.0),
    ("m", 0.5, 4.5),
    (POWER_FACTORS[0], 0.7, 1.0),
];

/// Names of the one common quantity without a unit.
const POWER_FACTORS: [&str; 3] = ["cosphi", "cos_phi", "power_factor"];

/// Part of a range that is left free at each end.
const MARGIN: f64 = 0.02;

/// Units of things that only grow.
const GROWING: &[&str] = &["h", "s", "Wh", "kWh", "MWh", "varh", "kvarh", "m3", "m³", "l"];

impl Wave {
    /// The wave that suits a tag.
    pub fn of(tag: &TagPlan) -> Self {
        let seed = seed(&tag.name, tag.register().map_or(0, |place| place.start));
        let period = Duration::from_millis(20_000 + seed % 50_000);
        if let Some(map) = &tag.map {
            let words = map.entries.iter().map(|(_, word)| Value::Text((**word).into())).collect();
            return Self::Words { words, hold: Duration::from_millis(3000 + seed % 6000) };
        }
        match tag.data_type {
            DataType::Bool => return Self::Square(Duration::from_millis(4000 + seed % 9000)),
            DataType::Text(length) => {
                let mut name = tag.name.to_uppercase();
                name.retain(|character| character.is_ascii() || tag.text.encoding == Encoding::Utf8);
                return Self::Text(cut(&name, length.into()));
            }
            DataType::Bytes(length) => return Self::Text("5a".repeat(length.into()).into()),
            time if time.is_time() => return Self::Clock,
            _ => {}
        }
        let unlimited = tag.limits == Limits::default();
        let wide = matches!(tag.data_type, DataType::Uint32 | DataType::Uint64);
        let grain = if tag.data_type.is_integer() { tag.scale.factor.abs() } else { 0.0 };
        if unlimited && (GROWING.contains(&tag.unit.as_str()) || (wide && tag.unit.is_empty())) {
            let (start, step) = (grain * 1000.0, if grain > 0.0 { grain } else { 1.0 });
            let (_, full) = wire_range(tag);
            return Self::Counter { start, step, steps: ((full - start) / step).floor().max(1.0) };
        }
        let range = span(tag, grain);
        match seed % 4 {
            0 => Self::Saw { range, period },
            1 => Self::Steps { range, hold: Duration::from_millis(1500 + seed % 4000), seed },
            _ => Self::Sine { range, period },
        }
    }

    /// The engineering value at a moment.
    pub fn at(&self, since_start: Duration) -> Value {
        let turn = |period: &Duration| (since_start.as_secs_f64() / period.as_secs_f64()).fract();
        match self {
            Self::Square(half) => Value::Bool(since_start.as_millis() / half.as_millis().max(1) % 2 == 1),
            Self::Sine { range, period } => range.point(0.5 - 0.5 * (turn(period) * std::f64::consts::TAU).cos()),
            Self::Saw { range, period } => range.point(turn(period)),
            Self::Steps { range, hold, seed } => {
                let step = (since_start.as_secs_f64() / hold.as_secs_f64()).floor();
                range.point(((step + f64::from(u16::try_from(seed % 1000).unwrap_or(0))) * 0.618_034).fract())
            }
            Self::Counter { start, step, steps } => {
                Value::Float(start + step * (since_start.as_secs_f64().floor() % steps))
            }
            Self::Text(text) => Value::Text(text.clone()),
            Self::Words { words, hold } => {
                let step = usize::try_from(since_start.as_millis() / hold.as_millis().max(1)).unwrap_or(0);
                words.get(step % words.len().max(1)).cloned().unwrap_or_else(|| Value::Text("".into()))
            }
            Self::Clock => clock(since_start),
        }
    }
}

impl Span {
    /// The value this far (0 ..= 1) from low to high, on the grid.
    fn point(self, part: f64) -> Value {
        let steps = ((self.high - self.low) / self.grid).floor();
        Value::Float(self.low + (part * steps).round() * self.grid)
    }
}

/// The range of a number: its limits, or what its unit suggests, cut to what the wire type can hold. A little is left
/// free at both ends: raw values are rounded, and a value rounded beyond a limit would be of uncertain quality.
fn span(tag: &TagPlan, grain: f64) -> Span {
    let is_power_factor = tag.unit.is_empty() && POWER_FACTORS.iter().any(|name| tag.name.contains(name));
    let unit = if is_power_factor { POWER_FACTORS[0] } else { tag.unit.as_str() };
    let usual = USUAL.iter().find(|(known, _, _)| *known == unit);
    let (low, high) = match (tag.limits.min, tag.limits.max, usual) {
        (Some(min), Some(max), _) => (min, max),
        (Some(min), None, _) => (min, min + 100.0),
        (None, Some(max), _) => (max - 100.0, max),
        (None, None, Some((_, low, high))) => (*low, *high),
        (None, None, None) => (0.0, 100.0),
    };
    let (wire_low, wire_high) = wire_range(tag);
    let (low, high) = (low.clamp(wire_low, wire_high), high.clamp(wire_low, wire_high));
    let margin = (high - low) * MARGIN;
    let (low, high) = (low + margin, high - margin);
    let grid = nice((high - low).abs() / 400.0).max(grain);
    Span { low, high: high.max(low), grid }
}

/// Engineering values that fit the wire type.
fn wire_range(tag: &TagPlan) -> (f64, f64) {
    let (low, high) = match tag.data_type {
        _ if tag.field.is_some() => field_range(tag),
        DataType::Float16 => (-65_504.0, 65_504.0),
        DataType::Bcd16 => (0.0, 9999.0),
        DataType::Bcd32 | DataType::Mod10(2) => (0.0, 99_999_999.0),
        DataType::Mod10(3) => (0.0, 999_999_999_999.0),
        DataType::Mod10(_) => (0.0, 1e15),
        DataType::Int16 => (f64::from(i16::MIN), f64::from(i16::MAX)),
        DataType::Uint16 => (0.0, f64::from(u16::MAX)),
        DataType::Int32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
        DataType::Uint32 => (0.0, f64::from(u32::MAX)),
        DataType::Uint64 => (0.0, 1e15),
        _ => (-1e15, 1e15),
    };
    let (one, other) = (low * tag.scale.factor + tag.scale.offset, high * tag.scale.factor + tag.scale.offset);
    (one.min(other), one.max(other))
}

/// Raw values that fit the bits of a field.
#[expect(clippy::cast_precision_loss, reason = "a wave needs no more than 53 bits")]
fn field_range(tag: &TagPlan) -> (f64, f64) {
    let most = tag.field.map_or(0, |field| field.cut(u64::MAX).min(1 << 50));
    let signed = matches!(tag.data_type, DataType::Int16 | DataType::Int32 | DataType::Int64);
    if signed { (-((most / 2) as f64), (most / 2) as f64) } else { (0.0, most as f64) }
}

/// 1, 2 or 5 times a power of ten, at least the number given.
fn nice(number: f64) -> f64 {
    if number <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(number.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|times| times * power).find(|nice| *nice >= number).unwrap_or(10.0 * power)
}

/// Whole seconds after 2026-01-01T00:00:00Z.
fn clock(since_start: Duration) -> Value {
    const BEGIN_MS: i64 = 1_767_225_600_000;
    let passed = i64::try_from(since_start.as_secs()).unwrap_or(0);
    let now = Wall { unix_ms: BEGIN_MS.saturating_add(passed.saturating_mul(1000)), certainty: Certainty::Fixed };
    Value::Text(now.to_string().into())
}

/// FNV-1a of the name, moved by the address: neighbours of one name move differently.
fn seed(name: &str, address: u16) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash.wrapping_add(u64::from(address).wrapping_mul(7919))
}

/// At most this many bytes, whole characters.
fn cut(text: &str, length: usize) -> Box<str> {
    let mut end = length.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_is_a_number_that_people_like() {
        for (raw, expected) in [(0.013, 0.02), (1.0, 1.0), (0.3, 0.5), (7.0, 10.0), (0.0, 1.0)] {
            assert!((nice(raw) - expected).abs() < 1e-12, "{raw}");
        }
    }

    #[test]
    fn waves_stay_within_their_range_and_move() {
        let range = Span { low: -5.0, high: 20.0, grid: 0.1 };
        let period = Duration::from_secs(10);
        let waves = [
            Wave::Sine { range, period },
            Wave::Saw { range, period },
            Wave::Steps { range, hold: period / 10, seed: 3 },
        ];
        for wave in waves {
            let numbers: Vec<f64> =
                (0..100).map(|at| wave.at(Duration::from_millis(at * 250)).as_f64().expect("a number")).collect();
            assert!(numbers.iter().all(|number| (-5.0..=20.0 + 1e-9).contains(number)), "{wave:?}");
            assert!(numbers.windows(2).any(|pair| (pair[0] - pair[1]).abs() > 0.01), "{wave:?}");
        }
        assert_eq!(Wave::Square(period).at(Duration::from_secs(15)), Value::Bool(true));
        let counter = Wave::Counter { start: 100.0, step: 0.5, steps: 10.0 };
        assert_eq!(counter.at(Duration::from_secs(4)), Value::Float(102.0));
        assert_eq!(counter.at(Duration::from_secs(13)), Value::Float(101.5));
    }

    #[test]
    fn text_is_cut_at_a_whole_character() {
        assert_eq!(&*cut("PÜMP", 2), "P");
        assert_eq!(&*cut("PUMP", 20), "PUMP");
    }
}
