//! A store with its lane, for tests: open, emit, drain, close.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::UplinkStart;
use ironbridge::flow::clock::{Clock, FakeTime, Fix};
use ironbridge::flow::hub::{EventRecord, Hub, hub};
use ironbridge::flow::latest::Latest;
use ironbridge::flow::notice::{Notice, notices};
use ironbridge::model::number::{Class, Number};
use ironbridge::model::quality::Quality;
use ironbridge::model::sample::{Batch, Sample};
use ironbridge::model::stats::Counter;
use ironbridge::model::tag::{DataType, DeviceIx, TagIx};
use ironbridge::model::time::Stamp;
use ironbridge::model::value::Value;
use ironbridge::store::{Ack, Item, Opening, OwedBody, Reader, Route, StoreHandle, TagMeta, open};
use tokio::sync::{mpsc, oneshot};

#[allow(unused_imports)] // each test file waits in its own way
pub use crate::patience::{PATIENCE, until};

pub fn tag(name: &str, data_type: DataType, class: Class) -> TagMeta {
    let topic = format!("plant/pump/{name}").into();
    TagMeta { device: "pump".into(), name: name.into(), topic, data_type, class }
}

pub fn route(name: &str, classes: &[Class]) -> Route {
    Route { name: name.into(), classes: classes.to_vec(), start: UplinkStart::Now }
}

/// Tags 0..4 have the four classes in order.
pub fn opening(dir: &Path) -> Opening {
    Opening {
        dir: dir.to_path_buf(),
        max_size: 64 * 1024 * 1024,
        max_age: None,
        commit_interval: Duration::from_millis(20),
        tags: Class::ALL.map(|class| tag(class.as_str(), DataType::Uint64, class)).to_vec(),
        uplinks: vec![route("cloud", &Class::ALL)],
        boot_token: "boot-1".into(),
    }
}

pub struct Running {
    pub hub: Hub,
    pub latest: Arc<Latest>,
    pub store: StoreHandle,
    pub clock: Clock,
    pub time: Arc<FakeTime>,
    pub notices: mpsc::Receiver<Notice>,
}

pub fn start(opening: Opening) -> Running {
    let classes = opening.tags.iter().map(|tag| tag.class).collect();
    let (hub, latest, end) = hub(classes);
    let (tell, told) = notices();
    let store = open(opening);
    let time = Arc::new(FakeTime::default());
    let clock = Clock::new(time.clone(), store.boot(), 0);
    Running { hub, latest, store: store.start(end, clock.clone(), tell), clock, time, notices: told }
}

pub fn sample(tag: u32, value: u64, at: Stamp) -> Sample {
    Sample { tag: TagIx(tag), value: Some(Value::Uint(value)), quality: Quality::Good, at }
}

impl Running {
    /// What the daemon does at start: what is known of this boot without a fix is remembered.
    pub fn began(&self) {
        if let Some(floor) = self.clock.floor() {
            self.learns(floor);
        }
    }

    /// UTC is known.
    pub fn learns(&self, fix: Fix) {
        self.clock.learn(fix);
        self.store.record_fix(fix);
    }

    /// Emits samples of a class's tag with these values.
    pub async fn emit(&self, class: Class, values: impl IntoIterator<Item = u64>) {
        let at = self.clock.now();
        let samples: Vec<_> = values.into_iter().map(|value| sample(class as u32, value, at)).collect();
        for part in samples.chunks(500) {
            self.hub.emit(Batch { device: DeviceIx(0), samples: part.to_vec() }).await;
        }
    }

    /// Stores an event and waits for its number.
    pub async fn event(&self, class: Class, text: &str) -> Number {
        let (committed, number) = oneshot::channel();
        self.hub
            .emit_event(EventRecord {
                topic: "ironbridge/gw/event".into(),
                body: format!("{{\"event\":\"{text}\"}}").into_bytes(),
                class,
                at: self.clock.now(),
                committed: Some(committed),
            })
            .await;
        tokio::time::timeout(PATIENCE, number).await.expect("in time").expect("committed")
    }

    /// Waits until everything emitted so far is committed.
    pub async fn settled(&self, stored: u64) {
        let stats = self.store.stats();
        let total = || stats.stored.values().chain(stats.spilled.values()).map(Counter::get).sum::<u64>();
        until(&format!("{stored} committed or spilled"), || total() >= stored).await;
    }

    /// Closes the lane and waits for the store to end; what was handed to readers is theirs.
    pub async fn close(self) {
        let Self { hub, store, .. } = self;
        drop(hub);
        tokio::time::timeout(PATIENCE, store.ended()).await.expect("ends");
        tokio::time::timeout(PATIENCE, store.finish()).await.expect("finishes");
    }
}

pub async fn next(reader: &mut Reader, at_most: usize) -> Option<Vec<Item>> {
    tokio::time::timeout(PATIENCE, reader.next(at_most)).await.expect("something comes in time")
}

/// What a record says: its number and its value (events: `u64::MAX`).
pub fn told(item: &Item) -> Option<(Number, u64)> {
    match item {
        Item::Gap(_) => None,
        Item::Record(owed) => Some((
            owed.number,
            match &owed.body {
                OwedBody::Sample { value: Some(Value::Uint(value)), .. } => *value,
                _ => u64::MAX,
            },
        )),
    }
}

pub fn ack(item: &Item) -> Ack {
    match item {
        Item::Gap(gap) => Ack::Gap(gap.id),
        Item::Record(owed) => Ack::of(owed.number),
    }
}

/// Takes items until `count` numbers (records, and numbers inside gap records) have come; acknowledges each.
pub async fn drain(reader: &mut Reader, count: u64) -> Vec<Item> {
    let (mut items, mut seen) = (Vec::new(), 0);
    while seen < count {
        for item in next(reader, 777).await.expect("more to come") {
            seen += match &item {
                Item::Gap(gap) => gap.last.0 - gap.first.0 + 1,
                Item::Record(_) => 1,
            };
            reader.acknowledge(ack(&item));
            items.push(item);
        }
    }
    items
}
