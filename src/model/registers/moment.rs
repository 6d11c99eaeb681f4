//! Moments in registers: Unix seconds and `CP56Time2a` of IEC 60870-5-4, section 6.8. Their value is RFC 3339 text in UTC.
//!
//! `CP56Time2a` has seven octets. As one number of 64 bits, most significant first, as the four registers of a meter hold it
//! (the octet above the year is reserved):
//!
//! ```text
//! 63 … 56 55   54 … 48 47 … 44 43 … 40 39 … 37      36 … 32 31 30 29 28 … 24 23 22 21 … 16 15 … 0
//! reserved  -  year    -       month   day of week  day     SU -  -  hour    IV -  minute  milliseconds of the minute
//! ```
//!
//! Years count from 2000 (0 ..= 99), the day of the week from Monday = 1 (0: not used). IV: the device says that its clock
//! is not set. SU: summer time. The zone is taken as UTC, so that a time marked SU is one hour ahead of it.

use super::{DoesNotFit, Unreadable};
use crate::model::time::{Certainty, Wall, civil_from_days, days_from_civil};
use crate::model::value::Value;

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// What RFC 3339 can say: the years 0000 ..= 9999, in milliseconds since 1970.
const SAYABLE: std::ops::Range<i64> = -62_167_219_200_000..253_402_300_800_000;

/// The text of a moment, ms since 1970.
pub(super) fn text(unix_ms: i64) -> Result<Value, Unreadable> {
    if !SAYABLE.contains(&unix_ms) {
        return Err(Unreadable::NotANumber);
    }
    Ok(Value::Text(Wall { unix_ms, certainty: Certainty::Fixed }.to_string().into()))
}

/// The moment of a text, ms since 1970; any offset will do.
pub(super) fn parse(text: &str) -> Result<i64, DoesNotFit> {
    let moment: jiff::Timestamp = text.parse().map_err(|_| DoesNotFit::WrongKind)?;
    if moment.subsec_nanosecond() % 1_000_000 == 0 { Ok(moment.as_millisecond()) } else { Err(DoesNotFit::OutOfRange) }
}

/// A whole number of seconds; a fraction is not rounded away.
pub(super) fn seconds(unix_ms: i64) -> Result<i64, DoesNotFit> {
    if unix_ms % SECOND == 0 { Ok(unix_ms / SECOND) } else { Err(DoesNotFit::OutOfRange) }
}

/// Reads a `CP56Time2a`, ms since 1970.
pub(super) fn cp56(raw: u64) -> Result<i64, Unreadable> {
    let bits = |low: u32, width: u32| (raw >> low & ((1 << width) - 1)).cast_signed();
    let (ms, minute, invalid) = (bits(0, 16), bits(16, 6), bits(23, 1));
    let (hour, summer) = (bits(24, 5), bits(31, 1));
    let (day, month, year) = (bits(32, 5), bits(40, 4), bits(48, 7));
    let in_range = ms < MINUTE && minute < 60 && hour < 24 && (1..=12).contains(&month) && day >= 1 && year <= 99;
    let days = days_from_civil(2000 + year, month, day);
    if invalid == 1 || !in_range || civil_from_days(days) != (2000 + year, month, day) {
        return Err(Unreadable::NotANumber);
    }
    Ok(days * DAY + (hour - summer) * HOUR + minute * MINUTE + ms)
}

/// Writes one: valid, no summer time, day of the week not used.
pub(super) fn to_cp56(unix_ms: i64) -> Result<u64, DoesNotFit> {
    let (year, month, day) = civil_from_days(unix_ms.div_euclid(DAY));
    if !(2000..=2099).contains(&year) {
        return Err(DoesNotFit::OutOfRange);
    }
    let in_day = unix_ms.rem_euclid(DAY);
    let (hour, minute, ms) = (in_day / HOUR, in_day / MINUTE % 60, in_day % MINUTE);
    Ok((ms | minute << 16 | hour << 24 | day << 32 | month << 40 | (year - 2000) << 48).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Octets in the order of the standard: 34 567 ms of minute 30, 8 h, Friday (5) 20th, November, 26.
    const OCTETS: [u8; 8] = [0x07, 0x87, 30, 8, 0xB4, 11, 26, 0];

    fn ms(text: &str) -> i64 {
        parse(text).expect("a time")
    }

    #[test]
    fn a_cp56time2a_is_the_moment_its_octets_name() {
        let raw = u64::from_le_bytes(OCTETS);
        assert_eq!(cp56(raw), Ok(ms("2026-11-20T08:30:34.567Z")));
        assert_eq!(cp56(raw | 1 << 31), Ok(ms("2026-11-20T07:30:34.567Z")), "SU");
        assert_eq!(cp56(raw | 0x60 << 24), cp56(raw), "reserved bits beside the hour");
        assert_eq!(cp56(raw | 0x40 << 16), cp56(raw), "a substituted value is one");
        // Words as a meter with the four-register layout shows them: 2011-01-31 00:00:00.
        assert_eq!(cp56(0x000B_013F_0000_0000), Ok(ms("2011-01-31T00:00:00Z")));
        assert_eq!(to_cp56(ms("2026-11-20T08:30:34.567Z")), Ok(raw & !(7 << 37)));
        assert_eq!(to_cp56(ms("2100-01-01T00:00:00Z")), Err(DoesNotFit::OutOfRange));
    }

    #[test]
    fn a_time_that_is_none_is_no_value() {
        let raw = u64::from_le_bytes(OCTETS);
        let with = |place: u32, octet: u8| raw & !(0xFF << (8 * place)) | u64::from(octet) << (8 * place);
        for (what, wrong) in [
            ("IV", raw | 1 << 23),
            ("60 000 ms", 0xEA60 | raw & !0xFFFF),
            ("minute 60", with(2, 60)),
            ("hour 24", with(3, 24)),
            ("day 0", with(4, 0)),
            ("31 November", with(4, 31)),
            ("month 0", with(5, 0)),
            ("month 13", with(5, 13)),
            ("year 100", with(6, 100)),
            ("nothing", 0),
            ("not implemented", u64::MAX),
        ] {
            assert_eq!(cp56(wrong), Err(Unreadable::NotANumber), "{what}");
        }
        assert_eq!(text(SAYABLE.end), Err(Unreadable::NotANumber));
        assert_eq!(text(SAYABLE.end - 1), Ok(Value::Text("9999-12-31T23:59:59.999Z".into())));
        assert_eq!(text(SAYABLE.start), Ok(Value::Text("0000-01-01T00:00:00.000Z".into())));
    }

    #[test]
    fn texts_of_any_offset_are_moments_and_fractions_are_not_rounded_away() {
        assert_eq!(parse("2026-11-20T21:00:00+01:00"), Ok(1_795_204_800_000));
        assert_eq!(parse("soon"), Err(DoesNotFit::WrongKind));
        assert_eq!(parse("2026-11-20T20:00:00.0001Z"), Err(DoesNotFit::OutOfRange));
        assert_eq!((seconds(5000), seconds(5001)), (Ok(5), Err(DoesNotFit::OutOfRange)));
    }

    proptest::proptest! {
        #[test]
        fn every_moment_of_the_century_survives(unix_ms in 946_684_800_000i64..4_102_444_800_000) {
            proptest::prop_assert_eq!(to_cp56(unix_ms).map(cp56), Ok(Ok(unix_ms)));
            let Ok(Value::Text(text)) = text(unix_ms) else { panic!("sayable") };
            proptest::prop_assert_eq!(parse(&text), Ok(unix_ms));
        }
    }
}
