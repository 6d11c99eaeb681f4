//! What a receiver takes: `cargo bench --bench receive`. Decoding alone, and into SQLite (WAL, synchronous FULL, windows of
//! 512 messages), per format; messages and samples per second of CPU on this machine, and bytes per sample. (Of CPU, so that
//! figures compare whatever else the machine does; waiting for the disk comes on top, a sync per window.)

use std::time::{Duration, Instant};

use ironbridge::disk::received::Received;
use ironbridge::model::number::{Class, Epoch, Number, Seq};
use ironbridge::model::quality::Quality;
use ironbridge::model::time::{Certainty, Wall};
use ironbridge::model::value::Value;
use ironbridge::payload::batch::{Encoder, Entry, Head, Row, RowBody};
use ironbridge::payload::{device, json, packed};
use ironbridge::receive::consumer::{Arrival, Consumer, Target};
use ironbridge::receive::ledger::{Begin, Ledger};

const TAGS: u64 = 1000;
const DEVICES: u64 = 20;
const POLLS: u64 = 200;
const WINDOW: usize = 512;
const TIME: i64 = 1_795_204_800_000;

type Message = (String, Vec<u8>);

fn number(seq: u64) -> Number {
    Number { stream: Class::Telemetry, epoch: Epoch(8123), seq: Seq(seq) }
}

fn value(poll: u64, tag: u64) -> Value {
    let wobble = (poll * 7 + tag * 13) % 17;
    #[allow(clippy::cast_precision_loss)] // small
    Value::Float((2000 + tag * 3 + wobble) as f64 / 10.0)
}

fn wall(poll: u64) -> Wall {
    Wall { unix_ms: TIME + i64::try_from(poll).unwrap_or(0) * 1000, certainty: Certainty::Fixed }
}

fn topic(tag: u64) -> String {
    format!("acme/pump-station-7/device-{:02}/tag-{tag:04}", tag % DEVICES)
}

fn singles() -> Vec<Message> {
    let of = |poll: u64| {
        (0..TAGS).map(move |tag| {
            let value = value(poll, tag);
            let payload =
                json::numbered_sample(Some(&value), Quality::Good, wall(poll), number(poll * TAGS + tag + 1), None);
            (topic(tag), payload)
        })
    };
    (0..POLLS).flat_map(of).collect()
}

fn arrays(compressed: bool) -> Vec<Message> {
    let array = |part: &[Message]| {
        let objects: Vec<String> = part
            .iter()
            .map(|(topic, payload)| format!(r#"{{"topic":"{topic}",{}"#, String::from_utf8_lossy(&payload[1..])))
            .collect();
        let text = format!("[{}]", objects.join(",")).into_bytes();
        ("ironbridge/gw/batch".to_owned(), if compressed { packed::compress(&text) } else { text })
    };
    singles().chunks(1000).map(array).collect()
}

fn polls() -> Vec<Message> {
    let each = TAGS / DEVICES;
    let of = |n: u64| {
        let (poll, unit) = (n / DEVICES, n % DEVICES);
        let parts: Vec<_> = (0..each).map(|tag| (format!("tag-{tag:04}"), value(poll, unit * each + tag))).collect();
        let part = |(name, value)| device::Part { name, value: Some(value), quality: Quality::Good, time: wall(poll) };
        let parts: Vec<_> = parts.iter().map(|(name, value)| part((name.as_str(), value))).collect();
        (format!("acme/pump-station-7/device-{unit:02}"), device::samples(&parts, number(n * each + 1), None))
    };
    (0..POLLS * DEVICES).map(of).collect()
}

fn batches(records: u64) -> Vec<Message> {
    let mut encoder = Encoder::new("pump-station-7");
    for tag in 0..TAGS {
        let id = u32::try_from(tag + 1).unwrap_or(1);
        let (device, name) = (format!("device-{:02}", tag % DEVICES), format!("tag-{tag:04}"));
        encoder.know(Entry { id, device, name, topic: topic(tag), data_type: "float32".into() });
    }
    let (now, mut batches) = (Instant::now(), Vec::new());
    for n in 0..POLLS * TAGS / records {
        let values: Vec<_> = (n * records..(n + 1) * records).map(|r| (r, value(r / TAGS, r % TAGS))).collect();
        let row = |(r, value): &'_ (u64, Value)| {
            (wall(r / TAGS).unix_ms, u32::try_from(r % TAGS + 1).unwrap_or(1), value.clone())
        };
        let owned: Vec<_> = values.iter().map(row).collect();
        let rows: Vec<_> = owned
            .iter()
            .map(|(unix_ms, tag, value)| Row {
                unix_ms: *unix_ms,
                until_ms: None,
                body: RowBody::Sample { tag: *tag, value: Some(value), quality: Quality::Good },
            })
            .collect();
        let draft = encoder.draft(Head { first: number(n * records + 1), previous: None }, &rows, now);
        encoder.sent(&draft, now);
        batches.push(("ironbridge/pump-station-7/batch".to_owned(), draft.payload));
    }
    batches
}

/// CPU time of this process.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn seconds(messages: &[Message], target: Target) -> f64 {
    let mut consumer = Consumer::new(Ledger::new(Begin::One), target);
    let begun = cpu();
    for window in messages.chunks(WINDOW) {
        let arrivals: Vec<_> = window.iter().map(|(topic, payload)| Arrival { topic, payload, user: &[] }).collect();
        consumer.take(&arrivals, Some(TIME)).expect("taken");
    }
    let report = consumer.account(None).report;
    assert_eq!((report.received, report.missing), (POLLS * TAGS, 0));
    cpu().saturating_sub(begun).as_secs_f64()
}

#[allow(clippy::cast_precision_loss)] // for people
fn main() {
    let home = tempfile::tempdir().expect("a directory");
    println!("{} samples of {TAGS} tags; per second of CPU", POLLS * TAGS);
    println!(
        "{:<28} {:>9} {:>9} {:>12} {:>12} {:>12} {:>12}",
        "format", "messages", "B/sample", "decoded msg", "samples", "SQLite msg", "samples"
    );
    let formats = [
        ("json, one a message", singles()),
        ("json, device layout (50)", polls()),
        ("json, arrays of 1000", arrays(false)),
        ("json, arrays of 1000, zstd", arrays(true)),
        ("batch, 1000", batches(1000)),
        ("batch, 10 000", batches(10_000)),
    ];
    for (n, (name, messages)) in formats.iter().enumerate() {
        let bytes: usize = messages.iter().map(|(topic, payload)| topic.len() + payload.len()).sum();
        let path = home.path().join(format!("{n}.sqlite"));
        let decoded = seconds(messages, Target::Nothing);
        let stored = seconds(messages, Target::Database(Received::open(&path).expect("made")));
        let (count, samples) = (messages.len() as f64, (POLLS * TAGS) as f64);
        println!(
            "{name:<28} {count:>9} {:>9.2} {:>12.0} {:>12.0} {:>12.0} {:>12.0}",
            bytes as f64 / samples,
            count / decoded,
            samples / decoded,
            count / stored,
            samples / stored
        );
    }
    let bytes = std::fs::metadata(home.path().join("0.sqlite")).map_or(0, |about| about.len());
    println!(
        "the database takes {:.1} bytes a sample, its index by topic and time included",
        bytes as f64 / (POLLS * TAGS) as f64
    );
}
