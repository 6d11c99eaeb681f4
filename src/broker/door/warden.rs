//! Opens and closes doors while the broker runs: a reload has other listeners than before.
//!
//! A door that stays is not touched, and nobody who came in through it. One that goes is closed, and who came in through it
//! is told to go (MQTT 5: 0x87): its rights were the door's. One that changed is closed before its address is opened
//! again, and finds the port of a door for QUIC as it was left: see `ports`. But one for sensors of which only lists and times
//! have changed stays open and goes by the new ones (`regime`): its sensors may sleep for hours.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::certificates::{Certificates, NO_CERTIFICATE};
use super::needed::needed;
use super::regime::Regime;
use super::{Door, Site};
use crate::config::plan::ListenerPlan;
use crate::flow::progress;
use crate::flow::stop::Stop;
use crate::model::lock::Hold as _;

/// It cannot be opened.
pub(super) const DOWN: &str = "broker_listener_down";

/// What may hold of a door.
const EVENTS: [&str; 4] = [DOWN, NO_CERTIFICATE, "certificate_unusable", "certificate_expiring"];

/// These listeners from now on; told when that is done.
#[derive(Debug)]
pub(in crate::broker) struct Order {
    pub listeners: Vec<ListenerPlan>,
    pub step: Step,
    pub done: oneshot::Sender<()>,
}

/// How far an order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Step {
    /// Doors that do not stay are closed, whoever may not stay is told to go, and nobody comes in by what is new.
    Shut,
    /// And the new ones are tried to be opened.
    Open,
}

/// How a door that is open stays so under one of the new plans, the best way first.
const STAYS: [fn(&ListenerPlan, &ListenerPlan) -> bool; 2] = [ListenerPlan::eq, ListenerPlan::may_become];

/// Which doors there are, and whether they are open. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DoorList(Arc<Mutex<Vec<Known>>>);

/// A door, and whether it is open.
type Known = (ListenerPlan, Arc<AtomicBool>);

impl DoorList {
    /// In no order.
    pub fn now(&self) -> Vec<(ListenerPlan, bool)> {
        let doors = self.0.hold();
        doors.iter().map(|(plan, open)| (plan.clone(), open.load(Ordering::Relaxed))).collect()
    }
}

/// A door that is served.
struct Served {
    plan: ListenerPlan,
    open: Arc<AtomicBool>,
    regime: Option<watch::Sender<Regime>>,
    closed: CancellationToken,
    serving: JoinHandle<()>,
    /// Who looks after its certificates, if it has any.
    keeping: Option<JoinHandle<()>>,
}

impl Served {
    /// It stays open, and this is its plan from now on. Nobody is kept waiting at a door that is as it was.
    fn follow(&mut self, plan: ListenerPlan, step: Step) {
        if let (Some(regime), Some(sensors)) = (&self.regime, &plan.mqtt_sn)
            && (step == Step::Open || self.plan != plan)
        {
            Regime::change(regime, sensors, step);
        }
        self.plan = plan;
    }
}

/// Who begins and ends doors.
pub(super) struct Warden {
    site: Site,
    asked: watch::Sender<u64>,
    list: DoorList,
    tracker: TaskTracker,
    stop: Stop,
    end: CancellationToken,
    doors: Vec<Served>,
}

impl Warden {
    pub(super) fn new(
        site: Site,
        asked: watch::Sender<u64>,
        list: DoorList,
        (tracker, stop, end): (TaskTracker, Stop, CancellationToken),
    ) -> Self {
        Self { site, asked, list, tracker, stop, end, doors: Vec::new() }
    }

    /// Serves a door until it is closed or stopping begins, and keeps its certificates.
    pub(super) fn begin(&mut self, door: Door, certificates: Option<Certificates>) {
        let closed = CancellationToken::new();
        let keeping = certificates.map(|certificates| {
            let (stop, closed, asked) = (self.stop.clone(), closed.clone(), self.asked.subscribe());
            let keeping = async move {
                tokio::select! {
                    () = stop.begun() => {}
                    () = closed.cancelled() => {}
                    () = certificates.keep(asked) => {}
                }
            };
            self.tracker.spawn(needed("certificates", &door.plan.place(), &self.site.shared.lost, keeping))
        });
        let (connections, stop, end, gone) =
            (self.tracker.clone(), self.stop.clone(), self.end.clone(), closed.clone());
        let (plan, open, name) = (door.plan.clone(), Arc::clone(&door.open), door.plan.place());
        let regime = door.regime.clone();
        let serving = async move {
            tokio::select! {
                () = stop.begun() => {}
                () = end.cancelled() => {}
                () = gone.cancelled() => {}
                () = door.serve(&connections, &end, &gone) => {}
            }
        };
        let serving = needed("door", &name, &self.site.shared.lost, serving);
        let serving = self.tracker.spawn(progress::part("door", &name, serving));
        self.doors.push(Served { plan, open, regime, closed, serving, keeping });
        self.tell();
    }

    /// Takes orders in a task of its own, until stopping begins.
    pub(super) fn work(self, orders: mpsc::Receiver<Order>) {
        let (tracker, stop, lost) = (self.tracker.clone(), self.stop.clone(), self.site.shared.lost.clone());
        let at_work = async move {
            tokio::select! {
                () = stop.begun() => {}
                () = self.run(orders) => {}
            }
        };
        let at_work = needed("doors", "", &lost, at_work);
        tracker.spawn(progress::part("doors", "", at_work)); // doors that it opens are parts of the same board
    }

    /// Takes orders until the broker has gone.
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                never = self.site.ports.clear() => match never {},
            };
            let Some(Order { listeners, step, done }) = order else { break };
            self.change(listeners, step).await;
            let _ = done.send(()); // whoever asked may have gone
        }
        std::future::pending::<()>().await;
    }

    async fn change(&mut self, listeners: Vec<ListenerPlan>, step: Step) {
        let mut new = listeners;
        let doors = new.len();
        let mut old = std::mem::take(&mut self.doors);
        for stays in STAYS {
            let kept = old.extract_if(.., |served| {
                let place = new.iter().position(|plan| stays(&served.plan, plan));
                place.is_some_and(|place| {
                    served.follow(new.remove(place), step);
                    true
                })
            });
            self.doors.extend(kept);
        }
        for served in old {
            served.closed.cancel();
            self.closed(served).await;
        }
        if step == Step::Open {
            for plan in new {
                let (mut door, mut certificates) = self.site.door(&plan, doors);
                door.try_once(certificates.as_mut()).await;
                self.begin(door, certificates);
            }
        }
        self.site.ports.shut();
        self.tell();
    }

    /// A door is being closed. What was told of it holds no more.
    async fn closed(&self, served: Served) {
        let Served { plan, serving, keeping, .. } = served;
        if serving.await.is_err() {
            tracing::error!(listener = %plan, "the task of a listener ended badly");
        }
        if let Some(keeping) = keeping
            && keeping.await.is_err()
        {
            tracing::error!(listener = %plan, "the task of a listener's certificates ended badly");
        }
        tracing::info!(listener = %plan, "listener closed");
        let (detail, place) = ("there is no such listener any more", plan.place());
        self.site.notices.over(detail, |told| told.subject == place && EVENTS.contains(&told.event));
    }

    fn tell(&self) {
        let doors = self.doors.iter().map(|served| (served.plan.clone(), Arc::clone(&served.open))).collect();
        *self.list.0.hold() = doors;
    }
}
