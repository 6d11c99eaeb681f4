//! The process that is killed: writes records of all classes through the real store as fast as it takes them, reads and
//! acknowledges them, and says on its standard output what is committed.
//!
//! Ids of a class are given in order, so numbers and ids go in step as long as the durable lane takes everything; this
//! process waits for the store before it fills the lane.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use super::promises::{self, TOPIC};
use crate::commands::Failed;
use crate::config::plan::UplinkStart;
use crate::flow::clock::{Clock, Seen};
use crate::flow::hub::{EventRecord, Hub, hub};
use crate::flow::notice::{Notice, notices};
use crate::host::clock::system_clock;
use crate::model::number::{Class, Epoch, PerClass, Seq};
use crate::model::quality::Quality;
use crate::model::sample::{Batch, Sample};
use crate::model::tag::{DataType, DeviceIx, TagIx};
use crate::model::value::Value;
use crate::store::{self, Ack, Item, Opening, Reader, Route, StoreHandle, TagMeta};

/// Cap of the store: small, so that every part of its life comes often.
pub(super) const MAX_SIZE: u64 = 16 * 1024 * 1024;
/// Between looks at what is committed.
const LOOK: Duration = Duration::from_millis(1);
/// Records that wait for their commit before this process waits for the store.
const AHEAD_MAX: u64 = 4000;

/// How the store is opened: one uplink acknowledges, one never does and so is owed everything.
pub(super) fn opening(dir: &Path) -> Opening {
    let tag = |class: Class| TagMeta {
        device: "torture".into(),
        name: class.as_str().into(),
        topic: format!("torture/{class}").into(),
        data_type: DataType::Uint64,
        class,
    };
    let route = |name: &str| Route { name: name.into(), classes: Class::ALL.to_vec(), start: UplinkStart::Oldest };
    Opening {
        dir: dir.join(super::STORE),
        max_size: MAX_SIZE,
        max_age: None,
        commit_interval: Duration::from_millis(50),
        tags: Class::ALL.map(tag).to_vec(),
        uplinks: vec![route("cloud"), route("auditor")],
        boot_token: "torture".into(),
    }
}

/// A running store.
pub(super) struct Running {
    pub(super) hub: Hub,
    pub(super) store: StoreHandle,
    pub(super) clock: Clock,
    _notices: mpsc::Receiver<Notice>,
}

/// Opens and starts the store of a directory.
pub(super) fn start(dir: &Path) -> Running {
    let opening = opening(dir);
    let (hub, _, end) = hub(opening.tags.iter().map(|tag| tag.class).collect());
    let (tell, told) = notices();
    let store = store::open(opening);
    let clock = system_clock(store.boot(), Seen::default());
    Running { hub, store: store.start(end, clock.clone(), tell), clock, _notices: told }
}

impl Running {
    /// Stores the records of these ids.
    pub(super) async fn emit(&self, class: Class, ids: std::ops::Range<u64>) {
        let at = self.clock.now();
        let mut samples = Vec::new();
        for id in ids {
            if let Some(body) = promises::event(id) {
                self.batch(&mut samples).await;
                self.hub.emit_event(EventRecord { topic: TOPIC.into(), body, class, at, committed: None }).await;
            } else {
                let value = Some(Value::Uint(id));
                samples.push(Sample { tag: TagIx(class as u32), value, quality: Quality::Good, at });
            }
        }
        self.batch(&mut samples).await;
    }

    async fn batch(&self, samples: &mut Vec<Sample>) {
        if !samples.is_empty() {
            self.hub.emit(Batch { device: DeviceIx(0), samples: std::mem::take(samples) }).await;
        }
    }

    /// Saves everything and ends.
    pub(super) async fn close(self) {
        let Self { hub, store, .. } = self;
        drop(hub);
        store.ended().await;
        store.finish().await;
    }
}

/// Where numbers and ids stood when the store was opened, and what was said since.
struct Steps {
    base: Vec<(Class, Epoch, Seq)>,
    said: Vec<Seq>,
    first_id: PerClass<u64>,
    next_id: PerClass<u64>,
    slowest_ms: u64,
}

/// Runs until it is killed. `ids`: no two processes on one store may use the same.
pub(super) async fn run(dir: &Path, ids: u64) -> Result<(), Failed> {
    let running = start(dir);
    let base = running.store.newest();
    if base.len() < Class::ALL.len() {
        return Err(Failed::TryAgain("the store cannot be opened".into()));
    }
    let first_id = PerClass::of(|class| ids + class as u64 * 1_000_000_000);
    let said = base.iter().map(|newest| newest.2).collect();
    let mut steps = Steps { base, said, first_id, next_id: first_id, slowest_ms: 0 };
    let Some(mut reader) = running.store.reader("cloud") else {
        return Err(Failed::Internal("the store does not know its uplink".into()));
    };
    loop {
        for class in Class::ALL {
            let ahead = rand::random_range(1..120);
            let at = &mut steps.next_id[class];
            running.emit(class, *at..*at + ahead).await;
            *at += ahead;
        }
        if rand::random_bool(0.4) {
            deliver(&mut reader).await;
        }
        loop {
            let waiting = steps.say(&running.store)?;
            if running.hub.stats().spilled.get() > 0 {
                return Err(Failed::TryAgain("the store does not take records".into()));
            }
            tokio::time::sleep(LOOK).await;
            if waiting < AHEAD_MAX {
                break;
            }
        }
    }
}

impl Steps {
    /// Says what is committed by now; how many records are not.
    fn say(&mut self, store: &StoreHandle) -> Result<u64, Failed> {
        let mut waiting = 0;
        for ((class, epoch, seq), (before, said)) in
            store.newest().into_iter().zip(self.base.iter().zip(&mut self.said))
        {
            let ids = self.first_id[class];
            waiting += (self.next_id[class] - ids).saturating_sub(seq.0 - before.2.0);
            if seq > *said {
                let (first, id) = (said.0 + 1, ids + said.0 - before.2.0);
                say(&format!("commit {class} {} {first} {} {id}", epoch.0, seq.0))?;
                *said = seq;
            }
        }
        let slowest = store.stats().commit_ms_max.get();
        if slowest > self.slowest_ms {
            self.slowest_ms = slowest;
            say(&format!("slowest {slowest}"))?;
        }
        Ok(waiting)
    }
}

/// One write for a line: it is in the pipe whole, or not at all.
fn say(line: &str) -> Result<(), Failed> {
    let mut out = std::io::stdout().lock();
    let said = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
    said.map_err(|error| Failed::TryAgain(format!("nobody listens: {error}")))
}

/// Takes what comes at once and acknowledges it, saying so before.
async fn deliver(reader: &mut Reader) {
    let page = tokio::time::timeout(Duration::from_millis(5), reader.next(500)).await;
    let Ok(Some(items)) = page else { return };
    for item in items {
        match item {
            Item::Gap(gap) => reader.acknowledge(Ack::Gap(gap.id)),
            Item::Record(owed) => {
                let ((class, epoch), seq) = promises::place(owed.number);
                if say(&format!("ack {class} {epoch} {seq} {seq}")).is_err() {
                    return;
                }
                reader.acknowledge(Ack::of(owed.number));
            }
        }
    }
}
