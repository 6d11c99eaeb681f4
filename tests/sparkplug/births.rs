//! Births and deaths: what a session begins and ends with.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use rumqttc::QoS;
use rustix::process::Signal;

use crate::gateway::{Home, PATIENCE, Plc, config, tag, until};
use crate::host::{Did, Host};
use crate::law::{death, lawful};
use crate::payload::{BOOLEAN, DOUBLE, FLOAT, INT32, INT64, Metric, STRING, UINT64, Value};

/// The uplink of edge node `gw` in group `acme`.
pub fn uplink(host: &Host, more: &str) -> String {
    let address = host.address;
    format!(
        "[[uplink]]\nname = \"scada\"\nurl = \"mqtt://{address}\"\nclient_id = \"gw-scada\"\nstart = \"oldest\"\n\
         format = \"sparkplug\"\ngroup_id = \"acme\"\ncommands = true\n{more}\n"
    )
}

/// A second device on the same line.
pub const SECOND: &str = "[[device]]\nname = \"meter\"\nbus = \"line\"\nunit_id = 1\npoll = \"200ms\"\n";

/// Two devices with a tag each.
pub fn two_devices(plc: &Plc) -> String {
    let more = "unit = \"bar\"\nmin = 0.0\nmax = 500.0\naccess = \"read-write\"\nwrite = { max = 400.0 }";
    let first = tag("level", "holding:0", "int16", more) + &tag("mode", "holding:1", "uint16", "");
    config(plc.line.address()) + &first + SECOND + &tag("energy", "holding:2", "uint32", "")
}

