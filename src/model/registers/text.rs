//! Text and bytes in registers: two bytes to a register, the first one in the upper half (in the lower half when the order
//! swaps bytes). The order of words does not matter to them.

use super::{DoesNotFit, Unreadable, word};
use crate::model::tag::Order;
use crate::model::value::Value;

/// How the text of a `string(N)` lies in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextForm {
    /// What the bytes mean.
    pub encoding: Encoding,
    /// Fills the rest on a write; removed from the end on a read, together with blanks.
    pub pad: u8,
    /// Ends the text before its last byte; what follows is left over from longer text. `None`: nothing does.
    pub terminator: Option<u8>,
}

impl Default for TextForm {
    fn default() -> Self {
        Self { encoding: Encoding::Utf8, pad: 0, terminator: Some(0) }
    }
}

/// What the bytes of a text mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8.
    Utf8,
    /// ISO 8859-1: every byte is a character.
    Latin1,
    /// ASCII: bytes above 0x7F are no text.
    Ascii,
}

impl Encoding {
    fn read(self, bytes: &[u8]) -> Option<String> {
        match self {
            Self::Utf8 => std::str::from_utf8(bytes).ok().map(str::to_owned),
            Self::Latin1 => Some(bytes.iter().copied().map(char::from).collect()),
            Self::Ascii if bytes.is_ascii() => std::str::from_utf8(bytes).ok().map(str::to_owned),
            Self::Ascii => None,
        }
    }

    fn write(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Utf8 => Some(text.as_bytes().to_vec()),
            Self::Latin1 => text.chars().map(|character| u8::try_from(character).ok()).collect(),
            Self::Ascii => text.is_ascii().then(|| text.as_bytes().to_vec()),
        }
    }
}

/// The first `length` bytes of some registers.
fn bytes_of(words: &[u16], length: usize, order: Order) -> Vec<u8> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|next| word(*next, order).to_be_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// Registers that hold these bytes, an odd one followed by `pad`.
fn words_of(mut bytes: Vec<u8>, pad: u8, order: Order) -> Vec<u16> {
    if bytes.len() % 2 == 1 {
        bytes.push(pad);
    }
    bytes.chunks_exact(2).map(|pair| word(u16::from_be_bytes([pair[0], pair[1]]), order)).collect()
}

pub(super) fn decode(words: &[u16], length: usize, order: Order, form: TextForm) -> Result<Value, Unreadable> {
    let mut bytes = bytes_of(words, length, order);
    if let Some(end) = bytes.iter().position(|byte| Some(*byte) == form.terminator) {
        bytes.truncate(end);
    }
    while bytes.last().is_some_and(|last| *last == form.pad) {
        bytes.pop();
    }
    let text = form.encoding.read(&bytes).ok_or(Unreadable::NotText)?;
    Ok(Value::Text(text.trim_end().into()))
}

pub(super) fn encode(text: &str, length: usize, order: Order, form: TextForm) -> Result<Vec<u16>, DoesNotFit> {
    let mut bytes = form.encoding.write(text).ok_or(DoesNotFit::OutOfRange)?;
    if bytes.len() > length || bytes.iter().any(|byte| Some(*byte) == form.terminator || *byte == 0) {
        return Err(DoesNotFit::OutOfRange);
    }
    if let Some(terminator) = form.terminator.filter(|_| bytes.len() < length) {
        bytes.push(terminator);
    }
    bytes.resize(length, form.pad);
    Ok(words_of(bytes, form.pad, order))
}

/// Bytes as lower-case hex.
pub(super) fn decode_bytes(words: &[u16], length: usize, order: Order) -> Value {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(length * 2);
    for byte in bytes_of(words, length, order) {
        _ = write!(hex, "{byte:02x}"); // a String takes everything
    }
    Value::Text(hex.into())
}

