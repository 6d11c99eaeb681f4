//! Reload of the real program by difference: what is touched begins anew, and nobody else notices.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::gateway;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::peers::free_port;
use crate::revised::board;
use cloud::Cloud;
use gateway::mqtt::Client4;
use gateway::{Daemon, Home, PATIENCE, Plc, Watch, tag, until, uplink};
use ironbridge::plant::faults::Fault;
use rustix::process::Signal;
use serde_json::Value as Json;

/// The trial is as short as it may be, or there is none.
pub const TRIAL: &str = "rollback_after = \"5s\"";
pub const NO_TRIAL: &str = "rollback = false";

/// A gateway `gw` with one bus and device per PLC, `d0` on `b0` and so on, each with a tag `v`, ten polls a second.
pub fn plant(plcs: &[SocketAddr], gateway: &str) -> String {
    let head = format!(
        "[gateway]\nname = \"gw\"\ndata_dir = \"data\"\n{gateway}\n[store]\ncommit_interval = \"100ms\"\n\
         [[broker.listener]]\nlisten = \"127.0.0.1:0\"\nanonymous = \"read-write\"\n\
         [[broker.acl]]\nuser = \"anonymous\"\nwrite = [\"gw/+/+/set\"]\n"
    );
    (0..).zip(plcs).fold(head, |all, (n, plc)| all + &bus(n, *plc) + &device(n, ""))
}

fn bus(n: usize, plc: SocketAddr) -> String {
    format!("[[bus]]\nname = \"b{n}\"\ntype = \"modbus-tcp\"\nendpoint = \"{plc}\"\nresponse_timeout = \"300ms\"\n")
}

fn device(n: usize, more: &str) -> String {
    let head = format!("[[device]]\nname = \"d{n}\"\nbus = \"b{n}\"\nunit_id = 1\npoll = \"100ms\"\n");
    head + &tag("v", "holding:0", "uint16", more)
}

/// `ironbridge reload`, its exit code, what it printed and what it said on stderr.
async fn reload(home: &Home) -> (i32, String, String) {
    ask(home, &["reload", "--config", "ironbridge.toml"]).await
}

