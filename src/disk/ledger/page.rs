//! Reading what a session is owed, a page at a time; and what of it nobody needs any more.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};

use super::batch::Changes;
use super::rows::{Ended, MessageRow, OwedRow, SessionId};
use super::tables::{QOS, RELEASED, RETAIN};
use crate::disk::fault::Fault;
use crate::disk::plausible::unsigned;

/// So many are told of at a time.
const ENDED_MAX: usize = 16 * 1024;

/// QoS 2, the highest.
const EXACTLY_ONCE: u8 = 2;

/// What a row counts for beside its content, bytes.
const ROW_COST: usize = 64;

/// The oldest rows from this ordinal on: at least one if there is one, then up to so many bytes. `pending` is what could not
/// be committed yet.
pub(super) fn read(
    connection: &Connection,
    id: SessionId,
    from_ordinal: u64,
    most_bytes: usize,
    pending: Option<&Changes>,
) -> Result<Vec<OwedRow>, Fault> {
    if pending.is_some_and(|changes| changes.forget) {
        return Ok(Vec::new());
    }
    let mut query = connection.prepare_cached(
        "SELECT ordinal, flags, identifiers, topic, qos, payload, properties, expires FROM owed
         LEFT JOIN message ON message.id = owed.message WHERE session = ?1 AND ordinal >= ?2 ORDER BY ordinal",
    )?;
    let mut rows = query.query(params![id.0.cast_signed(), from_ordinal.cast_signed()])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while bytes < most_bytes
        && let Some(row) = rows.next()?
    {
        let mut row = read_row(row)?;
        if let Some(pending) = pending {
            if pending.settled.contains(&row.ordinal) {
                continue;
            }
            if pending.released.contains(&row.ordinal) {
                (row.released, row.message, row.identifiers) = (true, Arc::default(), Vec::new());
            }
        }
        bytes += ROW_COST + row.message.bytes_with(&row.identifiers);
        found.push(row);
    }
    Ok(found)
}

/// Of what it is owed, whatever has ended: `is_over` judges the column `expires`; of QoS 2 nothing with an ordinal below
/// `begun_below`. Ordinals and their bytes.
pub(super) fn ended(
    connection: &Connection,
    (id, begun_below): (SessionId, u64),
    is_over: &(dyn Fn(i64) -> bool + Send),
    pending: Option<&Changes>,
) -> Result<Vec<Ended>, Fault> {
    let mut query = connection.prepare_cached(
        "SELECT ordinal, bytes, expires FROM owed JOIN message ON message.id = owed.message
         WHERE session = ?1 AND expires IS NOT NULL AND (flags & ?2 < ?2 OR ordinal >= ?3) ORDER BY ordinal",
    )?;
    let begun_below = i64::try_from(begun_below).unwrap_or(i64::MAX);
    let mut rows = query.query(params![id.0.cast_signed(), EXACTLY_ONCE, begun_below])?;
    let mut found = Vec::new();
    while found.len() < ENDED_MAX
        && let Some(row) = rows.next()?
    {
        let (ordinal, bytes) = (unsigned(row, 0)?, unsigned(row, 1)?);
        let is_gone = |changes: &Changes| {
            changes.forget || changes.settled.contains(&ordinal) || changes.released.contains(&ordinal)
        };
        if is_over(row.get(2)?) && !pending.is_some_and(is_gone) {
            found.push(Ended { ordinal, bytes });
        }
    }
    Ok(found)
}

fn read_row(row: &Row<'_>) -> Result<OwedRow, Fault> {
    let flags: u8 = row.get(1)?;
    let released = flags & RELEASED != 0;
    let identifiers = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
    let message = if released { Arc::default() } else { Arc::new(read_message(row)?) };
    Ok(OwedRow {
        ordinal: unsigned(row, 0)?,
        message,
        qos: flags & QOS,
        retain: flags & RETAIN != 0,
        identifiers: identifiers.as_chunks().0.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect(),
        released,
    })
}

fn read_message(row: &Row<'_>) -> rusqlite::Result<MessageRow> {
    Ok(MessageRow {
        topic: row.get::<_, String>(3)?.into(),
        qos: row.get(4)?,
        payload: row.get::<_, Vec<u8>>(5)?.into(),
        properties: row.get::<_, Vec<u8>>(6)?.into(),
        expires_unix_ms: row.get(7)?,
    })
}
