//! MQTT 5 properties, section 2.2.2: each known one at most once (user properties aside), only where it is allowed,
//! and never past the declared length. What may travel on to subscribers keeps its encoded form.

use bytes::{Bytes, BytesMut};

use super::reader::Reader;
use super::{Fault, Version};
use crate::broker::message::Forwarded;

pub(super) const PAYLOAD_FORMAT: u8 = 1;
pub(super) const MESSAGE_EXPIRY: u8 = 2;
pub(super) const CONTENT_TYPE: u8 = 3;
pub(super) const RESPONSE_TOPIC: u8 = 8;
pub(super) const CORRELATION: u8 = 9;
pub(super) const SUBSCRIPTION_ID: u8 = 11;
pub(super) const SESSION_EXPIRY: u8 = 17;
pub(super) const ASSIGNED_ID: u8 = 18;
pub(super) const SERVER_KEEP_ALIVE: u8 = 19;
pub(super) const AUTH_METHOD: u8 = 21;
pub(super) const AUTH_DATA: u8 = 22;
pub(super) const PROBLEM_INFO: u8 = 23;
pub(super) const WILL_DELAY: u8 = 24;
pub(super) const RESPONSE_INFO: u8 = 25;
pub(super) const REASON_STRING: u8 = 31;
pub(super) const RECEIVE_MAXIMUM: u8 = 33;
pub(super) const ALIAS_MAXIMUM: u8 = 34;
pub(super) const TOPIC_ALIAS: u8 = 35;
pub(super) const MAXIMUM_QOS: u8 = 36;
pub(super) const RETAIN_AVAILABLE: u8 = 37;
pub(super) const USER_PROPERTY: u8 = 38;
pub(super) const MAXIMUM_PACKET: u8 = 39;

/// In which packet properties stand, and so which are allowed (MQTT 5, table 2-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Connect,
    Will,
    Publish,
    Ack,
    Subscribe,
    Unsubscribe,
    Disconnect,
}

impl Place {
    const fn allowed(self) -> &'static [u8] {
        match self {
            Self::Connect => &[
                SESSION_EXPIRY,
                AUTH_METHOD,
                AUTH_DATA,
                PROBLEM_INFO,
                RESPONSE_INFO,
                RECEIVE_MAXIMUM,
                ALIAS_MAXIMUM,
                USER_PROPERTY,
                MAXIMUM_PACKET,
            ],
            Self::Will => {
                &[PAYLOAD_FORMAT, MESSAGE_EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION, WILL_DELAY, USER_PROPERTY]
            }
            // A client sends no subscription identifier (3.3.4-6).
            Self::Publish => {
                &[PAYLOAD_FORMAT, MESSAGE_EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION, TOPIC_ALIAS, USER_PROPERTY]
            }
            Self::Ack => &[REASON_STRING, USER_PROPERTY],
            Self::Subscribe => &[SUBSCRIPTION_ID, USER_PROPERTY],
            Self::Unsubscribe => &[USER_PROPERTY],
            Self::Disconnect => &[SESSION_EXPIRY, REASON_STRING, USER_PROPERTY],
        }
    }
}

/// What was said; `None` where nothing was.
#[derive(Debug, Default)]
pub(super) struct Properties {
    pub message_expiry: Option<u32>,
    pub subscription_id: Option<u32>,
    pub session_expiry: Option<u32>,
    pub auth_method: Option<String>,
    pub auth_data: bool,
    pub problem_info: Option<u8>,
    pub will_delay: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub alias_maximum: Option<u16>,
    pub topic_alias: Option<u16>,
    pub maximum_packet: Option<u32>,
    pub forwarded: Option<Box<Forwarded>>,
}

/// Reads the properties of a packet; 3.1.1 has none.
pub(super) fn read(reader: &mut Reader, version: Version, place: Place) -> Result<Properties, Fault> {
    let mut found = Properties::default();
    if version == Version::V311 {
        return Ok(found);
    }
    let length = reader.variable()? as usize;
    let mut part = reader.part(length)?;
    let mut seen = 0_u64;
    let mut travelling = BytesMut::new();
    while !part.is_empty() {
        let before = part.peek();
        let id = part.byte()?;
        if (place, id) == (Place::Publish, SUBSCRIPTION_ID) {
            return Err(Fault::Protocol("a subscription identifier from a client")); // 3.3.4-6
        }
        if !place.allowed().contains(&id) {
            return Err(Fault::Malformed("property that does not belong here"));
        }
        if id != USER_PROPERTY && seen & (1 << id) != 0 {
            return Err(Fault::Protocol("property given twice"));
        }
        seen |= 1 << id;
        found.take(id, &mut part)?;
        if travels(id) {
            travelling.extend_from_slice(&before[..before.len() - part.len()]);
        }
    }
    if matches!(place, Place::Will | Place::Publish) && !travelling.is_empty() {
        found.forwarded.get_or_insert_default().encoded = travelling.freeze();
    }
    Ok(found)
}

