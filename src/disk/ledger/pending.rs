//! What has been entered and is not yet on disk. Pure, but for the channels on which outcomes are told.
//!
//! All that was entered goes into one transaction, so that what lies on disk is always what was entered up to some
//! moment; therefore changes of one thing may be folded into one. A message that is owed no more leaves no trace here,
//! and whoever waits for it is told at once.
//!
//! After a transaction that failed (its outcome is unknown: a COMMIT that returned an error may be on disk) nobody is
//! left waiting, and debts are not kept in memory: they were refused, and are struck out on disk should they be there.
//! Everything else is tried again, folded with what came since.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::batch::{Batch, Changes, Debt, Received, Waiter, cost_of};
use super::rows::{GivenUp, MessageRow, NotCommitted, Owing, Row, SensorRow, SessionId, SessionRow, SubscriptionRow};

/// How far ahead of its ordinals a session's mark on disk is set: it is written once in so many messages.
const MARK_AHEAD: u64 = 1 << 20;
/// The least distance between mark and ordinals.
const MARK_AHEAD_LEAST: u64 = 1024;
/// Failures of which it is remembered what they made of a session's rows: older ones have left nothing on its connection.
const FAILURES: usize = 16;

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
    /// What sessions were to be owed and are not: to be told to whoever keeps their sums.
    given_up: HashMap<SessionId, GivenUp>,
}

#[derive(Debug, Default)]
struct Known {
    mark: u64,
    received: HashSet<u16>,
    /// Ordinals that were given up: what was not settled of them by then never has to be.
    given_up: VecDeque<RangeInclusive<u64>>,
    /// Packet ids that came with a message which was refused, until they are used again.
    refused: HashSet<u16>,
}

impl Entered {
    /// What a session that was found on disk has there.
    pub(super) fn found(&mut self, id: SessionId, mark: u64, received: &[u16]) {
        let received = received.iter().copied().collect();
        self.known.insert(id, Known { mark, received, ..Known::default() });
    }

    pub(super) fn batch(&self) -> &Batch {
        &self.batch
    }

