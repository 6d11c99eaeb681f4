//! Data types of Sparkplug (specification, section 6.4.16), which of them a tag has, and its values in that type.
//!
//! Chosen so that every decoder that was tried reads the same number (`tests/foreign/sparkplug.py` does it again):
//!
//! | sent as | Tahu's Python class | npm sparkplug-payload | pysparkplug |
//! |---|---|---|---|
//! | Int16 −1 as 0xFFFF | 65535 | 65535 | −1 |
//! | Int16 −1 as 0xFFFF_FFFF | −1 | −1 | refuses the payload |
//! | UInt32 in `int_value` | right | null | right |
//! | Int32, Int64, UInt64, Float, Double, Boolean, String, DateTime | right | right | right |
//! | anything without a datatype in data | by the birth | null | by the birth |
//!
//! So: Int32 for all that fits, then Int64, then UInt64; never the others.

use crate::model::data_type;
use crate::model::quality::Quality;
use crate::model::value;

/// Numbers of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the specification's, and say it")]
#[repr(u8)]
pub enum DataType {
    Int8 = 1,
    Int16 = 2,
    Int32 = 3,
    Int64 = 4,
    UInt8 = 5,
    UInt16 = 6,
    UInt32 = 7,
    UInt64 = 8,
    Float = 9,
    Double = 10,
    Boolean = 11,
    String = 12,
    DateTime = 13,
    Text = 14,
    Uuid = 15,
}

impl DataType {
    /// All that a metric of ours, or a command for one, can have.
    pub const ALL: [Self; 15] = [
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::UInt8,
        Self::UInt16,
        Self::UInt32,
        Self::UInt64,
        Self::Float,
        Self::Double,
        Self::Boolean,
        Self::String,
        Self::DateTime,
        Self::Text,
        Self::Uuid,
    ];

    /// The type of this number; `None` for data sets, bytes, templates, arrays and numbers that are none.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == code)
    }
}

/// A value as it stands in a payload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// `is_null`
    Null,
    /// `int_value`: up to 32 bits, two's complement.
    Int(u32),
    /// `long_value`: 64 bits, two's complement; ms since 1970 of a time.
    Long(u64),
    /// `float_value`
    Float(f32),
    /// `double_value`
    Double(f64),
    /// `boolean_value`
    Bool(bool),
    /// `string_value`
    Str(&'a str),
}

/// What was done to a raw value before it became a sample: together with its type it decides what it can be. The raw value of a
/// derived tag is what its expression gives, in the type of the tag.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Worked {
    /// Nothing.
    Raw,
    /// `raw * factor + offset`
    Scaled {
        /// Finite, not 0.
        factor: f64,
        /// Finite.
        offset: f64,
    },
    /// By a power of ten that the device tells (a SunSpec scale factor), and perhaps `scale`.
    ByDevice {
        /// Finite; what is added to it after that.
        offset: f64,
    },
    /// To the words of a map.
    Mapped,
}

/// A register of 16 bits has so many values; with this many steps between them a float keeps all of them apart.
const STEPS_OF_A_FLOAT: f64 = 8_388_608.0; // 2^23

/// The type that a tag has in births.
pub fn type_of(on_wire: data_type::DataType, worked: Worked) -> DataType {
    use data_type::DataType as Wire;
    if worked == Worked::Mapped {
        return DataType::String;
    }
    if !on_wire.is_number() {
        return match on_wire {
            Wire::Bool => DataType::Boolean,
            moment if moment.is_time() => DataType::DateTime,
            _ => DataType::String,
        };
    }
    match worked {
        Worked::Raw => raw_number(on_wire),
        Worked::Scaled { factor, offset } if on_wire.is_integer() => scaled(on_wire, factor, offset),
        // The steps are small beside the value whatever the power is; but nobody knows how small beside an offset.
        Worked::ByDevice { offset: 0.0 } if on_wire.registers() == 1 && on_wire.is_integer() => DataType::Float,
        _ => DataType::Double,
    }
}

fn raw_number(on_wire: data_type::DataType) -> DataType {
    match on_wire {
        data_type::DataType::Float16 | data_type::DataType::Float32 => DataType::Float,
        data_type::DataType::Float64 => DataType::Double,
        whole => smallest(range(whole)),
    }
}

/// What a whole raw number can be.
fn range(on_wire: data_type::DataType) -> (i128, i128) {
    use data_type::DataType as Wire;
    match on_wire {
        Wire::Int16 => (i16::MIN.into(), i16::MAX.into()),
        Wire::Uint16 | Wire::Bcd16 => (0, u16::MAX.into()),
        Wire::Int32 => (i32::MIN.into(), i32::MAX.into()),
        Wire::Uint32 => (0, u32::MAX.into()),
        Wire::Bcd32 => (0, 99_999_999),
        Wire::Uint64 => (0, u64::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()), // Int64, Mod10
    }
}

