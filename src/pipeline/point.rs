//! All that happens to one tag's values after scale and limits: alarms, freshness, and what of them is kept.
//!
//! Fed by whoever owns the tag, a bus or the derived tags, with one value at a time; gathers into a [`Harvest`] what is to
//! be sent. Promises: alarms see every value, also those that a deadband or a swinging door keeps back; with a swinging
//! door the live lane gets every value and only the store the kept ones, with a deadband both get the same.

use std::time::Duration;

use super::alarm::Alarm;
use super::deadband::{Filter, Worth};
use super::door::{Door, Seen};
use crate::config::plan::{Freshness, TagPlan};
use crate::model::alarm::{Change, Level};
use crate::model::quality::{Cause, Quality};
use crate::model::sample::Sample;
use crate::model::tag::TagIx;
use crate::model::time::Stamp;
use crate::model::value::Value;

/// What came of some values of one device.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Harvest {
    /// Conditions that began or ended.
    pub alarms: Vec<Change>,
    /// For the store only, ahead of the rest: held values with their own times.
    pub earlier: Vec<Sample>,
    /// For both lanes.
    pub samples: Vec<Sample>,
    /// For the live lane only.
    pub live: Vec<Sample>,
}

/// The state of one tag.
#[derive(Debug, Clone)]
pub struct Point {
    tag: TagIx,
    keep: Keep,
    alarm: Option<Box<Alarm>>,
    /// There only where somebody wants to know; most tags have none, and there are thousands.
    watch: Option<Box<Watch>>,
    last: Option<Quality>,
}

/// How old a value is, and for how long it has been the same.
#[derive(Debug, Clone)]
struct Watch {
    freshness: Freshness,
    /// When the last usable value came, or when it was first asked for.
    fresh: Option<Stamp>,
    /// Since when the value is what it is.
    unchanged: Option<(Value, Stamp)>,
}

#[derive(Debug, Clone)]
enum Keep {
    Filter(Filter),
    Door(Box<Door>),
}

impl Point {
    /// For one tag of the plan.
    pub fn new(ix: TagIx, tag: &TagPlan) -> Self {
        // Due at the reading nearest to it: one that comes a hair early would put it off by a whole period.
        let due = |period: Duration| period.saturating_sub(tag.poll / 2);
        let keep = match tag.compression {
            Some(mut plan) => {
                plan.max_gap = due(plan.max_gap);
                Keep::Door(Box::new(Door::new(plan)))
            }
            None => Keep::Filter(Filter::new(tag.deadband, tag.heartbeat.map(due))),
        };
        Self {
            tag: ix,
            keep,
            alarm: tag.alarm.as_ref().map(|alarm| Box::new(Alarm::new(ix, alarm).met_by(tag))),
            watch: Watch::new(tag.freshness).map(Box::new),
            last: None,
        }
    }

    /// An alarm that was active before a restart.
    pub fn resume(&mut self, level: Level) {
        if let Some(alarm) = &mut self.alarm {
            alarm.resume(level);
        }
    }

    /// Takes a value after scale and limits.
    pub fn offer(&mut self, value: Option<Value>, quality: Quality, at: Stamp, into: &mut Harvest) {
        let quality = self.doubt(value.as_ref(), quality, at);
        if let Some(alarm) = &mut self.alarm {
            alarm.offer(value.as_ref(), quality, at, &mut into.alarms);
        }
        let tag = self.tag;
        match &mut self.keep {
            Keep::Filter(filter) => {
                if filter.offer(value.as_ref(), quality, at) == Worth::Sample {
                    into.samples.push(Sample { tag, value, quality, at });
                }
            }
            Keep::Door(door) => {
                let verdict = door.offer(value.as_ref(), quality, at);
                into.earlier.extend(verdict.earlier.map(|seen| held(tag, seen)));
                let sample = Sample { tag, value, quality, at };
                match verdict.now {
                    Worth::Sample => into.samples.push(sample),
                    Worth::Nothing if is_bad(quality) => {}
                    Worth::Nothing => into.live.push(sample),
                }
            }
        }
    }

