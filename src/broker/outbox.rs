//! What waits for one client: filled under the core's lock, emptied by the client's own connection.
//!
//! Bounds. Up to [`CONFLATE_ABOVE`] bytes every message waits its turn. Above, a new value of
//! a gateway-owned retained topic takes the place of the one that waits (counted), so that those never need more than
//! one message per topic. All other messages together may take `max_queued_size`; one more ends the connection:
//! the client is told, never silently thinned. Putting in never waits. While too much waits for all clients a long message
//! finds no place in any outbox: at QoS 0 it is left out, and counted.
//!
//! A single message need not wait at all: see `line`. A sensor may sleep: `sensor`. Rights may change meanwhile: `doubt`. What
//! becomes of those that wait at the end: `closing`.
//!
//! What stands in the ledger does not end a connection: when it takes more than half of that, the outbox falls
//! **behind**. From that delivery on nothing that stands in the ledger is put in; the connection reads it from there until
//! it has [caught up](Outbox::catch_up). A returning session begins behind.

mod closing;
mod doubt;
mod line;
mod sensor;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::message::{Delivery, Keep, Lost, Qos};
use super::session::Ending;
use crate::model::lock::Hold as _;
use crate::road::inside::{Press, Pressure};
pub(super) use line::{Line, Socket};

/// From here on only the newest of a tag's values is kept: about 1000 of them.
const CONFLATE_ABOVE: usize = 256 * 1024;

/// What may wait for all clients together, bytes, a long message counted once. Beyond, a client whose own queue is long is
/// given up, and no other long message let in: some dozens of clients that hang must not fill a small box.
pub(super) const WAITING_FOR_ALL_MAX: usize = 64 * 1024 * 1024;

/// The queue of one client and the bell of its connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    bell: Notify,
    /// Cancelled when the connection has let go of its session.
    left: CancellationToken,
    /// Bytes that wait for all clients.
    for_all: Arc<AtomicUsize>,
    sensor: sensor::Sensor,
}

#[derive(Debug, Default)]
struct Queue {
    /// Bytes of those that must all arrive.
    most: usize,
    waiting: VecDeque<Delivery>,
    /// Number of the first in `waiting`; they are numbered through.
    first: u64,
    /// Bytes of all, and of those that must all arrive.
    bytes: usize,
    kept_bytes: usize,
    /// Of all, what is charged to all clients by itself.
    held_bytes: usize,
    /// Of the latter, what stands in the ledger.
    owed_bytes: usize,
    /// Number of the newest that waits per topic; there only while the queue is long.
    newest: Option<HashMap<Arc<str>, u64>>,
    behind: Option<Behind>,
    /// What has a lower number was put in before rights changed.
    doubtful_below: Option<u64>,
    /// All lower ordinals have been read from the ledger.
    read_below: u64,
    ending: Option<Ending>,
    /// Of what was dropped at the end: what must arrive, and stands in no ledger.
    lost: Lost,
    /// And what other members of shared groups may get.
    for_others: Vec<Delivery>,
    /// Lent by the connection while it waits.
    line: Option<Line>,
    /// Lent with it, and not used.
    packet_id: Option<u16>,
    /// What is in flight under the identifier that was lent.
    launched: Option<Qos>,
    /// The rest of a packet that was begun on the line.
    begun: BytesMut,
    /// Those of the gateway itself hear by these that more than half of what may wait does.
    presses: Vec<Press>,
}

/// What only the ledger has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Behind {
    /// The first ordinal to be read.
    pub from: u64,
    /// The last one, as far as it is known now.
    pub last: u64,
    /// What had been put in before goes first: see [`Outbox::numbers`].
    pub after: u64,
}

/// What became of a message put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    Waits,
    /// It took the place of an older value.
    Replaced,
    /// It stands in the ledger and will be read from there.
    Behind,
    /// Too long while too much waits for all clients, and without a promise: left out.
    LeftOut,
    /// Too much: this client's connection ends, and so many messages are lost to it.
    Overflowed(usize),
    /// The connection is ending already.
    Closed,
}

impl Outbox {
    /// An empty one; `for_all` is shared by the outboxes of all clients. Of messages that must all arrive `most` bytes may
    /// wait, and half as many of those that stand in the ledger.
    pub(super) fn new(for_all: Arc<AtomicUsize>, most: usize) -> Self {
        let queue = Mutex::new(Queue { most, ..Queue::default() });
        let (bell, left, sensor) = Default::default();
        Self { queue, bell, left, for_all, sensor }
    }

