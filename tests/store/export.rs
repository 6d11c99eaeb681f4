//! `ironbridge store export`: what comes out is what the uplink would have sent, in every form, also while a writer runs.

use crate::rig as support;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use ironbridge::commands::{Failed, store};
use ironbridge::flow::clock::Fix;
use ironbridge::model::number::Class;
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::sample::{Batch, Sample};
use ironbridge::model::tag::{DataType, DeviceIx, TagIx};
use ironbridge::model::value::Value;
use ironbridge::payload::{json, table};
use ironbridge::store::export::{self, ExportError, Form, Glob, Selection, Sheet};
use ironbridge::store::{Item, Opening, OwedBody};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;
use serde_json::{Map, Value as Json};
use support::*;

/// 2026-11-20T20:00:00Z
const NOON: i64 = 1_795_204_800_000;

#[derive(clap::Parser)]
struct Cli {
    #[command(subcommand)]
    store: Top,
}

#[derive(clap::Subcommand)]
enum Top {
    Store(store::Args),
}

fn run(words: &[&str]) -> Result<(), Failed> {
    let words = ["ironbridge", "store", "export"].iter().chain(words).copied();
    let Top::Store(args) = Cli::try_parse_from(words).expect("parses").store;
    store::run(&args, |_| panic!("--dir is given"))
}

/// What a file of this form holds after an export with these options.
fn exported(dir: &Path, form: &str, options: &[&str]) -> Vec<u8> {
    let out = dir.parent().expect("below the test's directory").join(format!("out.{form}"));
    let words = ["--dir", dir.to_str().expect("utf-8"), "--out", out.to_str().expect("utf-8")];
    run(&[&words, options].concat()).expect("exported");
    std::fs::read(&out).expect("there")
}

fn lines(bytes: &[u8]) -> Vec<Json> {
    let text = std::str::from_utf8(bytes).expect("utf-8");
    text.lines().map(|line| serde_json::from_str(line).expect("an object per line")).collect()
}

fn seqs(bytes: &[u8]) -> Vec<u64> {
    lines(bytes).iter().map(|line| line["seq"].as_u64().expect("a number")).collect()
}

fn mixed(dir: &Path) -> Opening {
    let tags = vec![
        tag("level", DataType::Float64, Class::Telemetry),
        tag("count", DataType::Uint64, Class::Telemetry),
        tag("name", DataType::Text(16), Class::Telemetry),
        tag("door", DataType::Bool, Class::Bulk),
    ];
    Opening { tags, ..opening(dir) }
}

/// Samples of every kind, events, good and bad, before and after the clock was known; what an uplink was handed.
async fn lived(dir: &Path) -> Vec<(String, Json)> {
    let running = start(mixed(dir));
    let mut reader = running.store.reader("cloud").expect("routed");
    let values = |n: u32| match n % 8 {
        0 => (0, Some(Value::Float(f64::from(n) / 7.0)), Quality::Good),
        1 => (1, Some(Value::Uint(u64::MAX - u64::from(n))), Quality::Good),
        2 => (2, Some(Value::Text(format!("say \"{n}\", ünïcode\n").into())), Quality::Good),
        3 => (3, Some(Value::Bool(n % 16 == 3)), Quality::Good),
        4 => (0, None, Quality::Bad(Cause::Timeout)),
        5 => (0, Some(Value::Float(-0.5)), Quality::Uncertain(Cause::Range)),
        6 => (1, Some(Value::Uint(u64::from(n))), Quality::Good),
        _ => (0, Some(Value::Float(1e300)), Quality::Good),
    };
    for n in 0..1200 {
        let (tag, value, quality) = values(n);
        let samples = vec![Sample { tag: TagIx(tag), value, quality, at: running.clock.now() }];
        running.hub.emit(Batch { device: DeviceIx(0), samples }).await;
        running.time.advance(Duration::from_millis(250));
        if n == 600 {
            let fix = Fix { at: running.clock.now(), unix_ms: NOON };
            running.clock.learn(fix);
            running.store.record_fix(fix);
        }
        if n % 300 == 0 {
            running.event(Class::Event, &format!("e{n}")).await;
        }
    }
    running.settled(1204).await;
    let items = drain(&mut reader, 1204).await;
    reader.save().await; // behind the fix, in the same inbox
    let json = |item: &Item| {
        let Item::Record(owed) = item else { panic!("no gap") };
        let (topic, payload) = match &owed.body {
            OwedBody::Sample { tag, value, quality } => {
                let time = running.clock.wall(owed.at);
                let payload = json::numbered_sample(value.as_ref(), *quality, time, owed.number, owed.previous);
                (tag.topic.clone(), payload)
            }
            OwedBody::Event { topic, body } => {
                (topic.to_string(), json::numbered_event(body, owed.number, owed.previous))
            }
            OwedBody::Message { .. } => panic!("none was stored"),
        };
        (topic, serde_json::from_slice(&payload).expect("json"))
    };
    let expected = items.iter().map(json).collect();
    drop(reader);
    running.close().await;
    expected
}

