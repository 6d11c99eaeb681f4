//! A running gateway as a set of parts that can be exchanged: what it is made of now, and how it becomes another one.
//!
//! Begun once at the start and changed by reloads, through the same parts. Order of a change: first doors that go are
//! shut and rights are the new ones, for a bus may take minutes to end and whoever may not any more must not meanwhile;
//! then everybody who keeps something of tags or uplinks learns of the new ones (store, broker, live side) and new
//! doors are opened; then touched buses end and begin, then what clouds see. Untouched parts are not told. The store may
//! wait for its medium: it learns first, and buses hear that a plan comes when the rest takes a moment. Nothing of a
//! change is written to disk but what a start with the new file would write too: a crash halfway is a start.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinError;

use crate::config::Text;
use crate::config::difference::{Changes, How, Part};
use crate::config::plan::{Plan, TagPlan};
use crate::flow::hub::{EventRecord, Fate};
use crate::flow::notice::{Notice, Phase};
use crate::flow::stop::Stop;
use crate::model::number::Class;
use crate::model::tag::DeviceIx;
use crate::model::topic::GatewayTopics;
use crate::payload::json;

use super::alarm_memory::{Entry, settled};
use super::bridges::Bridges;
use super::buses::Buses;
use super::fallback::{Fallback, Unkept};
use super::forwarding;
use super::gatekeeper::Gatekeeper;
use super::means::{Means, own_nodes, places, topics};
use super::publisher::{Configuration, status};
use super::revision::revision;
use super::roster::{StoreRoster, UplinkRoster};
use super::trial::Trial;
use super::turns::Turn;
use super::uplinks::Uplinks;

/// All parts, and the plan they follow.
pub(super) struct House {
    /// Arranged after the one the process began with.
    pub plan: Arc<Plan>,
    pub means: Means,
    pub buses: Buses,
    pub uplinks: Uplinks,
    pub bridges: Bridges,
    pub roster: UplinkRoster,
    pub bridge_stores: StoreRoster,
    pub gatekeeper: Arc<Gatekeeper>,
    /// What the plan was read from.
    pub texts: Arc<Vec<Text>>,
    pub fallback: Fallback,
    /// The last reload may still be taken back.
    pub trial: Option<Trial>,
    /// How many there were.
    pub trials: u64,
    /// The file holds what was taken back.
    pub rolled_back: bool,
    /// The next start does not know of that yet.
    pub unkept: Option<Unkept>,
}

impl House {
    /// Makes everything follow another plan. Both are in one arrangement, and nothing needs a restart.
    pub async fn change(&mut self, new: Plan, changes: &Changes) {
        let new = Arc::new(new);
        let old = std::mem::replace(&mut self.plan, Arc::clone(&new));
        let means = &self.means;
        self.change_rights(changes).await;
        let earlier = self.earlier(Some(&old));
        means.store.revise(revision(&new, &earlier)).await; // for as long as its medium takes all go by the old plan
        means.hub.classify(classes(&old, &new));
        let derived = self.buses.change_derived(means, (&old, &new), changes).await; // before births tell of the new plan
        means.coming.send_replace(Arc::clone(&new)); // behind this no value means what it does not any more, nor raises alarms
        self.move_alarms(&old).await;
        means.ownership.replace(topics(&new));
        means.ownership.settle(places(&new));
        means.ownership.stand_for(own_nodes(&old).chain(own_nodes(&new)).collect()); // who goes says so first
        means.control.reclaim();
        means.plan.store(Arc::clone(&new));
        let alarms_turned = self.turn().await;
        self.open_doors(changes).await;
        self.forget_standings(changes);
        self.buses.change(means, (&old, &new), changes, derived).await;
        let _ = alarms_turned.await; // an error: they have ended, we are stopping
        self.change_ways(changes, &earlier).await;
        self.uplinks.change(&self.means, &new, changes).await;
        self.means.ownership.stand_for(own_nodes(&new).collect());
        self.show_roster();
    }

    /// The plan stays: what it does not have any more is dropped.
    pub async fn settle(&self) {
        let earlier = self.earlier(None);
        self.means.store.revise(revision(&self.plan, &earlier)).await;
        self.bridges.revise(&self.plan, &earlier).await;
    }

    /// What tells uplinks and bridges to end, and to hurry.
    pub fn farewell(&self) -> [Stop; 2] {
        [self.uplinks.stop.clone(), self.bridges.stop.clone()]
    }

    /// The plans that may come back: what the stores keep for them stays. While one is exchanged for the next, `old` too.
    fn earlier(&self, old: Option<&Arc<Plan>>) -> Vec<Arc<Plan>> {
        old.into_iter().chain(self.trial.as_ref().map(|trial| &trial.before)).cloned().collect()
    }

