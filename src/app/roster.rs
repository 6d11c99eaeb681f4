//! What everybody looks at, and a reload exchanges under them: the plan in force, the ways to its buses, the counters of
//! its uplinks and of the stores of its bridges.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::plan::Plan;
use crate::field::BusHandle;
use crate::store::StoreStats;
use crate::uplink::UplinkStats;

/// The plan in force; places of tags stay.
pub type PlanNow = Arc<ArcSwap<Plan>>;

/// Where a bus is reached; swapped when it is built anew after a panic.
pub type BusSlot = Arc<ArcSwap<BusHandle>>;

/// The slots of all buses, by `BusIx`.
pub type Slots = Arc<ArcSwap<Vec<Option<BusSlot>>>>;

/// The counters of every uplink and bridge, by name.
pub type UplinkRoster = Arc<ArcSwap<Vec<(String, Arc<UplinkStats>)>>>;

/// The counters of the store of every bridge, by name.
pub type StoreRoster = Arc<ArcSwap<Vec<(String, Arc<StoreStats>)>>>;

/// As it is at the start.
pub(super) fn plan_now(plan: &Arc<Plan>) -> PlanNow {
    Arc::new(ArcSwap::new(Arc::clone(plan)))
}