    /// For a session that is owed what lies in the ledger up to this ordinal.
    pub(super) fn begin_behind(&self, last: u64) {
        self.lock().behind = Some(Behind { from: 0, last, after: 0 });
    }

    /// What only the ledger has, if there is any.
    pub(super) fn behind(&self) -> Option<Behind> {
        self.lock().behind
    }

    /// Everything below this ordinal has been read from the ledger: is there nothing more? Then what is owed comes through
    /// here again.
    pub(super) fn catch_up(&self, next: u64) -> bool {
        let mut queue = self.lock();
        queue.read_below = next;
        match &mut queue.behind {
            Some(behind) if behind.last >= next => {
                behind.from = next;
                false
            }
            behind => {
                *behind = None;
                true
            }
        }
    }

    /// A delivery that the connection has at hand, such as a retained message, was entered in the ledger: must it be left to
    /// be read from there?
    pub(super) fn leaves_to_ledger(&self, ordinal: u64) -> bool {
        self.lock().leaves(ordinal)
    }

    /// Does what is put in go to the client soon: is nothing left to be read from the ledger, and does little wait here?
    pub(super) fn is_in_step(&self) -> bool {
        let queue = self.lock();
        queue.behind.is_none() && queue.ending.is_none() && !queue.is_long()
    }

    /// Puts a message in.
    pub(super) fn put(&self, mut delivery: Delivery) -> Put {
        let (finds_place, crowded) = (self.finds_place(&mut delivery), self.is_crowded());
        let put = self.change(|queue| match delivery.owed {
            Some(owed) => queue.put_owed(delivery, owed.ordinal, crowded),
            None if !finds_place && delivery.qos == Qos::AtMostOnce && queue.ending.is_none() => Put::LeftOut,
            None if !finds_place || crowded && queue.bytes > CONFLATE_ABOVE => queue.overflow(&delivery),
            None => queue.put(delivery),
        });
        if put != Put::Closed {
            self.bell.notify_one();
        }
        put
    }

    /// Does so much wait for all clients that long messages must go soon, for others to find a place?
    pub(super) fn is_filling(&self) -> bool {
        self.for_all.load(Ordering::Relaxed) > WAITING_FOR_ALL_MAX / 4 * 3
    }

    /// Does too much wait for all clients?
    fn is_crowded(&self) -> bool {
        self.for_all.load(Ordering::Relaxed) > WAITING_FOR_ALL_MAX
    }

    /// A delivery is on its way to the client, and counts among what waits for all. A long one has no place when too much
    /// does, even if nothing else waits for this client, unless the ledger has it, or its newest value is wanted.
    pub(super) fn finds_place(&self, delivery: &mut Delivery) -> bool {
        delivery.hold(&self.for_all);
        let has_to = delivery.held.is_none() || delivery.owed.is_some() || delivery.message.keep == Keep::Newest;
        has_to || !self.is_crowded()
    }

    /// More than half of what may wait does: whoever adds to it hears of it, until it is less.
    pub(super) fn press_if_long(&self, pressure: &Arc<Pressure>) {
        let mut queue = self.lock();
        if queue.is_long() && !queue.presses.iter().any(|press| press.is_of(pressure)) {
            queue.presses.push(pressure.press());
        }
    }

    /// Takes messages out, at most `most` of them and at most `room` above QoS 0.
    pub(super) fn take(&self, most: usize, mut room: usize, into: &mut Vec<Delivery>) {
        self.change(|queue| {
            for _ in 0..most {
                match queue.waiting.front() {
                    Some(front) if front.qos == Qos::AtMostOnce => {}
                    Some(_) if room > 0 => room -= 1,
                    _ => break,
                }
                into.extend(queue.pop());
            }
        });
    }

    /// Nothing waits, here or in the ledger? Of a connection that is told to go nobody knows: what waited was dropped.
    pub(super) fn is_clear(&self) -> bool {
        let queue = self.lock();
        queue.waiting.is_empty() && queue.behind.is_none() && queue.ending.is_none()
    }

    /// Messages ever taken out, and ever put in: what is put in now is the next after the second number.
    pub(super) fn numbers(&self) -> (u64, u64) {
        let queue = self.lock();
        (queue.first, queue.first + queue.waiting.len() as u64)
    }

    /// Resolves when something was put in or the end has come. Cancel-safe; for the one connection.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// The connection has let go of its session.
    pub(super) fn let_go(&self) {
        self.lock().line = None;
        self.left.cancel();
    }

    /// Resolves when it has. Cancel-safe; for whoever comes in its place.
    pub(super) async fn left(&self) {
        self.left.cancelled().await;
    }

