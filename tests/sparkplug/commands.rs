//! NCMD and DCMD: rebirths, writes, and what is refused.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::time::Duration;

use crate::births::{two_devices, uplink};
use crate::gateway::{Home, Plc, until};
use crate::host::Host;
use crate::law::lawful;
use crate::payload::{BOOLEAN, DOUBLE, INT32, Metric, STRING, Value};

/// The command for new births.
pub fn rebirth() -> Metric {
    Metric::write("Node Control/Rebirth", BOOLEAN, Value::Bool(true))
}

// covers: tck-id-operational-behavior-data-commands-ncmd-rebirth-verb
// covers: tck-id-operational-behavior-data-commands-ncmd-rebirth-name
// covers: tck-id-operational-behavior-data-commands-ncmd-rebirth-value
// covers: tck-id-operational-behavior-data-commands-rebirth-action-2
// covers: tck-id-operational-behavior-data-commands-rebirth-action-3
/// Longer than other tests: births are five seconds apart at least, and that is what it is about.
#[tokio::test]
async fn a_flood_of_rebirths_is_answered_at_once_and_then_once_in_five_seconds() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    host.command(None, vec![Metric::write("Node Control/Rebirth", BOOLEAN, Value::Bool(false))]);
    host.command(None, vec![Metric::write("Node Control/Rebirth", INT32, Value::Int(1))]);
    let seen = host.of("DDATA").len();
    host.count("DDATA", seen + 2).await;
    assert_eq!(host.of("NBIRTH").len(), 1, "neither of them asks for births");
    (0..200).for_each(|_| host.command(None, vec![rebirth()]));
    host.count("NBIRTH", 2).await;
    (0..200).for_each(|_| host.command(None, vec![rebirth()]));
    host.count("NBIRTH", 3).await;
    let seen = host.of("DDATA").len();
    host.count("DDATA", seen + 5).await;
    let births = host.of("NBIRTH");
    assert_eq!(births.len(), 3, "births are not stormed");
    assert!(births[2].at - births[1].at > Duration::from_millis(4500), "{:?}", births[2].at - births[1].at);
    let (bd_seq, connections) = (births[0].payload.bd_seq(), host.connects().len());
    assert!(births.iter().all(|birth| birth.payload.bd_seq() == bd_seq) && connections == 1);
    let messages = host.messages();
    let at = messages.iter().position(|it| it.at == births[1].at && it.kind == "NBIRTH").unwrap();
    assert!(messages[at + 1..at + 3].iter().all(|it| it.kind == "DBIRTH"), "all births before any data");
    lawful(&host, &["meter", "plc"]);
    drop(daemon);
}

// covers: tck-id-operational-behavior-data-commands-dcmd-verb, tck-id-operational-behavior-data-commands-ncmd-verb
// covers: tck-id-payloads-name-cmd-requirement
#[tokio::test]
async fn a_write_by_name_or_by_alias_moves_the_plc_and_comes_back_as_data() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    host.command(Some("plc"), vec![Metric::write("level", INT32, Value::Int(321))]);
    until("it is written", || plc.word(0) == 321).await;
    let births = host.of("DBIRTH");
    let alias = births.iter().find_map(|it| it.payload.named("level")).unwrap().alias;
    host.command(Some("plc"), vec![Metric { alias, name: None, ..Metric::write("", INT32, Value::Int(22)) }]);
    until("it is written by alias", || plc.word(0) == 22).await;
    host.until("it comes back", |host| {
        let values = lawful(host, &["meter", "plc"]);
        values[&("plc".into(), "level".into())].iter().any(|told| told.value == Some(Value::Int(22)))
    })
    .await;
    drop(daemon);
}

