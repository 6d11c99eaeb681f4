//! What the packer promises, without a broker.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::plan::{Compress, Format, Layout};
use crate::flow::clock::{FakeTime, Fix};
use crate::model::number::{Epoch, Number, Seq};
use crate::model::quality::{Cause, Quality};
use crate::model::tag::DataType;
use crate::model::time::{Boot, Stamp};
use crate::model::value::Value;
use crate::payload::batch::{Dictionary, decode};
use crate::payload::packed::{Opened, open};
use crate::store::{DictionaryTag, OwedBody};

const AT: Stamp = Stamp { boot: Boot(1), micros: 0 };

fn clock() -> Clock {
    Clock::new(Arc::new(FakeTime::default()), Boot(1), 1_700_000_000_000)
}

fn fixed_clock() -> Clock {
    let clock = clock();
    clock.learn(Fix { at: AT, unix_ms: 1_795_204_800_123 });
    clock
}

fn packer(plan: UplinkPlan) -> Packer {
    Packer::new(&UplinkPlan { topic_prefix: "site/".into(), ..plan }, "gw", fixed_clock(), MESSAGE_BYTES_MAX)
}

fn plan() -> UplinkPlan {
    UplinkPlan::plain("cloud")
}

fn batch_plan(batch_samples: u32) -> UplinkPlan {
    UplinkPlan { format: Format::Batch, batch_samples, ..plan() }
}

/// A sample of `device/name`.
fn owed(seq: u64, tag: &str) -> Owed {
    let (device, name) = tag.split_once('/').expect("device/name");
    let id = tag.bytes().fold(7_u32, |id, byte| id.wrapping_mul(31).wrapping_add(byte.into())) | 1;
    let (device, name, topic) = (device.to_owned(), name.to_owned(), format!("gw/{tag}"));
    let tag = DictionaryTag { id, device, name, topic, data_type: DataType::Float32 };
    let body = OwedBody::Sample { tag: Arc::new(tag), value: Some(Value::Float(12.5)), quality: Quality::Good };
    let number = Number { stream: Class::Telemetry, epoch: Epoch(8), seq: Seq(seq) };
    Owed { number, previous: None, body, at: AT }
}

fn put(packer: &mut Packer, now: Instant, owed: impl IntoIterator<Item = Owed>) {
    owed.into_iter().for_each(|owed| packer.put(Item::Record(owed), Lane::Live, now));
}

fn all(packer: &mut Packer, now: Instant) -> Vec<Message> {
    std::iter::from_fn(|| packer.next(now)).collect()
}

fn range(message: &Message) -> (u64, u64) {
    match message.ack {
        Ack::Records { first, last, .. } => (first.0, last.0),
        Ack::Gap(_) => (0, 0),
    }
}

fn json(message: &Message) -> serde_json::Value {
    match open(&message.payload).expect("ours") {
        Opened::Text(text) => serde_json::from_slice(&text).expect("json"),
        Opened::Batch(batch) => panic!("{batch:?}"),
    }
}

