//! Alarms, swinging doors, derived tags: from a register to the topics of the local broker and of the cloud.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::gateway;

use std::collections::BTreeMap;

use cloud::{Arrived, Cloud};
use gateway::{Home, PATIENCE, Plc, Seen, Watch, config, tag, until, uplink};
use ironbridge::model::tag::Table;
use ironbridge::plant::faults::Fault;
use ironbridge::plant::image::Image;
use rumqttc::QoS;
use rustix::process::Signal;
use serde_json::{Value as Json, json};

const ALARM: &str = "ironbridge/gw/alarm/plc/level";

/// A gateway that asks as fast as it may.
fn fast(text: &str) -> String {
    text.replace("poll = \"100ms\"", "poll = \"20ms\"")
}

/// What was said on an alarm topic, as "event state"; an empty payload is "cleared from the broker".
fn said(seen: &[Seen]) -> Vec<String> {
    let word = |seen: &Seen| {
        if seen.payload.is_empty() {
            return "gone".to_owned();
        }
        let json = seen.json();
        format!("{} {}", json["event"].as_str().unwrap(), json["state"].as_str().unwrap())
    };
    seen.iter().map(word).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_is_retained_while_it_is_active_and_each_change_is_a_record_in_the_cloud() {
    let (plc, cloud) = (Plc::start().await, Cloud::start().await);
    plc.set(0, &[100]);
    let keys = "scale = 0.1\nunit = \"bar\"\nalarm = { high = 12.0, high_high = 14.0, hysteresis = 0.5 }";
    let text = fast(&(config(plc.line.address()) + &tag("level", "holding:0", "uint16", keys)));
    let home = Home::new(&(text + &uplink("cloud", cloud.address)));
    let mut daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    watch.until("gw/plc/level", "a good value", |it| it["value"] == 10.0).await;
    assert!(watch.on(ALARM).is_empty(), "nothing is wrong yet");

    plc.set(0, &[120]);
    let active = watch.until(ALARM, "high", |it| it["event"] == "high").await;
    let expected = json!({"state": "active", "value": 12.0, "quality": "good", "limit": 12.0, "unit": "bar", "stream": "alarm", "seq": 1});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(active[key], *value, "{key} in {active}");
    }
    assert!(active["epoch"].is_u64() && active["time"].as_str().unwrap().ends_with('Z'), "{active}");
    // Whoever comes later finds it retained.
    let watch = Watch::on_all(broker).await;
    until("retained", || watch.on(ALARM).first().is_some_and(|seen| seen.retained)).await;

    // Within the hysteresis nothing changes; a dead device neither raises nor clears.
    plc.set(0, &[117]);
    watch.until("gw/plc/level", "near the limit", |it| it["value"] == 11.7).await;
    plc.units.set_fault(1, Some(Fault::Dead));
    watch.until("gw/plc/level", "bad", |it| it["cause"] == "timeout").await;
    plc.units.set_fault(1, None);
    plc.set(0, &[145]);
    watch.until(ALARM, "high_high", |it| it["event"] == "high_high").await;
    plc.set(0, &[130]);
    watch.until(ALARM, "high_high over", |it| it["event"] == "high_high" && it["state"] == "cleared").await;
    until("high again", || said(&watch.on(ALARM)).last().is_some_and(|last| last == "high active")).await;
    plc.set(0, &[100]);
    until("gone", || said(&watch.on(ALARM)).last().is_some_and(|last| last == "gone")).await;
    let all = ["high active", "high_high active", "high_high cleared", "high active", "high cleared", "gone"];
    assert_eq!(said(&watch.on(ALARM)), all);
    let none = Watch::on_all(broker).await;
    until("what is retained", || none.newest("gw/plc/level").is_some()).await;
    assert!(none.on(ALARM).is_empty(), "who comes now finds no alarm");

    let records = |cloud: &Cloud| cloud.on(ALARM).iter().map(Arrived::json).collect::<Vec<Json>>();
    cloud.until("four records", |cloud| records(cloud).len() == 4).await;
    let told: Vec<(Json, Json)> =
        records(&cloud).into_iter().map(|it| (it["event"].clone(), it["seq"].clone())).collect();
    assert_eq!(told, [("high", 1), ("high_high", 2), ("high_high", 3), ("high", 4)].map(|(e, n)| (json!(e), json!(n))));

    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(PATIENCE).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_arrives_ahead_of_the_telemetry_that_waits_longer() {
    let (plc, cloud) = (Plc::start().await, Cloud::start().await);
    cloud.refuse_connections(true);
    let keys = "alarm = { high = 12.0 }";
    let text = fast(&(config(plc.line.address()) + &tag("level", "holding:0", "uint16", keys)));
    let home = Home::new(&(text + &uplink("cloud", cloud.address)));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/plc/level", "a good value", |it| it["quality"] == "good").await;
    let before = plc.requests();
    until("a backlog", || plc.requests() > before + 50).await;
    plc.set(0, &[13]);
    watch.until(ALARM, "high", |it| it["seq"] == 1).await;
    cloud.refuse_connections(false);
    cloud.until("telemetry", |cloud| !cloud.on("gw/plc/level").is_empty()).await;
    let log = cloud.log();
    let first = log.iter().find(|it| it.topic == ALARM || it.topic == "gw/plc/level").unwrap();
    assert_eq!(first.topic, ALARM);
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_waits_for_its_delay_and_one_that_is_shorter_is_none() {
    let plc = Plc::start().await;
    plc.set(0, &[1]);
    let keys = "alarm = { low = 5.0, delay = \"700ms\" }";
    let quick = "alarm = { low = 5.0 }";
    let text = config(plc.line.address()) + &tag("level", "holding:0", "uint16", keys);
    let home = Home::new(&fast(&(text + &tag("quick", "holding:0", "uint16", quick))));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    // The same register twice: one alarm at once, the other not before its delay is over.
    let first = watch.until("ironbridge/gw/alarm/plc/quick", "low", |it| it["state"] == "active").await;
    let second = watch.until(ALARM, "low", |it| it["state"] == "active").await;
    let time = |json: &Json| json["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    assert!(time(&second) - time(&first) >= 700, "{first} {second}");
    // Back at once for both, and then too short for the slow one.
    plc.set(0, &[9]);
    until("cleared", || said(&watch.on(ALARM)).contains(&"low cleared".to_owned())).await;
    let quick_cleared =
        || said(&watch.on("ironbridge/gw/alarm/plc/quick")).iter().filter(|it| *it == "low cleared").count();
    let before = said(&watch.on(ALARM)).len();
    until("the quick one too", || quick_cleared() == 1).await;
    plc.set(0, &[1]);
    until("short", || {
        said(&watch.on("ironbridge/gw/alarm/plc/quick")).iter().filter(|it| *it == "low active").count() == 2
    })
    .await;
    plc.set(0, &[9]);
    until("over", || quick_cleared() == 2).await;
    let told = said(&watch.on(ALARM));
    let longer = told.iter().filter(|it| *it == "low active").count();
    // On a machine so slow that the short one took longer than the delay, it is an alarm.
    assert!(told.len() <= before + 1 || longer == 2, "{told:?}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_that_is_active_across_a_restart_keeps_its_number_and_is_cleared_once() {
    let (plc, cloud) = (Plc::start().await, Cloud::start().await);
    plc.set(0, &[20]);
    let keys = "alarm = { high = 12.0 }";
    let text = fast(&(config(plc.line.address()) + &tag("level", "holding:0", "uint16", keys)));
    let home = Home::new(&(text + &uplink("cloud", cloud.address)));
    let mut daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    let active = watch.until(ALARM, "high", |it| it["seq"] == 1).await;
    until("remembered", || home.path("data/alarms.json").exists()).await;
    daemon.kill();

    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/plc/level", "a good value", |it| it["quality"] == "good").await;
    assert_eq!(watch.newest(ALARM).unwrap(), active, "the same record, with its old time");
    plc.set(0, &[5]);
    until("gone", || said(&watch.on(ALARM)).last().is_some_and(|last| last == "gone")).await;
    cloud.until("both", |cloud| cloud.on(ALARM).iter().any(|it| it.json()["state"] == "cleared")).await;
    assert_eq!(daemon.stop().await, Some(0));
    let mut told: Vec<(u64, String)> = (cloud.on(ALARM).iter().map(Arrived::json))
        .map(|it| (it["seq"].as_u64().unwrap(), it["state"].as_str().unwrap().to_owned()))
        .collect();
    told.dedup(); // at least once
    assert_eq!(told, [(1, "active".to_owned()), (2, "cleared".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_alarm_no_reload_and_no_stop_waits_for_the_file_of_active_alarms() {
    let plc = Plc::start().await;
    let text = config(plc.line.address());
    let high = |name: &str, at: &str| tag(name, at, "uint16", "alarm = { high = 12.0 }");
    let text = fast(&text) + &high("level", "holding:0") + &high("flow", "holding:1");
    let home = Home::new(&text);
    std::fs::create_dir(home.path("data")).unwrap();
    // Whoever writes this waits for a reader, for ever: a disk that does not come back.
    let draft = home.path("data/alarms.draft");
    assert!(std::process::Command::new("mkfifo").arg(&draft).status().unwrap().success());
    let mut daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/plc/flow", "a good value", |it| it["quality"] == "good").await;
    plc.set(0, &[20]);
    watch.until(ALARM, "high", |it| it["event"] == "high").await;
    plc.set(1, &[20]);
    let next = "ironbridge/gw/alarm/plc/flow";
    watch.until(next, "high, while the first is being written", |it| it["event"] == "high").await;
    plc.set(1, &[5]);
    until("gone", || said(&watch.on(next)).last().is_some_and(|last| last == "gone")).await;
    home.configure(&(text + &tag("more", "holding:2", "uint16", "")));
    daemon.signal(Signal::HUP);
    watch.until("gw/plc/more", "a good value", |it| it["quality"] == "good").await;
    watch.event("config_reloaded", "once").await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(PATIENCE).await.code(), Some(0));
    watch.until("ironbridge/gw/status", "the last word", |it| it["state"] == "offline").await;
    assert!(daemon.said("the last change of active alarms is not remembered").is_some());
    assert!(!home.path("data/trial.json").exists(), "it ended in order: the trial is forgotten");
    assert!(!home.path("data/alarms.json").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_that_the_configuration_no_longer_has_is_cleared_upstream_once() {
    let (plc, cloud) = (Plc::start().await, Cloud::start().await);
    plc.set(0, &[20]);
    let text = |keys: &str| {
        let text = fast(&(config(plc.line.address()) + &tag("level", "holding:0", "uint16", keys)));
        text + &uplink("cloud", cloud.address)
    };
    let home = Home::new(&text("alarm = { high = 12.0 }"));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until(ALARM, "high", |it| it["seq"] == 1).await;
    assert_eq!(daemon.stop().await, Some(0));
    home.configure(&text(""));
    for _ in 0..2 {
        let daemon = home.run();
        let watch = Watch::on_all(daemon.mqtt().await).await;
        watch.until("gw/plc/level", "a good value", |it| it["quality"] == "good").await;
        assert!(watch.on(ALARM).is_empty(), "nothing is active");
        cloud.until("cleared", |cloud| cloud.on(ALARM).iter().any(|it| it.json()["state"] == "cleared")).await;
        assert_eq!(daemon.stop().await, Some(0));
    }
    let mut told: Vec<Json> = cloud.on(ALARM).iter().map(|it| it.json()["seq"].clone()).collect();
    told.dedup(); // at least once
    assert_eq!(told, [json!(1), json!(2)]);
    assert_eq!(cloud.on(ALARM).last().unwrap().json()["cause"], "config");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_swinging_door_local_clients_see_every_value_and_the_cloud_the_corners() {
    let (plc, cloud) = (Plc::start().await, Cloud::start().await);
    let keys = "compression = { swing = 1, max_gap = \"1h\" }";
    let text = fast(&(config(plc.line.address()) + &tag("level", "holding:0", "uint16", keys)));
    let home = Home::new(&(text + &uplink("cloud", cloud.address)));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until("gw/plc/level", "a good value", |it| it["value"] == 0).await;
    let requests = plc.requests();
    until("many polls", || plc.requests() > requests + 20).await;
    plc.set(0, &[50]);
    let seen = watch.until("gw/plc/level", "the step", |it| it["value"] == 50).await;
    assert_eq!(seen["quality"], "good");
    let good = |cloud: &Cloud| {
        let all = cloud.on("gw/plc/level").into_iter().map(|it| it.json());
        all.filter(|it| it["quality"] == "good").collect::<Vec<Json>>()
    };
    cloud.until("the corner", |cloud| good(cloud).len() >= 2).await;
    assert_eq!(daemon.stop().await, Some(0));
    let kept = good(&cloud);
    let values: Vec<&Json> = kept.iter().map(|it| &it["value"]).collect();
    assert!((3..=4).contains(&values.len()), "{kept:?}");
    assert_eq!((values[0], values[1], values[values.len() - 1]), (&json!(0), &json!(0), &json!(50)), "{kept:?}");
    let times: Vec<&str> = kept.iter().map(|it| it["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted() && times[1] < seen["time"].as_str().unwrap(), "each with its own time: {times:?}");
    assert!(watch.on("gw/plc/level").len() > 10, "local clients saw {}", watch.on("gw/plc/level").len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn derived_tags_follow_their_inputs_across_devices_with_quality_and_alarms_of_their_own() {
    let (plc, cloud) = (Plc::start().await, Cloud::start().await);
    let mut far = Image::new();
    far.set_words(Table::Holding, 0, &[0]);
    plc.units.insert(2, far);
    plc.set(0, &[3]);
    plc.set(10, &[0xFFFF; 4]);
    let mut text = config(plc.line.address()) + &tag("flow-1", "holding:0", "uint16", "max = 100");
    text += &tag("count", "holding:10", "uint64", "");
    text += "[[device]]\nname = \"far\"\nbus = \"line\"\nunit_id = 2\npoll = \"100ms\"\n";
    text += &tag("flow", "holding:0", "uint16", "");
    text += "[[device]]\nname = \"station\"\n[[device.tag]]\nname = \"total\"\nunit = \"m3/h\"\n\
             expression = \"{plc/flow-1} + {far/flow} * 2\"\nalarm = { high = 50 }\n\
             [[device.tag]]\nname = \"busy\"\ntype = \"bool\"\nexpression = \"{total} > 10 and good({plc/flow-1})\"\n\
             [[device.tag]]\nname = \"left\"\ntype = \"uint64\"\nexpression = \"{plc/count} - 1\"\n\
             [[device.tag]]\nname = \"ratio\"\nexpression = \"{plc/flow-1} / {far/flow}\"\npoll = \"50ms\"\n";
    let home = Home::new(&(fast(&text) + &uplink("cloud", cloud.address)));
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    watch.until("gw/station/total", "three", |it| it["value"] == 3.0 && it["quality"] == "good").await;
    let standing = watch.until("ironbridge/gw/device/station", "has a topic", |it| it["state"] == "answering").await;
    assert_eq!(standing["requests"], 0, "nobody asks it anything");
    let left = watch.until("gw/station/left", "exact", |it| it["quality"] == "good").await;
    assert_eq!(left["value"], u64::MAX - 1);
    watch.until("gw/station/busy", "not busy", |it| it["value"] == false).await;
    watch.until("gw/station/ratio", "no number", |it| it["cause"] == "nan").await;
    plc.set(0, &[60]);
    watch.until("gw/station/busy", "busy", |it| it["value"] == true).await;
    let alarm = watch.until("ironbridge/gw/alarm/station/total", "high", |it| it["event"] == "high").await;
    assert_eq!((&alarm["value"], &alarm["unit"]), (&json!(60.0), &json!("m3/h")));
    plc.set(0, &[120]);
    watch.until("gw/station/total", "doubtful", |it| it["quality"] == "uncertain" && it["cause"] == "range").await;
    plc.units.set_fault(2, Some(Fault::Dead));
    let bad = watch.until("gw/station/total", "bad", |it| it["cause"] == "timeout").await;
    assert_eq!((&bad["value"], &bad["quality"]), (&Json::Null, &json!("bad")));
    let own = watch.newest("gw/station/left").unwrap();
    assert_eq!(own["quality"], "good", "what does not need the dead device");
    plc.units.set_fault(2, None);
    plc.set(0, &[4]);
    watch.until("gw/station/total", "good again", |it| it["value"] == 4.0 && it["quality"] == "good").await;
    cloud.until("stored", |cloud| cloud.on("gw/station/total").iter().any(|it| it.json()["value"] == 4.0)).await;
    // Nobody writes a derived tag.
    let mut client = gateway::mqtt::Client4::connect(broker, "hmi").await;
    client.publish("gw/station/total/set", QoS::AtLeastOnce, "7").await;
    let seen = watch.until("gw/station/total/set/result", "refused", |it| it["outcome"] == "refused").await;
    assert_eq!(seen["reason"], "access");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_400_buses_that_are_down_at_once_and_removed_at_once_none_stays_active() {
    let plc = Plc::start().await;
    let text = config(plc.line.address()) + &tag("level", "holding:0", "uint16", "");
    let names: Vec<String> = (0..400).map(|n| format!("b{n}")).collect();
    let bus = |name: &String| {
        format!(
            "[[bus]]\nname = \"{name}\"\ntype = \"modbus-tcp\"\nendpoint = \"127.0.0.1:1\"\n\
             [[device]]\nname = \"{name}\"\nbus = \"{name}\"\nunit_id = 1\npoll = \"1s\"\n"
        ) + &tag("v", "holding:0", "uint16", "")
    };
    let home = Home::new(&(text.clone() + &names.iter().map(bus).collect::<String>()));
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    for name in &names {
        watch.until(&format!("gw/{name}/v"), "nobody is there", |it| it["cause"] == "transport").await;
    }
    home.configure(&text);
    daemon.signal(Signal::HUP);
    let stand = || {
        let events = watch.on("ironbridge/gw/event").into_iter().map(|seen| seen.json());
        let told = events.filter(|it| it["event"] == "bus_down");
        told.map(|it| (it["subject"].to_string(), it["state"].to_string())).collect::<BTreeMap<_, _>>()
    };
    until("all are over", || stand().len() == 400 && stand().values().all(|state| state == "\"cleared\"")).await;
    assert_eq!(daemon.stop().await, Some(0));
}