/// By stream and seq: topic and object.
type Records = BTreeMap<(String, u64), (String, Json)>;

fn keyed(records: impl IntoIterator<Item = (String, Json)>) -> Records {
    let key = |json: &Json| (json["stream"].as_str().expect("stream").to_owned(), json["seq"].as_u64().expect("seq"));
    records.into_iter().map(|(topic, json)| (key(&json), (topic, json))).collect()
}

#[tokio::test]
async fn every_form_holds_exactly_what_the_uplink_was_handed() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("store");
    let expected = keyed(lived(&dir).await);
    assert_eq!(expected.len(), 1204);

    let ndjson = exported(&dir, "ndjson", &[]);
    let objects = lines(&ndjson).into_iter().map(|mut line| {
        let topic = line.as_object_mut().expect("object").remove("topic").expect("a topic");
        (topic.as_str().expect("text").to_owned(), line)
    });
    assert_eq!(keyed(objects), expected);

    let csv = exported(&dir, "csv", &[]);
    let mut reader = csv::Reader::from_reader(csv.as_slice());
    assert_eq!(reader.headers().expect("a header").iter().collect::<Vec<_>>(), table::COLUMNS);
    let mut rows = 0;
    for row in reader.records() {
        let row: Vec<String> = row.expect("a row").iter().map(str::to_owned).collect();
        let (topic, object) = &expected[&(row[5].clone(), row[7].parse().expect("seq"))];
        assert_eq!(row, table::row(topic, object.as_object().expect("object")));
        rows += 1;
    }
    assert_eq!(rows, expected.len());
    let (rows, expected) = (parquet_rows(exported(&dir, "parquet", &[])), expected_rows(&expected));
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(&expected) {
        assert_eq!(row, expected);
    }
}

/// Topic, time in ms, value, text, quality, cause, stream, seq, record; in the order of the export.
type Row = (String, i64, Option<String>, Option<String>, Option<String>, Option<String>, (String, u64), Option<Json>);

fn parquet_rows(file: Vec<u8>) -> Vec<Row> {
    let reader = SerializedFileReader::new(bytes::Bytes::from(file)).expect("parquet");
    let mut rows = Vec::new();
    for row in reader.get_row_iter(None).expect("rows") {
        let row = row.expect("a row");
        let text = |column| row.get_string(column).ok().cloned();
        let number = |column| row.get_long(column).expect("number");
        rows.push((
            text(0).expect("topic"),
            row.get_timestamp_millis(1).expect("time"),
            row.get_double(2).ok().map(|value| value.to_string()),
            text(3),
            text(4),
            text(5),
            (text(6).expect("stream"), u64::try_from(number(8)).expect("seq")),
            text(9).map(|record| serde_json::from_str(&record).expect("json")),
        ));
    }
    rows
}

fn expected_rows(expected: &Records) -> Vec<Row> {
    let mut rows = Vec::new();
    for class in Class::ALL {
        for ((stream, seq), (topic, object)) in expected.iter().filter(|((stream, _), _)| stream == class.as_str()) {
            let text = |key: &str| object[key].as_str().map(str::to_owned);
            let is_event = object.get("event").is_some();
            let value = match &object["value"] {
                Json::Bool(bit) => Some(f64::from(u8::from(*bit)).to_string()),
                Json::Number(number) => number.as_f64().map(|value| value.to_string()),
                _ => None,
            };
            let exact = object["value"].as_u64().filter(|whole| *whole > 1 << 53).map(|whole| whole.to_string());
            let time =
                text("time").map_or(-1, |time| time.parse::<jiff::Timestamp>().expect("a time").as_millisecond());
            let key = (stream.clone(), *seq);
            let record = is_event.then(|| object.clone());
            rows.push((
                topic.clone(),
                time,
                value,
                exact.or(text("value")),
                text("quality"),
                text("cause"),
                key,
                record,
            ));
        }
    }
    // An event of these tests does not say when it was; its row does.
    let found = |row: &Row| row.7.is_some();
    let start = rows.iter().filter(|row| !found(row)).map(|row| row.1).min().expect("samples");
    for row in rows.iter_mut().filter(|row| row.7.is_some()) {
        let event = row.7.as_ref().and_then(|event| event["event"].as_str()).expect("an event");
        let n: i64 = event[1..].parse().expect("its number");
        row.1 = start + (n + 1) * 250;
    }
    rows
}

