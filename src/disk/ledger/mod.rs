//! The ledger: everything the broker keeps across restarts, in one file (`broker.db`) written by one thread. Clients'
//! retained messages; sessions that outlive their connections, with their subscriptions; what each of them is owed; the
//! packet ids of QoS 2 messages that came in and are not yet released.
//!
//! Fed by the broker, which keeps in memory all but the owed messages. What it enters is gathered and committed in one
//! transaction: after 5 ms if somebody waits, at once if many do, within a second if nobody does.
//!
//! **Promises.** What lies on disk is everything that was entered up to some moment, and nothing that was entered
//! later. A [`Committed`] that says `Ok` is durable, or owed no more. A message that is settled before its commit never
//! touches the disk. Bodies lie on disk once, and as long as somebody is owed them. Session keys and ordinals are never
//! used again.
//!
//! **In trouble** (full disk, failing medium, a file that cannot be opened: [`Ledger::trouble`]) all who wait are told [`NotCommitted`]
//! at once. What was to be owed is refused and forgotten, so nothing grows: the broker must not acknowledge it, and takes it off its
//! sums ([`Ledger::given_up`]). Other changes are kept, folded to one per thing, and tried again every 5 s; pages are read if they can be.
//!
//! **Damaged** ([`Ledger::is_damaged`]) is what SQLite calls so twice and the medium gives each time. What it refuses is trouble,
//! or of a page a delay, and counts as damaged after ten minutes (`disk::patience`).
//!
//! `rows` what is kept · `pending` what is not on disk yet, and `batch` one transaction of it (both pure) · `tables` the format, and
//! writing it · `load` opening and reading at start, and `subscriptions` how many · `page` reading what is owed · `upkeep` what the
//! file needs · `writer` the thread, and `state` what it shares with all others.

mod batch;
mod load;
#[cfg(test)]
mod model;
mod page;
mod pending;
mod rows;
mod state;
mod subscriptions;
mod tables;
#[cfg(test)]
mod tests;
mod upkeep;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::model::lock::Hold as _;
use pending::{Publish, Retained};
pub use rows::{
    Committed, Ended, FILTER_COST, FILTERS_BYTES_MAX, Found, GivenUp, Kept, MessageRow, NotCommitted, OWED_IDS,
    OwedRow, Owing, Row, SensorRow, SessionId, SessionRow, Source, SubscriptionRow, WillRow,
};
use state::{Contents, Request, Shared, State, Wanted};
use writer::Writer;

/// Bytes of owed messages that may wait for one commit; what comes beyond is refused as on a disk in trouble.
const PENDING_MAX: usize = 32 * 1024 * 1024;

/// With so many waiting whoever can should wait before entering more ([`Ledger::is_behind`]): no client that reads its
/// acknowledgements is refused because the disk is slower than the network.
const BEHIND: usize = PENDING_MAX / 2;

/// What a session is owed cannot be read now; it is still owed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot be read: {0}")]
pub struct NotRead(String);

/// What the ledger has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerFigures {
    /// Commits that wrote something.
    pub commits: u64,
    /// Rows of owed messages written, one for each session.
    pub rows: u64,
    /// Messages that were to be owed and were refused, the disk being in trouble or too slow.
    pub refused: u64,
    /// Bytes handed to the disk, at most: log, and pages moved from it into the file.
    pub written_bytes: u64,
    /// How long the longest commit took.
    pub longest_commit: Duration,
}

