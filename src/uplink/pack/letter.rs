//! A client's message as it goes upstream: its payload as it came, and beside it, where MQTT 5 is spoken, what came beside
//! it and its number.
//!
//! ```text
//! user properties, after the client's own (of a name that is there twice the last counts):
//!   gateway pump-station-7 · stream telemetry · epoch 8123 · seq 4711 · time 2026-11-20T20:00:00.123Z
//!   and on the first record of an epoch whose predecessor is known: previous_epoch 8122 · previous_seq 990
//! ```
//!
//! A message with an expiry goes with what is left of it ([`Term`]), worked out when it is sent. One that nobody needs any
//! more does not go at all (MQTT 5, section 3.3.2.3.3), unless its number goes with it: then it has a second, so that no number is
//! missing upstream, and whether it is too old for anybody is for that broker to say.

use crate::flow::clock::Clock;
use crate::model::message::{ClientMessage, Kept};
use crate::model::number::Class;
use crate::model::time::Stamp;
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

/// How long a message is of use to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::uplink) struct Term {
    from: Stamp,
    seconds: u32,
}

impl Term {
    /// `None`: for ever.
    pub(super) fn of(owed: &Owed, message: &ClientMessage) -> Option<Self> {
        message.expiry_s.map(|seconds| Self { from: owed.at, seconds })
    }

    /// Seconds that are left; 0: it is over. What came before a restart of the machine is as old as is certain: nothing ends
    /// by a clock that nobody vouches for.
    pub(in crate::uplink) fn left(self, clock: &Clock) -> u32 {
        let age = u32::try_from(clock.age(self.from).as_secs()).unwrap_or(u32::MAX);
        self.seconds.saturating_sub(age)
    }
}

/// RETAIN, as its sender said; of what goes over a bridge.
pub(super) fn retained(message: &ClientMessage, numbering: &Numbering) -> Retained {
    let kept = *numbering == Numbering::None && message.kept == Kept::Yes;
    if kept { Retained::Yes } else { Retained::No }
}

/// What goes beside topic and payload; what is left of its time is added when it is sent.
pub(super) fn extras(owed: &Owed, message: &ClientMessage, clock: &Clock, numbering: &Numbering) -> Extras {
    let properties = message.properties.clone();
    let mut user = properties.user;
    if let Numbering::As(gateway) = numbering {
        user.extend(letter::number(gateway, owed.number, owed.previous, clock.wall(owed.at)));
    }
    Extras {
        payload_format: properties.payload_format,
        content_type: properties.content_type.map(Into::into),
        expiry_s: None,
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
    Message { topic: String::new(), payload: Vec::new(), extras, retained, term: None, ack, class, lane, said }
}
