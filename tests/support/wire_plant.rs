//! The plant that figures about bytes on the wire rest on, for `cargo bench --bench wire` and for the test that holds the
//! forecast of `ironbridge cost` against it. What it is stands in the head of that benchmark.

#![allow(
    dead_code, // each of the two takes what it needs
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures of a made-up plant, all small"
)]

use std::collections::BTreeMap;
use std::time::Instant;

use ironbridge::model::number::{Class, Epoch, Number, Seq};
use ironbridge::model::quality::Quality;
use ironbridge::model::value::Value;
use ironbridge::payload::batch::{Encoder, Entry, Head, Row, RowBody};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub const DEVICES: usize = 20;
pub const TAGS: usize = 50;
pub const GATEWAY: &str = "pump-station-7";
pub const BATCH_TOPIC: &str = "ironbridge/pump-station-7/batch";

#[derive(Clone)]
pub struct Sample {
    pub device: usize,
    pub tag: usize,
    pub unix_ms: i64,
    pub value: Value,
}

/// Wire bytes of a publish and everything that comes back for it.
pub fn wire(topic: &str, payload: usize) -> usize {
    let rest = 2 + topic.len() + 2 + payload;
    let mqtt = 1 + 1 + usize::from(rest > 127) + usize::from(rest > 16_383) + usize::from(rest > 2_097_151) + rest;
    let tls = mqtt + 22 * mqtt.div_ceil(16_384);
    let segments = tls.div_ceil(1448);
    tls + 52 * segments + 52 * segments.div_ceil(2) + (4 + 22 + 52) + 52
}

pub fn name(tag: usize) -> String {
    const WORDS: [&str; 10] =
        ["bearing", "current", "flow", "inlet", "level", "motor", "outlet", "power", "pressure", "winding"];
    format!("{}-{}", WORDS[tag / 5], ["a", "b", "c", "d", "e"][tag % 5])
}

/// What a tag is, mixed as in a real register map sorted by name.
pub fn raw(tag: usize, state: &mut f64, dice: &mut StdRng) -> Value {
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
pub fn plant(samples: usize, by_exception: bool) -> Vec<Sample> {
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

pub struct Tags {
    pub entries: Vec<Entry>,
}

impl Tags {
    pub fn new() -> Self {
        let entry = |n: usize| {
            let (device, name) = (format!("pump-{:02}", n / TAGS), name(n % TAGS));
            let topic = format!("acme/{GATEWAY}/{device}/{name}");
            Entry { id: n as u32 + 1, device, name, topic, data_type: "float32".into() }
        };
        Self { entries: (0..DEVICES * TAGS).map(entry).collect() }
    }

    pub fn of(&self, sample: &Sample) -> &Entry {
        &self.entries[sample.device * TAGS + sample.tag]
    }
}

pub fn number(place: usize) -> Number {
    Number { stream: Class::Telemetry, epoch: Epoch(5_123_456_789_012_345), seq: Seq(4_711_000 + place as u64) }
}

/// Topic and payload of each message.
pub type Messages = Vec<(String, Vec<u8>)>;

pub fn batches(tags: &Tags, samples: &[Sample], size: usize) -> Messages {
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
