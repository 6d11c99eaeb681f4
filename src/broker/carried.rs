//! Between the broker's messages and those that go upstream or come down: what MQTT 5 says beside a payload, decoded and
//! encoded again (section 3.3.2.3).
//!
//! Nothing is checked here: the door has done so for what came in, and what is written is cut to what MQTT allows.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::message::{Forwarded, Holders, Keep, Message, Qos, Retain};
use super::wire::revive;
use crate::flow::forward::{Letter, Wish};
use crate::model::message::{ClientMessage, Kept, Properties};
use crate::model::time::Stamp;

const PAYLOAD_FORMAT: u8 = 1;
const CONTENT_TYPE: u8 = 3;
const RESPONSE_TOPIC: u8 = 8;
const CORRELATION: u8 = 9;
const USER_PROPERTY: u8 = 38;

/// A message as the stores take it.
pub(super) fn letter(message: &Message, retain: Retain, at: Stamp) -> Letter {
    // A second that has begun counts: what has come just now goes with all of its time.
    let left = |expires: Instant| expires.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000);
    let message_to_keep = ClientMessage {
        payload: message.payload.as_ref().into(),
        kept: if retain == Retain::Yes { Kept::Yes } else { Kept::No },
        expiry_s: message.expires.map(|expires| u32::try_from(left(expires)).unwrap_or(u32::MAX)),
        properties: message.forwarded.as_ref().map(|forwarded| decoded(&forwarded.encoded)).unwrap_or_default(),
    };
    let wish = if message.qos == Qos::AtMostOnce { Wish::Nothing } else { Wish::Receipt };
    Letter { topic: Arc::clone(&message.topic), message: message_to_keep, wish, from: None, at }
}

/// A message as local clients get it, so long after it has come: its life began then, however often it is handed in. `None`:
/// it is over.
pub(super) fn message(letter: &Letter, age: Duration) -> Option<Message> {
    let expires = match letter.message.expiry_s {
        None => None,
        Some(seconds) => {
            let left = Duration::from_secs(seconds.into()).checked_sub(age).filter(|left| !left.is_zero())?;
            Some(Instant::now() + left)
        }
    };
    Some(Message {
        topic: Arc::clone(&letter.topic),
        payload: Bytes::copy_from_slice(&letter.message.payload),
        qos: if letter.wish == Wish::Receipt { Qos::AtLeastOnce } else { Qos::AtMostOnce },
        forwarded: encoded(&letter.message.properties),
        expires,
        keep: Keep::Every,
        holders: Holders::default(),
    })
}

/// What stands in the encoded form; the rest of it is passed over where it is no property that travels.
fn decoded(encoded: &[u8]) -> Properties {
    let (mut found, mut rest) = (Properties::default(), encoded);
    while let Some(left) = one(&mut found, rest) {
        rest = left;
    }
    found
}

fn one<'a>(found: &mut Properties, encoded: &'a [u8]) -> Option<&'a [u8]> {
    let (id, rest) = encoded.split_first()?;
    let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
    match *id {
        PAYLOAD_FORMAT => {
            let (format, rest) = rest.split_first()?;
            found.payload_format = Some(*format);
            return Some(rest);
        }
        USER_PROPERTY => {
            let (name, rest) = binary(rest)?;
            let (value, rest) = binary(rest)?;
            found.user.push((text(name), text(value)));
            return Some(rest);
        }
        _ => {}
    }
    let (data, rest) = binary(rest)?;
    match *id {
        CONTENT_TYPE => found.content_type = Some(text(data)),
        RESPONSE_TOPIC => found.response_topic = Some(text(data)),
        CORRELATION => found.correlation = Some(data.to_vec()),
        _ => return None,
    }
    Some(rest)
}

/// Two bytes of length, then so many.
fn binary(encoded: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = encoded.split_at_checked(2)?;
    rest.split_at_checked(usize::from(u16::from_be_bytes([length[0], length[1]])))
}

/// The way back, for what comes down.
fn encoded(properties: &Properties) -> Option<Box<Forwarded>> {
    let mut out = BytesMut::new();
    if let Some(format) = properties.payload_format {
        out.put_slice(&[PAYLOAD_FORMAT, format & 1]);
    }
    let texts = [(CONTENT_TYPE, &properties.content_type), (RESPONSE_TOPIC, &properties.response_topic)];
    for (id, text) in texts.into_iter().filter_map(|(id, text)| Some((id, text.as_ref()?))) {
        put(&mut out, id, &[text.as_bytes()]);
    }
    if let Some(data) = &properties.correlation {
        put(&mut out, CORRELATION, &[data]);
    }
    for (name, value) in &properties.user {
        put(&mut out, USER_PROPERTY, &[name.as_bytes(), value.as_bytes()]);
    }
    revive(Bytes::from(out))
}

fn put(out: &mut BytesMut, id: u8, parts: &[&[u8]]) {
    if parts.iter().any(|part| part.len() > usize::from(u16::MAX)) {
        return; // it cannot have come that way
    }
    out.put_u8(id);
    for part in parts {
        out.put_u16(u16::try_from(part.len()).unwrap_or(u16::MAX));
        out.put_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_down_lives_no_longer_for_being_handed_in_again() {
        let letter = |expiry_s| {
            let (payload, properties) = (b"x"[..].into(), Properties::default());
            let message = ClientMessage { payload, kept: Kept::No, expiry_s, properties };
            let at = Stamp { boot: crate::model::time::Boot(1), micros: 0 };
            Letter { topic: "t".into(), message, wish: Wish::Receipt, from: None, at }
        };
        let left = |expiry_s, age| {
            let message = message(&letter(expiry_s), Duration::from_secs(age))?;
            Some(message.expires.map(|expires| expires.duration_since(Instant::now()).as_secs_f64().ceil()))
        };
        assert_eq!(left(Some(10), 0), Some(Some(10.0)));
        assert_eq!(left(Some(10), 4), Some(Some(6.0)));
        assert_eq!((left(Some(10), 10), left(Some(10), 11), left(Some(0), 0)), (None, None, None));
        assert_eq!(left(None, 1_000_000), Some(None));
    }

    #[test]
    fn what_stands_beside_a_payload_is_the_same_after_both_ways() {
        let properties = Properties {
            payload_format: Some(1),
            content_type: Some("text/plain".into()),
            response_topic: Some("a/b".into()),
            correlation: Some(vec![0, 255]),
            user: vec![("k".into(), "v".into()), ("k".into(), String::new())],
        };
        let forwarded = encoded(&properties).expect("something to say");
        assert_eq!(decoded(&forwarded.encoded), properties);
        assert_eq!(
            (forwarded.response_topic.as_deref(), forwarded.correlation.as_deref()),
            (Some("a/b"), Some(&[0, 255][..]))
        );
        assert!(encoded(&Properties::default()).is_none());
        assert_eq!(decoded(&[99, 1]), Properties::default());
    }
}
