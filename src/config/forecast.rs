//! What a plan will cost: time on each bus, bytes to the cloud, bytes to flash. Pure; `check` prints it.
//!
//! Forecasts, not promises: think times are assumed, and a deadband may save anything between nothing and nearly
//! everything, so rates come as a pair, every reading a sample and nothing changing at all.

use std::collections::BTreeSet;
use std::time::Duration;

use super::blocks::{self, Block};
use super::plan::{DevicePlan, LineMode, Plan, TagPlan};
use super::{lines, wire};
use crate::model::sunspec::HEADER_REGISTERS;
use crate::model::tag::{BusIx, DeviceIx};

/// Bytes on flash per commit: a block of the tail and one of the marks. From a measurement of what reaches the device
/// (`cargo bench --bench flash`): at 1000 samples a second 11.3 bytes per sample with a commit a second, 4.4 with one in
/// ten.
const FLASH_BYTES_PER_COMMIT: f64 = 8000.0;
/// And per sample in it: in the tail, in the chunk's log, in the chunk.
const FLASH_BYTES_PER_SAMPLE: f64 = 3.6;
/// Bytes of a frame of an instrument whose configuration shows no example.
const FRAME_ASSUMED: usize = 24;
const SECONDS_PER_DAY: f64 = 86_400.0;

/// A rate that depends on how often values change.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rate {
    /// When every reading is a sample.
    pub most: f64,
    /// When nothing changes: heartbeats, and tags without a deadband.
    pub least: f64,
}

impl Rate {
    /// Both ends times a factor.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        self.map(|end| end * factor)
    }

    /// Both ends worked on alike.
    fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { most: f(self.most), least: f(self.least) }
    }
}

/// What one bus has to do.
#[derive(Debug, Clone, PartialEq)]
pub struct BusForecast {
    /// Its reads.
    pub reads: Vec<Read>,
    /// What is asked and said on a bus of type `line`.
    pub talks: Vec<Talk>,
    /// All of them once.
    pub cycle: Duration,
    /// Part of its time that is taken: 1.0 is all of it.
    pub load: f64,
    /// What a device is assumed to think.
    pub think: Duration,
}

/// One wire read and its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// What is read.
    pub block: Block,
    /// Wire, think time and pause together.
    pub takes: Duration,
}

/// A device on a bus of type `line`: one question and its answer, or what it says by itself each time.
#[derive(Debug, Clone, PartialEq)]
pub struct Talk {
    /// Whose.
    pub device: DeviceIx,
    /// How often.
    pub period: Duration,
    /// Wire and think time together.
    pub takes: Duration,
}

/// What the whole plan costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// Bus by bus.
    pub buses: Vec<BusForecast>,
    /// Samples per second.
    pub samples: Rate,
    /// Bytes per day for each uplink.
    pub uplinks: Vec<Rate>,
    /// Bytes per day on flash.
    pub flash: Rate,
}

/// Works it out.
pub fn forecast(plan: &Plan) -> Forecast {
    let buses: Vec<BusForecast> = (0u32..).zip(&plan.buses).map(|(ix, _)| bus(plan, BusIx(ix))).collect();
    let samples = sample_rate(plan.tags.iter());
    let uplinks = plan.uplinks.iter().map(|uplink| wire::per_day(plan, uplink));
    let periods = |bus: &BusForecast| -> Vec<Duration> {
        let reads = bus.reads.iter().map(|read| read.block.period);
        reads.chain(bus.talks.iter().map(|talk| talk.period)).collect()
    };
    let reads = buses.iter().flat_map(periods).map(|period| 1.0 / period.as_secs_f64()).sum::<f64>();
    let flash = samples.map(|samples| {
        // What comes together is committed together, at most once per interval.
        let commits = reads.min(samples).min(1.0 / plan.store.commit_interval.as_secs_f64());
        (commits * FLASH_BYTES_PER_COMMIT + samples * FLASH_BYTES_PER_SAMPLE) * SECONDS_PER_DAY
    });
    Forecast { uplinks: uplinks.collect(), buses, samples, flash }
}

