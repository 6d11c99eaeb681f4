//! A Modbus server without a wire: one request PDU in, one response PDU out.
//!
//! Written from "MODBUS Application Protocol V1.1b3", section 6, on purpose without tokio-modbus: the field room reads with
//! that crate, so that the two sides are two opinions. Both lines (tcp, rtu) and every fault work on these bytes.

use crate::model::tag::Table;

use super::image::{Image, Unmapped};

/// "Illegal function" (section 7).
pub const ILLEGAL_FUNCTION: u8 = 1;
/// "Illegal data address".
pub const ILLEGAL_ADDRESS: u8 = 2;
/// "Illegal data value": a count or length outside the limits.
pub const ILLEGAL_VALUE: u8 = 3;
/// "Gateway target device failed to respond".
pub const TARGET_SILENT: u8 = 11;

/// Section 6.1 and 6.2: bits per read.
const BITS_READ_MAX: u16 = 2000;
/// Section 6.3 and 6.4: registers per read.
const WORDS_READ_MAX: u16 = 125;
/// Section 6.11: coils per write.
const BITS_WRITTEN_MAX: u16 = 1968;
/// Section 6.12: registers per write.
const WORDS_WRITTEN_MAX: u16 = 123;

/// Answers one request (function code first, no unit id, no checksum). FC 1 to 6, 15, 16 and 22; anything else is exception 1
/// (FC 43 is answered by [`super::identity`], if the unit has one).
pub fn answer(image: &mut Image, request: &[u8]) -> Vec<u8> {
    let function = request.first().copied().unwrap_or(0);
    respond(image, function, request.get(1..).unwrap_or_default()).unwrap_or_else(|code| exception(function, code))
}

/// An exception response.
pub fn exception(function: u8, code: u8) -> Vec<u8> {
    vec![function | 0x80, code]
}

/// Is this a request that changes something?
pub fn is_write(request: &[u8]) -> bool {
    matches!(request.first(), Some(5 | 6 | 15 | 16 | 22))
}

fn respond(image: &mut Image, function: u8, body: &[u8]) -> Result<Vec<u8>, u8> {
    if !matches!(function, 1..=6 | 15 | 16 | 22) {
        return Err(ILLEGAL_FUNCTION); // however short the request is
    }
    let (start, second) = (word(body, 0)?, word(body, 2)?);
    let echo = || [&[function][..], &body[..4]].concat();
    match function {
        1 | 2 => {
            let count = within(second, BITS_READ_MAX)?;
            let table = if function == 1 { Table::Coil } else { Table::Discrete };
            let bits = pack(&image.bits(table, start, count).map_err(illegal_address)?);
            Ok([&[function, length(&bits)?][..], &bits].concat())
        }
        3 | 4 => {
            let count = within(second, WORDS_READ_MAX)?;
            let table = if function == 3 { Table::Holding } else { Table::Input };
            let words = image.words(table, start, count).map_err(illegal_address)?;
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            Ok([&[function, length(&bytes)?][..], &bytes].concat())
        }
        5 => {
            let bit = match second {
                0xFF00 => true,
                0 => false,
                _ => return Err(ILLEGAL_VALUE),
            };
            image.write_bits(start, &[bit]).map_err(illegal_address)?;
            Ok(echo())
        }
        6 => {
            image.write_words(start, &[second]).map_err(illegal_address)?;
            Ok(echo())
        }
        15 => {
            let count = within(second, BITS_WRITTEN_MAX)?;
            let bytes = payload(body, usize::from(count).div_ceil(8))?;
            let bits: Vec<bool> = (0..usize::from(count)).map(|at| bytes[at / 8] >> (at % 8) & 1 == 1).collect();
            image.write_bits(start, &bits).map_err(illegal_address)?;
            Ok(echo())
        }
        16 => {
            let count = within(second, WORDS_WRITTEN_MAX)?;
            let bytes = payload(body, usize::from(count) * 2)?;
            let words: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            image.write_words(start, &words).map_err(illegal_address)?;
            Ok(echo())
        }
        22 => {
            let (and, or) = (second, word(body, 4)?);
            let held = image.words(Table::Holding, start, 1).map_err(illegal_address)?[0];
            image.write_words(start, &[held & and | or & !and]).map_err(illegal_address)?;
            Ok([&[function][..], &body[..6]].concat())
        }
        _ => Err(ILLEGAL_FUNCTION),
    }
}

/// How many bytes a request of this function has in all, PDU only; `None` while too few have arrived to tell, or when the
/// function is not one of ours.
pub fn request_length(request: &[u8]) -> Option<usize> {
    match request.first()? {
        1..=6 => Some(5),
        43 => Some(4),
        22 => Some(7),
        15 | 16 => Some(6 + usize::from(*request.get(5)?)),
        _ => None,
    }
}