#[test]
fn every_topic_carries_the_prefix_and_times_use_what_the_clock_learned_later() {
    let clock = clock();
    let plan = UplinkPlan { topic_prefix: "site/".into(), ..plan() };
    let mut packer = Packer::new(&plan, "gw", clock.clone(), MESSAGE_BYTES_MAX);
    let mut pack = |item: Item| {
        packer.put(item, Lane::Live, Instant::now());
        packer.next(Instant::now()).expect("one item is one message")
    };
    let item = || Item::Record(owed(3, "pump-1/pressure"));
    assert!(String::from_utf8_lossy(&pack(item()).payload).contains(r#""cause":"clock""#));
    clock.learn(Fix { at: AT, unix_ms: 1_795_204_800_123 });
    let message = pack(item());
    assert_eq!(message.topic, "site/gw/pump-1/pressure");
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
        from: Some(AT),
        to: None,
        reason: "evicted".into(),
    };
    let message = pack(Item::Gap(gap));
    assert_eq!((message.topic.as_str(), message.ack), ("site/ironbridge/gw/gap", Ack::Gap(9)));
    assert!(String::from_utf8_lossy(&message.payload).contains(r#""count":5"#));
    assert_eq!(packer.status_topic(), "site/ironbridge/gw/status");
}

#[test]
fn an_event_from_before_the_clock_was_known_is_marked_and_later_sent_with_its_right_time_in_every_format() {
    let now = Instant::now();
    let stored = r#"{"event":"clock_unset","state":"active","time":"2023-11-14T22:13:20.000Z"}"#;
    for plan in [plan(), UplinkPlan { batch_samples: 3, ..plan() }, batch_plan(3)] {
        let clock = clock();
        let mut packer = Packer::new(&plan, "gw", clock.clone(), MESSAGE_BYTES_MAX);
        let mut told = || {
            let body = OwedBody::Event { topic: "ironbridge/gw/event".into(), body: stored.as_bytes().into() };
            put(&mut packer, now, [Owed { body, ..owed(3, "pump/c") }]);
            packer.flush();
            let payload = packer.next(now).expect("flushed").payload;
            match decode(&payload).ok().map(|batch| batch.records) {
                Some(records) => format!("{records:?}").replace('\\', ""),
                None => String::from_utf8_lossy(&payload).into_owned(),
            }
        };
        let (mark, time) = (br#""cause":"clock""#, br#""time":"2026-11-20T20:00:00.123Z""#);
        let says = |told: &str, words: &[u8]| {
            // A batch shows the bytes of a body as numbers.
            told.contains(&*String::from_utf8_lossy(words))
                || told.contains(format!("{words:?}").trim_matches(['[', ']']))
        };
        let early = told();
        assert!(says(&early, mark) && !says(&early, time), "{early}");
        clock.learn(Fix { at: AT, unix_ms: 1_795_204_800_123 });
        let late = told();
        assert!(says(&late, time) && !says(&late, mark), "{late}");
    }
}

#[test]
fn a_message_carries_one_stream_without_gaps_and_its_ack_is_that_range() {
    let (mut packer, now) = (packer(batch_plan(10_000)), Instant::now());
    put(&mut packer, now, (1..=5).map(|seq| owed(seq, "pump/a")));
    put(&mut packer, now, (7..=9).map(|seq| owed(seq, "pump/a"))); // 6 was acknowledged before
    let other_epoch =
        |seq| Owed { number: Number { epoch: Epoch(9), ..owed(seq, "pump/a").number }, ..owed(seq, "pump/a") };
    put(&mut packer, now, (10..=11).map(other_epoch));
    let alarm = Owed { number: Number { stream: Class::Alarm, ..owed(1, "pump/a").number }, ..owed(1, "pump/a") };
    put(&mut packer, now, [alarm]);
    packer.put(Item::Record(owed(12, "pump/a")), Lane::Backlog, now);
    packer.flush();
    let messages = all(&mut packer, now);
    let what: Vec<_> = messages.iter().map(|message| (message.class, message.lane, range(message))).collect();
    assert_eq!(
        what,
        [
            (Class::Telemetry, Lane::Live, (1, 5)),
            (Class::Telemetry, Lane::Live, (7, 9)),
            (Class::Telemetry, Lane::Live, (10, 11)),
            (Class::Alarm, Lane::Live, (1, 1)),
            (Class::Telemetry, Lane::Backlog, (12, 12)),
        ]
    );
    assert!(messages.iter().all(|message| message.topic == "site/ironbridge/gw/batch"));
    let mut dictionary = Dictionary::default();
    for message in &messages {
        let batch = decode(&message.payload).expect("whole");
        dictionary.learn(&batch);
        assert_eq!(dictionary.tags(&batch).expect("told with the first")[0].topic, "site/gw/pump/a");
        assert_eq!((batch.first.seq.0, batch.records.len() as u64), (range(message).0, message.ack.count()));
    }
}

#[test]
fn a_message_goes_when_it_is_full_when_its_wait_is_over_or_when_nothing_follows() {
    let now = Instant::now();
    let later = |ms| now + Duration::from_millis(ms);
    let mut packer = packer(batch_plan(100));
    put(&mut packer, now, (1..=250).map(|seq| owed(seq, "pump/a")));
    assert_eq!(all(&mut packer, now).iter().map(range).collect::<Vec<_>>(), [(1, 100), (101, 200)]);
    let due = packer.due().expect("the third is open");
    put(&mut packer, later(15), [owed(251, "pump/a")]);
    assert!(all(&mut packer, due).is_empty(), "it is being filled");
    assert_eq!(all(&mut packer, later(40)).iter().map(range).collect::<Vec<_>>(), [(201, 251)]);
    assert_eq!(packer.due(), None);
    let mut patient = self::packer(UplinkPlan { batch_interval: Duration::from_secs(10), ..batch_plan(100) });
    put(&mut patient, now, [owed(1, "pump/a")]);
    put(&mut patient, later(9000), [owed(2, "pump/a")]);
    assert_eq!(patient.due(), Some(later(10_000)));
    assert!(patient.next(later(9999)).is_none());
    assert_eq!(patient.next(later(10_000)).map(|message| range(&message)), Some((1, 2)));
    assert!(patient.wants(Lane::Live) >= 100);
}

#[test]
fn what_is_too_large_for_the_broker_is_divided_and_nothing_is_left_out() {
    let (now, texts) = (Instant::now(), |seq: u64| {
        let text: String =
            (0..200_u64).map(|n| char::from(b'a' + u8::try_from((seq * 31 + n * n * 17) % 26).unwrap_or(0))).collect();
        let mut owed = owed(seq, "pump/a");
        if let OwedBody::Sample { value, .. } = &mut owed.body {
            *value = Some(Value::Text(format!("{text}{seq}").into()));
        }
        owed
    });
    for (plan, agreed) in [(batch_plan(10_000), 2000), (UplinkPlan { batch_samples: 1000, ..plan() }, usize::MAX)] {
        let configured = if agreed == usize::MAX { 2000 } else { MESSAGE_BYTES_MAX };
        let mut packer = Packer::new(&plan, "gw", fixed_clock(), configured);
        packer.agree(agreed);
        put(&mut packer, now, (1..=500).map(texts));
        packer.flush();
        let mut next = 1;
        for message in all(&mut packer, now) {
            assert!(message.topic.len() + message.payload.len() <= 2000, "{} bytes", message.payload.len());
            assert_eq!(range(&message).0, next);
            next = range(&message).1 + 1;
        }
        assert_eq!(next, 501);
    }
}

#[test]
fn lists_of_json_have_the_topic_of_each_and_are_compressed_on_request() {
    let now = Instant::now();
    for compress in [Compress::None, Compress::Zstd] {
        let mut packer = packer(UplinkPlan { batch_samples: 3, compress, ..plan() });
        let event = OwedBody::Event { topic: "ironbridge/gw/event".into(), body: (*br#"{"event":"x"}"#).into() };
        put(&mut packer, now, [owed(1, "pump/a"), owed(2, "pump/b"), Owed { body: event, ..owed(3, "pump/c") }]);
        let message = packer.next(now).expect("full");
        assert_eq!(message.topic, "site/ironbridge/gw/batch");
        assert_eq!(message.payload.starts_with(b"["), compress == Compress::None);
        let list = json(&message);
        let topics: Vec<_> = (0..3).map(|n| list[n]["topic"].as_str().unwrap_or("")).collect();
        assert_eq!(topics, ["site/gw/pump/a", "site/gw/pump/b", "site/ironbridge/gw/event"]);
        assert_eq!((&list[1]["seq"], &list[2]["seq"], &list[2]["event"]), (&2.into(), &3.into(), &"x".into()));
    }
    let mut single = packer(UplinkPlan { compress: Compress::Zstd, ..plan() });
    put(&mut single, now, [owed(1, "pump/a")]);
    let message = single.next(now).expect("one item is one message");
    assert_eq!((message.topic.as_str(), &json(&message)["seq"]), ("site/gw/pump/a", &1.into()));
}

#[test]
fn a_devices_message_has_one_poll_whose_sorted_names_are_its_numbers() {
    let now = Instant::now();
    let mut packer = packer(UplinkPlan { layout: Layout::Device, ..plan() });
    let mut bad = owed(3, "pump/c");
    if let OwedBody::Sample { value, quality, .. } = &mut bad.body {
        (*value, *quality) = (None, Quality::Bad(Cause::Timeout));
    }
    let later = |owed: Owed, micros| Owed { at: Stamp { micros, ..AT }, ..owed };
    put(&mut packer, now, [owed(1, "pump/a"), later(owed(2, "pump/b"), 12_000), bad]);
    put(&mut packer, now, [later(owed(4, "pump/d"), 1_000_000)]); // the next poll
    put(&mut packer, now, [later(owed(5, "pump/b"), 1_000_000)]); // not in order: it would get another's number
    put(&mut packer, now, [owed(7, "pump/c"), owed(8, "fan/d")]);
    let mut strange = owed(9, "fan/e"); // bad, and yet with a value: no place in this layout
    if let OwedBody::Sample { quality, .. } = &mut strange.body {
        *quality = Quality::Bad(Cause::Timeout);
    }
    let mut old = owed(10, "fan/f"); // its topic was made by another template
    if let OwedBody::Sample { tag, .. } = &mut old.body {
        *tag = Arc::new(DictionaryTag { topic: "older/place".into(), ..(**tag).clone() });
    }
    put(&mut packer, now, [strange, old]);
    packer.flush();
    let messages = all(&mut packer, now);
    let what: Vec<_> = messages.iter().map(|message| (message.topic.as_str(), range(message))).collect();
    assert_eq!(
        what,
        [
            ("site/gw/pump", (1, 3)),
            ("site/gw/pump", (4, 4)),
            ("site/gw/pump", (5, 5)),
            ("site/gw/pump", (7, 7)),
            ("site/gw/fan", (8, 8)),
            ("site/gw/fan/e", (9, 9)),
            ("site/older/place", (10, 10)),
        ]
    );
    assert_eq!(
        String::from_utf8_lossy(&messages[0].payload),
        r#"{"time":"2026-11-20T20:00:00.123Z","stream":"telemetry","epoch":8,"seq":1,"count":3,"values":{"a":12.5,"b":12.5},"bad":{"c":"timeout"},"at":{"b":12}}"#
    );
}

#[test]
fn a_new_session_is_told_the_dictionary_again() {
    let (mut packer, now) = (packer(batch_plan(2)), Instant::now());
    let entries = |packer: &mut Packer| {
        put(packer, now, [owed(1, "pump/a"), owed(2, "pump/b")]);
        decode(&packer.next(now).expect("full").payload).expect("whole").entries.len()
    };
    assert_eq!((entries(&mut packer), entries(&mut packer)), (2, 0));
    packer.untold();
    assert_eq!((entries(&mut packer), entries(&mut packer)), (2, 0), "one that was refused told nothing");
    put(&mut packer, now, [owed(3, "pump/a")]);
    packer.clear();
    assert_eq!((entries(&mut packer), packer.due()), (2, None));
}
