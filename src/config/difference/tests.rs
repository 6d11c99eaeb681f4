//! Two plans side by side: what is told of them, and what stays in place, for many small plants.

use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::{HostFacts, parse};

/// A tag of the small plants that are compared here.
#[derive(Debug, Clone, PartialEq)]
struct Tag {
    name: u8,
    address: u16,
    kind: u8,
}

#[derive(Debug, Clone)]
struct Device {
    bus: u8,
    unit: u8,
    poll: u8,
    tags: Vec<Tag>,
    sum: bool,
}

/// By name, so that order and places do not count.
#[derive(Debug, Clone)]
struct Plant {
    buses: Vec<(u8, u8)>,
    devices: Vec<(u8, Device)>,
    uplinks: Vec<(u8, u8)>,
    doors: Vec<(u8, bool)>,
    acl: u8,
}

fn text(plant: &Plant) -> String {
    let mut text = "[gateway]\nname = \"gw\"\ndata_dir = \"/data\"\n[broker]\nusers_file = \"users\"\n".to_owned();
    for (port, read) in &plant.doors {
        let rights = if *read { "read" } else { "none" };
        let _ = write!(
            text,
            "[[broker.listener]]\nlisten = \"127.0.0.1:{}\"\nanonymous = \"{rights}\"\n",
            2000 + u16::from(*port)
        );
    }
    for rule in 0..plant.acl {
        let _ = write!(text, "[[broker.acl]]\nuser = \"u{rule}\"\nread = [\"#\"]\n");
    }
    for (name, host) in &plant.uplinks {
        let _ = write!(text, "[[uplink]]\nname = \"up{name}\"\nurl = \"mqtt://host{host}\"\nclient_id = \"c{name}\"\n");
    }
    for (name, timeout) in &plant.buses {
        let port = 1000 + u16::from(*name);
        let _ = write!(
            text,
            "[[bus]]\nname = \"bus{name}\"\ntype = \"modbus-tcp\"\nendpoint = \"127.0.0.1:{port}\"\nresponse_timeout = \"{}ms\"\n",
            100 + u16::from(*timeout)
        );
    }
    for (name, device) in &plant.devices {
        let Some((bus, _)) = plant.buses.get(usize::from(device.bus) % plant.buses.len().max(1)) else { continue };
        let _ = write!(
            text,
            "[[device]]\nname = \"dev{name}\"\nbus = \"bus{bus}\"\nunit_id = {}\npoll = \"{}s\"\n",
            device.unit,
            1 + device.poll
        );
        for tag in &device.tags {
            let kind = ["uint16", "int16", "float32"][usize::from(tag.kind % 3)];
            let _ = write!(
                text,
                "[[device.tag]]\nname = \"t{}\"\naddress = \"holding:{}\"\ntype = \"{kind}\"\n",
                tag.name, tag.address
            );
        }
        if let (true, Some(tag)) = (device.sum, device.tags.first()) {
            let _ = write!(text, "[[device.tag]]\nname = \"sum\"\nexpression = \"{{t{}}} + 1\"\n", tag.name);
        }
    }
    text
}

fn plan(text: &str) -> Plan {
    match parse(text, Path::new("plant.toml"), &HostFacts { hostname: "box".into(), credentials_dir: None }) {
        Ok(loaded) => loaded.plan,
        Err(problems) => panic!("{problems}\n{text}"),
    }
}

/// A plan without places: everything by its name, in the order of names.
fn named(plan: &Plan) -> Vec<String> {
    let tag = |ix: &TagIx| {
        let tag = &plan[*ix];
        format!("{}/{}", plan[tag.device].name, tag.name)
    };
    let mut all: Vec<String> = Vec::new();
    all.extend(plan.buses.iter().filter(|bus| !bus.name.is_empty()).map(|bus| format!("{bus:?}")));
    for device in plan.devices.iter().filter(|device| !device.is_hole()) {
        let bus = device.bus.map(|bus| plan[bus].name.clone());
        all.push(format!("{:?} on {bus:?}", DevicePlan { bus: None, tags: 0..0, ..device.clone() }));
        for one in &plan.tags[device.tags.clone()] {
            let inputs = match &one.source {
                Source::Derived(derivation) => derivation.inputs.iter().map(tag).collect(),
                _ => Vec::new(),
            };
            let plain = TagPlan { device: crate::model::tag::DeviceIx(0), ..one.clone() };
            let source = if inputs.is_empty() { format!("{:?}", plain.source) } else { inputs.join("+") };
            let plain = TagPlan { source: Source::Field(String::new()), ..plain };
            all.push(format!("{} {plain:?} {source}", device.name));
        }
    }
    all.sort();
    all
}

