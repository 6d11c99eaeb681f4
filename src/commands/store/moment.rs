//! A moment on the command line: `2026-11-20T20:00:00Z`, `2026-11-20` (midnight UTC), or `-1h` (so long ago).

use std::time::Duration;

use crate::commands::{duration, plain_clock};
use crate::model::time::{Certainty, signed_millis};

/// A moment, or how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// ms since 1970.
    At(i64),
    /// Before now.
    Ago(Duration),
}

/// Reads it.
pub(super) fn moment(text: &str) -> Result<Moment, String> {
    if let Some(ago) = text.strip_prefix('-') {
        return duration(ago).map(Moment::Ago);
    }
    let wrong = |_| format!("'{text}' is no moment; write 2026-11-20T20:00:00Z, 2026-11-20 or -1h");
    if let Ok(date) = text.parse::<jiff::civil::Date>()
        && !text.contains(['T', 't', ' '])
    {
        let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).map_err(wrong)?;
        return Ok(Moment::At(midnight.timestamp().as_millisecond()));
    }
    text.parse::<jiff::Timestamp>().map(|at| Moment::At(at.as_millisecond())).map_err(wrong)
}

impl Moment {
    /// ms since 1970; not where it depends on a clock that is not believable.
    pub(super) fn unix_ms(self) -> Result<i64, String> {
        match self {
            Self::At(unix_ms) => Ok(unix_ms),
            Self::Ago(ago) => {
                let now = plain_clock().wall_now();
                if now.certainty == Certainty::Floor {
                    return Err("this machine does not know the time: write times as 2026-11-20T20:00:00Z".into());
                }
                Ok(now.unix_ms.saturating_sub(signed_millis(ago)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_times_with_a_zone_or_how_long_ago() {
        assert_eq!(moment("2026-11-20T20:00:00.123Z"), Ok(Moment::At(1_795_204_800_123)));
        assert_eq!(moment("2026-11-20T22:00:00+02:00"), Ok(Moment::At(1_795_204_800_000)));
        assert_eq!(moment("2026-11-20"), Ok(Moment::At(1_795_132_800_000)));
        assert_eq!(moment("-1h"), Ok(Moment::Ago(Duration::from_secs(3600))));
        for wrong in ["", "yesterday", "2026-11-20T20:00:00", "1h", "-1", "2026-13-01"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
