//! `ironbridge check`: every problem of a configuration with its place, or the plan and what it costs.
//!
//! `doors`, `uplinks`, `bridges`, `store`, `buses` (`instruments` for type line) and `tags` write a section each,
//! `figures` has the words they share, `page` takes them and counts the warnings, `files` has what else is looked into,
//! `silence` what is looked at more seldom than one may think.
//! Reads files, and devices only with `--live`, which has a room of its own (`live`); with `--against-running` it asks the
//! running gateway (`running`). Problems are the error of this command, so they go where errors go; the plan and `--json`
//! go to standard output.

mod bridges;
mod buses;
mod doors;
pub(super) mod figures;
mod files;
mod instruments;
mod live;
mod page;
mod running;
mod silence;
mod store;
mod tags;
mod uplinks;

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use self::figures::{counted, rate_json, span};
use self::page::Page;
use super::{self as commands, Failed};
use crate::config::forecast::{self, Forecast};
use crate::config::{self, HostFacts, Loaded, Place, Problem, Problems};
use crate::model::tag::BusIx;

/// Arguments of `ironbridge check`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    ironbridge check --config plant.toml                      problems, or the plan and what it costs\n  \
    ironbridge check --config plant.toml --live               every tag once from the real devices\n  \
    ironbridge check --config plant.toml --live --device pump-1 --json\n  \
    ironbridge check --config plant.toml --strict             in a pipeline: warnings fail it, too\n\n\
    A line with `!` is a warning: the configuration is right and the gateway starts with it, but a part stays closed (a\n\
    file that is missing, perhaps only on this machine), or something will not fit (a load, a budget).\n\n\
    Exit codes: 0 no problems (with --live: every tag has a value that makes sense) · 1 --live found something, or\n\
    --strict and there are warnings · 75 --live reached nobody, --against-running no gateway · 78 the configuration is wrong")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
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
    /// End with exit code 1 when there are warnings (lines with `!`; `warnings` in the JSON)
    #[arg(long, conflicts_with_all = ["live", "against_running"])]
    pub strict: bool,
    /// Show what a reload with this configuration would change in the running gateway, and change nothing
    ///
    /// The file may stand anywhere: the gateway is sent what it holds. Relative names of files in it are taken as if it stood
    /// beside the configuration in force.
    #[arg(long, conflicts_with_all = ["live", "tags"])]
    pub against_running: bool,
    /// With --against-running: the gateway's control socket, where it is not found by itself
    #[arg(long, value_name = "PATH", requires = "against_running")]
    pub socket: Option<PathBuf>,
    /// Read every tag once from the real devices, and say what is wrong with each
    ///
    /// Finds devices that do not answer, registers that do not exist, values out of range, and values that make no sense,
    /// with the better reading where there is one: another word order, another type, a map that is one off, the other table.
    /// Never writes. The gateway must not hold the same serial port meanwhile, nor ask on the same line behind a
    /// serial server (in a container with a network of its own it is not seen).
    #[arg(long)]
    pub live: bool,
    /// With --live: only this bus (may be repeated)
    #[arg(long, value_name = "BUS", requires = "live")]
    pub bus: Vec<String>,
    /// With --live: only this device (may be repeated)
    #[arg(long, value_name = "DEVICE", requires = "live")]
    pub device: Vec<String>,
}

/// Checks the configuration and prints the plan; all problems are in the error.
///
/// With `--live` the devices are read instead, once the configuration is known to be right.
pub fn run(args: &Args, facts: &HostFacts) -> Result<(), Failed> {
    if args.live
        && let Ok(loaded) = config::load(&args.config, facts)
    {
        return commands::block_on(live::run(args.clone(), loaded, commands::plain_clock()));
    }
    let read = if args.against_running { config::load_with_texts(&args.config, facts).ok() } else { None };
    let (text, ended) = match read {
        Some((_, texts)) => running::report(args, facts, texts),
        None => report(args, facts),
    };
    if !text.is_empty() {
        let printed = commands::print(format!("{}\n", text.trim_end()));
        return ended.and(printed);
    }
    ended
}

