//! The buses and the derived tags, each a part that is begun and ended on its own, at the start and at a reload.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::config::difference::{Changes, How, Part};
use crate::config::plan::Plan;
use crate::field::can_follow;
use crate::flow::stop::Stop;
use crate::model::tag::BusIx;
use crate::pipeline::derive::Derive;

use super::derived;
use super::means::Means;
use super::router::BusSlot;
use super::running::report;
use super::supervisor::WatchedBus;

/// All that polls.
#[derive(Default)]
pub(super) struct Buses {
    parts: HashMap<String, BusPart>,
    derived: Option<DerivedPart>,
}

struct BusPart {
    stop: Stop,
    slot: BusSlot,
    task: JoinHandle<()>,
}

struct DerivedPart {
    stop: Stop,
    task: JoinHandle<Derive>,
}

impl Buses {
    /// Begins all of a plan.
    pub fn begin(&mut self, means: &Means, plan: &Arc<Plan>) {
        // Before the first bus, so that it hears everything.
        self.derive(means, plan, None);
        for (ix, bus) in plan.buses.iter().enumerate().filter(|(_, bus)| !bus.name.is_empty()) {
            self.begin_one(means, plan, ix, &bus.name);
        }
        self.show(means, plan);
    }

    /// Ends and begins what is touched; nobody else notices. `old` and `new` in one arrangement.
    pub async fn change(&mut self, means: &Means, (old, new): (&Plan, &Arc<Plan>), changes: &Changes) {
        if changes.any(Part::Derived) {
            let known = self.end_derived().await;
            self.derive(means, new, known);
        }
        means.plans.send_replace(Arc::clone(new)); // heard by those that go on with other devices
        let touched = touched(old, new, changes);
        let ended: Vec<_> = touched.iter().filter_map(|name| Some((name, self.parts.remove(name)?))).collect();
        for (_, part) in &ended {
            part.stop.begin(); // all of them at once: each finishes its transaction
        }
        for (name, part) in ended {
            report(part.task.await, "a bus");
            means.over(name);
        }
        for (ix, bus) in new.buses.iter().enumerate().filter(|(_, bus)| touched.contains(&bus.name)) {
            self.begin_one(means, new, ix, &bus.name);
        }
        self.show(means, new);
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

    fn begin_one(&mut self, means: &Means, plan: &Arc<Plan>, ix: usize, name: &str) {
        let stop = means.stop.child();
        let ix = BusIx(u32::try_from(ix).unwrap_or(u32::MAX));
        let (watched, slot) = WatchedBus::new(means.of_bus(plan, stop.clone()), ix);
        self.parts.insert(name.to_owned(), BusPart { stop, slot, task: tokio::spawn(watched.run()) });
    }

    /// Shows the router where each bus is reached.
    fn show(&self, means: &Means, plan: &Plan) {
        let slot = |name: &String| self.parts.get(name).map(|part| Arc::clone(&part.slot));
        means.slots.store(Arc::new(plan.buses.iter().map(|bus| slot(&bus.name)).collect()));
    }

    fn derive(&mut self, means: &Means, plan: &Arc<Plan>, known: Option<Derive>) {
        let Some(mut derive) = Derive::new(plan) else { return };
        if let Some(known) = known {
            derive.knowing(known);
        }
        let tap = means.hub.tap(&derive.wanted());
        let stop = means.stop.child();
        let task = tokio::spawn(derived::watch(means.of_bus(plan, stop.clone()), derive, tap));
        self.derived = Some(DerivedPart { stop, task });
    }

    async fn end_derived(&mut self) -> Option<Derive> {
        let part = self.derived.take()?;
        part.stop.begin();
        part.task.await.ok()
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

/// The bus of a device, by name.
fn bus_of(plan: &Plan, device: &str) -> Option<String> {
    let device = plan.devices.iter().find(|known| known.name == device)?;
    plan.buses.get(device.bus?.0 as usize).map(|bus| bus.name.clone())
}
