//! The whole gateway and its clouds: stopping in order, kill -9 in the middle, several uplinks, files that are not there.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::authority;
use crate::cloud;
use crate::gateway;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use authority::{Authority, EXPIRED, VALID};
use cloud::Cloud;
use gateway::{Home, PATIENCE, Plc, Watch, config, tag, until, uplink, within};
use ironbridge::plant::link::{Link, LinkState};
use ironbridge::store::inspect;
use rustix::process::Signal;
use serde_json::json;

/// Messages in flight at most (uplink, window).
const WINDOW: usize = 512;
/// Acknowledgements that a kill may cost: cursors are saved every 1000 of them, and what came within 0.2 s of that.
const UNSAVED: usize = 1000 + 600;

/// Twenty tags, fifty times a second.
fn busy(plc: SocketAddr) -> String {
    let tags = (0..20).map(|n| tag(&format!("t{n}"), &format!("holding:{n}"), "uint16", ""));
    config(plc).replace("poll = \"100ms\"", "poll = \"20ms\"") + &tags.collect::<String>()
}

/// What a cloud has of one gateway.
#[derive(Debug, Default)]
struct Ledger {
    /// By stream and epoch.
    have: BTreeMap<(String, u64), BTreeSet<u64>>,
    arrived: usize,
    duplicates: usize,
    /// Numbers that came after a higher one of their stream, without having come before.
    out_of_order: usize,
}

impl Ledger {
    fn of(cloud: &Cloud) -> Self {
        let mut ledger = Self::default();
        let mut within_connection: HashMap<(usize, String), u64> = HashMap::new();
        for arrived in cloud.log() {
            let json = arrived.json();
            let (Some(stream), Some(epoch), Some(seq)) =
                (json["stream"].as_str(), json["epoch"].as_u64(), json["seq"].as_u64())
            else {
                continue;
            };
            assert!(!arrived.retain && !arrived.topic.ends_with("/gap"), "{arrived:?}");
            ledger.arrived += 1;
            let have = ledger.have.entry((stream.to_owned(), epoch)).or_default();
            let highest = have.last().copied().unwrap_or(0);
            if !have.insert(seq) {
                ledger.duplicates += 1;
            } else if seq < highest {
                ledger.out_of_order += 1;
            }
            let before = within_connection.insert((arrived.connection, stream.to_owned()), seq);
            assert!(before.is_none_or(|before| before < seq), "{stream} {seq} after {before:?} on one connection");
        }
        ledger
    }

    /// Numbers that the closed store has given and this cloud has not seen.
    fn missing(&self, store: &Path) -> Vec<String> {
        let mut missing = Vec::new();
        for newest in inspect::status(store).unwrap().newest() {
            let key = (newest.stream.as_str().to_owned(), newest.epoch.0);
            let have = self.have.get(&key).cloned().unwrap_or_default();
            let lost = (1..=newest.seq.0).filter(|seq| !have.contains(seq));
            missing.extend(lost.map(|seq| format!("{} {seq} of {}", key.0, newest.seq.0)));
        }
        missing
    }
}

fn samples(cloud: &Cloud) -> usize {
    cloud.log().iter().filter(|arrived| arrived.topic.starts_with("gw/plc/")).count()
}

/// An uplink with TLS: CA, certificate, key.
fn secured(uplink: &str, files: [&Path; 3]) -> String {
    let [ca, certificate, key] = files.map(Path::display);
    let files = format!("ca_file = \"{ca}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n");
    uplink.replace("mqtt://", "mqtts://") + &files
}

