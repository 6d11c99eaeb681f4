//! Clients that come and go; sessions that begin, are taken up again and end.
//!
//! A session has at most one connection. Who comes with the id of a connected client takes its place: the old connection is
//! told to end, and the new one waits until the old has let go, so that what the client said before it came anew counts (its
//! goodbye, too), and nothing of its state is known to two at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::places::Bound;
use super::subscribing::split;
use super::{Core, NOT_AUTHORIZED, Shared};
use crate::access::{ANONYMOUS, Holder, Identity};
use crate::broker::clients::{Away, Carried, Client, Connected, Presence};
use crate::broker::durable::{Durable, Tally};
use crate::broker::message::Qos;
use crate::broker::outbox::Outbox;
use crate::broker::retained::{Unfinished, Walk};
use crate::broker::session::{Course, Ending, Passing, Unreleased};
use crate::broker::tree::{ClientKey, Subscription};
use crate::broker::will::LastWill;

/// How long a connection may take to let go of its session; it does no more than finish what it is at.
const HANDOVER_MAX: Duration = Duration::from_secs(5);

/// When a client left is told the ledger again if the clock was set by more.
const LEFT_STEP_MS: u64 = 60_000;

/// Reasons for CONNACK (MQTT 5, section 3.2.2.2).
const IDENTIFIER_NOT_VALID: u8 = 0x85;
const UNAVAILABLE: u8 = 0x88;
const BUSY: u8 = 0x89;
const SHUTTING_DOWN: u8 = 0x8B;
const QUOTA_EXCEEDED: u8 = 0x97;

/// A client that has passed the door.
pub(in crate::broker) struct Newcomer {
    pub id: Arc<str>,
    pub identity: Identity,
    /// Protocol level of its CONNECT.
    pub version: u8,
    pub clean_start: bool,
    /// Seconds the session is to outlive the connection; `u32::MAX`: for ever.
    pub expiry: u32,
    pub will: Option<LastWill>,
    pub outbox: Arc<Outbox>,
}

/// It is in.
pub(in crate::broker) struct Entered {
    pub key: ClientKey,
    /// It goes on with a session that was there.
    pub present: bool,
    /// What it is owed, if its session outlives connections.
    pub tally: Option<Arc<Tally>>,
    pub course: Course,
    pub received: Vec<Unreleased>,
    pub passing: Passing,
    pub walks: Vec<Walk>,
    pub in_step: u64,
    /// Messages that found no room for it since it was told last.
    pub dropped: u64,
    /// For it a session has ended that lies in the ledger.
    pub ended: bool,
}

/// How a connection ended; if nobody says otherwise, it was lost.
#[derive(Debug)]
pub(in crate::broker) struct Leaving {
    pub ending: Ending,
    /// What DISCONNECT asked for instead of what CONNECT had.
    pub expiry: Option<u32>,
    pub carried: Carried,
}

impl Default for Leaving {
    fn default() -> Self {
        Self { ending: Ending::Lost, expiry: None, carried: Carried::default() }
    }
}

enum Attempt {
    In(Box<Entered>),
    Refused(u8),
    /// The connection before, whose outbox this is, has to let go first.
    Wait(Box<Newcomer>, Arc<Outbox>),
}

impl Shared {
    /// An id for a client that brought none.
    pub(in crate::broker) fn assign_id(&self) -> String {
        let [first, second]: [u64; 2] = [rand::random(), self.ids.fetch_add(1, Ordering::Relaxed)];
        let (a, b, c) = (first >> 32, (first >> 16) & 0xFFFF, first & 0xFFFF);
        format!("auto-{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", (second >> 48) & 0xFFFF, second & 0xFFFF_FFFF_FFFF)
    }

    /// Takes a client in; whoever has the same id must go. The error is CONNACK's reason. Cancelled, nobody has entered.
    pub(in crate::broker) async fn enter(&self, mut newcomer: Newcomer) -> Result<Box<Entered>, u8> {
        let deadline = Instant::now() + HANDOVER_MAX;
        loop {
            let before;
            (newcomer, before) = match self.try_to_enter(newcomer, deadline) {
                Attempt::In(entered) => return Ok(entered),
                Attempt::Refused(reason) => return Err(reason),
                Attempt::Wait(newcomer, before) => (*newcomer, before),
            };
            // Too late, it is tried once more: see there.
            let _ = tokio::time::timeout_at(deadline, before.left()).await;
        }
    }

