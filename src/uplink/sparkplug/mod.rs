//! An edge node of Sparkplug B 3.0 (`format = "sparkplug"`): what such a session does that no other does.
//!
//! The room around it stays as it is: source, packing into runs, lanes, window, pace, budgets. Here is only where Sparkplug
//! differs: `number` its two counts · `catalogue` which metric is which tag · `birth` births, deaths and when a device has them ·
//! `data` records to NDATA and DDATA, and what of them is historical · `own` alarms, events and the like · `barrier` how QoS 0 is
//! acknowledged · `host` what the primary host has to do with it · `rebirth` births on request, but no storm of them ·
//! `commands` NCMD, DCMD and STATE as they come in · `answers` what they are told when they want what cannot be · `sending` the
//! feeder's part.
//!
//! ```text
//! CONNECT, will NDEATH(bdSeq) · SUBSCRIBE NCMD DCMD STATE · SUBACK · [STATE online] · NBIRTH(bdSeq, seq 0) · DBIRTH … ·
//! DDATA NDATA … barrier · … · NDEATH · DISCONNECT
//! ```
//!
//! MQTT is 3.1.1: with 5 an edge node must end with DISCONNECT 0x04, which rumqttc 0.25.1 cannot say.
//!
//! Promises: no data before all births of the session; every message but NDEATH has the next seq, given at the last moment by the
//! one feeder; a record counts as received when a barrier behind it was answered and, with a primary host, that was online for
//! `host_timeout` more; whatever is in doubt goes again, as historical.

mod answers;
mod barrier;
mod birth;
mod catalogue;
mod commands;
mod data;
mod host;
mod number;
mod own;
mod rebirth;
mod sending;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::config::births::births;
use crate::config::plan::{Compress, Datatypes, Downlink, Plan, SparkplugPlan, UplinkPlan};
use crate::config::preset::limits;
use crate::flow::clock::Clock;
use crate::flow::latest::Latest;
use crate::model::number::Class;
use crate::model::sparkplug::{Kind, Node};
use crate::model::time::{Stamp, millis};
use crate::payload::sparkplug::{DataType, Payload};
use crate::store::DictionaryTag;

use super::downlink::Commands;

pub(super) use barrier::Barrier;
pub(super) use commands::Ears;
pub(super) use data::{SAMPLE_BYTES, Said};
pub(super) use sending::Data;

use birth::{Due, Life};
use catalogue::Catalogue;
use data::TELEGRAMS_MAX;
use host::Host;
use number::Numbers;
use own::Own;
use rebirth::Rebirth;

/// A host that wants less would take us for dead.
const SCAN_RATE_MAX: Duration = Duration::from_secs(3600);
/// A host may send us to the next server so often: each time costs a connect and births.
const MOVE_EVERY: Duration = Duration::from_secs(60);

/// What births tell of.
#[derive(Debug, Clone)]
pub struct Plant {
    /// The plan in force; a reload changes it.
    pub plan: Arc<ArcSwap<Plan>>,
    /// The newest value of each tag, and how each device stands.
    pub latest: Arc<Latest>,
}

/// One publish, not yet numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Telegram {
    pub(super) kind: Kind,
    /// Of a device: with D in its kind.
    pub(super) device: Option<Arc<str>>,
    pub(super) payload: Payload,
}

/// The edge node that an uplink is; outlives its sessions.
pub(super) struct EdgeNode {
    node: Node,
    classes: Vec<Class>,
    compress: Compress,
    datatypes: Datatypes,
    plant: Option<Plant>,
    clock: Clock,
    numbers: Numbers,
    /// What the last births told of.
    catalogue: Arc<Catalogue>,
    /// The same for commands.
    shown: Arc<ArcSwap<Catalogue>>,
    /// The plan that the last births were made of.
    told: Option<Arc<Plan>>,
    devices: HashMap<Arc<str>, Life>,
    /// By alias: what was told of each metric in this session.
    metrics: HashMap<u64, Told>,
    /// What was said last of the gateway's own; outlives sessions.
    own: Own,
    /// Births and deaths to be sent, before anything else.
    due: VecDeque<Due>,
    looked_at: Option<Instant>,
    /// A device went and has no DDEATH yet.
    dying: bool,
    /// NBIRTH of this session was sent.
    born: bool,
    rebirth: Rebirth,
    host: Option<Host>,
    ears: Arc<Ears>,
    commands: Option<Commands>,
    /// What a host set: until the process ends.
    scan_rate: Option<Duration>,
    /// It has set it, and was not told yet what it is now.
    tell_scan_rate: bool,
    /// Metrics whose value somebody wanted to be another: to be told again.
    show: BTreeSet<u64>,
    /// When a host sent us to the next server last; outlives sessions, as they end with it.
    moved_at: Option<Instant>,
    /// How long data that are not many wait for more, where no host has set it.
    batch_interval: Duration,
    /// Publishes that may go in one go.
    telegrams_max: usize,
    /// Who asks, for log and audit.
    origin: String,
}

