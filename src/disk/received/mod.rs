//! The receiver's database: every record once, whoever writes it. Several processes may write one file.
//!
//! ```text
//! application_id 0x49425243 ("IBRC"), user_version 1
//! epoch    id; gateway ('' until it said its name), stream, epoch: unique together; previous_epoch, previous_seq: what its
//!          first record says; newest: the highest number its gateway's status named; duplicates: records that came again
//! topic    id, topic
//! sample   epoch_id, seq: the key; topic_id; time: ms since 1970, UTC; value: number, text, or NULL for none (true and false
//!          are 1 and 0; whole numbers beyond 2^63 are text, digit by digit); quality: 0 good, 1 uncertain, 2 bad; cause
//! bracket  epoch_id, seq: the key; time_until: the latest that a sample's time can have been, ms since 1970, where time is
//!          only the earliest (cause `clock`)
//! event    epoch_id, seq: the key; topic_id; time; body: the whole JSON object
//! gap      epoch_id, first, last: the key; reason; body: the whole gap record
//! delay    epoch_id, bucket: the key; count: records that arrived so late (receive::lag says what a bucket is)
//! tag      gateway, id: the key; device, name, topic, type: the dictionary of the format batch
//! waiting  gateway, stream, epoch, first: the key; payload: a batch whose dictionary has not come yet
//! views    samples, events, gaps: the same with gateway, stream, epoch, topic and time in words
//! ```
//!
//! A window is one transaction: when [`Received::window`] returns Ok it survives a power cut (WAL, synchronous FULL), and
//! whatever arrives again later changes nothing, except that a time that was only an estimate (cause `clock`) is replaced
//! by a better one. `look` reads it beside those who write.

mod look;
mod window;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::database::{self, Layout};
use super::fault::Fault;

pub use look::{Kept, LifeRow, look};
pub use window::{Came, DictionaryRow, EventRow, GapRow, LifeKey, SampleRow, WaitingRow, Window};

const LAYOUT: Layout = Layout { application: 0x4942_5243, version: 1 };

/// Other receivers write the same file: a window of theirs takes a moment, a checkpoint on a slow disk some seconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// Several processes may create the file at the same moment, and the switch to WAL is not covered by the busy timeout.
const CREATE_ATTEMPTS: u32 = 50;
const CREATE_PAUSE: Duration = Duration::from_millis(100);
/// Ids kept in memory; more topics than that are looked up again.
const IDS_MAX: usize = 200_000;

const TABLES: &str = "
    CREATE TABLE epoch (id INTEGER PRIMARY KEY, gateway TEXT NOT NULL, stream TEXT NOT NULL, epoch INTEGER NOT NULL,
        previous_epoch INTEGER, previous_seq INTEGER, newest INTEGER, duplicates INTEGER NOT NULL DEFAULT 0,
        UNIQUE (stream, epoch, gateway));
    CREATE TABLE topic (id INTEGER PRIMARY KEY, topic TEXT NOT NULL UNIQUE);
    CREATE TABLE sample (epoch_id INTEGER NOT NULL, seq INTEGER NOT NULL, topic_id INTEGER NOT NULL, time INTEGER, value,
        quality INTEGER NOT NULL, cause TEXT, PRIMARY KEY (epoch_id, seq)) WITHOUT ROWID;
    CREATE INDEX sample_by_topic ON sample (topic_id, time);
    CREATE TABLE event (epoch_id INTEGER NOT NULL, seq INTEGER NOT NULL, topic_id INTEGER NOT NULL, time INTEGER,
        body TEXT NOT NULL, PRIMARY KEY (epoch_id, seq)) WITHOUT ROWID;
    CREATE TABLE gap (epoch_id INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, reason TEXT,
        body TEXT NOT NULL, PRIMARY KEY (epoch_id, first, last)) WITHOUT ROWID;
    CREATE TABLE delay (epoch_id INTEGER NOT NULL, bucket INTEGER NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (epoch_id, bucket)) WITHOUT ROWID;
    CREATE TABLE tag (gateway TEXT NOT NULL, id INTEGER NOT NULL, device TEXT NOT NULL, name TEXT NOT NULL,
        topic TEXT NOT NULL, type TEXT NOT NULL, PRIMARY KEY (gateway, id)) WITHOUT ROWID;
    CREATE TABLE waiting (gateway TEXT NOT NULL, stream TEXT NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL,
        payload BLOB NOT NULL, PRIMARY KEY (gateway, stream, epoch, first));
    CREATE VIEW events AS SELECT epoch.gateway, epoch.stream, epoch.epoch, event.seq, topic.topic,
        strftime('%Y-%m-%dT%H:%M:%fZ', event.time / 1000.0, 'unixepoch') AS time, event.body
        FROM event JOIN epoch ON epoch.id = event.epoch_id JOIN topic ON topic.id = event.topic_id;
    CREATE VIEW gaps AS SELECT epoch.gateway, epoch.stream, epoch.epoch, gap.first, gap.last,
        gap.last - gap.first + 1 AS count, gap.reason, gap.body
        FROM gap JOIN epoch ON epoch.id = gap.epoch_id;";

