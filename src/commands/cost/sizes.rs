//! What records come to on the wire in the formats that put many into one message: by the program's own encoders and zstd.
//!
//! Fed with records as an uplink would be owed them, made up (`plant`) or a store's own (`seen`). Divides them into messages
//! as an uplink does: by number and by time.

use std::time::{Duration, Instant};

use super::bill::as_f64;
use crate::config::plan::{BATCH_SAMPLES, Compress, Plan, UplinkPlan};
use crate::config::wire::{self, BATCH_EVERY, MQTT, Way};
use crate::flow::clock::Clock;
use crate::model::time::{Certainty, Wall};
use crate::model::topic::GatewayTopics;
use crate::payload::batch::{Encoder, Entry, Head, RECORDS_MAX, Row, RowBody};
use crate::payload::{event, json, packed};
use crate::store::{Owed, OwedBody};

/// What a gateway tells of its dictionary: each entry once an hour, and one in turn for so many records (the schema says so).
const RECORDS_PER_ENTRY: f64 = 400.0;

/// How records become messages.
pub struct Messages<'a> {
    topic: String,
    gateway: &'a str,
    prefix: &'a str,
    records_max: usize,
    every: Duration,
    zstd: bool,
}

/// What a class of records costs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size {
    /// Wire bytes of a record, dictionary in turn included.
    pub per_record: f64,
    /// Wire bytes of the whole dictionary, which goes out with each connect.
    pub dictionary: f64,
    /// Tags in it.
    pub tags: f64,
}

impl Size {
    /// Wire bytes per day at this many records per second and connects per day.
    pub fn per_day(self, per_second: f64, connects: f64) -> f64 {
        let in_turn = per_second * 3600.0 / RECORDS_PER_ENTRY;
        let hourly = if self.tags > 0.0 { (1.0 - in_turn / self.tags).max(0.0) } else { 0.0 };
        let told = if per_second > 0.0 { self.dictionary * (24.0 * hourly + connects) } else { 0.0 };
        per_second * 86_400.0 * self.per_record + told
    }
}

impl<'a> Messages<'a> {
    /// As this uplink sends in this format, or would.
    pub fn new(plan: &'a Plan, uplink: &'a UplinkPlan, way: Way) -> Self {
        let configured = way == Way::of(uplink);
        let (every, records) = if configured {
            (uplink.batch_interval, uplink.batch_samples as usize)
        } else {
            (BATCH_EVERY, BATCH_SAMPLES as usize)
        };
        Self {
            topic: format!("{}{}", uplink.topic_prefix, GatewayTopics::new(&plan.gateway.name).batch()),
            gateway: &plan.gateway.name,
            prefix: &uplink.topic_prefix,
            records_max: records.clamp(1, RECORDS_MAX),
            every: every.max(plan.store.commit_interval),
            zstd: !configured || uplink.compress == Compress::Zstd,
        }
    }

    /// Records of one message at most.
    pub const fn records_max(&self) -> usize {
        self.records_max
    }

    /// How long a message is filled.
    pub const fn every(&self) -> Duration {
        self.every
    }

    fn wire(&self, payload: usize) -> f64 {
        wire::message(as_f64((self.topic.len() + payload) as u64) + MQTT, 1.0)
    }

