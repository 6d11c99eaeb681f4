//! `ironbridge check`: every problem of a configuration with its place, or the plan and what it costs.
//!
//! Reads files, never a device (`--live` is to come). Problems are the error of this command, so they go where errors
//! go; the plan and `--json` go to standard output.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::Failed;
use crate::config::blocks::Block;
use crate::config::forecast::{self, BusForecast, Forecast, Rate};
use crate::config::plan::{Anonymous, Plan, Source, TagPlan, UplinkPlan};
use crate::config::units::{write_duration, write_size};
use crate::config::wire::Way;
use crate::config::{self, HostFacts, Loaded, Place, Problem, Problems};
use crate::model::tag::{Address, BusIx, DeviceIx};

/// Above this a bus has no room left for retries and commands.
const LOAD_HIGH: f64 = 0.8;

/// Arguments of `ironbridge check`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The configuration; `ironbridge.d/*.toml` beside it is read too
    #[arg(long, value_name = "FILE", default_value = "/etc/ironbridge/ironbridge.toml")]
    pub config: PathBuf,
    /// List every tag with both forms of its address
    #[arg(long)]
    pub tags: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Read every tag once from the real devices (not in this version)
    #[arg(long)]
    pub live: bool,
}

/// Checks the configuration and prints the plan; all problems are in the error.
pub fn run(args: &Args, facts: &HostFacts) -> Result<(), Failed> {
    let (text, ended) = report(args, facts);
    if !text.is_empty() {
        // A reader that went away (`check | head`) is no fault of the configuration.
        let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
    }
    ended
}

/// What [`run`] prints on standard output, and how it ends.
pub fn report(args: &Args, facts: &HostFacts) -> (String, Result<(), Failed>) {
    if args.live {
        return (String::new(), Err(Failed::not_in_this_version("check --live")));
    }
    match config::load(&args.config, facts) {
        Ok(loaded) => {
            let forecast = forecast::forecast(&loaded.plan);
            let write = if args.json { plan_json } else { plan_text };
            (write(&loaded, &forecast, args), Ok(()))
        }
        Err(problems) if args.json => {
            let short = format!("{} in {}", counted(problems.count(), "problem"), args.config.display());
            (problems_json(&problems).to_string(), Err(Failed::Config(short)))
        }
        Err(problems) => (String::new(), Err(Failed::Config(problems.to_string()))),
    }
}

fn problems_json(problems: &Problems) -> Value {
    let place = |place: &Place| json!({ "file": path_text(&place.file), "line": place.line, "column": place.column });
    let one = |problem: &Problem| {
        json!({
            "file": path_text(&problem.file),
            "line": problem.place.as_ref().map(|place| place.line),
            "column": problem.place.as_ref().map(|place| place.column),
            "path": problem.path,
            "value": problem.value,
            "message": problem.message,
            "allowed": problem.allowed,
            "other_place": problem.also.as_ref().map(place),
        })
    };
    json!({ "ok": false, "problems": problems.iter().map(one).collect::<Vec<_>>() })
}

fn plan_json(loaded: &Loaded, forecast: &Forecast, args: &Args) -> String {
    let plan = &loaded.plan;
    let rate = |rate: Rate| json!({ "most": rate.most, "least": rate.least });
    let bus = |(bus, forecast): (&config::plan::BusPlan, &BusForecast)| {
        let reads = forecast.reads.iter().map(|read| {
            json!({
                "device": device_name(plan, read.block.device), "table": read.block.table.as_str(),
                "start": read.block.start, "count": read.block.count, "tags": read.block.tags.len(),
                "every_ms": millis(read.block.period), "takes_ms": millis(read.takes),
            })
        });
        json!({
            "name": bus.name, "link": bus.link.to_string(), "reads": reads.collect::<Vec<_>>(),
            "cycle_ms": millis(forecast.cycle), "load": forecast.load,
        })
    };
    let tag = |tag: &TagPlan| {
        json!({
            "device": device_name(plan, tag.device), "name": tag.name, "topic": &*tag.topic,
            "address": tag.register().map(|place| place.to_string()), "modicon": tag.register().map(config::modicon),
            "expression": expression(tag),
            "type": tag.data_type.to_string(), "order": tag.order.as_str(), "poll_ms": millis(tag.poll), "unit": tag.unit,
        })
    };
    let uplinks = plan.uplinks.iter().zip(&forecast.uplinks);
    let mut report = json!({
        "ok": true,
        "files": loaded.files.iter().map(|file| path_text(file)).collect::<Vec<_>>(),
        "gateway": plan.gateway.name,
        "buses": plan.buses.iter().zip(&forecast.buses).map(bus).collect::<Vec<_>>(),
        "tags": plan.tags.len(),
        "samples_per_second": rate(forecast.samples),
        "uplinks": uplinks
            .map(|(uplink, bytes)| json!({ "name": uplink.name, "wire_bytes_per_day": rate(*bytes) }))
            .collect::<Vec<_>>(),
        "flash_bytes_per_day": rate(forecast.flash),
    });
    if args.tags {
        report["tag_list"] = plan.tags.iter().map(tag).collect();
    }
    report.to_string()
}

