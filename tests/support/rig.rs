//! A bus with everything it needs around it: a plan, a hub whose durable end the test holds, a clock that follows
//! tokio's (so that paused time moves both).

#![allow(dead_code, reason = "each test file uses a part of the rig")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::{
    BusLink, BusPlan, Carrier, DevicePlan, Framing as Spoken, Parity, Plan, PortPlan, SerialPlan, TagPlan,
};
use ironbridge::field::carrier::{Opener, opener};
use ironbridge::field::line::LineBus;
use ironbridge::field::{Bus, BusHandle, FieldCommand, Pauses, Shared};
use ironbridge::flow::clock::{Clock, TimeSource};
use ironbridge::flow::hub::{DeviceReport, Durable, DurableEnd, EventRecord, hub};
use ironbridge::flow::latest::Latest;
use ironbridge::flow::stop::Stop;
use ironbridge::model::command::Outcome;

use crate::plc::Framing;
use ironbridge::model::quality::Quality;
use ironbridge::model::sample::Sample;
use ironbridge::model::tag::{Access, Address, BusIx, DataType, DeviceIx, Table, TagIx};
use ironbridge::model::time::Boot;
use ironbridge::model::value::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

pub const TIMEOUT: Duration = Duration::from_millis(200);

pub fn tcp(endpoint: &str) -> BusLink {
    BusLink::tcp(endpoint)
}