    /// Messages as an uplink divides these records.
    fn divided<'r>(&self, records: &'r [Owed]) -> Vec<&'r [Owed]> {
        let mut messages = Vec::new();
        let mut begin = 0;
        for (place, owed) in records.iter().enumerate() {
            let first = &records[begin];
            let late = owed.at.boot != first.at.boot || owed.at.since(first.at) >= self.every;
            if place > begin && (late || place - begin >= self.records_max) {
                messages.push(&records[begin..place]);
                begin = place;
            }
        }
        if begin < records.len() {
            messages.push(&records[begin..]);
        }
        // What the play or the sample cut off is not a whole message.
        if messages.len() > 1 {
            messages.pop();
        }
        messages
    }

    /// Of lists of JSON.
    pub fn lists(&self, records: &[Owed], clock: &Clock) -> Size {
        let (mut bytes, mut count) = (0.0, 0);
        for message in self.divided(records) {
            let mut list = Vec::new();
            for owed in message {
                let (topic, object) = single(owed, clock);
                json::add_to_list(&mut list, &format!("{}{topic}", self.prefix), &object);
            }
            json::close_list(&mut list);
            bytes += self.wire(if self.zstd { packed::compress(&list).len() } else { list.len() });
            count += message.len();
        }
        Size { per_record: each(bytes, count), ..Size::default() }
    }

    /// Of columns.
    pub fn batches(&self, records: &[Owed], clock: &Clock) -> Size {
        let Some(first) = records.first() else { return Size::default() };
        let mut encoder = Encoder::new(self.gateway);
        let begun = Instant::now();
        let mut one_each: Vec<Owed> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for owed in records {
            if let OwedBody::Sample { tag, .. } = &owed.body
                && seen.insert(tag.id)
            {
                encoder.know(Entry {
                    id: tag.id,
                    device: tag.device.clone(),
                    name: tag.name.clone(),
                    topic: format!("{}{}", self.prefix, tag.topic),
                    data_type: tag.data_type.to_string(),
                });
                one_each.push(owed.clone());
            }
        }
        // A session begins with the dictionary: what it costs beside the same message without it.
        let mut dictionary = 0.0;
        for chunk in one_each.chunks(self.records_max) {
            let told = self.draft(&mut encoder, chunk, clock, begun);
            let plain = self.draft(&mut encoder, chunk, clock, begun);
            dictionary += as_f64((told.saturating_sub(plain)) as u64);
        }
        let (mut bytes, mut count) = (0.0, 0);
        for message in self.divided(records) {
            let now = begun + message[0].at.since(first.at);
            let payload = self.draft(&mut encoder, message, clock, now);
            bytes += self.wire(payload);
            count += message.len();
        }
        let tags = as_f64(seen.len() as u64);
        Size { per_record: each(bytes, count), dictionary, tags }
    }

    /// Bytes of a payload that is sent.
    fn draft(&self, encoder: &mut Encoder, message: &[Owed], clock: &Clock, now: Instant) -> usize {
        let topic = |owed: &Owed| match &owed.body {
            OwedBody::Event { topic, .. } | OwedBody::Message { topic, .. } => format!("{}{topic}", self.prefix),
            OwedBody::Sample { .. } => String::new(),
        };
        let topics: Vec<String> = message.iter().map(topic).collect();
        let rows: Vec<Row<'_>> = message
            .iter()
            .zip(&topics)
            .map(|(owed, topic)| Row {
                unix_ms: clock.wall(owed.at).unix_ms,
                until_ms: None,
                body: match &owed.body {
                    OwedBody::Sample { tag, value, quality } => {
                        RowBody::Sample { tag: tag.id, value: value.as_ref(), quality: *quality }
                    }
                    OwedBody::Event { body, .. } => RowBody::Event { topic, body },
                    OwedBody::Message { message, .. } => RowBody::Event { topic, body: &message.payload },
                },
            })
            .collect();
        let Some(first) = message.first() else { return 0 };
        let draft = encoder.draft(Head { first: first.number, previous: None }, &rows, now);
        encoder.sent(&draft, now);
        draft.payload.len()
    }
}

/// The number of a client's message in user properties, with a gateway's name of middle length.
const LETTER_BYTES: usize = 120;

/// Topic, without its prefix, and payload of a record alone.
pub fn single<'a>(owed: &'a Owed, clock: &Clock) -> (&'a str, Vec<u8>) {
    let time = Wall { certainty: Certainty::Fixed, ..clock.wall(owed.at) };
    match &owed.body {
        OwedBody::Sample { tag, value, quality } => {
            (&tag.topic, json::numbered_sample(value.as_ref(), *quality, time, owed.number, None))
        }
        OwedBody::Event { topic, body } => (topic, event::numbered(body, time, owed.number, None)),
        OwedBody::Message { topic, message } => {
            // What stands beside it costs as much as if it stood in it.
            let mut whole = message.payload.to_vec();
            whole.resize(whole.len() + message.bytes() - message.payload.len() + LETTER_BYTES, 0);
            (topic, whole)
        }
    }
}

fn each(bytes: f64, count: usize) -> f64 {
    if count > 0 { bytes / as_f64(count as u64) } else { 0.0 }
}
