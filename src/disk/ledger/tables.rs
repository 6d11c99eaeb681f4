//! The tables of the ledger, and how one transaction is written.
//!
//! `broker.db` (`application_id` "IBBR", `user_version` 2; 1 was `retained.db`, with the table `retained` only):
//!
//! ```text
//! retained      topic       key
//!               qos         0, 1, 2
//!               payload     never empty
//!               properties  as on the wire of MQTT 5
//!               expires     ms since 1970, NULL: never; below zero, by the clock of a boot:
//!                           −1 − (number of the boot × 2⁴³ + ms since that boot)
//! source        topic       key: who has left the retained message, if that was noted
//!               owner       name of the identity
//!               client      its id
//! session       id          never used again
//!               client, owner, version (3, 4, 5)
//!               expiry      seconds, 4294967295: never
//!               left        ms since 1970, NULL: connected, or nobody vouches for the time
//!               dropped     messages that found no room, not yet told to the client
//!               sent        ordinals from here on were not sent, NULL: connected, nobody knows
//!               mark        all its ordinals so far are below
//! subscription  session, filter  key
//!               options     as in SUBSCRIBE (MQTT 5, section 3.8.3.1), but bit 4: clients' retained messages are still
//!                           to be sent; a program that does not know the bit does not look at it
//!               identifier  NULL: none
//! received      session, packet  key: QoS 2 messages from its client that were acknowledged by PUBREC
//! message       id          lives as long as a row of `owed` names it
//!               topic, qos, payload, properties, expires
//! share         message     how many rows of `owed` name it, for those that more than one ever named
//!               rows
//! owed          session, ordinal  key, sent in this order
//!               message     NULL: only PUBREL is owed
//!               flags       bits 0–1 QoS, bit 2 RETAIN, bit 3 PUBREC has come, bit 4 the message is in `share`
//!               bytes       of topic, payload, properties and identifiers
//!               identifiers subscription identifiers, each 4 bytes, big-endian
//! mark          name        `session`: all keys of sessions so far are below; `probe`: nothing, written to see whether
//!               number      the disk works again
//! sensor        session     key: of a client that speaks MQTT-SN
//!               topic       of the will that it left last, NULL: none
//!               payload     of the will
//!               flags       of the will: bits 0–1 QoS, bit 2 RETAIN
//!               known       topic ids, each 10 bytes, big-endian: the id, then the first 8 bytes of its name's SHA-256;
//!                           all zero: it is predefined
//! ```
//!
//! `source` and `sensor` came later, and the version stayed: a program that does not know the tables goes on with the file.
//! What it puts there has no source, and with a session that it ends goes what its sensor has: the triggers are for that.
//!
//! Most messages are owed to one session and have no row in `share`: two pages per message and commit, not three.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Transaction, params};

use super::batch::{Batch, Changes};
use super::rows::{MessageRow, Owing, SensorRow, SessionId, SessionRow, Source, WillRow};
use crate::disk::database::Layout;

pub(super) const LAYOUT: Layout = Layout { application: 0x4942_4252, version: 2 };

