//! Circles: what goes upstream must not come down again into what goes upstream.
//!
//! A hop is one rule that moves topics from one broker to another: `[[forward]]` up, `[[uplink.down]]` down, a topic of a
//! `[[bridge]]` out or in. From each hop the topics are followed through every hop that takes some of them, until they
//! come back to the first: then they would go round for ever, and the circle is shown.
//!
//! Safe without being told, and so not followed: from a bridge's way in to the same bridge's way out, because the gateway
//! does not send a message back where it came from; and the other way round, because of MQTT 5's no-local (section
//! 3.8.3.1), which is why a bridge whose topics overlap in both directions speaks MQTT 5. What a third broker does behind
//! the back of this gateway cannot be seen from here.

use std::fmt::Write as _;

use super::super::plan::{BridgePlan, ForwardPlan, MqttVersion, ServerPlan, UplinkPlan};
use super::super::problem::Finding;
use super::super::raw::{Node, Trail};
use super::super::section::Section;
use crate::model::mapping::{Mapping, intersect};

/// Ways tried from one hop; more than any file has that a person could still follow.
const STEPS_MAX: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

struct Hop<'a> {
    /// For people.
    name: String,
    /// Whose connection it takes; `bridge`: messages are not sent back there.
    uplink: &'a UplinkPlan,
    bridge: Option<&'a str>,
    way: Way,
    mapping: Mapping,
    node: &'a Node,
}

impl Hop<'_> {
    fn source(&self) -> String {
        if self.way == Way::Up { self.mapping.local_filter() } else { self.mapping.remote_filter() }
    }

    fn moved(&self, topics: &str) -> Option<String> {
        if self.way == Way::Up { self.mapping.to_remote(topics) } else { self.mapping.to_local(topics) }
    }

    /// What of these topics it takes, if it stands where `before` ends.
    fn takes(&self, before: &Self, topics: &str) -> Option<String> {
        let same = self.bridge.is_some() && self.bridge == before.bridge;
        let meets = before.way != self.way && !same && (self.way == Way::Up || same_broker(before.uplink, self.uplink));
        meets.then(|| intersect(topics, &self.source())).flatten()
    }
}

fn same_broker(one: &UplinkPlan, other: &UplinkPlan) -> bool {
    let place = |server: &ServerPlan| (server.host.trim_end_matches('.').to_ascii_lowercase(), server.port);
    one.name == other.name || one.servers.iter().any(|own| other.servers.iter().any(|its| place(own) == place(its)))
}

/// Reports each circle once; gives a bridge with overlapping directions the MQTT version that it needs.
pub fn loops(root: &Section<'_, '_>, uplinks: &[UplinkPlan], forwards: &[ForwardPlan], bridges: &mut [BridgePlan]) {
    for (bridge, node) in bridges.iter_mut().zip(root.tables("bridge")) {
        need_no_local(root, bridge, node);
    }
    let hops = hops(root, uplinks, forwards, bridges);
    for first in 0..hops.len() {
        let mut walk = Walk { hops: &hops, first, path: Vec::new(), steps: 0 };
        let circle = walk.follow(first, &hops[first].source());
        let message = match circle {
            Some(circle) => Some(format!("these topics would go round for ever: {circle}")),
            None if walk.steps > STEPS_MAX => Some(
                "too many ways overlap here to say that no topic goes round for ever; make their filters narrower"
                    .to_owned(),
            ),
            None => None,
        };
        if let Some(message) = message {
            let key = if hops[first].bridge.is_some() { "bridge" } else { "forward" };
            let list = Trail::Key(root.trail, key);
            root.report(Finding::line(hops[first].node.at, list, message));
        }
    }
}

struct Walk<'a> {
    hops: &'a [Hop<'a>],
    first: usize,
    /// Hops taken, with the topics that went in.
    path: Vec<(usize, String)>,
    steps: usize,
}

