//! Which bytes are the answer: frames judged against the request they should answer. Pure.
//!
//! Fed by the gate with what came off the wire. Promises: an answer has the unit, the function (or its exception), the
//! length and the content the request demands, and on RTU a correct CRC; an echo of the request is never an answer. Where the
//! two are the same bytes ([`Expect::answers_like_an_echo`]), what is known of the line decides ([`EchoRule`]).
//!
//! RTU (Modbus over Serial Line 1.02, section 2.5.1): `unit, function, data …, CRC low, CRC high`, at most 256 bytes.
//! TCP (Messaging on TCP/IP 1.0b, section 3.1.3): `transaction (2), protocol 0 (2), length (2), unit, function, data …`,
//! where length counts from `unit`. Reply data (Application Protocol 1.1b3, section 6): reads `byte count, bytes`,
//! writes `address, value or quantity`; exceptions `function + 0x80, code`.

use std::ops::Range;

use super::identity::{self, Part};
use crate::config::plan::AnswersAs;

/// Length of an MBAP header, with the unit.
pub const MBAP_BYTES: usize = 7;
/// Longest PDU, both framings.
pub const PDU_BYTES_MAX: usize = 253;
/// The exception bit of a function code.
pub const EXCEPTION: u8 = 0x80;

/// What must come back for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expect {
    unit: u8,
    answers_as: AnswersAs,
    function: u8,
    shape: Shape,
    /// The request's own bytes would be an answer.
    mirrored: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A read: this many bytes of data.
    Data(u8),
    /// A write: address and value (or quantity) as asked.
    Confirm([u8; 4]),
    /// FC 22: address and both masks as asked.
    ConfirmMask([u8; 6]),
    /// FC 43/14: objects that say how long they are, of the category asked for.
    Identity(u8),
    /// FC 17: a byte count, and whatever the maker likes.
    Counted,
}

impl Expect {
    /// From a request PDU. `None`: not one of the functions this version speaks, or no bytes to speak of.
    pub fn of_request(unit: u8, pdu: &[u8]) -> Option<Self> {
        let function = *pdu.first()?;
        let shape = match *pdu {
            [identity::REPORT_SERVER_ID] => Shape::Counted,
            [identity::FUNCTION, identity::MEI_TYPE, code, _object] => Shape::Identity(code),
            _ => Self::shape_of_access(function, pdu)?,
        };
        let expect = Self { unit, answers_as: AnswersAs::Itself, function, shape, mirrored: false };
        Some(Self { mirrored: expect.accepts(pdu), ..expect })
    }

    fn shape_of_access(function: u8, pdu: &[u8]) -> Option<Shape> {
        let first = pdu.get(1..5)?;
        let quantity = u16::from_be_bytes([first[2], first[3]]);
        Some(match function {
            1 | 2 => Shape::Data(u8::try_from(quantity.div_ceil(8)).ok()?),
            3 | 4 => Shape::Data(u8::try_from(quantity.checked_mul(2)?).ok()?),
            5 | 6 | 15 | 16 => Shape::Confirm([first[0], first[1], first[2], first[3]]),
            22 => Shape::ConfirmMask(pdu.get(1..7)?.try_into().ok()?),
            _ => return None,
        })
    }

    /// The same, if the unit is known to answer under this id.
    #[must_use]
    pub const fn answering_as(self, answers_as: AnswersAs) -> Self {
        Self { answers_as, ..self }
    }

    /// Can a frame with this unit id be the answer?
    pub fn is_from(self, unit: u8) -> bool {
        unit == self.unit || self.answers_as == AnswersAs::Anyone
    }

    /// The unit that was asked.
    pub const fn unit(self) -> u8 {
        self.unit
    }

    /// Does it go to all units of a line? Then nobody answers.
    pub const fn is_to_all(self) -> bool {
        self.unit == 0
    }

    /// May an answer to the one be taken for an answer to the other? Exceptions are as long as each other, whatever was asked.
    pub fn is_answered_like(self, other: Self) -> bool {
        self.function == other.function && (self.is_from(other.unit) || other.is_from(self.unit))
    }

    /// May an answer begin with this unit and function?
    pub const fn fits(self, unit: u8, function: u8) -> bool {
        unit == self.unit && (function == self.function || function == self.function | EXCEPTION)
    }

