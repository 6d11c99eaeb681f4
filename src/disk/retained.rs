//! A few hundred named values on disk, each replaced now and then: what has been learned of devices (`learned.db`).
//!
//! It is also what clients' retained messages lay in before there was a ledger; [`super::ledger`] takes such a file over,
//! and shares the row. Fed by `app::learned`, which keeps all of it in memory too: what waits for the disk is at most one change per topic,
//! newest wins, so nothing here needs a bound of its own. A thread commits what has gathered every few milliseconds
//! and only then tells those who wait. A failed commit is told at once and tried again with what came since.
//!
//! The file: `user_version` 1, one table
//! `retained(topic TEXT PRIMARY KEY, qos INTEGER, payload BLOB, properties BLOB, expires INTEGER)`:
//! `properties` as on the wire of MQTT 5, `expires` in ms since 1970 or NULL. A file that SQLite calls damaged is
//! renamed to `….damaged` (replacing an older one) and a new one is begun.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, params};
use tokio::sync::oneshot;

use super::database;

/// How long a commit waits for company while somebody waits for it.
const GATHER: Duration = Duration::from_millis(5);

/// And while nobody does: flash wears out with every commit.
const GATHER_AT_LEISURE: Duration = Duration::from_secs(1);

/// Pause after a failed commit or a file that could not be opened.
const RETRY: Duration = Duration::from_secs(5);

/// One value: for the broker a retained message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its topic, the key.
    pub topic: Arc<str>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Never empty: an empty one clears.
    pub payload: bytes::Bytes,
    /// MQTT 5 properties that travel with it, encoded.
    pub properties: bytes::Bytes,
    /// End of its life, ms since 1970; below zero: by the clock of a boot, see the head of `ledger::tables`.
    pub expires_unix_ms: Option<i64>,
}

/// It is not on disk (and is being tried again).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not committed")]
pub struct NotCommitted;

/// Told once the change is committed, or that it is not.
pub type Committed = oneshot::Receiver<Result<(), NotCommitted>>;

/// What was found at start.
#[derive(Debug, Default)]
pub struct Found {
    /// Every message on disk.
    pub rows: Vec<Row>,
    /// The old file was damaged and lies here now.
    pub set_aside: Option<PathBuf>,
}

/// The file and its thread. [`RetainedFile::close`] or dropping it commits what waits and ends the thread.
#[derive(Debug)]
pub struct RetainedFile {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: remove.
    changes: HashMap<Arc<str>, Option<Row>>,
    waiters: Vec<oneshot::Sender<Result<(), NotCommitted>>>,
    closed: bool,
    /// Why it does not work at present.
    trouble: Option<String>,
}

impl RetainedFile {
    /// Opens the file, reads it and starts the thread. Blocks for as long as reading takes. A file that cannot be
    /// opened is no error: it is reported by [`RetainedFile::trouble`] and tried again.
    pub fn open(path: &Path) -> std::io::Result<(Self, Found)> {
        let mut found = Found::default();
        let mut state = State::default();
        // A new file has nothing to read: the thread makes it, and nobody waits for its first bytes to be durable.
        let is_new = path.parent().is_some_and(Path::is_dir) && matches!(path.try_exists(), Ok(false));
        let connection = match (!is_new).then(|| open(path, &mut found)).transpose() {
            Ok(connection) => connection,
            Err(error) => {
                state.trouble = Some(error.to_string());
                None
            }
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let mut writer = Writer { shared: Arc::clone(&shared), path: path.to_owned(), connection };
        let work = move || {
            if is_new {
                writer.begin();
            }
            writer.run();
        };
        let thread = std::thread::Builder::new().name("retained".to_owned()).spawn(work)?;
        Ok((Self { shared, thread: Mutex::new(Some(thread)) }, found))
    }

    /// Stores, replaces or, without a row, removes, as soon as can be. Never waits itself.
    pub fn change(&self, topic: Arc<str>, row: Option<Row>) -> Committed {
        let (told, committed) = oneshot::channel();
        self.enter(topic, row, Some(told));
        committed
    }

    /// The same within a second, for what nobody waits for.
    pub fn change_at_leisure(&self, topic: Arc<str>, row: Option<Row>) {
        self.enter(topic, row, None);
    }

    /// Why nothing can be committed at present, if so.
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble.clone()
    }

