//! The gateway, as the demo sees it: a thing that is started with a plan, can be looked at, and is stopped in order.
//!
//! The demo knows no more of it than this, so that it proves what a stranger could see.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::commands::Failed;
use crate::config::plan::Plan;
use crate::model::number::Number;

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
    /// How it stands.
    pub pulse: Box<dyn Fn() -> Pulse + Send + Sync>,
    /// Stops it in order: polling, commit, uplink drained, closed. Then the newest committed number of each stream, read
    /// from its closed store.
    pub stop: Box<dyn FnOnce() -> Later<Result<Vec<Number>, Failed>> + Send>,
}

/// Starts a gateway with a plan; called once.
pub type StartGateway = Box<dyn FnOnce(Arc<Plan>) -> Later<Result<Gateway, Failed>> + Send>;
