//! What takes an hour, or five hundred devices: the product's own uplink before the host, without a daemon and a field around it. Its
//! time is tokio's, so that an hour passes in a moment.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use ironbridge::config::plan::{
    Compress, Datatypes, Delivery, DevicePlan, Format, MqttVersion, Plan, Preset, ServerPlan, SparkplugPlan, TagPlan,
    Transport, UplinkPlan,
};
use ironbridge::flow::clock::{Clock, Fix, TimeSource};
use ironbridge::flow::latest::Latest;
use ironbridge::flow::notice::{Notice, Phase, notices};
use ironbridge::flow::stop::Stop;
use ironbridge::model::number::{Class, Epoch, Number, Seq};
use ironbridge::model::quality::Quality;
use ironbridge::model::sparkplug::Node;
use ironbridge::model::tag::{Address, BusIx, DataType, DeviceIx, Table};
use ironbridge::model::time::{Boot, Stamp};
use ironbridge::model::value::Value;
use ironbridge::store::{Ack, DictionaryTag, Item, MeterRow, Owed, OwedBody};
use ironbridge::uplink::{Lane, Plant, Pull, Source, Timing, Uplink, UplinkParts, Wants};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::commands::rebirth;
use crate::host::{Did, Host};
use crate::law::lawful;

/// 2026-11-20T20:00:00Z
const NOW_MS: i64 = 1_795_204_800_000;
const EPOCH: Epoch = Epoch(8123);

struct TokioTime(Instant);

impl TimeSource for TokioTime {
    fn boot_micros(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_micros()).unwrap()
    }
}

/// What is owed, without a store.
#[derive(Clone, Default)]
pub struct Shelf {
    items: Arc<Mutex<Vec<Owed>>>,
    acknowledged: Arc<Mutex<HashSet<u64>>>,
    grown: Arc<Notify>,
    dictionary: Arc<Vec<Arc<DictionaryTag>>>,
}

struct Reader {
    shelf: Shelf,
    at: usize,
}

impl Shelf {
    /// A sample of this tag, taken now.
    pub fn put(&self, tag: usize, value: u64, at: Stamp) {
        let mut items = self.items.lock().unwrap();
        let seq = Seq(items.len() as u64 + 1);
        items.push(Owed {
            number: Number { stream: Class::Telemetry, epoch: EPOCH, seq },
            previous: None,
            body: OwedBody::Sample {
                tag: Arc::clone(&self.dictionary[tag]),
                value: Some(Value::Uint(value)),
                quality: Quality::Good,
            },
            at,
        });
        drop(items);
        self.grown.notify_one();
    }

    pub fn open(&self) -> usize {
        self.items.lock().unwrap().len() - self.acknowledged.lock().unwrap().len()
    }
}

impl Source for Reader {
    async fn next(&mut self, wants: Wants) -> Option<Pull> {
        let at_most = wants.live.max(wants.backlog);
        loop {
            {
                let (items, acknowledged) = (self.shelf.items.lock().unwrap(), self.shelf.acknowledged.lock().unwrap());
                let mut out = Vec::new();
                while let Some(owed) = items.get(self.at).filter(|_| out.len() < at_most) {
                    self.at += 1;
                    if !acknowledged.contains(&owed.number.seq.0) {
                        out.push(Item::Record(owed.clone()));
                    }
                }
                if !out.is_empty() {
                    return Some(Pull { lane: Lane::Backlog, items: out });
                }
            }
            self.shelf.grown.notified().await;
        }
    }

    fn begin(&mut self, _delivery: Delivery) {
        self.at = 0;
    }

    fn only(&mut self, _classes: &[Class]) {}

    fn waiting(&self) -> Vec<Class> {
        if self.shelf.open() > 0 { vec![Class::Telemetry] } else { Vec::new() }
    }

    fn meters(&self) -> Option<Vec<MeterRow>> {
        Some(Vec::new())
    }

    fn save_meters(&self, _rows: Vec<MeterRow>) {}

    fn acknowledge(&self, ack: Ack) {
        let Ack::Records { first, last, .. } = ack else { return };
        self.shelf.acknowledged.lock().unwrap().extend(first.0..=last.0);
    }

    fn refuse(&mut self, ack: Ack, _taken: Option<(Stamp, Stamp)>) {
        panic!("nothing is refused here: {ack:?}");
    }

    async fn save(&self) {}

    fn backlog(&self) -> u64 {
        self.shelf.open() as u64
    }

    fn oldest(&self) -> Option<Stamp> {
        None
    }

