//! While a reload exchanges parts: what comes in between, and what is still on its way, is neither lost nor mixed up.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::authority::{Authority, VALID};
use crate::cloud;
use crate::gateway;
use crate::peers;
use crate::strace::{self, Injector};

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use cloud::Cloud;
use gateway::mqtt::Client4;
use gateway::{Daemon, Home, PATIENCE, Plc, Watch, until, uplink};
use ironbridge::plant::faults::Fault;
use ironbridge::plant::link::{Link, LinkState};
use peers::{Far, Listener, Pour, free_port};
use rumqttc::QoS;
use rustix::process::Signal;

/// A gateway `gw` that is open to anonymous clients, reloads without a trial and commits soon.
fn head(port: u16) -> String {
    format!(
        "[gateway]\nname = \"gw\"\ndata_dir = \"data\"\nrollback = false\n[store]\ncommit_interval = \"100ms\"\n\
         [[broker.listener]]\nlisten = \"127.0.0.1:{port}\"\nanonymous = \"read-write\"\n\
         [[broker.acl]]\nuser = \"anonymous\"\nwrite = [\"gw/+/+/set\"]\n"
    )
}

fn bus(name: &str, plc: SocketAddr) -> String {
    format!("[[bus]]\nname = \"{name}\"\ntype = \"modbus-tcp\"\nendpoint = \"{plc}\"\nresponse_timeout = \"5s\"\n")
}

fn device(name: &str, bus: &str, tag: &str) -> String {
    format!("[[device]]\nname = \"{name}\"\nbus = \"{bus}\"\nunit_id = 1\npoll = \"100ms\"\n{tag}")
}

fn tag(more: &str) -> String {
    gateway::tag("v", "holding:0", "uint16", more)
}

/// SIGHUP; returns when the daemon has begun to change what is touched.
async fn reload(home: &Home, daemon: &Daemon, text: &str) {
    let before = daemon.times_said("configuration changed");
    home.configure(text);
    daemon.signal(Signal::HUP);
    until("the change has begun", || daemon.times_said("configuration changed") > before).await;
}

