//! SUBSCRIBE and UNSUBSCRIBE: each filter is answered by itself.

use bytes::BytesMut;

use super::duty::Duty;
use super::errands::Done;
use crate::broker::core::NOT_AUTHORIZED;
use crate::broker::retained::Walk;
use crate::broker::tree::Subscription;
use crate::broker::wire::{Subscribe, encode};
use crate::model::topic::{check_filter, split_share};

/// SUBACK and UNSUBACK without their codes, bytes at most: head, packet identifier, no properties.
const ANSWER_BYTES: usize = 1 + 4 + 2 + 1;

impl Duty {
    /// Does the client take an answer for so many filters (3.1.2-24)?
    pub(super) fn fits(&self, filters: usize) -> bool {
        ANSWER_BYTES + filters <= self.maximum_packet
    }

    pub(super) fn subscribe(&mut self, subscribe: &Subscribe, out: &mut BytesMut) {
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for wanted in &subscribe.filters {
            match self.shared.subscribe(self.key, &self.identity, wanted, subscribe.id) {
                Ok(subscribed) => {
                    codes.push(wanted.qos.bits());
                    if let Some(cursor) = subscribed.cursor {
                        let (_, after) = self.outbox.numbers();
                        // They come as what was kept, whatever the subscription says of what is published.
                        let subscription = Subscription { retain_as_published: true, ..subscribed.subscription };
                        let walk = Walk { cursor, subscription, after, owed_below: subscribed.owed_below };
                        self.walks.insert(walk.cursor.filter(), walk);
                        // Until it has them all, and has acknowledged them: should the connection break, none that it
                        // has not got may pass for seen.
                        self.in_step = 0;
                    }
                }
                Err(reason) => {
                    if reason == NOT_AUTHORIZED {
                        self.shared.access.subscribe_refused(&self.identity, &wanted.filter);
                    } else if self.refusals == 0 && self.shared.talk.allows() {
                        tracing::warn!(client = &*self.id, filter = wanted.filter, reason, "subscription refused");
                    }
                    self.refusals += 1;
                    codes.push(reason);
                }
            }
        }
        let told = codes.iter().find(|code| **code >= 0x80).map_or("", |code| told(*code));
        let fits = self.wants_reasons && self.fits(codes.len() + told.len() + 4);
        let mut suback = BytesMut::new();
        let answer = (subscribe.packet_id, &codes[..], if fits { told } else { "" });
        encode::suback(&mut suback, self.version, answer);
        self.say_when_committed(suback, out);
    }

    /// A client that comes back relies on its subscriptions being there. While the disk fails they are said without a commit:
    /// see the head of the room.
    fn say_when_committed(&mut self, words: BytesMut, out: &mut BytesMut) {
        if self.tally.is_some() {
            self.unsaid += 1;
            self.waits.commit(self.shared.disk.committed(), Done::Say(words.freeze()));
        } else {
            out.extend_from_slice(&words);
        }
    }

    pub(super) fn unsubscribe(&mut self, packet_id: u16, filters: &[String], out: &mut BytesMut) {
        let mut codes = Vec::with_capacity(filters.len());
        for filter in filters {
            self.walks.remove(filter.as_str());
            codes.push(match self.shared.unsubscribe(self.key, filter) {
                true => 0,
                false if is_filter(filter) => 0x11, // no subscription existed
                false => 0x8F,
            });
        }
        let mut unsuback = BytesMut::new();
        encode::unsuback(&mut unsuback, self.version, packet_id, &codes);
        self.say_when_committed(unsuback, out);
    }
}

/// Could there be a subscription of this name?
fn is_filter(raw: &str) -> bool {
    split_share(raw).is_ok_and(|shared| check_filter(shared.map_or(raw, |(_, filter)| filter)).is_ok())
}

/// Why the first filter that was refused was refused.
const fn told(reason: u8) -> &'static str {
    match reason {
        NOT_AUTHORIZED => "not allowed to read all that this filter matches",
        0x8F => "this is no topic filter",
        0x97 => "no room for more subscriptions",
        _ => "not subscribed",
    }
}
