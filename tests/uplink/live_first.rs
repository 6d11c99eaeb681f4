//! Store and uplink, live-first: live records while a backlog drains over a slow link, what the broker does not take, and
//! an uplink that is dead for long beside one that is not.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::owed;
use crate::rig;
use crate::slow_link;
use crate::store;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ironbridge::config::plan::{Delivery, MqttVersion};
use ironbridge::flow::notice::notices;
use ironbridge::flow::stop::Stop;
use ironbridge::model::number::Class;
use ironbridge::uplink::{StoreSource, Timing, Uplink, UplinkParts, UplinkStats};
use tokio::task::JoinHandle;

use cloud::{Arrived, Cloud};
use owed::OwedList;
use rig::Rig;
use slow_link::SlowLink;
use store::{Running, opening, start, until};

struct Sending {
    stats: Arc<UplinkStats>,
    stop: Stop,
    task: JoinHandle<()>,
    _run_dir: tempfile::TempDir,
}

/// An uplink of a store, live-first.
fn sending(running: &Running, uplink: &str, to: SocketAddr) -> Sending {
    let run_dir = tempfile::tempdir().unwrap();
    let mut plan = rig::plan(to);
    (plan.name, plan.delivery) = (uplink.into(), Delivery::LiveFirst);
    let (uplink, stats) = Uplink::new(UplinkParts {
        source: StoreSource::new(running.store.clone(), uplink).unwrap(),
        plan,
        gateway: "gw".into(),
        clock: running.clock.clone(),
        notices: notices().0,
        commands: None,
        pass_on: None,
        run_dir: run_dir.path().to_owned(),
        timing: Timing {
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_millis(400),
            ..Timing::default()
        },
    });
    let stop = Stop::new();
    let task = tokio::spawn(uplink.run(stop.clone()));
    Sending { stats, stop, task, _run_dir: run_dir }
}

impl Sending {
    async fn stopped(self) {
        self.stop.begin();
        self.stop.hurry();
        tokio::time::timeout(Duration::from_secs(120), self.task).await.expect("ends in time").expect("no panic");
    }
}

fn number(arrived: &Arrived) -> Option<(String, u64)> {
    let json = arrived.json();
    Some((json["stream"].as_str()?.to_owned(), json["seq"].as_u64()?))
}

