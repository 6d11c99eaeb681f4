//! One MQTT message to what it means, whatever format it is in: told by its first bytes and its topic.
//!
//! `{` JSON, layouts `tag` and `device` ([`super::device`]) · `[` on `…/batch` an array of them · zstd (28 B5 2F FD) either
//! of these compressed, or a `batch` frame. Nothing that arrives can make it panic or take more memory than
//! [`UNPACKED_MAX`]; what claims to be ours and cannot be read is [`Message::Broken`], to be counted.

use std::io::Read as _;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::model::number::{Class, Epoch, Number, Seq};
use crate::model::value::Value;
use crate::payload::json::Previous;

use super::device;
use super::record::{Body, GapRecord, Grade, Record};

/// What a message may unpack to; our own formats stay below (`batch`: config/ironbridge-batch.proto).
const UNPACKED_MAX: u64 = 16 << 20;
/// zstd: log2 of the largest window that is allocated for a stranger (RFC 8878, section 3.1.1.1.2, asks for 8 MB).
const WINDOW_LOG_MAX: u32 = 24;
const ZSTD: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// Epochs lie below 2^53 (contract, section 4); a stream of ten million samples a second has numbers up to there for
/// 28 years.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// What came.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Samples and events, in the order of their numbers.
    Records(Vec<Record>),
    /// A declared loss.
    Gap(Box<GapRecord>),
    /// A gateway's status, with its newest number per stream.
    Status {
        /// Whose.
        gateway: Arc<str>,
        /// Newest numbers.
        newest: Vec<(Class, Epoch, Seq)>,
    },
    /// A batch (zstd taken off): its dictionary decides what it means.
    Frame(Vec<u8>),
    /// Something else on the same broker.
    Other,
    /// Ours by topic or content, and not to be read.
    Broken(&'static str),
}

/// What a topic of our own tree is for.
struct Own<'a> {
    gateway: &'a str,
    last: &'a str,
}

/// `<prefix>ironbridge/<gateway>/<last>`.
fn own(topic: &str) -> Option<Own<'_>> {
    let mut levels = topic.rsplit('/');
    let (last, gateway, tree) = (levels.next()?, levels.next()?, levels.next()?);
    (tree == "ironbridge").then_some(Own { gateway, last })
}

/// Reads one message.
pub fn read(topic: &str, payload: &[u8]) -> Message {
    if !payload.starts_with(&ZSTD) {
        return plain(topic, payload);
    }
    let is_batch = own(topic).is_some_and(|own| own.last == "batch");
    match unpack(payload) {
        Some(raw) if matches!(raw.first(), Some(b'{' | b'[')) => plain(topic, &raw),
        Some(raw) if is_batch => Message::Frame(raw),
        None if is_batch => Message::Broken("zstd does not unpack"),
        _ => Message::Other,
    }
}

fn unpack(payload: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(payload).ok()?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).ok()?;
    let mut raw = Vec::new();
    let bytes = decoder.take(UNPACKED_MAX + 1).read_to_end(&mut raw).ok()?;
    (bytes as u64 <= UNPACKED_MAX).then_some(raw)
}

fn plain(topic: &str, payload: &[u8]) -> Message {
    let own = own(topic);
    let last = own.as_ref().map_or("", |own| own.last);
    let ours = matches!(last, "batch" | "gap");
    match (serde_json::from_slice::<Json>(payload), own) {
        (Ok(Json::Object(body)), Some(Own { gateway, last: "status" })) => {
            Message::Status { gateway: gateway.into(), newest: newest(&body) }
        }
        (Ok(Json::Object(body)), Some(Own { gateway, last: "gap" })) => gap(gateway, body),
        (Ok(Json::Object(body)), own) => {
            let gateway = own.map(|own| Arc::from(own.gateway));
            match object(topic, gateway, body) {
                Some(Ok(records)) => Message::Records(records),
                Some(Err(why)) => Message::Broken(why),
                None if ours => Message::Broken("no number"),
                None => Message::Other,
            }
        }
        (Ok(Json::Array(elements)), Some(Own { gateway, last: "batch" })) => array(&Arc::from(gateway), elements),
        _ if ours => Message::Broken("no JSON that is known"),
        _ => Message::Other,
    }
}

