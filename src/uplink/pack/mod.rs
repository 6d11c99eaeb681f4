//! Items of the source to MQTT messages: which records go into one message (`run`), and what that looks like (`form`;
//! `letter`: a client's message).
//! Encoded late, when a message is fetched, so that wall times use what the clock has learned since.
//!
//! Fed by the feeder, one lane after the other, in order. Promises: a message carries records of one stream and epoch
//! without gaps, so that its PUBACK acknowledges a range; it is at most as large as the broker takes, unless a single record
//! is larger; what the source gives in one go is not divided by how it was pulled.

mod form;
mod letter;
mod run;

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::config::plan::{Notifications, UplinkPlan, Use};
use crate::flow::clock::Clock;
use crate::model::number::Class;
use crate::model::topic::{BadTopic, GatewayTopics, bridge_state, check_topic};
use crate::payload::json::{self, Gap};
use crate::store::{Ack, Item, Owed, OwedBody, OwedGap};

use super::client::{Extras, Retained};
use super::source::Lane;
use super::sparkplug::{EdgeNode, Said};
use super::status;
use form::Form;
use letter::Term;
use run::{Limits, Run};

/// Bytes that MQTT adds to topic and payload of a QoS 1 publish: header, length, topic length, packet id.
pub(super) const MQTT_BYTES: usize = 1 + 3 + 2 + 2;
/// What all the clouds of the presets take in one message, and four seconds of a 256 kbit/s link.
pub(super) const MESSAGE_BYTES_MAX: usize = 128 << 10;
/// Items that may wait to be fetched, besides those of open messages.
const READY_MAX: usize = 512;
/// And bytes of clients' messages among them.
const READY_BYTES_MAX: usize = 2 << 20;

/// One publish.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    /// For a client's message: what came beside it, and its number.
    pub(super) extras: Extras,
    /// To be kept by the broker: what a bridge carries, where its sender said so.
    pub(super) retained: Retained,
    /// Of a client's message that nobody needs any more after some time.
    pub(super) term: Option<Term>,
    /// What its PUBACK acknowledges.
    pub(super) ack: Ack,
    pub(super) class: Class,
    pub(super) lane: Lane,
    /// What an edge node publishes instead; topic and payload mean nothing then.
    pub(super) said: Option<Said>,
}

