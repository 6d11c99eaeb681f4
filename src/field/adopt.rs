//! A bus goes on with other devices: what a reload changes behind a connection that stays. A part of [`super::lane`].
//!
//! Fed with the newest plan, which is arranged after the one before (`config::difference`): what is in both has the same
//! places. Promises: connection, schedule, standing, counts, deadbands and alarms of an untouched device are what they
//! were, so it is asked when it would have been asked; a touched or new one begins anew, at once. Looked at between two
//! transactions. A bus whose own keys have changed is none of this room's business: it ends, and another one begins. Nor
//! are buses with several connections, or of type `line`: they end and begin for a device, too.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use super::command::FieldCommand;
use super::devices::{Device, Poll, Roster, Seat};
use super::driver::Pace;
use super::lane::Lane;
use super::memory::Learned;
use super::schedule::PollIx;
use super::tags::Tags;
use crate::config::blocks::Block;
use crate::config::difference::is_kept;
use crate::config::plan::{Plan, TagPlan};
use crate::model::tag::{BusIx, DeviceIx, TagIx};

/// The newest plan, whenever there is one; the one that comes; and which one is followed, for who has to know.
#[derive(Debug, Clone)]
pub struct Plans {
    newest: watch::Receiver<Arc<Plan>>,
    coming: watch::Receiver<Arc<Plan>>,
    followed: watch::Sender<Option<Arc<Plan>>>,
}

impl Plans {
    /// Of one bus. Of a plan nothing is known before it is the newest: see [`Self::expecting`].
    pub fn new(newest: watch::Receiver<Arc<Plan>>) -> Self {
        Self { coming: newest.clone(), newest, followed: watch::Sender::new(None) }
    }

    /// Knows of a plan when it is decided: others follow it before it is the newest for a bus.
    #[must_use]
    pub fn expecting(self, coming: watch::Receiver<Arc<Plan>>) -> Self {
        Self { coming, ..self }
    }

    /// Does the plan that comes say something else of one of these tags than this one, or has it another place for it? Then
    /// an alarm that an answer on its way raises would never end. Their device begins anew, and is asked again at once.
    pub(super) fn overtake(&self, plan: &Arc<Plan>, tags: impl IntoIterator<Item = TagIx>) -> bool {
        let coming = self.coming.borrow();
        let same = |ix: TagIx| plan.tag(ix) == coming.tag(ix);
        !Arc::ptr_eq(plan, &coming) && !tags.into_iter().all(same)
    }

    /// Is what is read of this tag by this plan a value of it in the plan that comes, too? If not it would be good in a scale
    /// that holds no more. A tag that only has other neighbours has another place there, and is read on until then.
    pub(super) fn keep(&self, plan: &Arc<Plan>, tag: TagIx) -> bool {
        let coming = self.coming.borrow();
        Arc::ptr_eq(plan, &coming) || plan.tag(tag) == coming.tag(tag) || is_kept((plan, tag), &coming)
    }

    /// The newest.
    pub fn newest(&self) -> Arc<Plan> {
        Arc::clone(&self.newest.borrow())
    }

    /// The newest, and from now on only a newer one is [`Self::news`].
    pub fn taken(&mut self) -> Arc<Plan> {
        Arc::clone(&self.newest.borrow_and_update())
    }

    /// Of what came before this one nothing is on its way any more.
    pub fn follow(&self, plan: Arc<Plan>) {
        self.followed.send_replace(Some(plan));
    }

    /// Resolves when there is a newer plan. Cancel-safe.
    pub async fn news(&mut self) {
        if self.newest.changed().await.is_err() {
            return std::future::pending().await; // nobody will have another one
        }
        self.newest.mark_changed(); // it is taken over before the next transaction
    }

    /// The one that the bus has taken over: of what came before nothing is on its way any more. `None` until it has taken
    /// one over.
    pub fn followed(&self) -> watch::Receiver<Option<Arc<Plan>>> {
        self.followed.subscribe()
    }
}

/// Can this bus go on with other devices?
pub fn can_follow(plan: &Plan, bus: BusIx) -> bool {
    plan.bus(bus).is_some_and(|bus| bus.line.is_none() && bus.habits.max_connections <= 1)
}

/// Resolves when there is a newer plan. Cancel-safe.
pub(super) async fn news(plans: Option<&mut Plans>) {
    match plans {
        Some(plans) => plans.news().await,
        None => std::future::pending().await,
    }
}

/// Is it the same device, with the same tags, on a bus that is reached in the same way?
fn is_same(old: &Plan, new: &Plan, ix: DeviceIx) -> bool {
    let of = |plan| {
        let plan: &Plan = plan;
        let device = plan.device(ix)?.clone();
        let tags = plan.tags.get(device.tags.clone())?;
        let own: Vec<TagPlan> = tags.iter().filter(|tag| tag.is_of_device()).cloned().collect();
        Some((device.bus.and_then(|bus| plan.bus(bus)), device, own))
    };
    of(old) == of(new)
}

impl Lane {
    /// Takes the newest plan over, if there is one that it has not.
    pub(super) async fn follow(&mut self) {
        let Some(plans) = self.envoy.plans.as_mut().filter(|plans| plans.newest.has_changed().unwrap_or(false)) else {
            return;
        };
        let new = plans.taken();
        self.take_over(&new).await;
        if let Some(plans) = &self.envoy.plans {
            plans.follow(new);
        }
    }

