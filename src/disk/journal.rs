//! The command journal: what was asked for, written down before it is acknowledged to its sender, and how it ended.
//!
//! Own thread and file. Fed by the command router. It promises: when [`CommandJournal::begin`] has returned, the command
//! is on disk; a key seen within 24 h is answered from memory of the disk, across restarts, unless what it named was
//! dismissed; what was begun before a crash and not closed is found by [`CommandJournal::unfinished`], and never begun twice.
//! While it cannot be written, [`CommandJournal::trouble`] says why. The file itself: `entries`.
//!
//! ```text
//! application_id 0x4942434D ("IBCM"), user_version 1
//! entry  id, key (NULL: none, or dismissed), tag, payload, origin, at (ms since 1970; NULL: clock not known), result (NULL: not ended)
//! ```
//! What ended without a clock, or by one that was ahead, counts as of the moment when the time is known (again): it is
//! remembered for a day from then on, not for ever. A clock that is put forward makes nothing older, as far as this process
//! saw it ([`CommandJournal::reckon`]): what was entered before is entered anew, so much later. What it was put by while no
//! process ran is time that went by.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot, watch};

use super::database;
use super::directory::Directory;
use super::fault::Fault;
use super::image;
use super::patience::Patience;
use entries::{LAYOUT, bytes, open, recall, unfinished};

mod entries;

/// How long a key is remembered.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;
/// A clock that was put forward by less, all in all, is followed.
const SLACK_MS: i64 = 60_000;
/// Entries kept; the oldest go first.
pub const ENTRIES_MAX: i64 = 100_000;
/// Bytes of the file that entries fill; the oldest go first.
pub const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Requests that may wait for the thread.
const REQUESTS_WAITING_MAX: usize = 64;

/// A command, before it is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The requester's id for it, if there is one.
    pub key: Option<String>,
    /// Topic of the tag.
    pub tag: String,
    /// As it came.
    pub payload: Vec<u8>,
    /// Who asked.
    pub origin: String,
    /// When, if the wall clock is known.
    pub at_unix_ms: Option<i64>,
}

/// Names an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryId(pub i64);

/// Whether a command is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is on disk: carry it out, then [`CommandJournal::close`].
    New(EntryId),
    /// It was seen before.
    Known {
        /// How it ended; `None` when it has not ended (or nobody knows).
        result: Option<Vec<u8>>,
    },
}

/// What becomes of the key of an entry that is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Remembered,
    Forgotten,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recalled {
    /// It was not seen within 24 h.
    Unknown,
    /// Its command has not ended (or nobody knows).
    UnderWay,
    /// How its command ended.
    Ended(Vec<u8>),
}

/// An entry that a crash left open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedEntry {
    /// To close it with.
    pub id: EntryId,
    /// The command.
    pub entry: Entry,
}

/// Why the journal could not do it.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Refuse the command: it is not on disk.
    #[error("the command journal cannot be written: {0}")]
    NotWritten(#[from] Fault),
    /// The thread has ended.
    #[error("the command journal is closed")]
    Closed,
}

enum Request {
    Reckon(i64),
    Recall(String, Option<i64>, oneshot::Sender<Result<Recalled, Fault>>),
    Begin(Entry, oneshot::Sender<Result<Begun, Fault>>),
    Close(EntryId, Vec<u8>, Key, oneshot::Sender<Result<(), Fault>>),
    Unfinished(oneshot::Sender<Vec<UnfinishedEntry>>),
    Answer(Option<i64>, oneshot::Sender<()>), // a sign of life
}

/// The journal; cheap to clone. Its thread ends with the last clone.
#[derive(Debug, Clone)]
pub struct CommandJournal {
    requests: mpsc::Sender<Request>,
    trouble: watch::Receiver<Option<String>>,
}

impl CommandJournal {
    /// Opens the journal, or makes it. A damaged file, whenever that is found, is set aside in `quarantine/` beside it (in place
    /// of an older one) and a new one begun; what stood in it is then forgotten. Where nothing can be written, commands are
    /// refused until that changes.
    pub fn open(path: &Path) -> Self {
        let (requests, inbox) = mpsc::channel(REQUESTS_WAITING_MAX);
        let (path, (told, trouble)) = (path.to_path_buf(), watch::channel(None));
        if let Err(error) = std::thread::Builder::new().name("journal".into()).spawn(move || run(path, inbox, told)) {
            tracing::error!(error = %error, "command journal thread cannot start");
        }
        Self { requests, trouble }
    }

