//! `ironbridge check --live`: every mapped tag read once from the real devices, and what is wrong with each.
//!
//! `survey` goes through a bus with `ask` (and `models` before it where tags are in SunSpec models; `instruments` does
//! a bus of type line) and brings what came (`seen`); `look` says how a value looks, `theory` whether one explanation
//! fits many odd tags, `better` whether one tag reads better in another way, `verdict` puts that together; `advice` has
//! the sentences, `text` and `json` the two forms, `progress` is the bar. Buses at the same time, the devices of a bus
//! one after the other. Reads only, and only where the configuration lets the gateway read. The offline check comes
//! first.

mod advice;
mod ask;
mod better;
mod instruments;
mod json;
mod look;
mod models;
mod progress;
mod seen;
mod survey;
mod text;
mod theory;
mod verdict;

use std::sync::Arc;

use tokio::task::JoinSet;

use self::progress::Progress;
use self::survey::BusSurvey;
use self::verdict::{DeviceReport, TagReport};
use super::Args;
use crate::commands::{self, Failed};
use crate::config::Loaded;
use crate::config::plan::{Plan, Source};
use crate::flow::clock::Clock;
use crate::model::tag::{BusIx, DeviceIx};

/// What was found.
struct Survey {
    buses: Vec<BusReport>,
    /// Tags of buses that did not open.
    unread: usize,
    derived: usize,
    write_only: usize,
}

/// One bus, judged.
struct BusReport {
    survey: BusSurvey,
    devices: Vec<DeviceReport>,
}

impl BusReport {
    /// The units that answered.
    fn answering(&self, plan: &Plan) -> Vec<u8> {
        let answered = self.devices.iter().filter(|device| device.survey.answered());
        let mut units: Vec<u8> = answered.map(|device| plan[device.device].unit_id).collect();
        units.sort_unstable();
        units.dedup();
        units
    }
}

impl Survey {
    fn tags(&self) -> impl Iterator<Item = &TagReport> {
        self.buses.iter().flat_map(|bus| &bus.devices).flat_map(|device| &device.tags)
    }

    fn is_fine(&self) -> bool {
        let fine = |bus: &BusReport| bus.survey.not_open.is_none() && bus.devices.iter().all(DeviceReport::is_fine);
        self.buses.iter().all(fine)
    }

    /// Nobody anywhere said a word, though somebody was asked.
    fn is_unreachable(&self) -> bool {
        let mut devices = self.buses.iter().flat_map(|bus| &bus.devices);
        let asked = self.unread > 0 || self.tags().next().is_some();
        asked && !devices.any(|device| device.survey.answered())
    }
}

/// Reads the chosen devices, prints the verdict.
pub async fn run(args: Args, loaded: Loaded, clock: Clock) -> Result<(), Failed> {
    let plan = Arc::new(loaded.plan);
    let chosen = choose(&plan, &args)?;
    let survey = survey_all(&plan, &chosen, &clock).await?;
    let text = if args.json {
        json::of(&plan, &survey).to_string()
    } else {
        let mut out = format!("no problems in {}", args.config.display());
        // Writing to a String cannot fail.
        let _ = text::write(&mut out, &plan, &survey);
        out
    };
    commands::print(format!("{}\n", text.trim_end()))?;
    if survey.is_unreachable() {
        return Err(Failed::TryAgain("no device could be reached".into()));
    }
    if survey.is_fine() { Ok(()) } else { Err(Failed::Verdict) }
}

/// The devices of each bus that are wanted.
fn choose(plan: &Plan, args: &Args) -> Result<Vec<(BusIx, Vec<DeviceIx>)>, Failed> {
    let known = |what: &str, wanted: &[String], names: Vec<&str>| match wanted
        .iter()
        .find(|name| !names.contains(&name.as_str()))
    {
        Some(name) => {
            Err(Failed::Usage(format!("there is no {what} '{name}' in this configuration, only {}", names.join(", "))))
        }
        None => Ok(()),
    };
    known("bus", &args.bus, plan.buses.iter().map(|bus| bus.name.as_str()).collect())?;
    known("device", &args.device, plan.devices.iter().map(|device| device.name.as_str()).collect())?;
    let wanted = |wanted: &[String], name: &String| wanted.is_empty() || wanted.contains(name);
    let mut chosen = Vec::new();
    for (ix, _) in plan.numbered_buses().filter(|(_, bus)| wanted(&args.bus, &bus.name)) {
        let devices = plan.devices_on(ix).filter(|(_, device)| wanted(&args.device, &device.name));
        let devices: Vec<DeviceIx> = devices.map(|(device, _)| device).collect();
        if !devices.is_empty() {
            chosen.push((ix, devices));
        }
    }
    Ok(chosen)
}

async fn survey_all(plan: &Arc<Plan>, chosen: &[(BusIx, Vec<DeviceIx>)], clock: &Clock) -> Result<Survey, Failed> {
    let is_line = |bus: BusIx| plan[bus].line.is_some();
    let reads = chosen
        .iter()
        .map(|(bus, devices)| if is_line(*bus) { devices.len() } else { survey::blocks(plan, *bus, devices).len() });
    let reads = reads.sum();
    let progress = Progress::new(reads);
    let mut running = JoinSet::new();
    for (bus, devices) in chosen {
        let (plan, devices, clock, progress) = (Arc::clone(plan), devices.clone(), clock.clone(), progress.clone());
        if is_line(*bus) {
            running.spawn(instruments::bus(plan, *bus, devices, clock, progress));
        } else {
            running.spawn(survey::bus(plan, *bus, devices, clock, progress));
        }
    }
    let mut buses = Vec::new();
    while let Some(ended) = running.join_next().await {
        buses.push(ended.map_err(|error| Failed::Internal(format!("a bus was not looked at: {error}")))?);
    }
    progress.finish();
    buses.sort_by_key(|bus| bus.bus);
    let tags = || {
        chosen
            .iter()
            .flat_map(|(_, devices)| devices)
            .flat_map(|device| plan[*device].tags.clone().filter_map(|tag| plan.tags.get(tag)))
    };
    let derived = tags().filter(|tag| matches!(tag.source, Source::Derived(_))).count();
    let write_only = tags().filter(|tag| tag.is_of_device() && !tag.access.reads()).count();
    let judged = |mut survey: BusSurvey| {
        let devices = std::mem::take(&mut survey.devices);
        let devices = devices.into_iter().map(verdict::device).collect();
        BusReport { survey, devices }
    };
    let buses: Vec<BusReport> = buses.into_iter().map(judged).collect();
    let closed = |bus: BusIx| buses.iter().any(|report| report.survey.bus == bus && report.survey.not_open.is_some());
    let unread = chosen.iter().filter(|(bus, _)| closed(*bus)).flat_map(|(_, devices)| devices);
    let unread = unread.map(|device| survey::tags_of(plan, *device).len()).sum();
    Ok(Survey { buses, unread, derived, write_only })
}

#[cfg(test)]
mod tests;
