//! Chunk files: segments of one class and one epoch, insert-only, unlinked whole.
//!
//! A chunk explains itself: its epoch, the one before, and the tags its segments use stand in it, so that a store whose
//! `meta.db` is lost is read back from its chunks. Nothing here knows what is inside a segment's body.
//!
//! ```text
//! application_id 0x49424348 ("IBCH"), user_version 2 (1: segments carry times by column, see store::segment)
//! chunk    one row: class code, number, epoch, the epoch before and its last seq (NULL: not known)
//! tag      id, device, name, topic, type: what the segments of this chunk refer to
//! segment  first (key) .. last: the seqs; boot, earliest .. latest: its stamps, µs of that boot; raw: bytes of the body
//!          unpacked; crc: see store::segment
//! ```

use std::borrow::Borrow;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::model::number::Class;

use super::database::{self, BUSY_MOMENT, Layout, PAGE};
use super::fault::Fault;
use super::image;
use super::plausible::{unsigned, unsigned_if_known};

const LAYOUT: Layout = Layout { application: 0x4942_4348, version: 2 };

const TABLES: &str = "
    CREATE TABLE chunk (class INTEGER NOT NULL, number INTEGER NOT NULL, epoch INTEGER NOT NULL,
        previous_epoch INTEGER, previous_seq INTEGER);
    CREATE TABLE tag (id INTEGER PRIMARY KEY, device TEXT NOT NULL, name TEXT NOT NULL, topic TEXT NOT NULL,
        type TEXT NOT NULL);
    CREATE TABLE segment (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, boot INTEGER NOT NULL,
        earliest INTEGER NOT NULL, latest INTEGER NOT NULL, raw INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL);";

/// What a chunk says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkInfo {
    /// Whose segments.
    pub class: Class,
    /// As in the file name.
    pub number: u64,
    /// Of which epoch.
    pub epoch: u64,
    /// The epoch before and its last seq, each if known.
    pub previous: Option<(u64, Option<u64>)>,
}

/// One segment as it lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRow {
    /// Its first seq.
    pub first: u64,
    /// Its last seq.
    pub last: u64,
    /// The boot of its stamps.
    pub boot: u32,
    /// The earliest of them, µs of that boot.
    pub earliest: i64,
    /// The latest of them.
    pub latest: i64,
    /// Bytes of the body when unpacked.
    pub raw: u32,
    /// Over header and body.
    pub crc: u32,
    /// The packed records.
    pub body: Vec<u8>,
}

/// One dictionary entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRow {
    /// Stable id.
    pub id: u32,
    /// Device name.
    pub device: String,
    /// Tag name.
    pub name: String,
    /// Local topic.
    pub topic: String,
    /// Type, as in the config.
    pub data_type: String,
}

impl TagRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { id: row.get(0)?, device: row.get(1)?, name: row.get(2)?, topic: row.get(3)?, data_type: row.get(4)? })
    }
}

/// The writer's end of a chunk.
#[derive(Debug)]
pub struct ChunkWriter {
    connection: Connection,
}