    /// Why commands are refused, as long as they are. Its other end goes with the thread.
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.clone()
    }

    /// By what clock the times of [`Self::recall`] and [`Self::begin`] are from now on: UTC when this boot began, ms since 1970.
    /// When that is later than it was, the clock was put forward.
    pub async fn reckon(&self, began_ms: i64) {
        let _ = self.requests.send(Request::Reckon(began_ms)).await; // who asks next is told
    }

    /// Looks a key up, as of `now` (ms since 1970, if the wall clock is known).
    pub async fn recall(&self, key: String, now: Option<i64>) -> Result<Recalled, JournalError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Recall(key, now, answer)).await.map_err(|_| JournalError::Closed)?;
        Ok(answered.await.map_err(|_| JournalError::Closed)??)
    }

    /// Writes a command down, unless its key is known; on disk when it returns. If cancelled it may be written
    /// nevertheless, and then shows up as unfinished.
    pub async fn begin(&self, entry: Entry) -> Result<Begun, JournalError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Begin(entry, answer)).await.map_err(|_| JournalError::Closed)?;
        Ok(answered.await.map_err(|_| JournalError::Closed)??)
    }

    /// Writes down how it ended; on disk when it returns.
    pub async fn close(&self, id: EntryId, result: Vec<u8>) -> Result<(), JournalError> {
        self.end(id, result, Key::Remembered).await
    }

    /// The same for one that was refused and never sent: its key is free, whoever asks with it again is asked about anew.
    pub async fn dismiss(&self, id: EntryId, result: Vec<u8>) -> Result<(), JournalError> {
        self.end(id, result, Key::Forgotten).await
    }

    async fn end(&self, id: EntryId, result: Vec<u8>, key: Key) -> Result<(), JournalError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Close(id, result, key, answer)).await.map_err(|_| JournalError::Closed)?;
        Ok(answered.await.map_err(|_| JournalError::Closed)??)
    }

    /// Resolves when the thread has come to it, or is gone: it is not stuck. While something fails it is tried again for
    /// that, otherwise no disk is touched. The first time that is told here counts as [`Self::reckon`] does, before there is a
    /// command. Cancel-safe.
    pub async fn answers(&self, began_ms: Option<i64>) {
        let (answer, answered) = oneshot::channel();
        let _ = self.requests.send(Request::Answer(began_ms, answer)).await.is_ok() && answered.await.is_ok();
    }

    /// What an earlier run began and did not close, oldest first. Ask once, at start.
    pub async fn unfinished(&self) -> Vec<UnfinishedEntry> {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request::Unfinished(answer)).await.is_err() {
            return Vec::new();
        }
        answered.await.unwrap_or_default()
    }
}

struct Journal {
    path: PathBuf,
    connection: Option<Connection>,
    /// Entries up to here are from an earlier run, or were answered with success.
    certain: i64,
    unfinished: Vec<UnfinishedEntry>,
    patience: Patience,
    /// When this boot began by the clock of the entries' times, and by that of now, ms since 1970.
    began_ms: Option<(i64, i64)>,
    /// What failed, if nothing was written since.
    trouble: watch::Sender<Option<String>>,
}

fn run(path: PathBuf, mut inbox: mpsc::Receiver<Request>, trouble: watch::Sender<Option<String>>) {
    let (certain, unfinished, patience) = (i64::MAX, Vec::new(), Patience::default());
    let mut journal = Journal { path, connection: None, certain, unfinished, patience, began_ms: None, trouble };
    let _ = journal.attempt(Journal::probe); // it has been told
    while let Some(request) = inbox.blocking_recv() {
        // The asker may be gone: what was written stays written.
        match request {
            Request::Reckon(now) => journal.began_ms = Some((journal.began_ms.map_or(now, |(before, _)| before), now)),
            Request::Recall(key, now, answer) => {
                drop(answer.send(journal.attempt(|journal| recall(journal.dated(now)?, &key, now))));
            }
            Request::Begin(entry, answer) => drop(answer.send(journal.attempt(|journal| journal.begin(&entry)))),
            Request::Close(id, result, key, answer) => {
                drop(answer.send(journal.attempt(|journal| journal.end(id, &result, key))));
            }
            Request::Unfinished(answer) => drop(answer.send(std::mem::take(&mut journal.unfinished))),
            Request::Answer(began_ms, answer) => {
                journal.began_ms = journal.began_ms.or(began_ms.map(|began| (began, began)));
                if journal.trouble.borrow().is_some() {
                    let _ = journal.attempt(Journal::probe); // a command may not come for weeks
                }
                let _ = answer.send(());
            }
        }
    }
    if let Some(connection) = &journal.connection {
        let _ = database::checkpoint(connection); // the log says the same
    }
}

