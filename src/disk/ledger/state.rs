//! What the ledger's thread and those who enter and ask share, under one lock; and how the thread is woken.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::pending::Entered;
use super::rows::{Ended, Found, OwedRow, SessionId};
use super::{LedgerFigures, NotRead, load};
use crate::disk::fault::Fault;
use crate::model::lock::Hold as _;

/// Bytes of changes that are committed without delay, though nobody waits.
const HEAVY: usize = 8 * 1024 * 1024;

/// Bytes of all changes but owed messages that may wait for one commit. On a disk in trouble they are kept until it works
/// again, and clients can name ever new topics, filters and sessions.
const LOOSE_MAX: usize = if cfg!(test) { 1024 * 1024 } else { 64 * 1024 * 1024 };

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
    /// Bytes of what is being written, but for owed messages: on a disk in trouble they come back.
    pub under_way: usize,
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
    pub entries: u64,
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
pub(super) enum Asleep {
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
    pub(super) fn is_idle(&self) -> bool {
        self.entered.batch().is_empty() && self.requests.is_empty()
    }

    pub(super) fn is_awaited(&self) -> bool {
        let batch = self.entered.batch();
        batch.waiting() > 0 || batch.loose_bytes > HEAVY || !self.requests.is_empty()
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.entered.batch().loose_bytes + self.under_way >= LOOSE_MAX
    }

    pub(super) fn in_trouble(&mut self, fault: &Fault) {
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
        self.state.hold()
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
    pub(super) fn sleep<'a>(
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