// covers: tck-id-intro-group-id-string, tck-id-intro-edge-node-id-string, tck-id-intro-device-id-string
// covers: tck-id-principles-birth-certificates-order, tck-id-principles-persistence-clean-session-311
// covers: tck-id-topic-structure, tck-id-topic-structure-namespace-a
// covers: tck-id-topic-structure-namespace-device-id-associated-message-types
// covers: tck-id-topic-structure-namespace-device-id-non-associated-message-types
// covers: tck-id-topics-nbirth-topic, tck-id-topics-nbirth-mqtt, tck-id-topics-nbirth-seq-num, tck-id-topics-nbirth-timestamp
// covers: tck-id-topics-nbirth-bdseq-included, tck-id-topics-nbirth-bdseq-matching, tck-id-topics-nbirth-rebirth-metric
// covers: tck-id-topics-dbirth-topic, tck-id-topics-dbirth-mqtt, tck-id-topics-dbirth-seq, tck-id-topics-dbirth-timestamp
// covers: tck-id-topics-ndeath-topic, tck-id-topics-ndeath-payload, tck-id-topics-ndeath-seq
// covers: tck-id-topics-ncmd-topic, tck-id-topics-dcmd-topic, tck-id-message-flow-edge-node-ncmd-subscribe
// covers: tck-id-message-flow-edge-node-birth-publish-connect, tck-id-message-flow-edge-node-birth-publish-will-message
// covers: tck-id-message-flow-edge-node-birth-publish-will-message-topic
// covers: tck-id-message-flow-edge-node-birth-publish-will-message-payload
// covers: tck-id-message-flow-edge-node-birth-publish-will-message-qos
// covers: tck-id-message-flow-edge-node-birth-publish-will-message-will-retained
// covers: tck-id-message-flow-edge-node-birth-publish-nbirth-topic
// covers: tck-id-message-flow-edge-node-birth-publish-nbirth-payload
// covers: tck-id-message-flow-edge-node-birth-publish-nbirth-qos
// covers: tck-id-message-flow-edge-node-birth-publish-nbirth-retained
// covers: tck-id-message-flow-edge-node-birth-publish-nbirth-payload-seq
// covers: tck-id-message-flow-device-dcmd-subscribe, tck-id-message-flow-device-birth-publish-nbirth-wait
// covers: tck-id-message-flow-device-birth-publish-dbirth-topic
// covers: tck-id-message-flow-device-birth-publish-dbirth-match-edge-node-topic
// covers: tck-id-message-flow-device-birth-publish-dbirth-payload
// covers: tck-id-message-flow-device-birth-publish-dbirth-qos
// covers: tck-id-message-flow-device-birth-publish-dbirth-retained
// covers: tck-id-message-flow-device-birth-publish-dbirth-payload-seq
// covers: tck-id-payloads-nbirth-timestamp, tck-id-payloads-nbirth-seq, tck-id-payloads-nbirth-bdseq
// covers: tck-id-payloads-nbirth-bdseq-repeat, tck-id-payloads-nbirth-rebirth-req, tck-id-payloads-nbirth-qos
// covers: tck-id-payloads-nbirth-retain, tck-id-payloads-dbirth-timestamp, tck-id-payloads-dbirth-seq
// covers: tck-id-payloads-dbirth-seq-inc, tck-id-payloads-dbirth-order, tck-id-payloads-dbirth-qos
// covers: tck-id-payloads-dbirth-retain, tck-id-payloads-ndeath-seq, tck-id-payloads-ndeath-will-message
// covers: tck-id-payloads-ndeath-will-message-qos, tck-id-payloads-ndeath-will-message-retain, tck-id-payloads-ndeath-bdseq
// covers: tck-id-payloads-sequence-num-zero-nbirth, tck-id-payloads-sequence-num-always-included
// covers: tck-id-operational-behavior-data-commands-rebirth-name, tck-id-operational-behavior-data-commands-rebirth-datatype
// covers: tck-id-operational-behavior-data-commands-rebirth-name-aliases
// covers: tck-id-operational-behavior-data-commands-rebirth-value
#[tokio::test]
async fn a_session_begins_with_its_death_its_commands_and_all_births_in_order() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 3).await;
    let did: Vec<_> = host.log().into_iter().map(|entry| entry.did).collect();
    let Did::Connect(connect) = &did[0] else { panic!("{:?}", did[0]) };
    let will = connect.last_will.as_ref().unwrap();
    assert_eq!((will.topic.as_str(), will.qos, will.retain), ("spBv1.0/acme/NDEATH/gw", QoS::AtLeastOnce, false));
    assert_eq!(death(&will.message), 0, "the first of its life");
    let Did::Subscribe(filters) = &did[1] else { panic!("{:?}", did[1]) };
    for topic in ["spBv1.0/acme/NCMD/gw", "spBv1.0/acme/DCMD/gw/plc"] {
        let fits =
            |(filter, qos): &&(String, QoS)| rumqttc::mqttbytes::matches(topic, filter) && *qos == QoS::AtLeastOnce;
        assert!(filters.iter().any(|filter| fits(&filter)), "{topic}: {filters:?}");
    }
    let messages = host.messages();
    let kinds: Vec<_> =
        messages.iter().take(4).map(|it| (it.kind.as_str(), it.device.clone().unwrap_or_default())).collect();
    assert_eq!(kinds[0], ("NBIRTH", String::new()));
    let mut devices = [&kinds[1], &kinds[2]].map(|(kind, device)| (*kind, device.as_str()));
    devices.sort_unstable();
    assert_eq!(devices, [("DBIRTH", "meter"), ("DBIRTH", "plc")]);
    assert!(kinds[3].0.ends_with("DATA"), "{kinds:?}");
    lawful(&host, &["meter", "plc"]);
    drop(daemon);
}

