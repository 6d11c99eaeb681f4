//! `cargo bench --bench wire`: what a sample costs on the wire, in every format, and how fast it is packed and unpacked.
//!
//! The plant: 20 devices of 50 tags, read once a second, each device with one stamp. Of the 50: 30 slow analog values with
//! two decimals (a register times 0.01; 3 in 10 move by a step or two each second), 6 raw float32 of a 14-bit converter with
//! noise in its lowest 3 bits, 4 counters that count every second, 2 that count now and then, 8 states (4 of them one bit)
//! that change once in a hundred seconds. "By exception": the same, but only what has changed is a sample.
//!
//! Bytes on the wire, both directions: MQTT (3.1.1, QoS 1) + TLS 1.3 (22 B for each record of at most 16 KiB) + TCP/IPv4
//! with timestamps (52 B for each segment of at most 1448 B, and for the receiver's acknowledgement of every second one) +
//! the broker's PUBACK in a segment of its own (4 + 22 + 52 B) and our acknowledgement of that (52 B).
//! That is a message sent alone; a stream of small ones shares segments. `tests/uplink/wire.rs` holds the arithmetic of MQTT
//! and TLS against what the road counts.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures of a made-up plant, all small"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use ironbridge::model::number::{Class, Epoch, Number, Seq};
use ironbridge::model::quality::Quality;
use ironbridge::model::time::{Certainty, Wall};
use ironbridge::model::value::Value;
use ironbridge::payload::batch::{Encoder, Entry, Head, Row, RowBody, decode};
use ironbridge::payload::device::{self, Part};
use ironbridge::payload::json;
use ironbridge::payload::packed::{compress, open};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::time::{ClockId, clock_gettime};

const DEVICES: usize = 20;
const TAGS: usize = 50;
const GATEWAY: &str = "pump-station-7";
const BATCH_TOPIC: &str = "ironbridge/pump-station-7/batch";

struct Sample {
    device: usize,
    tag: usize,
    unix_ms: i64,
    value: Value,
}

/// Wire bytes of a publish and everything that comes back for it.
fn wire(topic: &str, payload: usize) -> usize {
    let rest = 2 + topic.len() + 2 + payload;
    let mqtt = 1 + 1 + usize::from(rest > 127) + usize::from(rest > 16_383) + usize::from(rest > 2_097_151) + rest;
    let tls = mqtt + 22 * mqtt.div_ceil(16_384);
    let segments = tls.div_ceil(1448);
    tls + 52 * segments + 52 * segments.div_ceil(2) + (4 + 22 + 52) + 52
}

fn name(tag: usize) -> String {
    const WORDS: [&str; 10] =
        ["bearing", "current", "flow", "inlet", "level", "motor", "outlet", "power", "pressure", "winding"];
    format!("{}-{}", WORDS[tag / 5], ["a", "b", "c", "d", "e"][tag % 5])
}

/// What a tag is, mixed as in a real register map sorted by name.
fn raw(tag: usize, state: &mut f64, dice: &mut StdRng) -> Value {
    let kind = (tag * 7) % 50;
    match kind {
        0..30 => {
            if dice.random_bool(0.3) {
                *state += f64::from(dice.random_range(-2_i8..=2));
            }
            Value::Float((2000.0 + 150.0 * kind as f64 + state.round()) * 0.01)
        }
        30..36 => {
            *state += f64::from(dice.random_range(-3_i8..=3));
            let counts = 6000.0 + 500.0 * kind as f64 + state.round() + f64::from(dice.random_range(0_u8..8));
            Value::Float(f64::from((counts * 160.0 / 16_384.0 - 32.0) as f32))
        }
        36..40 => {
            *state += f64::from(dice.random_range(14_u8..=18));
            Value::Uint(3_000_000 + 77_777 * kind as u64 + *state as u64)
        }
        40..42 => {
            *state += f64::from(u8::from(dice.random_bool(0.02)));
            Value::Uint(12_000 + *state as u64)
        }
        42..46 => {
            *state = if dice.random_bool(0.01) { 1.0 - *state } else { *state };
            Value::Bool(*state > 0.5)
        }
        _ => {
            *state = if dice.random_bool(0.01) { f64::from(dice.random_range(0_u8..6)) } else { *state };
            Value::Uint(*state as u64)
        }
    }
}

