//! What the raw words of a tag mean to an engineer, and back: sentinels, bit fields, scale, scale factor, map.
//!
//! Fed by the field room with the words of one tag, by commands with values, and by the simulated plant with both. Pure.
//! In this order: raw words → sentinel (`nan`) → field (`mask`, `shift`) → type → map, or scale and scale factor. Promises:
//! a sentinel is never a value, not even to write; the way back gives words that mean the value, or says why there are none.

use std::sync::Arc;

use crate::config::plan::{TagPlan, ValueMap};
use crate::model::quality::{Cause, Quality};
use crate::model::registers::{DoesNotFit, Form, Unreadable};
use crate::model::value::Value;

use super::scale::{Exponent, Raw, Scaling};

/// How one tag is read and written; made ready once.
#[derive(Debug, Clone)]
pub struct Meaning {
    form: Form,
    nan: Box<[u64]>,
    scaling: Scaling,
    map: Option<Arc<ValueMap>>,
}

/// Where the scale factor of a tag comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    /// The tag has no `scale_from`.
    None,
    /// What it holds.
    Known(Exponent),
}

impl Meaning {
    /// Of a tag.
    pub fn of(tag: &TagPlan) -> Self {
        Self {
            form: tag.form(),
            nan: tag.nan.as_slice().into(),
            scaling: Scaling::new(tag.scale),
            map: tag.map.clone(),
        }
    }

    /// Words off the wire to a value with its quality; limits are not looked at.
    pub fn read(&self, words: &[u16], factor: Factor) -> (Option<Value>, Quality) {
        if !self.nan.is_empty() && self.form.raw(words).is_some_and(|raw| self.nan.contains(&raw)) {
            return bad(Cause::Nan);
        }
        match self.form.read(words) {
            Ok(raw) => self.valued(raw, factor),
            Err(Unreadable::NotANumber) => bad(Cause::Nan),
            Err(Unreadable::NotText) => bad(Cause::Config),
            Err(Unreadable::TooShort) => bad(Cause::Protocol),
        }
    }

    /// A coil, or one bit of a register.
    pub fn read_bit(&self, on: bool) -> (Option<Value>, Quality) {
        self.engineer(Value::Bool(on))
    }

    /// What came as a value already: a switch, or text of an instrument.
    pub fn engineer(&self, raw: Value) -> (Option<Value>, Quality) {
        self.valued(raw, Factor::None)
    }

    fn valued(&self, raw: Value, factor: Factor) -> (Option<Value>, Quality) {
        let Some(map) = &self.map else {
            return self.scaled(factor).apply(raw).map_or(bad(Cause::Nan), |value| (Some(value), Quality::Good));
        };
        let number = match raw {
            Value::Bool(on) => i128::from(on),
            _ => match raw.as_whole() {
                Some(number) => number,
                None => return bad(Cause::Config),
            },
        };
        match map.word(number) {
            Some(word) => (Some(Value::Text(word.into())), Quality::Good),
            None => (Some(Value::Text(number.to_string().into())), Quality::Uncertain(Cause::Range)),
        }
    }

    fn scaled(&self, factor: Factor) -> Scaling {
        match factor {
            Factor::None => self.scaling,
            Factor::Known(exponent) => self.scaling.times_ten_to(exponent),
        }
    }

    /// A value to words for the wire; of a bit field only its own bits are set.
    pub fn write(&self, value: &Value, factor: Factor) -> Result<Vec<u16>, DoesNotFit> {
        let words = self.form.write(&self.raw(value, factor)?)?;
        // Of a field the sentinel is that of the whole register, which is not known here.
        let is_sentinel = self.form.field.is_none() && self.form.raw(&words).is_some_and(|raw| self.nan.contains(&raw));
        if is_sentinel { Err(DoesNotFit::OutOfRange) } else { Ok(words) }
    }

