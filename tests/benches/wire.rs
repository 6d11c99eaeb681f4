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
//!
//! An edge node of Sparkplug sends at QoS 0, a message per device, and what is due goes together: its rows count a whole go, all
//! devices in one stream of records and segments, with one barrier and its answer behind them. "1 s" is a go per poll, 50
//! samples of each of 20 devices; "20 s" is `batch_interval = "20s"`, 1000 of each. "alone" is one device that has the link for
//! itself. A sample of a float is never less than 16 bytes with an alias below 128, or 17: 2 around it, 2 or 3 alias, 7 time
//! (which each metric must have, tck-id-payloads-name-birth-data-requirement), 5 value; a register takes 2 to 4 for its value, a
//! bit 2. Headers add 5.5 % whatever is done. So 1000 floats cost 19.2 in goes of 1 s and 17.9 in goes of 20 s, 1000 registers
//! of 16 bits (two bytes of varint each) 17.1 and 15.8. An alias is of one metric of the whole node (tck-id-payloads-alias-uniqueness),
//! so that of 1000 floats 127 take 16 and the others 17: 16.9 before any header. Nothing that the specification allows gets a plant
//! of floats to 16.5 but compression (gzip: 6.2 for the plant above).

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures of a made-up plant, all small"
)]

#[path = "../support/wire_plant.rs"]
mod wire_plant;

use std::hint::black_box;
use std::time::Duration;

use ironbridge::model::quality::Quality;
use ironbridge::model::time::{Certainty, Wall};
use ironbridge::payload::batch::decode;
use ironbridge::payload::device::{self, Part};
use ironbridge::payload::json;
use ironbridge::payload::packed::{compress, open};
use ironbridge::payload::sparkplug::{DataType, Kind, Metric, Node, Payload, Value, value_of};
use rustix::time::{ClockId, clock_gettime};

use wire_plant::{BATCH_TOPIC, DEVICES, GATEWAY, Messages, Sample, TAGS, Tags, batches, number, plant, wire};

fn wall(sample: &Sample) -> Wall {
    Wall { unix_ms: sample.unix_ms, certainty: Certainty::Fixed }
}

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

/// What a payload says beside time, alias and value.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    Values,
    Types,
}

/// Data of an edge node: a message is of one device.
fn sparkplug(samples: &[Sample], size: usize, says: Says, gzip: bool) -> Messages {
    let node = Node::new("acme", GATEWAY).expect("good ids");
    let message = |(count, samples): (usize, &[&Sample])| {
        let mut payload = Payload::new(1_795_204_900_000, Some((count % 256) as u8));
        for sample in samples {
            use ironbridge::model::value::Value as Of;
            let kind = match sample.value {
                Of::Bool(_) => DataType::Boolean,
                Of::Float(_) => DataType::Float,
                _ => DataType::Int64,
            };
            payload.push(&Metric {
                name: None,
                alias: Some((sample.device * TAGS + sample.tag + 1) as u64),
                timestamp_ms: Some(sample.unix_ms as u64),
                datatype: (says == Says::Types).then_some(kind),
                historical: false,
                value: value_of(Some(&sample.value), kind).unwrap_or(Value::Null),
                properties: &[],
            });
        }
        let topic = node.device_topic(Kind::DData, &format!("pump-{:02}", samples[0].device));
        (topic, if gzip { payload.compressed() } else { payload.encode() })
    };
    let devices =
        (0..DEVICES).map(|device| samples.iter().filter(|sample| sample.device == device).collect::<Vec<_>>());
    let devices: Vec<_> = devices.collect();
    devices.iter().flat_map(|device| device.chunks(size)).enumerate().map(message).collect()
}

/// What waits is sent in one go, behind it UNSUBSCRIBE (11 B, answered by 4): bytes on the wire in both directions.
fn go(messages: &[(String, Vec<u8>)]) -> usize {
    let publish = |(topic, payload): &(String, Vec<u8>)| {
        let rest = 2 + topic.len() + payload.len(); // no packet id
        1 + 1 + usize::from(rest > 127) + usize::from(rest > 16_383) + rest
    };
    let mqtt = messages.iter().map(publish).sum::<usize>() + 11;
    let tls = mqtt + 22 * mqtt.div_ceil(16_384);
    let segments = tls.div_ceil(1448);
    tls + 52 * segments + 52 * segments.div_ceil(2) + (4 + 22 + 52) + 52
}

/// An edge node that gathers for so many seconds; `devices`: of how many.
fn node(what: &str, samples: &[Sample], (seconds, devices): (usize, usize), gzip: bool) {
    let mine: Vec<Sample> = samples.iter().filter(|sample| sample.device < devices).cloned().collect();
    let begin = mine.iter().map(|sample| sample.unix_ms).min().unwrap_or(0);
    let every = seconds as i64 * 1000;
    let goes = mine.chunk_by(|one, other| (one.unix_ms - begin) / every == (other.unix_ms - begin) / every);
    let goes: Vec<Messages> = goes.map(|samples| sparkplug(samples, 10_000, Says::Values, gzip)).collect();
    let payload: usize = goes.iter().flatten().map(|(_, payload)| payload.len()).sum();
    let wire: usize = goes.iter().map(|messages| go(messages)).sum();
    let (messages, count) = (goes.iter().map(Vec::len).sum::<usize>(), mine.len() as f64);
    println!("{what:26} {messages:9} {:12.2} {:12.2}", payload as f64 / count, wire as f64 / count);
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
        line("sparkplug, 1000", short, 0, |samples| sparkplug(samples, 1000, Says::Values, false));
        line("sparkplug, 1000, gzip", short, 0, |samples| sparkplug(samples, 1000, Says::Values, true));
        line("sparkplug, types, 1000", short, 0, |samples| sparkplug(samples, 1000, Says::Types, false));
        line("sparkplug, types, gzip", short, 0, |samples| sparkplug(samples, 1000, Says::Types, true));
        for (seconds, gzip) in [(1, false), (1, true), (20, false), (20, true)] {
            let packed = if gzip { ", gzip" } else { "" };
            node(&format!("sparkplug, {seconds} s{packed}"), short, (seconds, DEVICES), gzip);
            node(&format!("sparkplug, {seconds} s{packed}, alone"), short, (seconds, 1), gzip);
        }
        for size in [1000, 10_000, 60_000] {
            line(&format!("batch of {size}"), &samples, 1, |samples| batches(&tags, samples, size));
        }
    }
    let samples = plant(10_000, false);
    let first = &batches(&tags, &samples, 10_000)[0].1;
    println!("\nThe first batch of 10 000 after a connect, with all {} tags in it: {} B", DEVICES * TAGS, first.len());
}
