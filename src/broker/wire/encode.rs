//! What we send, written straight into a connection's output. The client's Maximum Packet Size is kept by the caller
//! for PUBLISH (which is then skipped); everything else we send is short, and a reason string is left out if it does
//! not fit.

use bytes::{BufMut, BytesMut};
use tokio::time::Instant;

use super::Version;
use super::packet::{AckKind, Naming};
use super::properties::{
    ALIAS_MAXIMUM, ASSIGNED_ID, MAXIMUM_PACKET, MAXIMUM_QOS, MESSAGE_EXPIRY, REASON_STRING, RECEIVE_MAXIMUM,
    RETAIN_AVAILABLE, SERVER_KEEP_ALIVE, SESSION_EXPIRY, SUBSCRIPTION_ID, TOPIC_ALIAS, USER_PROPERTY,
};
use crate::broker::message::{Delivery, Qos, Retain, Stage};

/// What an accepted client is told (section 3.2.2.3); MQTT 5 only, but for the acceptance itself.
#[derive(Debug, Clone, Default)]
pub(in crate::broker) struct Welcome<'a> {
    /// It goes on with a session that was there.
    pub session_present: bool,
    /// The id we chose, if the client left it to us.
    pub assigned_id: Option<&'a str>,
    /// How long its session outlives the connection, seconds, if not what it asked for.
    pub session_expiry: Option<u32>,
    pub receive_maximum: u16,
    pub alias_maximum: u16,
    /// Messages for it that found no room since it was told last: user property `dropped`.
    pub dropped: u64,
    /// Longest packet it may send, bytes.
    pub maximum_packet: u32,
    /// Up to which QoS it may publish, if not all.
    pub max_qos: Option<Qos>,
    /// It may leave no retained messages.
    pub no_retain: bool,
    /// The keep alive it has to use instead of its own, seconds.
    pub keep_alive: Option<u16>,
}

/// CONNACK, accepted.
pub(in crate::broker) fn welcome(out: &mut BytesMut, version: Version, welcome: &Welcome<'_>) {
    if version == Version::V311 {
        out.put_slice(&[0x20, 2, welcome.session_present.into(), 0]);
        return;
    }
    let mut properties = BytesMut::new();
    if let Some(seconds) = welcome.session_expiry {
        properties.put_u8(SESSION_EXPIRY);
        properties.put_u32(seconds);
    }
    properties.put_u8(RECEIVE_MAXIMUM);
    properties.put_u16(welcome.receive_maximum);
    properties.put_u8(MAXIMUM_PACKET);
    properties.put_u32(welcome.maximum_packet);
    properties.put_u8(ALIAS_MAXIMUM);
    properties.put_u16(welcome.alias_maximum);
    if let Some(most) = welcome.max_qos.filter(|most| *most < Qos::ExactlyOnce) {
        properties.put_slice(&[MAXIMUM_QOS, most.bits()]);
    }
    if welcome.no_retain {
        properties.put_slice(&[RETAIN_AVAILABLE, 0]);
    }
    if let Some(keep_alive) = welcome.keep_alive {
        properties.put_u8(SERVER_KEEP_ALIVE);
        properties.put_u16(keep_alive);
    }
    if let Some(id) = welcome.assigned_id {
        properties.put_u8(ASSIGNED_ID);
        text(&mut properties, id);
    }
    if welcome.dropped > 0 {
        properties.put_u8(USER_PROPERTY);
        text(&mut properties, "dropped");
        text(&mut properties, &welcome.dropped.to_string());
    }
    head(out, 0x20, 2 + variable_len(properties.len()) + properties.len());
    out.put_slice(&[welcome.session_present.into(), 0]);
    variable(out, properties.len());
    out.put_slice(&properties);
}

