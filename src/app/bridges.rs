//! Bridges: each is an uplink that carries clients' messages and nothing else, out of a store of its own. And what comes
//! down, over a bridge or an uplink, on its way to the local broker.
//!
//! Order: [`Bridges::open`] before the broker, which is given the lanes into the stores; [`Bridges::start`] with the
//! uplinks; taken down with them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::broker::{NotTaken, Publisher};
use crate::config::plan::{BridgePlan, Notifications, Plan, RetainHere, UplinkStart};
use crate::flow::clock::Clock;
use crate::flow::forward::ForwardEntry;
use crate::flow::hub::{self, Hub};
use crate::flow::notice::{self, Notice, Notices};
use crate::flow::progress::Progress;
use crate::flow::stop::Stop;
use crate::model::topic::bridge_state;
use crate::store::{self, Opening, Route, StoreHandle, StoreStats};
use crate::uplink::{PassOn, PassedOn, StoreSource, Timing, Uplink, UplinkParts, UplinkStats};

use super::running::Uplinks;
use super::watchdog;

/// How often the state of a connection is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The open stores of all bridges, in the order of the plan.
pub(super) struct Bridges {
    opened: Vec<(BridgePlan, Hub, StoreHandle)>,
    /// They tell what the stores have to tell; ended with the gateway.
    tellers: JoinSet<()>,
}

/// What their stores are opened with, beside the plan.
pub(super) struct Around<'a> {
    pub plan: &'a Plan,
    pub clock: &'a Clock,
    pub notices: &'a Notices,
    /// As for the gateway's own store.
    pub boot_token: String,
}

/// What every connection is built from.
pub(super) struct Connecting<'a> {
    pub gateway: &'a str,
    pub clock: &'a Clock,
    pub notices: &'a Notices,
    pub publisher: &'a Publisher,
    pub progress: &'a Progress,
    pub run_dir: PathBuf,
    pub timing: Timing,
    pub stop: Stop,
}

/// The stores, to be waited for at the end.
#[derive(Default)]
pub(super) struct BridgeStores {
    pub(super) stores: Vec<StoreHandle>,
    /// Ended last.
    pub(super) tellers: JoinSet<()>,
}

impl Bridges {
    /// Opens the store of each, whatever lies there.
    pub(super) async fn open(around: Around<'_>) -> Result<Self, JoinError> {
        let Around { plan, clock, notices, boot_token } = around;
        let (mut opened, mut tellers) = (Vec::new(), JoinSet::new());
        for bridge in &plan.bridges {
            let opening = opening(plan, bridge, boot_token.clone());
            let store = tokio::task::spawn_blocking(move || store::open(opening)).await?;
            let (hub, _, durable) = hub::hub(Vec::new());
            let (own, told) = notice::notices();
            tellers.spawn(tell_for(bridge.uplink.name.clone(), told, notices.clone()));
            opened.push((bridge.clone(), hub, store.start(durable, clock.clone(), own)));
        }
        Ok(Self { opened, tellers })
    }

    /// The way into each store.
    pub(super) fn lanes(&self) -> impl Iterator<Item = (&BridgePlan, &Hub)> {
        self.opened.iter().map(|(bridge, hub, _)| (bridge, hub))
    }

    /// What is retained when a bridge is new goes out as well, as over mosquitto's. Before the first client comes: nobody
    /// may be overtaken by what he has replaced.
    pub(super) async fn offer_retained(&self, publisher: &Publisher, forward: &ForwardEntry) {
        for (bridge, _, store) in &self.opened {
            let is_new = store.newest().iter().all(|(.., seq)| seq.0 == 0);
            for out in bridge.out.iter().filter(|out| is_new && out.retain == RetainHere::AsPublished) {
                for letter in publisher.retained(&out.mapping.local_filter()).flatten() {
                    if forward.wants(&letter.topic, None) && forward.offer(&bridge.uplink.name, letter).await.is_err() {
                        return; // stopping
                    }
                }
            }
        }
    }

    /// Lets each connect, beside the uplinks; `sources` watch their connections until the gateway stops. Lets go of the
    /// lanes, so that the stores end when nothing more comes in.
    pub(super) fn start(
        self,
        connecting: &Connecting<'_>,
        uplinks: &mut Uplinks,
        sources: &mut JoinSet<()>,
    ) -> BridgeStores {
        let mut stores = Vec::new();
        for (bridge, _, store) in self.opened {
            let source = StoreSource::new(store.clone(), &bridge.uplink.name);
            let source = source.expect("the store was opened with the uplink of this bridge");
            let parts = UplinkParts {
                plan: bridge.uplink.clone(),
                gateway: connecting.gateway.to_owned(),
                source,
                clock: connecting.clock.clone(),
                notices: connecting.notices.clone(),
                commands: None,
                pass_on: Some(pass_on(connecting.publisher.clone())),
                run_dir: connecting.run_dir.clone(),
                timing: connecting.timing,
            };
            let (uplink, stats) = Uplink::new(parts);
            if bridge.notifications == Notifications::Told {
                let topic = bridge_state(&bridge.uplink.client_id).into();
                let publisher = connecting.publisher.clone();
                sources.spawn(tell_state(topic, Arc::clone(&stats), publisher, connecting.stop.clone()));
            }
            uplinks.stats.push((bridge.uplink.name.clone(), stats));
            let name = bridge.uplink.name.as_str();
            uplinks.tasks.spawn(connecting.progress.watch("bridge", name, uplink.run(uplinks.stop.clone())));
            watchdog::ask_store(sources, connecting.progress, (name, &store), &connecting.stop);
            stores.push(store);
        }
        BridgeStores { stores, tellers: self.tellers }
    }
}

impl BridgeStores {
    /// What each counts, by the name of the bridge.
    pub(super) fn figures(&self, plan: &Plan) -> Vec<(String, Arc<StoreStats>)> {
        let names = plan.bridges.iter().map(|bridge| bridge.uplink.name.clone());
        names.zip(self.stores.iter().map(StoreHandle::stats)).collect()
    }
}

/// Where the store of a bridge lies: beside the gateway's own.
pub fn bridge_store_dir(plan: &Plan, bridge: &str) -> PathBuf {
    plan.gateway.data_dir.join(format!("bridge-{bridge}"))
}

fn opening(plan: &Plan, bridge: &BridgePlan, boot_token: String) -> Opening {
    let (name, classes) = (bridge.uplink.name.clone(), bridge.uplink.classes.clone());
    Opening {
        dir: bridge_store_dir(plan, &name),
        max_size: bridge.max_size,
        max_age: bridge.max_age,
        commit_interval: plan.store.commit_interval,
        tags: Vec::new(),
        uplinks: vec![Route { name, classes, start: UplinkStart::Oldest }],
        boot_token,
    }
}

/// From the subscription upstream to the local broker.
pub(super) fn pass_on(publisher: Publisher) -> PassOn {
    Arc::new(move |letter| {
        let kept: PassedOn = match publisher.pass_on(letter) {
            Ok(kept) => Box::pin(async move { kept.await.is_ok() }),
            Err(NotTaken::NoRoom) => Box::pin(std::future::ready(false)),
            Err(NotTaken::NotOurs) => return None,
        };
        Some(kept)
    })
}

/// Says of which bridge's store it is.
async fn tell_for(bridge: String, mut told: mpsc::Receiver<Notice>, notices: Notices) {
    while let Some(notice) = told.recv().await {
        notices.tell(Notice { subject: format!("bridge {bridge}: {}", notice.subject), ..notice });
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
