//! The file of the command journal, whose layout stands in the head of `journal`: how it is opened, how entries are found.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Entry, EntryId, REMEMBERED_MS, Recalled, UnfinishedEntry};
use crate::disk::database::{self, Layout, PAGE};
use crate::disk::directory::Directory;
use crate::disk::fault::Fault;

pub(super) const LAYOUT: Layout = Layout { application: 0x4942_434D, version: 1 };

const TABLES: &str = "
    CREATE TABLE entry (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, tag TEXT NOT NULL, payload BLOB NOT NULL,
        origin TEXT NOT NULL, at INTEGER, result BLOB);
    CREATE INDEX entry_key ON entry (key) WHERE key IS NOT NULL;
    CREATE INDEX entry_open ON entry (id) WHERE result IS NULL;";

/// By which entries are found that have no time, or a wrong one; missing in files of earlier versions.
const BY_TIME: &str = "CREATE INDEX IF NOT EXISTS entry_at ON entry (at)";

/// What of the file is in use.
pub(super) fn bytes(connection: &Connection) -> Result<u64, Fault> {
    let pages = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok((pages("page_count")? - pages("freelist_count")?).unsigned_abs() * PAGE)
}

/// The ids of a new file begin above `used`.
pub(super) fn open(path: &Path, used: i64) -> Result<Connection, Fault> {
    let new = !path.try_exists()?;
    if let (true, Some(home), Some(name)) = (new, path.parent(), path.file_name().and_then(|name| name.to_str())) {
        std::fs::create_dir_all(home)?;
        Directory::at(home).remove_database(name)?; // a log without its database
    }
    if new {
        let go_on = "INSERT INTO sqlite_sequence VALUES ('entry', ?1)";
        LAYOUT.create(path, TABLES, |made| made.execute(go_on, [used]).map(drop))?;
    }
    let connection = database::open(path)?;
    LAYOUT.check(&connection)?;
    let _ = connection.execute_batch(BY_TIME); // on a full disk, say; without it looking takes longer
    Ok(connection)
}

pub(super) fn recall(connection: &Connection, key: &str, now: Option<i64>) -> Result<Recalled, Fault> {
    let since = now.map(|now| now - REMEMBERED_MS);
    let known = "SELECT result FROM entry WHERE key = ?1 AND (at IS NULL OR ?2 IS NULL OR at >= ?2)
                 ORDER BY id DESC LIMIT 1";
    let found = connection.query_row(known, params![key, since], |row| row.get(0)).optional()?;
    Ok(match found {
        None => Recalled::Unknown,
        Some(None) => Recalled::UnderWay,
        Some(Some(result)) => Recalled::Ended(result),
    })
}

pub(super) fn unfinished(connection: &Connection) -> Result<Vec<UnfinishedEntry>, Fault> {
    let sql = "SELECT id, key, tag, payload, origin, at FROM entry WHERE result IS NULL ORDER BY id";
    let mut query = connection.prepare(sql)?;
    let rows = query.query_map([], |row| {
        let (key, tag, payload) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let entry = Entry { key, tag, payload, origin: row.get(4)?, at_unix_ms: row.get(5)? };
        Ok(UnfinishedEntry { id: EntryId(row.get(0)?), entry })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
