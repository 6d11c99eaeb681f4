//! The middle of the broker: who is connected, who wants what, what is kept; every message passes through here once.
//!
//! One lock, held for one message or one page of retained ones, never across an await, and nothing is written to a
//! socket or a disk under it: a publisher waits for nobody's network. Each client's messages wait in its own outbox.
//!
//! Here: publishing, time · `coming` clients that come and go, sessions that begin and end · `owing` what goes into the
//! ledger and comes out of it at start · `overdue` what has expired in it · `subscribing` filters added and removed ·
//! `places` what nobody has all of · `rejudging` whoever is connected, by new rules · `retaining` what is kept of a topic ·
//! `willing` another will · `routing` one message to all who want it · `forwarding` to the stores what goes upstream.

mod coming;
mod forwarding;
mod overdue;
mod owing;
mod places;
mod rejudging;
mod retaining;
mod routing;
mod subscribing;
mod willing;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Identity};
use crate::broker::clients::Clients;
use crate::broker::durable::Total;
use crate::broker::keeping;
use crate::broker::message::{Delivery, Keep, Message, Qos, Retain};
use crate::broker::retained::Retained;
use crate::broker::session::Ending;
use crate::broker::stats::BrokerStats;
use crate::broker::talk::Talk;
use crate::broker::tree::{ClientKey, Found, Tree};
use crate::broker::will::Waiting;
use crate::config::plan::{BrokerLimits, SessionsPlan};
use crate::disk::ledger::{Committed, Kept, Ledger};
use crate::flow::clock::Clock;
use crate::flow::command::CommandEntry;
use crate::flow::forward::ForwardEntry;
use crate::model::lock::Hold as _;
use crate::model::topic::Ownership;
use crate::road::inside::Pressure;
pub(super) use coming::{Entered, Leaving, Newcomer};
pub use forwarding::NotTaken;
pub(super) use forwarding::Stored;
use owing::Refused;
pub(super) use owing::Room;
pub(super) use places::{PlaceKind, Shortage};
pub use rejudging::Rejudged;
pub(super) use routing::delivery;
pub(super) use subscribing::NOT_AUTHORIZED;

/// Deliveries of the gateway's own messages for which the lock is held at a time.
const PAGE: usize = 256;

/// Retained messages for a subscriber for which the lock is held at a time.
const PAGE_RETAINED: usize = 64;

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
    pub bounds: SessionsPlan,
    /// What all sessions are owed.
    pub owed: Arc<Total>,
    /// Version of the retained messages, all of which have been put into the outboxes they are for.
    pub in_step: AtomicU64,
    /// What one client may have.
    pub limits: BrokerLimits,
    /// Bytes in all outboxes.
    pub waiting: Arc<AtomicUsize>,
    /// What the log hears of clients.
    pub talk: Talk,
    /// Cancelled when a task panicked without which the broker has no point.
    pub lost: CancellationToken,
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
    pub bounds: SessionsPlan,
}

#[derive(Default)]
struct Core {
    clients: Clients,
    tree: Tree,
    retained: Retained,
    /// Topics whose retained messages lie on disk and are not available.
    unserved: HashSet<Arc<str>>,
    /// Clearings that were not noted: see [`Shared::may_be_kept`].
    unnoted: u64,
    open_ends: retaining::OpenEnds,
    wills: Waiting,
    looks: Vec<overdue::Look>,
    /// Sessions with a connection.
    connected: usize,
    /// Sessions that the ledger knows.
    sessions: places::Places,
    /// What filters take, in bytes as if nobody else had the like.
    filters: places::Places,
    /// Sessions that have ended since it was looked last, and of which it had been told that there was no room.
    ended_full: Vec<Arc<str>>,
    stopping: bool,
    // Scratch of `route`, kept to spare the allocations.
    found: Found,
    deliveries: Vec<(ClientKey, Delivery)>,
    page: Vec<Arc<Message>>,
    routed: u64,
}

