//! Budgets, paths and schedules as an operator of the link sees them: bytes counted outside, stores that are reopened.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::plant;
use crate::store;
use crate::toll;

use std::time::Duration;

use cloud::Cloud;
use ironbridge::config::plan::{Overrun, Schedule, UplinkPlan};
use ironbridge::flow::clock::Fix;
use ironbridge::model::number::Class;
use ironbridge::store::MeterRow;
use ironbridge::uplink::{PathState, UplinkState};
use plant::{Plant, path, per_day, plan};
use store::{opening, start, until};
use toll::Toll;

/// The smallest budget that a configuration may name.
const BUDGET: u64 = 64 << 10;
const DAY: Duration = Duration::from_secs(86_400);

fn row(path: &str, number: i64, bytes: u64) -> MeterRow {
    MeterRow {
        uplink: "cloud".into(),
        path: path.into(),
        period: 0,
        number,
        bytes,
        bound: bytes + 7,
        told: 1,
        behind: None,
    }
}

#[tokio::test]
async fn what_was_counted_is_there_after_a_restart_and_old_days_are_forgotten() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    assert_eq!(running.store.meters("cloud"), Some(Vec::new()));
    for number in 100..200 {
        running.store.save_meters(vec![row("", number, 5), row("lte", number, 3)]);
        running.store.save_meters(vec![row("", number, 10)]);
    }
    running.close().await;
    let running = start(opening(home.path()));
    let rows = running.store.meters("cloud").expect("opened");
    let newest: Vec<_> = rows.iter().filter(|row| row.number == 199).cloned().collect();
    assert_eq!(newest, [row("", 199, 10), row("lte", 199, 3)]);
    assert_eq!(rows.iter().map(|row| row.number).min(), Some(199 - 62));
    assert_eq!(running.store.meters("another"), Some(Vec::new()));
    running.close().await;
}

#[tokio::test]
async fn what_was_saved_last_is_what_is_read_also_without_a_restart() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    running.store.save_meters(vec![row("", 41, 900), row("lte", 41, 800), row("", 42, 10)]);
    running.store.save_meters(vec![row("", 42, 20)]);
    assert_eq!(running.store.meters("cloud"), Some(vec![row("", 41, 900), row("lte", 41, 800), row("", 42, 20)]));
    // The clock had been ahead and was set right.
    running.store.save_meters(vec![row("", 41, 950)]);
    let right = Some(vec![row("lte", 41, 800), row("", 41, 950)]);
    assert_eq!(running.store.meters("cloud"), right);
    running.close().await;
    let running = start(opening(home.path()));
    let mut rows = running.store.meters("cloud").expect("opened");
    rows.sort_by_key(|row| std::cmp::Reverse(row.path.clone()));
    assert_eq!(Some(rows), right);
    running.close().await;
}

#[tokio::test]
async fn what_was_counted_until_the_store_was_closed_outlives_meta_db() {
    let home = tempfile::tempdir().expect("a directory");
    start(opening(home.path())).close().await;
    let running = start(opening(home.path()));
    until("the copy is made", || home.path().join("meta.copy").exists()).await;
    for _ in 0..2 {
        running.store.answers().await; // the copy that each start makes has been made
    }
    running.store.save_meters(vec![row("", 42, 1000)]);
    running.close().await;
    std::fs::write(home.path().join("meta.db"), [7; 8192]).expect("damaged");
    let running = start(opening(home.path()));
    assert_eq!(running.store.meters("cloud"), Some(vec![row("", 42, 1000)]));
    running.close().await;
}