async fn in_force(watch: &Watch) {
    watch.event("config_reloaded", "once").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_publish_while_a_bridge_is_exchanged_is_carried_too_and_nobody_is_refused() {
    let far = Far::gateway().await;
    let link = Link::to(([127, 0, 0, 1], far.port()).into()).await.unwrap();
    let near = free_port();
    let text = |keys: &str| {
        let to = link.address().port();
        format!(
            "{}[[bridge]]\nname = \"far\"\nurl = \"mqtt://127.0.0.1:{to}\"\n{keys}[[bridge.topic]]\nfilter = \"o/#\"\n",
            head(near)
        )
    };
    let home = Home::new(&text(""));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("$SYS/broker/connection/gw.far/state", "connected", |state| state == 1).await;
    let there = Listener::start(far.port(), "there", "#").await;
    let pour = Pour::start(near, "o/");
    until("it is carried", || there.count("o/") > 20).await;
    // What is in flight stays there, so that the bridge takes all of its farewell.
    link.set(LinkState::BlackHole);
    let before = pour.acknowledged().len();
    until("published without a link", || pour.acknowledged().len() > before + 20).await;
    reload(&home, &daemon, &text("client_id = \"other\"\n")).await;
    in_force(&watch).await;
    link.set(LinkState::Up);
    let before = pour.acknowledged().len();
    until("published to the next one", || pour.acknowledged().len() > before + 20).await;
    let acknowledged = pour.stop().await;
    let missing = || acknowledged.iter().filter(|number| !there.has("o/", **number)).count();
    until(&format!("all {} that were acknowledged", acknowledged.len()), || missing() == 0).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_is_read_no_more_does_not_go_on_looking_good() {
    let plc = Plc::start().await;
    plc.set(0, &[7]);
    let text = |access: &str| {
        head(0) + &bus("b", plc.line.address()) + &device("d", "b", &tag(&format!("access = \"{access}\"")))
    };
    let home = Home::new(&text("read-write"));
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    watch.until("gw/d/v", "polled", |json| json["value"] == 7).await;
    reload(&home, &daemon, &text("write")).await;
    in_force(&watch).await;
    let as_after_a_start = |json: &serde_json::Value| json["value"].is_null() && json["cause"] == "starting";
    watch.until("gw/d/v", "nothing is known of it", as_after_a_start).await;
    let later = Watch::on_all(broker).await;
    later.until("gw/d/v", "nor retained", as_after_a_start).await;
    assert_eq!(later.on("gw/d/v").len(), 1);
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_crosses_a_reload_is_no_value_in_the_old_scale_and_raises_no_alarm_that_nobody_ends() {
    for lanes in ["", "max_connections = 2\n"] {
        let (plc, cloud) = (Plc::start().await, Cloud::start().await);
        let text = |scale: &str| {
            let tag = tag(&format!("{scale}alarm = {{ high = 10.0 }}"));
            head(0) + &uplink("cloud", cloud.address) + &bus("b", plc.line.address()) + lanes + &device("d", "b", &tag)
        };
        let home = Home::new(&text(""));
        let daemon = home.run();
        let watch = Watch::on_all(daemon.mqtt().await).await;
        watch.until("gw/d/v", "polled", |json| json["value"] == 0 && json["quality"] == "good").await;
        plc.units.set_fault(1, Some(Fault::Late(Duration::from_secs(2))));
        plc.set(0, &[12]);
        let asked = plc.requests();
        until("it is asked", || plc.requests() > asked).await;
        reload(&home, &daemon, &text("scale = 0.1\n")).await;
        let scaled = |json: &serde_json::Value| json["value"].as_f64().is_some_and(|value| (value - 1.2).abs() < 1e-9);
        watch.until("gw/d/v", "read in the new scale", scaled).await;
        in_force(&watch).await;
        cloud.until("the same upstream", |cloud| cloud.on("gw/d/v").iter().any(|it| scaled(&it.json()))).await;
        let there = cloud.log();
        assert!(!there.iter().any(|it| it.topic == "gw/d/v" && it.json()["value"] == 12), "{lanes}");
        let alarms: Vec<_> =
            there.iter().filter(|it| it.topic.contains("/alarm/")).map(super::cloud::Arrived::json).collect();
        assert!(alarms.is_empty(), "{lanes}{alarms:?}");
        assert_eq!(daemon.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_reload_waits_for_a_slow_medium_what_means_the_same_under_both_plans_is_read_on() {
    if !strace::may_attach() {
        return;
    }
    let (plc, cloud) = (Plc::start().await, Cloud::start().await);
    let text = |tags: &str| {
        head(0) + &uplink("cloud", cloud.address) + &bus("b", plc.line.address()) + &device("d", "b", &tag("")) + tags
    };
    let home = Home::new(&text(""));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/d/v", "polled", |json| json["quality"] == "good").await;
    // From now on each commit takes longer than what follows.
    let calls = "fsync,fdatasync";
    let medium =
        Injector::attach(daemon.pid().cast_unsigned(), &home.path("calls"), calls, "delay_enter=8000000", "1+");
    let medium = medium.unwrap();
    plc.set(0, &[1]);
    watch.until("gw/d/v", "on its way to the medium", |json| json["value"] == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await; // the commit has begun
    reload(&home, &daemon, &text(&gateway::tag("more", "holding:1", "uint16", ""))).await;
    for word in 2..=6 {
        plc.set(0, &[word]);
        watch.until("gw/d/v", "read while the reload waits", |json| json["value"] == word).await;
    }
    assert_eq!(daemon.times_said("bus goes on with other devices"), 0, "it has waited all that while");
    medium.detach();
    in_force(&watch).await;
    watch.until("gw/d/more", "read", |json| json["quality"] == "good").await;
    plc.set(0, &[7]);
    let is_there = |word: u64| cloud.on("gw/d/v").iter().any(|it| it.json()["value"] == word);
    cloud.until("each of them upstream", |_| (0..=7).all(is_there)).await;
    assert!(cloud.on("ironbridge/gw/gap").is_empty());
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_a_reload_touches_does_not_wait_for_another_one_that_takes_long_to_end() {
    let (fast, slow) = (Plc::start().await, Plc::start().await);
    let text = |patience: &str, more: &str| {
        let buses = bus("fast", fast.line.address()) + &bus("slow", slow.line.address());
        let devices = device("d", "fast", &tag("access = \"read-write\"")) + &device("e", "slow", &tag(""));
        (head(0) + &buses).replace("\"5s\"", patience) + &devices + more
    };
    let home = Home::new(&text("\"20s\"", ""));
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    watch.until("gw/e/v", "polled", |json| json["quality"] == "good").await;
    slow.units.set_fault(1, Some(Fault::Dead));
    let asked = slow.requests();
    until("it waits for an answer", || slow.requests() > asked).await;
    let new = bus("new", fast.line.address()) + &device("f", "new", &tag(""));
    reload(&home, &daemon, &text("\"19s\"", &new)).await;
    until("the fast one is back", || daemon.times_said("bus begins bus=fast ") == 2).await;
    fast.set(0, &[1]);
    watch.until("gw/d/v", "read", |json| json["value"] == 1).await;
    watch.until("gw/f/v", "read on the new one", |json| json["value"] == 1).await;
    Client4::connect(broker, "hmi").await.publish("gw/d/v/set", QoS::AtLeastOnce, "2").await;
    watch.until("gw/d/v/set/result", "an end", |json| json["outcome"].is_string()).await;
    assert_eq!(fast.word(0), 2);
    assert_eq!(daemon.times_said("bus begins bus=slow "), 1, "all that while");
    slow.units.set_fault(1, None);
    in_force(&watch).await;
    daemon.heard_times("bus begins bus=slow ", 2).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_moves_waits_for_the_bus_that_it_leaves_and_its_new_neighbours_do_not() {
    let (left, joined) = (Plc::start().await, Plc::start().await);
    joined.set(0, &[2]);
    let text = |patience: &str, on: &str| {
        let buses = bus("a", left.line.address()) + &bus("b", joined.line.address());
        (head(0) + &buses).replace("\"5s\"", patience) + &device("d", on, &tag("")) + &device("f", "b", &tag(""))
    };
    let home = Home::new(&text("\"20s\"", "a"));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/d/v", "polled", |json| json["value"] == 0).await;
    watch.until("gw/f/v", "polled", |json| json["value"] == 2).await;
    left.units.set_fault(1, Some(Fault::Dead));
    let asked = left.requests();
    until("it waits for an answer", || left.requests() > asked).await;
    reload(&home, &daemon, &text("\"19s\"", "b")).await;
    until("the other bus is back", || daemon.times_said("bus begins bus=b ") == 2).await;
    joined.set(0, &[3]);
    watch.until("gw/f/v", "read", |json| json["value"] == 3).await;
    assert_eq!(daemon.times_said("bus begins bus=a "), 1, "all that while");
    assert!(watch.on("gw/d/v").iter().all(|seen| seen.json()["value"] != 3), "it is still on its old bus");
    left.units.set_fault(1, None);
    watch.until("gw/d/v", "read on its new bus", |json| json["value"] == 3).await;
    in_force(&watch).await;
    daemon.heard_times("bus begins bus=a ", 2).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_answer_on_the_bus_that_a_device_leaves_does_not_replace_the_first_on_its_new_one() {
    let (left, joined) = (Plc::start().await, Plc::start().await);
    joined.set(0, &[2]);
    let text = |on: &str| {
        let buses = bus("a", left.line.address()) + &bus("b", joined.line.address());
        head(0) + &buses + &device("d", on, &tag("deadband = 1000.0"))
    };
    let home = Home::new(&text("a"));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/d/v", "polled", |json| json["value"] == 0 && json["quality"] == "good").await;
    left.units.set_fault(1, Some(Fault::Late(Duration::from_secs(2))));
    left.set(0, &[5000]);
    let asked = left.requests();
    until("it is asked", || left.requests() > asked).await;
    reload(&home, &daemon, &text("b")).await;
    watch.until("gw/d/v", "read on its new bus", |json| json["value"] == 2).await;
    in_force(&watch).await;
    until("its old bus has heard of it", || daemon.said("bus goes on with other devices bus=a").is_some()).await;
    let values: Vec<_> = watch.on("gw/d/v").iter().map(|seen| seen.json()["value"].clone()).collect();
    assert_eq!(values.last().unwrap(), 2, "{values:?}");
    joined.set(0, &[4000]);
    watch.until("gw/d/v", "goes on there", |json| json["value"] == 4000).await;
    assert_eq!(watch.on("gw/d/v").iter().filter(|seen| seen.json()["value"] == 2).count(), 1);
    let values: Vec<_> = watch.on("gw/d/v").iter().map(|seen| seen.json()["value"].clone()).collect();
    assert_eq!(values[values.len() - 2..], [2, 4000], "{values:?}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_was_accepted_under_one_scale_is_never_written_by_another() {
    let plc = Plc::start().await;
    let text = |scale: &str| {
        let tag = tag(&format!("access = \"read-write\"\nscale = {scale}\nwrite = {{ verify = false }}"));
        head(0) + &bus("b", plc.line.address()) + &device("d", "b", &tag)
    };
    let home = Home::new(&text("0.1"));
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    watch.until("gw/d/v", "polled", |json| json["quality"] == "good").await;
    let mut client = Client4::connect(broker, "hmi").await;
    plc.units.set_fault(1, Some(Fault::Late(Duration::from_secs(2))));
    let asked = plc.requests();
    until("it is asked", || plc.requests() > asked).await;
    client.publish("gw/d/v/set", QoS::AtLeastOnce, "5").await; // 50 in the device
    reload(&home, &daemon, &text("1.0")).await;
    let result = watch.until("gw/d/v/set/result", "an end", |json| json["outcome"].is_string()).await;
    let refused = result["outcome"] == "refused" && plc.word(0) == 0;
    assert!(refused || plc.word(0) == 50, "{result}: {} in the device", plc.word(0));
    in_force(&watch).await;
    plc.units.set_fault(1, None);
    client.publish("gw/d/v/set", QoS::AtLeastOnce, "6").await;
    until("written by the new scale", || plc.word(0) == 6).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_wrong_with_a_bridge_or_a_listener_is_over_when_a_reload_takes_it_away() {
    let authority = Authority::new();
    let door = "[[broker.listener]]\nlisten = \"127.0.0.2:0\"\ntls = { certificate = \"server.crt\", key = \"server.key\" }\n\
                anonymous = \"read\"\n";
    let bridge = "[[bridge]]\nname = \"far\"\nurl = \"mqtts://127.0.0.1:1\"\nca_file = \"ca.pem\"\n\
                  [[bridge.topic]]\nfilter = \"o/#\"\n";
    let home = Home::new(&(head(0) + door));
    std::fs::write(home.path("ca.pem"), "no certificate").unwrap();
    let (certificate, key) = authority.server_pem("localhost", VALID);
    std::fs::write(home.path("server.crt"), certificate).unwrap();
    std::fs::write(home.path("server.key"), key).unwrap();
    std::fs::set_permissions(home.path("server.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    reload(&home, &daemon, &(head(0) + door + bridge)).await;
    watch.event("uplink_disabled", "active").await;
    std::fs::write(home.path("server.crt"), "no certificate").unwrap();
    daemon.signal(Signal::HUP);
    watch.event("certificate_unusable", "active").await;
    reload(&home, &daemon, &head(0)).await;
    watch.event("uplink_disabled", "cleared").await;
    watch.event("certificate_unusable", "cleared").await;
    assert_eq!(daemon.stop().await, Some(0));
}

/// A register map that is a pipe: whoever reads the configuration waits until this end is opened, and until it is dropped.
async fn held(pipe: &Path) -> File {
    let (pipe, (opened, file)) = (pipe.to_owned(), tokio::sync::oneshot::channel());
    std::thread::spawn(move || {
        let mut pipe = File::options().write(true).open(pipe).unwrap();
        pipe.write_all(b"name,address,type\nx,holding:1,uint16\n").unwrap();
        opened.send(pipe)
    });
    tokio::time::timeout(PATIENCE, file).await.expect("somebody reads it").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_by_command_reads_the_file_when_the_one_by_signal_is_through() {
    const CHANGED: &str = "name=\"d\" how=\"changed\"";
    let plc = Plc::start().await;
    let text =
        |scale: u32| head(0) + &bus("b", plc.line.address()) + &device("d", "b", &tag(&format!("scale = {scale}.0")));
    let home = Home::new(&text(1));
    let daemon = home.run();
    daemon.mqtt().await;
    let (pipe, fragment) = (home.path("pipe.csv"), home.path("ironbridge.d/slow.toml"));
    std::fs::create_dir(home.path("ironbridge.d")).unwrap();
    std::fs::write(&fragment, device("slow", "b", "profile = \"../pipe.csv\"\n")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    home.configure(&text(2));
    daemon.signal(Signal::HUP);
    let first = held(&pipe).await; // it has read the older text
    home.configure(&text(3));
    // Told where the daemon is: else the command would read the file itself.
    let socket = home.path("data/control.sock");
    let words = ["reload", "--config", "ironbridge.toml", "--socket", socket.to_str().unwrap()];
    let mut command = home.command(&words).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await; // time enough to begin, if it would
    assert_eq!(daemon.times_said("INFO reloading"), 1, "side by side");
    drop(first);
    until("the older text is in force", || daemon.times_said(CHANGED) == 1).await;
    drop(held(&pipe).await); // the newer one is read now
    until("the newer one, too", || daemon.times_said(CHANGED) == 2).await;
    assert!(command.wait().unwrap().success());
    std::fs::remove_file(&fragment).unwrap();
    let mut check = home.command(&["check", "--config", "ironbridge.toml", "--against-running"]);
    let told = check.stdout(std::process::Stdio::piped()).output().unwrap().stdout;
    assert!(!String::from_utf8(told).unwrap().contains("device d changed"));
    assert_eq!(daemon.stop().await, Some(0));
}