// covers: tck-id-topics-nbirth-metric-reqs, tck-id-topics-nbirth-metrics, tck-id-topics-dbirth-metric-reqs
// covers: tck-id-topics-dbirth-metrics, tck-id-operational-behavior-data-publish-nbirth
// covers: tck-id-operational-behavior-data-publish-nbirth-values, tck-id-operational-behavior-data-publish-dbirth
// covers: tck-id-operational-behavior-data-publish-dbirth-values, tck-id-payloads-name-requirement
// covers: tck-id-payloads-alias-uniqueness, tck-id-payloads-alias-birth-requirement, tck-id-payloads-metric-datatype-req
// covers: tck-id-payloads-metric-datatype-value-type, tck-id-payloads-metric-datatype-value
// covers: tck-id-payloads-propertyset-keys-array-size, tck-id-payloads-propertyset-values-array-size
// covers: tck-id-payloads-metric-propertyvalue-type-type, tck-id-payloads-metric-propertyvalue-type-value
// covers: tck-id-payloads-metric-propertyvalue-type-req, tck-id-payloads-propertyset-quality-value-type
// covers: tck-id-payloads-propertyset-quality-value-value, tck-id-payloads-name-birth-data-requirement
#[tokio::test]
async fn a_birth_lists_every_tag_with_name_alias_type_value_unit_and_limits() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    plc.set(0, &[0xFFFF, 7, 0xFFFF, 0xFFFE, 0x4148, 0, 123]);
    plc.set(10, &[0x8000, 0, 0, 0, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0x3FF8, 0, 0, 0, 0x4142, 0x4300]);
    let tags = [
        tag("int16", "holding:0", "int16", "unit = \"bar\"\nmin = -5.0\nmax = 16.0"),
        tag("bit", "holding:1.0", "bool", ""),
        tag("uint32", "holding:2", "uint32", ""),
        tag("float32", "holding:4", "float32", ""),
        tag("scaled", "holding:6", "int16", "scale = 0.1"),
        tag("int64", "holding:10", "int64", ""),
        tag("uint64", "holding:14", "uint64", ""),
        tag("float64", "holding:18", "float64", ""),
        tag("text", "holding:22", "string(4)", ""),
    ];
    let absent = "[[device]]\nname = \"absent\"\nbus = \"line\"\nunit_id = 9\npoll = \"1s\"\n".to_owned();
    let absent = absent + &tag("nothing", "holding:0", "int32", "");
    let home = Home::new(&(config(plc.line.address()) + &tags.concat() + &absent + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    host.command(None, vec![crate::commands::rebirth()]); // now everything has been read
    host.count("NBIRTH", 2).await;
    host.until("all devices again", |host| {
        host.of("DBIRTH").iter().filter(|it| it.device.as_deref() == Some("plc")).count() > 1
    })
    .await;
    let births = host.of("DBIRTH");
    let birth = &births.iter().rfind(|it| it.device.as_deref() == Some("plc")).unwrap().payload;
    for (name, kind, value) in [
        ("int16", INT32, Value::Int(u32::MAX)),
        ("bit", BOOLEAN, Value::Bool(true)),
        ("uint32", INT64, Value::Long(0xFFFF_FFFE)),
        ("float32", FLOAT, Value::Float(12.5)),
        ("scaled", FLOAT, Value::Float(12.3)),
        ("int64", INT64, Value::Long(1 << 63)),
        ("uint64", UINT64, Value::Long(u64::MAX)),
        ("float64", DOUBLE, Value::Double(1.5)),
        ("text", STRING, Value::Text("ABC".into())),
    ] {
        let metric = birth.named(name).unwrap_or_else(|| panic!("{name} is in the birth"));
        assert_eq!((metric.datatype, &metric.value), (Some(kind), &Some(value)), "{name}");
        assert!(metric.alias.is_some() && metric.timestamp.is_some(), "{name}");
    }
    let metric = birth.named("int16").unwrap();
    assert_eq!(metric.property("engUnit").unwrap().text.as_deref(), Some("bar"));
    let limits = ["engLow", "engHigh"].map(|key| metric.property(key).unwrap().double);
    assert_eq!(limits, [Some(-5.0), Some(16.0)]);
    let never = births.iter().find(|it| it.device.as_deref() == Some("absent"));
    if let Some(never) = never {
        let nothing = never.payload.named("nothing").unwrap();
        assert_eq!((nothing.is_null, &nothing.value), (Some(true), &None));
    }
    lawful(&host, &["plc"]);
    drop(daemon);
}

// covers: tck-id-topics-nbirth-bdseq-increment, tck-id-payloads-ndeath-will-message-publisher
// covers: tck-id-payloads-ndeath-will-message-publisher-disconnect-mqtt311
// covers: tck-id-operational-behavior-edge-node-intentional-disconnect-ndeath
// covers: tck-id-operational-behavior-edge-node-intentional-disconnect-packet
#[tokio::test]
async fn deaths_are_counted_over_sessions_and_restarts_and_a_wanted_end_says_its_own_first() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let mut daemon = home.run();
    host.count("NBIRTH", 1).await;
    host.cut();
    host.count("NBIRTH", 2).await;
    daemon.kill(); // nothing can be said or saved any more
    daemon = home.run();
    host.count("NBIRTH", 3).await;
    host.count("DDATA", 1).await;
    daemon.signal(Signal::TERM);
    assert!(daemon.ended(PATIENCE).await.success());
    let counted: Vec<_> = host.connects().iter().map(|it| death(&it.last_will.as_ref().unwrap().message)).collect();
    let follow = |pair: &[u64]| pair[1] == (pair[0] + 1) % 256;
    assert!(counted.len() >= 3 && counted[0] == 0 && counted.windows(2).all(follow), "{counted:?}");
    let log = host.log();
    let last = log.iter().rposition(|entry| matches!(entry.did, Did::Publish { .. })).unwrap();
    let deaths = host.of("NDEATH");
    assert_eq!(deaths.last().unwrap().payload.bd_seq(), counted.last().copied());
    let Did::Publish { topic, .. } = &log[last].did else { unreachable!() };
    assert_eq!(topic, "spBv1.0/acme/NDEATH/gw", "the last that is said");
    assert!(log[last..].iter().any(|entry| matches!(entry.did, Did::Leave)), "then DISCONNECT");
    lawful(&host, &["meter", "plc"]);
}

