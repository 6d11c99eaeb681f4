//! Topic aliases of one MQTT 5 session (section 3.3.2.3.4): a topic that was sent once is two bytes from then on. Pure.
//!
//! Aliases go to the topics that come first; one is taken from a topic that was not used for a long time. With more
//! topics than aliases, taken in turn, "least recently used" would give every alias away before it is used again and
//! cost bytes instead of saving them.

use std::collections::{BTreeMap, HashMap};

/// Memory, not MQTT: at most so many, whatever the broker offers.
const ALIASES_MAX: u16 = 4096;
/// A topic loses its alias to another when so many publishes went by without it.
const IDLE_PUBLISHES: u64 = 4096;
/// An alias costs three bytes: a topic shorter than this is cheaper without.
const TOPIC_BYTES_MIN: usize = 4;

/// How to write a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alias {
    /// In full.
    None,
    /// In full, with this alias from now on.
    New(u16),
    /// As this alias alone.
    Known(u16),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    alias: u16,
    used: u64,
}

/// Of one session.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    max: u16,
    banned: bool,
    now: u64,
    topics: HashMap<String, Entry>,
    /// By when they were last used; the number is unique.
    order: BTreeMap<u64, String>,
}

impl Aliases {
    /// For a broker that offers aliases and does not understand them: never any.
    pub(super) fn banned() -> Self {
        Self { banned: true, ..Self::default() }
    }

    /// The broker takes aliases 1 to `max`.
    pub(super) fn offer(&mut self, max: u16) {
        self.max = if self.banned { 0 } else { max.min(ALIASES_MAX) };
    }

    /// How the next publish writes its topic. Publishes must go out in the order of these calls.
    pub(super) fn of(&mut self, topic: &str) -> Alias {
        if self.max == 0 || topic.len() < TOPIC_BYTES_MIN {
            return Alias::None;
        }
        self.now += 1;
        if let Some(entry) = self.topics.get_mut(topic) {
            let before = std::mem::replace(&mut entry.used, self.now);
            let alias = entry.alias;
            if let Some(topic) = self.order.remove(&before) {
                self.order.insert(self.now, topic);
            }
            return Alias::Known(alias);
        }
        let Some(alias) = self.free() else {
            return Alias::None;
        };
        self.topics.insert(topic.to_owned(), Entry { alias, used: self.now });
        self.order.insert(self.now, topic.to_owned());
        Alias::New(alias)
    }

    fn free(&mut self) -> Option<u16> {
        let used = u16::try_from(self.topics.len()).unwrap_or(u16::MAX);
        if used < self.max {
            return Some(used + 1);
        }
        let (oldest, _) = self.order.first_key_value()?;
        if self.now - oldest < IDLE_PUBLISHES {
            return None;
        }
        let (_, topic) = self.order.pop_first()?;
        self.topics.remove(&topic).map(|entry| entry.alias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn offered(max: u16) -> Aliases {
        let mut aliases = Aliases::default();
        aliases.offer(max);
        aliases
    }

    #[test]
    fn no_alias_where_the_broker_takes_none_or_the_topic_is_shorter() {
        assert_eq!(offered(0).of("acme/pump/pressure"), Alias::None);
        assert_eq!(offered(9).of("a/b"), Alias::None);
    }

    /// A broker that keeps the aliases as it is told always knows the right topic.
    #[test]
    fn whoever_follows_the_aliases_knows_every_topic() {
        for max in [1_u16, 2, 8, 100] {
            let mut dice = StdRng::seed_from_u64(u64::from(max));
            let (mut aliases, mut broker, mut saved) = (offered(max), HashMap::new(), 0);
            for round in 0..40_000_u32 {
                // the topics in use change over time
                let topic = format!("acme/pump/{}", dice.random_range(0..50) + round / 10_000 * 40);
                match aliases.of(&topic) {
                    Alias::None => {}
                    Alias::New(alias) => {
                        assert!((1..=max).contains(&alias));
                        broker.insert(alias, topic);
                    }
                    Alias::Known(alias) => {
                        assert_eq!(broker.get(&alias), Some(&topic));
                        saved += 1;
                    }
                }
            }
            assert!(saved > 300, "{saved} with {max}");
            assert!(aliases.topics.len() <= usize::from(max) && aliases.order.len() == aliases.topics.len());
        }
    }

    #[test]
    fn a_thousand_topics_in_turn_do_not_take_each_others_aliases() {
        let mut aliases = offered(10);
        let (mut new, mut known) = (0, 0);
        for n in 0..10_000 {
            match aliases.of(&format!("acme/pump/{}", n % 1000)) {
                Alias::New(_) => new += 1,
                Alias::Known(_) => known += 1,
                Alias::None => {}
            }
        }
        assert_eq!((new, known), (10, 90));
    }
}