    /// Changes the queue and what waits for all.
    fn change<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.lock();
        let before = queue.charge();
        let changed = change(&mut queue);
        let after = queue.charge();
        match after.checked_sub(before) {
            Some(more) => self.for_all.fetch_add(more, Ordering::Relaxed),
            None => self.for_all.fetch_sub(before - after, Ordering::Relaxed),
        };
        changed
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.hold()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.for_all.fetch_sub(self.lock().charge(), Ordering::Relaxed);
    }
}

impl Queue {
    fn conflate_above(&self) -> usize {
        CONFLATE_ABOVE.min(self.most)
    }

    /// What it adds to what waits for all.
    const fn charge(&self) -> usize {
        self.bytes - self.held_bytes
    }

    const fn is_long(&self) -> bool {
        self.kept_bytes > self.most / 2
    }

    fn put(&mut self, delivery: Delivery) -> Put {
        if self.ending.is_some() {
            return Put::Closed;
        }
        let cost = delivery.cost();
        if delivery.message.keep == Keep::Newest {
            if self.bytes + cost > self.conflate_above() {
                return self.conflate(delivery, cost);
            }
        } else {
            // One message alone may be longer than the bound.
            if self.kept_bytes > 0 && self.kept_bytes + cost > self.most {
                return self.overflow(&delivery);
            }
            self.kept_bytes += cost;
        }
        self.push(delivery, cost);
        Put::Waits
    }

    fn put_owed(&mut self, delivery: Delivery, ordinal: u64, crowded: bool) -> Put {
        if self.ending.is_some() {
            return Put::Closed;
        }
        // A page may have been read between its being entered in the ledger and its being put in here.
        if self.leaves(ordinal) || ordinal < self.read_below {
            return Put::Behind;
        }
        let cost = delivery.cost();
        let too_much = self.owed_bytes > 0 && self.owed_bytes + cost > self.most / 2;
        if too_much || crowded && (self.bytes > CONFLATE_ABOVE || delivery.held.is_some()) {
            let after = self.first + self.waiting.len() as u64;
            self.behind = Some(Behind { from: ordinal, last: ordinal, after });
            return Put::Behind;
        }
        self.kept_bytes += cost;
        self.owed_bytes += cost;
        self.push(delivery, cost);
        Put::Waits
    }

    fn leaves(&mut self, ordinal: u64) -> bool {
        if let Some(behind) = &mut self.behind {
            behind.last = behind.last.max(ordinal);
        }
        self.behind.is_some()
    }

    fn push(&mut self, delivery: Delivery, cost: usize) {
        if let Some(newest) = &mut self.newest {
            let number = self.first + self.waiting.len() as u64;
            if delivery.message.keep == Keep::Newest {
                newest.insert(Arc::clone(&delivery.message.topic), number);
            }
        }
        self.bytes += cost;
        self.held_bytes += delivery.held_bytes();
        self.waiting.push_back(delivery);
    }

    fn conflate(&mut self, delivery: Delivery, cost: usize) -> Put {
        let (first, waiting) = (self.first, &self.waiting);
        let newest = self.newest.get_or_insert_with(|| {
            let topics = waiting.iter().map(|delivery| &delivery.message).zip(first..);
            let own = topics.filter(|(message, _)| message.keep == Keep::Newest);
            own.map(|(message, number)| (Arc::clone(&message.topic), number)).collect()
        });
        let number = newest.get(&delivery.message.topic).copied();
        let place = number.and_then(|number| usize::try_from(number.checked_sub(first)?).ok());
        match place.and_then(|place| self.waiting.get_mut(place)) {
            Some(old) => {
                self.bytes = self.bytes + cost - old.cost();
                self.held_bytes = self.held_bytes + delivery.held_bytes() - old.held_bytes();
                *old = delivery;
                Put::Replaced
            }
            None => {
                self.push(delivery, cost);
                Put::Waits
            }
        }
    }

    fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.waiting.pop_front()?;
        self.first += 1;
        let cost = delivery.cost();
        self.bytes -= cost;
        self.held_bytes -= delivery.held_bytes();
        if delivery.message.keep == Keep::Every {
            self.kept_bytes -= cost;
        }
        if delivery.owed.is_some() {
            self.owed_bytes -= cost;
        }
        if !self.is_long() {
            self.presses.clear();
        }
        // Places in front of `first` are never looked at; the index goes when the queue is short again.
        if self.bytes < self.conflate_above() / 2 {
            self.newest = None;
        }
        Some(delivery)
    }
}

#[cfg(test)]
mod tests;