// covers: tck-id-topics-nbirth-bdseq-increment
#[tokio::test]
async fn the_count_of_sessions_goes_on_from_255_to_0() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let mut daemon = home.run();
    host.count("NBIRTH", 1).await;
    daemon.signal(Signal::TERM);
    assert!(daemon.ended(PATIENCE).await.success());
    let meta = rusqlite::Connection::open(home.path("data/store/meta.db")).unwrap();
    let changed = meta.execute("UPDATE value SET number = 253 WHERE name = 'bdseq scada'", []).unwrap();
    assert_eq!(changed, 1, "as after that many sessions");
    drop(meta);
    daemon = home.run();
    for sessions in 2..=5 {
        host.count("NBIRTH", sessions).await;
        host.cut();
    }
    host.count("NBIRTH", 6).await;
    daemon.signal(Signal::TERM);
    assert!(daemon.ended(PATIENCE).await.success());
    let wills: Vec<_> = host.connects().iter().map(|it| death(&it.last_will.as_ref().unwrap().message)).collect();
    assert_eq!(wills[..5], [0, 254, 255, 0, 1]);
    let births: Vec<_> = host.of("NBIRTH").iter().map(|it| it.payload.bd_seq().unwrap()).collect();
    assert_eq!(births[..5], wills[..5], "each birth is of its session");
    lawful(&host, &["meter", "plc"]);
}

// covers: tck-id-operational-behavior-data-commands-rebirth-action-1
/// Barriers that are not answered are a thin link. Twelve devices are born in some 36 kB.
#[tokio::test]
async fn births_fill_no_link_that_has_not_shown_what_it_carries_and_data_wait_for_the_last_of_them() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let names: Vec<_> = (1..=12).map(|device| format!("device-{device}")).collect();
    let mut large = config(plc.line.address()) + &tag("level", "holding:0", "int16", "");
    for name in &names {
        large += &SECOND.replace("meter", name).replace("200ms", "100ms");
        large.extend((0..40).map(|n| tag(&format!("tag-{n}"), &format!("holding:{n}"), "int16", "")));
    }
    let home = Home::new(&(large + &uplink(&host, "")));
    host.no_unsuback(true);
    let daemon = home.run();
    host.count("DBIRTH", 1).await;
    let polled = plc.requests();
    until("some polls of all devices", || plc.requests() > polled + 100).await;
    let messages = host.messages();
    assert!(messages.iter().all(|it| it.kind.ends_with("BIRTH")), "no data before the last birth");
    let sizes: Vec<_> = messages.iter().map(|it| prost::Message::encoded_len(&it.payload)).collect();
    let (births, bytes, largest) = (sizes.len(), sizes.iter().sum::<usize>(), sizes.iter().max().unwrap());
    assert!(births < 13 && bytes <= (8 << 10) + largest, "{births} births of {bytes} bytes, one of {largest}");
    host.no_unsuback(false);
    host.count("DBIRTH", 13).await;
    host.count("DDATA", 20).await;
    let log = host.log();
    let barrier = |entry: &crate::host::Entry| matches!(entry.did, Did::Unsubscribe);
    let born = log
        .iter()
        .position(|entry| matches!(&entry.did, Did::Publish { topic, .. } if topic.contains("DDATA")))
        .unwrap();
    let barriers = log[..born].iter().filter(|entry| barrier(entry)).count();
    assert!(barriers >= 3, "{barriers} barriers behind 36 kB");
    // asked for in the middle of births: nothing but births, and no second set before the first is out
    let asked = host.messages().len();
    host.command(None, vec![crate::commands::rebirth()]);
    host.count("NBIRTH", 2).await;
    host.command(None, vec![crate::commands::rebirth()]);
    host.count("DBIRTH", 26).await;
    let messages = host.messages();
    let births = messages[asked..].iter().skip_while(|it| it.kind != "NBIRTH");
    let kinds: Vec<_> = births.take(14).map(|it| it.kind.as_str()).collect();
    assert_eq!(kinds[1..], ["DBIRTH"; 13]);
    let mut devices: Vec<_> = names.iter().map(String::as_str).collect();
    devices.push("plc");
    lawful(&host, &devices);
    drop(daemon);
}

