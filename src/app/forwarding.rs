//! Which clients' messages go into which store: the rules of the plan, and the end of that road when the gateway stops.

use crate::config::plan::{ForwardPlan, OutPlan, Plan, RetainHere};
use crate::flow::forward::{ForwardEntry, Route};
use crate::flow::hub::Hub;
use crate::flow::stop::Stop;
use crate::model::mapping::Mapping;
use crate::model::message::Kept;
use crate::model::number::Class;

use super::bridges::Bridges;

/// The rules of a plan; `hub` leads into the gateway's own store, each bridge has one for itself.
pub(super) fn routes(plan: &Plan, hub: &Hub, bridges: &Bridges) -> (Vec<Route>, Vec<Hub>) {
    let own = |forward: &ForwardPlan| Route {
        mapping: Mapping::plain(&forward.filter),
        class: forward.class,
        lane: 0,
        bridge: None,
        kept: Kept::Yes,
    };
    let mut routes: Vec<Route> = plan.forwards.iter().map(own).collect();
    let mut lanes = vec![hub.clone()];
    for (bridge, lane) in bridges.lanes() {
        let out = |out: &OutPlan| Route {
            mapping: out.mapping.clone(),
            class: Class::Telemetry,
            lane: lanes.len(),
            bridge: Some(bridge.uplink.name.as_str().into()),
            kept: if out.retain == RetainHere::AsPublished { Kept::Yes } else { Kept::No },
        };
        routes.extend(bridge.out.iter().map(out));
        lanes.push(lane.clone());
    }
    if routes.is_empty() {
        lanes.clear();
    }
    (routes, lanes)
}

/// Gives the lanes back when stopping begins, so that the stores see the end of what comes in; until then clients are
/// acknowledged.
pub async fn close_at_stop(entry: ForwardEntry, stop: Stop) {
    stop.begun().await;
    entry.close();
}
