//! A tally: bytes of one calendar period (UTC), on a box whose clock may be wrong. Pure.
//!
//! A new period begins only when a clock with a fix says so, and only forwards, and not by one that was put forward within
//! the last ten minutes: one that is ahead for seconds must not open a budget. After a backward step the period that
//! was goes on, with what was counted in the one that the clock has come back to added to it, and so it does while no fix
//! is known. What was counted without one, over restarts, counts for the period that
//! the first fix begins as well: it may have gone out in either. A clock that was ahead by months must not close a budget for that
//! long, so a period that lies in the future ends once the clock, set right, has run into a new period and gone for `SURE`
//! without being put, or at the latest has gone on for the longest length such a period can have. Where the clock is put into
//! the period instead, that one was right: it goes on, without what was added.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::plan::Period;
use crate::flow::notice::Phase;
use crate::model::time::{Certainty, Wall, civil_from_days, signed_millis};
use crate::store::MeterRow;

const DAY_MS: i64 = 86_400_000;
/// The operator knows of 80 %.
pub(in crate::uplink) const TOLD_80: u8 = 1;
/// The operator knows of 100 %.
pub(in crate::uplink) const TOLD_100: u8 = 2;
/// In a row: no period is known yet.
const UNKNOWN: i64 = -1;
/// A clock that was put forward begins a new period only when it has gone for so long since.
pub(in crate::uplink) const BELIEVED: Duration = Duration::from_secs(600);
/// A clock that has gone for so long without being put will hardly be put back to where it was.
const SURE: Duration = Duration::from_secs(6 * 3600);
/// A period that lies in the future by less goes on: the clock was corrected over its beginning.
const CORRECTED_MS: i64 = 60_000;
/// Periods that were left whose bytes are remembered; the oldest go first.
const LEFT_MAX: usize = 32;
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
    /// What was counted in periods that were left, by their numbers: in the one that ended by itself, and in those that the
    /// clock was put out of since.
    left: BTreeMap<i64, u64>,
    /// A clock that is not believed yet says that it is over; what was counted when it began to.
    doubted: Option<u64>,
    /// How many of the bytes are of those, because the clock has come back.
    added: u64,
    /// In which period a clock is that has come back, and, if it ran into it by itself, what had been counted by then.
    entered: Option<(i64, Option<u64>)>,
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
            left: BTreeMap::new(),
            doubted: None,
            added: 0,
            entered: None,
        }
    }

    /// Goes on from what was saved; what was counted meanwhile is added. Rows come oldest first.
    pub(in crate::uplink) fn adopt(&mut self, rows: &[MeterRow], path: &str) {
        let of = |code| rows.iter().filter(move |row| row.path == path && row.period == code);
        let Some(row) = of(code(self.period)).max_by_key(|row| row.number) else { return };
        let saved = (row.number != UNKNOWN).then_some(row.number);
        let is_history = self.number.is_some() && saved.is_some() && self.number > saved;
        // The one before may be the one that the clock comes back to; those before that are history.
        let earlier = of(code(self.period)).filter(|left| is_history || left.number < row.number);
        if let Some(last) = earlier.max_by_key(|left| left.number).filter(|left| left.number != UNKNOWN) {
            let left = self.left.entry(last.number).or_default();
            *left = left.saturating_add(last.bound);
        }
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

    /// Looks at the clock, which has gone for so long without being put; true when a new period has begun.
    pub(in crate::uplink) fn turn(&mut self, wall: Wall, steady: Duration) -> bool {
        if wall.certainty == Certainty::Floor {
            return false;
        }
        let now = number(self.period, wall.unix_ms);
        let undated = self.undated.take().unwrap_or(0);
        let Some(mine) = self.number else {
            self.number = Some(now);
            return false; // what was counted before the first fix belongs to this period
        };
        if now <= mine {
            self.doubted = None;
            return if now < mine { self.lag(wall, mine, steady) } else { self.arrive(mine, steady) };
        }
        if steady < BELIEVED {
            self.doubted.get_or_insert(self.own());
            return false;
        }
        let before = self.doubted.map_or(undated, |before| self.own().saturating_sub(before));
        if steady >= SURE {
            self.left.clear();
        }
        self.left.insert(mine, self.doubted.unwrap_or(self.own()));
        while self.left.len() > LEFT_MAX {
            self.left.pop_first();
        }
        self.begin(now, before)
    }

    /// The clock is in this period. True when it begins only now, because the clock was wrong when it said so before.
    fn arrive(&mut self, mine: i64, steady: Duration) -> bool {
        if self.behind.is_none() || steady < BELIEVED {
            return false;
        }
        if steady >= SURE {
            self.leave(mine);
            return self.begin(mine, 0);
        }
        (self.bytes, self.added, self.behind, self.entered) = (self.own(), 0, None, None);
        false // the clock was wrong meanwhile, and not before
    }

    /// The clock is before this period. True when another one has begun, because the clock is right.
    fn lag(&mut self, wall: Wall, mine: i64, steady: Duration) -> bool {
        if self.behind.is_none() && number(self.period, wall.unix_ms + CORRECTED_MS) >= mine {
            return false;
        }
        let (now, own) = (number(self.period, wall.unix_ms), self.own());
        let was_put = steady < BELIEVED && self.entered.is_some();
        let since = self.behind.filter(|since| *since < wall.unix_ms && !was_put).unwrap_or(wall.unix_ms);
        let before = match self.entered {
            Some((known, before)) if known == now => before,
            Some((known, _)) if known < now && !steady.is_zero() => Some(own),
            _ => None,
        };
        let is_over = wall.unix_ms - since >= longest_ms(self.period);
        if is_over || (steady >= SURE && before.is_some()) {
            self.leave(now);
            return self.begin(now, before.map_or(0, |before| own.saturating_sub(before)));
        }
        (self.behind, self.entered) = (Some(since), Some((now, before)));
        let was_here = self.left.contains_key(&now);
        let left = self.left.range(now..mine).filter(|_| was_here);
        let left = left.fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
        self.added = if steady < BELIEVED { left.max(self.added) } else { left };
        self.bytes = own.saturating_add(self.added);
        false
    }

    /// What was counted in the period that a clock which had come back was in until now, if it is before this one.
    fn leave(&mut self, now: i64) {
        if let Some((known, _)) = self.entered.filter(|(known, _)| *known < now) {
            self.left.retain(|left, _| *left < known); // the bytes are with all after it
            self.left.insert(known, self.bytes);
        }
    }

    /// Begins a period of which so much was counted already.
    fn begin(&mut self, number: i64, bytes: u64) -> bool {
        let (undated_saved, left) = (self.undated_saved, std::mem::take(&mut self.left));
        let new = Self::new(self.period);
        *self = Self { number: Some(number), bytes, undated: None, undated_saved, left, ..new };
        true
    }

    /// What was counted in this period, by the clock as it was: without what was added.
    pub(in crate::uplink) const fn own(&self) -> u64 {
        self.bytes.saturating_sub(self.added)
    }

    /// When it ends, ms since 1970, as far as the clock can say now; `None` while no period can end.
    pub(in crate::uplink) fn ends_ms(&self, wall: Wall) -> Option<i64> {
        if wall.certainty == Certainty::Floor {
            return None;
        }
        match self.behind {
            Some(since) if self.number > Some(number(self.period, wall.unix_ms)) => {
                let by_itself = matches!(self.entered, Some((_, Some(_))));
                let turn = if by_itself { since } else { end_ms(self.period, wall.unix_ms) };
                Some(turn.max(since + signed_millis(SURE)).min(since + longest_ms(self.period)))
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
            bytes: self.own(),
            bound: self.own().saturating_add(ahead),
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
mod tests;