/// What was told of a metric last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    /// When its newest value was taken, or the birth that told that it has none. Not as wall time: that changes with each fix, and
    /// where the clock is set back nothing would be new for as long.
    newest: Stamp,
    quality: i32,
}

impl EdgeNode {
    pub(super) fn new(plan: &UplinkPlan, spark: &SparkplugPlan, clock: Clock) -> Self {
        Self {
            node: spark.node.clone(),
            classes: plan.classes.clone(),
            compress: plan.compress,
            datatypes: spark.datatypes,
            plant: None,
            numbers: Numbers::begin(0),
            catalogue: Arc::default(),
            shown: Arc::default(),
            told: None,
            devices: HashMap::new(),
            metrics: HashMap::new(),
            own: Own::new(),
            due: VecDeque::new(),
            looked_at: None,
            dying: false,
            born: false,
            rebirth: Rebirth::default(),
            host: spark.primary_host.as_ref().map(|_| Host::new(spark.host_timeout, clock.clone())),
            ears: Arc::new(Ears::new(spark, clock.clone())),
            commands: None,
            scan_rate: None,
            tell_scan_rate: false,
            show: BTreeSet::new(),
            moved_at: None,
            batch_interval: plan.batch_interval,
            telegrams_max: limits(plan.preset).publishes_per_s.map_or(TELEGRAMS_MAX, telegrams_at),
            origin: format!("uplink:{}", plan.name),
            clock,
        }
    }

    /// What its births tell of from now on.
    pub(super) fn live_in(&mut self, plant: Plant) {
        self.plant = Some(plant);
    }

    /// It takes writes, and hands them in here.
    pub(super) fn obey(&mut self, commands: Commands) {
        self.commands = Some(commands);
    }

    /// A session with this server begins, with this count; without a store that could be opened, with the one after the last.
    pub(super) fn begin(&mut self, bdseq: Option<u8>, server: usize) {
        self.numbers = Numbers::begin(bdseq.unwrap_or_else(|| self.numbers.bdseq.wrapping_add(1)));
        (self.born, self.dying) = (false, false);
        self.due.clear();
        self.devices.clear();
        self.metrics.clear();
        self.rebirth = Rebirth::default();
        self.forget_answers();
        self.ears.begin();
        if let Some(host) = &mut self.host {
            host.begin(server);
        }
    }

    /// Does it take commands?
    const fn downlink(&self) -> Downlink {
        if self.commands.is_some() { Downlink::Accepted } else { Downlink::Refused }
    }

    /// Where the will goes.
    pub(super) fn death_topic(&self) -> String {
        self.node.topic(Kind::NDeath)
    }

    /// The will, and the last word of a session that ends in order.
    pub(super) fn death(&self) -> Vec<u8> {
        birth::death(self.numbers.bdseq, self.now_ms())
    }

    /// Its topic and its bytes, with the next number.
    pub(super) fn seal(&mut self, telegram: Telegram) -> (String, Vec<u8>) {
        let Telegram { kind, device, mut payload } = telegram;
        let seq = if kind == Kind::NBirth { self.numbers.birth() } else { self.numbers.take() };
        payload.stamp(self.now_ms(), Some(seq));
        let topic = match &device {
            Some(device) => self.node.device_topic(kind, device),
            None => self.node.topic(kind),
        };
        let packed = self.compress == Compress::Gzip && !matches!(kind, Kind::NBirth | Kind::DBirth);
        (topic, if packed { payload.compressed() } else { payload.encode() })
    }

