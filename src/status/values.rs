//! The values of the tags as they are seen: the newest value and a short history of each, for the status page.
//!
//! Fed by the publisher of the live lane with what it has just published; read by the page's API. All histories together
//! have [`HISTORY_BYTES_MAX`], shared out evenly: 600 points for each of up to 550 tags, 28 for each of ten thousand, none
//! where not even four would fit. The lock is held to move values in or out, never across an await.
//!
//! Under another plan (`config::difference`) what is known of a tag stays where its values mean the same, also at another place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;

use super::history::{EMPTY_BYTES, History, POINT_BYTES};
use crate::config::difference::kept;
use crate::config::plan::{Plan, TagPlan};
use crate::flow::clock::Clock;
use crate::model::lock::Hold as _;
use crate::model::sample::Sample;
use crate::model::tag::TagIx;
use crate::model::time::Stamp;
use crate::model::value::Value;

/// For the histories of all tags.
pub const HISTORY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Of one tag: more points than a screen has columns for are of no use.
pub(super) const POINTS_MAX: usize = 600;

/// A point of a history: ms since 1970, and the value if there was one.
pub type Point = (i64, Option<f64>);

/// The newest of every tag.
pub struct Values {
    plan: ArcSwap<Plan>,
    clock: Clock,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// By `TagIx`.
    tags: Vec<Seen>,
    points: usize,
    /// Times of points count from here.
    begun: Option<Stamp>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    newest: Option<Sample>,
    history: History,
}

impl Values {
    /// Nothing seen yet.
    pub fn new(plan: Arc<Plan>, clock: Clock) -> Self {
        let count = plan.tags.len();
        let inner = Inner { tags: vec![Seen::default(); count], points: share(count), begun: None };
        Self { plan: ArcSwap::new(plan), clock, inner: Mutex::new(inner) }
    }

    /// The plan that it shows.
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    /// Shows another plan from now on; nothing is known of a tag that is another one than before, or means something else.
    pub fn show_plan(&self, plan: Arc<Plan>) {
        let before = self.plan.load_full();
        let kept = kept(&before, &plan);
        let places: HashMap<&str, usize> = before.tags.iter().map(|tag| &*tag.topic).zip(0..).collect();
        let points = share(plan.tags.len());
        let mut inner = self.inner();
        let mut known = std::mem::take(&mut inner.tags);
        let seen = |(ix, tag): (TagIx, &TagPlan)| {
            let place = places.get(&*tag.topic).filter(|_| kept.contains(&ix));
            let mut seen = place.and_then(|place| known.get_mut(*place)).map(std::mem::take).unwrap_or_default();
            seen.history.shrink(points);
            seen
        };
        (inner.tags, inner.points) = ((0u32..).map(TagIx).zip(&plan.tags).map(seen).collect(), points);
        self.plan.store(plan);
    }

    /// These are the newest.
    pub fn show(&self, samples: &[Sample]) {
        let plan = self.plan.load();
        let inner = &mut *self.inner();
        let has_values = |sample: &&Sample| plan.tag(sample.tag).is_some_and(TagPlan::has_values);
        for sample in samples.iter().filter(has_values) {
            let begun = *inner.begun.get_or_insert(sample.at);
            let Some(seen) = inner.tags.get_mut(sample.tag.0 as usize) else { continue };
            if !matches!(sample.value, Some(Value::Text(_))) {
                let value = sample.value.as_ref().and_then(Value::as_f64).unwrap_or(f64::NAN);
                let tenths = u32::try_from(sample.at.since(begun).as_millis() / 100).unwrap_or(u32::MAX);
                seen.history.push(tenths, value, inner.points);
            }
            seen.newest = Some(sample.clone());
        }
    }

    /// The newest of a tag, once there is one.
    pub fn newest(&self, tag: TagIx) -> Option<Sample> {
        self.inner().tags.get(tag.0 as usize)?.newest.clone()
    }

    /// The history of a tag, the oldest point first; the last `most` points.
    pub fn history(&self, tag: TagIx, most: usize) -> Vec<Point> {
        let (begun, points) = {
            let inner = self.inner();
            let (Some(begun), Some(seen)) = (inner.begun, inner.tags.get(tag.0 as usize)) else { return Vec::new() };
            let skipped = seen.history.len().saturating_sub(most);
            (begun, seen.history.points().skip(skipped).collect::<Vec<_>>())
        };
        let begun = self.clock.wall(begun).unix_ms;
        points.into_iter().map(|(tenths, value)| (begun + i64::from(tenths) * 100, value)).collect()
    }

    /// For times.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.hold()
    }
}

/// The points of each of so many tags.
fn share(tags: usize) -> usize {
    ((HISTORY_BYTES_MAX / tags.max(1)).saturating_sub(EMPTY_BYTES) / POINT_BYTES).min(POINTS_MAX)
}
