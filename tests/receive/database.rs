//! `ironbridge receive --sqlite`: every format, each record once, whoever dies in between and however many write.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use ironbridge::disk::received::{self, Received};
use ironbridge::model::alarm::{Change, Condition, Level};
use ironbridge::model::number::{Class, Epoch, Number, Seq};
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::tag::TagIx;
use ironbridge::model::time::{Boot, Certainty, Stamp, Wall};
use ironbridge::model::value::Value;
use ironbridge::payload::batch::{Encoder, Entry, Head, Row, RowBody};
use ironbridge::payload::{device, event, json, packed};
use ironbridge::receive::consumer::{Account, Arrival, Consumer, Target};
use ironbridge::receive::ledger::{Begin, Ledger};
use ironbridge::receive::output::{Form, Header, Output};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::patience::until;
use cloud::Cloud;

/// 2026-11-20T20:00:00.123Z
const TIME: i64 = 1_795_204_800_123;
const EPOCH: u64 = 8123;

type Message = (String, Vec<u8>);

fn number(seq: u64) -> Number {
    Number { stream: Class::Telemetry, epoch: Epoch(EPOCH), seq: Seq(seq) }
}

const fn wall(unix_ms: i64) -> Wall {
    Wall { unix_ms, certainty: Certainty::Fixed }
}

/// Three tags of a device, in the order of their names: one good, one bad, one doubtful.
fn poll(n: u64) -> [(&'static str, Option<Value>, Quality); 3] {
    [
        ("a", Some(Value::Float(f64::from(u32::try_from(n).unwrap()) / 7.0)), Quality::Good),
        ("b", None, Quality::Bad(Cause::Timeout)),
        ("c", Some(Value::Uint(u64::MAX - n)), Quality::Uncertain(Cause::Range)),
    ]
}

/// The same 30 records in layout tag, one a message.
fn as_tags() -> Vec<Message> {
    let samples = (0..10).flat_map(|n| poll(n).into_iter().zip(0..).map(move |(part, m)| (n, m, part)));
    let message = |(n, m, (name, value, quality)): (u64, u64, (&str, Option<Value>, Quality))| {
        let time = wall(TIME + i64::try_from(n).unwrap() * 1000);
        let payload = json::numbered_sample(value.as_ref(), quality, time, number(n * 3 + m + 1), None);
        (format!("acme/pump/{name}"), payload)
    };
    samples.map(message).collect()
}

fn as_polls() -> Vec<Message> {
    let message = |n: u64| {
        let parts = poll(n);
        let time = wall(TIME + i64::try_from(n).unwrap() * 1000);
        let part =
            |(name, value, quality): &'_ (&'static str, Option<Value>, Quality)| (*name, value.clone(), *quality);
        let owned: Vec<_> = parts.iter().map(part).collect();
        let parts: Vec<_> = owned
            .iter()
            .map(|(name, value, quality)| device::Part { name, value: value.as_ref(), quality: *quality, time })
            .collect();
        ("acme/pump".to_owned(), device::samples(&parts, number(n * 3 + 1), None))
    };
    (0..10).map(message).collect()
}

