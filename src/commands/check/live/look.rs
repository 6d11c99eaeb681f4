//! Does a value look like what its tag is meant to be? By the unit, the limits, the type, and the raw words. Pure.
//!
//! Strict with what no device ever measures and silent about the rest: a healthy plant must not be accused. Zeros, bits and
//! texts say nothing for or against a word order or an address.

use crate::commands::decode::readings::short;
use crate::config::plan::{Scale, TagPlan};
use crate::model::registers::Form;
use crate::model::tag::{DataType, Order};
use crate::model::value::Value;

/// How a value looks, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As people would have chosen it, such as 231.4: words that do not belong together hardly give that.
    Crisp,
    /// As such a tag may well be.
    Fits,
    /// It says nothing: zero, a bit, a text.
    Mute,
    /// Unusual; a reason to look further, none to say anything.
    Uneasy,
    /// Outside the limits, or close to nonsense.
    Doubtful,
    /// No device measures that.
    Absurd,
}

/// How one value looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// How.
    pub grade: Grade,
    /// Why, in words; for what is doubtful or worse.
    pub why: Option<String>,
}

impl Look {
    /// Nothing to say about it.
    pub const fn plain(grade: Grade) -> Self {
        Self { grade, why: None }
    }

    /// With the reason.
    pub fn because(grade: Grade, why: impl Into<String>) -> Self {
        Self { grade, why: Some(why.into()) }
    }
}

/// What a unit allows: the unit, the smallest and the largest value, and what it is a measure of.
///
/// Generous by orders of magnitude: the largest machines there are fit in.
const SENSES: [(&str, f64, f64, &str); 46] = [
    ("V", -2e6, 2e6, "voltage"),
    ("mV", -1e8, 1e8, "voltage"),
    ("kV", -2e3, 2e3, "voltage"),
    ("A", -1e6, 1e6, "current"),
    ("mA", -1e8, 1e8, "current"),
    ("kA", -1e3, 1e3, "current"),
    ("W", -1e10, 1e10, "power"),
    ("kW", -1e7, 1e7, "power"),
    ("MW", -1e4, 1e4, "power"),
    ("var", -1e10, 1e10, "power"),
    ("kvar", -1e7, 1e7, "power"),
    ("VA", -1e10, 1e10, "power"),
    ("kVA", -1e7, 1e7, "power"),
    ("Wh", -1e14, 1e14, "energy"),
    ("kWh", -1e11, 1e11, "energy"),
    ("MWh", -1e8, 1e8, "energy"),
    ("varh", -1e14, 1e14, "energy"),
    ("kvarh", -1e11, 1e11, "energy"),
    ("Hz", 0.0, 1e6, "frequency"),
    ("kHz", 0.0, 1e6, "frequency"),
    ("°C", -273.15, 5e3, "temperature"),
    ("K", 0.0, 1e4, "temperature"),
    ("°F", -460.0, 1e4, "temperature"),
    ("%", -1e4, 1e5, "percentage"),
    ("‰", -1e5, 1e6, "share"),
    ("bar", -1e4, 1e5, "pressure"),
    ("mbar", -1e7, 1e7, "pressure"),
    ("Pa", -1e10, 1e10, "pressure"),
    ("kPa", -1e7, 1e7, "pressure"),
    ("MPa", -1e4, 1e4, "pressure"),
    ("rpm", -1e6, 1e6, "speed"),
    ("1/min", -1e6, 1e6, "speed"),
    ("m/s", -1e5, 1e5, "speed"),
    ("m", -1e6, 1e6, "length"),
    ("mm", -1e9, 1e9, "length"),
    ("h", 0.0, 1e8, "time"),
    ("min", -1e10, 1e10, "time"),
    ("s", -1e11, 1e11, "time"),
    ("ppm", -1e3, 1e6, "share"),
    ("Nm", -1e8, 1e8, "torque"),
    ("m³/h", -1e7, 1e7, "flow"),
    ("m3/h", -1e7, 1e7, "flow"),
    ("l/min", -1e8, 1e8, "flow"),
    ("l/h", -1e10, 1e10, "flow"),
    ("pH", -5.0, 20.0, "pH"),
    ("kg", -1e9, 1e9, "mass"),
];

/// Where a mains is: unit, lowest and highest.
const MAINS: [(&str, f64, f64); 8] = [
    ("Hz", 49.0, 51.0),
    ("Hz", 59.0, 61.0),
    ("V", 105.0, 130.0),
    ("V", 207.0, 253.0),
    ("V", 360.0, 440.0),
    ("V", 460.0, 500.0),
    ("V", 620.0, 760.0),
    ("kV", 9.0, 36.0),
];

