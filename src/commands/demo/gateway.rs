//! The gateway, as the demo sees it: a thing that is started with a plan, can be looked at, and is stopped in order.
//!
//! The demo knows no more of it than this, so that it proves what a stranger could see.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::app::{self, Running};
use crate::commands::Failed;
use crate::config::plan::Plan;
use crate::flow::stop::Stop;
use crate::model::number::Number;
use crate::model::stats::Counter;
use crate::store::{StoreHandle, inspect};
use crate::uplink::{Timing, UplinkStats};

/// A future that a gateway hands out.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How the gateway stands at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pulse {
    /// Records committed to its store since it started.
    pub stored: u64,
    /// Records that its uplink still owes.
    pub backlog: u64,
    /// Times its uplink was accepted by the cloud.
    pub sessions: u64,
    /// Whether its uplink is connected.
    pub connected: bool,
}

/// A running gateway.
pub struct Gateway {
    /// Where its own broker listens.
    pub mqtt: SocketAddr,
    /// Where its status page is, if it could be opened.
    pub page: Option<SocketAddr>,
    /// How it stands.
    pub pulse: Box<dyn Fn() -> Pulse + Send + Sync>,
    /// Stops it in order: polling, commit, uplink drained, closed. Then the newest committed number of each stream, read
    /// from its closed store.
    pub stop: Box<dyn FnOnce() -> Later<Result<Vec<Number>, Failed>> + Send>,
}

/// Starts a gateway with a plan; called once.
pub type StartGateway = Box<dyn FnOnce(Arc<Plan>) -> Later<Result<Gateway, Failed>> + Send>;

/// Nobody wants to watch an uplink wait; outside the demo it waits up to 15 min.
const RETRY_MAX: Duration = Duration::from_secs(3);

/// The real gateway, started inside this process just as `ironbridge run` starts it.
pub fn start_in_process() -> StartGateway {
    Box::new(|plan| Box::pin(start(plan)))
}

async fn start(plan: Arc<Plan>) -> Result<Gateway, Failed> {
    let patience = Timing { retry_max: RETRY_MAX, ..Timing::default() };
    let running = app::start(plan, Stop::new(), patience).await.map_err(|error| Failed::TryAgain(error.to_string()))?;
    let mqtt = running.mqtt_addresses().iter().flatten().next();
    let mqtt = *mqtt.ok_or_else(|| Failed::TryAgain("the gateway's broker could not open its listener".to_owned()))?;
    let roster = running.uplinks().load_full();
    let (_, uplink) = roster
        .first()
        .ok_or_else(|| Failed::Internal("the demo's plan has an uplink, but none was started".to_owned()))?;
    // The store ends when its last handle is dropped: `pulse` lends its own, `stop` takes it back.
    let store = Arc::new(ArcSwapOption::from_pointee(running.store().clone()));
    let (lent, uplink) = (Arc::clone(&store), Arc::clone(uplink));
    let pulse = Box::new(move || lent.load().as_ref().map_or_else(Pulse::default, |store| pulse(store, &uplink)));
    let page = running.status_address();
    Ok(Gateway { mqtt, page, pulse, stop: Box::new(move || Box::pin(stop(running, store))) })
}

fn pulse(store: &StoreHandle, uplink: &UplinkStats) -> Pulse {
    let stats = store.stats();
    Pulse {
        stored: stats.stored.values().map(Counter::get).sum(),
        backlog: store.backlogs().iter().map(|(_, owed)| owed).sum(),
        sessions: uplink.sessions.get(),
        connected: uplink.connected.get() == 1,
    }
}

async fn stop(running: Running, lent: Arc<ArcSwapOption<StoreHandle>>) -> Result<Vec<Number>, Failed> {
    lent.store(None);
    let dir = running.store_dir().to_owned();
    running.stop().await;
    let status =
        inspect::status(&dir).map_err(|error| Failed::Internal(format!("cannot read the closed store: {error}")))?;
    Ok(status.newest())
}
