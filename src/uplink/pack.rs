//! Items of the source to MQTT messages: format `json`, layout `tag` (contract, section 4). Encoded late, so that wall
//! times use what the clock has learned since.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::flow::clock::Clock;
use crate::model::number::Class;
use crate::model::topic::{BadTopic, GatewayTopics, check_topic};
use crate::payload::json::{self, Gap};
use crate::store::{Ack, Item, Owed, OwedBody, OwedGap};

use super::source::Lane;

/// Bytes that MQTT adds to topic and payload of a QoS 1 publish: header, length, topic length, packet id.
const MQTT_BYTES: usize = 1 + 3 + 2 + 2;

/// One publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    /// What its PUBACK acknowledges.
    pub(super) ack: Ack,
    pub(super) class: Class,
    pub(super) lane: Lane,
}

impl Message {
    /// Bytes on the wire before TLS.
    pub(super) fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + MQTT_BYTES
    }

    /// Would any broker take this topic? (The configuration checks topics; this guards against a store from elsewhere.)
    pub(super) fn check(&self) -> Result<(), BadTopic> {
        match check_topic(&self.topic) {
            // our own limit is for local topics; MQTT's is what counts for one with its prefix
            Err(BadTopic::TooLong) if u16::try_from(self.topic.len()).is_ok() => Ok(()),
            other => other,
        }
    }
}

/// Messages that may wait to be fetched.
const READY_MAX: usize = 64;

/// Of one uplink. Items go in, messages come out, each of one class and one lane.
pub(super) struct Packer {
    ready: VecDeque<Message>,
    prefix: String,
    gap_topic: String,
    status_topic: String,
    clock: Clock,
}

impl Packer {
    pub(super) fn new(prefix: &str, gateway: &str, clock: Clock) -> Self {
        let topics = GatewayTopics::new(gateway);
        Self {
            prefix: prefix.to_owned(),
            gap_topic: format!("{prefix}{}", topics.gap()),
            status_topic: format!("{prefix}{}", topics.status()),
            clock,
            ready: VecDeque::new(),
        }
    }

    /// Where the status goes.
    pub(super) fn status_topic(&self) -> &str {
        &self.status_topic
    }

    /// Takes an item. Those of one lane come in the order in which they are to be sent.
    pub(super) fn put(&mut self, item: Item, lane: Lane, _now: Instant) {
        let message = match item {
            Item::Record(owed) => self.record(&owed, lane),
            Item::Gap(gap) => self.gap(&gap, lane),
        };
        self.ready.push_back(message);
    }

    /// A message that is full or whose wait is over; of one lane in the order of its items.
    pub(super) fn next(&mut self, _now: Instant) -> Option<Message> {
        self.ready.pop_front()
    }

    /// When the oldest open message must go; `None` when none is open.
    #[allow(clippy::unused_self, reason = "one item is one message: none is ever open")]
    pub(super) fn due(&self) -> Option<Instant> {
        None
    }

    /// How many more items of a lane are useful now.
    pub(super) fn wants(&self, _lane: Lane) -> usize {
        READY_MAX.saturating_sub(self.ready.len())
    }

    /// What is open goes as it is: [`Packer::next`] gives it all.
    #[allow(clippy::unused_self, reason = "see `due`")]
    pub(super) fn flush(&mut self) {}

    /// The session is over: everything comes again.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
    }

    fn record(&self, owed: &Owed, lane: Lane) -> Message {
        let (topic, payload) = match &owed.body {
            OwedBody::Sample { tag, value, quality } => {
                let time = self.clock.wall(owed.at);
                let payload = json::numbered_sample(value.as_ref(), *quality, time, owed.number, owed.previous);
                (tag.topic.as_str(), payload)
            }
            OwedBody::Event { topic, body } => (&**topic, json::numbered_event(body, owed.number, owed.previous)),
        };
        let topic = format!("{}{topic}", self.prefix);
        Message { topic, payload, ack: Ack::of(owed.number), class: owed.number.stream, lane }
    }

    fn gap(&self, gap: &OwedGap, lane: Lane) -> Message {
        let payload = json::gap(&Gap {
            stream: gap.stream,
            epoch: gap.epoch,
            first: gap.first,
            last: gap.last,
            from: gap.from.map(|at| self.clock.wall(at)),
            to: gap.to.map(|at| self.clock.wall(at)),
            reason: reason(&gap.reason),
        });
        Message { topic: self.gap_topic.clone(), payload, ack: Ack::Gap(gap.id), class: gap.stream, lane }
    }
}

fn reason(stored: &str) -> &'static str {
    match stored {
        "evicted" => "evicted",
        "damaged" => "damaged",
        "clock" => "clock",
        "refused" => "refused",
        _ => "store",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::clock::{FakeTime, Fix};
    use crate::model::number::{Epoch, Number, Seq};
    use crate::model::quality::Quality;
    use crate::model::tag::DataType;
    use crate::model::time::{Boot, Stamp};
    use crate::model::value::Value;
    use crate::store::DictionaryTag;
    use std::sync::Arc;

    #[test]
    fn every_topic_carries_the_prefix_and_times_use_what_the_clock_learned_later() {
        let clock = Clock::new(Arc::new(FakeTime::default()), Boot(1), 1_700_000_000_000);
        let at = Stamp { boot: Boot(1), micros: 0 };
        let number = Number { stream: Class::Telemetry, epoch: Epoch(8), seq: Seq(3) };
        let tag = DictionaryTag {
            id: 1,
            device: "pump-1".into(),
            name: "pressure".into(),
            topic: "acme/pump-1/pressure".into(),
            data_type: DataType::Float32,
        };
        let body = OwedBody::Sample { tag: Arc::new(tag), value: Some(Value::Float(12.5)), quality: Quality::Good };
        let item = Item::Record(Owed { number, previous: None, body, at });
        let mut packer = Packer::new("site/", "gw", clock.clone());
        let mut pack = |item: &Item| {
            packer.put(item.clone(), Lane::Live, Instant::now());
            packer.next(Instant::now()).expect("one item is one message")
        };
        assert!(String::from_utf8_lossy(&pack(&item).payload).contains(r#""cause":"clock""#));
        clock.learn(Fix { at, unix_ms: 1_795_204_800_123 });
        let message = pack(&item);
        assert_eq!(message.topic, "site/acme/pump-1/pressure");
        assert_eq!(
            String::from_utf8_lossy(&message.payload),
            r#"{"value":12.5,"quality":"good","time":"2026-11-20T20:00:00.123Z","stream":"telemetry","epoch":8,"seq":3}"#
        );
        let gap = OwedGap {
            id: 9,
            stream: Class::Bulk,
            epoch: Epoch(8),
            first: Seq(1),
            last: Seq(5),
            from: Some(at),
            to: None,
            reason: "evicted".into(),
        };
        let message = pack(&Item::Gap(gap));
        assert_eq!((message.topic.as_str(), message.ack), ("site/ironbridge/gw/gap", Ack::Gap(9)));
        assert!(String::from_utf8_lossy(&message.payload).contains(r#""count":5"#));
        assert_eq!(packer.status_topic(), "site/ironbridge/gw/status");
    }
}
