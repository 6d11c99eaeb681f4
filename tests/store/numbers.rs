//! Numbers of `meta.db` and of a chunk's own row, which no checksum covers: one that is wrong costs no start, and nothing
//! that is owed without a word.

use crate::rig as support;

use std::path::{Path, PathBuf};

use ironbridge::flow::clock::Fix;
use ironbridge::model::number::Class;
use ironbridge::store::{Item, MeterRow, open};
use rusqlite::Connection;
use support::*;

const OWED: u64 = 250;
const FIX_MS: i64 = 1_795_204_800_000;

fn meter() -> MeterRow {
    let (uplink, path) = ("cloud".to_owned(), String::new());
    MeterRow { uplink, path, period: 0, number: 42, bytes: 600, bound: 600, told: 0, behind: None }
}

/// One run of a store: so many values more, of which nothing is delivered.
async fn life(dir: &Path, values: std::ops::Range<u64>) {
    let running = start(opening(dir));
    running.learns(Fix { at: running.clock.now(), unix_ms: FIX_MS });
    let count = values.end - values.start;
    running.emit(Class::Telemetry, values).await;
    running.settled(count).await;
    running.store.save_meters(vec![meter()]);
    running.close().await;
}

/// A store that owes all it has, in one chunk.
async fn owing() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a directory");
    life(home.path(), 0..OWED).await;
    home
}

fn change(file: &Path, sql: &str) {
    let changed = Connection::open(file).expect("opens").execute(sql, []).expect("runs");
    assert_eq!(changed, 1, "{sql}");
}

fn chunks(dir: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir).expect("a directory").flatten().map(|entry| entry.path());
    let is_one = |path: &PathBuf| {
        path.to_string_lossy().contains("chunk-telemetry") && path.extension().is_some_and(|end| end == "db")
    };
    let mut found: Vec<_> = all.filter(is_one).collect();
    found.sort();
    found
}

fn is_aside(dir: &Path) -> bool {
    dir.join("quarantine/meta.db").exists()
}

/// Starts the store and takes what it owes, and one value more.
async fn rest(dir: &Path) -> Vec<Item> {
    let running = start(opening(dir));
    assert_eq!(running.store.meters("cloud"), Some(vec![meter()]), "a budget goes on");
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, [4711]).await;
    let mut items = Vec::new();
    while !items.iter().filter_map(told).any(|(_, value)| value == 4711) {
        items.extend(drain(&mut reader, 1).await);
    }
    drop(reader);
    running.close().await;
    items
}

/// Everything, in order, and no gap record: there is a copy of `meta.db`, and there are the marks.
fn all_of_it(items: &[Item], why: &str) {
    let values: Vec<_> = items.iter().filter_map(told).map(|(_, value)| value).collect();
    assert_eq!(values, (0..OWED).chain([4711]).collect::<Vec<_>>(), "{why}");
    assert_eq!(items.len(), values.len(), "{why}: {:?}", items.iter().find(|item| matches!(item, Item::Gap(_))));
}

/// With this wrong in `meta.db`, nobody can have written it.
async fn costs_nothing(sql: &str) {
    let home = owing().await;
    change(&home.path().join("meta.db"), sql);
    all_of_it(&rest(home.path()).await, sql);
    assert!(is_aside(home.path()), "{sql}");
}

#[tokio::test]
async fn bytes_on_the_wire_below_zero_are_damage_and_the_copy_knows_them() {
    costs_nothing("UPDATE meter SET bound = -32168").await;
    costs_nothing("UPDATE meter SET bytes = -1").await;
    costs_nothing("UPDATE meter SET number = -9223372036854775808").await;
}

#[tokio::test]
async fn an_eviction_or_a_loss_that_ends_below_zero_is_damage_and_ends_no_run() {
    costs_nothing("UPDATE epoch SET evicted = -28 WHERE class = 2").await;
    costs_nothing("INSERT INTO loss SELECT 2, epoch, 5, -8, 'store', 1, 1, 1, 1 FROM epoch WHERE class = 2").await;
    costs_nothing(
        "INSERT INTO owed SELECT 7, 'cloud', 2, epoch, -5, 9, 'store', 1, 1, 1, 1 FROM epoch WHERE class = 2",
    )
    .await;
}