fn plant() -> impl Strategy<Value = Plant> {
    let tag = (0u8..6, 0u16..50, 0u8..3).prop_map(|(name, address, kind)| Tag { name, address: address * 2, kind });
    let tags = proptest::collection::btree_map(0u8..6, tag, 1..4)
        .prop_map(|tags| tags.into_iter().map(|(name, tag)| Tag { name, ..tag }).collect());
    let device = (0u8..3, 0u8..3, tags, any::<bool>()).prop_map(|(bus, poll, tags, sum)| Device {
        bus,
        unit: 0,
        poll,
        tags,
        sum,
    });
    let devices = proptest::collection::btree_map(0u8..5, device, 0..5).prop_map(|devices| {
        devices.into_iter().map(|(name, device)| (name, Device { unit: name + 1, ..device })).collect::<Vec<_>>()
    });
    let some = |count| proptest::collection::btree_map(0u8..3, 0u8..2, 0..count);
    (proptest::collection::btree_map(0u8..3, 0u8..2, 1..3), devices, some(3), some(3), 0u8..3).prop_map(
        |(buses, devices, uplinks, doors, acl)| Plant {
            buses: buses.into_iter().collect(),
            devices,
            uplinks: uplinks.into_iter().collect(),
            doors: doors.into_iter().map(|(port, read)| (port, read == 1)).collect(),
            acl,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_arranged_plan_means_the_same_and_what_is_not_named_is_equal_at_its_place(plants in proptest::collection::vec(plant(), 2..6)) {
        let mut running = plan(&text(&plants[0]));
        for next in &plants[1..] {
            let natural = plan(&text(next));
            let new = arranged(&running, natural.clone());
            prop_assert_eq!(named(&new), named(&natural));
            prop_assert!(arranged(&new, natural.clone()) == new, "once more changes nothing");
            prop_assert!(difference(&new, &arranged(&new, natural)).is_empty());
            let changes = difference(&running, &new);
            untouched_are_equal(&running, &new, &changes)?;
            places_are_never_given_away(&running, &new)?;
            let back = arranged(&new, running.clone());
            prop_assert_eq!(named(&back), named(&running), "and back");
            places_are_never_given_away(&new, &back)?;
            running = new;
        }
    }
}

fn untouched_are_equal(old: &Plan, new: &Plan, changes: &Changes) -> Result<(), TestCaseError> {
    for (at, bus) in new.buses.iter().enumerate().filter(|(_, bus)| !bus.name.is_empty()) {
        if changes.of(Part::Bus, &bus.name).is_none() {
            prop_assert_eq!(Some(bus), old.buses.get(at));
        }
    }
    for (at, device) in new.devices.iter().enumerate().filter(|(_, device)| !device.is_hole()) {
        if changes.of(Part::Device, &device.name).is_none() && !changes.any(Part::Derived) {
            prop_assert_eq!(Some(device), old.devices.get(at));
            prop_assert_eq!(&new.tags[device.tags.clone()], &old.tags[device.tags.clone()]);
        }
    }
    for (name, listener) in numbered(&new.broker.listeners) {
        if changes.of(Part::Listener, &name).is_none() {
            prop_assert!(old.broker.listeners.contains(&listener));
        }
    }
    for uplink in new.uplinks.iter().filter(|uplink| changes.of(Part::Uplink, &uplink.name).is_none()) {
        prop_assert!(old.uplinks.contains(uplink));
    }
    prop_assert!(changes.any(Part::Rights) || old.broker.acl == new.broker.acl);
    for change in &changes.touched {
        let (before, after) = match change.part {
            Part::Bus => (
                old.buses.iter().any(|bus| bus.name == change.name),
                new.buses.iter().any(|bus| bus.name == change.name),
            ),
            Part::Device => {
                let has = |plan: &Plan| plan.devices.iter().any(|device| device.name == change.name);
                (has(old), has(new))
            }
            _ => continue,
        };
        prop_assert_eq!((before, after), (change.how != How::Added, change.how != How::Removed), "{}", change);
    }
    Ok(())
}

fn places_are_never_given_away(old: &Plan, new: &Plan) -> Result<(), TestCaseError> {
    for (before, after) in old.tags.iter().zip(&new.tags) {
        let same = (&before.name, &before.topic, before.data_type, before.class, before.device)
            == (&after.name, &after.topic, after.data_type, after.class, after.device);
        prop_assert!(same || after.is_hole(), "{} became {}", before.topic, after.topic);
    }
    for (before, after) in old.devices.iter().zip(&new.devices) {
        prop_assert!(before.name == after.name || after.is_hole());
    }
    prop_assert!(new.tags.len() >= old.tags.len() && new.devices.len() >= old.devices.len());
    Ok(())
}

const BASE: &str = r#"
    [gateway]
    name = "gw"
    data_dir = "/data"
    [[uplink]]
    name = "cloud"
    url = "mqtt://one"
    client_id = "gw"
    commands = true
    [[bus]]
    name = "net"
    type = "modbus-tcp"
    endpoint = "127.0.0.1:1"
    [[device]]
    name = "pump"
    bus = "net"
    unit_id = 1
    [[device.tag]]
    name = "speed"
    address = "holding:1"
    type = "uint16"
    [[device]]
    name = "fan"
    bus = "net"
    unit_id = 2
    [[device.tag]]
    name = "speed"
    address = "holding:1"
    type = "uint16"
    access = "read-write"
"#;

fn told(from: &str, to: &str) -> Vec<String> {
    let old = plan(from);
    let new = arranged(&old, plan(to));
    difference(&old, &new).to_string().lines().map(str::to_owned).collect()
}

#[test]
fn what_changed_is_told_part_by_part() {
    assert!(told(BASE, BASE).is_empty());
    let changed = BASE.replacen("unit_id = 1", "unit_id = 7", 1);
    assert_eq!(told(BASE, &changed), ["device pump changed: its own keys"]);
    let more =
        BASE.replacen("type = \"uint16\"", "type = \"uint16\"\n[[device.tag]]\nname = \"x\"\naddress = \"coil:0\"", 1);
    assert_eq!(told(BASE, &more), ["device pump changed: 1 tags added"]);
    assert_eq!(told(&more, BASE), ["device pump changed: 1 tags removed"]);
    let commands = BASE.replacen("access = \"read-write\"", "", 1);
    assert_eq!(
        told(BASE, &commands),
        ["device fan changed: 1 tags changed", "uplink cloud changed: other tags take commands"]
    );
    assert_eq!(told(BASE, &BASE.replace("127.0.0.1:1", "127.0.0.1:2")), ["bus net changed"]);
    assert_eq!(told(BASE, &BASE.replace("mqtt://one", "mqtt://two")), ["uplink cloud changed"]);
    let derived = format!(
        "{BASE}[[device]]\nname = \"sum\"\n[[device.tag]]\nname = \"all\"\nexpression = \"{{pump/speed}} + 1\"\n"
    );
    assert_eq!(told(BASE, &derived), ["device sum added", "derived tags added: 0 before, 1 now"]);
}

#[test]
fn what_needs_a_restart_is_named_by_its_key() {
    let moved = BASE.replace("/data", "/other").replace("name = \"gw\"", "name = \"hw\"\ntopic = \"a/{device}/{tag}\"");
    let told = told(BASE, &moved);
    assert_eq!(told[..2], ["gateway.name changed: needs a restart", "gateway.data_dir changed: needs a restart"]);
}

#[test]
fn the_first_users_file_closes_a_page_that_nobody_spoke_of_without_a_restart() {
    let users = "[broker]\nusers_file = \"users\"\n";
    for page in ["", "[status]\nlisten = \"127.0.0.1:8081\"\n"] {
        let (before, after) = (format!("{BASE}{page}"), format!("{BASE}{page}{users}"));
        assert_eq!(told(&before, &after), ["rights changed: 0 rules, the status page without a login: none"]);
        assert_eq!(told(&after, &before), ["rights changed: 0 rules, the status page without a login: read"]);
    }
    assert_eq!(told(BASE, &format!("{BASE}[status]\nlisten = \"off\"\n")), ["status changed: needs a restart"]);
}

#[test]
fn a_device_moved_to_another_bus_keeps_its_places_and_is_touched() {
    let two = format!("{BASE}[[bus]]\nname = \"other\"\ntype = \"modbus-tcp\"\nendpoint = \"127.0.0.1:2\"\n");
    let old = plan(&two);
    let new = arranged(&old, plan(&two.replacen("bus = \"net\"", "bus = \"other\"", 1)));
    assert_eq!(difference(&old, &new).touched.len(), 1);
    assert_eq!(old.devices[0].tags, new.devices[0].tags);
    assert_eq!(holes(&new), 0);
}

#[test]
fn a_listener_with_a_free_port_has_a_name_of_its_own() {
    let listener = plan(BASE).broker.listeners[0].clone();
    let names: Vec<String> = numbered(&[listener.clone(), listener]).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["127.0.0.1:1883", "127.0.0.1:1883 (2)"]);
}

#[test]
fn another_pace_of_commits_exchanges_no_bridge() {
    let bridge = "[[bridge]]\nname = \"far\"\nurl = \"mqtt://far\"\n[[bridge.topic]]\nfilter = \"o/#\"\n";
    let text = |pace: &str| format!("{BASE}[store]\ncommit_interval = \"{pace}\"\n{bridge}");
    assert_eq!(told(&text("1s"), &text("2s")), ["store changed"]);
}

/// The second plan after the first one: has the first tag kept its place, and its values?
fn kept_of(before: &Plan, text: &str) -> (bool, bool) {
    let after = arranged(before, plan(text));
    let place = |plan: &Plan| plan.devices[0].tags.start;
    let at = place(&after);
    (at == place(before), kept(before, &after).contains(&TagIx(u32::try_from(at).expect("few"))))
}

#[test]
fn a_tag_that_means_something_else_has_another_place_and_none_of_its_values() {
    let tag = |keys: &str| BASE.replacen("type = \"uint16\"", &format!("type = \"uint16\"\n{keys}"), 1);
    let with_factor = |at: u16| {
        tag(&format!(
            "scale_from = \"sf\"\n[[device.tag]]\nname = \"sf\"\naddress = \"holding:{at}\"\ntype = \"int16\""
        ))
    };
    let base = plan(BASE);
    for keys in ["poll = \"9s\"", "deadband = 1.0", "max = 5.0", "description = \"x\"", "access = \"read-write\""] {
        assert_eq!(kept_of(&base, &tag(keys)), (true, true), "{keys}");
    }
    for keys in [
        "scale = 0.1",
        "offset = 1.0",
        "unit = \"bar\"",
        "nan = [\"0xFFFF\"]",
        "mask = \"0x000F\"",
        "access = \"write\"",
    ] {
        assert_eq!(kept_of(&base, &tag(keys)), (false, false), "{keys}");
        assert_eq!(kept_of(&plan(&tag(keys)), BASE), (false, false), "and back from {keys}");
        assert_eq!(kept_of(&plan(&tag(keys)), &tag(keys)), (true, true), "the same: {keys}");
    }
    assert_eq!(kept_of(&base, &BASE.replacen("holding:1", "holding:2", 1)), (false, false));
    assert_eq!(kept_of(&base, &BASE.replacen("unit_id = 1", "unit_id = 7", 1)), (false, false));
    let swapped =
        |order: &str| BASE.replacen("type = \"uint16\"", &format!("type = \"float32\"\norder = \"{order}\""), 1);
    assert_eq!(kept_of(&plan(&swapped("ABCD")), &swapped("CDAB")), (false, false));
    assert_eq!(kept_of(&plan(&with_factor(5)), &with_factor(5)), (true, true));
    assert_eq!(kept_of(&plan(&with_factor(5)), &with_factor(6)), (false, false), "another scale factor");
    let more = tag("[[device.tag]]\nname = \"x\"\naddress = \"coil:0\"");
    assert_eq!(kept_of(&base, &more), (false, true), "another sheet has other places; what is read alike is the same");
}

#[test]
fn what_is_derived_follows_its_tags() {
    let station = |flow: &str, of: &str| {
        let flow = BASE.replacen("type = \"uint16\"", &format!("type = \"uint16\"\n{flow}"), 1);
        format!(
            "{flow}[[device]]\nname = \"station\"\n[[device.tag]]\nname = \"twice\"\nexpression = \"{{q}} * 2\"\n\
             [[device.tag]]\nname = \"q\"\nexpression = \"{of}\"\n\
             [[device.tag]]\nname = \"other\"\nexpression = \"{{fan/speed}}\"\n"
        )
    };
    let before = plan(&station("", "{pump/speed} / 1000"));
    let kept_under = |text: &str| {
        let after = arranged(&before, plan(text));
        let kept = kept(&before, &after);
        let derived = after.tags.iter().zip(0..).filter(|(tag, _)| !tag.is_hole() && !tag.is_of_device());
        let stays: Vec<String> =
            derived.filter(|(_, ix)| kept.contains(&TagIx(*ix))).map(|(tag, _)| tag.name.clone()).collect();
        assert_eq!(before.devices[2].tags, after.devices[2].tags, "it has its places");
        stays
    };
    assert_eq!(kept_under(&station("", "{pump/speed} / 1000")), ["twice", "q", "other"]);
    assert_eq!(kept_under(&station("poll = \"9s\"", "{pump/speed} / 1000")), ["twice", "q", "other"]);
    assert_eq!(kept_under(&station("scale = 0.001", "{pump/speed} / 1000")), ["other"]);
    assert_eq!(kept_under(&station("", "{pump/speed}")), ["other"]);
    assert_eq!(kept_under(&station("", "{fan/speed} / 1000")), ["other"]);
}