/// What became of a publish.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Clients it is on its way to.
    pub receivers: usize,
    /// Somebody subscribes to its topic, be it the publisher alone who does not want its own.
    pub wanted: bool,
    /// Some client gets it in a turn of its own.
    pub waits: bool,
    /// To be awaited before it is acknowledged, if it must be on disk by then.
    pub committed: Option<Committed>,
    /// Its packet identifier stands in the ledger.
    pub owed: bool,
}

/// Where a message comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub client: ClientKey,
    /// Who that is, also when its session has just been taken from it; `None`: nobody of this broker's.
    pub who: Option<&'a Identity>,
    /// At QoS 2.
    pub packet_id: Option<u16>,
    pub company: Company,
    /// Where it hears who has too much of what it says.
    pub pressure: Option<&'a Arc<Pressure>>,
    /// That it came down by.
    pub bridge: Option<&'a Arc<str>>,
}

impl Origin<'_> {
    /// It waits for an acknowledgement, and sends again what is refused. Another broker does neither: what is refused would
    /// hold up for ever all that comes behind it.
    fn hears_of_refusal(&self, qos: Qos) -> bool {
        self.who.is_some() && qos > Qos::AtMostOnce
    }
}

/// How a message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// More may be behind it, which are written together with it.
    InRow,
    /// Nothing else has come from its sender for now.
    Alone,
}

/// Who a message is from.
#[derive(Debug, Clone, Copy)]
enum Sender<'a> {
    Gateway,
    Client(Origin<'a>),
    /// It has left the message as its will.
    Gone(&'a Identity),
}

impl<'a> Sender<'a> {
    const fn who(self) -> Option<&'a Identity> {
        match self {
            Self::Gateway => None,
            Self::Client(from) => from.who,
            Self::Gone(who) => Some(who),
        }
    }
}

/// A publish that was neither kept nor sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No more retained messages of clients.
    NoRoom,
    /// It would be owed to a session, and the disk does not work.
    Disk,
}

