//! The buses of type line of `ironbridge check`: what is asked and what is heard, and what the examples mean to the tags.
//!
//! Pure: a plan and its forecast become text or JSON.

use std::fmt::{self, Write as _};

use serde_json::{Value as Json, json};

use super::buses::write_load;
use super::figures::{counted, device_name, millis};
use super::page::Page;
use crate::config::forecast::{BusForecast, Talk};
use crate::config::lines::{Reader, Reading};
use crate::config::plan::{BusPlan, LineMode, Plan, TagPlan};
use crate::config::units::write_duration;
use crate::model::quality::{Cause, Quality};
use crate::model::tag::BusIx;
use crate::model::value::Value;
use crate::pipeline::limits;
use crate::pipeline::meaning::Meaning;

/// One bus for people, below its heading.
pub fn write(out: &mut Page, plan: &Plan, ix: BusIx, forecast: &BusForecast) -> fmt::Result {
    let is_asked = plan[ix].line.as_ref().is_some_and(|line| line.mode == LineMode::Poll);
    for talk in &forecast.talks {
        let device = &plan[talk.device];
        let every = write_duration(talk.period);
        let how = match &device.talk {
            Some(talk) if is_asked => format!("asked `{}` every {every}", talk.send.escape_ascii()),
            _ => format!("heard about every {every}"),
        };
        writeln!(out, "  device {}: {how}, {}", device.name, counted(device.tags.len(), "tag"))?;
        for (said, meant) in examples(plan, talk) {
            let meant: Vec<String> = meant.iter().map(Meant::text).collect();
            writeln!(out, "    says `{said}`: {}", meant.join(", "))?;
        }
    }
    match forecast.talks.len() {
        0 => writeln!(out, "  nobody says anything"),
        count if is_asked => write_load(out, &counted(count, "question"), forecast),
        _ if plan[ix].link.line().is_some() => {
            writeln!(out, "  listens, nothing is sent; load {:.1} %", forecast.load * 100.0)
        }
        _ => writeln!(out, "  listens, nothing is sent"),
    }
}

/// For scripts.
pub fn json(plan: &Plan, bus: &BusPlan, forecast: &BusForecast) -> Json {
    let is_asked = bus.line.as_ref().is_some_and(|line| line.mode == LineMode::Poll);
    let talk = |talk: &Talk| {
        let examples = examples(plan, talk).into_iter().map(|(said, meant)| {
            let tags: Vec<Json> = meant.iter().map(Meant::json).collect();
            json!({ "says": said, "tags": tags })
        });
        json!({
            "device": device_name(plan, talk.device), "asked": is_asked, "every_ms": millis(talk.period),
            "takes_ms": millis(talk.takes), "examples": examples.collect::<Vec<_>>(),
        })
    };
    forecast.talks.iter().map(talk).collect()
}

/// What a tag gets from a frame.
#[derive(Debug)]
pub struct Meant<'p> {
    tag: &'p TagPlan,
    value: Option<Value>,
    quality: Quality,
}

impl Meant<'_> {
    /// For people.
    pub fn text(&self) -> String {
        let Self { tag, value, quality } = self;
        let unit = if tag.unit.is_empty() { String::new() } else { format!(" {}", tag.unit) };
        let value = value.as_ref().map_or_else(|| "no value".to_owned(), |value| format!("{value}{unit}"));
        match quality.cause() {
            None => format!("{} = {value}", tag.name),
            Some(cause) => format!("{} = {value} ({}, {})", tag.name, quality.as_str(), cause.as_str()),
        }
    }

    /// For scripts.
    pub fn json(&self) -> Json {
        let value = self.value.as_ref().map(Value::to_string);
        let cause = self.quality.cause().map(Cause::as_str);
        json!({ "tag": self.tag.name, "value": value, "quality": self.quality.as_str(), "cause": cause })
    }
}

fn examples<'p>(plan: &'p Plan, talk: &Talk) -> Vec<(String, Vec<Meant<'p>>)> {
    let said = plan[talk.device].talk.as_ref().map_or(&[][..], |talk| &talk.examples);
    let Some(reader) = Reader::new(plan, talk.device) else { return Vec::new() };
    let one = |said: &Vec<u8>| {
        let readings = reader.read(said).unwrap_or_default();
        (said.escape_ascii().to_string(), readings.into_iter().filter_map(|reading| meant(plan, reading)).collect())
    };
    said.iter().map(one).collect()
}

/// What a reading is to its tag.
pub fn meant(plan: &Plan, reading: Reading) -> Option<Meant<'_>> {
    let tag = plan.tag(reading.tag)?;
    let (value, quality) = match reading.raw {
        Ok(raw) => Meaning::of(tag).engineer(raw),
        Err(cause) => (None, Quality::Bad(cause)),
    };
    let limited = value.as_ref().filter(|_| quality == Quality::Good).map(|value| limits::judge(tag.limits, value));
    let quality = limited.filter(|limited| *limited != Quality::Good).unwrap_or(match quality {
        Quality::Good => reading.doubt,
        worse => worse,
    });
    Some(Meant { tag, value, quality })
}