#[tokio::test]
async fn an_epoch_or_a_cursor_below_zero_is_damage_and_passes_over_nothing() {
    for number in [-1, -8, i64::MIN] {
        costs_nothing(&format!("UPDATE epoch SET last = {number} WHERE class = 2")).await;
        costs_nothing(&format!("UPDATE cursor SET acked = {number} WHERE class = 2")).await;
    }
    costs_nothing("UPDATE epoch SET ordinal = 9223372036854775807 WHERE class = 2").await;
    costs_nothing("UPDATE epoch SET epoch = -1 WHERE class = 2").await;
}

#[tokio::test]
async fn more_evicted_or_acknowledged_than_there_was_is_damage() {
    costs_nothing("UPDATE epoch SET evicted = 251 WHERE class = 2").await;
    costs_nothing("UPDATE cursor SET acked = 251 WHERE class = 2").await;
}

#[tokio::test]
async fn what_a_chunk_holds_was_not_evicted_whatever_stands_in_its_row() {
    let home = owing().await;
    change(&home.path().join("meta.db"), "UPDATE epoch SET evicted = 200 WHERE class = 2");
    let seen = ironbridge::store::inspect::status(home.path()).expect("readable");
    let held = seen.streams.iter().find(|stream| stream.stream == "telemetry").expect("one").first;
    assert_eq!(held.map(|(_, first)| first), Some(1), "from outside as well");
    all_of_it(&rest(home.path()).await, "evicted");
    assert!(!is_aside(home.path()), "nothing says that the rest is wrong");
}

#[tokio::test]
async fn a_cursor_that_is_ahead_of_the_marks_passes_over_nothing() {
    for sql in [
        "UPDATE cursor SET acked = 200 WHERE class = 2",
        "UPDATE cursor SET ranges = (SELECT epoch || ':3-200' FROM epoch WHERE class = 2) WHERE class = 2",
    ] {
        let home = owing().await;
        change(&home.path().join("meta.db"), sql);
        all_of_it(&rest(home.path()).await, sql);
    }
}

#[tokio::test]
async fn what_is_acknowledged_at_the_end_of_a_store_does_not_come_again() {
    let home = owing().await;
    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    drain(&mut reader, OWED).await;
    drop(reader);
    running.close().await;
    let items: Vec<_> = rest(home.path()).await.iter().filter_map(told).map(|(_, value)| value).collect();
    assert_eq!(items, [4711]);
}

#[tokio::test]
async fn a_time_that_no_clock_comes_to_is_damage_and_the_copy_knows_better() {
    for sql in [
        "UPDATE fix SET unix_ms = -9223372036854775808 WHERE micros >= 0",
        "UPDATE fix SET micros = 9223372036854775807 WHERE micros >= 0",
        "UPDATE value SET number = 9223372036854775807 WHERE name = 'latest_wall_ms'",
        "UPDATE boot SET number = 4294967295",
    ] {
        let home = owing().await;
        change(&home.path().join("meta.db"), sql);
        let store = open(opening(home.path()));
        assert_eq!(store.boot().0, 1, "{sql}");
        assert!(store.fixes().iter().any(|fix| fix.unix_ms == FIX_MS), "{sql}: {:?}", store.fixes());
        drop(store);
        all_of_it(&rest(home.path()).await, sql);
        assert!(is_aside(home.path()), "{sql}");
    }
}

#[tokio::test]
async fn a_chunk_that_names_an_end_below_zero_is_read_again_and_loses_nothing_of_its_own() {
    let home = owing().await;
    // The next epoch names the one before, whose end nobody knows without the marks.
    std::fs::remove_file(home.path().join("marks")).expect("removed");
    life(home.path(), OWED..OWED + 50).await;
    let [older, newer] = &chunks(home.path())[..] else { panic!("{:?}", chunks(home.path())) };
    change(newer, "UPDATE chunk SET previous_seq = -1");
    for file in [older.as_path(), &home.path().join("meta.db"), &home.path().join("meta.copy")] {
        std::fs::remove_file(file).expect("removed");
    }
    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, [4711]).await;
    let mut values = Vec::new();
    while !values.contains(&4711) {
        values.extend(drain(&mut reader, 1).await.iter().filter_map(told).map(|(_, value)| value));
    }
    assert_eq!(values, (OWED..OWED + 50).chain([4711]).collect::<Vec<_>>());
    drop(reader);
    running.close().await;
}