    /// For one transaction.
    pub(super) fn take(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    /// What was given up since the last time.
    pub(super) fn take_given_up(&mut self) -> HashMap<SessionId, GivenUp> {
        std::mem::take(&mut self.given_up)
    }

    /// The transaction failed: see the head of this file. Says how many messages were refused.
    pub(super) fn failed(&mut self, mut batch: Batch) -> u64 {
        self.give_up(&batch);
        let refused = self.refuse() + batch.debts.len() as u64;
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
        self.batch.weigh();
        refused
    }

    /// Notes what sessions will not be owed, but for what was settled while it was under way.
    fn give_up(&mut self, batch: &Batch) {
        for (id, changes) in &batch.sessions {
            let (Some(known), Some((first, _)), Some((last, _))) =
                (self.known.get_mut(id), changes.owed.first_key_value(), changes.owed.last_key_value())
            else {
                continue;
            };
            if known.given_up.len() == FAILURES {
                known.given_up.pop_front();
            }
            known.given_up.push_back(*first..=*last);
            let settled = self.batch.sessions.get(id).map(|since| &since.settled);
            let given_up = self.given_up.entry(*id).or_default();
            for (ordinal, (number, owing)) in &changes.owed {
                if let Some(debt) = batch.debts.get(number)
                    && !settled.is_some_and(|settled| settled.contains(ordinal))
                {
                    given_up.rows += 1;
                    given_up.bytes += debt.message.bytes_with(&owing.identifiers) as u64;
                }
            }
        }
    }

    /// Whoever waits is told that it is not committed; debts are given up. Says how many.
    pub(super) fn refuse(&mut self) -> u64 {
        let batch = std::mem::take(&mut self.batch);
        self.give_up(&batch);
        self.batch = batch;
        let refused = self.batch.debts.len() as u64;
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
        refused
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

    pub(super) fn wait(&mut self, told: Waiter) {
        self.batch.waiters.push(told);
    }

    /// For a message that was entered before with this packet id: was it refused?
    pub(super) fn confirm(&mut self, id: SessionId, packet_id: u16, told: Waiter) {
        if self.known.get_mut(&id).is_some_and(|known| known.refused.remove(&packet_id)) {
            let _ = told.send(Err(NotCommitted)); // whoever asked may be gone
        } else {
            self.wait(told);
        }
    }

    /// Is a retained message of this topic being changed?
    pub(super) fn changes(&self, topic: &str) -> bool {
        self.batch.retained.contains_key(topic)
    }

    pub(super) fn retained(&mut self, topic: Arc<str>, row: Option<Row>) {
        self.batch.change(topic, row);
    }

    pub(super) fn session(&mut self, row: SessionRow) {
        let id = row.id;
        let new = !self.known.contains_key(&id);
        self.known.entry(id).or_default();
        let changes = self.batch.changes(id);
        changes.new |= new;
        changes.row = Some(row);
    }

    /// The next one to be entered raises its mark further.
    pub(super) fn ordinals_below(&mut self, id: SessionId, next: u64) {
        let known = self.known.entry(id).or_default();
        if next > known.mark {
            known.mark = next;
            self.batch.changes(id).mark = Some(next);
        }
    }

    pub(super) fn forget(&mut self, id: SessionId) {
        self.known.remove(&id);
        self.given_up.remove(&id);
        let gone = std::mem::take(self.batch.changes(id));
        for (number, owing) in gone.owed.into_values() {
            self.strike(number, &owing);
        }
        if gone.new {
            self.batch.sessions.remove(&id);
        } else {
            *self.batch.changes(id) = Changes { forget: true, ..Changes::default() };
        }
    }

    pub(super) fn subscription(&mut self, id: SessionId, filter: Arc<str>, row: Option<SubscriptionRow>) {
        self.batch.subscription(id, filter, row);
    }

    pub(super) fn sensor(&mut self, id: SessionId, row: SensorRow) {
        self.batch.sensor(id, row);
    }

    pub(super) fn owe(&mut self, publish: Publish<'_>, told: Waiter) {
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
            let changes = self.batch.changes(*id);
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

    /// A message that came with this packet id is not to be owed.
    pub(super) fn not_owed(&mut self, received: Option<(SessionId, u16)>) {
        if let Some((from, packet_id)) = received {
            self.known.entry(from).or_default().refused.insert(packet_id);
        }
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

    /// Was it owed until now? If not, it has been given up before.
    pub(super) fn settle(&mut self, id: SessionId, ordinal: u64) -> bool {
        let changes = self.batch.changes(id);
        if let Some((number, owing)) = changes.owed.remove(&ordinal) {
            self.batch.tidy(id);
            self.strike(number, &owing);
        } else {
            changes.released.remove(&ordinal);
            changes.settled.insert(ordinal);
        }
        let given_up = |known: &Known| known.given_up.iter().any(|ordinals| ordinals.contains(&ordinal));
        !self.known.get(&id).is_some_and(given_up)
    }

    pub(super) fn release(&mut self, id: SessionId, ordinal: u64, told: Waiter) {
        let changes = self.batch.changes(id);
        if !changes.settled.contains(&ordinal) {
            changes.released.insert(ordinal);
        }
        self.wait(told);
    }

    /// What came with this packet id has lost it, be it on disk or not.
    pub(super) fn disown(&mut self, id: SessionId, packet_id: u16) {
        let Some(known) = self.known.get_mut(&id) else { return };
        known.refused.remove(&packet_id);
        if known.received.remove(&packet_id) {
            self.batch.changes(id).received.insert(packet_id, false);
            for debt in self.batch.debts.values_mut() {
                debt.received.take_if(|received| received.from == id && received.packet_id == packet_id);
            }
        }
    }

    pub(super) fn finish(&mut self, id: SessionId, packet_id: u16, told: Waiter) {
        if self.known.get_mut(&id).is_some_and(|known| known.received.remove(&packet_id)) {
            self.batch.changes(id).received.insert(packet_id, false);
        }
        // Whoever asks once more, its connection having broken, must wait as well: that removal may not be on disk yet.
        self.wait(told);
    }
}