impl Walk<'_> {
    /// The circle, if these topics come back to the first hop. It is told at the hop that stands first in the file.
    fn follow(&mut self, at: usize, topics: &str) -> Option<String> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return None;
        }
        let hop = &self.hops[at];
        let moved = hop.moved(topics)?;
        self.path.push((at, topics.to_owned()));
        for next in self.first..self.hops.len() {
            let Some(taken) = self.hops[next].takes(hop, &moved) else { continue };
            if next == self.first {
                return Some(self.told(&taken));
            }
            if self.path.iter().all(|(passed, _)| *passed != next)
                && let found @ Some(_) = self.follow(next, &taken)
            {
                return found;
            }
        }
        self.path.pop();
        None
    }

    fn told(&self, back: &str) -> String {
        let place = |hop: &Hop<'_>, way| {
            let server = || hop.uplink.servers.first().map_or_else(String::new, ToString::to_string);
            if hop.way == way { "here".to_owned() } else { server() }
        };
        let mut told = String::new();
        for (at, topics) in &self.path {
            let hop = &self.hops[*at];
            let _ = write!(told, "\"{topics}\" {} -> {} -> ", place(hop, Way::Up), hop.name);
        }
        told + &format!("\"{back}\" {}", place(&self.hops[self.first], Way::Up))
    }
}

fn hops<'a>(
    root: &Section<'a, '_>,
    uplinks: &'a [UplinkPlan],
    forwards: &[ForwardPlan],
    bridges: &'a [BridgePlan],
) -> Vec<Hop<'a>> {
    let mut hops = Vec::new();
    for (forward, node) in forwards.iter().zip(root.tables("forward")) {
        for uplink in uplinks.iter().filter(|uplink| forward.uplinks.contains(&uplink.name)) {
            let mapping = Mapping { remote_prefix: uplink.topic_prefix.clone(), ..Mapping::plain(&forward.filter) };
            let name = format!("[[forward]] to {}", uplink.name);
            hops.push(Hop { name, uplink, bridge: None, way: Way::Up, mapping, node });
        }
    }
    for (uplink, node) in uplinks.iter().zip(root.tables("uplink")) {
        for down in &uplink.downs {
            let (name, mapping) = (format!("[[uplink.down]] of {}", uplink.name), down.mapping.clone());
            hops.push(Hop { name, uplink, bridge: None, way: Way::Down, mapping, node });
        }
    }
    for (bridge, node) in bridges.iter().zip(root.tables("bridge")) {
        let (uplink, of) = (&bridge.uplink, Some(bridge.uplink.name.as_str()));
        for (way, word, mapping) in ways(bridge) {
            let name = format!("[[bridge]] {} {word}", uplink.name);
            hops.push(Hop { name, uplink, bridge: of, way, mapping: mapping.clone(), node });
        }
    }
    hops
}

fn ways(bridge: &BridgePlan) -> impl Iterator<Item = (Way, &'static str, &Mapping)> {
    let out = bridge.out.iter().map(|out| (Way::Up, "out", &out.mapping));
    out.chain(bridge.uplink.downs.iter().map(|down| (Way::Down, "in", &down.mapping)))
}

/// What goes out and is subscribed to as well comes back, unless the broker knows that it came from us.
fn need_no_local(root: &Section<'_, '_>, bridge: &mut BridgePlan, node: &Node) {
    let back = bridge.out.iter().find_map(|out| {
        bridge
            .uplink
            .downs
            .iter()
            .find_map(|down| intersect(&out.mapping.remote_filter(), &down.mapping.remote_filter()))
    });
    let Some(back) = back else { return };
    if bridge.uplink.mqtt_version == MqttVersion::V311 {
        let list = Trail::Key(root.trail, "bridge");
        let message = format!(
            "\"{back}\" goes out to {} and comes in from there: every message would come back to where it was published. \
             MQTT 5 can tell the broker not to; with 3.1.1 the directions need different prefixes",
            bridge.uplink.servers.first().map_or_else(String::new, ToString::to_string)
        );
        root.report(Finding::line(node.at, list, message));
    } else {
        bridge.uplink.mqtt_version = MqttVersion::V5;
    }
}
