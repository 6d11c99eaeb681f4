//! Who is restarted and who ends the process.
//!
//! A bus that panics is built anew after a pause, the others run on; its devices are down meanwhile, and `bus_restarted`
//! holds until one of its lives was long enough. When the broker's core, the store or anybody else of the [`Crew`] ends on
//! its own the process has no point any more: it exits and systemd starts it again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::config::plan::Plan;
use crate::field::memory::Memory;
use crate::field::{AnyBus, BusHandle, Pauses, Plans, Shared};
use crate::flow::clock::Clock;
use crate::flow::hub::Hub;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::flow::progress::Progress;
use crate::flow::stop::Stop;
use crate::model::quality::{Cause, Quality};
use crate::model::sample::{Batch, Sample};
use crate::model::tag::BusIx;
use crate::model::time::Stamp;
use crate::store::StoreHandle;

use super::roster::BusSlot;

/// Pause before a bus that panicked is built anew; doubles up to [`RESTART_PAUSE_MAX`].
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause before a restart.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Holds from a panic on until there was a sound life.
pub(super) const BUS_RESTARTED: &str = "bus_restarted";

/// A bus that ran this long is sound: after another panic it begins with the shortest pause again.
const SOUND_LIFE: Duration = Duration::from_secs(600);

/// What every bus of a plan is built from.
#[derive(Clone)]
pub struct BusParts {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Newer ones, in which this bus is the same but for its devices.
    pub plans: Plans,
    /// Where its samples go.
    pub hub: Hub,
    /// For stamps.
    pub clock: Clock,
    /// Ends it.
    pub stop: Stop,
    /// Whom to leave alone.
    pub pauses: Pauses,
    /// Told when it has no connection, or had to be restarted.
    pub notices: Notices,
    /// Where its beat is seen.
    pub progress: Progress,
    /// What its devices taught its earlier lives.
    pub memory: Option<Arc<dyn Memory>>,
    /// How its lives are built; [`build`] but for tests.
    pub build: Build,
}

/// Builds one life of a bus.
pub type Build = Arc<dyn Fn(&BusParts, BusIx) -> (AnyBus, BusHandle) + Send + Sync>;

/// One bus under supervision.
pub struct WatchedBus {
    parts: BusParts,
    bus: BusIx,
    slot: BusSlot,
    first: AnyBus,
}

impl WatchedBus {
    /// Builds the bus; the slot always holds the way to its current life.
    pub fn new(parts: BusParts, bus: BusIx) -> (Self, BusSlot) {
        let (first, handle) = parts.life(bus);
        let slot: BusSlot = Arc::new(ArcSwap::from_pointee(handle));
        (Self { parts, bus, slot: Arc::clone(&slot), first }, slot)
    }

    /// Runs it until stopping, through any number of lives.
    pub async fn run(self) {
        let Self { mut parts, bus, slot, first } = self;
        let name = parts.plan[bus].name.clone();
        let name = name.as_str();
        let (mut life, mut pause, mut restarts) = (first.run(), RESTART_PAUSE / 2, 0);
        loop {
            let began = Instant::now();
            let life_of_one = tokio::spawn(parts.progress.watch("bus", name, life));
            let Err(panic) = parts.lived(name, life_of_one, restarts).await else { return };
            pause = next_pause(pause, began.elapsed());
            tracing::error!(bus = name, error = %panic, "bus panicked and is built anew");
            let detail = format!("bus {name} failed inside the gateway and is restarted in {} s", pause.as_secs());
            parts.notices.tell(Notice { event: BUS_RESTARTED, phase: Phase::Active, subject: name.to_owned(), detail });
            restarts += 1;
            slot.load().lost();
            // The next life sees for itself which plan is the newest: this is a place of its own to look from.
            let (mut plans, until) = (parts.plans.clone(), Instant::now() + pause);
            loop {
                parts.fall_silent(bus, &mut plans).await;
                tokio::select! {
                    () = parts.stop.begun() => return,
                    () = plans.news() => {}
                    () = tokio::time::sleep_until(until) => break,
                }
            }
            let (next, handle) = parts.life(bus);
            handle.stats.restarts.add(restarts);
            slot.store(Arc::new(handle));
            life = next.run();
        }
    }
}

/// The pause before a restart: twice the last one, or from the beginning after a life that was long enough.
fn next_pause(last: Duration, lived: Duration) -> Duration {
    if lived >= SOUND_LIFE { RESTART_PAUSE } else { (last * 2).min(RESTART_PAUSE_MAX) }
}

/// What the tags of a bus are worth while nobody polls them: their last values must not go on looking good.
fn silence(plan: &Plan, bus: BusIx, at: Stamp) -> Vec<Batch> {
    let batches = plan.devices_on(bus).map(|(ix, device)| {
        let polled = plan.tags_of(device).filter(|(_, tag)| tag.access.reads() && tag.is_of_device());
        let mut polled: Vec<_> = polled.collect();
        polled.sort_by_key(|(_, tag)| tag.name.as_bytes()); // as a batch has them
        let stale = |(tag, _)| Sample { tag, value: None, quality: Quality::Bad(Cause::Stale), at };
        Batch { device: ix, samples: polled.into_iter().map(stale).collect() }
    });
    batches.filter(|batch| !batch.samples.is_empty()).collect()
}