    /// True where a good answer can be byte for byte the request: always to FC 5, 6 and 22; and to a read of 21 to 24 bits
    /// that begins at 0x03xx, whose three bytes of data may be the rest of `function, 3, xx, 0, quantity`.
    pub const fn answers_like_an_echo(self) -> bool {
        self.mirrored
    }

    /// Is this PDU of the right unit an answer: the reply asked for, or an exception to it?
    pub fn accepts(self, pdu: &[u8]) -> bool {
        match (pdu, self.shape) {
            ([function, _code], _) if *function == self.function | EXCEPTION => true,
            ([function, count, data @ ..], Shape::Data(bytes)) => {
                *function == self.function && *count == bytes && data.len() == usize::from(bytes)
            }
            ([function, confirmed @ ..], Shape::Confirm(asked)) => *function == self.function && *confirmed == asked,
            ([function, confirmed @ ..], Shape::ConfirmMask(asked)) => {
                *function == self.function && *confirmed == asked
            }
            (_, Shape::Identity(code)) => Part::read(pdu).is_some_and(|part| part.code == code),
            ([function, count, data @ ..], Shape::Counted) => {
                *function == self.function && data.len() == usize::from(*count)
            }
            _ => false,
        }
    }

    /// The whole RTU length of the answer that may begin here; `None` when what is there cannot be its beginning.
    fn rtu_length(self, bytes: &[u8]) -> Option<usize> {
        match (bytes, self.shape) {
            ([unit, ..], _) if !self.is_from(*unit) => None,
            ([_, function, ..], _) if *function == self.function | EXCEPTION => Some(5),
            ([_, function, ..], _) if *function != self.function => None,
            ([_, _, count, ..], Shape::Data(expected)) if *count != expected => None,
            ([_, _, rest @ ..], Shape::Confirm(asked)) if !starts_alike(rest, &asked) => None,
            ([_, _, rest @ ..], Shape::ConfirmMask(asked)) if !starts_alike(rest, &asked) => None,
            (_, Shape::Data(expected)) => Some(5 + usize::from(expected)),
            (_, Shape::Confirm(_)) => Some(8),
            (_, Shape::ConfirmMask(_)) => Some(10),
            (_, Shape::Identity(code)) => identity::rtu_length(bytes, Some(code)),
            (_, Shape::Counted) => Some(5 + usize::from(bytes.get(2).copied().unwrap_or_default())),
        }
    }
}

fn starts_alike(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).all(|(left, right)| left == right)
}

/// Whether bytes equal to the request count as its echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoRule {
    /// Strip them: no answer to this request looks like that, or the line is known to echo.
    Strip,
    /// They are the answer, on a line that does not echo.
    Answer,
}

/// The first thing worth telling in what came off a serial line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The answer.
    Answer(Range<usize>),
    /// Our own request, come back.
    Echo(Range<usize>),
    /// A whole frame of the unit we asked, but not the answer: late, or of the wrong length.
    Stale(Range<usize>),
    /// A whole frame of another unit.
    Foreign(Range<usize>),
    /// Looked like the answer up to its CRC.
    Broken(Range<usize>),
}

/// Looks for a frame in what came off a serial line since the request was sent. `None`: nothing yet.
pub fn hunt(bytes: &[u8], request: &[u8], expect: Expect, echo: EchoRule) -> Option<Found> {
    let mut hope = false; // an answer or echo may have begun: nothing else is looked for behind it
    let mut broken = None;
    for at in 0..bytes.len() {
        let rest = &bytes[at..];
        if echo == EchoRule::Strip {
            if rest.starts_with(request) {
                return Some(Found::Echo(at..at + request.len()));
            }
            if rest.len() > 2 && request.starts_with(rest) {
                hope = true;
                continue;
            }
        }
        match expect.rtu_length(rest) {
            Some(length) if rest.len() < length => hope = true,
            Some(length) if crc_is_right(&rest[..length]) && expect.accepts(&rest[1..length - 2]) => {
                return Some(Found::Answer(at..at + length));
            }
            Some(length) if !hope && broken.is_none() && rest.len() > 2 => broken = Some(at..at + length),
            Some(_) => {}
            None if hope => {}
            None => {
                if let Some(length) = whole_reply(rest) {
                    let range = at..at + length;
                    let ours = expect.is_from(rest[0]);
                    return Some(if ours { Found::Stale(range) } else { Found::Foreign(range) });
                }
            }
        }
    }
    broken.map(Found::Broken)
}