    /// A value to a switch.
    pub fn write_bit(&self, value: &Value) -> Result<bool, DoesNotFit> {
        match self.raw(value, Factor::None)? {
            Value::Bool(on) => Ok(on),
            raw => match raw.as_f64() {
                Some(0.0) => Ok(false), // 0 and 1 are as good as false and true for a switch
                Some(1.0) => Ok(true),
                _ => Err(DoesNotFit::WrongKind),
            },
        }
    }

    fn raw(&self, value: &Value, factor: Factor) -> Result<Value, DoesNotFit> {
        let Some(map) = &self.map else {
            let raw = if self.form.data_type.is_integer() { Raw::Whole } else { Raw::Real };
            return Ok(self.scaled(factor).invert(value, raw));
        };
        let Value::Text(word) = value else { return Err(DoesNotFit::WrongKind) };
        let number = map.number(word).ok_or(DoesNotFit::OutOfRange)?;
        let signed = i64::try_from(number).map(Value::Int);
        signed.or_else(|_| u64::try_from(number).map(Value::Uint)).map_err(|_| DoesNotFit::OutOfRange)
    }

    /// How the value lies in its registers.
    pub const fn form(&self) -> &Form {
        &self.form
    }
}

const fn bad(cause: Cause) -> (Option<Value>, Quality) {
    (None, Quality::Bad(cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::Scale;
    use crate::model::registers::BitField;
    use crate::model::tag::{Address, DataType, DeviceIx, Order, Table};

    fn tag(data_type: DataType) -> TagPlan {
        TagPlan::plain("t", DeviceIx(0), Address { table: Table::Holding, start: 0, bit: None }, data_type)
    }

    fn read(tag: &TagPlan, words: &[u16]) -> (Option<Value>, Quality) {
        Meaning::of(tag).read(words, Factor::None)
    }

    #[test]
    fn a_sentinel_is_no_value_before_any_scale_and_in_any_order() {
        let int16 = TagPlan { nan: vec![0x8000], scale: Scale { factor: 0.1, offset: 0.0 }, ..tag(DataType::Int16) };
        assert_eq!(read(&int16, &[0x8000]), bad(Cause::Nan));
        assert_eq!(read(&int16, &[0x8001]), (Some(Value::Float(-3276.7)), Quality::Good));
        let several = TagPlan { nan: vec![0x8000_0000, 0xFFFF_FFFF], order: Order::Cdab, ..tag(DataType::Uint32) };
        assert_eq!(read(&several, &[0, 0x8000]), bad(Cause::Nan));
        assert_eq!(read(&several, &[0xFFFF, 0xFFFF]), bad(Cause::Nan));
        assert_eq!(read(&several, &[0x8000, 0]), (Some(Value::Uint(0x8000)), Quality::Good), "the other order");
        let field =
            TagPlan { nan: vec![0xFFFF], field: Some(BitField { mask: 0xF, shift: 0 }), ..tag(DataType::Uint16) };
        assert_eq!(read(&field, &[0xFFFF]), bad(Cause::Nan), "of the whole register");
        assert_eq!(read(&field, &[0x0FFF]), (Some(Value::Uint(15)), Quality::Good));
        let field = TagPlan { nan: vec![0], ..field };
        assert_eq!(Meaning::of(&field).write(&Value::Uint(0), Factor::None), Ok(vec![0]), "some bits are no sentinel");
        assert_eq!(Meaning::of(&int16).write(&Value::Float(-3276.8), Factor::None), Err(DoesNotFit::OutOfRange));
        assert_eq!(read(&tag(DataType::Float32), &[0x7FC0, 0]), bad(Cause::Nan));
        assert_eq!(read(&tag(DataType::Bcd16), &[0x00A0]), bad(Cause::Nan));
        assert_eq!(read(&tag(DataType::Text(2)), &[0xC328]), bad(Cause::Config));
        assert_eq!(read(&tag(DataType::Int32), &[1]), bad(Cause::Protocol));
    }

    #[test]
    fn a_map_gives_words_and_a_number_without_one_is_uncertain() {
        let entries = vec![(-1, "fault".into()), (0, "off".into()), (1, "on".into())];
        let map = Some(Arc::new(ValueMap { entries }));
        let state = TagPlan { map: map.clone(), ..tag(DataType::Int16) };
        let word = |word: &str| Some(Value::Text(word.into()));
        assert_eq!(read(&state, &[1]), (word("on"), Quality::Good));
        assert_eq!(read(&state, &[0xFFFF]), (word("fault"), Quality::Good));
        assert_eq!(read(&state, &[7]), (word("7"), Quality::Uncertain(Cause::Range)));
        let meaning = Meaning::of(&state);
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(meaning.write(&text("fault"), Factor::None), Ok(vec![0xFFFF]));
        assert_eq!(meaning.write(&text("7"), Factor::None), Err(DoesNotFit::OutOfRange));
        assert_eq!(meaning.write(&Value::Int(1), Factor::None), Err(DoesNotFit::WrongKind));
        let switch = Meaning::of(&TagPlan { map, ..tag(DataType::Bool) });
        assert_eq!(switch.read_bit(true), (word("on"), Quality::Good));
        assert_eq!(switch.write_bit(&text("off")), Ok(false));
        assert_eq!(Meaning::of(&tag(DataType::Bool)).write_bit(&Value::Uint(1)), Ok(true));
        assert_eq!(Meaning::of(&tag(DataType::Bool)).write_bit(&Value::Uint(2)), Err(DoesNotFit::WrongKind));
    }

    proptest::proptest! {
        /// Every integer type, order, decimal scale and scale factor: what is read is written back as the same words.
        #[test]
        fn what_is_read_is_written_back(raw: u64, pick in 0usize..9, order in 0usize..4, m in 1i32..50, digits in 0u32..4,
                                        power in -10i64..=10) {
            let types = [DataType::Int16, DataType::Uint16, DataType::Int32, DataType::Uint32, DataType::Int64,
                         DataType::Uint64, DataType::Bcd16, DataType::Bcd32, DataType::Mod10(3)];
            let data_type = types[pick];
            let order = [Order::Abcd, Order::Cdab, Order::Badc, Order::Dcba][order];
            let scale = Scale { factor: f64::from(m) / f64::from(10i32.pow(digits)), offset: 0.0 };
            let plan = TagPlan { order, scale, ..tag(data_type) };
            // Numbers of up to ten digits survive any decimal scale in a double.
            let number = Value::Uint(raw % match data_type {
                DataType::Bcd16 => 10_000,
                DataType::Int16 | DataType::Uint16 => 1 << 15,
                DataType::Bcd32 => 100_000_000,
                DataType::Int32 | DataType::Uint32 => 1 << 31,
                _ => 10_000_000_000,
            });
            let words = plan.form().write(&number).expect("fits");
            let factor = Factor::Known(Exponent::of(&Value::Int(power)).expect("a scale factor"));
            let meaning = Meaning::of(&plan);
            let (value, quality) = meaning.read(&words, factor);
            proptest::prop_assert_eq!(quality, Quality::Good);
            proptest::prop_assert_eq!(meaning.write(&value.expect("good"), factor), Ok(words));
        }

        /// Without a scale every 64-bit integer is exact both ways.
        #[test]
        fn counters_of_64_bits_are_exact(raw: u64, order in 0usize..4) {
            let order = [Order::Abcd, Order::Cdab, Order::Badc, Order::Dcba][order];
            for (data_type, value) in [(DataType::Uint64, Value::Uint(raw)), (DataType::Int64, Value::Int(raw.cast_signed()))] {
                let meaning = Meaning::of(&TagPlan { order, ..tag(data_type) });
                let words = meaning.write(&value, Factor::None).expect("fits");
                proptest::prop_assert_eq!(meaning.read(&words, Factor::None), (Some(value), Quality::Good));
            }
        }
    }
}
