//! From a running plan to a changed one: which parts are touched. Pure; the app stops and starts what is named here.
//!
//! Fed with two plans of which the second was [`arranged`] after the first (`arrange`; what values mean in both:
//! `meaning`; what is told of listeners: `doors`): what is in both stands at the same place, so parts can be compared as
//! they are. Promises: a part that is not named is equal in both plans, places included; what cannot be changed while the
//! gateway runs is named by its key ([`Changes::restart`]), and then nothing may be applied.
//!
//! Touched is: a bus whose own keys changed (all its devices with it); a device whose keys or own tags changed; the
//! derived tags together, for they need each other; a listener, an uplink, a bridge by its plan; rules of `[[forward]]`,
//! rights and the bounds of the store as a whole.

use std::fmt::{self, Write as _};

mod arrange;
mod doors;
mod meaning;

pub use arrange::{arranged, holes};
pub use doors::{numbered, sensors_told};
pub use meaning::{is_kept, kept};

use super::plan::{
    Anonymous, BridgePlan, BrokerPlan, DevicePlan, Downlink, GatewayPlan, PagePlan, Plan, Source, TagPlan, UplinkPlan,
};
use crate::model::tag::TagIx;

/// More places than this that belong to nothing any more are a burden; a restart frees them.
pub const HOLES_MAX: usize = 20_000;

/// What became of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another.
    Changed,
}

impl How {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

/// What a gateway is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `[[bus]]`
    Bus,
    /// `[[device]]` with its tags, but for derived ones.
    Device,
    /// Tags with an `expression`, all of them.
    Derived,
    /// `[[broker.listener]]`
    Listener,
    /// `[[uplink]]`
    Uplink,
    /// `[[bridge]]`
    Bridge,
    /// `[[forward]]`
    Forward,
    /// `users_file`, `[[broker.acl]]`, and `anonymous` of `[status]`, which follows the first where it is not written
    Rights,
    /// `[store]`
    Store,
    /// Keys of `[gateway]` that nobody works by.
    Gateway,
}

impl Part {
    /// For people and scripts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bus => "bus",
            Self::Device => "device",
            Self::Derived => "derived tags",
            Self::Listener => "listener",
            Self::Uplink => "uplink",
            Self::Bridge => "bridge",
            Self::Forward => "forward",
            Self::Rights => "rights",
            Self::Store => "store",
            Self::Gateway => "gateway",
        }
    }
}

/// One part that is touched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// What it is.
    pub part: Part,
    /// Its name; empty where there is only one.
    pub name: String,
    /// What became of it.
    pub how: How,
    /// More for people, such as `2 tags added`; may be empty.
    pub detail: String,
}

/// `device pump-1 changed: 2 tags added`
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.part.as_str())?;
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        write!(f, " {}", self.how.as_str())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// The difference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Keys that differ and cannot be changed while the gateway runs.
    pub restart: Vec<&'static str>,
    /// What is touched, by part and name.
    pub touched: Vec<Change>,
}

impl Changes {
    /// Is there any?
    pub fn is_empty(&self) -> bool {
        self.restart.is_empty() && self.touched.is_empty()
    }

    /// What became of a part, if it is touched.
    pub fn of(&self, part: Part, name: &str) -> Option<How> {
        self.touched.iter().find(|change| change.part == part && change.name == name).map(|change| change.how)
    }

    /// Is any part of this kind touched?
    pub fn any(&self, part: Part) -> bool {
        self.touched.iter().any(|change| change.part == part)
    }

    fn add(&mut self, part: Part, name: &str, how: How, detail: String) {
        self.touched.push(Change { part, name: name.to_owned(), how, detail });
    }

