//! `ironbridge store purge`: what is old goes, what was owed is declared, and never beside a running gateway.

use crate::rig as support;

use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use ironbridge::commands::{Failed, store};
use ironbridge::flow::clock::Fix;
use ironbridge::model::number::{Class, Seq};
use ironbridge::store::inspect;
use ironbridge::store::purge::{self, Owed, Purge};
use ironbridge::store::{Ack, Item, Opening};
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
    let words = ["ironbridge", "store"].iter().chain(words).copied();
    let Top::Store(args) = Cli::try_parse_from(words).expect("parses").store;
    store::run(&args, |_| panic!("--dir is given"))
}

/// Three lives of an hour each, a hundred records of telemetry a life, in a segment each. `acknowledge`: of the first.
async fn three_hours(dir: &Path, acknowledge: u64) {
    three_lives(&opening(dir), acknowledge).await;
}

async fn three_lives(opening: &Opening, acknowledge: u64) {
    let mut fixes = Vec::new();
    for hour in 0..3u64 {
        let running = start(Opening { boot_token: format!("boot-{hour}"), ..opening.clone() });
        for fix in &fixes {
            running.clock.learn(*fix);
        }
        let fix = Fix { at: running.clock.now(), unix_ms: NOON + i64::try_from(hour).expect("small") * 3_600_000 };
        running.learns(fix);
        fixes.push(fix);
        let mut reader = running.store.reader("cloud").expect("routed");
        running.emit(Class::Telemetry, hour * 100..(hour + 1) * 100).await;
        running.settled(100).await;
        if hour == 0 && acknowledge > 0 {
            drain(&mut reader, acknowledge).await;
        }
        reader.save().await;
        drop(reader);
        running.close().await;
    }
}

fn until(hour: i64, owed: Owed) -> Purge {
    Purge { classes: Class::ALL.to_vec(), before_ms: NOON + hour * 3_600_000, owed }
}

