//! Who is restarted and who ends the process (architecture, section 5).
//!
//! A bus that panics is built anew after a pause, the others run on. When the broker's core or the store ends on its own
//! the process has no point any more: it exits and systemd starts it again.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::config::plan::Plan;
use crate::field::{Bus, BusHandle};
use crate::flow::clock::Clock;
use crate::flow::hub::Hub;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::flow::stop::Stop;
use crate::model::tag::BusIx;
use crate::store::StoreHandle;

use super::router::BusSlot;

/// Pause before a bus that panicked is built anew; doubles up to [`RESTART_PAUSE_MAX`].
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause before a restart.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);

/// What every bus of a plan is built from.
#[derive(Clone)]
pub struct BusParts {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Where its samples go.
    pub hub: Hub,
    /// For stamps.
    pub clock: Clock,
    /// Ends it.
    pub stop: Stop,
    /// Told when it has no connection, or had to be restarted.
    pub notices: Notices,
}

/// One bus under supervision.
pub struct WatchedBus {
    parts: BusParts,
    bus: BusIx,
    slot: BusSlot,
    first: Bus,
}

impl WatchedBus {
    /// Builds the bus; the slot always holds the way to its current life.
    pub fn new(parts: BusParts, bus: BusIx) -> (Self, BusSlot) {
        let (first, handle) = build(&parts, bus);
        let slot: BusSlot = Arc::new(ArcSwap::from_pointee(handle));
        (Self { parts, bus, slot: Arc::clone(&slot), first }, slot)
    }

    /// Runs it until stopping, through any number of lives.
    pub async fn run(self) {
        let Self { parts, bus, slot, first } = self;
        let name = &parts.plan.buses[bus.0 as usize].name;
        let (mut life, mut pause) = (first, RESTART_PAUSE);
        while let Err(panic) = tokio::spawn(life.run()).await {
            tracing::error!(bus = name, error = %panic, "bus panicked and is built anew");
            let detail = format!("bus {name} failed inside the gateway and is restarted in {} s", pause.as_secs());
            parts.notices.tell(Notice { event: "bus_restarted", phase: Phase::Once, subject: name.clone(), detail });
            tokio::select! {
                () = parts.stop.begun() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
            let (next, handle) = build(&parts, bus);
            slot.store(Arc::new(handle));
            life = next;
        }
    }
}

/// Tells when the store's writer is gone although nobody asked it to end.
pub async fn watch_store(store: StoreHandle, stop: Stop, broken: watch::Sender<Option<&'static str>>) {
    store.ended().await;
    if !stop.is_begun() {
        broken.send_replace(Some("the store"));
    }
}

/// Runs the broker, and tells when it ended before its time.
pub async fn watch_broker(
    broker: Broker,
    stop: Stop,
    end: CancellationToken,
    broken: watch::Sender<Option<&'static str>>,
) {
    if let Err(error) = tokio::spawn(broker.run(stop, end.clone())).await {
        tracing::error!(%error, "broker panicked");
    }
    if !end.is_cancelled() {
        broken.send_replace(Some("the broker"));
    }
}

fn build(parts: &BusParts, bus: BusIx) -> (Bus, BusHandle) {
    let (life, handle) =
        Bus::new(Arc::clone(&parts.plan), bus, parts.hub.clone(), parts.clock.clone(), parts.stop.clone());
    (life.telling(parts.notices.clone()), handle)
}
