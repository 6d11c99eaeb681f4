//! Modbus ASCII: frames as text. Pure.
//!
//! Fed by the exchange (requests) and by the inbox (what came in). Promises: what is taken for a frame stands between `:`
//! and a line end, is hexadecimal throughout and has a right LRC; a `:` always begins a new frame, whatever was before.
//!
//! On the wire (Modbus over Serial Line 1.02, section 2.5.2):
//!
//! ```text
//! :            0x3A, the start; it occurs nowhere else in a frame
//! unit         2 characters, 0-9 and A-F, the high half of the byte first (as all that follow)
//! function     2 characters
//! data         2 characters for each of up to 252 bytes
//! LRC          2 characters: the sum of all bytes from unit to data, negated, modulo 256
//! CR LF        0x0D 0x0A, the end; here LF alone ends a frame too
//! ```
//!
//! Lower-case digits are taken as well: some devices send them, and they cannot mean anything else.

use std::ops::Range;

use super::frame::crc16;

const START: u8 = b':';
const END: &[u8] = b"\r\n";
/// Unit, function, LRC.
const BYTES_MIN: usize = 3;

/// An RTU frame (unit, PDU, CRC) as ASCII. `None`: it is too short to be one.
pub fn from_rtu(frame: &[u8]) -> Option<Vec<u8>> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let (body, _crc) = frame.split_last_chunk::<2>().filter(|(body, _)| body.len() + 1 >= BYTES_MIN)?;
    let mut text = Vec::with_capacity(2 * body.len() + 5);
    text.push(START);
    for byte in body.iter().copied().chain([lrc(body)]) {
        text.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    text.extend(END);
    Some(text)
}

/// The same the other way: unit and PDU with the CRC they would have had.
pub fn to_rtu(body: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(body);
    into.extend_from_slice(&crc16(body).to_le_bytes());
}

/// What stands at the beginning of what came in, behind bytes that belong to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// A frame: where its characters stand, and its unit and PDU.
    Frame(Range<usize>, Vec<u8>),
    /// Begins and ends like a frame, and is none: bad digits, a wrong LRC, or broken off by the next `:`.
    Broken(Range<usize>),
}

/// Looks for the first frame. `None`: nothing has ended yet.
pub fn first(bytes: &[u8]) -> Option<Text> {
    let start = bytes.iter().position(|byte| *byte == START)?;
    let inside = &bytes[start + 1..];
    let end = inside.iter().position(|byte| matches!(*byte, START | b'\n'))?;
    let (digits, is_over) = (&inside[..end], inside[end] == b'\n');
    let range = start..start + 1 + end + usize::from(is_over);
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    Some(match body(digits).filter(|_| is_over) {
        Some(body) => Text::Frame(range, body),
        None => Text::Broken(range),
    })
}

/// Unit and PDU of the digits between start and end.
fn body(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() < BYTES_MIN {
        return None;
    }
    let mut bytes =
        pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<Vec<u8>>>()?;
    let sum = bytes.pop()?;
    (sum == lrc(&bytes)).then_some(bytes)
}

/// Unit and function at the beginning of what looks like a frame.
pub fn head(text: &[u8]) -> Option<(u8, u8)> {
    let byte = |at: usize| Some(digit(*text.get(at)?)? << 4 | digit(*text.get(at + 1)?)?);
    Some((byte(1)?, byte(3)?))
}

fn digit(character: u8) -> Option<u8> {
    char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// LRC (Modbus over Serial Line 1.02, section 6.2.1).
pub fn lrc(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unit 0x11 is asked for 3 registers from 0x6B; sum 0x11+0x03+0x6B+0x03 = 0x82, LRC 0x7E.
    const REQUEST: &[u8] = b":1103006B00037E\r\n";
    const BODY: [u8; 6] = [0x11, 3, 0, 0x6B, 0, 3];

    #[test]
    fn frames_go_both_ways() {
        let mut rtu = Vec::new();
        to_rtu(&BODY, &mut rtu);
        assert_eq!(rtu.len(), 8);
        assert_eq!(from_rtu(&rtu).as_deref(), Some(REQUEST));
        assert_eq!(first(REQUEST), Some(Text::Frame(0..17, BODY.to_vec())));
        assert_eq!(from_rtu(&[1, 2, 3]), None, "no function");
    }

    #[test]
    fn what_is_before_a_frame_or_broken_is_told_from_the_frame() {
        let noise = [b"\x00\xFFxyz", REQUEST].concat();
        assert_eq!(first(&noise), Some(Text::Frame(5..22, BODY.to_vec())));
        let torn = [&REQUEST[..7], REQUEST].concat(); // a new start ends the torn one
        assert_eq!(first(&torn), Some(Text::Broken(0..7)));
        assert_eq!(first(&torn[7..]), Some(Text::Frame(0..17, BODY.to_vec())));
        for (broken, why) in [
            (&b":1103006B00037F\r\n"[..], "the LRC"),
            (b":1103006B0003 7E\r\n", "a blank"),
            (b":1103006B0003E\r\n", "half a byte"),
            (b":\r\n", "nothing"),
            (b":11EF\r\n", "only a unit"),
            (b":1103006B\r00037E\r\n", "a CR inside"),
        ] {
            assert_eq!(first(broken), Some(Text::Broken(0..broken.len())), "{why}");
        }
        assert_eq!(first(&REQUEST[..16]), None, "not over yet");
        assert_eq!(first(b"noise without a start\r\n"), None);
    }

    #[test]
    fn lower_case_and_a_lone_line_feed_are_tolerated() {
        assert_eq!(first(b":1103006b00037e\n"), Some(Text::Frame(0..16, BODY.to_vec())));
    }

    proptest::proptest! {
        #[test]
        fn any_frame_survives_and_no_bytes_panic(body in proptest::collection::vec(0u8.., 2..254), noise: Vec<u8>) {
            let mut rtu = Vec::new();
            to_rtu(&body, &mut rtu);
            let text = from_rtu(&rtu).expect("long enough");
            proptest::prop_assert!(text.len() <= 513); // the longest frame (section 2.5.2.1)
            proptest::prop_assert_eq!(first(&text), Some(Text::Frame(0..text.len(), body)));
            first(&noise);
        }
    }
}
