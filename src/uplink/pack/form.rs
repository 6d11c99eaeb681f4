//! What a message looks like: JSON, one record or a list of them or a device's poll, or the columns of `payload::batch`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::config::plan::{Compress, Format, Layout, UplinkPlan, Use};
use crate::flow::clock::Clock;
use crate::model::quality::Quality;
use crate::model::time::{Stamp, Wall};
use crate::model::topic::{GatewayTopics, device_topic};
use crate::model::value::Value;
use crate::payload::batch::{self, Draft, Encoder, Entry, Head, Row, RowBody};
use crate::payload::device::{self, Part};
use crate::payload::{event, json, packed};
use crate::store::{Ack, DictionaryTag, Owed, OwedBody};

use super::Message;
use super::letter::{self, Numbering, Term};
use super::run::{Company, Shape};
use crate::uplink::client::{Extras, Retained};
use crate::uplink::source::Lane;
use crate::uplink::sparkplug::{EdgeNode, SAMPLE_BYTES};

/// Of a publish, besides topic and payload: with a few properties of MQTT 5.
const HEADER_BYTES: usize = 64;
/// A JSON record without its topic.
const JSON_BYTES: usize = 130;
/// In a device's message, besides its name.
const PART_BYTES: usize = 24;
/// What zstd makes of lists of JSON, carefully.
const JSON_ZSTD: usize = 6;
/// A sample in columns, carefully; large messages of plain samples take half of it.
const COLUMN_BYTES: usize = 2;

/// Samples in a device's message.
const POLL_RECORDS: usize = 4096;

enum Kind {
    Single,
    List,
    Device { template: String, gateway: String },
    Columns(Box<Encoder>),
    Node(Box<EdgeNode>),
}

/// The format of an uplink, with what it must remember.
pub(super) struct Form {
    kind: Kind,
    compress: Compress,
    prefix: String,
    numbering: Numbering,
    batch_topic: String,
    /// Of a payload: what is configured, and what the broker of this session takes of it.
    bytes_configured: usize,
    bytes_max: usize,
    /// Tags as they were seen last, and the topics of their devices.
    tags: HashMap<u32, Seen>,
}

struct Seen {
    tag: Arc<DictionaryTag>,
    device_topic: Option<Arc<str>>,
}

/// What was made of some records; not yet sent.
struct Made {
    topic: String,
    payload: Vec<u8>,
    extras: Extras,
    retained: Retained,
    term: Option<Term>,
    draft: Option<Draft>,
}

impl Made {
    fn plain(topic: String, payload: Vec<u8>, draft: Option<Draft>) -> Self {
        Self { topic, payload, extras: Extras::default(), retained: Retained::No, term: None, draft }
    }
}

impl Form {
    pub(super) fn new(plan: &UplinkPlan, (gateway, clock): (&str, &Clock), bytes_max: usize) -> Self {
        let kind = match (plan.format, plan.layout) {
            _ if let Some(spark) = &plan.sparkplug => Kind::Node(Box::new(EdgeNode::new(plan, spark, clock.clone()))),
            (Format::Batch, _) => Kind::Columns(Box::new(Encoder::new(gateway))),
            (Format::Json | Format::Sparkplug, Layout::Device) => {
                Kind::Device { template: plan.topic_template.clone(), gateway: gateway.to_owned() }
            }
            (Format::Json | Format::Sparkplug, Layout::Tag) if plan.batch_samples > 1 => Kind::List,
            (Format::Json | Format::Sparkplug, Layout::Tag) => Kind::Single,
        };
        let batch_topic = format!("{}{}", plan.topic_prefix, GatewayTopics::new(gateway).batch());
        let bytes_max = bytes_max.saturating_sub(batch_topic.len() + HEADER_BYTES).max(1);
        let (prefix, tags) = (plan.topic_prefix.clone(), HashMap::new());
        let numbering = match plan.usage {
            Use::Bridge(_) => Numbering::None,
            Use::Records | Use::Letters => Numbering::As(gateway.to_owned()),
        };
        Self {
            kind,
            compress: plan.compress,
            prefix,
            numbering,
            batch_topic,
            bytes_configured: bytes_max,
            bytes_max,
            tags,
        }
    }

