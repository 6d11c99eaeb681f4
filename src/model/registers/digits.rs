//! Numbers in decimal digits (BCD, modulo 10 000) and half-precision floats.
//!
//! BCD: one digit to a nibble, the most significant first. Modulo 10 000: each register counts to 9999, the most
//! significant first; a negative number has every register negative or 0. A nibble above 9, a register beyond 9999 or
//! registers of both signs are no number, and never guessed at.

use super::{DoesNotFit, Unreadable};

/// Largest value of one modulo register.
const DIGITS_PER_REGISTER: i64 = 10_000;

/// The number in these nibbles.
pub(super) fn bcd(raw: u64, nibbles: u32) -> Result<u64, Unreadable> {
    (0..nibbles).rev().try_fold(0, |number, place| match raw >> (4 * place) & 0xF {
        digit @ 0..=9 => Ok(number * 10 + digit),
        _ => Err(Unreadable::NotANumber),
    })
}

/// The nibbles of a number.
pub(super) fn to_bcd(number: i128, nibbles: u32) -> Result<u64, DoesNotFit> {
    let mut rest = u64::try_from(number).map_err(|_| DoesNotFit::OutOfRange)?;
    let mut raw = 0;
    for place in 0..nibbles {
        raw |= (rest % 10) << (4 * place);
        rest /= 10;
    }
    if rest == 0 { Ok(raw) } else { Err(DoesNotFit::OutOfRange) }
}

/// The number in these registers, which were gathered most significant first.
pub(super) fn mod10(raw: u64, registers: u8) -> Result<i64, Unreadable> {
    let digits = |place: u8| i64::from(((raw >> (16 * u32::from(place)) & 0xFFFF) as u16).cast_signed());
    let all = || (0..registers).map(digits);
    let of_one_sign = all().all(|digits| digits >= 0) || all().all(|digits| digits <= 0);
    if !of_one_sign || all().any(|digits| digits.abs() >= DIGITS_PER_REGISTER) {
        return Err(Unreadable::NotANumber);
    }
    Ok(all().rev().fold(0, |number, digits| number * DIGITS_PER_REGISTER + digits))
}

/// The registers of a number.
pub(super) fn to_mod10(number: i128, registers: u8) -> Result<u64, DoesNotFit> {
    let mut rest = i64::try_from(number).map_err(|_| DoesNotFit::OutOfRange)?;
    let mut raw = 0;
    for place in 0..registers {
        let digits = (rest % DIGITS_PER_REGISTER) as i16;
        raw |= u64::from(digits.cast_unsigned()) << (16 * u32::from(place));
        rest /= DIGITS_PER_REGISTER;
    }
    if rest == 0 { Ok(raw) } else { Err(DoesNotFit::OutOfRange) }
}

/// IEEE 754 binary16: 1 sign, 5 exponent (bias 15), 10 fraction bits. Exact.
pub(super) fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1F), f64::from(bits & 0x3FF));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { size } else { -size }
}

/// The nearest half, ties to even; `None` where that is infinite.
pub(super) fn to_half(number: f64) -> Option<u16> {
    let sign = if number.is_sign_negative() { 0x8000 } else { 0 };
    let size = number.abs();
    // One step of the grid: 2^-24 below the smallest normal number (2^-14), then 2^-10 of the power of two below.
    let power = if size < 2f64.powi(-14) { -14 } else { ((size.to_bits() >> 52) as i32 & 0x7FF) - 1023 };
    if !size.is_finite() || power > 15 {
        return None;
    }
    let steps = (size * 2f64.powi(10 - power)).round_ties_even() as u16; // at most 2048: both factors are exact
    // Steps above 1023 carry into the exponent by themselves, also when rounding reached the next power of two.
    let bits = if power == -14 { steps } else { (power + 14) as u16 * 1024 + steps };
    (bits < 0x7C00).then_some(sign | bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of IEEE 754-2008 binary16, as every implementation quotes them.
    #[test]
    fn halves_are_those_of_ieee_754() {
        let cases = [
            (0x0000, 0.0),
            (0x0001, 0.000_000_059_604_644_775_390_63), // smallest subnormal
            (0x03FF, 0.000_060_975_551_605_224_61),     // largest subnormal
            (0x0400, 0.000_061_035_156_25),             // smallest normal
            (0x3555, 0.333_251_953_125),                // nearest to 1/3
            (0x3BFF, 0.999_511_718_75),                 // largest below 1
            (0x3C00, 1.0),
            (0x3C01, 1.000_976_562_5), // smallest above 1
            (0x4248, 3.140_625),
            (0x7BFF, 65504.0), // largest
            (0xC000, -2.0),
            (0xD640, -100.0),
        ];
        for (bits, number) in cases {
            assert_eq!(half(bits).to_bits(), f64::to_bits(number), "{bits:04x}");
            assert_eq!(to_half(number), Some(bits), "{number}");
        }
        assert!(half(0x7C00).is_infinite() && half(0xFC00).is_infinite() && half(0x7E00).is_nan());
        assert_eq!(to_half(-0.0), Some(0x8000));
        let rounded = [(1.0 / 3.0, 0x3555), (2049.0, 0x6800), (2051.0, 0x6802), (65519.9, 0x7BFF), (2f64.powi(-25), 0)];
        for (number, bits) in rounded {
            assert_eq!(to_half(number), Some(bits), "{number}");
        }
        for beyond in [65520.0, 1e9, f64::INFINITY, f64::NAN] {
            assert_eq!(to_half(beyond), None, "{beyond}");
        }
        for bits in (0..=u16::MAX).filter(|bits| bits & 0x7C00 != 0x7C00) {
            assert_eq!(to_half(half(bits)), Some(bits));
        }
    }

    #[test]
    fn decimal_digits_are_read_and_what_is_none_is_no_number() {
        assert_eq!(bcd(0x1234, 4), Ok(1234));
        assert_eq!(bcd(0x9999_9999, 8), Ok(99_999_999));
        for wrong in [0x123A, 0xF000, 0xFFFF] {
            assert_eq!(bcd(wrong, 4), Err(Unreadable::NotANumber), "{wrong:04x}");
        }
        assert_eq!(to_bcd(907, 4), Ok(0x0907));
        assert_eq!((to_bcd(10_000, 4), to_bcd(-1, 4)), (Err(DoesNotFit::OutOfRange), Err(DoesNotFit::OutOfRange)));
        assert_eq!(mod10(0x0001_04D2, 2), Ok(11_234)); // 1, 1234
        assert_eq!(mod10(0x270F_270F_270F_270F, 4), Ok(9_999_999_999_999_999));
        assert_eq!(mod10(0xFFFF_FB2E, 2), Ok(-11_234)); // -1, -1234
        assert_eq!(mod10(0x0000_2710, 2), Err(Unreadable::NotANumber), "10 000 in a register");
        assert_eq!(mod10(0x0001_FFFF, 2), Err(Unreadable::NotANumber), "1, -1");
        assert_eq!(to_mod10(11_234, 2), Ok(0x0001_04D2));
        assert_eq!(to_mod10(-11_234, 3), Ok(0x0000_FFFF_FB2E));
        assert_eq!(to_mod10(100_000_000, 2), Err(DoesNotFit::OutOfRange));
    }
}