    async fn take_over(&mut self, new: &Arc<Plan>) {
        let bus = self.envoy.bus;
        if self.envoy.plan.bus(bus) != new.bus(bus) || !can_follow(new, bus) {
            return; // another bus, or none: this one ends in a moment; as does one that cannot follow, if it is touched
        }
        let own: Vec<DeviceIx> = new.devices_on(bus).map(|(ix, _)| ix).collect();
        let kept: Vec<DeviceIx> = self.envoy.roster.devices.iter().map(|device| device.ix).collect();
        let kept: Vec<DeviceIx> = kept.into_iter().filter(|ix| is_same(&self.envoy.plan, new, *ix)).collect();
        if own == kept && kept.len() == self.envoy.roster.devices.len() {
            self.envoy.plan = Arc::clone(new); // the old one need not be kept for our sake
            return;
        }
        self.adopt(Arc::clone(new), &own, &kept).await;
    }

    /// Does a command still mean what it meant when it was checked?
    pub(super) fn is_meant(&self, command: &FieldCommand, device: DeviceIx) -> bool {
        Arc::ptr_eq(&self.envoy.plan, &command.plan) || is_same(&command.plan, &self.envoy.plan, device)
    }

    async fn adopt(&mut self, new: Arc<Plan>, own: &[DeviceIx], kept: &[DeviceIx]) {
        for place in 0..self.envoy.roster.devices.len() {
            if !kept.contains(&self.envoy.roster.devices[place].ix) {
                self.envoy.flush(Seat(place)).await;
            }
        }
        let now = Instant::now();
        let fresh = Roster::new(&new, own, now);
        let old = std::mem::replace(&mut self.envoy.roster, fresh);
        let (mut known, before) = taken_apart(old, kept);
        self.envoy.plan = new;
        for place in 0..self.envoy.roster.devices.len() {
            let ix = self.envoy.roster.devices[place].ix;
            match known.remove(&ix) {
                Some(device) => self.envoy.roster.devices[place] = device,
                None => self.recall(Seat(place), now),
            }
        }
        let blocks: Vec<Block> = (0..self.envoy.roster.devices.len())
            .flat_map(|place| match before.get(&self.envoy.roster.devices[place].ix) {
                Some(polls) => polls.iter().map(|(_, poll)| poll.block.clone()).collect(),
                None => self.pieces(Seat(place)),
            })
            .collect();
        let stays = |ix: TagIx| self.envoy.plan.tag(ix).is_some_and(|tag| kept.contains(&tag.device));
        let tags = Tags::new(&self.envoy.plan, &blocks).resuming(&self.envoy.hub.active_alarms());
        self.envoy.tags = tags.taking_over(&mut self.envoy.tags, stays);
        let plan = Arc::clone(&self.envoy.plan);
        self.envoy.roster.set_polls(&plan, blocks, &self.envoy.tags);
        self.go_on(before.into_values().flatten(), now);
        self.driver.keep_pace(Pace::of_units(own.iter().filter_map(|ix| plan.device(*ix))));
        self.envoy.switches.adopt(&plan, own, kept);
        self.envoy.switched.mark_changed(); // one that begins anew is paused before it is asked anything
        info!(bus = %self.envoy.name, devices = own.len(), untouched = kept.len(), "bus goes on with other devices");
        self.show_connection(kept).await;
    }

    /// The schedule, and what the polls had shown, of those that read the same as before: when they would have been read, as
    /// well as they were known. A device in doubt is asked again by the poll that failed, or by any if that is no more.
    pub(super) fn go_on(&mut self, before: impl IntoIterator<Item = (PollIx, Poll)>, now: Instant) {
        let earlier = std::mem::take(&mut self.schedule);
        self.schedule = self.scheduled(now);
        let mut moved: HashMap<PollIx, PollIx> = HashMap::new();
        for (was, poll) in before {
            let Some(ix) = self.envoy.roster.polls.iter().position(|now| now.block == poll.block) else { continue };
            self.envoy.roster.polls[ix].go_on(&poll);
            self.schedule.go_on(ix, (&earlier, was));
            moved.insert(was, ix);
        }
        for device in &mut self.envoy.roster.devices {
            device.unit.renumbered(|ix| moved.get(&ix).copied());
        }
    }

    /// What an earlier life learned of a device.
    fn recall(&mut self, seat: Seat, now: Instant) {
        let Some(memory) = &self.memory else { return };
        let device = &mut self.envoy.roster.devices[seat.0];
        device.learned = Learned::recalled(memory.recall(&device.name, device.map));
        device.whole_again = now + device.learned.wait();
    }

    /// New devices of a bus without a connection are as badly off as the others; behind one that is open they are asked.
    async fn show_connection(&mut self, kept: &[DeviceIx]) {
        if self.driver.is_open() {
            self.envoy.connected();
        } else if self.envoy.cut {
            let at = self.envoy.clock.now();
            for place in 0..self.envoy.roster.devices.len() {
                if !kept.contains(&self.envoy.roster.devices[place].ix) {
                    self.envoy.cut_off(Seat(place), at).await;
                }
            }
        }
        self.envoy.report();
    }
}

/// Devices that go on, and their polls with their places.
#[expect(clippy::type_complexity, reason = "a roster in two heaps, taken apart in one go")]
fn taken_apart(
    roster: Roster,
    kept: &[DeviceIx],
) -> (HashMap<DeviceIx, Device>, HashMap<DeviceIx, Vec<(PollIx, Poll)>>) {
    let mut polls: HashMap<DeviceIx, Vec<(PollIx, Poll)>> = kept.iter().map(|ix| (*ix, Vec::new())).collect();
    for (ix, poll) in roster.polls.into_iter().enumerate() {
        if let Some(of_device) = polls.get_mut(&poll.block.device) {
            of_device.push((ix, poll));
        }
    }
    let devices = roster.devices.into_iter().filter(|device| kept.contains(&device.ix));
    (devices.map(|device| (device.ix, device)).collect(), polls)
}