/// Hex of exactly as many bytes as the type has.
pub(super) fn encode_bytes(hex: &str, length: usize, order: Order) -> Result<Vec<u16>, DoesNotFit> {
    if !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(DoesNotFit::WrongKind);
    }
    if hex.len() != length * 2 {
        return Err(DoesNotFit::OutOfRange);
    }
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| DoesNotFit::WrongKind);
    let bytes = (0..hex.len()).step_by(2).map(byte).collect::<Result<Vec<u8>, _>>()?;
    Ok(words_of(bytes, 0, order))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Order::{Abcd, Badc};

    type Case = (&'static [u16], Order, TextForm, Result<Value, Unreadable>);

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    /// "PUMP 1" as vendors store it.
    #[test]
    fn text_is_read_as_its_form_says() {
        let plain = TextForm::default();
        let spaces = TextForm { pad: b' ', terminator: None, ..plain };
        let carriage = TextForm { pad: b'*', terminator: Some(b'\r'), ..plain };
        let latin = TextForm { encoding: Encoding::Latin1, ..plain };
        let ascii = TextForm { encoding: Encoding::Ascii, ..plain };
        let cases: &[Case] = &[
            (&[0x5055, 0x4D50, 0x0031], Abcd, plain, Ok(text("PUMP"))), // the rest is left over
            (&[0x5055, 0x4D50, 0x2031], Abcd, spaces, Ok(text("PUMP 1"))),
            (&[0x5055, 0x4D50, 0x2020], Abcd, spaces, Ok(text("PUMP"))),
            (&[0x5550, 0x504D, 0x3120], Badc, plain, Ok(text("PUMP 1"))),
            (&[0x5055, 0x4D0D, 0x2031], Abcd, carriage, Ok(text("PUM"))),
            (&[0x5055, 0x4D50, 0x2A2A], Abcd, carriage, Ok(text("PUMP"))),
            (&[0x50FC, 0x6D70, 0x0000], Abcd, latin, Ok(text("Pümp"))),
            (&[0x50FC, 0x6D70, 0x0000], Abcd, plain, Err(Unreadable::NotText)),
            (&[0x50C3, 0xBC6D, 0x7000], Abcd, plain, Ok(text("Pümp"))),
            (&[0x50C3, 0xBC6D, 0x7000], Abcd, ascii, Err(Unreadable::NotText)),
            (&[0, 0, 0], Abcd, plain, Ok(text(""))),
        ];
        for (words, order, form, value) in cases {
            assert_eq!(decode(words, 6, *order, *form), *value, "{words:04x?} {form:?}");
        }
    }

    #[test]
    fn text_is_written_with_terminator_and_pad_or_refused() {
        let spaces = TextForm { pad: b' ', terminator: None, ..TextForm::default() };
        let carriage = TextForm { pad: b'*', terminator: Some(b'\r'), ..spaces };
        let latin = TextForm { encoding: Encoding::Latin1, ..spaces };
        assert_eq!(encode("AB", 5, Abcd, spaces), Ok(vec![0x4142, 0x2020, 0x2020]));
        assert_eq!(encode("AB", 4, Badc, carriage), Ok(vec![0x4241, 0x2A0D]));
        assert_eq!(encode("ABCD", 4, Abcd, carriage), Ok(vec![0x4142, 0x4344]), "no room for a terminator");
        assert_eq!(encode("Pü", 2, Abcd, latin), Ok(vec![0x50FC]));
        for (wrong, form) in [("ABCDE", spaces), ("A\rB", carriage), ("A\0B", spaces), ("€", latin)] {
            assert_eq!(encode(wrong, 4, Abcd, form), Err(DoesNotFit::OutOfRange), "{wrong}");
        }
    }

    #[test]
    fn bytes_are_hex_of_exactly_their_length() {
        assert_eq!(decode_bytes(&[0x0A1B, 0xFF99], 3, Abcd), text("0a1bff"));
        assert_eq!(decode_bytes(&[0x0A1B, 0xFF99], 4, Badc), text("1b0a99ff"));
        assert_eq!(encode_bytes("0A1bff", 3, Abcd), Ok(vec![0x0A1B, 0xFF00]));
        assert_eq!(encode_bytes("0a1bf", 3, Abcd), Err(DoesNotFit::OutOfRange));
        assert_eq!(encode_bytes("0a1bfg", 3, Abcd), Err(DoesNotFit::WrongKind));
        assert_eq!(encode_bytes("ä1bff", 3, Abcd), Err(DoesNotFit::WrongKind));
    }
}
