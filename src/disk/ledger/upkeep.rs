//! What the file needs after a commit: its log emptied, its free pages given back; and what all that writes to the flash.

use std::path::Path;

use rusqlite::Connection;

use crate::disk::database::{PAGE, open_alone};
use crate::disk::fault::Fault;

/// Pages in the log before they are moved into the file: the longer it is, the fewer pages are written twice.
const LOG_MAX: u64 = 1000;
/// Head of each page in the log (SQLite's file format, section 4.1).
const FRAME: u64 = 24;
/// Free pages that are left in the file for what comes next: 1 MiB, or a quarter of it.
const FREE_MAX: u64 = 256;
/// Free pages given back at a time, so that no commit waits long.
const STEP: u64 = 256;

/// Statements that stay prepared: all there are.
const STATEMENTS: usize = 48;

/// The file, open, with settings of its own.
pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open_alone(path)?;
    connection.execute_batch(&format!(
        "PRAGMA cache_size = -2048; PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = {};",
        LOG_MAX * PAGE
    ))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Watches over one connection's log.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// Pages in the log when it was last looked at, and of those how many are in the file by now.
    log: u64,
    moved: u64,
}

/// What was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    /// Bytes handed to the disk since the last time, at most.
    pub written_bytes: u64,
    /// Free pages are left to give back.
    pub more: bool,
}

impl Upkeep {
    /// To be called after each commit, and again while there is more to do.
    pub(super) fn after_commit(&mut self, connection: &Connection) -> Result<Done, Fault> {
        let mut written_bytes = self.look(connection, "PRAGMA wal_checkpoint(NOOP)")?;
        let number = |sql| connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0));
        let free = number("PRAGMA freelist_count")?.unsigned_abs();
        let all = number("PRAGMA page_count")?.unsigned_abs();
        let mut more = false;
        if free > FREE_MAX.max(all / 4) {
            connection.execute_batch(&format!("PRAGMA incremental_vacuum({STEP})"))?;
            written_bytes += self.look(connection, "PRAGMA wal_checkpoint(NOOP)")?;
            more = free - STEP.min(free) > FREE_MAX;
        }
        if self.log > LOG_MAX {
            written_bytes += self.look(connection, "PRAGMA wal_checkpoint(PASSIVE)")?;
        }
        Ok(Done { written_bytes, more })
    }

    fn look(&mut self, connection: &Connection, how: &str) -> Result<u64, Fault> {
        let frames = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        let (log, moved) = connection.prepare_cached(how)?.query_row([], frames)?;
        let (log, moved) = (log.unsigned_abs(), moved.unsigned_abs());
        // Once all of it was moved into the file, the next commit writes the log from its begin again.
        let begun_again = moved < self.moved;
        let before = if begun_again { (0, 0) } else { (self.log, self.moved) };
        (self.log, self.moved) = (log, moved);
        Ok(log.saturating_sub(before.0) * (PAGE + FRAME) + moved.saturating_sub(before.1) * PAGE)
    }
}