/// `[{"topic":…,…},…]`
fn array(gateway: &Arc<str>, elements: Vec<Json>) -> Message {
    let mut records = Vec::with_capacity(elements.len());
    for element in elements {
        let Json::Object(mut body) = element else { return Message::Broken("an array of other things than objects") };
        let Some(Json::String(topic)) = body.remove("topic") else {
            return Message::Broken("an element without topic");
        };
        match object(&topic, Some(Arc::clone(gateway)), body) {
            Some(Ok(more)) => records.extend(more),
            Some(Err(why)) => return Message::Broken(why),
            None => return Message::Broken("no number"),
        }
    }
    Message::Records(records)
}

/// A numbered object; `None` when it has no number at all.
fn object(
    topic: &str,
    gateway: Option<Arc<str>>,
    body: Map<String, Json>,
) -> Option<Result<Vec<Record>, &'static str>> {
    let claims = ["stream", "epoch", "seq"].iter().all(|key| body.contains_key(*key));
    let number = || Some(Number { stream: class(&body)?, epoch: epoch(&body)?, seq: seq(&body, "seq")? });
    let Some(number) = number() else { return claims.then_some(Err("a number that cannot be")) };
    let previous = previous(&body);
    if device::is_meant(&body) {
        let poll = device::Poll { topic, gateway, number, previous };
        return Some(poll.records(&body).ok_or("a device's poll that does not add up"));
    }
    let time_ms = body.get("time").and_then(Json::as_str).and_then(time);
    let body = match body.get("quality").and_then(Json::as_str) {
        Some(quality) => Body::Sample {
            value: body.get("value").and_then(value),
            quality: Grade::from_word(quality),
            cause: body.get("cause").and_then(Json::as_str).map(|cause| cause.to_owned().into()),
        },
        None => Body::Event(body),
    };
    Some(Ok(vec![Record { gateway, number, previous, topic: topic.into(), time_ms, body }]))
}

fn gap(gateway: &str, body: Map<String, Json>) -> Message {
    let (Some(stream), Some(epoch)) = (class(&body), epoch(&body)) else { return Message::Broken("no number") };
    let ends = seq(&body, "first").zip(seq(&body, "last")).filter(|(first, last)| first <= last);
    let Some((first, last)) = ends else { return Message::Broken("a range that cannot be") };
    Message::Gap(Box::new(GapRecord { gateway: gateway.into(), stream, epoch, first, last, body }))
}

fn newest(body: &Map<String, Json>) -> Vec<(Class, Epoch, Seq)> {
    let streams = body.get("streams").and_then(Json::as_object);
    let newest = streams.into_iter().flatten().filter_map(|(name, stream)| {
        let stream = stream.as_object()?;
        Some((Class::from_name(name)?, epoch(stream)?, seq(stream, "seq")?))
    });
    newest.collect()
}

fn previous(body: &Map<String, Json>) -> Option<Previous> {
    let previous = body.get("previous")?.as_object()?;
    Some(Previous { epoch: epoch(previous)?, seq: seq(previous, "seq") })
}

fn class(body: &Map<String, Json>) -> Option<Class> {
    Class::from_name(body.get("stream")?.as_str()?)
}

fn epoch(body: &Map<String, Json>) -> Option<Epoch> {
    body.get("epoch")?.as_u64().filter(|epoch| (1..=NUMBER_MAX).contains(epoch)).map(Epoch)
}

fn seq(body: &Map<String, Json>, key: &str) -> Option<Seq> {
    body.get(key)?.as_u64().filter(|seq| (1..=NUMBER_MAX).contains(seq)).map(Seq)
}

/// RFC 3339 to ms since 1970.
pub(super) fn time(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// A value as it stands in JSON.
pub(super) fn value(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Null => return None,
        Json::Bool(bit) => Value::Bool(*bit),
        Json::String(text) => Value::Text(text.as_str().into()),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, Some(whole)) => Value::Uint(whole),
            (None, None) => Value::Float(number.as_f64()?),
        },
        other => Value::Text(other.to_string().into()),
    })
}

/// Is that a number that can be, for a batch?
pub(super) fn number_fits(epoch: u64, first: u64, count: u64) -> bool {
    let last = first.checked_add(count).is_some_and(|end| end <= NUMBER_MAX);
    (1..=NUMBER_MAX).contains(&epoch) && first >= 1 && last
}
