//! The live lane: one slot per tag and per device; what is newer replaces what was not yet taken.
//!
//! Fed by the hub, emptied by the one publisher. Bounded by the number of tags; what was replaced is counted.
//! The lock is held to move values in or out, never across an await, and nobody computes under it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::model::lock::Hold as _;
use crate::model::sample::Sample;
use crate::model::stats::Counter;
use crate::model::tag::{DeviceIx, TagIx};

use super::alarms::AlarmSlots;
use super::hub::{DeviceReport, Standing};

/// What the publisher takes out: the newest of everything that changed since it last looked.
#[derive(Debug, Default)]
pub struct Fresh {
    /// At most one per tag.
    pub samples: Vec<Sample>,
    /// At most one per device.
    pub devices: Vec<DeviceReport>,
}

/// The slots.
#[derive(Debug, Default)]
pub struct Latest {
    inner: Mutex<Inner>,
    changed: Notify,
    /// Samples replaced before the publisher took them.
    pub replaced: Counter,
    /// What began and ended; closed together with the samples.
    pub alarms: AlarmSlots,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: Fresh,
    /// By tag, what was put in last, taken or not.
    newest: Vec<Option<Sample>>,
    /// Per tag: its place in `waiting.samples`, or `NONE`.
    places: Vec<u32>,
    /// What was last heard of each device that has been heard of.
    reports: BTreeMap<DeviceIx, DeviceReport>,
    closed: bool,
}

const NONE: u32 = u32::MAX;

impl Latest {
    /// Puts samples in, newest wins.
    pub fn put(&self, samples: &[Sample]) {
        let mut replaced = 0;
        {
            let mut inner = self.inner.hold();
            let Inner { waiting, places, newest, .. } = &mut *inner;
            for sample in samples {
                let tag = sample.tag.0 as usize;
                if tag >= places.len() {
                    places.resize(tag + 1, NONE);
                    newest.resize(tag + 1, None);
                }
                newest[tag] = Some(sample.clone());
                if let Some(slot) = waiting.samples.get_mut(places[tag] as usize) {
                    *slot = sample.clone();
                    replaced += 1;
                } else {
                    places[tag] = u32::try_from(waiting.samples.len()).unwrap_or(NONE);
                    waiting.samples.push(sample.clone());
                }
            }
        }
        self.replaced.add(replaced);
        self.changed.notify_one();
    }

    /// Puts a device's state in, newest wins.
    pub fn put_device(&self, report: DeviceReport) {
        {
            let mut inner = self.inner.hold();
            inner.reports.insert(report.device, report.clone());
            let waiting = &mut inner.waiting.devices;
            let same = |slot: &&mut DeviceReport| slot.device == DeviceIx(report.device.0);
            match waiting.iter_mut().find(same) {
                Some(slot) => *slot = report,
                None => waiting.push(report),
            }
        }
        self.changed.notify_one();
    }

    /// See [`Hub::report_down`](super::hub::Hub::report_down).
    pub fn put_down(&self, device: DeviceIx) {
        let known = self.inner.hold().reports.get(&device).cloned();
        let report = known.unwrap_or_else(|| DeviceReport::unasked(device, Standing::Down));
        if report.standing != Standing::Paused {
            self.put_device(DeviceReport { standing: Standing::Down, ..report });
        }
    }

    /// The newest of these tags, whether it was taken or not; `None` where there was none yet.
    pub fn newest(&self, tags: impl Iterator<Item = TagIx>) -> Vec<Option<Sample>> {
        let inner = self.inner.hold();
        tags.map(|tag| inner.newest.get(tag.0 as usize).cloned().flatten()).collect()
    }

    /// What was last heard of each device, whether it was taken or not; in the order of the plan.
    pub fn reports(&self) -> Vec<DeviceReport> {
        self.inner.hold().reports.values().cloned().collect()
    }

    /// What was heard of these says nothing any more: they begin anew, or are gone.
    pub fn forget(&self, gone: impl Fn(DeviceIx) -> bool) {
        self.inner.hold().reports.retain(|device, _| !gone(*device));
    }

    /// No more will come; [`Latest::take`] returns `None` once all is taken.
    pub fn close(&self) {
        self.inner.hold().closed = true;
        self.changed.notify_one();
        self.alarms.close();
    }

    /// Waits for something new and takes all of it; `None` after [`Latest::close`]. One taker only. Cancel-safe.
    pub async fn take(&self) -> Option<Fresh> {
        loop {
            {
                let mut inner = self.inner.hold();
                if !inner.waiting.samples.is_empty() || !inner.waiting.devices.is_empty() {
                    let fresh = std::mem::take(&mut inner.waiting);
                    for sample in &fresh.samples {
                        inner.places[sample.tag.0 as usize] = NONE;
                    }
                    return Some(fresh);
                }
                if inner.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::quality::Quality;
    use crate::model::time::{Boot, Stamp};
    use crate::model::value::Value;

    fn sample(tag: u32, value: i64) -> Sample {
        let at = Stamp { boot: Boot(1), micros: value };
        Sample { tag: TagIx(tag), value: Some(Value::Int(value)), quality: Quality::Good, at }
    }

    #[tokio::test]
    async fn a_slow_taker_sees_the_newest_of_each_tag_and_every_replacement_is_counted() {
        let latest = Latest::default();
        latest.put(&[sample(5, 1), sample(0, 1)]);
        latest.put(&[sample(5, 2)]);
        let fresh = latest.take().await.expect("open");
        assert_eq!(fresh.samples, [sample(5, 2), sample(0, 1)]);
        assert_eq!(latest.replaced.get(), 1);
        let newest = latest.newest([TagIx(0), TagIx(5), TagIx(7)].into_iter());
        assert_eq!(newest, [Some(sample(0, 1)), Some(sample(5, 2)), None]);
        latest.put(&[sample(5, 3)]);
        latest.close();
        assert_eq!(latest.take().await.expect("rest").samples, [sample(5, 3)]);
        assert!(latest.take().await.is_none());
    }
}
