//! The ledger's thread: gathers what was entered, commits it, tells those who wait, reads pages.

use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::batch::Batch;
use super::state::{Asleep, Contents, Request, Shared, State, Wanted};
use super::upkeep::{self, Upkeep};
use super::{NotRead, load, page, tables};
use crate::disk::fault::Fault;
use crate::disk::image;
use crate::disk::patience::Patience;

/// How long a commit waits for company while somebody waits for it.
const GATHER: Duration = Duration::from_millis(5);

/// And while nobody does: flash wears out with every commit.
const GATHER_AT_LEISURE: Duration = Duration::from_secs(1);

/// With so many waiting it does not wait for more than this to pass without anything new: whoever publishes with a window
/// has filled it, and goes on when the commit is done.
const MANY: usize = 16;
const QUIET: Duration = Duration::from_micros(200);

/// Pause after a failed commit or a file that could not be opened.
const RETRY: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(5) };

/// Condition variables cannot wait for `Duration::MAX`.
const FOR_EVER: Duration = Duration::from_secs(86_400);

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
    patience: Patience,
}

impl Writer {
    /// Without a connection the file could not be opened.
    pub(super) fn new(shared: &Arc<Shared>, path: &Path, connection: Option<Connection>) -> Self {
        let known = connection.is_some();
        let (shared, path, last) = (Arc::clone(shared), path.to_owned(), Instant::now());
        let (upkeep, patience) = (Upkeep::default(), Patience::default());
        Self { shared, path, connection, known, last, retry: None, upkeep, more: false, patience }
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
                state.under_way = batch.loose_bytes;
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
        let path = self.path.clone();
        let written = image::surely(&path, || {
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
        });
        self.given_up(written)
    }

    /// What the medium has refused for long counts as damage.
    fn given_up<T>(&mut self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        match outcome {
            Err(Fault::Refused(text)) if self.patience.refused(Instant::now()) => Err(Fault::Damaged(text)),
            outcome => outcome,
        }
    }

    /// Does something with the open file, which a fault of another kind than a full disk may have closed.
    fn with<T>(&mut self, mut work: impl FnMut(&Connection, &mut Upkeep) -> Result<T, Fault>) -> Result<T, Fault> {
        let path = self.path.clone();
        let done = image::surely(&path, || {
            let connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.open_again()?,
            };
            let done = work(&connection, &mut self.upkeep);
            if !done.as_ref().is_err_and(|fault| fault.is_damage() || matches!(fault, Fault::Refused(_))) {
                self.connection = Some(connection);
            }
            done
        });
        self.given_up(done)
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
            (self.known, self.upkeep, self.patience) = (true, Upkeep::default(), Patience::default());
            self.shared.lock().anew = false;
        } else if damaged {
            return Err(Fault::Damaged("found while in use".to_owned()));
        }
        Ok(())
    }

    fn open(&mut self, batch: &Batch) -> Result<Connection, Fault> {
        if self.known {
            return self.open_again();
        }
        self.upkeep = Upkeep::default();
        let mut opened = load::open(&self.path)?;
        self.known = true;
        let mut state = self.shared.lock();
        state.take_in(&mut opened);
        // What was changed meanwhile is newer.
        opened.found.rows.retain(|row| !batch.retained.contains_key(&row.topic) && !state.entered.changes(&row.topic));
        state.contents = Contents::Late(opened.found);
        Ok(opened.connection)
    }

    fn open_again(&mut self) -> Result<Connection, Fault> {
        self.upkeep = Upkeep::default();
        load::open_again(&self.path)
    }

    fn tell(&mut self, outcome: Result<(), Fault>, batch: Batch) {
        match outcome {
            Ok(()) => {
                batch.committed();
                let mut state = self.shared.lock();
                (state.trouble, state.under_way) = (None, 0);
            }
            Err(fault) => {
                let mut state = self.shared.lock();
                state.figures.refused += state.entered.failed(batch);
                state.under_way = 0;
                state.in_trouble(&fault);
            }
        }
    }

    /// After a commit; what fails here is trouble, though everything entered is durable.
    fn keep_up(&mut self, rows: u64, took: Duration) {
        if self.connection.is_none() || self.retry.is_some() {
            return;
        }
        match self.with(|connection, upkeep| upkeep.after_commit(connection)) {
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

    fn answer(&mut self, request: Request) {
        let Request { id, wanted } = request;
        let state = self.shared.lock();
        let pending = state.trouble.is_some().then(|| state.entered.batch().sessions.get(&id)).flatten().cloned();
        drop(state);
        let pending = pending.as_ref();
        // Whoever asked may be gone.
        match wanted {
            Wanted::Page { from_ordinal, most_bytes, told } => {
                let _ = told.send(self.read(|file| page::read(file, id, from_ordinal, most_bytes, pending)));
            }
            Wanted::Ended { begun_below, is_over, told } => {
                let read = self.read(|file| page::ended(file, (id, begun_below), &*is_over, pending));
                let _ = told.send(read.unwrap_or_default());
            }
        }
    }

    /// What cannot be read is no trouble for what is to be written, unless the file is damaged.
    fn read<T>(&mut self, look: impl Fn(&Connection) -> Result<T, Fault>) -> Result<T, NotRead> {
        let in_trouble = self.shared.lock().trouble.is_some();
        let read = match &self.connection {
            None if in_trouble || !self.known => Err(Fault::Unavailable("the file is not open".to_owned())),
            // Nobody else is to wait while a file is read to its end each time that somebody asks for the same bad sector.
            Some(file) if self.patience.was_refused_within(RETRY, Instant::now()) => {
                look(file).map_err(|fault| Fault::Unavailable(fault.to_string()))
            }
            _ => self.with(|file, _| look(file)),
        };
        read.map_err(|fault| {
            if fault.is_damage() {
                self.shared.lock().in_trouble(&fault);
            }
            NotRead(fault.to_string())
        })
    }
}
