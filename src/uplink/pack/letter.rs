//! A client's message as it goes upstream: its payload as it came, and beside it, where MQTT 5 is spoken, what came beside
//! it and its number.
//!
//! ```text
//! user properties, after the client's own (of a name that is there twice the last counts):
//!   gateway pump-station-7 · stream telemetry · epoch 8123 · seq 4711 · time 2026-11-20T20:00:00.123Z
//!   and on the first record of an epoch whose predecessor is known: previous_epoch 8122 · previous_seq 990
//! ```
//!
//! A message with an expiry goes with what is left of it, and never with less than a second: whether it is too old for
//! anybody is for the broker to say, and its number is not missing upstream.

use crate::flow::clock::Clock;
use crate::model::message::ClientMessage;
use crate::model::number::Class;
use crate::payload::letter;
use crate::store::{Ack, Owed, OwedBody};
use crate::uplink::client::{Extras, Retained};
use crate::uplink::source::Lane;
use crate::uplink::sparkplug::Said;

use super::Message;

/// Who puts numbers to messages: uplinks do, bridges do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Numbering {
    /// In the name of this gateway.
    As(String),
    /// As they came.
    None,
}

/// What goes beside topic and payload.
pub(super) fn extras(owed: &Owed, message: &ClientMessage, clock: &Clock, numbering: &Numbering) -> Extras {
    let properties = message.properties.clone();
    let age_s = clock.now().since(owed.at).as_secs();
    let left = |expiry_s: u32| u32::try_from(u64::from(expiry_s).saturating_sub(age_s)).unwrap_or(expiry_s).max(1);
    let mut user = properties.user;
    if let Numbering::As(gateway) = numbering {
        user.extend(letter::number(gateway, owed.number, owed.previous, clock.wall(owed.at)));
    }
    Extras {
        payload_format: properties.payload_format,
        content_type: properties.content_type.map(Into::into),
        expiry_s: message.expiry_s.map(left),
        correlation: properties.correlation,
        response_topic: properties.response_topic,
        user,
    }
}

/// What an edge node is to say of these records, about so many bytes. A client's message is none of it: one that an earlier
/// configuration left owed has no topic here, and is given up with a gap record.
pub(super) fn told(records: Vec<Owed>, bytes: usize, (ack, class, lane): (Ack, Class, Lane)) -> Message {
    let letter = matches!(records[..], [Owed { body: OwedBody::Message { .. }, .. }]);
    let (extras, retained) = (Extras::default(), Retained::No);
    let said = (!letter).then_some(Said::Records { records, bytes });
    Message { topic: String::new(), payload: Vec::new(), extras, retained, ack, class, lane, said }
}
