//! `ironbridge store …`: one file per subcommand. Looking works beside the running daemon.
//!
//! `status` what each uplink is owed (`drain`: and how long it takes) · `verify` whether all is whole · `export` a range of it (`moment`:
//! from when) · `purge` the oldest go · `torture` kills while it writes.

mod drain;
mod export;
mod moment;
mod purge;
mod status;
mod torture;
mod verify;

use std::path::{Path, PathBuf};

use crate::model::number::Class;
use crate::store::inspect::LookError;

pub(super) use status::text as status_text;

use super::Failed;

/// `ironbridge store …`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Streams, bytes, backlog of each uplink with its age and how long it takes, gaps
    Status(status::StatusArgs),
    /// Read everything and check it; exit code 1 when something is wrong that no gap record declares
    Verify(Where),
    /// A range as CSV, NDJSON or Parquet, also while the gateway runs
    ///
    /// Class by class, within a class in the order of the numbers. An NDJSON line is what the uplink sends, with its topic;
    /// CSV has the columns topic, time, value, quality, cause, stream, epoch, seq and record (events, as JSON); Parquet
    /// has the same, with texts and whole numbers beyond 2^53 in a column of their own.
    Export(Box<export::ExportArgs>),
    /// Kill this program again and again while it writes, and prove that nothing committed is lost on this box and disk
    Torture(torture::TortureArgs),
    /// Remove the oldest records; what an uplink was still owed is declared to it. The gateway must not run
    ///
    /// Whole segments go: those that were taken before the moment to the last record. What is in the tail (the last
    /// minutes) stays.
    Purge(purge::PurgeArgs),
}

#[derive(Debug, clap::Args)]
struct Where {
    /// The configuration whose store is meant; without it and --dir the one that `ironbridge run` reads
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    config: Option<PathBuf>,
    /// The store's directory, or the data directory it lies in
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it. `directory_of` finds the store's directory of a configuration file (`None`: the default file).
pub fn run(args: &Args, directory_of: impl Fn(Option<&Path>) -> Result<PathBuf, Failed>) -> Result<(), Failed> {
    let directory = |place: &Where| match &place.dir {
        // A data directory is as good: the store is in it.
        Some(dir) if dir.join("store").is_dir() => Ok(dir.join("store")),
        Some(dir) => Ok(dir.clone()),
        None => directory_of(place.config.as_deref()),
    };
    match &args.what {
        What::Status(args) => status::run(&directory(&args.place)?, args),
        What::Verify(place) => verify::run(&directory(place)?, place),
        What::Export(args) => export::run(&directory(&args.place)?, args),
        What::Purge(args) => purge::run(&directory(&args.place)?, args),
        What::Torture(args) => torture::run(args),
    }
}

fn failed(error: &LookError) -> Failed {
    match error {
        LookError::NoStore(_) => Failed::Usage(error.to_string()),
        LookError::Unreadable(fault) if fault.is_damage() => Failed::Internal(format!(
            "{error}; it will be set aside when the gateway starts, which goes on with its copy or builds it anew from the chunk files"
        )),
        LookError::Unreadable(_) => Failed::TryAgain(error.to_string()),
    }
}

fn class(name: &str) -> Result<Class, String> {
    Class::from_name(name).ok_or_else(|| format!("there is no class '{name}': alarm, event, telemetry or bulk"))
}