    /// Looks whether the tag has been silent for too long.
    pub fn look(&mut self, at: Stamp, into: &mut Harvest) {
        let Some(watch) = &mut self.watch else { return };
        let Some(stale_after) = watch.freshness.stale_after else { return };
        let fresh = *watch.fresh.get_or_insert(at);
        // What is bad already has a better reason; what is stale goes on being told as such.
        let explained = self.last.is_some_and(|last| is_bad(last) && last != Quality::Bad(Cause::Stale));
        if at.since(fresh) >= stale_after && !explained {
            self.offer(None, Quality::Bad(Cause::Stale), at, into);
        }
    }

    /// When [`Point::tick`] has something to tell.
    pub fn due(&self) -> Option<Stamp> {
        self.alarm.as_ref().and_then(|alarm| alarm.due())
    }

    /// Lets time pass over the last value, for tags that are told only of changes. Alarms only: heartbeat, `unchanged_for` and
    /// `max_gap` are looked at when a value is offered, for it is offered with its own time.
    pub fn tick(&mut self, at: Stamp, into: &mut Harvest) {
        if let Some(alarm) = &mut self.alarm {
            alarm.tick(at, &mut into.alarms);
        }
    }

    /// Gives out what a swinging door holds: before a stop.
    pub fn flush(&mut self, into: &mut Harvest) {
        if let Keep::Door(door) = &mut self.keep {
            into.earlier.extend(door.flush().map(|seen| held(self.tag, seen)));
        }
    }
}

impl Point {
    /// A value that has not moved for too long is doubtful.
    fn doubt(&mut self, value: Option<&Value>, mut quality: Quality, at: Stamp) -> Quality {
        if let (Some(watch), Some(value)) = (&mut self.watch, value.filter(|_| !is_bad(quality))) {
            quality = watch.see(value, quality, at);
        }
        self.last = Some(quality);
        quality
    }
}

impl Watch {
    fn new(freshness: Freshness) -> Option<Self> {
        (freshness != Freshness::default()).then_some(Self { freshness, fresh: None, unchanged: None })
    }

    /// A usable value, and what is to be thought of it.
    fn see(&mut self, value: &Value, quality: Quality, at: Stamp) -> Quality {
        self.fresh = Some(at);
        let Some(longest) = self.freshness.unchanged_for else { return quality };
        match &self.unchanged {
            Some((last, since)) if last == value => {
                let doubtful = quality == Quality::Good && at.since(*since) >= longest;
                return if doubtful { Quality::Uncertain(Cause::Stale) } else { quality };
            }
            _ => self.unchanged = Some((value.clone(), at)),
        }
        quality
    }
}

const fn is_bad(quality: Quality) -> bool {
    matches!(quality, Quality::Bad(_))
}

