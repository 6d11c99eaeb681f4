//! The buses and the derived tags, each a part that is begun and ended on its own, at the start and at a reload. None waits
//! for another one but for whom it comes after: on the same line, at the same address, or with a device that moves to it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::config::difference::{Changes, How, Part, kept};
use crate::config::plan::{BusPlan, Carrier, DevicePlan, Plan};
use crate::field::can_follow;
use crate::flow::latest::Latest;
use crate::flow::stop::Stop;
use crate::model::quality::{Cause, Quality};
use crate::model::sample::Sample;
use crate::model::tag::{BusIx, DeviceIx};
use crate::pipeline::derive::Derive;

use super::derived;
use super::means::{Means, Teller};
use super::roster::BusSlot;
use super::supervisor::{WatchedBus, report};

/// Buses that devices leave finish their transactions within this, as a rule: several answers are waited for.
const PARTED_WITHIN: Duration = Duration::from_secs(30);

/// All that polls.
#[derive(Default)]
pub(super) struct Buses {
    parts: HashMap<String, BusPart>,
    derived: Option<DerivedPart>,
}

struct BusPart {
    stop: Stop,
    slot: BusSlot,
    /// The plan that it goes by.
    followed: watch::Receiver<Option<Arc<Plan>>>,
    task: JoinHandle<()>,
}

struct DerivedPart {
    stop: Stop,
    /// One life after the other empties it.
    tap: Arc<Latest>,
    task: JoinHandle<Derive>,
}

/// The derived tags of a plan, who know what those before them knew; not yet begun.
pub(super) struct NextDerived {
    derive: Derive,
    tap: Arc<Latest>,
}

impl Buses {
    /// Begins all of a plan.
    pub async fn begin(&mut self, means: &Means, plan: &Arc<Plan>) {
        // Before the first bus, so that it hears everything.
        if let Some(derived) = self.leave_derived(means, (plan, plan)).await {
            self.begin_derived(means, plan, derived);
        }
        for (ix, _) in plan.numbered_buses().filter(|(_, bus)| !bus.name.is_empty()) {
            self.begin_one(means, plan, ix);
        }
        self.show(means, plan);
    }

    /// Ends and begins what is touched; nobody else notices. `old` and `new` in one arrangement. Each bus begins when what it
    /// comes after has ended, however long others take.
    ///
    /// A device that moves is on no bus for a moment: where it was, what is on its way comes first, then it is asked anew.
    pub async fn change(
        &mut self,
        means: &Means,
        (old, new): (&Plan, &Arc<Plan>),
        changes: &Changes,
        derived: Option<NextDerived>,
    ) {
        if let Some(derived) = derived {
            self.begin_derived(means, new, derived);
        }
        let moving = moving(old, new);
        let between = (!moving.is_empty()).then(|| Arc::new(without(new, &moving)));
        let first = between.as_ref().unwrap_or(new);
        means.plans.send_replace(Arc::clone(first)); // heard by those that go on with other devices
        let touched = touched(old, new, changes);
        let mut ending = self.end(&touched);
        let joined: BTreeSet<BusIx> = moving.iter().filter_map(|ix| new.device(*ix)?.bus).collect();
        let begins = new.numbered_buses().filter(|(_, bus)| touched.contains(&bus.name));
        let mut waiting: Vec<_> = begins.map(|(ix, bus)| (ix, before(old, bus, &touched))).collect();
        loop {
            waiting.retain(|(ix, before)| {
                let follows = can_follow(new, *ix);
                let ready = before.is_empty() && (follows || !joined.contains(ix));
                if ready {
                    self.begin_one(means, if follows { first } else { new }, *ix);
                }
                !ready
            });
            let Some(ended) = ending.join_next().await else { break };
            let ended = ended.unwrap_or_default(); // nobody aborts them
            means.over(Teller::Bus, &ended);
            for (_, before) in &mut waiting {
                before.remove(ended.as_str());
            }
        }
        if let Some(between) = &between {
            self.parted(old, &moving, (between, &touched)).await;
            means.plans.send_replace(Arc::clone(new));
        }
        for (ix, _) in waiting {
            self.begin_one(means, new, ix);
        }
        self.show(means, new);
    }

    /// Ends these, all at once: each finishes its transaction. Given back are their names, as they end.
    fn end(&mut self, names: &BTreeSet<String>) -> JoinSet<String> {
        let mut ending = JoinSet::new();
        for (name, part) in names.iter().filter_map(|name| self.parts.remove_entry(name)) {
            part.stop.begin();
            ending.spawn(async move {
                report(part.task.await, "a bus");
                name
            });
        }
        ending
    }

