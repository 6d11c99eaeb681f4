//! Requests out of bytes and replies into bytes, in each framing, as a device sees them. Pure.
//!
//! Written from the specifications and apart from the field room, so that the two are two opinions. MBAP: Messaging on
//! TCP/IP 1.0b, section 3.1.3. RTU: Modbus over Serial Line 1.02, section 2.5.1; framed by the length of the function, with
//! the CRC as proof (its pauses cannot be seen through a pseudo-terminal or a network). ASCII: section 2.5.2.

use std::io;

use super::pdu;
use crate::config::plan::Framing;

/// Longest frame of any framing: ASCII, 513 characters; a datagram or a line that brings more brings no Modbus.
pub const FRAME_MAX: usize = 520;
/// Transaction id, protocol id, length, unit id.
const HEADER: usize = 7;
/// Largest length field: unit id and a PDU of 253 bytes.
const LENGTH_MAX: usize = 254;

/// One whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whom it is for.
    pub unit_id: u8,
    /// Function and data.
    pub pdu: Vec<u8>,
    /// As it was on the wire.
    pub raw: Vec<u8>,
    /// MBAP: transaction id and protocol id, which go back as they came.
    pub numbers: [u8; 4],
}

impl Request {
    /// The frame of a reply to it, signed by that unit.
    pub fn reply(&self, framing: Framing, unit_id: u8, pdu: &[u8]) -> Vec<u8> {
        let body = [&[unit_id][..], pdu].concat();
        match framing {
            Framing::Mbap => {
                let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
                [&self.numbers[..], &length, &body].concat()
            }
            Framing::Rtu | Framing::Line => [&body[..], &crc16(&body).to_le_bytes()].concat(),
            Framing::Ascii => {
                let sum = body.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
                let digits: Vec<u8> = body.iter().chain([&sum]).flat_map(|byte| hex(*byte)).collect();
                [b":", digits.as_slice(), b"\r\n"].concat()
            }
        }
    }
}

/// What has arrived on one line.
#[derive(Debug)]
pub struct Frames {
    framing: Framing,
    pending: Vec<u8>,
}

impl Frames {
    /// Nothing yet.
    pub fn new(framing: Framing) -> Self {
        Self { framing, pending: Vec::with_capacity(FRAME_MAX) }
    }

    /// More has arrived.
    pub fn take(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Nothing has begun.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The next whole request. An error: this is no Modbus, and never will be.
    pub fn request(&mut self) -> io::Result<Option<Request>> {
        match self.framing {
            Framing::Mbap => self.next_mbap(),
            Framing::Rtu | Framing::Line => Ok(self.next_rtu()),
            Framing::Ascii => Ok(self.next_ascii()),
        }
    }

    /// Nothing has come for a while: what is pending is over. A request with a function that is not ours has no known
    /// length and ends in this way; the rest is dropped, and how much that was is told.
    pub fn pause(&mut self) -> (Option<Request>, usize) {
        let bytes = std::mem::take(&mut self.pending);
        if self.framing == Framing::Rtu && bytes.len() >= 4 && has_crc(&bytes) {
            return (Some(rtu_request(&bytes)), 0);
        }
        (None, bytes.len())
    }

    /// More is pending than any frame has: how much was dropped.
    pub fn overflow(&mut self) -> usize {
        if self.pending.len() <= FRAME_MAX {
            return 0;
        }
        std::mem::take(&mut self.pending).len()
    }

    fn next_mbap(&mut self) -> io::Result<Option<Request>> {
        let Some(header) = self.pending.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if header[2..4] != [0, 0] || !(2..=LENGTH_MAX).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (numbers, unit_id, length) = ([header[0], header[1], 0, 0], header[6], length + HEADER - 1);
        let Some(frame) = self.pending.get(..length) else { return Ok(None) };
        let request = Request { unit_id, pdu: frame[HEADER..].to_vec(), raw: frame.to_vec(), numbers };
        self.pending.drain(..length);
        Ok(Some(request))
    }

    fn next_rtu(&mut self) -> Option<Request> {
        let length = 1 + pdu::request_length(self.pending.get(1..)?)? + 2;
        let request = self.pending.get(..length).filter(|frame| has_crc(frame)).map(rtu_request)?;
        self.pending.drain(..length);
        Some(request)
    }

    fn next_ascii(&mut self) -> Option<Request> {
        loop {
            let end = self.pending.iter().position(|byte| *byte == b'\n')?;
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let start = line.iter().rposition(|byte| *byte == b':');
            let text = start.and_then(|start| line[start + 1..].strip_suffix(b"\r\n"));
            let bytes: Option<Vec<u8>> = text.and_then(|text| text.chunks(2).map(byte).collect());
            let Some((sum, [unit_id, pdu @ ..])) = bytes.as_deref().and_then(<[u8]>::split_last) else { continue };
            let is_right = pdu.iter().fold(*unit_id, |sum, byte| sum.wrapping_add(*byte)).wrapping_add(*sum) == 0;
            if is_right && !pdu.is_empty() {
                let (unit_id, pdu) = (*unit_id, pdu.to_vec());
                return Some(Request { unit_id, pdu, raw: line, numbers: [0; 4] });
            }
        }
    }
}

fn rtu_request(frame: &[u8]) -> Request {
    Request { unit_id: frame[0], pdu: frame[1..frame.len() - 2].to_vec(), raw: frame.to_vec(), numbers: [0; 4] }
}

fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [DIGITS[usize::from(byte / 16)], DIGITS[usize::from(byte % 16)]]
}

