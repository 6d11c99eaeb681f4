//! The other side of our own wire: what a client of the broker says and hears, MQTT 5, as far as a gateway of MQTT-SN needs
//! it. The bytes go through a pipe in memory, from us to us.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use crate::broker::message::{Qos, Retain};
use crate::broker::wire::{Ack, AckKind, Connect, Frame, Version, Will};

/// Properties of a PUBLISH (MQTT 5, section 2.2.2.2).
const PAYLOAD_FORMAT: u8 = 1;
const MESSAGE_EXPIRY: u8 = 2;
const CONTENT_TYPE: u8 = 3;
const RESPONSE_TOPIC: u8 = 8;
const CORRELATION: u8 = 9;
const USER_PROPERTY: u8 = 38;

/// What the broker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    Connack { reason: u8 },
    Publish(Delivery),
    Ack(Ack),
    Suback { packet_id: u16, reason: u8 },
    Unsuback { packet_id: u16 },
    Pong,
    Disconnect,
}

/// PUBLISH from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delivery {
    pub again: bool,
    pub qos: Qos,
    pub retain: Retain,
    pub packet_id: u16,
    pub topic: String,
    pub payload: Bytes,
    /// From then on nobody is to get it any more.
    pub expires: Option<Instant>,
}

impl Delivery {
    /// May it be left out by now? As with every client, not what was sent before at QoS 2, whose identifier the sensor holds.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        let begun = self.again && self.qos == Qos::ExactlyOnce;
        !begun && self.expires.is_some_and(|expires| expires <= now)
    }
}

/// PUBLISH to the broker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a> {
    pub again: bool,
    pub qos: Qos,
    pub retain: Retain,
    pub packet_id: u16,
    pub topic: &'a str,
    pub payload: &'a [u8],
}

/// CONNECT of a client that has this id and takes packets of this length.
pub(super) fn connect(client_id: &str, clean_start: bool, maximum_packet: u32, will: Option<Will>) -> Connect {
    Connect {
        version: Version::V5,
        legacy: false,
        bridge: false,
        client_id: client_id.to_owned(),
        clean_start,
        keep_alive: 0, // silence is measured where datagrams come in
        session_expiry: if clean_start { 0 } else { u32::MAX },
        receive_maximum: 1, // one message at a time is on its way to a sensor (MQTT-SN, section 6.13)
        alias_maximum: 0,
        maximum_packet,
        wants_reasons: false,
        will,
        user: None,
        password: None,
    }
}

/// What a frame says that comes now; `None`: it is of no interest.
pub(super) fn read(frame: Frame, now: Instant) -> Option<Heard> {
    let Frame { first, mut body } = frame;
    match first >> 4 {
        2 => Some(Heard::Connack { reason: *body.get(1)? }),
        3 => publish_from(first, body, now).map(Heard::Publish),
        kind @ 4..=7 => {
            let packet_id = two(&mut body)?;
            let kind = [AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp][usize::from(kind - 4)];
            Some(Heard::Ack(Ack { kind, packet_id, reason: body.first().copied().unwrap_or(0) }))
        }
        9 => {
            let packet_id = two(&mut body)?;
            properties(&mut body)?;
            Some(Heard::Suback { packet_id, reason: *body.first()? })
        }
        11 => two(&mut body).map(|packet_id| Heard::Unsuback { packet_id }),
        13 => Some(Heard::Pong),
        14 => Some(Heard::Disconnect),
        _ => None,
    }
}

fn publish_from(first: u8, mut body: Bytes, now: Instant) -> Option<Delivery> {
    let qos = Qos::from_bits((first >> 1) & 3)?;
    let length = usize::from(two(&mut body)?);
    let topic = (body.len() >= length).then(|| body.split_to(length))?;
    let topic = String::from_utf8(topic.into()).ok()?;
    let packet_id = if qos == Qos::AtMostOnce { 0 } else { two(&mut body)? };
    let expires = expiry(properties(&mut body)?).map(|seconds| now + Duration::from_secs(seconds.into()));
    let (again, retain) = (first & 8 != 0, Retain::from(first & 1 != 0));
    Some(Delivery { again, qos, retain, packet_id, topic, payload: Bytes::copy_from_slice(&body), expires })
}