/// Names of the one common quantity without a unit, which is never far from 1.
const POWER_FACTORS: [&str; 4] = ["cosphi", "cos_phi", "power_factor", "powerfactor"];
/// Numbers with such names are bits, words or names rather than amounts.
const NO_AMOUNTS: [&str; 17] = [
    "status", "state", "alarm", "event", "fault", "error", "flag", "mode", "bits", "word", "version", "serial", "_id",
    "code", "warning", "config", "mask",
];

/// Beyond this no unit at all is measured.
const HUGE: f64 = 1e15;
/// A smaller number than this is no measurement but a wrong exponent …
const TINY: f64 = 1e-12;
/// … and one below this seldom is.
const SMALL: f64 = 1e-6;

/// How the value of a tag looks that was read in this order from these words.
pub fn look(tag: &TagPlan, order: Order, words: &[u16], value: &Value) -> Look {
    match value {
        Value::Text(text) if tag.data_type.is_time() => moment(text),
        Value::Bool(_) | Value::Text(_) => Look::plain(Grade::Mute),
        number => number.as_f64().map_or(Look::plain(Grade::Mute), |number| amount(tag, order, words, number)),
    }
}

/// Clocks that were never set begin anywhere from 1970 on.
fn moment(text: &str) -> Look {
    match text.get(..4).and_then(|year| year.parse::<i32>().ok()) {
        Some(1970..=2099) => Look::plain(Grade::Mute),
        _ => Look::because(Grade::Absurd, "no clock of a device shows such a year"),
    }
}

fn amount(tag: &TagPlan, order: Order, words: &[u16], number: f64) -> Look {
    let form = Form { order, ..tag.form() };
    if let Some(look) = raw_look(tag, form, words) {
        return look;
    }
    let size = number.abs();
    if size == 0.0 {
        return limits(tag, number).unwrap_or(Look::plain(Grade::Mute));
    }
    let is_float = tag.data_type.is_float();
    if size > HUGE || is_float && size < TINY {
        return Look::because(Grade::Absurd, format!("nothing measures {}", short(number)));
    }
    let sense = SENSES.iter().find(|(unit, ..)| *unit == tag.unit);
    if let Some((_, low, high, what)) = sense
        && !(*low..=*high).contains(&number)
    {
        return Look::because(Grade::Absurd, format!("no {what} is {} {}", short(number), tag.unit));
    }
    if is_power_factor(tag) && size > 2.0 {
        return Look::because(Grade::Doubtful, "a power factor is never beyond 1");
    }
    if let Some(outside) = limits(tag, number) {
        return outside;
    }
    if is_float && size < SMALL || tag.unit == "Hz" && size < 5.0 {
        return Look::plain(Grade::Uneasy);
    }
    let crisp = is_crisp(form, words) || is_mains(tag, number);
    Look::plain(if crisp { Grade::Crisp } else { Grade::Fits })
}

fn limits(tag: &TagPlan, number: f64) -> Option<Look> {
    let open = |end: Option<f64>| end.map_or("…".to_owned(), short);
    (!tag.limits.contain(number)).then(|| {
        let range = format!("{} ..= {}", open(tag.limits.min), open(tag.limits.max));
        Look::because(Grade::Doubtful, format!("outside min and max of the configuration, {range}"))
    })
}

fn is_power_factor(tag: &TagPlan) -> bool {
    tag.unit.is_empty() && POWER_FACTORS.iter().any(|name| tag.name.contains(name))
}

fn is_mains(tag: &TagPlan, number: f64) -> bool {
    MAINS.iter().any(|(unit, low, high)| *unit == tag.unit && (*low..=*high).contains(&number))
}

/// Few digits although all words are in use: words that do not belong together would not give that.
fn is_crisp(form: Form, words: &[u16]) -> bool {
    let Ok(Value::Float(raw)) = form.read(words) else { return false };
    let bits_used = match form.data_type {
        DataType::Float32 => form.raw(words).is_some_and(|raw| raw & 0xFFFF != 0),
        DataType::Float64 => form.raw(words).is_some_and(|raw| raw & 0xFFFF_FFFF != 0),
        _ => false,
    };
    let text = short(raw.abs());
    let digits = text.split('e').next().unwrap_or_default().bytes().filter(u8::is_ascii_digit).collect::<Vec<_>>();
    let significant = String::from_utf8_lossy(&digits).trim_matches('0').len();
    bits_used && significant <= 5
}

