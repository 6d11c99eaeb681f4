//! All readings of some words, the plausible ones first. Pure.
//!
//! One value of a type that takes all the words, or a row of values of a narrower type. What several orders or types read
//! alike is one reading. How plausible a value is says `plausible`; rows come behind single values, because who
//! copies four words mostly means one thing.

use crate::model::registers;
use crate::model::tag::{DataType, Order};
use crate::model::value::Value;

use super::plausible::{Look, plausibility};

/// Each order costs a little: devices follow the specification more often than not.
const ORDERS: [(Order, i32); 4] = [(Order::Abcd, 0), (Order::Cdab, 2), (Order::Badc, 10), (Order::Dcba, 12)];
/// A row of narrower values is this much less likely than one value.
const ROW: i32 = 12;
/// One register with its bytes swapped is rare.
const SWAPPED_REGISTER: i32 = 12;

/// One way to read the words.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The type.
    pub data_type: DataType,
    /// The order; the most usual one of those that read alike.
    pub order: Order,
    /// One value, or a row; `None` in place of what is no value (NaN).
    pub values: Vec<Option<Value>>,
    /// 0 (nonsense) ..= 100 (surely).
    pub score: i32,
    /// Other types and orders that read the very same.
    pub alike: Vec<(DataType, Order)>,
    /// What else there is to say: a sentinel, a time.
    pub notes: Vec<String>,
}

/// All readings, best first. `now`: Unix seconds, to know a time when it is seen.
pub fn readings(words: &[u16], now: i64) -> Vec<Reading> {
    let mut found: Vec<Reading> = Vec::new();
    for data_type in candidates(words.len()) {
        for (order, cost) in ORDERS {
            if let Some(reading) = read(words, data_type, order, cost, now) {
                add(&mut found, reading);
            }
        }
    }
    found.sort_by_key(|reading| std::cmp::Reverse(reading.score)); // stable: equals stay in the order of the tables
    found
}

fn candidates(count: usize) -> Vec<DataType> {
    let fits = |data_type: &DataType| match data_type {
        DataType::Bool => count == 1,
        other => count.is_multiple_of(usize::from(other.registers())),
    };
    let text = u8::try_from(2 * count).ok().filter(|bytes| *bytes <= 250).map(DataType::Text);
    DataType::SIMPLE.into_iter().filter(fits).chain(text).collect()
}

fn read(words: &[u16], data_type: DataType, order: Order, cost: i32, now: i64) -> Option<Reading> {
    let width = usize::from(data_type.registers());
    let mut reading =
        Reading { data_type, order, values: Vec::new(), score: 100, alike: Vec::new(), notes: Vec::new() };
    let mut sum = 0;
    for part in words.chunks_exact(width) {
        let value = registers::decode(part, data_type, order);
        let look = plausibility(part, data_type, order, value.as_ref(), now);
        let Look { score, note } = look?;
        reading.score = reading.score.min(score);
        sum += score;
        reading.notes.extend(note.filter(|note| !reading.notes.contains(note)));
        reading.values.push(value.ok());
    }
    let count = i32::try_from(reading.values.len()).unwrap_or(i32::MAX);
    let row = if count > 1 { ROW } else { 0 };
    let swapped = if width == 1 && order.bytes_swapped() && data_type.is_number() { SWAPPED_REGISTER } else { 0 };
    // A row is as good as its worst value, but one odd value among many is no proof.
    let score = i32::midpoint(reading.score, sum / count.max(1));
    reading.score = (score - cost - row - swapped).clamp(0, 100);
    Some(reading)
}

/// What reads the same as something found already is another name for it.
fn add(found: &mut Vec<Reading>, new: Reading) {
    let shown = |reading: &Reading| reading.values.iter().map(|value| shown(value.as_ref())).collect::<Vec<_>>();
    let same = found.iter_mut().find(|old| old.values.len() == new.values.len() && shown(old) == shown(&new));
    match same {
        Some(old) if new.score > old.score => {
            let old_name = (old.data_type, old.order);
            let alike = std::mem::take(&mut old.alike);
            *old = new;
            old.alike = alike;
            old.alike.push(old_name);
        }
        Some(old) => old.alike.push((new.data_type, new.order)),
        None => found.push(new),
    }
}

/// A value as text, as a person reads it.
pub fn shown(value: Option<&Value>) -> String {
    match value {
        None => "no value".to_owned(),
        Some(Value::Float(number)) => short(*number),
        Some(Value::Text(text)) => format!("{text:?}"),
        Some(other) => other.to_string(),
    }
}

/// A real number by the fewest digits that a single needs, where it is one; with an exponent where zeros would be counted.
pub fn short(number: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "compared with what it was before it is used")]
    let single = number as f32;
    let usual = number == 0.0 || (1e-4..1e15).contains(&number.abs());
    match (f64::from(single).to_bits() == number.to_bits(), usual) {
        (true, true) => single.to_string(),
        (true, false) => format!("{single:e}"),
        (false, true) => number.to_string(),
        (false, false) => format!("{number:e}"),
    }
}

