//! The ledger's thread: gathers what was entered, commits it, tells those who wait, reads pages.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::batch::Batch;
use super::pending::Entered;
use super::rows::{Ended, Found, OwedRow, SessionId};
use super::upkeep::{self, Upkeep};
use super::{LedgerFigures, NotRead, load, page, tables};
use crate::disk::fault::Fault;

/// How long a commit waits for company while somebody waits for it.
const GATHER: Duration = Duration::from_millis(5);

/// And while nobody does: flash wears out with every commit.
const GATHER_AT_LEISURE: Duration = Duration::from_secs(1);

/// With so many waiting it does not wait for more than this to pass without anything new: whoever publishes with a window
/// has filled it, and goes on when the commit is done.
const MANY: usize = 16;
const QUIET: Duration = Duration::from_micros(200);

/// Bytes of changes that are committed without delay, though nobody waits.
const HEAVY: usize = 8 * 1024 * 1024;

/// Pause after a failed commit or a file that could not be opened.
const RETRY: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(5) };

/// Condition variables cannot wait for `Duration::MAX`.
const FOR_EVER: Duration = Duration::from_secs(86_400);

/// Somebody who wants to read of a session.
pub(super) struct Request {
    pub id: SessionId,
    pub wanted: Wanted,
}

/// What somebody wants to read.
pub(super) enum Wanted {
    Page { from_ordinal: u64, most_bytes: usize, told: oneshot::Sender<Result<Vec<OwedRow>, NotRead>> },
    Ended { begun_below: u64, is_over: Box<dyn Fn(i64) -> bool + Send>, told: oneshot::Sender<Vec<Ended>> },
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub entered: Entered,
    pub requests: Vec<Request>,
    /// The next key.
    pub next_session: u64,
    pub closed: bool,
    /// Why it does not work at present.
    pub trouble: Option<String>,
    /// What the file held at start.
    pub contents: Contents,
    /// The file was found to be damaged while in use.
    pub damaged: bool,
    /// It is to be set aside, and a new one begun.
    pub anew: bool,
    pub figures: LedgerFigures,
    /// How often something was entered, so that a pause can be noticed.
    entries: u64,
    asleep: Asleep,
}

/// What the file held at start.
#[derive(Debug, Default)]
pub(super) enum Contents {
    /// It could not be read yet.
    #[default]
    Unknown,
    /// It now was, and the broker has not been told.
    Late(Found),
    Known,
}

/// What the thread sleeps for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Asleep {
    #[default]
    No,
    /// For anything.
    Idle,
    /// For somebody who waits.
    AtLeisure,
    /// Until its time is over, or somebody wants to read.
    Gathering,
}

impl State {
    fn is_idle(&self) -> bool {
        self.entered.batch().is_empty() && self.requests.is_empty()
    }

    fn is_awaited(&self) -> bool {
        let batch = self.entered.batch();
        batch.waiting() > 0 || batch.loose_bytes > HEAVY || !self.requests.is_empty()
    }

    fn in_trouble(&mut self, fault: &Fault) {
        self.trouble = Some(fault.to_string());
        self.damaged |= fault.is_damage() && !self.anew;
    }

    /// A retained message is changed: what the file held of its topic is older.
    pub(super) fn supersede(&mut self, topic: &str) {
        if let Contents::Late(late) = &mut self.contents {
            late.rows.retain(|row| *row.topic != *topic);
        }
    }