/// Whether the number is one that a person would call an amount, by what the configuration says of it.
fn is_amount(tag: &TagPlan) -> bool {
    tag.field.is_none() && tag.map.is_none() && (!tag.unit.is_empty() || tag.scale != Scale::IDENTITY)
}

/// What only the raw number tells: a value that makers use for "not available", words that look swapped.
fn raw_look(tag: &TagPlan, form: Form, words: &[u16]) -> Option<Look> {
    let bits = 16 * u32::from(form.data_type.registers());
    let raw = form.read(words).ok()?.as_whole()?;
    let names = NO_AMOUNTS.iter().any(|part| tag.name.to_lowercase().contains(part));
    if !form.data_type.is_binary_integer() || form.field.is_some() || tag.map.is_some() {
        return None;
    }
    let signed = matches!(form.data_type, DataType::Int16 | DataType::Int32 | DataType::Int64);
    let all_ones = (1i128 << bits) - 1;
    let lowest = -(1i128 << (bits - 1));
    let stands_for_none = if signed { raw == lowest || raw == -1 - lowest } else { raw == all_ones };
    // SunSpec Device Information Model 1.0, section 3: "not implemented"; many other makers do the same.
    if stands_for_none && is_amount(tag) {
        let hex = form.raw(words).unwrap_or_default();
        let digits = usize::try_from(bits / 4).unwrap_or(4);
        let why = format!("0x{hex:0digits$X} mostly means: not available; nan = [\"0x{hex:0digits$X}\"] would say so");
        return Some(Look::because(Grade::Doubtful, why));
    }
    let amount = is_amount(tag);
    if !signed && amount && raw > all_ones - NEGATIVE_MAX {
        let why = format!(
            "it would be {} with type = \"{}\"",
            raw - all_ones - 1,
            form.data_type.to_string().trim_start_matches('u')
        );
        return Some(Look::because(Grade::Uneasy, why));
    }
    if bits >= 32 && !names && amount && is_rather_small(form, words, raw) && !is_swapped(form, words, raw) {
        return Some(Look::because(Grade::Uneasy, "the counter would be nearly full"));
    }
    if bits >= 32 && !names && is_swapped(form, words, raw) {
        // Of what has no unit only a number of many digits is surely no row of bits.
        let is_number = raw.count_ones() >= DIGITS_OF_A_NUMBER && raw.unsigned_abs() >= 1 << (bits - 4);
        let grade = if amount || is_number { Grade::Absurd } else { Grade::Uneasy };
        return Some(Look::because(grade, "as large as a small number whose words are swapped"));
    }
    None
}

/// A row of bits has seldom so many set.
const DIGITS_OF_A_NUMBER: u32 = 4;

/// An unsigned number this close to its end is rather a small negative one.
const NEGATIVE_MAX: i128 = 200;

/// A small number with its words reversed: the low words are empty, or all but empty while the number is enormous.
fn is_swapped(form: Form, words: &[u16], raw: i128) -> bool {
    let turned = Form { order: turned(form.order), ..form };
    let Some(other) = turned.read(words).ok().and_then(|value| value.as_whole()) else { return false };
    let bits = 16 * u32::from(form.data_type.registers());
    let (size, other_size) = (raw.unsigned_abs(), other.unsigned_abs());
    if other_size >= size {
        return false;
    }
    let empty_end =
        raw.rem_euclid(1 << 16) == 0 && raw != 0 || raw < 0 && raw.rem_euclid(1 << 16) == 0xFFFF && size > 0xFFFF;
    let enormous = size >= 1 << (bits - 4) && other_size < 1 << 20;
    empty_end && other_size <= 0xFFFF || enormous
}

/// A counter that is nearly full, and would not be with its words the other way round: it may be, but seldom is.
fn is_rather_small(form: Form, words: &[u16], raw: i128) -> bool {
    let other = Form { order: turned(form.order), ..form }.read(words).ok().and_then(|value| value.as_whole());
    let bits = 16 * u32::from(form.data_type.registers());
    raw >= 1 << (bits - 4) && other.is_some_and(|other| (1..1 << 24).contains(&other))
}

/// The order with its words the other way round.
pub const fn turned(order: Order) -> Order {
    match order {
        Order::Abcd => Order::Cdab,
        Order::Cdab => Order::Abcd,
        Order::Badc => Order::Dcba,
        Order::Dcba => Order::Badc,
    }
}

/// The order with the bytes of each word the other way round.
pub const fn bytes_turned(order: Order) -> Order {
    match order {
        Order::Abcd => Order::Badc,
        Order::Badc => Order::Abcd,
        Order::Cdab => Order::Dcba,
        Order::Dcba => Order::Cdab,
    }
}