fn as_array() -> Vec<Message> {
    let objects: Vec<String> = as_tags()
        .iter()
        .map(|(topic, payload)| format!(r#"{{"topic":"{topic}",{}"#, std::str::from_utf8(&payload[1..]).unwrap()))
        .collect();
    vec![("site/ironbridge/gw/batch".into(), format!("[{}]", objects.join(",")).into_bytes())]
}

fn entries() -> Vec<Entry> {
    let entry = |(name, id): (&str, u32)| Entry {
        id,
        device: "pump".into(),
        name: name.into(),
        topic: format!("acme/pump/{name}"),
        data_type: "float64".into(),
    };
    ["a", "b", "c"].into_iter().zip(1..).map(entry).collect()
}

/// Ten batches of a poll each; the first brings the dictionary.
fn as_batches() -> Vec<Message> {
    let mut encoder = Encoder::new("gw");
    for entry in entries() {
        encoder.know(entry);
    }
    let now = Instant::now();
    let batch = |n: u64| {
        let parts = poll(n);
        let unix_ms = TIME + i64::try_from(n).unwrap() * 1000;
        let rows: Vec<_> = parts
            .iter()
            .zip(1..)
            .map(|((_, value, quality), tag)| Row {
                unix_ms,
                until_ms: None,
                body: RowBody::Sample { tag, value: value.as_ref(), quality: *quality },
            })
            .collect();
        let draft = encoder.draft(Head { first: number(n * 3 + 1), previous: None }, &rows, now);
        encoder.sent(&draft, now);
        ("ironbridge/gw/batch".to_owned(), draft.payload)
    };
    (0..10).map(batch).collect()
}

fn database(path: &Path) -> Consumer {
    Consumer::new(Ledger::new(Begin::One), Target::Database(Received::open(path).unwrap()))
}

fn take(consumer: &mut Consumer, messages: &[Message]) {
    let arrivals: Vec<_> = messages.iter().map(|(topic, payload)| Arrival { topic, payload, user: &[] }).collect();
    consumer.take(&arrivals, Some(TIME + 60_000)).unwrap();
}

/// Everything in the view, as text; without the gateway, which not every format tells.
fn samples(path: &Path) -> Vec<String> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let sql = "SELECT stream, epoch, seq, topic, time, typeof(value), value, quality, cause FROM samples ORDER BY seq";
    let mut query = connection.prepare(sql).unwrap();
    let rows = query.query_map([], |row| {
        let cells: Vec<String> =
            (0..9).map(|n| row.get::<_, rusqlite::types::Value>(n).map(|cell| format!("{cell:?}")).unwrap()).collect();
        Ok(cells.join(" "))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Rows of a query, each as text.
fn rows(path: &Path, sql: &str) -> Vec<String> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut query = connection.prepare(sql).unwrap();
    let columns = query.column_count();
    let rows = query.query_map([], |row| {
        let cell = |n: usize| row.get::<_, rusqlite::types::Value>(n).map(|cell| format!("{cell:?}"));
        (0..columns).map(cell).collect::<Result<Vec<_>, _>>().map(|cells| cells.join(" "))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[test]
fn the_queries_of_the_readme_answer_what_their_comments_ask() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let block = readme.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    let queries: Vec<&str> = block.split(';').map(str::trim).filter(|query| !query.is_empty()).collect();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("lake");
    let sample = |seq: u64, value: f64, quality| {
        let time = wall(TIME + i64::try_from(seq).unwrap() * 1000);
        let payload = json::numbered_sample(Some(&Value::Float(value)), quality, time, number(seq), None);
        ("site/acme/pump-1/pressure".to_owned(), payload)
    };
    let good = Quality::Good;
    let doubtful = Quality::Uncertain(Cause::Range);
    take(&mut database(&file), &[sample(1, 2.0, good), sample(2, 4.0, good), sample(3, 90.0, doubtful)]);
    take(&mut database(&file), &[sample(6, 6.0, good)]);
    let [last, hourly, missing] = queries[..] else { panic!("three queries: {queries:?}") };
    let last = rows(&file, last);
    assert!(last.len() == 1 && last[0].contains("20:00:06.123") && last[0].contains("Real(6.0)"), "{last:?}");
    assert_eq!(rows(&file, hourly), ["Text(\"2026-11-20 20\") Real(4.0)"]);
    let missing = rows(&file, missing);
    assert!(missing.len() == 1 && missing[0].ends_with("Integer(4) Integer(5)"), "{missing:?}");
}

fn alarm(certainty: Certainty) -> Vec<u8> {
    let change = Change {
        tag: TagIx(0),
        level: Level::High,
        condition: Condition::Active,
        value: Value::Float(12.3),
        quality: Quality::Good,
        limit: Value::Float(12.0),
        at: Stamp { boot: Boot(1), micros: 0 },
    };
    json::alarm(&change, "bar", Wall { unix_ms: TIME, certainty })
}

#[test]
fn an_alarm_is_an_event_although_it_has_a_value_and_a_sample_that_says_more_than_we_know_is_none() {
    let home = tempfile::tempdir().unwrap();
    let topic = "site/ironbridge/gw/alarm/pump-1/pressure";
    let start = br#"{"event":"start","state":"notice","subject":"gw","time":"2026-11-20T20:00:00.123Z"}"#.to_vec();
    for (name, certainty) in [("known", Certainty::Fixed), ("unknown", Certainty::Floor)] {
        let time = Wall { unix_ms: TIME, certainty };
        let bodies = [(topic, alarm(certainty)), (topic, json::forgotten_alarm("high", time))];
        let bodies = bodies.into_iter().chain([("site/ironbridge/gw/event", start.clone())]);
        let sent: Vec<Message> = (1..)
            .zip(bodies)
            .map(|(seq, (topic, body))| (topic.to_owned(), event::numbered(&body, time, number(seq), None)))
            .collect();
        let mut list = Vec::new();
        for (topic, object) in &sent {
            json::add_to_list(&mut list, topic, object);
        }
        json::close_list(&mut list);
        let list = vec![("site/ironbridge/gw/batch".to_owned(), list)];
        for (layout, messages) in [("single", &sent), ("list", &list)] {
            let file = home.path().join(format!("{name}-{layout}"));
            take(&mut database(&file), messages);
            assert_eq!(samples(&file), Vec::<String>::new(), "{name} {layout}");
            let events = rows(&file, "SELECT seq, topic, time, replace(body, '\"', '') FROM events ORDER BY seq");
            assert_eq!(events.len(), 3, "{events:?}");
            let begins = format!(r#"Integer(1) Text({topic:?}) Text("2026-11-20T20:00:00.123Z")"#);
            assert!(events[0].starts_with(&begins), "{}", events[0]);
            for part in ["event:high,", "state:active,", "value:12.3", "limit:12.0,", "unit:bar,"] {
                assert!(events[0].contains(part), "{part} in {}", events[0]);
            }
            assert!(events[1].contains("event:high,") && events[1].contains("state:cleared,"), "{}", events[1]);
            let gateways = rows(&file, "SELECT gateway FROM events WHERE seq = 3");
            assert_eq!(gateways, [r#"Text("gw")"#], "{name} {layout}");
        }
    }
    // Of another encoder, and tags of a poll that are called so.
    let file = home.path().join("samples");
    let end = r#""stream":"telemetry","epoch":8123,"seq""#;
    let more = [r#""event":7"#, r#""event":"x""#, r#""state":"open""#, r#""event":{},"state":{}"#];
    let single = |(seq, more)| format!(r#"{{"value":1,"quality":"good",{more},{end}:{seq}}}"#).into_bytes();
    let mut messages: Vec<Message> =
        (1..).zip(more).map(single).map(|body| ("acme/pump/event".to_owned(), body)).collect();
    let poll = format!(r#"{{{end}:5,"count":2,"values":{{"event":"x","state":"y"}}}}"#);
    messages.push(("acme/pump".to_owned(), poll.into_bytes()));
    take(&mut database(&file), &messages);
    assert_eq!((samples(&file).len(), rows(&file, "SELECT * FROM events").len()), (6, 0));
}

#[test]
fn a_line_of_an_alarm_says_what_it_was() {
    for form in [Form::Csv, Form::Ndjson, Form::Text] {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lines");
        let file = std::fs::File::create(&path).unwrap();
        let output = Output::new(form, Box::new(file), Header::Skip).unwrap();
        let mut consumer = Consumer::new(Ledger::new(Begin::One), Target::Lines(output));
        let body = json::numbered_event(&alarm(Certainty::Fixed), number(1), None);
        take(&mut consumer, &[("ironbridge/gw/alarm/pump-1/pressure".to_owned(), body)]);
        drop(consumer);
        let line = std::fs::read_to_string(path).unwrap().replace("\"\"", "\"");
        for part in [r#""event":"high""#, r#""state":"active""#, r#""limit":12.0"#, r#""unit":"bar""#] {
            assert!(line.contains(part) && line.lines().count() == 1, "{form:?}: {line}");
        }
    }
}

fn report(files: &[&Path]) -> Account {
    let mut all = Consumer::new(Ledger::new(Begin::One), Target::Nothing);
    for file in files {
        all.go_on(&received::look(file).unwrap()).unwrap();
    }
    all.account(None)
}

#[test]
fn every_format_ends_as_the_same_rows() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str| home.path().join(name);
    take(&mut database(&file("tags")), &as_tags());
    let expected = samples(&file("tags"));
    assert_eq!(expected.len(), 30);
    assert!(expected[2].contains("18446744073709551615"), "{}", expected[2]);
    let packed = as_array().into_iter().map(|(topic, payload)| (topic, packed::compress(&payload))).collect();
    for (name, messages) in
        [("polls", as_polls()), ("array", as_array()), ("packed", packed), ("batches", as_batches())]
    {
        let mut consumer = database(&file(name));
        take(&mut consumer, &messages);
        take(&mut consumer, &messages);
        assert_eq!(samples(&file(name)), expected, "{name}");
        let account = consumer.account(None);
        assert_eq!((account.report.received, account.report.duplicates), (30, 30), "{name}");
        assert!(account.is_complete() && account.strays.broken.is_empty(), "{name}: {account:?}");
        let again = report(&[&file(name)]).report;
        assert_eq!((again.received, again.duplicates, again.missing), (30, 30, 0), "{name}");
    }
}

#[test]
fn a_batch_waits_for_its_dictionary_whichever_receiver_gets_that_and_over_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("lake");
    let batches = as_batches();
    let mut one = database(&file);
    take(&mut one, &batches[1..4]);
    assert_eq!((one.account(None).report.received, one.account(None).strays.waiting), (0, 3));
    drop(one);
    assert!(!report(&[&file]).is_complete(), "what waits is not there yet");
    let mut two = database(&file);
    take(&mut two, &batches[..1]);
    assert_eq!(samples(&file).len(), 12);
    let mut three = database(&file);
    take(&mut three, &batches[4..]);
    assert_eq!(samples(&file).len(), 30);
    assert!(report(&[&file]).is_complete());
    // What waits and comes again (killed between its commit and its acknowledgement) waits once.
    let again = home.path().join("again");
    let mut twice = database(&again);
    take(&mut twice, &batches[1..4]);
    take(&mut twice, &batches[1..4]);
    assert_eq!(twice.account(None).strays.waiting, 3);
    take(&mut twice, &batches[..1]);
    assert_eq!((twice.account(None).report.received, twice.account(None).strays.waiting), (12, 0));
    // Without a database it waits in memory.
    let mut plain = Consumer::new(Ledger::new(Begin::One), Target::Nothing);
    take(&mut plain, &batches[1..]);
    assert_eq!((plain.account(None).report.received, plain.account(None).strays.waiting), (0, 9));
    take(&mut plain, &batches[..1]);
    assert_eq!((plain.account(None).report.received, plain.account(None).strays.waiting), (30, 0));
}

#[test]
fn two_receivers_of_a_group_write_one_file_or_each_its_own_and_the_report_knows_it_all() {
    let home = tempfile::tempdir().unwrap();
    let (common, left, right) = (home.path().join("common"), home.path().join("left"), home.path().join("right"));
    let all: Vec<Message> = (1..=4000)
        .map(|seq| {
            let payload = json::numbered_sample(Some(&Value::Uint(seq)), Quality::Good, wall(TIME), number(seq), None);
            ("acme/pump/a".to_owned(), payload)
        })
        .filter(|(_, payload)| !String::from_utf8_lossy(payload).ends_with(r#""seq":777}"#))
        .collect();
    let all = Arc::new(all);
    let half = |files: [PathBuf; 2], nth: usize| {
        let all = Arc::clone(&all);
        std::thread::spawn(move || {
            let mut into = files.map(|file| database(&file));
            let mine: Vec<Message> = all.iter().skip(nth).step_by(2).cloned().collect();
            for window in mine.chunks(50) {
                for consumer in &mut into {
                    take(consumer, window);
                }
            }
        })
    };
    let threads = [half([common.clone(), left.clone()], 0), half([common.clone(), right.clone()], 1)];
    for thread in threads {
        thread.join().unwrap();
    }
    for files in [&[common.as_path()][..], &[left.as_path(), &right]] {
        let account = report(files);
        assert_eq!((account.report.received, account.report.missing), (3999, 1), "{files:?}");
        assert_eq!(account.report.streams[0].holes, [(777, 777)]);
    }
    assert!(report(&[&left]).report.missing > 1000, "one of a group alone cannot tell");
}

#[test]
fn whatever_arrives_nothing_panics_and_what_is_ours_and_broken_is_counted() {
    let home = tempfile::tempdir().unwrap();
    let mut consumer = database(&home.path().join("lake"));
    let mut lines = Consumer::new(Ledger::new(Begin::One), Target::Nothing);
    let mut dice = StdRng::seed_from_u64(7);
    let good: Vec<Message> = [as_tags(), as_polls(), as_array(), as_batches()].into_iter().flatten().collect();
    let topics = ["ironbridge/gw/batch", "ironbridge/gw/gap", "ironbridge/gw/status", "a/b", "", "ironbridge//batch"];
    let mut hostile: Vec<Message> = Vec::new();
    for _ in 0..6000 {
        let (topic, payload) = &good[dice.random_range(0..good.len())];
        let mut payload = payload.clone();
        for _ in 0..dice.random_range(1..4) {
            match dice.random_range(0..4) {
                0 => payload.truncate(dice.random_range(0..=payload.len())),
                1 if !payload.is_empty() => {
                    let at = dice.random_range(0..payload.len());
                    payload[at] ^= 1 << dice.random_range(0..8);
                }
                2 => payload.extend((0..dice.random_range(0..40)).map(|_| dice.random::<u8>())),
                _ => payload = (0..dice.random_range(0..200)).map(|_| dice.random::<u8>()).collect(),
            }
        }
        let strange = dice.random_bool(0.3);
        hostile
            .push((if strange { topics[dice.random_range(0..topics.len())].into() } else { topic.clone() }, payload));
    }
    let extreme = "9".repeat(400);
    for body in [
        r#"{"stream":"telemetry","epoch":1,"first":1,"last":9007199254740991}"#.to_owned(),
        r#"{"stream":"telemetry","epoch":1,"first":9007199254740991,"last":9007199254740991}"#.to_owned(),
        format!(r#"{{"stream":"telemetry","epoch":1,"first":{extreme},"last":1}}"#),
        r#"{"streams":{"telemetry":{"epoch":1,"seq":9007199254740991}}}"#.to_owned(),
    ] {
        hostile.extend(topics.map(|topic| (topic.to_owned(), body.clone().into_bytes())));
    }
    for window in hostile.chunks(100) {
        take(&mut consumer, window);
        take(&mut lines, window);
        consumer.account(Some(TIME));
    }
    let account = consumer.account(Some(TIME));
    let broken: u64 = account.strays.broken.values().sum();
    assert!(broken > 1000 && account.strays.other > 100, "{:?}", account.strays);
    report(&[&home.path().join("lake")]);
    take(&mut consumer, &as_tags());
}

#[test]
fn a_time_that_was_an_estimate_is_replaced_and_a_strangers_file_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("lake");
    let mut consumer = database(&file);
    let of = |time: Wall| json::numbered_sample(Some(&Value::Bool(true)), Quality::Good, time, number(1), None);
    let floor = Wall { unix_ms: 1_700_000_000_000, certainty: Certainty::Floor };
    for time in [floor, wall(TIME), wall(TIME + 5)] {
        take(&mut consumer, &[("a".into(), of(time))]);
    }
    let rows = samples(&file);
    assert!(rows.len() == 1 && rows[0].contains("2026-11-20T20:00:00.123Z") && rows[0].contains("good"), "{rows:?}");
    let foreign = home.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    let before = std::fs::read(&foreign).unwrap();
    assert!(Received::open(&foreign).is_err_and(|fault| fault.is_damage()));
    std::fs::write(home.path().join("text"), "this is no database at all, but a text of some length").unwrap();
    assert!(Received::open(&home.path().join("text")).is_err_and(|fault| fault.is_damage()));
    assert_eq!(std::fs::read(&foreign).unwrap(), before);
}

#[test]
fn a_time_with_a_known_end_keeps_it_in_every_format_until_a_better_one_comes() {
    let until = TIME + 60_000;
    let time = Wall { unix_ms: TIME, certainty: Certainty::Until(until) };
    let doubt = Quality::Uncertain(Cause::Clock);
    let value = Value::Float(1.5);
    let part = device::Part { name: "a", value: Some(&value), quality: Quality::Good, time };
    let mut encoder = Encoder::new("gw");
    for entry in entries() {
        encoder.know(entry);
    }
    let body = RowBody::Sample { tag: 1, value: Some(&value), quality: doubt };
    let row = Row { unix_ms: TIME, until_ms: Some(until), body };
    let head = Head { first: number(1), previous: None };
    let messages: [Message; 3] = [
        ("acme/pump/a".into(), json::numbered_sample(Some(&value), Quality::Good, time, number(1), None)),
        ("acme/pump".into(), device::samples(&[part], number(1), None)),
        ("ironbridge/gw/batch".into(), encoder.draft(head, &[row], Instant::now()).payload),
    ];
    let home = tempfile::tempdir().unwrap();
    for (place, message) in messages.into_iter().enumerate() {
        let file = home.path().join(place.to_string());
        let mut consumer = database(&file);
        take(&mut consumer, &[message]);
        let told = || -> (String, String, Option<String>) {
            let lake = rusqlite::Connection::open(&file).unwrap();
            let sql = "SELECT time, quality, time_until FROM samples WHERE topic = 'acme/pump/a'";
            lake.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
        };
        let end = Some("2026-11-20T20:01:00.123Z".to_owned());
        assert_eq!(told(), ("2026-11-20T20:00:00.123Z".into(), "uncertain".into(), end), "format {place}");
        let better = json::numbered_sample(Some(&value), Quality::Good, wall(TIME + 5), number(1), None);
        take(&mut consumer, &[("acme/pump/a".into(), better)]);
        assert_eq!(told(), ("2026-11-20T20:00:00.128Z".into(), "good".into(), None), "format {place}");
    }
}

#[test]
fn names_that_no_broker_would_carry_are_not_kept() {
    let home = tempfile::tempdir().unwrap();
    let mut consumer = database(&home.path().join("lake"));
    let long = "x".repeat(70_000);
    let row = Row { unix_ms: TIME, until_ms: None, body: RowBody::Event { topic: &long, body: b"{}" } };
    let head = Head { first: number(1), previous: None };
    let body = String::from_utf8(json::numbered_event(br#"{"event":"x"}"#, number(2), None)).unwrap();
    let list = body.replacen('{', &format!(r#"[{{"topic":"{long}","#), 1) + "]";
    let messages = [
        ("ironbridge/gw/batch".to_owned(), Encoder::new("gw").draft(head, &[row], Instant::now()).payload),
        ("ironbridge/gw/batch".to_owned(), list.into_bytes()),
    ];
    take(&mut consumer, &messages);
    let account = consumer.account(None);
    assert_eq!((account.report.received, account.strays.broken.get("a name that is too long")), (0, Some(&2)));
}

#[test]
fn gateways_that_say_their_names_are_kept_apart_even_with_the_same_epoch() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("lake");
    let mut consumer = database(&file);
    let batch = |gateway: &str| {
        let mut encoder = Encoder::new(gateway);
        let row = Row { unix_ms: TIME, until_ms: None, body: RowBody::Event { topic: "t", body: br#"{"event":"x"}"# } };
        let draft = encoder.draft(Head { first: number(1), previous: None }, &[row], Instant::now());
        (format!("ironbridge/{gateway}/batch"), draft.payload)
    };
    take(&mut consumer, &[batch("one"), batch("two"), batch("one")]);
    let account = consumer.account(None);
    assert_eq!((account.report.received, account.report.duplicates), (2, 1));
    let gateways: Vec<_> = report(&[&file]).report.streams.into_iter().filter_map(|stream| stream.gateway).collect();
    assert_eq!(gateways, ["one", "two"]);
}

struct Receiver(Child);

impl Receiver {
    fn start(cloud: &Cloud, file: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_ironbridge"))
            .args(["receive", &format!("mqtt://{}", cloud.address), "--client-id", "lake", "--sqlite"])
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn kept(file: &Path) -> u64 {
    received::look(file).ok().map_or(0, |kept| {
        let lives = kept.lives().unwrap_or_default();
        let mut count = 0;
        for life in lives {
            let _ = kept.came(life.id, &mut |first, last| count += last - first + 1);
        }
        count
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_it_has_everything_in_the_end_each_once() {
    let cloud = Cloud::start().await;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("lake.sqlite");
    let deliver = |range: std::ops::RangeInclusive<u64>| {
        for seq in range {
            let payload = json::numbered_sample(Some(&Value::Uint(seq)), Quality::Good, wall(TIME), number(seq), None);
            cloud.deliver("acme/pump/a", &payload);
        }
    };
    for round in 0..5u64 {
        let receiver = Receiver::start(&cloud, &file);
        deliver(round * 1000 + 1..=(round + 1) * 1000);
        let (file, least) = (file.clone(), round * 1000 + 300);
        until(&format!("more than {least} kept"), || kept(&file) > least).await;
        drop(receiver); // SIGKILL, in the middle of what is left
    }
    let receiver = Receiver::start(&cloud, &file);
    until("all kept", || kept(&file) == 5000).await;
    drop(receiver);
    let account = report(&[&file]);
    assert_eq!((account.report.received, account.report.missing), (5000, 0));
    let verdict = Command::new(env!("CARGO_BIN_EXE_ironbridge")).args(["receive", "--report"]).arg(&file).output();
    assert!(verdict.unwrap().status.success());
}