fn numbers(cloud: &Cloud) -> Vec<(String, u64)> {
    cloud.log().iter().filter(|arrived| !arrived.topic.ends_with("/gap")).filter_map(number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_records_arrive_within_a_second_and_a_round_trip_while_a_backlog_drains_over_a_slow_link() {
    const ROUND_TRIP: Duration = Duration::from_millis(600);
    const RATE: u32 = 32_000;
    /// What a machine with other things to do may add.
    const BUSY: Duration = Duration::from_secs(2);
    let home = tempfile::tempdir().unwrap();
    let running = start(opening(home.path()));
    running.emit(Class::Telemetry, 0..50_000).await;
    running.settled(50_000).await;
    let cloud = Cloud::start().await;
    let link = SlowLink::to(cloud.address, RATE, ROUND_TRIP).await;
    let uplink = sending(&running, "cloud", link.address);
    until("the backlog is on its way", || uplink.stats.acknowledged.get() > 300).await;
    let (begun, carried) = (Instant::now(), link.up.load(std::sync::atomic::Ordering::Relaxed));
    let mut late = Vec::new();
    for n in 1..=8 {
        // an event is committed at once; from then on it is live
        let number = running.event(Class::Event, "live").await;
        assert_eq!(number.seq.0, n);
        let committed = Instant::now();
        until("the event has arrived", || numbers(&cloud).contains(&("event".into(), n))).await;
        late.push(committed.elapsed());
    }
    let used = link.up.load(std::sync::atomic::Ordering::Relaxed) - carried;
    let full = u64::from(RATE) * u64::try_from(begun.elapsed().as_millis()).unwrap() / 1000;
    assert!(used * 100 > full * 75, "the backlog goes on beside them: {used} of {full} bytes");
    // the machine may be busy, the link is not: the median counts, and behind the backlog it would be half a minute
    late.sort();
    assert!(late[4] < Duration::from_secs(1) + ROUND_TRIP + BUSY, "{late:?}");
    assert!(uplink.stats.backlog.get() > 10_000 && uplink.stats.drain_estimate().is_some());
    uplink.stopped().await;
    running.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_live_records_than_the_link_carries_leave_the_backlog_its_share() {
    let home = tempfile::tempdir().unwrap();
    let running = start(opening(home.path()));
    running.emit(Class::Bulk, 0..20_000).await;
    running.settled(20_000).await;
    let cloud = Cloud::start().await;
    let link = SlowLink::to(cloud.address, 32_000, Duration::from_millis(100)).await;
    let uplink = sending(&running, "cloud", link.address);
    until("the backlog is on its way", || uplink.stats.acknowledged.get() > 10).await;
    running.emit(Class::Telemetry, 0..20_000).await;
    running.settled(40_000).await;
    let before = numbers(&cloud).len();
    until("1200 more have arrived", || numbers(&cloud).len() > before + 1200).await;
    let seen = numbers(&cloud);
    let after = &seen[seen.len() - 800..];
    let backlog = after.iter().filter(|(stream, _)| stream == "bulk").count();
    // A quarter of the bytes; records of the two classes are not of one size.
    assert!((120..360).contains(&backlog), "{backlog} of 800");
    uplink.stopped().await;
    running.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_over_reconnects_and_restarts_and_live_goes_first_each_time() {
    let home = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    cloud.cut_after(Some(400));
    let (mut emitted, mut repeated) = (0, 0);
    for _ in 0..3 {
        let running = start(opening(home.path()));
        let uplink = sending(&running, "cloud", cloud.address);
        running.emit(Class::Telemetry, emitted..emitted + 1500).await;
        emitted += 1500;
        until("the third session", || uplink.stats.sessions.get() >= 3).await;
        repeated += uplink.stats.sessions.get() * 400;
        uplink.stopped().await;
        running.close().await;
    }
    cloud.cut_after(None);
    let running = start(opening(home.path()));
    let uplink = sending(&running, "cloud", cloud.address);
    until("nothing waits any more", || uplink.stats.connected.get() == 1 && uplink.stats.backlog.get() == 0).await;
    uplink.stopped().await;
    running.close().await;
    let all = numbers(&cloud);
    let distinct: BTreeSet<u64> = all.iter().map(|(_, seq)| *seq).collect();
    assert!(distinct.into_iter().eq(1..=emitted));
    assert!((all.len() as u64) < emitted + repeated);
}

/// Impatient with refusals.
fn refusing(cloud: &Cloud, owed: &OwedList) -> Rig {
    Rig::start_with(cloud, owed, |parts| parts.timing.refused_again = Duration::from_millis(200))
}

fn seqs(cloud: &Cloud) -> BTreeSet<u64> {
    numbers(cloud).into_iter().map(|(_, seq)| seq).collect()
}

const BAD: &str = "acme/pump-1/bad";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_broker_calls_invalid_three_times_is_given_up_and_the_others_arrive() {
    let cloud = Cloud::start().await;
    cloud.deny(&format!("up/{BAD}"), 0x99);
    let owed = OwedList::default();
    owed.samples(1..=50);
    owed.push([owed::sample_on(BAD, 51)]);
    owed.samples(52..=100);
    let mut rig = refusing(&cloud, &owed);
    cloud.until("all but one", |_| owed.acknowledged() == 100).await;
    assert_eq!((owed.refused(), rig.stats.refused.get(), cloud.denied()), (vec![51], 1, 3));
    assert_eq!(rig.told(), ["uplink_record_refused once"]);
    owed.end();
    rig.finished().await;
    assert_eq!(seqs(&cloud), (1..=50).chain(52..=100).collect());
    assert_eq!(owed.wrong_acks(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_batch_only_the_record_that_the_broker_refuses_is_given_up() {
    let cloud = Cloud::start().await;
    let owed = OwedList::default();
    owed.samples(1..=40);
    cloud.refuse_payloads_with(r#""value":23,"#, 0x99);
    let rig = Rig::start_with(&cloud, &owed, |parts| {
        parts.timing.refused_again = Duration::from_millis(100);
        parts.plan.batch_samples = 1000;
    });
    cloud.until("all settled", |_| owed.acknowledged() == 40).await;
    assert_eq!((owed.refused(), owed.wrong_acks()), (vec![23], 0));
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_busy_gets_everything_later_and_one_that_forbids_a_topic_when_it_is_allowed() {
    for reason in [0x97, 0x87] {
        let cloud = Cloud::start().await;
        cloud.deny(&format!("up/{BAD}"), reason);
        let owed = OwedList::default();
        owed.samples(1..=20);
        owed.push([owed::sample_on(BAD, 21)]);
        owed.samples(22..=60);
        let mut rig = refusing(&cloud, &owed);
        cloud.until("refused and tried again", |cloud| cloud.denied() >= 4).await;
        assert!(owed.acknowledged() < 60 && owed.refused().is_empty());
        if reason == 0x87 {
            assert_eq!(rig.told(), ["uplink_not_taken active"], "a person must change that, and knows of it once");
        }
        cloud.deny(&format!("up/{BAD}"), 0);
        cloud.until("all acknowledged", |_| owed.acknowledged() == 60).await;
        assert!(owed.refused().is_empty() && rig.stats.refused.get() == 0);
        owed.end();
        rig.finished().await;
        assert_eq!(seqs(&cloud), (1..=60).collect());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_over_which_the_broker_falls_each_time_is_found_and_given_up() {
    let cloud = Cloud::start().await;
    cloud.fall_over(r#""value":33,"#);
    let owed = OwedList::default();
    owed.samples(1..=60);
    let mut rig = Rig::start_with(&cloud, &owed, |parts| {
        parts.plan.mqtt_version = MqttVersion::V311;
        parts.plan.batch_samples = 25;
    });
    cloud.until("all settled", |_| owed.acknowledged() == 60).await;
    assert_eq!((owed.refused(), rig.stats.refused.get()), (vec![33], 1));
    assert!(rig.told().contains(&"uplink_record_refused once".to_owned()));
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_at_once_every_time_costs_no_record() {
    let cloud = Cloud::start().await;
    cloud.cut_after(Some(1)); // the status, which stays unacknowledged
    let owed = OwedList::default();
    owed.samples(1..=10);
    let rig = Rig::start(&cloud, &owed);
    cloud.until("many sessions", |cloud| cloud.connects().len() >= 15).await;
    cloud.cut_after(None);
    cloud.until("all acknowledged", |_| owed.acknowledged() == 10).await;
    assert!(owed.refused().is_empty());
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uplink_that_is_dead_for_a_day_does_not_harm_the_other_and_gets_everything_in_the_end() {
    let home = tempfile::tempdir().unwrap();
    let mut with_two = opening(home.path());
    with_two.uplinks.push(store::route("plant", &Class::ALL));
    let running = start(with_two);
    let (good, dead) = (Cloud::start().await, Cloud::start().await);
    dead.refuse_connections(true);
    let (cloud, plant) = (sending(&running, "cloud", good.address), sending(&running, "plant", dead.address));
    let mut stored = 0;
    for hour in 0..24 {
        running.time.advance(Duration::from_secs(3600));
        running.emit(Class::Telemetry, stored..stored + 200).await;
        stored += 200;
        running.settled(stored).await;
        good.until("the good one has this hour", |_| numbers(&good).len() as u64 == stored).await;
        assert_eq!(cloud.stats.failures.get(), 0, "hour {hour}");
    }
    until("all of a day waits", || {
        plant.stats.backlog.get() == stored && plant.stats.backlog_age_s.get() >= 23 * 3600 - 60
    })
    .await;
    assert!(numbers(&dead).is_empty());
    dead.refuse_connections(false);
    until("nothing waits any more", || plant.stats.connected.get() == 1 && plant.stats.backlog.get() == 0).await;
    assert!(seqs(&dead).into_iter().eq(1..=stored));
    assert_eq!(numbers(&good).len() as u64, stored, "each once");
    cloud.stopped().await;
    plant.stopped().await;
    running.close().await;
}