#[tokio::test]
async fn a_device_that_a_reload_made_writable_takes_commands_in_the_same_session() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    let more = "min = 0.0\nmax = 500.0\naccess = \"read-write\"\nwrite = { max = 400.0 }";
    home.configure(&(two_devices(&plc) + &tag("speed", "holding:4", "int16", more) + &uplink(&host, "")));
    daemon.signal(Signal::HUP);
    host.until("a birth with the new tag", |host| {
        host.of("DBIRTH").iter().any(|it| it.payload.named("speed").is_some())
    })
    .await;
    host.command(Some("meter"), vec![Metric::write("speed", INT32, Value::Int(77))]);
    until("it is written", || plc.word(4) == 77).await;
    assert_eq!(host.connects().len(), 1, "in the same session");
    lawful(&host, &["meter", "plc"]);
    drop(daemon);
}

// covers: tck-id-payloads-alias-uniqueness
#[tokio::test]
async fn a_reload_that_changes_tags_brings_new_births_and_ids_that_stay() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    let alias = |host: &Host| host.of("DBIRTH").iter().rev().find_map(|it| it.payload.named("energy")?.alias);
    let before = alias(&host);
    home.configure(&(two_devices(&plc) + &tag("power", "holding:4", "float32", "") + &uplink(&host, "")));
    daemon.signal(Signal::HUP);
    host.until("a birth with the new tag", |host| {
        host.of("DBIRTH").iter().any(|it| it.payload.named("power").is_some())
    })
    .await;
    let births = host.of("DBIRTH").len();
    host.until("the new tag's data", |host| {
        let values = lawful(host, &["meter", "plc"]);
        values.get(&("meter".into(), "power".into())).is_some_and(|told| told.iter().any(|told| !told.in_birth))
    })
    .await;
    assert_eq!(alias(&host), before);
    host.count("DDATA", host.of("DDATA").len() + 6).await; // a storm would have begun
    assert_eq!(host.of("DBIRTH").len(), births, "births are not stormed");
    until("it is still there", || daemon.said("panicked").is_none()).await;
}

// covers: tck-id-operational-behavior-device-ddeath
#[tokio::test]
async fn a_device_that_a_reload_takes_away_dies_and_the_others_are_born_again() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 4).await;
    let one = config(plc.line.address()) + &tag("level", "holding:0", "int16", "");
    home.configure(&(one + &uplink(&host, "")));
    daemon.signal(Signal::HUP);
    host.count("NBIRTH", 2).await;
    let seen = host.of("DDATA").len();
    host.count("DDATA", seen + 3).await;
    let messages = host.messages();
    let birth = messages.iter().rposition(|it| it.kind == "NBIRTH").unwrap();
    let died = messages[..birth].iter().rfind(|it| it.kind == "DDEATH").map(|it| it.device.clone());
    assert_eq!(died, Some(Some("meter".into())), "before the others are born");
    lawful(&host, &["plc"]);
    drop(daemon);
}
