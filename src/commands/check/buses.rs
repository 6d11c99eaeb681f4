//! The buses of `ironbridge check`: what is read, how long it takes, and how much of the bus that is.
//!
//! A plan and its forecast become text or JSON; of a bus with TLS the certificates are looked at.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::figures::{counted, device_name, millis, write_rows};
use super::files;
use super::instruments;
use super::page::Page;
use super::silence;
use crate::config;
use crate::config::blocks::Block;
use crate::config::forecast::BusForecast;
use crate::config::plan::{AnswersAs, BusPlan, Plan};
use crate::config::units::write_duration;
use crate::model::sunspec::ModelPlace;
use crate::model::tag::{Address, BusIx};

/// Above this a bus has no room left for retries and commands.
const LOAD_HIGH: f64 = 0.8;

/// Where several units share a line without numbers on their answers, one may be taken for another.
fn write_anyones_answers(out: &mut Page, plan: &Plan, ix: BusIx) -> fmt::Result {
    let devices = || plan.devices_on(ix).map(|(_, device)| device);
    let shared = devices().any(|one| devices().any(|other| one.unit_id != other.unit_id));
    if plan[ix].link.framing.is_numbered() || !shared {
        return Ok(());
    }
    for device in devices().filter(|device| device.manners.answers_as == AnswersAs::Anyone) {
        let name = &device.name;
        out.warn(format_args!(
            "{name} has ignore_unit_id on a line of several units: an answer of another may be taken for its own"
        ))?;
    }
    Ok(())
}

/// One bus for people.
pub fn write(out: &mut Page, plan: &Plan, ix: BusIx, forecast: &BusForecast) -> fmt::Result {
    let bus = &plan[ix];
    out.about(format!("bus {}", bus.name));
    writeln!(out, "\nbus {}: {}, response timeout {}", bus.name, bus.link, write_duration(bus.response_timeout))?;
    silence::of_bus(out, plan, ix)?;
    if bus.line.is_some() {
        return instruments::write(out, plan, ix, forecast);
    }
    for (_, device) in plan.devices_on(ix) {
        writeln!(out, "  device {}: unit {}, {}", device.name, device.unit_id, counted(device.tags.len(), "tag"))?;
    }
    for trouble in files::of_bus(bus) {
        out.warn(trouble)?;
    }
    write_anyones_answers(out, plan, ix)?;
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
    write_load(out, &counted(forecast.reads.len(), "read"), forecast)
}

/// How long all of it takes, and how much of the bus that is.
pub fn write_load(out: &mut Page, what: &str, forecast: &BusForecast) -> fmt::Result {
    let percent = forecast.load * 100.0;
    let think = write_duration(forecast.think);
    writeln!(
        out,
        "  {what}, {:.1} ms for all of them once ({think} turnaround assumed), load {percent:.1} %",
        millis(forecast.cycle)
    )?;
    if forecast.load > 1.0 {
        out.warn("more than the bus can do: polls will be skipped. Raise `poll`, or split the bus")?;
    } else if forecast.load > LOAD_HIGH {
        out.warn("little room for retries and commands. Raise `poll`, or split the bus")?;
    }
    Ok(())
}

/// For scripts.
pub fn json(plan: &Plan, bus: &BusPlan, forecast: &BusForecast) -> Value {
    let reads = forecast.reads.iter().map(|read| {
        json!({
            "device": device_name(plan, read.block.device), "table": read.block.table.as_str(),
            "model": read.block.model.map(|model| model.to_string()), "start": read.block.start, "count": read.block.count, "tags": read.block.tags.len(),
            "every_ms": millis(read.block.period), "takes_ms": millis(read.takes),
        })
    });
    json!({
        "name": bus.name, "link": bus.link.to_string(), "reads": reads.collect::<Vec<_>>(),
        "talks": instruments::json(plan, bus, forecast),
        "cycle_ms": millis(forecast.cycle), "load": forecast.load,
    })
}

/// `holding:100 ..= 109 (400101 ..= 400110)`, `sunspec:103:0 ..= 41`
fn span(block: &Block) -> String {
    let at = |start| Address { table: block.table, start, bit: None };
    let last = block.start + (block.count - 1);
    if let Some(model) = block.model {
        return format!("{} ..= {last}", ModelPlace { model, offset: block.start, bit: None });
    }
    format!("{} ..= {last} ({} ..= {})", at(block.start), config::modicon(at(block.start)), config::modicon(at(last)))
}
