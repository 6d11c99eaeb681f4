//! What has been entered and is not yet on disk. Pure, but for the channels on which outcomes are told.
//!
//! All that was entered goes into one transaction, so that what lies on disk is always what was entered up to some
//! moment; therefore changes of one thing may be folded into one. A message that is owed no more leaves no trace here,
//! and whoever waits for it is told at once.
//!
//! After a transaction that failed (its outcome is unknown: a COMMIT that returned an error may be on disk) nobody is
//! left waiting, and debts are not kept in memory: they were refused, and are struck out on disk should they be there.
//! Everything else is tried again, folded with what came since.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::rows::{MessageRow, Owing, SessionId, SessionRow, SubscriptionRow};
use crate::disk::retained::{NotCommitted, Row};

/// How far ahead of its ordinals a session's mark on disk is set: it is written once in so many messages.
const MARK_AHEAD: u64 = 1 << 20;
/// The least distance between mark and ordinals.
const MARK_AHEAD_LEAST: u64 = 1024;
/// What a row costs in memory beside its content, bytes.
const ROW_COST: usize = 200;

pub(super) type Told = oneshot::Sender<Result<(), NotCommitted>>;

/// What one transaction holds.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// By topic; `None`: remove.
    pub retained: HashMap<Arc<str>, Option<Row>>,
    pub sessions: HashMap<SessionId, Changes>,
    /// Messages that somebody is owed, oldest first.
    pub debts: BTreeMap<u64, Debt>,
    waiters: Vec<Told>,
    /// Bytes in memory that debts take.
    pub bytes: usize,
}

/// Changes of one session.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    /// Before all else: remove it with all that belongs to it.
    pub forget: bool,
    pub row: Option<SessionRow>,
    /// All its ordinals are below this.
    pub mark: Option<u64>,
    /// `None`: remove.
    pub subscriptions: HashMap<Arc<str>, Option<SubscriptionRow>>,
    /// `false`: remove.
    pub received: HashMap<u16, bool>,
    /// By ordinal: the debt, and what this session makes of it.
    pub owed: BTreeMap<u64, (u64, Owing)>,
    /// Rows on disk that are owed no more.
    pub settled: BTreeSet<u64>,
    /// Rows on disk of which only PUBREL is owed.
    pub released: BTreeSet<u64>,
}

/// One message that is owed.
#[derive(Debug)]
pub(super) struct Debt {
    pub message: Arc<MessageRow>,
    /// To how many.
    pub rows: usize,
    received: Option<Received>,
    /// Its retained change has to be committed, whoever is owed it.
    retained: bool,
    told: Option<Told>,
}

/// The packet id it came with, and what was to be done about that id before.
#[derive(Debug)]
struct Received {
    from: SessionId,
    packet_id: u16,
    before: Option<bool>,
}

/// A message on its way in.
pub(super) struct Publish<'to> {
    pub message: Arc<MessageRow>,
    pub to: &'to [(SessionId, Owing)],
    /// It came with this packet id from a session of its own.
    pub received: Option<(SessionId, u16)>,
    pub retained: Retained,
}

/// What a message does to its topic.
pub(super) enum Retained {
    Untouched,
    /// `None`: cleared.
    Changed(Option<Row>),
}

/// Everything entered.
#[derive(Debug, Default)]
pub(super) struct Entered {
    batch: Batch,
    next_debt: u64,
    /// Of each session, as entered: its mark, and packet ids received.
    known: HashMap<SessionId, Known>,
}

#[derive(Debug, Default)]
struct Known {
    mark: u64,
    received: HashSet<u16>,
    /// Packet ids that came with a message which was refused, until they are used again.
    refused: HashSet<u16>,
}

impl Batch {
    /// Nothing to write and nobody to tell?
    pub(super) fn is_empty(&self) -> bool {
        !self.has_changes() && self.waiters.is_empty()
    }

    /// Something to write?
    pub(super) fn has_changes(&self) -> bool {
        !(self.retained.is_empty() && self.sessions.is_empty() && self.debts.is_empty())
    }

    /// How many wait for it?
    pub(super) fn waiting(&self) -> usize {
        self.waiters.len() + self.debts.len()
    }

    /// It is on disk.
    pub(super) fn committed(self) {
        for told in self.debts.into_values().filter_map(|debt| debt.told).chain(self.waiters) {
            let _ = told.send(Ok(())); // whoever waited may be gone
        }
    }

    fn changes(&mut self, id: SessionId) -> &mut Changes {
        self.sessions.entry(id).or_default()
    }