/// Not in the first files of this version: put in where it is not there.
const BRACKETS: &str = "
    CREATE TABLE bracket (epoch_id INTEGER NOT NULL, seq INTEGER NOT NULL, time_until INTEGER NOT NULL,
        PRIMARY KEY (epoch_id, seq)) WITHOUT ROWID;
    DROP VIEW IF EXISTS samples;
    CREATE VIEW samples AS SELECT epoch.gateway, epoch.stream, epoch.epoch, sample.seq, topic.topic,
        strftime('%Y-%m-%dT%H:%M:%fZ', sample.time / 1000.0, 'unixepoch') AS time, sample.value,
        CASE sample.quality WHEN 0 THEN 'good' WHEN 1 THEN 'uncertain' ELSE 'bad' END AS quality, sample.cause,
        strftime('%Y-%m-%dT%H:%M:%fZ', bracket.time_until / 1000.0, 'unixepoch') AS time_until
        FROM sample JOIN epoch ON epoch.id = sample.epoch_id JOIN topic ON topic.id = sample.topic_id
        LEFT JOIN bracket ON bracket.epoch_id = sample.epoch_id AND bracket.seq = sample.seq;";

/// The writer's end.
#[derive(Debug)]
pub struct Received {
    connection: Connection,
    ids: Ids,
}

/// What was looked up already; ids never change.
#[derive(Debug, Default)]
struct Ids {
    topics: HashMap<Box<str>, i64>,
    /// By class code and epoch: id and gateway.
    lives: HashMap<(u8, u64), Vec<(i64, String)>>,
}

impl Received {
    /// Opens the file, or makes it. A file of another kind is [`Fault::Damaged`] and stays as it is.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match Self::open_once(path) {
                Err(Fault::Unavailable(_)) if attempt < CREATE_ATTEMPTS && path.exists() => {
                    std::thread::sleep(CREATE_PAUSE);
                }
                outcome => return outcome,
            }
        }
    }

    fn open_once(path: &Path) -> Result<Self, Fault> {
        // Looked at before anything is changed: it may be somebody else's database.
        if path.metadata().is_ok_and(|about| about.len() > 0) {
            let connection = database::open_reader(path)?;
            if tables(&connection)? > 0 {
                LAYOUT.check(&connection)?;
            }
        }
        let mut connection = database::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch("PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 4000;")?;
        let work = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if tables(&work)? == 0 {
            let (application, version) = (LAYOUT.application, LAYOUT.version);
            work.execute_batch(TABLES)?;
            work.execute_batch(&format!("PRAGMA application_id = {application}; PRAGMA user_version = {version};"))?;
        }
        if !has_brackets(&work)? {
            work.execute_batch(BRACKETS)?;
        }
        work.commit()?;
        LAYOUT.check(&connection)?;
        Ok(Self { connection, ids: Ids::default() })
    }

    /// One transaction: all that `fill` puts, or nothing.
    pub fn window<T>(&mut self, fill: impl FnOnce(&mut Window<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.ids.topics.len() + self.ids.lives.len() > IDS_MAX {
            self.ids = Ids::default();
        }
        let work = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let outcome = {
            let mut window = Window::new(&work, &mut self.ids)?;
            fill(&mut window).and_then(|filled| window.finish().map(|()| filled))
        };
        let outcome = outcome.and_then(|filled| Ok(work.commit().map(|()| filled)?));
        if outcome.is_err() {
            self.ids = Ids::default(); // some of them may have been taken back
        }
        outcome
    }
}

fn tables(connection: &Connection) -> Result<i64, Fault> {
    Ok(connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?)
}

fn has_brackets(connection: &Connection) -> Result<bool, Fault> {
    Ok(connection.query_row("SELECT count(*) > 0 FROM sqlite_master WHERE name = 'bracket'", [], |row| row.get(0))?)
}
