//! Registers to values and back: the code for "word order of a float".
//!
//! Pure. The field room cuts the words of a tag out of a block and reads them with the [`Form`] of the tag; a write goes the
//! other way; the simulated plant uses the same two, so that what is tested there is tested here byte by byte.
//! `bits` fields of a register · `digits` BCD, modulo 10 000, half floats · `moment` times · `text` text and bytes.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "cutting numbers to the width of a wire type is what this file is for; every range is checked first"
)]

mod bits;
mod digits;
mod moment;
mod text;

pub use bits::{BitField, Sign};
pub use text::{Encoding, TextForm};

use super::tag::{DataType, Order};
use super::value::Value;

/// Why words are no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// NaN or an infinity, digits that are none, a time that is none: published as null, bad, cause nan.
    #[error("not a number")]
    NotANumber,
    /// Text in another encoding than declared: published as null, bad, cause config.
    #[error("text is not in its encoding")]
    NotText,
    /// Fewer words than the type needs; the caller cut wrongly or the device answered short.
    #[error("too few registers for the type")]
    TooShort,
}

/// Why a value cannot be written as the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DoesNotFit {
    /// A number outside the type's range.
    #[error("the value is outside the range of the type")]
    OutOfRange,
    /// Text for a number, a number for a boolean, and the like.
    #[error("the value is of another kind than the type")]
    WrongKind,
}

/// All there is to know about how a value lies in its registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// What it is.
    pub data_type: DataType,
    /// In which order its bytes arrive.
    pub order: Order,
    /// The bits that are the value, of a binary integer; `None`: all.
    pub field: Option<BitField>,
    /// How text lies in its bytes.
    pub text: TextForm,
}

impl Form {
    /// A type and an order; the rest as usual.
    pub fn plain(data_type: DataType, order: Order) -> Self {
        Self { data_type, order, field: None, text: TextForm::default() }
    }

    /// The bits of the first words as one number, most significant first; `None` for text and bytes, and for too few words.
    pub fn raw(&self, words: &[u16]) -> Option<u64> {
        if matches!(self.data_type, DataType::Text(_) | DataType::Bytes(_)) {
            return None;
        }
        words.get(..usize::from(self.data_type.registers())).map(|words| gather(words, self.order))
    }

    /// Reads one value from the first `data_type.registers()` words, as they came off the wire.
    pub fn read(&self, words: &[u16]) -> Result<Value, Unreadable> {
        let words = words.get(..usize::from(self.data_type.registers())).ok_or(Unreadable::TooShort)?;
        match self.data_type {
            DataType::Text(length) => text::decode(words, length.into(), self.order, self.text),
            DataType::Bytes(length) => Ok(text::decode_bytes(words, length.into(), self.order)),
            data_type => match self.field {
                None => read_raw(gather(words, self.order), data_type),
                Some(field) if data_type.is_signed() => Ok(Value::Int(field.cut_signed(gather(words, self.order)))),
                Some(field) => Ok(Value::Uint(field.cut(gather(words, self.order)))),
            },
        }
    }

    /// Writes one value as `data_type.registers()` words, ready for the wire; of a field only its own bits are set. Whole real
    /// numbers are accepted for integer types; fractions are not rounded away but refused, and so is text that is too long.
    pub fn write(&self, value: &Value) -> Result<Vec<u16>, DoesNotFit> {
        let raw = match (self.data_type, value) {
            (DataType::Text(length), Value::Text(text)) => {
                return text::encode(text, length.into(), self.order, self.text);
            }
            (DataType::Bytes(length), Value::Text(hex)) => return text::encode_bytes(hex, length.into(), self.order),
            (data_type, value) => match self.field {
                None => write_raw(value, data_type)?,
                Some(field) => {
                    let sign = if data_type.is_signed() { Sign::Signed } else { Sign::Unsigned };
                    field.place(whole_number(value)?, sign).ok_or(DoesNotFit::OutOfRange)?
                }
            },
        };
        Ok(scatter(raw, self.data_type.registers(), self.order))
    }

    /// Where the bits of the field lie in the words on the wire; `None` when the words have nothing but the value.
    pub fn mask_words(&self) -> Option<Vec<u16>> {
        self.field.map(|field| scatter(field.mask, self.data_type.registers(), self.order))
    }
}

