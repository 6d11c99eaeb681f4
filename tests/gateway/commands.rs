//! Commands through the whole gateway: every rule of their walk (`src/lib.rs`), also across kill -9.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::access::{open, passwd};
use crate::cloud;
use crate::gateway;
use crate::reload::applied;

use std::time::Duration;

use bytes::Bytes;
use cloud::Cloud;
use gateway::mqtt::{Client4, Client5, filter, message};
use gateway::{Daemon, Home, PATIENCE, Plc, Watch, config, tag, until, uplink};
use ironbridge::plant::faults::Fault;
use rumqttc::QoS;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, PubAckReason, Publish, PublishProperties};
use serde_json::{Value as Json, json};

const SET: &str = "gw/plc/level/set";
const RESULT: &str = "gw/plc/level/set/result";

/// A gateway with a tag that may be written within 0 to 100, one that may not, and one that may not be read.
struct Rig {
    plc: Plc,
    home: Home,
    daemon: Daemon,
    watch: Watch,
    client: Client4,
}

fn tags() -> String {
    let limits = "access = \"read-write\"\nwrite = { min = 0.0, max = 100.0 }";
    tag("level", "holding:0", "uint16", limits)
        + &tag("fixed", "holding:1", "uint16", "")
        + &tag("button", "holding:2", "uint16", "access = \"write\"")
}

impl Rig {
    async fn start() -> Self {
        Self::with(|text| text).await
    }

    async fn with(change: impl FnOnce(String) -> String) -> Self {
        let plc = Plc::start().await;
        let home = Home::new(&change(config(plc.line.address()) + &tags()));
        let daemon = home.run();
        let (watch, client) = attach(&daemon).await;
        watch.until("gw/plc/level", "a good value", |it| it["quality"] == "good").await;
        Self { plc, home, daemon, watch, client }
    }

    async fn send(&mut self, payload: &str) {
        self.client.publish(SET, QoS::AtLeastOnce, payload).await;
    }

    /// Sends a command with a fresh id and waits for its result.
    async fn ask(&mut self, id: &str, payload: &str) -> Json {
        self.send(payload).await;
        self.result(id).await
    }

    async fn result(&self, id: &str) -> Json {
        self.watch.until(RESULT, id, |result| result["id"] == id).await
    }

    async fn v5(&self) -> Client5 {
        Client5::connect(self.daemon.mqtt().await, "five", |_| {}).await
    }

    async fn restart(self, kill: bool) -> Self {
        let Self { plc, home, mut daemon, .. } = self;
        if kill {
            daemon.kill();
        } else {
            assert_eq!(daemon.stop().await, Some(0));
        }
        plc.units.set_fault(1, None);
        let daemon = home.run();
        let (watch, client) = attach(&daemon).await;
        Self { plc, home, daemon, watch, client }
    }
}

async fn attach(daemon: &Daemon) -> (Watch, Client4) {
    let broker = daemon.mqtt().await;
    (Watch::on_all(broker).await, Client4::connect(broker, "hmi").await)
}

