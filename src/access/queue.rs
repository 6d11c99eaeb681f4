//! Who is checked next: one at a time, and a short queue in which a crowd waits for itself.
//!
//! Turns go round between addresses, and at one address between names, so that hundreds of attempts from one place cost
//! a login from another no more than the one check that is going on. When the queue is full, whoever comes takes the place
//! of the last one of the largest crowd, unless it belongs to that crowd: then it is told to come back.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use crate::model::lock::Hold as _;

/// Who may wait: at a quarter of a second each (a slow ARM), the last one has its answer before a usual client gives up.
pub(super) const WAITING_MAX: usize = 48;

/// Addresses and names of which it is known when they had their last turn; forgotten all together.
const SERVED_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// Names and addresses are kept as hashes that nobody outside can choose.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Inner {
    /// Somebody has the turn.
    taken: bool,
    waiting: Vec<Waiter>,
    /// When an address, or a name there, had its last turn.
    served: HashMap<u64, u64>,
    turns: u64,
}

#[derive(Debug)]
struct Waiter {
    address: u64,
    /// Of name and address.
    pair: u64,
    call: oneshot::Sender<Turn>,
}

/// The right to check a password; the next one has it when this is dropped.
#[derive(Debug)]
pub(super) struct Turn(Option<Arc<Queue>>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.hand_on();
        }
    }
}

impl Queue {
    /// Waits for its turn; `None`: come back later. Cancel-safe: a place that nobody waits in any more is passed over.
    pub(super) async fn turn(self: &Arc<Self>, from: IpAddr, name: &str) -> Option<Turn> {
        let (address, pair) = (self.hasher.hash_one(from), self.hasher.hash_one((from, name)));
        let called = {
            let mut inner = self.lock();
            if !inner.taken {
                inner.taken = true;
                inner.note(address, pair);
                return Some(Turn(Some(Arc::clone(self))));
            }
            if inner.waiting.len() >= WAITING_MAX && !inner.make_room(address, pair) {
                return None;
            }
            let (call, called) = oneshot::channel();
            inner.waiting.push(Waiter { address, pair, call });
            called
        };
        called.await.ok()
    }

    fn hand_on(self: &Arc<Self>) {
        loop {
            let mut inner = self.lock();
            let Some(next) = inner.next() else {
                inner.taken = false;
                return;
            };
            drop(inner);
            match next.call.send(Turn(Some(Arc::clone(self)))) {
                Ok(()) => return,
                // It has gone; its turn is still ours to give.
                Err(mut turn) => turn.0 = None,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.hold()
    }
}

impl Inner {
    /// Whose address, and then whose name, has not had a turn for longest; who came first of these.
    fn next(&mut self) -> Option<Waiter> {
        let last = |key: u64| self.served.get(&key).copied().unwrap_or(0);
        let order = |waiter: &Waiter| (last(waiter.address), last(waiter.pair));
        let (place, _) = self.waiting.iter().enumerate().min_by_key(|(_, waiter)| order(waiter))?;
        let next = self.waiting.remove(place);
        self.note(next.address, next.pair);
        Some(next)
    }

    fn note(&mut self, address: u64, pair: u64) {
        if self.served.len() >= SERVED_MAX {
            self.served.clear();
        }
        self.turns += 1;
        self.served.insert(address, self.turns);
        self.served.insert(pair, self.turns);
    }

    /// Is there a place for one more of these, by right?
    fn make_room(&mut self, address: u64, pair: u64) -> bool {
        self.waiting.retain(|waiter| !waiter.call.is_closed());
        if self.waiting.len() < WAITING_MAX {
            return true;
        }
        let crowd = |address: u64, pair: u64| {
            let here = self.waiting.iter().filter(|waiter| waiter.address == address).count();
            (here, self.waiting.iter().filter(|waiter| waiter.pair == pair).count())
        };
        let mine = crowd(address, pair);
        let crowds = self.waiting.iter().map(|waiter| crowd(waiter.address, waiter.pair));
        let Some((last, largest)) = crowds.enumerate().max_by_key(|(_, crowd)| *crowd) else { return false };
        // Counted with itself, the newcomer's crowd must still be the smaller one.
        let smaller = mine.0 + 1 < largest.0 || mine.0 == largest.0 && mine.1 + 1 < largest.1;
        if smaller {
            drop(self.waiting.remove(last));
        }
        smaller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Waits in the background; says who it was when it has its turn.
    fn wait(queue: &Arc<Queue>, from: u8, name: &str, turns: &tokio::sync::mpsc::Sender<String>) {
        let (queue, name, turns) = (Arc::clone(queue), name.to_owned(), turns.clone());
        tokio::spawn(async move {
            let turn = queue.turn(address(from), &name).await;
            let told = if turn.is_some() { format!("{from} {name}") } else { format!("{from} {name} goes") };
            turns.try_send(told).expect("the test listens");
        });
    }

    #[tokio::test]
    async fn a_crowd_waits_for_itself() {
        let queue = Arc::<Queue>::default();
        let (turns, mut had) = tokio::sync::mpsc::channel(4 * WAITING_MAX);
        let held = queue.turn(address(1), "a").await.expect("nobody is there");
        for _ in 0..WAITING_MAX {
            wait(&queue, 1, "a", &turns);
        }
        tokio::task::yield_now().await;
        wait(&queue, 1, "b", &turns);
        wait(&queue, 2, "a", &turns);
        wait(&queue, 1, "a", &turns);
        tokio::task::yield_now().await;
        let mut next = async || had.recv().await.expect("somebody");
        assert_eq!([next().await, next().await, next().await], ["1 a goes", "1 a goes", "1 a goes"]);
        drop(held);
        assert_eq!([next().await, next().await, next().await], ["2 a", "1 b", "1 a"]);
    }

    #[tokio::test]
    async fn whoever_has_gone_is_passed_over_and_the_turn_is_never_lost() {
        let queue = Arc::<Queue>::default();
        let held = queue.turn(address(1), "a").await;
        for _ in 0..2 * WAITING_MAX {
            let gone = tokio::time::timeout(std::time::Duration::ZERO, queue.turn(address(3), "x")).await;
            assert!(gone.is_err(), "there is room for one more: those before have gone");
        }
        let waits = tokio::spawn(async move { queue.turn(address(2), "b").await });
        tokio::task::yield_now().await;
        drop(held);
        assert!(waits.await.expect("no panic").is_some());
    }
}