/// So many samples of the plant, in the order in which they are numbered.
fn plant(samples: usize, by_exception: bool) -> Vec<Sample> {
    let mut dice = StdRng::seed_from_u64(7);
    let mut states = vec![0.0; DEVICES * TAGS];
    let mut last: BTreeMap<(usize, usize), Value> = BTreeMap::new();
    let mut all = Vec::with_capacity(samples + DEVICES * TAGS);
    for second in 0.. {
        for device in 0..DEVICES {
            let at = 1_795_204_800_000 + second * 1000 + device as i64 * 45 + dice.random_range(0..12);
            for tag in 0..TAGS {
                let value = raw(tag, &mut states[device * TAGS + tag], &mut dice);
                let same = last.get(&(device, tag)) == Some(&value);
                // the first minute only makes the plant warm
                if second >= 60 && !(by_exception && same) {
                    all.push(Sample { device, tag, unix_ms: at, value: value.clone() });
                }
                last.insert((device, tag), value);
            }
        }
        if all.len() >= samples {
            all.truncate(samples);
            return all;
        }
    }
    all
}

struct Tags {
    entries: Vec<Entry>,
}

impl Tags {
    fn new() -> Self {
        let entry = |n: usize| {
            let (device, name) = (format!("pump-{:02}", n / TAGS), name(n % TAGS));
            let topic = format!("acme/{GATEWAY}/{device}/{name}");
            Entry { id: n as u32 + 1, device, name, topic, data_type: "float32".into() }
        };
        Self { entries: (0..DEVICES * TAGS).map(entry).collect() }
    }

    fn of(&self, sample: &Sample) -> &Entry {
        &self.entries[sample.device * TAGS + sample.tag]
    }
}

fn number(place: usize) -> Number {
    Number { stream: Class::Telemetry, epoch: Epoch(5_123_456_789_012_345), seq: Seq(4_711_000 + place as u64) }
}

fn wall(sample: &Sample) -> Wall {
    Wall { unix_ms: sample.unix_ms, certainty: Certainty::Fixed }
}

/// Topic and payload of each message.
type Messages = Vec<(String, Vec<u8>)>;

fn single(tags: &Tags, place: usize, sample: &Sample) -> (String, Vec<u8>) {
    let payload = json::numbered_sample(Some(&sample.value), Quality::Good, wall(sample), number(place), None);
    (tags.of(sample).topic.clone(), payload)
}

fn json_tag(tags: &Tags, samples: &[Sample]) -> Messages {
    samples.iter().enumerate().map(|(place, sample)| single(tags, place, sample)).collect()
}

fn json_list(tags: &Tags, samples: &[Sample], size: usize, zstd: bool) -> Messages {
    let list = |(chunk, samples): (usize, &[Sample])| {
        let mut list = Vec::new();
        for (place, sample) in samples.iter().enumerate() {
            let (topic, object) = single(tags, chunk * size + place, sample);
            json::add_to_list(&mut list, &topic, &object);
        }
        json::close_list(&mut list);
        (BATCH_TOPIC.to_owned(), if zstd { compress(&list) } else { list })
    };
    samples.chunks(size).enumerate().map(list).collect()
}

fn json_device(tags: &Tags, samples: &[Sample]) -> Messages {
    let mut place = 0;
    let polls = samples.chunk_by(|one, other| one.device == other.device && one.unix_ms == other.unix_ms);
    let message = |poll: &[Sample]| {
        let part = |sample| Part {
            name: &tags.of(sample).name,
            value: Some(&sample.value),
            quality: Quality::Good,
            time: wall(sample),
        };
        let parts: Vec<Part<'_>> = poll.iter().map(part).collect();
        place += poll.len();
        let topic = format!("acme/{GATEWAY}/{}", tags.of(&poll[0]).device);
        (topic, device::samples(&parts, number(place), None))
    };
    polls.map(message).collect()
}

