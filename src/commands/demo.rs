//! `ironbridge demo`: the whole story on one machine, without hardware, set-up or a particular port.
//!
//! `story` begins and ends it · `scenario` is the plant and its configuration · `timeline` when the link fails ·
//! `gateway` what is known of the gateway · `verifier` the witness in the cloud · `screen` what is shown · `verdict` the
//! comparison. Exit 0 only when nothing is missing and nothing wrong.

use std::path::PathBuf;
use std::time::Duration;

use crate::flow::clock::Clock;

use super::Failed;
use gateway::StartGateway;

pub mod gateway;

#[cfg(feature = "demo")]
mod scenario;
#[cfg(feature = "demo")]
mod screen;
#[cfg(feature = "demo")]
mod story;
#[cfg(feature = "demo")]
mod timeline;
#[cfg(feature = "demo")]
mod verdict;
#[cfg(feature = "demo")]
mod verifier;

/// Show the whole story on this machine: a simulated plant, the gateway, a cloud, a link that fails and returns
///
/// Needs no hardware, no set-up and no particular port. Ends with a verdict: exit 0 only when nothing is missing.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// End by itself after this time, such as 60s (default: at Ctrl-C)
    #[arg(long = "for", value_name = "TIME", value_parser = super::duration)]
    pub run_for: Option<Duration>,
    /// Keep everything in this directory (default: a temporary one that is removed)
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Runs the demo with a gateway that `start` starts; `clock` dates the verifier's certificates.
#[cfg(feature = "demo")]
pub async fn run(args: Args, clock: Clock, start: StartGateway) -> Result<(), Failed> {
    story::tell(args, clock, start).await
}

/// This build has no cloud inside, so there is nothing to show.
#[cfg(not(feature = "demo"))]
#[expect(clippy::unused_async, reason = "the same signature as with the demo")]
pub async fn run(_: Args, _: Clock, _: StartGateway) -> Result<(), Failed> {
    Err(Failed::Config("this ironbridge was built without the demo (feature `demo`)".to_owned()))
}
