//! The fork: every batch goes to the live lane (never waits) and to the durable lane (waits a little, then declares
//! a gap). Fed by the buses, emptied by the publisher and by the store.
//!
//! Durable lane, when full: the bus waits at most [`DURABLE_WAIT_MAX`]; after that, or at once
//! when the store has failed and its memory is full, the samples are counted per class in [`Spill`]. The store gives them
//! their numbers when it is back and writes a gap record with reason `store`. Live goes on all the time, and a lane that
//! does not move is waited for once, not with every batch: only for alarms once with every poll that brings some, for it
//! may move a moment later, and what goes before everything else is not to be lost for the sake of telemetry. How a device
//! stands is no record: `report`, the newest only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use crate::model::alarm::Condition;
use crate::model::lock::HoldEither as _;
use crate::model::number::{Class, Number};
use crate::model::sample::{Batch, Sample};
use crate::model::stats::Counter;
use crate::model::tag::{DeviceIx, TagIx};
use crate::model::time::Stamp;

use super::alarms::{AlarmKey, AlarmNews};
use super::forward::{MessageRecord, WAITING_BYTES_MAX};
use super::latest::Latest;
pub use super::spill::{Lost, Spill};
pub use report::{DeviceReport, Diagnosis, Percentiles, Standing};

mod report;

/// How long a bus waits for the store before it declares a gap.
pub const DURABLE_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long a message that somebody waits for may wait for a store that is only going to be opened: what was there before
/// ends in good order meanwhile, which is a matter of seconds.
pub const OPENING_WAIT_MAX: Duration = Duration::from_secs(60);

/// Batches that may wait for the store; with the store's own buffer this is more than 10 s of a busy plant.
pub const DURABLE_DEPTH: usize = 256;

/// What the store is given.
#[derive(Debug)]
pub enum Durable {
    /// Samples of one poll.
    Batch(Batch),
    /// An opaque record: a JSON object on a topic, such as an event or a command's result.
    Event(EventRecord),
    /// A local client's message.
    Message(MessageRecord),
}

/// A JSON object that is stored, numbered and forwarded like a sample.
#[derive(Debug)]
pub struct EventRecord {
    /// Local topic; an uplink puts its prefix before it.
    pub topic: Arc<str>,
    /// A JSON object without a number; the number is spliced in when it is sent.
    pub body: Vec<u8>,
    /// Usually [`Class::Event`] or [`Class::Alarm`].
    pub class: Class,
    /// When it happened.
    pub at: Stamp,
    /// Told the number once it is committed; dropped if the store cannot.
    pub committed: Option<oneshot::Sender<Number>>,
}

/// Counters of the fork.
#[derive(Debug, Default)]
pub struct HubStats {
    /// Samples emitted.
    pub samples: Counter,
    /// Times a bus had to wait for the store.
    pub durable_waits: Counter,
    /// Samples that went into a gap because the store did not take them.
    pub spilled: Counter,
}

/// The fork; cheap to clone, one clone per bus.
#[derive(Debug, Clone)]
pub struct Hub {
    shared: Arc<Shared>,
    durable: mpsc::Sender<Durable>,
}

#[derive(Debug)]
struct Shared {
    latest: Arc<Latest>,
    spill: Arc<Spill>,
    store_full: Arc<AtomicBool>,
    /// Somebody waited in vain, and nothing has found room since.
    stuck: AtomicBool,
    classes: RwLock<Vec<Class>>,
    stats: Arc<HubStats>,
    tap: RwLock<Option<Tap>>,
    opening: Arc<AtomicBool>,
    way: Way,
}

/// The way of clients' messages into a durable lane.
#[derive(Debug)]
pub(super) struct Way {
    /// Given in the order of asking, and held while a message goes in.
    pub(super) turn: Mutex<()>,
    /// Bytes that may be on their way.
    pub(super) room: Arc<Semaphore>,
}

/// Somebody else who wants the newest of some tags.
#[derive(Debug)]
struct Tap {
    /// By `TagIx`.
    wanted: Vec<bool>,
    latest: Arc<Latest>,
}

/// What the store takes at its end of the durable lane.
#[derive(Debug)]
pub struct DurableEnd {
    /// Batches and events; closed when the last hub is gone.
    pub records: mpsc::Receiver<Durable>,
    /// What did not get in.
    pub spill: Arc<Spill>,
    /// Set by the store while it can neither commit nor keep more in memory: buses then do not wait.
    pub full: Arc<AtomicBool>,
    opening: Arc<AtomicBool>,
}

