//! The bill as text for people and as JSON for scripts.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::bill::{Bill, Course, DAYS_PER_MONTH, Fits, Row, Use, recommended};
use super::plant;
use super::seen::Seen;
use crate::commands::check::figures::{budget_text, bytes_text, period_text, rate_json, span};
use crate::config::plan::Period;
use crate::config::wire::{CONNECTS, EVENTS, Way};

/// For people.
pub fn text(bills: &[Bill], seen: Option<&Seen>) -> String {
    let mut out = String::new();
    if let Some(seen) = seen {
        out.push_str(&seen.text());
    }
    for bill in bills {
        write_bill(&mut out, bill, seen);
    }
    out.push_str(
        "\nWire bytes: MQTT, TLS, TCP and IP headers, acknowledgements, both directions; MB and GB are decimal, budgets as \
         configured. A month is 30 days.\n",
    );
    out.push_str(if seen.is_some() {
        "Sizes are those of the plant's own samples; the link adds what it repeats. Expect 10 % either way.\n"
    } else {
        "From nothing changes to everything does. batch and arrays: this program's encoder and zstd over a plant made up from \
         the configuration (its tags, blocks, periods, deadbands), good for 20 % of a plant like that; json and layout device: \
         arithmetic. The truth: ironbridge cost --from-store\n"
    });
    if seen.is_none() {
        let _ = writeln!(out, "Assumed of values: {}.", plant::ASSUMED);
    }
    let _ = writeln!(
        out,
        "Assumed a day: {} to {} connects (a scheduled path: one in each window), {} to {} events and alarms.",
        CONNECTS[0],
        CONNECTS[1],
        if seen.is_some() { 0.0 } else { EVENTS[0] },
        if seen.is_some() { 0.0 } else { EVENTS[1] }
    );
    out
}

fn write_bill(out: &mut String, bill: &Bill, seen: Option<&Seen>) {
    let (load, upkeep) = (&bill.load, &bill.upkeep);
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "\nuplink {}: {} tags, {} samples per second, configured: {}",
        bill.uplink,
        load.tags,
        span(load.samples, |rate| format!("{rate:.2}")),
        bill.way.as_str()
    );
    let _ = write!(
        out,
        "  session per day: keep alive {}, status {}, connects {}",
        bytes_text(upkeep.keep_alive),
        bytes_text(upkeep.status),
        span(upkeep.connects, bytes_text)
    );
    // What was seen has its events among its records.
    let events = if seen.is_some() { String::new() } else { format!(", events {}", span(upkeep.events, bytes_text)) };
    let _ = writeln!(out, "{events}");
    write_course(out, bill, &bill.whole);
    for course in &bill.paths {
        write_course(out, bill, course);
    }
    if let Some(recorded) = seen.and_then(|seen| seen.recorded(&bill.uplink)) {
        out.push_str(&recorded);
    }
    let (way, fits) = recommended(bill);
    let verdict = match fits {
        Fits::Always if bill.whole.rows[0].budgets.is_empty() && bill.paths.is_empty() => "",
        Fits::Always => ", and it stays within every budget",
        Fits::WhenQuiet => "; it stays within the budgets only while little changes (deadbands help)",
        Fits::Never => {
            ", but none of these formats stays within the budgets: raise them, poll less often, set deadbands, or give \
             fewer classes to this uplink"
        }
    };
    let same = if way == bill.way { " (as configured)" } else { "" };
    let among = if bill.way == Way::Sparkplug { "" } else { " without a Sparkplug host" };
    let _ = writeln!(out, "  recommended: {}{same}: the fewest bytes{among}{verdict}", way.as_str());
}

