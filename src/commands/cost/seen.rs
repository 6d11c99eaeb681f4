//! What a store saw: rates that are real, sizes of the plant's own samples in every format, bytes that were counted.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::bill::as_f64;
use super::sizes::{self, Messages, Size};
use crate::commands::Failed;
use crate::commands::check::figures::bytes_text;
use crate::config::forecast::Rate;
use crate::config::plan::{Plan, UplinkPlan};
use crate::config::wire::{self, MQTT, Way};
use crate::model::number::Class;
use crate::model::time::{Certainty, Wall, civil_from_days};
use crate::payload::json;
use crate::store::inspect::LookError;
use crate::store::{self, Absent, MeterRow, Owed, OwedBody, Survey, Surveyed};

/// A store with less than this says nothing about a month.
const LEAST_MS: i64 = 60_000;
const MS_PER_DAY: f64 = 86_400_000.0;
/// What is left of a class was taken in this time at least.
const CUT_MS: i64 = 1000;

/// See the head of this file.
pub struct Seen {
    survey: Survey,
    /// UTC of the oldest and newest record of any class, ms since 1970.
    from_ms: i64,
    to_ms: i64,
}

impl Seen {
    /// Reads it.
    pub fn look(dir: &Path) -> Result<Self, Failed> {
        let survey = store::survey(dir).map_err(|error| match error {
            LookError::NoStore(_) => Failed::Usage(error.to_string()),
            LookError::Unreadable(_) => Failed::TryAgain(error.to_string()),
        })?;
        let from_ms = survey.streams.iter().map(|seen| seen.from_ms).min().unwrap_or(0);
        let to_ms = survey.streams.iter().map(|seen| seen.to_ms).max().unwrap_or(0);
        if to_ms - from_ms < LEAST_MS {
            return Err(Failed::TryAgain(format!(
                "the store in {} holds less than a minute: let the gateway run for a while",
                dir.display()
            )));
        }
        Ok(Self { survey, from_ms, to_ms })
    }

    fn days(&self) -> f64 {
        days(self.to_ms - self.from_ms)
    }

    /// The time in which a class brought what is held of it. In a full store the less important classes give way first: they
    /// remember less than the store does.
    fn days_of(&self, seen: &Surveyed) -> f64 {
        if seen.is_cut { days((self.to_ms - seen.from_ms).max(CUT_MS)) } else { self.days() }
    }

    fn per_day(&self, seen: &Surveyed) -> f64 {
        as_f64(seen.records) / self.days_of(seen)
    }

    fn of<'a>(&'a self, classes: &'a [Class]) -> impl Iterator<Item = &'a Surveyed> {
        self.survey.streams.iter().filter(|seen| classes.contains(&seen.stream))
    }

    /// Records of these classes, each over the time that the store remembers of it.
    pub fn samples_per_second(&self, classes: &[Class]) -> f64 {
        self.of(classes).map(|seen| self.per_day(seen)).sum::<f64>() / 86_400.0
    }

    /// Wire bytes of a day's records in a format: the plant's own records, encoded, with few connects and with many.
    pub fn bytes_per_day(&self, plan: &Plan, uplink: &UplinkPlan, way: Way) -> Rate {
        let connects = wire::connects(uplink);
        let (mut bytes, mut encoded) = (Rate::default(), 0.0);
        for seen in self.of(&uplink.classes).filter(|seen| !seen.sample.is_empty()) {
            let rate = self.per_day(seen) / 86_400.0;
            let size = self.size(plan, uplink, (seen, rate), way);
            bytes.most += size.per_day(rate, connects.most);
            bytes.least += size.per_day(rate, connects.least);
            encoded += rate;
        }
        // A class whose newest epoch has no record yet has none to encode: they are taken to be like the others.
        if encoded > 0.0 { bytes.times(self.samples_per_second(&uplink.classes) / encoded) } else { bytes }
    }

    fn size(&self, plan: &Plan, uplink: &UplinkPlan, (seen, rate): (&Surveyed, f64), way: Way) -> Size {
        let commit = plan.store.commit_interval;
        let burst = (rate * commit.as_secs_f64()).max(1.0);
        let count = count_f64(seen.sample.len());
        let messages = || Messages::new(plan, uplink, way);
        let per_record = match way {
            Way::Batch => return messages().batches(&seen.sample, &self.survey.clock),
            Way::JsonArray => return messages().lists(&seen.sample, &self.survey.clock),
            Way::JsonTag => {
                let total: usize = seen.sample.iter().map(|owed| self.message(owed, uplink)).sum();
                wire::message(count_f64(total) / count + MQTT, burst)
            }
            Way::JsonDevice => self.device_bytes(uplink, seen, burst),
            Way::Sparkplug => forecast_bytes(plan, uplink, way, rate, tags(&seen.sample)),
        };
        Size { per_record, ..Size::default() }
    }

    /// Topic and payload of a message alone, bytes.
    fn message(&self, owed: &Owed, uplink: &UplinkPlan) -> usize {
        let (topic, payload) = sizes::single(owed, &self.survey.clock);
        uplink.topic_prefix.len() + topic.len() + payload.len()
    }