impl DurableEnd {
    /// The store that is to take it is going to be opened: who need not be stored does not wait, who must be waits longer.
    pub fn expect_store(&self) {
        self.full.store(true, Ordering::Relaxed);
        self.opening.store(true, Ordering::Relaxed);
    }

    /// Here it is; from here on it says how full it is.
    pub fn meet_store(&self) {
        self.opening.store(false, Ordering::Relaxed);
        self.full.store(false, Ordering::Relaxed);
    }
}

/// Who waits for a lane that is full.
#[derive(Clone, Copy)]
enum Bringer {
    /// A poll with its samples, or a client's message that nobody waits for.
    GoesOn,
    /// A poll with an alarm: worth the same wait, whoever else has waited in vain.
    Insists,
    /// An event, or a message whose sender waits.
    HasTime,
}

/// What became of a record on its way into the durable lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    Kept,
    /// It was waited for in vain and is told as a gap.
    Spilled,
}

/// Makes the fork. `classes` is the class of each tag of the plan, by `TagIx`.
pub fn hub(classes: Vec<Class>) -> (Hub, Arc<Latest>, DurableEnd) {
    let (durable, records) = mpsc::channel(DURABLE_DEPTH);
    let latest = Arc::new(Latest::default());
    let spill = Arc::new(Spill::default());
    let full = Arc::new(AtomicBool::new(false));
    let opening = Arc::<AtomicBool>::default();
    let shared = Shared {
        latest: Arc::clone(&latest),
        spill: Arc::clone(&spill),
        store_full: Arc::clone(&full),
        stuck: AtomicBool::new(false),
        classes: RwLock::new(classes),
        stats: Arc::default(),
        tap: RwLock::new(None),
        opening: Arc::clone(&opening),
        way: Way { turn: Mutex::new(()), room: Arc::new(Semaphore::new(WAITING_BYTES_MAX as usize)) },
    };
    (Hub { shared: Arc::new(shared), durable }, latest, DurableEnd { records, spill, full, opening })
}

impl Hub {
    /// Sends a batch down both lanes; waits at most [`DURABLE_WAIT_MAX`]. Not cancel-safe: a cancelled call may have
    /// published live what it did not store.
    pub async fn emit(&self, batch: Batch) {
        self.announce(&batch.samples);
        self.keep(batch).await;
    }

    /// The live half of [`Hub::emit`]; [`Hub::keep`] is the other one.
    pub fn announce(&self, samples: &[Sample]) {
        self.shared.stats.samples.add(samples.len() as u64);
        self.show(samples);
    }

    /// Sends samples down the live lane only.
    pub fn show(&self, samples: &[Sample]) {
        self.shared.latest.put(samples);
        if let Some(tap) = &*self.shared.tap.hold_read() {
            let wanted = |sample: &&Sample| tap.wanted.get(sample.tag.0 as usize).is_some_and(|wanted| *wanted);
            let samples: Vec<Sample> = samples.iter().filter(wanted).cloned().collect();
            if !samples.is_empty() {
                tap.latest.put(&samples);
            }
        }
    }

    /// Taps the live lane for these tags, for the derived ones: from now on what is shown of them goes there too. What waits
    /// there stays when there are other tags.
    pub fn tap(&self, tags: &[TagIx], into: &Arc<Latest>) {
        let mut wanted = vec![false; tags.iter().map(|tag| tag.0 as usize + 1).max().unwrap_or(0)];
        for tag in tags {
            wanted[tag.0 as usize] = true;
        }
        let tap = Tap { wanted, latest: Arc::clone(into) };
        *self.shared.tap.hold_write() = Some(tap);
    }

    /// Nobody takes anything out of the tap any more.
    pub fn untap(&self) {
        *self.shared.tap.hold_write() = None;
    }

    /// The class of each tag of another plan, by `TagIx`.
    pub fn classify(&self, classes: Vec<Class>) {
        *self.shared.classes.hold_write() = classes;
    }

    /// Sends a batch down the durable lane only. Waits like [`Hub::emit`].
    pub async fn keep(&self, batch: Batch) {
        if let Err(Durable::Batch(batch)) = self.store(Durable::Batch(batch), Bringer::GoesOn).await {
            let classes = self.shared.classes.hold_read();
            for sample in &batch.samples {
                let class = classes.get(sample.tag.0 as usize).copied().unwrap_or(Class::Telemetry);
                self.shared.spill.add(class, sample.at);
            }
            self.shared.stats.spilled.add(batch.samples.len() as u64);
        }
    }

