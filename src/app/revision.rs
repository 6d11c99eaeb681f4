//! What the stores have to know of a plan, and of earlier ones that may still come back: uplinks and classes of those are
//! owed on, and of two bounds the wider one holds. What a store has evicted no rollback brings back.

use std::sync::Arc;
use std::time::Duration;

use crate::config::plan::{BridgePlan, Plan};
use crate::store::Revision;

use super::opening::{routes, tag_metas};

/// Of the gateway's own store.
pub(super) fn revision(plan: &Plan, earlier: &[Arc<Plan>]) -> Revision {
    let mut uplinks = routes(plan);
    for old in earlier.iter().flat_map(|old| routes(old)) {
        match uplinks.iter_mut().find(|route| route.name == old.name) {
            Some(route) => {
                let more: Vec<_> = old.classes.iter().filter(|class| !route.classes.contains(class)).collect();
                route.classes.extend(more);
            }
            None => uplinks.push(old),
        }
    }
    let of = |plan: &Plan| Bounds { max_size: plan.store.max_size, max_age: plan.store.max_age };
    let Bounds { max_size, max_age } = earlier.iter().map(|old| of(old)).fold(of(plan), Bounds::wider);
    Revision { tags: tag_metas(plan), uplinks, max_size, max_age, commit_interval: plan.store.commit_interval }
}

/// How much a store holds, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub max_size: u64,
    /// `None`: for ever.
    pub max_age: Option<Duration>,
}

impl Bounds {
    /// Of the store of a bridge.
    pub fn of_bridge(bridge: &BridgePlan, earlier: &[Arc<Plan>]) -> Self {
        let of = |bridge: &BridgePlan| Self { max_size: bridge.max_size, max_age: bridge.max_age };
        let before = earlier.iter().flat_map(|old| &old.bridges).filter(|old| old.uplink.name == bridge.uplink.name);
        before.map(of).fold(of(bridge), Self::wider)
    }

    fn wider(self, other: Self) -> Self {
        let max_age = self.max_age.zip(other.max_age).map(|(one, two)| one.max(two));
        Self { max_size: self.max_size.max(other.max_size), max_age }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{Notifications, UplinkPlan};

    const DAY: Duration = Duration::from_secs(86_400);

    fn plan(max_size: u64, max_age: Option<Duration>) -> Arc<Plan> {
        let mut plan = Plan::empty("gw");
        (plan.store.max_size, plan.store.max_age) = (max_size, max_age);
        Arc::new(plan)
    }

    #[test]
    fn as_long_as_an_earlier_plan_may_come_back_a_store_keeps_what_that_one_would_keep() {
        let bounds = |new: &Plan, earlier: &[Arc<Plan>]| {
            let Revision { max_size, max_age, .. } = revision(new, earlier);
            (max_size, max_age)
        };
        let (large, small) = (plan(64, None), plan(8, Some(DAY)));
        assert_eq!(bounds(&small, &[Arc::clone(&large)]), (64, None));
        assert_eq!(bounds(&large, &[Arc::clone(&small)]), (64, None), "on the way back too");
        assert_eq!(bounds(&small, &[]), (8, Some(DAY)), "when nothing comes back any more");
        let long = plan(16, Some(DAY * 2));
        assert_eq!(bounds(&small, &[Arc::clone(&long), Arc::clone(&small)]), (16, Some(DAY * 2)));
        assert_eq!(bounds(&small, &[long, large]), (64, None), "of several the widest");
    }

    #[test]
    fn a_bridge_that_is_opened_anew_keeps_what_it_would_keep_before() {
        let bridge = |max_size, max_age| {
            let (uplink, notifications) = (UplinkPlan::plain("far"), Notifications::None);
            BridgePlan { uplink, out: Vec::new(), max_size, max_age, notifications }
        };
        let before = Arc::new(Plan { bridges: vec![bridge(64, None)], ..Plan::empty("gw") });
        let bounds = Bounds::of_bridge(&bridge(8, Some(DAY)), &[before]);
        assert_eq!(bounds, Bounds { max_size: 64, max_age: None });
        let bounds = Bounds::of_bridge(&bridge(8, Some(DAY)), &[Arc::new(Plan::empty("gw"))]);
        assert_eq!(bounds, Bounds { max_size: 8, max_age: Some(DAY) }, "it was not there");
    }
}
