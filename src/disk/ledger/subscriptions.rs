//! How many subscriptions are read at start: all that the broker ever has at once. Programs of earlier versions took more of
//! them, and longer ones; what there is no memory for would end the gateway at each start.
//!
//! What is too much is removed before anything is read. Sessions that have little keep all of it: cut are those that have the
//! most. Should the disk be too full for that, the file counts as one that cannot be opened yet.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::load::each;
use super::rows::{FILTER_COST, FILTERS_BYTES_MAX, SessionId};
use crate::disk::fault::Fault;
use crate::disk::plausible::unsigned;
use crate::model::topic::SHARED_BYTES_MAX;

/// Removes what is too much; says how many of which sessions.
pub(super) fn trim(connection: &Connection) -> Result<BTreeMap<SessionId, u64>, Fault> {
    let (mut sums, mut too_long) = (Vec::new(), 0);
    let longest = i64::try_from(SHARED_BYTES_MAX).unwrap_or(i64::MAX);
    let sql = format!(
        "SELECT session, sum(iif(octet_length(filter) > {longest}, 0, octet_length(filter) + {FILTER_COST})),
            sum(octet_length(filter) > {longest}) FROM subscription GROUP BY session"
    );
    each(connection, &sql, |row| {
        sums.push((unsigned(row, 1)?, unsigned(row, 0)?));
        too_long += unsigned(row, 2)?;
        Ok(())
    })?;
    let all: u64 = sums.iter().map(|(bytes, _)| bytes).sum();
    let mut removed = BTreeMap::new();
    if too_long == 0 && all <= FILTERS_BYTES_MAX as u64 {
        return Ok(removed);
    }
    let work = connection.unchecked_transaction()?;
    sums.sort_unstable();
    let mut left = FILTERS_BYTES_MAX as u64;
    for (bytes, session) in sums {
        let key = session.cast_signed();
        let mut gone = work
            .prepare_cached("DELETE FROM subscription WHERE session = ? AND octet_length(filter) > ?")?
            .execute([key, longest])?;
        if bytes > left {
            gone += cut(&work, key, left)?;
        }
        left = left.saturating_sub(bytes);
        if gone > 0 {
            removed.insert(SessionId(session), gone as u64);
        }
    }
    work.commit()?;
    Ok(removed)
}

/// Leaves a session so many bytes of its filters.
fn cut(work: &Connection, session: i64, bytes: u64) -> rusqlite::Result<usize> {
    let mut select = work.prepare_cached("SELECT filter FROM subscription WHERE session = ? ORDER BY filter")?;
    let (mut rows, mut left) = (select.query([session])?, bytes);
    while let Some(row) = rows.next()? {
        let filter: String = row.get(0)?;
        let Some(after) = left.checked_sub((filter.len() + FILTER_COST) as u64) else {
            drop(rows);
            let sql = "DELETE FROM subscription WHERE session = ? AND filter >= ?";
            return work.prepare_cached(sql)?.execute(params![session, filter]);
        };
        left = after;
    }
    Ok(0)
}