fn held(tag: TagIx, Seen { value, quality, at }: Seen) -> Sample {
    Sample { tag, value: Some(value), quality, at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{AlarmPlan, Compression};
    use crate::model::tag::{Address, DataType, DeviceIx, Table};
    use crate::model::time::Boot;

    fn tag() -> TagPlan {
        let address = Address { table: Table::Holding, start: 0, bit: None };
        TagPlan::plain("level", DeviceIx(0), address, DataType::Float32)
    }

    fn at(second: i64) -> Stamp {
        Stamp { boot: Boot(1), micros: second * 1_000_000 }
    }

    fn offer(point: &mut Point, value: f64, second: i64) -> Harvest {
        let mut harvest = Harvest::default();
        point.offer(Some(Value::Float(value)), Quality::Good, at(second), &mut harvest);
        harvest
    }

    fn look(point: &mut Point, second: i64) -> Vec<Quality> {
        let mut harvest = Harvest::default();
        point.look(at(second), &mut harvest);
        harvest.samples.iter().map(|sample| sample.quality).collect()
    }

    #[test]
    fn an_alarm_sees_what_the_deadband_keeps_back() {
        let alarm = Some(Box::new(AlarmPlan { limits: vec![(Level::High, 10.05)], ..AlarmPlan::plain() }));
        let mut point = Point::new(TagIx(0), &TagPlan { deadband: Some(1.0), alarm, ..tag() });
        assert_eq!(offer(&mut point, 10.0, 0).samples.len(), 1);
        let harvest = offer(&mut point, 10.1, 1);
        assert_eq!((harvest.samples.len(), harvest.alarms.len()), (0, 1));
    }

    #[test]
    fn a_float_that_was_set_to_the_limit_of_its_alarm_is_an_alarm_and_the_limit_is_told_as_it_was_written() {
        for (level, limit) in [(Level::High, 0.7), (Level::Low, 10.1)] {
            let alarm = Some(Box::new(AlarmPlan { limits: vec![(level, limit)], ..AlarmPlan::plain() }));
            let mut point = Point::new(TagIx(0), &TagPlan { alarm, ..tag() });
            #[expect(clippy::cast_possible_truncation, reason = "as the device holds it")]
            let held = f64::from(limit as f32);
            let harvest = offer(&mut point, held, 0);
            let told: Vec<_> = harvest.alarms.iter().map(|change| (change.level, change.limit.clone())).collect();
            assert_eq!(told, [(level, Value::Float(limit))]);
        }
    }

    #[test]
    fn with_a_swinging_door_the_live_lane_has_every_value_and_the_store_the_corners() {
        let compression = Some(Compression { swing: 0.1, max_gap: Duration::from_secs(60) });
        let mut point = Point::new(TagIx(0), &TagPlan { compression, ..tag() });
        assert_eq!(offer(&mut point, 0.0, 0).samples.len(), 1);
        for second in 1..5 {
            let harvest = offer(&mut point, 0.0, second);
            assert_eq!((harvest.live.len(), harvest.samples.len(), harvest.earlier.len()), (1, 0, 0));
        }
        let harvest = offer(&mut point, 7.0, 5);
        assert_eq!((harvest.live.len(), harvest.samples.len()), (1, 0));
        assert_eq!(harvest.earlier.iter().map(|sample| sample.at).collect::<Vec<_>>(), [at(4)]);
        let mut last = Harvest::default();
        point.flush(&mut last);
        assert_eq!(last.earlier.iter().map(|sample| sample.at).collect::<Vec<_>>(), [at(5)]);
    }

    #[test]
    fn a_tag_that_falls_silent_is_stale_once_and_one_that_is_bad_keeps_its_own_cause() {
        let stale = Quality::Bad(Cause::Stale);
        let freshness = Freshness { stale_after: Some(Duration::from_secs(10)), unchanged_for: None };
        let mut point = Point::new(TagIx(0), &TagPlan { freshness, ..tag() });
        assert_eq!(look(&mut point, 0), [], "nothing came yet: it has its time");
        assert_eq!(look(&mut point, 10), [stale]);
        offer(&mut point, 1.0, 11);
        assert_eq!(look(&mut point, 20), []);
        assert_eq!(look(&mut point, 21), [stale]);
        assert_eq!(look(&mut point, 22), [], "once");
        assert_eq!(offer(&mut point, 1.0, 23).samples.len(), 1);
        point.offer(None, Quality::Bad(Cause::Timeout), at(24), &mut Harvest::default());
        assert_eq!(look(&mut point, 60), [], "timeout says more");
    }

    #[test]
    fn a_value_that_never_moves_is_doubtful_until_it_does() {
        let freshness = Freshness { stale_after: None, unchanged_for: Some(Duration::from_secs(10)) };
        let mut point = Point::new(TagIx(0), &TagPlan { freshness, ..tag() });
        let qualities: Vec<_> = [(1.0, 0), (1.0, 9), (1.0, 10), (1.1, 11)]
            .map(|(value, second)| offer(&mut point, value, second).samples[0].quality)
            .into();
        let good = Quality::Good;
        assert_eq!(qualities, [good, good, Quality::Uncertain(Cause::Stale), good]);
    }
}
