//! A broker that forbids one topic: the others flow, what is not taken is declared, and the topic comes back when it may.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::rig;
use crate::store;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ironbridge::config::plan::{Delivery, MqttVersion};
use ironbridge::flow::notice::{Notice, notices};
use ironbridge::flow::stop::Stop;
use ironbridge::model::number::Class;
use ironbridge::model::sample::Batch;
use ironbridge::model::tag::{DataType, DeviceIx};
use ironbridge::uplink::{StoreSource, Timing, Uplink, UplinkParts};
use tokio::sync::mpsc;

use cloud::Cloud;
use store::{Running, sample, start};

const TAGS: [&str; 3] = ["flow", "bad", "level"];
const BAD: &str = "up/plant/pump/bad";
/// Instead of a quarter of an hour.
const AFTER: Duration = Duration::from_millis(1500);

struct Plant {
    running: Running,
    cloud: Cloud,
    told: mpsc::Receiver<Notice>,
    events: Vec<String>,
    stop: Stop,
    task: tokio::task::JoinHandle<()>,
    emitted: u64,
    begun: Instant,
    _home: tempfile::TempDir,
}

impl Plant {
    async fn start(delivery: Delivery, version: MqttVersion, forbid: impl FnOnce(&Cloud)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut opening = store::opening(&home.path().join("store"));
        opening.tags = TAGS.map(|name| store::tag(name, DataType::Uint64, Class::Telemetry)).to_vec();
        let running = start(opening);
        let cloud = Cloud::start().await;
        forbid(&cloud);
        let mut plan = rig::plan(cloud.address);
        (plan.delivery, plan.mqtt_version) = (delivery, version);
        let (hand_in, told) = notices();
        let (uplink, _) = Uplink::new(UplinkParts {
            source: StoreSource::new(running.store.clone(), "cloud").unwrap(),
            plan,
            gateway: "gw".into(),
            clock: running.clock.clone(),
            notices: hand_in,
            commands: None,
            pass_on: None,
            run_dir: home.path().to_owned(),
            timing: Timing {
                retry_first: Duration::from_millis(20),
                retry_max: Duration::from_millis(50),
                refused_again: Duration::from_millis(200),
                forbidden_after: AFTER,
                ..Timing::default()
            },
        });
        let stop = Stop::new();
        let task = tokio::spawn(uplink.run(stop.clone()));
        Self { running, cloud, told, events: Vec::new(), stop, task, emitted: 0, begun: Instant::now(), _home: home }
    }

    /// One poll of all tags.
    async fn poll(&mut self) {
        let at = self.running.clock.now();
        self.running.time.advance(Duration::from_secs(1));
        let samples = (0..3).map(|tag| sample(tag, self.emitted + u64::from(tag), at)).collect();
        self.running.hub.emit(Batch { device: DeviceIx(0), samples }).await;
        self.emitted += 3;
        while let Ok(notice) = self.told.try_recv() {
            self.events.push(format!("{} {} {}", notice.event, notice.phase.as_str(), notice.detail));
        }
    }

    /// Polls until this holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.events);
            self.poll().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn was_told(&self, event: &str) -> usize {
        self.events.iter().filter(|told| told.starts_with(event)).count()
    }

    fn arrived(&self) -> BTreeSet<u64> {
        let log = self.cloud.log();
        let samples = log.iter().filter(|arrived| arrived.topic.starts_with("up/plant/"));
        samples.map(|arrived| arrived.json()["seq"].as_u64().unwrap()).collect()
    }

    fn declared(&self) -> BTreeSet<u64> {
        let mut declared = BTreeSet::new();
        for gap in self.cloud.on("up/ironbridge/gw/gap") {
            let gap = gap.json();
            assert_eq!(gap["reason"], "refused");
            declared.extend(gap["first"].as_u64().unwrap()..=gap["last"].as_u64().unwrap());
        }
        declared
    }

