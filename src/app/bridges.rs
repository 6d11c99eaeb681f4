//! Bridges: each is an uplink that carries clients' messages and nothing else, out of a store of its own.
//!
//! Order: [`Bridges::open`] makes the stores, whose lanes `forwarding` leads clients' messages to; [`Bridges::connect`] lets
//! those connect that do not yet; taken down with the uplinks, or one by one when a reload has them no more.
//!
//! One that a reload changes closes its store before it opens it again, which takes seconds. Meanwhile its messages wait in
//! the lane of the store to come ([`Waiting`]): nobody is acknowledged what is not committed, who waits for it has longer
//! than usual, and what nobody waits for and finds no place is counted for a gap record.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::broker::Publisher;
use crate::config::difference::{Changes, How, Part};
use crate::config::plan::{BridgePlan, Notifications, Plan, UplinkStart};
use crate::flow::hub::{self, DurableEnd, Hub};
use crate::flow::notice::{self, Notice, Notices};
use crate::flow::stop::Stop;
use crate::model::topic::bridge_state;
use crate::store::{self, Opening, Revision, Route, StoreHandle, StoreStats};
use crate::uplink::UplinkStats;

use super::means::{Means, Teller, bridge_subject};
use super::offered;
use super::revision::Bounds;
use super::supervisor::watch_store;
use super::uplinks::{Beginning, UplinkPart};
use super::watchdog;

/// How often the state of a connection is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is in the lane of a bridge that a reload takes away is committed within this, or not at all.
const COMMITTED_WITHIN: Duration = Duration::from_secs(10);

/// All of `[[bridge]]`.
pub(super) struct Bridges {
    parts: BTreeMap<String, BridgePart>,
    /// While a reload exchanges them.
    waiting: BTreeMap<String, Waiting>,
    /// As the uplinks': they go on until their stores have ended.
    pub stop: Stop,
}

/// The lane into a store that is going to be opened.
struct Waiting {
    plan: BridgePlan,
    hub: Hub,
    end: DurableEnd,
}

impl Waiting {
    fn of(plan: &BridgePlan) -> Self {
        let (hub, _, end) = hub::hub(Vec::new());
        Self { plan: plan.clone(), hub, end }
    }
}

struct BridgePart {
    plan: BridgePlan,
    hub: Option<Hub>,
    store: StoreHandle,
    connection: Option<UplinkPart>,
    /// What looks at it: ends with the sources, or with the part.
    stop: Stop,
    helpers: JoinSet<()>,
}

impl Bridges {
    pub fn new() -> Self {
        Self { parts: BTreeMap::new(), waiting: BTreeMap::new(), stop: Stop::new() }
    }

    /// Opens the store of each that has none yet, whatever lies there. It evicts nothing that an earlier plan would keep.
    pub async fn open(&mut self, means: &Means, plan: &Plan, earlier: &[Arc<Plan>]) -> Result<(), JoinError> {
        let missing = plan.bridges.iter().filter(|bridge| !self.parts.contains_key(&bridge.uplink.name));
        for bridge in missing.collect::<Vec<_>>() {
            let opening = opening(plan, bridge, earlier, means.boot_token.clone());
            let store = tokio::task::spawn_blocking(move || store::open(opening)).await?;
            let waited = self.waiting.remove(&bridge.uplink.name);
            let Waiting { hub, end, .. } = waited.unwrap_or_else(|| Waiting::of(bridge));
            end.meet_store();
            let (own, told) = notice::notices();
            let (name, mut helpers, stop) = (bridge.uplink.name.clone(), JoinSet::new(), means.stop.child());
            let crew = means.crew(&stop);
            helpers.spawn(crew.keep("notices", &name, tell_for(name.clone(), told, means.notices.clone())));
            let store = store.start(end, means.clock.clone(), own);
            watchdog::ask_store(&mut helpers, &crew, &name, &store, &stop);
            helpers.spawn(watch_store(store.clone(), "the store of a bridge", stop.clone(), means.broken.clone()));
            let part = BridgePart { plan: bridge.clone(), hub: Some(hub), store, connection: None, stop, helpers };
            self.parts.insert(name, part);
        }
        Ok(())
    }

