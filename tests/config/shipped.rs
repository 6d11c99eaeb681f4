//! The files we ship are right: the starting configuration and the register maps.

use std::collections::BTreeSet;
use std::path::Path;

#[cfg(feature = "mqtt-sn")]
use ironbridge::config::plan::Anonymous;
use ironbridge::config::plan::{BrokerLimits, Plan};
use ironbridge::config::{self, HostFacts, Loaded, Problems, schema};
use ironbridge::model::tag::{DataType, Order, Table};

const SHIPPED: &str = include_str!("../../config/ironbridge.toml");

/// What packages install as the configuration of a new box.
const MINIMAL: &str = include_str!("../../config/minimal.toml");

fn parse(text: &str) -> Result<Loaded, Problems> {
    let facts = HostFacts { hostname: "box-7".into(), credentials_dir: None };
    config::parse(text, Path::new("/etc/ironbridge/ironbridge.toml"), &facts)
}

fn plan(text: &str) -> Plan {
    parse(text).unwrap_or_else(|problems| panic!("{problems}")).plan
}

/// A switched-off setting begins with `#` and no blank.
fn switched_on(which: impl Fn(&str) -> bool) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with([' ', '#']) && which(line) => setting.to_owned(),
        _ => line.to_owned(),
    };
    SHIPPED.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Settings that exclude another one that is shown beside them.
fn is_alternative(line: &str) -> bool {
    ["# instead of", "# with preset", "# with format"].iter().any(|other| line.contains(other))
}

fn works(line: &str) -> bool {
    !is_alternative(line)
}

fn paths(table: &toml::Table, above: &str, into: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match value {
            toml::Value::Table(_) if key == "map" => {} // its keys are numbers
            toml::Value::Table(below) => paths(below, &path, into),
            toml::Value::Array(items) => {
                items.iter().filter_map(toml::Value::as_table).for_each(|below| paths(below, &path, into));
            }
            _ => {}
        }
        into.insert(path);
    }
}

#[test]
fn the_shipped_file_checks_as_it_stands() {
    let plan = plan(SHIPPED);
    assert_eq!(plan.gateway.name, "box-7");
    assert_eq!(plan.broker.listeners.len(), 1);
    assert_eq!(
        plan.tags.iter().map(|tag| &*tag.topic).collect::<Vec<_>>(),
        ["box-7/plc-1/pressure", "box-7/plc-1/setpoint", "box-7/plc-1/running"]
    );
    assert!(plan.uplinks.is_empty());
}

#[test]
fn the_shipped_file_names_every_key() {
    let all: toml::Table = toml::from_str(&switched_on(|_| true)).expect("everything switched on is TOML");
    let mut named = BTreeSet::new();
    paths(&all, "", &mut named);
    assert_eq!(named, schema::all_paths().into_iter().collect());
}

#[test]
fn the_shipped_file_names_every_type_of_bus() {
    let refused = parse("[[bus]]\nname = \"b\"\ntype = \"?\"\nendpoint = \"h\"").expect_err("no such type").to_string();
    let (_, behind) = refused.split_once("allowed: modbus-tcp, ").expect("the types are listed");
    let (_, about) = SHIPPED.split_once("# A bus is one connection").expect("how a bus is written");
    let (about, _) = about.split_once("[[bus]]").expect("and an example");
    let named: BTreeSet<_> = about.split(|c: char| !c.is_alphanumeric() && c != '-').collect();
    for kind in behind.lines().next().expect("a line").split(", ") {
        assert!(named.contains(kind), "{kind} is missing in\n{about}");
    }
}

#[test]
fn everything_works_when_it_is_switched_on() {
    let plan = plan(&switched_on(works));
    assert_eq!((plan.uplinks.len(), plan.buses.len(), plan.devices.len()), (1, 4, 4));
    assert_eq!(plan.uplinks[0].client_id, "box-7");
    assert_eq!(plan.broker.acl.len(), 1);
    assert_eq!(plan.status.as_ref().map(ToString::to_string).as_deref(), Some("https://127.0.0.1:8080"));
    let doors: Vec<String> = plan.broker.listeners.iter().map(ToString::to_string).collect();
    let expected = [
        "mqtt://127.0.0.1:1883",
        "mqtts://0.0.0.0:8883",
        "ws://127.0.0.1:9001",
        "quic://0.0.0.0:14567",
        "mqtt+unix:/run/ironbridge-clients/mqtt.sock",
        "mqtt-sn://0.0.0.0:1884",
    ];
    assert_eq!(doors, expected);
    assert_eq!(plan.broker.limits, BrokerLimits { keep_alive_max: Some(600), ..BrokerLimits::default() });
}