    fn directory(&self) -> Option<PathBuf> {
        None
    }

    fn newest(&self) -> Vec<(Class, Epoch, Seq)> {
        Vec::new()
    }

    fn dictionary(&self) -> Option<Vec<Arc<DictionaryTag>>> {
        Some(self.shelf.dictionary.to_vec())
    }

    async fn next_session(&self) -> Option<u8> {
        None
    }
}

/// An edge node.
pub struct Site {
    pub shelf: Shelf,
    pub clock: Clock,
    pub devices: Vec<String>,
    notices: Mutex<mpsc::Receiver<Notice>>,
    stop: Stop,
    _run_dir: tempfile::TempDir,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.begin();
    }
}

pub fn tag_name(tag: usize) -> String {
    if tag == 0 { "level".into() } else { format!("temperature-{tag}") }
}

fn plan(devices: &[String], tags: usize) -> Plan {
    let mut plan = Plan::empty("gw");
    for (ix, device) in (0..).zip(devices) {
        let address = Address { table: Table::Holding, start: 0, bit: None };
        for name in (0..tags).map(tag_name) {
            let topic = format!("gw/{device}/{name}").into();
            plan.tags.push(TagPlan { topic, ..TagPlan::plain(&name, DeviceIx(ix), address, DataType::Uint16) });
        }
        let tags = plan.tags.len() - tags..plan.tags.len();
        plan.devices.push(DevicePlan { tags, ..DevicePlan::plain(device, BusIx(0), 1) });
    }
    plan
}

impl Site {
    /// Of so many devices with a tag each.
    fn start(host: &Host, count: usize, primary: Option<&str>) -> Self {
        Self::with(host.address, (count, 1), primary, Preset::Plain)
    }

    /// Of so many devices with so many tags each, whose host is there.
    pub fn with(to: SocketAddr, (count, tags): (usize, usize), primary: Option<&str>, preset: Preset) -> Self {
        let clock = Clock::new(Arc::new(TokioTime(Instant::now())), Boot(1), 0);
        clock.learn(Fix { at: clock.now(), unix_ms: NOW_MS });
        let devices: Vec<String> = (0..count).map(|device| format!("pump-{device}")).collect();
        let all = devices.iter().flat_map(|device| (0..tags).map(move |tag| (device, tag_name(tag))));
        let entry = |(id, (device, name)): (u32, (&String, String))| {
            let (topic, data_type) = (format!("gw/{device}/{name}"), DataType::Uint16);
            Arc::new(DictionaryTag { id, device: device.clone(), name, topic, data_type })
        };
        let dictionary = Arc::new((1..).zip(all).map(entry).collect());
        let shelf = Shelf { dictionary, ..Shelf::default() };
        let server = ServerPlan { host: to.ip().to_string(), port: to.port(), transport: Transport::Tcp };
        let spark = SparkplugPlan {
            node: Node::new("acme", "gw").unwrap(),
            primary_host: primary.map(str::to_owned),
            host_timeout: Duration::ZERO,
            datatypes: Datatypes::Births,
        };
        let uplink = UplinkPlan {
            servers: vec![server],
            format: Format::Sparkplug,
            compress: Compress::None,
            delivery: Delivery::LiveFirst,
            batch_samples: 10_000,
            preset,
            mqtt_version: MqttVersion::V311,
            sparkplug: Some(spark),
            ..UplinkPlan::plain("scada")
        };
        let run_dir = tempfile::tempdir().unwrap();
        let (hand_in, waiting) = notices();
        let timing = Timing { retry_first: Duration::from_millis(100), ..Timing::default() };
        let (mut uplink, _) = Uplink::new(UplinkParts {
            plan: uplink,
            gateway: "gw".into(),
            source: Reader { shelf: shelf.clone(), at: 0 },
            clock: clock.clone(),
            notices: hand_in,
            commands: None,
            pass_on: None,
            run_dir: run_dir.path().to_owned(),
            timing,
        });
        let (plan, latest) = (Arc::new(ArcSwap::from_pointee(plan(&devices, tags))), Arc::<Latest>::default());
        uplink.live_in(Plant { plan, latest });
        let stop = Stop::new();
        tokio::spawn(uplink.run(stop.clone()));
        Self { shelf, clock, devices, notices: Mutex::new(waiting), stop, _run_dir: run_dir }
    }

    /// What the operator was told since this was asked last.
    fn noticed(&self) -> Vec<(&'static str, Phase, String)> {
        let mut waiting = self.notices.lock().unwrap();
        std::iter::from_fn(|| waiting.try_recv().ok()).map(|it| (it.event, it.phase, it.detail)).collect()
    }

