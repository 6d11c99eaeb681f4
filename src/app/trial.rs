//! A reloaded configuration on trial: is what it touched worse off than before? Then the one before comes back.
//!
//! Pure: how things stand is brought. Worse is: a device that answered and is down, an uplink that was connected and has
//! not been since, a listener that is not open, a users file that cannot be read, a store that cannot commit any more, a bus
//! that it made fail inside the gateway. What
//! was bad before, and what is new, proves nothing: a new device may not be wired yet. A new listener that cannot be opened
//! does: nothing else will mend it. Nor does one lost frame, or a device whose turn has not come: of these nothing can be
//! said yet. An uplink tries again with growing pauses, so one that has not connected is looked at until the last look; and
//! one whose way there is the same as before says nothing as long as nobody answers at its other end: that is the link.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::Text;
use crate::config::difference::{Changes, How, Part};
use crate::config::plan::{DevicePlan, Plan, UplinkPlan};
use crate::flow::hub::Standing;
use crate::uplink::UplinkState;

/// What is needed to judge, and to go back.
pub(super) struct Trial {
    /// The last plan that was known to be well, or that nobody had doubts about.
    pub before: Arc<Plan>,
    /// What that was read from.
    pub texts: Arc<Vec<Text>>,
    /// How things stood under it.
    pub stood: Health,
    /// Which trial this is: a later reload begins another one.
    pub number: u64,
}

/// How things stand, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Health {
    pub devices: BTreeMap<String, Standing>,
    pub uplinks: BTreeMap<String, Link>,
    /// Is it open?
    pub listeners: BTreeMap<String, bool>,
    /// There is a users file, and it could not be read: those who are known stay, and a restart knows nobody.
    pub users_unread: bool,
    pub store_failed: bool,
    /// The buses that panicked lately.
    pub restarted: BTreeSet<String>,
}

/// How an uplink or a bridge stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub state: UplinkState,
    /// It has been connected since it began.
    pub was_connected: bool,
    /// Nobody answered its last attempt.
    pub unreached: bool,
}

/// What a trial has shown so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Verdict {
    /// What is worse, each in a sentence.
    pub worse: Vec<String>,
    /// Of these nothing can be said yet.
    pub open: Vec<String>,
    /// This is worse if it is still so at the last look.
    pub late: Vec<String>,
}

/// Of two moments, under two plans, and what changed between these.
pub(super) fn judge(before: &Health, now: &Health, changes: &Changes, (old, new): (&Plan, &Plan)) -> Verdict {
    let mut verdict = devices(before, now, changes, new);
    uplinks(&mut verdict, (before, now), changes, (old, new));
    let worse = &mut verdict.worse;
    for bus in now.restarted.difference(&before.restarted).filter(|bus| touches(changes, bus, new)) {
        worse.push(format!("bus {bus} failed inside the gateway"));
    }
    for (name, open) in &now.listeners {
        let touched = changes.of(Part::Listener, name);
        let was_shut = before.listeners.get(name) == Some(&false);
        if !open && (touched == Some(How::Added) || touched == Some(How::Changed) && !was_shut) {
            worse.push(format!("listener {name} cannot be opened"));
        }
    }
    if now.users_unread && !before.users_unread && changes.any(Part::Rights) {
        worse.push("the users file cannot be read".to_owned());
    }
    if now.store_failed && !before.store_failed {
        worse.push("the store cannot commit".to_owned());
    }
    verdict
}

/// The bus itself, or one of its devices.
fn touches(changes: &Changes, bus: &str, new: &Plan) -> bool {
    let on_it = |device: &DevicePlan| device.bus.and_then(|ix| new.bus(ix)).is_some_and(|it| it.name == bus);
    let touched = |name: &str| changes.of(Part::Device, name).is_some();
    changes.of(Part::Bus, bus).is_some() || new.live_devices().any(|(_, device)| on_it(device) && touched(&device.name))
}

fn uplinks(verdict: &mut Verdict, (before, now): (&Health, &Health), changes: &Changes, (old, new): (&Plan, &Plan)) {
    for (name, link) in now.uplinks.iter().filter(|(_, link)| !link.was_connected) {
        let touched = changes.of(Part::Uplink, name).or(changes.of(Part::Bridge, name)).is_some();
        let connected = before.uplinks.get(name).is_some_and(|link| link.state == UplinkState::Connected);
        if !touched || !connected {
            continue;
        }
        let fails = || format!("uplink {name} was connected and cannot connect now");
        let same_way = uplink(old, name).zip(uplink(new, name)).is_some_and(|(old, new)| has_same_way(old, new));
        match link.state {
            UplinkState::Disabled => verdict.worse.push(fails()), // a file, and nothing mends it by itself
            UplinkState::Connecting if link.unreached && same_way => verdict.open.push(name.clone()),
            UplinkState::Connecting => verdict.late.push(fails()),
            UplinkState::Connected | UplinkState::Paused | UplinkState::Stopped => {}
        }
    }
}