pub(super) const TABLES: &str = "
    CREATE TABLE retained (topic TEXT PRIMARY KEY, qos INTEGER NOT NULL, payload BLOB NOT NULL,
        properties BLOB NOT NULL, expires INTEGER) WITHOUT ROWID;
    CREATE TABLE session (id INTEGER PRIMARY KEY, client TEXT NOT NULL, owner TEXT NOT NULL, version INTEGER NOT NULL,
        expiry INTEGER NOT NULL, left INTEGER, dropped INTEGER NOT NULL, sent INTEGER, mark INTEGER NOT NULL);
    CREATE TABLE subscription (session INTEGER, filter TEXT, options INTEGER NOT NULL, identifier INTEGER,
        PRIMARY KEY (session, filter)) WITHOUT ROWID;
    CREATE TABLE received (session INTEGER, packet INTEGER, PRIMARY KEY (session, packet)) WITHOUT ROWID;
    CREATE TABLE message (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, qos INTEGER NOT NULL, payload BLOB NOT NULL,
        properties BLOB NOT NULL, expires INTEGER);
    CREATE TABLE share (message INTEGER PRIMARY KEY, rows INTEGER NOT NULL);
    CREATE TABLE owed (session INTEGER, ordinal INTEGER, message INTEGER, flags INTEGER NOT NULL,
        bytes INTEGER NOT NULL, identifiers BLOB NOT NULL, PRIMARY KEY (session, ordinal)) WITHOUT ROWID;
    CREATE TABLE mark (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;";

/// Made where it is not there yet.
pub(super) const LATER: &str = "
    CREATE TABLE IF NOT EXISTS source (topic TEXT PRIMARY KEY, owner TEXT NOT NULL, client TEXT NOT NULL) WITHOUT ROWID;
    CREATE TRIGGER IF NOT EXISTS retained_anew AFTER INSERT ON retained
        BEGIN DELETE FROM source WHERE topic = NEW.topic; END;
    CREATE TRIGGER IF NOT EXISTS retained_gone AFTER DELETE ON retained
        BEGIN DELETE FROM source WHERE topic = OLD.topic; END;
    CREATE TABLE IF NOT EXISTS sensor (session INTEGER PRIMARY KEY, topic TEXT, payload BLOB NOT NULL,
        flags INTEGER NOT NULL, known BLOB NOT NULL);
    CREATE TRIGGER IF NOT EXISTS session_gone AFTER DELETE ON session
        BEGIN DELETE FROM sensor WHERE session = OLD.id; END;";

pub(super) const QOS: u8 = 0b0000_0011;
pub(super) const RETAIN: u8 = 0b0000_0100;
pub(super) const RELEASED: u8 = 0b0000_1000;
const SHARED: u8 = 0b0001_0000;

type Done = rusqlite::Result<()>;

/// Writes everything in one transaction; returns how many rows were owed.
pub(super) fn write(connection: &mut Connection, batch: &Batch) -> rusqlite::Result<u64> {
    let work = connection.transaction()?;
    write_retained(&work, batch)?;
    for (id, changes) in batch.sessions.iter().filter(|(_, changes)| changes.forget) {
        forget(&work, *id)?;
        debug_assert!(changes.forget, "filtered above");
    }
    let bodies = write_messages(&work, batch)?;
    let mut rows = 0;
    for (id, changes) in &batch.sessions {
        write_session(&work, *id, changes)?;
        write_sensor(&work, *id, changes)?;
        write_received(&work, *id, changes)?;
        rows += write_owed(&work, *id, changes, &bodies)?;
    }
    work.commit()?;
    Ok(rows)
}

/// Writes something of no meaning, to see whether that can be done.
pub(super) fn probe(connection: &Connection) -> Done {
    let sql = "INSERT INTO mark VALUES ('probe', 1) ON CONFLICT DO UPDATE SET number = number + 1";
    connection.execute(sql, []).map(|_| ())
}

fn write_retained(work: &Transaction<'_>, batch: &Batch) -> Done {
    if batch.retained.is_empty() {
        return Ok(());
    }
    let mut put = work.prepare_cached("INSERT OR REPLACE INTO retained VALUES (?, ?, ?, ?, ?)")?;
    let mut by = work.prepare_cached("INSERT INTO source VALUES (?, ?, ?)")?;
    let mut clear = work.prepare_cached("DELETE FROM retained WHERE topic = ?")?;
    for (topic, row) in &batch.retained {
        match row {
            Some(row) => {
                let (payload, properties) = (&row.payload[..], &row.properties[..]);
                put.execute(params![&**topic, row.qos, payload, properties, row.expires_unix_ms])?;
                if let Some(Source { owner, client }) = &row.source {
                    by.execute([&**topic, &**owner, &**client])?;
                }
            }
            None => _ = clear.execute([&**topic])?,
        }
    }
    Ok(())
}

/// A session with all that belongs to it.
fn forget(work: &Transaction<'_>, id: SessionId) -> Done {
    let key = id.0.cast_signed();
    let mut strike = Strike::prepare(work)?;
    let mut owed = work.prepare_cached("SELECT message, flags FROM owed WHERE session = ?1 AND message IS NOT NULL")?;
    let messages = owed.query_map([key], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for message in messages {
        let (message, flags) = message?;
        strike.message(message, flags)?;
    }
    for table in ["owed", "received", "subscription", "sensor"] {
        work.execute(&format!("DELETE FROM {table} WHERE session = ?1"), [key])?;
    }
    work.execute("DELETE FROM session WHERE id = ?1", [key]).map(|_| ())
}

fn write_session(work: &Transaction<'_>, id: SessionId, changes: &Changes) -> Done {
    let key = id.0.cast_signed();
    if let Some(SessionRow { id: _, client_id, owner, version, expiry_s, left_unix_ms, dropped, sent_below }) =
        &changes.row
    {
        let sql =
            "INSERT INTO session VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0) ON CONFLICT DO UPDATE SET client = ?2,
            owner = ?3, version = ?4, expiry = ?5, left = ?6, dropped = ?7, sent = ?8";
        let (dropped, sent) = (dropped.cast_signed(), sent_below.map(u64::cast_signed));
        work.prepare_cached(sql)?.execute(params![
            key,
            &**client_id,
            &**owner,
            version,
            expiry_s,
            left_unix_ms,
            dropped,
            sent
        ])?;
        let sql = "INSERT INTO mark VALUES ('session', ?1) ON CONFLICT DO UPDATE SET number = ?1 WHERE number < ?1";
        work.prepare_cached(sql)?.execute([key + 1])?;
    }
    if let Some(mark) = changes.mark {
        let mut raise = work.prepare_cached("UPDATE session SET mark = max(mark, ?2) WHERE id = ?1")?;
        raise.execute([key, mark.cast_signed()])?;
    }
    if changes.subscriptions.is_empty() {
        return Ok(());
    }
    let mut put = work.prepare_cached("INSERT OR REPLACE INTO subscription VALUES (?1, ?2, ?3, ?4)")?;
    let mut end = work.prepare_cached("DELETE FROM subscription WHERE session = ?1 AND filter = ?2")?;
    for (filter, row) in &changes.subscriptions {
        match row {
            Some(row) => put.execute(params![key, &**filter, row.options, row.identifier])?,
            None => end.execute(params![key, &**filter])?,
        };
    }
    Ok(())
}

fn write_sensor(work: &Transaction<'_>, id: SessionId, changes: &Changes) -> Done {
    let Some(SensorRow { will, known }) = &changes.sensor else { return Ok(()) };
    let nothing = bytes::Bytes::new();
    let (topic, payload, flags) = match will {
        Some(WillRow { topic, payload, qos, retain }) => {
            (Some(&**topic), payload, (qos & QOS) | if *retain { RETAIN } else { 0 })
        }
        None => (None, &nothing, 0),
    };
    let known: Vec<u8> =
        known.iter().flat_map(|(id, name)| [&id.to_be_bytes()[..], &name.to_be_bytes()].concat()).collect();
    let mut put = work.prepare_cached("INSERT OR REPLACE INTO sensor VALUES (?1, ?2, ?3, ?4, ?5)")?;
    put.execute(params![id.0.cast_signed(), topic, &payload[..], flags, known]).map(|_| ())
}

fn write_received(work: &Transaction<'_>, id: SessionId, changes: &Changes) -> Done {
    if changes.received.is_empty() {
        return Ok(());
    }
    let key = id.0.cast_signed();
    let mut put = work.prepare_cached("INSERT OR IGNORE INTO received VALUES (?1, ?2)")?;
    let mut end = work.prepare_cached("DELETE FROM received WHERE session = ?1 AND packet = ?2")?;
    for (packet_id, there) in &changes.received {
        let of = if *there { &mut put } else { &mut end };
        of.execute(params![key, packet_id])?;
    }
    Ok(())
}

/// By debt: the key of its message, the flag that goes with it, and its bytes.
type Bodies = BTreeMap<u64, (i64, u8, usize)>;

fn write_messages(work: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<Bodies> {
    let mut bodies = Bodies::new();
    if batch.debts.is_empty() {
        return Ok(bodies);
    }
    let mut put = work
        .prepare_cached("INSERT INTO message (topic, qos, payload, properties, expires) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut share = work.prepare_cached("INSERT OR REPLACE INTO share VALUES (?1, ?2)")?;
    for (number, debt) in batch.debts.iter().filter(|(_, debt)| debt.rows > 0) {
        let MessageRow { topic, qos, payload, properties, expires_unix_ms } = &*debt.message;
        let body = put.insert(params![&**topic, qos, &payload[..], &properties[..], expires_unix_ms])?;
        if debt.rows > 1 {
            share.insert(params![body, i64::try_from(debt.rows).unwrap_or(i64::MAX)])?;
        }
        let flag = if debt.rows > 1 { SHARED } else { 0 };
        bodies.insert(*number, (body, flag, debt.message.bytes()));
    }
    Ok(bodies)
}

fn write_owed(work: &Transaction<'_>, id: SessionId, changes: &Changes, bodies: &Bodies) -> rusqlite::Result<u64> {
    let key = id.0.cast_signed();
    if !changes.owed.is_empty() {
        let mut put = work.prepare_cached("INSERT INTO owed VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        for (number, owing) in changes.owed.values() {
            let Some((body, flag, bytes)) = bodies.get(number) else { continue };
            let Owing { ordinal, qos, retain, identifiers } = owing;
            let flags = (qos & QOS) | if *retain { RETAIN } else { 0 } | flag;
            let identifiers: Vec<u8> = identifiers.iter().flat_map(|identifier| identifier.to_be_bytes()).collect();
            let bytes = i64::try_from(bytes + identifiers.len()).unwrap_or(i64::MAX);
            put.execute(params![key, ordinal.cast_signed(), body, flags, bytes, identifiers])?;
        }
    }
    if !changes.settled.is_empty() || !changes.released.is_empty() {
        let mut strike = Strike::prepare(work)?;
        for ordinal in &changes.settled {
            strike.settle(key, ordinal.cast_signed())?;
        }
        for ordinal in &changes.released {
            strike.release(key, ordinal.cast_signed())?;
        }
    }
    Ok(changes.owed.len() as u64)
}

/// Takes rows away from `owed`, and the message with its last one.
struct Strike<'work> {
    row: CachedStatement<'work>,
    find: CachedStatement<'work>,
    reduce: CachedStatement<'work>,
    body: CachedStatement<'work>,
    shared: CachedStatement<'work>,
    less: CachedStatement<'work>,
}

impl<'work> Strike<'work> {
    fn prepare(work: &'work Transaction<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            row: work
                .prepare_cached("DELETE FROM owed WHERE session = ?1 AND ordinal = ?2 RETURNING message, flags")?,
            find: work.prepare_cached("SELECT message, flags FROM owed WHERE session = ?1 AND ordinal = ?2")?,
            reduce: work.prepare_cached(
                "UPDATE owed SET message = NULL, bytes = 0, identifiers = x'', flags = (flags & 7) | 8
                 WHERE session = ?1 AND ordinal = ?2",
            )?,
            body: work.prepare_cached("DELETE FROM message WHERE id = ?1")?,
            less: work.prepare_cached("UPDATE share SET rows = rows - 1 WHERE message = ?1 RETURNING rows")?,
            shared: work.prepare_cached("DELETE FROM share WHERE message = ?1")?,
        })
    }

    fn settle(&mut self, session: i64, ordinal: i64) -> Done {
        let row = self.row.query_row([session, ordinal], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get(1)?)));
        match row.optional()? {
            Some((Some(message), flags)) => self.message(message, flags),
            _ => Ok(()),
        }
    }

    fn release(&mut self, session: i64, ordinal: i64) -> Done {
        let row = self.find.query_row([session, ordinal], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get(1)?)));
        let Some((Some(message), flags)) = row.optional()? else {
            return Ok(()); // settled, or released before
        };
        self.reduce.execute([session, ordinal])?;
        self.message(message, flags)
    }

    /// One row fewer names this message.
    fn message(&mut self, message: i64, flags: u8) -> Done {
        if flags & SHARED != 0 {
            let rows = self.less.query_row([message], |row| row.get::<_, i64>(0)).optional()?;
            if rows.is_some_and(|rows| rows > 0) {
                return Ok(());
            }
            self.shared.execute([message])?;
        }
        self.body.execute([message]).map(|_| ())
    }
}