    /// The broker of this session takes packets of so many bytes.
    pub(super) fn agree(&mut self, packet_bytes_max: usize) {
        let payload = packet_bytes_max.saturating_sub(self.batch_topic.len() + HEADER_BYTES).max(1);
        self.bytes_max = self.bytes_configured.min(payload);
    }

    /// Records in one message where the plan says `batch_samples`.
    pub(super) fn records_max(&self, batch_samples: usize) -> usize {
        match self.kind {
            Kind::Single => 1,
            Kind::Device { .. } => POLL_RECORDS,
            Kind::List | Kind::Columns(_) | Kind::Node(_) => batch_samples.clamp(1, batch::RECORDS_MAX),
        }
    }

    /// Do its messages wait for more records where the plan says so? A poll of a device does not grow.
    pub(super) fn waits(&self) -> bool {
        matches!(self.kind, Kind::List | Kind::Columns(_) | Kind::Node(_))
    }

    /// See [`super::Packer::node`].
    pub(super) const fn node(&mut self) -> Option<&mut EdgeNode> {
        if let Kind::Node(node) = &mut self.kind { Some(node) } else { None }
    }

    /// See [`super::Packer::has_tag_topics`].
    pub(super) const fn has_tag_topics(&self) -> bool {
        matches!(self.kind, Kind::Single | Kind::Device { .. })
    }

    /// See [`super::Packer::tag_topic`].
    pub(super) fn tag_topic(&mut self, owed: &Owed) -> Option<String> {
        let tag = match &owed.body {
            _ if !self.has_tag_topics() => return None,
            OwedBody::Sample { tag, .. } => tag,
            OwedBody::Message { topic, .. } => return Some(format!("{}{topic}", self.prefix)),
            OwedBody::Event { .. } => return None,
        };
        self.see(tag);
        let device = self.device_topic(owed).map(ToString::to_string);
        Some(device.unwrap_or_else(|| format!("{}{}", self.prefix, tag.topic)))
    }

    /// Bytes of a payload.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Looks at a record before it is put to others.
    pub(super) fn shape(&mut self, owed: &Owed) -> Shape {
        match &owed.body {
            OwedBody::Sample { tag, value, quality } => {
                self.see(tag);
                self.shape_of_sample(tag, value.as_ref(), *quality)
            }
            OwedBody::Message { topic, message } => {
                Shape { bytes: topic.len() + message.bytes(), company: Company::Alone }
            }
            OwedBody::Event { topic, body } => {
                let size = topic.len() + body.len();
                match self.kind {
                    Kind::Single | Kind::Device { .. } | Kind::Node(_) => {
                        Shape { bytes: size, company: Company::Alone }
                    }
                    Kind::List => Shape { bytes: self.in_list(size), company: Company::Any },
                    Kind::Columns(_) => Shape { bytes: COLUMN_BYTES + size / 2, company: Company::Any },
                }
            }
        }
    }

    fn shape_of_sample(&self, tag: &DictionaryTag, value: Option<&Value>, quality: Quality) -> Shape {
        match &self.kind {
            Kind::Single => Shape { bytes: 0, company: Company::Alone },
            Kind::List => Shape { bytes: self.in_list(tag.topic.len()), company: Company::Any },
            Kind::Device { .. } => {
                let topic = self.tags.get(&tag.id).and_then(|seen| seen.device_topic.clone());
                let topic = topic.filter(|_| device::fits(value, quality));
                Shape { bytes: PART_BYTES + tag.name.len(), company: topic.map_or(Company::Alone, Company::Device) }
            }
            Kind::Columns(_) => {
                let text = if let Some(Value::Text(text)) = value { text.len() / 2 } else { 0 };
                Shape { bytes: COLUMN_BYTES + text, company: Company::Any }
            }
            Kind::Node(_) => {
                let text = if let Some(Value::Text(text)) = value { text.len() } else { 0 };
                Shape { bytes: SAMPLE_BYTES + text, company: Company::Any }
            }
        }
    }

    fn in_list(&self, bytes: usize) -> usize {
        let plain = JSON_BYTES + self.prefix.len() + bytes;
        if self.compress == Compress::Zstd { plain / JSON_ZSTD } else { plain }
    }