    fn try_to_enter(&self, mut newcomer: Newcomer, deadline: Instant) -> Attempt {
        let now = Instant::now();
        let owner = newcomer.identity.owner();
        let mut guard = self.lock();
        let core = &mut *guard;
        if core.stopping {
            return Attempt::Refused(SHUTTING_DOWN);
        }
        // Checking its password took a while; users may have been replaced since, and those inside judged already.
        if !self.access.is_admitted(&newcomer.identity) {
            return Attempt::Refused(NOT_AUTHORIZED);
        }
        newcomer.will = newcomer.will.take().and_then(|will| self.judged(will));
        // It may have a session in the file that could not be read yet; begun anew, all it is owed there would be lost.
        if newcomer.expiry > 0 && !self.disk.is_known() {
            return Attempt::Refused(UNAVAILABLE);
        }
        if let Some((key, client)) =
            core.clients.with_id(&newcomer.id).and_then(|key| Some((key, core.clients.get(key)?)))
        {
            if client.owner != owner {
                // What nobody in particular left behind yields to whoever has a name: else the clients of a gateway that
                // gets users would be locked out by sessions of their own.
                if &*client.owner != ANONYMOUS || newcomer.identity.name().is_none() || client.connected().is_some() {
                    return Attempt::Refused(IDENTIFIER_NOT_VALID);
                }
                let ended = self.end_session(core, key, now);
                return self.begin(core, (newcomer, owner), ended);
            }
            let goes_on = !newcomer.clean_start && client.expiry > 0 && !self.is_over(client, now);
            if let Some(connected) = client.connected() {
                connected.outbox.end(Ending::TakenOver);
                if now < deadline {
                    return Attempt::Wait(Box::new(newcomer), Arc::clone(&connected.outbox));
                }
                if goes_on {
                    return Attempt::Refused(BUSY);
                }
            }
            if goes_on {
                if !core.wills.charge(&newcomer.id, newcomer.will.as_mut()) {
                    return Attempt::Refused(QUOTA_EXCEEDED);
                }
                return self.take_up(core, key, newcomer).map_or(Attempt::Refused(BUSY), Attempt::In);
            }
            let ended = self.end_session(core, key, now);
            return self.begin(core, (newcomer, owner), ended);
        }
        self.begin(core, (newcomer, owner), false)
    }

    /// A connection has ended.
    pub(in crate::broker) fn leave(&self, key: ClientKey, outbox: &Arc<Outbox>, mut leaving: Leaving) {
        let mut left = std::mem::take(&mut leaving.carried.left);
        self.let_go(key, outbox, leaving);
        left.extend(outbox.for_others());
        self.hand_on(&left);
        outbox.let_go();
    }

    /// Nothing happens if its session ended before.
    fn let_go(&self, key: ClientKey, outbox: &Arc<Outbox>, leaving: Leaving) {
        let now = Instant::now();
        let Leaving { ending, expiry, carried } = leaving;
        let mut guard = self.lock();
        let core = &mut *guard;
        let stopping = core.stopping;
        let Some(client) = core.clients.get_mut(key) else {
            return;
        };
        let Presence::Here(connected) = &mut client.presence else {
            return;
        };
        if !Arc::ptr_eq(&connected.outbox, outbox) {
            return;
        }
        let will = connected.will.take().filter(|_| ending != Ending::Goodbye);
        let expiry = expiry.map_or(client.expiry, |wanted| wanted.min(self.bounds.session_expiry_max));
        client.expiry = expiry;
        client.presence = Presence::Away(Away::new(expiry, now));
        if let Some(durable) = &mut client.durable {
            durable.sent_below = durable.sent_below.max(carried.sent_below);
            (durable.left_at, durable.left_unix_ms) = (Some(self.clock.now()), self.vouched_wall());
            let lost = outbox.lost();
            durable.dropped += carried.lost + lost.all;
            self.stats.dropped_full.add(carried.lost + lost.all - lost.counted);
        }
        client.carried = carried;
        if stopping {
            self.stats.dropped_full.add(client.forget_passing());
        }
        if expiry > 0 {
            self.tell_ledger(client);
        }
        let id = Arc::clone(&client.id);
        core.connected -= 1;
        let at_once = will.and_then(|will| if stopping { Some(will) } else { core.wills.add(id, will, expiry, now) });
        if let Some(will) = at_once {
            self.publish_will(core, will, now);
        }
        if expiry == 0 {
            self.end_session(core, key, now);
        }
        self.count(core);
    }