    /// Stores an event (the live side publishes it itself, with its number). Waits for [`Hub::patience`] each time.
    pub async fn emit_event(&self, event: EventRecord) {
        self.store_event(event, Bringer::HasTime).await;
    }

    /// The same for one of several that come together, and what became of it. Where the one before was waited for in vain, it
    /// is not waited for.
    pub async fn emit_event_after(&self, event: EventRecord, before: Fate) -> Fate {
        self.store_event(event, if before == Fate::Kept { Bringer::HasTime } else { Bringer::GoesOn }).await
    }

    async fn store_event(&self, event: EventRecord, bringer: Bringer) -> Fate {
        let Err(Durable::Event(event)) = self.store(Durable::Event(event), bringer).await else { return Fate::Kept };
        self.shared.spill.add(event.class, event.at);
        self.shared.stats.spilled.one();
        Fate::Spilled
    }

    /// Stores an alarm and shows it, with its number once it has one. Waits at most [`DURABLE_WAIT_MAX`], for it comes with a
    /// poll; and no more where `before`, what became of the one before it in the same poll, says that this is in vain.
    pub async fn emit_alarm(&self, key: AlarmKey, condition: Condition, mut record: EventRecord, before: Fate) -> Fate {
        let (committed, number) = oneshot::channel();
        record.committed = Some(committed);
        let news = AlarmNews { condition, body: record.body.clone(), number };
        let bringer = if before == Fate::Kept { Bringer::Insists } else { Bringer::GoesOn };
        let fate = self.store_event(record, bringer).await;
        self.shared.latest.alarms.put(key, news);
        fate
    }

    /// Stores a client's message; waits at most for [`Hub::patience`]. Given back where there was no room for it: its sender
    /// must not be told that it was taken, or it is to be counted by [`Hub::spill_message`].
    pub async fn emit_message(&self, message: MessageRecord) -> Result<(), MessageRecord> {
        let bringer = if message.committed.is_some() { Bringer::HasTime } else { Bringer::GoesOn };
        match self.store(Durable::Message(message), bringer).await {
            Err(Durable::Message(message)) => Err(message),
            _ => Ok(()),
        }
    }

    /// How long a message that somebody waits for is tried.
    pub fn patience(&self) -> Duration {
        if self.is_opening() { OPENING_WAIT_MAX } else { DURABLE_WAIT_MAX }
    }

    pub(super) fn is_opening(&self) -> bool {
        self.shared.opening.load(Ordering::Relaxed)
    }

    pub(super) fn way(&self) -> &Way {
        &self.shared.way
    }

    /// A client's message that nobody would send again was not stored.
    pub fn spill_message(&self, class: Class, at: Stamp) {
        self.shared.spill.add(class, at);
        self.shared.stats.spilled.one();
    }

    /// The conditions that are active now: a bus that begins, begins with these.
    pub fn active_alarms(&self) -> Vec<AlarmKey> {
        self.shared.latest.alarms.active()
    }

    /// A device changed its standing or its counts.
    pub fn report(&self, report: DeviceReport) {
        self.shared.latest.put_device(report);
    }

    /// Nobody asks this device for now: it is down, with its last counts, unless it is to be left alone anyway.
    pub fn report_down(&self, device: DeviceIx) {
        self.shared.latest.put_down(device);
    }

    /// Counters.
    pub fn stats(&self) -> Arc<HubStats> {
        Arc::clone(&self.shared.stats)
    }

    async fn store(&self, record: Durable, bringer: Bringer) -> Result<(), Durable> {
        let Shared { stats, store_full, stuck, .. } = &*self.shared;
        let record = match self.durable.try_send(record) {
            Ok(()) => {
                if stuck.load(Ordering::Relaxed) {
                    stuck.store(false, Ordering::Relaxed);
                }
                return Ok(());
            }
            Err(mpsc::error::TrySendError::Closed(record)) => return Err(record),
            Err(mpsc::error::TrySendError::Full(record)) => record,
        };
        stats.durable_waits.one();
        let (full, stuck_already) = (store_full.load(Ordering::Relaxed), stuck.load(Ordering::Relaxed));
        let patience = match bringer {
            Bringer::GoesOn if full || stuck_already => return Err(record),
            Bringer::Insists if full => return Err(record),
            Bringer::HasTime if full && !self.is_opening() => return Err(record),
            Bringer::GoesOn | Bringer::Insists => DURABLE_WAIT_MAX,
            Bringer::HasTime => self.patience(),
        };
        let Ok(Ok(permit)) = tokio::time::timeout(patience, self.durable.reserve()).await else {
            stuck.store(true, Ordering::Relaxed);
            return Err(record);
        };
        permit.send(record);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
