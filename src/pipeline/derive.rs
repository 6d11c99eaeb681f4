//! Derived tags: values that are worked out from the values of other tags.
//!
//! Fed with every sample of the tags that are named in expressions, newest wins, and with the time; gives what a bus would
//! give for tags it has read. Promises: tags that depend on each other are worked out in one go, each after what it
//! needs; one with `every` is worked out at its period and has that moment as its time, any other one when something it
//! needs has news, with the time of the newest value it needs; nothing is worked out before every tag it needs was
//! heard of once, so that a start does not show as a fault.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::limits;
use super::point::{Harvest, Point};
use super::scale::Scaling;
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
    /// With `every`: when it is due next. Before the first time: at once.
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
        let stale = tags.iter().filter_map(|one| plan.tags[one.tag.0 as usize].freshness.stale_after).min();
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
    /// waited for. What means something else is at another place, and so is not known.
    pub fn knowing(&mut self, earlier: Self) {
        let wanted = self.wanted();
        let known = earlier.known.into_iter().filter(|(tag, _)| wanted.contains(tag));
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
        let periods = self.tags.iter().filter(|one| one.every.is_some()).map(|one| one.due.unwrap_or(now));
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
        let found = plan.tags.get(tag.0 as usize)?;
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

    fn is_due(&self, known: &HashMap<TagIx, Known>, now: Stamp) -> bool {
        match self.every {
            Some(_) => self.due.is_none_or(|due| now >= due),
            None if self.inputs.is_empty() => !self.worked,
            None => self.inputs.iter().any(|ix| known.get(ix).is_some_and(|known| known.fresh)),
        }
    }

    /// Works it out, if everything it needs is known.
    fn work(&mut self, known: &HashMap<TagIx, Known>, now: Stamp, into: &mut Harvest) -> Option<(Term, Stamp)> {
        if let Some(every) = self.every {
            // In step with itself, unless it was left alone for more than a period.
            let due = self.due.map_or(now, |due| due.after(every));
            self.due = Some(if due > now { due } else { now.after(every) });
        }
        let inputs: Option<Vec<&Known>> = self.inputs.iter().map(|ix| known.get(ix)).collect();
        let inputs = inputs?;
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
    let inputs = |ix: TagIx| match plan.tags.get(ix.0 as usize).map(|tag| &tag.source) {
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
mod tests {
    use super::*;
    use crate::config::difference::arranged;
    use crate::config::plan::AlarmPlan;
    use crate::config::{self, HostFacts};
    use crate::model::time::Boot;

    const PLANT: &str = r#"
        [[bus]]
        name = "net"
        type = "modbus-tcp"
        endpoint = "127.0.0.1:1"
        [[device]]
        name = "pump-1"
        bus = "net"
        unit_id = 1
        [[device.tag]]
        name = "flow"
        address = "input:0"
        type = "float32"
        [[device.tag]]
        name = "litres"
        expression = "{flow} * 1000"
        max = 5000.0
        [[device.tag]]
        name = "count"
        address = "input:2"
        type = "uint64"
        [[device]]
        name = "station"
        [[device.tag]]
        name = "twice"
        expression = "{once} * 2"
        [[device.tag]]
        name = "once"
        expression = "{pump-1/flow} + {pump-1/litres}"
        [[device.tag]]
        name = "next"
        expression = "{pump-1/count} + 1"
        type = "uint64"
        [[device.tag]]
        name = "slow"
        expression = "{pump-1/flow}"
        poll = "10s"
    "#;

    fn plan() -> Plan {
        parsed(PLANT)
    }

    fn parsed(text: &str) -> Plan {
        let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
        config::parse(text, std::path::Path::new("plant.toml"), &facts).expect("checks").plan
    }

    fn at(second: i64) -> Stamp {
        Stamp { boot: Boot(1), micros: second * 1_000_000 }
    }

    fn sample(tag: u32, value: Value, second: i64) -> Sample {
        Sample { tag: TagIx(tag), value: Some(value), quality: Quality::Good, at: at(second) }
    }

    /// What came out, as (name, value or cause, second).
    fn told(plan: &Plan, harvests: BTreeMap<DeviceIx, Harvest>) -> Vec<(String, String, i64)> {
        let samples = harvests.into_values().flat_map(|harvest| harvest.samples);
        let mut told: Vec<_> = samples
            .map(|Sample { tag, value, quality, at }| {
                let value = match (value, quality) {
                    (Some(value), Quality::Good) => value.to_string(),
                    (value, quality) => format!("{value:?} {quality:?}"),
                };
                (plan.tags[tag.0 as usize].name.clone(), value, at.micros / 1_000_000)
            })
            .collect();
        told.sort();
        told
    }

    #[test]
    fn tags_that_need_each_other_are_worked_out_in_one_go_with_the_time_of_the_newest() {
        let plan = plan();
        let mut derive = Derive::new(&plan).expect("there are some");
        assert_eq!(derive.wanted(), [TagIx(0), TagIx(2)]);
        assert_eq!(told(&plan, derive.work(at(0))), [], "nothing is known yet");
        derive.learn(&sample(0, Value::Float(2.0), 1));
        let text = |name: &str, value: &str, second| (name.to_owned(), value.to_owned(), second);
        let expected = [text("litres", "2000", 1), text("once", "2002", 1), text("twice", "4004", 1)];
        assert_eq!(told(&plan, derive.work(at(2))), expected);
        assert_eq!(told(&plan, derive.work(at(3))), [], "no news");
        derive.learn(&sample(2, Value::Uint(u64::MAX - 1), 4));
        assert_eq!(told(&plan, derive.work(at(4))), [text("next", &u64::MAX.to_string(), 4)], "exact");
        assert_eq!(told(&plan, derive.work(at(10))), [text("slow", "2", 10)], "at its own period");
        assert_eq!(derive.idle(at(12)), Some(Duration::from_secs(8)));
    }

    #[test]
    fn nothing_is_worked_out_from_what_was_read_under_another_scale_and_the_rest_goes_on() {
        let before = plan();
        let mut earlier = Derive::new(&before).expect("there are some");
        earlier.learn(&sample(0, Value::Float(5000.0), 1));
        earlier.learn(&sample(2, Value::Uint(7), 1));
        earlier.work(at(1));
        let scaled = PLANT.replacen("float32\"", "float32\"\nscale = 0.001", 1).replace("{flow} * 1000", "{flow}");
        let after = arranged(&before, parsed(&scaled));
        let mut derive = Derive::new(&after).expect("there are some");
        derive.knowing(earlier);
        assert_eq!(told(&after, derive.work(at(2))), []);
        derive.learn(&sample(0, Value::Float(5001.0), 2)); // it was on its way
        assert_eq!(told(&after, derive.work(at(3))), []);
        let flow = (0..).zip(&after.tags).find(|(_, tag)| tag.name == "flow").map(|(ix, _)| ix).expect("it is there");
        derive.learn(&sample(flow, Value::Float(5.0), 4));
        let litres = ("litres".to_owned(), "5".to_owned(), 4);
        assert!(told(&after, derive.work(at(4))).contains(&litres));

        let same = arranged(&before, parsed(&PLANT.replace("{flow} * 1000", "{flow}")));
        let mut derive = Derive::new(&same).expect("there are some");
        let mut earlier = Derive::new(&before).expect("there are some");
        earlier.learn(&sample(0, Value::Float(5000.0), 1));
        derive.knowing(earlier);
        assert!(told(&same, derive.work(at(2))).contains(&("litres".to_owned(), "5000".to_owned(), 1)), "at once");
    }

    #[test]
    fn an_alarm_with_a_delay_is_told_although_its_inputs_are_quiet() {
        let mut plan = plan();
        let limits = vec![(Level::High, 100.0)];
        plan.tags[1].alarm = Some(Box::new(AlarmPlan { limits, delay: Duration::from_secs(3), ..AlarmPlan::plain() }));
        plan.tags.truncate(3);
        let mut derive = Derive::new(&plan).expect("there is one");
        derive.learn(&sample(0, Value::Float(1.0), 1));
        derive.work(at(1));
        assert_eq!(derive.idle(at(2)), Some(Duration::from_secs(2)));
        let harvest = derive.work(at(4)).remove(&DeviceIx(0)).expect("an alarm");
        assert_eq!((harvest.alarms.len(), harvest.samples.len(), harvest.alarms[0].at), (1, 0, at(4)));
    }

    #[test]
    fn doubts_and_faults_go_through_with_their_cause() {
        let plan = plan();
        let mut derive = Derive::new(&plan).expect("there are some");
        derive.learn(&sample(0, Value::Float(6.0), 1));
        let doubt = format!("{:?}", Quality::Uncertain(Cause::Range));
        let found = told(&plan, derive.work(at(1)));
        assert!(found.iter().all(|(name, value, _)| name == "slow" || value.ends_with(&doubt)), "{found:?}");
        let lost = Sample { tag: TagIx(0), value: None, quality: Quality::Bad(Cause::Timeout), at: at(2) };
        derive.learn(&lost);
        let found = told(&plan, derive.work(at(2)));
        let fault = format!("None {:?}", lost.quality);
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|(_, value, second)| *value == fault && *second == 2), "{found:?}");
        derive.learn(&sample(2, Value::Uint(u64::MAX), 3));
        let range = format!("None {:?}", Quality::Bad(Cause::Range));
        assert_eq!(told(&plan, derive.work(at(3))), [("next".to_owned(), range, 3)], "one more does not fit");
    }
}