fn word(body: &[u8], at: usize) -> Result<u16, u8> {
    let pair = body.get(at..at + 2).ok_or(ILLEGAL_VALUE)?;
    Ok(u16::from_be_bytes([pair[0], pair[1]]))
}

fn within(count: u16, max: u16) -> Result<u16, u8> {
    if (1..=max).contains(&count) { Ok(count) } else { Err(ILLEGAL_VALUE) }
}

/// The data of FC 15 and 16, whose byte count must agree with the count of bits or registers.
fn payload(body: &[u8], expected: usize) -> Result<&[u8], u8> {
    let data = body.get(5..).ok_or(ILLEGAL_VALUE)?;
    if usize::from(body[4]) == expected && data.len() == expected { Ok(data) } else { Err(ILLEGAL_VALUE) }
}

fn length(bytes: &[u8]) -> Result<u8, u8> {
    u8::try_from(bytes.len()).map_err(|_| ILLEGAL_VALUE)
}

fn illegal_address(_: Unmapped) -> u8 {
    ILLEGAL_ADDRESS
}

/// Eight bits to a byte, the first one least significant.
fn pack(bits: &[bool]) -> Vec<u8> {
    bits.chunks(8)
        .map(|eight| eight.iter().enumerate().fold(0, |byte, (at, bit)| byte | u8::from(*bit) << at))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        let mut image = Image::new();
        image.set_words(Table::Holding, 0, &[0x1234, 0x5678]);
        image.set_words(Table::Input, 10, &[0xABCD]);
        image.set_words(Table::Coil, 0, &[1, 0, 1, 0, 0, 0, 0, 0, 1]);
        image.set_bit(Table::Discrete, 65535, None, true);
        image
    }

    /// Byte by byte as in the examples of section 6: function, start (2), count or value (2), …
    #[test]
    fn requests_are_answered_byte_for_byte() {
        let cases: &[(&[u8], &[u8])] = &[
            (&[3, 0, 0, 0, 2], &[3, 4, 0x12, 0x34, 0x56, 0x78]),
            (&[4, 0, 10, 0, 1], &[4, 2, 0xAB, 0xCD]),
            (&[1, 0, 0, 0, 9], &[1, 2, 0b101, 1]),
            (&[2, 0xFF, 0xFF, 0, 1], &[2, 1, 1]),
            (&[2, 0xFF, 0xFF, 0, 2], &[0x82, 2]),         // runs past 65535
            (&[3, 0, 1, 0, 2], &[0x83, 2]),               // second register is not mapped
            (&[3, 0, 0, 0, 0], &[0x83, 3]),               // nothing asked
            (&[3, 0, 0, 0, 126], &[0x83, 3]),             // more than 125
            (&[5, 0, 1, 0xFF, 0], &[5, 0, 1, 0xFF, 0]),   // coil on: echo
            (&[5, 0, 1, 1, 0], &[0x85, 3]),               // neither on nor off
            (&[6, 0, 1, 0, 7], &[6, 0, 1, 0, 7]),         // register: echo
            (&[6, 0, 9, 0, 7], &[0x86, 2]),               // not mapped
            (&[15, 0, 0, 0, 3, 1, 2], &[15, 0, 0, 0, 3]), // coils 0..3 = 0,1,0
            (&[16, 0, 0, 0, 1, 2, 0, 9], &[16, 0, 0, 0, 1]),
            (&[16, 0, 0, 0, 1, 4, 0, 9], &[0x90, 3]), // byte count disagrees
            (&[22, 0, 1, 0, 0xF0, 0, 0x0A], &[22, 0, 1, 0, 0xF0, 0, 0x0A]), // 7: nothing stays of it, 0x0A is set
            (&[22, 0, 9, 0, 0xF0, 0, 0x0A], &[0x96, 2]), // not mapped
            (&[22, 0, 1, 0, 0xF0], &[0x96, 3]),       // cut short
            (&[43, 14, 1, 0], &[0xAB, 1]),            // not ours
            (&[17], &[0x91, 1]),                      // nor this
            (&[3, 0], &[0x83, 3]),                    // cut short
        ];
        let mut image = image();
        for (request, response) in cases {
            assert_eq!(answer(&mut image, request), *response, "{request:02x?}");
        }
        assert_eq!(image.words(Table::Holding, 0, 2), Ok(vec![9, 10]));
        assert_eq!(image.bits(Table::Coil, 0, 3), Ok(vec![false, true, false]));
    }

    #[test]
    fn a_write_over_a_hole_changes_nothing() {
        let mut image = image();
        assert_eq!(answer(&mut image, &[16, 0, 1, 0, 2, 4, 0, 1, 0, 2]), [0x90, 2]);
        assert_eq!(image.words(Table::Holding, 1, 1), Ok(vec![0x5678]));
    }

    proptest::proptest! {
        #[test]
        fn no_request_panics(request: Vec<u8>) {
            let response = answer(&mut image(), &request);
            proptest::prop_assert!(response.len() >= 2 && response.len() <= 253);
        }
    }
}