/// The length of the valid RTU reply of any unit that begins here.
pub fn whole_reply(bytes: &[u8]) -> Option<usize> {
    let length = match *bytes.get(1)? {
        1..=4 | identity::REPORT_SERVER_ID => 5 + usize::from(*bytes.get(2)?),
        5 | 6 | 15 | 16 => 8,
        22 => 10,
        identity::FUNCTION => identity::rtu_length(bytes, None)?,
        function if function & EXCEPTION != 0 => 5,
        _ => return None,
    };
    crc_is_right(bytes.get(..length)?).then_some(length)
}

fn crc_is_right(frame: &[u8]) -> bool {
    let Some((body, crc)) = frame.split_last_chunk::<2>() else {
        return false;
    };
    crc16(body) == u16::from_le_bytes(*crc)
}

/// CRC-16 of Modbus (Modbus over Serial Line 1.02, section 6.2.2): polynomial 0xA001 reflected, start 0xFFFF.
pub fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = crc_table();
    bytes.iter().fold(0xFFFF, |crc, byte| (crc >> 8) ^ TABLE[usize::from((crc ^ u16::from(*byte)) & 0xFF)])
}

const fn crc_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut index = 0u16;
    while index < 256 {
        let (mut crc, mut bit) = (index, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
}

/// The MBAP frame at the beginning of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mbap {
    /// Not all here yet.
    Incomplete,
    /// Whole: its transaction id, its unit, its length with header.
    Whole {
        /// Transaction id.
        transaction: u16,
        /// Unit id.
        unit: u8,
        /// Bytes, header included.
        length: usize,
    },
    /// No MBAP header: the stream is out of step and cannot be trusted again.
    OutOfStep,
}

