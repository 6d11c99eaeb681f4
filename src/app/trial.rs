//! A reloaded configuration on trial: is what it touched worse off than before? Then the one before comes back.
//!
//! Pure: how things stand is brought. Worse is: a device that answered and does not, an uplink that was connected and can
//! not connect, a listener that is not open, a store that cannot commit any more. What was bad before, and what is new,
//! proves nothing: a new device may not be wired yet. A new listener that cannot be opened does: nothing else will mend it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::difference::{Changes, How, Part};
use crate::config::plan::Plan;
use crate::flow::hub::Standing;
use crate::uplink::UplinkState;

/// What is needed to judge, and to go back.
pub(super) struct Trial {
    /// The last plan that was known to be well, or that nobody had doubts about.
    pub before: Arc<Plan>,
    /// How things stood under it.
    pub stood: Health,
    /// Which trial this is: a later reload begins another one.
    pub number: u64,
}

/// How things stand, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Health {
    pub devices: BTreeMap<String, Standing>,
    pub uplinks: BTreeMap<String, UplinkState>,
    /// Is it open?
    pub listeners: BTreeMap<String, bool>,
    pub store_failed: bool,
}

/// What is worse now, each in a sentence; `changes` are those between the two plans, `new` is the later one.
pub(super) fn worse(before: &Health, now: &Health, changes: &Changes, new: &Plan) -> Vec<String> {
    let mut reasons = Vec::new();
    for device in new.devices.iter().filter(|device| !device.is_hole()) {
        let bus = device.bus.and_then(|bus| new.buses.get(bus.0 as usize)).map_or("", |bus| bus.name.as_str());
        let touched = changes.of(Part::Device, &device.name).is_some() || changes.of(Part::Bus, bus).is_some();
        let answered = before.devices.get(&device.name) == Some(&Standing::Answering);
        let well = matches!(now.devices.get(&device.name), Some(Standing::Answering | Standing::Paused));
        if touched && answered && !well {
            reasons.push(format!("device {} answered and does not now", device.name));
        }
    }
    for (name, state) in &now.uplinks {
        let touched = changes.of(Part::Uplink, name).or(changes.of(Part::Bridge, name)).is_some();
        let connected = before.uplinks.get(name) == Some(&UplinkState::Connected);
        let fails = matches!(state, UplinkState::Connecting | UplinkState::Disabled);
        if touched && connected && fails {
            reasons.push(format!("uplink {name} was connected and cannot connect now"));
        }
    }
    for (name, open) in &now.listeners {
        let touched = changes.of(Part::Listener, name);
        let was_shut = before.listeners.get(name) == Some(&false);
        if !open && (touched == Some(How::Added) || touched == Some(How::Changed) && !was_shut) {
            reasons.push(format!("listener {name} cannot be opened"));
        }
    }
    if now.store_failed && !before.store_failed {
        reasons.push("the store cannot commit".to_owned());
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::difference::Change;
    use crate::config::plan::{BusLink, BusPlan, DevicePlan};
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
        let cloud = |state| Health { uplinks: [("cloud".to_owned(), state)].into(), ..Health::default() };
        let touched = changes(&[(Part::Uplink, "cloud", How::Changed)]);
        let judge = |then, now| worse(&cloud(then), &cloud(now), &touched, &plan).len();
        assert_eq!(judge(UplinkState::Connected, UplinkState::Connecting), 1);
        assert_eq!(judge(UplinkState::Connected, UplinkState::Paused), 0, "it may not");
        assert_eq!(judge(UplinkState::Connecting, UplinkState::Connecting), 0, "no link");
        let failed = Health { store_failed: true, ..Health::default() };
        assert_eq!(worse(&Health::default(), &failed, &changes(&[]), &plan).len(), 1);
    }
}
