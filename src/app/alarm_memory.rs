//! Which alarms were active, across restarts: `alarms.json` in the data directory.
//!
//! ```text
//! {"version":1,"active":[{"device":"pump-1","tag":"pressure","event":"high","class":"alarm","record":"{\"event\":\"high\",…}"}]}
//! ```
//!
//! `record` is the payload as it was published, with its number. Written whenever a record with a number has changed what
//! is active, read once at the start: an alarm that is still active is not told a second time, one that ended while the
//! gateway was away is cleared by the first value that says so, and one that the configuration no longer has is cleared
//! at once, cause config. A file that is missing or damaged costs no more than alarms that are told again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::config::plan::{DevicePlan, Plan, TagPlan};
use crate::disk::whole;
use crate::model::alarm::Level;
use crate::model::number::Class;
use crate::model::tag::TagIx;

/// What is active: by tag, the gravest first, the payload of each.
pub type Active = BTreeMap<TagIx, BTreeMap<Level, Bytes>>;

const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    active: Vec<Entry>,
}

/// One alarm of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Name of the device.
    pub device: String,
    /// Name of the tag.
    pub tag: String,
    /// Which condition.
    pub event: String,
    /// Class of its records.
    pub class: String,
    /// Its payload.
    pub record: String,
}

impl Entry {
    /// Of a plan, without its payload.
    pub fn of(device: &DevicePlan, tag: &TagPlan, level: Level) -> Self {
        Self {
            device: device.name.clone(),
            tag: tag.name.clone(),
            event: level.as_str().to_owned(),
            class: tag.alarm.as_ref().map_or(Class::Alarm, |alarm| alarm.class).as_str().to_owned(),
            record: String::new(),
        }
    }

    /// Class of its records.
    pub fn class(&self) -> Class {
        Class::from_name(&self.class).unwrap_or(Class::Alarm)
    }
}

/// What the last run left.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Still in the plan.
    pub active: Active,
    /// No more in the plan.
    pub gone: Vec<Entry>,
}

/// The file.
#[derive(Debug, Clone)]
pub struct AlarmMemory {
    path: PathBuf,
}

impl AlarmMemory {
    /// In this data directory.
    pub fn in_dir(data_dir: &Path) -> Self {
        Self { path: data_dir.join("alarms.json") }
    }

    /// Reads it. Blocking.
    pub fn read(&self, plan: &Plan) -> Remembered {
        let content = whole::read(&self.path).unwrap_or_else(|error| {
            tracing::warn!(%error, "remembered alarms cannot be read");
            None
        });
        let Some(content) = content else { return Remembered::default() };
        match serde_json::from_slice::<File>(&content) {
            Ok(file) if file.version == VERSION => sort(file.active, plan),
            Ok(file) => {
                tracing::warn!(version = file.version, "remembered alarms are of another version");
                Remembered::default()
            }
            Err(error) => {
                tracing::warn!(%error, "remembered alarms are damaged");
                Remembered::default()
            }
        }
    }

    /// Writes it. Blocking.
    pub fn write(&self, active: &Active, plan: &Plan) {
        let entries =
            active.iter().flat_map(|(tag, levels)| levels.iter().map(|(level, record)| (*tag, *level, record)));
        let entries = entries.filter_map(|(tag, level, record)| {
            let tag = plan.tag(tag)?;
            let entry = Entry::of(plan.device(tag.device)?, tag, level);
            Some(Entry { record: String::from_utf8_lossy(record).into_owned(), ..entry })
        });
        let file = File { version: VERSION, active: entries.collect() };
        let written =
            serde_json::to_vec(&file).map_err(Into::into).and_then(|bytes| whole::replace(&self.path, &bytes));
        if let Err(error) = written {
            tracing::warn!(%error, "active alarms cannot be remembered");
        }
    }
}

fn sort(entries: Vec<Entry>, plan: &Plan) -> Remembered {
    let mut remembered = Remembered::default();
    for entry in entries {
        let named =
            |tag: &TagPlan| tag.name == entry.tag && plan.device(tag.device).is_some_and(|it| it.name == entry.device);
        let level = Level::ALL.into_iter().find(|level| level.as_str() == entry.event);
        let found = plan.live_tags().find(|(_, tag)| named(tag));
        match (found, level) {
            (Some((ix, tag)), Some(level)) if has(tag, level) => {
                remembered.active.entry(ix).or_default().insert(level, entry.record.into());
            }
            _ => remembered.gone.push(entry),
        }
    }
    remembered
}

/// Where an alarm of one plan is in another one, arranged after it: with the tag of that name, if that still has it.
pub fn settled(old: &Plan, new: &Plan, (ix, level): (TagIx, Level)) -> Option<TagIx> {
    let before = old.live_tag(ix)?;
    let stays = new.tag(ix).filter(|tag| tag.name == before.name).map(|tag| (ix, tag));
    let (place, tag) = stays.or_else(|| {
        let name = &old.device(before.device)?.name;
        let device = new.devices.iter().find(|device| device.name == *name)?;
        new.tags_of(device).find(|(_, tag)| tag.name == before.name)
    })?;
    has(tag, level).then_some(place)
}

fn has(tag: &TagPlan, level: Level) -> bool {
    tag.alarm.as_ref().is_some_and(|alarm| {
        alarm.limits.iter().any(|(own, _)| *own == level) || level == Level::State && alarm.state.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::AlarmPlan;
    use crate::model::tag::{Address, BusIx, DataType, DeviceIx, Table};

    #[test]
    fn what_was_active_is_found_again_and_what_has_no_limit_any_more_is_gone() {
        let address = Address { table: Table::Holding, start: 0, bit: None };
        let alarm = AlarmPlan { limits: vec![(Level::High, 1.0), (Level::Low, 0.0)], ..AlarmPlan::plain() };
        let tag =
            TagPlan { alarm: Some(Box::new(alarm)), ..TagPlan::plain("level", DeviceIx(0), address, DataType::Int16) };
        let devices = vec![DevicePlan { tags: 0..1, ..DevicePlan::plain("tank", BusIx(0), 1) }];
        let mut plan = Plan { devices, tags: vec![tag], ..Plan::empty("gw") };
        let home = tempfile::TempDir::new().expect("a directory");
        let memory = AlarmMemory::in_dir(home.path());
        assert!(memory.read(&plan).active.is_empty());
        let active = Active::from([(TagIx(0), BTreeMap::from([(Level::High, Bytes::from("{\"seq\":7}"))]))]);
        memory.write(&active, &plan);
        assert_eq!(memory.read(&plan).active, active);
        plan.tags[0].alarm = Some(Box::new(AlarmPlan { limits: vec![(Level::Low, 0.0)], ..AlarmPlan::plain() }));
        let remembered = memory.read(&plan);
        assert!(remembered.active.is_empty());
        assert_eq!((remembered.gone[0].device.as_str(), remembered.gone[0].event.as_str()), ("tank", "high"));
        std::fs::write(home.path().join("alarms.json"), b"{\"version\":1,\"act").expect("written");
        assert!(memory.read(&plan).active.is_empty(), "a damaged file is none");
    }
}