fn write_course(out: &mut String, bill: &Bill, course: &Course) {
    let name = course.path.as_ref().map_or_else(
        || "all paths together".to_owned(),
        |path| {
            let classes: Vec<&str> = course.classes.iter().map(|class| class.as_str()).collect();
            format!("path {path}, if it carries all of {}", classes.join(" "))
        },
    );
    let _ = writeln!(out, "\n  {name}");
    let mut header = vec!["format".to_owned(), "bytes/sample".into(), "per day".into(), "per month".into()];
    header.extend(course.price_per_mib.map(|price| format!("money ({price}/MiB)")));
    header.extend(course.rows[0].budgets.iter().map(|used| format!("of {}", budget_text(used.budget))));
    let row = |row: &Row| {
        let mark = if row.way == bill.way { "* " } else { "  " };
        let mut cells = vec![
            format!("{mark}{}", row.way.as_str()),
            span(row.per_sample, |bytes| format!("{bytes:.1}")),
            span(row.per_day, bytes_text),
            span(row.per_month(), bytes_text),
        ];
        cells.extend(course.price_per_mib.map(|price| span(row.money(price), |money| format!("{money:.2}"))));
        cells.extend(row.budgets.iter().map(used_text));
        cells
    };
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(course.rows.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(out, "    {}", cells.join("  ").trim_end());
    }
    for row in &course.rows {
        if let Some(likely) = row.likely.filter(|likely| likely.rate > 0.0) {
            let _ = writeln!(
                out,
                "    with values as assumed and these deadbands, {}: {:.2} samples per second of {:.1} B, {} a month",
                row.way.as_str(),
                likely.rate,
                likely.sample_bytes,
                bytes_text(likely.day_bytes * DAYS_PER_MONTH)
            );
        }
    }
}

/// `12 % to 340 % (used up on day 9)`
fn used_text(used: &Use) -> String {
    let percent = span(used.part, |part| format!("{:.0} %", part * 100.0));
    match Use::lasts(used.part.most, used.budget.period) {
        None => percent,
        Some(hours) if used.budget.period == Period::Day => format!("{percent} (used up after {hours:.1} h)"),
        Some(days) => format!("{percent} (used up on day {:.0})", days.floor() + 1.0),
    }
}

/// For scripts. Bytes are wire bytes; `least` is when nothing changes, `most` when everything does.
pub fn json(bills: &[Bill], seen: Option<&Seen>) -> Value {
    let used = |used: &Use| {
        let lasts = |part: f64| Use::lasts(part, used.budget.period);
        json!({
            "bytes": used.budget.bytes, "period": period_text(used.budget.period), "part": rate_json(used.part),
            "lasts": { "unit": if used.budget.period == Period::Day { "hours" } else { "days" },
                       "least": lasts(used.part.least), "most": lasts(used.part.most) },
        })
    };
    let course = |course: &Course| {
        let row = |row: &Row| {
            json!({
                "format": row.way.as_str(), "in_this_version": true, "bytes_per_sample": rate_json(row.per_sample),
                "bytes_per_day": rate_json(row.per_day), "bytes_per_month": rate_json(row.per_month()),
                "likely": row.likely.map(|likely| json!({
                    "samples_per_second": likely.rate, "bytes_per_sample": likely.sample_bytes,
                    "bytes_per_day": likely.day_bytes,
                })),
                "money_per_month": course.price_per_mib.map(|price| rate_json(row.money(price))),
                "budgets": row.budgets.iter().map(used).collect::<Vec<_>>(),
            })
        };
        json!({
            "path": course.path, "classes": course.classes.iter().map(|class| class.as_str()).collect::<Vec<_>>(),
            "price_per_mib": course.price_per_mib, "formats": course.rows.iter().map(row).collect::<Vec<_>>(),
        })
    };
    let uplink = |bill: &Bill| {
        let (way, fits): (Way, Fits) = recommended(bill);
        json!({
            "name": bill.uplink, "configured": bill.way.as_str(), "tags": bill.load.tags,
            "samples_per_second": rate_json(bill.load.samples),
            "session_per_day": {
                "keep_alive": bill.upkeep.keep_alive, "status": bill.upkeep.status,
                "connects": rate_json(bill.upkeep.connects), "events": rate_json(bill.upkeep.events),
            },
            "whole": course(&bill.whole), "paths": bill.paths.iter().map(course).collect::<Vec<_>>(),
            "recorded": seen.map(|seen| seen.recorded_json(&bill.uplink)),
            "recommended": way.as_str(),
            "fits": match fits { Fits::Always => "always", Fits::WhenQuiet => "when quiet", Fits::Never => "never" },
        })
    };
    json!({
        "from": if seen.is_some() { "store" } else { "config" },
        "assumed": if seen.is_some() { Value::Null } else { plant::ASSUMED.into() },
        "seen": seen.map(Seen::json),
        "uplinks": bills.iter().map(uplink).collect::<Vec<_>>(),
    })
}