impl ChunkWriter {
    /// Makes a new chunk; durable when it returns.
    pub fn create(path: &Path, info: &ChunkInfo, log_pages: u64) -> Result<Self, Fault> {
        let (epoch_before, seq_before) = info.previous.map_or((None, None), |(epoch, seq)| (Some(epoch), seq));
        LAYOUT.create(path, TABLES, |connection| {
            connection
                .execute(
                    "INSERT INTO chunk VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        info.class as u8,
                        info.number.cast_signed(),
                        info.epoch.cast_signed(),
                        epoch_before.map(u64::cast_signed),
                        seq_before.map(u64::cast_signed)
                    ],
                )
                .map(|_| ())
        })?;
        Self::open(path, log_pages)
    }

    /// Opens a chunk of an earlier run to go on with it.
    pub fn open(path: &Path, log_pages: u64) -> Result<Self, Fault> {
        let connection = open(path, log_pages)?;
        LAYOUT.check(&connection)?;
        if connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? < LAYOUT.version {
            // What comes now an older version could not read.
            connection.pragma_update(None, "user_version", LAYOUT.version)?;
        }
        Ok(Self { connection })
    }

    /// Writes segments and the tags they are the first here to use, and commits. An error leaves it open whether they
    /// are on disk: write the same segments to another chunk, readers take either.
    pub fn append(&mut self, tags: &[TagRow], segments: &[impl Borrow<SegmentRow>]) -> Result<(), Fault> {
        let work = self.connection.transaction()?;
        {
            let mut insert = work.prepare("INSERT OR REPLACE INTO tag VALUES (?1, ?2, ?3, ?4, ?5)")?;
            for tag in tags {
                insert.execute(params![tag.id, tag.device, tag.name, tag.topic, tag.data_type])?;
            }
            let mut insert = work.prepare("INSERT OR REPLACE INTO segment VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
            for segment in segments.iter().map(Borrow::borrow) {
                insert.execute(params![
                    segment.first.cast_signed(),
                    segment.last.cast_signed(),
                    segment.boot,
                    segment.earliest,
                    segment.latest,
                    segment.raw,
                    segment.crc,
                    segment.body
                ])?;
            }
        }
        Ok(work.commit()?)
    }

    /// Removes the segments that end by `seq`, overwriting what they held, and commits. The file becomes smaller where there
    /// is space for a copy of it; elsewhere what was freed is used again.
    pub fn forget_upto(&mut self, seq: u64) -> Result<(), Fault> {
        self.connection.execute_batch("PRAGMA secure_delete = ON")?;
        self.connection.execute("DELETE FROM segment WHERE last <= ?1", [seq.cast_signed()])?;
        database::checkpoint(&self.connection)?;
        if self.connection.execute_batch("VACUUM").is_ok() {
            database::checkpoint(&self.connection)?;
        }
        Ok(())
    }

    /// Bytes of the database, once its log is moved into it.
    pub fn bytes(&self) -> Result<u64, Fault> {
        let pages: i64 = self.connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        Ok(pages.cast_unsigned() * PAGE)
    }

    /// Empties the log.
    pub fn checkpoint(&self) -> Result<(), Fault> {
        database::checkpoint(&self.connection)
    }

    /// No more will be written: the log goes away, so that the chunk is one plain file (best effort: while somebody
    /// reads it, it keeps an empty log).
    pub fn finish(self) {
        let _ = database::checkpoint(&self.connection);
        let _ = self.connection.busy_timeout(std::time::Duration::ZERO);
        let _ = self.connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()));
    }
}

fn open(path: &Path, log_pages: u64) -> Result<Connection, Fault> {
    let connection = database::open_within(path, BUSY_MOMENT)?;
    connection.execute_batch(&format!(
        "PRAGMA wal_autocheckpoint = {log_pages}; PRAGMA journal_size_limit = {};",
        log_pages * PAGE
    ))?;
    Ok(connection)
}

/// A reader's end of a chunk.
#[derive(Debug)]
pub struct ChunkReader {
    connection: Connection,
}

