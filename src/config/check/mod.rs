//! What each table means: from the tree to the plan, or to all problems.
//!
//! One file per table. A check reads all its keys, reports what is wrong and goes on with defaults; the plan is given
//! out only if nothing was reported, so no default ever stands in for a wrong value.
//!
//! ```text
//!  gateway   [gateway] [store]                    broker    [broker]; access: users and rights
//!  bus       [[bus]]; port, reach: how it is      listener  [[broker.listener]]; mqtt_sn: for sensors
//!            reached; line: of type line          status    [status]; exposed: what it shares with listeners
//!  device    [[device]]; habits: what devices     uplink    [[uplink]]; server, path: the ways to it; money: what
//!            are like; example: what                        it may cost; sparkplug: as an edge node; local: on
//!            instruments say                                our own broker
//!  tag       [[device.tag]]; address, reading,    bridge    [[bridge]] and [[uplink.down]]
//!            writing; condition: what is          forward   [[forward]]
//!            watched; derived: expressions        loops     what would go round in circles
//!  names     of everything                        topics    of all tags
//!  own_door  no uplink leads back here
//! ```

mod access;
mod address;
mod bridge;
mod broker;
mod bus;
mod condition;
mod derived;
mod device;
mod example;
mod exposed;
mod forward;
mod gateway;
mod habits;
mod line;
mod listener;
mod local;
mod loops;
mod money;
mod mqtt_sn;
mod names;
mod own_door;
mod path;
mod port;
mod reach;
mod reading;
mod server;
mod sparkplug;
mod status;
mod tag;
mod topics;
mod uplink;
mod writing;

use std::path::Path;

pub use address::{STYLES, Style, modicon, parse_field, restyled};
pub use bridge::GATEWAY;
pub use reach::MODBUS_PORT;

use super::files::{Complete, FileSet};
use super::plan::Plan;
use super::problem::Findings;
use super::profile::Library;
use super::raw::{Node, Trail};
use super::schema;
use super::section::{Context, Section};
use super::source::Sources;
use super::{HostFacts, Loaded, Problems, Text};

/// What is checked: the tree, where its texts stand, and the register maps that its devices name.
#[derive(Debug, Clone, Copy)]
pub struct Whole<'a> {
    /// The tree.
    pub tree: &'a Node,
    /// All texts.
    pub sources: &'a Sources,
    /// The maps.
    pub library: &'a Library,
    /// Whether every file could be read.
    pub complete: Complete,
}

/// Checks everything that was read.
pub fn all(set: FileSet, facts: &HostFacts, findings: Findings) -> Result<Loaded, Problems> {
    all_with_texts(set, facts, findings).map(|(loaded, _)| loaded)
}

/// The same; the texts that were read come back.
pub fn all_with_texts(set: FileSet, facts: &HostFacts, findings: Findings) -> Result<(Loaded, Vec<Text>), Problems> {
    let FileSet { mut sources, tree, complete } = set;
    let library = Library::read(&tree, &mut sources, &findings);
    let plan = plan(Whole { tree: &tree, sources: &sources, library: &library, complete }, facts, &findings);
    let files = sources.paths().map(Path::to_owned).collect();
    match (findings.finish(&sources), plan) {
        (None, Some(plan)) => Ok((Loaded { plan, files }, sources.into_texts())),
        (Some(problems), _) => Err(problems),
        (None, None) => unreachable!("a plan is missing only where a problem was reported"),
    }
}

/// The plan; where something was reported, defaults stand in for what is wrong.
pub fn plan(whole: Whole<'_>, facts: &HostFacts, findings: &Findings) -> Option<Plan> {
    let Whole { tree, sources, library, complete } = whole;
    let cx = Context { findings, sources, facts };
    let root = Section::open(cx, tree, &Trail::Root, schema::ROOT)?;
    let gateway = gateway::gateway(&root);
    let store = gateway::store(&root);
    let broker = broker::broker(&root);
    let status = status::status(&root, &broker);
    access::operate(&root, complete);
    let buses = bus::buses(&root, complete);
    let (devices, tags) = device::devices(&root, library, &buses, &gateway);
    let mut uplinks = uplink::uplinks(&root, &gateway, &devices, &tags);
    let forwards = forward::forwards(&root, &mut uplinks);
    let mut bridges = bridge::bridges(&root, &gateway, &uplinks);
    own_door::refuse(&root, &broker.listeners, &uplinks, &bridges);
    loops::loops(&root, &uplinks, &forwards, &mut bridges);
    local::foreign(&root, &uplinks, &forwards, &bridges);
    let buses = buses.into_plans()?;
    Some(Plan { gateway: gateway.plan, store, broker, status, uplinks, forwards, bridges, buses, devices, tags })
}
