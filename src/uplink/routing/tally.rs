//! A tally: bytes of one calendar period (UTC), on a box whose clock may be wrong. Pure.
//!
//! A new period begins only when a clock with a fix says so, and only forwards: after a backward step the period that
//! was goes on, and so it does while no fix is known. What was counted without one, over restarts, counts for the period that
//! the first fix begins as well: it may have gone out in either. A clock that was ahead by months must not close a budget for that
//! long, so a period that lies in the future ends once the clock, set right, has gone on for the longest length such a
//! period can have.

use crate::config::plan::Period;
use crate::flow::notice::Phase;
use crate::model::time::{Certainty, Wall, civil_from_days};
use crate::store::MeterRow;

const DAY_MS: i64 = 86_400_000;
/// The operator knows of 80 %.
pub(in crate::uplink) const TOLD_80: u8 = 1;
/// The operator knows of 100 %.
pub(in crate::uplink) const TOLD_100: u8 = 2;
/// In a row: no period is known yet.
const UNKNOWN: i64 = -1;
/// Added to the code of a period: what of it was counted before a fix, in a row of its own.
const UNDATED: u8 = 2;

/// Which period a moment lies in: days since 1970, or year × 12 + month − 1.
pub(in crate::uplink) const fn number(period: Period, unix_ms: i64) -> i64 {
    let day = unix_ms.div_euclid(DAY_MS);
    match period {
        Period::Day => day,
        Period::Month => {
            let (year, month, _) = civil_from_days(day);
            year * 12 + month - 1
        }
    }
}

/// When the period that a moment lies in ends, ms since 1970.
pub(in crate::uplink) const fn end_ms(period: Period, unix_ms: i64) -> i64 {
    let mine = number(period, unix_ms);
    let mut day = unix_ms.div_euclid(DAY_MS) + 1;
    while number(period, day * DAY_MS) == mine {
        day += 1; // at most 30 times
    }
    day * DAY_MS
}

/// The longest such period, ms.
const fn longest_ms(period: Period) -> i64 {
    match period {
        Period::Day => DAY_MS,
        Period::Month => 31 * DAY_MS,
    }
}

/// The word in texts.
pub(in crate::uplink) const fn word(period: Period) -> &'static str {
    match period {
        Period::Day => "day",
        Period::Month => "month",
    }
}

/// Bytes of one period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::uplink) struct Tally {
    pub(in crate::uplink) period: Period,
    /// `None` until a fix says which.
    number: Option<i64>,
    pub(in crate::uplink) bytes: u64,
    /// How many of them were counted since the last fix of an earlier run and before the first of this one; `None` once there
    /// was one.
    undated: Option<u64>,
    /// There is a row that says so.
    undated_saved: bool,
    /// What the operator was told of in this period, over restarts.
    pub(in crate::uplink) told: u8,
    /// The part of it that this run has told: what an earlier one had standing is gone with it.
    pub(in crate::uplink) standing: u8,
    /// Since when the clock says that this period lies in the future.
    behind: Option<i64>,
}

impl Tally {
    pub(in crate::uplink) const fn new(period: Period) -> Self {
        Self {
            period,
            number: None,
            bytes: 0,
            undated: Some(0),
            undated_saved: false,
            told: 0,
            standing: 0,
            behind: None,
        }
    }

    /// Goes on from what was saved; what was counted meanwhile is added. Rows come oldest first.
    pub(in crate::uplink) fn adopt(&mut self, rows: &[MeterRow], path: &str) {
        let of = |code| rows.iter().filter(move |row| row.path == path && row.period == code);
        let Some(row) = of(code(self.period)).max_by_key(|row| row.number) else { return };
        let saved = (row.number != UNKNOWN).then_some(row.number);
        let is_history = self.number.is_some() && saved.is_some() && self.number > saved;
        let before = of(code(self.period) + UNDATED).fold(0u64, |sum, row| sum.saturating_add(row.bound));
        self.undated_saved = before > 0;
        match &mut self.undated {
            Some(undated) => *undated = undated.saturating_add(before),
            // The fix came first, and began a new period.
            None if is_history => self.bytes = self.bytes.saturating_add(before),
            None => {}
        }
        if is_history {
            return;
        }
        self.number = saved.or(self.number);
        self.bytes = self.bytes.saturating_add(row.bound);
        self.told |= row.told;
        self.behind = row.behind;
    }

