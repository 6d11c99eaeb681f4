//! One MQTT message to what it means, whatever format it is in: told by its first bytes and its topic.
//!
//! `{` JSON, layouts `tag` and `device` (`device`) · `[` on `…/batch` an array of them · zstd: either of these
//! compressed, or a batch ([`crate::payload::packed`]). Nothing that arrives can make it panic; what claims to be ours and
//! cannot be read is [`Message::Broken`], to be counted and told.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::model::number::{Class, Epoch, Number, Seq};
use crate::model::value::Value;
use crate::payload::batch::{self, BadBatch, Batch, RecordBody};
use crate::payload::json::Previous;
use crate::payload::letter;
use crate::payload::packed::{self, Opened};

use super::consumer::Arrival;
use super::device;
use super::record::{Body, GapRecord, Grade, Record};

/// Keys of a sample, as `payload::json` writes them.
const KEYS: [&str; 9] = ["value", "quality", "cause", "time", "time_until", "stream", "epoch", "seq", "previous"];
/// MQTT's own limit; in an array or a batch a stranger could name longer ones, and topics are kept.
const TOPIC_BYTES_MAX: usize = 65_535;
/// Names of gateways are kept with each of their epochs; the configuration allows far shorter ones.
const GATEWAY_BYTES_MAX: usize = 1024;
/// Epochs lie below 2^53, so that a float holds them exactly; a stream of ten million samples a second has numbers up to there for
/// 28 years.
const NUMBER_MAX: u64 = (1 << 53) - 1;

const TOO_LONG: &str = "a name that is too long";

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
    /// Records whose tags stand in a dictionary.
    Batch(Box<Batch>),
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
    (tree == "ironbridge" && gateway.len() <= GATEWAY_BYTES_MAX).then_some(Own { gateway, last })
}

/// Reads one message; one with a number beside it is a client's, whatever it looks like.
pub fn read_arrival(arrival: &Arrival<'_>) -> Message {
    letter(arrival).unwrap_or_else(|| read(arrival.topic, arrival.payload))
}

fn letter(arrival: &Arrival<'_>) -> Option<Message> {
    let letter::Numbered { gateway, number, previous, time } = letter::numbered(arrival.user)?;
    if !number_fits(number.epoch.0, number.seq.0, 1) {
        return Some(Message::Broken("a number that cannot be"));
    }
    if gateway.len() > GATEWAY_BYTES_MAX {
        return Some(Message::Broken(TOO_LONG));
    }
    let time_ms = time.and_then(|time| time.parse::<jiff::Timestamp>().ok()).map(jiff::Timestamp::as_millisecond);
    let body = Body::Event(letter::object(arrival.payload, number, time));
    let (gateway, topic) = (Some(gateway.into()), arrival.topic.into());
    Some(Message::Records(vec![Record {
        gateway,
        number,
        previous,
        topic,
        time_ms,
        until_ms: None,
        body,
        whole: None,
    }]))
}

/// Reads one message.
pub fn read(topic: &str, payload: &[u8]) -> Message {
    let is_batch = || own(topic).is_some_and(|own| own.last == "batch");
    match packed::open(payload) {
        Ok(Opened::Text(text)) => plain(topic, &text),
        Ok(Opened::Batch(batch)) if batch_fits(&batch) => Message::Batch(batch),
        Ok(Opened::Batch(batch)) if names_fit(&batch) => Message::Broken("a number that cannot be"),
        Ok(Opened::Batch(_)) => Message::Broken(TOO_LONG),
        Err(bad) if is_batch() => Message::Broken(match bad {
            BadBatch::Foreign(_) => "not a batch",
            BadBatch::Newer(_) => "a batch of a newer version: this program is too old",
            BadBatch::Damaged(_) => "a damaged batch",
        }),
        Err(_) => Message::Other,
    }
}

fn plain(topic: &str, payload: &[u8]) -> Message {
    match (serde_json::from_slice::<Json>(payload), own(topic)) {
        (Ok(Json::Object(body)), own) => single(topic, own.filter(|_| !is_sample(&body)), body),
        (Ok(Json::Array(elements)), Some(Own { gateway, last: "batch" })) => array(&Arc::from(gateway), elements),
        (_, Some(Own { last: "batch" | "gap", .. })) => Message::Broken("no JSON that is known"),
        _ => Message::Other,
    }
}