impl Shared {
    /// With what the disk held.
    pub(super) fn new(around: Surroundings, kept: Vec<keeping::Found>, sessions: Vec<Kept>) -> Self {
        let mut core = Core::default();
        for found in kept {
            if !core.take_found(found) {
                break;
            }
        }
        let Surroundings { access, ownership, commands, forward, clock, disk, bounds } = around;
        let shared = Self {
            core: Mutex::default(),
            stats: Arc::default(),
            access,
            ownership,
            commands,
            forward,
            clock,
            disk,
            bounds,
            limits: BrokerLimits::default(),
            owed: Arc::new(Total::new(&bounds)),
            in_step: AtomicU64::new(0),
            waiting: Arc::default(),
            talk: Talk::default(),
            lost: CancellationToken::new(),
            ids: AtomicU64::new(0),
            queueing: AtomicUsize::new(0),
        };
        core.open_ends.unnumbered |= !shared.clock.is_numbered();
        shared.take_in(&mut core, sessions);
        *shared.lock() = core;
        shared
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.queueing.fetch_add(1, Ordering::Relaxed);
        let core = self.core.hold();
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

    /// Is what a client has left retained still to be sent? Rules may have changed since.
    fn stands(&self, source: &Identity, topic: &str) -> bool {
        !self.limits.check_retain_source || self.access.may_write(source, topic)
    }

    /// A client's message. Refused, it was neither kept nor sent on.
    pub(super) fn publish(
        &self,
        message: &Arc<Message>,
        retain: Retain,
        from: Origin<'_>,
    ) -> Result<Published, Refusal> {
        self.keep_and_route(&mut self.lock(), message, retain, Sender::Client(from))
    }

    fn keep_and_route(
        &self,
        core: &mut Core,
        message: &Arc<Message>,
        retain: Retain,
        sender: Sender<'_>,
    ) -> Result<Published, Refusal> {
        let from = if let Sender::Client(from) = sender { Some(from) } else { None };
        let source = sender.who();
        // A will is of the connection that left it, and its session may still be there, or again (No Local, 3.8.3-3).
        let publisher = match sender {
            Sender::Gone(who) => core.clients.with_id(who.client()),
            Sender::Gateway | Sender::Client(_) => from.map(|from| from.client),
        };
        let durable = core.find(message, retain, publisher, &self.bounds);
        let is_kept = retain == Retain::Yes && message.keep == Keep::Every;
        let forgets = is_kept && (!core.retained.has_room(message, source) || self.disk.is_crowded());
        if forgets && from.is_some_and(|from| from.hears_of_refusal(message.qos)) {
            core.deliveries.clear();
            return Err(Refusal::NoRoom);
        }
        let receivers = core.deliveries.len();
        let wanted = !core.found.single.is_empty() || !core.found.shared.is_empty();
        let received =
            from.and_then(|from| Some((core.clients.get(from.client)?.durable.as_ref()?.tally.id, from.packet_id?)));
        // Nothing is entered for a topic that nobody has kept anything on: there would be no end to them.
        let clears = message.payload.is_empty() || forgets;
        let row = (is_kept && (!clears || self.may_be_kept(core, &message.topic)))
            .then(|| (!clears).then(|| keeping::row(message, source, &self.clock)));
        let enter = |debts: &_| {
            let body = keeping::owed_row(message, &self.clock);
            match row.clone() {
                None => self.disk.owe(body, debts, received),
                Some(row) => self.disk.owe_retained(body, debts, received, row),
            }
        };
        let refused = if from.is_some() { Refused::ComesAgain } else { Refused::IsSeen };
        let entered = if durable { self.owe(core, refused, enter) } else { Ok(None) };
        // Whoever waits for an acknowledgement is refused; of all others each session is served that is there.
        if entered.is_err() && from.is_some() {
            core.deliveries.clear();
            return Err(Refusal::Disk);
        }
        if forgets {
            self.not_kept(core, &message.topic, sender);
        } else {
            self.keep(core, message, retain, sender);
        }
        let entered = entered.unwrap_or(None);
        let owed = entered.is_some();
        let committed = match row {
            None => entered,
            Some(_) if owed => entered,
            Some(row) if message.qos == Qos::AtMostOnce || from.is_none() => {
                self.disk.change_at_leisure(Arc::clone(&message.topic), row);
                None
            }
            Some(row) => Some(self.disk.change(Arc::clone(&message.topic), row)),
        };
        if retain == Retain::Yes {
            self.stats.retained.set(core.retained.len() as u64);
        }
        let waits = core.deliver(&self.stats, from);
        Ok(Published { receivers, wanted, waits, committed, owed })
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
                let published = self.keep_and_route(&mut core, message, retain, Sender::Gateway);
                debug_assert!(published.is_ok(), "the gateway finds room");
                deliveries += 1 + published.map_or(0, |published| published.receivers);
            }
            self.in_step.store(core.retained.version(), Ordering::Release);
            drop(core);
            self.let_others_in();
        }
    }

    /// What time brings: wills that are due, sessions and retained messages that have expired. Says for which sessions there
    /// is no more room, or room again.
    pub(super) fn tick(&self, now: Instant) -> Vec<(Arc<str>, Room)> {
        let mut core = self.lock();
        for will in core.wills.due(now) {
            self.publish_will(&mut core, will, now);
        }
        self.give_up(&core);
        self.end_sessions(&mut core, now);
        self.judge_again(&mut core);
        for topic in core.retained.expire(Instant::now()) {
            self.stats.dropped_expired.one();
            self.disk.change_at_leisure(topic, None);
        }
        self.stats.retained.set(core.retained.len() as u64);
        self.make_room(&mut core, now);
        self.watch_room(&mut core, now)
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
        self.count_dropped(&mut core);
        for connected in core.clients.all().filter_map(|(_, client)| client.connected()) {
            connected.outbox.end(Ending::Stopping);
        }
    }
}