fn byte(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.len() == 2 && !text.starts_with('+'))?;
    u8::from_str_radix(text, 16).ok()
}

fn has_crc(frame: &[u8]) -> bool {
    let Some((body, crc)) = frame.split_last_chunk::<2>() else { return false };
    crc16(body).to_le_bytes() == *crc
}

/// CRC-16 of the serial line (V1.02, section 6.2.2): polynomial 0xA001 reflected, start 0xFFFF.
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_the_one_of_the_specification() {
        assert_eq!(crc16(&[0x02, 0x07]), 0x1241); // V1.02, appendix B: goes on the wire as 41 12
        assert!(has_crc(&[0x02, 0x07, 0x41, 0x12]));
        assert!(!has_crc(&[0x02, 0x07, 0x41, 0x13]));
        assert!(!has_crc(&[0x02]));
    }

    /// Unit 1, holding registers, two from 0, in each framing; MBAP with transaction 7.
    fn requests() -> [(Framing, Vec<u8>); 3] {
        let mut rtu = vec![1, 3, 0, 0, 0, 2];
        rtu.extend(crc16(&rtu).to_le_bytes());
        let mbap = vec![0, 7, 0, 0, 0, 6, 1, 3, 0, 0, 0, 2];
        [(Framing::Mbap, mbap), (Framing::Rtu, rtu), (Framing::Ascii, b":010300000002FA\r\n".to_vec())]
    }

    #[test]
    fn requests_are_whole_when_they_are_and_right() {
        for (framing, bytes) in requests() {
            let mut frames = Frames::new(framing);
            frames.take(&bytes[..bytes.len() - 1]);
            assert_eq!(frames.request().expect("Modbus"), None, "{framing:?}: not over yet");
            frames.take(&bytes[bytes.len() - 1..]);
            let request = frames.request().expect("Modbus").expect("whole");
            assert_eq!((request.unit_id, request.pdu.as_slice()), (1, &[3, 0, 0, 0, 2][..]), "{framing:?}");
            assert!(frames.is_empty());
            if framing != Framing::Mbap {
                let mut damaged = bytes.clone();
                damaged[4] ^= 1;
                frames.take(&damaged);
                assert_eq!(frames.request().expect("dropped"), None, "{framing:?}");
            }
        }
        let mut frames = Frames::new(Framing::Mbap);
        frames.take(&[0, 1, 0, 9, 0, 6, 1]);
        assert!(frames.request().is_err(), "protocol 9");
    }

    #[test]
    fn replies_are_framed() {
        let pdu = [3, 4, 0x12, 0x34, 0x56, 0x78];
        for (framing, bytes) in requests() {
            let mut frames = Frames::new(framing);
            frames.take(&bytes);
            let request = frames.request().expect("Modbus").expect("whole");
            let reply = request.reply(framing, 1, &pdu);
            match framing {
                Framing::Mbap => assert_eq!(reply, [&[0, 7, 0, 0, 0, 7, 1][..], &pdu].concat()),
                Framing::Rtu | Framing::Line => assert!(has_crc(&reply) && reply.starts_with(&[1, 3, 4, 0x12])),
                Framing::Ascii => assert_eq!(reply, b":01030412345678E4\r\n"),
            }
            assert_eq!(request.raw, bytes);
        }
    }
}
