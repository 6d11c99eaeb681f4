//! What a store writes to its flash, over all its runs: how much, and how much a day.
//!
//! Pure. Counted is what is handed to the disk ([`super::StoreStats::written_bytes`]); what the file system adds is not in
//! it. Days are of running time: while the gateway is off nothing is written.

use serde::Serialize;

use crate::disk::meta::Edit;

/// Names among the values of `meta.db`: bytes, and ms of running, since the store was begun.
const BYTES: &str = "written_bytes";
const RAN: &str = "written_in_ms";
/// Both as they were when the day began that is running, and what the day before wrote.
const DAY_BYTES: &str = "written_day_from_bytes";
const DAY_RAN: &str = "written_day_from_ms";
const DAY_LAST: &str = "written_day_last";

const DAY_MS: i64 = 86_400_000;
/// Below this a rate says nothing: opening alone writes a tail.
const RATE_FROM_MS: i64 = 600_000;

/// What was written so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wear {
    bytes: i64,
    ran_ms: i64,
    day_bytes: i64,
    day_ms: i64,
    day_last: Option<i64>,
    /// Of this run: what is in the sums above.
    counted: (u64, i64),
}

/// What was written, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Bytes since the store was begun.
    pub bytes: i64,
    /// Seconds of running in which that happened.
    pub seconds: i64,
    /// Bytes per day of running: of the last whole day, else on the average; `None` when it has hardly run.
    pub bytes_per_day: Option<i64>,
}

impl Wear {
    /// Goes on from what an earlier run saved. `now_ms`: the boot-time clock.
    pub(super) fn resume(values: &[(String, i64)], now_ms: i64) -> Self {
        let value = |name| values.iter().find(|(known, _)| known == name).map(|(_, number)| *number);
        let number = |name| value(name).unwrap_or(0);
        Self {
            bytes: number(BYTES),
            ran_ms: number(RAN),
            day_bytes: number(DAY_BYTES),
            day_ms: number(DAY_RAN),
            day_last: value(DAY_LAST),
            counted: (0, now_ms),
        }
    }

    /// Adds what this run has written by now.
    pub(super) fn add(&mut self, written: u64, now_ms: i64) {
        self.bytes = self.bytes.saturating_add_unsigned(written.saturating_sub(self.counted.0));
        self.ran_ms += (now_ms - self.counted.1).max(0);
        self.counted = (written, now_ms);
        if self.ran_ms - self.day_ms >= DAY_MS {
            self.day_last = Some(per_day(self.bytes - self.day_bytes, self.ran_ms - self.day_ms));
            (self.day_bytes, self.day_ms) = (self.bytes, self.ran_ms);
        }
    }

    /// What `meta.db` must learn.
    pub(super) fn edits(&self) -> impl Iterator<Item = Edit> {
        let values = [(BYTES, self.bytes), (RAN, self.ran_ms), (DAY_BYTES, self.day_bytes), (DAY_RAN, self.day_ms)];
        let last = self.day_last.map(|bytes| (DAY_LAST, bytes));
        values.into_iter().chain(last).map(|(name, number)| Edit::PutValue(name.into(), number))
    }

    /// For people.
    pub(super) fn written(&self) -> Written {
        let average = || (self.ran_ms >= RATE_FROM_MS).then(|| per_day(self.bytes, self.ran_ms));
        Written { bytes: self.bytes, seconds: self.ran_ms / 1000, bytes_per_day: self.day_last.or_else(average) }
    }
}

fn per_day(bytes: i64, in_ms: i64) -> i64 {
    i64::try_from(i128::from(bytes) * i128::from(DAY_MS) / i128::from(in_ms.max(1))).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_runs_wrote_adds_up_and_a_day_is_a_day_of_running() {
        let mut values = Vec::new();
        for run in 1..=3 {
            let start = run * 1_000_000_000; // each boot has its own clock
            let mut wear = Wear::resume(&values, start);
            wear.add(50, start + DAY_MS / 4);
            wear.add(100, start + DAY_MS / 2);
            assert_eq!(wear.written().bytes, run * 100);
            assert_eq!(wear.written().seconds, run * 43_200);
            assert_eq!(wear.written().bytes_per_day, Some(200));
            values = wear
                .edits()
                .filter_map(|edit| match edit {
                    Edit::PutValue(name, number) => Some((name.into_owned(), number)),
                    _ => None,
                })
                .collect();
        }
        let mut wear = Wear::resume(&values, 0);
        wear.add(5000, DAY_MS / 2);
        assert_eq!(wear.written().bytes_per_day, Some(5100), "the last whole day");
        let mut new = Wear::resume(&[], 7);
        new.add(2_000_000, 60_007);
        assert_eq!(new.written(), Written { bytes: 2_000_000, seconds: 60, bytes_per_day: None });
    }
}
