//! `ironbridge store status` and `store verify`: look at a store, also while the daemon runs; prove it.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::store::inspect::{self, LookError, Status, Verdict};

use super::Failed;

/// `ironbridge store …`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Streams, bytes, backlog of each uplink, gaps.
    Status(Where),
    /// Read everything and check it; exit code 1 when something is wrong that no gap record declares.
    Verify(Where),
    /// (not in this version)
    #[command(hide = true)]
    Export(Later),
    /// (not in this version)
    #[command(hide = true)]
    Purge(Later),
    /// (not in this version)
    #[command(hide = true)]
    Torture(Later),
}

#[derive(Debug, clap::Args)]
struct Where {
    /// Configuration whose store is meant.
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    config: Option<PathBuf>,
    /// The store's directory, or the data directory it lies in.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// For scripts.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

/// Runs it. `directory_of` finds the store's directory of a configuration file (`None`: the default file).
pub fn run(args: &Args, directory_of: impl Fn(Option<&Path>) -> Result<PathBuf, Failed>) -> Result<(), Failed> {
    let directory = |place: &Where| match &place.dir {
        // A data directory is as good: the store is in it.
        Some(dir) if dir.join("store").is_dir() => Ok(dir.join("store")),
        Some(dir) => Ok(dir.clone()),
        None => directory_of(place.config.as_deref()),
    };
    let later = |name: &str, _: &Later| Err(Failed::not_in_this_version(&format!("store {name}")));
    match &args.what {
        What::Status(place) => status(&directory(place)?, place),
        What::Verify(place) => verify(&directory(place)?, place),
        What::Export(rest) => later("export", rest),
        What::Purge(rest) => later("purge", rest),
        What::Torture(rest) => later("torture", rest),
    }
}

fn status(dir: &Path, place: &Where) -> Result<(), Failed> {
    let status = inspect::status(dir).map_err(failed)?;
    if place.json {
        println!("{}", serde_json::to_string(&status).map_err(|error| Failed::Internal(error.to_string()))?);
    } else {
        print!("{}", status_text(dir, &status));
    }
    Ok(())
}

fn verify(dir: &Path, place: &Where) -> Result<(), Failed> {
    let bar = ProgressBar::new(0);
    if place.json || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let verdict = inspect::verify(dir, &mut |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let verdict = verdict.map_err(failed)?;
    if place.json {
        println!("{}", serde_json::to_string(&verdict).map_err(|error| Failed::Internal(error.to_string()))?);
    } else {
        print!("{}", verdict_text(&verdict));
    }
    if verdict.problems.is_empty() { Ok(()) } else { Err(Failed::Verdict) }
}

fn failed(error: LookError) -> Failed {
    match error {
        LookError::NoStore(_) => Failed::Usage(error.to_string()),
        LookError::Unreadable(ref fault) if fault.is_damage() => Failed::Internal(format!(
            "{error}; it will be set aside and built anew from the chunk files when the gateway starts"
        )),
        LookError::Unreadable(_) => Failed::TryAgain(error.to_string()),
    }
}

fn status_text(dir: &Path, status: &Status) -> String {
    let mut text = format!("store      {}\n", dir.display());
    let _ = writeln!(text, "bytes      {} ({} set aside)", status.bytes, status.bytes_aside);
    let _ = writeln!(text, "tags       {}\n", status.tags);
    let _ = writeln!(
        text,
        "{:<10} {:>17} {:>12} {:>12} {:>6} {:>12}",
        "stream", "epoch", "first", "last", "chunks", "bytes"
    );
    for stream in &status.streams {
        let first = match stream.first {
            Some((epoch, first)) if epoch == stream.epoch => first.to_string(),
            Some(_) => "earlier".to_owned(),
            None => "-".to_owned(),
        };
        let (name, epoch, last) = (stream.stream, stream.epoch, stream.last);
        let _ =
            writeln!(text, "{name:<10} {epoch:>17} {first:>12} {last:>12} {:>6} {:>12}", stream.chunks, stream.bytes);
    }
    let _ = writeln!(text, "\n{:<20} {:>12} {:>6}", "uplink", "backlog", "gaps");
    for uplink in &status.uplinks {
        let _ = writeln!(text, "{:<20} {:>12} {:>6}", uplink.uplink, uplink.backlog, uplink.gaps);
    }
    for missing in &status.missing {
        let (stream, epoch, reason) = (missing.stream, missing.epoch, &missing.reason);
        let _ = writeln!(text, "missing    {stream} epoch {epoch}: {}..{} ({reason})", missing.first, missing.last);
    }
    for file in &status.unreadable {
        let _ = writeln!(text, "unreadable {file}");
    }
    text
}

fn verdict_text(verdict: &Verdict) -> String {
    let Verdict { chunks, segments, records, problems, declared } = verdict;
    let mut text = format!("{chunks} chunk files, {segments} segments, {records} records read\n");
    for missing in declared {
        let (stream, epoch, reason) = (missing.stream, missing.epoch, &missing.reason);
        let _ = writeln!(text, "declared: {stream} epoch {epoch}: {}..{} ({reason})", missing.first, missing.last);
    }
    for problem in problems {
        let _ = writeln!(text, "WRONG: {problem}");
    }
    text.push_str(if problems.is_empty() { "the store is whole\n" } else { "the store is NOT whole\n" });
    text
}