fn plan_text(loaded: &Loaded, forecast: &Forecast, args: &Args) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_plan(&mut text, loaded, forecast, args);
    text
}

fn write_plan(out: &mut String, loaded: &Loaded, forecast: &Forecast, args: &Args) -> fmt::Result {
    let plan = &loaded.plan;
    for (position, file) in loaded.files.iter().enumerate() {
        writeln!(out, "{} {}", if position == 0 { "no problems in" } else { "           and" }, file.display())?;
    }
    writeln!(out, "\ngateway {}: data in {}", plan.gateway.name, plan.gateway.data_dir.display())?;
    let store = &plan.store;
    writeln!(
        out,
        "store   at most {}, a commit every {}",
        write_size(store.max_size),
        write_duration(store.commit_interval)
    )?;
    for listener in &plan.broker.listeners {
        writeln!(out, "broker  mqtt://{} (anonymous: {})", listener.listen, anonymous(listener.anonymous))?;
    }
    for uplink in &plan.uplinks {
        writeln!(out, "uplink  {}", uplink_line(uplink))?;
    }
    for (ix, forecast) in (0u32..).zip(&forecast.buses) {
        write_bus(out, plan, BusIx(ix), forecast)?;
    }
    if args.tags {
        write_tags(out, plan)?;
    }
    write_totals(out, plan, forecast)
}

fn write_bus(out: &mut String, plan: &Plan, ix: BusIx, forecast: &BusForecast) -> fmt::Result {
    let bus = &plan.buses[ix.0 as usize];
    writeln!(
        out,
        "\nbus {}: {}, response timeout {}",
        bus.name,
        bus.link,
        write_duration(bus.response_timeout)
    )?;
    for device in plan.devices.iter().filter(|device| device.bus == Some(ix)) {
        writeln!(out, "  device {}: unit {}, {}", device.name, device.unit_id, counted(device.tags.len(), "tag"))?;
    }
    if forecast.reads.is_empty() {
        return writeln!(out, "  nothing to read");
    }
    let rows: Vec<[String; 6]> = forecast
        .reads
        .iter()
        .map(|read| {
            let block = &read.block;
            [
                write_duration(block.period),
                device_name(plan, block.device).to_owned(),
                span(block),
                counted(block.count.into(), if block.table.is_bits() { "bit" } else { "register" }),
                counted(block.tags.len(), "tag"),
                format!("{:.1} ms", millis(read.takes)),
            ]
        })
        .collect();
    write_rows(out, ["every", "device", "read", "length", "for", "takes"], &rows)?;
    let percent = forecast.load * 100.0;
    let think = write_duration(forecast.think);
    writeln!(
        out,
        "  {}, {:.1} ms for all of them once ({think} turnaround assumed), load {percent:.1} %",
        counted(forecast.reads.len(), "read"),
        millis(forecast.cycle)
    )?;
    if forecast.load > 1.0 {
        writeln!(out, "  ! more than the bus can do: polls will be skipped. Raise `poll`, or split the bus")?;
    } else if forecast.load > LOAD_HIGH {
        writeln!(out, "  ! little room for retries and commands. Raise `poll`, or split the bus")?;
    }
    Ok(())
}

