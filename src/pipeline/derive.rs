//! Derived tags: values that are worked out from the values of other tags.
//!
//! Fed with every sample of the tags that are named in expressions, newest wins, and with the time; gives what a bus would
//! give for tags it has read. Promises: tags that depend on each other are worked out in one go, each after what it
//! needs; one with `every` is worked out at its period and has that moment as its time, any other one when something it
//! needs has news, with the time of the newest value it needs; nothing is worked out before every tag it needs was
//! heard of once, so that a start does not show as a fault; at that moment a period begins, for it may be a day long.
//! Heartbeats and values that do not move are seen when a tag is worked out: `check` warns where that may be too late.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::limits;
use super::point::{Harvest, Point};
use super::scale::Scaling;
use crate::config::difference::kept;
use crate::config::expression::{Formula, Term};
use crate::config::plan::{Limits, Plan, Source};
use crate::model::alarm::Level;
use crate::model::quality::{Cause, Quality};
use crate::model::sample::Sample;
use crate::model::tag::{DataType, DeviceIx, TagIx};
use crate::model::time::Stamp;
use crate::model::value::Value;

/// Tags that may fall silent are looked at this often, or four times in their `stale_after`.
const LOOK: Duration = Duration::from_secs(10);

/// All derived tags of a plan.
#[derive(Debug, Clone)]
pub struct Derive {
    /// Each behind the ones it needs.
    tags: Vec<One>,
    known: HashMap<TagIx, Known>,
    look_every: Option<Duration>,
}

#[derive(Debug, Clone)]
struct One {
    tag: TagIx,
    device: DeviceIx,
    formula: Formula,
    inputs: Vec<TagIx>,
    data_type: DataType,
    scaling: Scaling,
    limits: Limits,
    every: Option<Duration>,
    /// With `every`: when it is due next. Before the first time: as soon as everything it needs is known.
    due: Option<Stamp>,
    worked: bool,
    point: Point,
}

#[derive(Debug, Clone)]
struct Known {
    term: Term,
    at: Stamp,
    fresh: bool,
}

impl Derive {
    /// The derived tags of a plan; `None` where it has none.
    pub fn new(plan: &Plan) -> Option<Self> {
        let tags: Vec<One> = order(plan).into_iter().filter_map(|ix| One::new(plan, ix)).collect();
        let stale = tags.iter().filter_map(|one| plan[one.tag].freshness.stale_after).min();
        let look_every = stale.map(|shortest| LOOK.min(shortest / 4));
        (!tags.is_empty()).then(|| Self { tags, known: HashMap::new(), look_every })
    }

    /// The tags whose samples it wants to hear of: not its own.
    pub fn wanted(&self) -> Vec<TagIx> {
        let own = |ix: &TagIx| self.tags.iter().any(|one| one.tag == *ix);
        let mut wanted: Vec<TagIx> = self.tags.iter().flat_map(|one| one.inputs.iter().copied()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|ix| !own(ix));
        wanted
    }

    /// Goes on from what was known under another plan, in one arrangement with this one: tags that change seldom are not
    /// waited for. What means something else is not known; what does not may be at another place, for a neighbour's sake.
    pub fn knowing(&mut self, earlier: Self, (old, new): (&Plan, &Plan)) {
        let topic = |plan: &Plan, ix: TagIx| plan.tag(ix).map(|tag| Arc::clone(&tag.topic));
        let kept = kept(old, new);
        let wanted = self.wanted().into_iter().filter(|ix| kept.contains(ix));
        let places: HashMap<Arc<str>, TagIx> = wanted.filter_map(|ix| Some((topic(new, ix)?, ix))).collect();
        let place = |before: TagIx| places.get(&topic(old, before)?).copied();
        let known = earlier.known.into_iter().filter_map(|(before, known)| Some((place(before)?, known)));
        self.known.extend(known.map(|(tag, known)| (tag, Known { fresh: true, ..known })));
    }

    /// Its own tags, with their devices.
    pub fn tags(&self) -> impl Iterator<Item = (DeviceIx, TagIx)> {
        self.tags.iter().map(|one| (one.device, one.tag))
    }

    /// Alarms that are active already.
    pub fn resume(&mut self, active: &[(TagIx, Level)]) {
        for one in &mut self.tags {
            active.iter().filter(|(tag, _)| *tag == one.tag).for_each(|(_, level)| one.point.resume(*level));
        }
    }

    /// Takes a sample of a tag that is wanted.
    pub fn learn(&mut self, sample: &Sample) {
        let term = Term::of(sample.value.as_ref(), sample.quality);
        self.known.insert(sample.tag, Known { term, at: sample.at, fresh: true });
    }