/// A sample says what it is by itself. A tag's topic may look like one of our own tree, of a gateway that is called
/// `ironbridge`: it is neither a status nor a gap then, and its level before last is no gateway.
fn is_sample(body: &Map<String, Json>) -> bool {
    is_numbered(body) && (device::is_meant(body) || body.contains_key("quality") && !is_event(body))
}

fn single(topic: &str, own: Option<Own<'_>>, body: Map<String, Json>) -> Message {
    match own {
        Some(Own { gateway, last: "status" }) => Message::Status { gateway: gateway.into(), newest: newest(&body) },
        Some(Own { gateway, last: "gap" }) => gap(topic, gateway, body),
        own => {
            let is_batch = own.as_ref().is_some_and(|own| own.last == "batch");
            match object(topic, own.map(|own| Arc::from(own.gateway)), body) {
                Some(Ok(records)) => Message::Records(records),
                Some(Err(why)) => Message::Broken(why),
                None if is_batch => Message::Broken("no number"),
                None => Message::Other,
            }
        }
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
        if topic.len() > TOPIC_BYTES_MAX {
            return Message::Broken(TOO_LONG);
        }
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
    let claims = is_numbered(&body);
    let number = || Some(Number { stream: class(&body)?, epoch: epoch(&body)?, seq: seq(&body, "seq")? });
    let Some(number) = number() else { return claims.then_some(Err("a number that cannot be")) };
    let previous = previous(&body);
    if device::is_meant(&body) {
        let poll = device::Poll { topic, gateway, number, previous };
        return Some(poll.records(&body).ok_or("a device's poll that does not add up"));
    }
    let time_ms = moment(&body, "time");
    let until_ms = moment(&body, "time_until");
    let mut whole = None;
    let body = match body.get("quality").and_then(Json::as_str).filter(|_| !is_event(&body)) {
        Some(quality) => {
            let sample = Body::Sample {
                value: body.get("value").and_then(value),
                quality: Grade::from_word(quality),
                cause: body.get("cause").and_then(Json::as_str).map(|cause| cause.to_owned().into()),
            };
            let says_more = time_ms.is_none() || body.keys().any(|key| !KEYS.contains(&key.as_str()));
            whole = says_more.then(|| Box::new(body));
            sample
        }
        None => Body::Event(body),
    };
    Some(Ok(vec![Record { gateway, number, previous, topic: topic.into(), time_ms, until_ms, body, whole }]))
}

fn gap(topic: &str, gateway: &str, body: Map<String, Json>) -> Message {
    let (Some(stream), Some(epoch)) = (class(&body), epoch(&body)) else { return Message::Broken("no number") };
    let ends = seq(&body, "first").zip(seq(&body, "last")).filter(|(first, last)| first <= last);
    let Some((first, last)) = ends else { return Message::Broken("a range that cannot be") };
    Message::Gap(Box::new(GapRecord { topic: topic.into(), gateway: gateway.into(), stream, epoch, first, last, body }))
}

/// Does it claim to have a number?
fn is_numbered(body: &Map<String, Json>) -> bool {
    ["stream", "epoch", "seq"].iter().all(|key| body.contains_key(*key))
}

/// An alarm, or what the gateway tells of itself. Alarms have a value and a quality, every event has one while the clock is not
/// known; no sample says of what it is the `state`.
pub(super) fn is_event(body: &Map<String, Json>) -> bool {
    ["event", "state"].iter().all(|key| body.get(*key).is_some_and(Json::is_string))
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
pub(super) fn moment(body: &Map<String, Json>, key: &str) -> Option<i64> {
    body.get(key)?.as_str()?.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
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

fn batch_fits(batch: &Batch) -> bool {
    let previous = batch
        .previous
        .is_none_or(|previous| previous.epoch.0 <= NUMBER_MAX && previous.seq.is_none_or(|seq| seq.0 <= NUMBER_MAX));
    previous && number_fits(batch.first.epoch.0, batch.first.seq.0, batch.records.len() as u64) && names_fit(batch)
}

fn names_fit(batch: &Batch) -> bool {
    let event = |record: &batch::Record| match &record.body {
        RecordBody::Event { topic, .. } => topic.len() <= TOPIC_BYTES_MAX,
        RecordBody::Sample { .. } => true,
    };
    let entry = |tag: &batch::Entry| {
        [&tag.device, &tag.name, &tag.topic, &tag.data_type].iter().all(|text| text.len() <= TOPIC_BYTES_MAX)
    };
    batch.gateway.len() <= GATEWAY_BYTES_MAX && batch.entries.iter().all(entry) && batch.records.iter().all(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(topic: &str, payload: &[u8]) -> bool {
        matches!(read(topic, payload), Message::Broken(_))
    }

    #[test]
    fn arrays_come_with_their_topics_and_all_or_nothing() {
        let array =
            br#"[{"topic":"a/x","value":18446744073709551615,"quality":"good","stream":"bulk","epoch":8,"seq":1},
            {"topic":"a/y","event":"high","stream":"bulk","epoch":8,"seq":2}]"#;
        let Message::Records(records) = read("p/ironbridge/gw/batch", array) else { panic!("records") };
        assert_eq!((&*records[0].topic, &*records[1].topic), ("a/x", "a/y"));
        assert_eq!(records[0].gateway.as_deref(), Some("gw"));
        let exact = Body::Sample { value: Some(Value::Uint(u64::MAX)), quality: Grade::Good, cause: None };
        assert_eq!(records[0].body, exact);
        let packed = packed::compress(array);
        assert_eq!(read("p/ironbridge/gw/batch", &packed), Message::Records(records));
        assert_eq!(read("some/where", array), Message::Other);
        for wrong in [&b"[1]"[..], br#"[{"value":1}]"#, br#"[{"topic":"a"}]"#, b"[", b"7", b"\xff", b""] {
            assert!(broken("ironbridge/gw/batch", wrong), "{}", String::from_utf8_lossy(wrong));
        }
    }

    #[test]
    fn a_sample_is_a_sample_on_topics_that_look_like_our_own_tree() {
        // Of a gateway called ironbridge: acme/{gateway}/{device}/{tag}.
        let sample = br#"{"value":1,"quality":"good","stream":"telemetry","epoch":8,"seq":4}"#;
        for topic in ["acme/ironbridge/pump/status", "acme/ironbridge/pump/gap", "acme/ironbridge/pump/batch"] {
            let Message::Records(records) = read(topic, sample) else { panic!("{topic}") };
            assert_eq!((&*records[0].topic, records[0].gateway.as_deref()), (topic, None), "pump is no gateway");
        }
        let poll = br#"{"stream":"telemetry","epoch":8,"seq":5,"count":1,"values":{"level":1}}"#;
        let Message::Records(records) = read("acme/ironbridge/north/status", poll) else { panic!("a poll") };
        assert_eq!((&*records[0].topic, records[0].number.seq), ("acme/ironbridge/north/status/level", Seq(5)));
        assert!(broken("ironbridge/pump/status", br#"{"quality":"good","stream":"telemetry","epoch":0,"seq":1}"#));
        let gap = br#"{"stream":"bulk","epoch":1,"first":1,"last":9,"count":9,"reason":"evicted"}"#;
        assert!(matches!(read("ironbridge/gw/gap", gap), Message::Gap(_)));
        let event = br#"{"event":"start","stream":"event","epoch":8,"seq":1}"#;
        let Message::Records(records) = read("ironbridge/gw/event", event) else { panic!("an event") };
        assert_eq!(records[0].gateway.as_deref(), Some("gw"));
    }

    #[test]
    fn numbers_that_cannot_be_are_broken_and_strangers_are_left_alone() {
        for number in [
            r#""stream":"telemetry","epoch":0,"seq":1"#,
            r#""stream":"telemetry","epoch":9007199254740992,"seq":1"#,
            r#""stream":"telemetry","epoch":1,"seq":18446744073709551615"#,
            r#""stream":"telemetry","epoch":1,"seq":0"#,
            r#""stream":"telemetry","epoch":-1,"seq":1"#,
            r#""stream":"else","epoch":1,"seq":1"#,
            r#""stream":{},"epoch":[],"seq":null"#,
        ] {
            assert!(broken("a/b", format!(r#"{{"value":1,"quality":"good",{number}}}"#).as_bytes()), "{number}");
        }
        for payload in [&b"12.5"[..], b"{", b"\xff", b"[]", b"{}", br#"{"seq":1}"#, b"\x28\xB5\x2F\xFD"] {
            assert_eq!(read("some/topic", payload), Message::Other);
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read("some/topic", deep.as_bytes()), Message::Other);
        assert!(broken("ironbridge/gw/gap", br#"{"stream":"bulk","epoch":1,"first":9,"last":1}"#));
    }
}