    fn now_ms(&self) -> u64 {
        ms(self.clock.wall_now().unix_ms)
    }

    /// All that the store knows; asked for at births.
    pub(super) fn learn(&mut self, dictionary: &[Arc<DictionaryTag>]) {
        let Some(plant) = &self.plant else { return };
        let plan = plant.plan.load_full();
        self.catalogue = Arc::new(Catalogue::new(&plan, &self.classes, dictionary));
        self.shown.store(Arc::clone(&self.catalogue));
        self.told = Some(plan);
    }

    /// Has a reload changed what births tell of? Said once.
    fn has_changed(&mut self) -> bool {
        let Some((plant, told)) = self.plant.as_ref().zip(self.told.as_mut()) else { return false };
        let now = plant.plan.load();
        if Arc::ptr_eq(&now, told) {
            return false;
        }
        let before = std::mem::replace(told, Arc::clone(&now));
        now.tags != before.tags || now.devices != before.devices
    }

    /// How often data are sent, ms: as often as the quickest tag is polled, or as a host wants it.
    fn scan_rate_ms(&self) -> u64 {
        let wanted = self.scan_rate.map_or(0, millis);
        wanted.max(self.catalogue.scan_rate_ms)
    }

    /// A host wants data so often. Not more often than the buses bring some, and at least once an hour; between, samples are
    /// taken and kept as configured, and go together.
    fn scan(&mut self, every_ms: u64) {
        let slower = every_ms > self.catalogue.scan_rate_ms;
        self.scan_rate = slower.then(|| Duration::from_millis(every_ms).min(SCAN_RATE_MAX));
        self.tell_scan_rate = true;
    }

    /// A host sends us to the next server: may it, so soon after the last time?
    fn may_move(&mut self, now: Instant) -> bool {
        let may = self.moved_at.is_none_or(|at| now >= at + MOVE_EVERY);
        if may {
            self.moved_at = Some(now);
        }
        may
    }

    /// Somebody wants births.
    pub(super) const fn ask_for_births(&mut self) {
        self.rebirth.ask();
    }

    /// When births are due that somebody asked for.
    pub(super) fn rebirth_due(&self, now: Instant) -> Option<Instant> {
        self.rebirth.due(now)
    }

    /// There is nothing to pay births with: they are looked at again then.
    pub(super) fn put_births_off(&mut self, until: Instant) {
        self.rebirth.put_off(until);
    }

    /// Messages and bytes of all births, from above.
    pub(in crate::uplink) fn births_cost(&self) -> (usize, usize) {
        let Some(plant) = &self.plant else { return (1, 0) };
        let plan = plant.plan.load();
        let births = births(&plan.devices, &plan.tags, &self.classes, self.downlink());
        let own: usize = self.own.values().map(|last| last.text.len()).sum();
        (births.messages, births.bytes + own)
    }

    /// Its primary host, if it has one.
    const fn host(&mut self) -> Option<&mut Host> {
        self.host.as_mut()
    }

    /// For a person, when everything has waited for the primary host for long.
    fn misses_host(&self, now: Instant) -> Option<String> {
        let (missed, topic) = (self.host.as_ref()?.is_missed(now)?, self.ears.host_topic()?);
        Some(format!("nothing is sent before the primary host says that it is there: on {topic}, {missed}"))
    }

    /// What came in for it.
    pub(super) fn ears(&self) -> Arc<Ears> {
        Arc::clone(&self.ears)
    }
}

/// Where publishes are counted, what goes at once is a quarter of a second's.
fn telegrams_at(per_second: u32) -> usize {
    usize::try_from(per_second / 4).unwrap_or(TELEGRAMS_MAX).clamp(1, TELEGRAMS_MAX)
}

/// Times before 1970 are none.
fn ms(unix_ms: i64) -> u64 {
    u64::try_from(unix_ms).unwrap_or(0)
}

/// A metric that carries JSON of the gateway's own.
const TEXT: DataType = DataType::String;

#[cfg(test)]
mod tests;
