//! The core's side of the ledger: sessions put into it, messages entered as owed, sessions found in it at start.
//!
//! Everything is entered under the core's lock, so that the ledger has it in the order in which it happened; entering never
//! waits for the disk.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::subscribing::split;
use super::{Core, Shared};
use crate::access::{Holder, Identity};
use crate::broker::clients::{Away, Carried, Client, Ends, Presence};
use crate::broker::durable::{Durable, Tally};
use crate::broker::keeping;
use crate::broker::message::{Delivery, Keep, Owed, Qos, Retain};
use crate::broker::outbox::Outbox;
use crate::broker::retained::{Look, Rest, Walk};
use crate::broker::session::{Ending, Passing, Received, Unreleased};
use crate::broker::tree::{ClientKey, Subscription};
use crate::config::plan::SessionsPlan;
use crate::disk::ledger::{Committed, Kept, NotCommitted, Owing, SessionId, SessionRow, SubscriptionRow};

/// In the options of a row: retained messages are still to be sent.
pub(super) const UNFINISHED: u8 = 1 << 4;

/// What becomes of a message that the ledger refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its sender is told.
    ComesAgain,
    /// Whoever is there gets it, and nobody is owed it.
    IsSeen,
}

/// What one message is to leave in the ledger.
#[derive(Default)]
struct Numbered {
    debts: Vec<(SessionId, Owing)>,
    /// Whose sessions have no room for it.
    full: Vec<ClientKey>,
}

impl Shared {
    /// Puts a session into the ledger as it is now, if it belongs there.
    pub(super) fn tell_ledger(&self, client: &mut Client) {
        let Some(durable) = &mut client.durable else { return };
        durable.written();
        self.disk.session(SessionRow {
            id: durable.tally.id,
            client_id: Arc::clone(&client.id),
            owner: Arc::clone(&client.owner),
            version: durable.version,
            expiry_s: client.expiry,
            left_unix_ms: durable.left_unix_ms,
            dropped: durable.dropped,
            sent_below: durable.sent_below_of(&client.presence),
        });
    }

    /// The same, with what belongs to it.
    pub(super) fn tell_ledger_all(&self, client: &mut Client) {
        self.tell_ledger(client);
        let Some(durable) = &client.durable else { return };
        for (raw, subscription) in &client.filters {
            let row = row_of(durable, Arc::clone(raw), subscription);
            self.disk.subscription(durable.tally.id, Arc::clone(raw), Some(row));
        }
        if let Some(remembered) = &client.sensor {
            self.disk.sensor(durable.tally.id, keeping::sensor_row(remembered));
        }
    }

    /// The client has acknowledged it, or it need not be sent any more.
    pub(in crate::broker) fn settle(&self, tally: &Tally, owed: Owed) {
        if self.disk.settle(tally.id, owed.ordinal) {
            tally.less(owed.cost);
        }
    }

    /// It has arrived at QoS 2; PUBREL waits for the commit.
    pub(in crate::broker) fn release(&self, tally: &Tally, owed: Owed) -> Committed {
        tally.released(owed);
        self.disk.release(tally.id, owed.ordinal)
    }

    /// A connection has nothing at hand, and nothing in flight: mends what may have been left in the sum. Whoever enters a
    /// message has the lock from its charge until it lies in the outbox, so here nothing is between the two.
    pub(in crate::broker) fn nothing_is_owed(&self, tally: &Tally, outbox: &Outbox) {
        if tally.now() == (0, 0) {
            return;
        }
        let core = self.lock();
        if outbox.is_clear() {
            tally.clear();
        }
        drop(core);
    }

    /// Takes off the sums what could not be committed.
    pub(super) fn give_up(&self, core: &Core) {
        let given_up = self.disk.given_up();
        if given_up.is_empty() {
            return;
        }
        for durable in core.clients.all().filter_map(|(_, client)| client.durable.as_ref()) {
            if let Some(given_up) = given_up.get(&durable.tally.id) {
                durable.tally.given_up(*given_up);
            }
        }
    }

