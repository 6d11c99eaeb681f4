//! The middle of the broker: who is connected, who wants what, what is kept; every message passes through here once.
//!
//! One lock, held for one message or one page of retained ones, never across an await, and nothing is written to a
//! socket or a disk under it: a publisher waits for nobody's network. Each client's messages wait in its own outbox.
//!
//! Here: coming, leaving, publishing, time · `subscribing` filters added and removed · `rejudging` whoever is connected,
//! by new rules · `routing` one message to all who want it · `forwarding` to the stores what goes upstream.

mod forwarding;
mod rejudging;
mod routing;
mod subscribing;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::access::{Access, Identity};
use crate::broker::clients::{Client, Clients};
use crate::broker::message::{Delivery, Keep, Message, Qos, Retain};
use crate::broker::outbox::Outbox;
use crate::broker::retained::{Cursor, Rest, Retained};
use crate::broker::session::Ending;
use crate::broker::stats::BrokerStats;
use crate::broker::talk::Talk;
use crate::broker::tree::{ClientKey, Found, Tree};
use crate::broker::will::{LastWill, Waiting};
use crate::broker::{keeping, ruling};
use crate::disk::ledger::{Committed, Ledger};
use crate::flow::clock::Clock;
use crate::flow::command::CommandEntry;
use crate::flow::forward::ForwardEntry;
use crate::model::topic::Ownership;
pub use forwarding::NotTaken;
pub use rejudging::Rejudged;
pub(super) use routing::delivery;
use subscribing::split;

/// Deliveries of the gateway's own messages for which the lock is held at a time.
const PAGE: usize = 256;

/// How often a publisher steps back for those who wait, before it goes on all the same.
const YIELDS_MAX: usize = 20;

/// What everybody in this room shares.
pub(super) struct Shared {
    core: Mutex<Core>,
    pub stats: Arc<BrokerStats>,
    pub access: Arc<Access>,
    pub ownership: Arc<Ownership>,
    pub commands: CommandEntry,
    pub forward: ForwardEntry,
    pub clock: Clock,
    pub disk: Ledger,
    /// Longest keep alive of MQTT 5 clients, seconds.
    pub keep_alive_max: Option<u16>,
    /// Bytes in all outboxes.
    pub waiting: Arc<AtomicUsize>,
    /// What the log hears of clients.
    pub talk: Talk,
    ids: AtomicU64,
    /// Who would like to have the lock.
    queueing: AtomicUsize,
}

/// What the room is given to work with.
pub(super) struct Surroundings {
    pub access: Arc<Access>,
    pub ownership: Arc<Ownership>,
    pub commands: CommandEntry,
    pub forward: ForwardEntry,
    pub clock: Clock,
    pub disk: Ledger,
}

#[derive(Default)]
struct Core {
    clients: Clients,
    tree: Tree,
    retained: Retained,
    wills: Waiting,
    /// Levels of all filters.
    levels: usize,
    stopping: bool,
    // Scratch of `route`, kept to spare the allocations.
    found: Found,
    deliveries: Vec<(ClientKey, Delivery)>,
    routed: u64,
}

/// A client that has passed the door.
pub(super) struct Newcomer {
    pub id: Arc<str>,
    pub identity: Identity,
    pub clean_start: bool,
    pub will: Option<LastWill>,
    pub outbox: Arc<Outbox>,
}

/// What became of a publish.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Clients it is on its way to.
    pub receivers: usize,
    /// To be awaited before it is acknowledged, if it must be on disk by then.
    pub committed: Option<Committed>,
}