    /// Resolves when all have heard the stop and ended.
    pub async fn ended(mut self) {
        for (_, part) in self.parts.drain() {
            report(part.task.await, "a bus");
        }
        if let Some(part) = self.derived.take() {
            report(part.task.await, "the derived tags");
        }
    }

    fn begin_one(&mut self, means: &Means, plan: &Arc<Plan>, ix: BusIx) {
        let (stop, name) = (means.stop.child(), plan[ix].name.as_str());
        let parts = means.of_bus(plan, stop.clone());
        let followed = parts.plans.followed();
        let (watched, slot) = WatchedBus::new(parts, ix);
        let task = tokio::spawn(means.crew(&stop).keep("bus", name, watched.run()));
        let mut slots = means.slots.load().to_vec();
        slots.resize(slots.len().max(plan.buses.len()), None);
        slots[ix.0 as usize] = Some(Arc::clone(&slot)); // others may take long to end, and this one takes commands
        means.slots.store(Arc::new(slots));
        self.parts.insert(name.to_owned(), BusPart { stop, slot, followed, task });
    }

    /// Resolves when the buses that go on, and are not touched, have nothing to do with these devices any more.
    async fn parted(&mut self, old: &Plan, moving: &[DeviceIx], (between, touched): (&Arc<Plan>, &BTreeSet<String>)) {
        let until = Instant::now() + PARTED_WITHIN; // for all of them together
        let left = moving.iter().filter_map(|ix| old.bus(old.device(*ix)?.bus?));
        for name in left.map(|bus| &bus.name).filter(|name| !touched.contains(*name)).collect::<BTreeSet<_>>() {
            let Some(part) = self.parts.get_mut(name) else { continue };
            let follows = |plan: &Option<Arc<Plan>>| plan.as_ref().is_some_and(|plan| Arc::ptr_eq(plan, between));
            if timeout_at(until, part.followed.wait_for(follows)).await.is_err() {
                tracing::warn!(bus = name, "a bus takes long to let go of a device that is on another one now");
            }
        }
    }

    /// Shows the router where each bus is reached.
    fn show(&self, means: &Means, plan: &Plan) {
        let slot = |name: &String| self.parts.get(name).map(|part| Arc::clone(&part.slot));
        means.slots.store(Arc::new(plan.buses.iter().map(|bus| slot(&bus.name)).collect()));
    }

    /// Exchanges derived tags that are touched: see [`Self::leave_derived`]. From here on nobody shows a value of one that
    /// means something else now.
    pub async fn change_derived(
        &mut self,
        means: &Means,
        (old, new): (&Plan, &Arc<Plan>),
        changes: &Changes,
    ) -> Option<NextDerived> {
        if !changes.any(Part::Derived) {
            return None;
        }
        let next = self.leave_derived(means, (old, new)).await;
        let (kept, at) = (kept(old, new), means.clock.now());
        let anew = next.iter().flat_map(|next| next.derive.tags()).filter(|(_, tag)| !kept.contains(tag));
        let starting = |(_, tag)| Sample { tag, value: None, quality: Quality::Bad(Cause::Starting), at };
        means.hub.show(&anew.map(starting).collect::<Vec<_>>());
        next
    }

    /// Ends the derived tags; those of the new plan are to come after them, and what these know goes on. Whoever of the two
    /// takes what comes in between: it is in what they know.
    async fn leave_derived(&mut self, means: &Means, (old, new): (&Plan, &Plan)) -> Option<NextDerived> {
        let next = Derive::new(new);
        let before = self.derived.take();
        let tap = before.as_ref().map_or_else(Arc::default, |before| Arc::clone(&before.tap));
        match &next {
            Some(next) => means.hub.tap(&next.wanted(), &tap),
            None => means.hub.untap(),
        }
        let known = match before {
            Some(DerivedPart { stop, task, .. }) => {
                stop.begin();
                task.await.ok()
            }
            None => None,
        };
        let mut derive = next?;
        if let Some(known) = known {
            derive.knowing(known, (old, new));
        }
        Some(NextDerived { derive, tap })
    }

    fn begin_derived(&mut self, means: &Means, plan: &Arc<Plan>, NextDerived { derive, tap }: NextDerived) {
        let stop = means.stop.child();
        let watched = derived::watch(means.of_bus(plan, stop.clone()), derive, Arc::clone(&tap));
        let task = tokio::spawn(means.crew(&stop).keep("derived", "", watched));
        self.derived = Some(DerivedPart { stop, tap, task });
    }
}