    /// Enters the deliveries of a message as owed to sessions. Where there is no room, a client that keeps up gets it all the
    /// same, and the others' are struck out, and counted. Refused: none is owed; and none is counted of what its sender sends
    /// again.
    pub(super) fn owe(
        &self,
        core: &mut Core,
        refused: Refused,
        enter: impl FnOnce(&[(SessionId, Owing)]) -> Result<Committed, NotCommitted>,
    ) -> Result<Option<Committed>, NotCommitted> {
        let Numbered { debts, full } = core.number(&self.bounds);
        let entered = if debts.is_empty() { Ok(None) } else { enter(&debts).map(Some) };
        if entered.is_err() {
            core.take_back();
            if refused == Refused::ComesAgain {
                return entered;
            }
        }
        for key in full {
            if let Some(durable) = core.clients.get_mut(key).and_then(|client| client.durable.as_mut()) {
                durable.dropped += 1;
                self.stats.dropped_full.one();
            }
        }
        entered
    }

    /// The next retained messages for a subscriber. Clients' own are owed to a session that outlives its connection.
    pub(in crate::broker) fn page(
        &self,
        seat: (ClientKey, &Outbox),
        walk: &mut Walk,
        into: &mut Vec<Delivery>,
    ) -> Rest {
        let (key, outbox) = seat;
        let mut guard = self.lock();
        let core = &mut *guard;
        // New rules may have taken the subscription away meanwhile.
        if core.clients.get(key).is_none_or(|client| !client.filters.contains_key(&walk.cursor.filter())) {
            return Rest::Nothing;
        }
        let mut messages = std::mem::take(&mut core.page);
        let stands = |source: &Identity, topic: &str| self.stands(source, topic);
        let (most, qos, now) = (super::PAGE_RETAINED, walk.subscription.qos, Instant::now());
        let rest = core.retained.page(&mut walk.cursor, &Look { most, qos, now, stands: &stands }, &mut messages);
        let mut durable = core.clients.get_mut(key).and_then(|client| client.durable.as_mut());
        for message in messages.drain(..) {
            let mut delivery = super::delivery(&message, &walk.subscription, Retain::Yes);
            if let Some(durable) = durable.as_mut().filter(|_| is_owed(&delivery))
                && let Some(owed) = durable.owe(&delivery, &self.bounds)
            {
                let owing = keeping::owing(&delivery, owed.ordinal);
                let to = [(durable.tally.id, owing)];
                // Nobody waits for it: the messages themselves are on disk already.
                match self.disk.owe(keeping::owed_row(&message, &self.clock), &to, None) {
                    Ok(_committed) if outbox.leaves_to_ledger(owed.ordinal) => continue,
                    Ok(_committed) => delivery.owed = Some(owed),
                    Err(NotCommitted) => durable.tally.less(owed.cost),
                }
            }
            into.push(delivery);
        }
        core.page = messages;
        if rest == Rest::Nothing {
            self.end_walk(core, key, &walk.cursor.filter());
        }
        rest
    }

    /// All that a new subscription is to get has been entered, or is on its way: the row of the subscription says so.
    fn end_walk(&self, core: &mut Core, key: ClientKey, filter: &Arc<str>) {
        if let Some(client) = core.clients.get_mut(key)
            && let (Some(durable), Some(subscription)) = (&mut client.durable, client.filters.get(filter))
            && durable.walking.remove(filter)
        {
            let row = row_of(durable, Arc::clone(filter), subscription);
            self.disk.subscription(durable.tally.id, Arc::clone(filter), Some(row));
        }
    }

    /// A client's publish is over; PUBCOMP waits for the commit.
    pub(in crate::broker) fn finish(&self, tally: &Tally, packet_id: u16) -> Committed {
        self.disk.finish(tally.id, packet_id)
    }

