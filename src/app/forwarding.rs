//! Which clients' messages go into which store: the rules of the plan, and the end of that road when the gateway stops.

use std::sync::Arc;

use crate::config::plan::Plan;
use crate::flow::forward::{ForwardEntry, Route};
use crate::flow::hub::Hub;
use crate::flow::stop::Stop;
use crate::model::mapping::Mapping;

/// The road of a plan; `hub` leads into the gateway's own store.
pub fn entry(plan: &Arc<Plan>, hub: &Hub) -> ForwardEntry {
    let route = |forward: &crate::config::plan::ForwardPlan| Route {
        mapping: Mapping::plain(&forward.filter),
        class: forward.class,
        lane: 0,
        bridge: None,
    };
    let routes: Vec<Route> = plan.forwards.iter().map(route).collect();
    if routes.is_empty() {
        return ForwardEntry::none();
    }
    ForwardEntry::new(routes, vec![hub.clone()])
}

/// Gives the lanes back when stopping begins, so that the stores see the end of what comes in; until then clients are
/// acknowledged.
pub async fn close_at_stop(entry: ForwardEntry, stop: Stop) {
    stop.begun().await;
    entry.close().await;
}