#[tokio::test]
async fn a_store_of_a_version_that_knew_no_meters_opens_and_gets_them() {
    let home = tempfile::tempdir().expect("a directory");
    start(opening(home.path())).close().await;
    let meta = home.path().join("meta.db");
    let sql = |text: &str| rusqlite::Connection::open(&meta).expect("opens").execute_batch(text).expect("runs");
    sql("DROP TABLE meter");
    assert!(ironbridge::store::inspect::status(home.path()).is_ok(), "looking at it needs no table");
    let running = start(opening(home.path()));
    assert_eq!(running.store.meters("cloud"), Some(Vec::new()));
    running.store.save_meters(vec![row("", 1, 2)]);
    running.close().await;
    let running = start(opening(home.path()));
    assert_eq!(running.store.meters("cloud"), Some(vec![row("", 1, 2)]));
    running.close().await;
}

#[tokio::test]
async fn figures_reach_the_disk_beside_a_running_store_without_being_asked_for() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    running.store.save_meters(vec![row("", 42, 1000)]);
    until("the meter is saved", || {
        ironbridge::store::survey(home.path()).is_ok_and(|seen| seen.meters == [row("", 42, 1000)])
    })
    .await;
    running.close().await;
}

/// Records of a class that the cloud has.
fn arrived(cloud: &Cloud, class: Class) -> usize {
    cloud.on(&format!("plant/pump/{class}")).len()
}

/// What a plan with this budget may use of it, in percent.
fn percent(bytes: u64) -> u64 {
    bytes * 100 / BUDGET
}