fn smallest((min, max): (i128, i128)) -> DataType {
    let within = |lowest: i128, highest: i128| lowest <= min && max <= highest;
    if within(i32::MIN.into(), i32::MAX.into()) {
        DataType::Int32
    } else if within(i64::MIN.into(), i64::MAX.into()) {
        DataType::Int64
    } else if within(0, u64::MAX.into()) {
        DataType::UInt64
    } else {
        DataType::Double
    }
}

/// Whole numbers stay whole under a whole scale. Else a double, or a float where that tells every register from the next.
#[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
fn scaled(on_wire: data_type::DataType, factor: f64, offset: f64) -> DataType {
    let whole = |number: f64| number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0;
    if whole(factor) && whole(offset) {
        let (min, max) = range(on_wire);
        let ends = [min, max].map(|raw| raw * factor as i128 + offset as i128);
        return smallest((ends[0].min(ends[1]), ends[0].max(ends[1])));
    }
    let largest = 65_535.0 * factor.abs() + offset.abs();
    let told_apart = largest / factor.abs() < STEPS_OF_A_FLOAT && largest < 1e30 && factor.abs() > 1e-30;
    if on_wire.registers() == 1 && told_apart { DataType::Float } else { DataType::Double }
}

/// A sample's value in the type of its tag; `None` where it cannot be said in it (an old sample of a tag that was another
/// one then). Whole numbers are exact or not there; a real number is rounded to a float where the type is one.
pub fn value_of(value: Option<&value::Value>, kind: DataType) -> Option<Value<'_>> {
    let Some(value) = value else { return Some(Value::Null) };
    match kind {
        DataType::Boolean => match value {
            value::Value::Bool(bit) => Some(Value::Bool(*bit)),
            _ => None,
        },
        DataType::String | DataType::Text | DataType::Uuid => match value {
            value::Value::Text(text) => Some(Value::Str(text)),
            _ => None,
        },
        DataType::DateTime => match value {
            value::Value::Text(text) => moment(text),
            _ => None,
        },
        DataType::Float => real(value).map(as_float).filter(|number| number.is_finite()).map(Value::Float),
        DataType::Double => real(value).map(Value::Double),
        DataType::Int64 => value.as_whole().and_then(|whole| i64::try_from(whole).ok()).map(signed_long),
        DataType::UInt64 => value.as_whole().and_then(|whole| u64::try_from(whole).ok()).map(Value::Long),
        DataType::UInt32 | DataType::UInt16 | DataType::UInt8 => {
            value.as_whole().and_then(|whole| u32::try_from(whole).ok()).map(Value::Int)
        }
        DataType::Int32 | DataType::Int16 | DataType::Int8 => {
            value.as_whole().and_then(|whole| i32::try_from(whole).ok()).map(|whole| Value::Int(whole.cast_unsigned()))
        }
    }
}

const fn signed_long(whole: i64) -> Value<'static> {
    Value::Long(whole.cast_unsigned())
}

fn moment(text: &str) -> Option<Value<'_>> {
    text.parse::<jiff::Timestamp>().ok().map(|moment| signed_long(moment.as_millisecond()))
}

fn real(value: &value::Value) -> Option<f64> {
    if matches!(value, value::Value::Bool(_)) { None } else { value.as_f64() }
}

#[expect(clippy::cast_possible_truncation, reason = "type_of chose a float because 24 bits are all it has")]
const fn as_float(number: f64) -> f32 {
    number as f32
}