fn batches(tags: &Tags, samples: &[Sample], size: usize) -> Messages {
    let mut encoder = Encoder::new(GATEWAY);
    tags.entries.iter().for_each(|entry| encoder.know(entry.clone()));
    // an hour ago the session began: the first batch with its whole dictionary is behind us
    let now = Instant::now();
    let message = |(chunk, samples): (usize, &[Sample])| {
        let row = |sample| {
            let tag = tags.of(sample).id;
            Row {
                unix_ms: sample.unix_ms,
                until_ms: None,
                body: RowBody::Sample { tag, value: Some(&sample.value), quality: Quality::Good },
            }
        };
        let rows: Vec<Row<'_>> = samples.iter().map(row).collect();
        let mut draft = encoder.draft(Head { first: number(chunk * size), previous: None }, &rows, now);
        encoder.sent(&draft, now);
        (BATCH_TOPIC.to_owned(), std::mem::take(&mut draft.payload))
    };
    samples.chunks(size).enumerate().map(message).collect()
}

/// CPU time of this thread, not of the clock on the wall: others use the machine too. The best of several goes.
fn best(mut work: impl FnMut()) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let go = |_| {
        let begin = now();
        work();
        now().saturating_sub(begin)
    };
    (0..5).map(go).min().unwrap_or_default()
}

fn line(what: &str, samples: &[Sample], skip: usize, make: impl Fn(&[Sample]) -> Messages) {
    let messages = make(samples);
    let counted = &messages[skip..];
    let in_skipped: usize = messages[..skip].len() * samples.len() / messages.len();
    let count = (samples.len() - in_skipped) as f64;
    let payload: usize = counted.iter().map(|(_, payload)| payload.len()).sum();
    let wire: usize = counted.iter().map(|(topic, payload)| wire(topic, payload.len())).sum();
    let encode = best(|| drop(black_box(make(samples))));
    let unpack = best(|| {
        for (_, payload) in &messages {
            if let Ok(ironbridge::payload::packed::Opened::Text(text)) = open(payload) {
                let _ = black_box(serde_json::from_slice::<serde_json::Value>(&text));
            } else {
                let _ = black_box(decode(payload));
            }
        }
    });
    let per_second = |took: Duration| samples.len() as f64 / took.as_secs_f64() / 1e6;
    println!(
        "{what:26} {:9} {:12.2} {:12.2} {:12.2} {:12.2}",
        counted.len(),
        payload as f64 / count,
        wire as f64 / count,
        per_second(encode),
        per_second(unpack)
    );
}

fn main() {
    let tags = Tags::new();
    for by_exception in [false, true] {
        let samples = plant(120_000, by_exception);
        println!(
            "\n{} ({} samples of {} tags)",
            if by_exception { "By exception" } else { "All samples" },
            samples.len(),
            DEVICES * TAGS
        );
        println!(
            "{:26} {:>9} {:>12} {:>12} {:>12} {:>12}",
            "format", "messages", "payload B", "wire B", "encode M/s", "decode M/s"
        );
        let short = &samples[..20_000];
        line("json", short, 0, |samples| json_tag(&tags, samples));
        line("json, layout device", short, 0, |samples| json_device(&tags, samples));
        line("json, lists of 1000", short, 0, |samples| json_list(&tags, samples, 1000, false));
        line("json, lists of 1000, zstd", short, 0, |samples| json_list(&tags, samples, 1000, true));
        for size in [1000, 10_000, 60_000] {
            line(&format!("batch of {size}"), &samples, 1, |samples| batches(&tags, samples, size));
        }
    }
    let samples = plant(10_000, false);
    let first = &batches(&tags, &samples, 10_000)[0].1;
    println!("\nThe first batch of 10 000 after a connect, with all {} tags in it: {} B", DEVICES * TAGS, first.len());
}
