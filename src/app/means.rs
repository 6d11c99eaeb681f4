//! What parts are built from, at the start and at a reload: the one way in which a bus, an uplink, a bridge is begun.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::broker::{Control, Publisher};
use crate::config::plan::{Plan, TagPlan};
use crate::field::memory::Memory;
use crate::field::{Pauses, Plans, certificate_subject};
use crate::flow::clock::Clock;
use crate::flow::command::CommandEntry;
use crate::flow::forward::ForwardEntry;
use crate::flow::hub::Hub;
use crate::flow::latest::Latest;
use crate::flow::notice::{Notice, Notices};
use crate::flow::progress::Progress;
use crate::flow::stop::Stop;
use crate::model::sparkplug::Node;
use crate::model::tag::TagIx;
use crate::model::topic::Ownership;
use crate::status::values::Values;
use crate::store::StoreHandle;
use crate::uplink::{Commands, Timing};

use super::publisher::{Configuration, LivePublisher};
use super::roster::{PlanNow, Slots};
use super::supervisor::{BusParts, Crew, build};
use super::turns::Turns;

/// Handles of everything that outlives a reload. Held by the house; given back when it is taken down.
pub(super) struct Means {
    pub stop: Stop,
    pub clock: Clock,
    /// Whom the buses leave alone, whichever plan is in force.
    pub pauses: Pauses,
    pub notices: Notices,
    pub progress: Progress,
    pub store: StoreHandle,
    pub hub: Hub,
    pub latest: Arc<Latest>,
    pub publisher: Publisher,
    pub control: Control,
    /// How the one in force came to be so; [`House::show`](super::house::House::show) says so.
    pub configuration: watch::Sender<Configuration>,
    pub forward: ForwardEntry,
    pub entry: CommandEntry,
    pub ownership: Arc<Ownership>,
    pub memory: Option<Arc<dyn Memory>>,
    /// The plan as publisher, router and answers see it.
    pub plan: PlanNow,
    /// The one that is decided, before any bus follows it: what is still read by the one before is not waited for.
    pub coming: watch::Sender<Arc<Plan>>,
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
    /// The live side, with what the status page sees of it.
    pub fn live(&self, plan: &Arc<Plan>, values: Option<Arc<Values>>) -> LivePublisher {
        let (publisher, configuration) = (self.publisher.clone(), self.configuration.subscribe());
        LivePublisher::new(Arc::clone(plan), self.clock.clone(), publisher, configuration, values)
    }

    /// What a bus is built from; it ends with this stop.
    pub fn of_bus(&self, plan: &Arc<Plan>, stop: Stop) -> BusParts {
        BusParts {
            plan: Arc::clone(plan),
            plans: Plans::new(self.plans.subscribe()).expecting(self.coming.subscribe()),
            hub: self.hub.clone(),
            clock: self.clock.clone(),
            stop,
            pauses: self.pauses.clone(),
            notices: self.notices.clone(),
            progress: self.progress.clone(),
            memory: self.memory.clone(),
            build: Arc::new(build),
        }
    }

    /// Of those that must not end before this stop.
    pub fn crew(&self, stop: &Stop) -> Crew {
        Crew::new(&self.progress, stop, &self.broken)
    }

    /// What an uplink with `commands = true` is given.
    pub fn commands(&self, plan: &Plan) -> Commands {
        let writable = plan.tags.iter().filter(|tag| tag.access.writes() && !tag.is_hole());
        let writable = writable.map(|tag| Arc::clone(&tag.topic)).collect();
        Commands { entry: self.entry.clone(), ownership: Arc::clone(&self.ownership), writable }
    }
}

/// A part that tells notices under its name. Buses and uplinks may have the same one, and `store` is a good name for a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Teller {
    Bus,
    /// Or the connection of a bridge.
    Uplink,
    /// The store of a bridge, whose notices are told on under the name of the bridge.
    BridgeStore,
}

impl Teller {
    /// What it says that holds is of these, see [`Notice::part`].
    const fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Bus => &["bus", "certificate"],
            Self::Uplink => &["uplink", "certificate", "budget"],
            Self::BridgeStore => &["store"],
        }
    }

    fn told(self, name: &str, notice: &Notice) -> bool {
        let own = match self {
            Self::Bus if notice.part() == "certificate" => notice.subject == certificate_subject(name),
            Self::Bus | Self::Uplink => {
                notice.subject.strip_prefix(name).is_some_and(|lane| lane.is_empty() || lane.starts_with('/'))
            }
            Self::BridgeStore => notice.subject.starts_with(&bridge_subject(name, "")),
        };
        own && self.parts().contains(&notice.part())
    }
}

/// What the store of a bridge tells is told about this.
pub(super) fn bridge_subject(bridge: &str, of_store: &str) -> String {
    format!("bridge {bridge}: {of_store}")
}

impl Means {
    /// What still held of a part that has ended holds no more; the one that comes after it speaks for itself.
    pub fn over(&self, teller: Teller, name: &str) {
        self.notices.over("the configuration has changed", |notice| teller.told(name, notice));
    }
}

/// The topic of every tag, with its place.
pub(super) fn topics(plan: &Plan) -> impl Iterator<Item = (Arc<str>, TagIx)> {
    let numbered = plan.tags.iter().zip((0..).map(TagIx));
    numbered.filter(|(tag, _)| !tag.is_hole()).map(|(tag, ix)| (Arc::clone(&tag.topic), ix))
}

/// Where devices have their tags: what stands before the name of a tag in its topic, if the name of its device is a level of
/// that. So nobody else has topics there.
pub(super) fn places(plan: &Plan) -> HashSet<Box<str>> {
    let place = |tag: &TagPlan| {
        let (place, name) = tag.topic.rsplit_once('/')?;
        let device = &plan.device(tag.device)?.name;
        (name == tag.name && place.split('/').any(|level| level == device)).then(|| place.into())
    };
    plan.tags.iter().filter(|tag| !tag.is_hole()).filter_map(place).collect()
}

/// The edge nodes that the gateway is on its own broker.
pub(super) fn own_nodes(plan: &Plan) -> impl Iterator<Item = Node> {
    let local = plan.uplinks.iter().filter(|uplink| uplink.is_local());
    local.filter_map(|uplink| Some(uplink.sparkplug.as_ref()?.node.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::notice::Phase;

    #[test]
    fn a_part_that_ends_takes_its_own_notices_along_and_not_those_of_another_with_its_name() {
        let notice = |event, subject: &str| Notice {
            event,
            phase: Phase::Active,
            subject: subject.to_owned(),
            detail: String::new(),
        };
        let standing = [
            notice("bus_down", "store"),
            notice("bus_overloaded", "store/2"),
            notice("store_failed", "store"),
            notice("uplink_disabled", "store"),
            notice("budget_80", "store/cellular/month"),
            notice("certificate_unusable", "store"),
            notice("store_failed", &bridge_subject("store", "store")),
            notice("bus_down", "store-2"),
            notice("host_awaited", "store"),
            notice("certificate_unusable", &certificate_subject("store")),
            notice("certificate_expiring", &certificate_subject("store-2")),
        ];
        let told = |teller: Teller| -> Vec<usize> {
            let own = standing.iter().enumerate().filter(|(_, notice)| teller.told("store", notice));
            own.map(|(place, _)| place).collect()
        };
        assert_eq!(told(Teller::Bus), [0, 1, 9]);
        assert_eq!(told(Teller::Uplink), [3, 4, 5, 8], "also that it waits for its primary host");
        assert_eq!(told(Teller::BridgeStore), [6]);
    }
}
