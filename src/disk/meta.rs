//! `meta.db`: what a store must know beside its chunks, as plain rows.
//!
//! Small: it is read whole at start and then only written. Every change is an [`Edit`]; edits are idempotent, so that a
//! commit of unknown outcome is simply made again. No row has a checksum: see `plausible`.
//!
//! ```text
//! application_id 0x49424D45 ("IBME"), user_version 1
//! tag     the dictionary; ids are stable for the life of the store
//! epoch   per class, in order: the epoch, the one before, its last number (high-water), what was evicted of it
//! loss    numbers that were used but have no record, with the reason: nothing else may be missing
//! owed    gap records, one row per uplink, until acknowledged
//! cursor  per uplink and class: all numbers up to acked, and ranges "epoch:first-last" above it
//! boot    number per boot token      fix  UTC at a moment of a boot      value  single numbers by name
//! meter   wire bytes by uplink, path and calendar period (`meter`)
//! ```

use std::path::Path;

use rusqlite::{Connection, Row, Statement, Transaction, params};

use super::chunk::TagRow;
pub use super::copy::Behind;
use super::database::{self, BUSY_MOMENT, Lasting, Layout, PAGE};
use super::fault::Fault;
use super::image;
use super::meter::{self, MeterRow};
use super::plausible::{self, timed, unsigned, unsigned_if_known, within};

const LAYOUT: Layout = Layout { application: 0x4942_4D45, version: 1 };

const TABLES: &str = "
    CREATE TABLE tag (id INTEGER PRIMARY KEY, device TEXT NOT NULL, name TEXT NOT NULL, topic TEXT NOT NULL,
        type TEXT NOT NULL);
    CREATE TABLE epoch (class INTEGER, ordinal INTEGER, epoch INTEGER NOT NULL, previous_epoch INTEGER,
        previous_seq INTEGER, last INTEGER NOT NULL, evicted INTEGER NOT NULL, PRIMARY KEY (class, ordinal)) WITHOUT ROWID;
    CREATE TABLE loss (class INTEGER, epoch INTEGER, first INTEGER, last INTEGER NOT NULL, reason TEXT NOT NULL,
        from_boot INTEGER, from_micros INTEGER, to_boot INTEGER, to_micros INTEGER,
        PRIMARY KEY (class, epoch, first)) WITHOUT ROWID;
    CREATE TABLE owed (id INTEGER PRIMARY KEY, uplink TEXT NOT NULL, class INTEGER NOT NULL, epoch INTEGER NOT NULL,
        first INTEGER NOT NULL, last INTEGER NOT NULL, reason TEXT NOT NULL,
        from_boot INTEGER, from_micros INTEGER, to_boot INTEGER, to_micros INTEGER);
    CREATE TABLE cursor (uplink TEXT, class INTEGER, epoch INTEGER NOT NULL, acked INTEGER NOT NULL,
        ranges TEXT NOT NULL, PRIMARY KEY (uplink, class)) WITHOUT ROWID;
    CREATE TABLE boot (number INTEGER PRIMARY KEY, token TEXT NOT NULL);
    CREATE TABLE fix (boot INTEGER, micros INTEGER, unix_ms INTEGER NOT NULL, PRIMARY KEY (boot, micros)) WITHOUT ROWID;
    CREATE TABLE value (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;";

/// A row of `epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRow {
    /// Class code.
    pub class: u8,
    /// Its place among the epochs of its class.
    pub ordinal: i64,
    /// The epoch.
    pub epoch: u64,
    /// The one before and its last number, each if known.
    pub previous: Option<(u64, Option<u64>)>,
    /// Last number known to be used.
    pub last: u64,
    /// Everything up to here was evicted.
    pub evicted: u64,
}

/// Boot number and microseconds.
pub type StampRow = (u32, i64);

/// Numbers without records: a row of `loss`, and the middle of a row of `owed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LossRow {
    /// Class code.
    pub class: u8,
    /// In which epoch.
    pub epoch: u64,
    /// First missing number.
    pub first: u64,
    /// Last missing number.
    pub last: u64,
    /// The word in the gap record.
    pub reason: String,
    /// First lost sample, if known.
    pub from: Option<StampRow>,
    /// Last lost sample, if known.
    pub to: Option<StampRow>,
}

/// A row of `owed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwedRow {
    /// Never used twice.
    pub id: i64,
    /// Whom it is owed.
    pub uplink: String,
    /// What is missing.
    pub loss: LossRow,
}