fn with_properties(payload: &str, change: impl FnOnce(&mut PublishProperties)) -> Publish {
    let mut properties = PublishProperties::default();
    change(&mut properties);
    let mut publish = message(SET, 1, payload);
    publish.properties = Some(properties);
    publish
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_written_read_back_and_its_result_is_an_event_upstream() {
    let cloud = Cloud::start().await;
    let mut rig = Rig::with(|text| text + &uplink("cloud", cloud.address)).await;
    let result = rig.ask("a1", r#"{"value":42,"id":"a1"}"#).await;
    assert_eq!(result, json!({"id": "a1", "outcome": "done", "read_back": 42}));
    assert_eq!((rig.plc.word(0), rig.plc.writes()), (42, 1));
    rig.send("43").await;
    let bare = rig.watch.until(RESULT, "without id", |result| result["read_back"] == 43).await;
    assert_eq!(bare, json!({"outcome": "done", "read_back": 43}));
    rig.watch.until("gw/plc/level", "the new value", |it| it["value"] == 43).await;
    rig.client.publish("gw/plc/button/set", QoS::AtLeastOnce, "7").await;
    let pressed = rig.watch.until("gw/plc/button/set/result", "done", |it| it["outcome"] == "done").await;
    assert!(pressed["outcome"] == "done" && rig.plc.word(2) == 7, "{pressed}");
    assert!(rig.watch.on(RESULT).iter().all(|seen| !seen.retained));
    cloud.until("both results", |cloud| cloud.on(RESULT).len() == 2).await;
    let event = cloud.on(RESULT)[0].json();
    assert_eq!((&event["id"], &event["stream"], &event["outcome"]), (&json!("a1"), &json!("event"), &json!("done")));
    assert!(event["seq"].as_u64() >= Some(1) && event["epoch"].is_u64(), "{event}");
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_may_not_is_refused_with_its_reason_and_never_written() {
    let mut rig = Rig::start().await;
    let cases = [
        ("r1", r#"{"value":100.5,"id":"r1"}"#, "range"),
        ("r2", r#"{"value":-1,"id":"r2"}"#, "range"),
        ("p1", r#"{"value":"high","id":"p1"}"#, "payload"),
        ("p2", r#"{"value":1,"id":"p2","speed":3}"#, "payload"),
        ("p3", r#"{"id":"p3"}"#, "payload"),
        ("e1", r#"{"value":1,"id":"e1","expires":"2026-11-01T00:00:00Z"}"#, "expired"),
    ];
    for (id, payload, reason) in cases {
        let result = rig.ask(id, payload).await;
        assert_eq!(result, json!({"id": id, "outcome": "refused", "reason": reason}));
    }
    rig.client.publish("gw/plc/fixed/set", QoS::AtLeastOnce, "1").await;
    let fixed = rig.watch.until("gw/plc/fixed/set/result", "a result", |_| true).await;
    assert_eq!(fixed["reason"], "access");

    let mut retained = v4::Publish::new(SET, QoS::AtLeastOnce, r#"{"value":1,"id":"k1"}"#);
    (retained.pkid, retained.retain) = (5, true);
    rig.client.send(v4::Packet::Publish(retained)).await;
    assert_eq!(rig.result("k1").await["reason"], "retained");
    assert!(matches!(rig.client.next().await, v4::Packet::PubAck(_)));

    // Sent again without an id: it may have been done already. With one it is looked up, and here it is new.
    for (payload, reason) in [("1", Some("duplicate")), (r#"{"value":1,"id":"d1"}"#, None)] {
        let mut again = v4::Publish::new(SET, QoS::AtLeastOnce, payload);
        (again.pkid, again.dup) = (6, true);
        rig.client.send(v4::Packet::Publish(again)).await;
        assert!(matches!(rig.client.next().await, v4::Packet::PubAck(_)));
        match reason {
            Some(reason) => _ = rig.watch.until(RESULT, reason, |result| result["reason"] == reason).await,
            None => assert_eq!(rig.result("d1").await["outcome"], "done"),
        }
    }
    assert_eq!(rig.plc.writes(), 1, "only the last one");

    // Nobody finds a command on the topic later, and nobody may write results or values.
    let late = Watch::on_all(rig.daemon.mqtt().await).await;
    late.until("gw/plc/level", "a value", |_| true).await;
    assert!(late.on(SET).is_empty());
    let mut five = rig.v5().await;
    for topic in [RESULT, "gw/plc/level", "ironbridge/gw/status"] {
        assert_eq!(five.publish(message(topic, 1, "1")).await, PubAckReason::NotAuthorized, "{topic}");
    }
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_in_the_audit_trail_with_who_sent_them_and_a_flood_of_them_does_not_fill_it() {
    let mut rig = Rig::with(|text| {
        let users = "[broker]\nusers_file = \"users\"\n[[broker.acl]]\nuser = \"hall\"\nwrite = [\"gw/+/+/set\"]\n";
        text.replacen("[[broker.listener]]", &format!("{users}[[broker.listener]]"), 1)
    })
    .await;
    passwd(&rig.home, &["users", "hall"], "hall");
    rig.daemon.signal(rustix::process::Signal::HUP);
    until("there is a user", || rig.daemon.said("audit=\"access_reloaded\"").is_some()).await;
    let (mut hall, code) = open(rig.daemon.mqtt().await, "hall", "hall").await;
    assert_eq!(code, ConnectReturnCode::Success);
    for n in 0..100 {
        hall.publish(message(SET, 1, &format!(r#"{{"value":101,"id":"w{n}"}}"#))).await;
    }
    for n in 0..15 {
        hall.publish(message(SET, 1, &format!(r#"{{"value":{n},"id":"d{n}"}}"#))).await;
    }
    rig.ask("other", r#"{"value":99,"id":"other"}"#).await; // the last: commands of a bus are carried out in their order
    rig.send("1000").await;
    let log = &rig.daemon;
    log.heard_times("audit=\"command_refused\"", 2).await;
    log.heard_times("audit=\"command_ended\"", 11).await; // ten of one client and tag, one of another
    let topic = "topic=\"gw/plc/level\"";
    let refused = log.said("audit=\"command_refused\"").unwrap();
    for part in [topic, "origin=\"local:user:hall as hall's\"", "reason=\"range\"", "unsaid=0"] {
        assert!(refused.contains(part), "{part} of {refused}");
    }
    let ended = log.said("audit=\"command_ended\"").unwrap();
    for part in [topic, "value=\"0\"", "origin=\"local:user:hall as hall's\"", "outcome=\"done\""] {
        assert!(ended.contains(part), "{part} of {ended}");
    }
    assert!(log.said("value=\"99\" origin=\"local:anonymous as hmi\"").is_some(), "{ended}");
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_cannot_be_written_refuses_every_command_and_is_told_once() {
    let plc = Plc::start().await;
    let home = Home::new(&(config(plc.line.address()) + &tags()));
    std::fs::create_dir_all(home.path("data/commands.db")).unwrap(); // no file can be there
    let daemon = home.run();
    let (watch, mut client) = attach(&daemon).await;
    for n in 0..20 {
        client.publish(SET, QoS::AtLeastOnce, &format!(r#"{{"value":1,"id":"j{n}"}}"#)).await;
    }
    for n in 0..20 {
        let result = watch.until(RESULT, "an answer", |result| result["id"] == format!("j{n}")).await;
        assert_eq!((&result["outcome"], &result["reason"]), (&json!("refused"), &json!("journal")));
    }
    for told in ["command journal cannot be written", "command journal failed"] {
        daemon.heard_times(told, 1).await;
    }
    daemon.heard_times("audit=\"command_refused\"", 1).await;
    assert_eq!(plc.writes(), 0);
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_remembered_across_restarts_and_written_once() {
    let mut rig = Rig::start().await;
    let command = r#"{"value":9,"id":"once"}"#;
    let first = rig.ask("once", command).await;
    assert_eq!(first["outcome"], "done");
    let again = r#"{"value":10,"id":"once"}"#; // what counts is the id
    rig.send(again).await;
    until("answered again", || rig.watch.on(RESULT).len() == 2).await;
    for kill in [false, true] {
        rig = rig.restart(kill).await;
        assert_eq!(rig.ask("once", again).await, first, "the old outcome");
    }
    assert_eq!((rig.plc.writes(), rig.plc.word(0)), (1, 9));
    // A refusal is not remembered: the same id may be tried again.
    assert_eq!(rig.ask("twice", r#"{"value":900,"id":"twice"}"#).await["reason"], "range");
    rig.send(r#"{"value":90,"id":"twice"}"#).await;
    rig.watch.until(RESULT, "done", |it| it["id"] == "twice" && it["outcome"] == "done").await;
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn correlation_data_is_an_id_and_the_answer_goes_to_the_response_topic() {
    let rig = Rig::start().await;
    let mut five = rig.v5().await;
    five.subscribe(filter("answers/five", 0), None).await;
    let command = || {
        with_properties("5", |properties| {
            properties.response_topic = Some("answers/five".into());
            properties.correlation_data = Some(Bytes::from_static(&[0xAB, 0x01]));
        })
    };
    for round in 0..2 {
        five.send(rumqttc::v5::mqttbytes::v5::Packet::Publish(command())).await;
        let (mut acknowledged, mut answered) = (false, false);
        while !(acknowledged && answered) {
            match five.next().await {
                rumqttc::v5::mqttbytes::v5::Packet::PubAck(ack) => {
                    assert_eq!(ack.reason, PubAckReason::Success);
                    acknowledged = true;
                }
                rumqttc::v5::mqttbytes::v5::Packet::Publish(answer) => {
                    assert_eq!(answer.topic, "answers/five", "round {round}");
                    let result: Json = serde_json::from_slice(&answer.payload).unwrap();
                    assert_eq!(result, json!({"id": "ab01", "outcome": "done", "read_back": 5}));
                    let back = answer.properties.unwrap().correlation_data.unwrap();
                    assert_eq!(&back[..], [0xAB, 0x01]);
                    answered = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(rig.plc.writes(), 1);
    // A response topic that belongs to the gateway is not used; the result topic still is.
    let sly = with_properties(r#"{"value":6,"id":"sly"}"#, |properties| {
        properties.response_topic = Some("gw/plc/fixed".into());
    });
    five.publish(sly).await;
    rig.result("sly").await;
    rig.watch.until("gw/plc/level", "a later value", |it| it["value"] == 6).await;
    assert!(rig.watch.on("gw/plc/fixed").iter().all(|seen| seen.json().get("outcome").is_none()));
    // Refusals are answered the same way, and MQTT 5 is told the reason code.
    let refused = with_properties("500", |properties| {
        properties.response_topic = Some("answers/refused".into());
        properties.correlation_data = Some(Bytes::from_static(b"\x02"));
    });
    five.publish(refused).await;
    let answer = rig.watch.until("answers/refused", "a refusal", |_| true).await;
    assert_eq!((&answer["outcome"], &answer["reason"]), (&json!("refused"), &json!("range")));
    assert_eq!(answer["id"], "02", "the id is the correlation data, in a refusal too");
    assert_eq!(rig.daemon.stop().await, Some(0));
}

/// A gateway whose PLC is asked for nothing but commands, and takes its time over them.
async fn slow(late: Duration) -> Rig {
    let mut rig = Rig::with(|text| text.replace("poll = \"100ms\"", "poll = \"1d\"").replace("500ms", "20s")).await;
    rig.ask("warm", r#"{"value":1,"id":"warm"}"#).await;
    rig.plc.units.set_fault(1, Some(Fault::Late(late)));
    rig
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_time_runs_out_in_the_queue_is_not_written() {
    let mut rig = slow(Duration::from_millis(1200)).await;
    rig.send(r#"{"value":2,"id":"first"}"#).await; // write and read back: 2.4 s
    until("on the wire", || rig.plc.writes() == 2).await;
    let mut five = rig.v5().await;
    let short = with_properties(r#"{"value":3,"id":"short"}"#, |properties| {
        properties.message_expiry_interval = Some(1);
    });
    five.publish(short).await;
    assert_eq!(rig.result("first").await["outcome"], "done");
    assert_eq!(rig.result("short").await, json!({"id": "short", "outcome": "refused", "reason": "expired"}));
    assert_eq!((rig.plc.writes(), rig.plc.word(0)), (2, 2));
    rig.plc.units.set_fault(1, None);
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reload_keeps_from_the_device_is_told_busy_and_may_be_tried_again_with_the_same_id() {
    let mut rig = slow(Duration::from_secs(3)).await;
    rig.send(r#"{"value":2,"id":"first"}"#).await;
    until("on the wire", || rig.plc.writes() == 2).await;
    rig.send(r#"{"value":3,"id":"again"}"#).await;
    let text = std::fs::read_to_string(rig.home.path("ironbridge.toml")).unwrap();
    rig.home.configure(&text.replace("\"20s\"", "\"19s\"")); // of the bus: another one takes its place
    applied(&rig.home).await;
    assert_eq!(rig.result("again").await, json!({"id": "again", "outcome": "refused", "reason": "busy"}));
    assert_eq!(rig.result("first").await["outcome"], "done");
    rig.plc.units.set_fault(1, None);
    let of = |rig: &Rig| rig.watch.on(RESULT).into_iter().filter(|seen| seen.json()["id"] == "again").count();
    rig.send(r#"{"value":3,"id":"again"}"#).await;
    rig.watch.until(RESULT, "done", |it| it["id"] == "again" && it["outcome"] == "done").await;
    let told = of(&rig);
    rig.send(r#"{"value":4,"id":"again"}"#).await; // done is done
    until("the old outcome", || of(&rig) == told + 1).await;
    assert_eq!((rig.plc.writes(), rig.plc.word(0)), (3, 3));
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_refused_busy_at_once() {
    let mut rig = slow(Duration::from_secs(5)).await;
    for n in 0..25 {
        rig.send(&format!(r#"{{"value":2,"id":"b{n}"}}"#)).await;
    }
    let busy = rig.watch.until(RESULT, "busy", |result| result["reason"] == "busy").await;
    assert_eq!(busy["outcome"], "refused");
    assert!(rig.plc.writes() <= 2, "the first is still under way");
    rig.plc.units.set_fault(1, None);
    // Those that wait are refused when the gateway stops; the one on the wire is finished.
    rig.daemon.signal(rustix::process::Signal::TERM);
    rig.watch.until(RESULT, "stopping", |result| result["reason"] == "stopping").await;
    assert_eq!(rig.daemon.ended(PATIENCE).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_id_gets_its_old_outcome_also_when_the_queue_is_full_or_its_time_is_over() {
    let mut rig = slow(Duration::from_secs(3)).await;
    for n in 0..25 {
        rig.send(&format!(r#"{{"value":2,"id":"b{n}"}}"#)).await;
    }
    rig.watch.until(RESULT, "busy", |result| result["reason"] == "busy").await;
    rig.send(r#"{"value":1,"id":"warm","expires":"2026-11-01T00:00:00Z"}"#).await;
    rig.send(r#"{"value":2,"id":"b0"}"#).await; // under way: its result comes when it ends
    let of = |id: &str| -> Vec<Json> {
        let results = rig.watch.on(RESULT).into_iter().map(|seen| seen.json());
        results.filter(|result| result["id"] == id).collect()
    };
    let done = json!({"id": "warm", "outcome": "done", "read_back": 1});
    until("the old outcome", || of("warm").len() == 2).await;
    assert_eq!(of("warm"), [done.clone(), done]);
    rig.plc.units.set_fault(1, None);
    until("the first ended", || !of("b0").is_empty()).await;
    assert_eq!(of("b0"), [json!({"id": "b0", "outcome": "done", "read_back": 2})]);
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_open_at_kill_9_is_answered_unknown_and_never_written_again() {
    let cloud = Cloud::start().await;
    let mut rig = slow(Duration::from_secs(15)).await;
    let text = std::fs::read_to_string(rig.home.path("ironbridge.toml")).unwrap();
    rig.home.configure(&(text + &uplink("cloud", cloud.address)));
    rig.send(r#"{"value":55,"id":"open"}"#).await; // acknowledged: it is on disk
    until("on the wire", || rig.plc.writes() == 2).await;
    rig = rig.restart(true).await;
    let unknown = json!({"id": "open", "outcome": "failed", "reason": "unknown"});
    cloud.until("the answer", |cloud| cloud.on(RESULT).iter().any(|it| it.json()["id"] == "open")).await;
    let told = cloud.on(RESULT).into_iter().map(|it| it.json()).find(|it| it["id"] == "open").unwrap();
    assert_eq!((&told["outcome"], &told["reason"]), (&json!("failed"), &json!("unknown")));
    assert_eq!(rig.ask("open", r#"{"value":55,"id":"open"}"#).await, unknown);
    assert_eq!(rig.plc.writes(), 2, "not written again");
    let mut rig = rig.restart(false).await;
    assert_eq!(rig.ask("open", r#"{"value":55,"id":"open"}"#).await, unknown);
    assert_eq!(rig.plc.writes(), 2);
    assert_eq!(cloud.on(RESULT).iter().filter(|it| it.json()["id"] == "open").count(), 1, "told once");
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_a_burst_gets_a_result() {
    const CLIENTS: usize = 4;
    const EACH: usize = 60;
    let rig = Rig::start().await;
    let broker = rig.daemon.mqtt().await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        clients.push(Client4::connect(broker, &format!("burst-{n}")).await);
    }
    for n in 0..EACH {
        for (at, client) in clients.iter_mut().enumerate() {
            client.publish(SET, QoS::AtMostOnce, &format!(r#"{{"value":1,"id":"{at}-{n}"}}"#)).await;
        }
    }
    let answered = || {
        let results = rig.watch.on(RESULT).into_iter().map(|seen| seen.json()["id"].to_string());
        results.collect::<std::collections::HashSet<_>>().len()
    };
    until("all answered", || answered() == CLIENTS * EACH).await;
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_while_the_gateway_is_stopping_is_refused_with_a_result() {
    let cloud = Cloud::start().await;
    let mut rig = Rig::with(|text| text + &uplink("cloud", cloud.address)).await;
    cloud.until("a sample", |cloud| !cloud.on("gw/plc/level").is_empty()).await;
    cloud.withhold_acks(true);
    rig.daemon.signal(rustix::process::Signal::TERM);
    until("buses have ended", || rig.daemon.said("everything polled is committed").is_some()).await;
    let result = rig.ask("late", r#"{"value":3,"id":"late"}"#).await;
    assert_eq!(result, json!({"id": "late", "outcome": "refused", "reason": "stopping"}));
    cloud.withhold_acks(false);
    assert_eq!(rig.daemon.ended(PATIENCE).await.code(), Some(0));
    assert_eq!(rig.plc.writes(), 0);
}
