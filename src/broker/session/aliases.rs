//! Topic aliases towards a client (MQTT 5, section 3.3.2.3.4): a number in place of a topic it has seen before.
//!
//! An alias once given to a topic is that topic's for the life of the connection: numbers come from a counter, entries
//! are never changed and never removed, and a number is only ever read out of the entry of the very topic that is being
//! sent. So a value under another topic's alias cannot be put into words here; when the numbers are used up, topics go
//! out in full. A connection has one of these and a new connection an empty one (3.3.2-7).
//!
//! Half of the numbers go to whatever comes first, the rest only to topics that have come before: many topics are sent
//! once (all retained ones after a SUBSCRIBE) and would waste them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::broker::wire::Naming;

/// Aliases we give at most, whatever the client would take: what one of very many connections may hold.
const GIVEN_MAX: u16 = 256;

/// Only topics of such a length get one: shorter, and the alias is longer than what it saves; longer, and the entry
/// may keep too much memory after the topic is forgotten everywhere else.
const WORTH_IT: std::ops::RangeInclusive<usize> = 4..=512;

/// Places in which a topic is remembered as having been sent in full.
const SENT_PLACES: usize = 1024;

/// The aliases of one connection.
#[derive(Debug)]
pub(in crate::broker) struct Aliases {
    most: u16,
    given: HashMap<Arc<str>, u16>,
    /// Hashes of topics that were sent in full, each in the one place that its hash says; a newer one drives it out.
    sent: Vec<u64>,
    hasher: RandomState,
}

impl Aliases {
    /// For a client with this Topic Alias Maximum; 0: it takes none.
    pub(in crate::broker) fn new(maximum: u16) -> Self {
        let most = maximum.min(GIVEN_MAX);
        Self { most, given: HashMap::new(), sent: Vec::new(), hasher: RandomState::new() }
    }

    /// Does the client take none?
    pub(in crate::broker) fn are_none(&self) -> bool {
        self.most == 0
    }

    /// How a message on this topic is to be named. Changes nothing: see [`Aliases::written`].
    pub(in crate::broker) fn look(&self, topic: &str) -> Naming {
        if self.most == 0 || !WORTH_IT.contains(&topic.len()) {
            return Naming::Full;
        }
        if let Some(alias) = self.given.get(topic) {
            return Naming::Alias(*alias);
        }
        let next = self.next();
        match next {
            Some(alias) if alias <= self.most.div_ceil(2) || self.was_sent(topic) => Naming::Given(alias),
            _ => Naming::Full,
        }
    }

    /// The message has been put on the wire under that name.
    pub(in crate::broker) fn written(&mut self, topic: &Arc<str>, naming: Naming) {
        match naming {
            Naming::Given(alias) if self.next() == Some(alias) => {
                self.given.insert(Arc::clone(topic), alias);
            }
            Naming::Full if self.most > 0 && self.next().is_some() => {
                if self.sent.is_empty() {
                    self.sent = vec![0; SENT_PLACES];
                }
                let (place, hash) = self.place(topic);
                self.sent[place] = hash;
            }
            Naming::Full | Naming::Given(_) | Naming::Alias(_) => {}
        }
    }

    /// The first number that nobody has.
    fn next(&self) -> Option<u16> {
        let next = u16::try_from(self.given.len()).ok()? + 1;
        (next <= self.most).then_some(next)
    }

    /// As far as is remembered; a hash shared with another topic costs an alias, no more.
    fn was_sent(&self, topic: &str) -> bool {
        let (place, hash) = self.place(topic);
        self.sent.get(place) == Some(&hash)
    }

    fn place(&self, topic: &str) -> (usize, u64) {
        let hash = self.hasher.hash_one(topic) | 1; // 0 is an empty place
        let place = usize::try_from(hash >> 32).unwrap_or(0) % SENT_PLACES;
        (place, hash)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a client makes of it (3.3.2-12): the topic that each message arrives under.
    #[derive(Default)]
    struct Client(HashMap<u16, String>);

    impl Client {
        fn resolve(&mut self, naming: Naming, topic: &str) -> Option<String> {
            match naming {
                Naming::Full => Some(topic.to_owned()),
                Naming::Given(alias) => {
                    self.0.insert(alias, topic.to_owned());
                    Some(topic.to_owned())
                }
                Naming::Alias(alias) => self.0.get(&alias).cloned(),
            }
        }
    }

    proptest! {
        #[test]
        fn every_message_arrives_under_its_own_topic_and_no_alias_is_above_the_clients_maximum(
            maximum in prop::sample::select(vec![0_u16, 1, 2, 10, 255, 256, 257, 65_535]),
            sends in prop::collection::vec((0_u32..600, any::<bool>()), 0..3000),
        ) {
            let (mut aliases, mut client) = (Aliases::new(maximum), Client::default());
            for (number, lost) in sends {
                let topic: Arc<str> = format!("plant/tag{number}").into();
                let naming = aliases.look(&topic);
                if lost {
                    continue; // it did not fit, or had expired: nothing was written
                }
                if let Naming::Given(alias) | Naming::Alias(alias) = naming {
                    prop_assert!(0 < alias && alias <= maximum);
                }
                let seen = client.resolve(naming, &topic);
                aliases.written(&topic, naming);
                prop_assert_eq!(seen.as_deref(), Some(&*topic));
            }
        }
    }

    #[test]
    fn the_second_half_of_the_aliases_is_kept_for_topics_that_repeat() {
        let mut aliases = Aliases::new(4);
        let mut send = |topic: &str| {
            let topic: Arc<str> = topic.into();
            let naming = aliases.look(&topic);
            aliases.written(&topic, naming);
            naming
        };
        assert_eq!([send("first"), send("second")], [Naming::Given(1), Naming::Given(2)]);
        assert_eq!([send("third"), send("fourth"), send("fifth")], [Naming::Full; 3]);
        assert_eq!([send("third"), send("fifth")], [Naming::Given(3), Naming::Given(4)]);
        assert_eq!([send("fourth"), send("fourth")], [Naming::Full; 2], "all are given, for ever");
        assert_eq!([send("fifth"), send("first")], [Naming::Alias(4), Naming::Alias(1)]);
        assert_eq!(send("abc"), Naming::Full, "too short to be worth it");
    }
}