/// Runs tasks without which the process has no point. When one ends before the stop, by a panic or of itself, that is told:
/// of a task that has ended nobody asks whether it makes progress, so the watchdog would go on being fed. All that the app
/// starts for as long as a part lives runs here, but for what is built anew after a panic.
#[derive(Clone)]
pub struct Crew {
    progress: Progress,
    until: Vec<Stop>,
    broken: watch::Sender<Option<&'static str>>,
}

/// What is wrong about the end of a task before the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// Any end.
    Always,
    /// A panic: it may come to its end.
    Panic,
}

impl Crew {
    /// Until this stop; where it is told.
    pub fn new(progress: &Progress, stop: &Stop, broken: &watch::Sender<Option<&'static str>>) -> Self {
        Self { progress: progress.clone(), until: vec![stop.clone()], broken: broken.clone() }
    }

    /// The same, until this stop or one of those before.
    #[must_use]
    pub fn or_until(mut self, stop: &Stop) -> Self {
        self.until.push(stop.clone());
        self
    }

    /// The task, whose beat is seen under this name.
    pub fn run<F: Future>(&self, what: &'static str, task: F) -> impl Future<Output = F::Output> + use<F> {
        self.run_one(what, "", task)
    }

    /// The same with one of several of a kind.
    pub fn run_one<F: Future>(
        &self,
        kind: &'static str,
        name: &str,
        task: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        self.progress.watch(kind, name, self.missed(kind, name, Wrong::Always).over(task))
    }

    /// A task that may come to its end, but not by a panic.
    pub fn run_to_end<F: Future>(&self, what: &'static str, task: F) -> impl Future<Output = F::Output> + use<F> {
        self.progress.watch(what, "", self.missed(what, "", Wrong::Panic).over(task))
    }

    /// A task that others watch, or that only waits: its beat is not seen.
    pub fn keep<F: Future>(&self, kind: &'static str, name: &str, task: F) -> impl Future<Output = F::Output> + use<F> {
        self.missed(kind, name, Wrong::Always).over(task)
    }

    fn missed(&self, kind: &'static str, name: &str, wrong: Wrong) -> Missed {
        Missed { kind, name: name.to_owned(), wrong, until: self.until.clone(), broken: self.broken.clone() }
    }
}

/// Dropped with the task.
struct Missed {
    kind: &'static str,
    name: String,
    wrong: Wrong,
    until: Vec<Stop>,
    broken: watch::Sender<Option<&'static str>>,
}

impl Missed {
    async fn over<F: Future>(self, task: F) -> F::Output {
        let _missed = self;
        task.await
    }
}

impl Drop for Missed {
    fn drop(&mut self) {
        let may_end = self.wrong == Wrong::Panic && !std::thread::panicking();
        if !may_end && !self.until.iter().any(Stop::is_begun) {
            tracing::error!(task = self.kind, name = self.name, "a task ended that must not; the gateway begins anew");
            self.broken.send_replace(Some(self.kind));
        }
    }
}

/// Tells when the writer of a store is gone although nobody asked it to end.
pub async fn watch_store(
    store: StoreHandle,
    what: &'static str,
    stop: Stop,
    broken: watch::Sender<Option<&'static str>>,
) {
    store.ended().await;
    if !stop.is_begun() {
        broken.send_replace(Some(what));
    }
}

/// Runs the broker, and tells when it ended before its time.
pub async fn watch_broker(
    broker: Broker,
    stop: Stop,
    end: CancellationToken,
    broken: watch::Sender<Option<&'static str>>,
    progress: Progress,
) {
    if let Err(error) = tokio::spawn(progress.watch("broker", "", broker.run(stop, end.clone()))).await {
        tracing::error!(%error, "broker panicked");
    }
    if !end.is_cancelled() {
        broken.send_replace(Some("the broker"));
    }
}

/// A task that has ended: if it panicked that is told, whoever waited for it goes on.
pub(super) fn report<T>(ended: Result<T, JoinError>, what: &'static str) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(task = what, %error, "a task panicked");
    }
}

impl BusParts {
    /// Between two lives of a bus nobody is asked anything, so whatever plan comes is followed at once: no other bus waits
    /// for this one to let go of a device. The next life begins with the newest plan in which the bus is the same.
    async fn fall_silent(&mut self, bus: BusIx, plans: &mut Plans) {
        let newest = plans.taken();
        if newest.bus(bus) == self.plan.bus(bus) {
            self.plan = Arc::clone(&newest);
            self.plan.devices_on(bus).for_each(|(device, _)| self.hub.report_down(device));
            for batch in silence(&self.plan, bus, self.clock.now()) {
                self.hub.emit(batch).await;
            }
        }
        plans.follow(newest);
    }

