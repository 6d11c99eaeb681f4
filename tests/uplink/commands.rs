//! Commands from upstream through the whole gateway: the rules for all commands, over both versions of MQTT.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::gateway;
use crate::owed::OwedList;
use crate::rig;

use std::sync::Arc;
use std::time::Duration;

use cloud::{Arrived, Cloud};
use gateway::{Daemon, Home, PATIENCE, Plc, config, tag, uplink};
use ironbridge::config::plan::MqttVersion;
use ironbridge::flow::command::{self, Admission, Reply, Stored, Submitted};
use ironbridge::model::tag::TagIx;
use ironbridge::model::topic::Ownership;
use ironbridge::plant::faults::Fault;
use ironbridge::uplink::Commands;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use serde_json::{Value as Json, json};

const SET: &str = "site/gw/plc/level/set";
const RESULT: &str = "site/gw/plc/level/set/result";
const VERSIONS: [&str; 2] = ["3.1.1", "5"];

struct Rig {
    plc: Plc,
    cloud: Cloud,
    home: Home,
    daemon: Daemon,
}

fn keys(version: &str) -> String {
    format!("commands = true\ntopic_prefix = \"site/\"\nmqtt_version = \"{version}\"\n")
}

impl Rig {
    async fn start(version: &str) -> Self {
        Self::with(version, |text| text).await
    }

    async fn with(version: &str, change: impl FnOnce(String) -> String) -> Self {
        let (plc, cloud) = (Plc::start().await, Cloud::start().await);
        let limits = "access = \"read-write\"\nwrite = { min = 0.0, max = 100.0 }";
        let tags = tag("level", "holding:0", "uint16", limits)
            + &tag("fixed", "holding:1", "uint16", "")
            + &tag("button", "holding:2", "uint16", "access = \"write\"");
        let text = config(plc.line.address()) + &tags + &uplink("cloud", cloud.address) + &keys(version);
        let home = Home::new(&change(text));
        let daemon = home.run();
        cloud.until("a value", |cloud| !cloud.on("site/gw/plc/level").is_empty()).await;
        Self { plc, cloud, home, daemon }
    }

    fn results(&self, id: &str) -> Vec<Json> {
        self.cloud.on(RESULT).iter().map(Arrived::json).filter(|result| result["id"] == id).collect()
    }

    async fn result(&self, id: &str) -> Json {
        self.cloud.until(id, |_| !self.results(id).is_empty()).await;
        self.results(id).remove(0)
    }

    async fn ask(&self, id: &str, payload: &str) -> Json {
        self.cloud.deliver(SET, payload.as_bytes());
        self.result(id).await
    }
}