    /// Ends sessions whose clients have stayed away for too long; those that left when nobody could vouch for the clock
    /// get the time of it now, and so do those that left before it was set right.
    pub(super) fn end_sessions(&self, core: &mut Core, now: Instant) {
        let over = |client: &Client| self.is_over(client, now);
        let over: Vec<ClientKey> = core.clients.all().filter(|(_, client)| over(client)).map(|(key, _)| key).collect();
        for key in over {
            self.end_session(core, key, now);
            self.stats.sessions_expired.one();
        }
        if let Some(wall) = self.vouched_wall() {
            for (_, client) in core.clients.all_mut() {
                let (Presence::Away(away), Some(durable)) = (&client.presence, &mut client.durable) else { continue };
                let left = match (durable.left_at, durable.left_unix_ms) {
                    (Some(at), _) => self.clock.wall(at).unix_ms,
                    (None, None) => {
                        wall.saturating_sub(i64::try_from((now - away.since).as_millis()).unwrap_or(i64::MAX))
                    }
                    (None, Some(_)) => continue, // before this process began
                };
                if durable.left_unix_ms.is_none_or(|known| known.abs_diff(left) > LEFT_STEP_MS) {
                    durable.left_unix_ms = Some(left);
                    self.tell_ledger(client);
                }
            }
        }
        self.count(core);
    }

    fn is_over(&self, client: &Client, now: Instant) -> bool {
        match &client.presence {
            Presence::Here(_) => false,
            Presence::Away(away) => away.is_over(now, self.vouched_wall()),
        }
    }

    /// ms since 1970, if somebody vouches for it.
    fn vouched_wall(&self) -> Option<i64> {
        let wall = self.clock.wall_now();
        wall.certainty.is_fixed().then_some(wall.unix_ms)
    }

    /// Takes a session out, and sends the will that waited for its end (3.1.3.2.2). Did it lie in the ledger?
    pub(super) fn end_session(&self, core: &mut Core, key: ClientKey, now: Instant) -> bool {
        let Some(client) = core.take_out(key) else { return false };
        if let Some(durable) = &client.durable {
            self.disk.forget(durable.tally.id);
            let (owed, _) = durable.tally.now();
            self.stats.dropped_ended.add(owed + client.carried.passing.lost());
            durable.tally.clear();
            core.ended_full.extend(durable.full.then(|| Arc::clone(&client.id)));
        }
        let mut wills = Vec::from_iter(core.wills.call_back(&client.id));
        if let Presence::Here(connected) = client.presence {
            core.connected -= 1;
            wills.extend(connected.will);
        }
        for will in wills {
            self.publish_will(core, will, now);
        }
        self.count(core);
        client.durable.is_some()
    }

    fn begin(&self, core: &mut Core, (newcomer, owner): (Newcomer, Arc<str>), ended: bool) -> Attempt {
        let Newcomer { id, identity, version, expiry, mut will, outbox, .. } = newcomer;
        let identity = Some(identity);
        let is_full = expiry > 0 && (self.disk.is_crowded() || !self.has_room_for_session(core, &owner));
        if is_full || !core.wills.charge(&id, will.as_mut()) {
            return Attempt::Refused(QUOTA_EXCEEDED);
        }
        let durable = (expiry > 0).then(|| Box::new(Durable::new(self.disk.new_session(), version, &self.owed)));
        core.sessions.take(&owner, usize::from(durable.is_some()));
        let tally = durable.as_ref().map(|durable| Arc::clone(&durable.tally));
        let presence = Presence::Here(Connected { outbox, will });
        let (filters, carried) = (HashMap::new(), Carried::default());
        let mut client = Client {
            id,
            owner,
            identity,
            expiry,
            presence,
            filters,
            cost: 0,
            seen: (0, 0),
            carried,
            sensor: None,
            durable,
        };
        self.tell_ledger(&mut client);
        core.connected += 1;
        let key = core.clients.add(client);
        self.count(core);
        let (course, in_step) = (Course::new(0, 0), core.retained.version());
        let (received, passing, walks) = (Vec::new(), Passing::default(), Vec::new());
        let (present, dropped) = (false, 0);
        let entered = Entered { key, present, tally, course, received, passing, walks, in_step, dropped, ended };
        Attempt::In(Box::new(entered))
    }