    /// Parts that have a name, in both plans.
    fn named<'a, T: 'a>(
        &mut self,
        part: Part,
        old: impl Iterator<Item = (String, &'a T)>,
        new: impl Iterator<Item = (String, &'a T)>,
        differ: impl Fn(&T, &T) -> Option<String>,
    ) {
        let (old, new): (Vec<_>, Vec<_>) = (old.collect(), new.collect());
        let known: std::collections::HashMap<&str, &T> = old.iter().map(|(name, it)| (name.as_str(), *it)).collect();
        for (name, now) in &new {
            match known.get(name.as_str()) {
                None => self.add(part, name, How::Added, String::new()),
                Some(before) => {
                    if let Some(detail) = differ(before, now) {
                        self.add(part, name, How::Changed, detail);
                    }
                }
            }
        }
        let kept: std::collections::HashSet<&str> = new.iter().map(|(name, _)| name.as_str()).collect();
        for (name, _) in old.iter().filter(|(name, _)| !kept.contains(name.as_str())) {
            self.add(part, name, How::Removed, String::new());
        }
    }
}

/// One line per change.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for key in &self.restart {
            writeln!(f, "{key} changed: needs a restart")?;
        }
        self.touched.iter().try_for_each(|change| writeln!(f, "{change}"))
    }
}

/// Both plans stand in one arrangement: see [`arranged`].
pub fn difference(old: &Plan, new: &Plan) -> Changes {
    let mut changes = Changes { restart: restart(old, new), touched: Vec::new() };
    // Taken apart whole, so that no part of a plan is ever forgotten here.
    let Plan { gateway, store, broker, status: _, uplinks, forwards, bridges, buses, devices, tags } = new;
    let buses_of = |buses: &[super::plan::BusPlan]| -> Vec<_> {
        buses.iter().filter(|bus| !bus.name.is_empty()).map(|bus| (bus.name.clone(), bus.clone())).collect()
    };
    let (before, after) = (buses_of(&old.buses), buses_of(buses));
    changes.named(Part::Bus, pairs(&before), pairs(&after), |old, new| (old != new).then(String::new));
    let device = |old: &DevicePlan, new: &DevicePlan, old_plan: &Plan, new_plan: &Plan| {
        let (before, after) = (own_tags(old_plan, old), own_tags(new_plan, new));
        let same_keys = DevicePlan { tags: 0..0, ..old.clone() } == DevicePlan { tags: 0..0, ..new.clone() };
        (!same_keys || old.tags.start != new.tags.start || before != after)
            .then(|| tags_told(&before, &after, same_keys))
    };
    changes.named(Part::Device, live(&old.devices), live(devices), |one, other| device(one, other, old, new));
    if derived(old) != derived(new) {
        let (before, after) = (derived(old).len(), derived(new).len());
        let how = if before == 0 {
            How::Added
        } else if after == 0 {
            How::Removed
        } else {
            How::Changed
        };
        changes.add(Part::Derived, "", how, format!("{before} before, {after} now"));
    }
    broker_parts(&mut changes, &old.broker, broker);
    rights(&mut changes, old, new);
    let writable = writable(&old.tags) != writable(tags);
    let uplink = |old: &UplinkPlan, new: &UplinkPlan| match old == new {
        false => Some(String::new()),
        true if writable && new.commands == Downlink::Accepted => Some("other tags take commands".to_owned()),
        true => None,
    };
    let of = |uplinks: &'_ [UplinkPlan]| -> Vec<_> { uplinks.iter().map(|it| (it.name.clone(), it.clone())).collect() };
    let (before, after) = (of(&old.uplinks), of(uplinks));
    changes.named(Part::Uplink, pairs(&before), pairs(&after), uplink);
    let of = |bridges: &'_ [BridgePlan]| -> Vec<_> {
        bridges.iter().map(|it| (it.uplink.name.clone(), it.clone())).collect()
    };
    let (before, after) = (of(&old.bridges), of(bridges));
    changes.named(Part::Bridge, pairs(&before), pairs(&after), |old, new| (old != new).then(String::new));
    if old.forwards != *forwards {
        changes.add(Part::Forward, "", How::Changed, format!("{} rules", forwards.len()));
    }
    if old.store != *store {
        changes.add(Part::Store, "", How::Changed, String::new());
    }
    if old.gateway != *gateway && !changes.restart.iter().any(|key| key.starts_with("gateway.")) {
        changes.add(Part::Gateway, "", How::Changed, String::new());
    }
    changes.touched.sort();
    changes
}

fn pairs<T>(named: &[(String, T)]) -> impl Iterator<Item = (String, &T)> {
    named.iter().map(|(name, it)| (name.clone(), it))
}

