//! The store of `ironbridge check`: how much disk it and all else in `data_dir` take at most, what it writes to flash, and
//! how long a small flash stands that.
//!
//! The bytes are a forecast (`config::forecast`), the years a division: the whole of a 4 GB MLC eMMC of 3000 cycles, with
//! the flash's own amplification of 1 (it writes what it is told) and 4 (it moves as much again three times). Other flash:
//! multiply by its size and cycles.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::figures::{bytes_text, rate_json, span};
use super::page::Page;
use crate::broker::RETAINED_BYTES_MAX;
use crate::config::forecast::Rate;
use crate::config::plan::Plan;
use crate::config::units::{write_duration, write_size};
use crate::disk::journal;
use crate::disk::ledger::FILTERS_BYTES_MAX;

/// Bytes that 4 GB of MLC take before they wear out: 3000 cycles, as `cargo bench --bench flash` has it.
const ENDURANCE: f64 = 4e9 * 3000.0;
const AMPLIFICATION: f64 = 4.0;
const DAYS_PER_YEAR: f64 = 365.25;

/// Bytes that are kept in `data_dir` at most, part by part. Of samples and commands they are those of the files; what clients
/// leave, are owed and subscribe to is counted as content, and a row of a quarter of a page of SQLite's takes a whole one, and
/// a bit of another. A file that was
/// found damaged and write-ahead logs come beside it.
fn disk(plan: &Plan) -> [(&'static str, u64); 6] {
    [
        ("samples", plan.store.max_size),
        ("bridges", plan.bridges.iter().map(|bridge| bridge.max_size).sum()),
        ("sessions of local clients", plan.broker.sessions.sessions_max_size),
        ("their subscriptions", FILTERS_BYTES_MAX as u64),
        ("what clients leave retained", RETAINED_BYTES_MAX as u64),
        ("commands", journal::BYTES_MAX),
    ]
}

/// For people; `flash` is bytes per day.
pub fn write(out: &mut Page, plan: &Plan, flash: Rate) -> fmt::Result {
    let (store, disk) = (&plan.store, disk(plan));
    let age = store.max_age.map_or_else(String::new, |age| format!(", at most {} old", write_duration(age)));
    let interval = write_duration(store.commit_interval);
    writeln!(out, "store   at most {}{age}, a commit every {interval}", write_size(store.max_size))?;
    let taken = disk.iter().filter(|(_, bytes)| *bytes > 0);
    let parts: Vec<String> = taken.map(|(part, bytes)| format!("{part} {}", write_size(*bytes))).collect();
    let all = disk.iter().map(|(_, bytes)| bytes).sum();
    writeln!(out, "        data_dir holds {} at most: {};", write_size(all), parts.join(", "))?;
    writeln!(
        out,
        "        what clients leave and subscribe to takes up to five times its bytes in the pages of broker.db"
    )?;
    if flash.most > 0.0 {
        let (long, short) = (years(flash), years(flash.times(AMPLIFICATION)));
        writeln!(out, "        flash bytes per day {}, estimated", span(flash, bytes_text))?;
        writeln!(
            out,
            "        a 4 GB MLC eMMC lasts {} years; {} where it amplifies writes by {AMPLIFICATION}",
            span(long, years_text),
            span(short, years_text)
        )?;
    }
    Ok(())
}

/// For scripts.
pub fn json(plan: &Plan, flash: Rate) -> Value {
    let store = &plan.store;
    let disk: u64 = disk(plan).iter().map(|(_, bytes)| bytes).sum();
    json!({
        "max_size": store.max_size, "content_max_size": disk, "max_age_s": store.max_age.map(|age| age.as_secs()),
        "commit_interval_ms": super::figures::millis(store.commit_interval),
        "flash_bytes_per_day": rate_json(flash), "years_of_4_gb_mlc": rate_json(years(flash)),
    })
}

/// `most` stays the end at which everything changes, which is the shorter life.
fn years(flash: Rate) -> Rate {
    let years = |bytes: f64| if bytes > 0.0 { ENDURANCE / bytes / DAYS_PER_YEAR } else { f64::INFINITY };
    Rate { most: years(flash.most), least: years(flash.least) }
}

fn years_text(years: f64) -> String {
    if years >= 100.0 { "more than 100".to_owned() } else { format!("{years:.1}") }
}