pub fn rtu(port: impl Into<PathBuf>, baud: u32) -> BusLink {
    let serial = SerialPlan { baud, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
    BusLink::rtu(port, serial)
}

/// The link of a fake's framing, to nowhere.
pub fn link(framing: Framing) -> BusLink {
    let endpoint = || "nowhere:502".to_owned();
    let line = SerialPlan { baud: 19_200, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
    match framing {
        Framing::Tcp => tcp("nowhere:502"),
        Framing::Rtu => rtu("/dev/nowhere", 19_200),
        Framing::Ascii => BusLink::new(Spoken::Ascii, Carrier::Serial(PortPlan::plain("/dev/nowhere", line))),
        Framing::RtuOverTcp => BusLink::new(Spoken::Rtu, Carrier::Tcp { endpoint: endpoint() }),
        Framing::AsciiOverTcp => BusLink::new(Spoken::Ascii, Carrier::Tcp { endpoint: endpoint() }),
        Framing::Udp => BusLink::new(Spoken::Mbap, Carrier::Udp { endpoint: endpoint() }),
        Framing::RtuOverUdp => BusLink::new(Spoken::Rtu, Carrier::Udp { endpoint: endpoint() }),
    }
}

/// A plan of one bus.
pub fn plan(link: BusLink) -> Plan {
    Plan { buses: vec![BusPlan { response_timeout: TIMEOUT, ..BusPlan::plain("bus", link) }], ..Plan::empty("rig") }
}

pub fn device(plan: &mut Plan, unit_id: u8) -> DeviceIx {
    let ix = DeviceIx(u32::try_from(plan.devices.len()).expect("few"));
    let first = plan.tags.len();
    let device = DevicePlan::plain(&format!("device-{}", ix.0), BusIx(0), unit_id);
    plan.devices.push(DevicePlan { tags: first..first, ..device });
    ix
}

/// Adds a tag to the device added last.
pub fn tag(plan: &mut Plan, table: Table, start: u16, data_type: DataType) -> TagIx {
    let ix = TagIx(u32::try_from(plan.tags.len()).expect("few"));
    let device = DeviceIx(u32::try_from(plan.devices.len()).expect("few") - 1);
    plan.tags.push(TagPlan {
        topic: format!("rig/device-{}/tag-{}", device.0, ix.0).into(),
        access: Access::ReadWrite,
        ..TagPlan::plain(&format!("tag-{}", ix.0), device, Address { table, start, bit: None }, data_type)
    });
    plan.devices.last_mut().expect("a device").tags.end = plan.tags.len();
    ix
}

/// Time of the rig: tokio's.
struct TokioTime(Instant);

impl TimeSource for TokioTime {
    fn boot_micros(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_micros()).expect("no test takes that long")
    }
}

/// A clock that follows tokio's time.
pub fn clock() -> Clock {
    Clock::new(Arc::new(TokioTime(Instant::now())), Boot(1), 0)
}

/// A running bus.
pub struct Rig {
    /// By which commands are checked.
    pub plan: Arc<Plan>,
    pub handle: BusHandle,
    pub stop: Stop,
    pub clock: Clock,
    pub latest: Arc<Latest>,
    pub task: JoinHandle<()>,
    end: DurableEnd,
}

impl Rig {
    /// Runs the only bus of a plan over the wire of its plan.
    pub fn run(plan: Plan) -> Self {
        let clock = clock();
        let opener = opener(&plan.buses[0].link.carrier, &clock);
        Self::run_over(plan, opener)
    }

    /// Runs it over another one.
    pub fn run_over(plan: Plan, opener: Box<dyn Opener>) -> Self {
        Self::run_lanes(plan, vec![opener], |bus| bus)
    }

    /// Runs it over several at once, prepared in some way.
    pub fn run_lanes(plan: Plan, mut openers: Vec<Box<dyn Opener>>, prepare: impl FnOnce(Bus) -> Bus) -> Self {
        if plan.buses[0].line.is_some() {
            return Self::run_line(plan, openers.pop().expect("a wire"), |bus| bus);
        }
        let (hub, latest, end) = hub(plan.tags.iter().map(|tag| tag.class).collect());
        let clock = clock();
        let stop = Stop::new();
        let shared = Shared { clock: clock.clone(), stop: stop.clone(), pauses: Pauses::default() };
        let plan = Arc::new(plan);
        let (bus, handle) = Bus::over_each(openers, Arc::clone(&plan), BusIx(0), &hub, shared);
        Self { plan, handle, stop, clock, latest, task: tokio::spawn(prepare(bus).run()), end }
    }

    /// Runs the only bus of a plan, one of instruments that speak lines, prepared in some way.
    pub fn run_line(plan: Plan, opener: Box<dyn Opener>, prepare: impl FnOnce(LineBus) -> LineBus) -> Self {
        let (hub, latest, end) = hub(plan.tags.iter().map(|tag| tag.class).collect());
        let (clock, stop, plan) = (clock(), Stop::new(), Arc::new(plan));
        let shared = Shared { clock: clock.clone(), stop: stop.clone(), pauses: Pauses::default() };
        let (bus, handle) = LineBus::over(opener, Arc::clone(&plan), BusIx(0), &hub, shared);
        Self { plan, handle, stop, clock, latest, task: tokio::spawn(prepare(bus).run()), end }
    }

    /// The next batch; panics after a long time without one.
    pub async fn batch(&mut self) -> Vec<Sample> {
        match timeout(Duration::from_secs(3600), self.end.records.recv()).await {
            Ok(Some(Durable::Batch(batch))) => batch.samples,
            other => panic!("no batch: {other:?}"),
        }
    }

    /// The next event or alarm; batches before it are passed over.
    pub async fn event(&mut self) -> EventRecord {
        loop {
            match timeout(Duration::from_secs(3600), self.end.records.recv()).await {
                Ok(Some(Durable::Event(record))) => return record,
                Ok(Some(Durable::Batch(_))) => {}
                other => panic!("no event: {other:?}"),
            }
        }
    }

    /// The next sample of a tag that fits.
    pub async fn sample(&mut self, tag: TagIx, fits: impl Fn(&Sample) -> bool) -> Sample {
        loop {
            if let Some(sample) = self.batch().await.into_iter().find(|sample| sample.tag == tag && fits(sample)) {
                return sample;
            }
        }
    }

    /// Everything that is sampled in this time.
    pub async fn collect(&mut self, time: Duration) -> Vec<Sample> {
        let deadline = Instant::now() + time;
        let mut samples = Vec::new();
        while let Ok(Some(record)) = tokio::time::timeout_at(deadline, self.end.records.recv()).await {
            if let Durable::Batch(batch) = record {
                samples.extend(batch.samples);
            }
        }
        samples
    }

    /// The reports since last asked, newest of each device.
    pub async fn reports(&self) -> HashMap<u32, DeviceReport> {
        let fresh = self.latest.take().await.expect("open");
        fresh.devices.into_iter().map(|report| (report.device.0, report)).collect()
    }

    /// Sends a command and waits for its outcome.
    pub async fn command(&self, tag: TagIx, value: Value) -> Outcome {
        self.command_within(tag, value, Duration::from_secs(30)).await.await.expect("answered")
    }

    /// Sends a command that expires after a while.
    pub async fn command_within(&self, tag: TagIx, value: Value, within: Duration) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        let deadline = self.clock.now().after(within);
        let command = FieldCommand { plan: Arc::clone(&self.plan), tag, value, deadline, reply };
        self.handle.commands.send(command).await.expect("the bus runs");
        outcome
    }
}

pub fn good(sample: &Sample) -> bool {
    sample.quality == Quality::Good
}

pub fn is_bad(sample: &Sample) -> bool {
    matches!(sample.quality, Quality::Bad(_))
}