#[tokio::test]
async fn what_goes_unacknowledged_is_declared_to_the_uplink_and_the_rest_still_comes() {
    let home = tempfile::tempdir().expect("a directory");
    three_hours(home.path(), 0).await;
    let ahead = purge::preview(home.path(), &until(2, Owed::Goes), 0).expect("looked");
    assert_eq!((ahead[0].records, ahead[0].unacknowledged), (200, 200));
    assert_eq!(inspect::status(home.path()).expect("status").streams[2].first.map(|(_, first)| first), Some(1));
    let gone = purge::purge(home.path(), &until(2, Owed::Goes), 0).expect("purged");
    assert_eq!((gone.len(), gone[0].stream, gone[0].records), (1, Class::Telemetry, 200));
    assert_eq!(gone[0].upto.to_string(), "2026-11-20T21:00:00.000Z");
    let verdict = inspect::verify(home.path(), &mut |_, _| {}).expect("verified");
    assert_eq!((verdict.problems, verdict.records), (Vec::<String>::new(), 100));
    assert!(purge::purge(home.path(), &until(2, Owed::Goes), 0).expect("again").is_empty());

    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    let items = drain(&mut reader, 300).await;
    let Item::Gap(gap) = &items[0] else { panic!("a gap record first, not {:?}", items[0]) };
    assert_eq!((gap.first.0, gap.last.0, gap.reason.as_str()), (1, 200, "purged"));
    assert_eq!(
        running.clock.wall(gap.from.expect("from")).unix_ms,
        running.clock.wall(gap.from.expect("from")).unix_ms
    );
    let values: Vec<u64> = items[1..].iter().filter_map(told).map(|(_, value)| value).collect();
    assert_eq!(values, (200..300).collect::<Vec<_>>());
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn with_acknowledged_only_nothing_goes_that_somebody_is_owed() {
    let home = tempfile::tempdir().expect("a directory");
    three_hours(home.path(), 100).await;
    let gone = purge::purge(home.path(), &until(9, Owed::Stays), 0).expect("purged");
    assert_eq!((gone[0].records, gone[0].unacknowledged), (100, 0));
    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    let items = drain(&mut reader, 200).await;
    assert!(items.iter().all(|item| matches!(item, Item::Record(_))), "no gap record");
    drop(reader);
    running.close().await;
    assert_eq!(inspect::verify(home.path(), &mut |_, _| {}).expect("verified").problems, Vec::<String>::new());
}

#[tokio::test]
async fn what_lies_behind_a_damaged_file_that_is_still_to_be_salvaged_stays_until_it_has_been() {
    let home = tempfile::tempdir().expect("a directory");
    // A chunk spans an eighth of that.
    three_lives(&Opening { max_age: Some(Duration::from_secs(4 * 3600)), ..opening(home.path()) }, 0).await;
    // What came later went ahead of the backlog; then the file with the backlog is set aside.
    let running = start(opening(home.path()));
    let (stream, epoch, _) = running.store.newest()[Class::Telemetry as usize];
    let reader = running.store.reader("cloud").expect("routed");
    reader.acknowledge(Ack::Records { stream, epoch, first: Seq(101), last: Seq(300) });
    reader.save().await;
    drop(reader);
    running.close().await;
    let mut chunks: Vec<_> = std::fs::read_dir(home.path())
        .expect("listed")
        .flatten()
        .map(|entry| entry.file_name().into_string().expect("utf-8"))
        .filter(|name| name.starts_with("chunk-telemetry-"))
        .collect();
    chunks.sort_unstable();
    assert_eq!(chunks.len(), 3, "one of each life: {chunks:?}");
    std::fs::rename(home.path().join(&chunks[0]), home.path().join("quarantine").join(&chunks[0])).expect("moved");
    for owed in [Owed::Stays, Owed::Goes] {
        assert_eq!(purge::held_up(home.path(), &until(9, owed)).expect("looked"), [Class::Telemetry]);
        assert!(purge::purge(home.path(), &until(9, owed), 0).expect("looked").is_empty(), "{owed:?}");
    }
    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    let items = drain(&mut reader, 100).await;
    assert!(items.iter().filter_map(told).map(|(_, value)| value).eq(0..100), "salvaged: {items:?}");
    reader.save().await;
    drop(reader);
    running.close().await;
    assert!(purge::held_up(home.path(), &until(9, Owed::Stays)).expect("looked").is_empty());
    let gone = purge::purge(home.path(), &until(9, Owed::Stays), 0).expect("purged");
    assert_eq!((gone[0].records, gone[0].unacknowledged), (300, 0));
}

#[tokio::test]
async fn a_running_gateway_is_not_purged_under_its_hands_and_nobody_is_purged_by_accident() {
    let home = tempfile::tempdir().expect("a directory");
    three_hours(home.path(), 0).await;
    let dir = home.path().to_str().expect("utf-8").to_owned();
    let before = ["purge", "--dir", &dir, "--before", "2026-11-20T21:30:00Z"];
    let unasked = run(&before).expect_err("not without a yes");
    assert!(matches!(unasked, Failed::Usage(_)), "{unasked}");
    run(&[&before[..], &["--dry-run"]].concat()).expect("dry");
    let running = start(opening(home.path()));
    let refused = run(&[&before[..], &["--yes"]].concat()).expect_err("in use");
    assert_eq!((refused.code(), refused.to_string().contains("stop it")), (75, true), "{refused}");
    run(&[&before[..], &["--dry-run", "--json"]].concat()).expect("dry, beside the gateway");
    running.close().await;
    let held = |dir: &Path| inspect::verify(dir, &mut |_, _| {}).expect("verified").records;
    assert_eq!(held(home.path()), 300);
    run(&[&before[..], &["--yes", "--class", "bulk"]].concat()).expect("nothing of that class");
    assert_eq!(held(home.path()), 300);
    run(&[&before[..], &["--yes"]].concat()).expect("purged");
    assert_eq!(held(home.path()), 100);
}

#[tokio::test]
async fn status_says_since_when_and_how_long_beside_the_running_store() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    running.clock.learn(Fix { at: running.clock.now(), unix_ms: NOON });
    running.store.record_fix(Fix { at: running.clock.now(), unix_ms: NOON });
    let mut reader = running.store.reader("cloud").expect("routed");
    for round in 0..4 {
        running.emit(Class::Telemetry, round * 50..(round + 1) * 50).await;
        running.settled((round + 1) * 50).await;
        running.time.advance(Duration::from_secs(60));
        if round == 1 {
            drain(&mut reader, 100).await;
        }
    }
    reader.save().await;
    let detail = ironbridge::store::detail::detail(home.path(), 0).expect("looked");
    let owed = detail.owed.iter().find(|owed| owed.stream == "telemetry").expect("routed");
    assert_eq!((owed.records, owed.gaps, reader.backlog()), (100, 0, 100));
    assert_eq!(owed.oldest_ms, Some(NOON + 120_000));
    assert_eq!(detail.held[0].records, 200);
    let dir = home.path().to_str().expect("utf-8").to_owned();
    run(&["status", "--dir", &dir, "--rate", "32KiB/s", "-v"]).expect("for people");
    run(&["status", "--dir", &dir, "--rate", "32KiB/s", "--json"]).expect("for scripts");
    drop(reader);
    running.close().await;
    let detail = ironbridge::store::detail::detail(home.path(), 0).expect("looked");
    let owed = detail.owed.iter().find(|owed| owed.stream == "telemetry").expect("routed");
    assert!(owed.records >= 100 && owed.bytes > 0, "{owed:?}");
    assert!(detail.held[0].bytes_per_record.is_some_and(|each| each > 0.0));
}
