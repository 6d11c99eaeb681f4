//! Messages as rows on disk, and back: clients' retained ones, and what sessions are owed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::durable::cost_of;
use super::message::{Delivery, Keep, Message, Owed, Qos, Retain, Stage};
use super::wire::revive;
use crate::disk::ledger::{MessageRow, OwedRow, Owing, Row};
use crate::flow::clock::Clock;
use crate::model::topic::{Owner, Ownership, check_topic};

/// A retained message as a row; its end of life becomes wall time.
pub(super) fn row(message: &Message, clock: &Clock) -> Row {
    Row {
        topic: message.topic.clone(),
        qos: message.qos.bits(),
        payload: message.payload.clone(),
        properties: properties(message),
        expires_unix_ms: ends_at(message, clock),
    }
}

/// A row as a retained message; `None` when it must not be served any more: expired, or the topic is the gateway's by now.
pub(super) fn message(row: Row, clock: &Clock, ownership: &Ownership) -> Option<Message> {
    if check_topic(&row.topic).is_err() || ownership.of(&row.topic) != Owner::Client || row.payload.is_empty() {
        return None;
    }
    let expires = match row.expires_unix_ms {
        None => None,
        Some(end) => Some(moment(end, clock).filter(|end| *end > Instant::now())?),
    };
    Some(Message {
        topic: row.topic,
        qos: Qos::from_bits(row.qos)?,
        payload: row.payload,
        forwarded: revive(row.properties),
        expires,
        keep: Keep::Every,
    })
}

/// A message that sessions are owed.
pub(super) fn owed_row(message: &Message, clock: &Clock) -> Arc<MessageRow> {
    Arc::new(MessageRow {
        topic: message.topic.clone(),
        qos: message.qos.bits(),
        payload: message.payload.clone(),
        properties: properties(message),
        expires_unix_ms: ends_at(message, clock),
    })
}

/// What one session makes of it.
pub(super) fn owing(delivery: &Delivery, ordinal: u64) -> Owing {
    let retain = delivery.retain == Retain::Yes;
    Owing { ordinal, qos: delivery.qos.bits(), retain, identifiers: delivery.ids.clone() }
}

/// What is owed, as it goes to the client. One that has expired says so.
pub(super) fn delivery(row: OwedRow, clock: &Clock) -> Delivery {
    let OwedRow { ordinal, message, qos, retain, identifiers, released } = row;
    let qos_of = |bits| Qos::from_bits(bits).unwrap_or(Qos::AtLeastOnce);
    let stage = if released { Stage::Released } else { Stage::Committed };
    let owed = Some(Owed { ordinal, cost: cost_of(&message, &identifiers), stage });
    let message = Message {
        topic: Arc::clone(&message.topic),
        qos: qos_of(message.qos),
        payload: message.payload.clone(),
        forwarded: revive(message.properties.clone()),
        expires: message.expires_unix_ms.map(|end| moment(end, clock).unwrap_or_else(Instant::now)),
        keep: Keep::Every,
    };
    Delivery { message: Arc::new(message), qos: qos_of(qos), retain: retain.into(), ids: identifiers, owed }
}

fn properties(message: &Message) -> Bytes {
    message.forwarded.as_ref().map_or_else(Bytes::new, |forwarded| forwarded.encoded.clone())
}

fn ends_at(message: &Message, clock: &Clock) -> Option<i64> {
    message.expires.map(|expires| {
        let left = expires.saturating_duration_since(Instant::now());
        clock.wall_now().unix_ms.saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX))
    })
}

/// `None`: it has passed.
fn moment(unix_ms: i64, clock: &Clock) -> Option<Instant> {
    let left = u64::try_from(unix_ms.saturating_sub(clock.wall_now().unix_ms)).ok()?;
    Some(Instant::now() + Duration::from_millis(left.min(u64::from(u32::MAX) * 1000)))
}