#[tokio::test]
async fn an_export_while_the_store_is_written_is_a_whole_beginning() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("store");
    let running = start(opening(&dir));
    for round in 0..25 {
        running.emit(Class::Telemetry, round * 400..(round + 1) * 400).await;
        running.settled(round * 400).await;
        let found = seqs(&exported(&dir, "ndjson", &[]));
        assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>());
        assert!(found.len() as u64 >= round * 400, "what was committed before is there");
    }
    running.settled(10_000).await;
    assert_eq!(seqs(&exported(&dir, "ndjson", &[])).len(), 10_000);
    running.close().await;
    assert_eq!(seqs(&exported(&dir, "ndjson", &[])).len(), 10_000, "and after it was merged");
}

/// The tail is small and the values do not compress, so it is merged into files while exports run.
#[tokio::test]
async fn an_export_beside_merges_misses_no_row_and_has_none_twice() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("store");
    let small = Opening { max_size: 8 << 20, commit_interval: Duration::from_millis(1), ..opening(&dir) };
    let running = start(small);
    let telemetry = || seqs(&exported(&dir, "ndjson", &["--class", "telemetry"]));
    let (mut before, mut emitted, mut number) = (0, 0_u64, 1_u64);
    for _ in 0..12 {
        for turn in 0..40 {
            let values: Vec<u64> = (0..30)
                .map(|_| {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    number
                })
                .collect();
            emitted += values.len() as u64;
            running.emit(Class::ALL[turn % 4], values).await;
            if turn % 4 == 0 {
                running.settled(emitted).await; // many commits fill the tail
            }
        }
        // For these nothing waits: the writer commits and merges while this reads.
        let found = telemetry();
        assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>());
        assert!(found.len() >= before, "{} rows after {before}", found.len());
        before = found.len();
    }
    running.settled(emitted).await;
    assert_eq!(telemetry().len() as u64, emitted / 4);
    assert!(running.store.stats().merges.get() > 0, "{} merges", running.store.stats().merges.get());
    running.close().await;
}

#[tokio::test]
async fn a_selection_takes_what_all_its_conditions_meet() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("store");
    let running = start(opening(&dir));
    running.clock.learn(Fix { at: running.clock.now(), unix_ms: NOON });
    running.store.record_fix(Fix { at: running.clock.now(), unix_ms: NOON });
    for minute in 0..60 {
        running.emit(Class::Telemetry, [minute]).await;
        running.emit(Class::Bulk, [minute]).await;
        running.settled((minute + 1) * 2).await;
        running.time.advance(Duration::from_secs(60));
    }
    running.close().await;
    let count = |options: &[&str]| seqs(&exported(&dir, "ndjson", options)).len();
    assert_eq!(count(&[]), 120);
    assert_eq!(count(&["--class", "bulk"]), 60);
    assert_eq!(count(&["--from", "2026-11-20T20:10:00Z", "--to", "2026-11-20T20:20:00Z"]), 20);
    assert_eq!(count(&["--from", "2026-11-21"]), 0);
    assert_eq!(count(&["--tag", "tele*"]), 60);
    assert_eq!(count(&["--tag", "pump/b?lk", "--to", "2026-11-20T20:10:00Z"]), 10);
    assert_eq!(count(&["--tag", "plant/*"]), 120);
    let range = ["--class", "telemetry", "--from-seq", "10", "--to-seq", "19"];
    assert_eq!(seqs(&exported(&dir, "ndjson", &range)), (10..=19).collect::<Vec<_>>());
    assert_eq!(count(&["--epoch", "1"]), 0);
    let dir = dir.to_str().expect("utf-8");
    for wrong in [
        &["--from", "2026-11-21", "--to", "2026-11-20"][..],
        &["--class", "bulk", "--from-seq", "9", "--to-seq", "1"],
        &["--out", "/tmp/x.xlsx"],
    ] {
        let outcome = run(&[&["--dir", dir], wrong].concat());
        assert!(matches!(outcome, Err(Failed::Usage(_))), "{wrong:?}");
    }
}

