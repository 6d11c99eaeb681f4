//! A few hundred small named texts on disk, each replaced now and then: what was learned about devices (`learned.db`).
//!
//! Fed by `app::learned`, which keeps all of it in memory, too. What waits for the disk is at most one change per name,
//! newest wins, so nothing here needs a bound of its own; nobody waits for it. A thread commits what has gathered within a
//! second; what failed is tried again with what came since.
//!
//! The file: `user_version` 2, one table `learned(name TEXT PRIMARY KEY, content TEXT, expires INTEGER)`, `expires` in ms
//! since 1970 or NULL. What stands in a file of version 1 (a table `retained`) is forgotten and learned anew. A file that is
//! damaged (`image`) is renamed to `….damaged` (replacing an older one) and a new one is begun.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, params};

use super::database::{self, companion};
use super::fault::Fault;
use super::image;
use crate::model::lock::Hold as _;

/// How long a commit waits for company: flash wears out with every one.
const GATHER: Duration = Duration::from_secs(1);

/// Pause after a failed commit or a file that could not be opened.
const RETRY: Duration = Duration::from_secs(5);

/// In `user_version`, and what a file of another one is made into.
const VERSION: i64 = 2;
const MAKE: &str = "BEGIN;
    DROP TABLE IF EXISTS retained;
    CREATE TABLE learned (name TEXT PRIMARY KEY, content TEXT NOT NULL, expires INTEGER) WITHOUT ROWID;
    PRAGMA user_version = 2;
    COMMIT;";

/// One text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// As its owner reads it.
    pub content: String,
    /// Not to be believed from then on, ms since 1970; `None`: nobody vouched for the clock.
    pub expires_unix_ms: Option<i64>,
}

/// The file and its thread. Dropping it commits what waits and ends the thread.
#[derive(Debug)]
pub struct LearnedFile {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: remove.
    changes: HashMap<Arc<str>, Option<Learned>>,
    closed: bool,
}

impl LearnedFile {
    /// Opens the file, reads it and starts the thread. Blocks for as long as reading takes. A file that cannot be opened is
    /// no error: it holds nothing, and is tried again when there is something to write.
    pub fn open(path: &Path) -> std::io::Result<(Self, HashMap<String, Learned>)> {
        let (connection, found) = match open(path) {
            Ok((connection, found)) => (Some(connection), found),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "what was learned about devices cannot be read");
                (None, HashMap::new())
            }
        };
        let shared = Arc::new(Shared::default());
        let writer = Writer { shared: Arc::clone(&shared), path: path.to_owned(), connection };
        let thread = std::thread::Builder::new().name("learned".to_owned()).spawn(move || writer.run())?;
        Ok((Self { shared, thread: Some(thread) }, found))
    }

    /// Stores, replaces or, without one, removes a text within a second. Never waits.
    pub fn put(&self, name: Arc<str>, learned: Option<Learned>) {
        self.shared.lock().changes.insert(name, learned);
        self.shared.changed.notify_one();
    }
}

impl Drop for LearnedFile {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
        // A panic there has been reported by the panic hook; there is nothing left to do about it.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.hold()
    }

    /// Waits for so long, but not once closed.
    fn pause<'a>(&self, state: MutexGuard<'a, State>, pause: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout_while(state, pause, |state| !state.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

struct Writer {
    shared: Arc<Shared>,
    path: PathBuf,
    connection: Option<Connection>,
}

impl Writer {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut pause = GATHER;
        loop {
            let idle = |state: &mut State| state.changes.is_empty() && !state.closed;
            let state = shared.changed.wait_while(shared.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            let mut state = shared.pause(state, pause);
            let (closed, changes) = (state.closed, std::mem::take(&mut state.changes));
            drop(state);
            let outcome = self.commit(&changes);
            if closed {
                return;
            }
            pause = if outcome.is_ok() { GATHER } else { RETRY };
            if let Err(error) = outcome {
                tracing::debug!(%error, "what was learned about devices could not be written, trying on");
                let mut state = shared.lock();
                for (name, learned) in changes {
                    state.changes.entry(name).or_insert(learned);
                }
            }
        }
    }

    fn commit(&mut self, changes: &HashMap<Arc<str>, Option<Learned>>) -> Result<(), Fault> {
        // What a file that could not be read holds of other names is left for the next start.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => open(&self.path)?.0,
        };
        let written = write(&mut connection, changes);
        self.connection = written.is_ok().then_some(connection);
        Ok(written?)
    }
}