#[test]
fn the_defaults_in_the_shipped_file_are_the_defaults() {
    let shipped = plan(SHIPPED);
    let bare = plan(
        "[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"h\"\n[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = 1\n[[device.tag]]\nname = \"t\"\naddress = \"coil:1\"",
    );
    assert_eq!(bare.gateway, shipped.gateway);
    assert_eq!(bare.store, shipped.store);
    assert_eq!(bare.broker, shipped.broker);
    assert_eq!(bare.status, shipped.status);
    assert_eq!(bare.buses[0].response_timeout, shipped.buses[0].response_timeout);
    assert_eq!(bare.devices[0].max_registers_per_read, shipped.devices[0].max_registers_per_read);
    assert_eq!(bare.devices[0].manners, shipped.devices[0].manners);
    assert_eq!(bare.buses[0].habits, shipped.buses[0].habits);
    assert_eq!(&*bare.tags[0].topic, "box-7/d/t");
    let uplink = "[[uplink]]\nname = \"cloud\"\nurl = \"mqtts://broker.example.com\"\nca_file = \"cloud-ca.pem\"";
    let bare = plan(uplink).uplinks.remove(0);
    let full = plan(&switched_on(works)).uplinks.remove(0);
    // What has no default: it is there or not.
    let same = config::plan::UplinkPlan {
        tls: bare.tls.clone(),
        username: None,
        password_file: None,
        proxy: None,
        max_rate: None,
        budgets: Vec::new(),
        paths: Vec::new(),
        usage: bare.usage, // the file forwards to it
        downs: Vec::new(),
        ..full
    };
    assert_eq!(bare, same);
}

/// What is shown switched off is the default, or the comment above says what is so without it.
#[test]
fn what_the_shipped_file_shows_and_is_no_default_says_what_holds_without_it() {
    let bridge = "[[bridge]]\nname = \"b\"\nurl = \"mqtt://h\"\n[[bridge.topic]]\nfilter = \"x/#\"";
    let (bare, full) = (plan(bridge).bridges.remove(0), plan(&switched_on(works)).bridges.remove(0));
    assert_eq!((bare.max_age, bare.uplink.max_rate, bare.uplink.tls.is_none()), (None, None, true));
    assert_eq!((bare.max_size, bare.notifications), (full.max_size, full.notifications));
    assert_eq!(
        (bare.uplink.keep_alive, bare.uplink.session_expiry),
        (full.uplink.keep_alive, full.uplink.session_expiry)
    );
    let section = SHIPPED.split_once("[[bridge]]").expect("bridges are shown").1;
    for (key, words) in
        [("#max_rate", "Not set: no limit"), ("#max_age", "max_age not set"), ("#stale_after", "Not set: neither")]
    {
        let (before, _) = section.split_once(&format!("\n{key} =")).expect(key);
        let above: Vec<&str> = before.lines().rev().take(6).collect();
        assert!(above.iter().any(|line| line.contains(words)), "{key}: {above:?}");
    }
}

#[test]
fn a_new_box_serves_itself_only_and_what_its_file_proposes_checks() {
    let new = plan(MINIMAL);
    assert_eq!((new.buses.len(), new.tags.len(), new.uplinks.len(), new.broker.listeners.len()), (0, 0, 0, 1));
    assert!(MINIMAL.contains("\"127.0.0.1:1883\""));
    let setting = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => setting.to_owned(),
        _ => line.to_owned(),
    };
    let edited = plan(&MINIMAL.lines().map(setting).collect::<Vec<_>>().join("\n"));
    assert_eq!((edited.buses.len(), edited.devices.len()), (2, 2));
    assert!(edited.tags.len() > 20);
}

#[test]
fn the_examples_of_instruments_check() {
    let scale = plan(include_str!("../../config/scale.toml"));
    let gps = plan(include_str!("../../config/gps.toml"));
    assert_eq!((scale.tags.len(), gps.tags.len()), (2, 12));
    assert!(scale.buses.iter().chain(&gps.buses).all(|bus| bus.line.is_some()));
}

#[cfg(feature = "mqtt-sn")]
#[test]
fn the_example_of_sensors_checks_and_lets_in_those_of_its_list_with_no_rights_for_others() {
    let plan = plan(include_str!("../../config/sensors.toml"));
    let [mqtt, sensors] = &plan.broker.listeners[..] else { panic!("two doors") };
    assert!(mqtt.mqtt_sn.is_none());
    let gateway = sensors.mqtt_sn.as_ref().expect("the second is for sensors");
    assert_eq!((gateway.topics.len(), gateway.sensors.len()), (2, 1));
    assert_eq!((gateway.topic(1), sensors.anonymous), (Some("tanks/level"), Anonymous::None));
    let users: Vec<_> = plan.broker.acl.iter().map(|rule| rule.user.as_str()).collect();
    assert_eq!(users, ["sensor:tanks", "sensor:beacons", "anonymous"]);
}

