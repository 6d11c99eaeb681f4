//! Packets in and out, for MQTT 3.1.1 and 5 in one set of types.
//!
//! `reader` primitive types · `properties` of MQTT 5 · `packet` what there is · `connect` the first packet, from which
//! the version is told · `decode` every other one · `encode` what we send.
//!
//! Why not the codecs of `rumqttc`: they accept what the standard forbids (reserved bits, a property twice or past the
//! properties' end, text that is not UTF-8 in a topic, bytes after the last field), cannot read an MQTT 5 DISCONNECT
//! of length 0 or an AUTH, and need a topic's bytes copied per subscriber. Refusing all that means parsing the packet
//! anyway. They serve as the other side in the tests instead, which is worth more.
//!
//! Promises: bytes of a stranger never panic and never allocate more than the packet they came in.

mod connect;
mod decode;
pub(super) mod encode;
mod packet;
mod properties;
mod reader;
#[cfg(test)]
mod tests;

use bytes::{Buf, Bytes, BytesMut};

pub(super) use connect::{Connect, Will};
pub(super) use decode::decode;
pub(super) use packet::{Ack, AckKind, Filter, Incoming, Naming, Publish, RetainHandling, Subscribe};
pub(super) use properties::{correlated, revive};

use crate::model::topic::BadTopic;

/// Longest packet we ever take, bytes. An HMI's largest recipe fits; 1024 clients' worth of half packets still fits a small
/// box, since a buffer only grows with what has really arrived. `max_packet_size` may make it less.
pub(super) const PACKET_BYTES_MAX: u32 = 1024 * 1024;

/// Filters in one packet: they are dealt with in one piece, and everybody else waits for that. More go in several packets.
pub(super) const FILTERS_MAX: usize = 16 * 1024;

/// Which protocol a client speaks. MQTT 3.1 (`MQIsdp`) is served as 3.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Version {
    V311,
    V5,
}

/// What is wrong with a packet; ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// It cannot be parsed.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// It can be parsed, but may not be sent, or not now.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// Longer than what is taken.
    #[error("packet too large")]
    TooLarge,
    /// A client whose Maximum Packet Size not even a CONNACK fits.
    #[error("maximum packet size is too small for any answer")]
    NoRoom,
    /// SUBSCRIBE or UNSUBSCRIBE with more filters than are dealt with in one piece.
    #[error("more than {FILTERS_MAX} topic filters in one packet")]
    Filters,
    /// No topic to publish on.
    #[error("bad topic: {0}")]
    Topic(BadTopic),
    /// Neither 3.1, 3.1.1 nor 5.
    #[error("protocol version {0} is not served")]
    Version(u8),
    /// No client id, or one that the version does not allow.
    #[error("bad client id: {0}")]
    ClientId(&'static str),
    /// MQTT 5 enhanced authentication.
    #[error("enhanced authentication is not served")]
    AuthMethod,
}

impl Fault {
    /// The reason code of DISCONNECT or CONNACK (MQTT 5, section 2.4).
    pub(crate) const fn reason(self) -> u8 {
        match self {
            Self::Malformed(_) => 0x81,
            Self::Protocol(_) => 0x82,
            Self::TooLarge | Self::NoRoom => 0x95,
            Self::Filters => 0x97,
            Self::Topic(_) => 0x90,
            Self::Version(_) => 0x84,
            Self::ClientId(_) => 0x85,
            Self::AuthMethod => 0x8C,
        }
    }

    /// In a few words, for the reason string.
    pub(crate) const fn told(self) -> &'static str {
        match self {
            Self::Malformed(told) | Self::Protocol(told) | Self::ClientId(told) => told,
            Self::TooLarge | Self::NoRoom => "longer than the Maximum Packet Size",
            Self::Filters => "too many topic filters in one packet",
            Self::Topic(_) => "no topic to publish on",
            Self::Version(_) => "protocol version not served",
            Self::AuthMethod => "enhanced authentication not served",
        }
    }
}

/// A whole packet, still encoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Type and flags (section 2.1.1).
    pub first: u8,
    /// Everything after the remaining length.
    pub body: Bytes,
}

impl Frame {
    /// Bytes of topic filters to be dealt with one by one: of SUBSCRIBE and UNSUBSCRIBE.
    pub(super) fn filter_bytes(&self) -> usize {
        if matches!(self.first >> 4, 8 | 10) { self.body.len() } else { 0 }
    }

    /// MQTT 3.1 sets DUP on PUBREL, SUBSCRIBE and UNSUBSCRIBE that it sends again (there section 2.1); later versions have
    /// that bit reserved.
    pub(super) fn without_dup(mut self) -> Self {
        if matches!(self.first >> 4, 6 | 8 | 10) {
            self.first &= !8;
        }
        self
    }
}

/// How long the packet will be that has begun to arrive; 0 as long as that is not known.
pub(super) fn announced(arrived: &[u8]) -> usize {
    let mut length = 0_usize;
    for (place, byte) in arrived.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return length;
        }
    }
    0
}

/// Cuts the next packet off what has arrived; `None` until it is whole. That it is longer than `most` is known from its
/// first bytes.
pub(super) fn frame(arrived: &mut BytesMut, most: u32) -> Result<Option<Frame>, Fault> {
    let mut length = 0_usize;
    for place in 0..4 {
        let Some(byte) = arrived.get(1 + place) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 != 0 {
            continue;
        }
        let head = 2 + place;
        if head + length > most as usize {
            return Err(Fault::TooLarge);
        }
        if arrived.len() < head + length {
            return Ok(None);
        }
        let first = arrived[0];
        arrived.advance(head);
        return Ok(Some(Frame { first, body: arrived.split_to(length).freeze() }));
    }
    Err(Fault::Malformed("remaining length of more than four bytes"))
}
