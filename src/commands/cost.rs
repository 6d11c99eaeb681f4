//! `ironbridge cost`: bytes and money per month, format by format, from a configuration or from what a store saw.
//!
//! Forecasts stand as two ends, nothing changes and everything does: by arithmetic (`config::wire`) for single messages, by
//! the program's own encoders (`sizes`) over a plant made up from the configuration (`plant`, `forecast`) for those that carry
//! many records; with `--from-store` the plant's own samples take the place of both (`seen`). `bill` works the figures out,
//! `table` writes them. Reads files only; the gateway may run meanwhile.

pub(super) mod bill;
mod forecast;
mod plant;
mod seen;
mod sizes;
mod table;

use std::path::{Path, PathBuf};

use super::{self as commands, Failed, run};
use crate::app;
use crate::config::{self, HostFacts};

/// Arguments of `ironbridge cost`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The configuration; `ironbridge.d/*.toml` beside it is read too
    #[arg(long, value_name = "FILE", default_value = run::DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Work with what the plant really did, from this store (or the data directory it lies in; without DIR: that of the
    /// configuration)
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "")]
    pub from_store: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Works the bill out and prints it.
pub fn run(args: &Args, facts: &HostFacts) -> Result<(), Failed> {
    let text = report(args, facts)?;
    commands::print(format!("{}\n", text.trim_end()))
}

/// What [`run()`] prints.
pub fn report(args: &Args, facts: &HostFacts) -> Result<String, Failed> {
    let loaded = config::load(&args.config, facts).map_err(|problems| Failed::Config(problems.to_string()))?;
    let plan = &loaded.plan;
    let paid: Vec<_> = plan.uplinks.iter().filter(|uplink| !uplink.is_local()).collect();
    if paid.is_empty() {
        let none = if plan.uplinks.is_empty() { "no [[uplink]]" } else { "no [[uplink]] but to the local broker" };
        return Err(Failed::Usage(format!("{}: there is {none}, so nothing is sent", args.config.display())));
    }
    let seen = match &args.from_store {
        Some(dir) => Some(seen::Seen::look(&store_dir(dir, plan))?),
        None => None,
    };
    let bills: Vec<_> = paid.into_iter().map(|uplink| bill::bill(plan, uplink, seen.as_ref())).collect();
    Ok(if args.json { table::json(&bills, seen.as_ref()).to_string() } else { table::text(&bills, seen.as_ref()) })
}

/// A data directory is as good: the store is in it.
fn store_dir(dir: &Path, plan: &config::plan::Plan) -> PathBuf {
    if dir.as_os_str().is_empty() {
        app::store_dir(plan)
    } else if dir.join("store").is_dir() {
        dir.join("store")
    } else {
        dir.to_path_buf()
    }
}
