//! What a receiver says about its work.

use std::fmt::Write as _;

use crate::commands;
use crate::host::terminal::say;
use crate::receive::consumer::Account;
use crate::receive::lag::LagReport;

use super::ReceiveArgs;

/// Streams that are listed one by one, those with something missing first; a fleet has tens of thousands.
const LISTED_MAX: usize = 50;

/// One line, renewed while it runs.
pub(super) fn line(account: &Account, args: &ReceiveArgs) -> String {
    let report = &account.report;
    let mut text = format!(
        "received {}  duplicates {}  out of order {}  declared lost {}",
        report.received, report.duplicates, report.out_of_order, report.declared_lost,
    );
    if args.share.is_none() {
        let _ = write!(text, "  missing {}  outstanding {}", report.missing, report.outstanding);
    }
    let broken: u64 = account.strays.broken.values().sum();
    if broken > 0 {
        let _ = write!(text, "  broken {broken}");
    }
    if account.strays.waiting > 0 {
        let _ = write!(text, "  waiting for a dictionary {}", account.strays.waiting);
    }
    text
}

/// The end: each stream, the sums, and what could not be read.
pub(super) fn show_final(account: &Account, args: &ReceiveArgs) {
    if args.json {
        let text = serde_json::json!({ "report": account }).to_string();
        commands::tell(&text); // what was received is kept already
        return;
    }
    let partly = args.share.is_some() && args.sqlite_file().is_none();
    let mut streams: Vec<_> = account.report.streams.iter().collect();
    streams.sort_by_key(|stream| std::cmp::Reverse(stream.missing));
    for stream in streams.iter().take(LISTED_MAX) {
        let holes: Vec<String> = stream.holes.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        let missing = if holes.is_empty() { String::new() } else { format!("  ({})", holes.join(", ")) };
        let missing = if partly { String::new() } else { format!(", missing {}{missing}", stream.missing) };
        let gateway = stream.gateway.as_ref().map_or(String::new(), |gateway| format!("{gateway} "));
        let lag = account.lag.iter().find(|lag| lag.stream == stream.stream && lag.epoch == stream.epoch);
        say(format_args!(
            "{gateway}{} epoch {}: received {}, duplicates {}, declared lost {}{missing}{}",
            stream.stream,
            stream.epoch,
            stream.received,
            stream.duplicates,
            stream.declared_lost,
            lag.map_or_else(String::new, late)
        ));
    }
    if streams.len() > LISTED_MAX {
        say(format_args!("… and {} more", streams.len() - LISTED_MAX));
    }
    for (why, count) in &account.strays.broken {
        say(format_args!("not to be read: {count} × {why}"));
    }
    say(line(account, args));
    if partly {
        say("one of a group: what is missing is told by `ironbridge receive --report` over all their databases");
    }
}

fn late(lag: &LagReport) -> String {
    let seconds = |ms: u64| format!("{}.{:03} s", ms / 1000, ms % 1000);
    let newest = lag.newest_ago_ms.and_then(|ms| u64::try_from(ms.max(0)).ok());
    let mut text = newest.map_or(String::new(), |ms| format!("; newest {} ago", seconds(ms)));
    if let Some((p50, p99)) = lag.p50_ms.zip(lag.p99_ms) {
        let _ = write!(text, ", late by {} (half) to {} (99 of 100)", seconds(p50), seconds(p99));
    }
    text
}