    /// So many more bytes were counted.
    pub(in crate::uplink) fn count(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(undated) = &mut self.undated {
            *undated = undated.saturating_add(bytes);
        }
    }

    /// The operator is told that this holds, or does not any more.
    pub(in crate::uplink) fn tell(&mut self, bit: u8, phase: Phase) {
        match phase {
            Phase::Cleared => (self.told, self.standing) = (self.told & !bit, self.standing & !bit),
            Phase::Active | Phase::Once => (self.told, self.standing) = (self.told | bit, self.standing | bit),
        }
    }

    /// Looks at the clock; true when a new period has begun.
    pub(in crate::uplink) fn turn(&mut self, wall: Wall) -> bool {
        if wall.certainty == Certainty::Floor {
            return false;
        }
        let now = number(self.period, wall.unix_ms);
        let undated = self.undated.take().unwrap_or(0);
        let Some(mine) = self.number else {
            self.number = Some(now);
            return false; // what was counted before the first fix belongs to this period
        };
        if now == mine {
            self.behind = None;
            return false;
        }
        if now < mine {
            let since = self.behind.map_or(wall.unix_ms, |since| since.min(wall.unix_ms));
            self.behind = Some(since);
            if wall.unix_ms - since < longest_ms(self.period) {
                return false;
            }
        }
        let undated_saved = self.undated_saved;
        *self = Self { number: Some(now), bytes: undated, undated: None, undated_saved, ..Self::new(self.period) };
        true
    }

    /// When it ends, ms since 1970, as far as the clock can say now; `None` while no period can end.
    pub(in crate::uplink) fn ends_ms(&self, wall: Wall) -> Option<i64> {
        if wall.certainty == Certainty::Floor {
            return None;
        }
        match self.behind {
            Some(since) if self.number > Some(number(self.period, wall.unix_ms)) => {
                Some(since + longest_ms(self.period))
            }
            _ => Some(end_ms(self.period, wall.unix_ms)),
        }
    }

    /// As it is saved; `ahead` is what may be counted before the next save.
    pub(in crate::uplink) fn row(&self, uplink: &str, path: &str, ahead: u64) -> MeterRow {
        MeterRow {
            uplink: uplink.to_owned(),
            path: path.to_owned(),
            period: code(self.period),
            number: self.number.unwrap_or(UNKNOWN),
            bytes: self.bytes,
            bound: self.bytes.saturating_add(ahead),
            told: self.told,
            behind: self.behind,
        }
    }

    /// Says a row that there is no fix, and there has been one since?
    pub(in crate::uplink) const fn has_outdated_row(&self) -> bool {
        self.undated_saved && self.undated.is_none()
    }

    /// What was counted without a fix, for the next run to go on with; once there was a fix, nothing.
    pub(in crate::uplink) fn undated_row(&mut self, uplink: &str, path: &str, ahead: u64) -> Option<MeterRow> {
        let undated = self.undated.filter(|bytes| *bytes > 0);
        let was_saved = std::mem::replace(&mut self.undated_saved, undated.is_some());
        (undated.is_some() || was_saved).then(|| MeterRow {
            uplink: uplink.to_owned(),
            path: path.to_owned(),
            period: code(self.period) + UNDATED,
            number: UNKNOWN,
            bytes: undated.unwrap_or(0),
            bound: undated.map_or(0, |bytes| bytes.saturating_add(ahead)),
            told: 0,
            behind: None,
        })
    }
}

