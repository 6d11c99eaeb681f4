//! Opening the ledger: a new one is made, that of an older version taken over, a damaged one set aside; all but the
//! owed messages themselves is read.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row as SqlRow, params};

use super::rows::{Found, Kept, Row, SensorRow, SessionId, SessionRow, Source, SubscriptionRow, WillRow};
use super::tables::{LATER, LAYOUT, QOS, RETAIN, TABLES};
use super::{OWED_IDS, subscriptions, upkeep};
use crate::disk::database::{self, companion};
use crate::disk::fault::Fault;
use crate::disk::image;
use crate::disk::plausible::{unsigned, unsigned_if_known};

/// The least distance between the highest ordinal on disk and the first one after a restart.
const JUMP: u64 = 1024;

/// Clients' retained messages, before there was a ledger.
const BEFORE: &str = "retained.db";

/// Ends the name of a file that is set aside.
const ASIDE: &str = ".damaged";
/// And of a log.
const LOG: &str = "-wal";

/// An open ledger.
pub(super) struct Opened {
    pub connection: Connection,
    pub found: Found,
    pub next_session: u64,
    /// Mark of each session.
    pub marks: Vec<(SessionId, u64)>,
    /// Sessions of which something is left though they are not there any more.
    pub remains: Vec<SessionId>,
}

/// Is there neither a ledger nor what it was before?
pub(super) fn is_new(path: &Path) -> bool {
    let missing = |path: &Path| matches!(path.try_exists(), Ok(false));
    path.parent().is_some_and(Path::is_dir) && missing(path) && missing(&path.with_file_name(BEFORE))
}

/// Opens or makes it.
pub(super) fn open(path: &Path) -> Result<Opened, Fault> {
    let before = path.with_file_name(BEFORE);
    let mut aside = None;
    if !path.try_exists()? {
        move_log(path)?; // a crash may have come between: the new file is not its own
        let rows = if before.try_exists()? { read_before(&before, &mut aside)? } else { Vec::new() };
        create(path, &rows)?;
    }
    for suffix in ["", "-wal", "-shm"] {
        // Its rows are in the ledger by now; a directory of that name is left alone.
        let _ = std::fs::remove_file(companion(&before, suffix));
    }
    let opened = match image::surely(path, || open_and_read(path)) {
        Err(fault) if fault.is_damage() => {
            aside = Some(set_aside(path)?);
            create(path, &[])?;
            open_and_read(path)
        }
        opened => opened,
    };
    opened.map(|mut opened| {
        opened.found.set_aside = aside;
        opened
    })
}

/// Opens it once more; everything in it is known.
pub(super) fn open_again(path: &Path) -> Result<Connection, Fault> {
    let connection = upkeep::open(path)?;
    LAYOUT.check(&connection)?;
    connection.execute_batch(LATER)?;
    Ok(connection)
}

/// Out of the way with its log, in place of an older one.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, Fault> {
    let aside = companion(path, ASIDE);
    match std::fs::remove_file(companion(&aside, LOG)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    std::fs::rename(path, &aside)?;
    move_log(path)?;
    Ok(aside)
}