    /// What was found on disk is known from now on.
    pub(super) fn take_in(&mut self, opened: &mut load::Opened) {
        self.next_session = self.next_session.max(opened.next_session);
        for (id, mark) in &opened.marks {
            let kept = opened.found.sessions.iter().find(|kept| kept.session.id == *id);
            self.entered.found(*id, *mark, kept.map_or(&[], |kept| &kept.received));
        }
        for id in opened.remains.drain(..) {
            self.entered.forget(id);
        }
    }
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread, whatever it sleeps for.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// To be called when something was entered.
    pub(super) fn entered(&self, mut state: MutexGuard<'_, State>) {
        state.entries += 1;
        let wake = match state.asleep {
            Asleep::No => state.closed,
            Asleep::Idle => true,
            Asleep::AtLeisure => state.is_awaited() || state.closed,
            Asleep::Gathering => !state.requests.is_empty() || state.closed,
        };
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Sleeps while something holds, but not longer than this, and not once closed.
    fn sleep<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        asleep: Asleep,
        longest: Duration,
        holds: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        state.asleep = asleep;
        let waited = self.changed.wait_timeout_while(state, longest, |state| !state.closed && holds(state));
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.asleep = Asleep::No;
        state
    }
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    path: PathBuf,
    connection: Option<Connection>,
    /// What the file holds is known, at start or since.
    known: bool,
    /// End of the last commit.
    last: Instant,
    /// The disk is in trouble, and not asked again before this.
    retry: Option<Instant>,
    upkeep: Upkeep,
    /// There is something left to do for it.
    more: bool,
}

impl Writer {
    /// Without a connection the file could not be opened.
    pub(super) fn new(shared: &Arc<Shared>, path: &Path, connection: Option<Connection>) -> Self {
        let known = connection.is_some();
        let (shared, path, last) = (Arc::clone(shared), path.to_owned(), Instant::now());
        Self { shared, path, connection, known, last, retry: None, upkeep: Upkeep::default(), more: false }
    }

    /// Makes the file. Where that fails (a full disk) it is no more known than one that could not be read: there is none yet.
    pub(super) fn begin(&mut self) {
        match load::open(&self.path) {
            Ok(opened) => (self.connection, self.known) = (Some(opened.connection), true),
            Err(fault) => self.shared.lock().in_trouble(&fault),
        }
    }

