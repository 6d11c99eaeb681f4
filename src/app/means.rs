//! What parts are built from, at the start and at a reload: the one way in which a bus, an uplink, a bridge is begun.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::broker::{Control, Publisher};
use crate::config::plan::Plan;
use crate::field::memory::Memory;
use crate::flow::clock::Clock;
use crate::flow::command::CommandEntry;
use crate::flow::forward::ForwardEntry;
use crate::flow::hub::Hub;
use crate::flow::latest::Latest;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::flow::progress::Progress;
use crate::flow::stop::Stop;
use crate::model::tag::TagIx;
use crate::model::topic::Ownership;
use crate::store::StoreHandle;
use crate::uplink::{Commands, Timing};

use super::publisher::Turns;
use super::router::{PlanNow, Slots};
use super::supervisor::{BusParts, build};

/// Handles of everything that outlives a reload. Held by the house; given back when it is taken down.
pub(super) struct Means {
    pub stop: Stop,
    pub clock: Clock,
    pub notices: Notices,
    pub progress: Progress,
    pub store: StoreHandle,
    pub hub: Hub,
    pub latest: Arc<Latest>,
    pub publisher: Publisher,
    pub control: Control,
    pub forward: ForwardEntry,
    pub entry: CommandEntry,
    pub ownership: Arc<Ownership>,
    pub memory: Option<Arc<dyn Memory>>,
    /// The plan as publisher, router and answers see it.
    pub plan: PlanNow,
    /// The same for buses that go on with other devices.
    pub plans: watch::Sender<Arc<Plan>>,
    /// Where the router finds the buses.
    pub slots: Slots,
    /// Where the live side is told of another plan.
    pub turns: Turns,
    pub run_dir: PathBuf,
    pub boot_token: String,
    pub timing: Timing,
    /// Told what ended that must not end.
    pub broken: watch::Sender<Option<&'static str>>,
}

impl Means {
    /// What a bus is built from; it ends with this stop.
    pub fn of_bus(&self, plan: &Arc<Plan>, stop: Stop) -> BusParts {
        BusParts {
            plan: Arc::clone(plan),
            plans: self.plans.subscribe(),
            hub: self.hub.clone(),
            clock: self.clock.clone(),
            stop,
            notices: self.notices.clone(),
            progress: self.progress.clone(),
            memory: self.memory.clone(),
            build: Arc::new(build),
        }
    }

    /// What an uplink with `commands = true` is given.
    pub fn commands(&self, plan: &Plan) -> Commands {
        let writable = plan.tags.iter().filter(|tag| tag.access.writes() && !tag.is_hole());
        let writable = writable.map(|tag| Arc::clone(&tag.topic)).collect();
        Commands { entry: self.entry.clone(), ownership: Arc::clone(&self.ownership), writable }
    }
}

impl Means {
    /// What still held of a part that has ended holds no more; the one that comes after it speaks for itself.
    pub fn over(&self, part: &str) {
        let of_part =
            |subject: &str| subject.strip_prefix(part).is_some_and(|lane| lane.is_empty() || lane.starts_with('/'));
        for told in self.notices.standing().into_iter().filter(|told| of_part(&told.notice.subject)) {
            let detail = "the configuration has changed".to_owned();
            self.notices.tell(Notice { phase: Phase::Cleared, detail, ..told.notice });
        }
    }
}

/// The topic of every tag, with its place.
pub(super) fn topics(plan: &Plan) -> impl Iterator<Item = (Arc<str>, TagIx)> {
    let numbered = plan.tags.iter().zip((0..).map(TagIx));
    numbered.filter(|(tag, _)| !tag.is_hole()).map(|(tag, ix)| (Arc::clone(&tag.topic), ix))
}

/// A plan that changes under those who look at it.
pub(super) fn plan_now(plan: &Arc<Plan>) -> PlanNow {
    Arc::new(ArcSwap::new(Arc::clone(plan)))
}