/// A row of `cursor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorRow {
    /// Whose.
    pub uplink: String,
    /// Class code.
    pub class: u8,
    /// The epoch of `acked`.
    pub epoch: u64,
    /// Everything up to here is acknowledged.
    pub acked: u64,
    /// Acknowledged above it: `epoch:first-last`, separated by blanks.
    pub ranges: String,
}

/// A row of `fix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixRow {
    /// The moment.
    pub at: StampRow,
    /// UTC then, ms since 1970.
    pub unix_ms: i64,
}

/// Everything in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The dictionary.
    pub tags: Vec<TagRow>,
    /// By class and ordinal.
    pub epochs: Vec<EpochRow>,
    /// By class, epoch and first.
    pub losses: Vec<LossRow>,
    /// By id.
    pub owed: Vec<OwedRow>,
    /// All cursors.
    pub cursors: Vec<CursorRow>,
    /// Number and token, oldest first.
    pub boots: Vec<(u32, String)>,
    /// By boot and moment.
    pub fixes: Vec<FixRow>,
    /// Single numbers.
    pub values: Vec<(String, i64)>,
    /// By uplink, path, period and number.
    pub meters: Vec<MeterRow>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Adds or replaces.
    PutTag(TagRow),
    /// Adds or replaces.
    PutEpoch(EpochRow),
    /// Forgets an epoch (class code, ordinal) of which nothing is left.
    DropEpoch(u8, i64),
    /// Adds or replaces (by class, epoch and first).
    PutLoss(LossRow),
    /// Forgets a loss (class code, epoch, first).
    DropLoss(u8, u64, u64),
    /// Adds or replaces.
    PutOwed(OwedRow),
    /// The gap record was acknowledged, or replaced by a longer one.
    DropOwed(i64),
    /// Adds or replaces.
    PutCursor(CursorRow),
    /// The uplink no longer has this class.
    DropCursor(String, u8),
    /// Adds or replaces.
    PutBoot(u32, String),
    /// In place of those of that boot before it; a floor in place of its floor.
    PutFix(FixRow),
    /// Forgets fixes of boots before this one.
    DropFixesBefore(u32),
    /// Adds or replaces.
    PutValue(std::borrow::Cow<'static, str>, i64),
    /// Adds or replaces.
    PutMeter(MeterRow),
}

/// The open file.
#[derive(Debug)]
pub struct Meta {
    file: Lasting,
    behind: Behind,
}

impl Meta {
    /// Makes a new file; durable when it returns.
    pub fn create(path: &Path) -> Result<Self, Fault> {
        LAYOUT.create(path, TABLES, |made| made.execute_batch(meter::TABLE))?;
        Self::keep(path, database::open_within(path, BUSY_MOMENT)?)
    }

    /// Opens the file and reads all of it.
    pub fn open(path: &Path) -> Result<(Self, Contents), Fault> {
        let connection = database::open_within(path, BUSY_MOMENT)?;
        LAYOUT.check(&connection)?;
        database::quick_check(&connection)?; // small, so this takes milliseconds
        connection.execute_batch(meter::TABLE)?;
        let contents = read(&connection)?;
        Ok((Self::keep(path, connection)?, contents))
    }

    /// Reads all of it beside its writer.
    pub fn look(path: &Path) -> Result<Contents, Fault> {
        Self::check_and_read(&database::open_reader(path)?)
    }

    /// The same of a copy in memory: what is damaged there is damaged in the file. Where the medium refuses the file, that is
    /// another fault, and nothing is said about its content.
    pub fn look_at_content(path: &Path) -> Result<Contents, Fault> {
        Self::check_and_read(&image::read(path)?)
    }

    fn check_and_read(connection: &Connection) -> Result<Contents, Fault> {
        LAYOUT.check(connection)?;
        database::quick_check(connection)?;
        read(connection)
    }

    fn keep(path: &Path, connection: Connection) -> Result<Self, Fault> {
        let short_log = format!("PRAGMA wal_autocheckpoint = 64; PRAGMA journal_size_limit = {};", 64 * PAGE);
        Ok(Self { file: Lasting::keep(path, connection, short_log)?, behind: Behind::Facts })
    }

    /// What the copy of the last [`Meta::copy_to`] lacks.
    pub const fn copy_is_behind(&self) -> Behind {
        self.behind
    }