/// Properties that go on to subscribers unchanged (section 3.3.2.3: payload format, response topic, correlation data,
/// user property, content type).
const fn travels(id: u8) -> bool {
    matches!(id, PAYLOAD_FORMAT | CONTENT_TYPE | RESPONSE_TOPIC | CORRELATION | USER_PROPERTY)
}

impl Properties {
    fn take(&mut self, id: u8, part: &mut Reader) -> Result<(), Fault> {
        match id {
            // Passed on as it came (3.3.2-4); only 0 and 1 mean something, and nothing is said of the others.
            PAYLOAD_FORMAT => drop(part.byte()?),
            RESPONSE_INFO => drop(flag(part)?),
            PROBLEM_INFO => self.problem_info = Some(flag(part)?),
            MESSAGE_EXPIRY => self.message_expiry = Some(part.four()?),
            CONTENT_TYPE | REASON_STRING => drop(part.text()?),
            AUTH_METHOD => self.auth_method = Some(part.text()?),
            AUTH_DATA => {
                part.binary()?;
                self.auth_data = true;
            }
            USER_PROPERTY => {
                part.text()?;
                part.text()?;
            }
            RESPONSE_TOPIC => {
                let topic = part.text()?;
                crate::model::topic::check_topic(&topic).map_err(Fault::Topic)?;
                self.forwarded.get_or_insert_default().response_topic = Some(topic);
            }
            CORRELATION => self.forwarded.get_or_insert_default().correlation = Some(part.binary()?),
            SUBSCRIPTION_ID => self.subscription_id = Some(not_zero(part.variable()?)?),
            SESSION_EXPIRY => self.session_expiry = Some(part.four()?),
            WILL_DELAY => self.will_delay = Some(part.four()?),
            RECEIVE_MAXIMUM => self.receive_maximum = Some(not_zero(part.two()?)?),
            ALIAS_MAXIMUM => self.alias_maximum = Some(part.two()?),
            // Zero is a fault of its own (3.3.2-8); the session judges it with the limit.
            TOPIC_ALIAS => self.topic_alias = Some(part.two()?),
            MAXIMUM_PACKET => self.maximum_packet = Some(not_zero(part.four()?)?),
            _ => return Err(Fault::Malformed("unknown property")),
        }
        Ok(())
    }
}

fn flag(part: &mut Reader) -> Result<u8, Fault> {
    match part.byte()? {
        flag @ 0..=1 => Ok(flag),
        _ => Err(Fault::Protocol("a flag is 0 or 1")),
    }
}

fn not_zero<N: Default + PartialEq>(number: N) -> Result<N, Fault> {
    if number == N::default() { Err(Fault::Protocol("property must not be 0")) } else { Ok(number) }
}

/// The correlation data of a request, going back with its answer; at most 65 535 bytes, as they came.
pub(in crate::broker) fn correlated(data: Vec<u8>) -> Option<Box<Forwarded>> {
    let length = u16::try_from(data.len()).ok()?;
    let mut encoded = BytesMut::with_capacity(data.len() + 3);
    encoded.extend_from_slice(&[CORRELATION]);
    encoded.extend_from_slice(&length.to_be_bytes());
    encoded.extend_from_slice(&data);
    Some(Box::new(Forwarded { encoded: encoded.freeze(), response_topic: None, correlation: Some(data.into()) }))
}

/// Reads properties that were kept on disk in their encoded form.
pub(in crate::broker) fn revive(encoded: Bytes) -> Option<Box<Forwarded>> {
    if encoded.is_empty() {
        return None;
    }
    let mut part = Reader::new(encoded.clone());
    let mut found = Properties::default();
    while !part.is_empty() {
        let id = part.byte().ok().filter(|id| travels(*id))?;
        found.take(id, &mut part).ok()?;
    }
    let mut forwarded = found.forwarded.unwrap_or_default();
    forwarded.encoded = encoded;
    Some(forwarded)
}