    /// Until closed.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        // What could not be opened is tried again, also when nothing is ever entered.
        self.retry = shared.lock().trouble.is_some().then(|| Instant::now() + RETRY);
        loop {
            let mut state = self.gather(&shared);
            let closed = state.closed;
            let requests = std::mem::take(&mut state.requests);
            if closed || self.retry.is_none_or(|due| due <= Instant::now()) {
                let troubled = state.trouble.is_some();
                let batch = state.entered.take();
                drop(state);
                let begun = Instant::now();
                let outcome = self.commit(&batch, troubled);
                self.last = Instant::now();
                self.retry = outcome.is_err().then(|| self.last + RETRY);
                let rows = outcome.as_ref().copied().unwrap_or(0);
                self.tell(outcome.map(|_| ()), batch);
                self.keep_up(rows, self.last - begun);
            } else {
                drop(state);
            }
            for request in requests {
                self.answer(request);
            }
            if closed {
                return;
            }
        }
    }

    fn gather<'a>(&self, shared: &'a Shared) -> MutexGuard<'a, State> {
        let mut state = shared.lock();
        if let Some(due) = self.retry {
            let left = due.saturating_duration_since(Instant::now());
            return shared.sleep(state, Asleep::Gathering, left, |state| state.requests.is_empty());
        }
        let longest = if self.more { GATHER_AT_LEISURE } else { FOR_EVER };
        state = shared.sleep(state, Asleep::Idle, longest, State::is_idle);
        state = shared.sleep(state, Asleep::AtLeisure, GATHER_AT_LEISURE, |state| !state.is_awaited());
        let (begun, before) = (Instant::now(), self.last);
        while state.requests.is_empty() && !state.closed && state.entered.batch().waiting() > 0 {
            let left = GATHER.saturating_sub(begun.elapsed());
            let many = state.entered.batch().waiting() >= MANY;
            if left.is_zero() || (many && before.elapsed() < GATHER) {
                break;
            }
            let entries = state.entries;
            let pause = if many { QUIET.min(left) } else { QUIET.max(left / 4).min(left) };
            state = shared.sleep(state, Asleep::Gathering, pause, |state| state.requests.is_empty());
            if many && state.entries == entries {
                break;
            }
        }
        state
    }

    fn commit(&mut self, batch: &Batch, troubled: bool) -> Result<u64, Fault> {
        if !batch.has_changes() && !troubled {
            return Ok(0);
        }
        self.begin_anew()?;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.open(batch)?,
        };
        let written = tables::write(&mut connection, batch).and_then(|rows| {
            if troubled {
                tables::probe(&connection)?;
            }
            Ok(rows)
        });
        let written = written.map_err(Fault::from);
        // On a full disk it may not be possible to open it again.
        if matches!(written, Ok(_) | Err(Fault::Full(_))) {
            self.connection = Some(connection);
        }
        written
    }

    /// A damaged file is not touched before the broker has asked for a new one.
    fn begin_anew(&mut self) -> Result<(), Fault> {
        let state = self.shared.lock();
        let (damaged, anew) = (state.damaged, state.anew);
        drop(state);
        if anew {
            self.connection = None;
            if self.path.try_exists()? {
                load::set_aside(&self.path)?;
            }
            load::create(&self.path, &[])?;
            self.connection = Some(upkeep::open(&self.path)?);
            (self.known, self.upkeep) = (true, Upkeep::default());
            self.shared.lock().anew = false;
        } else if damaged {
            return Err(Fault::Damaged("found while in use".to_owned()));
        }
        Ok(())
    }

    fn open(&mut self, batch: &Batch) -> Result<Connection, Fault> {
        self.upkeep = Upkeep::default();
        if self.known {
            return load::open_again(&self.path);
        }
        let mut opened = load::open(&self.path)?;
        self.known = true;
        let mut state = self.shared.lock();
        state.take_in(&mut opened);
        // What was changed meanwhile is newer.
        opened.found.rows.retain(|row| !batch.retained.contains_key(&row.topic) && !state.entered.changes(&row.topic));
        state.contents = Contents::Late(opened.found);
        Ok(opened.connection)
    }

    fn tell(&mut self, outcome: Result<(), Fault>, batch: Batch) {
        match outcome {
            Ok(()) => {
                batch.committed();
                self.shared.lock().trouble = None;
            }
            Err(fault) => {
                let mut state = self.shared.lock();
                state.figures.refused += state.entered.failed(batch);
                state.in_trouble(&fault);
            }
        }
    }

    /// After a commit; what fails here is trouble, though everything entered is durable.
    fn keep_up(&mut self, rows: u64, took: Duration) {
        let Some(connection) = self.connection.as_ref().filter(|_| self.retry.is_none()) else { return };
        match self.upkeep.after_commit(connection) {
            Ok(done) => {
                self.more = done.more;
                let mut state = self.shared.lock();
                let figures = &mut state.figures;
                figures.written_bytes += done.written_bytes;
                figures.commits += u64::from(done.written_bytes > 0);
                figures.rows += rows;
                figures.longest_commit = figures.longest_commit.max(took);
            }
            Err(fault) => {
                self.more = false;
                self.retry = Some(Instant::now() + RETRY);
                if !matches!(fault, Fault::Full(_)) {
                    self.connection = None;
                }
                let mut state = self.shared.lock();
                state.figures.refused += state.entered.refuse();
                state.in_trouble(&fault);
            }
        }
    }

    fn answer(&self, request: Request) {
        let Request { id, wanted } = request;
        let state = self.shared.lock();
        let pending = state.trouble.is_some().then(|| state.entered.batch().sessions.get(&id)).flatten().cloned();
        drop(state);
        let connection = self.connection.as_ref().ok_or_else(|| Fault::Unavailable("the file is not open".to_owned()));
        let pending = pending.as_ref();
        // Whoever asked may be gone.
        match wanted {
            Wanted::Page { from_ordinal, most_bytes, told } => {
                let read = connection.and_then(|file| page::read(file, id, from_ordinal, most_bytes, pending));
                let _ = told.send(read.map_err(|fault| self.not_read(&fault)));
            }
            Wanted::Ended { begun_below, is_over, told } => {
                let read = connection.and_then(|file| page::ended(file, (id, begun_below), &*is_over, pending));
                let _ = told.send(read.map_err(|fault| self.not_read(&fault)).unwrap_or_default());
            }
        }
    }

    fn not_read(&self, fault: &Fault) -> NotRead {
        if fault.is_damage() {
            self.shared.lock().in_trouble(fault);
        }
        NotRead(fault.to_string())
    }
}