// covers: tck-id-operational-behavior-data-commands-ncmd-metric-name
// covers: tck-id-operational-behavior-data-commands-ncmd-metric-value
// covers: tck-id-operational-behavior-data-commands-dcmd-metric-name
// covers: tck-id-operational-behavior-data-commands-dcmd-metric-value
#[tokio::test]
async fn what_may_not_be_written_is_not_written_and_the_session_goes_on() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    let level = |kind, value| vec![Metric::write("level", kind, value)];
    for (device, metrics) in [
        (Some("plc"), level(INT32, Value::Int(401))),
        (Some("plc"), level(DOUBLE, Value::Double(4.5))),
        (Some("plc"), level(STRING, Value::Text("7".into()))),
        (Some("plc"), level(BOOLEAN, Value::Bool(true))),
        (
            Some("plc"),
            vec![Metric { is_null: Some(true), value: None, ..Metric::write("level", INT32, Value::Int(0)) }],
        ),
        (Some("plc"), vec![Metric::write("mode", INT32, Value::Int(3))]),
        (Some("plc"), vec![Metric::write("energy", INT32, Value::Int(3))]),
        (Some("plc"), vec![Metric::write("nothing", INT32, Value::Int(3))]),
        (Some("nobody"), level(INT32, Value::Int(5))),
        (Some("meter"), level(INT32, Value::Int(5))),
        (None, level(INT32, Value::Int(5))),
        (None, vec![Metric::write("Node Control/Reboot", BOOLEAN, Value::Bool(true))]),
        (None, vec![Metric::write("Node Control/Next Server", BOOLEAN, Value::Bool(true))]), // there is no other
        (None, vec![Metric::write("bdSeq", INT32, Value::Int(5))]),
        (Some("plc"), vec![Metric { name: None, alias: Some(987_654), ..Metric::write("", INT32, Value::Int(5)) }]),
        (Some("plc"), Vec::new()),
    ] {
        host.command(device, metrics);
    }
    for garbage in [&b"{\"value\":5}"[..], &[0xFF; 300], &[0x12, 0x7F, 0], &[0x12, 0x00].repeat(5000), b""] {
        host.say("spBv1.0/acme/DCMD/gw/plc", garbage);
        host.say("spBv1.0/acme/NCMD/gw", garbage);
    }
    let writes = plc.writes();
    assert_eq!(writes, 0);
    host.command(Some("plc"), level(INT32, Value::Int(400)));
    until("a good one is written", || plc.word(0) == 400).await;
    assert_eq!(plc.writes(), 1, "and nothing else was");
    assert_eq!(host.connects().len(), 1, "the session goes on");
    lawful(&host, &["meter", "plc"]);
    drop(daemon);
}

#[tokio::test]
async fn a_flood_of_commands_starves_neither_data_nor_births() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    let seen = host.of("DDATA").len();
    for round in 0..40 {
        for value in 0..50 {
            host.command(Some("plc"), vec![Metric::write("level", INT32, Value::Int(500 + round * 50 + value))]); // out of range
            host.command(None, vec![rebirth()]);
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // a flood, not one wave
    }
    host.count("DDATA", seen + 10).await;
    host.count("NBIRTH", 2).await;
    assert_eq!((plc.writes(), host.connects().len()), (0, 1));
    lawful(&host, &["meter", "plc"]);
    drop(daemon);
}

#[tokio::test]
async fn a_command_that_lay_on_the_broker_moves_nothing() {
    use prost::Message as _;
    let (plc, host) = (Plc::start().await, Host::start().await);
    let metrics = vec![Metric::write("level", INT32, Value::Int(99))];
    let kept = crate::payload::Payload { timestamp: Some(1), metrics, ..Default::default() };
    host.keep("spBv1.0/acme/DCMD/gw/plc", &kept.encode_to_vec());
    let rebirths = crate::payload::Payload { timestamp: Some(1), metrics: vec![rebirth()], ..Default::default() };
    host.keep("spBv1.0/acme/NCMD/gw", &rebirths.encode_to_vec());
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 5).await;
    assert_eq!((plc.writes(), plc.word(0), host.of("NBIRTH").len()), (0, 0, 1));
    drop(daemon);
}

/// It lay somewhere that says nothing of it: in a queue of the host, or of a broker between.
#[tokio::test]
async fn a_write_whose_payload_is_old_moves_nothing_and_one_of_now_does() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
    let level = |value| vec![Metric::write("level", INT32, Value::Int(value))];
    host.command_of(now - 600_000, Some("plc"), level(99));
    host.command_of(now, Some("plc"), level(33));
    until("the second is written", || plc.word(0) == 33).await;
    assert_eq!(plc.writes(), 1, "and the first was not");
    lawful(&host, &["meter", "plc"]);
    drop(daemon);
}

#[tokio::test]
async fn a_scan_rate_makes_data_go_together_and_is_said_at_once_and_in_the_next_birth() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    let counting = crate::outage::count_up(&plc);
    host.count("DDATA", 2).await;
    let name = "Node Control/Scan Rate";
    let born = |host: &Host| host.of("NBIRTH").last().and_then(|it| it.payload.named(name)?.value.clone());
    let levels = |host: &Host, from: usize| {
        let of_plc = host.of("DDATA").into_iter().skip(from).filter(|it| it.device.as_deref() == Some("plc"));
        of_plc.map(|it| it.payload.metrics.len()).collect::<Vec<_>>()
    };
    assert_eq!(born(&host), Some(Value::Long(100)), "as often as it is polled");
    host.command(None, vec![Metric::write(name, crate::payload::INT64, Value::Long(1200))]);
    host.until("the answer", |host| {
        host.of("NDATA").iter().any(|it| it.payload.named(name).is_some_and(|it| it.value == Some(Value::Long(1200))))
    })
    .await;
    let seen = host.of("DDATA").len() + 2; // what was under way
    host.until("slow data", |host| levels(host, seen).len() >= 2).await;
    let slow = levels(&host, seen); // two tags, twelve polls
    assert!(slow.iter().all(|metrics| *metrics >= 12), "{slow:?}");
    host.command(None, vec![rebirth()]);
    host.count("NBIRTH", 2).await;
    assert_eq!(born(&host), Some(Value::Long(1200)));
    host.command(None, vec![Metric::write(name, crate::payload::INT64, Value::Long(1))]);
    host.until("not more often than it is polled", |host| {
        host.of("NDATA").iter().any(|it| it.payload.named(name).is_some_and(|it| it.value == Some(Value::Long(100))))
    })
    .await;
    let seen = host.of("DDATA").len() + 4;
    host.until("quick data", |host| levels(host, seen).len() >= 4).await;
    let quick = levels(&host, seen);
    assert!(quick.iter().any(|metrics| *metrics <= 6), "{quick:?}");
    counting.abort();
    lawful(&host, &["meter", "plc"]);
    drop(daemon);
}

