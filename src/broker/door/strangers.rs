//! Those who have come in and not yet said CONNECT: few at a time, and an old one goes when there are too many.
//!
//! Silent and half-open connections, TLS handshakes that stall, upgrades that never end: they may neither take every place
//! nor every byte. A client that means it is done in some round trips; so whoever has been a stranger for a while makes
//! room, and nobody who has just come. Where one network, and in it one host, has more of them than others it is one of its
//! own (a host may have a /64 of IPv6 to itself, and a plant may be one): else who comes again and again would drive out
//! those on a slow link, who need their time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::access::network;
use crate::model::lock::Hold as _;

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
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// `None`: this machine.
    from: Option<IpAddr>,
    evicted: CancellationToken,
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

    /// Lets one more in, from this address (`None`: this machine); waits while whoever has to go is too young. Cancel-safe.
    pub(super) async fn enter(self: &Arc<Self>, from: Option<IpAddr>) -> (Stranger, Room) {
        let from = from.map(|address| address.to_canonical());
        loop {
            let left = self.left.notified();
            let old_enough_at = match self.try_enter(from, Instant::now()) {
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

    /// The stranger, or when another may be asked to go.
    fn try_enter(self: &Arc<Self>, from: Option<IpAddr>, now: Instant) -> Result<(Stranger, Room), Instant> {
        let mut inside = self.lock();
        let mut room = Room::WasThere;
        if inside.waiting.len() >= self.most
            && let Some((number, since)) = inside.who_goes()
        {
            let old_enough_at = since + GRACE;
            if now < old_enough_at {
                return Err(old_enough_at);
            }
            if let Some(waiting) = inside.waiting.remove(&number) {
                waiting.evicted.cancel();
            }
            room = Room::WasMade;
        }
        let (number, evicted) = (inside.next, CancellationToken::new());
        inside.next += 1;
        inside.waiting.insert(number, Waiting { since: now, from, evicted: evicted.clone() });
        Ok((Stranger { strangers: Arc::clone(self), number, evicted }, room))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.hold()
    }
}

/// How many are from there.
type Crowds = HashMap<Option<IpAddr>, usize>;

impl Inside {
    /// The oldest of the host with most of them in the network with most of them, and since when it has been here.
    fn who_goes(&self) -> Option<(u64, Instant)> {
        let (mut networks, mut hosts) = (Crowds::new(), Crowds::new());
        for waiting in self.waiting.values() {
            *networks.entry(waiting.from.map(network)).or_default() += 1;
            *hosts.entry(waiting.from).or_default() += 1;
        }
        let crowd = |waiting: &Waiting| (networks.get(&waiting.from.map(network)), hosts.get(&waiting.from));
        let goes = self.waiting.iter().max_by_key(|(number, waiting)| (crowd(waiting), Reverse(**number)));
        goes.map(|(number, waiting)| (*number, waiting.since))
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
            let (stranger, room) = strangers.enter(None).await;
            assert_eq!(room, Room::WasThere);
            all.push(stranger);
        }
        let begun = Instant::now();
        let (ninth, room) = strangers.enter(None).await;
        assert_eq!((room, begun.elapsed() >= GRACE), (Room::WasMade, true));
        let evicted = all.iter().filter(|stranger| stranger.evicted.is_cancelled()).count();
        assert!(evicted == 1 && all[0].evicted.is_cancelled());
        let begun = Instant::now();
        let (entered, ()) = tokio::join!(strangers.enter(None), async { drop(all.pop()) });
        assert_eq!((entered.1, begun.elapsed()), (Room::WasMade, Duration::ZERO), "the others had their time long ago");
        drop((all, ninth, entered));
        assert!(strangers.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_comes_again_and_again_does_not_drive_out_its_neighbours_in_one_ipv6_network() {
        let strangers = Strangers::new(16, 1);
        let host = |number| Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number]));
        let (slow, _) = strangers.enter(host(1)).await;
        let mut all = Vec::new();
        for _ in 0..50 {
            all.push(strangers.enter(host(2)).await.0);
            tokio::time::advance(GRACE).await;
        }
        assert!(!slow.evicted.is_cancelled());
        assert_eq!(all.iter().filter(|stranger| !stranger.evicted.is_cancelled()).count(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_again_and_again_drives_out_its_own_and_nobody_on_a_slow_link() {
        let strangers = Strangers::new(16, 1);
        let (satellite, greedy) = (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])));
        let (slow, _) = strangers.enter(satellite).await;
        let mut all = Vec::new();
        for _ in 0..50 {
            all.push(strangers.enter(greedy).await.0);
            tokio::time::advance(GRACE).await;
        }
        assert!(!slow.evicted.is_cancelled());
        assert_eq!(all.iter().filter(|stranger| !stranger.evicted.is_cancelled()).count(), 7);
        let others = (3..9).map(|host| strangers.enter(Some(IpAddr::from([10, 0, 0, host]))));
        for other in others {
            all.push(other.await.0);
            tokio::time::advance(GRACE).await;
        }
        assert!(!slow.evicted.is_cancelled(), "those of the greedy host went before");
        all.push(strangers.enter(Some(IpAddr::from([10, 0, 0, 9]))).await.0);
        assert!(slow.evicted.is_cancelled(), "where nobody has more than others, the oldest");
    }
}
