//! The live check of buses of type line: each instrument asked once, or listened to, and what of it nobody understood.

use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::commands::check::instruments::{Meant, meant};
use crate::config::lines::Reading;
use crate::config::plan::{Carrier, Plan, Source};
use crate::field::carrier::opener;
use crate::field::line::once::{Heard, Told, once};
use crate::flow::clock::Clock;
use crate::model::tag::{BusIx, DeviceIx};

/// Who dials in may take so many attempts of a few seconds each.
const CALLS_MAX: usize = 6;

/// What was found on one bus.
#[derive(Debug)]
pub struct LineSurvey {
    bus: BusIx,
    heard: io::Result<Heard>,
}

/// Looks at the chosen instruments of one bus.
pub async fn bus(plan: Arc<Plan>, ix: BusIx, chosen: Vec<DeviceIx>, clock: Clock) -> LineSurvey {
    let carrier = &plan.buses[ix.0 as usize].link.carrier;
    let mut left = if matches!(carrier, Carrier::Listen { .. }) { CALLS_MAX } else { 1 };
    let heard = loop {
        left -= 1;
        match once(&plan, ix, &chosen, opener(carrier, &clock)).await {
            Err(error) if left > 0 && error.kind() == io::ErrorKind::TimedOut => {}
            ended => break ended,
        }
    };
    LineSurvey { bus: ix, heard }
}

impl LineSurvey {
    /// Which bus.
    pub const fn bus(&self) -> BusIx {
        self.bus
    }

    /// Did anybody say anything that its patterns fit?
    pub fn answered(&self) -> bool {
        self.heard.as_ref().is_ok_and(|heard| heard.devices.iter().any(|told| !told.readings.is_empty()))
    }

    /// Is there nothing to mend?
    pub fn is_fine(&self, plan: &Plan) -> bool {
        let told = |told: &Told| rows(plan, told).iter().all(|(_, meant)| meant.as_ref().is_some_and(Meant::is_good));
        self.heard.as_ref().is_ok_and(|heard| heard.devices.iter().all(told))
    }

    /// Its tags, and those of them that are good.
    pub fn counts(&self, plan: &Plan) -> [usize; 2] {
        let Ok(heard) = &self.heard else { return [0, 0] };
        let rows: Vec<_> = heard.devices.iter().flat_map(|told| rows(plan, told)).collect();
        let good = rows.iter().filter(|(_, meant)| meant.as_ref().is_some_and(Meant::is_good)).count();
        [rows.len(), good]
    }

    /// For people.
    pub fn write(&self, out: &mut String, plan: &Plan) -> fmt::Result {
        let of = &plan.buses[self.bus.0 as usize];
        writeln!(out, "\nbus {}: {}", of.name, of.link)?;
        let heard = match &self.heard {
            Ok(heard) => heard,
            Err(error) => return writeln!(out, "  ! it cannot be looked at: {error}"),
        };
        for told in &heard.devices {
            let took = told.took.map(|took| format!(" within {} ms", took.as_millis().max(1)));
            let how = if told.readings.is_empty() { "nothing that its patterns fit" } else { "answers" };
            writeln!(out, "  device {}: {how}{}", plan.devices[told.device.0 as usize].name, took.unwrap_or_default())?;
            for (name, meant) in rows(plan, told).iter().filter(|_| !told.readings.is_empty()) {
                let mark = if meant.as_ref().is_some_and(Meant::is_good) { ' ' } else { '!' };
                let text = meant.as_ref().map_or_else(|| format!("{name}: not spoken of"), Meant::text);
                writeln!(out, "    {mark} {text}")?;
            }
        }
        for frame in &heard.strange {
            writeln!(out, "  ! heard `{}`, which no pattern in `match` fits", frame.escape_ascii())?;
        }
        let noise = heard.noise;
        if noise.crc + noise.garbage > 0 {
            writeln!(out, "  ! {} damaged frames and {} bytes that are no frame", noise.crc, noise.garbage)?;
        }
        Ok(())
    }

    /// For scripts.
    pub fn json(&self, plan: &Plan) -> Json {
        let of = &plan.buses[self.bus.0 as usize];
        let empty = Heard { devices: Vec::new(), strange: Vec::new(), noise: crate::field::stats::Noise::default() };
        let heard = self.heard.as_ref().unwrap_or(&empty);
        let device = |told: &Told| {
            let tags = rows(plan, told).into_iter().map(|(name, meant)| match meant {
                Some(meant) => meant.json(),
                None => json!({ "tag": name, "value": null, "quality": null }),
            });
            json!({
                "name": plan.devices[told.device.0 as usize].name,
                "state": if told.readings.is_empty() { "silent" } else { "answering" },
                "took_ms": told.took.map(|took| took.as_secs_f64() * 1000.0),
                "tags": tags.collect::<Vec<_>>(),
            })
        };
        json!({
            "name": of.name, "link": of.link.to_string(), "open": self.heard.is_ok(),
            "error": self.heard.as_ref().err().map(io::Error::to_string),
            "devices": heard.devices.iter().map(device).collect::<Vec<_>>(),
            "strange": heard.strange.iter().map(|frame| frame.escape_ascii().to_string()).collect::<Vec<_>>(),
            "damaged_frames": heard.noise.crc, "stray_bytes": heard.noise.garbage,
        })
    }
}

/// Every tag of a device that comes in frames, and what came of it.
fn rows<'p>(plan: &'p Plan, told: &Told) -> Vec<(&'p str, Option<Meant<'p>>)> {
    let own = plan.devices[told.device.0 as usize].tags.clone();
    let numbered = own.clone().zip(&plan.tags[own]).filter(|(_, tag)| matches!(tag.source, Source::Field(_)));
    let row = |(ix, tag): (usize, &'p crate::config::plan::TagPlan)| {
        let found = told.readings.iter().find(|reading: &&Reading| reading.tag.0 as usize == ix);
        (tag.name.as_str(), found.and_then(|reading| meant(plan, reading.clone())))
    };
    numbered.map(row).collect()
}