/// The number that a single's shortest text means, where it is one: what a person would have written down.
pub fn shortest(number: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, reason = "compared with what it was before it is used")]
    let single = number as f32;
    let same = f64::from(single).to_bits() == number.to_bits();
    if same { single.to_string().parse().unwrap_or(number) } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20T20:00:00Z
    const NOW: i64 = 1_795_204_800;

    fn best(words: &[u16]) -> (String, Order, String) {
        let all = readings(words, NOW);
        let best = all.first().expect("something can always be read");
        let values: Vec<_> = best.values.iter().map(|value| shown(value.as_ref())).collect();
        (best.data_type.to_string(), best.order, values.join(" "))
    }

    fn is(words: &[u16], data_type: &str, order: Order, value: &str) {
        assert_eq!(best(words), (data_type.to_owned(), order, value.to_owned()), "{words:04X?}");
    }

    #[test]
    fn known_readings_come_first() {
        is(&[0x42F6, 0xE979], "float32", Order::Abcd, "123.456");
        is(&[0xE979, 0x42F6], "float32", Order::Cdab, "123.456");
        is(&[0xF642, 0x79E9], "float32", Order::Badc, "123.456");
        is(&[0x79E9, 0xF642], "float32", Order::Dcba, "123.456");
        is(&[0x4366, 0x3333], "float32", Order::Abcd, "230.2"); // a mains voltage
        is(&[0x4120, 0x0000], "float32", Order::Abcd, "10");
        is(&[0x0000, 0x4120], "float32", Order::Cdab, "10");
        is(&[0x4367, 0xDF4A], "float32", Order::Abcd, "231.87222"); // with all its digits, as meters have them
        is(&[0x0001, 0xE240], "uint32", Order::Abcd, "123456");
        is(&[0xE240, 0x0001], "uint32", Order::Cdab, "123456");
        is(&[0x4024, 0, 0, 0], "float64", Order::Abcd, "10");
        is(&[0, 0, 0, 0x4024], "float64", Order::Cdab, "10");
        is(&[2301], "uint16", Order::Abcd, "2301");
        is(&[0xFFF6], "int16", Order::Abcd, "-10");
        is(&[0xFFFF, 0xFFF6], "int32", Order::Abcd, "-10");
        is(&[0x4D6F, 0x6465, 0x6C31], "string(6)", Order::Abcd, "\"Model1\"");
        is(&[230, 231, 229], "uint16", Order::Abcd, "230 231 229");
    }

    #[test]
    fn what_reads_the_same_is_one_reading() {
        let all = readings(&[0, 0], NOW);
        let zero = all.iter().filter(|reading| reading.values == [Some(Value::Uint(0))]).count();
        assert_eq!(zero, 1);
        assert!(all[0].alike.contains(&(DataType::Int32, Order::Dcba)), "{all:?}");
        let all = readings(&[7], NOW);
        assert_eq!((all[0].data_type, all[0].order), (DataType::Uint16, Order::Abcd));
        assert!(all[0].alike.contains(&(DataType::Int16, Order::Abcd)));
    }

    #[test]
    fn sentinels_and_times_are_named() {
        let note = |words: &[u16], data_type: DataType| {
            let all = readings(words, NOW);
            let named = all.into_iter().find(|reading| reading.data_type == data_type && reading.order == Order::Abcd);
            named.expect("is read").notes.join("; ")
        };
        assert!(note(&[0xFFFF], DataType::Uint16).contains("not available"));
        assert!(note(&[0x8000], DataType::Int16).contains("not available"));
        assert!(note(&[0x7FC0, 0], DataType::Float32).contains("NaN"));
        assert!(note(&[0xFF80, 0], DataType::Float32).contains("infinity"));
        assert!(
            note(&[0x6B00, 0x8D40], DataType::Uint32).contains("2026-"),
            "{}",
            note(&[0x6B00, 0x8D40], DataType::Uint32)
        );
    }

    proptest::proptest! {
        #[test]
        fn any_words_have_readings_in_order(words in proptest::collection::vec(proptest::num::u16::ANY, 1..=125)) {
            let all = readings(&words, NOW);
            proptest::prop_assert!(!all.is_empty());
            proptest::prop_assert!(all.is_sorted_by(|one, next| one.score >= next.score));
            proptest::prop_assert!(all.iter().all(|reading| (0..=100).contains(&reading.score)));
        }

        #[test]
        fn a_measurement_with_few_digits_is_found_in_any_order(tenths in 11i32..99_999, order in 0usize..4) {
            let value = Value::Float(f64::from(tenths) / 10.0);
            let words = registers::encode(&value, DataType::Float32, ORDERS[order].0).expect("fits");
            let all = readings(&words, NOW);
            let place = all.iter().position(|reading| shown(reading.values[0].as_ref()) == shown(Some(&value)));
            proptest::prop_assert!(place.is_some_and(|place| place < 4), "{place:?} in {all:?}");
        }
    }
}
