//! The uplinks, each a part that is begun and ended on its own; and the connections of bridges, which are uplinks too. What
//! comes down there is handed to the local broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::broker::{NotTaken, Publisher};
use crate::config::difference::{Changes, How, Part};
use crate::config::plan::{Downlink, Plan, UplinkPlan};
use crate::flow::forward::Letter;
use crate::flow::stop::Stop;
use crate::store::StoreHandle;
use crate::uplink::{Commands, Handed, LocalBroker, Plant, StoreSource, Uplink, UplinkParts, UplinkStats};

use super::means::{Means, Teller};
use super::supervisor::report;

/// What is in flight when an uplink ends for a reload may be acknowledged for so long; then it goes again, under its number.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// All of `[[uplink]]`.
pub(super) struct Uplinks {
    parts: BTreeMap<String, UplinkPart>,
    /// They go on until the store has ended: not the stop of the sources.
    pub stop: Stop,
}

/// One that runs.
pub(super) struct UplinkPart {
    stop: Stop,
    pub stats: Arc<UplinkStats>,
    task: JoinHandle<()>,
}

/// What one is begun with.
pub(super) struct Beginning<'a> {
    /// As its task is called: `uplink` or `bridge`.
    pub kind: &'static str,
    pub gateway: &'a str,
    pub plan: &'a UplinkPlan,
    /// What it carries is in there.
    pub store: &'a StoreHandle,
    pub commands: Option<Commands>,
    /// It ends with this.
    pub stop: Stop,
    /// Once these are told to stop the store may end, and it with the store.
    pub sources: &'a Stop,
}

impl Uplinks {
    pub fn new() -> Self {
        Self { parts: BTreeMap::new(), stop: Stop::new() }
    }

    /// Begins all of a plan. The store knows them.
    pub fn begin(&mut self, means: &Means, plan: &Plan) {
        for uplink in &plan.uplinks {
            self.begin_one(means, plan, uplink);
        }
    }

    /// Ends and begins what is touched. The store knows the new ones, and still the old ones.
    pub async fn change(&mut self, means: &Means, new: &Plan, changes: &Changes) {
        let touched: Vec<_> = changes.touched.iter().filter(|change| change.part == Part::Uplink).collect();
        let gone = touched.iter().filter(|change| change.how != How::Added);
        let gone: Vec<_> = gone.filter_map(|change| self.parts.remove(&change.name)).collect();
        end_all(gone).await;
        for change in &touched {
            means.over(Teller::Uplink, &change.name);
        }
        for uplink in new.uplinks.iter().filter(|uplink| touched.iter().any(|change| change.name == uplink.name)) {
            self.begin_one(means, new, uplink);
        }
    }

    /// By name, in the order of the plan.
    pub fn stats(&self, plan: &Plan) -> Vec<(String, Arc<UplinkStats>)> {
        let of = |uplink: &UplinkPlan| Some((uplink.name.clone(), Arc::clone(&self.parts.get(&uplink.name)?.stats)));
        plan.uplinks.iter().filter_map(of).collect()
    }

    /// Resolves when all have heard the stop and ended.
    pub async fn ended(self) {
        for (_, part) in self.parts {
            report(part.task.await, "an uplink");
        }
    }

    fn begin_one(&mut self, means: &Means, plan: &Plan, uplink: &UplinkPlan) {
        let commands = (uplink.commands == Downlink::Accepted).then(|| means.commands(plan));
        let beginning = Beginning {
            kind: "uplink",
            gateway: &plan.gateway.name,
            plan: uplink,
            store: &means.store,
            commands,
            stop: self.stop.child(),
            sources: &means.stop,
        };
        match UplinkPart::begin(means, beginning) {
            Some(part) => _ = self.parts.insert(uplink.name.clone(), part),
            None => tracing::error!(uplink = uplink.name, "the store does not know the uplink"),
        }
    }
}

impl UplinkPart {
    /// `None` where the store was not opened with it.
    pub fn begin(means: &Means, beginning: Beginning<'_>) -> Option<Self> {
        let Beginning { kind, gateway, plan, store, commands, stop, sources } = beginning;
        let parts = UplinkParts {
            plan: plan.clone(),
            gateway: gateway.to_owned(),
            source: StoreSource::new(store.clone(), &plan.name)?,
            clock: means.clock.clone(),
            notices: means.notices.clone(),
            commands,
            pass_on: Some(Arc::new(means.publisher.clone())),
            run_dir: means.run_dir.clone(),
            timing: means.timing,
        };
        let (mut uplink, stats) = Uplink::new(parts);
        uplink.live_in(Plant { plan: Arc::clone(&means.plan), latest: Arc::clone(&means.latest) });
        uplink.enter_by(&means.control.inner_door());
        let crew = means.crew(&stop).or_until(sources);
        let task = tokio::spawn(crew.run_one(kind, &plan.name, uplink.run(stop.clone())));
        Some(Self { stop, stats, task })
    }

    /// Tells it to end, and resolves when it has.
    pub async fn end(self) {
        end_all(vec![self]).await;
    }

    /// Resolves when it has ended.
    pub async fn ended(self) {
        report(self.task.await, "an uplink");
    }
}

/// All at once, each with a moment for what is in flight.
async fn end_all(parts: Vec<UplinkPart>) {
    for part in &parts {
        part.stop.begin();
    }
    let hurry: Vec<Stop> = parts.iter().map(|part| part.stop.clone()).collect();
    let hurrying = tokio::spawn(async move {
        tokio::time::sleep(FAREWELL_MAX).await;
        hurry.iter().for_each(Stop::hurry);
    });
    for part in parts {
        report(part.task.await, "an uplink");
    }
    hurrying.abort();
}

impl LocalBroker for Publisher {
    fn pass_on(&self, letter: Letter, newest: Option<u64>) -> Handed {
        match self.pass_on(letter, newest) {
            Ok(kept) => Handed::On(Box::pin(async move { kept.await.is_ok() })),
            Err(NotTaken::NoRoom) => Handed::On(Box::pin(std::future::ready(false))),
            Err(NotTaken::NotOurs) => Handed::Refused,
            Err(NotTaken::Superseded) => Handed::Superseded,
        }
    }

    fn retained_version(&self) -> u64 {
        self.retained_version()
    }
}