fn bus(plan: &Plan, ix: BusIx) -> BusForecast {
    let link = &plan[ix].link;
    let think = blocks::think_assumed(link);
    // Devices that are one unit on the line are asked with the longest of their pauses.
    let pause = |unit: u8| {
        let of_unit = plan.devices_on(ix).filter(|(_, device)| device.unit_id == unit);
        of_unit.map(|(_, device)| device.manners.delay_between_requests).max().unwrap_or_default()
    };
    let read = |block: Block| {
        let pause = pause(plan[block.device].unit_id);
        let takes = |block: &Block| blocks::wire_time(link, block.transaction_bytes(link)) + think + pause;
        // Before and after what does not show by itself which SunSpec model it is of.
        let header = Block { start: 0, count: HEADER_REGISTERS, ..block.clone() };
        let guards = if block.model.is_some() && !block.has_header() { takes(&header) * 2 } else { Duration::ZERO };
        Read { takes: takes(&block) + guards, block }
    };
    let reads: Vec<Read> = blocks::plan_blocks(plan, ix).into_iter().map(read).collect();
    let talks = talks(plan, ix, think);
    let times = || {
        let reads = reads.iter().map(|read| (read.takes, read.block.period));
        reads.chain(talks.iter().map(|talk| (talk.takes, talk.period)))
    };
    let cycle = times().map(|(takes, _)| takes).sum();
    let load: f64 = times().map(|(takes, period)| takes.as_secs_f64() / period.as_secs_f64()).sum();
    let load = load / connections(plan, ix);
    BusForecast { reads, talks, cycle, load, think }
}

/// What goes over a bus of type `line`, with the examples of its devices for what they say.
fn talks(plan: &Plan, ix: BusIx, think: Duration) -> Vec<Talk> {
    let bus = &plan[ix];
    let Some(frames) = &bus.line else { return Vec::new() };
    let talk = |(device, of): (DeviceIx, &DevicePlan)| {
        let talk = of.talk.as_ref()?;
        let own = plan.tags.get(of.tags.clone()).unwrap_or_default().iter().filter(|tag| tag.is_of_device());
        let lengths = || talk.examples.iter().map(|said| lines::compose::frame(frames, said).len());
        let (said, think) = match frames.mode {
            LineMode::Poll => (lengths().max(), think),
            LineMode::Listen => (Some(lengths().sum()).filter(|all| *all > 0), Duration::ZERO),
        };
        let bytes = u32::try_from(talk.send.len() + said.unwrap_or(FRAME_ASSUMED)).unwrap_or(u32::MAX);
        let wire = bus.link.line().map_or(Duration::ZERO, |line| blocks::char_time(line) * bytes);
        Some(Talk { device, period: own.map(|tag| tag.poll).min()?, takes: wire + think })
    };
    plan.devices_on(ix).filter_map(talk).collect()
}

/// Connections that work side by side: as many as are allowed, and no more than there are units.
fn connections(plan: &Plan, ix: BusIx) -> f64 {
    let units: BTreeSet<u8> = plan.devices_on(ix).map(|(_, device)| device.unit_id).collect();
    let units = u8::try_from(units.len()).unwrap_or(u8::MAX);
    f64::from(plan[ix].habits.max_connections.min(units).max(1))
}

/// Samples per second of some tags.
pub fn sample_rate<'a>(tags: impl Iterator<Item = &'a TagPlan>) -> Rate {
    let mut rate = Rate::default();
    for tag in tags.filter(|tag| tag.access.reads()) {
        let readings = 1.0 / tag.poll.as_secs_f64();
        let silence = tag.compression.map(|compression| compression.max_gap).or(tag.deadband.and(tag.heartbeat));
        let quiet = silence.map_or(readings, |longest| readings.min(1.0 / longest.as_secs_f64()));
        rate.most += readings;
        rate.least += quiet;
    }
    rate
}
