//! `ironbridge store status`: streams, bytes, what each uplink is owed, since when, and how long that takes.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::drain::{Drain, Rate};
use super::{Where, failed};
use crate::commands::{self, Failed, plain_clock};
use crate::config::units;
use crate::host::clock::RELEASE_MS;
use crate::model::time::Certainty;
use crate::store::detail::{self, Detail, OwedDetail};
use crate::store::inspect::{self, Status, Written};

/// `ironbridge store status`
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// What the link carries, such as 32KiB/s, for the drain estimate; without it max_rate of --config, or else what the
    /// uplink has sent on the average of its last day
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<u64>,
    /// List every file
    #[arg(short, long)]
    verbose: bool,
}

fn rate(text: &str) -> Result<u64, String> {
    let bytes = text.strip_suffix("/s").unwrap_or(text);
    let wrong = || format!("'{text}' is no rate; write for instance 32KiB/s");
    units::size(bytes).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// All of it, for scripts.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    status: &'a Status,
    #[serde(flatten)]
    detail: &'a Detail,
    drain: &'a [Drain],
}

/// Prints it.
pub(super) fn run(dir: &Path, args: &StatusArgs) -> Result<(), Failed> {
    let status = inspect::status(dir).map_err(|error| failed(&error))?;
    let detail = detail::detail(dir, RELEASE_MS).map_err(|error| failed(&error))?;
    let now = Some(plain_clock().wall_now()).filter(|now| now.certainty == Certainty::Fixed);
    let now_ms = now.map(|now| now.unix_ms);
    let rates = Rate::find(args.rate, args.place.config.as_deref(), &detail, now_ms)?;
    let drain: Vec<_> = rates.iter().map(|rate| rate.drain(&detail)).collect();
    if args.place.json {
        let whole = Whole { status: &status, detail: &detail, drain: &drain };
        let text = serde_json::to_string(&whole).map_err(|error| Failed::Internal(error.to_string()))?;
        return commands::print(format!("{text}\n"));
    }
    let mut text = streams_text(dir, &status, &detail) + &uplinks_text(&status, &detail, now_ms);
    for drain in &drain {
        let _ = writeln!(text, "{drain}"); // into a String: cannot fail
    }
    commands::print(text + &rest_text(&status, &detail, args.verbose))
}

/// What is printed of a store when nothing else is asked for, but the forecast of draining.
pub(in crate::commands) fn text(dir: &Path) -> Result<String, Failed> {
    let status = inspect::status(dir).map_err(|error| failed(&error))?;
    let detail = detail::detail(dir, RELEASE_MS).map_err(|error| failed(&error))?;
    Ok(streams_text(dir, &status, &detail)
        + &uplinks_text(&status, &detail, None)
        + &rest_text(&status, &detail, false))
}

fn streams_text(dir: &Path, status: &Status, detail: &Detail) -> String {
    let mut text = format!("store      {}\n", dir.display());
    let _ = writeln!(text, "bytes      {} ({} set aside)", status.bytes, status.bytes_aside);
    let _ = writeln!(text, "written    {}", written_text(&status.written));
    let _ = writeln!(text, "tags       {}\n", status.tags);
    let _ = writeln!(
        text,
        "{:<10} {:>17} {:>12} {:>12} {:>6} {:>12} {:>12} {:>8}  from .. to",
        "stream", "epoch", "first", "last", "chunks", "bytes", "records", "B/record"
    );
    for stream in &status.streams {
        let first = match stream.first {
            Some((epoch, first)) if epoch == stream.epoch => first.to_string(),
            Some(_) => "earlier".to_owned(),
            None => "-".to_owned(),
        };
        let (name, epoch, last) = (stream.stream, stream.epoch, stream.last);
        let _ = write!(text, "{name:<10} {epoch:>17} {first:>12} {last:>12} {:>6} {:>12}", stream.chunks, stream.bytes);
        if let Some(held) = detail.held.iter().find(|held| held.stream == name) {
            let each = held.bytes_per_record.map_or("-".to_owned(), |each| format!("{each:.2}"));
            let (from, to) = (held.oldest.as_deref().unwrap_or("-"), held.newest.as_deref().unwrap_or("-"));
            let _ = write!(text, " {:>12} {each:>8}  {from} .. {to}", held.records);
        }
        text.push('\n');
    }
    text
}