#[tokio::test]
async fn a_host_that_asks_for_the_next_server_moves_the_node_and_one_that_never_stops_asking_does_not() {
    let (plc, first, second) = (Plc::start().await, Host::start().await, Host::start().await);
    let urls = format!("urls = [\"mqtt://{}\", \"mqtt://{}\"]", first.address, second.address);
    let one = format!("url = \"mqtt://{}\"", first.address);
    let home = Home::new(&(two_devices(&plc) + &uplink(&first, "").replace(&one, &urls)));
    let daemon = home.run();
    let truth = crate::outage::Truth::of(&daemon).await;
    let counting = crate::outage::count_up(&plc);
    first.count("DDATA", 3).await;
    let next = || vec![Metric::write("Node Control/Next Server", BOOLEAN, Value::Bool(true))];
    first.command(None, next());
    second.count("DDATA", 3).await;
    assert_eq!((first.of("NDEATH").len(), first.connects().len(), second.connects().len()), (1, 1, 1));
    for _ in 0..20 {
        second.command(None, next());
    }
    let seen = second.of("DDATA").len();
    second.count("DDATA", seen + 10).await;
    assert_eq!((second.of("NDEATH").len(), first.connects().len(), second.connects().len()), (0, 1, 1));
    counting.abort();
    truth.is_at_either(&[&first, &second], &["meter", "plc"]).await;
    drop(daemon);
}

/// The same command to the same device: answered before it dies and after it is born again, and not between.
#[tokio::test]
async fn a_write_that_is_refused_is_answered_with_the_value_there_is_and_to_a_dead_device_with_nothing() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let mut image = ironbridge::plant::image::Image::new();
    image.set_words(ironbridge::model::tag::Table::Holding, 0, &[42]);
    plc.units.insert(2, image);
    plc.set(0, &[42]);
    let still = "deadband = 1.0\nmin = 0.0\nmax = 500.0\naccess = \"read-write\"\nwrite = { max = 400.0 }";
    let tags = crate::gateway::tag("level", "holding:0", "int16", still);
    let pump = "[[device]]\nname = \"pump\"\nbus = \"line\"\nunit_id = 2\npoll = \"100ms\"\n".to_owned() + &tags;
    let home = Home::new(&(crate::gateway::config(plc.line.address()) + &tags + &pump + &uplink(&host, "")));
    let daemon = home.run();
    let of_pump = |host: &Host| {
        let said = host.messages().into_iter().filter(|it| it.device.as_deref() == Some("pump"));
        said.map(|it| it.kind).collect::<Vec<_>>()
    };
    let answers = |host: &Host, device: &str| {
        let values = lawful(host, &["plc", "pump"]); // no data of a dead device, whoever asks
        let told = values.get(&(device.to_owned(), "level".to_owned())).cloned().unwrap_or_default();
        told.iter().filter(|told| !told.in_birth && told.value == Some(Value::Int(42))).count()
    };
    let refused = |device| host.command(Some(device), vec![Metric::write("level", INT32, Value::Int(401))]);
    host.until("both are known", |host| answers(host, "plc") > 0 && answers(host, "pump") > 0).await;
    let before = answers(&host, "pump");
    refused("pump");
    host.until("the value there is", |host| answers(host, "pump") > before).await;
    plc.units.set_fault(2, Some(ironbridge::plant::faults::Fault::Dead));
    host.until("it is dead", |host| of_pump(host).last().is_some_and(|kind| kind == "DDEATH")).await;
    let (before, said) = (answers(&host, "plc"), of_pump(&host).len());
    (0..5).for_each(|_| refused("pump"));
    refused("plc");
    host.until("the value there is", |host| answers(host, "plc") > before).await;
    let polled = plc.requests();
    until("ten polls", || plc.requests() > polled + 10).await;
    assert_eq!(of_pump(&host).len(), said, "nothing of a dead device: {:?}", of_pump(&host));
    plc.units.set_fault(2, None);
    host.until("it is born again", |host| of_pump(host).len() > said).await;
    let before = answers(&host, "pump");
    refused("pump");
    host.until("the value there is", |host| answers(host, "pump") > before).await;
    assert_eq!(plc.writes(), 0);
    drop(daemon);
}