fn live(devices: &[DevicePlan]) -> impl Iterator<Item = (String, &DevicePlan)> {
    devices.iter().filter(|device| !device.name.is_empty()).map(|device| (device.name.clone(), device))
}

fn restart(old: &Plan, new: &Plan) -> Vec<&'static str> {
    let GatewayPlan { name, data_dir, time_source, trial: _ } = &new.gateway;
    let mut keys = Vec::new();
    let mut key = |differs: bool, key| keys.extend(differs.then_some(key));
    key(old.gateway.name != *name, "gateway.name");
    key(old.gateway.data_dir != *data_dir, "gateway.data_dir");
    key(old.gateway.time_source != *time_source, "gateway.time_source");
    key(page_door(old) != page_door(new), "status");
    key(old.broker.limits != new.broker.limits, "broker (limits of clients and packets)");
    key(old.broker.sessions != new.broker.sessions, "broker (limits of sessions)");
    keys
}

fn broker_parts(changes: &mut Changes, old: &BrokerPlan, new: &BrokerPlan) {
    let BrokerPlan { listeners, limits: _, users_file: _, acl: _, sessions: _ } = new;
    let (before, after) = (numbered(&old.listeners), numbered(listeners));
    changes
        .named(Part::Listener, pairs(&before), pairs(&after), |old, new| (old != new).then(|| doors::told(old, new)));
}

/// Of the page, what was there at the start and stays: all but for whom it is.
fn page_door(plan: &Plan) -> Option<PagePlan> {
    plan.status.clone().map(|page| PagePlan { anonymous: Anonymous::default(), ..page })
}

fn rights(changes: &mut Changes, old: &Plan, new: &Plan) {
    let mut told = format!("{} rules", new.broker.acl.len());
    let page = |plan: &Plan| plan.status.as_ref().map(|page| page.anonymous);
    let page = (page(old) != page(new)).then(|| page(new)).flatten();
    if let Some(anonymous) = page {
        let _ = write!(told, ", the status page without a login: {anonymous}"); // memory takes everything
    }
    if page.is_some() || old.broker.users_file != new.broker.users_file || old.broker.acl != new.broker.acl {
        changes.add(Part::Rights, "", How::Changed, told);
    }
}

/// The tags of a device that its bus is asked for.
fn own_tags<'a>(plan: &'a Plan, device: &DevicePlan) -> Vec<&'a TagPlan> {
    let all = plan.tags.get(device.tags.clone()).unwrap_or_default();
    all.iter().filter(|tag| tag.is_of_device()).collect()
}

/// Everything that derived tags are made of.
fn derived(plan: &Plan) -> Vec<(TagIx, &TagPlan, &str)> {
    let numbered = plan.live_tags().filter(|(_, tag)| matches!(tag.source, Source::Derived(_)));
    let device = |tag: &TagPlan| plan.device(tag.device).map_or("", |device| device.name.as_str());
    numbered.map(|(ix, tag)| (ix, tag, device(tag))).collect()
}

fn writable(tags: &[TagPlan]) -> std::collections::BTreeSet<&str> {
    tags.iter().filter(|tag| tag.access.writes() && !tag.name.is_empty()).map(|tag| &*tag.topic).collect()
}

/// `2 tags added, 1 changed`
fn tags_told(old: &[&TagPlan], new: &[&TagPlan], same_keys: bool) -> String {
    let known: std::collections::HashMap<&str, &&TagPlan> = old.iter().map(|tag| (tag.name.as_str(), tag)).collect();
    let mut kept = 0;
    let (mut added, mut changed) = (0, 0);
    for tag in new {
        match known.get(tag.name.as_str()) {
            None => added += 1,
            Some(before) => {
                kept += 1;
                // Its place and those of its neighbours are nobody's business.
                let placed = TagPlan { device: before.device, scale_from: before.scale_from, ..(*tag).clone() };
                changed += usize::from(placed != ***before);
            }
        }
    }
    let counted = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let own = (!same_keys).then(|| "its own keys".to_owned());
    let told = [
        own,
        counted(added, "tags added"),
        counted(old.len() - kept, "tags removed"),
        counted(changed, "tags changed"),
    ];
    told.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