fn properties(change: impl FnOnce(&mut PublishProperties)) -> PublishProperties {
    let mut properties = PublishProperties::default();
    change(&mut properties);
    properties
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_written_acknowledged_and_its_result_goes_up_as_an_event() {
    for version in VERSIONS {
        let rig = Rig::start(version).await;
        let result = rig.ask("a1", r#"{"value":42,"id":"a1"}"#).await;
        assert_eq!((&result["outcome"], &result["read_back"]), (&json!("done"), &json!(42)));
        assert_eq!((&result["stream"], rig.plc.word(0), rig.plc.writes()), (&json!("event"), 42, 1));
        rig.cloud.deliver("site/gw/plc/button/set", b"7");
        rig.cloud.until("pressed", |cloud| !cloud.on("site/gw/plc/button/set/result").is_empty()).await;
        assert_eq!(rig.plc.word(2), 7);
        rig.cloud.until("acknowledged", |cloud| cloud.acknowledged() == 2).await;
        assert_eq!(rig.results("a1").len(), 1, "once, through the store");
        let expected = ["site/gw/plc/level/set", "site/gw/plc/button/set"].map(str::to_owned).to_vec();
        assert_eq!(rig.cloud.subscriptions(), [(1, expected)], "one SUBSCRIBE, only what may be written");
        rig.daemon.heard("uplink:cloud").await; // the log says who asked
        assert_eq!(rig.daemon.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_is_refused_and_the_refusal_goes_back_up() {
    for version in VERSIONS {
        let rig = Rig::start(version).await;
        let cases = [
            ("r1", r#"{"value":100.5,"id":"r1"}"#, "range"),
            ("p1", r#"{"value":"high","id":"p1"}"#, "payload"),
            ("e1", r#"{"value":1,"id":"e1","expires":"2026-11-01T00:00:00Z"}"#, "expired"),
        ];
        for (id, payload, reason) in cases {
            assert_eq!(rig.ask(id, payload).await, json!({"id": id, "outcome": "refused", "reason": reason}));
        }
        rig.cloud.deliver_with(SET, br#"{"value":1,"id":"k1"}"#, |it| it.retain = true);
        assert_eq!(rig.result("k1").await["reason"], "retained");
        rig.cloud.deliver_with(SET, b"1", |it| it.dup = true);
        let again = |cloud: &Cloud| cloud.on(RESULT).iter().any(|it| it.json()["reason"] == "duplicate");
        rig.cloud.until("a redelivery without id is refused", again).await;
        rig.cloud.until("all acknowledged", |cloud| cloud.acknowledged() == 5).await;
        assert_eq!(rig.plc.writes(), 0);
        rig.cloud.deliver_with(SET, br#"{"value":5,"id":"d1"}"#, |it| it.dup = true);
        assert_eq!(rig.result("d1").await["outcome"], "done", "with an id it is looked up, and here it is new");
        assert_eq!(rig.daemon.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_remembered_across_a_restart_and_answered_again() {
    let rig = Rig::start("5").await;
    assert_eq!(rig.ask("once", r#"{"value":9,"id":"once"}"#).await["outcome"], "done");
    assert_eq!(rig.daemon.stop().await, Some(0));
    let Rig { plc, cloud, home, .. } = rig;
    let before = cloud.connects().len();
    let daemon = home.run();
    cloud.until("it is back", |cloud| cloud.subscriptions().len() > before).await;
    let rig = Rig { plc, cloud, home, daemon };
    rig.cloud.deliver(SET, br#"{"value":10,"id":"once"}"#);
    rig.cloud.until("the old outcome", |_| rig.results("once").len() == 2).await;
    assert_eq!(rig.results("once")[1], json!({"id": "once", "outcome": "done", "read_back": 9}));
    assert_eq!((rig.plc.writes(), rig.plc.word(0)), (1, 9));
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_goes_to_the_response_topic_below_the_prefix_with_its_correlation_data() {
    let rig = Rig::start("5").await;
    let ask = |payload: &[u8], response: &str, correlation: &'static [u8]| {
        rig.cloud.deliver_with(SET, payload, |it| {
            it.properties = Some(properties(|properties| {
                properties.response_topic = Some(response.to_owned());
                properties.correlation_data = Some(correlation.into());
            }));
        });
    };
    ask(b"5", "site/answers/me", &[0xAB, 1]);
    ask(b"500", "site/answers/me", &[0xAB, 2]);
    rig.cloud.until("both answers", |cloud| cloud.on("site/answers/me").len() == 2).await;
    let mut answers = rig.cloud.on("site/answers/me");
    answers.sort_by_key(|answer| answer.json()["id"].to_string());
    assert_eq!(answers[0].json(), json!({"id": "ab01", "outcome": "done", "read_back": 5}));
    assert_eq!(answers[1].json(), json!({"id": "ab02", "outcome": "refused", "reason": "range"}));
    let back = answers[0].properties.clone().unwrap();
    assert_eq!(&back.correlation_data.unwrap()[..], [0xAB, 1]);
    assert_eq!((back.content_type.as_deref(), back.payload_format_indicator), (Some("application/json"), Some(1)));
    // Correlation data is an id: the same again is answered from memory.
    ask(b"6", "site/answers/me", &[0xAB, 1]);
    rig.cloud.until("the old answer", |cloud| cloud.on("site/answers/me").len() == 3).await;
    assert_eq!(rig.plc.writes(), 1);
    // Outside the prefix, or the gateway's own: not used, and the result topic still is.
    let sly = ["answers/me", "site/gw/plc/fixed", "site/gw/plc/fixed/set", "site/ironbridge/gw/status", "site/a/+"];
    for (n, topic) in sly.into_iter().enumerate() {
        let before = rig.cloud.on(topic).iter().filter(|it| it.json().get("outcome").is_some()).count();
        ask(format!(r#"{{"value":7,"id":"s{n}"}}"#).as_bytes(), topic, b"x");
        rig.result(&format!("s{n}")).await;
        let after = rig.cloud.on(topic).iter().filter(|it| it.json().get("outcome").is_some()).count();
        assert_eq!(before, after, "{topic}");
    }
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_time_runs_out_in_the_queue_is_not_written() {
    let rig = Rig::with("5", |text| text.replace("poll = \"100ms\"", "poll = \"1d\"").replace("500ms", "20s")).await;
    assert_eq!(rig.ask("warm", r#"{"value":1,"id":"warm"}"#).await["outcome"], "done");
    rig.plc.units.set_fault(1, Some(Fault::Late(Duration::from_millis(1200))));
    rig.cloud.deliver(SET, br#"{"value":2,"id":"first"}"#); // write and read back: 2.4 s
    rig.cloud.until("on the wire", |_| rig.plc.writes() == 2).await;
    rig.cloud.deliver_with(SET, br#"{"value":3,"id":"short"}"#, |it| {
        it.properties = Some(properties(|properties| properties.message_expiry_interval = Some(1)));
    });
    let short = rig.result("short").await;
    assert_eq!((&short["outcome"], &short["reason"]), (&json!("refused"), &json!("expired")));
    assert_eq!((rig.plc.writes(), rig.plc.word(0)), (2, 2));
    rig.plc.units.set_fault(1, None);
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_published_before_the_subscription_stands_and_each_session_has_one() {
    for version in VERSIONS {
        let rig = Rig::start(version).await;
        rig.cloud.no_suback(true);
        rig.cloud.cut();
        rig.cloud.until("it subscribes anew", |cloud| cloud.subscriptions().len() == 2).await;
        let of_second = |cloud: &Cloud| cloud.log().iter().filter(|it| it.connection == 2 && !it.will).count();
        // another connection shows that time has passed: a SUBACK that never comes is given up like a CONNACK
        rig.cloud.deliver(SET, br#"{"value":4,"id":"early"}"#);
        rig.cloud.until("it is taken", |_| rig.plc.writes() == 1).await;
        assert_eq!(of_second(&rig.cloud), 0);
        rig.cloud.no_suback(false);
        rig.cloud.cut();
        assert_eq!(rig.result("early").await["outcome"], "done", "the outcome is in the store");
        assert_eq!(rig.cloud.subscriptions().len(), 3);
        assert_eq!(rig.daemon.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_subscription_is_no_reason_to_keep_the_samples_back() {
    for version in VERSIONS {
        let (plc, cloud) = (Plc::start().await, Cloud::start().await);
        cloud.refuse_subscriptions(true);
        let writable = tag("level", "holding:0", "uint16", "access = \"read-write\"");
        let home =
            Home::new(&(config(plc.line.address()) + &writable + &uplink("cloud", cloud.address) + &keys(version)));
        let daemon = home.run();
        cloud.until("a value", |cloud| !cloud.on("site/gw/plc/level").is_empty()).await;
        let refused = daemon.heard("refuses to send commands").await;
        assert!(refused.contains("gw/plc/level/set"), "which: {refused}");
        assert_eq!(daemon.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_commands_true_nothing_is_subscribed_to() {
    let rig = Rig::with("5", |text| text.replace("commands = true\n", "")).await;
    assert!(rig.cloud.subscriptions().is_empty());
    assert_eq!(rig.daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_answered_in_full() {
    const MANY: usize = 200;
    for version in VERSIONS {
        let rig = Rig::start(version).await;
        for n in 0..MANY {
            rig.cloud.deliver(SET, format!(r#"{{"value":{},"id":"b{n}"}}"#, n % 100).as_bytes());
        }
        rig.cloud
            .until("all answered", |cloud| {
                let ids: std::collections::HashSet<_> =
                    cloud.on(RESULT).iter().map(|it| it.json()["id"].to_string()).collect();
                ids.len() == MANY
            })
            .await;
        assert_eq!(rig.daemon.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_while_the_gateway_is_stopping_is_refused_with_a_result() {
    let mut rig = Rig::start("5").await;
    rig.cloud.withhold_acks(true);
    rig.daemon.signal(rustix::process::Signal::TERM);
    gateway::until("buses have ended", || rig.daemon.said("everything polled is committed").is_some()).await;
    rig.cloud.deliver(SET, br#"{"value":3,"id":"late"}"#);
    rig.cloud.until("it is acknowledged", |cloud| cloud.acknowledged() == 1).await;
    rig.cloud.withhold_acks(false);
    assert_eq!(rig.result("late").await, json!({"id": "late", "outcome": "refused", "reason": "stopping"}));
    assert_eq!(rig.daemon.ended(PATIENCE).await.code(), Some(0));
    assert_eq!(rig.plc.writes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_the_broker_refuses_or_that_is_under_way_when_the_session_ends_counts_as_lost() {
    const ANSWER: &str = "up/p/t/set/result";
    let (cloud, owed) = (Cloud::start().await, OwedList::default());
    let (entry, mut road) = command::road();
    tokio::spawn(async move {
        while let Some(Submitted { request, admitted }) = road.recv().await {
            let _ = admitted.send(Admission::Accepted);
            let (result_topic, result) = ("p/t/set/result".to_owned(), b"{}".to_vec());
            let reply = Reply { result_topic, result, stored: Stored::No, response_topic: None, correlation: None };
            request.replies.unwrap().tell(reply);
        }
    });
    let ownership = Arc::new(Ownership::new([("p/t".into(), TagIx(0))]));
    let rig = rig::Rig::start_with(&cloud, &owed, |parts| {
        parts.plan.mqtt_version = MqttVersion::V5;
        parts.commands = Some(Commands { entry, ownership, writable: vec!["p/t".into()] });
    });
    cloud.deny(ANSWER, 0x87);
    cloud.until("a subscription", |cloud| cloud.subscriptions().len() == 1).await;
    cloud.deliver("up/p/t/set", b"1");
    cloud.until("a refused answer", |_| rig.stats.replies_lost.get() == 1).await;
    cloud.deny(ANSWER, 0);
    cloud.withhold_acks(true);
    cloud.deliver("up/p/t/set", b"2");
    cloud.until("an answer under way", |cloud| cloud.on(ANSWER).len() == 1).await;
    assert_eq!(rig.stats.replies_lost.get(), 1);
    cloud.cut();
    cloud.until("the next session", |cloud| cloud.subscriptions().len() == 2).await;
    assert_eq!(rig.stats.replies_lost.get(), 2);
    cloud.withhold_acks(false);
    cloud.deliver("up/p/t/set", b"3");
    cloud.until("an answer that arrives", |cloud| cloud.on(ANSWER).len() == 2).await;
    owed.end();
    let stats = Arc::clone(&rig.stats);
    rig.finished().await;
    assert_eq!(stats.replies_lost.get(), 2);
}
