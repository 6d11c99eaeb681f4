//! Windows of a scheduled path: from each full multiple of `every` since midnight UTC, for so long. Pure.
//!
//! Uses the wall clock as it is, fix or not: without a fix windows come at the right distance, at the wrong time.

use crate::config::plan::Schedule;

const DAY_MS: i64 = 86_400_000;

/// What a schedule says at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::uplink) enum Window {
    /// Open; closes then (ms since 1970), `None`: never.
    Open(Option<i64>),
    /// Closed; opens then.
    Closed(i64),
}

/// The window at this moment, ms since 1970.
pub(in crate::uplink) fn window(schedule: Option<Schedule>, unix_ms: i64) -> Window {
    let Some(schedule) = schedule else { return Window::Open(None) };
    let ms = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(DAY_MS).clamp(1, DAY_MS);
    let (every, lasts) = (ms(schedule.every), ms(schedule.lasts));
    if lasts >= every {
        return Window::Open(None);
    }
    // Windows are counted from midnight: the last one of a day may be cut short by the first of the next, which then
    // lasts at least as long.
    let midnight = unix_ms - unix_ms.rem_euclid(DAY_MS);
    let started = midnight + (unix_ms - midnight) / every * every;
    if unix_ms - started >= lasts {
        return Window::Closed((started + every).min(midnight + DAY_MS));
    }
    let closes = started + lasts;
    let next_day = midnight + DAY_MS;
    Window::Open(Some(if closes >= next_day { next_day + lasts } else { closes }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MINUTE: i64 = 60_000;
    /// 2026-11-20T00:00:00Z
    const MIDNIGHT: i64 = 1_795_132_800_000;

    fn at(every_min: u64, lasts_s: u64, unix_ms: i64) -> Window {
        let schedule = Schedule { every: Duration::from_secs(every_min * 60), lasts: Duration::from_secs(lasts_s) };
        window(Some(schedule), unix_ms)
    }

    #[test]
    fn a_window_opens_at_each_multiple_and_closes_when_it_has_lasted() {
        assert_eq!(window(None, MIDNIGHT), Window::Open(None));
        assert_eq!(at(15, 120, MIDNIGHT), Window::Open(Some(MIDNIGHT + 2 * MINUTE)));
        assert_eq!(at(15, 120, MIDNIGHT + 2 * MINUTE - 1), Window::Open(Some(MIDNIGHT + 2 * MINUTE)));
        assert_eq!(at(15, 120, MIDNIGHT + 2 * MINUTE), Window::Closed(MIDNIGHT + 15 * MINUTE));
        assert_eq!(at(15, 120, MIDNIGHT + 15 * MINUTE), Window::Open(Some(MIDNIGHT + 17 * MINUTE)));
        assert_eq!(at(15, 120, MIDNIGHT - 1), Window::Closed(MIDNIGHT));
        assert_eq!(at(1, 60, MIDNIGHT + 5), Window::Open(None), "as long as the distance: always");
        assert_eq!(at(24 * 60, 60, MIDNIGHT + 2 * MINUTE), Window::Closed(MIDNIGHT + DAY_MS));
    }

    #[test]
    fn windows_begin_anew_at_midnight_even_where_the_distance_does_not_divide_the_day() {
        // 7 minutes: the last multiple of the day is 23:55, so that the next window would be at 00:02.
        let last = MIDNIGHT - 5 * MINUTE;
        assert_eq!(at(7, 60, last), Window::Open(Some(last + MINUTE)));
        assert_eq!(at(7, 60, last + 2 * MINUTE), Window::Closed(MIDNIGHT));
        // A window over midnight goes over into the first one of the day.
        assert_eq!(at(7, 6 * 60, last + MINUTE), Window::Open(Some(MIDNIGHT + 6 * MINUTE)));
        assert_eq!(at(7, 6 * 60, MIDNIGHT), Window::Open(Some(MIDNIGHT + 6 * MINUTE)));
    }
}
