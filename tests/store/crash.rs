//! kill -9 in the middle of everything: nothing committed or acknowledged is lost, no number means two things.

use crate::rig as support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};

use ironbridge::model::number::{Class, Number};
use ironbridge::store::inspect;
use support::*;

const CHILD: &str = "IRONBRIDGE_TEST_STORE_CHILD";
const ROUNDS: u64 = 12;

/// Not a test of its own: what the killed process runs. It stores samples whose values never repeat, hands them out,
/// acknowledges every third page, and prints what it was promised.
#[tokio::test]
async fn the_process_that_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let (dir, base) = dir.split_once('|').expect("directory and base");
    let base: u64 = base.parse().expect("a number");
    let running = start(small(std::path::Path::new(dir)));
    let mut reader = running.store.reader("cloud").expect("routed");
    for n in 0.. {
        running.emit(Class::Telemetry, (0..40).map(|k| base + n * 40 + k)).await;
        let number = running.event(Class::Event, "tick").await;
        println!("committed {} {} {}", number.stream as u8, number.epoch.0, number.seq.0);
        for item in next(&mut reader, 60).await.expect("open") {
            if let Some((number, value)) = told(&item) {
                println!("told {} {} {} {value}", number.stream as u8, number.epoch.0, number.seq.0);
            }
            if n % 3 == 0 {
                reader.acknowledge(ack(&item));
            }
        }
    }
}

/// With a tail so small that it is merged all the time.
fn small(dir: &std::path::Path) -> ironbridge::store::Opening {
    ironbridge::store::Opening { max_size: 8 << 20, ..opening(dir) }
}

fn child(dir: &std::path::Path, base: u64) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["crash::the_process_that_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{}|{base}", dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started")
}

#[tokio::test]
async fn kill_9_loses_nothing_committed_and_uses_no_number_twice() {
    let home = tempfile::tempdir().expect("a directory");
    let mut told_before: BTreeMap<(u8, u64, u64), u64> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut process = child(home.path(), round * 1_000_000);
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let (mut last_words, stop_after) = (Vec::new(), 60 + round * 37);
        for (n, line) in lines.map_while(Result::ok).enumerate() {
            last_words.push(line);
            if n as u64 == stop_after {
                process.kill().expect("SIGKILL"); // what it still wrote into the pipe counts
            }
        }
        let status = process.wait().expect("gone");
        assert_eq!(status.signal(), Some(9), "it ended by itself, after {} lines: {status}", last_words.len());
        for line in last_words {
            let mut words = line.split_whitespace();
            let word = words.next();
            let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
            let (value, key) = match (word, numbers.as_slice()) {
                (Some("told"), [class, epoch, seq, value]) => (*value, (*class, *epoch, *seq)),
                (Some("committed"), [class, epoch, seq]) => (u64::MAX, (*class, *epoch, *seq)),
                _ => continue, // the test harness talks too, and the last line may be cut off
            };
            let key = (u8::try_from(key.0).expect("a class"), key.1, key.2);
            let before = told_before.insert(key, value);
            assert!(before.is_none_or(|before| before == value), "{key:?} meant {before:?} and now {value}");
        }
    }
    let verdict = inspect::verify(home.path(), &mut |_, _| {}).expect("readable");
    assert!(verdict.problems.is_empty() && verdict.declared.is_empty(), "{verdict:?}");

    // A second uplink that wants everything gets every record that was ever promised, with the same content.
    let mut with_two = small(home.path());
    with_two.uplinks.push(route("auditor", &Class::ALL));
    with_two.uplinks[1].start = ironbridge::config::plan::UplinkStart::Oldest;
    let running = start(with_two);
    let mut reader = running.store.reader("auditor").expect("routed");
    let owed = reader.backlog();
    let items = drain(&mut reader, owed).await;
    let held: BTreeMap<_, _> = items.iter().filter_map(told).map(|(number, value)| (key(number), value)).collect();
    assert_eq!(held.len(), items.len(), "no gaps, nothing twice");
    assert!(told_before.len() > 100);
    for (key, value) in told_before {
        assert_eq!(held.get(&key), Some(&value), "{key:?}");
    }
    drop(reader);
    running.close().await;
}

fn key(number: Number) -> (u8, u64, u64) {
    (number.stream as u8, number.epoch.0, number.seq.0)
}
