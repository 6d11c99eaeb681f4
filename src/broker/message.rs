//! One message on its way through the broker: decoded once, shared by everyone it is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::time::Instant;

/// Quality of service (MQTT 5, section 4.3).
#[expect(clippy::enum_variant_names, reason = "the standard's own names")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) enum Qos {
    #[default]
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

impl Qos {
    /// From the two bits of a packet; 3 is malformed.
    pub(crate) const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// The two bits.
    pub(crate) const fn bits(self) -> u8 {
        self as u8
    }
}

/// RETAIN, on the way in: "keep this"; on the way out: "this was kept".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Retain {
    #[default]
    No,
    Yes,
}

impl From<bool> for Retain {
    fn from(flag: bool) -> Self {
        if flag { Self::Yes } else { Self::No }
    }
}

/// MQTT 5 properties that travel with a message to MQTT 5 subscribers (section 3.3.2.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Forwarded {
    /// Payload format, content type, response topic, correlation data and user properties, in the order and form in
    /// which they came off the wire; already validated.
    pub encoded: Bytes,
    /// Again, decoded: commands use it.
    pub response_topic: Option<String>,
    /// Again, decoded: commands use it.
    pub correlation: Option<Bytes>,
}

/// What a slow reader may miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Only the newest of this topic matters: the gateway's retained values.
    Newest,
    /// Every one of them, or the client is told.
    Every,
}

/// A message; immutable once made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub topic: Arc<str>,
    pub payload: Bytes,
    pub qos: Qos,
    pub forwarded: Option<Box<Forwarded>>,
    /// From the message expiry interval, counted from its arrival.
    pub expires: Option<Instant>,
    pub keep: Keep,
    pub holders: Holders,
}

/// A longer payload goes to its client from where it lies, and is charged once, however many clients it waits for: it is
/// there once.
const LONG_BYTES: usize = 32 * 1024;

/// For how many deliveries a long message is charged.
#[derive(Debug, Default)]
pub(crate) struct Holders(AtomicUsize);

impl Clone for Holders {
    /// Nobody holds the copy.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Holders {
    /// It says nothing of the message.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Holders {}

/// A long message that is to go to a client: as long as there is one of these it counts among the bytes that wait for all.
#[derive(Debug)]
pub(crate) struct Held {
    message: Arc<Message>,
    for_all: Arc<AtomicUsize>,
}

impl Held {
    fn new(message: &Arc<Message>, for_all: &Arc<AtomicUsize>) -> Self {
        if message.holders.0.fetch_add(1, Ordering::AcqRel) == 0 {
            for_all.fetch_add(message.payload.len(), Ordering::Relaxed);
        }
        Self { message: Arc::clone(message), for_all: Arc::clone(for_all) }
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Self::new(&self.message, &self.for_all)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.message.holders.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.for_all.fetch_sub(self.message.payload.len(), Ordering::Relaxed);
        }
    }
}

/// What a queue is charged for one message beyond its bytes: places in queue and heap.
const MESSAGE_COST: usize = 96;

impl Message {
    /// One of the gateway's own.
    pub(crate) fn own(topic: Arc<str>, payload: Bytes, keep: Keep) -> Self {
        let (qos, holders) = (Qos::AtLeastOnce, Holders::default());
        Self { topic, payload, qos, forwarded: None, expires: None, keep, holders }
    }

    /// What it costs a queue to hold it, bytes.
    pub(crate) fn cost(&self) -> usize {
        MESSAGE_COST + self.topic.len() + self.payload.len() + self.properties().len()
    }

    /// Is it sent from where it lies?
    pub(crate) fn is_long(&self) -> bool {
        self.payload.len() > LONG_BYTES
    }

    /// MQTT 5 properties that travel with it, encoded.
    pub(crate) fn properties(&self) -> &[u8] {
        self.forwarded.as_ref().map_or(&[], |forwarded| &forwarded.encoded)
    }

    /// Has its message expiry interval passed?
    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// A message on its way to one client: what this client's subscriptions make of it.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub message: Arc<Message>,
    /// The lower of the publisher's and the subscription's.
    pub qos: Qos,
    pub retain: Retain,
    /// Subscription identifiers of all matching subscriptions (MQTT 5).
    pub ids: Vec<u32>,
    /// Its row in the ledger, if it has one.
    pub owed: Option<Owed>,
    /// The shared subscription that it came by, as it was subscribed to: another member gets it, should it not arrive before
    /// the session ends. Only where that ends with its connection, and of what must arrive.
    pub shared: Option<Arc<str>>,
    /// That it counts among what waits for all: see [`Delivery::hold`].
    pub held: Option<Held>,
}

impl Delivery {
    /// Must it arrive, and stands in no ledger? Of a session that outlives its connection: there was no room.
    pub(crate) fn is_fleeting(&self) -> bool {
        self.owed.is_none() && self.qos > Qos::AtMostOnce && self.message.keep == Keep::Every
    }

    /// May it be left out by now? Not what was sent before at QoS 2: the client holds its packet identifier for it, and what
    /// came under that next would pass for the same (MQTT-4.3.3-7).
    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        let begun = self.qos == Qos::ExactlyOnce && self.owed.is_some_and(|owed| owed.stage == Stage::SentBefore);
        !begun && self.message.is_expired(now)
    }

    /// From now on it counts among what waits for all clients, by itself if it is long; otherwise with the queue that it is in.
    pub(crate) fn hold(&mut self, for_all: &Arc<AtomicUsize>) {
        if self.held.is_none() && self.message.is_long() {
            self.held = Some(Held::new(&self.message, for_all));
        }
    }

    /// Bytes of it that count by themselves.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.message.payload.len())
    }

    /// What it costs a queue to hold it, bytes. Identifiers are the client's own choice, and there may be thousands.
    pub(crate) fn cost(&self) -> usize {
        self.message.cost() + size_of_val(self.ids.as_slice())
    }
}

/// What a session has lost with a connection: above QoS 0, and in no ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lost {
    /// In all.
    pub all: u64,
    /// Of these, in the sum of what readers were too slow for.
    pub counted: u64,
}

/// A delivery that the ledger holds until the client has acknowledged it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owed {
    /// Its number in its session.
    pub ordinal: u64,
    /// What the session's bound on disk is charged for it, bytes.
    pub cost: u32,
    pub stage: Stage,
}

/// What a row is charged beside its content: itself and its place in the index, bytes.
pub(crate) const ROW_COST: u32 = 64;

impl Owed {
    /// It has arrived at QoS 2: only the row is left.
    pub(crate) fn released(self) -> Self {
        Self { cost: self.cost.min(ROW_COST), stage: Stage::Released, ..self }
    }
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Entered, not known to be committed.
    Entered,
    /// Committed; not sent before.
    Committed,
    /// Committed; sent before, as far as we know: DUP.
    SentBefore,
    /// It has arrived at QoS 2: PUBREL is due, nothing else.
    Released,
}
