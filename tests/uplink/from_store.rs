//! Store and uplink together: what was committed arrives, through cuts of the link and restarts of the store.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::rig;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::UplinkStart;
use ironbridge::flow::hub::{EventRecord, Hub, hub};
use ironbridge::flow::notice::notices;
use ironbridge::flow::stop::Stop;
use ironbridge::model::number::Class;
use ironbridge::model::quality::Quality;
use ironbridge::model::sample::{Batch, Sample};
use ironbridge::model::tag::{DataType, DeviceIx, TagIx};
use ironbridge::model::time::{Boot, Stamp};
use ironbridge::model::value::Value;
use ironbridge::receive::decode::{Received, decode};
use ironbridge::receive::ledger::{Begin, Ledger, Report};
use ironbridge::store::{Opening, Route, StoreHandle, TagMeta};
use ironbridge::uplink::{StoreSource, Timing, Uplink, UplinkParts, UplinkStats};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;

use cloud::Cloud;

const SAMPLES_PER_BATCH: u64 = 10;

/// A store with one uplink, running.
struct Gateway {
    hub: Hub,
    store: StoreHandle,
    stop: Stop,
    stats: Arc<UplinkStats>,
    uplink: JoinHandle<()>,
}

fn opening(dir: &Path, max_size: u64) -> Opening {
    let tags = (0..SAMPLES_PER_BATCH).map(|n| TagMeta {
        device: "pump-1".into(),
        name: format!("tag-{n}"),
        topic: format!("acme/pump-1/tag-{n}").into(),
        data_type: DataType::Uint64,
        class: Class::Telemetry,
    });
    let route = Route { name: "cloud".into(), classes: Class::ALL.into(), start: UplinkStart::Oldest };
    Opening {
        dir: dir.join("store"),
        max_size,
        max_age: None,
        commit_interval: Duration::from_millis(100),
        tags: tags.collect(),
        uplinks: vec![route],
        boot_token: "one".into(),
    }
}

impl Gateway {
    fn start(dir: &Path, cloud: &Cloud) -> Self {
        Self::start_with(opening(dir, 64 << 20), dir, cloud)
    }

    fn start_with(opening: Opening, dir: &Path, cloud: &Cloud) -> Self {
        let classes = opening.tags.iter().map(|tag| tag.class).collect();
        let (hub, _latest, end) = hub(classes);
        let (hand_in, _) = notices();
        let clock = rig::clock();
        let store = ironbridge::store::open(opening).start(end, clock.clone(), hand_in.clone());
        let timing = Timing {
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_millis(400),
            ..Timing::default()
        };
        let (uplink, stats) = Uplink::new(UplinkParts {
            plan: rig::plan(cloud.address),
            gateway: "gw".into(),
            source: StoreSource::new(store.clone(), "cloud").unwrap(),
            clock,
            notices: hand_in,
            commands: None,
            pass_on: None,
            run_dir: dir.to_owned(),
            timing,
        });
        let stop = Stop::new();
        let uplink = tokio::spawn(uplink.run(stop.clone()));
        Self { hub, store, stop, stats, uplink }
    }

    async fn emit(&self, batches: u64) {
        for number in 0..batches {
            let at = Stamp { boot: Boot(1), micros: i64::try_from(number).unwrap() };
            let sample = |tag: u64| Sample {
                tag: TagIx(u32::try_from(tag).unwrap()),
                value: Some(Value::Uint(number)),
                quality: Quality::Good,
                at,
            };
            let samples = (0..SAMPLES_PER_BATCH).map(sample).collect();
            self.hub.emit(Batch { device: DeviceIx(0), samples }).await;
        }
    }

    /// SIGTERM: the sources end, the store commits, the uplink drains what it can and leaves.
    async fn stopped(self) {
        self.stop.begin();
        drop(self.hub);
        tokio::time::timeout(Duration::from_secs(120), self.uplink).await.expect("ends in time").expect("no panic");
        tokio::time::timeout(Duration::from_secs(120), self.store.finish()).await.expect("the store ends");
    }
}