    /// One session fewer is owed a debt. With the last one the debt goes, and is given back.
    fn strike(&mut self, number: u64, owing: &Owing) -> Option<Debt> {
        let debt = self.debts.get_mut(&number)?;
        debt.rows = debt.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(cost_of(owing));
        if debt.rows > 0 || debt.retained {
            return None;
        }
        self.bytes = self.bytes.saturating_sub(debt.message.bytes());
        self.debts.remove(&number)
    }

    /// The packet id of a message that does not come to the disk.
    fn not_received(&mut self, received: &Received) {
        let Received { from, packet_id, before } = *received;
        let changes = self.changes(from);
        match before {
            Some(before) => changes.received.insert(packet_id, before),
            None => changes.received.remove(&packet_id),
        };
        self.tidy(from);
    }

    /// A session without changes leaves nothing behind.
    fn tidy(&mut self, id: SessionId) {
        if self.sessions.get(&id).is_some_and(Changes::is_empty) {
            self.sessions.remove(&id);
        }
    }
}

/// What a row takes in memory, bytes.
fn cost_of(owing: &Owing) -> usize {
    ROW_COST + size_of_val(owing.identifiers.as_slice())
}

impl Changes {
    fn is_empty(&self) -> bool {
        let Self { forget, row, mark, subscriptions, received, owed, settled, released } = self;
        !forget
            && row.is_none()
            && mark.is_none()
            && subscriptions.is_empty()
            && received.is_empty()
            && owed.is_empty()
            && settled.is_empty()
            && released.is_empty()
    }

    /// What was entered before these and is not known to be on disk; its debts were refused.
    fn follow(&mut self, earlier: Self) {
        if self.forget {
            return;
        }
        self.forget = earlier.forget;
        self.row = self.row.take().or(earlier.row);
        self.mark = self.mark.max(earlier.mark);
        for (filter, row) in earlier.subscriptions {
            self.subscriptions.entry(filter).or_insert(row);
        }
        for (packet_id, _) in earlier.received {
            self.received.entry(packet_id).or_insert(false);
        }
        self.settled.extend(earlier.settled);
        self.settled.extend(earlier.owed.into_keys());
        self.released.extend(earlier.released);
        self.released.retain(|ordinal| !self.settled.contains(ordinal));
    }
}

impl Entered {
    /// What a session that was found on disk has there.
    pub(super) fn found(&mut self, id: SessionId, mark: u64, received: &[u16]) {
        self.known.insert(id, Known { mark, received: received.iter().copied().collect(), refused: HashSet::new() });
    }

    pub(super) fn batch(&self) -> &Batch {
        &self.batch
    }

