//! The middle of the broker: who is connected, who wants what, what is kept; every message passes through here once.
//!
//! One lock, held for one message or one page of retained ones, never across an await, and nothing is written to a
//! socket or a disk under it: a publisher waits for nobody's network. Each client's messages wait in its own outbox.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::access::{Access, Identity};
use crate::disk::retained::{Committed, RetainedFile};
use crate::flow::clock::Clock;
use crate::flow::command::CommandEntry;
use crate::model::topic::{Ownership, check_filter, split_share};

use super::clients::{Client, Clients};
use super::message::{Delivery, Keep, Message, Retain};
use super::outbox::{Outbox, Put};
use super::retained::{Cursor, Rest, Retained};
use super::session::Ending;
use super::stats::BrokerStats;
use super::tree::{Added, ClientKey, Found, Subscription, Tree};
use super::will::{LastWill, Waiting};
use super::wire::{Filter, RetainHandling};
use super::{keeping, ruling};

/// Subscriptions of one client: every tag of a large plant by name.
const SUBSCRIPTIONS_MAX: usize = 16_384;

/// Topic levels of all filters of one client: what they cost in memory is about 150 bytes each.
const LEVELS_MAX: usize = 100_000;

/// And of everybody.
const LEVELS_OF_ALL_MAX: usize = 400_000;

/// What everybody in this room shares.
pub(super) struct Shared {
    core: Mutex<Core>,
    pub stats: Arc<BrokerStats>,
    pub access: Access,
    pub ownership: Arc<Ownership>,
    pub commands: CommandEntry,
    pub clock: Clock,
    pub disk: RetainedFile,
    ids: AtomicU64,
}