#[tokio::test]
async fn what_is_damaged_is_left_out_and_counted_and_a_failed_export_leaves_no_file() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("store");
    for boot in 0..3 {
        let running = start(opening(&dir));
        running.emit(Class::Bulk, boot * 100..(boot + 1) * 100).await;
        running.settled(100).await;
        running.close().await; // each life's records are a segment of their own
    }
    let chunk = std::fs::read_dir(&dir).expect("listed").find_map(|entry| {
        let path = entry.expect("entry").path();
        path.to_string_lossy().ends_with("bulk-000001.db").then_some(path)
    });
    let chunk = chunk.expect("a chunk of bulk");
    let bytes = std::fs::read(&chunk).expect("read");
    let frame = bytes.windows(4).position(|window| *window == [0x28, 0xB5, 0x2F, 0xFD]).expect("a zstd frame");
    File::options()
        .write(true)
        .open(&chunk)
        .expect("open")
        .write_all_at(&[0x55; 3], frame as u64 + 9)
        .expect("written");
    let mut sheet = Sheet::new(Form::Ndjson, Box::new(std::io::sink())).expect("memory");
    let selection = Selection { tag: Some(Glob::new("bulk")), ..Selection::default() };
    let summary = export::Export::open(&dir, 0)
        .expect("a store")
        .write(&selection, &mut sheet, &mut |_, _| {})
        .expect("exported");
    assert_eq!((summary.records, summary.unreadable), (200, 100));

    let missing = home.path().join("not/there/out.csv");
    let words = ["--dir", dir.to_str().expect("utf-8"), "--out", missing.to_str().expect("utf-8")];
    assert!(matches!(run(&words), Err(Failed::TryAgain(_))));
    let nothing = home.path().join("nothing");
    let out = home.path().join("out.csv");
    let words = ["--dir", nothing.to_str().expect("utf-8"), "--out", out.to_str().expect("utf-8")];
    assert!(matches!(run(&words), Err(Failed::Usage(_))));
    assert!(!out.exists() && !home.path().join("out.csv.draft").exists());
}

#[tokio::test]
async fn a_pipe_is_written_to_and_a_link_is_followed_and_neither_is_replaced() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("store");
    let running = start(opening(&dir));
    running.emit(Class::Bulk, 0..100).await;
    running.settled(100).await;
    running.close().await;
    let export_to = |out: &Path| {
        let words = ["--dir", dir.to_str().expect("utf-8"), "--out", out.to_str().expect("utf-8"), "--format", "csv"];
        run(&words).expect("exported");
    };
    let pipe = home.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("runs").success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read_to_string(pipe).expect("read")
    });
    export_to(&pipe);
    assert_eq!(reader.join().expect("read").lines().count(), 101);
    assert!(std::fs::symlink_metadata(&pipe).expect("there").file_type().is_fifo());
    let (file, link) = (home.path().join("real.csv"), home.path().join("link.csv"));
    std::fs::write(&file, "old").expect("written");
    std::os::unix::fs::symlink("real.csv", &link).expect("linked");
    export_to(&link);
    assert!(link.is_symlink());
    assert_eq!(std::fs::read_to_string(&file).expect("read").lines().count(), 101);
}

#[tokio::test]
async fn who_reads_no_more_of_a_csv_is_told_from_a_disk_that_is_full() {
    struct Gone;
    impl std::io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("store");
    let running = start(opening(&dir));
    running.emit(Class::Bulk, 0..1000).await;
    running.settled(1000).await;
    running.close().await;
    let mut sheet = Sheet::new(Form::Csv, Box::new(Gone)).expect("buffered");
    let ended =
        export::Export::open(&dir, 0).expect("a store").write(&Selection::default(), &mut sheet, &mut |_, _| {});
    let Err(ExportError::Output(error)) = ended else { panic!("the rows do not fit into a buffer") };
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn an_object_row_has_its_columns() {
    let object: Map<String, Json> = serde_json::from_str(r#"{"value":1,"quality":"good","seq":3}"#).expect("json");
    assert_eq!(table::row("t", &object), ["t", "", "1", "good", "", "", "", "3", ""]);
}