/// What [`run`] prints on standard output of a configuration, and how it ends.
pub fn report(args: &Args, facts: &HostFacts) -> (String, Result<(), Failed>) {
    match config::load(&args.config, facts) {
        Ok(loaded) => {
            let forecast = forecast::forecast(&loaded.plan);
            let page = page(&loaded, &forecast, args);
            let ended = if args.strict && page.warnings() > 0 { Err(Failed::Verdict) } else { Ok(()) };
            let text = if args.json { plan_json(&loaded, &forecast, args, &page) } else { page.end() };
            (text, ended)
        }
        Err(problems) if args.json => {
            let short = format!("{} in {}", counted(problems.count(), "problem"), args.config.display());
            (problems_json(&problems).to_string(), Err(Failed::Config(short)))
        }
        Err(problems) => (String::new(), Err(Failed::Config(problems.to_string()))),
    }
}

pub(super) fn problems_json(problems: &Problems) -> Value {
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

fn plan_json(loaded: &Loaded, forecast: &Forecast, args: &Args, page: &Page) -> String {
    let plan = &loaded.plan;
    let buses = plan.buses.iter().zip(&forecast.buses);
    let mut report = json!({
        "ok": true,
        "warnings": page.warnings_json(),
        "files": loaded.files.iter().map(|file| path_text(file)).collect::<Vec<_>>(),
        "gateway": plan.gateway.name,
        "users_trouble": files::of_users(&plan.broker),
        "listeners": doors::json(&doors::look(plan, &commands::plain_clock())),
        "buses": buses.map(|(bus, forecast)| buses::json(plan, bus, forecast)).collect::<Vec<_>>(),
        "tags": plan.tags.len(),
        "samples_per_second": rate_json(forecast.samples),
        "uplinks": plan.uplinks.iter().map(|uplink| uplinks::json(plan, uplink)).collect::<Vec<_>>(),
        "bridges": plan.bridges.iter().map(bridges::json).collect::<Vec<_>>(),
        "store": store::json(plan, forecast.flash),
        "flash_bytes_per_day": rate_json(forecast.flash),
    });
    if args.tags {
        report["tag_list"] = plan.tags.iter().map(|tag| tags::json(plan, tag)).collect();
    }
    report.to_string()
}

fn page(loaded: &Loaded, forecast: &Forecast, args: &Args) -> Page {
    let mut page = Page::default();
    // Writing to a String cannot fail.
    let _ = write_plan(&mut page, loaded, forecast, args);
    page
}

fn write_plan(out: &mut Page, loaded: &Loaded, forecast: &Forecast, args: &Args) -> fmt::Result {
    let plan = &loaded.plan;
    for (position, file) in loaded.files.iter().enumerate() {
        writeln!(out, "{} {}", if position == 0 { "no problems in" } else { "           and" }, file.display())?;
    }
    writeln!(out, "\ngateway {}: data in {}", plan.gateway.name, plan.gateway.data_dir.display())?;
    store::write(out, plan, forecast.flash)?;
    doors::write(out, &doors::look(plan, &commands::plain_clock()))?;
    if let Some(trouble) = files::of_users(&plan.broker) {
        out.about("users_file");
        out.warn(trouble)?;
    }
    for uplink in &plan.uplinks {
        uplinks::write(out, plan, uplink)?;
    }
    bridges::write(out, plan)?;
    for (ix, forecast) in (0u32..).zip(&forecast.buses) {
        buses::write(out, plan, BusIx(ix), forecast)?;
    }
    silence::of_derived(out, plan)?;
    if args.tags {
        tags::write(out, plan)?;
    }
    writeln!(out, "\n{} on {}", counted(plan.tags.len(), "tag"), counted(plan.devices.len(), "device"))?;
    writeln!(out, "samples per second  {}", span(forecast.samples, |rate| format!("{rate:.3}")))?;
    if (forecast.samples.most - forecast.samples.least).abs() > 1e-9 {
        writeln!(
            out,
            "ranges: from nothing changes to everything does; more about formats and money: ironbridge cost"
        )?;
    }
    Ok(())
}

/// A path that is not UTF-8 is shown as well as can be.
fn path_text(path: &Path) -> String {
    path.display().to_string()
}