    /// Records of a device with one time make one message.
    fn device_bytes(&self, uplink: &UplinkPlan, seen: &Surveyed, burst: f64) -> f64 {
        let mut messages: BTreeMap<(&str, i64), f64> = BTreeMap::new();
        let mut total = 0.0;
        let mut samples = 0.0;
        for owed in &seen.sample {
            let whole = self.message(owed, uplink);
            match &owed.body {
                OwedBody::Event { .. } | OwedBody::Message { .. } => {
                    total += wire::message(count_f64(whole) + MQTT, burst);
                }
                OwedBody::Sample { tag, quality, .. } => {
                    samples += 1.0;
                    let time = Wall { certainty: Certainty::Fixed, ..self.survey.clock.wall(owed.at) };
                    let bare = json::numbered_sample(None, *quality, time, owed.number, None).len() - "null".len();
                    let value = whole.saturating_sub(uplink.topic_prefix.len() + tag.topic.len() + bare);
                    let message = messages.entry((&tag.device, owed.at.micros)).or_insert_with(|| {
                        // What the message has once: topic without the tag, time, number.
                        count_f64(uplink.topic_prefix.len() + tag.topic.len() - tag.name.len().min(tag.topic.len()))
                            + wire::JSON_DEVICE
                            + MQTT
                    });
                    *message += count_f64(tag.name.len() + value) + 4.0;
                }
            }
        }
        let together = (burst * count_f64(messages.len()) / f64::max(samples, 1.0)).max(1.0);
        total += messages.values().map(|bytes| wire::message(*bytes, together)).sum::<f64>();
        total / count_f64(seen.sample.len())
    }

    /// What the store says of the past, for people.
    pub fn text(&self) -> String {
        let wall = |unix_ms| Wall { unix_ms, certainty: Certainty::Fixed };
        let mut out = format!("store: {:.2} days, {} to {}\n", self.days(), wall(self.from_ms), wall(self.to_ms));
        for seen in &self.survey.streams {
            let _ =
                write!(out, "  {:<9} {} records, {:.0} a day", seen.stream.as_str(), seen.records, self.per_day(seen));
            let since = if seen.is_cut { format!(", held since {}", wall(seen.from_ms)) } else { String::new() };
            let _ = writeln!(out, "{since}");
        }
        for class in &self.survey.absent {
            let gone = if class.is_gone { ": those it had are gone, so its rate is not known" } else { "" };
            let _ = writeln!(out, "  {:<9} 0 records{gone}", class.stream.as_str());
        }
        out
    }

    /// The same for scripts.
    pub fn json(&self) -> Value {
        let stream = |seen: &Surveyed| {
            json!({
                "stream": seen.stream.as_str(), "records": seen.records,
                "days": self.days_of(seen), "records_per_day": self.per_day(seen), "encoded_for_sizes": seen.sample.len(),
            })
        };
        let absent = |class: &Absent| {
            json!({
                "stream": class.stream.as_str(), "records": 0, "days": self.days(),
                "records_per_day": if class.is_gone { Value::Null } else { 0.0.into() }, "encoded_for_sizes": 0,
            })
        };
        let streams = self.survey.streams.iter().map(stream).chain(self.survey.absent.iter().map(absent));
        json!({
            "from_unix_ms": self.from_ms, "to_unix_ms": self.to_ms, "days": self.days(),
            "streams": streams.collect::<Vec<_>>(),
        })
    }

    /// What an uplink's meters counted: the newest day and month of each path.
    pub fn recorded(&self, uplink: &str) -> Option<String> {
        let mut newest: BTreeMap<(&str, u8), &MeterRow> = BTreeMap::new();
        for row in self.survey.meters.iter().filter(|row| row.uplink == uplink && row.is_whole()) {
            newest.insert((&row.path, row.period), row); // rows come oldest first
        }
        let mut out = String::from("\n  counted on the wire\n");
        for ((path, _), row) in &newest {
            let path = if path.is_empty() { "all paths together" } else { path };
            let _ = writeln!(out, "    {path}: {} in {}", bytes_text(as_f64(row.bytes)), period(row));
        }
        (!newest.is_empty()).then_some(out)
    }

    /// Everything they counted, for scripts.
    pub fn recorded_json(&self, uplink: &str) -> Value {
        let mine = self.survey.meters.iter().filter(|row| row.uplink == uplink && row.is_whole());
        let one = |row: &MeterRow| json!({ "path": row.path, "period": period(row), "bytes": row.bytes });
        mine.map(one).collect()
    }
}

fn days(ms: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of some years")]
    let ms = ms as f64;
    ms / MS_PER_DAY
}

/// `2026-11-20` or `2026-11`
fn period(row: &MeterRow) -> String {
    match (row.number, row.period) {
        (number, _) if number < 0 => "a time without a clock".to_owned(),
        (day, 0) => {
            let (year, month, day) = civil_from_days(day);
            format!("{year:04}-{month:02}-{day:02}")
        }
        (month, _) => format!("{:04}-{:02}", month.div_euclid(12), month.rem_euclid(12) + 1),
    }
}

fn tags(sample: &[Owed]) -> f64 {
    let tag = |owed: &Owed| match &owed.body {
        OwedBody::Sample { tag, .. } => Some(tag.id),
        OwedBody::Event { .. } | OwedBody::Message { .. } => None,
    };
    count_f64(sample.iter().filter_map(tag).collect::<HashSet<u32>>().len())
}

/// For formats that are not encoded here: real rates, forecast sizes.
fn forecast_bytes(plan: &Plan, uplink: &UplinkPlan, way: Way, rate: f64, tags: f64) -> f64 {
    let samples = Rate { most: rate, least: rate };
    let load = wire::Load { samples, tags, polls: samples, topic: 0.0, name: 0.0, births: 0.0 };
    // A plant that sends by exception lies at the dearer end of a format's sizes.
    let bytes = wire::samples_per_day(plan, uplink, &load, way);
    if rate > 0.0 { bytes.least / (rate * 86_400.0) } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "lengths of samples")]
fn count_f64(count: usize) -> f64 {
    count as f64
}