/// The log of a file that is set aside follows it.
fn move_log(path: &Path) -> Result<(), Fault> {
    let _ = std::fs::remove_file(companion(path, "-shm")); // nothing is in it
    match std::fs::rename(companion(path, LOG), companion(&companion(path, ASIDE), LOG)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn read_before(before: &Path, aside: &mut Option<PathBuf>) -> Result<Vec<Row>, Fault> {
    let read = || -> Result<Vec<Row>, Fault> { Ok(read_rows(&database::open(before)?, RETAINED_BEFORE)?) };
    match image::surely(before, read) {
        Err(fault) if fault.is_damage() => {
            *aside = Some(set_aside(before)?);
            Ok(Vec::new())
        }
        read => read,
    }
}

/// A new one.
pub(super) fn create(path: &Path, rows: &[Row]) -> Result<(), Fault> {
    LAYOUT.create(path, TABLES, |made| {
        // Pages that a queue leaves behind are given back; VACUUM is what makes the setting hold.
        made.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; VACUUM; BEGIN;")?;
        made.execute_batch(LATER)?;
        let mut put = made.prepare("INSERT INTO retained VALUES (?, ?, ?, ?, ?)")?;
        for row in rows {
            let (payload, properties) = (&row.payload[..], &row.properties[..]);
            put.execute(params![&*row.topic, row.qos, payload, properties, row.expires_unix_ms])?;
        }
        made.execute_batch("COMMIT")
    })
}

fn open_and_read(path: &Path) -> Result<Opened, Fault> {
    let connection = open_again(path)?;
    let rows = read_retained(&connection)?;
    let left_out = subscriptions::trim(&connection)?;
    let (mut sessions, marks, remains) = read_sessions(&connection)?;
    for kept in &mut sessions {
        kept.left_out = left_out.get(&kept.session.id).copied().unwrap_or(0);
    }
    let mark = "SELECT number FROM mark WHERE name = 'session'";
    let mark = connection.query_row(mark, [], |row| unsigned(row, 0)).optional()?.unwrap_or(1);
    let highest = marks.iter().map(|(id, _)| id.0 + 1).max().unwrap_or(1);
    let found = Found { rows, sessions, set_aside: None };
    Ok(Opened { connection, found, next_session: mark.max(highest), marks, remains })
}

const RETAINED: &str = "SELECT retained.topic, qos, payload, properties, expires, owner, client
    FROM retained LEFT JOIN source ON source.topic = retained.topic";
const RETAINED_BEFORE: &str = "SELECT topic, qos, payload, properties, expires, NULL, NULL FROM retained";

pub(super) fn read_retained(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    read_rows(connection, RETAINED)
}

fn read_rows(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<Row>> {
    let mut select = connection.prepare(sql)?;
    let rows = select.query_map([], |row| {
        let (owner, client): (Option<String>, Option<String>) = (row.get(5)?, row.get(6)?);
        Ok(Row {
            topic: row.get::<_, String>(0)?.into(),
            qos: row.get(1)?,
            payload: row.get::<_, Vec<u8>>(2)?.into(),
            properties: row.get::<_, Vec<u8>>(3)?.into(),
            expires_unix_ms: row.get(4)?,
            source: owner.zip(client).map(|(owner, client)| Source { owner: owner.into(), client: client.into() }),
        })
    })?;
    rows.collect()
}

pub(super) type Sessions = (Vec<Kept>, Vec<(SessionId, u64)>, Vec<SessionId>);

pub(super) fn read_sessions(connection: &Connection) -> Result<Sessions, Fault> {
    let mut kept = BTreeMap::new();
    let mut newest: HashMap<Arc<str>, SessionId> = HashMap::new();
    let (mut marks, mut remains) = (Vec::new(), Vec::new());
    each(
        connection,
        "SELECT id, client, owner, version, expiry, left, dropped, sent, mark FROM session ORDER BY id",
        |row| {
            let session = read_session(row)?;
            let mark = unsigned(row, 8)?;
            marks.push((session.id, mark));
            if let Some(older) = newest.insert(session.client_id.clone(), session.id) {
                kept.remove(&older);
                remains.push(older);
            }
            let (subscriptions, left_out, received, sensor) = (Vec::new(), 0, Vec::new(), None);
            let (next_ordinal, owed_count, owed_bytes) = (mark, 0, 0);
            let id = session.id;
            let found =
                Kept { session, subscriptions, left_out, received, sensor, next_ordinal, owed_count, owed_bytes };
            kept.insert(id, found);
            Ok(())
        },
    )?;
    each(connection, "SELECT session, filter, options, identifier FROM subscription", |row| {
        let filter = row.get::<_, String>(1)?.into();
        let subscription = SubscriptionRow { filter, options: row.get(2)?, identifier: row.get(3)? };
        if let Some(kept) = of(&mut kept, row, &mut remains)? {
            kept.subscriptions.push(subscription);
        }
        Ok(())
    })?;
    each(connection, "SELECT session, packet FROM received ORDER BY session, packet", |row| {
        let packet_id = row.get(1)?;
        if let Some(kept) = of(&mut kept, row, &mut remains)? {
            kept.received.push(packet_id);
        }
        Ok(())
    })?;
    each(connection, "SELECT session, topic, payload, flags, known FROM sensor", |row| {
        let sensor = read_sensor(row)?;
        if let Some(kept) = of(&mut kept, row, &mut remains)? {
            kept.sensor = Some(sensor);
        }
        Ok(())
    })?;
    let sums = "SELECT session, count(*), sum(bytes), max(ordinal) FROM owed GROUP BY session";
    each(connection, sums, |row| {
        let (count, bytes, highest) = (unsigned(row, 1)?, unsigned(row, 2)?, unsigned(row, 3)?);
        if let Some(kept) = of(&mut kept, row, &mut remains)? {
            (kept.owed_count, kept.owed_bytes) = (count, bytes);
            kept.next_ordinal = next_ordinal(highest, kept.next_ordinal);
        }
        Ok(())
    })?;
    remains.sort_unstable();
    remains.dedup();
    Ok((kept.into_values().collect(), marks, remains))
}

/// The first ordinal at or beyond the mark that goes on, modulo packet ids, where the highest one on disk ended.
fn next_ordinal(highest: u64, mark: u64) -> u64 {
    let (least, ids) = (highest + JUMP, u64::from(OWED_IDS));
    least + mark.saturating_sub(least).div_ceil(ids) * ids
}

pub(super) fn each(
    connection: &Connection,
    sql: &str,
    mut take: impl FnMut(&SqlRow<'_>) -> rusqlite::Result<()>,
) -> Result<(), Fault> {
    let mut query = connection.prepare(sql)?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}

/// The session that a row belongs to.
fn of<'kept>(
    kept: &'kept mut BTreeMap<SessionId, Kept>,
    row: &SqlRow<'_>,
    remains: &mut Vec<SessionId>,
) -> rusqlite::Result<Option<&'kept mut Kept>> {
    let id = SessionId(unsigned(row, 0)?);
    let found = kept.get_mut(&id);
    if found.is_none() && remains.last() != Some(&id) {
        remains.push(id);
    }
    Ok(found)
}

fn read_session(row: &SqlRow<'_>) -> rusqlite::Result<SessionRow> {
    Ok(SessionRow {
        id: SessionId(unsigned(row, 0)?),
        client_id: row.get::<_, String>(1)?.into(),
        owner: row.get::<_, String>(2)?.into(),
        version: row.get(3)?,
        expiry_s: row.get(4)?,
        left_unix_ms: row.get(5)?,
        dropped: unsigned(row, 6)?,
        sent_below: unsigned_if_known(row, 7)?,
    })
}

fn read_sensor(row: &SqlRow<'_>) -> rusqlite::Result<SensorRow> {
    let (payload, flags, known): (Vec<u8>, u8, Vec<u8>) = (row.get(2)?, row.get(3)?, row.get(4)?);
    let will = row.get::<_, Option<String>>(1)?.map(|topic| WillRow {
        topic: topic.into(),
        payload: payload.into(),
        qos: flags & QOS,
        retain: flags & RETAIN != 0,
    });
    let (ids, _) = known.as_chunks::<10>();
    let known = ids.iter().map(|[high, low, name @ ..]| (u16::from_be_bytes([*high, *low]), u64::from_be_bytes(*name)));
    Ok(SensorRow { will, known: known.collect() })
}
