//! Registers to values and back: the code for "word order of a float".
//!
//! Pure. The field room cuts the words of a tag out of a block and calls [`decode`]; a write calls [`encode`];
//! the simulated plant uses the same two, so that what is tested there is tested here byte by byte.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "cutting numbers to the width of a wire type is what this file is for; every range is checked first"
)]

use super::tag::{DataType, Order};
use super::value::Value;

/// Why words are no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// NaN or an infinity: published as null, bad, cause nan.
    #[error("not a number")]
    NotANumber,
    /// Text that is not UTF-8: published as null, bad, cause config.
    #[error("text is not UTF-8")]
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

/// Reads one value from the first `data_type.registers()` words, as they came off the wire.
pub fn decode(words: &[u16], data_type: DataType, order: Order) -> Result<Value, Unreadable> {
    let words = words.get(..usize::from(data_type.registers())).ok_or(Unreadable::TooShort)?;
    if let DataType::Text(length) = data_type {
        return decode_text(words, usize::from(length), order);
    }
    let raw = gather(words, order);
    Ok(match data_type {
        DataType::Bool => Value::Bool(raw != 0),
        DataType::Uint16 | DataType::Uint32 | DataType::Uint64 => Value::Uint(raw),
        DataType::Int16 => Value::Int(i64::from(raw as u16 as i16)),
        DataType::Int32 => Value::Int(i64::from(raw as u32 as i32)),
        DataType::Int64 => Value::Int(raw as i64),
        DataType::Float32 => finite(f64::from(f32::from_bits(raw as u32)))?,
        DataType::Float64 => finite(f64::from_bits(raw))?,
        DataType::Text(_) => unreachable!("text returned above"),
    })
}

/// Writes one value as `data_type.registers()` words, ready for the wire. Whole real numbers are accepted for integer
/// types; fractions are not rounded away but refused. Text longer than the tag is refused, shorter is padded with NUL.
pub fn encode(value: &Value, data_type: DataType, order: Order) -> Result<Vec<u16>, DoesNotFit> {
    let raw = match (data_type, value) {
        (DataType::Text(length), Value::Text(text)) => return encode_text(text, usize::from(length), order),
        (DataType::Bool, Value::Bool(bit)) => u64::from(*bit),
        (DataType::Bool | DataType::Text(_), _) | (_, Value::Text(_) | Value::Bool(_)) => {
            return Err(DoesNotFit::WrongKind);
        }
        (DataType::Float32, number) => {
            let single = number.as_f64().ok_or(DoesNotFit::WrongKind)? as f32;
            if !single.is_finite() {
                return Err(DoesNotFit::OutOfRange);
            }
            u64::from(single.to_bits())
        }
        (DataType::Float64, number) => number.as_f64().ok_or(DoesNotFit::WrongKind)?.to_bits(),
        (integer, number) => {
            let whole = whole_number(number)?;
            let (low, high) = integer_range(integer);
            if whole < low || whole > high {
                return Err(DoesNotFit::OutOfRange);
            }
            whole as u64
        }
    };
    Ok(scatter(raw, data_type.registers(), order))
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

fn decode_text(words: &[u16], length: usize, order: Order) -> Result<Value, Unreadable> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|next| word(*next, order).to_be_bytes()).collect();
    bytes.truncate(length);
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end); // text ends at the first NUL; what follows is left over from longer text
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Unreadable::NotText)?;
    Ok(Value::Text(text.trim_end().into()))
}

fn encode_text(text: &str, length: usize, order: Order) -> Result<Vec<u16>, DoesNotFit> {
    if text.len() > length || text.contains('\0') {
        return Err(DoesNotFit::OutOfRange);
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(length.div_ceil(2) * 2, 0);
    Ok(bytes.chunks_exact(2).map(|pair| word(u16::from_be_bytes([pair[0], pair[1]]), order)).collect())
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

    proptest::proptest! {
        #[test]
        fn what_is_written_reads_back(raw: u64, single: f32, order in 0usize..4, text in "[a-z]{0,7}") {
            let order = [Abcd, Cdab, Badc, Dcba][order];
            let mut cases = vec![
                (Value::Uint(raw), Uint64), (Value::Int(raw as i64), Int64),
                (Value::Uint(raw & 0xFFFF_FFFF), Uint32), (Value::Int(i64::from(raw as i16)), Int16),
                (Value::Text(text.into()), Text(7)),
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