/// The value of the property `Quality`: 192 good, 500 stale, 0 bad; there are no others (section 6.4.17). A doubt has
/// no code of its own: a host that only knows these is told not to take the value for a good one.
pub const fn quality_code(quality: Quality) -> i32 {
    match quality {
        Quality::Good => 192,
        Quality::Uncertain(_) => 500,
        Quality::Bad(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::data_type::DataType as Wire;
    use crate::model::quality::Cause;

    fn scaled(factor: f64, offset: f64) -> Worked {
        Worked::Scaled { factor, offset }
    }

    #[test]
    fn a_tag_has_the_smallest_type_that_every_decoder_reads_and_that_loses_nothing() {
        for (wire, worked, kind) in [
            (Wire::Bool, Worked::Raw, DataType::Boolean),
            (Wire::Int16, Worked::Raw, DataType::Int32),
            (Wire::Uint16, Worked::Raw, DataType::Int32),
            (Wire::Int32, Worked::Raw, DataType::Int32),
            (Wire::Bcd32, Worked::Raw, DataType::Int32),
            (Wire::Uint32, Worked::Raw, DataType::Int64),
            (Wire::Int64, Worked::Raw, DataType::Int64),
            (Wire::Mod10(4), Worked::Raw, DataType::Int64),
            (Wire::Uint64, Worked::Raw, DataType::UInt64),
            (Wire::Float16, Worked::Raw, DataType::Float),
            (Wire::Float32, Worked::Raw, DataType::Float),
            (Wire::Float64, Worked::Raw, DataType::Double),
            (Wire::Text(20), Worked::Raw, DataType::String),
            (Wire::Bytes(4), Worked::Raw, DataType::String),
            (Wire::Unix32, Worked::Raw, DataType::DateTime),
            (Wire::Cp56, Worked::Raw, DataType::DateTime),
            (Wire::Uint16, Worked::Mapped, DataType::String),
            (Wire::Int16, scaled(0.1, 0.0), DataType::Float),
            (Wire::Int16, scaled(0.1, 273.15), DataType::Float),
            (Wire::Int16, scaled(0.001, 1e9), DataType::Double), // a float has no steps of 0.001 up there
            (Wire::Int16, scaled(1e35, 0.0), DataType::Double),
            (Wire::Int16, scaled(10.0, -5.0), DataType::Int32),
            (Wire::Uint16, scaled(-100_000.0, 0.0), DataType::Int64),
            (Wire::Uint64, scaled(2.0, 0.0), DataType::Double),
            (Wire::Int32, scaled(0.1, 0.0), DataType::Double),
            (Wire::Float32, scaled(0.1, 0.0), DataType::Double),
            (Wire::Int16, Worked::ByDevice { offset: 0.0 }, DataType::Float),
            (Wire::Int16, Worked::ByDevice { offset: 10_000.0 }, DataType::Double), // in steps of 0.0001, perhaps
            (Wire::Uint32, Worked::ByDevice { offset: 0.0 }, DataType::Double),
            (Wire::Int64, scaled(2.0, 0.0), DataType::Double),
            (Wire::Int64, scaled(0.1, 0.0), DataType::Double),
        ] {
            assert_eq!(type_of(wire, worked), kind, "{wire} {worked:?}");
        }
    }

    #[test]
    fn every_register_of_16_bits_is_told_from_the_next_in_a_float() {
        for (factor, offset) in [(0.1, 0.0), (0.01, -200.0), (0.001, 4000.0)] {
            assert_eq!(type_of(Wire::Uint16, scaled(factor, offset)), DataType::Float);
            let sent = |raw: u16| {
                let value = value::Value::Float(f64::from(raw) * factor + offset);
                format!("{:?}", value_of(Some(&value), DataType::Float))
            };
            for raw in 0..u16::MAX {
                assert_ne!(sent(raw), sent(raw + 1), "{raw} * {factor} + {offset}");
            }
        }
    }

    #[test]
    fn values_are_exact_in_the_type_of_their_tag_or_not_there() {
        use value::Value as Sample;
        let text = |text: &str| Sample::Text(text.into());
        for (value, kind, sent) in [
            (Sample::Int(-1), DataType::Int32, Some(Value::Int(0xFFFF_FFFF))),
            (Sample::Int(i32::MIN.into()), DataType::Int32, Some(Value::Int(0x8000_0000))),
            (Sample::Uint(1 << 31), DataType::Int32, None),
            (Sample::Uint(u64::MAX), DataType::UInt64, Some(Value::Long(u64::MAX))),
            (Sample::Int(-1), DataType::UInt64, None),
            (Sample::Int(i64::MIN), DataType::Int64, Some(Value::Long(1 << 63))),
            (Sample::Uint(u64::MAX), DataType::Int64, None),
            (Sample::Float(0.1), DataType::Double, Some(Value::Double(0.1))),
            (Sample::Float(0.5), DataType::Float, Some(Value::Float(0.5))),
            (Sample::Float(1e300), DataType::Float, None),
            (Sample::Int(7), DataType::Float, Some(Value::Float(7.0))), // a scale factor of the device made it whole
            (Sample::Float(1.0), DataType::Int32, None),
            (Sample::Bool(true), DataType::Boolean, Some(Value::Bool(true))),
            (Sample::Bool(true), DataType::Double, None),
            (Sample::Int(1), DataType::Boolean, None),
            (text("auto"), DataType::Double, None),
            (text("2026-11-20T20:00:00.123Z"), DataType::DateTime, Some(Value::Long(1_795_204_800_123))),
            (text("1969-12-31T23:59:59.999Z"), DataType::DateTime, Some(Value::Long(u64::MAX))),
            (text("yesterday"), DataType::DateTime, None),
        ] {
            assert_eq!(value_of(Some(&value), kind), sent, "{value:?} as {kind:?}");
        }
        assert_eq!(value_of(Some(&text("Größe")), DataType::String), Some(Value::Str("Größe")));
        assert_eq!(value_of(None, DataType::Int32), Some(Value::Null));
    }

    #[test]
    fn qualities_are_the_three_codes_of_the_specification() {
        let all = [Quality::Good, Quality::Uncertain(Cause::Range), Quality::Bad(Cause::Timeout)];
        assert_eq!(all.map(quality_code), [192, 500, 0]);
        assert_eq!(DataType::from_code(0), None);
        assert!(DataType::ALL.iter().all(|kind| DataType::from_code(*kind as u32) == Some(*kind)));
    }
}