fn write(connection: &mut Connection, changes: &HashMap<Arc<str>, Option<Learned>>) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for (name, learned) in changes {
        match learned {
            Some(Learned { content, expires_unix_ms }) => {
                let put = "INSERT OR REPLACE INTO learned (name, content, expires) VALUES (?, ?, ?)";
                transaction.execute(put, params![&**name, content, expires_unix_ms])?
            }
            None => transaction.execute("DELETE FROM learned WHERE name = ?", params![&**name])?,
        };
    }
    transaction.commit()
}

/// Opens the file and reads it; a damaged one is set aside first.
fn open(path: &Path) -> Result<(Connection, HashMap<String, Learned>), Fault> {
    match image::surely(path, || Ok(open_and_read(path)?)) {
        Err(fault) if fault.is_damage() => {
            for suffix in ["-wal", "-shm"] {
                // Parts of the damaged file; there may be none.
                drop(std::fs::remove_file(companion(path, suffix)));
            }
            std::fs::rename(path, companion(path, ".damaged"))?;
            tracing::warn!(file = %path.display(), "what was learned about devices was damaged, file set aside");
            Ok(open_and_read(path)?)
        }
        opened => opened,
    }
}

fn open_and_read(path: &Path) -> rusqlite::Result<(Connection, HashMap<String, Learned>)> {
    let connection = database::open(path)?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version < VERSION {
        connection.execute_batch(MAKE)?;
    }
    let mut select = connection.prepare("SELECT name, content, expires FROM learned")?;
    let rows = select
        .query_map([], |row| Ok((row.get(0)?, Learned { content: row.get(1)?, expires_unix_ms: row.get(2)? })))?;
    let found = rows.collect::<rusqlite::Result<_>>()?;
    drop(select);
    Ok((connection, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(content: &str) -> Learned {
        Learned { content: content.to_owned(), expires_unix_ms: Some(5) }
    }

    fn found(path: &Path) -> Vec<(String, Learned)> {
        let (_file, found) = LearnedFile::open(path).expect("a thread");
        let mut found = Vec::from_iter(found);
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        found
    }

    #[test]
    fn what_was_put_is_there_after_a_reopen_and_what_was_removed_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("learned.db");
        let (file, nothing) = LearnedFile::open(&path).expect("a thread");
        assert!(nothing.is_empty());
        for (name, content) in [("a", Some("1")), ("b", Some("2")), ("c", Some("3")), ("b", None), ("c", Some("4"))] {
            file.put(name.into(), content.map(learned));
        }
        drop(file);
        let expected = [("a", "1"), ("c", "4")].map(|(name, content)| (name.to_owned(), learned(content)));
        assert_eq!(found(&path), expected, "closing commits what waits");
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_one_of_before_is_begun_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("learned.db");
        std::fs::write(&path, [0x55; 8192]).expect("written");
        assert!(found(&path).is_empty());
        assert!(dir.path().join("learned.db.damaged").exists());
        let before = "DROP TABLE learned; CREATE TABLE retained (topic TEXT PRIMARY KEY); PRAGMA user_version = 1;
                      INSERT INTO retained VALUES ('a');";
        database::open(&path).expect("opens").execute_batch(before).expect("made");
        let (file, nothing) = LearnedFile::open(&path).expect("a thread");
        assert!(nothing.is_empty());
        file.put("b".into(), Some(learned("1")));
        drop(file);
        assert_eq!(found(&path), [("b".to_owned(), learned("1"))]);
    }

    #[test]
    fn a_directory_that_comes_late_is_written_to_in_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("late").join("learned.db");
        let (file, nothing) = LearnedFile::open(&path).expect("a thread");
        assert!(nothing.is_empty());
        std::fs::create_dir(dir.path().join("late")).expect("made");
        file.put("a".into(), Some(learned("1")));
        drop(file);
        assert_eq!(found(&path), [("a".to_owned(), learned("1"))]);
    }
}