    /// For one transaction.
    pub(super) fn take(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    /// The transaction failed: see the head of this file.
    pub(super) fn failed(&mut self, mut batch: Batch) {
        self.refuse();
        for debt in std::mem::take(&mut batch.debts).into_values() {
            self.end(debt, Err(NotCommitted));
        }
        for told in std::mem::take(&mut batch.waiters) {
            let _ = told.send(Err(NotCommitted)); // whoever waited may be gone
        }
        for (topic, row) in batch.retained {
            self.batch.retained.entry(topic).or_insert(row);
        }
        for (id, earlier) in batch.sessions {
            self.batch.changes(id).follow(earlier);
            self.batch.tidy(id);
        }
    }

    /// Whoever waits is told that it is not committed; debts are given up.
    pub(super) fn refuse(&mut self) {
        for debt in std::mem::take(&mut self.batch.debts).into_values() {
            if let Some(received) = &debt.received {
                self.batch.not_received(received);
            }
            self.end(debt, Err(NotCommitted));
        }
        self.batch.bytes = 0;
        self.batch.sessions.retain(|_, changes| {
            changes.owed.clear();
            !changes.is_empty()
        });
        self.refuse_waiting();
    }

    /// Whoever waits, but not for a debt, is told that it is not committed.
    pub(super) fn refuse_waiting(&mut self) {
        for told in std::mem::take(&mut self.batch.waiters) {
            let _ = told.send(Err(NotCommitted)); // whoever waited may be gone
        }
    }

    /// A debt that does not come to the disk.
    fn end(&mut self, debt: Debt, outcome: Result<(), NotCommitted>) {
        if let Some(told) = debt.told {
            let _ = told.send(outcome); // whoever waited may be gone
        }
        if let Some(received) = debt.received
            && let Some(known) = self.known.get_mut(&received.from)
        {
            known.received.remove(&received.packet_id);
            if outcome.is_err() {
                known.refused.insert(received.packet_id);
            }
        }
    }

    /// The session is owed this no more.
    fn strike(&mut self, number: u64, owing: &Owing) {
        if let Some(debt) = self.batch.strike(number, owing) {
            if let Some(received) = &debt.received {
                self.batch.not_received(received);
            }
            self.end(debt, Ok(()));
        }
    }

    pub(super) fn wait(&mut self, told: Told) {
        self.batch.waiters.push(told);
    }

    /// For a message that was entered before with this packet id: was it refused?
    pub(super) fn confirm(&mut self, id: SessionId, packet_id: u16, told: Told) {
        if self.known.get_mut(&id).is_some_and(|known| known.refused.remove(&packet_id)) {
            let _ = told.send(Err(NotCommitted)); // whoever asked may be gone
        } else {
            self.wait(told);
        }
    }

    pub(super) fn retained(&mut self, topic: Arc<str>, row: Option<Row>) {
        self.batch.retained.insert(topic, row);
    }

    pub(super) fn session(&mut self, row: SessionRow) {
        let id = row.id;
        self.known.entry(id).or_default();
        self.batch.changes(id).row = Some(row);
    }

    pub(super) fn forget(&mut self, id: SessionId) {
        self.known.remove(&id);
        let gone = std::mem::take(self.batch.changes(id));
        for (number, owing) in gone.owed.into_values() {
            self.strike(number, &owing);
        }
        *self.batch.changes(id) = Changes { forget: true, ..Changes::default() };
    }

    pub(super) fn subscription(&mut self, id: SessionId, filter: Arc<str>, row: Option<SubscriptionRow>) {
        self.batch.changes(id).subscriptions.insert(filter, row);
    }

    pub(super) fn owe(&mut self, publish: Publish<'_>, told: Told) {
        let Publish { message, to, received, retained } = publish;
        let retained = self.retain(&message.topic, retained);
        if to.is_empty() && !retained {
            let _ = told.send(Ok(())); // whoever asked may be gone
            return;
        }
        let number = self.next_debt;
        self.next_debt += 1;
        for (id, owing) in to {
            let known = self.known.entry(*id).or_default();
            let changes = self.batch.sessions.entry(*id).or_default();
            if owing.ordinal.saturating_add(MARK_AHEAD_LEAST) > known.mark {
                known.mark = owing.ordinal.saturating_add(MARK_AHEAD);
                changes.mark = Some(known.mark);
            }
            changes.owed.insert(owing.ordinal, (number, owing.clone()));
        }
        let received = received.map(|(from, packet_id)| {
            let known = self.known.entry(from).or_default();
            known.received.insert(packet_id);
            known.refused.remove(&packet_id);
            let before = self.batch.changes(from).received.insert(packet_id, true);
            Received { from, packet_id, before }
        });
        self.batch.bytes += message.bytes() + to.iter().map(|(_, owing)| cost_of(owing)).sum::<usize>();
        let debt = Debt { message, rows: to.len(), received, retained, told: Some(told) };
        self.batch.debts.insert(number, debt);
    }

    /// For a message that is not to be owed: its topic is changed all the same.
    pub(super) fn not_owed(&mut self, publish: Publish<'_>, told: Told) {
        if let Some((from, packet_id)) = publish.received {
            self.known.entry(from).or_default().refused.insert(packet_id);
        }
        self.retain(&publish.message.topic, publish.retained);
        let _ = told.send(Err(NotCommitted)); // whoever asked may be gone
    }

    fn retain(&mut self, topic: &Arc<str>, retained: Retained) -> bool {
        match retained {
            Retained::Untouched => false,
            Retained::Changed(row) => {
                self.retained(Arc::clone(topic), row);
                true
            }
        }
    }

    pub(super) fn settle(&mut self, id: SessionId, ordinal: u64) {
        let changes = self.batch.changes(id);
        if let Some((number, owing)) = changes.owed.remove(&ordinal) {
            self.batch.tidy(id);
            self.strike(number, &owing);
        } else {
            changes.released.remove(&ordinal);
            changes.settled.insert(ordinal);
        }
    }

    pub(super) fn release(&mut self, id: SessionId, ordinal: u64, told: Told) {
        let changes = self.batch.changes(id);
        if !changes.settled.contains(&ordinal) {
            changes.released.insert(ordinal);
        }
        self.wait(told);
    }

    pub(super) fn finish(&mut self, id: SessionId, packet_id: u16, told: Told) {
        if self.known.get_mut(&id).is_some_and(|known| known.received.remove(&packet_id)) {
            self.batch.changes(id).received.insert(packet_id, false);
        }
        // Whoever asks once more, its connection having broken, must wait as well: that removal may not be on disk yet.
        self.wait(told);
    }
}
