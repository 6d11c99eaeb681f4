//! What lies in the ledger, row by row, in the words of the broker; what is found at start.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

/// How many packet ids are made of ordinals, `1 + ordinal % OWED_IDS`: the lower half of all.
pub const OWED_IDS: u16 = 32_767;

/// Bytes of filters of all sessions that are read at start, each with [`FILTER_COST`] beside it: what there is beyond is removed.
pub const FILTERS_BYTES_MAX: usize = 48 << 20;

/// What a filter is counted beside its bytes.
pub const FILTER_COST: usize = 80;

/// It is not on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not committed")]
pub struct NotCommitted;

/// Told once a change is committed, or that it is not.
pub type Committed = oneshot::Receiver<Result<(), NotCommitted>>;

/// A retained message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its topic, the key.
    pub topic: Arc<str>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Never empty: an empty one clears.
    pub payload: Bytes,
    /// MQTT 5 properties that travel with it, encoded.
    pub properties: Bytes,
    /// End of its life, ms since 1970; below zero: by the clock of a boot, see the head of `tables`.
    pub expires_unix_ms: Option<i64>,
    /// Who has left it.
    pub source: Option<Source>,
}

/// Who has left a retained message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The name of its identity.
    pub owner: Arc<str>,
    /// Its client id.
    pub client: Arc<str>,
}

/// A session's key; never used again, whatever happens to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A session that outlives its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Its key, from [`super::Ledger::new_session`].
    pub id: SessionId,
    /// Which client's.
    pub client_id: Arc<str>,
    /// Identity that owns it.
    pub owner: Arc<str>,
    /// 3, 4 or 5: the protocol level of the last CONNECT.
    pub version: u8,
    /// How long it outlives its connection, seconds; `u32::MAX`: for ever.
    pub expiry_s: u32,
    /// When its client left, ms since 1970. `None`: it is connected, or was when the gateway ended, or nobody could
    /// vouch for the clock when it left. How to use it: [`Kept`].
    pub left_unix_ms: Option<i64>,
    /// Messages that found no room in its queue, and of which its client was not yet told.
    pub dropped: u64,
    /// Ordinals from this one on have not been sent to its client. `None`: it is connected, or was when the gateway ended,
    /// and nobody knows.
    pub sent_below: Option<u64>,
}

/// What a session is subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// As it came, `$share` included.
    pub filter: Arc<str>,
    /// As in SUBSCRIBE (MQTT 5, section 3.8.3.1), but for Retain Handling, which is of use once only: of its bits the lower
    /// one says here that retained messages are still to be sent.
    pub options: u8,
    /// Subscription identifier (MQTT 5, section 3.8.2.1.2).
    pub identifier: Option<u32>,
}

/// What a session keeps for its client, which speaks MQTT-SN.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SensorRow {
    /// As it was left last.
    pub will: Option<WillRow>,
    /// Topic ids that it knows, and what tells the names apart that they stand for; 0: the id is predefined.
    pub known: Vec<(u16, u64)>,
}

/// A will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillRow {
    /// Where it is to be published.
    pub topic: Arc<str>,
    /// May be empty.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Is it to be retained?
    pub retain: bool,
}

/// A message that somebody is owed; it lies on disk once, however many are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageRow {
    /// Where it was published.
    pub topic: Arc<str>,
    /// The publisher's: 1 or 2.
    pub qos: u8,
    /// May be empty.
    pub payload: Bytes,
    /// MQTT 5 properties that travel with it, encoded.
    pub properties: Bytes,
    /// End of its life, ms since 1970; below zero: by the clock of a boot, see the head of `tables`.
    pub expires_unix_ms: Option<i64>,
}

impl MessageRow {
    /// Bytes of topic, payload and properties.
    pub fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.len()
    }

    /// What it takes to owe it to a session with that many subscription identifiers, bytes: what [`Kept::owed_bytes`] is
    /// the sum of.
    pub fn bytes_with(&self, identifiers: &[u32]) -> usize {
        self.bytes() + size_of_val(identifiers)
    }
}

/// What one session makes of a message it is owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owing {
    /// Its place in the session's queue; never used again.
    pub ordinal: u64,
    /// 1 or 2.
    pub qos: u8,
    /// RETAIN on the way out.
    pub retain: bool,
    /// Subscription identifiers.
    pub identifiers: Vec<u32>,
}

/// Of a session: what it was to be owed and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GivenUp {
    /// How many messages.
    pub rows: u64,
    /// Their [`MessageRow::bytes_with`].
    pub bytes: u64,
}

/// A message as a session is owed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwedRow {
    /// Its place in the session's queue.
    pub ordinal: u64,
    /// What is owed. Without content when `released`: only PUBREL is owed then.
    pub message: Arc<MessageRow>,
    /// 1 or 2.
    pub qos: u8,
    /// RETAIN on the way out.
    pub retain: bool,
    /// Subscription identifiers.
    pub identifiers: Vec<u32>,
    /// PUBREC has come ([`super::Ledger::release`]).
    pub released: bool,
}

/// One that a session is owed and that nobody needs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its number in its session.
    pub ordinal: u64,
    /// Of topic, payload, properties and identifiers.
    pub bytes: u64,
}

/// A session as it was found at start, with what belongs to it.
///
/// **How long it has to live.** The ledger judges nothing: at boot the clock may be wrong by years. The broker must
/// drop no session before `Clock::wall_now().certainty.is_fixed()`. From then on a session with `left_unix_ms:
/// Some(left)` is over at `left + expiry_s`. One with `None` was connected when the gateway ended: its time starts at
/// this open, counted by `tokio::time::Instant`, and `left_unix_ms` is put ([`super::Ledger::session`]) once the clock
/// is fixed, as wall time of that moment. A client that leaves before the clock is fixed is put with `None` too: an
/// unvouched time on disk could end a session years early, this can only let it live longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The session.
    pub session: SessionRow,
    /// By filter.
    pub subscriptions: Vec<SubscriptionRow>,
    /// How many there were besides, being more than is ever read: these are gone.
    pub left_out: u64,
    /// Packet ids of QoS 2 messages from its client, acknowledged by PUBREC and not yet released; ascending.
    pub received: Vec<u16>,
    /// `None`: its client does not speak MQTT-SN, or did so to a program that kept nothing of it.
    pub sensor: Option<SensorRow>,
    /// To go on with. Beyond every ordinal that was entered before the last commit by at least 1024, and a multiple of
    /// [`OWED_IDS`] plus 1024 beyond the highest on disk: packet ids made of ordinals go on as if the gateway
    /// had not ended.
    pub next_ordinal: u64,
    /// Messages it is owed.
    pub owed_count: u64,
    /// Their [`MessageRow::bytes_with`], each counted whole.
    pub owed_bytes: u64,
}

/// What was found at start.
#[derive(Debug, Default)]
pub struct Found {
    /// Clients' retained messages.
    pub rows: Vec<Row>,
    /// Sessions, by their keys; at most one of a client id.
    pub sessions: Vec<Kept>,
    /// The old file was damaged and lies here now.
    pub set_aside: Option<PathBuf>,
}
