//! Those who have come in and not yet said CONNECT: few at a time, and the oldest goes when there are too many.
//!
//! Silent and half-open connections, TLS handshakes that stall, upgrades that never end: they may neither take every place
//! nor every byte. A client that means it is done in some round trips; so whoever has been a stranger for a while makes
//! room, and nobody who has just come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Strangers of one door.
const STRANGERS_MAX: usize = 256;

/// With so many, those whose address may be made up are asked to prove it.
const MANY: usize = 16;

/// A stranger has this long before it may have to make room.
const GRACE: Duration = Duration::from_millis(500);

/// The strangers of one door.
#[derive(Debug)]
pub(super) struct Strangers {
    most: usize,
    inside: Mutex<Inside>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    /// By number, so the oldest is the first.
    waiting: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// One of them; no stranger any more when dropped.
#[derive(Debug)]
pub(super) struct Stranger {
    strangers: Arc<Strangers>,
    number: u64,
    /// Cancelled when it has to make room.
    pub evicted: CancellationToken,
}

/// Whether somebody had to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    WasThere,
    WasMade,
}

impl Strangers {
    /// `doors` doors share so many `places` for connections; strangers take half of them at most.
    pub(super) fn new(places: usize, doors: usize) -> Arc<Self> {
        let most = (places / 2 / doors.max(1)).clamp(8, STRANGERS_MAX);
        Arc::new(Self { most, inside: Mutex::default(), left: Notify::new() })
    }

    /// Lets one more in; waits while all are too young to go. Cancel-safe.
    pub(super) async fn enter(self: &Arc<Self>) -> (Stranger, Room) {
        loop {
            let left = self.left.notified();
            let old_enough_at = match self.try_enter(Instant::now()) {
                Ok(entered) => return entered,
                Err(at) => at,
            };
            tokio::select! {
                () = left => {}
                () = tokio::time::sleep_until(old_enough_at) => {}
            }
        }
    }

    /// Are there so many that some may not be what they say? A few at once are usual.
    pub(super) fn are_many(&self) -> bool {
        self.lock().waiting.len() >= MANY.min(self.most / 2)
    }

    /// The stranger, or when the oldest may be asked to go.
    fn try_enter(self: &Arc<Self>, now: Instant) -> Result<(Stranger, Room), Instant> {
        let mut inside = self.lock();
        let mut room = Room::WasThere;
        if inside.waiting.len() >= self.most
            && let Some(oldest) = inside.waiting.first_entry()
        {
            let old_enough_at = oldest.get().0 + GRACE;
            if now < old_enough_at {
                return Err(old_enough_at);
            }
            oldest.remove().1.cancel();
            room = Room::WasMade;
        }
        let (number, evicted) = (inside.next, CancellationToken::new());
        inside.next += 1;
        inside.waiting.insert(number, (now, evicted.clone()));
        Ok((Stranger { strangers: Arc::clone(self), number, evicted }, room))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.lock().waiting.remove(&self.number);
        self.strangers.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_makes_room_once_it_has_had_its_time_and_who_leaves_makes_room_at_once() {
        let strangers = Strangers::new(16, 1);
        let mut all = Vec::new();
        for _ in 0..8 {
            let (stranger, room) = strangers.enter().await;
            assert_eq!(room, Room::WasThere);
            all.push(stranger);
        }
        let begun = Instant::now();
        let (ninth, room) = strangers.enter().await;
        assert_eq!((room, begun.elapsed() >= GRACE), (Room::WasMade, true));
        let evicted = all.iter().filter(|stranger| stranger.evicted.is_cancelled()).count();
        assert!(evicted == 1 && all[0].evicted.is_cancelled());
        let begun = Instant::now();
        let (entered, ()) = tokio::join!(strangers.enter(), async { drop(all.pop()) });
        assert_eq!((entered.1, begun.elapsed()), (Room::WasMade, Duration::ZERO), "the others had their time long ago");
        drop((all, ninth, entered));
        assert!(strangers.lock().waiting.is_empty());
    }
}