    /// Waits for the end of a life. After a panic one that is long enough takes back what was told of that.
    async fn lived(&self, name: &str, mut life: JoinHandle<()>, restarts: u64) -> Result<(), JoinError> {
        if restarts > 0 {
            if let Ok(ended) = timeout(SOUND_LIFE, &mut life).await {
                return ended;
            }
            let (subject, detail) = (name.to_owned(), format!("bus {name} has run well since"));
            self.notices.tell(Notice { event: BUS_RESTARTED, phase: Phase::Cleared, subject, detail });
        }
        life.await
    }

    /// What its lives share with the rooms of the house.
    pub fn shared(&self) -> Shared {
        Shared { clock: self.clock.clone(), stop: self.stop.clone(), pauses: self.pauses.clone() }
    }

    fn life(&self, bus: BusIx) -> (AnyBus, BusHandle) {
        let (life, handle) = (self.build)(self, bus);
        let life = life.telling(&self.notices).following(&self.plans);
        (if let Some(memory) = &self.memory { life.remembering(memory) } else { life }, handle)
    }
}

/// A life over the wire of the plan.
pub fn build(parts: &BusParts, bus: BusIx) -> (AnyBus, BusHandle) {
    AnyBus::new(Arc::clone(&parts.plan), bus, &parts.hub, parts.shared())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, HostFacts};
    use crate::model::tag::{DeviceIx, TagIx};
    use crate::model::time::Boot;

    const TWO_BUSES: &str = r#"
        [[bus]]
        name = "a"
        type = "modbus-tcp"
        endpoint = "127.0.0.1:1"
        [[bus]]
        name = "b"
        type = "modbus-tcp"
        endpoint = "127.0.0.1:2"
        [[device]]
        name = "left"
        bus = "a"
        unit_id = 1
        [[device.tag]]
        name = "x"
        address = "coil:0"
        [[device]]
        name = "right"
        bus = "b"
        unit_id = 1
        [[device.tag]]
        name = "y"
        address = "coil:0"
        [[device.tag]]
        name = "z"
        address = "coil:1"
        access = "write"
    "#;

    #[test]
    fn while_a_bus_is_built_anew_its_tags_do_not_look_good_and_other_buses_are_not_touched() {
        let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
        let plan = config::parse(TWO_BUSES, std::path::Path::new("two.toml"), &facts).expect("checks").plan;
        let at = Stamp { boot: Boot(1), micros: 7 };
        let stale = Sample { tag: TagIx(1), value: None, quality: Quality::Bad(Cause::Stale), at };
        assert_eq!(silence(&plan, BusIx(1), at), [Batch { device: DeviceIx(1), samples: vec![stale] }]);
    }

    #[tokio::test]
    async fn who_must_not_end_is_missed_when_he_panics_or_returns_and_not_when_stopping_has_begun() {
        let (stop, (broken, told)) = (Stop::new(), watch::channel(None));
        let crew = Crew::new(&Progress::default(), &stop, &broken);
        assert!(tokio::spawn(crew.run("one that panics", async { panic!("on purpose") })).await.is_err());
        assert_eq!(*told.borrow(), Some("one that panics"));
        assert_eq!(tokio::spawn(crew.run("one that returns", async { 7 })).await.expect("runs"), 7);
        assert_eq!(*told.borrow(), Some("one that returns"));
        broken.send_replace(None);
        let late = crew.run("one that was stopped", async {});
        stop.begin();
        tokio::spawn(late).await.expect("runs");
        assert_eq!(*told.borrow(), None);
    }

    #[tokio::test]
    async fn one_of_several_is_missed_by_its_name_and_one_that_may_end_only_when_it_panics() {
        let (stop, own, (broken, told)) = (Stop::new(), Stop::new(), watch::channel(None));
        let crew = Crew::new(&Progress::default(), &stop, &broken).or_until(&own);
        tokio::spawn(crew.run_to_end("trial", async {})).await.expect("runs");
        assert_eq!(*told.borrow(), None, "it may end");
        assert!(tokio::spawn(crew.run_to_end("trial", async { panic!("on purpose") })).await.is_err());
        assert_eq!(broken.send_replace(None), Some("trial"));
        assert!(tokio::spawn(crew.run_one("uplink", "cloud", async { panic!("on purpose") })).await.is_err());
        assert_eq!(broken.send_replace(None), Some("uplink"));
        assert!(tokio::spawn(crew.keep("bus", "line", async { panic!("on purpose") })).await.is_err());
        assert_eq!(broken.send_replace(None), Some("bus"));
        own.begin(); // of two stops either is enough
        tokio::spawn(crew.run_one("uplink", "cloud", async {})).await.expect("runs");
        assert_eq!(*told.borrow(), None);
    }

    #[test]
    fn the_pause_before_a_restart_doubles_to_a_minute_and_begins_again_after_a_sound_life() {
        let mut pause = RESTART_PAUSE / 2;
        let pauses: Vec<_> = (0..8)
            .map(|_| {
                pause = next_pause(pause, Duration::ZERO);
                pause.as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(next_pause(pause, SOUND_LIFE), RESTART_PAUSE);
    }
}