/// Reads one value of a type in an order; see [`Form::read`].
pub fn decode(words: &[u16], data_type: DataType, order: Order) -> Result<Value, Unreadable> {
    Form::plain(data_type, order).read(words)
}

/// Writes one value of a type in an order; see [`Form::write`].
pub fn encode(value: &Value, data_type: DataType, order: Order) -> Result<Vec<u16>, DoesNotFit> {
    Form::plain(data_type, order).write(value)
}

fn read_raw(raw: u64, data_type: DataType) -> Result<Value, Unreadable> {
    Ok(match data_type {
        DataType::Bool => Value::Bool(raw != 0),
        DataType::Uint16 | DataType::Uint32 | DataType::Uint64 => Value::Uint(raw),
        DataType::Int16 => Value::Int(i64::from(raw as u16 as i16)),
        DataType::Int32 => Value::Int(i64::from(raw as u32 as i32)),
        DataType::Int64 => Value::Int(raw as i64),
        DataType::Float16 => finite(digits::half(raw as u16))?,
        DataType::Float32 => finite(f64::from(f32::from_bits(raw as u32)))?,
        DataType::Float64 => finite(f64::from_bits(raw))?,
        DataType::Bcd16 => Value::Uint(digits::bcd(raw, 4)?),
        DataType::Bcd32 => Value::Uint(digits::bcd(raw, 8)?),
        DataType::Mod10(registers) => Value::Int(digits::mod10(raw, registers)?),
        DataType::Unix32 => moment::text(raw as i64 * 1000)?,
        DataType::Unix64 => moment::text((raw as i64).checked_mul(1000).ok_or(Unreadable::NotANumber)?)?,
        DataType::Cp56 => moment::text(moment::cp56(raw)?)?,
        DataType::Text(_) | DataType::Bytes(_) => unreachable!("read as bytes, not as a number"),
    })
}

fn write_raw(value: &Value, data_type: DataType) -> Result<u64, DoesNotFit> {
    match (data_type, value) {
        (DataType::Bool, Value::Bool(bit)) => Ok(u64::from(*bit)),
        (DataType::Unix32, Value::Text(text)) => {
            let seconds = moment::seconds(moment::parse(text)?)?;
            u32::try_from(seconds).map(u64::from).map_err(|_| DoesNotFit::OutOfRange)
        }
        (DataType::Unix64, Value::Text(text)) => Ok(moment::seconds(moment::parse(text)?)? as u64),
        (DataType::Cp56, Value::Text(text)) => moment::to_cp56(moment::parse(text)?),
        (data_type, Value::Int(_) | Value::Uint(_) | Value::Float(_)) if data_type.is_number() => {
            write_number(value, data_type)
        }
        _ => Err(DoesNotFit::WrongKind),
    }
}

fn write_number(number: &Value, data_type: DataType) -> Result<u64, DoesNotFit> {
    let real = || number.as_f64().ok_or(DoesNotFit::WrongKind);
    match data_type {
        DataType::Float16 => digits::to_half(real()?).map(u64::from).ok_or(DoesNotFit::OutOfRange),
        DataType::Float32 => {
            let single = real()? as f32;
            if single.is_finite() { Ok(u64::from(single.to_bits())) } else { Err(DoesNotFit::OutOfRange) }
        }
        DataType::Float64 => Ok(real()?.to_bits()),
        DataType::Bcd16 => digits::to_bcd(whole_number(number)?, 4),
        DataType::Bcd32 => digits::to_bcd(whole_number(number)?, 8),
        DataType::Mod10(registers) => digits::to_mod10(whole_number(number)?, registers),
        integer => {
            let whole = whole_number(number)?;
            let (low, high) = integer_range(integer);
            if whole < low || whole > high { Err(DoesNotFit::OutOfRange) } else { Ok(whole as u64) }
        }
    }
}

/// The range of an integer type.
fn integer_range(data_type: DataType) -> (i128, i128) {
    match data_type {
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 => (i64::MIN.into(), i64::MAX.into()),
        DataType::Uint16 => (0, u16::MAX.into()),
        DataType::Uint32 => (0, u32::MAX.into()),
        _ => (0, u64::MAX.into()),
    }
}