/// Message Expiry Interval, seconds (MQTT 5, section 3.3.2.3.3). What travels with the content may stand before it.
fn expiry(mut properties: Bytes) -> Option<u32> {
    loop {
        match (!properties.is_empty()).then(|| properties.get_u8())? {
            PAYLOAD_FORMAT => properties.try_get_u8().map(drop).ok()?,
            MESSAGE_EXPIRY => return properties.try_get_u32().ok(),
            CONTENT_TYPE | RESPONSE_TOPIC | CORRELATION => skip_text(&mut properties)?,
            USER_PROPERTY => {
                skip_text(&mut properties)?;
                skip_text(&mut properties)?;
            }
            _ => return None, // what our broker writes behind it
        }
    }
}

fn skip_text(body: &mut Bytes) -> Option<()> {
    let length = usize::from(two(body)?);
    (body.len() >= length).then(|| body.advance(length))
}

fn two(body: &mut Bytes) -> Option<u16> {
    (body.len() >= 2).then(|| body.get_u16())
}

fn properties(body: &mut Bytes) -> Option<Bytes> {
    let mut length = 0_usize;
    for place in 0..4 {
        let byte = (!body.is_empty()).then(|| body.get_u8())?;
        length |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return (body.len() >= length).then(|| body.split_to(length));
        }
    }
    None
}

pub(super) fn publish(out: &mut BytesMut, said: Said<'_>) {
    let Said { again, qos, retain, packet_id, topic, payload } = said;
    let with_id = if qos == Qos::AtMostOnce { 0 } else { 2 };
    let flags = u8::from(again && with_id > 0) << 3 | qos.bits() << 1 | u8::from(retain == Retain::Yes);
    head(out, 0x30 | flags, 2 + topic.len() + with_id + 1 + payload.len());
    text(out, topic);
    if with_id > 0 {
        out.put_u16(packet_id);
    }
    out.put_u8(0);
    out.put_slice(payload);
}

pub(super) fn ack(out: &mut BytesMut, kind: AckKind, packet_id: u16, reason: u8) {
    let first = match kind {
        AckKind::Puback => 0x40,
        AckKind::Pubrec => 0x50,
        AckKind::Pubrel => 0x62,
        AckKind::Pubcomp => 0x70,
    };
    head(out, first, if reason == 0 { 2 } else { 3 });
    out.put_u16(packet_id);
    if reason != 0 {
        out.put_u8(reason);
    }
}

pub(super) fn subscribe(out: &mut BytesMut, packet_id: u16, filter: &str, qos: Qos) {
    head(out, 0x82, 2 + 1 + 2 + filter.len() + 1);
    out.put_u16(packet_id);
    out.put_u8(0);
    text(out, filter);
    out.put_u8(qos.bits());
}

pub(super) fn unsubscribe(out: &mut BytesMut, packet_id: u16, filter: &str) {
    head(out, 0xA2, 2 + 1 + 2 + filter.len());
    out.put_u16(packet_id);
    out.put_u8(0);
    text(out, filter);
}

pub(super) fn ping(out: &mut BytesMut) {
    head(out, 0xC0, 0);
}

pub(super) fn disconnect(out: &mut BytesMut) {
    head(out, 0xE0, 0);
}

fn head(out: &mut BytesMut, first: u8, mut length: usize) {
    out.put_u8(first);
    loop {
        let [byte, ..] = (length & 0x7F).to_le_bytes();
        length >>= 7;
        if length == 0 {
            return out.put_u8(byte);
        }
        out.put_u8(byte | 0x80);
    }
}

/// A datagram holds no text that is longer than its length can say.
fn text(out: &mut BytesMut, text: &str) {
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(text.as_bytes());
}
