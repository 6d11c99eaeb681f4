//! Clients' retained messages as rows on disk, and back.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::message::{Keep, Message, Qos};
use super::wire::revive;
use crate::disk::ledger::Row;
use crate::flow::clock::Clock;
use crate::model::topic::{Owner, Ownership, check_topic};

/// A message as a row; its end of life becomes wall time.
pub(super) fn row(message: &Message, clock: &Clock) -> Row {
    let expires_unix_ms = message.expires.map(|expires| {
        let left = expires.saturating_duration_since(Instant::now());
        clock.wall_now().unix_ms.saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX))
    });
    Row {
        topic: message.topic.clone(),
        qos: message.qos.bits(),
        payload: message.payload.clone(),
        properties: message.forwarded.as_ref().map_or_else(Bytes::new, |forwarded| forwarded.encoded.clone()),
        expires_unix_ms,
    }
}

/// A row as a message; `None` when it must not be served any more: expired, or the topic is the gateway's by now.
pub(super) fn message(row: Row, clock: &Clock, ownership: &Ownership) -> Option<Message> {
    if check_topic(&row.topic).is_err() || ownership.of(&row.topic) != Owner::Client || row.payload.is_empty() {
        return None;
    }
    let expires = match row.expires_unix_ms {
        None => None,
        Some(end) => match u64::try_from(end.saturating_sub(clock.wall_now().unix_ms)) {
            Ok(left) if left > 0 => Some(Instant::now() + Duration::from_millis(left.min(u64::from(u32::MAX) * 1000))),
            _ => return None,
        },
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
