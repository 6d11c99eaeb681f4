//! The gateway's own way in: no socket, no wait. Whatever the clients do, a call here takes as long as the routing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::core::{NotTaken, Shared};
use super::message::{Keep, Message, Retain};
use super::stats::BrokerStats;
use super::wire::correlated;
use crate::flow::forward::Letter;

/// Publishes the gateway's topics. Cheap to clone; never blocks on a client, a socket or a disk.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publisher")
    }
}

impl Publisher {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// A retained value, in memory only. A slow client may see only the newest. An empty payload clears the topic.
    pub fn retain(&self, topic: Arc<str>, payload: Bytes) {
        self.retain_many([(topic, payload)]);
    }

    /// Many retained values, such as all that one poll changed.
    pub fn retain_many(&self, values: impl IntoIterator<Item = (Arc<str>, Bytes)>) {
        let own = |(topic, payload)| Arc::new(Message::own(topic, payload, Keep::Newest));
        let messages: Vec<Arc<Message>> = values.into_iter().map(own).collect();
        self.shared.publish_own(&messages, Retain::Yes);
    }

    /// A message that is not kept, such as an event or a command's result; QoS 1 to those who asked for it.
    pub fn publish(&self, topic: Arc<str>, payload: Bytes) {
        self.shared.publish_own(&[Arc::new(Message::own(topic, payload, Keep::Every))], Retain::No);
    }

    /// The answer to an MQTT 5 request, with the correlation data it came with (MQTT 5, section 4.10). The caller has
    /// made sure that the requester itself may write on this topic.
    pub fn respond(&self, topic: Arc<str>, payload: Bytes, correlation: Option<Vec<u8>>) {
        let mut message = Message::own(topic, payload, Keep::Every);
        message.forwarded = correlation.and_then(correlated);
        self.shared.publish_own(&[Arc::new(message)], Retain::No);
    }

    /// A message that came down from another broker, for local clients as if one of them had published it; never on the
    /// gateway's own topics or as a command. What is returned resolves when it may be acknowledged there: all that it is
    /// owed to here have it on disk. `newest`: where something has been left on its topic since [`Self::retained_version`]
    /// said this, by a client or another bridge, that stays, and what has come goes nowhere ([`NotTaken::Superseded`]).
    pub fn pass_on(
        &self,
        letter: Letter,
        newest: Option<u64>,
    ) -> Result<impl Future<Output = Result<(), NotTaken>> + Send + use<>, NotTaken> {
        self.shared.pass_on(letter, newest)
    }

    /// Grows with every message that is retained.
    pub fn retained_version(&self) -> u64 {
        self.shared.retained_version()
    }

    /// What clients have left retained and a filter matches, page by page.
    pub fn retained(&self, filter: &str) -> impl Iterator<Item = Vec<Letter>> + use<> {
        let (shared, mut cursor) = (Arc::clone(&self.shared), Some(self.shared.retained(filter)));
        std::iter::from_fn(move || Some(shared.next_retained(&mut cursor)).filter(|page| !page.is_empty()))
    }

    /// Forgets a retained value and tells subscribers with an empty one: a tag that is no more.
    pub fn clear(&self, topic: Arc<str>) {
        self.retain(topic, Bytes::new());
    }

    /// Bytes that wait for clients, all together; a long message counts once, however many it is for.
    pub fn waiting_bytes(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// The broker's counters.
    pub fn stats(&self) -> Arc<BrokerStats> {
        Arc::clone(&self.shared.stats)
    }
}
