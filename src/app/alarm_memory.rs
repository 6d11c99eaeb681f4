//! Which alarms were active, across restarts: `alarms.json` in the data directory.
//!
//! ```text
//! {"version":1,"active":[{"device":"pump-1","tag":"pressure","event":"high","class":"alarm","record":"{\"event\":\"high\",…}"}]}
//! ```
//!
//! `record` is the payload as it was published, with its number. Written whenever a record with a number has changed what
//! is active, read once at the start: an alarm that is still active is not told a second time, one that ended while the
//! gateway was away is cleared by the first value that says so, and one that the configuration no longer has is cleared
//! at once, cause config.
//!
//! What is still active and was lost here is told a second time. What ended while the gateway was away and was lost here is
//! never cleared: it stays active in the cloud until it begins and ends again. So a file that could not be read at the
//! start, or was not there (a data directory that comes later), is read again before anything takes its place, and what it
//! says is kept in the new one for the next start, which clears what has ended; what is active in this life is that of this
//! life. What cannot be read then either is set aside as `alarms.unread`, for people; if that fails nothing is written.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::config::plan::{DevicePlan, Plan, TagPlan};
use crate::disk::whole;
use crate::model::alarm::Level;
use crate::model::lock::Hold as _;
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

    fn is_of(&self, other: &Self) -> bool {
        (&self.device, &self.tag, &self.event) == (&other.device, &other.tag, &other.event)
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
    /// What the start did not see and the next one is to see; nothing until it is known whether there is any.
    unseen: Arc<Mutex<Option<Vec<Entry>>>>,
}

impl AlarmMemory {
    /// In this data directory.
    pub fn in_dir(data_dir: &Path) -> Self {
        Self { path: data_dir.join("alarms.json"), unseen: Arc::default() }
    }

    /// Reads it. Blocking.
    pub fn read(&self, plan: &Plan) -> Remembered {
        let content = whole::read(&self.path).unwrap_or_else(|error| {
            tracing::warn!(%error, "remembered alarms cannot be read");
            None
        });
        let Some(content) = content else { return Remembered::default() };
        *self.unseen.hold() = Some(Vec::new());
        sort(entries(&content), plan)
    }

    /// Before the first write: what the start did not see. An error where that can be neither read nor set aside.
    fn look_again(&self) -> io::Result<Vec<Entry>> {
        match whole::read(&self.path) {
            Ok(content) => Ok(content.map_or_else(Vec::new, |content| entries(&content))),
            Err(error) => {
                fs::rename(&self.path, self.path.with_extension("unread"))?;
                tracing::warn!(%error, "remembered alarms cannot be read and are set aside as alarms.unread");
                Ok(Vec::new())
            }
        }
    }

    /// Writes it. Blocking.
    pub fn write(&self, active: &Active, plan: &Plan) {
        if let Err(error) = self.try_write(active, plan) {
            tracing::warn!(%error, "active alarms cannot be remembered");
        }
    }

    fn try_write(&self, active: &Active, plan: &Plan) -> io::Result<()> {
        let mut known = self.unseen.hold();
        let mut unseen = known.clone().map_or_else(|| self.look_again(), Ok)?;
        let all = active.iter().flat_map(|(tag, levels)| levels.iter().map(|(level, record)| (*tag, *level, record)));
        let all = all.filter_map(|(tag, level, record)| {
            let tag = plan.tag(tag)?;
            let entry = Entry::of(plan.device(tag.device)?, tag, level);
            Some(Entry { record: String::from_utf8_lossy(record).into_owned(), ..entry })
        });
        let mut all: Vec<Entry> = all.collect();
        unseen.retain(|entry| !all.iter().any(|active| active.is_of(entry)));
        all.extend(unseen.iter().cloned());
        let bytes = serde_json::to_vec(&File { version: VERSION, active: all })?;
        whole::replace(&self.path, &bytes)?;
        *known = Some(unseen); // not before: where nothing can be written the directory may still have to come
        Ok(())
    }
}

/// What a file says; nothing if it is damaged.
fn entries(content: &[u8]) -> Vec<Entry> {
    match serde_json::from_slice::<File>(content) {
        Ok(file) if file.version == VERSION => return file.active,
        Ok(file) => tracing::warn!(version = file.version, "remembered alarms are of another version"),
        Err(error) => tracing::warn!(%error, "remembered alarms are damaged"),
    }
    Vec::new()
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

    fn watched(names: &[&str]) -> Plan {
        let tag = |name: &&str| {
            let address = Address { table: Table::Holding, start: 0, bit: None };
            let alarm = AlarmPlan { limits: vec![(Level::High, 1.0)], ..AlarmPlan::plain() };
            TagPlan { alarm: Some(Box::new(alarm)), ..TagPlan::plain(name, DeviceIx(0), address, DataType::Int16) }
        };
        let tags: Vec<TagPlan> = names.iter().map(tag).collect();
        let devices = vec![DevicePlan { tags: 0..tags.len(), ..DevicePlan::plain("tank", BusIx(0), 1) }];
        Plan { devices, tags, ..Plan::empty("gw") }
    }

    fn high(tags: &[u32]) -> Active {
        tags.iter().map(|tag| (TagIx(*tag), BTreeMap::from([(Level::High, Bytes::from("{}"))]))).collect()
    }

    #[test]
    fn alarms_that_the_start_could_not_read_are_not_overwritten_and_the_next_start_has_them() {
        let (home, plan) = (tempfile::TempDir::new().expect("a directory"), watched(&["a", "b", "c"]));
        let (dir, away) = (home.path().join("data"), home.path().join("away"));
        fs::create_dir(&dir).expect("made");
        AlarmMemory::in_dir(&dir).write(&high(&[0, 1]), &plan);
        for instead in [Some("no directory"), None] {
            fs::rename(&dir, &away).expect("away");
            if let Some(content) = instead {
                fs::write(&dir, content).expect("written");
            }
            let memory = AlarmMemory::in_dir(&dir);
            assert!(memory.read(&plan).active.is_empty());
            memory.write(&high(&[2]), &plan);
            if instead.is_some() {
                fs::remove_file(&dir).expect("removed");
            }
            fs::rename(&away, &dir).expect("back");
            memory.write(&high(&[1, 2]), &plan);
            assert_eq!(AlarmMemory::in_dir(&dir).read(&plan).active, high(&[0, 1, 2]));
            memory.write(&high(&[2]), &plan);
            assert_eq!(AlarmMemory::in_dir(&dir).read(&plan).active, high(&[0, 2]), "b began here, and ended here");
            AlarmMemory::in_dir(&dir).write(&high(&[1]), &plan); // for the next round
        }
    }

    #[test]
    fn a_file_of_alarms_that_can_never_be_read_is_set_aside() {
        let (home, plan) = (tempfile::TempDir::new().expect("a directory"), watched(&["a"]));
        fs::create_dir(home.path().join("alarms.json")).expect("made"); // it cannot be read, whoever asks
        let memory = AlarmMemory::in_dir(home.path());
        assert!(memory.read(&plan).active.is_empty());
        memory.write(&high(&[0]), &plan);
        assert_eq!(memory.read(&plan).active, high(&[0]));
        assert!(home.path().join("alarms.unread").is_dir());
    }
}
