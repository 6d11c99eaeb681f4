//! Where figures come from: counters of all rooms, never a handle that would keep a store or a lane open.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::access::Access;
use crate::broker::{BrokerStats, DoorList};
use crate::flow::clock::Clock;
use crate::flow::hub::HubStats;
use crate::flow::latest::Latest;
use crate::flow::notice::Notices;
use crate::flow::progress::Progress;
use crate::model::time::Stamp;
use crate::status::StatusStats;
use crate::store::StoreStats;

use super::alarms::Shown;
use super::roster::{PlanNow, Slots, StoreRoster, UplinkRoster};

/// All of them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sources {
    pub plan: PlanNow,
    pub clock: Clock,
    /// When the gateway was.
    pub started: Stamp,
    pub buses: Slots,
    pub latest: Arc<Latest>,
    pub hub: Arc<HubStats>,
    /// Bridges too.
    pub uplinks: UplinkRoster,
    pub store: Arc<StoreStats>,
    /// By the name of the bridge.
    pub bridge_stores: StoreRoster,
    pub broker: Arc<BrokerStats>,
    pub doors: DoorList,
    pub access: Arc<Access>,
    pub notices: Notices,
    pub progress: Progress,
    /// The time is the system's own word.
    pub unvouched: Arc<AtomicBool>,
    pub alarms: Shown,
    pub status: Arc<StatusStats>,
}

impl Sources {
    /// Since the gateway started.
    pub(super) fn uptime(&self) -> Duration {
        self.clock.now().since(self.started)
    }
}