    /// The way into each store, and into those that are going to be opened.
    pub fn lanes(&self) -> impl Iterator<Item = (&BridgePlan, &Hub)> {
        let open = self.parts.values().filter_map(|part| Some((&part.plan, part.hub.as_ref()?)));
        open.chain(self.waiting.values().map(|waiting| (&waiting.plan, &waiting.hub)))
    }

    /// The pace of commits is the same for all stores, and the bounds of each are its own: of an earlier plan too, as long as
    /// that may come back.
    pub async fn revise(&self, plan: &Plan, earlier: &[Arc<Plan>]) {
        for part in self.parts.values() {
            let Opening { tags, uplinks, max_size, max_age, commit_interval, .. } =
                opening(plan, &part.plan, earlier, String::new());
            part.store.revise(Revision { tags, uplinks, max_size, max_age, commit_interval }).await;
        }
    }

    /// What is retained when a topic of a bridge is new goes out as well, as over mosquitto's. Before it connects, and at the
    /// start before the first client comes: nobody may be overtaken by what he has replaced.
    pub async fn offer_retained(&self, means: &Means) {
        for part in self.parts.values().filter(|part| part.connection.is_none()) {
            offered::offer_retained(means, &part.plan, &part.store).await;
        }
    }

    /// Lets those connect that do not yet.
    pub fn connect(&mut self, means: &Means, gateway: &str) {
        for (name, part) in self.parts.iter_mut().filter(|(_, part)| part.connection.is_none()) {
            let beginning = Beginning {
                kind: "bridge",
                gateway,
                plan: &part.plan.uplink,
                store: &part.store,
                commands: None,
                stop: self.stop.child(),
                sources: &part.stop,
            };
            let Some(connection) = UplinkPart::begin(means, beginning) else {
                tracing::error!(bridge = name, "the store does not know the bridge it was opened for");
                continue;
            };
            if let Some(topic) = state_topic(&part.plan) {
                let topic = topic.into();
                let (stats, publisher) = (Arc::clone(&connection.stats), means.publisher.clone());
                let telling = tell_state(topic, stats, publisher, part.stop.clone());
                part.helpers.spawn(means.crew(&part.stop).keep("bridge state", name, telling));
            }
            part.connection = Some(connection);
        }
    }

    /// Takes out what a reload touches; to be ended by [`Gone::end`] once nobody leads messages there any more. In the place
    /// of one that is changed stands a lane in which messages wait for the next.
    pub fn take_touched(&mut self, changes: &Changes, new: &Plan) -> Gone {
        let touched = changes.touched.iter().filter(|change| change.part == Part::Bridge && change.how != How::Added);
        let mut gone = Vec::new();
        for change in touched {
            let next = new.bridges.iter().find(|bridge| bridge.uplink.name == change.name);
            let next_state = next.and_then(state_topic);
            let how = change.how;
            gone.extend(self.parts.remove(&change.name).map(|part| Leaving { part, how, next_state }));
            if let Some(waiting) = next.map(Waiting::of) {
                waiting.end.expect_store();
                self.waiting.insert(change.name.clone(), waiting);
            }
        }
        Gone(gone)
    }

    /// By name.
    pub fn stats(&self) -> Vec<(String, Arc<UplinkStats>)> {
        let of =
            |(name, part): (&String, &BridgePart)| Some((name.clone(), Arc::clone(&part.connection.as_ref()?.stats)));
        self.parts.iter().filter_map(of).collect()
    }

    /// What the store of each counts, by name.
    pub fn store_stats(&self) -> Vec<(String, Arc<StoreStats>)> {
        self.parts.iter().map(|(name, part)| (name.clone(), part.store.stats())).collect()
    }

    /// Nothing more comes in; resolves when all that did is committed.
    pub async fn committed(&mut self) {
        self.parts.values_mut().for_each(|part| drop(part.hub.take()));
        for part in self.parts.values() {
            part.store.ended().await;
        }
    }