    /// Keeps what it must know of a tag, and tells the encoder where that has changed.
    fn see(&mut self, tag: &Arc<DictionaryTag>) {
        let known = |seen: &Seen| Arc::ptr_eq(&seen.tag, tag) || seen.tag == *tag;
        if matches!(self.kind, Kind::Single | Kind::List | Kind::Node(_)) || self.tags.get(&tag.id).is_some_and(known) {
            return;
        }
        let mut seen = Seen { tag: Arc::clone(tag), device_topic: None };
        match &mut self.kind {
            Kind::Columns(encoder) => encoder.know(Entry {
                id: tag.id,
                device: tag.device.clone(),
                name: tag.name.clone(),
                topic: format!("{}{}", self.prefix, tag.topic),
                data_type: tag.data_type.to_string(),
            }),
            Kind::Device { template, gateway } => {
                let topic = device_topic(template, &tag.topic, [gateway.as_str(), &tag.device, &tag.name]);
                seen.device_topic = topic.map(|topic| format!("{}{topic}", self.prefix).into());
            }
            Kind::Single | Kind::List | Kind::Node(_) => {}
        }
        self.tags.insert(tag.id, seen);
    }

    /// Nobody upstream is taken to know anything.
    pub(super) fn forget(&mut self) {
        if let Kind::Columns(encoder) = &mut self.kind {
            encoder.forget();
        }
    }

    /// The message of these records (of one run), or of as many of them as fit; and the rest. `None` for no records.
    pub(super) fn message(
        &mut self,
        mut records: Vec<Owed>,
        lane: Lane,
        clock: &Clock,
        now: Instant,
    ) -> Option<(Message, Vec<Owed>)> {
        let mut rest = Vec::new();
        loop {
            let (first, last) = (records.first()?.number, records.last()?.number);
            let ack = Ack::Records { stream: first.stream, epoch: first.epoch, first: first.seq, last: last.seq };
            if let Kind::Node(node) = &mut self.kind {
                let draft = node.draft(&records);
                if draft.fits(self.bytes_max) || records.len() == 1 {
                    return Some((letter::told(records, draft.bytes_on_wire(), (ack, first.stream, lane)), rest));
                }
                let mut second = records.split_off(records.len() / 2);
                second.append(&mut rest);
                rest = second;
                continue;
            }
            let made = self.make(&records, clock, now);
            if made.payload.len() <= self.bytes_max || records.len() == 1 {
                if let (Kind::Columns(encoder), Some(draft)) = (&mut self.kind, &made.draft) {
                    encoder.sent(draft, now);
                }
                let Made { topic, payload, extras, retained, term, .. } = made;
                let class = first.stream;
                return Some((Message { topic, payload, extras, retained, term, ack, class, lane, said: None }, rest));
            }
            let mut second = records.split_off(records.len() / 2);
            second.append(&mut rest);
            rest = second;
        }
    }

    fn make(&mut self, records: &[Owed], clock: &Clock, now: Instant) -> Made {
        if let [owed @ Owed { body: OwedBody::Message { topic, message }, .. }] = records {
            let extras = letter::extras(owed, message, clock, &self.numbering);
            let retained = letter::retained(message, &self.numbering);
            let (topic, payload) = (format!("{}{topic}", self.prefix), message.payload.to_vec());
            return Made { topic, payload, extras, retained, term: Term::of(owed, message), draft: None };
        }
        if let Kind::Columns(encoder) = &mut self.kind {
            let mut draft = columns(encoder, &self.prefix, records, clock, now);
            let payload = std::mem::take(&mut draft.payload);
            return Made::plain(self.batch_topic.clone(), payload, Some(draft));
        }
        let (topic, text) = match (&self.kind, records) {
            (Kind::List, _) => (self.batch_topic.clone(), self.list(records, clock)),
            (Kind::Device { .. }, [first, ..]) => {
                let poll = self.device_topic(first).and_then(|topic| Some((topic.to_string(), poll(records, clock)?)));
                poll.unwrap_or_else(|| self.single(first, clock))
            }
            (_, [first, ..]) => self.single(first, clock),
            (_, []) => (self.batch_topic.clone(), Vec::new()), // never asked for
        };
        Made::plain(topic, self.compressed(text), None)
    }