/// Or the connection of a bridge.
fn uplink<'a>(plan: &'a Plan, name: &str) -> Option<&'a UplinkPlan> {
    plan.connections().find(|uplink| uplink.name == name)
}

/// Does it go to the same place, by the same way, and as the same client?
fn has_same_way(old: &UplinkPlan, new: &UplinkPlan) -> bool {
    old.servers == new.servers
        && old.tls == new.tls
        && old.proxy == new.proxy
        && old.paths == new.paths
        && old.preset == new.preset
        && old.mqtt_version == new.mqtt_version
        && (&old.client_id, &old.username) == (&new.client_id, &new.username)
        && (&old.password_file, &old.sas_key_file) == (&new.password_file, &new.sas_key_file)
}

fn devices(before: &Health, now: &Health, changes: &Changes, new: &Plan) -> Verdict {
    let mut verdict = Verdict::default();
    for (_, device) in new.live_devices() {
        let bus = device.bus.and_then(|bus| new.bus(bus)).map_or("", |bus| bus.name.as_str());
        let touched = changes.of(Part::Device, &device.name).is_some() || changes.of(Part::Bus, bus).is_some();
        let answered = before.devices.get(&device.name) == Some(&Standing::Answering);
        if !touched || !answered {
            continue;
        }
        match now.devices.get(&device.name) {
            Some(Standing::Answering | Standing::Paused) => {}
            Some(Standing::Down) => verdict.worse.push(format!("device {} answered and does not now", device.name)),
            Some(Standing::Suspect) | None => verdict.open.push(device.name.clone()),
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::difference::Change;
    use crate::config::plan::{BusLink, BusPlan};
    use crate::model::tag::BusIx;

    fn changes(touched: &[(Part, &str, How)]) -> Changes {
        let change = |(part, name, how): &(Part, &str, How)| Change {
            part: *part,
            name: (*name).to_owned(),
            how: *how,
            detail: String::new(),
        };
        Changes { restart: Vec::new(), touched: touched.iter().map(change).collect() }
    }

    fn worse(before: &Health, now: &Health, changes: &Changes, new: &Plan) -> Vec<String> {
        judge(before, now, changes, (new, new)).worse
    }

    #[test]
    fn one_lost_frame_and_a_turn_that_has_not_come_are_no_verdict() {
        let buses = vec![BusPlan::plain("net", BusLink::tcp("x:1"))];
        let devices = vec![DevicePlan::plain("pump", BusIx(0), 1), DevicePlan::plain("fan", BusIx(0), 2)];
        let plan = Plan { buses, devices, ..Plan::empty("gw") };
        let health = |all: &[(&str, Standing)]| Health {
            devices: all.iter().map(|(name, it)| ((*name).to_owned(), *it)).collect(),
            ..Health::default()
        };
        let before = health(&[("pump", Standing::Answering), ("fan", Standing::Answering)]);
        let bus = changes(&[(Part::Bus, "net", How::Changed)]);
        let verdict = judge(&before, &health(&[("pump", Standing::Suspect)]), &bus, (&plan, &plan));
        assert_eq!(verdict, Verdict { open: vec!["pump".to_owned(), "fan".to_owned()], ..Verdict::default() });
        let now = health(&[("pump", Standing::Answering), ("fan", Standing::Down)]);
        let verdict = judge(&before, &now, &bus, (&plan, &plan));
        assert_eq!((verdict.worse.len(), verdict.open.len()), (1, 0));
    }

    #[test]
    fn only_what_was_touched_and_was_well_is_a_reason() {
        let buses = vec![BusPlan::plain("net", BusLink::tcp("x:1")), BusPlan::plain("far", BusLink::tcp("y:1"))];
        let device = |name, bus| DevicePlan::plain(name, BusIx(bus), 1);
        let devices = vec![device("pump", 0), device("fan", 0), device("tank", 1)];
        let plan = Plan { buses, devices, ..Plan::empty("gw") };
        let standing = |all: &[(&str, Standing)]| all.iter().map(|(name, it)| ((*name).to_owned(), *it)).collect();
        let well = Health {
            devices: standing(&[("pump", Standing::Answering), ("fan", Standing::Down), ("tank", Standing::Answering)]),
            ..Health::default()
        };
        let ill = Health { devices: standing(&[("pump", Standing::Down)]), ..Health::default() };
        let bus = changes(&[(Part::Bus, "net", How::Changed)]);
        assert_eq!(worse(&well, &ill, &bus, &plan), ["device pump answered and does not now"]);
        assert!(worse(&well, &ill, &changes(&[]), &plan).is_empty(), "nobody touched it");
        assert!(worse(&ill, &ill, &bus, &plan).is_empty(), "it was dead before");
        assert!(worse(&well, &well, &bus, &plan).is_empty());
        let door = |open| Health { listeners: [("0.0.0.0:1883".to_owned(), open)].into(), ..Health::default() };
        let added = changes(&[(Part::Listener, "0.0.0.0:1883", How::Added)]);
        assert_eq!(worse(&well, &door(false), &added, &plan), ["listener 0.0.0.0:1883 cannot be opened"]);
        assert!(worse(&well, &door(true), &added, &plan).is_empty());
        let changed = changes(&[(Part::Listener, "0.0.0.0:1883", How::Changed)]);
        assert!(worse(&door(false), &door(false), &changed, &plan).is_empty(), "it was shut before");
        let failed = Health { store_failed: true, ..Health::default() };
        assert_eq!(worse(&Health::default(), &failed, &changes(&[]), &plan).len(), 1);
    }

    #[test]
    fn a_bus_that_failed_under_the_new_plan_is_a_reason_if_that_touched_it() {
        let buses = ["net", "far"].map(|name| BusPlan::plain(name, BusLink::tcp("x:1"))).into();
        let plan = Plan { buses, devices: vec![DevicePlan::plain("pump", BusIx(0), 1)], ..Plan::empty("gw") };
        let failed = Health { restarted: ["net".to_owned()].into(), ..Health::default() };
        let touched = |part, name| changes(&[(part, name, How::Changed)]);
        for it in [touched(Part::Bus, "net"), touched(Part::Device, "pump")] {
            assert_eq!(worse(&Health::default(), &failed, &it, &plan), ["bus net failed inside the gateway"]);
            assert!(worse(&failed, &failed, &it, &plan).is_empty(), "it failed before");
        }
        assert!(worse(&Health::default(), &failed, &touched(Part::Bus, "far"), &plan).is_empty(), "another one");
    }

    #[test]
    fn a_users_file_that_cannot_be_read_any_more_is_a_reason_where_the_plan_names_another_one() {
        let (read, unread) = (Health::default(), Health { users_unread: true, ..Health::default() });
        let (rights, plan) = (changes(&[(Part::Rights, "", How::Changed)]), Plan::empty("gw"));
        assert_eq!(worse(&read, &unread, &rights, &plan), ["the users file cannot be read"]);
        assert!(worse(&read, &unread, &changes(&[]), &plan).is_empty(), "the file itself has become bad");
        assert!(worse(&unread, &unread, &rights, &plan).is_empty(), "it was bad before");
    }

    #[test]
    fn an_uplink_has_until_the_last_look_and_one_whose_way_is_the_same_is_not_blamed_for_the_link() {
        let health = |state, was_connected, unreached| {
            let link = Link { state, was_connected, unreached };
            Health { uplinks: [("cloud".to_owned(), link)].into(), ..Health::default() }
        };
        let touched = changes(&[(Part::Uplink, "cloud", How::Changed)]);
        let plan = |change: &dyn Fn(&mut UplinkPlan)| {
            let mut uplink = UplinkPlan::plain("cloud");
            change(&mut uplink);
            Plan { uplinks: vec![uplink], ..Plan::empty("gw") }
        };
        let (old, other) = (plan(&|_| {}), plan(&|uplink| uplink.topic_prefix = "eu/".to_owned()));
        let elsewhere = plan(&|uplink| uplink.client_id = "somebody".to_owned());
        let was = health(UplinkState::Connected, true, false);
        let count = |before: &Health, now: &Health, new: &Plan| {
            let Verdict { worse, open, late } = judge(before, now, &touched, (&old, new));
            (worse.len(), open.len(), late.len())
        };
        let away = health(UplinkState::Connecting, false, true);
        assert_eq!(count(&was, &away, &other), (0, 1, 0), "the link is away");
        assert_eq!(count(&was, &away, &elsewhere), (0, 0, 1), "it may be the new way");
        let refused = health(UplinkState::Connecting, false, false);
        assert_eq!(count(&was, &refused, &other), (0, 0, 1), "somebody is there and does not want it");
        assert_eq!(count(&was, &health(UplinkState::Disabled, false, false), &other), (1, 0, 0), "a file");
        assert_eq!(count(&was, &health(UplinkState::Connecting, true, true), &other), (0, 0, 0), "it dials again");
        assert_eq!(count(&was, &health(UplinkState::Paused, false, false), &other), (0, 0, 0), "it may not");
        assert_eq!(count(&away, &refused, &elsewhere), (0, 0, 0), "no link before");
    }
}