impl ChunkReader {
    /// Opens a chunk and checks that it is one.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let connection = database::open_reader(path)?;
        LAYOUT.check(&connection)?;
        Ok(Self { connection })
    }

    /// The same of a copy in memory: what is damaged there is damaged in the file. Where the medium refuses the file, that is
    /// another fault, and nothing is said about its content.
    pub fn of_content(path: &Path) -> Result<Self, Fault> {
        let connection = image::read(path)?;
        LAYOUT.check(&connection)?;
        Ok(Self { connection })
    }

    /// What it says about itself.
    pub fn info(&self) -> Result<ChunkInfo, Fault> {
        let sql = "SELECT class, number, epoch, previous_epoch, previous_seq FROM chunk";
        let (class, number, epoch, epoch_before, seq_before) = self.connection.query_row(sql, [], |row| {
            let before = (unsigned_if_known(row, 3)?, unsigned_if_known(row, 4)?);
            Ok((row.get::<_, u8>(0)?, unsigned(row, 1)?, unsigned(row, 2)?, before.0, before.1))
        })?;
        let class = Class::from_code(class).ok_or_else(|| Fault::Damaged(format!("class {class} does not exist")))?;
        Ok(ChunkInfo { class, number, epoch, previous: epoch_before.map(|epoch| (epoch, seq_before)) })
    }

    /// Its first segment; `None` when it holds none.
    pub fn first(&self) -> Result<Option<SegmentRow>, Fault> {
        let sql = format!("{SEGMENT} ORDER BY first LIMIT 1");
        Ok(self.connection.query_row(&sql, [], read_segment).optional()?)
    }

    /// Its last segment.
    pub fn last(&self) -> Result<Option<SegmentRow>, Fault> {
        let sql = format!("{SEGMENT} ORDER BY first DESC LIMIT 1");
        Ok(self.connection.query_row(&sql, [], read_segment).optional()?)
    }

    /// The segment that covers `seq`, or else the last before it.
    pub fn segment_at(&self, seq: u64) -> Result<Option<SegmentRow>, Fault> {
        let sql = format!("{SEGMENT} WHERE first <= ?1 ORDER BY first DESC LIMIT 1");
        Ok(self.connection.query_row(&sql, [seq.cast_signed()], read_segment).optional()?)
    }

    /// The segment that covers `seq`, or else the first after it, and those that follow; at most `limit`.
    pub fn segments_from(&self, seq: u64, limit: usize) -> Result<Vec<SegmentRow>, Fault> {
        let sql = format!(
            "{SEGMENT} WHERE first >= coalesce((SELECT max(first) FROM segment WHERE first <= ?1), 0)
             ORDER BY first LIMIT ?2"
        );
        let mut query = self.connection.prepare(&sql)?;
        let rows =
            query.query_map(params![seq.cast_signed(), i64::try_from(limit).unwrap_or(i64::MAX)], read_segment)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Gives every segment that SQLite can still reach to `take`, from both ends towards the damage. The caller must
    /// check each one's CRC. Some may come twice.
    pub fn salvage(&self, take: &mut dyn FnMut(SegmentRow)) {
        for order in ["ASC", "DESC"] {
            let Ok(mut query) = self.connection.prepare(&format!("{SEGMENT} ORDER BY first {order}")) else { return };
            let Ok(rows) = query.query_map([], read_segment) else { return };
            let mut whole = true;
            for row in rows {
                match row {
                    Ok(segment) => take(segment),
                    // A value of the wrong kind spoils one row; anything else ends this direction.
                    Err(rusqlite::Error::SqliteFailure(..)) => {
                        whole = false;
                        break;
                    }
                    Err(_) => {}
                }
            }
            if whole {
                return;
            }
        }
    }

    /// The tags its segments refer to.
    pub fn tags(&self) -> Result<Vec<TagRow>, Fault> {
        let mut query = self.connection.prepare("SELECT id, device, name, topic, type FROM tag")?;
        let rows = query.query_map([], TagRow::read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Is its structure whole? Slow.
    pub fn quick_check(&self) -> Result<(), Fault> {
        database::quick_check(&self.connection)
    }
}

const SEGMENT: &str = "SELECT first, last, boot, earliest, latest, raw, crc, body FROM segment";

fn read_segment(row: &Row<'_>) -> rusqlite::Result<SegmentRow> {
    Ok(SegmentRow {
        first: row.get::<_, i64>(0)?.cast_unsigned(),
        last: row.get::<_, i64>(1)?.cast_unsigned(),
        boot: row.get(2)?,
        earliest: row.get(3)?,
        latest: row.get(4)?,
        raw: row.get(5)?,
        crc: row.get(6)?,
        body: row.get(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_while_a_chunk_is_finished_does_not_make_it_unreadable() {
        let home = tempfile::tempdir().expect("a directory");
        let (path, crashed) = (home.path().join("chunk.db"), home.path().join("crashed.db"));
        let info = ChunkInfo { class: Class::Alarm, number: 1, epoch: 9, previous: None };
        let mut chunk = ChunkWriter::create(&path, &info, 32).expect("made");
        let body = vec![7; 3000];
        let row = |first| SegmentRow {
            first,
            last: first,
            boot: 1,
            earliest: 0,
            latest: 0,
            raw: 5,
            crc: 0,
            body: body.clone(),
        };
        let rows: Vec<_> = (1..40).map(row).collect();
        chunk.append(&[], &rows).expect("written");
        chunk.finish();
        // A rollback journal that was synced, of a process that is gone: what is left when SQLite is killed while it
        // changes the journal mode. Made with a change so large that it does not fit the cache.
        let writer = Connection::open(&path).expect("open");
        writer
            .execute_batch(
                "PRAGMA synchronous = FULL; PRAGMA cache_size = 2; BEGIN IMMEDIATE; UPDATE segment SET raw = 6",
            )
            .expect("changed");
        for (from, to) in [("chunk.db", "crashed.db"), ("chunk.db-journal", "crashed.db-journal")] {
            std::fs::copy(home.path().join(from), home.path().join(to)).expect("copied");
        }
        let chunk = ChunkReader::open(&crashed).expect("SQLite rolls it back");
        let found = chunk.segments_from(1, 100).expect("readable");
        assert_eq!(found, rows);
    }
}