    /// Times of `level` of the first device that the host was told, and how many of them are historical.
    pub fn told(&self, host: &Host) -> (BTreeSet<u64>, usize) {
        let names: Vec<&str> = self.devices.iter().map(String::as_str).collect();
        let values = lawful(host, &names);
        let Some(told) = values.get(&(self.devices[0].clone(), "level".into())) else { return Default::default() };
        let valued = || told.iter().filter(|told| told.value.is_some());
        (valued().map(|told| told.unix_ms).collect(), valued().filter(|told| told.historical).count())
    }
}

pub fn unix_ms(clock: &Clock, at: Stamp) -> u64 {
    u64::try_from(clock.wall(at).unix_ms).unwrap()
}

fn subscribed(host: &Host) -> usize {
    host.log().iter().filter(|entry| matches!(entry.did, Did::Subscribe(_))).count()
}

/// Everybody who has something to do does it.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_host_that_is_offline_for_an_hour_is_left_alone_and_then_gets_one_birth_and_every_value() {
    let host = Host::start().await;
    let since = u64::try_from(NOW_MS).unwrap();
    host.state("scada", true, since);
    let site = Site::start(&host, 2, Some("scada"));
    let mut taken = BTreeSet::new();
    let mut take = |value: u64| {
        let at = site.clock.now();
        taken.insert(unix_ms(&site.clock, at));
        (0..site.devices.len()).for_each(|tag| site.shelf.put(tag, value, at));
    };
    host.count("DBIRTH", 2).await;
    take(0);
    host.count("DDATA", 1).await;
    host.state("scada", false, since);
    host.count("NDEATH", 1).await;
    host.until("it is back, and waits", |host| subscribed(host) >= 2).await;
    let (births, messages) = (host.of("NBIRTH").len(), host.messages().len());
    let began = Instant::now();
    tokio::time::pause();
    for second in 1..=3600 {
        tokio::time::advance(Duration::from_secs(1)).await;
        take(second);
        settle().await;
    }
    tokio::time::resume();
    assert!(began.elapsed() >= Duration::from_secs(3600));
    let deaths = host.messages()[messages..].iter().filter(|message| message.kind != "NDEATH").count();
    assert_eq!((host.of("NBIRTH").len(), deaths), (births, 0), "nothing for a host that is not there");
    assert!(host.connects().len() < 5, "one session, kept: {}", host.connects().len());
    let noticed = site.noticed();
    let [("host_awaited", Phase::Active, detail)] = &noticed[..] else { panic!("{noticed:?}") };
    assert!(detail.contains("spBv1.0/STATE/scada") && detail.contains("not there"), "{detail}");
    host.state("scada", true, since + 3_600_000);
    host.until("everything counts", |_| site.shelf.open() == 0).await;
    assert!(matches!(site.noticed()[..], [("host_awaited", Phase::Cleared, _)]));
    assert_eq!(host.of("NBIRTH").len(), births + 1);
    let (told, historical) = site.told(&host);
    assert_eq!(taken.difference(&told).count(), 0, "of {}", taken.len());
    assert!(historical >= 3600, "what is late says so: {historical}");
}

// covers: tck-id-operational-behavior-data-commands-rebirth-action-2
#[tokio::test]
async fn births_of_five_hundred_devices_are_not_stormed_by_hosts_that_come_late() {
    let host = Host::start().await;
    let site = Site::start(&host, 500, None);
    host.count("DBIRTH", 500).await;
    site.shelf.put(0, 1, site.clock.now());
    host.count("DDATA", 1).await;
    (0..200).for_each(|_| host.command(None, vec![rebirth()]));
    host.count("DBIRTH", 1000).await;
    (0..200).for_each(|_| host.command(None, vec![rebirth()]));
    for value in 2..20 {
        let seen = host.of("DDATA").len();
        site.shelf.put(0, value, site.clock.now());
        host.count("DDATA", seen + 1).await;
    }
    assert_eq!((host.of("NBIRTH").len(), host.of("DBIRTH").len(), host.connects().len()), (2, 1000, 1));
    let kinds: Vec<String> = host.messages().into_iter().map(|message| message.kind).collect();
    let second = kinds.iter().rposition(|kind| kind == "NBIRTH").unwrap();
    assert!(kinds[second + 1..=second + 500].iter().all(|kind| kind == "DBIRTH"), "all of them before any data");
    site.told(&host); // held against the law
}
