//! One message to everyone who wants it: once per client, however many of its filters match.

use std::sync::Arc;

use super::Core;
use crate::broker::message::{Delivery, Message, Retain};
use crate::broker::outbox::Put;
use crate::broker::stats::BrokerStats;
use crate::broker::tree::{ClientKey, Subscription};

impl Core {
    /// Puts a message into the outbox of everyone who wants it; returns how many that are.
    pub(super) fn route(
        &mut self,
        message: &Arc<Message>,
        retain: Retain,
        from: Option<ClientKey>,
        stats: &BrokerStats,
    ) -> usize {
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
pub(in crate::broker) fn delivery(message: &Arc<Message>, subscription: &Subscription, retain: Retain) -> Delivery {
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