impl Journal {
    /// After an error the outcome of a commit is unknown: the file is opened anew before it is used again. A damaged one, or
    /// one that the medium has refused for long, is set aside, and the work done with a new one.
    fn attempt<T>(&mut self, mut work: impl FnMut(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        let path = self.path.clone();
        let looked = image::surely(&path, || {
            let looked = work(self);
            if looked.is_err() {
                self.connection = None;
            }
            looked
        });
        let outcome = match looked {
            Err(fault) if self.is_lost(&fault) => self.set_aside(&fault).and_then(|()| work(self)),
            looked => looked,
        };
        if let Err(fault) = &outcome {
            self.connection = None;
            if self.trouble.send_replace(Some(fault.to_string())).is_none() {
                tracing::error!(error = %fault, "command journal failed; commands are refused until it works again");
            }
        }
        outcome
    }

    fn is_lost(&mut self, fault: &Fault) -> bool {
        fault.is_damage() || (matches!(fault, Fault::Refused(_)) && self.patience.refused(Instant::now()))
    }

    /// Can anything be written? Writes what is there already.
    fn probe(&mut self) -> Result<(), Fault> {
        self.connection()?.pragma_update(None, "user_version", LAYOUT.version)?;
        self.works();
        Ok(())
    }

    /// Something was written.
    fn works(&mut self) {
        if self.trouble.send_if_modified(|trouble| trouble.take().is_some()) {
            tracing::info!("command journal works again");
        }
    }

    fn connection(&mut self) -> Result<&mut Connection, Fault> {
        if self.connection.is_none() {
            // Ids of a file that is lost are not used again: their commands may be under way.
            let connection = open(&self.path, if self.certain == i64::MAX { 0 } else { self.certain })?;
            if self.certain == i64::MAX {
                self.unfinished = unfinished(&connection)?;
                let last: Option<i64> = connection.query_row("SELECT max(id) FROM entry", [], |row| row.get(0))?;
                self.certain = last.unwrap_or(0);
            } else {
                // Begun in this run, but refused to its sender because the commit seemed to fail.
                connection.execute("DELETE FROM entry WHERE result IS NULL AND id > ?1", [self.certain])?;
            }
            self.connection = Some(connection);
        }
        self.connection.as_mut().ok_or_else(|| Fault::Unavailable("the journal is not open".into()))
    }

    /// The connection, once what has ended has a time that was: the age of an entry without one, or with one to come, never
    /// begins to count.
    fn dated(&mut self, now: Option<i64>) -> Result<&mut Connection, Fault> {
        if let Some((before, began)) = self.began_ms
            && !(0..=SLACK_MS).contains(&(began - before))
        {
            if began > before {
                self.connection()?.execute("UPDATE entry SET at = at + ?1", [began - before])?;
            }
            self.began_ms = Some((began, began));
        }
        let connection = self.connection()?;
        if let Some(now) = now {
            let sql = "UPDATE entry SET at = ?1 WHERE (at IS NULL OR at > ?1) AND result IS NOT NULL";
            connection.execute(sql, [now])?;
        }
        Ok(connection)
    }

    fn set_aside(&mut self, fault: &Fault) -> Result<(), Fault> {
        let (Some(home), Some(name)) = (self.path.parent(), self.path.file_name().and_then(|name| name.to_str()))
        else {
            return Err(Fault::Unavailable("the journal has no file name".into()));
        };
        let aside = Directory::at(home).set_aside_alone(name)?;
        self.patience = Patience::default();
        tracing::error!(error = %fault, aside = %aside.display(), "command journal damaged and set aside; a new one begins");
        Ok(())
    }

    fn begin(&mut self, entry: &Entry) -> Result<Begun, Fault> {
        let work = self.dated(entry.at_unix_ms)?.transaction()?;
        if let Some(key) = &entry.key {
            match recall(&work, key, entry.at_unix_ms)? {
                Recalled::Unknown => {}
                Recalled::UnderWay => return Ok(Begun::Known { result: None }),
                Recalled::Ended(result) => return Ok(Begun::Known { result: Some(result) }),
            }
        }
        let Entry { key, tag, payload, origin, at_unix_ms } = entry;
        work.execute(
            "INSERT INTO entry (key, tag, payload, origin, at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![key, tag, payload, origin, at_unix_ms],
        )?;
        let id = work.last_insert_rowid();
        if let Some(now) = at_unix_ms {
            // Ids grow with time: only the oldest few need a look, however many there are.
            let old = "DELETE FROM entry WHERE id IN (SELECT id FROM entry ORDER BY id LIMIT 100)
                       AND at < ?1 AND id < ?2 AND result IS NOT NULL";
            work.execute(old, params![now - REMEMBERED_MS, id])?;
        }
        work.execute("DELETE FROM entry WHERE id <= ?1", [id - ENTRIES_MAX])?;
        let oldest = "DELETE FROM entry WHERE id IN (SELECT id FROM entry WHERE id < ?1 ORDER BY id LIMIT 16)";
        while bytes(&work)? > BYTES_MAX && work.execute(oldest, [id])? > 0 {}
        work.commit()?;
        self.certain = id;
        self.works();
        Ok(Begun::New(EntryId(id)))
    }

    fn end(&mut self, id: EntryId, result: &[u8], key: Key) -> Result<(), Fault> {
        let sql = match key {
            Key::Remembered => "UPDATE entry SET result = ?2 WHERE id = ?1",
            Key::Forgotten => "UPDATE entry SET result = ?2, key = NULL WHERE id = ?1",
        };
        self.connection()?.execute(sql, params![id.0, result])?;
        self.works();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
