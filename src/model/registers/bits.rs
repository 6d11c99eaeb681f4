//! Bit fields: some bits of the whole number that registers hold.
//!
//! A field is read as `(raw & mask) >> shift`. In a signed type the highest bit of the mask is the sign: the upper byte of
//! an int16 with mask 0xFF00 and shift 8 is -128 ..= 127.

/// Which bits of a raw number are the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitField {
    /// The bits; not 0.
    pub mask: u64,
    /// How far they are moved down, at most to the lowest bit of the mask.
    pub shift: u8,
}

impl BitField {
    /// The field of a raw number, not yet signed.
    pub const fn cut(self, raw: u64) -> u64 {
        (raw & self.mask) >> self.shift
    }

    /// The field as a signed number.
    pub const fn cut_signed(self, raw: u64) -> i64 {
        let unused = self.mask.leading_zeros() + self.shift as u32;
        ((self.cut(raw) << unused).cast_signed()) >> unused
    }

    /// Places a number (two's complement, if it is negative) into the field; `None` when it does not fit.
    pub fn place(self, number: i128, sign: Sign) -> Option<u64> {
        let moved = number.checked_mul(1 << self.shift)?;
        let top = 64 - self.mask.leading_zeros();
        let range = match sign {
            Sign::Unsigned => 0..1i128 << top,
            Sign::Signed => -(1i128 << (top - 1))..1i128 << (top - 1),
        };
        let bits = u64::try_from(moved & ((1i128 << top) - 1)).ok()?;
        (range.contains(&moved) && bits & !self.mask == 0).then_some(bits)
    }
}

/// Whether a field has a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// All bits count.
    Unsigned,
    /// The highest bit is the sign.
    Signed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_cut_out_and_placed_back() {
        let nibble = BitField { mask: 0x0FF0, shift: 4 };
        assert_eq!(nibble.cut(0xABCD), 0xBC);
        assert_eq!(nibble.place(0xBC, Sign::Unsigned), Some(0x0BC0));
        assert_eq!(nibble.place(0x100, Sign::Unsigned), None);
        assert_eq!(nibble.place(-1, Sign::Unsigned), None);
        let high = BitField { mask: 0xFF00, shift: 8 };
        assert_eq!(high.cut_signed(0xFE12), -2);
        assert_eq!(high.cut_signed(0x7F12), 127);
        assert_eq!(high.place(-2, Sign::Signed), Some(0xFE00));
        assert_eq!(high.place(-128, Sign::Signed), Some(0x8000));
        assert_eq!((high.place(128, Sign::Signed), high.place(-129, Sign::Signed)), (None, None));
        let in_place = BitField { mask: 0x00F0, shift: 0 };
        assert_eq!((in_place.cut(0xABCD), in_place.place(0xC0, Sign::Unsigned)), (0xC0, Some(0xC0)));
        assert_eq!(in_place.place(0xC1, Sign::Unsigned), None, "a bit beside the mask");
        let all = BitField { mask: u64::MAX, shift: 0 };
        assert_eq!(all.cut_signed(u64::MAX), -1);
        assert_eq!(all.place(u64::MAX.into(), Sign::Unsigned), Some(u64::MAX));
        assert_eq!(all.place(i64::MIN.into(), Sign::Signed), Some(1 << 63));
        assert_eq!(all.place(1 << 64, Sign::Unsigned), None);
    }

    proptest::proptest! {
        #[test]
        fn what_is_cut_fits_back(raw: u64, low in 0u8..64, width in 1u8..=64) {
            let width = width.min(64 - low);
            let field = BitField { mask: (u64::MAX >> (64 - width)) << low, shift: low };
            proptest::prop_assert_eq!(field.place(field.cut(raw).into(), Sign::Unsigned), Some(raw & field.mask));
            proptest::prop_assert_eq!(field.place(field.cut_signed(raw).into(), Sign::Signed), Some(raw & field.mask));
        }
    }
}
