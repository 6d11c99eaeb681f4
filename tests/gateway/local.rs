//! The whole gateway, seen from beside it: values, qualities, status, listeners, and starts on whatever the disk holds.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::gateway;
use crate::ports::own_port;

use std::time::{Duration, Instant};

use cloud::Cloud;
use gateway::{Daemon, Home, PATIENCE, Plc, Watch, config, tag, until, uplink, within};
use ironbridge::model::tag::Table;
use ironbridge::plant::faults::Fault;
use ironbridge::plant::image::Image;
use rustix::process::Signal;
use serde_json::{Value as Json, json};

/// Polling begins this soon, whatever the disk holds: the promise is 2 s, the rest is for a busy machine, which starts the
/// program first. What hangs on the disk hangs for good.
const POLLING_WITHIN: Duration = Duration::from_secs(10);

const TAGS: [(&str, &str, &str, &str); 14] = [
    ("coil", "coil:3", "bool", ""),
    ("discrete", "discrete:4", "bool", ""),
    ("bit", "holding:40.3", "bool", ""),
    ("i16", "holding:0", "int16", ""),
    ("u16", "holding:1", "uint16", ""),
    ("i32", "holding:2", "int32", ""),
    ("u32", "holding:4", "uint32", ""),
    ("i64", "holding:6", "int64", ""),
    ("u64", "holding:10", "uint64", ""),
    ("f32", "input:14", "float32", "order = \"CDAB\""),
    ("f64", "input:16", "float64", ""),
    ("text", "holding:20", "string(8)", ""),
    ("scaled", "holding:30", "uint16", "scale = 0.1\noffset = -3.0"),
    ("too_much", "holding:31", "uint16", "max = 10.0"),
];