fn tls_uplink(name: &str, cloud: &Cloud, authority: &Authority, identity: (&Path, &Path)) -> String {
    secured(&uplink(name, cloud.address), [&authority.ca_file(), identity.0, identity.1])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_during_a_start_that_does_not_end_is_heard() {
    let plc = Plc::start().await;
    let home = Home::new(&busy(plc.line.address()));
    std::fs::create_dir(home.path("data")).unwrap();
    // Whoever reads this waits for a writer, for ever: a disk that takes its time.
    let made = std::process::Command::new("mkfifo").arg(home.path("data/alarms.json")).status().unwrap();
    assert!(made.success());
    for signals in [1, 2] {
        let mut daemon = home.run();
        until("it has begun", || daemon.said("gateway started").is_some()).await;
        daemon.signal(Signal::TERM);
        until("it is heard", || daemon.said("stopping in order").is_some()).await;
        if signals == 2 {
            daemon.signal(Signal::TERM);
        }
        assert_eq!(daemon.ended(PATIENCE).await.code(), Some(0));
        assert_eq!(daemon.times_said("stopped in the middle of the start"), 1);
    }
    // The store is none the worse for it.
    std::fs::remove_file(home.path("data/alarms.json")).unwrap();
    let daemon = home.run();
    Watch::on_all(daemon.mqtt().await).await.until("gw/plc/t0", "polled", |json| json["quality"] == "good").await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_brings_everything_committed_to_the_cloud_and_says_offline() {
    let (plc, authority) = (Plc::start().await, Authority::new());
    let cloud = Cloud::start_tls(authority.server("127.0.0.1", VALID)).await;
    let (certificate, key) = authority.client("gw", VALID);
    let home = Home::new(&(busy(plc.line.address()) + &tls_uplink("cloud", &cloud, &authority, (&certificate, &key))));
    let mut daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    cloud.until("samples", |cloud| samples(cloud) > 1000).await;
    daemon.signal(Signal::HUP);
    until("answered", || daemon.said("users and rules reloaded").is_some()).await;
    assert!(daemon.is_running(), "SIGHUP ends nothing");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(PATIENCE).await.code(), Some(0));
    let ledger = Ledger::of(&cloud);
    assert_eq!(ledger.missing(&home.path("data/store")), [""; 0]);
    assert_eq!((ledger.duplicates, ledger.out_of_order), (0, 0));
    let status = cloud.on("ironbridge/gw/status").pop().unwrap();
    assert!(status.retain && !status.will, "said by the gateway, not by the will");
    let newest = ledger.have.iter().find(|((stream, _), _)| stream == "telemetry").unwrap();
    let last = newest.1.last().unwrap();
    assert_eq!(status.json()["state"], "offline");
    assert_eq!(status.json()["streams"]["telemetry"], json!({"epoch": newest.0.1, "seq": last}));
    assert_eq!(cloud.disconnects(), 1);
    watch.until("ironbridge/gw/status", "offline", |status| status["state"] == "offline").await;
    let left: Vec<_> = std::fs::read_dir(home.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "only configuration and data are left: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_hurries_past_a_cloud_that_does_not_acknowledge_and_loses_nothing() {
    let (plc, cloud) = (Plc::start().await, Cloud::start().await);
    let home = Home::new(&(busy(plc.line.address()) + &uplink("cloud", cloud.address)));
    let mut daemon = home.run();
    cloud.until("samples", |cloud| samples(cloud) > 200).await;
    cloud.withhold_acks(true);
    daemon.signal(Signal::TERM);
    until("stopping", || daemon.said("everything polled is committed").is_some()).await;
    assert!(daemon.is_running(), "acknowledgements are waited for");
    let hurried = Instant::now();
    daemon.signal(Signal::TERM);
    // Sooner than after the 10 s for which acknowledgements are waited for.
    assert_eq!(daemon.ended(Duration::from_secs(8)).await.code(), Some(0));
    println!("ended {:?} after the second SIGTERM", hurried.elapsed());
    cloud.withhold_acks(false);
    let daemon = home.run();
    cloud.until("the rest", |cloud| Ledger::of(cloud).missing(&home.path("data/store")).is_empty()).await;
    assert_eq!(daemon.stop().await, Some(0));
    let ledger = Ledger::of(&cloud);
    assert_eq!((ledger.missing(&home.path("data/store")), ledger.out_of_order), (vec![], 0));
    assert!(ledger.duplicates <= WINDOW, "{}", ledger.duplicates);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_without_a_cloud_ends_in_time_and_the_rest_arrives_after_the_next_start() {
    for black_hole in [false, true] {
        let (plc, cloud) = (Plc::start().await, Cloud::start().await);
        let home = Home::new(&(busy(plc.line.address()) + &uplink("cloud", cloud.address)));
        let mut daemon = home.run();
        cloud.until("samples", |cloud| samples(cloud) > 200).await;
        if black_hole {
            cloud.black_hole(true);
        } else {
            cloud.refuse_connections(true);
            cloud.cut();
        }
        let before = plc.requests();
        until("polling goes on", || plc.requests() > before + 50).await;
        daemon.signal(Signal::TERM);
        // 10 s for acknowledgements, 3 s for the goodbye; as much again on a busy machine.
        assert_eq!(daemon.ended(Duration::from_secs(26)).await.code(), Some(0));
        cloud.black_hole(false);
        cloud.refuse_connections(false);
        cloud.cut();
        let daemon = home.run();
        cloud.until("the rest", |cloud| Ledger::of(cloud).missing(&home.path("data/store")).is_empty()).await;
        assert_eq!(daemon.stop().await, Some(0));
        let ledger = Ledger::of(&cloud);
        assert_eq!((ledger.missing(&home.path("data/store")), ledger.out_of_order), (vec![], 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_over_a_link_that_breaks_loses_nothing() {
    const KILLS: usize = 5;
    let (plc, cloud) = (Plc::start().await, Cloud::start().await);
    let home = Home::new(&(busy(plc.line.address()) + &uplink("cloud", cloud.address)));
    for round in 0..KILLS {
        let mut daemon = home.run();
        let (before, asked) = (samples(&cloud), plc.requests());
        cloud.cut_after(Some(300 + round * 170));
        cloud.until("samples", |cloud| samples(cloud) > before + 900).await;
        within(PATIENCE, "polling", || plc.requests() > asked + 50).await;
        daemon.kill();
        assert!(daemon.said("damaged").is_none() && daemon.said("set aside").is_none());
    }
    cloud.cut_after(None);
    let daemon = home.run();
    let before = samples(&cloud);
    cloud.until("a session that lasts", |cloud| samples(cloud) > before + 2000).await;
    assert_eq!(daemon.stop().await, Some(0));
    let ledger = Ledger::of(&cloud);
    assert_eq!(ledger.missing(&home.path("data/store")), [""; 0]);
    assert_eq!(ledger.out_of_order, 0);
    let epochs: BTreeSet<_> = ledger.have.keys().filter(|(stream, _)| stream == "telemetry").collect();
    assert_eq!(epochs.len(), 1, "the same epoch throughout");
    let sessions = cloud.connects().len();
    println!("{} arrived, {} twice, {sessions} sessions, {KILLS} kills", ledger.arrived, ledger.duplicates);
    assert!(ledger.duplicates <= sessions * WINDOW + KILLS * UNSAVED, "{} in {sessions}", ledger.duplicates);
    assert!(inspect::verify(&home.path("data/store"), &mut |_, _| {}).unwrap().problems.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uplinks_have_their_own_cursors_and_a_dead_one_harms_nobody() {
    let (plc, alive, dead) = (Plc::start().await, Cloud::start().await, Cloud::start().await);
    let link = Link::to(dead.address).await.unwrap();
    link.set(LinkState::Cut);
    let both = busy(plc.line.address()) + &uplink("alive", alive.address) + &uplink("dead", link.address());
    let home = Home::new(&both);
    let daemon = home.run();
    alive.until("samples", |cloud| samples(cloud) > 2000).await;
    assert_eq!(daemon.stop().await, Some(0));
    let ledger = Ledger::of(&alive);
    assert_eq!((ledger.missing(&home.path("data/store")), ledger.duplicates), (vec![], 0));
    assert!(dead.log().is_empty());

    link.set(LinkState::Up);
    let daemon = home.run();
    dead.until("all of it", |cloud| Ledger::of(cloud).missing(&home.path("data/store")).is_empty()).await;
    assert_eq!(daemon.stop().await, Some(0));
    for cloud in [&alive, &dead] {
        let ledger = Ledger::of(cloud);
        let found = (ledger.missing(&home.path("data/store")), ledger.duplicates, ledger.out_of_order);
        assert_eq!(found, (vec![], 0, 0));
    }

    // Removed while it is owed something.
    link.set(LinkState::Cut);
    let daemon = home.run();
    let before = samples(&alive);
    alive.until("more", |cloud| samples(cloud) > before + 500).await;
    assert_eq!(daemon.stop().await, Some(0));
    home.configure(&(busy(plc.line.address()) + &uplink("alive", alive.address)));
    let before = samples(&alive);
    let daemon = home.run();
    let line = || daemon.said("what it was owed is dropped uplink=\"dead\" class=telemetry owed=");
    until("told of samples", || line().is_some()).await;
    let line = line().unwrap();
    let owed = line.split("owed=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    assert!(owed.parse::<u64>().unwrap() > 500, "{line}");
    // Stopped before it has connected, it would owe what it took in the meantime to the next start.
    alive.until("a session", |cloud| samples(cloud) > before + 500).await;
    assert_eq!(daemon.stop().await, Some(0));
    assert_eq!(Ledger::of(&alive).missing(&home.path("data/store")), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_port_ca_or_key_and_an_expired_certificate_disable_one_part_until_they_are_mended() {
    let (plc, authority) = (Plc::start().await, Authority::new());
    let mut config = busy(plc.line.address()).replace("20ms", "200ms");
    let at = |name: &str| authority.home.path().join(name);
    let good = authority.client("good", VALID);
    let old = authority.client("old", EXPIRED);
    let copy = |from: &Path, to: &str| std::fs::copy(from, at(to)).unwrap();
    let clouds = ["no-ca", "no-key", "expired"];
    let mut doors = Vec::new();
    for name in clouds {
        let cloud = Cloud::start_tls(authority.server("127.0.0.1", VALID)).await;
        let (ca, crt, key) = (at(&format!("{name}.pem")), at(&format!("{name}.crt")), at(&format!("{name}.key")));
        config += &secured(&uplink(name, cloud.address), [&ca, &crt, &key]);
        doors.push(cloud);
    }
    copy(&good.0, "no-ca.crt");
    copy(&good.1, "no-ca.key");
    copy(&authority.ca_file(), "no-key.pem");
    copy(&good.0, "no-key.crt");
    copy(&authority.ca_file(), "expired.pem");
    copy(&old.0, "expired.crt");
    copy(&old.1, "expired.key");
    let port = at("ttyS9");
    let line = "[[bus]]\nname = \"rs485\"\ntype = \"modbus-rtu\"\nport = \"PORT\"\nserial = \"9600-8N1\"\n\
         [[device]]\nname = \"meter\"\nbus = \"rs485\"\nunit_id = 1\npoll = \"200ms\"\n";
    config += &line.replace("PORT", &port.to_string_lossy());
    config += &tag("level", "holding:0", "uint16", "");
    let home = Home::new(&config);
    let witness = Cloud::start().await;
    home.configure(&(config.clone() + &uplink("witness", witness.address)));
    let mut daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/plc/t0", "the rest runs", |it| it["quality"] == "good").await;
    watch.until("gw/meter/level", "no port", |it| it["cause"] == "transport").await;
    let event = |name: &'static str, subject: &'static str, state: &'static str| {
        move |cloud: &Cloud| {
            let events = cloud.on("ironbridge/gw/event").into_iter().map(|arrived| arrived.json());
            events.filter(|it| it["event"] == name && it["subject"] == subject && it["state"] == state).count() == 1
        }
    };
    for name in clouds {
        witness.until(name, event("uplink_disabled", name, "active")).await;
    }
    witness.until("no port", event("bus_down", "rs485", "active")).await;

    copy(&authority.ca_file(), "no-ca.pem");
    copy(&good.1, "no-key.key");
    copy(&good.0, "expired.crt");
    copy(&good.1, "expired.key");
    let line = ironbridge::plant::units::Units::new();
    line.insert(1, {
        let mut image = ironbridge::plant::image::Image::new();
        image.set_words(ironbridge::model::tag::Table::Holding, 0, &[77]);
        image
    });
    let _rtu =
        ironbridge::plant::rtu::RtuLine::serve(Some(&port), ironbridge::plant::rtu::Pace::Instant, line).unwrap();
    // Files are looked at every 30 s.
    for (cloud, name) in doors.iter().zip(clouds) {
        within(Duration::from_secs(90), name, || samples(cloud) > 0).await;
        witness.until(name, event("uplink_disabled", name, "cleared")).await;
    }
    let sample = watch.until("gw/meter/level", "the port is there", |it| it["quality"] == "good").await;
    assert_eq!(sample["value"], 77);
    witness.until("the port is there", event("bus_down", "rs485", "cleared")).await;
    assert!(daemon.is_running());
    assert_eq!(daemon.stop().await, Some(0));
}
