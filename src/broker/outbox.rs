//! What waits for one client: filled under the core's lock, emptied by the client's own connection.
//!
//! Bounds (architecture, section 4). Up to [`CONFLATE_ABOVE`] bytes every message waits its turn. Above, a new value of
//! a gateway-owned retained topic takes the place of the one that waits (counted), so that those never need more than
//! one message per topic. All other messages together may take [`WAITING_BYTES_MAX`]; one more ends the connection:
//! the client is told, never silently thinned. Putting in never waits.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::message::{Delivery, Keep, Qos};
use super::session::Ending;

/// From here on only the newest of a tag's values is kept: about 1000 of them.
pub(super) const CONFLATE_ABOVE: usize = 256 * 1024;

/// What may wait of messages that must all arrive.
pub(super) const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// What may wait for all clients together, bytes. Beyond, a client whose own queue is long is given up: some dozens of
/// clients that hang must not fill a small box.
pub(super) const WAITING_FOR_ALL_MAX: usize = 64 * 1024 * 1024;

/// The queue of one client and the bell of its connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    bell: Notify,
    /// Bytes that wait for all clients.
    for_all: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Delivery>,
    /// Number of the first in `waiting`; they are numbered through.
    first: u64,
    /// Bytes of all, and of those that must all arrive.
    bytes: usize,
    kept_bytes: usize,
    /// Number of the newest that waits per topic; there only while the queue is long.
    newest: Option<HashMap<Arc<str>, u64>>,
    ending: Option<Ending>,
}

/// What became of a message put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    Waits,
    /// It took the place of an older value.
    Replaced,
    /// Too much: this client's connection ends, and so many messages are lost to it.
    Overflowed(usize),
    /// The connection is ending already.
    Closed,
}

impl Outbox {
    /// An empty one; `for_all` is shared by the outboxes of all clients.
    pub(super) fn new(for_all: Arc<AtomicUsize>) -> Self {
        Self { queue: Mutex::default(), bell: Notify::new(), for_all }
    }

    /// Puts a message in.
    pub(super) fn put(&self, delivery: Delivery) -> Put {
        let crowded = self.for_all.load(Ordering::Relaxed) > WAITING_FOR_ALL_MAX;
        let put =
            self.change(
                |queue| {
                    if crowded && queue.bytes > CONFLATE_ABOVE { queue.overflow() } else { queue.put(delivery) }
                },
            );
        if put != Put::Closed {
            self.bell.notify_one();
        }
        put
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

    /// Ends the connection; the first reason counts. What waits is dropped, but for an orderly stop.
    pub(super) fn end(&self, ending: Ending) {
        self.change(|queue| queue.end(ending));
        self.bell.notify_one();
    }

    /// Why the connection must end, if it must.
    pub(super) fn ending(&self) -> Option<Ending> {
        self.lock().ending
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

    /// Changes the queue and what waits for all.
    fn change<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.lock();
        let before = queue.bytes;
        let changed = change(&mut queue);
        match queue.bytes.checked_sub(before) {
            Some(more) => self.for_all.fetch_add(more, Ordering::Relaxed),
            None => self.for_all.fetch_sub(before - queue.bytes, Ordering::Relaxed),
        };
        changed
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.for_all.fetch_sub(self.lock().bytes, Ordering::Relaxed);
    }
}

impl Queue {
    fn put(&mut self, delivery: Delivery) -> Put {
        if self.ending.is_some() {
            return Put::Closed;
        }
        let cost = delivery.message.cost();
        if delivery.message.keep == Keep::Newest {
            if self.bytes + cost > CONFLATE_ABOVE {
                return self.conflate(delivery, cost);
            }
        } else {
            // One message alone may be longer than the bound.
            if self.kept_bytes > 0 && self.kept_bytes + cost > WAITING_BYTES_MAX {
                return self.overflow();
            }
            self.kept_bytes += cost;
        }
        self.push(delivery, cost);
        Put::Waits
    }

    /// Too much: what waits is lost, and one more.
    fn overflow(&mut self) -> Put {
        if self.ending.is_some() {
            return Put::Closed;
        }
        let lost = self.waiting.len() + 1;
        self.end(Ending::TooSlow);
        Put::Overflowed(lost)
    }

