//! The checksums of line protocols. Pure.

use crate::config::plan::{ChecksumForm, ChecksumKind, ChecksumPlan};

/// What of a frame is left when its checksum, at the end, was right; `None`: it was wrong or is not there.
pub fn strip<'f>(plan: &ChecksumPlan, frame: &'f [u8]) -> Option<&'f [u8]> {
    let (body, told) = frame.split_at(frame.len().checked_sub(plan.width())?);
    let body = body.strip_suffix(plan.after.as_slice())?;
    let told = match plan.form {
        ChecksumForm::Binary if plan.kind == ChecksumKind::Crc16Modbus => number(told.iter().rev().copied()),
        ChecksumForm::Binary => number(told.iter().copied()),
        ChecksumForm::Hex => {
            let digits = std::str::from_utf8(told).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u16::from_str_radix(digits, 16).ok()?
        }
    };
    (told == of(plan.kind, body)).then_some(body)
}

/// The checksum of some bytes; one of 8 bits in the low byte.
pub fn of(kind: ChecksumKind, bytes: &[u8]) -> u16 {
    let sum = || bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    match kind {
        ChecksumKind::Xor => bytes.iter().fold(0u8, |all, byte| all ^ byte).into(),
        ChecksumKind::Sum8 => sum().into(),
        ChecksumKind::Lrc => sum().wrapping_neg().into(),
        ChecksumKind::Crc16Modbus => bytes.iter().fold(0xFFFF, |crc: u16, byte| {
            (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
        }),
        ChecksumKind::Crc16Ccitt => bytes.iter().fold(0xFFFF, |crc: u16, byte| {
            let shifted = |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            (0..8).fold(crc ^ u16::from(*byte) << 8, shifted)
        }),
    }
}

fn number(bytes: impl Iterator<Item = u8>) -> u16 {
    bytes.fold(0, |number, byte| number << 8 | u16::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::ChecksumPlace;

    #[test]
    fn the_check_values_of_the_catalogues_come_out() {
        let nine = b"123456789";
        assert_eq!(of(ChecksumKind::Crc16Modbus, nine), 0x4B37);
        assert_eq!(of(ChecksumKind::Crc16Ccitt, nine), 0x29B1);
        assert_eq!(of(ChecksumKind::Xor, nine), 0x31);
        assert_eq!(of(ChecksumKind::Sum8, nine), 0xDD);
        assert_eq!(of(ChecksumKind::Lrc, nine), 0x23);
    }

    #[test]
    fn a_checksum_is_taken_off_only_where_it_is_right() {
        let plan =
            |kind, form, after: &[u8]| ChecksumPlan { kind, form, after: after.into(), place: ChecksumPlace::Inside };
        let nmea = plan(ChecksumKind::Xor, ChecksumForm::Hex, b"*");
        let sentence = b"GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47";
        assert_eq!(strip(&nmea, sentence), Some(&sentence[..sentence.len() - 3]));
        for wrong in [&b"GPGGA,123519*47"[..], b"*", b"47", b"", b"GPGGA+7", b"A*+1", b"A*\xFF\xFF", b"A41"] {
            assert_eq!(strip(&nmea, wrong), None, "{wrong:?}");
        }
        let modbus = plan(ChecksumKind::Crc16Modbus, ChecksumForm::Binary, b"");
        assert_eq!(strip(&modbus, b"123456789\x37\x4B"), Some(&b"123456789"[..]), "low byte first");
        let ccitt = plan(ChecksumKind::Crc16Ccitt, ChecksumForm::Binary, b"");
        assert_eq!(strip(&ccitt, b"123456789\x29\xB1"), Some(&b"123456789"[..]), "high byte first");
    }
}
