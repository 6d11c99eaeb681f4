//! When something happened, on a box whose wall clock may be wrong.
//!
//! Samples carry a [`Stamp`]: the boot-time clock (never stepped, counts through suspend) and the number of the
//! boot. Wall time is worked out when a payload is encoded, from the fixes that `flow::clock` keeps.

use std::fmt;
use std::time::Duration;

/// The boot a [`Stamp`] belongs to; numbered by the store, 0 = not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot(pub u32);

/// A moment: microseconds of the boot-time clock within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Which boot.
    pub boot: Boot,
    /// Microseconds since that boot.
    pub micros: i64,
}

impl Stamp {
    /// Time from `earlier` to `self`; zero when it is not later or another boot's.
    pub fn since(self, earlier: Self) -> Duration {
        if self.boot != earlier.boot {
            return Duration::ZERO;
        }
        let micros = self.micros.saturating_sub(earlier.micros);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    /// This moment plus a duration.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let micros = signed_micros(duration);
        Self { boot: self.boot, micros: self.micros.saturating_add(micros) }
    }
}

/// A duration in milliseconds; one that is longer than the number can say is the longest.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The same in microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// [`millis`] beside a time since 1970, which may be negative.
pub fn signed_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// [`micros`] beside those of a [`Stamp`].
pub fn signed_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Whether a wall time rests on a clock fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// A fix is known for the boot.
    Fixed,
    /// No fix: this is the floor estimate (it was at least this late). Quality must say so.
    Floor,
    /// An earlier boot that never had a fix: the estimate, and the time it cannot be later than (Unix time, ms). Quality
    /// must say so.
    Until(i64),
}

impl Certainty {
    /// Does it rest on a fix?
    pub const fn is_fixed(self) -> bool {
        matches!(self, Self::Fixed)
    }
}

/// UTC in milliseconds since 1970, with its certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wall {
    /// Unix time, ms.
    pub unix_ms: i64,
    /// Fix or estimate.
    pub certainty: Certainty,
}

impl Wall {
    /// Of an estimate with a known end: the latest that it can have been, ms.
    pub const fn until_ms(self) -> Option<i64> {
        match self.certainty {
            Certainty::Until(unix_ms) => Some(unix_ms),
            Certainty::Fixed | Certainty::Floor => None,
        }
    }
}

impl fmt::Display for Wall {
    /// RFC 3339 in UTC with milliseconds: `2026-11-20T20:00:00.123Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.unix_ms.div_euclid(86_400_000), self.unix_ms.rem_euclid(86_400_000));
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        // Written by hand, because every payload has one: with a format string it would be half the work of a payload.
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let parts = [(0, 4, year), (5, 2, month), (8, 2, day), (11, 2, hour), (14, 2, minute), (17, 2, second)];
        let parts = parts.into_iter().chain([(20, 3, ms % 1000)]);
        for (first, digits, mut number) in parts {
            for place in (first..first + digits).rev() {
                text[place] = b'0' + u8::try_from(number.rem_euclid(10)).unwrap_or(0);
                number /= 10;
            }
            if number != 0 || year < 0 {
                // Not of our millennia: such times come from broken clocks only.
                return write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000);
            }
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// Days since 1970-01-01 to year, month (1 ..= 12), day (1 ..= 31) of the proleptic Gregorian calendar.
pub const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468; // days since 0000-03-01
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + (month <= 2) as i64;
    (year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

/// The inverse of [`civil_from_days`]; a day that the month does not have counts on into the next one.
pub const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - (month <= 2) as i64;
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_reads_as_rfc_3339() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_204_800_123, "2026-11-20T20:00:00.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "10000-01-01T00:00:00.000Z"),
            (-62_198_755_200_001, "-002-12-31T23:59:59.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ];
        for (unix_ms, text) in cases {
            assert_eq!(Wall { unix_ms, certainty: Certainty::Fixed }.to_string(), text);
        }
    }

    #[test]
    fn days_and_dates_are_inverse() {
        for days in (-800_000..800_000).step_by(17) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days, "{year}-{month}-{day}");
        }
    }
}