fn expression(tag: &TagPlan) -> Option<&str> {
    match &tag.source {
        Source::Derived(derivation) => Some(&derivation.text),
        Source::Register(_) => None,
    }
}

fn write_tags(out: &mut String, plan: &Plan) -> fmt::Result {
    writeln!(out, "\ntags")?;
    let row = |tag: &TagPlan| {
        let data_type = if tag.data_type.registers() > 1 {
            format!("{} {}", tag.data_type, tag.order.as_str())
        } else {
            tag.data_type.to_string()
        };
        [
            tag.topic.to_string(),
            tag.register()
                .map_or_else(|| format!("= {}", expression(tag).unwrap_or_default()), |place| place.to_string()),
            tag.register().map(config::modicon).unwrap_or_default(),
            data_type,
            write_duration(tag.poll),
            tag.unit.clone(),
        ]
    };
    let rows: Vec<_> = plan.tags.iter().map(row).collect();
    write_rows(out, ["topic", "address", "modicon", "type", "poll", "unit"], &rows)
}

fn write_totals(out: &mut String, plan: &Plan, forecast: &Forecast) -> fmt::Result {
    let between = |rate: Rate, write: &dyn Fn(f64) -> String| {
        if (rate.most - rate.least).abs() < 1e-9 {
            write(rate.most)
        } else {
            format!("{} (nothing changes) to {} (everything does)", write(rate.least), write(rate.most))
        }
    };
    let per_second = |samples: f64| format!("{samples:.3}");
    writeln!(out, "\n{} on {}", counted(plan.tags.len(), "tag"), counted(plan.devices.len(), "device"))?;
    writeln!(out, "samples per second  {}", between(forecast.samples, &per_second))?;
    for (uplink, bytes) in plan.uplinks.iter().zip(&forecast.uplinks) {
        writeln!(
            out,
            "wire bytes per day  {} to {} ({}; all in; more: ironbridge cost)",
            between(*bytes, &bytes_text),
            uplink.name,
            Way::of(uplink).as_str()
        )?;
    }
    writeln!(out, "flash bytes per day {}, estimated", between(forecast.flash, &bytes_text))
}

/// Columns as wide as their widest cell.
fn write_rows<const N: usize>(out: &mut String, header: [&str; N], rows: &[[String; N]]) -> fmt::Result {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut line = |cells: [&str; N]| {
        let mut row = String::from("   ");
        for (cell, width) in cells.iter().zip(widths) {
            write!(row, " {cell:width$} ")?;
        }
        writeln!(out, "{}", row.trim_end())
    };
    line(header)?;
    rows.iter().try_for_each(|row| line(std::array::from_fn(|column| row[column].as_str())))
}

fn device_name(plan: &Plan, device: DeviceIx) -> &str {
    &plan.devices[device.0 as usize].name
}

/// `holding:100 ..= 109 (400101 ..= 400110)`
fn span(block: &Block) -> String {
    let at = |start| Address { table: block.table, start, bit: None };
    let last = block.start + (block.count - 1);
    format!("{} ..= {last} ({} ..= {})", at(block.start), config::modicon(at(block.start)), config::modicon(at(last)))
}

fn uplink_line(uplink: &UplinkPlan) -> String {
    let classes: Vec<&str> = uplink.classes.iter().map(|class| class.as_str()).collect();
    let servers: Vec<String> = uplink.servers.iter().map(ToString::to_string).collect();
    format!("{}: {} as {}, {}", uplink.name, servers.join(" "), uplink.client_id, classes.join(" "))
}

const fn anonymous(anonymous: Anonymous) -> &'static str {
    match anonymous {
        Anonymous::None => "none",
        Anonymous::Read => "read",
        Anonymous::ReadWrite => "read-write",
    }
}

/// A path that is not UTF-8 is shown as well as can be.
fn path_text(path: &Path) -> String {
    path.display().to_string()
}

/// `1 tag`, `2 tags`
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// `12.3 MB`
fn bytes_text(bytes: f64) -> String {
    let (scaled, unit) = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
        .into_iter()
        .find(|(size, _)| bytes >= *size)
        .map_or((bytes, "B"), |(size, unit)| (bytes / size, unit));
    format!("{scaled:.1} {unit}")
}