async fn ask(home: &Home, words: &[&str]) -> (i32, String, String) {
    let mut command = home.command(words);
    command.stdout(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

pub async fn applied(home: &Home) -> String {
    let (code, out, err) = reload(home).await;
    assert_eq!(code, 0, "{out}{err}");
    out
}

pub fn good(value: u64) -> impl Fn(&Json) -> bool {
    move |json| json["value"] == value && json["quality"] == "good"
}

pub async fn plcs(count: usize) -> Vec<Plc> {
    let mut plcs = Vec::new();
    for _ in 0..count {
        plcs.push(Plc::start().await);
    }
    plcs
}

pub fn addresses(plcs: &[Plc]) -> Vec<SocketAddr> {
    plcs.iter().map(|plc| plc.line.address()).collect()
}

/// Lines of the log about the life of a bus.
pub fn lives(daemon: &Daemon, bus: &str) -> (usize, usize) {
    (daemon.times_said(&format!("bus begins bus={bus} ")), daemon.times_said(&format!("bus ends bus={bus}")))
}

/// Polls that buses other than `b1` left out, because their time had passed.
async fn missed_by_others(page: SocketAddr) -> u64 {
    let board = board(page).await;
    let others = board["buses"].as_array().unwrap().iter().filter(|bus| bus["name"] != "b1");
    others.map(|bus| bus["late"].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_device_is_changed_and_the_others_miss_no_poll() {
    let plcs = plcs(4).await;
    let all = addresses(&plcs);
    let with_page = || {
        plant(&all, NO_TRIAL).replacen(
            "[store]",
            "[status]\nlisten = \"127.0.0.2:0\"\nanonymous = \"read\"\n[store]",
            1,
        )
    };
    let home = Home::new(&with_page());
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    for n in 0..4 {
        watch.until(&format!("gw/d{n}/v"), "polled", good(0)).await;
    }
    let changed = |keys: &str| with_page().replacen(&device(1, ""), &device(1, keys), 1);
    home.configure(&changed("scale = 10.0"));
    let told = applied(&home).await;
    assert!(told.contains("device d1 changed: 1 tags changed"), "{told}");
    let audit = "audit=\"config_changed\" part=\"device\" name=\"d1\" how=\"changed\" detail=\"1 tags changed\"";
    daemon.heard(audit).await;
    daemon.heard_times("audit=\"config_changed\"", 1).await;
    plcs[1].set(0, &[7]);
    watch.until("gw/d1/v", "its new scale", |json| json["value"] == 70.0).await;
    for n in [0, 2, 3] {
        assert_eq!(lives(&daemon, &format!("b{n}")), (1, 0), "bus {n} was not touched");
        plcs[n].set(0, &[9]);
        watch.until(&format!("gw/d{n}/v"), "still polled", good(9)).await;
        let values = watch.on(&format!("gw/d{n}/v"));
        let bad = values.iter().map(gateway::Seen::json).filter(|json| json["quality"] != "good").count();
        assert!(bad <= 1, "d{n} was bad for a moment: {values:?}"); // the one before its first poll
    }
    // The devices count what they are asked, and the gateway the polls it misses. A busy machine makes it miss some at any
    // time: what a reload costs it would cost in each of three, and not in the time after it.
    let (page, began, mut rounds) = (daemon.page().await, Instant::now(), Vec::new());
    let asked = || [0, 2, 3].map(|n: usize| plcs[n].requests());
    let before = asked();
    for scale in ["scale = 2.0", "scale = 3.0", "scale = 4.0"] {
        let (missed, begun, polls) = (missed_by_others(page).await, Instant::now(), asked());
        home.configure(&changed(scale));
        applied(&home).await;
        until("ten more polls of each", || asked().iter().zip(polls).all(|(now, then)| *now >= then + 10)).await;
        let (between, took) = (missed_by_others(page).await, begun.elapsed());
        tokio::time::sleep(took).await; // as long, and nothing is reloaded
        rounds.push((between - missed, missed_by_others(page).await - between));
    }
    assert!(rounds.iter().any(|(reloading, quiet)| reloading <= quiet), "polls missed with and without: {rounds:?}");
    let periods = u64::try_from(began.elapsed().as_millis() / 100).unwrap();
    for (n, polls) in [0, 2, 3].into_iter().zip(asked().into_iter().zip(before).map(|(now, then)| now - then)) {
        assert!(polls <= periods + 2, "d{n} was asked {polls} times in {periods} periods: not begun anew");
    }
    assert_eq!(daemon.stop().await, Some(0));
}

/// Six units behind one connection, one of them dead; with `more` devices and keys of the second one.
fn shared(plc: SocketAddr, second: &str, more: &str) -> String {
    let mut text = plant(&[], NO_TRIAL) + &bus(0, plc);
    for n in 1..=6 {
        let head = format!("[[device]]\nname = \"u{n}\"\nbus = \"b0\"\nunit_id = {n}\npoll = \"100ms\"\n");
        text += &(head + &tag("v", "holding:0", "uint16", if n == 2 { second } else { "deadband = 5.0" }));
    }
    text + more
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_behind_the_same_connection_keep_what_they_had_and_a_new_one_joins_them() {
    let units = ironbridge::plant::units::Units::new();
    for unit in 1..=7 {
        let mut image = ironbridge::plant::image::Image::new();
        image.set_words(ironbridge::model::tag::Table::Holding, 0, &[u16::from(unit) * 100]);
        units.insert(unit, image);
    }
    units.set_fault(6, Some(Fault::Dead));
    let plc = Plc::at(SocketAddr::from(([127, 0, 0, 1], 0)), units).await;
    let at = plc.line.address();
    let home = Home::new(&shared(at, "", ""));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    for n in 1..=5 {
        watch.until(&format!("gw/u{n}/v"), "polled", good(n * 100)).await;
    }
    watch.until("ironbridge/gw/device/u6", "dead", |json| json["state"] == "down").await;
    let seen = |n: u64| watch.on(&format!("gw/u{n}/v")).len();
    let before: Vec<_> = (1..=6).map(seen).collect();
    let seventh = "[[device]]\nname = \"u7\"\nbus = \"b0\"\nunit_id = 7\npoll = \"100ms\"\n".to_owned()
        + &tag("v", "holding:0", "uint16", "");
    for scale in ["scale = 2.0", "scale = 3.0"] {
        home.configure(&shared(at, scale, &seventh));
        applied(&home).await;
    }
    watch.until("gw/u2/v", "its new scale", |json| json["value"] == 600.0).await;
    watch.until("gw/u7/v", "the new one", good(700)).await;
    home.configure(&shared(at, "scale = 3.0", ""));
    applied(&home).await;
    let requests = plc.requests();
    until("they are still polled", || plc.requests() > requests + 50).await;
    assert_eq!(lives(&daemon, "b0"), (1, 0), "one connection, one life");
    for n in [1, 3, 4, 5, 6] {
        // Values within the deadband, and what was known to be dead, are not told again.
        assert_eq!(seen(n), before[usize::try_from(n - 1).unwrap()], "u{n} has noticed something");
    }
    assert!(watch.on("gw/u7/v").last().unwrap().payload.is_empty(), "cleared");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_tag_is_cleared_and_a_new_one_begins_with_null_bad_starting() {
    let plcs = plcs(2).await;
    plcs[0].set(0, &[1, 2, 3]);
    let all = addresses(&plcs);
    let text =
        plant(&all, NO_TRIAL).replacen(&device(0, ""), &(device(0, "") + &tag("gone", "holding:1", "uint16", "")), 1);
    let home = Home::new(&text);
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    watch.until("gw/d0/gone", "polled", good(2)).await;
    watch.until("ironbridge/gw/device/d1", "stands", |json| json["state"] == "answering").await;
    let head = plant(&all[..1], NO_TRIAL);
    let new = tag("new", "holding:2", "uint16", "access = \"read-write\"");
    home.configure(&head.replacen(&device(0, ""), &(device(0, "") + &new), 1));
    let told = applied(&home).await;
    assert!(told.contains("device d0 changed: 1 tags added, 1 tags removed"), "{told}");
    assert!(told.contains("bus b1 removed") && told.contains("device d1 removed"), "{told}");
    watch.until("gw/d0/new", "polled", good(3)).await;
    let first = watch.on("gw/d0/new")[0].json();
    assert!(first["value"].is_null() && first["cause"] == "starting", "{first}");
    for topic in ["gw/d0/gone", "gw/d1/v", "ironbridge/gw/device/d1"] {
        until(&format!("{topic} is cleared"), || watch.on(topic).last().is_some_and(|seen| seen.payload.is_empty()))
            .await;
    }
    // Whoever comes now sees nothing of it; and commands find the new tag, not the old one.
    let later = Watch::on_all(broker).await;
    later.until("gw/d0/new", "retained", good(3)).await;
    assert!(later.on("gw/d0/gone").is_empty() && later.on("gw/d1/v").is_empty());
    let mut client = Client4::connect(broker, "hmi").await;
    client.publish("gw/d0/new/set", rumqttc::QoS::AtLeastOnce, "77").await;
    later.until("gw/d0/new/set/result", "done", |json| json["outcome"] == "done").await;
    assert_eq!(plcs[0].word(2), 77);
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_wrong_or_needs_a_restart_changes_nothing_and_says_so() {
    let plcs = plcs(1).await;
    let text = plant(&addresses(&plcs), NO_TRIAL);
    let home = Home::new(&text);
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/d0/v", "polled", good(0)).await;
    let socket = home.path("data/control.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let socket = socket.to_str().unwrap();

    home.configure(&text.replacen("unit_id = 1", "unit_id = 999", 1));
    let (code, out, err) = ask(&home, &["reload", "--config", "ironbridge.toml", "--socket", socket]).await;
    let (_, _, checked) = ask(&home, &["check", "--config", "ironbridge.toml"]).await;
    assert_eq!((code, out.trim()), (78, "nothing was changed"));
    assert_eq!(err, checked, "the text of check");
    watch.event("reload_refused", "once").await;
    daemon.signal(Signal::HUP);
    until("it was refused again", || daemon.times_said("audit=\"config_refused\"") == 2).await;
    // It runs on, and the next power cut would be its last.
    let event = watch.event("config_unusable", "active").await;
    let detail = event["detail"].as_str().unwrap();
    assert!(detail.contains("1 problem and no start would come of it: /"), "{event}");
    assert!(
        detail.contains("/ironbridge.toml:") && detail.contains("`device[0].unit_id`: "),
        "where and what: {event}"
    );

    home.configure(""); // a copy that was cut short
    let (code, out, err) = ask(&home, &["reload", "--config", "ironbridge.toml", "--socket", socket]).await;
    assert_eq!((code, out.trim()), (78, "nothing was changed"));
    assert!(err.contains("is empty: was a copy cut short"), "{err}");

    home.configure(&text.replacen("data_dir = \"data\"", "data_dir = \"elsewhere\"", 1).replacen(
        "\"100ms\"\n[[device.tag",
        "\"50ms\"\n[[device.tag",
        1,
    ));
    let (code, _, err) = ask(&home, &["reload", "--config", "ironbridge.toml", "--socket", socket]).await;
    assert_eq!(code, 78);
    assert!(err.contains("gateway.data_dir changed: needs a restart"), "{err}");
    assert_eq!(lives(&daemon, "b0"), (1, 0));
    watch.event("config_unusable", "cleared").await;
    watch.event("config_needs_restart", "active").await;

    home.configure(&text.replacen("poll = \"100ms\"", "poll = \"50ms\"", 1));
    let (code, out, _) = ask(&home, &["check", "--config", "ironbridge.toml", "--against-running"]).await;
    assert_eq!((code, out.trim()), (0, "a reload would change:\ndevice d0 changed: 1 tags changed"));
    assert_eq!(lives(&daemon, "b0"), (1, 0), "and has not");
    assert_eq!(applied(&home).await.trim(), "reloaded\ndevice d0 changed: 1 tags changed");
    watch.event("config_needs_restart", "cleared").await;
    assert!(reload(&home).await.1.contains("nothing has changed"));
    assert_eq!(daemon.stop().await, Some(0));
    assert_eq!(reload(&home).await.0, 75, "nobody is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_wrong_is_told_to_the_gateway_whose_socket_is_in_the_data_directory_that_it_names() {
    let plcs = plcs(1).await;
    let text = plant(&addresses(&plcs), NO_TRIAL);
    let home = Home::new(&text);
    let mut daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    home.configure(&text.replacen("endpoint", "#endpoint", 1));
    let (_, _, checked) = ask(&home, &["check", "--config", "ironbridge.toml"]).await;
    let (code, out, err) = reload(&home).await;
    assert_eq!((code, out.trim(), &err), (78, "nothing was changed", &checked));
    watch.event("config_unusable", "active").await;
    daemon.heard("audit=\"config_refused\"").await;
    daemon.kill();
    assert!(home.path("data/control.sock").exists(), "it had no time to remove it");
    let (code, out, err) = reload(&home).await;
    assert_eq!((code, out.as_str(), &err), (78, "", &checked), "nobody is there, and the file is as wrong");
    home.configure("this is no TOML");
    assert_eq!(reload(&home).await.0, 78, "nobody knows where a gateway may be");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_that_the_gateway_cannot_open_is_compared_all_the_same() {
    let plcs = plcs(1).await;
    let text = plant(&addresses(&plcs), NO_TRIAL);
    let home = Home::new(&text);
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/d0/v", "polled", good(0)).await;
    let socket = home.path("data/control.sock");
    for (poll, told) in [("100ms", "a reload would change nothing"), ("50ms", "device d0 changed: 1 tags changed")] {
        // Of the gateway this is another file, or none.
        let mut command = home.command(&["check", "--config", "/dev/stdin", "--against-running", "--socket"]);
        let mut check = command.arg(&socket).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Where it says `data`, beside it, it means what the gateway means by that.
        let draft = text.replacen("poll = \"100ms\"", &format!("poll = \"{poll}\""), 1);
        check.stdin.take().unwrap().write_all(draft.as_bytes()).unwrap();
        let output = tokio::task::spawn_blocking(move || check.wait_with_output().unwrap()).await.unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && out.contains(told),
            "{poll}: {out}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(daemon.stop().await, Some(0));
}

/// Was the client told to go?
async fn gone(client: &mut Client4) -> bool {
    let end = async { while client.try_next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, end).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_and_go_and_clients_of_the_others_stay() {
    let plcs = plcs(1).await;
    let text = plant(&addresses(&plcs), NO_TRIAL);
    let home = Home::new(&text);
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let mut stays = Client4::connect(broker, "stays").await;
    let second = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let listener =
        |rights| format!("[[broker.listener]]\nlisten = \"{second}\"\nanonymous = \"{rights}\"\n[[broker.acl]]");
    home.configure(&text.replacen("[[broker.acl]]", &listener("read"), 1));
    let told = applied(&home).await;
    assert!(told.contains(&format!("listener {second} added")), "{told}");
    let mut comes = Client4::connect(second, "comes").await;
    comes.ping().await;
    home.configure(&text.replacen("[[broker.acl]]", &listener("read-write"), 1));
    assert!(applied(&home).await.contains(&format!("listener {second} changed")));
    assert!(gone(&mut comes).await, "it came in with other rights");
    let mut comes = Client4::connect(second, "comes").await;
    comes.ping().await;
    home.configure(&text);
    assert!(applied(&home).await.contains(&format!("listener {second} removed")));
    assert!(gone(&mut comes).await, "who came in there is told to go");
    assert!(tokio::net::TcpStream::connect(second).await.is_err(), "closed");
    stays.ping().await;
    assert_eq!(daemon.stop().await, Some(0));
}

/// A message of MQTT-SN from a sensor, and the answer's type and body.
#[cfg(feature = "mqtt-sn")]
fn ask_sensors(socket: &std::net::UdpSocket, message: &[u8]) -> Vec<u8> {
    socket.send(message).unwrap();
    let mut datagram = [0; 256];
    let length = socket.recv(&mut datagram).expect("it is answered");
    datagram[1..length].to_vec()
}

#[cfg(feature = "mqtt-sn")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_for_sensors_stays_open_when_its_list_changes_and_check_says_so_before() {
    let plcs = plcs(1).await;
    let text = plant(&addresses(&plcs), NO_TRIAL);
    let place = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let sensor = |id: &str| format!("[[broker.listener.sensor]]\nclient_id = \"{id}\"\n");
    let with = |sensors: &str| {
        let head = format!("[[broker.listener]]\nlisten = \"udp:{place}\"\nprotocol = \"mqtt-sn\"\n");
        text.replacen("[[broker.acl]]", &format!("{head}{sensors}[[broker.acl]]"), 1)
    };
    let home = Home::new(&with(&(sensor("a") + &sensor("b"))));
    let daemon = home.run();
    daemon.mqtt().await;
    let enter = |id: u8| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(place).unwrap();
        let answer = ask_sensors(&socket, &[7, 0x04, 0, 1, 0, 60, id]); // CONNECT
        (socket, answer)
    };
    let ((a, a_in), (b, b_in)) = (enter(b'a'), enter(b'b'));
    assert_eq!((a_in, b_in), (vec![0x05, 0], vec![0x05, 0]), "CONNACK");
    assert_eq!(ask_sensors(&a, &[4, 0x18, 2, 0x58]), [0x18], "it sleeps for ten minutes");
    home.configure(&with(&(sensor("a") + &sensor("c"))));
    let told = format!("listener udp:{place} changed: 1 sensor added, 1 removed, stays open");
    let (code, checked, err) = ask(&home, &["check", "--against-running", "--config", "ironbridge.toml"]).await;
    assert!(code == 0 && checked.contains(&told), "{checked}{err}");
    let applied = applied(&home).await;
    assert!(applied.contains(&told), "{applied}");
    assert_eq!(b.recv(&mut [0; 256]).unwrap(), 2, "DISCONNECT");
    assert_eq!(enter(b'b').1, [0x05, 3], "not any more");
    assert_eq!(enter(b'c').1, [0x05, 0]);
    assert_eq!(ask_sensors(&a, b"\x03\x16a"), [0x17], "it wakes, and nobody has ended it: PINGRESP");
    until("it is told", || daemon.said("1 sensor added, 1 removed").is_some()).await;
    assert_eq!(daemon.stop().await, Some(0));
}

pub fn numbers(cloud: &Cloud) -> BTreeSet<(String, u64, u64)> {
    let number =
        |json: Json| Some((json["stream"].as_str()?.to_owned(), json["epoch"].as_u64()?, json["seq"].as_u64()?));
    cloud.log().iter().filter_map(|arrived| number(arrived.json())).collect()
}

/// No number between the first and the last is missing.
pub fn whole(seen: &BTreeSet<(String, u64, u64)>, stream: &str) -> bool {
    let of: Vec<_> = seen.iter().filter(|(class, ..)| class == stream).map(|(_, epoch, seq)| (*epoch, *seq)).collect();
    of.first().is_some_and(|first| first.1 == 1)
        && of.windows(2).all(|two| two[0].0 == two[1].0 && two[0].1 + 1 == two[1].1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uplink_that_moves_takes_its_backlog_along_and_a_removed_one_is_dropped() {
    let plcs = plcs(1).await;
    let (first, second) = (Cloud::start().await, Cloud::start().await);
    let text = plant(&addresses(&plcs), NO_TRIAL);
    let home = Home::new(&(text.clone() + &uplink("cloud", first.address)));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    let mut word = 0;
    let mut more = async |times: u16| {
        for _ in 0..times {
            word += 1;
            plcs[0].set(0, &[word]);
            watch.until("gw/d0/v", "the value", good(word.into())).await;
        }
    };
    more(3).await;
    first.until("something has arrived", |cloud| cloud.log().len() > 3).await;
    first.withhold_acks(true);
    more(5).await;
    home.configure(&(text.clone() + &uplink("cloud", second.address)));
    assert!(applied(&home).await.contains("uplink cloud changed"));
    more(5).await;
    second
        .until("all the rest", |cloud| {
            let seen: BTreeSet<_> = numbers(&first).union(&numbers(cloud)).cloned().collect();
            let last = cloud.log().iter().any(|arrived| arrived.json()["value"] == 13);
            last && whole(&seen, "telemetry")
        })
        .await;
    home.configure(&text);
    assert!(applied(&home).await.contains("uplink cloud removed"));
    until("what it was owed is told", || daemon.said("uplink removed").is_some()).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_kills_a_device_is_taken_back_and_only_if_that_is_wanted() {
    let plcs = plcs(2).await;
    let all = addresses(&plcs);
    let home = Home::new(&plant(&all, TRIAL));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    for n in 0..2 {
        watch.until(&format!("ironbridge/gw/device/d{n}"), "stands", |json| json["state"] == "answering").await;
    }
    // Nobody listens there; and a second reload goes on from the same plan before.
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let dead = |gateway| plant(&[all[0], nowhere], gateway);
    home.configure(&dead(TRIAL));
    let told = applied(&home).await;
    assert!(told.contains("on trial for 5 s"), "{told}");
    home.configure(&dead(TRIAL).replacen(&device(0, ""), &device(0, "unit = \"bar\""), 1));
    applied(&home).await;
    watch.until("gw/d1/v", "it is dead", |json| json["quality"] == "bad" && json["cause"] == "transport").await;
    let event = watch.event("config_rolled_back", "active").await;
    assert!(event["detail"].as_str().unwrap().contains("device d1 answered and does not now"), "{event}");
    plcs[1].set(0, &[5]);
    watch.until("gw/d1/v", "it is back", good(5)).await;
    daemon.heard_times("audit=\"config_rolled_back\"", 1).await;
    let status = watch.until("ironbridge/gw/status", "it shows", |json| json["configuration"] == "rolled back").await;
    assert_eq!(status["state"], "online");

    home.configure(&plant(&all, TRIAL));
    assert!(reload(&home).await.1.contains("nothing has changed"), "the file is the one before again");
    watch.event("config_rolled_back", "cleared").await;
    watch.until("ironbridge/gw/status", "nothing is left of it", |json| json["configuration"] == "in force").await;
    home.configure(&dead(NO_TRIAL));
    assert!(!applied(&home).await.contains("on trial"));
    until("it is dead again", || watch.newest("gw/d1/v").is_some_and(|json| json["quality"] == "bad")).await;
    let in_force = || watch.newest("ironbridge/gw/status").is_some_and(|json| json["configuration"] == "in force");
    until("it is in force", in_force).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_on_trial_that_does_not_outlive_it_is_taken_back_by_the_next_start_until_the_file_is_another_one() {
    let plcs = plcs(1).await;
    let all = addresses(&plcs);
    let (old, new) = ("rollback_after = \"10m\"", "rollback_after = \"9m\"");
    let home = Home::new(&plant(&all, old));
    let tried = plant(&all, new).replacen(&device(0, ""), &device(0, "unit = \"bar\""), 1);
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/d0/v", "polled", good(0)).await;
    home.configure(&tried);
    assert!(applied(&home).await.contains("on trial for 540 s"));
    drop(daemon); // SIGKILL: of the watchdog, or for want of memory
    for _ in 0..2 {
        let daemon = home.run();
        let watch = Watch::on_all(daemon.mqtt().await).await;
        watch.until("ironbridge/gw/status", "it shows", |json| json["configuration"] == "rolled back").await;
        daemon.heard("audit=\"config_rolled_back\"").await;
        watch.until("gw/d0/v", "polled", good(0)).await;
    }
    // Whoever wants it all the same reloads it; and an end in order is none that speaks against it.
    let daemon = home.run();
    daemon.mqtt().await;
    assert!(applied(&home).await.contains("on trial for 540 s"));
    assert_eq!(daemon.stop().await, Some(0));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("ironbridge/gw/status", "it is the file's", |json| json["configuration"] == "in force").await;
    assert!(reload(&home).await.1.contains("nothing has changed"));
    // It dies on trial once more, and this time somebody mends the file before the start.
    home.configure(&plant(&all, old));
    applied(&home).await;
    drop(daemon);
    home.configure(&tried);
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("ironbridge/gw/status", "it is the file's", |json| json["configuration"] == "in force").await;
    assert_eq!(daemon.stop().await, Some(0));
    // That trial is over: the text that was on it is one like others when it is put back weeks later.
    home.configure(&plant(&all, old));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("ironbridge/gw/status", "it is the file's", |json| json["configuration"] == "in force").await;
    watch.until("gw/d0/v", "polled", good(0)).await;
    assert!(daemon.said("audit=\"config_rolled_back\"").is_none());
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_was_rolled_back_is_in_force_after_no_restart_until_the_file_is_another_one() {
    let plcs = plcs(2).await;
    let all = addresses(&plcs);
    let home = Home::new(&plant(&all, TRIAL));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/d1/v", "polled", good(0)).await;
    home.configure(&plant(&[all[0], SocketAddr::from(([127, 0, 0, 1], 1))], TRIAL));
    assert!(applied(&home).await.contains("on trial for 5 s"));
    watch.event("config_rolled_back", "active").await;
    assert_eq!(daemon.stop().await, Some(0)); // and the next time the power goes
    for _ in 0..2 {
        let daemon = home.run();
        let watch = Watch::on_all(daemon.mqtt().await).await;
        watch.until("ironbridge/gw/status", "it shows", |json| json["configuration"] == "rolled back").await;
        watch.until("gw/d1/v", "polled", good(0)).await;
        daemon.heard("audit=\"config_rolled_back\"").await;
    }
    home.configure(&plant(&all[..1], TRIAL));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("ironbridge/gw/status", "it is the file's", |json| json["configuration"] == "in force").await;
    assert!(daemon.said("audit=\"config_rolled_back\"").is_none());
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_back_that_cannot_be_written_down_says_so_until_it_can() {
    let plcs = plcs(2).await;
    let all = addresses(&plcs);
    let home = Home::new(&plant(&all, TRIAL));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/d1/v", "polled", good(0)).await;
    let in_the_way = home.path("data/trial.draft");
    std::fs::create_dir(&in_the_way).unwrap(); // as a full disk would be
    home.configure(&plant(&[all[0], SocketAddr::from(([127, 0, 0, 1], 1))], TRIAL));
    applied(&home).await;
    let event = watch.event("config_rolled_back", "active").await;
    assert!(event["detail"].as_str().unwrap().contains("but a restart would go by the file"), "{event}");
    std::fs::remove_dir(&in_the_way).unwrap();
    let event = |json: &Json| json["event"] == "config_rolled_back" && json["state"] == "active";
    let says = |json: &Json| json["detail"].as_str().is_some_and(|detail| detail.contains("after a restart too"));
    watch.until("ironbridge/gw/event", "it is written", |json| event(json) && says(json)).await;
    drop(daemon);
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("ironbridge/gw/status", "it shows", |json| json["configuration"] == "rolled back").await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_on_trial_that_is_reloaded_in_other_words_and_does_not_outlive_it_is_taken_back_all_the_same() {
    let plcs = plcs(1).await;
    let all = addresses(&plcs);
    let home = Home::new(&plant(&all, "rollback_after = \"10m\""));
    let tried = plant(&all, "rollback_after = \"9m\"").replacen(&device(0, ""), &device(0, "unit = \"bar\""), 1);
    let daemon = home.run();
    daemon.mqtt().await;
    home.configure(&tried);
    assert!(applied(&home).await.contains("on trial for 540 s"));
    home.configure(&(tried + "# why it is so\n"));
    assert!(reload(&home).await.1.contains("nothing has changed"));
    drop(daemon); // SIGKILL
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("ironbridge/gw/status", "it shows", |json| json["configuration"] == "rolled back").await;
    daemon.heard("audit=\"config_rolled_back\"").await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_word_of_a_gateway_that_stops_in_a_trial_is_that_it_was_on_trial() {
    let plcs = plcs(1).await;
    let all = addresses(&plcs);
    let home = Home::new(&plant(&all, "rollback_after = \"10m\""));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    home.configure(&plant(&all, "rollback_after = \"9m\"").replacen(&device(0, ""), &device(0, "unit = \"bar\""), 1));
    assert!(applied(&home).await.contains("on trial for 540 s"));
    assert_eq!(daemon.stop().await, Some(0));
    let last = watch.until("ironbridge/gw/status", "its last word", |json| json["state"] == "offline").await;
    assert_eq!(last["configuration"], "on trial");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_a_reload_it_starts_with_the_new_file_and_has_lost_nothing() {
    let plcs = plcs(2).await;
    let all = addresses(&plcs);
    let cloud = Cloud::start().await;
    let text = |gateway: &str, n: usize| plant(&all[..n], gateway) + &uplink("cloud", cloud.address);
    let home = Home::new(&text(NO_TRIAL, 1));
    for round in 0..3_u16 {
        let daemon = home.run();
        let watch = Watch::on_all(daemon.mqtt().await).await;
        // One that is slow to answer keeps the reload waiting for it.
        plcs[0].set(0, &[round + 1]);
        watch.until("gw/d0/v", "polled", good(u64::from(round) + 1)).await;
        plcs[0].units.set_fault(1, Some(Fault::Dead));
        home.configure(&text(NO_TRIAL, 2).replacen("unit_id = 1", &format!("unit_id = 1\nmax_gap = {round}"), 1));
        daemon.signal(Signal::HUP);
        until("it has begun", || daemon.said("configuration changed").is_some()).await;
        drop(daemon); // SIGKILL
        plcs[0].units.set_fault(1, None);
    }
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/d1/v", "the new file", good(0)).await;
    plcs[0].set(0, &[99]);
    watch.until("gw/d0/v", "polled", good(99)).await;
    cloud
        .until("all of it", |cloud| {
            cloud.log().iter().any(|arrived| arrived.json()["value"] == 99) && whole(&numbers(cloud), "telemetry")
        })
        .await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_and_derived_tags_go_with_their_tags_and_end_with_them() {
    let plcs = plcs(2).await;
    plcs[0].set(0, &[20]);
    let all = addresses(&plcs);
    let text = |keys: &str, derived: &str| {
        let text = plant(&all, NO_TRIAL).replacen(&device(0, ""), &device(0, keys), 1);
        format!("{text}[[device]]\nname = \"sum\"\n{derived}")
    };
    let derived =
        |expression: &str| format!("[[device.tag]]\nname = \"x\"\nexpression = \"{expression}\"\ntype = \"int64\"\n");
    let (high, twice) = ("alarm = { high = 10.0 }", derived("{d0/v} * 2"));
    let home = Home::new(&text(high, &twice));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    let alarm = "ironbridge/gw/alarm/d0/v";
    watch.until(alarm, "active", |json| json["event"] == "high" && json["state"] == "active").await;
    watch.until("gw/sum/x", "worked out", good(40)).await;

    // Other places for the tags of the device: the alarm is not told a second time, and what is derived goes on.
    let more = format!("{high}\n[[device.tag]]\nname = \"w\"\naddress = \"holding:1\"\ntype = \"uint16\"");
    home.configure(&text(&more, &derived("{d0/v} * 3 + {d1/v}")));
    applied(&home).await;
    watch.until("gw/sum/x", "the new expression", good(60)).await;
    plcs[1].set(0, &[7]);
    watch.until("gw/sum/x", "its other input", good(67)).await;
    let began = watch.on(alarm).iter().map(gateway::Seen::json).filter(|json| json["seq"].is_u64()).collect::<Vec<_>>();
    assert!(began.iter().all(|json| json["seq"] == began[0]["seq"]), "told once: {began:?}");

    home.configure(&text("", &twice));
    applied(&home).await;
    until("the alarm is cleared", || watch.on(alarm).last().is_some_and(|seen| seen.payload.is_empty())).await;
    watch.until("gw/sum/x", "again", |json| json["value"] == 40).await;
    plcs[0].set(0, &[21]);
    watch.until("gw/sum/x", "goes on", good(42)).await;
    assert_eq!(daemon.stop().await, Some(0));
}

/// A scale and the expression over it are changed in one go, while the device happens not to answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_means_something_else_has_no_value_until_it_is_read_and_what_is_derived_waits_for_it() {
    let plcs = plcs(1).await;
    plcs[0].set(0, &[5000]);
    let text = |scale: &str, expression: &str| {
        let text = plant(&addresses(&plcs), NO_TRIAL).replacen(&device(0, ""), &device(0, scale), 1);
        let text = text.replacen("poll = \"100ms\"", "poll = \"60s\"", 1); // nobody notices that it is away
        let sum = "[[device]]\nname = \"sum\"\n[[device.tag]]\nname = \"q\"\npoll = \"100ms\"\n";
        format!("{text}{sum}expression = \"{expression}\"\n")
    };
    let home = Home::new(&text("", "{d0/v} / 1000"));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/sum/q", "worked out", |json| json["value"] == 5.0).await;
    plcs[0].units.set_fault(1, Some(Fault::Dead));
    plcs[0].set(0, &[7000]);
    home.configure(&text("scale = 0.001", "{d0/v}"));
    applied(&home).await;
    watch.until("gw/sum/q", "its tag is bad by now", |json| json["cause"] == "timeout").await;
    plcs[0].units.set_fault(1, None);
    for (topic, before) in [("gw/d0/v", 5000.0), ("gw/sum/q", 5.0)] {
        watch.until(topic, "read", |json| json["value"] == 7.0).await;
        let told: Vec<Json> = watch.on(topic).iter().map(gateway::Seen::json).collect();
        let was = |json: &Json| json["value"].as_f64() == Some(before);
        let mut after = told.iter().skip_while(|json| !was(json)).skip_while(|json| was(json));
        assert_eq!(after.next().map(|json| &json["cause"]), Some(&Json::from("starting")), "{topic}: {told:?}");
        assert!(after.all(|json| json["value"].is_null() || json["value"] == 7.0), "{topic}: {told:?}");
    }
    assert_eq!(daemon.stop().await, Some(0));
}

/// Not one of 199 buses begins anew while the other one is changed over and over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_devices_is_reloaded_under_load() {
    let plcs = plcs(200).await;
    let all = addresses(&plcs);
    let many = |scale: &str| {
        let text = plant(&all, NO_TRIAL).replace("poll = \"100ms\"", "poll = \"500ms\"");
        text.replacen("uint16\"\n", &format!("uint16\"\n{scale}"), 1)
    };
    let home = Home::new(&many(""));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    for n in [1, 100, 199] {
        watch.until(&format!("gw/d{n}/v"), "polled", good(0)).await;
    }
    let mut longest = Duration::ZERO;
    for scale in ["scale = 2.0", "scale = 3.0"] {
        home.configure(&many(scale));
        let began = Instant::now();
        assert!(applied(&home).await.contains("device d0 changed"));
        longest = longest.max(began.elapsed());
    }
    println!("a reload of one of 200 devices took {} ms at most, the command included", longest.as_millis());
    assert_eq!((daemon.times_said("bus begins"), daemon.times_said("bus ends")), (200, 0));
    // It looks between two transactions, so of two in quick succession it may have seen the last one only.
    let goes_on = "bus goes on with other devices bus=b0 devices=1 untouched=0";
    until("the one that was touched goes on", || daemon.said(goes_on).is_some()).await;
    assert!(daemon.times_said("bus goes on") <= 2);
    assert_eq!(daemon.stop().await, Some(0));
}