/// Name, zero-based input register, type, order, scale: from the sources named in the maps.
type Expected = (&'static str, u16, DataType, Order, f64);

const EM24: [Expected; 16] = [
    ("voltage_l1", 0, DataType::Int32, Order::Cdab, 0.1),
    ("voltage_l2", 2, DataType::Int32, Order::Cdab, 0.1),
    ("voltage_l3", 4, DataType::Int32, Order::Cdab, 0.1),
    ("current_l1", 12, DataType::Int32, Order::Cdab, 0.001),
    ("current_l2", 14, DataType::Int32, Order::Cdab, 0.001),
    ("current_l3", 16, DataType::Int32, Order::Cdab, 0.001),
    ("power_l1", 18, DataType::Int32, Order::Cdab, 0.1),
    ("power_l2", 20, DataType::Int32, Order::Cdab, 0.1),
    ("power_l3", 22, DataType::Int32, Order::Cdab, 0.1),
    ("power", 40, DataType::Int32, Order::Cdab, 0.1),
    ("import_kwh", 66, DataType::Int32, Order::Cdab, 0.1),
    ("import_l1_kwh", 70, DataType::Int32, Order::Cdab, 0.1),
    ("export_kwh", 92, DataType::Int32, Order::Cdab, 0.1),
    ("cosphi_l1", 50, DataType::Int16, Order::Abcd, 0.001),
    ("cosphi", 53, DataType::Int16, Order::Abcd, 0.001),
    ("frequency", 55, DataType::Int16, Order::Abcd, 0.1),
];

const SDM630: [(&str, u16, &str); 21] = [
    ("voltage_l1", 0, "V"),
    ("voltage_l2", 2, "V"),
    ("voltage_l3", 4, "V"),
    ("current_l1", 6, "A"),
    ("current_l2", 8, "A"),
    ("current_l3", 10, "A"),
    ("power_l1", 12, "W"),
    ("power_l2", 14, "W"),
    ("power_l3", 16, "W"),
    ("cosphi_l1", 30, ""),
    ("power", 52, "W"),
    ("apparent_power", 56, "VA"),
    ("reactive_power", 60, "var"),
    ("cosphi", 62, ""),
    ("frequency", 70, "Hz"),
    ("import_kwh", 72, "kWh"),
    ("export_kwh", 74, "kWh"),
    ("thd_l1", 234, "%"),
    ("sum_kwh", 342, "kWh"),
    ("import_l1_kwh", 346, "kWh"),
    ("reactive_sum_l3", 380, "kvarh"),
];

fn meter(profile: &str) -> Plan {
    plan(&format!(
        "[[bus]]\nname = \"line\"\ntype = \"modbus-rtu\"\nport = \"/dev/ttyS9\"\nserial = \"9600-8N1\"\n\
         [[device]]\nname = \"meter\"\nbus = \"line\"\nunit_id = 1\naddress_style = \"modicon\"\nprofile = \"{profile}\""
    ))
}

#[test]
fn the_em24_map_reads_the_registers_of_its_source() {
    let plan = meter("carlo-gavazzi-em24");
    let found: Vec<_> = plan
        .tags
        .iter()
        .map(|tag| {
            (tag.name.as_str(), tag.register().expect("polled").start, tag.data_type, tag.order, tag.scale.factor)
        })
        .collect();
    assert_eq!(found, EM24);
    assert!(
        plan.tags
            .iter()
            .all(|tag| tag.register().is_some_and(|place| place.table == Table::Input) && !tag.description.is_empty())
    );
}

#[test]
fn the_sdm630_map_reads_the_registers_of_its_source() {
    let plan = meter("eastron-sdm630");
    let found: Vec<_> = plan
        .tags
        .iter()
        .map(|tag| (tag.name.as_str(), tag.register().expect("polled").start, tag.unit.as_str()))
        .collect();
    assert_eq!(found, SDM630);
    let floats = |tag: &config::plan::TagPlan| tag.data_type == DataType::Float32 && tag.order == Order::Abcd;
    assert!(plan.tags.iter().all(|tag| floats(tag)
        && tag.register().is_some_and(|place| place.table == Table::Input)
        && !tag.group.is_empty()));
}