    /// A packet identifier stands for something else from now on, and nothing waits for that.
    pub(in crate::broker) fn disown(&self, tally: &Tally, packet_id: u16) {
        self.disk.disown(tally.id, packet_id);
    }

    /// Sessions that were on disk. Should the file have been read late, a client that came meanwhile without a session has
    /// ended its own; a stranger that came with the client id of a session must go.
    pub(super) fn take_in(&self, core: &mut Core, mut found: Vec<Kept>) {
        let now = Instant::now();
        // Should there be more than there is room for, those who have little keep it.
        found.sort_by_cached_key(|kept| kept.subscriptions.iter().map(|row| row.filter.len()).sum::<usize>());
        for kept in found {
            if let Some(key) = core.clients.with_id(&kept.session.client_id)
                && let Some(client) = core.clients.get(key)
            {
                if client.owner == kept.session.owner {
                    self.disk.forget(kept.session.id);
                    self.stats.dropped_ended.add(kept.owed_count);
                    continue;
                }
                if let Some(connected) = client.connected() {
                    connected.outbox.end(Ending::NotAllowed);
                }
                tracing::warn!(client = &*client.id, "client must go, its id is that of somebody else's session");
                self.end_session(core, key, now);
            }
            core.sessions.take(&kept.session.owner, 1);
            let client = client(&kept, Durable::found(&kept, &self.owed), now);
            let key = core.clients.add(client);
            // Rules may have changed while the gateway was off, and what comes from now on is owed to it.
            let holder = Holder { owner: &kept.session.owner, client: &kept.session.client_id };
            let mut left_out = kept.left_out;
            for row in &kept.subscriptions {
                if split(&row.filter).is_some_and(|(_, filter)| self.access.owner_may_read(holder, filter)) {
                    if core.restore(key, row) {
                        continue;
                    }
                    left_out += 1;
                } else {
                    self.access.subscription_removed(holder, &row.filter);
                }
                self.disk.subscription(kept.session.id, Arc::clone(&row.filter), None);
            }
            if left_out > 0 {
                let client = &*kept.session.client_id;
                tracing::warn!(client, left_out, "no room for subscriptions of a session that were on disk");
                self.stats.subscriptions_left_out.add(left_out);
            }
        }
    }

    /// The ledger was damaged: a new one is begun with what is known here; says how many messages that were owed are lost.
    ///
    /// Packet identifiers that were received are not entered again: should the gateway be cut off before their PUBREL, such
    /// a message may be taken twice.
    pub(in crate::broker) fn begin_anew(&self) -> u64 {
        let mut core = self.lock();
        self.disk.begin_anew();
        for (message, source) in core.retained.of_clients() {
            let row = keeping::row(message, source, &self.clock);
            self.disk.change_at_leisure(Arc::clone(&message.topic), Some(row));
        }
        let mut lost = 0;
        for (_, client) in core.clients.all_mut() {
            self.tell_ledger_all(client);
            let Some(durable) = &client.durable else { continue };
            lost += durable.tally.now().0;
            durable.tally.clear();
            self.disk.ordinals_below(durable.tally.id, durable.next());
        }
        self.stats.dropped_ended.add(lost);
        lost
    }

    /// Tells of sessions for which there is no room, and of those for which there is room again or that are no more. What was
    /// dropped is in the ledger soon: the client is told of it, whatever happens to the gateway before.
    pub(super) fn watch_room(&self, core: &mut Core, now: Instant) -> Vec<(Arc<str>, Room)> {
        let mut changed: Vec<_> = core.ended_full.drain(..).map(|id| (id, Room::Ended)).collect();
        for (_, client) in core.clients.all_mut() {
            let Some(durable) = &mut client.durable else { continue };
            if !durable.full && durable.dropped > durable.noticed {
                (durable.full, durable.noticed) = (true, durable.dropped);
                changed.push((Arc::clone(&client.id), Room::Full { dropped: durable.dropped }));
                self.tell_ledger(client);
            } else if durable.full && durable.has_room(&self.bounds) {
                durable.roomy_again();
                changed.push((Arc::clone(&client.id), Room::Again));
                self.tell_ledger(client);
            } else if durable.is_due(now) {
                self.tell_ledger(client);
            }
        }
        changed
    }

