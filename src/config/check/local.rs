//! `url = "local:"`: an uplink that leads to the gateway's own broker, as an edge node of Sparkplug for hosts that connect there.
//!
//! It is reached without network, login or bill, so keys about these are refused. What it tells belongs to the gateway as tag topics
//! do: nobody else may tell it, and it is not forwarded; filters that ask for nothing else are refused.

use super::super::plan::{BridgePlan, Format, ForwardPlan, LOCAL_URL, ServerPlan, Transport, UplinkPlan};
use super::super::problem::Finding;
use super::super::raw::{Node as Raw, Trail};
use super::super::section::Section;
use crate::model::sparkplug::Node;
use crate::model::topic::{INSIDE_ID, covers};

/// What says something about a network, or about who comes over it.
const KEYS: [&str; 13] = [
    "client_id",
    "username",
    "password_file",
    "proxy",
    "proxy_username",
    "proxy_password_file",
    "preset",
    "keep_alive",
    "max_rate",
    "budget",
    "reserve",
    "overrun",
    "path",
];

/// The edge nodes that the gateway is on its own broker.
pub fn nodes(uplinks: &[UplinkPlan]) -> impl Iterator<Item = (&UplinkPlan, &Node)> {
    let local = uplinks.iter().filter(|uplink| uplink.is_local());
    local.filter_map(|uplink| Some((uplink, &uplink.sparkplug.as_ref()?.node)))
}

/// Written into the plan, after everything else of it; `before` are the uplinks that stand before it.
pub fn uplink(section: &Section<'_, '_>, plan: &mut UplinkPlan, before: &[UplinkPlan]) {
    if !plan.is_local() {
        return;
    }
    plan.client_id = format!("{INSIDE_ID}{}", plan.name);
    let at = section.get("url").map_or(section.at, |node| node.at);
    if plan.format != Format::Sparkplug {
        let message =
            "the local broker shows all tags anyway: only an edge node (format = \"sparkplug\") has more to say there";
        section.report(section.wrong("url", at, message));
    }
    for key in KEYS {
        if let Some(node) = section.get(key) {
            let message = "has no use on the local broker, which is reached without a network, a login and a bill";
            section.report(section.wrong(key, node.at, message));
        }
    }
    let Some(spark) = &plan.sparkplug else { return };
    if let Some((other, _)) = nodes(before).find(|(_, node)| **node == spark.node) {
        let message = format!(
            "{} is this edge node on the local broker already: one of them needs another `edge_node_id`",
            other.name
        );
        section.report(section.wrong("url", at, message));
    }
}

/// A bridge to the broker it begins at carries in circles.
pub fn no_bridge(section: &Section<'_, '_>, servers: &[ServerPlan]) {
    if let (true, Some(node)) = (servers.iter().any(|it| it.transport == Transport::Local), section.get("url")) {
        let message = format!("{LOCAL_URL} is the broker that a bridge begins at: what is here need not come here");
        section.report(section.wrong("url", node.at, message));
    }
}

/// `[[forward]]` and `[[bridge]]` that ask for topics of these edge nodes and nothing else.
pub fn foreign(root: &Section<'_, '_>, uplinks: &[UplinkPlan], forwards: &[ForwardPlan], bridges: &[BridgePlan]) {
    for (uplink, node) in nodes(uplinks) {
        let own = node.all_topics();
        let told = |key: &str, at: &Raw, filter: &str, what: &str| {
            if covers(&own, filter) {
                let message = format!(
                    "\"{filter}\" belongs to the uplink {}, an edge node on the local broker: {what}",
                    uplink.name
                );
                root.report(Finding::line(at.at, Trail::Key(root.trail, key), message));
            }
        };
        for (forward, at) in forwards.iter().zip(root.tables("forward")) {
            told("forward", at, &forward.filter, "it is not forwarded; give the other broker an [[uplink]] of its own");
        }
        for (bridge, at) in bridges.iter().zip(root.tables("bridge")) {
            for out in &bridge.out {
                let what = "it does not go out; give the other broker an [[uplink]] of its own";
                told("bridge", at, &out.mapping.local_filter(), what);
            }
            for down in &bridge.uplink.downs {
                told("bridge", at, &down.mapping.local_filter(), "nobody else may write there");
            }
        }
        for (other, at) in uplinks.iter().zip(root.tables("uplink")) {
            for down in &other.downs {
                told("uplink", at, &down.mapping.local_filter(), "nobody else may write there");
            }
        }
    }
}