    /// All numbers up to now are there or declared.
    async fn settles(&mut self) {
        let upto = self.emitted;
        let whole = |plant: &Self| {
            let (arrived, declared) = (plant.arrived(), plant.declared());
            (1..=upto).all(|seq| arrived.contains(&seq) || declared.contains(&seq))
        };
        self.until("everything is there or declared", whole).await;
    }

    async fn close(self) {
        let Self { running, stop, task, .. } = self;
        stop.begin();
        stop.hurry();
        tokio::time::timeout(Duration::from_secs(120), task).await.expect("ends in time").expect("no panic");
        running.close().await;
    }
}

async fn one_forbidden_topic(delivery: Delivery, version: MqttVersion, closes: bool) {
    let mut plant = Plant::start(delivery, version, |cloud| {
        cloud.deny(BAD, 0x87);
        cloud.close_when_denied(closes);
    })
    .await;
    let case = format!("{delivery:?} {version:?} closes: {closes}");
    plant.until(&case, |plant| plant.was_told("uplink_topic_forbidden active") == 1).await;
    assert!(plant.events.iter().any(|told| told.contains(BAD)), "{:?}", plant.events);
    plant.settles().await;
    assert!(plant.arrived().is_disjoint(&plant.declared()), "{case}: declared is what is not there");
    assert!(plant.declared().iter().all(|seq| seq % 3 == 2), "{case}: nothing of another topic is declared");
    if version == MqttVersion::V5 {
        let (sessions, elapsed) = (plant.cloud.connects().len() as u128, plant.begun.elapsed().as_millis());
        let most = if closes { 2 + elapsed * 3 / AFTER.as_millis() } else { 1 };
        assert!(sessions <= most, "{case}: {sessions} sessions in {elapsed} ms");
    }
    plant.cloud.deny(BAD, 0);
    plant.until(&case, |plant| plant.was_told("uplink_topic_forbidden cleared") == 1).await;
    let before = plant.cloud.on(BAD).len();
    plant.until("it flows again", |plant| plant.cloud.on(BAD).len() > before + 10).await;
    plant.settles().await;
    assert_eq!(plant.was_told("uplink_topic_forbidden"), 2, "{case}: {:?}", plant.events);
    let seqs: Vec<u64> = plant.cloud.on(BAD).iter().map(|arrived| arrived.json()["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted(), "{case}: in order");
    plant.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_forbidden_topic_does_not_starve_the_others() {
    tokio::join!(
        one_forbidden_topic(Delivery::Strict, MqttVersion::V5, false),
        one_forbidden_topic(Delivery::LiveFirst, MqttVersion::V5, false),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_forbidden_topic_does_not_starve_the_others_where_the_broker_closes_for_it() {
    tokio::join!(
        one_forbidden_topic(Delivery::Strict, MqttVersion::V5, true),
        one_forbidden_topic(Delivery::LiveFirst, MqttVersion::V5, true),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_forbidden_topic_does_not_starve_the_others_where_the_broker_closes_without_a_word() {
    tokio::join!(
        one_forbidden_topic(Delivery::Strict, MqttVersion::V311, true),
        one_forbidden_topic(Delivery::LiveFirst, MqttVersion::V311, true),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_forbids_everything_costs_no_record() {
    for closes in [false, true] {
        let topics = TAGS.map(|name| format!("up/plant/pump/{name}"));
        let mut plant = Plant::start(Delivery::LiveFirst, MqttVersion::V5, |cloud| {
            cloud.deny_all(&topics, 0x87);
            cloud.close_when_denied(closes);
        })
        .await;
        plant.until("some time passes", |plant| plant.begun.elapsed() > 3 * AFTER).await;
        assert_eq!((plant.was_told("uplink_topic_forbidden"), plant.declared().len()), (0, 0), "{:?}", plant.events);
        assert_eq!(plant.was_told("uplink_not_taken active"), 1, "{:?}", plant.events);
        plant.cloud.deny_all(&[], 0);
        plant.settles().await;
        assert!(plant.declared().is_empty(), "everything arrived");
        plant.close().await;
    }
}
