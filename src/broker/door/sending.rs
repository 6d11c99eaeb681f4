//! What goes to the client: retained messages for new subscriptions, then what its outbox holds, as far as its window
//! and its socket take it.

use bytes::BytesMut;
use tokio::time::Instant;

use super::duty::Duty;
use crate::broker::core::delivery;
use crate::broker::message::{Delivery, Qos, Retain};
use crate::broker::retained::{Cursor, Rest};
use crate::broker::tree::Subscription;
use crate::broker::wire::Naming;
use crate::broker::wire::encode::Outgoing;

/// Messages taken out of the outbox, or from a page of retained ones, at a time.
const TAKE: usize = 64;

/// Pages of retained messages looked through before others get their turn.
const PAGES: usize = 8;

/// The retained messages for one new subscription.
pub(super) struct Walk {
    pub cursor: Cursor,
    pub subscription: Subscription,
    /// What had been put into the outbox before goes first: values of an earlier subscription that covers the same
    /// topics are older than the retained ones.
    pub after: u64,
}

impl Duty {
    /// Encodes what waits for the client until there is enough of it, or no more room in the window.
    pub(super) fn send(&mut self, out: &mut BytesMut, enough: usize) -> Rest {
        let now = Instant::now();
        while out.len() < enough {
            if self.taken.is_empty() && self.take(now) == Rest::More {
                return Rest::More;
            }
            let room = self.session.room();
            match self.taken.front() {
                Some(front) if front.qos == Qos::AtMostOnce || room > 0 => {}
                _ => return Rest::Nothing,
            }
            if let Some(delivery) = self.taken.pop_front() {
                self.write(&delivery, now, out);
            }
        }
        Rest::Nothing
    }

    /// Retained messages first: whoever has just subscribed waits for them. More: come back when others had a turn.
    fn take(&mut self, now: Instant) -> Rest {
        let mut pages = 0;
        while let Some(mut walk) = self.walks.first_entry() {
            if self.outbox.numbers().0 < walk.get().after {
                break;
            }
            if pages == PAGES {
                return Rest::More;
            }
            pages += 1;
            let mut messages = Vec::new();
            let rest = self.shared.page(&mut walk.get_mut().cursor, TAKE, now, &mut messages);
            let as_kept = Subscription { retain_as_published: true, ..walk.get().subscription };
            self.taken.extend(messages.iter().map(|message| delivery(message, &as_kept, Retain::Yes)));
            if rest == Rest::Nothing {
                walk.remove();
            }
            if !self.taken.is_empty() {
                return Rest::Nothing;
            }
        }
        let mut taken = Vec::new();
        self.outbox.take(TAKE, self.session.room(), &mut taken);
        self.taken.extend(taken);
        Rest::Nothing
    }

    fn write(&mut self, delivery: &Delivery, now: Instant, out: &mut BytesMut) {
        let stats = &self.shared.stats;
        if delivery.message.is_expired(now) {
            stats.dropped_expired.one();
            return;
        }
        let topic = &delivery.message.topic;
        let mut naming = self.aliases.look(topic);
        let mut outgoing = Outgoing::new(delivery, (self.version, naming), now);
        if outgoing.len() > self.maximum_packet && matches!(naming, Naming::Given(_)) {
            naming = Naming::Full; // without the alias it may fit
            outgoing = Outgoing::new(delivery, (self.version, naming), now);
        }
        if outgoing.len() > self.maximum_packet {
            stats.dropped_too_large.one(); // 3.1.2-25: as if it had been sent
            return;
        }
        outgoing.write(out, self.session.launch(delivery.qos));
        self.aliases.written(topic, naming);
        stats.packets_sent.one();
        stats.publishes_sent.one();
        stats.publish_bytes_sent.add(delivery.message.payload.len() as u64);
    }
}