    fn push(&mut self, delivery: Delivery, cost: usize) {
        if let Some(newest) = &mut self.newest {
            let number = self.first + self.waiting.len() as u64;
            if delivery.message.keep == Keep::Newest {
                newest.insert(Arc::clone(&delivery.message.topic), number);
            }
        }
        self.bytes += cost;
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
                self.bytes = self.bytes + cost - old.message.cost();
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
        let cost = delivery.message.cost();
        self.bytes -= cost;
        if delivery.message.keep == Keep::Every {
            self.kept_bytes -= cost;
        }
        // Places in front of `first` are never looked at; the index goes when the queue is short again.
        if self.bytes < CONFLATE_ABOVE / 2 {
            self.newest = None;
        }
        Some(delivery)
    }

    fn end(&mut self, ending: Ending) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(ending);
        if ending != Ending::Stopping {
            *self = Self { ending: self.ending, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::broker::message::{Message, Retain};

    fn delivery(topic: &str, payload: &[u8], keep: Keep) -> Delivery {
        let message = Arc::new(Message::own(topic.into(), Bytes::copy_from_slice(payload), keep));
        Delivery { message, qos: Qos::AtMostOnce, retain: Retain::No, ids: Vec::new() }
    }

    fn drain(outbox: &Outbox) -> Vec<Delivery> {
        let mut taken = Vec::new();
        outbox.take(usize::MAX, usize::MAX, &mut taken);
        taken
    }

    #[test]
    fn a_slow_reader_of_tags_holds_one_value_per_tag_and_it_is_the_newest() {
        let outbox = Outbox::default();
        let mut replaced = 0;
        for round in 0..1000_u32 {
            for tag in 0..100 {
                let put = outbox.put(delivery(&format!("t/{tag}"), &round.to_be_bytes(), Keep::Newest));
                replaced += usize::from(put == Put::Replaced);
            }
        }
        let taken = drain(&outbox);
        assert_eq!(taken.len() + replaced, 100_000, "every message is delivered or counted");
        assert!(taken.iter().map(|delivery| delivery.message.cost()).sum::<usize>() < CONFLATE_ABOVE + 100 * 200);
        for tag in 0..100 {
            let topic = format!("t/{tag}");
            let last =
                taken.iter().rev().find(|delivery| *delivery.message.topic == *topic).expect("each tag is there");
            assert_eq!(last.message.payload[..], 999_u32.to_be_bytes());
        }
        assert_eq!(outbox.put(delivery("t/1", b"x", Keep::Newest)), Put::Waits, "short again: every value counts");
    }

    #[test]
    fn values_of_one_topic_never_overtake_each_other_while_a_queue_grows_and_shrinks() {
        let outbox = Outbox::default();
        let mut seen = HashMap::new();
        for round in 0..20_000_u32 {
            outbox.put(delivery(&format!("t/{}", round % 7), &round.to_be_bytes(), Keep::Newest));
            if round % 3 == 0 || round > 15_000 {
                let mut taken = Vec::new();
                outbox.take(if round > 15_000 { 3 } else { 1 }, 0, &mut taken);
                for delivery in taken {
                    let value = u32::from_be_bytes(delivery.message.payload[..].try_into().expect("four bytes"));
                    let before = seen.insert(delivery.message.topic.to_string(), value);
                    assert!(before < Some(value));
                }
            }
        }
    }

    #[test]
    fn many_readers_that_hang_are_given_up_before_they_fill_the_box_and_nothing_is_charged_for_ever() {
        let for_all = Arc::new(AtomicUsize::new(0));
        let outboxes: Vec<Outbox> = (0..300).map(|_| Outbox::new(Arc::clone(&for_all))).collect();
        for tag in 0..2000 {
            let one = delivery(&format!("t/{tag}"), &[0; 100], Keep::Newest);
            for outbox in &outboxes {
                outbox.put(one.clone());
            }
        }
        let given_up = outboxes.iter().filter(|outbox| outbox.ending().is_some()).count();
        assert!((1..300).contains(&given_up), "{given_up}");
        assert!(for_all.load(Ordering::Relaxed) < WAITING_FOR_ALL_MAX + 300 * 300);
        assert!(!drain(&outboxes[299]).is_empty() || outboxes[299].ending().is_some());
        drop(outboxes);
        assert_eq!(for_all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn other_messages_are_never_thinned_the_reader_is_told_instead() {
        let outbox = Outbox::default();
        let mut put = Put::Waits;
        while put == Put::Waits {
            put = outbox.put(delivery("m", &[0; 1000], Keep::Every));
        }
        assert!(matches!(put, Put::Overflowed(lost) if lost > 900));
        assert_eq!(outbox.ending(), Some(Ending::TooSlow));
        assert_eq!(outbox.numbers(), (0, 0));
        assert_eq!(outbox.put(delivery("m", b"", Keep::Every)), Put::Closed);
    }
}