    /// Commits what waits and ends the thread; later changes are answered [`NotCommitted`]. Blocks for one commit.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic there has been reported by the panic hook; there is nothing left to do about it.
            drop(thread.join());
        }
    }

    fn enter(&self, topic: Arc<str>, row: Option<Row>, told: Option<oneshot::Sender<Result<(), NotCommitted>>>) {
        let mut state = self.shared.lock();
        if !state.closed {
            state.changes.insert(topic, row);
        }
        match told {
            // Nobody is kept waiting for a disk that is known not to work.
            Some(told) if state.trouble.is_some() || state.closed => {
                let _ = told.send(Err(NotCommitted)); // whoever asked may be gone
            }
            told => state.waiters.extend(told),
        }
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl Drop for RetainedFile {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while something holds, but not longer than this, and not once closed.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        longest: Duration,
        holds: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout_while(state, longest, |state| !state.closed && holds(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

struct Writer {
    shared: Arc<Shared>,
    path: PathBuf,
    connection: Option<Connection>,
}

impl Writer {
    /// Makes the file.
    fn begin(&mut self) {
        match open(&self.path, &mut Found::default()) {
            Ok(connection) => self.connection = Some(connection),
            Err(error) => self.shared.lock().trouble = Some(error.to_string()),
        }
    }

    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let state = shared.lock();
            let idle = |state: &mut State| state.changes.is_empty() && !state.closed;
            let state = shared.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
            let state = shared.wait(state, GATHER_AT_LEISURE, |state| state.waiters.is_empty());
            let mut state = shared.wait(state, GATHER, |_| true);
            let closed = state.closed;
            let changes = std::mem::take(&mut state.changes);
            let waiters = std::mem::take(&mut state.waiters);
            drop(state);
            let outcome = self.commit(&changes);
            let told = if outcome.is_ok() { Ok(()) } else { Err(NotCommitted) };
            for waiter in waiters {
                let _ = waiter.send(told); // whoever waited may be gone
            }
            let mut state = shared.lock();
            state.trouble = outcome.as_ref().err().map(ToString::to_string);
            if closed {
                return;
            }
            if outcome.is_err() {
                for (topic, row) in changes {
                    state.changes.entry(topic).or_insert(row);
                }
                drop(shared.wait(state, RETRY, |_| true));
            }
        }
    }

    fn commit(&mut self, changes: &HashMap<Arc<str>, Option<Row>>) -> rusqlite::Result<()> {
        if self.connection.is_none() {
            // What an unreadable file held is not brought back now: clients may have cleared it since.
            self.connection = Some(open(&self.path, &mut Found::default())?);
        }
        let connection = self.connection.as_mut().expect("opened two lines above");
        let transaction = connection.transaction()?;
        {
            let mut put = transaction.prepare(
                "INSERT OR REPLACE INTO retained (topic, qos, payload, properties, expires) VALUES (?, ?, ?, ?, ?)",
            )?;
            let mut clear = transaction.prepare("DELETE FROM retained WHERE topic = ?")?;
            for (topic, row) in changes {
                match row {
                    Some(row) => put.execute(params![
                        &**topic,
                        row.qos,
                        &row.payload[..],
                        &row.properties[..],
                        row.expires_unix_ms
                    ])?,
                    None => clear.execute(params![&**topic])?,
                };
            }
        }
        transaction.commit()
    }
}

/// Opens the file and reads it into `found`; a damaged one is set aside first.
fn open(path: &Path, found: &mut Found) -> rusqlite::Result<Connection> {
    match open_and_read(path) {
        Err(error) if is_damage(&error) => {
            let beside = |tail: &str| {
                let mut name = path.as_os_str().to_owned();
                name.push(tail);
                PathBuf::from(name)
            };
            let aside = beside(".damaged");
            for tail in ["-wal", "-shm"] {
                // Parts of the damaged file; there may be none.
                drop(std::fs::remove_file(beside(tail)));
            }
            if std::fs::rename(path, &aside).is_err() {
                return Err(error);
            }
            found.set_aside = Some(aside);
            open_and_read(path)
        }
        opened => opened,
    }
    .map(|(connection, rows)| {
        found.rows = rows;
        connection
    })
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn open_and_read(path: &Path) -> rusqlite::Result<(Connection, Vec<Row>)> {
    let connection = database::open(path)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS retained (topic TEXT PRIMARY KEY, qos INTEGER NOT NULL, payload BLOB NOT NULL,
             properties BLOB NOT NULL, expires INTEGER) WITHOUT ROWID;
         PRAGMA user_version = 1;",
    )?;
    let mut select = connection.prepare("SELECT topic, qos, payload, properties, expires FROM retained")?;
    let rows = select.query_map([], |row| {
        Ok(Row {
            topic: row.get::<_, String>(0)?.into(),
            qos: row.get(1)?,
            payload: row.get::<_, Vec<u8>>(2)?.into(),
            properties: row.get::<_, Vec<u8>>(3)?.into(),
            expires_unix_ms: row.get(4)?,
        })
    })?;
    let rows = rows.collect::<rusqlite::Result<Vec<Row>>>()?;
    drop(select);
    Ok((connection, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(topic: &str, payload: &'static [u8]) -> Row {
        let (payload, properties) = (payload.into(), bytes::Bytes::new());
        Row { topic: topic.into(), qos: 1, payload, properties, expires_unix_ms: Some(5) }
    }

    #[tokio::test]
    async fn what_was_answered_is_there_after_a_reopen_and_what_was_cleared_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("retained.db");
        let (file, found) = RetainedFile::open(&path).expect("a thread");
        assert!(found.rows.is_empty());
        let put = |topic: &str, payload| file.change(topic.into(), Some(row(topic, payload)));
        file.change_at_leisure("c".into(), Some(row("c", b"3")));
        let answers = [put("a", b"1"), put("b", b"2"), file.change("b".into(), None)];
        for answer in answers {
            assert_eq!(answer.await.expect("answered"), Ok(()));
        }
        assert_eq!(file.trouble(), None);
        file.change_at_leisure("c".into(), Some(row("c", b"4")));
        drop(file);
        let (_file, found) = RetainedFile::open(&path).expect("a thread");
        assert_eq!(found.rows, [row("a", b"1"), row("c", b"4")], "closing commits what waits at leisure");
    }

    #[tokio::test]
    async fn a_damaged_file_is_set_aside_and_a_new_one_begun() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("retained.db");
        std::fs::write(&path, [0x55; 8192]).expect("written");
        let (file, found) = RetainedFile::open(&path).expect("a thread");
        assert_eq!(found.set_aside.as_deref(), Some(&*dir.path().join("retained.db.damaged")));
        assert_eq!(file.change("a".into(), Some(row("a", b"1"))).await.expect("answered"), Ok(()));
    }

    #[tokio::test]
    async fn a_disk_that_does_not_work_is_told_at_once_and_never_acknowledged() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("missing").join("retained.db");
        let (file, _) = RetainedFile::open(&path).expect("a thread");
        assert!(file.trouble().is_some());
        let answer = file.change("a".into(), Some(row("a", b"1")));
        assert_eq!(answer.await.expect("answered"), Err(NotCommitted));
    }
}
