//! What an uplink's bytes come to, format by format: the wire part of the forecast. Pure; `check` and `cost` print it.
//!
//! All figures are wire bytes: MQTT, TLS, TCP and IP headers, acknowledgements, both directions. Two ends of everything:
//! `most`, every reading is a sample; `least`, nothing changes at all. The truth of a quiet plant is near the lower end;
//! `ironbridge cost --from-store` knows it.
//!
//! Where the constants come from ("measured": 1000 tags at 1 Hz over TLS with client certificates, counted at the interface;
//! `cargo bench --bench wire` works out the same from the headers):
//!
//! ```text
//! JSON, a message per sample       measured 261 a sample, coming 1000 at a time; a message that comes alone has its
//!                                  segment, its record and its confirmation for itself (152 more, from the headers)
//! JSON array in zstd, 1000         measured 8.3, by exception 11.7
//! batch, 1000 / 10 000 / 60 000    measured 2.7 / 1.09 / 0.86, by exception 5.1 / 3.2 / 2.7
//! Sparkplug with aliases, 1000     measured 16.2, by exception 16.4; in gzip 6.2 and 8.4
//! keep alive cycle                 measured 204
//! connect, certificates both ways  measured 4.9 kB, resumed 2.7 kB; by QUIC 5.9 kB and 4.9 kB: each side pads its first
//!                                  packets to 1200 bytes, which long chains fill (tests/quic holds all four against the meter)
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::births::births;
use super::forecast::{Rate, sample_rate};
use super::plan::{BATCH_SAMPLES, Compress, Format, Layout, Plan, TagPlan, Transport, UplinkPlan};
use crate::model::number::Class;

/// See the head of this file: 261 bytes for a publish of about 150 (topic, payload, MQTT header), 3.7 % of which are
/// headers of shared segments and records; the rest is its acknowledgement.
const PUBLISHED: f64 = 1.037;
/// See [`PUBLISHED`].
const ACKNOWLEDGED: f64 = 105.0;
/// What a burst adds: a segment and a record of its own (52 + 22), and their confirmation (52 + 26).
const ALONE: f64 = 152.0;
/// Header, remaining length, topic length and packet id of a QoS 1 publish (MQTT 3.1.1, section 3.3).
pub const MQTT: f64 = 7.0;
/// `{"value":,"quality":"good","time":"2026-11-20T20:00:00.123Z","stream":"telemetry","epoch":,"seq":}` with an epoch of 16
/// digits, a seq of 8 and a value of 6.
const JSON_SAMPLE: f64 = 127.0;
/// The same of layout device, without its values.
pub const JSON_DEVICE: f64 = 128.0;
/// Quotes, colon, comma and a value of 6 characters beside the name of a tag.
const JSON_VALUE: f64 = 10.0;
/// Per sample: every reading, by exception.
const JSON_ARRAY_ZSTD: [f64; 2] = [8.05, 11.45];
/// A publish of its own and what zstd needs to begin, per message.
const JSON_ARRAY_MESSAGE: f64 = 253.0;
/// Columns: per sample, and per tag in each message; and the message. Fits the measured points to 10 %.
const BATCH: [f64; 2] = [0.88, 2.9];
const BATCH_TAG: [f64; 2] = [1.5, 1.8];
const BATCH_MESSAGE: f64 = 300.0;
const SPARKPLUG: [f64; 2] = [15.9, 16.1];
/// The same in gzip.
const SPARKPLUG_GZIP: [f64; 2] = [6.0, 8.2];
/// A publish, the barrier behind it and its answer.
const SPARKPLUG_MESSAGE: f64 = 300.0;
/// What is in flight in full segments, births for one, with their headers: percent of its bytes.
pub const WITH_HEADERS: u32 = 108;
/// What a format that batches is forecast with, where it is not the configured one; how many: [`BATCH_SAMPLES`].
pub const BATCH_EVERY: Duration = Duration::from_secs(10);

/// Measured: PINGREQ, PINGRESP and their confirmations over TLS.
pub const KEEP_ALIVE_CYCLE: u32 = 204;
/// Measured: TCP and TLS 1.3 with certificates on both sides, CONNECT, first status.
pub const CONNECT_MUTUAL: u32 = 4900;
/// Measured: the same with a resumed TLS session.
pub const CONNECT_RESUMED: u32 = 2700;
/// Measured: the same two by QUIC (see the head of this file).
pub const CONNECT_QUIC: u32 = 5900;
/// See [`CONNECT_QUIC`].
pub const CONNECT_QUIC_RESUMED: u32 = 4900;
/// Without TLS: TCP, CONNECT, first status and their confirmations, from the headers.
const CONNECT_PLAIN: u32 = 900;
/// The status is published this often while numbers move (`uplink::Timing`).
pub const STATUS_EVERY: Duration = Duration::from_secs(60);
const STATUS: f64 = 260.0;
/// Connects per day that are assumed without a schedule: a link that is good, and one that breaks every hour.
pub const CONNECTS: [f64; 2] = [1.0, 24.0];
/// Events and alarms per day that are assumed: a quiet plant, and one with trouble.
pub const EVENTS: [f64; 2] = [5.0, 200.0];
const EVENT: f64 = 230.0;