impl Message {
    /// Bytes on the wire before TLS.
    pub(super) fn bytes(&self) -> usize {
        if let Some(said) = &self.said {
            return said.bytes();
        }
        self.topic.len() + self.payload.len() + self.extras.bytes() + MQTT_BYTES
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

/// What waits to be encoded.
enum Parcel {
    Records(Lane, Vec<Owed>),
    Gap(Lane, OwedGap),
}

impl Parcel {
    fn lane(&self) -> Lane {
        match self {
            Self::Records(lane, _) | Self::Gap(lane, _) => *lane,
        }
    }

    /// Of a client's message, which goes alone; everything else is small.
    fn bytes(&self) -> usize {
        match self {
            Self::Records(_, records) => records.first().map_or(0, |owed| match &owed.body {
                OwedBody::Message { message, .. } => message.bytes(),
                _ => 0,
            }),
            Self::Gap(..) => 0,
        }
    }

    fn items(&self) -> usize {
        match self {
            Self::Records(_, records) => records.len(),
            Self::Gap(..) => 1,
        }
    }
}

/// Of one uplink. Items go in, messages come out, each of one class and one lane.
pub(super) struct Packer {
    form: Form,
    limits: Limits,
    open: Vec<Run>,
    ready: VecDeque<Parcel>,
    gap_topic: String,
    status_topic: String,
    usage: Use,
    summary_topic: String,
    clock: Clock,
}

impl Packer {
    /// `message_bytes_max`: topic and payload of the largest message that the broker takes.
    pub(super) fn new(plan: &UplinkPlan, gateway: &str, clock: Clock, message_bytes_max: usize) -> Self {
        let (topics, prefix) = (GatewayTopics::new(gateway), plan.topic_prefix.as_str());
        let form = Form::new(plan, (gateway, &clock), message_bytes_max.min(MESSAGE_BYTES_MAX));
        Self {
            limits: Limits::new(plan, &form),
            form,
            open: Vec::new(),
            ready: VecDeque::new(),
            gap_topic: format!("{prefix}{}", topics.gap()),
            status_topic: match plan.usage {
                Use::Bridge(_) => bridge_state(&plan.client_id),
                _ if plan.sparkplug.is_some() => String::new(), // births and deaths have topics of their own
                Use::Records | Use::Letters => format!("{prefix}{}", topics.status()),
            },
            usage: plan.usage,
            summary_topic: format!("{prefix}{}", topics.summary()),
            clock,
        }
    }

    /// What the broker is to say when we are gone, and where; `None`: nothing.
    pub(super) fn will(&mut self) -> Option<(String, Vec<u8>, Retained)> {
        let payload = match self.usage {
            Use::Bridge(Notifications::None) => return None,
            Use::Bridge(Notifications::Told) => status::BRIDGE_DOWN,
            Use::Records | Use::Letters => status::WILL,
        };
        if let Some(node) = self.node() {
            return Some((node.death_topic(), node.death(), Retained::No));
        }
        Some((self.status_topic.clone(), payload.to_vec(), Retained::Yes))
    }

    /// What is not full waits so long for more from now on; events wait for nothing.
    pub(super) fn gather_for(&mut self, wait: std::time::Duration) {
        self.limits.wait_for(wait);
    }

    /// The edge node of the format sparkplug.
    pub(super) const fn node(&mut self) -> Option<&mut EdgeNode> {
        self.form.node()
    }

    /// Bytes of a payload at most.
    pub(super) fn bytes_max(&self) -> usize {
        self.form.bytes_max()
    }

    /// What it is there for.
    pub(super) const fn usage(&self) -> Use {
        self.usage
    }

    /// Where the status goes.
    pub(super) fn status_topic(&self) -> &str {
        &self.status_topic
    }

    /// The topic that a record of a tag would go to alone or with its device; `None` for all that has no topic of its own.
    pub(super) fn tag_topic(&mut self, item: &Item) -> Option<String> {
        match item {
            Item::Record(owed) => self.form.tag_topic(owed),
            Item::Gap(_) => None,
        }
    }

    /// Do tags have topics of their own here?
    pub(super) const fn has_tag_topics(&self) -> bool {
        self.form.has_tag_topics()
    }

    /// A part of a summary, as this uplink's format would have it.
    pub(super) fn summary(&self, part: Vec<u8>) -> (String, Vec<u8>) {
        (self.summary_topic.clone(), self.form.compressed(part))
    }

    /// The broker of this session takes packets of so many bytes.
    pub(super) fn agree(&mut self, packet_bytes_max: usize) {
        self.form.agree(packet_bytes_max);
        self.limits.bytes = self.form.bytes_max();
    }

    /// A message was given up or refused: what it told about tags is not known upstream.
    pub(super) fn untold(&mut self) {
        self.form.forget();
    }

    /// Takes an item. Those of one lane come in the order in which they are to be sent.
    pub(super) fn put(&mut self, item: Item, lane: Lane, now: Instant) {
        let owed = match item {
            Item::Record(owed) => owed,
            Item::Gap(gap) => return self.ready.push_back(Parcel::Gap(lane, gap)),
        };
        let class = owed.number.stream;
        let shape = self.form.shape(&owed);
        if let Some(place) = self.open.iter().position(|run| run.lane == lane && run.class() == Some(class)) {
            if self.open[place].takes(&owed, &shape) {
                self.open[place].push(owed, &shape, now);
                if self.open[place].is_full(self.limits) {
                    self.close(place);
                }
                return;
            }
            self.close(place);
        }
        let run = Run::begin(lane, owed, shape, now);
        self.open.push(run);
        if self.open.last().is_some_and(|run| run.is_full(self.limits)) {
            self.close(self.open.len() - 1);
        }
    }

    fn close(&mut self, place: usize) {
        let run = self.open.remove(place);
        self.ready.push_back(Parcel::Records(run.lane, run.records));
    }

    /// A message that is full or whose wait is over; live before backlog, of one lane in the order of its items.
    pub(super) fn next(&mut self, now: Instant) -> Option<Message> {
        while let Some(place) = self.open.iter().position(|run| run.due(self.limits) <= now) {
            self.close(place);
        }
        let place = self.ready.iter().position(|parcel| parcel.lane() == Lane::Live).unwrap_or(0);
        Some(match self.ready.remove(place)? {
            Parcel::Gap(lane, gap) => self.gap(&gap, lane),
            Parcel::Records(lane, records) => {
                let (message, rest) = self.form.message(records, lane, &self.clock, now.into_std())?;
                if !rest.is_empty() {
                    self.ready.insert(place, Parcel::Records(lane, rest));
                }
                message
            }
        })
    }

    /// When the oldest open message must go; `None` when none is open.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.iter().map(|run| run.due(self.limits)).min()
    }

    /// How many more items of a lane are useful now.
    pub(super) fn wants(&self, lane: Lane) -> usize {
        let ready: usize = self.ready.iter().filter(|parcel| parcel.lane() == lane).map(Parcel::items).sum();
        if self.ready.iter().map(Parcel::bytes).sum::<usize>() >= READY_BYTES_MAX {
            return 0;
        }
        let open = self.open.iter().filter(|run| run.lane == lane).map(|run| run.records.len()).max().unwrap_or(0);
        if ready >= READY_MAX { 0 } else { self.limits.records.max(READY_MAX) - open.min(self.limits.records - 1) }
    }

    /// What is open goes as it is: [`Packer::next`] gives it all.
    pub(super) fn flush(&mut self) {
        while !self.open.is_empty() {
            self.close(0);
        }
    }

    /// The session is over: everything comes again, and nobody upstream is taken to know anything.
    pub(super) fn clear(&mut self) {
        self.open.clear();
        self.ready.clear();
        self.form.forget();
    }

    fn gap(&mut self, gap: &OwedGap, lane: Lane) -> Message {
        let payload = json::gap(&Gap {
            stream: gap.stream,
            epoch: gap.epoch,
            first: gap.first,
            last: gap.last,
            from: gap.from.map(|at| self.clock.wall(at)),
            to: gap.to.map(|at| self.clock.wall(at)),
            reason: reason(&gap.reason),
        });
        let said = self.node().is_some().then(|| Said::Gap(String::from_utf8_lossy(&payload).into_owned()));
        let payload = self.form.compressed(payload);
        Message {
            topic: self.gap_topic.clone(),
            payload,
            extras: Extras::default(),
            retained: Retained::No,
            term: None,
            ack: Ack::Gap(gap.id),
            class: gap.stream,
            lane,
            said,
        }
    }
}

fn reason(stored: &str) -> &'static str {
    match stored {
        "evicted" => "evicted",
        "damaged" => "damaged",
        "purged" => "purged",
        "refused" => "refused",
        _ => "store",
    }
}

#[cfg(test)]
mod tests;