fn image() -> Image {
    let mut image = Image::new();
    image.set_bit(Table::Coil, 3, None, true);
    image.set_bit(Table::Discrete, 4, None, false);
    image.set_words(Table::Holding, 0, &[0xFFFB]); // -5
    image.set_words(Table::Holding, 1, &[0xFFFF]);
    image.set_words(Table::Holding, 2, &[0xFFFE, 0xEE90]); // -70 000
    image.set_words(Table::Holding, 4, &[0xEE6B, 0x2800]); // 4 000 000 000
    image.set_words(Table::Holding, 6, &[0xFFDF, 0xFFFF, 0xFFFF, 0xFFFF]); // -(2^53 + 1)
    image.set_words(Table::Holding, 10, &[0xFFFF; 4]);
    image.set_words(Table::Input, 14, &[0x0000, 0x4148]); // 12.5, words reversed
    image.set_words(Table::Input, 16, &[0xBFB9, 0x9999, 0x9999, 0x999A]); // -0.1
    image.set_words(Table::Holding, 20, &[0x7075, 0x6D70, 0x0000, 0x0000]); // "pump"
    image.set_words(Table::Holding, 30, &[125]);
    image.set_words(Table::Holding, 31, &[11]);
    image.set_words(Table::Holding, 40, &[0b1000]);
    image.set_words(Table::Holding, 50, &[0x7FC0, 0x0000]); // not a number
    image
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_every_type_reach_their_retained_topic_with_the_right_quality() {
    let plc = Plc::with(image()).await;
    plc.units.insert(2, image());
    plc.units.set_fault(2, Some(Fault::Dead));
    let mut text = config(plc.line.address());
    for (name, address, data_type, more) in TAGS {
        text += &tag(name, address, data_type, more);
    }
    text += &tag("nan", "holding:50", "float32", "");
    text += &tag("absent", "holding:900", "uint16", "");
    text += "[[device]]\nname = \"mute\"\nbus = \"line\"\nunit_id = 2\npoll = \"100ms\"\n";
    text += &tag("silent", "holding:0", "uint16", "");
    let home = Home::new(&text);
    let mut daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    let good = [
        ("coil", json!(true)),
        ("discrete", json!(false)),
        ("bit", json!(true)),
        ("i16", json!(-5)),
        ("u16", json!(65535)),
        ("i32", json!(-70_000)),
        ("u32", json!(4_000_000_000_u32)),
        ("i64", json!(-9_007_199_254_740_993_i64)),
        ("u64", json!(u64::MAX)),
        ("f32", json!(12.5)),
        ("f64", json!(-0.1)),
        ("text", json!("pump")),
        ("scaled", json!(9.5)),
    ];
    for (name, value) in good {
        let is_good = |sample: &Json| sample["quality"] == "good";
        let sample = watch.until(&format!("gw/plc/{name}"), "a good value", is_good).await;
        assert_eq!(sample["value"], value, "{name}");
        assert!(sample["time"].as_str().unwrap().ends_with('Z') && sample.get("cause").is_none(), "{sample}");
    }
    let doubtful = [
        ("gw/plc/too_much", "uncertain", "range", json!(11)),
        ("gw/plc/nan", "bad", "nan", Json::Null),
        ("gw/plc/absent", "bad", "exception", Json::Null),
        ("gw/mute/silent", "bad", "timeout", Json::Null),
    ];
    for (topic, quality, cause, value) in doubtful {
        let sample = watch.until(topic, cause, |sample| sample["cause"] == cause).await;
        assert_eq!((&sample["quality"], &sample["value"]), (&json!(quality), &value), "{topic}");
    }
    let answering = watch.until("ironbridge/gw/device/plc", "answering", |it| it["state"] == "answering").await;
    assert!(answering["last_success"].is_string(), "{answering}");
    let down = watch.until("ironbridge/gw/device/mute", "down", |it| it["state"] == "down").await;
    assert!(down["last_success"].is_null() && down["timeouts"].as_u64() >= Some(2), "{down}");

    // Whoever comes later finds all of it retained.
    let late = Watch::on_all(daemon.mqtt().await).await;
    let topics = ["ironbridge/gw/status", "ironbridge/gw/device/plc", "gw/plc/u64", "gw/mute/silent"];
    until("retained", || topics.iter().all(|topic| late.on(topic).first().is_some_and(|seen| seen.retained))).await;
    assert_eq!(late.newest("ironbridge/gw/status").unwrap()["state"], "online");
    daemon.signal(Signal::TERM);
    late.until("ironbridge/gw/status", "offline", |status| status["state"] == "offline").await;
    assert_eq!(daemon.ended(PATIENCE).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_starting_before_its_first_poll_then_bad_until_the_plc_is_there() {
    let mute = Plc::with(image()).await; // accepts, and says nothing
    mute.units.set_fault(1, Some(Fault::Dead));
    let (address, units) = (mute.line.address(), mute.units.clone());
    let text = config(address).replace("500ms", "3s") + &tag("level", "holding:0", "uint16", "");
    let home = Home::new(&text);
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    let first = watch.until("gw/plc/level", "anything", |_| true).await;
    assert_eq!((&first["value"], &first["quality"], &first["cause"]), (&Json::Null, &json!("bad"), &json!("starting")));
    mute.line.stop().await;
    let cut = watch.until("gw/plc/level", "no connection", |sample| sample["cause"] == "transport").await;
    assert_eq!((&cut["value"], &cut["quality"]), (&Json::Null, &json!("bad")));
    units.set_fault(1, None);
    let _plc = Plc::at(address, units).await;
    let sample = watch.until("gw/plc/level", "a good value", |sample| sample["quality"] == "good").await;
    assert_eq!(sample["value"], 65_531);
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_whose_port_is_taken_opens_when_it_is_free() {
    let plc = Plc::start().await;
    let taken = std::net::TcpListener::bind(("127.0.0.1", own_port())).unwrap();
    let address = taken.local_addr().unwrap();
    let text = config(plc.line.address()) + &tag("level", "holding:0", "uint16", "");
    let open = "[[broker.listener]]\nlisten = \"127.0.0.1:0\"\nanonymous = \"read-write\"\n";
    let text = text.replacen("127.0.0.1:0", &address.to_string(), 1) + open;
    let home = Home::new(&text);
    let daemon = home.run();
    within(POLLING_WITHIN, "polling", || plc.requests() > 0).await;
    let watch = Watch::on_all(daemon.mqtt().await).await; // by the other door
    until("told", || daemon.said("cannot open listener").is_some()).await;
    drop(taken);
    until("open", || daemon.said(&format!("listening for MQTT clients address={address}")).is_some()).await;
    let event = watch.event("broker_listener_down", "cleared").await;
    assert_eq!(event["subject"], json!(address.to_string()));
    Watch::on_all(address).await.until("gw/plc/level", "a good value", |it| it["quality"] == "good").await;
    assert_eq!(daemon.stop().await, Some(0));
}

/// What the disk may hold at a start.
#[derive(Clone, Copy, Debug)]
enum Found {
    GarbageInTheStore,
    MetaCutShort,
    MetaGarbage,
    CommandsGarbage,
    RetainedGarbage,
    StoreIsAFile,
    CommandsIsADirectory,
    RetainedIsADirectory,
    DataDirIsAFile,
}

impl Found {
    fn lay(self, home: &Home) {
        let garbage: Vec<u8> = (0..20_000_u32).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
        let write = |name: &str| std::fs::write(home.path(name), &garbage).unwrap();
        match self {
            Self::GarbageInTheStore => {
                for name in ["chunk-telemetry-000001.db", "chunk-event-000002.db", "chunk-event-000002.db-wal", "x"] {
                    write(&format!("data/store/{name}"));
                }
                write("data/store/quarantine/meta.db");
            }
            Self::MetaCutShort => {
                let meta = std::fs::OpenOptions::new().write(true).open(home.path("data/store/meta.db")).unwrap();
                meta.set_len(meta.metadata().unwrap().len() / 2).unwrap();
            }
            Self::MetaGarbage => write("data/store/meta.db"),
            Self::CommandsGarbage => write("data/commands.db"),
            Self::RetainedGarbage => write("data/broker.db"),
            Self::StoreIsAFile => {
                std::fs::remove_dir_all(home.path("data/store")).unwrap();
                write("data/store");
            }
            Self::CommandsIsADirectory => directory(home, "data/commands.db"),
            Self::RetainedIsADirectory => directory(home, "data/broker.db"),
            Self::DataDirIsAFile => {
                std::fs::remove_dir_all(home.path("data")).unwrap();
                write("data");
            }
        }
    }

    /// The event that must reach the cloud; without a store there is none.
    fn event(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::MetaCutShort | Self::MetaGarbage | Self::GarbageInTheStore => Some(("store_damaged", "once")),
            Self::RetainedGarbage => Some(("broker_retained_damaged", "once")),
            Self::RetainedIsADirectory => Some(("broker_retained_not_kept", "active")),
            Self::CommandsIsADirectory => Some(("commands_not_journalled", "active")),
            _ => None,
        }
    }

    /// What the log says.
    fn said(self) -> &'static str {
        match self {
            Self::MetaCutShort | Self::MetaGarbage | Self::GarbageInTheStore => "set aside",
            Self::RetainedGarbage => "retained messages and sessions of clients were damaged",
            Self::RetainedIsADirectory => "retained messages of clients cannot be kept",
            Self::StoreIsAFile | Self::DataDirIsAFile => "store cannot be opened",
            Self::CommandsGarbage => "command journal damaged and set aside",
            Self::CommandsIsADirectory => "command journal failed",
        }
    }

    /// What becomes of a command.
    fn outcome(self) -> &'static str {
        match self {
            Self::CommandsIsADirectory | Self::DataDirIsAFile => "refused",
            _ => "done",
        }
    }
}

fn directory(home: &Home, name: &str) {
    let _ = std::fs::remove_file(home.path(name)); // it may not be there yet
    std::fs::create_dir(home.path(name)).unwrap();
    std::fs::write(home.path(name).join("inside"), b"x").unwrap();
}

async fn begins_on(found: Found) {
    let (plc, cloud) = (Plc::start().await, Cloud::start().await);
    let level = tag("level", "holding:0", "uint16", "access = \"read-write\"");
    let home = Home::new(&(config(plc.line.address()) + &level + &uplink("cloud", cloud.address)));
    let first = home.run();
    let watch = Watch::on_all(first.mqtt().await).await;
    watch.until("gw/plc/level", "a good value", |it| it["quality"] == "good").await;
    until("committed", || home.path("data/store/meta.db").exists()).await;
    assert_eq!(first.stop().await, Some(0));

    found.lay(&home);
    let (before, begun) = (plc.requests(), Instant::now());
    let mut daemon = home.run();
    within(POLLING_WITHIN, "polling", || plc.requests() > before).await;
    println!("{found:?}: polling after {:?}", begun.elapsed());
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    watch.until("gw/plc/level", "a good value", |it| it["quality"] == "good").await;
    until("told", || daemon.said(found.said()).is_some()).await;
    if let Some((name, state)) = found.event() {
        let fits = |event: &Json| event["event"] == name && event["state"] == state;
        let told = |cloud: &Cloud| cloud.on("ironbridge/gw/event").iter().any(|arrived| fits(&arrived.json()));
        cloud.until(name, told).await;
    }
    let mut client = gateway::mqtt::Client4::connect(broker, "hmi").await;
    client.publish("gw/plc/level/set", rumqttc::QoS::AtLeastOnce, "7").await;
    let result = watch.until("gw/plc/level/set/result", "a result", |_| true).await;
    assert_eq!(result["outcome"], found.outcome(), "{found:?}: {result}");
    if found.outcome() == "refused" {
        assert_eq!(result["reason"], "journal", "{found:?}");
        assert_eq!(plc.word(0), 0);
    }
    assert!(daemon.is_running(), "{found:?}");
    assert_eq!(daemon.stop().await, Some(0), "{found:?}");
}

macro_rules! begins {
    ($($name:ident: $found:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            begins_on(Found::$found).await;
        }
    )*};
}