const SECONDS_PER_DAY: f64 = 86_400.0;

/// A way to say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `format = "json"`: a message per sample.
    JsonTag,
    /// `layout = "device"`: a message per device, poll and class.
    JsonDevice,
    /// `batch_samples` above 1, `compress = "zstd"`.
    JsonArray,
    /// `format = "batch"`
    Batch,
    /// `format = "sparkplug"`
    Sparkplug,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::JsonTag, Self::JsonDevice, Self::JsonArray, Self::Batch, Self::Sparkplug];

    /// As in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JsonTag => "json",
            Self::JsonDevice => "json, layout device",
            Self::JsonArray => "json, array in zstd",
            Self::Batch => "batch",
            Self::Sparkplug => "sparkplug",
        }
    }

    /// What an uplink is configured for.
    pub const fn of(uplink: &UplinkPlan) -> Self {
        match (uplink.format, uplink.layout, uplink.compress) {
            (Format::Batch, ..) => Self::Batch,
            (Format::Sparkplug, ..) => Self::Sparkplug,
            (Format::Json, Layout::Device, _) => Self::JsonDevice,
            (Format::Json, Layout::Tag, Compress::Zstd | Compress::Gzip) => Self::JsonArray,
            (Format::Json, Layout::Tag, Compress::None) if uplink.batch_samples > 1 => Self::JsonArray,
            (Format::Json, Layout::Tag, Compress::None) => Self::JsonTag,
        }
    }
}

/// What an uplink has to carry.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Samples per second.
    pub samples: Rate,
    /// Tags that they come from.
    pub tags: f64,
    /// Messages per second of layout device.
    pub polls: Rate,
    /// Mean of topic and prefix, a message per sample.
    pub topic: f64,
    /// Mean length of a tag's name.
    pub name: f64,
    /// Bytes of all births of Sparkplug.
    pub births: f64,
}

/// The load of an uplink's classes.
pub fn load(plan: &Plan, uplink: &UplinkPlan) -> Load {
    let owed = || plan.tags.iter().filter(|tag| tag.access.reads() && uplink.classes.contains(&tag.class));
    let tags = owed().count();
    let mean = |length: fn(&TagPlan) -> usize| as_f64(owed().map(length).sum::<usize>()) / as_f64(tags.max(1));
    let mut polls: BTreeMap<(u32, Duration, Class), Rate> = BTreeMap::new();
    for tag in owed() {
        let poll = polls.entry((tag.device.0, tag.poll, tag.class)).or_default();
        let rate = sample_rate(std::iter::once(tag));
        // A poll is a message when any of its tags has a sample; heartbeats of one device tend to fall together.
        (poll.most, poll.least) = (poll.most.max(rate.most), poll.least.max(rate.least));
    }
    let polls = polls
        .values()
        .fold(Rate::default(), |sum, rate| Rate { most: sum.most + rate.most, least: sum.least + rate.least });
    Load {
        samples: sample_rate(owed()),
        tags: as_f64(tags),
        polls,
        topic: mean(|tag| tag.topic.len()) + as_f64(uplink.topic_prefix.len()),
        name: mean(|tag| tag.name.len()),
        births: as_f64(births(&plan.devices, &plan.tags, &uplink.classes, uplink.commands).bytes),
    }
}

/// Wire bytes of a publish of so many bytes (topic, payload, MQTT header) and of its acknowledgement, when so many leave
/// together.
pub fn message(bytes: f64, burst: f64) -> f64 {
    bytes * PUBLISHED + ACKNOWLEDGED + ALONE / burst
}

/// Records in a message of a format that batches, at this many samples per second: as configured, or for another format
/// what 10 s bring.
pub fn records_per_message(plan: &Plan, uplink: &UplinkPlan, way: Way, per_second: f64) -> f64 {
    let commit = plan.store.commit_interval;
    let (interval, at_most) = if way == Way::of(uplink) && uplink.batch_samples > 1 {
        (uplink.batch_interval.max(commit), f64::from(uplink.batch_samples))
    } else {
        (BATCH_EVERY.max(commit), f64::from(BATCH_SAMPLES))
    };
    (per_second * interval.as_secs_f64()).clamp(1.0, at_most)
}