fn whole_number(value: &Value) -> Result<i128, DoesNotFit> {
    match value {
        Value::Int(number) => Ok((*number).into()),
        Value::Uint(number) => Ok((*number).into()),
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 2f64.powi(64) => Ok(*number as i128),
        Value::Float(_) => Err(DoesNotFit::OutOfRange),
        Value::Bool(_) | Value::Text(_) => Err(DoesNotFit::WrongKind),
    }
}

fn finite(number: f64) -> Result<Value, Unreadable> {
    if number.is_finite() { Ok(Value::Float(number)) } else { Err(Unreadable::NotANumber) }
}

/// One register as it means itself, whatever way its bytes arrived.
const fn word(word: u16, order: Order) -> u16 {
    if order.bytes_swapped() { word.swap_bytes() } else { word }
}

/// At most four words to one number, most significant first after undoing the order.
fn gather(words: &[u16], order: Order) -> u64 {
    let join = |raw: u64, next: &u16| raw << 16 | u64::from(word(*next, order));
    if order.words_reversed() { words.iter().rev().fold(0, join) } else { words.iter().fold(0, join) }
}

/// The inverse of [`gather`].
fn scatter(raw: u64, count: u16, order: Order) -> Vec<u16> {
    let mut words: Vec<u16> =
        (0..count).rev().map(|place| word((raw >> (16 * u32::from(place))) as u16, order)).collect();
    if order.words_reversed() {
        words.reverse();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use DataType::*;
    use Order::{Abcd, Badc, Cdab, Dcba};

    /// 123.456f32 is 42 F6 E9 79; 0x0102030405060708 shows every byte.
    #[test]
    fn words_of_every_order_read_as_the_same_value() {
        let single = Value::Float(f64::from(123.456f32));
        let cases: &[(&[u16], DataType, Order, Value)] = &[
            (&[0x42F6, 0xE979], Float32, Abcd, single.clone()),
            (&[0xE979, 0x42F6], Float32, Cdab, single.clone()),
            (&[0xF642, 0x79E9], Float32, Badc, single.clone()),
            (&[0x79E9, 0xF642], Float32, Dcba, single),
            (&[0x0102, 0x0304, 0x0506, 0x0708], Uint64, Abcd, Value::Uint(0x0102_0304_0506_0708)),
            (&[0x0708, 0x0506, 0x0304, 0x0102], Uint64, Cdab, Value::Uint(0x0102_0304_0506_0708)),
            (&[0x0201, 0x0403, 0x0605, 0x0807], Uint64, Badc, Value::Uint(0x0102_0304_0506_0708)),
            (&[0x0807, 0x0605, 0x0403, 0x0201], Uint64, Dcba, Value::Uint(0x0102_0304_0506_0708)),
            (&[0xFFFE], Int16, Abcd, Value::Int(-2)),
            (&[0xFFFE], Int16, Cdab, Value::Int(-2)),
            (&[0xFEFF], Int16, Badc, Value::Int(-2)),
            (&[0xFEFF], Int16, Dcba, Value::Int(-2)),
            (&[0xEE15, 0xFFFE], Int32, Cdab, Value::Int(-70_123)),
            (&[0x8000, 0, 0, 0], Int64, Abcd, Value::Int(i64::MIN)),
            (&[0x4142, 0x4300], Text(4), Abcd, Value::Text("ABC".into())),
            (&[0x4241, 0x2043], Text(4), Badc, Value::Text("ABC".into())),
            (&[0, 1], Bool, Abcd, Value::Bool(false)),
        ];
        for (words, data_type, order, value) in cases {
            assert_eq!(decode(words, *data_type, *order).as_ref(), Ok(value), "{words:04x?} {data_type} {order:?}");
        }
    }

    #[test]
    fn what_is_not_a_number_is_never_a_value() {
        assert_eq!(decode(&[0x7FC0, 0], Float32, Abcd), Err(Unreadable::NotANumber));
        assert_eq!(decode(&[0xFF80, 0], Float32, Abcd), Err(Unreadable::NotANumber));
        assert_eq!(decode(&[0x7FF0, 0, 0, 0], Float64, Abcd), Err(Unreadable::NotANumber));
        assert_eq!(decode(&[0xC328], Text(2), Abcd), Err(Unreadable::NotText));
        assert_eq!(decode(&[1], Float32, Abcd), Err(Unreadable::TooShort));
    }

    #[test]
    fn a_write_that_does_not_fit_is_refused_not_rounded() {
        assert_eq!(encode(&Value::Int(70_000), Uint16, Abcd), Err(DoesNotFit::OutOfRange));
        assert_eq!(encode(&Value::Int(-1), Uint64, Abcd), Err(DoesNotFit::OutOfRange));
        assert_eq!(encode(&Value::Float(1.5), Int32, Abcd), Err(DoesNotFit::OutOfRange));
        assert_eq!(encode(&Value::Float(1e39), Float32, Abcd), Err(DoesNotFit::OutOfRange));
        assert_eq!(encode(&Value::Text("abc".into()), Text(2), Abcd), Err(DoesNotFit::OutOfRange));
        assert_eq!(encode(&Value::Text("1".into()), Uint16, Abcd), Err(DoesNotFit::WrongKind));
        assert_eq!(encode(&Value::Bool(true), Uint16, Abcd), Err(DoesNotFit::WrongKind));
    }

    /// 0x6B00A6C0 seconds are 2026-11-20T20:00:00Z: `date -u -d @1795204800` agrees.
    #[test]
    fn decimal_digits_bytes_and_times_arrive_in_any_order() {
        let text = |text: &str| Value::Text(text.into());
        let cases: &[(&[u16], DataType, Order, Value)] = &[
            (&[0x3C00], Float16, Cdab, Value::Float(1.0)),
            (&[0x003C], Float16, Dcba, Value::Float(1.0)),
            (&[0x1234], Bcd16, Abcd, Value::Uint(1234)),
            (&[0x3412], Bcd16, Badc, Value::Uint(1234)),
            (&[0x0012, 0x3456], Bcd32, Abcd, Value::Uint(123_456)),
            (&[0x3456, 0x0012], Bcd32, Cdab, Value::Uint(123_456)),
            (&[0x5634, 0x1200], Bcd32, Dcba, Value::Uint(123_456)),
            (&[0x0001, 0x04D2], Mod10(2), Abcd, Value::Int(11_234)),
            (&[0x04D2, 0x0001], Mod10(2), Cdab, Value::Int(11_234)),
            (&[0x0001, 0x0002, 0x0003], Mod10(3), Abcd, Value::Int(100_020_003)),
            (&[0x0003, 0x0002, 0x0001], Mod10(3), Cdab, Value::Int(100_020_003)),
            (&[0x0100, 0x0200, 0x0300, 0x0400], Mod10(4), Badc, Value::Int(1_000_200_030_004)),
            (&[0x6B00, 0xA6C0], Unix32, Abcd, text("2026-11-20T20:00:00.000Z")),
            (&[0xA6C0, 0x6B00], Unix32, Cdab, text("2026-11-20T20:00:00.000Z")),
            (&[0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF], Unix64, Abcd, text("1969-12-31T23:59:59.000Z")),
            (&[0x001A, 0x0BB4, 0x081E, 0x8707], Cp56, Abcd, text("2026-11-20T08:30:34.567Z")),
            (&[0x0787, 0x1E08, 0xB40B, 0x1A00], Cp56, Dcba, text("2026-11-20T08:30:34.567Z")), // as octets on the wire
            (&[0x0A1B, 0x2C3D], Bytes(3), Abcd, text("0a1b2c")),
            (&[0x0A1B, 0x2C3D], Bytes(3), Cdab, text("0a1b2c")),
            (&[0x1B0A, 0x3D2C], Bytes(3), Dcba, text("0a1b2c")),
        ];
        for (words, data_type, order, value) in cases {
            assert_eq!(decode(words, *data_type, *order).as_ref(), Ok(value), "{words:04x?} {data_type} {order:?}");
        }
    }

    #[test]
    fn digits_that_are_none_and_times_that_are_none_are_no_values() {
        assert_eq!(decode(&[0x12A4], Bcd16, Abcd), Err(Unreadable::NotANumber));
        assert_eq!(decode(&[0x9999, 0x999F], Bcd32, Abcd), Err(Unreadable::NotANumber));
        assert_eq!(decode(&[10_000, 0], Mod10(2), Abcd), Err(Unreadable::NotANumber));
        assert_eq!(decode(&[0x7C00], Float16, Abcd), Err(Unreadable::NotANumber));
        assert_eq!(decode(&[0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF], Unix64, Abcd), Err(Unreadable::NotANumber));
        assert_eq!(decode(&[0, 0, 0, 0], Cp56, Abcd), Err(Unreadable::NotANumber));
        for (value, data_type, error) in [
            (Value::Uint(10_000), Bcd16, DoesNotFit::OutOfRange),
            (Value::Int(-1), Bcd32, DoesNotFit::OutOfRange),
            (Value::Float(65_520.0), Float16, DoesNotFit::OutOfRange),
            (Value::Text("1969-12-31T23:59:59Z".into()), Unix32, DoesNotFit::OutOfRange),
            (Value::Text("2026-11-20".into()), Unix64, DoesNotFit::WrongKind),
            (Value::Uint(5), Unix64, DoesNotFit::WrongKind),
            (Value::Uint(5), Bytes(1), DoesNotFit::WrongKind),
        ] {
            assert_eq!(encode(&value, data_type, Abcd), Err(error), "{value} {data_type}");
        }
    }

    #[test]
    fn a_field_has_its_bits_where_the_order_puts_them() {
        let field = Some(BitField { mask: 0x0FF0, shift: 4 });
        let form = |data_type, order| Form { field, ..Form::plain(data_type, order) };
        assert_eq!(form(Uint16, Abcd).read(&[0xABCD]), Ok(Value::Uint(0xBC)));
        assert_eq!(form(Uint16, Badc).read(&[0xCDAB]), Ok(Value::Uint(0xBC)));
        assert_eq!(form(Int16, Abcd).read(&[0xABCD]), Ok(Value::Int(-0x44)));
        assert_eq!(form(Uint32, Cdab).read(&[0xABCD, 0xFFFF]), Ok(Value::Uint(0xBC)));
        assert_eq!(form(Uint16, Badc).write(&Value::Uint(0xBC)), Ok(vec![0xC00B]));
        assert_eq!(form(Uint16, Badc).mask_words(), Some(vec![0xF00F]));
        assert_eq!(form(Uint32, Cdab).mask_words(), Some(vec![0x0FF0, 0]));
        assert_eq!(form(Uint16, Abcd).write(&Value::Uint(0x100)), Err(DoesNotFit::OutOfRange));
        assert_eq!(form(Int16, Abcd).write(&Value::Int(-128)), Ok(vec![0x0800]));
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_reads_back(raw: u64, single: f32, order in 0usize..4, text in "[a-z]{0,7}") {
            let order = [Abcd, Cdab, Badc, Dcba][order];
            let (seconds, decimal) = (raw % 253_402_300_800, raw % 10_000_000_000_000_000);
            let mut cases = vec![
                (Value::Uint(raw), Uint64), (Value::Int(raw as i64), Int64),
                (Value::Uint(raw & 0xFFFF_FFFF), Uint32), (Value::Int(i64::from(raw as i16)), Int16),
                (Value::Text(text.into()), Text(7)),
                (Value::Text(format!("{raw:016x}").into()), Bytes(8)),
                (Value::Text(format!("{:06x}", raw >> 40).into()), Bytes(3)),
                (Value::Uint(decimal % 10_000), Bcd16), (Value::Uint(decimal % 100_000_000), Bcd32),
                (Value::Int(-((decimal % 100_000_000) as i64)), Mod10(2)),
                (Value::Int((decimal % 1_000_000_000_000) as i64), Mod10(3)), (Value::Int(decimal as i64), Mod10(4)),
                (moment::text(seconds as i64 * 1000).expect("sayable"), Unix64),
                (moment::text((raw & 0xFFFF_FFFF) as i64 * 1000).expect("sayable"), Unix32),
                (moment::text(946_684_800_000 + (raw % 3_155_760_000_000) as i64).expect("sayable"), Cp56),
                (Value::Float(f64::from(raw as i16 >> 5) / 8.0), Float16), // 11 bits: exact
            ];
            if single.is_finite() {
                cases.push((Value::Float(f64::from(single)), Float32));
            }
            for (value, data_type) in cases {
                let words = encode(&value, data_type, order).expect("fits");
                proptest::prop_assert_eq!(decode(&words, data_type, order), Ok(value));
            }
        }
    }
}