fn books(cloud: &Cloud) -> Report {
    let mut ledger = Ledger::new(Begin::One);
    for arrived in cloud.log() {
        let topic = arrived.topic.strip_prefix("up/").expect("every topic has the prefix");
        match decode(topic, &arrived.payload) {
            Received::Numbered(numbered) => drop(ledger.note(numbered.number, numbered.previous)),
            Received::Gap { stream, epoch, first, last, .. } => ledger.note_gap(stream, epoch, first, last),
            Received::Status(newest) => newest.into_iter().for_each(|(s, e, q)| ledger.note_newest(s, e, q)),
            Received::Other => assert!(arrived.will, "{arrived:?}"),
        }
    }
    ledger.report()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_committed_arrives_through_cuts_and_restarts_of_both_sides() {
    let home = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    cloud.cut_after(Some(700));
    let mut emitted = 0;
    for round in 0..3 {
        let gateway = Gateway::start(home.path(), &cloud);
        gateway.emit(300).await;
        let event = EventRecord {
            topic: "ironbridge/gw/event".into(),
            body: br#"{"event":"round"}"#.to_vec(),
            class: Class::Event,
            at: Stamp { boot: Boot(1), micros: round },
            committed: None,
        };
        gateway.hub.emit_event(event).await;
        emitted += 300 * SAMPLES_PER_BATCH + 1;
        if round == 1 {
            cloud.until("some of it", |_| gateway.stats.acknowledged.get() > 500).await;
        }
        gateway.stopped().await; // in the middle of draining
    }
    cloud.cut_after(None);
    let gateway = Gateway::start(home.path(), &cloud);
    cloud
        .until("everything is acknowledged", |_| gateway.stats.connected.get() == 1 && gateway.stats.backlog.get() == 0)
        .await;
    gateway.stopped().await;
    let report = books(&cloud);
    assert_eq!((report.received, report.missing, report.declared_lost), (emitted, 0, 0), "{report:?}");
    assert_eq!((report.out_of_order, report.outstanding), (0, 0));
    assert!(report.streams.iter().all(|stream| stream.previous_epoch.is_none()), "one epoch for the life of a store");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_evicted_during_an_outage_reaches_the_receiver_as_a_gap_with_its_time_range() {
    let home = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    cloud.refuse_connections(true);
    cloud.cut();
    let gateway = Gateway::start_with(opening(home.path(), 4 << 20), home.path(), &cloud);
    let at = |n: u64| Stamp { boot: Boot(1), micros: i64::try_from(n).unwrap() * 1_000_000 };
    let mut dice = StdRng::seed_from_u64(1);
    let count = 3000;
    for n in 1..=count {
        let text: String =
            (0..2000).map(|_| char::from(dice.random_range(b'0'..=b'z'))).filter(|c| *c != '\\').collect();
        let body = serde_json::json!({ "text": text }).to_string().into_bytes();
        let (committed, told) = tokio::sync::oneshot::channel();
        let (topic, committed) = ("machines/press".into(), (n % 20 == 0).then_some(committed));
        let waits = committed.is_some();
        gateway.hub.emit_event(EventRecord { topic, body, class: Class::Bulk, at: at(n), committed }).await;
        if waits {
            told.await.unwrap();
        }
    }
    cloud.refuse_connections(false);
    cloud
        .until("everything is acknowledged", |_| gateway.stats.connected.get() == 1 && gateway.stats.backlog.get() == 0)
        .await;
    gateway.stopped().await;
    let report = books(&cloud);
    assert!(report.declared_lost > 0, "{report:?}");
    assert_eq!((report.received + report.declared_lost, report.missing, report.outstanding), (count, 0, 0));
    let gaps = cloud.on("up/ironbridge/gw/gap");
    let [gap] = &gaps[..] else { panic!("one gap: {gaps:?}") };
    let (gap, clock) = (gap.json(), rig::clock());
    let wall = |n: &serde_json::Value| clock.wall(at(n.as_u64().unwrap())).to_string();
    assert_eq!((&gap["first"], &gap["reason"]), (&1.into(), &"evicted".into()));
    assert_eq!(
        (gap["from"].as_str().unwrap(), gap["to"].as_str().unwrap()),
        (&*wall(&gap["first"]), &*wall(&gap["last"]))
    );
}