    fn device_topic(&self, owed: &Owed) -> Option<&Arc<str>> {
        match &owed.body {
            OwedBody::Sample { tag, value, quality } if device::fits(value.as_ref(), *quality) => {
                self.tags.get(&tag.id)?.device_topic.as_ref()
            }
            _ => None,
        }
    }

    fn list(&self, records: &[Owed], clock: &Clock) -> Vec<u8> {
        let mut list = Vec::with_capacity(records.len() * JSON_BYTES);
        for owed in records {
            let (topic, object) = self.single(owed, clock);
            json::add_to_list(&mut list, &topic, &object);
        }
        json::close_list(&mut list);
        list
    }

    fn single(&self, owed: &Owed, clock: &Clock) -> (String, Vec<u8>) {
        let time = clock.wall(owed.at);
        let (topic, payload) = match &owed.body {
            OwedBody::Sample { tag, value, quality } => {
                let payload = json::numbered_sample(value.as_ref(), *quality, time, owed.number, owed.previous);
                (tag.topic.as_str(), payload)
            }
            OwedBody::Event { topic, body } => (&**topic, event::numbered(body, time, owed.number, owed.previous)),
            OwedBody::Message { topic, message } => (&**topic, message.payload.to_vec()), // never in company
        };
        (format!("{}{topic}", self.prefix), payload)
    }

    /// JSON as it goes out.
    pub(super) fn compressed(&self, text: Vec<u8>) -> Vec<u8> {
        if self.compress == Compress::Zstd { packed::compress(&text) } else { text }
    }
}

/// Layout `device`.
fn poll(records: &[Owed], clock: &Clock) -> Option<Vec<u8>> {
    let mut walls = Walls::new(clock);
    let part = |owed| match owed {
        &Owed { body: OwedBody::Sample { ref tag, ref value, quality }, at, .. } => {
            Some(Part { name: &tag.name, value: value.as_ref(), quality, time: walls.of(at) })
        }
        Owed { .. } => None,
    };
    let parts: Vec<Part<'_>> = records.iter().map(part).collect::<Option<_>>()?;
    let first = records.first()?;
    Some(device::samples(&parts, first.number, first.previous))
}

fn columns(encoder: &mut Encoder, prefix: &str, records: &[Owed], clock: &Clock, now: Instant) -> Draft {
    let mut walls = Walls::new(clock);
    let event = |owed| match owed {
        &Owed { body: OwedBody::Event { ref topic, ref body }, at, .. } => {
            Some((format!("{prefix}{topic}"), event::dated(body, clock.wall(at))))
        }
        Owed { .. } => None,
    };
    let events: Vec<_> = records.iter().map(event).collect();
    let rows = records.iter().zip(&events).map(|(owed, event)| {
        let wall = walls.of(owed.at);
        let body = match (&owed.body, event) {
            (OwedBody::Sample { tag, value, quality }, _) => {
                RowBody::Sample { tag: tag.id, value: value.as_ref(), quality: json::honest(*quality, wall) }
            }
            (_, Some((topic, body))) => RowBody::Event { topic, body },
            (OwedBody::Event { topic, body }, None) => RowBody::Event { topic, body }, // it has one
            (OwedBody::Message { topic, message }, None) => RowBody::Event { topic, body: &message.payload }, // never in company
        };
        Row { unix_ms: wall.unix_ms, until_ms: wall.until_ms(), body }
    });
    let rows: Vec<Row<'_>> = rows.collect();
    let head = Head { first: records[0].number, previous: records[0].previous };
    encoder.draft(head, &rows, now)
}

/// Wall times: the samples of a poll share one stamp, which is worked out once.
struct Walls<'a> {
    clock: &'a Clock,
    last: Option<(Stamp, Wall)>,
}

impl<'a> Walls<'a> {
    fn new(clock: &'a Clock) -> Self {
        Self { clock, last: None }
    }

    fn of(&mut self, at: Stamp) -> Wall {
        match self.last {
            Some((stamp, wall)) if stamp == at => wall,
            _ => {
                let wall = self.clock.wall(at);
                self.last = Some((at, wall));
                wall
            }
        }
    }
}