/// No more retained messages of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Shared {
    /// With what the disk held.
    pub(super) fn new(around: Surroundings, kept: Vec<Message>) -> Self {
        let mut core = Core::default();
        for message in kept {
            if core.retained.put(Arc::new(message)).is_err() {
                tracing::warn!("more retained messages on disk than fit into memory, the rest is not served");
                break;
            }
        }
        let Surroundings { access, ownership, commands, forward, clock, disk } = around;
        let stats = Arc::default();
        let (ids, queueing, waiting) = (AtomicU64::new(0), AtomicUsize::new(0), Arc::default());
        let (core, keep_alive_max, talk) = (Mutex::new(core), None, Talk::default());
        Self {
            core,
            stats,
            access,
            ownership,
            commands,
            forward,
            clock,
            disk,
            keep_alive_max,
            waiting,
            talk,
            ids,
            queueing,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.queueing.fetch_add(1, Ordering::Relaxed);
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        self.queueing.fetch_sub(1, Ordering::Relaxed);
        core
    }

    /// Lets those have the lock who wait for it: the system gives it to whoever comes first, and that is, as a rule,
    /// the one who has just let it go.
    fn let_others_in(&self) {
        for _ in 0..YIELDS_MAX {
            if self.queueing.load(Ordering::Relaxed) == 0 {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// An id for a client that brought none.
    pub(super) fn assign_id(&self) -> String {
        let [first, second]: [u64; 2] = [rand::random(), self.ids.fetch_add(1, Ordering::Relaxed)];
        let (a, b, c) = (first >> 32, (first >> 16) & 0xFFFF, first & 0xFFFF);
        format!("auto-{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", (second >> 48) & 0xFFFF, second & 0xFFFF_FFFF_FFFF)
    }

    /// Takes a client in; whoever has the same id must go. `None`: the gateway is stopping.
    pub(super) fn enter(&self, newcomer: Newcomer) -> Option<ClientKey> {
        let Newcomer { id, identity, clean_start, mut will, outbox } = newcomer;
        let now = Instant::now();
        if let Some(left) = &mut will {
            match ruling::judge(&self.access, &self.ownership, &identity, left.topic(), left.retain()) {
                ruling::Ruling::Publish(retain) => left.set_retain(retain),
                _ => {
                    let topic = left.topic();
                    if self.talk.allows() {
                        tracing::warn!(client = &*id, topic, "last will is not allowed on this topic, it is ignored");
                    }
                    self.stats.publishes_refused.one();
                    will = None;
                }
            }
        }
        let mut core = self.lock();
        if core.stopping {
            return None;
        }
        let waited = core.wills.call_back(&id);
        let old = core.clients.with_id(&id).and_then(|key| core.take_out(key));
        if let Some(old) = &old {
            old.outbox.end(Ending::TakenOver);
        }
        // A will with a delay is called back by a client that comes to go on with its session (3.1.3-9).
        let wills = waited.into_iter().chain(old.and_then(|old| old.will));
        for left in wills.filter(|will| clean_start || !will.is_delayed()).collect::<Vec<_>>() {
            self.publish_will(&mut core, left, now);
        }
        let key = core.clients.add(Client { id, identity, outbox, will, filters: HashSet::new(), levels: 0, seen: (0, 0) });
        let clients = core.clients.len() as u64;
        self.stats.clients.set(clients);
        self.stats.clients_max.set(self.stats.clients_max.get().max(clients));
        Some(key)
    }

    /// A connection has ended; nothing happens if its client was taken over before.
    pub(super) fn leave(&self, key: ClientKey, ending: Ending) {
        let mut core = self.lock();
        let Some(client) = core.take_out(key) else {
            return;
        };
        if ending != Ending::Goodbye
            && let Some(will) = client.will
        {
            let now = Instant::now();
            let at_once = if core.stopping { Some(will) } else { core.wills.add(client.id, will, now) };
            if let Some(will) = at_once {
                self.publish_will(&mut core, will, now);
            }
        }
        self.stats.clients.set(core.clients.len() as u64);
        self.stats.subscriptions.set(core.tree.count() as u64);
    }

    fn publish_will(&self, core: &mut Core, will: LastWill, now: Instant) {
        let (message, retain) = will.publish(now);
        self.forward_alone(&message, retain);
        // Nobody waits for its commit: whoever left it has gone.
        if self.keep_and_route(core, &message, retain, None).is_err() {
            self.stats.publishes_refused.one();
        }
    }

    /// A client's message. `NoRoom`: it should have been kept, and was neither kept nor sent on.
    pub(super) fn publish(&self, message: &Arc<Message>, retain: Retain, from: ClientKey) -> Result<Published, NoRoom> {
        self.keep_and_route(&mut self.lock(), message, retain, Some(from))
    }

    fn keep_and_route(
        &self,
        core: &mut Core,
        message: &Arc<Message>,
        retain: Retain,
        from: Option<ClientKey>,
    ) -> Result<Published, NoRoom> {
        let mut committed = None;
        if retain == Retain::Yes {
            let topic = Arc::clone(&message.topic);
            let row = if message.payload.is_empty() {
                core.retained.clear(&topic);
                None
            } else {
                core.retained.put(Arc::clone(message)).map_err(|_| NoRoom)?;
                Some(keeping::row(message, &self.clock))
            };
            if message.qos == Qos::AtMostOnce || from.is_none() {
                self.disk.change_at_leisure(topic, row);
            } else {
                committed = Some(self.disk.change(topic, row));
            }
            self.stats.retained.set(core.retained.len() as u64);
        }
        Ok(Published { receivers: core.route(message, retain, from, &self.stats), committed })
    }

    /// The gateway's own messages; retained ones live in memory only.
    pub(super) fn publish_own(&self, messages: &[Arc<Message>], retain: Retain) {
        // A page at a time, so that a client's SUBSCRIBE need not wait for ten thousand tags times all who read them.
        let mut left = messages;
        while !left.is_empty() {
            let mut core = self.lock();
            let mut deliveries = 0;
            while let Some((message, rest)) = left.split_first()
                && deliveries < PAGE
            {
                left = rest;
                if retain == Retain::Yes {
                    if message.payload.is_empty() {
                        core.retained.clear(&message.topic);
                    } else {
                        let kept = core.retained.put(Arc::clone(message));
                        debug_assert!(kept.is_ok() || message.keep == Keep::Every, "the gateway finds room");
                    }
                }
                deliveries += 1 + core.route(message, retain, None, &self.stats);
            }
            self.stats.retained.set(core.retained.len() as u64);
            drop(core);
            self.let_others_in();
        }
    }

    /// The next retained messages for a subscriber.
    pub(super) fn page(&self, cursor: &mut Cursor, most: usize, now: Instant, into: &mut Vec<Arc<Message>>) -> Rest {
        self.lock().retained.page(cursor, most, now, into)
    }

    /// What time brings: wills that are due, retained messages that have expired.
    pub(super) fn tick(&self, now: Instant) {
        let mut core = self.lock();
        for will in core.wills.due(now) {
            self.publish_will(&mut core, will, now);
        }
        for topic in core.retained.expire(now) {
            self.stats.dropped_expired.one();
            self.disk.change_at_leisure(topic, None);
        }
        self.stats.retained.set(core.retained.len() as u64);
    }

    /// Bytes of all retained payloads.
    pub(super) fn retained_bytes(&self) -> usize {
        self.lock().retained.bytes()
    }

    /// Members of all shared groups.
    pub(super) fn shared_subscriptions(&self) -> usize {
        self.lock().tree.shared()
    }

    /// Nobody new; everybody is told that the gateway stops. Waiting wills are published.
    pub(super) fn stop(&self) {
        let mut core = self.lock();
        core.stopping = true;
        for will in core.wills.all() {
            self.publish_will(&mut core, will, Instant::now());
        }
        for client in core.clients.all() {
            client.outbox.end(Ending::Stopping);
        }
    }
}

impl Core {
    fn take_out(&mut self, key: ClientKey) -> Option<Client> {
        let client = self.clients.remove(key)?;
        for raw in &client.filters {
            if let Some((group, filter)) = split(raw) {
                self.tree.remove(filter, group, key);
            }
        }
        self.levels -= client.levels;
        Some(client)
    }
}
