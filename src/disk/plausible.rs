//! Numbers out of rows that no checksum covers: what we cannot have written is damage, found before anybody counts with it.
//!
//! One bit of a sign makes −28 of 28, and 2⁶⁴ − 28 of that for who takes it as it is. Numbers that are wrong and may be right all
//! the same are not found here: where one of them could cost records (`evicted`, `acked`), the store asks a file that knows better.

use std::ops::RangeInclusive;

use rusqlite::{Error, Row};

use super::fault::Fault;
use super::meta::Contents;

/// Ordinals, keys and sums never come to this; so far there is room for adding to them.
const COUNTED_MAX: i64 = 1 << 60;
/// No clock comes to this, in ms or µs, on either side of 0; a thousand times that finds room.
const MOMENT_MAX: i64 = 1 << 53;

/// One of these numbers.
pub(super) fn within(column: usize, number: i64, allowed: RangeInclusive<i64>) -> rusqlite::Result<i64> {
    if allowed.contains(&number) { Ok(number) } else { Err(Error::IntegralValueOutOfRange(column, number)) }
}

/// A number that was counted up from nothing.
pub(super) fn counted(column: usize, number: i64) -> rusqlite::Result<u64> {
    within(column, number, 0..=COUNTED_MAX).map(i64::cast_unsigned)
}

/// The same, out of a row.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    counted(column, row.get(column)?)
}

/// The same; NULL where it is not known.
pub(super) fn unsigned_if_known(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    row.get::<_, Option<i64>>(column)?.map(|number| counted(column, number)).transpose()
}

/// A time, or a difference of times, in ms or µs.
pub(super) fn timed(row: &Row<'_>, column: usize) -> rusqlite::Result<i64> {
    within(column, row.get(column)?, -MOMENT_MAX..=MOMENT_MAX)
}

impl Contents {
    /// Did a start come to write what it found? Each one that does leaves an epoch of every class.
    pub fn is_filled(&self) -> bool {
        !self.epochs.is_empty()
    }
}

/// Rows that contradict each other: each commit writes how far an epoch goes together with what was evicted of it, and with who
/// has acknowledged what.
pub(super) fn agree(contents: &Contents) -> Result<(), Fault> {
    let beyond = |what: &str| Err(Fault::Damaged(format!("more numbers are {what} than were used")));
    if contents.epochs.iter().any(|row| row.evicted > row.last) {
        return beyond("evicted");
    }
    let too_far = contents.cursors.iter().any(|cursor| {
        let mut epochs = contents.epochs.iter().filter(|row| (row.class, row.epoch) == (cursor.class, cursor.epoch));
        epochs.any(|row| cursor.acked > row.last)
    });
    if too_far { beyond("acknowledged") } else { Ok(()) }
}