/// Only what we hand to the disk is known here: a file system adds its journal, flash its own.
fn written_text(written: &Written) -> String {
    let Written { bytes, seconds, bytes_per_day } = written;
    let ran = u64::try_from(*seconds).map_or_else(|_| String::new(), super::drain::span_text);
    match bytes_per_day {
        Some(a_day) => format!("{bytes} bytes in {ran} of running, {a_day} a day (the file system adds its own)"),
        None => format!("{bytes} bytes in {ran} of running (noted every ten minutes while the gateway runs)"),
    }
}

fn uplinks_text(status: &Status, detail: &Detail, now_ms: Option<i64>) -> String {
    let mut text = format!(
        "\n{:<20} {:<10} {:>12} {:>12} {:>6}  oldest not acknowledged\n",
        "uplink", "stream", "backlog", "bytes", "gaps"
    );
    for uplink in &status.uplinks {
        let (name, backlog, gaps) = (&uplink.uplink, uplink.backlog, uplink.gaps);
        let bytes: u64 = of(detail, name).map(|owed| owed.bytes).sum();
        let oldest = of(detail, name).filter_map(|owed| owed.oldest_ms).min();
        let _ = writeln!(text, "{name:<20} {:<10} {backlog:>12} {bytes:>12} {gaps:>6}  {}", "all", age(oldest, now_ms));
        for owed in of(detail, name).filter(|owed| owed.records > 0 || owed.gaps > 0) {
            let OwedDetail { stream, records, bytes, gaps, oldest_ms, .. } = owed;
            let age = age(*oldest_ms, now_ms);
            let _ = writeln!(text, "{:<20} {stream:<10} {records:>12} {bytes:>12} {gaps:>6}  {age}", "");
        }
    }
    text
}

fn of<'a>(detail: &'a Detail, uplink: &'a str) -> impl Iterator<Item = &'a OwedDetail> {
    detail.owed.iter().filter(move |owed| owed.uplink == uplink)
}

fn age(oldest_ms: Option<i64>, now_ms: Option<i64>) -> String {
    let Some(oldest_ms) = oldest_ms else { return "-".to_owned() };
    let at = crate::receive::record::time_text(oldest_ms);
    let ago = now_ms.map(|now| now.saturating_sub(oldest_ms)).and_then(|ms| u64::try_from(ms).ok());
    ago.map_or_else(|| at.clone(), |ms| format!("{at} ({} ago)", super::drain::span_text(ms / 1000)))
}

fn rest_text(status: &Status, detail: &Detail, verbose: bool) -> String {
    let mut text = String::new();
    for held in detail.held.iter().filter(|held| held.epochs.len() > 1) {
        for (epoch, first, last) in &held.epochs {
            let _ = writeln!(text, "epoch      {} {epoch}: {first}..{last}", held.stream);
        }
    }
    for missing in &status.missing {
        let (stream, epoch, reason) = (missing.stream, missing.epoch, &missing.reason);
        let _ = writeln!(text, "missing    {stream} epoch {epoch}: {}..{} ({reason})", missing.first, missing.last);
    }
    for file in &status.unreadable {
        let _ = writeln!(text, "unreadable {file}");
    }
    for chunk in detail.held.iter().flat_map(|held| &held.chunks).filter(|_| verbose) {
        let (file, epoch, bytes) = (&chunk.file, chunk.epoch, chunk.bytes);
        let (first, last, from, to) = (chunk.first, chunk.last, &chunk.from, &chunk.to);
        let _ = writeln!(text, "{file:<28} epoch {epoch} {first}..{last}  {bytes} bytes  {from} .. {to}");
    }
    text
}
