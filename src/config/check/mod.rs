//! What each table means: from the tree to the plan, or to all problems.
//!
//! One file per table. A check reads all its keys, reports what is wrong and goes on with defaults; the plan is given
//! out only if nothing was reported, so no default ever stands in for a wrong value.

mod address;
mod broker;
mod bus;
mod condition;
mod derived;
mod device;
mod example;
mod gateway;
mod habits;
mod line;
mod money;
mod names;
mod path;
mod port;
mod reach;
mod reading;
mod server;
mod tag;
mod topics;
mod uplink;
mod writing;

use std::path::Path;

pub use address::modicon;

use super::files::FileSet;
use super::plan::Plan;
use super::problem::Findings;
use super::profile::Library;
use super::raw::Trail;
use super::schema;
use super::section::{Context, Section};
use super::{HostFacts, Loaded, Problems};

/// Checks everything that was read.
pub fn all(set: FileSet, facts: &HostFacts, findings: Findings) -> Result<Loaded, Problems> {
    let FileSet { mut sources, tree, complete } = set;
    let library = Library::read(&tree, &mut sources, &findings);
    let cx = Context { findings: &findings, sources: &sources, facts };
    let plan = Section::open(cx, &tree, &Trail::Root, schema::ROOT).and_then(|root| {
        let gateway = gateway::gateway(&root);
        let store = gateway::store(&root);
        let broker = broker::broker(&root);
        let buses = bus::buses(&root, complete);
        let (devices, tags) = device::devices(&root, &library, &buses, &gateway);
        let uplinks = uplink::uplinks(&root, &gateway, &devices, &tags);
        let buses = buses.into_plans()?;
        Some(Plan { gateway: gateway.plan, store, broker, uplinks, buses, devices, tags })
    });
    let files = sources.paths().map(Path::to_owned).collect();
    match (findings.finish(&sources), plan) {
        (None, Some(plan)) => Ok(Loaded { plan, files }),
        (Some(problems), _) => Err(problems),
        (None, None) => unreachable!("a plan is missing only where a problem was reported"),
    }
}
