//! Reload of the real program, the parts that are no devices: bridges, rules of what is forwarded, bounds of the store, a
//! door that cannot be opened. Each is changed while values flow; who is not touched does not notice.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::gateway;
use crate::peers;
use crate::ports::own_port;
use crate::reload;

use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::time::{Duration, Instant};

use cloud::Cloud;
use gateway::mqtt::Client4;
use gateway::{Home, PATIENCE, Watch, tag, until, uplink, within};
use ironbridge::plant::faults::Fault;
use peers::{Far, Listener, publish};
use reload::{NO_TRIAL, TRIAL, addresses, applied, good, lives, numbers, plant, plcs, whole};
use rumqttc::QoS;
use rustix::process::Signal;
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What the status page shows.
pub async fn board(page: SocketAddr) -> Json {
    let mut stream = TcpStream::connect(page).await.unwrap();
    stream.write_all(b"GET /api/status HTTP/1.0\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_what_is_forwarded_change_while_clients_stay() {
    let plcs = plcs(1).await;
    let cloud = Cloud::start().await;
    let text = plant(&addresses(&plcs), NO_TRIAL) + &uplink("cloud", cloud.address);
    let home = Home::new(&text);
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    watch.until("gw/d0/v", "polled", good(0)).await;
    let mut client = Client4::connect(broker, "machine").await;
    let rule = |filter: &str| format!("[[forward]]\nfilter = \"{filter}\"\nclass = \"bulk\"\n");
    client.publish("m/before", QoS::AtLeastOnce, "1").await;
    home.configure(&(text.clone() + &rule("m/#")));
    let told = applied(&home).await; // it has one more class from now on
    assert_eq!(told.trim(), "reloaded\nuplink cloud changed\nforward changed: 1 rules");
    client.publish("m/while", QoS::AtLeastOnce, "2").await;
    cloud.until("what is forwarded now", |cloud| !cloud.on("m/while").is_empty()).await;
    home.configure(&(text.clone() + &rule("other/#")));
    assert_eq!(applied(&home).await.trim(), "reloaded\nforward changed: 1 rules");
    client.publish("m/after", QoS::AtLeastOnce, "3").await;
    client.publish("other/1", QoS::AtLeastOnce, "4").await;
    cloud.until("the other rule", |cloud| !cloud.on("other/1").is_empty()).await;
    home.configure(&text);
    assert!(applied(&home).await.contains("forward changed: 0 rules"));
    client.publish("other/2", QoS::AtLeastOnce, "5").await;
    client.ping().await;
    plcs[0].set(0, &[9]);
    cloud.until("a sample after all that", |cloud| cloud.on("gw/d0/v").iter().any(|it| it.json()["value"] == 9)).await;
    for topic in ["m/before", "m/after", "other/2"] {
        assert!(cloud.on(topic).is_empty(), "{topic}");
    }
    assert_eq!(lives(&daemon, "b0"), (1, 0));
    assert!(whole(&numbers(&cloud), "telemetry"), "nothing stored was lost");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_comes_changes_and_goes_while_everything_else_goes_on() {
    let plcs = plcs(1).await;
    let far = Far::gateway().await;
    let text = plant(&addresses(&plcs), NO_TRIAL);
    let home = Home::new(&text);
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    watch.until("gw/d0/v", "polled", good(0)).await;
    let mut stays = Client4::connect(broker, "stays").await;
    let there = Listener::start(far.port(), "there", "#").await;
    let bridge = |prefix: &str| {
        let url = format!("mqtt://127.0.0.1:{}", far.port());
        format!(
            "[[bridge]]\nname = \"far\"\nurl = \"{url}\"\n[[bridge.topic]]\nfilter = \"o/#\"\nremote_prefix = \"{prefix}\"\n"
        )
    };
    let state = "$SYS/broker/connection/gw.far/state";

    home.configure(&(text.clone() + &bridge("a/")));
    assert_eq!(applied(&home).await.trim(), "reloaded\nbridge far added");
    watch.until(state, "connected", |state| state == 1).await;
    publish(broker.port(), "o/1", "first", false).await;
    until("it crosses", || !there.on("a/o/1").is_empty()).await;

    home.configure(&(text.clone() + &bridge("z/")));
    assert_eq!(applied(&home).await.trim(), "reloaded\nbridge far changed");
    publish(broker.port(), "o/2", "second", false).await;
    until("it crosses by its new name", || !there.on("z/o/2").is_empty()).await;
    assert!(there.on("a/o/2").is_empty(), "and by that only");

    home.configure(&text);
    assert_eq!(applied(&home).await.trim(), "reloaded\nbridge far removed");
    publish(broker.port(), "o/3", "third", false).await;
    // What had crossed would have been there before this.
    publish(far.port(), "end", "of there", false).await;
    until("the end", || !there.on("end").is_empty()).await;
    assert!(there.on("z/o/3").is_empty() && there.on("a/o/3").is_empty());
    stays.ping().await;
    plcs[0].set(0, &[9]);
    watch.until("gw/d0/v", "still polled", good(9)).await;
    assert_eq!(lives(&daemon, "b0"), (1, 0));
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_before_a_reload_is_not_retained_after_it() {
    let plcs = plcs(1).await;
    let far = Far::gateway().await;
    let plant = plant(&addresses(&plcs), NO_TRIAL);
    let bus = "[[bus]]\nname = \"b9\"\ntype = \"modbus-tcp\"\nendpoint = \"127.0.0.1:1\"\n";
    let device =
        |bus: &str, tag: &str| format!("[[device]]\nname = \"d9\"\n{bus}[[device.tag]]\nname = \"x\"\n{tag}\n");
    let bridge = |more: &str| {
        let url = format!("mqtt://127.0.0.1:{}", far.port());
        format!("[[bridge]]\nname = \"far\"\nurl = \"{url}\"\n{more}[[bridge.topic]]\nfilter = \"o/#\"\n")
    };
    let polled = format!(
        "{plant}{bus}{}",
        device("bus = \"b9\"\nunit_id = 1\npoll = \"100ms\"\n", "address = \"holding:0\"\ntype = \"uint16\"")
    );
    let home = Home::new(&(polled + &bridge("client_id = \"first\"\n")));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    let state = |id: &str| format!("$SYS/broker/connection/{id}/state");
    let is_gone = |topic: &str| watch.on(topic).last().is_some_and(|seen| seen.payload.is_empty());
    watch.until(&state("first"), "connected", |state| state == 1).await;
    watch.until("ironbridge/gw/device/d9", "down", |json| json["state"] == "down").await;

    let derived = format!("{plant}{}", device("", "expression = \"{d0/v} * 2\"\ntype = \"int64\""));
    home.configure(&(derived.clone() + &bridge("client_id = \"second\"\n")));
    applied(&home).await;
    watch.until(&state("second"), "connected", |state| state == 1).await;
    until("the first is forgotten", || is_gone(&state("first"))).await;
    watch.until("ironbridge/gw/device/d9", "nobody asks it any more", |json| json["state"] == "answering").await;

    home.configure(&(derived + &bridge("client_id = \"second\"\nnotifications = false\n")));
    applied(&home).await;
    until("the second is forgotten", || is_gone(&state("second"))).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_has_left_where_a_tag_comes_and_goes_is_not_back_after_a_restart() {
    let plcs = plcs(1).await;
    let text = plant(&addresses(&plcs), NO_TRIAL);
    let home = Home::new(&text);
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    publish(broker.port(), "gw/d0/new", "10", true).await;
    home.configure(&(text.clone() + &tag("new", "holding:1", "uint16", "")));
    applied(&home).await;
    watch.until("gw/d0/new", "polled", |json| json["quality"] == "good").await;
    daemon.heard("its topic is the gateway's now").await;
    home.configure(&text);
    applied(&home).await;
    until("the tag is cleared", || watch.on("gw/d0/new").last().is_some_and(|seen| seen.payload.is_empty())).await;
    publish(broker.port(), "gw/d0/new", "", true).await;
    assert_eq!(daemon.stop().await, Some(0));
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    publish(broker.port(), "o/end", "x", false).await;
    until("the end", || !watch.on("o/end").is_empty()).await;
    assert!(watch.on("gw/d0/new").is_empty(), "a value that was cleared");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_retained_on_a_topic_that_is_added_to_a_bridge_goes_out_once() {
    let plcs = plcs(1).await;
    let far = Far::gateway().await;
    let text = plant(&addresses(&plcs), NO_TRIAL);
    let with = |filters: &[&str]| {
        let bridge = format!("[[bridge]]\nname = \"far\"\nurl = \"mqtt://127.0.0.1:{}\"\n", far.port());
        let topic = |filter: &&str| format!("[[bridge.topic]]\nfilter = \"{filter}\"\n");
        text.clone() + &bridge + &filters.iter().map(topic).collect::<String>()
    };
    let home = Home::new(&with(&["o/#"]));
    let mut daemon = home.run();
    let there = Listener::start(far.port(), "there", "#").await;
    let seen = || ["o/1", "p/1", "q/1"].map(|topic| there.on(topic).len());
    let port = daemon.mqtt().await.port();
    for topic in ["o/1", "p/1", "q/1"] {
        publish(port, topic, "kept", true).await;
    }
    until("the first crosses", || seen() == [1, 0, 0]).await;
    home.configure(&with(&["o/#", "p/#"]));
    assert_eq!(applied(&home).await.trim(), "reloaded\nbridge far changed");
    until("the second crosses after a reload", || seen() == [1, 1, 0]).await;
    assert_eq!(daemon.stop().await, Some(0));
    home.configure(&with(&["o/#", "p/#", "q/#"]));
    daemon = home.run();
    until("the third crosses after a restart", || seen() == [1, 1, 1]).await;
    assert_eq!(daemon.stop().await, Some(0));
    // Killed before all of it was in the store: what was not done is done.
    let offered = home.path("data/bridge-far/offered.json");
    let written = std::fs::read_to_string(&offered).unwrap();
    std::fs::write(&offered, written.replacen("{\"here\":\"p/#\",\"there\":\"p/#\"},", "", 1)).unwrap();
    daemon = home.run();
    until("the second crosses again", || seen() == [1, 2, 1]).await;
    publish(daemon.mqtt().await.port(), "o/end", "x", false).await;
    until("the end", || !there.on("o/end").is_empty()).await;
    assert_eq!(seen(), [1, 2, 1], "nothing else does");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bounds_of_the_store_change_while_it_is_written_and_nothing_in_it_is_lost() {
    let plcs = plcs(1).await;
    let cloud = Cloud::start().await;
    let text = plant(&addresses(&plcs), NO_TRIAL) + &uplink("cloud", cloud.address);
    let text = text.replacen("[store]", "[status]\nlisten = \"127.0.0.2:0\"\nanonymous = \"read\"\n[store]", 1);
    let home = Home::new(&text);
    let daemon = home.run();
    let (page, watch) = (daemon.page().await, Watch::on_all(daemon.mqtt().await).await);
    let mut word = 0;
    let mut more = async |times: u16| {
        for _ in 0..times {
            word += 1;
            plcs[0].set(0, &[word]);
            watch.until("gw/d0/v", "the value", good(word.into())).await;
        }
    };
    more(3).await;
    cloud.withhold_acks(true); // so that it is owed what it has, whatever the bounds
    for (megabytes, keys) in [(64_u64, "commit_interval = \"300ms\""), (128, "max_age = \"1d\"")] {
        let bounds = format!("max_size = \"{megabytes}MiB\"\n{keys}");
        home.configure(&text.replacen("commit_interval = \"100ms\"", &bounds, 1));
        assert_eq!(applied(&home).await.trim(), "reloaded\nstore changed");
        more(3).await;
        assert_eq!(board(page).await["store"]["max_bytes"], megabytes << 20, "{bounds}");
    }
    cloud.withhold_acks(false);
    cloud.cut();
    cloud.until("the last", |cloud| cloud.log().iter().any(|it| it.json()["value"] == 9)).await;
    assert!(whole(&numbers(&cloud), "telemetry"), "nothing is missing");
    assert!(cloud.on("ironbridge/gw/gap").is_empty());
    assert_eq!(lives(&daemon, "b0"), (1, 0));
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_smaller_store_is_on_trial_the_page_shows_the_bound_that_holds() {
    let plcs = plcs(1).await;
    let text = |megabytes: u64| {
        let page =
            format!("[status]\nlisten = \"127.0.0.2:0\"\nanonymous = \"read\"\n[store]\nmax_size = \"{megabytes}MiB\"");
        plant(&addresses(&plcs), TRIAL).replacen("[store]", &page, 1)
    };
    let home = Home::new(&text(128));
    let daemon = home.run();
    let page = daemon.page().await;
    let shown = async || board(page).await["store"]["max_bytes"].as_u64().unwrap() >> 20;
    assert_eq!(shown().await, 128);
    home.configure(&text(64));
    assert!(applied(&home).await.contains("on trial"));
    assert_eq!(shown().await, 128, "what the store has evicted no rollback brings back");
    let begun = Instant::now();
    while shown().await != 64 {
        assert!(begun.elapsed() < PATIENCE, "the trial is over by now");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_any_more_may_not_while_a_reload_waits_for_a_bus() {
    let plcs = plcs(1).await;
    let spare = SocketAddr::from(([127, 0, 0, 1], peers::free_port()));
    let text = |patience: &str, rule: &str| {
        let text = plant(&addresses(&plcs), NO_TRIAL).replacen("300ms", patience, 1);
        let rules = format!("read = [\"#\"]\nwrite = [\"{rule}\"]");
        text.replacen("read-write", "acl", 1).replacen("write = [\"gw/+/+/set\"]", &rules, 1)
    };
    let home = Home::new(&text("10s", "m/#"));
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    watch.until("gw/d0/v", "polled", good(0)).await;
    let mut client = Client4::connect(broker, "machine").await;
    client.publish("m/1", QoS::AtLeastOnce, "1").await;
    until("it may", || !watch.on("m/1").is_empty()).await;
    plcs[0].units.set_fault(1, Some(Fault::Dead));
    let asked = plcs[0].requests();
    until("the bus waits for an answer", || plcs[0].requests() > asked).await;
    let door = format!("[[broker.listener]]\nlisten = \"{spare}\"\nanonymous = \"acl\"\n");
    home.configure(&(text("11s", "spare/#") + &door));
    daemon.signal(Signal::HUP);
    until("the new door is open", || daemon.said(&format!("clients address={spare}")).is_some()).await;
    assert_eq!(daemon.times_said("users and rules reloaded"), 1, "before that");
    assert_eq!(lives(&daemon, "b0"), (1, 0), "and the bus has not ended");
    client.publish("m/2", QoS::AtLeastOnce, "2").await;
    client.publish("spare/1", QoS::AtLeastOnce, "3").await;
    until("what it may now", || !watch.on("spare/1").is_empty()).await;
    assert!(watch.on("m/2").is_empty(), "that it may not any more");
    assert_eq!(lives(&daemon, "b0"), (1, 0), "all that while the reload waits");
    plcs[0].units.set_fault(1, None);
    until("the reload is done", || daemon.times_said("bus begins bus=b0 ") == 2).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_away_when_the_trial_ends_takes_nothing_back() {
    let plcs = plcs(1).await;
    let cloud = Cloud::start().await;
    let text = |prefix: &str| {
        let uplink = uplink("cloud", cloud.address) + &format!("topic_prefix = \"{prefix}\"\n");
        plant(&addresses(&plcs), TRIAL) + &uplink
    };
    let home = Home::new(&text("a/"));
    let daemon = home.run();
    cloud.until("a value", |cloud| !cloud.on("a/gw/d0/v").is_empty()).await;
    cloud.refuse_connections(true);
    home.configure(&text("b/"));
    assert!(applied(&home).await.contains("uplink cloud changed"));
    within(PATIENCE * 2, "the end of the time", || daemon.said("the trial goes on").is_some()).await;
    cloud.refuse_connections(false);
    within(PATIENCE * 2, "it is well", || daemon.said("configuration has proved itself").is_some()).await;
    cloud.until("a value", |cloud| !cloud.on("b/gw/d0/v").is_empty()).await;
    assert_eq!(daemon.times_said("configuration rolled back"), 0);
    assert_eq!(daemon.stop().await, Some(0));
}

/// So much of what a client sends is owed, and no packing makes it smaller.
fn noise(seed: usize, bytes: usize) -> String {
    let mut state = u64::try_from(seed).unwrap() * 2 + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + u8::try_from(state >> 58).unwrap()) // '0' to 'o'
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_shall_be_smaller_loses_nothing_while_the_plan_before_may_come_back() {
    const BYTES: usize = 128 << 10;
    const OWED: usize = 200; // more than the smaller store takes
    const MORE: usize = 40; // more than can be noted without making room
    let cloud = Cloud::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = format!("[[broker.listener]]\nlisten = \"{}\"\nanonymous = \"read\"\n", taken.local_addr().unwrap());
    let text = |megabytes: u64, trial: &str| {
        let size = format!("[store]\nmax_size = \"{megabytes}MiB\"");
        let rule = "[[forward]]\nfilter = \"m/#\"\nclass = \"bulk\"\n";
        plant(&[], trial).replacen("[store]", &size, 1) + rule + &uplink("cloud", cloud.address)
    };
    let trial = "rollback_after = \"15s\"";
    let home = Home::new(&text(64, trial));
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    let mut client = Client4::connect(broker, "machine").await;
    let mut send = async |numbers: Range<usize>| {
        for n in numbers {
            client.publish(&format!("m/{n}"), QoS::AtLeastOnce, &noise(n, BYTES)).await;
        }
    };
    cloud.withhold_acks(true);
    send(0..OWED).await;
    home.configure(&(text(16, trial) + &door));
    assert!(applied(&home).await.contains("store changed"));
    send(OWED..OWED + MORE).await;
    watch.event("config_rolled_back", "active").await;
    assert_eq!(daemon.times_said("unacknowledged records evicted"), 0);
    cloud.withhold_acks(false);
    cloud.cut();
    cloud.until("all of it", |cloud| (0..OWED + MORE).all(|n| !cloud.on(&format!("m/{n}")).is_empty())).await;
    assert!(cloud.on("ironbridge/gw/gap").is_empty());

    // The same without a way back: it is as small as it was told to be, though its tail was laid for more.
    cloud.withhold_acks(true);
    send(0..OWED).await;
    home.configure(&text(8, NO_TRIAL));
    applied(&home).await;
    send(0..MORE).await;
    until("it is cut to its size", || daemon.times_said("unacknowledged records evicted") > 0).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_door_that_cannot_be_opened_is_taken_back_or_tried_on_and_the_others_stay_open() {
    let plcs = plcs(1).await;
    let taken = TcpListener::bind(("127.0.0.1", own_port())).unwrap();
    let address: SocketAddr = taken.local_addr().unwrap();
    let door = format!("[[broker.listener]]\nlisten = \"{address}\"\nanonymous = \"read\"\n");
    let text = |gateway| plant(&addresses(&plcs), gateway);
    let home = Home::new(&text(TRIAL));
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    watch.until("gw/d0/v", "polled", good(0)).await;
    let mut stays = Client4::connect(broker, "stays").await;

    let rule = "[[broker.acl]]\nuser = \"anonymous\"\nwrite = [\"spare/#\"]\n";
    home.configure(&(text(TRIAL) + &door + rule));
    let told = applied(&home).await;
    assert!(told.contains(&format!("listener {address} added")) && told.contains("on trial for 5 s"), "{told}");
    let event = watch.event("config_rolled_back", "active").await;
    let detail = event["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("listener {address} cannot be opened")), "{event}");
    assert!(detail.contains("users and rules of the broker with it"), "{event}");
    watch.event("broker_listener_down", "cleared").await;
    stays.ping().await;

    // Whoever wants no trial keeps it, and it opens as soon as it can.
    home.configure(&(text(NO_TRIAL) + &door));
    applied(&home).await;
    until("it is told again", || daemon.times_said("cannot open listener") >= 2).await;
    drop(taken);
    until("it is open", || daemon.said(&format!("listening for MQTT clients address={address}")).is_some()).await;
    Client4::connect(address, "comes").await.ping().await;
    stays.ping().await;
    plcs[0].set(0, &[9]);
    watch.until("gw/d0/v", "still polled", good(9)).await;
    assert_eq!(lives(&daemon, "b0"), (1, 0));
    assert_eq!(daemon.stop().await, Some(0));
}