/// Wire bytes per day of the samples alone.
pub fn samples_per_day(plan: &Plan, uplink: &UplinkPlan, load: &Load, way: Way) -> Rate {
    let commit = plan.store.commit_interval;
    let of = |samples: f64, polls: f64, end: usize| {
        if samples <= 0.0 {
            return 0.0;
        }
        let commits = as_burst(samples, commit);
        let batch = records_per_message(plan, uplink, way, samples);
        let tags = load.tags.min(batch);
        let sample = match way {
            Way::JsonTag => message(load.topic + MQTT + JSON_SAMPLE, commits),
            Way::JsonDevice => {
                let values = samples / polls.max(f64::MIN_POSITIVE);
                let topic = (load.topic - load.name).max(0.0);
                let bytes = topic + MQTT + JSON_DEVICE + values * (load.name + JSON_VALUE);
                message(bytes, as_burst(polls, commit)) / values
            }
            Way::JsonArray => JSON_ARRAY_ZSTD[end] + JSON_ARRAY_MESSAGE / batch,
            Way::Batch => BATCH[end] + (BATCH_MESSAGE + BATCH_TAG[end] * tags) / batch,
            Way::Sparkplug if uplink.compress == Compress::Gzip => SPARKPLUG_GZIP[end] + SPARKPLUG_MESSAGE / batch,
            Way::Sparkplug => SPARKPLUG[end] + SPARKPLUG_MESSAGE / batch,
        };
        samples * sample * SECONDS_PER_DAY
    };
    Rate { most: of(load.samples.most, load.polls.most, 0), least: of(load.samples.least, load.polls.least, 1) }
}

/// Wire bytes per day of everything beside samples.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Upkeep {
    /// Pings.
    pub keep_alive: f64,
    /// The retained status.
    pub status: f64,
    /// Handshakes.
    pub connects: Rate,
    /// Events and alarms.
    pub events: Rate,
}

impl Upkeep {
    /// All of it.
    pub fn total(self) -> Rate {
        let both = self.keep_alive + self.status;
        Rate {
            most: both + self.connects.most + self.events.most,
            least: both + self.connects.least + self.events.least,
        }
    }
}

/// Connects per day: as assumed, or one in each window of a scheduled path.
pub fn connects(uplink: &UplinkPlan) -> Rate {
    let schedule = uplink.paths.first().and_then(|path| path.schedule);
    let [least, most] = schedule.map_or(CONNECTS, |schedule| [SECONDS_PER_DAY / schedule.every.as_secs_f64(); 2]);
    Rate { most, least }
}

/// What keeping a session costs per day; on a scheduled path it stands in the windows only.
pub fn upkeep(uplink: &UplinkPlan) -> Upkeep {
    let message = |bytes: f64| message(bytes, 1.0);
    let schedule = uplink.paths.first().and_then(|path| path.schedule);
    let open = schedule.map_or(1.0, |schedule| schedule.lasts.as_secs_f64() / schedule.every.as_secs_f64());
    let day = SECONDS_PER_DAY * open;
    let (full, resumed) = match uplink.servers.first().map(|server| &server.transport) {
        Some(Transport::Quic) => (CONNECT_QUIC, CONNECT_QUIC_RESUMED),
        Some(transport) if transport.is_secure() => (CONNECT_MUTUAL, CONNECT_RESUMED),
        _ => (CONNECT_PLAIN, CONNECT_PLAIN),
    };
    let connects = connects(uplink);
    let prefix = as_f64(uplink.topic_prefix.len());
    Upkeep {
        keep_alive: day / uplink.keep_alive.as_secs_f64() * f64::from(KEEP_ALIVE_CYCLE),
        status: day / STATUS_EVERY.as_secs_f64() * message(STATUS + prefix),
        connects: Rate { least: connects.least * f64::from(resumed), most: connects.most * f64::from(full) },
        events: Rate { least: EVENTS[0] * message(EVENT + prefix), most: EVENTS[1] * message(EVENT + prefix) },
    }
}

/// The same, said in this way: an edge node has no status, but births of all its tags with every connect.
pub fn upkeep_of(uplink: &UplinkPlan, load: &Load, way: Way) -> Upkeep {
    let mut upkeep = upkeep(uplink);
    if way == Way::Sparkplug {
        upkeep.status = 0.0;
        let connects = connects(uplink);
        let births = load.births * f64::from(WITH_HEADERS) / 100.0;
        upkeep.connects.least += connects.least * births;
        upkeep.connects.most += connects.most * births;
    }
    upkeep
}

/// Wire bytes per day of an uplink as it is configured.
pub fn per_day(plan: &Plan, uplink: &UplinkPlan) -> Rate {
    let (load, way) = (load(plan, uplink), Way::of(uplink));
    let samples = samples_per_day(plan, uplink, &load, way);
    let upkeep = upkeep_of(uplink, &load, way).total();
    Rate { most: samples.most + upkeep.most, least: samples.least + upkeep.least }
}

/// What leaves together: everything that one commit brought.
fn as_burst(per_second: f64, commit: Duration) -> f64 {
    (per_second * commit.as_secs_f64()).max(1.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts of tags and lengths of names")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