/// Reads the header of the next frame.
pub fn next_mbap(bytes: &[u8]) -> Mbap {
    let Some(header) = bytes.get(..MBAP_BYTES) else {
        return Mbap::Incomplete;
    };
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[2] != 0 || header[3] != 0 || !(2..=1 + PDU_BYTES_MAX).contains(&length) {
        return Mbap::OutOfStep;
    }
    let length = length + MBAP_BYTES - 1;
    if bytes.len() < length {
        return Mbap::Incomplete;
    }
    Mbap::Whole { transaction: u16::from_be_bytes([header[0], header[1]]), unit: header[6], length }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtu(body: &[u8]) -> Vec<u8> {
        let mut frame = body.to_vec();
        frame.extend(crc16(body).to_le_bytes());
        frame
    }

    /// Read 2 holding registers at 0x10 of unit 1, and its answer with 0x0010, 0x0011.
    const REQUEST: [u8; 6] = [1, 3, 0, 0x10, 0, 2];
    const ANSWER: [u8; 7] = [1, 3, 4, 0, 0x10, 0, 0x11];

    fn look(bytes: &[u8]) -> Option<Found> {
        let expect = Expect::of_request(1, &REQUEST[1..]).expect("a read");
        hunt(bytes, &rtu(&REQUEST), expect, EchoRule::Strip)
    }

    #[test]
    fn the_crc_is_the_one_of_the_specification() {
        assert_eq!(rtu(&[2, 7]), [2, 7, 0x41, 0x12], "example of the guide, section 6.2.2");
    }

    #[test]
    fn the_answer_is_found_behind_garbage_echo_and_strangers() {
        let answer = rtu(&ANSWER);
        assert_eq!(look(&answer), Some(Found::Answer(0..9)));
        let behind = |before: &[u8]| [before, &answer].concat();
        assert_eq!(look(&behind(&[0xFF, 0, 1])), Some(Found::Answer(3..12)));
        assert_eq!(look(&behind(&[1, 3, 4])), Some(Found::Answer(3..12)), "a torn beginning of the same answer");
        assert_eq!(look(&behind(&rtu(&REQUEST))), Some(Found::Echo(0..8)));
        assert_eq!(look(&behind(&rtu(&[2, 3, 4, 0, 0x10, 0, 0x11]))), Some(Found::Foreign(0..9)));
        assert_eq!(look(&behind(&rtu(&[1, 4, 4, 0, 0x10, 0, 0x11]))), Some(Found::Stale(0..9)), "another function");
        assert_eq!(look(&behind(&rtu(&[1, 3, 2, 0, 0x10]))), Some(Found::Stale(0..7)), "another length");
    }

    #[test]
    fn what_is_not_the_answer_is_nothing_or_named() {
        let answer = rtu(&ANSWER);
        for end in 0..answer.len() {
            assert_eq!(look(&answer[..end]), None, "torn after {end} bytes");
        }
        for bit in 0..answer.len() * 8 {
            let mut flipped = answer.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(look(&flipped), Some(Found::Answer(_))), "bit {bit}");
        }
        assert_eq!(look(&rtu(&[1, 3, 0])), Some(Found::Stale(0..5)), "no registers at all");
        let mut long = vec![1, 3, 250];
        long.resize(253, 7);
        assert_eq!(look(&rtu(&long)), Some(Found::Stale(0..255)), "125 registers");
        assert_eq!(look(&rtu(&[1, 0x83, 2])), Some(Found::Answer(0..5)), "its exception");
        assert_eq!(look(&rtu(&[1, 0x84, 2])), Some(Found::Stale(0..5)), "another function's exception");
        assert_eq!(look(&rtu(&[2, 0x83, 2])), Some(Found::Foreign(0..5)), "another unit's exception");
        let mut broken = answer.clone();
        broken[8] ^= 1;
        assert_eq!(look(&broken), Some(Found::Broken(0..9)));
    }

    #[test]
    fn a_write_is_confirmed_by_its_own_address_and_value_only() {
        let request = rtu(&[1, 16, 0, 7, 0, 2, 4, 1, 2, 3, 4]);
        let expect = Expect::of_request(1, &request[1..request.len() - 2]).expect("a write");
        let seen = |bytes: &[u8]| hunt(bytes, &request, expect, EchoRule::Strip);
        assert_eq!(seen(&request), Some(Found::Echo(0..13)), "the echo confirms nothing");
        assert_eq!(seen(&request[..9]), None);
        assert_eq!(seen(&rtu(&[1, 16, 0, 7, 0, 2])), Some(Found::Answer(0..8)));
        assert_eq!(seen(&rtu(&[1, 16, 0, 8, 0, 2])), Some(Found::Stale(0..8)), "another address");
        let single = rtu(&[1, 6, 0, 7, 0, 2]);
        let expect = Expect::of_request(1, &single[1..6]).expect("a write");
        assert!(expect.answers_like_an_echo());
        assert_eq!(hunt(&single, &single, expect, EchoRule::Answer), Some(Found::Answer(0..8)));
        assert_eq!(hunt(&single, &single, expect, EchoRule::Strip), Some(Found::Echo(0..8)));
    }

    #[test]
    fn a_read_of_bits_may_be_answered_by_its_own_bytes_and_nothing_else_that_is_read() {
        // Read 24 coils from 0x0300; function 1, 3 bytes of data: 00 00 18.
        let request = [1, 3, 0, 0, 24];
        let expect = Expect::of_request(1, &request).expect("a read");
        assert!(expect.answers_like_an_echo() && expect.accepts(&request));
        let own = |function: u8, start: u16, count: u16| {
            let [[high, low], [many, few]] = [start, count].map(u16::to_be_bytes);
            Expect::of_request(1, &[function, high, low, many, few]).is_some_and(Expect::answers_like_an_echo)
        };
        assert!(own(1, 0x03FF, 21) && own(2, 0x0300, 24));
        assert!(!own(1, 0x0300, 25) && !own(1, 0x0300, 16) && !own(1, 0x0200, 24) && !own(3, 0x0300, 24));
    }

    #[test]
    fn mbap_headers_are_read_or_the_stream_is_out_of_step() {
        let frame = [0, 9, 0, 0, 0, 7, 1, 3, 4, 0, 1, 0, 2]; // transaction 9, 7 bytes: unit 1, FC 3, 4 bytes of data
        assert_eq!(next_mbap(&frame), Mbap::Whole { transaction: 9, unit: 1, length: 13 });
        assert_eq!(next_mbap(&frame[..12]), Mbap::Incomplete);
        assert_eq!(next_mbap(&frame[..6]), Mbap::Incomplete);
        assert_eq!(next_mbap(&[0, 9, 0, 1, 0, 7, 1]), Mbap::OutOfStep, "protocol 1");
        assert_eq!(next_mbap(&[0, 9, 0, 0, 0, 1, 1]), Mbap::OutOfStep, "no function code");
        assert_eq!(next_mbap(&[0, 9, 0, 0, 1, 0, 1]), Mbap::OutOfStep, "longer than any PDU");
    }
}
