//! `max_age`: what is too old goes, but never because a clock says so that is not to be trusted.

use crate::rig as support;

use std::path::Path;
use std::time::Duration;

use ironbridge::flow::clock::Fix;
use ironbridge::model::number::Class;
use ironbridge::store::{Item, Opening, Revision};
use support::*;

const HOUR: Duration = Duration::from_secs(3600);
const UTC_MS: i64 = 1_795_204_800_000;

fn aged(dir: &Path, uplinks: &[&str]) -> Opening {
    let uplinks = uplinks.iter().map(|name| route(name, &Class::ALL)).collect();
    Opening { max_age: Some(24 * HOUR), uplinks, ..opening(dir) }
}

/// UTC becomes known, `ahead` of what the boot-time clock says.
fn fix(running: &Running, ahead: Duration) {
    let at = running.clock.now();
    let ahead_ms = i64::try_from(ahead.as_millis()).expect("small");
    let fix = Fix { at, unix_ms: UTC_MS + at.micros / 1000 + ahead_ms };
    running.clock.learn(fix);
    running.store.record_fix(fix);
}

/// An hour goes by and brings ten values, which are committed.
async fn hour(running: &Running, stored: &mut u64) {
    running.time.advance(HOUR);
    running.emit(Class::Telemetry, *stored..*stored + 10).await;
    *stored += 10;
    running.settled(*stored).await;
    // The look at the ages comes with the commit; it has been when the next event is committed.
    running.event(Class::Event, "hour").await;
}

#[tokio::test]
async fn records_older_than_max_age_go_silently_when_acknowledged_and_with_a_gap_record_when_not() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(aged(home.path(), &["cloud", "dead"]));
    fix(&running, Duration::ZERO);
    let mut reader = running.store.reader("cloud").expect("routed");
    let mut stored = 0;
    for _ in 0..60 {
        hour(&running, &mut stored).await;
        drain(&mut reader, 11).await;
    }
    let stats = running.store.stats();
    let evicted = stats.evicted[Class::Telemetry].get();
    // 60 hours less 24, and a chunk spans three.
    assert!((300..=360).contains(&evicted), "{evicted}");
    assert_eq!(reader.backlog(), 0);
    drop(reader);
    let mut dead = running.store.reader("dead").expect("routed");
    let mut telemetry = Vec::new();
    while telemetry.is_empty() {
        let items = next(&mut dead, 1).await.expect("open");
        dead.acknowledge(ack(&items[0]));
        telemetry.extend(items.into_iter().filter(|item| match item {
            Item::Gap(gap) => gap.stream == Class::Telemetry,
            Item::Record(owed) => owed.number.stream == Class::Telemetry,
        }));
    }
    let Item::Gap(gap) = &telemetry[0] else { panic!("a gap record comes first: {telemetry:?}") };
    assert_eq!((gap.first.0, gap.last.0, gap.reason.as_str()), (1, evicted, "evicted"));
    drop(dead);
    running.close().await;
}

#[tokio::test]
async fn nothing_grows_old_without_a_clock_fix() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(aged(home.path(), &["cloud"]));
    let mut stored = 0;
    for _ in 0..40 {
        hour(&running, &mut stored).await;
    }
    assert_eq!(running.store.stats().chunks_evicted.get(), 0);
    fix(&running, Duration::ZERO);
    // Known now, but not for ten minutes yet.
    running.event(Class::Event, "known").await;
    assert_eq!(running.store.stats().chunks_evicted.get(), 0);
    for _ in 0..2 {
        hour(&running, &mut stored).await;
    }
    until("something is too old", || running.store.stats().chunks_evicted.get() > 0).await;
    running.close().await;
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_by_years_evicts_nothing_not_even_after_a_restart() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(aged(home.path(), &["cloud"]));
    fix(&running, Duration::ZERO);
    let mut stored = 0;
    for _ in 0..5 {
        hour(&running, &mut stored).await;
    }
    fix(&running, 9000 * HOUR);
    for _ in 0..5 {
        hour(&running, &mut stored).await;
    }
    assert_eq!(running.store.stats().chunks_evicted.get(), 0);
    let fixes: Vec<Fix> =
        [UTC_MS, UTC_MS + 9000 * 3_600_000].map(|unix_ms| Fix { at: running.clock.now(), unix_ms }).to_vec();
    running.close().await;
    // Another boot: its clock says the same wrong time.
    let running = start(Opening { boot_token: "boot-2".into(), ..aged(home.path(), &["cloud"]) });
    fix(&running, 9010 * HOUR);
    // What the gateway does at its start: the fixes of earlier boots.
    for fix in fixes {
        running.clock.learn(fix);
    }
    let mut stored = 0;
    for _ in 0..5 {
        hour(&running, &mut stored).await;
    }
    assert_eq!(running.store.stats().chunks_evicted.get(), 0);
    running.close().await;
}

