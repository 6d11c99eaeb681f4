//! One message to everyone who wants it: once per client, however many of its filters match.

use std::sync::Arc;

use tokio::time::Instant;

use super::owing::Refused;
use super::{Company, Core, Origin, PAGE, Shared};
use crate::broker::clients::{Client, Presence};
use crate::broker::keeping;
use crate::broker::message::{Delivery, Keep, Message, Qos, Retain};
use crate::broker::outbox::Put;
use crate::broker::stats::BrokerStats;
use crate::broker::tree::{ClientKey, Standing, Subscription};
use crate::config::plan::SessionsPlan;
use crate::model::topic::split_share;

/// So many clients are written to in the turn of the one who publishes, with the core's lock held.
const AT_ONCE_MAX: usize = 16;

impl Core {
    /// Finds everyone who wants a message: what each is to get stands in `deliveries` then. May one of them be owed it?
    pub(super) fn find(
        &mut self,
        message: &Arc<Message>,
        retain: Retain,
        from: Option<ClientKey>,
        bounds: &SessionsPlan,
    ) -> bool {
        let Self { found, tree, clients, .. } = self;
        let stand = |member: &Subscription| match clients.get(member.client) {
            Some(client) => standing(client, message, member, bounds),
            None => Standing::Full,
        };
        tree.find(&message.topic, found, &stand);
        self.routed += 1;
        let mut durable = false;
        for subscription in &self.found.single {
            if subscription.no_local && from == Some(subscription.client) {
                continue;
            }
            let Some(client) = self.clients.get_mut(subscription.client) else {
                continue;
            };
            durable |= client.durable.is_some();
            if client.seen.0 == self.routed {
                merge(&mut self.deliveries[client.seen.1].1, message, subscription, retain);
            } else {
                client.seen = (self.routed, self.deliveries.len());
                self.deliveries.push((subscription.client, delivery(message, subscription, retain)));
            }
        }
        for (subscription, group) in &self.found.shared {
            let lasts = self.clients.get(subscription.client).is_some_and(|client| client.durable.is_some());
            durable |= lasts;
            let one = delivery(message, subscription, retain);
            let shared = (!lasts && one.is_fleeting()).then(|| Arc::clone(group));
            self.deliveries.push((subscription.client, Delivery { shared, ..one }));
        }
        durable && message.qos > Qos::AtMostOnce && message.keep == Keep::Every
    }

    /// The same for what a member of a shared group has left: who of it is to get it, and is that owed? `None`: nobody.
    fn find_another(&mut self, left: &Delivery, bounds: &SessionsPlan) -> Option<bool> {
        let group = left.shared.as_ref()?;
        let (name, filter) = split_share(group).ok()??;
        let Self { tree, clients, .. } = self;
        let stand = |member: &Subscription| match clients.get(member.client) {
            Some(client) => standing(client, &left.message, member, bounds),
            None => Standing::Full,
        };
        let member = tree.next_of(filter, name, &stand)?;
        let lasts = clients.get(member.client).is_some_and(|client| client.durable.is_some());
        let one = delivery(&left.message, &member, left.retain);
        let (is_owed, shared) = (lasts && one.is_fleeting(), (!lasts && one.is_fleeting()).then(|| Arc::clone(group)));
        self.deliveries.push((member.client, Delivery { shared, ..one }));
        Some(is_owed)
    }