    /// One more that outlives its connection.
    pub(super) fn has_room_for_session(&self, core: &mut Core, owner: &str) -> bool {
        let bound = Bound { taken: core.sessions.all(), most: self.bounds.max_sessions };
        core.sessions.has_room(owner, 1, bound)
    }

    /// Goes on with a session. A will that waited is called back (3.1.3-9).
    fn take_up(&self, core: &mut Core, key: ClientKey, newcomer: Newcomer) -> Option<Box<Entered>> {
        let Newcomer { id, identity, version, expiry, will, outbox, .. } = newcomer;
        drop(core.wills.call_back(&id));
        self.take_back(core, key, &identity);
        let client = core.clients.get_mut(key)?;
        client.identity = Some(identity);
        let durable = client.durable.as_mut()?;
        durable.version = version;
        (durable.left_at, durable.left_unix_ms) = (None, None);
        let course = durable.begin(&outbox);
        let owed_below = durable.next();
        let (tally, dropped) = (Some(Arc::clone(&durable.tally)), durable.tell_dropped());
        let Carried { received, passing, unfinished, in_step, .. } = std::mem::take(&mut client.carried);
        let unfinished: HashMap<&str, &Unfinished> = unfinished.iter().map(|walk| (&*walk.filter, walk)).collect();
        let walks = client.filters.iter().filter_map(|(raw, subscription)| {
            let (None, filter) = split(raw)? else { return None };
            // What was sent at QoS 0 may have got lost with the connection.
            let since = if subscription.qos == Qos::AtMostOnce { 0 } else { in_step };
            let cursor = core.retained.cursor_since(filter, since, unfinished.get(filter).copied());
            // What a walk had left to do comes as what was kept.
            let kept = subscription.retain_as_published || unfinished.contains_key(filter);
            let subscription = Subscription { retain_as_published: kept, ..*subscription };
            Some(Walk { cursor, subscription, after: 0, owed_below })
        });
        let walks = walks.collect();
        client.presence = Presence::Here(Connected { outbox, will });
        client.expiry = expiry;
        self.tell_ledger(client);
        core.connected += 1;
        self.count(core);
        let (present, ended) = (true, false);
        Some(Box::new(Entered { key, present, tally, course, received, passing, walks, in_step, dropped, ended }))
    }

    /// Takes away what this identity may not read any more: rules may have changed while nobody was there.
    fn take_back(&self, core: &mut Core, key: ClientKey, identity: &Identity) {
        let Some(client) = core.clients.get(key) else {
            return;
        };
        let lost = |raw: &str| split(raw).is_none_or(|(_, filter)| !self.access.may_read(identity, filter));
        let lost: Vec<Arc<str>> = client.filters.keys().filter(|raw| lost(raw)).map(Arc::clone).collect();
        for raw in lost {
            let holder = Holder { owner: &identity.owner(), client: identity.client() };
            self.access.subscription_removed(holder, &raw);
            self.remove_filter(core, key, &raw);
        }
    }

    fn count(&self, core: &Core) {
        let connected = core.connected as u64;
        self.stats.clients.set(connected);
        self.stats.clients_max.set(self.stats.clients_max.get().max(connected));
        self.stats.sessions_away.set((core.clients.len() - core.connected) as u64);
        self.stats.subscriptions.set(core.tree.count() as u64);
    }
}

impl Core {
    fn take_out(&mut self, key: ClientKey) -> Option<Client> {
        let client = self.clients.remove(key)?;
        for raw in client.filters.keys() {
            if let Some((group, filter)) = split(raw) {
                self.tree.remove(filter, group, key);
            }
        }
        self.filters.give_back(&client.owner, client.cost);
        self.sessions.give_back(&client.owner, usize::from(client.durable.is_some()));
        Some(client)
    }
}
