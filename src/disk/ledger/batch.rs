//! What one transaction holds: changes of one thing folded into one, and those who wait for it. Pure.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::rows::{MessageRow, NotCommitted, Owing, Row, SensorRow, SessionId, SessionRow, SubscriptionRow};

/// What a row costs in memory beside its content, bytes.
const ROW_COST: usize = 200;
/// What the changes of a session cost in memory, bytes.
const SESSION_COST: usize = 1000;

pub(super) type Waiter = oneshot::Sender<Result<(), NotCommitted>>;

/// What one transaction holds.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// By topic; `None`: remove.
    pub retained: HashMap<Arc<str>, Option<Row>>,
    pub sessions: HashMap<SessionId, Changes>,
    /// Messages that somebody is owed, oldest first.
    pub debts: BTreeMap<u64, Debt>,
    pub waiters: Vec<Waiter>,
    /// Bytes in memory that debts take.
    pub bytes: usize,
    /// Bytes in memory that all else takes, at most.
    pub loose_bytes: usize,
}

/// Changes of one session.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    /// It was begun in this batch: there is nothing of it on disk.
    pub new: bool,
    /// Before all else: remove it with all that belongs to it.
    pub forget: bool,
    pub row: Option<SessionRow>,
    /// All its ordinals are below this.
    pub mark: Option<u64>,
    /// `None`: remove.
    pub subscriptions: HashMap<Arc<str>, Option<SubscriptionRow>>,
    pub sensor: Option<SensorRow>,
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
    pub received: Option<Received>,
    /// Its retained change has to be committed, whoever is owed it.
    pub retained: bool,
    pub told: Option<Waiter>,
}

/// The packet id it came with, and what was to be done about that id before.
#[derive(Debug)]
pub(super) struct Received {
    pub from: SessionId,
    pub packet_id: u16,
    pub before: Option<bool>,
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

    pub(super) fn changes(&mut self, id: SessionId) -> &mut Changes {
        self.sessions.entry(id).or_insert_with(|| {
            self.loose_bytes += SESSION_COST;
            Changes::default()
        })
    }

    /// Keeps, replaces or, without a row, removes a retained message.
    pub(super) fn change(&mut self, topic: Arc<str>, row: Option<Row>) {
        self.loose_bytes += cost_of_retained(&topic, row.as_ref());
        match self.retained.entry(topic) {
            Entry::Occupied(mut place) => {
                let before = place.insert(row);
                self.loose_bytes = self.loose_bytes.saturating_sub(cost_of_retained(place.key(), before.as_ref()));
            }
            Entry::Vacant(place) => {
                place.insert(row);
            }
        }
    }

    /// Adds, replaces or, without a row, removes a subscription.
    pub(super) fn subscription(&mut self, id: SessionId, filter: Arc<str>, row: Option<SubscriptionRow>) {
        let cost = ROW_COST + filter.len();
        if self.changes(id).subscriptions.insert(filter, row).is_none() {
            self.loose_bytes += cost;
        }
    }

    /// Keeps or replaces what a session has of its sensor.
    pub(super) fn sensor(&mut self, id: SessionId, row: SensorRow) {
        let cost = cost_of_sensor(&row);
        let before = self.changes(id).sensor.replace(row);
        self.loose_bytes = (self.loose_bytes + cost).saturating_sub(before.as_ref().map_or(0, cost_of_sensor));
    }

    /// Counts anew what all but debts takes: what went away is not taken off while it gathers.
    pub(super) fn weigh(&mut self) {
        let retained = self.retained.iter().map(|(topic, row)| cost_of_retained(topic, row.as_ref()));
        let sessions = self.sessions.values().map(|changes| {
            let filters = changes.subscriptions.keys().map(|filter| ROW_COST + filter.len());
            SESSION_COST + filters.sum::<usize>() + changes.sensor.as_ref().map_or(0, cost_of_sensor)
        });
        self.loose_bytes = retained.sum::<usize>() + sessions.sum::<usize>();
    }

    /// One session fewer is owed a debt. With the last one the debt goes, and is given back.
    pub(super) fn strike(&mut self, number: u64, owing: &Owing) -> Option<Debt> {
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
    pub(super) fn not_received(&mut self, received: &Received) {
        let Received { from, packet_id, before } = *received;
        let changes = self.changes(from);
        match before {
            Some(before) => changes.received.insert(packet_id, before),
            None => changes.received.remove(&packet_id),
        };
        self.tidy(from);
    }

    /// A session without changes leaves nothing behind.
    pub(super) fn tidy(&mut self, id: SessionId) {
        if self.sessions.get(&id).is_some_and(Changes::is_empty) {
            self.sessions.remove(&id);
        }
    }
}

/// What a retained change takes in memory, bytes.
pub(super) fn cost_of_retained(topic: &str, row: Option<&Row>) -> usize {
    let source = |row: &Row| row.source.as_ref().map_or(0, |source| source.owner.len() + source.client.len());
    ROW_COST + topic.len() + row.map_or(0, |row| row.payload.len() + row.properties.len() + source(row))
}

/// What is kept of a sensor takes in memory, bytes.
fn cost_of_sensor(row: &SensorRow) -> usize {
    let will = row.will.as_ref().map_or(0, |will| will.topic.len() + will.payload.len());
    ROW_COST + will + size_of_val(row.known.as_slice())
}

/// What a row takes in memory, bytes.
pub(super) fn cost_of(owing: &Owing) -> usize {
    ROW_COST + size_of_val(owing.identifiers.as_slice())
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        let Self { new: _, forget, row, mark, subscriptions, sensor, received, owed, settled, released } = self;
        !forget
            && row.is_none()
            && mark.is_none()
            && subscriptions.is_empty()
            && sensor.is_none()
            && received.is_empty()
            && owed.is_empty()
            && settled.is_empty()
            && released.is_empty()
    }

    /// What was entered before these and is not known to be on disk; its debts were refused.
    pub(super) fn follow(&mut self, earlier: Self) {
        if self.forget {
            return;
        }
        self.forget = earlier.forget;
        self.row = self.row.take().or(earlier.row);
        self.mark = self.mark.max(earlier.mark);
        for (filter, row) in earlier.subscriptions {
            self.subscriptions.entry(filter).or_insert(row);
        }
        self.sensor = self.sensor.take().or(earlier.sensor);
        for (packet_id, _) in earlier.received {
            self.received.entry(packet_id).or_insert(false);
        }
        self.settled.extend(earlier.settled);
        self.settled.extend(earlier.owed.into_keys());
        self.released.extend(earlier.released);
        self.released.retain(|ordinal| !self.settled.contains(ordinal));
    }
}