begins! {
    polling_begins_although_there_is_garbage_in_the_store: GarbageInTheStore,
    polling_begins_although_meta_db_was_cut_short: MetaCutShort,
    polling_begins_although_meta_db_is_garbage: MetaGarbage,
    polling_begins_although_the_command_journal_is_garbage: CommandsGarbage,
    polling_begins_although_the_retained_messages_are_garbage: RetainedGarbage,
    polling_begins_although_the_store_is_a_file: StoreIsAFile,
    polling_begins_although_the_command_journal_is_a_directory: CommandsIsADirectory,
    polling_begins_although_the_retained_messages_are_a_directory: RetainedIsADirectory,
    polling_begins_although_the_data_directory_is_a_file: DataDirIsAFile,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_a_temporary_directory_polls_and_forwards() {
    let (plc, cloud) = (Plc::start().await, Cloud::start().await);
    let level = tag("level", "holding:0", "uint16", "");
    let home = Home::new(&(config(plc.line.address()) + &level + &uplink("cloud", cloud.address)));
    let mut command = home.command(&["run", "--config", "ironbridge.toml"]);
    let daemon = Daemon::start({
        command.env("TMPDIR", home.path("nowhere"));
        command
    });
    cloud.until("a sample", |cloud| !cloud.on("gw/plc/level").is_empty()).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[test]
fn a_wrong_configuration_is_exit_78_with_every_problem_and_nonsense_is_64() {
    let text = config("127.0.0.1:502".parse().unwrap()) + &tag("a", "holding:0", "uint17", "colour = \"red\"");
    let home = Home::new(&(text + "[[uplink]]\nname = \"u\"\nurl = \"http://x\"\n"));
    let run = |arguments: &[&str]| {
        let output = home.command(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(&["run", "--config", "ironbridge.toml"]);
    assert_eq!(code, Some(78), "{said}");
    for part in ["uint17", "colour", "http://x", "device[0].tag[0].type", "ironbridge.toml:"] {
        assert!(said.contains(part), "no {part} in\n{said}");
    }
    assert!(!home.path("data").exists(), "nothing was begun");
    assert_eq!(run(&["run", "--config", "nowhere.toml"]).0, Some(78));
    assert_eq!(run(&["check", "--config", "ironbridge.toml", "--live"]).0, Some(78));
    assert_eq!(run(&["run", "--colour"]).0, Some(64));
    assert_eq!(run(&["paint"]).0, Some(64));
    assert_eq!(run(&[]).0, Some(64));
}

#[test]
fn a_start_whose_files_cannot_be_read_yet_waits_longer_each_time_and_who_mends_a_wrong_file_waits_for_nothing() {
    let home = Home::new("");
    let text = |map: &str| {
        config(([127, 0, 0, 1], 1).into())
            + &tag("a", "holding:0", "uint16", "")
            + &format!("[[device]]\nname = \"late\"\nbus = \"line\"\nunit_id = 9\nprofile = \"{map}\"\n")
    };
    let run = || {
        let began = Instant::now();
        let told = home
            .command(&["run", "--config", "ironbridge.toml"])
            .env("RUNTIME_DIRECTORY", home.path(""))
            .output()
            .unwrap();
        (told.status.code(), String::from_utf8(told.stderr).unwrap(), began.elapsed())
    };
    home.configure(&text("disk/late.csv")); // a disk that is mounted late
    for _ in 0..3 {
        let (code, said, _) = run();
        assert_eq!((code, said.contains("several times in a row")), (Some(75), false), "{said}");
    }
    let (code, said, took) = run();
    assert_eq!((code, said.contains("several times in a row")), (Some(75), true), "{said}");
    assert!(took >= Duration::from_secs(2), "{took:?}");
    home.configure("nonsense = 1\n");
    let (code, said, took) = run();
    assert_eq!(code, Some(78), "{said}");
    assert!(took >= Duration::from_secs(4), "{took:?}");
    let (code, said, _) = run();
    assert_eq!((code, said.contains("several times in a row")), (Some(78), false), "{said}");
}

#[tokio::test]
async fn who_stops_a_start_that_waits_after_short_lives_and_starts_it_again_waits_for_nothing() {
    let home = Home::new(&config(([127, 0, 0, 1], 1).into()));
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let seconds = uptime.split('.').next().unwrap();
    std::fs::write(home.path("short-lives"), format!("9 {seconds}000\n")).unwrap();
    let mut command = home.command(&["run", "--config", "ironbridge.toml"]);
    command.env("RUNTIME_DIRECTORY", home.path(""));
    let mut daemon = Daemon::start(command);
    until("it waits", || daemon.said("waiting before the next start").is_some()).await;
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.ended(PATIENCE).await.code(), Some(0));
    assert!(!home.path("short-lives").exists(), "the next life is the first");
}