/// The file and its thread. [`Ledger::close`] or dropping it commits what waits and ends the thread.
#[derive(Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Ledger {
    /// Opens the file, reads it and starts the thread. Blocks for as long as reading takes. A `retained.db` beside it is
    /// taken over. A file that cannot be opened is no error: it is reported by [`Ledger::trouble`] and tried again.
    pub fn open(path: &Path) -> std::io::Result<(Self, Found)> {
        let mut state = State::default();
        let (mut found, mut connection) = (Found::default(), None);
        // A new file has nothing to read: the thread makes it, and nobody waits for its first bytes to be durable.
        let is_new = load::is_new(path);
        if is_new {
            state.contents = Contents::Known;
        } else {
            match load::open(path) {
                Ok(mut opened) => {
                    state.take_in(&mut opened);
                    state.contents = Contents::Known;
                    (found, connection) = (opened.found, Some(opened.connection));
                }
                Err(fault) => {
                    state.trouble = Some(fault.to_string());
                    // Keys in the file are not known: far from all of them.
                    state.next_session = (1 << 40) + u64::from(rand::random::<u32>()) * (1 << 16);
                }
            }
        }
        let shared = Arc::new(Shared::new(state));
        let mut writer = Writer::new(&shared, path, connection);
        let work = move || {
            if is_new {
                writer.begin();
            }
            writer.run();
        };
        let thread = std::thread::Builder::new().name("ledger".to_owned()).spawn(work)?;
        Ok((Self { shared, thread: Mutex::new(Some(thread)) }, found))
    }

    /// What the file held, if it could not be read at start and now was: once. Sessions and retained messages that the
    /// broker knows by now are newer.
    pub fn found_late(&self) -> Option<Found> {
        let mut state = self.shared.lock();
        match std::mem::replace(&mut state.contents, Contents::Known) {
            Contents::Late(found) => Some(found),
            before => {
                state.contents = before;
                None
            }
        }
    }

    /// Is it known what the file held at start, and has the broker been told? Until then there may be sessions and retained
    /// messages that nobody knows of.
    pub fn is_known(&self) -> bool {
        matches!(self.shared.lock().contents, Contents::Known)
    }

    /// Why nothing can be committed at present, if so.
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble.clone()
    }

    /// Is the file damaged, or given up? Nothing is written until [`Ledger::begin_anew`]; a restart sets it aside as well.
    pub fn is_damaged(&self) -> bool {
        self.shared.lock().damaged
    }

    /// Sets the damaged file aside (`broker.db.damaged`) and begins a new, empty one. The broker must then enter what it has in
    /// memory: retained messages, sessions and their next ordinals, subscriptions, what sensors know, packet ids received. What
    /// was owed is lost. Whoever waits is told [`NotCommitted`]; keys are still not used again.
    pub fn begin_anew(&self) {
        let mut state = self.shared.lock();
        state.entered.refuse();
        state.entered = pending::Entered::default();
        (state.damaged, state.anew, state.contents) = (false, true, Contents::Known);
        self.shared.entered(state);
    }

    /// Does so much wait for the disk that nothing should be begun that would make it more: sessions, subscriptions, retained
    /// messages?
    pub fn is_crowded(&self) -> bool {
        self.shared.lock().is_crowded()
    }

    /// Does a change of this retained message wait for the disk?
    pub fn is_changing(&self, topic: &str) -> bool {
        self.shared.lock().entered.changes(topic)
    }

    /// Do so many owed messages wait for the disk that others should wait for [`Ledger::committed`] before they are entered?
    /// Never of a disk in trouble: there is nothing to wait for.
    pub fn is_behind(&self) -> bool {
        let state = self.shared.lock();
        state.trouble.is_none() && !state.closed && state.entered.batch().bytes >= BEHIND
    }

    /// What was done so far.
    pub fn figures(&self) -> LedgerFigures {
        self.shared.lock().figures
    }

    /// Commits what waits and ends the thread; what comes later is answered [`NotCommitted`]. Blocks for one commit.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.wake();
        if let Some(thread) = self.thread.hold().take() {
            drop(thread.join()); // a panic there has been reported by the panic hook
        }
    }

    /// Stores, replaces or, without a row, removes a retained message as soon as can be.
    pub fn change(&self, topic: Arc<str>, row: Option<Row>) -> Committed {
        self.awaited(|state, told| {
            state.supersede(&topic);
            state.entered.retained(topic, row);
            state.entered.wait(told);
        })
    }

    /// The same within a second, for what nobody waits for.
    pub fn change_at_leisure(&self, topic: Arc<str>, row: Option<Row>) {
        self.enter(|state| {
            state.supersede(&topic);
            state.entered.retained(topic, row);
        });
    }

    /// A key for a new session.
    pub fn new_session(&self) -> SessionId {
        let mut state = self.shared.lock();
        let id = SessionId(state.next_session.max(1));
        state.next_session = id.0 + 1;
        id
    }

    /// Adds a session, or changes it; before anything that belongs to it.
    pub fn session(&self, row: SessionRow) {
        self.enter(|state| state.entered.session(row));
    }

    /// All ordinals of a session so far are below this one: for a file that is begun anew.
    pub fn ordinals_below(&self, id: SessionId, next: u64) {
        self.enter(|state| state.entered.ordinals_below(id, next));
    }

    /// Removes a session and all that belongs to it. Its key is not used again.
    pub fn forget(&self, id: SessionId) {
        self.enter(|state| state.entered.forget(id));
    }

    /// Adds or replaces a subscription of a session or, without a row, removes it.
    pub fn subscription(&self, id: SessionId, filter: Arc<str>, row: Option<SubscriptionRow>) {
        self.enter(|state| state.entered.subscription(id, filter, row));
    }

    /// What a session keeps for its sensor is this from now on.
    pub fn sensor(&self, id: SessionId, row: SensorRow) {
        self.enter(|state| state.entered.sensor(id, row));
    }

    /// A message is owed to these sessions, each once, with an ordinal higher than all before it. `received`: it came
    /// with that packet id (QoS 2) from a session of its own. Told once it is durable, or at once when it is owed no
    /// more; that packet id is not kept then. [`NotCommitted`], at once or when it is told: it is not owed, and must not be
    /// acknowledged. At once: nothing was entered, the ordinals are free. When it is told: [`Ledger::given_up`].
    pub fn owe(
        &self,
        message: Arc<MessageRow>,
        to: &[(SessionId, Owing)],
        received: Option<(SessionId, u16)>,
    ) -> Result<Committed, NotCommitted> {
        self.publish(Publish { message, to, received, retained: Retained::Untouched })
    }

    /// The same for a message that is retained as well (`row`; `None`: it clears its topic): both are committed in one
    /// transaction. Told once that is done, even if it is owed no more. [`NotCommitted`] when it is told: it is not owed,
    /// but the retained change is tried again.
    pub fn owe_retained(
        &self,
        message: Arc<MessageRow>,
        to: &[(SessionId, Owing)],
        received: Option<(SessionId, u16)>,
        row: Option<Row>,
    ) -> Result<Committed, NotCommitted> {
        self.publish(Publish { message, to, received, retained: Retained::Changed(row) })
    }

    fn publish(&self, publish: Publish<'_>) -> Result<Committed, NotCommitted> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(NotCommitted);
        }
        if state.trouble.is_some() || state.entered.batch().bytes >= PENDING_MAX {
            state.figures.refused += 1;
            state.entered.not_owed(publish.received);
            return Err(NotCommitted);
        }
        if matches!(publish.retained, Retained::Changed(_)) {
            state.supersede(&publish.message.topic);
        }
        let (told, committed) = oneshot::channel();
        state.entered.owe(publish, told);
        self.shared.entered(state);
        Ok(committed)
    }

    /// What sessions were to be owed and, their commit having failed, are not: once each.
    pub fn given_up(&self) -> HashMap<SessionId, GivenUp> {
        self.shared.lock().entered.take_given_up()
    }

    /// The session is owed this no more (PUBACK, PUBCOMP, expired). Within a second. Was it owed until now? If not, it is
    /// part of what was [`Ledger::given_up`].
    pub fn settle(&self, id: SessionId, ordinal: u64) -> bool {
        let mut state = self.shared.lock();
        let was_owed = state.closed || state.entered.settle(id, ordinal);
        self.shared.entered(state);
        was_owed
    }

    /// PUBREC has come: only PUBREL is owed, which may be sent once this is told. If it is not committed it is tried
    /// again.
    pub fn release(&self, id: SessionId, ordinal: u64) -> Committed {
        self.awaited(|state, told| state.entered.release(id, ordinal, told))
    }

    /// PUBREL has come for a packet id of [`Ledger::owe`]: it may be used again, and PUBCOMP sent once this is told.
    pub fn finish(&self, id: SessionId, packet_id: u16) -> Committed {
        self.awaited(|state, told| state.entered.finish(id, packet_id, told))
    }

    /// What a session is owed from this ordinal on, oldest first: at least one row if there is one, then up to so many
    /// bytes. Everything entered before is seen. Empty: there is no more.
    pub fn page(
        &self,
        id: SessionId,
        from_ordinal: u64,
        most_bytes: usize,
    ) -> oneshot::Receiver<Result<Vec<OwedRow>, NotRead>> {
        let (told, read) = oneshot::channel();
        let mut state = self.shared.lock();
        if state.closed {
            let _ = told.send(Err(NotRead("it is closed".to_owned()))); // whoever asked may be gone
        } else {
            state.requests.push(Request { id, wanted: Wanted::Page { from_ordinal, most_bytes, told } });
        }
        self.shared.entered(state);
        read
    }

    /// Of what a session is owed that which has ended, oldest first, up to a bound; not at QoS 2 with an ordinal below
    /// `begun_below`. Everything entered before is seen. Never told if the ledger is closed; nothing, if it cannot be read.
    pub fn ended(
        &self,
        id: SessionId,
        begun_below: u64,
        is_over: impl Fn(i64) -> bool + Send + 'static,
    ) -> oneshot::Receiver<Vec<Ended>> {
        let (told, read) = oneshot::channel();
        let mut state = self.shared.lock();
        if !state.closed {
            let is_over = Box::new(is_over);
            state.requests.push(Request { id, wanted: Wanted::Ended { begun_below, is_over, told } });
        }
        self.shared.entered(state);
        read
    }

    /// A session's client uses this packet id for another message, without having released the one before.
    pub fn disown(&self, id: SessionId, packet_id: u16) {
        self.enter(|state| state.entered.disown(id, packet_id));
    }

    /// A message that was entered with this packet id is asked for once more, by a client that has not heard what became
    /// of it: told once it is durable, or owed no more. [`NotCommitted`]: it was refused, and is not owed.
    pub fn confirm(&self, id: SessionId, packet_id: u16) -> Committed {
        self.awaited(|state, told| state.entered.confirm(id, packet_id, told))
    }

    /// Told once everything entered so far is durable.
    pub fn committed(&self) -> Committed {
        self.awaited(|state, told| state.entered.wait(told))
    }

    fn enter(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.lock();
        if !state.closed {
            change(&mut state);
        }
        self.shared.entered(state);
    }

    fn awaited(&self, change: impl FnOnce(&mut State, oneshot::Sender<Result<(), NotCommitted>>)) -> Committed {
        let (told, committed) = oneshot::channel();
        let mut state = self.shared.lock();
        if state.closed {
            let _ = told.send(Err(NotCommitted)); // whoever asked may be gone
            return committed;
        }
        change(&mut state, told);
        if state.trouble.is_some() {
            // Nobody is kept waiting for a disk that is known not to work.
            state.entered.refuse_waiting();
        }
        self.shared.entered(state);
        committed
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close();
    }
}