    /// Writes a copy of the file, to go on from when the file itself is damaged. Whole or not at all.
    pub fn copy_to(&mut self, path: &Path) -> Result<(), Fault> {
        let draft = path.with_extension("draft");
        let _ = std::fs::remove_file(&draft); // left by a crash
        let written = self
            .file
            .with(|connection| Ok(connection.execute("VACUUM INTO ?1", [draft.to_string_lossy()])?))
            .and_then(|_| Ok(std::fs::File::open(&draft)?.sync_all()?))
            .and_then(|()| Ok(std::fs::rename(&draft, path)?));
        match written {
            Ok(()) => self.behind = Behind::Nothing,
            Err(_) => drop(std::fs::remove_file(&draft)),
        }
        written
    }

    /// Makes all changes in one commit.
    pub fn apply(&mut self, edits: &[Edit]) -> Result<(), Fault> {
        if edits.is_empty() {
            return Ok(());
        }
        self.file.with(|connection| {
            let work = connection.transaction()?;
            {
                // The tags of a new store may be ten thousand.
                let mut put_tag = work.prepare("INSERT OR REPLACE INTO tag VALUES (?1, ?2, ?3, ?4, ?5)")?;
                for edit in edits {
                    make(&work, &mut put_tag, edit)?;
                }
            }
            Ok(work.commit()?)
        })?;
        self.behind = edits.iter().map(Behind::without).fold(self.behind, Behind::max);
        Ok(())
    }

    /// Empties the log.
    pub fn checkpoint(&mut self) -> Result<(), Fault> {
        self.file.with(|connection| database::checkpoint(connection))
    }
}

fn make(work: &Transaction<'_>, put_tag: &mut Statement<'_>, edit: &Edit) -> rusqlite::Result<()> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| work.prepare(sql)?.execute(values);
    match edit {
        Edit::PutTag(tag) => put_tag.execute(params![tag.id, tag.device, tag.name, tag.topic, tag.data_type]),
        Edit::PutEpoch(row) => {
            let (epoch, seq) = row.previous.map_or((None, None), |(epoch, seq)| (Some(epoch), seq));
            let (epoch, seq) = (epoch.map(u64::cast_signed), seq.map(u64::cast_signed));
            let (last, evicted) = (row.last.cast_signed(), row.evicted.cast_signed());
            run(
                "INSERT OR REPLACE INTO epoch VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![row.class, row.ordinal, row.epoch.cast_signed(), epoch, seq, last, evicted],
            )
        }
        Edit::DropEpoch(class, ordinal) => {
            run("DELETE FROM epoch WHERE class = ?1 AND ordinal = ?2", params![class, ordinal])
        }
        Edit::PutLoss(loss) => put_loss(work, loss),
        Edit::DropLoss(class, epoch, first) => run(
            "DELETE FROM loss WHERE class = ?1 AND epoch = ?2 AND first = ?3",
            params![class, epoch.cast_signed(), first.cast_signed()],
        ),
        Edit::PutOwed(owed) => put_owed(work, owed),
        Edit::DropOwed(id) => run("DELETE FROM owed WHERE id = ?1", params![id]),
        Edit::PutCursor(row) => run(
            "INSERT OR REPLACE INTO cursor VALUES (?1, ?2, ?3, ?4, ?5)",
            params![row.uplink, row.class, row.epoch.cast_signed(), row.acked.cast_signed(), row.ranges],
        ),
        Edit::DropCursor(uplink, class) => {
            run("DELETE FROM cursor WHERE uplink = ?1 AND class = ?2", params![uplink, class])
        }
        Edit::PutBoot(number, token) => run("INSERT OR REPLACE INTO boot VALUES (?1, ?2)", params![number, token]),
        Edit::PutFix(FixRow { at: (boot, micros), unix_ms }) => {
            run("DELETE FROM fix WHERE boot = ?1 AND (micros < 0) = (?2 < 0)", params![boot, micros])?;
            run("INSERT INTO fix VALUES (?1, ?2, ?3)", params![boot, micros, unix_ms])
        }
        Edit::DropFixesBefore(boot) => run("DELETE FROM fix WHERE boot < ?1", params![boot]),
        Edit::PutMeter(row) => meter::put(work, row),
        Edit::PutValue(name, number) => run("INSERT OR REPLACE INTO value VALUES (?1, ?2)", params![name, number]),
    }
    .map(|_| ())
}