    /// Alarms that are active go with their tags; those of which the plan knows nothing any more end now.
    async fn move_alarms(&self, old: &Plan) {
        let (means, new) = (&self.means, &self.plan);
        let topics = GatewayTopics::new(&new.gateway.name);
        let mut fate = Fate::Kept;
        for (ix, level) in means.latest.alarms.active() {
            let Some(tag) = old.tag(ix).filter(|_| settled(old, new, (ix, level)).is_none()) else {
                continue;
            };
            let Some(device) = old.device(tag.device) else { continue };
            let gone = Entry::of(device, tag, level);
            let (at, class) = (means.clock.now(), gone.class());
            let body = json::forgotten_alarm(&gone.event, means.clock.wall(at));
            let topic = topics.alarm(&gone.device, &gone.tag).into();
            let record = EventRecord { topic, body, class, at, committed: None };
            fate = means.hub.emit_event_after(record, fate).await; // all of them wait for the store once
        }
        means.latest.alarms.moved(|key| settled(old, new, key));
    }

    /// How touched devices stood says nothing of how they stand.
    fn forget_standings(&self, changes: &Changes) {
        let touched = |ix: DeviceIx| {
            let device = self.plan.live_device(ix);
            let Some(device) = device else { return Some(How::Removed) };
            let bus = device.bus.and_then(|bus| self.plan.bus(bus)).map_or("", |bus| &bus.name);
            changes.of(Part::Device, &device.name).or(changes.of(Part::Bus, bus))
        };
        self.means.latest.forget(|ix| touched(ix).is_some());
    }

    /// The live side takes the plan over: topics come and go. Resolves when its values have. Alarms look for a plan before
    /// they look for news, but what they have may wait for its number, and no bus waits for that: given back is their word.
    async fn turn(&self) -> oneshot::Receiver<()> {
        let [values, alarms] = &self.means.turns;
        let (values, alarms) = (self.hand_to(values).await, self.hand_to(alarms).await);
        let _ = values.await; // an error: they have ended, we are stopping
        alarms
    }

    async fn hand_to(&self, turns: &mpsc::Sender<Turn>) -> oneshot::Receiver<()> {
        let (done, turned) = oneshot::channel();
        let _ = turns.send(Turn { plan: Arc::clone(&self.plan), done }).await; // dropped if it has ended, `done` with it
        turned
    }

    /// Users and rights; they are read again, and certificates, whatever has changed. Doors that go or are others now are
    /// shut before: nobody has the old rights at a new door, nor the new ones at an old door.
    async fn change_rights(&self, changes: &Changes) {
        let new = &self.plan.broker;
        if changes.any(Part::Listener) {
            self.means.control.shut_others(new.listeners.clone()).await;
        }
        self.gatekeeper.reload(new).await;
    }

    /// Opens those that are new.
    async fn open_doors(&self, changes: &Changes) {
        if changes.any(Part::Listener) {
            self.means.control.listen(self.plan.broker.listeners.clone()).await;
        }
    }

    /// `[[forward]]` and `[[bridge]]`.
    async fn change_ways(&mut self, changes: &Changes, earlier: &[Arc<Plan>]) {
        if changes.any(Part::Store) {
            self.bridges.revise(&self.plan, earlier).await;
        }
        if !changes.any(Part::Forward) && !changes.any(Part::Bridge) {
            return;
        }
        let gone = self.bridges.take_touched(changes, &self.plan);
        self.lead();
        gone.end(&self.means).await;
        if let Err(error) = self.open_bridges(earlier).await {
            tracing::error!(%error, "the store of a new bridge could not be opened");
            self.means.broken.send_replace(Some("the store of a bridge")); // its clients would be told nothing
        }
        self.bridges.connect(&self.means, &self.plan.gateway.name);
    }

    /// Opens the stores of bridges that have none yet; what is retained goes out first.
    pub async fn open_bridges(&mut self, earlier: &[Arc<Plan>]) -> Result<(), JoinError> {
        self.bridges.open(&self.means, &self.plan, earlier).await?;
        self.lead();
        self.bridges.offer_retained(&self.means).await;
        Ok(())
    }

    /// Leads clients' messages into the stores they belong to.
    fn lead(&self) {
        let (routes, lanes) = forwarding::routes(&self.plan, &self.means.hub, &self.bridges);
        self.means.forward.replace(routes, lanes);
    }

    pub fn show_roster(&self) {
        let mut all = self.uplinks.stats(&self.plan);
        all.extend(self.bridges.stats());
        self.roster.store(Arc::new(all));
        self.bridge_stores.store(Arc::new(self.bridges.store_stats()));
    }

    pub fn show(&self, configuration: Configuration) {
        let topic = GatewayTopics::new(&self.plan.gateway.name).status().into();
        self.means.configuration.send_replace(configuration);
        self.means.publisher.retain(topic, status(&self.means.clock, "online", configuration));
    }

    pub fn tell(&self, event: &'static str, detail: String) {
        self.notice(event, Phase::Once, detail);
    }

    pub fn notice(&self, event: &'static str, phase: Phase, detail: String) {
        self.means.notices.tell(Notice { event, phase, subject: "configuration".to_owned(), detail });
    }
}

/// The class of each tag; of those that go what it was, for their last values are on their way.
fn classes(old: &Plan, new: &Plan) -> Vec<Class> {
    let before = old.tags.iter().map(Some).chain(std::iter::repeat(None));
    let class = |(tag, before): (&TagPlan, Option<&TagPlan>)| before.filter(|_| tag.is_hole()).unwrap_or(tag).class;
    new.tags.iter().zip(before).map(class).collect()
}