    /// Resolves when all connections have heard the stop and ended.
    pub async fn disconnected(&mut self) {
        for connection in self.parts.values_mut().filter_map(|part| part.connection.take()) {
            connection.ended().await;
        }
    }

    /// Resolves when the stores are saved and closed.
    pub async fn finish(self) {
        for mut part in self.parts.into_values() {
            part.helpers.shutdown().await;
            part.store.finish().await;
        }
    }
}

/// Bridges that a reload has taken out.
pub(super) struct Gone(Vec<Leaving>);

struct Leaving {
    part: BridgePart,
    how: How,
    /// Where the next one of its name tells its state.
    next_state: Option<String>,
}

impl Gone {
    /// Ends each: what came in is committed, what is in flight has a moment, its store is closed and stays where it is.
    pub async fn end(self, means: &Means) {
        for Leaving { mut part, how, next_state } in self.0 {
            part.stop.begin();
            drop(part.hub.take());
            if timeout(COMMITTED_WITHIN, part.store.ended()).await.is_err() {
                tracing::error!(bridge = part.plan.uplink.name, "the store of a bridge does not end");
            }
            if let Some(connection) = part.connection.take() {
                connection.end().await;
            }
            let owed: u64 = part.store.backlogs().iter().map(|(_, owed)| owed).sum();
            if how == How::Removed {
                offered::forget(&part.store).await; // should it be there again, it is new
            }
            part.helpers.shutdown().await;
            part.store.finish().await;
            means.over(Teller::Uplink, &part.plan.uplink.name);
            means.over(Teller::BridgeStore, &part.plan.uplink.name);
            if how == How::Removed {
                tracing::warn!(bridge = part.plan.uplink.name, owed, "bridge removed; what it owes stays in its store");
            }
            if let Some(state) = state_topic(&part.plan).filter(|state| next_state.as_ref() != Some(state)) {
                means.publisher.clear(state.into());
            }
        }
    }
}

/// Where the state of its connection is told here, if it is.
fn state_topic(plan: &BridgePlan) -> Option<String> {
    (plan.notifications == Notifications::Told).then(|| bridge_state(&plan.uplink.client_id))
}

/// Where the store of a bridge lies: beside the gateway's own.
pub fn bridge_store_dir(plan: &Plan, bridge: &str) -> PathBuf {
    plan.gateway.data_dir.join(format!("bridge-{bridge}"))
}

fn opening(plan: &Plan, bridge: &BridgePlan, earlier: &[Arc<Plan>], boot_token: String) -> Opening {
    let Bounds { max_size, max_age } = Bounds::of_bridge(bridge, earlier);
    let (name, classes) = (bridge.uplink.name.clone(), bridge.uplink.classes.clone());
    Opening {
        dir: bridge_store_dir(plan, &name),
        max_size,
        max_age,
        commit_interval: plan.store.commit_interval,
        tags: Vec::new(),
        uplinks: vec![Route { name, classes, start: UplinkStart::Oldest }],
        boot_token,
    }
}

/// Says of which bridge's store it is.
async fn tell_for(bridge: String, mut told: mpsc::Receiver<Notice>, notices: Notices) {
    while let Some(notice) = told.recv().await {
        notices.tell(Notice { subject: bridge_subject(&bridge, &notice.subject), ..notice });
    }
}

/// 1 while connected, else 0, as mosquitto tells it.
async fn tell_state(topic: Arc<str>, stats: Arc<UplinkStats>, publisher: Publisher, stop: Stop) {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        tokio::select! {
            biased;
            () = stop.begun() => break,
            _ = look.tick() => {}
        }
        let connected = stats.connected.get() == 1;
        if told.replace(connected) != Some(connected) {
            publisher.retain(Arc::clone(&topic), Bytes::from_static(if connected { b"1" } else { b"0" }));
        }
    }
    publisher.retain(topic, Bytes::from_static(b"0"));
}