fn put_loss(work: &Transaction<'_>, loss: &LossRow) -> rusqlite::Result<usize> {
    let (from, to) = (loss.from.unzip(), loss.to.unzip());
    let (epoch, first, last) = (loss.epoch.cast_signed(), loss.first.cast_signed(), loss.last.cast_signed());
    let sql = "INSERT OR REPLACE INTO loss VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    work.prepare(sql)?.execute(params![loss.class, epoch, first, last, loss.reason, from.0, from.1, to.0, to.1])
}

fn put_owed(work: &Transaction<'_>, owed: &OwedRow) -> rusqlite::Result<usize> {
    let OwedRow { id, uplink, loss } = owed;
    let (from, to) = (loss.from.unzip(), loss.to.unzip());
    let (epoch, first, last) = (loss.epoch.cast_signed(), loss.first.cast_signed(), loss.last.cast_signed());
    let sql = "INSERT OR REPLACE INTO owed VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    work.prepare(sql)?.execute(params![
        id,
        uplink,
        loss.class,
        epoch,
        first,
        last,
        loss.reason,
        from.0,
        from.1,
        to.0,
        to.1
    ])
}

fn read(connection: &Connection) -> Result<Contents, Fault> {
    // One transaction: all tables of one moment, even beside a writer.
    let moment = connection.unchecked_transaction()?;
    let contents = Contents {
        tags: rows(&moment, "SELECT id, device, name, topic, type FROM tag ORDER BY id", TagRow::read)?,
        epochs: rows(&moment, "SELECT * FROM epoch ORDER BY class, ordinal", |row| {
            let (previous, previous_seq) = (unsigned_if_known(row, 3)?, unsigned_if_known(row, 4)?);
            Ok(EpochRow {
                class: row.get(0)?,
                ordinal: unsigned(row, 1)?.cast_signed(),
                epoch: unsigned(row, 2)?,
                previous: previous.map(|epoch| (epoch, previous_seq)),
                last: unsigned(row, 5)?,
                evicted: unsigned(row, 6)?,
            })
        })?,
        losses: rows(&moment, "SELECT * FROM loss ORDER BY class, epoch, first", |row| read_loss(row, 0))?,
        owed: rows(&moment, "SELECT * FROM owed ORDER BY id", |row| {
            Ok(OwedRow { id: unsigned(row, 0)?.cast_signed(), uplink: row.get(1)?, loss: read_loss(row, 2)? })
        })?,
        cursors: rows(&moment, "SELECT * FROM cursor", |row| {
            let (epoch, acked) = (unsigned(row, 2)?, unsigned(row, 3)?);
            Ok(CursorRow { uplink: row.get(0)?, class: row.get(1)?, epoch, acked, ranges: row.get(4)? })
        })?,
        boots: rows(&moment, "SELECT number, token FROM boot ORDER BY number", |row| {
            within(0, row.get(0)?, 0..=i32::MAX.into())?; // a next one finds room
            Ok((row.get(0)?, row.get(1)?))
        })?,
        fixes: rows(&moment, "SELECT boot, micros, unix_ms FROM fix ORDER BY boot, micros", |row| {
            Ok(FixRow { at: (row.get(0)?, timed(row, 1)?), unix_ms: timed(row, 2)? })
        })?,
        values: rows(&moment, "SELECT name, number FROM value", |row| Ok((row.get(0)?, timed(row, 1)?)))?,
        meters: meter::read(&moment)?,
    };
    plausible::agree(&contents)?;
    Ok(contents)
}

fn rows<T>(at: &Connection, sql: &str, read: impl Fn(&Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>, Fault> {
    let mut query = at.prepare(sql)?;
    let rows = query.query_map([], |row| read(row))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read_loss(row: &Row<'_>, start: usize) -> rusqlite::Result<LossRow> {
    let stamp = |column: usize| -> rusqlite::Result<Option<StampRow>> {
        row.get::<_, Option<u32>>(column)?.map(|boot| Ok((boot, timed(row, column + 1)?))).transpose()
    };
    Ok(LossRow {
        class: row.get(start)?,
        epoch: unsigned(row, start + 1)?,
        first: unsigned(row, start + 2)?,
        last: unsigned(row, start + 3)?,
        reason: row.get(start + 4)?,
        from: stamp(start + 5)?,
        to: stamp(start + 7)?,
    })
}