    /// Works out what has news or is due.
    pub fn work(&mut self, now: Stamp) -> BTreeMap<DeviceIx, Harvest> {
        let mut harvests: BTreeMap<DeviceIx, Harvest> = BTreeMap::new();
        for one in &mut self.tags {
            let harvest = harvests.entry(one.device).or_default();
            if one.is_due(&self.known, now)
                && let Some((term, at)) = one.work(&self.known, now, harvest)
            {
                self.known.insert(one.tag, Known { term, at, fresh: true });
            }
            one.point.tick(now, harvest);
            one.point.look(now, harvest);
        }
        self.known.values_mut().for_each(|known| known.fresh = false);
        harvests.retain(|_, harvest| *harvest != Harvest::default());
        harvests
    }

    /// How long it can be left alone when nothing comes.
    pub fn idle(&self, now: Stamp) -> Option<Duration> {
        // Before its first time one waits for what it needs: that is news, and comes by itself.
        let first = |one: &One| one.is_ready(&self.known).then_some(now);
        let periods =
            self.tags.iter().filter(|one| one.every.is_some()).filter_map(|one| one.due.or_else(|| first(one)));
        let alarms = self.tags.iter().filter_map(|one| one.point.due());
        periods.chain(alarms).map(|due| due.since(now)).chain(self.look_every).min()
    }

    /// What swinging doors hold, before a stop.
    pub fn flush(&mut self) -> BTreeMap<DeviceIx, Harvest> {
        let mut harvests: BTreeMap<DeviceIx, Harvest> = BTreeMap::new();
        for one in &mut self.tags {
            one.point.flush(harvests.entry(one.device).or_default());
        }
        harvests.retain(|_, harvest| *harvest != Harvest::default());
        harvests
    }
}

impl One {
    fn new(plan: &Plan, tag: TagIx) -> Option<Self> {
        let found = plan.tag(tag)?;
        let Source::Derived(derivation) = &found.source else { return None };
        Some(Self {
            tag,
            device: found.device,
            formula: derivation.formula.clone(),
            inputs: derivation.inputs.clone(),
            data_type: found.data_type,
            scaling: Scaling::new(found.scale),
            limits: found.limits,
            every: derivation.every,
            due: None,
            worked: false,
            point: Point::new(tag, found),
        })
    }

    /// Is everything it needs known?
    fn is_ready(&self, known: &HashMap<TagIx, Known>) -> bool {
        self.inputs.iter().all(|ix| known.contains_key(ix))
    }

    fn is_due(&self, known: &HashMap<TagIx, Known>, now: Stamp) -> bool {
        match self.every {
            Some(_) => self.due.is_none_or(|due| now >= due),
            None if self.inputs.is_empty() => !self.worked,
            None => self.inputs.iter().any(|ix| known.get(ix).is_some_and(|known| known.fresh)),
        }
    }

    /// Works it out, if everything it needs is known.
    fn work(&mut self, known: &HashMap<TagIx, Known>, now: Stamp, into: &mut Harvest) -> Option<(Term, Stamp)> {
        let inputs: Option<Vec<&Known>> = self.inputs.iter().map(|ix| known.get(ix)).collect();
        let inputs = inputs?;
        if let Some(every) = self.every {
            // In step with itself, unless it was left alone for more than a period.
            let due = self.due.map_or(now, |due| due.after(every));
            self.due = Some(if due > now { due } else { now.after(every) });
        }
        self.worked = true;
        let newest = inputs.iter().map(|known| known.at).max();
        let at = if self.every.is_some() { now } else { newest.unwrap_or(now) };
        let terms: Vec<Term> = inputs.into_iter().map(|known| known.term.clone()).collect();
        let (value, quality) = self.judge(self.formula.value(&terms));
        let term = Term::of(value.as_ref(), quality);
        self.point.offer(value, quality, at, into);
        Some((term, at))
    }

    /// Type, scale and limits of the tag.
    fn judge(&self, term: Term) -> (Option<Value>, Quality) {
        let (value, quality) = term.into_value(self.data_type);
        let Some(value) = value else { return (None, quality) };
        let Some(value) = self.scaling.apply(value) else { return (None, Quality::Bad(Cause::Nan)) };
        match (quality, limits::judge(self.limits, &value)) {
            (Quality::Good, judged) => (Some(value), judged),
            (doubt, _) => (Some(value), doubt),
        }
    }
}

/// The derived tags of a plan, each behind those it needs (`check` has seen that there is no circle).
fn order(plan: &Plan) -> Vec<TagIx> {
    let inputs = |ix: TagIx| match plan.tag(ix).map(|tag| &tag.source) {
        Some(Source::Derived(derivation)) => Some(derivation.inputs.as_slice()),
        _ => None,
    };
    let mut placed = vec![false; plan.tags.len()];
    let mut order = Vec::new();
    for first in (0u32..).map(TagIx).take(plan.tags.len()) {
        // Each entry is entered twice: before what it needs, and behind it.
        let mut open = vec![(first, false)];
        while let Some((tag, ready)) = open.pop() {
            let Some(needs) = inputs(tag) else { continue };
            if ready {
                order.push(tag);
            } else if !std::mem::replace(&mut placed[tag.0 as usize], true) {
                open.push((tag, true));
                open.extend(needs.iter().map(|need| (*need, false)));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests;
