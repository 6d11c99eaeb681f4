//! The table `meter` of `meta.db`: bytes that were sent and received, by uplink, path and calendar period.
//!
//! ```text
//! meter   uplink, path ("" = all paths together), period (0 day, 1 month; 2, 3 what of these was counted before a clock fix, until
//!         there is one), number (days since 1970, or year × 12 + month − 1; −1 = no clock fix yet)
//!         bytes   wire bytes counted when the row was written
//!         bound   no more than this were counted when a crash came; equal to bytes after an orderly end
//!         told    bit 0: the operator knows of 80 %, bit 1: of 100 %
//!         behind  ms since 1970 at which the wall clock was first seen before this period; NULL: it is not
//! ```
//!
//! The newest row of an uplink, path and period is the one that counts, and with it the one before where the clock comes back to
//! that: each has only what was counted in its own time. Older ones are history, kept for
//! [`DAYS_KEPT`] days and [`MONTHS_KEPT`] months. The table came after the first stores: it is made where it is missing, and a
//! version that does not know it leaves it alone.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::plausible::{timed, unsigned, within};

pub(super) const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS meter (uplink TEXT, path TEXT, period INTEGER, number INTEGER,
    bytes INTEGER NOT NULL, bound INTEGER NOT NULL, told INTEGER NOT NULL, behind INTEGER,
    PRIMARY KEY (uplink, path, period, number)) WITHOUT ROWID;";

/// History of days, for the figures of what a plant really sent.
pub const DAYS_KEPT: i64 = 62;
/// History of months.
pub const MONTHS_KEPT: i64 = 24;
/// No day or month of any clock has this number.
const NUMBER_MAX: i64 = 1 << 27;

/// A row of `meter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterRow {
    /// Whose.
    pub uplink: String,
    /// Which way; empty: all of them together.
    pub path: String,
    /// 0 day, 1 month; 2, 3: what of these was counted before a clock fix.
    pub period: u8,
    /// Which one.
    pub number: i64,
    /// Counted.
    pub bytes: u64,
    /// At most, if a crash came.
    pub bound: u64,
    /// What the operator was told.
    pub told: u8,
    /// See the head of this file.
    pub behind: Option<i64>,
}

impl MeterRow {
    /// Does the older one go when this one is put? It says less of the same period, or is of one that a wrong clock began, or
    /// is history that is no longer kept.
    pub fn displaces(&self, older: &Self) -> bool {
        let same_way = (&self.uplink, &self.path, self.period) == (&older.uplink, &older.path, older.period);
        same_way && (older.number >= self.number || older.number < self.number - self.kept())
    }

    /// Of a day or a month, and not a part of one that is told twice.
    pub const fn is_whole(&self) -> bool {
        self.period < 2
    }

    const fn kept(&self) -> i64 {
        if self.period == 0 { DAYS_KEPT } else { MONTHS_KEPT }
    }
}

/// Puts a row in the place of those that it [displaces](MeterRow::displaces).
pub(super) fn put(work: &Transaction<'_>, row: &MeterRow) -> rusqlite::Result<usize> {
    work.prepare(
        "DELETE FROM meter WHERE uplink = ?1 AND path = ?2 AND period = ?3 AND (number > ?4 OR number < ?4 - ?5)",
    )?
    .execute(params![row.uplink, row.path, row.period, row.number, row.kept()])?;
    work.prepare("INSERT OR REPLACE INTO meter VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?.execute(params![
        row.uplink,
        row.path,
        row.period,
        row.number,
        row.bytes.cast_signed(),
        row.bound.cast_signed(),
        row.told,
        row.behind
    ])
}

/// Newest period last; nothing where a store is older than the table.
pub(super) fn read(at: &Connection) -> rusqlite::Result<Vec<MeterRow>> {
    let known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meter'";
    if at.query_row(known, [], |_| Ok(())).optional()?.is_none() {
        return Ok(Vec::new());
    }
    let mut query = at.prepare("SELECT * FROM meter ORDER BY uplink, path, period, number")?;
    let rows = query.query_map([], |row: &Row<'_>| {
        Ok(MeterRow {
            uplink: row.get(0)?,
            path: row.get(1)?,
            period: row.get(2)?,
            number: within(3, row.get(3)?, -1..=NUMBER_MAX)?,
            bytes: unsigned(row, 4)?,
            bound: unsigned(row, 5)?,
            told: row.get(6)?,
            behind: row.get::<_, Option<i64>>(7)?.map(|_| timed(row, 7)).transpose()?,
        })
    })?;
    rows.collect()
}