/// What the room is given to work with.
pub(super) struct Surroundings {
    pub access: Access,
    pub ownership: Arc<Ownership>,
    pub commands: CommandEntry,
    pub clock: Clock,
    pub disk: RetainedFile,
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

/// A filter was added.
#[derive(Debug)]
pub(super) struct Subscribed {
    pub subscription: Subscription,
    /// Retained messages to be sent, if any.
    pub cursor: Option<Cursor>,
}

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
        let Surroundings { access, ownership, commands, clock, disk } = around;
        let stats = Arc::default();
        let ids = AtomicU64::new(0);
        Self { core: Mutex::new(core), stats, access, ownership, commands, clock, disk, ids }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id for a client that brought none.
    pub(super) fn assign_id(&self) -> String {
        format!("auto-{:08x}-{}", rand::random::<u32>(), self.ids.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes a client in; whoever has the same id must go. `None`: the gateway is stopping.
    pub(super) fn enter(&self, newcomer: Newcomer) -> Option<ClientKey> {
        let Newcomer { id, identity, clean_start, mut will, outbox } = newcomer;
        let now = Instant::now();
        if let Some(left) = &mut will {
            match ruling::judge(&self.access, &self.ownership, identity, left.topic(), left.retain()) {
                ruling::Ruling::Publish(retain) => left.set_retain(retain),
                _ => {
                    let topic = left.topic();
                    tracing::warn!(client = &*id, topic, "last will is not allowed on this topic, it is ignored");
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
        let key = core.clients.add(Client { id, outbox, will, filters: HashSet::new(), levels: 0, seen: (0, 0) });
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
            if message.payload.is_empty() {
                committed = core.retained.clear(&message.topic).then(|| self.disk.clear(Arc::clone(&message.topic)));
            } else {
                core.retained.put(Arc::clone(message)).map_err(|_| NoRoom)?;
                committed = Some(self.disk.put(keeping::row(message, &self.clock)));
            }
            self.stats.retained.set(core.retained.len() as u64);
        }
        Ok(Published { receivers: core.route(message, retain, from, &self.stats), committed })
    }

    /// The gateway's own messages; retained ones live in memory only.
    pub(super) fn publish_own(&self, messages: &[Arc<Message>], retain: Retain) {
        // A page at a time, so that a client's SUBSCRIBE need not wait for ten thousand tags.
        for page in messages.chunks(256) {
            let mut core = self.lock();
            for message in page {
                if retain == Retain::Yes {
                    if message.payload.is_empty() {
                        core.retained.clear(&message.topic);
                    } else {
                        let kept = core.retained.put(Arc::clone(message));
                        debug_assert!(kept.is_ok() || message.keep == Keep::Every, "the gateway finds room");
                    }
                }
                core.route(message, retain, None, &self.stats);
            }
            self.stats.retained.set(core.retained.len() as u64);
        }
    }

    /// Adds a filter of a client; the error is SUBACK's reason code (MQTT 5, section 3.9.3).
    pub(super) fn subscribe(
        &self,
        key: ClientKey,
        who: Identity,
        wanted: &Filter,
        id: Option<u32>,
    ) -> Result<Subscribed, u8> {
        let (group, filter) = split(&wanted.filter).ok_or(0x8F_u8)?;
        if !self.access.may_read(who, filter) {
            return Err(0x87);
        }
        let levels = filter.split('/').count();
        let mut core = self.lock();
        let everybody = core.levels;
        let client = core.clients.get(key).ok_or(0x80_u8)?;
        let known = client.filters.contains(&*wanted.filter);
        if !known {
            let full = client.filters.len() >= SUBSCRIPTIONS_MAX || client.levels + levels > LEVELS_MAX;
            if full || everybody + levels > LEVELS_OF_ALL_MAX {
                return Err(0x97);
            }
            client.filters.insert(wanted.filter.as_str().into());
            client.levels += levels;
            core.levels += levels;
        }
        let subscription = Subscription {
            client: key,
            qos: wanted.qos,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
            id,
        };
        let added = core.tree.add(filter, group, subscription);
        self.stats.subscriptions.set(core.tree.count() as u64);
        let send = match wanted.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => added == Added::New,
            RetainHandling::Never => false,
        };
        // A shared subscription gets none (section 4.8.2).
        let cursor = (send && group.is_none()).then(|| core.retained.cursor(filter));
        Ok(Subscribed { subscription, cursor })
    }

    /// Removes a filter; was it there?
    pub(super) fn unsubscribe(&self, key: ClientKey, raw: &str) -> bool {
        let Some((group, filter)) = split(raw) else {
            return false;
        };
        let mut core = self.lock();
        let levels = filter.split('/').count();
        let Some(client) = core.clients.get(key) else {
            return false;
        };
        if !client.filters.remove(raw) {
            return false;
        }
        client.levels -= levels;
        core.levels -= levels;
        let removed = core.tree.remove(filter, group, key);
        self.stats.subscriptions.set(core.tree.count() as u64);
        removed
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
            // Nobody waits for it: an expired message is not sent even if it were still on disk.
            drop(self.disk.clear(topic));
        }
        self.stats.retained.set(core.retained.len() as u64);
    }

    /// Bytes of all retained payloads.
    pub(super) fn retained_bytes(&self) -> usize {
        self.lock().retained.bytes()
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

/// A filter as it came to (group, filter), if it is one.
fn split(raw: &str) -> Option<(Option<&str>, &str)> {
    let (group, filter) = match split_share(raw).ok()? {
        Some((group, filter)) => (Some(group), filter),
        None => (None, raw),
    };
    check_filter(filter).ok()?;
    Some((group, filter))
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

    /// Puts a message into the outbox of everyone who wants it; returns how many that are.
    fn route(&mut self, message: &Arc<Message>, retain: Retain, from: Option<ClientKey>, stats: &BrokerStats) -> usize {
        let mut found = std::mem::take(&mut self.found);
        self.tree.find(&message.topic, &mut found);
        self.routed += 1;
        let routed = self.routed;
        for subscription in &found.single {
            if subscription.no_local && from == Some(subscription.client) {
                continue;
            }
            let Some(client) = self.clients.get(subscription.client) else {
                continue;
            };
            if client.seen.0 == routed {
                merge(&mut self.deliveries[client.seen.1].1, message, subscription, retain);
            } else {
                client.seen = (routed, self.deliveries.len());
                self.deliveries.push((subscription.client, delivery(message, subscription, retain)));
            }
        }
        for subscription in &found.shared {
            self.deliveries.push((subscription.client, delivery(message, subscription, retain)));
        }
        self.found = found;
        let receivers = self.deliveries.len();
        for (key, delivery) in self.deliveries.drain(..) {
            let Some(client) = self.clients.get(key) else {
                continue;
            };
            match client.outbox.put(delivery) {
                Put::Waits => {}
                Put::Replaced => stats.conflated.one(),
                Put::Overflowed(lost) => stats.dropped_slow.add(lost as u64),
                Put::Closed => stats.dropped_slow.one(),
            }
        }
        receivers
    }
}

/// What one subscription makes of a message.
pub(super) fn delivery(message: &Arc<Message>, subscription: &Subscription, retain: Retain) -> Delivery {
    Delivery {
        message: Arc::clone(message),
        qos: message.qos.min(subscription.qos),
        retain: if subscription.retain_as_published { retain } else { Retain::No },
        ids: subscription.id.into_iter().collect(),
    }
}

/// Another subscription of the same client matches as well.
fn merge(delivery: &mut Delivery, message: &Arc<Message>, subscription: &Subscription, retain: Retain) {
    delivery.qos = delivery.qos.max(message.qos.min(subscription.qos));
    if subscription.retain_as_published {
        delivery.retain = retain;
    }
    delivery.ids.extend(subscription.id);
}