    /// Puts them into the outboxes of those who are there: does one wait there? What comes alone goes to the first of them
    /// at once.
    pub(super) fn deliver(&mut self, stats: &BrokerStats, from: Option<Origin<'_>>) -> bool {
        let alone = from.is_some_and(|from| from.company == Company::Alone);
        let mut at_once = if alone { AT_ONCE_MAX } else { 0 };
        let mut waits = false;
        for (key, delivery) in self.deliveries.drain(..) {
            let Some(client) = self.clients.get_mut(key) else {
                continue;
            };
            let Presence::Here(connected) = &client.presence else {
                // At QoS 0, and tag values, no client is owed anything while it is away.
                if let Some(durable) = client.durable.as_mut().filter(|_| delivery.is_fleeting()) {
                    durable.dropped += 1;
                    stats.dropped_full.one();
                }
                continue;
            };
            if at_once > 0
                && let Some(bytes) = connected.outbox.send_at_once(&delivery)
            {
                at_once -= 1;
                stats.packets_sent.one();
                stats.publishes_sent.one();
                stats.publish_bytes_sent.add(delivery.message.payload.len() as u64);
                stats.bytes_sent.add(bytes as u64);
                continue;
            }
            waits = true;
            let (owed, fleeting) = (delivery.owed.is_some(), delivery.is_fleeting());
            match connected.outbox.put(delivery) {
                Put::Waits | Put::Behind => {}
                Put::Replaced => stats.conflated.one(),
                Put::LeftOut => stats.dropped_full.one(),
                Put::Overflowed(lost) => stats.dropped_slow.add(lost as u64),
                Put::Closed if owed => {}
                Put::Closed => {
                    stats.dropped_slow.one();
                    if let Some(durable) = client.durable.as_mut().filter(|_| fleeting) {
                        durable.dropped += 1;
                    }
                }
            }
            if let Some(pressure) = from.and_then(|from| from.pressure) {
                connected.outbox.press_if_long(pressure);
            }
        }
        waits
    }
}

impl Shared {
    /// What members of shared groups had not acknowledged when their sessions ended, or may not read any more, goes to others of the same groups (4.8.2);
    /// where there is no other, it is counted. A page at a time: there may be as much as an outbox holds.
    pub(in crate::broker) fn hand_on(&self, left: &[Delivery]) {
        for page in left.chunks(PAGE) {
            let mut guard = self.lock();
            let core = &mut *guard;
            if core.stopping {
                return;
            }
            let now = Instant::now();
            for delivery in page {
                if delivery.message.is_expired(now) {
                    self.stats.dropped_expired.one();
                    continue;
                }
                let Some(is_owed) = core.find_another(delivery, &self.bounds) else {
                    self.stats.dropped_ended.one();
                    continue;
                };
                if is_owed {
                    let body = keeping::owed_row(&delivery.message, &self.clock);
                    // Whoever is there gets it although it cannot be owed; of others it is counted.
                    drop(self.owe(core, Refused::IsSeen, |debts| self.disk.owe(body, debts, None)));
                }
                core.deliver(&self.stats, None);
            }
            drop(guard);
            self.let_others_in();
        }
    }
}

/// How well a member of a shared group can take a message. One that is told to go takes nothing any more.
fn standing(client: &Client, message: &Message, member: &Subscription, bounds: &SessionsPlan) -> Standing {
    let is_owed = message.qos.min(member.qos) > Qos::AtMostOnce && message.keep == Keep::Every;
    let ids = usize::from(member.id.is_some());
    let has_room = client.durable.as_ref().filter(|_| is_owed).map(|durable| durable.takes(message, ids, bounds));
    let connected = client.connected().filter(|connected| connected.outbox.ending().is_none());
    match (connected, has_room) {
        (Some(_), None | Some(true)) => Standing::Here,
        (Some(connected), Some(false)) if connected.outbox.is_in_step() => Standing::Unowed,
        (None, Some(true)) => Standing::Away,
        (Some(_), Some(false)) | (None, _) => Standing::Full,
    }
}

/// What one subscription makes of a message.
pub(in crate::broker) fn delivery(message: &Arc<Message>, subscription: &Subscription, retain: Retain) -> Delivery {
    Delivery {
        message: Arc::clone(message),
        qos: message.qos.min(subscription.qos),
        retain: if subscription.retain_as_published { retain } else { Retain::No },
        ids: subscription.id.into_iter().collect(),
        owed: None,
        shared: None,
        held: None,
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
