//! One JSON message of layout `tag` to what it means: the short way, for those who know that nothing else comes (the demo).
//! [`super::message`] reads every format. Tolerant: unknown keys are kept, what is not ours is [`Received::Other`].

use serde_json::{Map, Value};

use crate::model::number::{Class, Epoch, Number, Seq};
use crate::payload::json::Previous;

/// What came.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// A sample or an event.
    Numbered(Numbered),
    /// A declared loss.
    Gap {
        /// Whose numbers.
        stream: Class,
        /// In which epoch.
        epoch: Epoch,
        /// First lost number.
        first: Seq,
        /// Last lost number.
        last: Seq,
        /// The whole record.
        body: Map<String, Value>,
    },
    /// A gateway's status, with its newest number per stream.
    Status(Vec<(Class, Epoch, Seq)>),
    /// Something else on the same broker.
    Other,
}

/// A numbered record.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbered {
    /// Its number.
    pub number: Number,
    /// What it says about the epoch before.
    pub previous: Option<Previous>,
    /// The whole object, number included.
    pub body: Map<String, Value>,
}

/// Looks at one message.
pub fn decode(topic: &str, payload: &[u8]) -> Received {
    let Ok(Value::Object(body)) = serde_json::from_slice::<Value>(payload) else {
        return Received::Other;
    };
    match own_topic(topic) {
        // A gateway may be called `ironbridge`, and a tag `status` or `gap`.
        _ if body.contains_key("quality") => numbered(body).unwrap_or(Received::Other),
        Some("status") => status(&body),
        Some("gap") => gap(body).unwrap_or(Received::Other),
        _ => numbered(body).unwrap_or(Received::Other),
    }
}

/// `status` of `<prefix>ironbridge/<gateway>/status`; `None` for any other tree.
fn own_topic(topic: &str) -> Option<&str> {
    let mut levels = topic.rsplit('/');
    let (last, _gateway, tree) = (levels.next()?, levels.next()?, levels.next()?);
    (tree == "ironbridge").then_some(last)
}

fn numbered(body: Map<String, Value>) -> Option<Received> {
    let number = Number { stream: class(&body)?, epoch: epoch(&body)?, seq: seq(&body, "seq")? };
    let previous = body
        .get("previous")
        .and_then(Value::as_object)
        .and_then(|previous| Some(Previous { epoch: epoch(previous)?, seq: seq(previous, "seq") }));
    Some(Received::Numbered(Numbered { number, previous, body }))
}

fn gap(body: Map<String, Value>) -> Option<Received> {
    let (first, last) = (seq(&body, "first")?, seq(&body, "last")?);
    Some(Received::Gap { stream: class(&body)?, epoch: epoch(&body)?, first, last, body })
}

fn status(body: &Map<String, Value>) -> Received {
    let streams = body.get("streams").and_then(Value::as_object);
    let newest = streams.into_iter().flatten().filter_map(|(name, stream)| {
        let stream = stream.as_object()?;
        Some((Class::from_name(name)?, epoch(stream)?, seq(stream, "seq")?))
    });
    Received::Status(newest.collect())
}

fn class(body: &Map<String, Value>) -> Option<Class> {
    Class::from_name(body.get("stream")?.as_str()?)
}

fn epoch(body: &Map<String, Value>) -> Option<Epoch> {
    body.get("epoch")?.as_u64().map(Epoch)
}

fn seq(body: &Map<String, Value>, key: &str) -> Option<Seq> {
    body.get(key)?.as_u64().filter(|seq| *seq > 0).map(Seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::quality::Quality;
    use crate::model::time::{Certainty, Wall};
    use crate::payload::json;

    const TIME: Wall = Wall { unix_ms: 1_795_204_800_123, certainty: Certainty::Fixed };
    const NUMBER: Number = Number { stream: Class::Event, epoch: Epoch(9_007_199_254_740_991), seq: Seq(3) };

    #[test]
    fn what_the_encoder_writes_is_read_back() {
        let previous = Some(Previous { epoch: Epoch(7), seq: None });
        let payload = json::numbered_sample(None, Quality::Good, TIME, NUMBER, previous);
        let Received::Numbered(numbered) = decode("acme/gw/pump/pressure", &payload) else {
            panic!("numbered");
        };
        assert_eq!((numbered.number, numbered.previous), (NUMBER, previous));
        let event = json::numbered_event(br#"{"event":"start"}"#, NUMBER, None);
        assert!(matches!(decode("up/ironbridge/gw/event", &event), Received::Numbered(_)));
        let gap = json::gap(&json::Gap {
            stream: Class::Bulk,
            epoch: Epoch(5),
            first: Seq(2),
            last: Seq(9),
            from: None,
            to: None,
            reason: "evicted",
        });
        let Received::Gap { stream: Class::Bulk, first: Seq(2), last: Seq(9), .. } = decode("ironbridge/gw/gap", &gap)
        else {
            panic!("gap");
        };
    }

    #[test]
    fn a_status_names_the_newest_of_each_stream_and_a_will_names_none() {
        let status = br#"{"state":"online","streams":{"telemetry":{"epoch":8,"seq":4},"new":{"epoch":1,"seq":1}}}"#;
        let newest = vec![(Class::Telemetry, Epoch(8), Seq(4))];
        assert_eq!(decode("a/b/ironbridge/gw/status", status), Received::Status(newest));
        assert_eq!(decode("ironbridge/gw/status", br#"{"state":"offline"}"#), Received::Status(Vec::new()));
    }

    #[test]
    fn a_sample_is_a_sample_on_a_topic_that_looks_like_a_status_or_a_gap() {
        let payload = json::numbered_sample(None, Quality::Good, TIME, NUMBER, None);
        for topic in ["acme/ironbridge/pump/status", "acme/ironbridge/pump/gap"] {
            assert!(matches!(decode(topic, &payload), Received::Numbered(_)), "{topic}");
        }
    }

    #[test]
    fn strangers_are_left_alone() {
        for payload in [&b"12.5"[..], b"{", b"\xff", b"[]", br#"{"stream":"telemetry","epoch":-1,"seq":1}"#, b"{}"] {
            assert_eq!(decode("some/topic", payload), Received::Other);
        }
        assert_eq!(decode("x", br#"{"stream":"telemetry","epoch":1,"seq":0}"#), Received::Other);
    }
}