    /// The gateway stops: what was dropped since a session's row was written is put into it.
    pub(super) fn count_dropped(&self, core: &mut Core) {
        for (_, client) in core.clients.all_mut() {
            self.stats.dropped_full.add(client.forget_passing());
            if client.durable.as_ref().is_some_and(|durable| durable.is_miscounted()) {
                self.tell_ledger(client);
            }
        }
    }
}

/// Of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Room {
    Full {
        dropped: u64,
    },
    Again,
    /// There was none, and now it needs none.
    Ended,
}

impl Core {
    /// Numbers the deliveries of a message that sessions will be owed. Those that have no room are struck out where they would
    /// wait; a client that is there and keeps up is sent them without being owed them.
    fn number(&mut self, bounds: &SessionsPlan) -> Numbered {
        let mut numbered = Numbered::default();
        let Self { clients, deliveries, .. } = self;
        deliveries.retain_mut(|(key, delivery)| {
            if !is_owed(delivery) {
                return true;
            }
            let Some(client) = clients.get_mut(*key) else { return false };
            let Some(durable) = &mut client.durable else { return true };
            delivery.owed = durable.owe(delivery, bounds);
            if let Some(owed) = delivery.owed {
                numbered.debts.push((durable.tally.id, keeping::owing(delivery, owed.ordinal)));
                return true;
            }
            let is_seen = client.connected().is_some_and(|connected| connected.outbox.is_in_step());
            if !is_seen {
                numbered.full.push(*key);
            }
            is_seen
        });
        numbered
    }

    /// The ledger has refused them.
    fn take_back(&mut self) {
        for (key, delivery) in &mut self.deliveries {
            if let Some(owed) = delivery.owed.take()
                && let Some(durable) = self.clients.get(*key).and_then(|client| client.durable.as_ref())
            {
                durable.tally.less(owed.cost);
            }
        }
    }
}

/// Must it be kept until the client acknowledges it?
fn is_owed(delivery: &Delivery) -> bool {
    delivery.qos > Qos::AtMostOnce && delivery.message.keep == Keep::Every
}

fn client(kept: &Kept, durable: Durable, now: Instant) -> Client {
    let session = &kept.session;
    let mut away = Away::new(session.expiry_s, now);
    if let (Some(left), Ends::At(_)) = (session.left_unix_ms, away.ends) {
        away.ends = Ends::AtWall(left.saturating_add(i64::from(session.expiry_s) * 1000));
    }
    let found = |id: &u16| Unreleased { packet_id: *id, received: Received::Found, content: None };
    let received = kept.received.iter().map(found).collect();
    Client {
        id: Arc::clone(&session.client_id),
        owner: Arc::clone(&session.owner),
        identity: None,
        expiry: session.expiry_s,
        presence: Presence::Away(away),
        filters: HashMap::new(),
        cost: 0,
        seen: (0, 0),
        carried: Carried { received, passing: Passing::unknown(rand::random()), ..Carried::default() },
        sensor: kept.sensor.as_ref().map(|row| Box::new(keeping::remembered(row))),
        durable: Some(Box::new(durable)),
    }
}

/// A subscription as a row.
pub(super) fn row_of(durable: &Durable, filter: Arc<str>, subscription: &Subscription) -> SubscriptionRow {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let options = subscription.qos.bits()
        | flag(subscription.no_local, 4)
        | flag(subscription.retain_as_published, 8)
        | flag(durable.walking.contains(&filter), UNFINISHED);
    SubscriptionRow { filter, options, identifier: subscription.id }
}
