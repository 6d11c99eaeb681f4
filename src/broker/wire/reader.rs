//! Reading the primitive types of MQTT 5, section 1.5, off a packet's body without ever running past its end.

use bytes::{Buf, Bytes};

use super::Fault;

/// The unread rest of a packet's body.
#[derive(Debug)]
pub(super) struct Reader(Bytes);

impl Reader {
    pub(super) fn new(body: Bytes) -> Self {
        Self(body)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything that is left; copied, so that a short payload that is kept does not keep a whole input buffer.
    pub(super) fn rest(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    /// The next `count` bytes as a part of their own.
    pub(super) fn part(&mut self, count: usize) -> Result<Self, Fault> {
        self.need(count)?;
        Ok(Self(self.0.split_to(count)))
    }

    /// Looks ahead without reading.
    pub(super) fn peek(&self) -> Bytes {
        self.0.clone()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    /// Two byte integer, section 1.5.2.
    pub(super) fn two(&mut self) -> Result<u16, Fault> {
        self.need(2)?;
        Ok(self.0.get_u16())
    }

    /// Four byte integer, section 1.5.3.
    pub(super) fn four(&mut self) -> Result<u32, Fault> {
        self.need(4)?;
        Ok(self.0.get_u32())
    }

    /// A packet identifier; zero is forbidden (2.2.1-3).
    pub(super) fn packet_id(&mut self) -> Result<u16, Fault> {
        match self.two()? {
            0 => Err(Fault::Malformed("packet identifier is zero")),
            id => Ok(id),
        }
    }

    /// Variable byte integer, section 1.5.5: at most four bytes, and no more than it needs.
    pub(super) fn variable(&mut self) -> Result<u32, Fault> {
        let mut value = 0;
        for place in 0..4 {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                let padded = byte == 0 && place > 0;
                return if padded { Err(Fault::Malformed("integer longer than it needs")) } else { Ok(value) };
            }
        }
        Err(Fault::Malformed("variable byte integer of more than four bytes"))
    }

    /// Binary data, section 1.5.6; copied like [`Reader::rest`].
    pub(super) fn binary(&mut self) -> Result<Bytes, Fault> {
        self.field().map(|field| Bytes::copy_from_slice(&field))
    }

    fn field(&mut self) -> Result<Bytes, Fault> {
        let length = usize::from(self.two()?);
        self.need(length)?;
        Ok(self.0.split_to(length))
    }

    /// UTF-8 string, section 1.5.4: well-formed and without U+0000.
    pub(super) fn text(&mut self) -> Result<String, Fault> {
        let bytes = self.field()?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Fault::Malformed("text is not UTF-8"))?;
        if text.contains('\0') { Err(Fault::Malformed("text with U+0000")) } else { Ok(text.to_owned()) }
    }

    /// A packet ends where its last field ends.
    pub(super) fn end(self) -> Result<(), Fault> {
        if self.0.is_empty() { Ok(()) } else { Err(Fault::Malformed("bytes after the last field")) }
    }

    fn need(&self, count: usize) -> Result<(), Fault> {
        if self.0.len() < count { Err(Fault::Malformed("packet ends in the middle of a field")) } else { Ok(()) }
    }
}