#[tokio::test]
async fn a_max_age_that_comes_late_in_a_boot_counts_the_time_since_the_last_as_gone_by_and_not_as_a_step() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(aged(home.path(), &["cloud"]));
    fix(&running, Duration::ZERO);
    let mut stored = 0;
    for _ in 0..5 {
        hour(&running, &mut stored).await;
    }
    let earlier = Fix { at: running.clock.now(), unix_ms: UTC_MS + 5 * 3_600_000 };
    running.close().await;
    let without = Opening { boot_token: "boot-2".into(), max_age: None, ..aged(home.path(), &["cloud"]) };
    let running = start(without.clone());
    running.clock.learn(earlier);
    fix(&running, 5 * HOUR);
    let mut stored = 0;
    for _ in 0..40 {
        hour(&running, &mut stored).await;
    }
    assert_eq!(running.store.stats().chunks_evicted.get(), 0);
    let Opening { tags, uplinks, max_size, commit_interval, .. } = without;
    running.store.revise(Revision { tags, uplinks, max_size, max_age: Some(42 * HOUR), commit_interval }).await;
    for _ in 0..10 {
        hour(&running, &mut stored).await;
    }
    until("something is too old", || running.store.stats().chunks_evicted.get() > 0).await;
    running.close().await;
}

/// Somebody keeps `meta.db` from being written, as a full disk does.
fn refusing(dir: &Path) -> rusqlite::Connection {
    let meta = rusqlite::Connection::open(dir.join("meta.db")).expect("opens");
    meta.execute_batch("PRAGMA busy_timeout = 10000; BEGIN IMMEDIATE").expect("taken");
    meta
}

#[tokio::test]
async fn a_clock_fix_that_meta_db_refuses_is_there_after_a_restart_once_it_could_be_written() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    running.event(Class::Event, "begun").await;
    let meta = refusing(home.path());
    fix(&running, Duration::ZERO);
    running.time.advance(HOUR);
    fix(&running, HOUR);
    running.store.answers().await; // both were tried
    drop(meta);
    running.close().await;
    let fixes = ironbridge::store::open(opening(home.path())).fixes();
    assert_eq!(fixes.iter().map(|fix| fix.unix_ms).collect::<Vec<_>>(), [UTC_MS + 2 * 3_600_000], "the latest");
}

#[tokio::test]
async fn a_step_of_the_clock_that_meta_db_refuses_to_note_makes_nothing_older_after_a_restart() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(aged(home.path(), &["cloud"]));
    fix(&running, Duration::ZERO);
    let mut stored = 0;
    hour(&running, &mut stored).await;
    let meta = refusing(home.path());
    fix(&running, 9000 * HOUR);
    hour(&running, &mut stored).await;
    drop(meta);
    let right = Fix { at: running.clock.now(), unix_ms: UTC_MS + 2 * 3_600_000 };
    running.close().await;
    // Another boot: its clock goes on from where the other one stepped to.
    let running = start(Opening { boot_token: "boot-2".into(), ..aged(home.path(), &["cloud"]) });
    fix(&running, 9004 * HOUR);
    running.clock.learn(right); // as the gateway does at its start
    let mut stored = 0;
    for _ in 0..3 {
        hour(&running, &mut stored).await;
    }
    assert_eq!(running.store.stats().chunks_evicted.get(), 0);
    running.close().await;
}
