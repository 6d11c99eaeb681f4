//! What a payload on an upstream topic is: JSON as it stands, JSON that was compressed, or a batch.
//!
//! Formats need no switch on the consumer's side: a zstd frame begins with its magic number (RFC 8878, section 3.1.1), and
//! inside it JSON begins with a brace or a bracket, which no frame of a batch does.

use std::borrow::Cow;

use super::batch::{self, BadBatch, Batch};

/// RFC 8878, section 3.1.1, little-endian.
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// For JSON text: a third less than level 3 gives, still far faster than any link it is worth using on.
const LEVEL: i32 = 9;

/// What a payload turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Opened<'a> {
    /// Text, perhaps JSON; nobody has looked at it.
    Text(Cow<'a, [u8]>),
    /// Columns.
    Batch(Box<Batch>),
}

/// Unpacks a payload if need be, at most [`batch::RAW_BYTES_MAX`], and tells which of ours it is.
pub fn open(payload: &[u8]) -> Result<Opened<'_>, BadBatch> {
    if !payload.starts_with(&ZSTD_MAGIC) {
        return Ok(Opened::Text(Cow::Borrowed(payload)));
    }
    let raw = batch::unpack(payload)?;
    match raw.first() {
        Some(b'{' | b'[') => Ok(Opened::Text(Cow::Owned(raw))),
        _ => Ok(Opened::Batch(Box::new(batch::decode_frame(&raw)?))),
    }
}

/// `compress = "zstd"`: one frame.
pub fn compress(text: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(text, LEVEL).expect("zstd writes to memory and the level exists")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::number::{Class, Epoch, Number, Seq};
    use crate::payload::batch::{Encoder, Head, Row, RowBody};
    use std::time::Instant;

    #[test]
    fn every_format_is_known_by_its_first_bytes() {
        let plain = br#"{"value":1}"#;
        assert_eq!(open(plain), Ok(Opened::Text(Cow::Borrowed(&plain[..]))));
        assert_eq!(open(b""), Ok(Opened::Text(Cow::Borrowed(&b""[..]))));
        for text in [&plain[..], br#"[{"value":1}]"#] {
            assert_eq!(open(&compress(text)), Ok(Opened::Text(Cow::Owned(text.to_vec()))));
        }
        let first = Number { stream: Class::Event, epoch: Epoch(1), seq: Seq(1) };
        let row = Row { unix_ms: 5, until_ms: None, body: RowBody::Event { topic: "t", body: b"{}" } };
        let draft = Encoder::new("gw").draft(Head { first, previous: None }, &[row], Instant::now());
        assert!(matches!(open(&draft.payload), Ok(Opened::Batch(batch)) if batch.first == first));
        assert!(open(&ZSTD_MAGIC).is_err());
    }
}