/// The names of the buses that end or begin, in either plan: those that are not what they were, and those that cannot go
/// on with other devices.
fn touched(old: &Plan, new: &Plan, changes: &Changes) -> BTreeSet<String> {
    let goes_on = |name: &String| {
        let place = new.buses.iter().position(|bus| bus.name == *name).and_then(|place| u32::try_from(place).ok());
        changes.of(Part::Bus, name).is_none() && place.is_some_and(|place| can_follow(new, BusIx(place)))
    };
    let mut touched = BTreeSet::new();
    for change in &changes.touched {
        match change.part {
            Part::Bus => _ = touched.insert(change.name.clone()),
            Part::Device => {
                let in_old = (change.how != How::Added).then(|| bus_of(old, &change.name)).flatten();
                let in_new = (change.how != How::Removed).then(|| bus_of(new, &change.name)).flatten();
                touched.extend(in_old.into_iter().chain(in_new).filter(|name| !goes_on(name)));
            }
            _ => {}
        }
    }
    touched
}

/// The touched buses of the old plan that a bus comes after: an earlier one of its name, and who has its line or its address;
/// two at a time would disturb each other there, or only one is let in.
fn before<'a>(old: &'a Plan, bus: &BusPlan, touched: &BTreeSet<String>) -> BTreeSet<&'a str> {
    let earlier = old.buses.iter().filter(|earlier| touched.contains(&earlier.name));
    let meets = |earlier: &&BusPlan| earlier.name == bus.name || meet(&earlier.link.carrier, &bus.link.carrier);
    earlier.filter(meets).map(|earlier| earlier.name.as_str()).collect()
}

fn meet(one: &Carrier, other: &Carrier) -> bool {
    match (one, other) {
        (Carrier::Serial(one), Carrier::Serial(other)) => one.port == other.port,
        (Carrier::Listen { listen: one, .. }, Carrier::Listen { listen: other, .. }) => one.port() == other.port(),
        _ => endpoint(one).is_some() && endpoint(one) == endpoint(other),
    }
}

fn endpoint(carrier: &Carrier) -> Option<&str> {
    match carrier {
        Carrier::Tcp { endpoint } | Carrier::Udp { endpoint } => Some(endpoint),
        Carrier::Tls(tls) => Some(&tls.endpoint),
        Carrier::Listen { .. } | Carrier::Serial(_) => None,
    }
}

/// The devices that are on a bus before and after, but not on the same one.
fn moving(old: &Plan, new: &Plan) -> Vec<DeviceIx> {
    let places = (0..).map(DeviceIx).zip(old.devices.iter().zip(&new.devices));
    let moves = |(_, (before, after)): &(DeviceIx, (&DevicePlan, &DevicePlan))| {
        let live = !before.is_hole() && !after.is_hole();
        live && before.bus.is_some() && after.bus.is_some() && before.bus != after.bus
    };
    places.filter(moves).map(|(ix, _)| ix).collect()
}

/// The same plan, but nobody asks these devices.
fn without(plan: &Plan, devices: &[DeviceIx]) -> Plan {
    let mut plan = plan.clone();
    for (_, device) in (0..).map(DeviceIx).zip(&mut plan.devices).filter(|(ix, _)| devices.contains(ix)) {
        device.bus = None;
    }
    plan
}

/// The bus of a device, by name.
fn bus_of(plan: &Plan, device: &str) -> Option<String> {
    let device = plan.devices.iter().find(|known| known.name == device)?;
    plan.bus(device.bus?).map(|bus| bus.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{BusLink, Parity, SerialPlan};

    #[test]
    fn a_bus_comes_after_who_has_its_name_its_line_or_its_address_and_after_nobody_else() {
        let line = |baud| SerialPlan { baud, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        let rtu = |name: &str, port: &str, baud| BusPlan::plain(name, BusLink::rtu(port, line(baud)));
        let tcp = |name: &str, endpoint: &str| BusPlan::plain(name, BusLink::tcp(endpoint));
        let buses =
            vec![rtu("a", "/dev/ttyS0", 9600), rtu("b", "/dev/ttyS1", 9600), tcp("c", "x:502"), tcp("d", "x:502")];
        let old = Plan { buses, ..Plan::empty("gw") };
        let touched = ["a", "b", "c", "e", "f"].map(str::to_owned).into();
        let names = |bus: &BusPlan| before(&old, bus, &touched).into_iter().collect::<Vec<_>>();
        assert_eq!(names(&rtu("a", "/dev/ttyS1", 19200)), ["a", "b"], "they change places");
        assert_eq!(names(&rtu("e", "/dev/ttyS0", 19200)), ["a"], "it has another name now");
        assert_eq!(names(&tcp("f", "x:502")), ["c"], "but `d` goes on");
        assert!(names(&tcp("f", "x:503")).is_empty());
    }
}
