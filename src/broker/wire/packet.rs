//! What a client may send after CONNECT, in both versions' terms.

use bytes::Bytes;

use crate::broker::message::{Forwarded, Qos, Retain};

/// A packet from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    Publish(Publish),
    Ack(Ack),
    Subscribe(Subscribe),
    Unsubscribe { packet_id: u16, filters: Vec<String> },
    Ping,
    Disconnect { reason: u8, session_expiry: Option<u32> },
}

/// PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    /// DUP was set.
    pub again: bool,
    pub qos: Qos,
    pub retain: Retain,
    /// Empty only together with an alias.
    pub topic: String,
    pub alias: Option<u16>,
    /// Zero at QoS 0.
    pub packet_id: u16,
    pub expiry: Option<u32>,
    pub forwarded: Option<Box<Forwarded>>,
    pub payload: Bytes,
}

/// How a PUBLISH names its topic to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// In full.
    Full,
    /// In full, and from now on by this alias as well.
    Given(u16),
    /// By its alias alone.
    Alias(u16),
}

/// The four acknowledgements of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckKind {
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub kind: AckKind,
    pub packet_id: u16,
    /// 0 in 3.1.1.
    pub reason: u8,
}

/// SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscribe {
    pub packet_id: u16,
    /// Subscription identifier, for all of them.
    pub id: Option<u32>,
    pub filters: Vec<Filter>,
}

/// One filter and its options (section 3.8.3.1).
#[expect(clippy::struct_field_names, reason = "a filter's filter is its text; `path` would be a word of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// As it came, `$share/…` included; not yet checked, since each filter is answered by itself.
    pub filter: String,
    pub qos: Qos,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent on SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum RetainHandling {
    #[default]
    Always,
    IfNew,
    Never,
}