/// CONNACK, refused: `reason` in MQTT 5 terms, told to 3.1.1 clients in theirs (section 3.2.2.3 there). `told` is a reason
/// string that fits.
pub(in crate::broker) fn refusal(out: &mut BytesMut, version: Version, reason: u8, told: &str) {
    match version {
        Version::V5 => {
            let mut properties = reason_properties(told);
            if properties.is_empty() {
                properties.put_u8(0);
            }
            head(out, 0x20, 2 + properties.len());
            out.put_slice(&[0, reason]);
            out.put_slice(&properties);
        }
        Version::V311 => {
            let code = match reason {
                0x84 => 1,                             // unacceptable protocol version
                0x85 => 2,                             // identifier rejected
                0x86 => 4,                             // bad user name or password
                0x87 | 0x8C | 0x95 | 0x9A | 0x9B => 5, // not authorized, or not with this will
                _ => 3,                                // server unavailable
            };
            out.put_slice(&[0x20, 2, 0, code]);
        }
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP. `told` is a reason string that the client asked for and that fits.
pub(in crate::broker) fn ack(out: &mut BytesMut, version: Version, kind: AckKind, ack: (u16, u8, &str)) {
    let (packet_id, reason, told) = ack;
    let first = match kind {
        AckKind::Puback => 0x40,
        AckKind::Pubrec => 0x50,
        AckKind::Pubrel => 0x62,
        AckKind::Pubcomp => 0x70,
    };
    if version == Version::V311 || reason == 0 {
        out.put_slice(&[first, 2]);
        out.put_u16(packet_id);
        return;
    }
    let properties = reason_properties(told);
    head(out, first, 3 + properties.len());
    out.put_u16(packet_id);
    out.put_u8(reason);
    out.put_slice(&properties);
}

/// SUBACK: one code per filter, in order. `told` is a reason string that the client asked for and that fits.
pub(in crate::broker) fn suback(out: &mut BytesMut, version: Version, answer: (u16, &[u8], &str)) {
    let (packet_id, codes, told) = answer;
    let mut properties = BytesMut::new();
    if version == Version::V5 {
        properties = reason_properties(told);
        if properties.is_empty() {
            properties.put_u8(0);
        }
    }
    head(out, 0x90, 2 + properties.len() + codes.len());
    out.put_u16(packet_id);
    out.put_slice(&properties);
    match version {
        Version::V5 => out.put_slice(codes),
        // 3.1.1 knows one failure (section 3.9.3).
        Version::V311 => out.extend(codes.iter().map(|code| if *code >= 0x80 { 0x80 } else { *code })),
    }
}

/// UNSUBACK; 3.1.1 has no codes.
pub(in crate::broker) fn unsuback(out: &mut BytesMut, version: Version, packet_id: u16, codes: &[u8]) {
    match version {
        Version::V311 => {
            out.put_slice(&[0xB0, 2]);
            out.put_u16(packet_id);
        }
        Version::V5 => {
            head(out, 0xB0, 3 + codes.len());
            out.put_u16(packet_id);
            out.put_u8(0);
            out.put_slice(codes);
        }
    }
}

/// PINGRESP.
pub(in crate::broker) fn pong(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// DISCONNECT, with a reason string if there is one that fits; a 3.1.1 server has none, it just closes.
pub(in crate::broker) fn disconnect(out: &mut BytesMut, version: Version, reason: u8, told: &str) {
    if version == Version::V5 {
        let properties = reason_properties(told);
        head(out, 0xE0, 1 + properties.len());
        out.put_u8(reason);
        out.put_slice(&properties);
    }
}

/// A PUBLISH that is about to be written, with its length worked out.
#[derive(Debug)]
pub(in crate::broker) struct Outgoing<'a> {
    delivery: &'a Delivery,
    version: Version,
    naming: Naming,
    expiry: Option<u32>,
    properties: usize,
    remaining: usize,
}

impl<'a> Outgoing<'a> {
    /// Works out how long it will be. The time is asked of messages that expire.
    pub(in crate::broker) fn new(delivery: &'a Delivery, to: (Version, Naming), now: impl FnOnce() -> Instant) -> Self {
        let (version, naming) = to;
        let message = &delivery.message;
        let left = message.expires.map(|expires| expires.saturating_duration_since(now()).as_secs_f64().ceil());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it came from a u32 of seconds")]
        let expiry = left.map(|left| left as u32);
        let mut properties = 0;
        if version == Version::V5 {
            properties += message.forwarded.as_ref().map_or(0, |forwarded| forwarded.encoded.len());
            properties += if expiry.is_some() { 5 } else { 0 };
            properties += if naming == Naming::Full { 0 } else { 3 };
            properties += delivery.ids.iter().map(|id| 1 + variable_len(*id as usize)).sum::<usize>();
        }
        let mut remaining = 2 + named(naming, &message.topic).len() + message.payload.len();
        remaining += if delivery.qos == Qos::AtMostOnce { 0 } else { 2 };
        remaining += if version == Version::V5 { variable_len(properties) + properties } else { 0 };
        Self { delivery, version, naming, expiry, properties, remaining }
    }

    /// Bytes on the wire.
    pub(in crate::broker) fn len(&self) -> usize {
        1 + variable_len(self.remaining) + self.remaining
    }

    /// Writes it; `packet_id` is not used at QoS 0.
    pub(in crate::broker) fn write(&self, out: &mut BytesMut, packet_id: u16) {
        out.reserve(self.len());
        self.write_head(out, packet_id);
        out.put_slice(&self.delivery.message.payload);
    }

    /// The same without the payload, which goes last.
    pub(in crate::broker) fn write_head(&self, out: &mut BytesMut, packet_id: u16) {
        let message = &self.delivery.message;
        let retain = u8::from(self.delivery.retain == Retain::Yes);
        let again = u8::from(self.delivery.owed.is_some_and(|owed| owed.stage == Stage::SentBefore));
        head(out, 0x30 | (again << 3) | (self.delivery.qos.bits() << 1) | retain, self.remaining);
        text(out, named(self.naming, &message.topic));
        if self.delivery.qos != Qos::AtMostOnce {
            out.put_u16(packet_id);
        }
        if self.version == Version::V5 {
            variable(out, self.properties);
            if let Some(forwarded) = &message.forwarded {
                out.put_slice(&forwarded.encoded);
            }
            if let Some(expiry) = self.expiry {
                out.put_u8(MESSAGE_EXPIRY);
                out.put_u32(expiry);
            }
            if let Naming::Given(alias) | Naming::Alias(alias) = self.naming {
                out.put_u8(TOPIC_ALIAS);
                out.put_u16(alias);
            }
            for id in &self.delivery.ids {
                out.put_u8(SUBSCRIPTION_ID);
                variable(out, *id as usize);
            }
        }
    }
}

/// What stands in the topic's place (3.3.2-6).
fn named(naming: Naming, topic: &str) -> &str {
    if let Naming::Alias(_) = naming { "" } else { topic }
}

/// Properties with their length; nothing at all, not even a length, when there is nothing to tell (3.4.2.2.1 and alike).
fn reason_properties(told: &str) -> BytesMut {
    let mut properties = BytesMut::new();
    if !told.is_empty() {
        variable(&mut properties, 3 + told.len());
        properties.put_u8(REASON_STRING);
        text(&mut properties, told);
    }
    properties
}

fn head(out: &mut BytesMut, first: u8, remaining: usize) {
    out.put_u8(first);
    variable(out, remaining);
}

/// Variable byte integer, section 1.5.5; everything we write is far below its limit of 256 MiB.
fn variable(out: &mut BytesMut, mut value: usize) {
    while value > 0x7F {
        out.put_u8(0x80 | low_seven(value));
        value >>= 7;
    }
    out.put_u8(low_seven(value));
}

fn low_seven(value: usize) -> u8 {
    u8::try_from(value & 0x7F).expect("seven bits fit in eight")
}

fn variable_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// UTF-8 string; topics and ids are below 64 KiB by their own limits, reason strings are ours.
fn text(out: &mut BytesMut, text: &str) {
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(&text.as_bytes()[..text.len().min(usize::from(u16::MAX))]);
}