/// The uplink's own count, and what passed outside. TCP and IP headers of 52 bytes a segment are not seen at the toll: a
/// publish and its acknowledgement have about 250 bytes of payload and at most four segments.
fn assert_count_fits(plant: &Plant, toll: &Toll) {
    let (inside, outside) = (plant.counted(), toll.all_bytes());
    let payload = plant.stats.bytes_up() + plant.stats.bytes_down();
    assert!(payload.abs_diff(outside) * 50 <= outside, "payload {payload}, outside {outside}");
    assert!(inside > outside && inside < outside * 2, "{inside} with headers, {outside} without");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_is_never_exceeded_and_what_is_kept_for_live_values_and_alarms_is_kept() {
    let (cloud, home) = (Cloud::start().await, tempfile::tempdir().unwrap());
    let toll = Toll::before(cloud.address).await;
    let plan = UplinkPlan { budgets: vec![per_day(BUDGET)], overrun: Overrun::Stop, ..plan(toll.address) };
    // Owed from before the session begins: the backlog.
    let running = start(opening(home.path()));
    running.emit(Class::Telemetry, 0..2000).await;
    running.settled(2000).await;
    running.close().await;
    let mut plant = Plant::start(home.path(), plan, Duration::ZERO);
    // The backlog goes as far as the reserve, and no further.
    cloud.until("the reserve is reached", |_| percent(plant.counted()) >= 75).await;
    let before = arrived(&cloud, Class::Telemetry);
    assert!(before < 2000);
    // Alarms go beyond it, and end at the budget; then the session ends in order.
    let alarms = 140;
    plant.running.emit(Class::Alarm, 0..alarms).await;
    cloud.until("the budget is used up", |_| plant.stats.standing() == UplinkState::Paused).await;
    let some = arrived(&cloud, Class::Alarm) as u64;
    assert!(
        some > 20 && some < alarms,
        "{some} of {alarms}, {before} values, {} bytes, {:?}",
        plant.counted(),
        plant.told()
    );
    assert!(percent(plant.counted()) >= 90, "{} of {BUDGET}", plant.counted());
    assert!(plant.counted() <= BUDGET && toll.all_bytes() < BUDGET);
    assert_count_fits(&plant, &toll);
    assert_eq!(cloud.disconnects(), 1, "it said goodbye while it could pay for it");
    let now = plant.told();
    assert!(now.ends_with(&["budget_100 active".to_owned()]), "{now:?}");
    // Nothing moves any more, until the day ends.
    let (bytes, connects) = (toll.all_bytes(), toll.connects("127.0.0.1"));
    plant.running.emit(Class::Alarm, 10_000..10_010).await;
    plant.running.settled(alarms + 10).await;
    tokio::time::sleep(Duration::from_millis(2500)).await; // that nothing happens can only be waited for
    assert_eq!((toll.all_bytes(), toll.connects("127.0.0.1")), (bytes, connects));
    plant.running.time.advance(Duration::from_secs(4 * 3600));
    cloud.until("the waiting alarms", |cloud| arrived(cloud, Class::Alarm) as u64 >= alarms + 10).await;
    assert_eq!(plant.told()[..2], ["budget_80 cleared", "budget_100 cleared"]);
    plant.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_ahead_for_seconds_or_for_an_hour_spends_no_second_budget_and_spoils_no_day_to_come() {
    let (cloud, home) = (Cloud::start().await, tempfile::tempdir().unwrap());
    let toll = Toll::before(cloud.address).await;
    let plan = UplinkPlan { budgets: vec![per_day(BUDGET)], overrun: Overrun::Stop, ..plan(toll.address) };
    let plant = Plant::start(home.path(), plan, Duration::ZERO);
    let (time, clock) = (&plant.running.time, &plant.running.clock);
    let hour = Duration::from_secs(3600);
    let put = |days: i64| {
        let unix_ms = clock.wall_now().unix_ms + days * 24 * 3_600_000;
        clock.learn(Fix { at: clock.now(), unix_ms });
    };
    let used = || plant.stats.budgets()[0].1;
    // It goes ahead for seconds, and for an hour, and back each time.
    let mut sent = 0;
    for (days, lasts) in [(2, Duration::ZERO), (9, hour), (9, hour), (20, hour), (1, Duration::ZERO)] {
        let before = used();
        put(days);
        for part in [Duration::ZERO, lasts] {
            time.advance(part);
            plant.running.emit(Class::Alarm, sent..sent + 25).await;
            sent += 25;
            let arrive = |cloud: &Cloud| arrived(cloud, Class::Alarm) as u64 >= sent;
            cloud.until("what there is room for", arrive).await;
        }
        put(-days);
        until("both sums", || used() > before).await;
    }
    // Seconds ahead once more, with more to send than is left.
    plant.running.emit(Class::Alarm, sent..800).await;
    put(2);
    until("it is used up", || plant.stats.standing() == UplinkState::Paused).await;
    tokio::time::sleep(Duration::from_millis(2500)).await; // that nothing happens can only be waited for
    put(-2);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!((arrived(&cloud, Class::Alarm) as u64) < 800);
    assert!(toll.all_bytes() <= BUDGET && used() <= BUDGET, "{} of {BUDGET}, {}", toll.all_bytes(), used());
    // Seven hours later, on the next day.
    let before = arrived(&cloud, Class::Alarm);
    time.advance(7 * hour);
    cloud.until("some of the rest", |cloud| arrived(cloud, Class::Alarm) >= before + 50).await;
    plant.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_used_is_used_after_a_restart_and_after_a_power_cut() {
    let (cloud, home) = (Cloud::start().await, tempfile::tempdir().unwrap());
    let toll = Toll::before(cloud.address).await;
    // Each cut uses up what the disk allowed for what was under way, some 20 kB: there must be enough for two of them.
    let wide = 4 * BUDGET;
    let plan = || UplinkPlan { budgets: vec![per_day(wide)], ..plan(toll.address) };
    let saved = || {
        let rows = ironbridge::store::survey(home.path()).unwrap().meters;
        rows.into_iter().rfind(|row| row.path.is_empty() && row.period == 0).unwrap().bound
    };
    for (round, end) in ["stop", "cut", "cut", "stop"].into_iter().enumerate() {
        let before = if round == 0 { 0 } else { saved() };
        let mut plant = Plant::start(home.path(), plan(), Duration::ZERO);
        let used = || plant.stats.budgets()[0].1;
        until("connected", || plant.stats.connected.get() == 1).await;
        assert!(used() >= before && used() <= before + 5000, "round {round}: {before}, then {} with a connect", used());
        plant.running.emit(Class::Telemetry, 0..30).await;
        let enough = (round + 1) * 30;
        cloud.until("some more", |cloud| arrived(cloud, Class::Telemetry) >= enough).await;
        let told = plant.told().iter().filter(|told| *told == "budget_80 active").count();
        assert!(told <= 1, "round {round}: once in each life");
        if end == "stop" {
            plant.close().await;
        } else {
            plant.kill().await;
        }
        assert!(saved() >= toll.all_bytes(), "round {round}, {end}: {} saved, {} passed", saved(), toll.all_bytes());
        assert!(saved() <= wide);
    }
    // The next day is a new one.
    let plant = Plant::start(home.path(), plan(), DAY);
    until("connected", || plant.stats.connected.get() == 1).await;
    assert!(plant.stats.budgets()[0].1 < wide / 8);
    plant.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_used_is_used_after_a_reload_that_changes_the_uplink() {
    let (cloud, home) = (Cloud::start().await, tempfile::tempdir().unwrap());
    let toll = Toll::before(cloud.address).await;
    let plan = || UplinkPlan { budgets: vec![per_day(BUDGET)], ..plan(toll.address) };
    let mut plant = Plant::start(home.path(), plan(), Duration::ZERO);
    for round in 0..3 {
        until("connected", || plant.stats.connected.get() == 1).await;
        plant.running.emit(Class::Telemetry, 0..20).await;
        let enough = (round + 1) * 20;
        cloud.until("some more", |cloud| arrived(cloud, Class::Telemetry) >= enough).await;
        plant = plant.reload(plan()).await;
        let (used, passed) = (|| plant.stats.budgets()[0].1, toll.all_bytes());
        until("connected", || plant.stats.connected.get() == 1).await;
        assert!(used() >= passed, "round {round}: {} used, {passed} passed before the reload", used());
    }
    plant.close().await;
    let rows = ironbridge::store::survey(home.path()).unwrap().meters;
    let saved = rows.into_iter().rfind(|row| row.path.is_empty() && row.period == 0).unwrap().bound;
    assert!(saved >= toll.all_bytes(), "{saved} saved, {} passed", toll.all_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_may_overrun_by_a_tenth_when_they_are_told_to() {
    let (cloud, home) = (Cloud::start().await, tempfile::tempdir().unwrap());
    let toll = Toll::before(cloud.address).await;
    let plan = UplinkPlan { budgets: vec![per_day(BUDGET)], overrun: Overrun::Alarms, ..plan(toll.address) };
    let plant = Plant::start(home.path(), plan, Duration::ZERO);
    let mut alarms = 0;
    let cap = BUDGET + BUDGET / 10;
    while plant.counted() < BUDGET - 1500
        || plant.stats.standing() != UplinkState::Paused
        || plant.stats.backlog.get() == 0
    {
        plant.running.emit(Class::Alarm, alarms..alarms + 5).await;
        alarms += 5;
        plant.running.settled(alarms).await;
        tokio::time::sleep(Duration::from_millis(100)).await; // a few at a time, as alarms come
        assert!(plant.counted() <= cap, "{} of {cap}", plant.counted());
        assert!(alarms < 5000, "it never ends");
    }
    assert!(plant.counted() > BUDGET, "{} of {BUDGET}", plant.counted());
    let used = toll.all_bytes();
    tokio::time::sleep(Duration::from_millis(2500)).await; // that nothing happens can only be waited for
    assert!(toll.all_bytes() == used && plant.counted() <= cap, "{} of {cap}", plant.counted());
    plant.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_fails_is_left_and_taken_again_when_it_was_healthy_for_a_while() {
    let (cloud, home) = (Cloud::start().await, tempfile::tempdir().unwrap());
    let toll = Toll::before(cloud.address).await;
    let plan =
        UplinkPlan { paths: vec![path("wired", "127.0.0.2"), path("cellular", "127.0.0.3")], ..plan(toll.address) };
    let mut plant = Plant::start(home.path(), plan, Duration::ZERO);
    let current = |name: &str| {
        plant.stats.connected.get() == 1 && plant.stats.paths().iter().any(|way| way.current && way.path == name)
    };
    plant.running.emit(Class::Telemetry, 0..20).await;
    cloud.until("by wire", |cloud| arrived(cloud, Class::Telemetry) == 20 && current("wired")).await;
    assert_eq!(toll.connects("127.0.0.3"), 0);
    toll.close("127.0.0.2");
    plant.running.emit(Class::Telemetry, 20..40).await;
    cloud.until("by radio", |cloud| arrived(cloud, Class::Telemetry) >= 40 && current("cellular")).await;
    assert_eq!(plant.stats.paths()[0].state, PathState::Down);
    toll.open("127.0.0.2");
    cloud.until("by wire again", |_| current("wired")).await;
    plant.running.emit(Class::Telemetry, 40..60).await;
    cloud.until("all of it", |cloud| arrived(cloud, Class::Telemetry) >= 60).await;
    assert!(cloud.disconnects() >= 1, "the radio was left in order");
    let counts = |path: usize, source: &str| plant.stats.paths()[path].bytes > toll.bytes(source);
    until("both paths are charged", || counts(0, "127.0.0.2") && counts(1, "127.0.0.3")).await;
    let told = plant.told();
    assert_eq!(told, ["path_changed once", "path_changed once"]);
    plant.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_carries_its_classes_and_the_others_wait_for_theirs() {
    let (cloud, home) = (Cloud::start().await, tempfile::tempdir().unwrap());
    let toll = Toll::before(cloud.address).await;
    let mut cellular = path("cellular", "127.0.0.3");
    cellular.classes = vec![Class::Alarm];
    let plan = UplinkPlan { paths: vec![path("wired", "127.0.0.2"), cellular], ..plan(toll.address) };
    toll.close("127.0.0.2");
    let plant = Plant::start(home.path(), plan, Duration::ZERO);
    plant.running.emit(Class::Telemetry, 0..50).await;
    plant.running.emit(Class::Alarm, 0..5).await;
    cloud.until("the alarms", |cloud| arrived(cloud, Class::Alarm) == 5).await;
    assert_eq!(arrived(&cloud, Class::Telemetry), 0);
    toll.open("127.0.0.2");
    cloud.until("the rest", |cloud| arrived(cloud, Class::Telemetry) == 50).await;
    plant.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_wait_for_their_window_and_an_alarm_does_not() {
    let (cloud, home) = (Cloud::start().await, tempfile::tempdir().unwrap());
    let toll = Toll::before(cloud.address).await;
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let mut satellite = path("satellite", "127.0.0.2");
    satellite.schedule = Some(Schedule { every: minutes(15), lasts: minutes(2) });
    let plan = UplinkPlan { paths: vec![satellite], ..plan(toll.address) };
    // Five minutes past the hour: the next window opens at a quarter past.
    let plant = Plant::start(home.path(), plan, minutes(5));
    plant.running.emit(Class::Telemetry, 0..50).await;
    plant.running.settled(50).await;
    until("it pauses", || plant.stats.standing() == UplinkState::Paused).await;
    assert_eq!(toll.connects("127.0.0.2"), 0);
    plant.running.emit(Class::Alarm, 0..3).await;
    cloud.until("the alarms", |cloud| arrived(cloud, Class::Alarm) == 3).await;
    cloud.until("and goodbye", |cloud| cloud.disconnects() == 1).await;
    assert_eq!(arrived(&cloud, Class::Telemetry), 0, "nothing else breaks a schedule");
    plant.running.time.advance(minutes(10));
    cloud.until("the window", |cloud| arrived(cloud, Class::Telemetry) == 50).await;
    assert_eq!(cloud.disconnects(), 1);
    plant.running.time.advance(minutes(2));
    cloud.until("goodbye when the window closes", |cloud| cloud.disconnects() == 2).await;
    plant.close().await;
}