const fn code(period: Period) -> u8 {
    match period {
        Period::Day => 0,
        Period::Month => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn fixed(unix_ms: i64) -> Wall {
        Wall { unix_ms, certainty: Certainty::Fixed }
    }

    /// 2026-11-20T20:00:00Z
    const NOW: i64 = 1_795_204_800_000;
    const MIDNIGHT: i64 = NOW + 4 * 3_600_000;

    fn counted(period: Period) -> Tally {
        let mut tally = Tally::new(period);
        assert!(!tally.turn(fixed(NOW)));
        tally.bytes = 1000;
        tally.told = TOLD_80;
        tally
    }

    #[test]
    fn a_day_ends_at_midnight_utc_and_a_month_after_its_own_length() {
        assert_eq!(end_ms(Period::Day, NOW), MIDNIGHT);
        assert_eq!(end_ms(Period::Day, MIDNIGHT), MIDNIGHT + DAY_MS);
        // First of a month, days in it: February of a common, a leap, a century and a 400th year; December.
        for (first, days) in [
            ("2026-11-01", 30),
            ("2027-02-01", 28),
            ("2028-02-01", 29),
            ("2100-02-01", 28),
            ("2000-02-01", 29),
            ("2026-12-01", 31),
        ] {
            let start = (0..60_000).map(|day| day * DAY_MS).find(|ms| fixed(*ms).to_string().starts_with(first));
            let start = start.expect("within 164 years of 1970");
            assert_eq!(end_ms(Period::Month, start), start + days * DAY_MS, "{first}");
            assert_eq!(end_ms(Period::Month, start + days * DAY_MS - 1), start + days * DAY_MS, "{first}");
            assert_ne!(number(Period::Month, start - 1), number(Period::Month, start));
        }
    }

    #[test]
    fn a_period_turns_once_at_its_end() {
        let mut tally = counted(Period::Day);
        assert!(!tally.turn(fixed(MIDNIGHT - 1)));
        assert_eq!((tally.bytes, tally.ends_ms(fixed(NOW))), (1000, Some(MIDNIGHT)));
        assert!(tally.turn(fixed(MIDNIGHT)));
        assert_eq!((tally.bytes, tally.told), (0, 0));
        assert!(!tally.turn(fixed(MIDNIGHT + 1)));
        let mut month = counted(Period::Month);
        assert!(!month.turn(fixed(MIDNIGHT)));
        assert!(month.turn(fixed(NOW + 11 * DAY_MS)), "December");
    }

    #[test]
    fn a_backward_step_never_restarts_a_period_and_neither_does_the_way_back() {
        for period in [Period::Day, Period::Month] {
            let mut tally = counted(period);
            for step in [NOW - 3 * DAY_MS, NOW - 400 * DAY_MS, NOW - 1, NOW, NOW - 40 * DAY_MS, NOW + 1000] {
                assert!(!tally.turn(fixed(step)), "{period:?} {step}");
            }
            assert_eq!(tally.bytes, 1000);
        }
        let mut tally = counted(Period::Day);
        assert!(tally.turn(fixed(MIDNIGHT)));
        tally.bytes = 5;
        assert!(!tally.turn(fixed(MIDNIGHT - 2000)), "an NTP correction just after midnight");
        assert!(!tally.turn(fixed(MIDNIGHT)));
        assert_eq!(tally.bytes, 5);
    }

    #[test]
    fn without_a_fix_the_last_known_period_goes_on() {
        let mut tally = counted(Period::Day);
        let floor = Wall { unix_ms: NOW + 90 * DAY_MS, certainty: Certainty::Floor };
        assert!(!tally.turn(floor));
        assert_eq!((tally.bytes, tally.ends_ms(floor)), (1000, None));
        let mut fresh = Tally::new(Period::Month);
        assert!(!fresh.turn(floor));
        fresh.bytes = 7;
        assert!(!fresh.turn(fixed(NOW)), "counted before the first fix, and still counted after it");
        assert_eq!(fresh.bytes, 7);
    }

    #[test]
    fn what_goes_out_before_the_first_fix_counts_for_the_period_that_begins_with_it() {
        let saved = [counted(Period::Day).row("u", "", 0)];
        let floor = Wall { unix_ms: NOW, certainty: Certainty::Floor };
        // Switched on in the morning: what is in the backlog goes out before anybody has told the time.
        let mut tally = Tally::new(Period::Day);
        tally.count(30);
        tally.adopt(&saved, "");
        assert!(!tally.turn(floor));
        tally.count(70);
        assert_eq!(tally.bytes, 1100);
        assert!(tally.turn(fixed(MIDNIGHT + 1)));
        assert_eq!((tally.bytes, tally.told), (100, 0));
        tally.count(5);
        assert!(tally.turn(fixed(MIDNIGHT + DAY_MS)));
        assert_eq!(tally.bytes, 0, "once");
        // On the same day: nothing counts twice.
        let mut tally = Tally::new(Period::Day);
        tally.adopt(&saved, "");
        tally.count(70);
        assert!(!tally.turn(fixed(MIDNIGHT - 1)));
        assert_eq!(tally.bytes, 1070);
        assert!(tally.turn(fixed(MIDNIGHT)));
        assert_eq!(tally.bytes, 0);
    }

    #[test]
    fn what_goes_out_before_the_first_fix_is_not_forgotten_by_a_restart_before_it() {
        let mut rows = vec![counted(Period::Day).row("u", "", 0)];
        let save = |tally: &mut Tally, rows: &mut Vec<MeterRow>| {
            for row in [Some(tally.row("u", "", 0)), tally.undated_row("u", "", 0)].into_iter().flatten() {
                rows.retain(|older| !row.displaces(older));
                rows.push(row);
            }
        };
        for run in 1..=3 {
            let mut tally = Tally::new(Period::Day);
            tally.count(1);
            tally.adopt(&rows, "");
            tally.count(9);
            save(&mut tally, &mut rows);
            assert_eq!((tally.bytes, tally.undated), (1000 + run * 10, Some(run * 10)));
        }
        // A fix, and then the disk; and the other way round.
        let mut late = Tally::new(Period::Day);
        late.turn(fixed(MIDNIGHT + 1));
        late.adopt(&rows, "");
        assert_eq!(late.bytes, 30);
        let mut tally = Tally::new(Period::Day);
        tally.adopt(&rows, "");
        assert!(tally.turn(fixed(MIDNIGHT + 1)));
        assert_eq!((tally.bytes, tally.has_outdated_row()), (30, true));
        save(&mut tally, &mut rows);
        let mut again = Tally::new(Period::Day);
        again.adopt(&rows, "");
        assert_eq!((again.bytes, again.undated, again.has_outdated_row()), (30, Some(0), false), "once");
    }

    #[test]
    fn a_clock_that_was_years_ahead_costs_one_period_and_not_years() {
        let mut tally = counted(Period::Day);
        assert!(tally.turn(fixed(NOW + 3000 * DAY_MS)));
        tally.bytes = 9;
        assert!(!tally.turn(fixed(NOW)));
        assert_eq!(tally.ends_ms(fixed(NOW)), Some(NOW + DAY_MS));
        let saved = tally.row("u", "", 0);
        let mut tally = Tally::new(Period::Day);
        tally.adopt(&[saved], "");
        assert!(!tally.turn(fixed(NOW + DAY_MS - 1)));
        assert!(tally.turn(fixed(NOW + DAY_MS)), "also over a restart");
        assert_eq!(tally.bytes, 0);
    }

    #[test]
    fn a_restart_goes_on_from_what_may_have_been_counted_and_forgets_other_ways() {
        let tally = counted(Period::Day);
        let rows = [tally.row("u", "lte", 77), tally.row("u", "", 24)];
        let mut again = Tally::new(Period::Day);
        again.adopt(&rows, "");
        assert_eq!((again.bytes, again.told), (1024, TOLD_80));
        assert!(!again.turn(fixed(NOW)));
        assert_eq!(again.bytes, 1024);
        let mut month = Tally::new(Period::Month);
        month.adopt(&rows, "");
        assert_eq!(month.bytes, 0);
        // A sum that nobody can have counted panics nowhere.
        again.adopt(&[MeterRow { bound: u64::MAX, ..rows[1].clone() }], "");
        assert_eq!((again.bytes, again.row("u", "", 5).bound), (u64::MAX, u64::MAX));
        // The store could be opened only after some bytes had gone out.
        let mut late = counted(Period::Day);
        late.adopt(&rows, "lte");
        assert_eq!(late.bytes, 2077);
    }
}
