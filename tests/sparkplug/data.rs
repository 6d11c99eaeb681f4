//! Data: one count, aliases, times, deaths of devices.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::time::Duration;

use crate::births::{SECOND, two_devices, uplink};
use crate::gateway::{Home, Plc, config, tag};
use crate::host::Host;
use crate::law::lawful;
use crate::payload::{INT32, Metric, Value};

// covers: tck-id-topics-ddata-topic, tck-id-topics-ddata-mqtt, tck-id-topics-ddata-seq-num, tck-id-topics-ddata-timestamp
// covers: tck-id-payloads-ddata-timestamp, tck-id-payloads-ddata-seq, tck-id-payloads-ddata-seq-inc
// covers: tck-id-payloads-ddata-order, tck-id-payloads-ddata-qos, tck-id-payloads-ddata-retain
// covers: tck-id-payloads-sequence-num-incrementing, tck-id-payloads-alias-data-cmd-requirement
// covers: tck-id-payloads-metric-datatype-not-req, tck-id-operational-behavior-data-publish-dbirth-order
#[tokio::test]
async fn data_are_one_count_over_all_devices_that_goes_on_from_255_to_0() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let mut fast = config(plc.line.address()) + &tag("level", "holding:0", "int16", "");
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    for name in names {
        let device = SECOND.replace("meter", name).replace("200ms", "50ms");
        fast += &(device + &tag("energy", "holding:2", "uint32", ""));
    }
    let home = Home::new(&(fast + &uplink(&host, "")));
    let daemon = home.run();
    host.until("the count begins again", |host| host.of("DDATA").iter().any(|it| it.payload.seq == Some(0))).await;
    let values = lawful(&host, &names);
    let told = &values[&("plc".into(), "level".into())];
    let birth = told.iter().find(|told| told.in_birth).unwrap().unix_ms;
    assert!(told.iter().all(|told| told.in_birth || told.historical == (told.unix_ms <= birth)), "{told:?}");
    drop(daemon);
}

// covers: tck-id-principles-rbe-recommended, tck-id-topics-ddata-payload
// covers: tck-id-operational-behavior-data-publish-dbirth-change
#[tokio::test]
async fn a_tag_with_a_deadband_is_silent_until_it_changes() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let tags = tag("still", "holding:0", "int16", "deadband = 2.0") + &tag("busy", "holding:1", "int16", "");
    let home = Home::new(&(config(plc.line.address()) + &tags + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 5).await;
    let told = |host: &Host| lawful(host, &["plc"])[&("plc".into(), "still".into())].clone();
    let data = |host: &Host| told(host).iter().filter(|told| !told.in_birth).count();
    let before = data(&host);
    assert!(before <= 2, "once, or not at all after the birth");
    let seen = host.of("DDATA").len();
    host.count("DDATA", seen + 5).await;
    assert_eq!(data(&host), before);
    plc.set(0, &[40]);
    host.until("the change", |host| data(host) > before).await;
    drop(daemon);
}

// covers: tck-id-operational-behavior-device-ddeath, tck-id-topics-ddeath-topic, tck-id-topics-ddeath-mqtt
// covers: tck-id-topics-ddeath-seq-num, tck-id-payloads-ddeath-timestamp, tck-id-payloads-ddeath-seq
// covers: tck-id-payloads-ddeath-seq-inc, tck-id-payloads-ddeath-seq-number
#[tokio::test]
async fn a_device_that_falls_silent_dies_and_is_born_again_when_it_is_back() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    let (address, units) = (plc.line.address(), plc.units.clone());
    drop(plc);
    host.count("DDEATH", 2).await;
    let plc = Plc::at(address, units).await;
    let back = |host: &Host| {
        let messages = host.messages();
        let death = messages.iter().rposition(|it| it.kind == "DDEATH").unwrap_or(0);
        messages[death..].iter().any(|it| it.kind == "DBIRTH")
    };
    host.until("births after the deaths", back).await;
    host.until("data of both", |host| host.messages().iter().rev().take(4).any(|it| it.kind == "DDATA")).await;
    lawful(&host, &["meter", "plc"]);
    drop((daemon, plc));
}

// covers: tck-id-topics-ndata-topic, tck-id-topics-ndata-mqtt, tck-id-topics-ndata-seq-num, tck-id-topics-ndata-timestamp
// covers: tck-id-topics-ndata-payload, tck-id-operational-behavior-data-publish-nbirth-change
// covers: tck-id-payloads-ndata-timestamp, tck-id-payloads-ndata-seq, tck-id-payloads-ndata-seq-inc
// covers: tck-id-payloads-ndata-order, tck-id-payloads-ndata-qos, tck-id-payloads-ndata-retain
#[tokio::test]
async fn alarms_are_data_of_the_node_each_said_once_and_nothing_else_with_it() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let tags = tag("level", "holding:0", "int16", "alarm = { high = 100.0 }");
    let home = Home::new(&(config(plc.line.address()) + &tags + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    let alarms = |host: &Host| {
        let values = lawful(host, &["plc"]);
        let told = values.get(&(String::new(), "Node Info/Alarm".into())).cloned().unwrap_or_default();
        let said = told.into_iter().filter(|told| !told.in_birth).map(|told| match told.value {
            Some(Value::Text(json)) => serde_json::from_str::<serde_json::Value>(&json).unwrap(),
            other => panic!("an alarm is JSON: {other:?}"),
        });
        said.collect::<Vec<_>>()
    };
    for (level, state) in [(150, "active"), (50, "cleared"), (160, "active")] {
        let before = alarms(&host).len();
        plc.set(0, &[level]);
        host.until("the alarm", |host| alarms(host).len() > before).await;
        let said = alarms(&host);
        assert_eq!(said.len(), before + 1, "said once: {said:?}");
        let last = said.last().unwrap();
        assert_eq!((last["event"].as_str(), last["state"].as_str()), (Some("high"), Some(state)), "{last}");
        assert!(last["topic"].as_str().unwrap().ends_with("/alarm/plc/level"), "{last}");
    }
    let births = host.of("NBIRTH");
    let birth = births[0].payload.named("Node Info/Alarm").unwrap();
    assert_eq!(birth.is_null, Some(true), "there was none yet");
    let data = host.of("NDATA");
    let said: Vec<_> = data.iter().flat_map(|it| &it.payload.metrics).filter(|it| it.alias == birth.alias).collect();
    assert_eq!(said.len(), 3);
    assert!(said.windows(2).all(|two| two[0].timestamp < two[1].timestamp), "each has its own time");
    for message in &data {
        let (qos, retain, payload) = (message.qos, message.retain, &message.payload);
        assert_eq!((qos, retain), (rumqttc::QoS::AtMostOnce, false));
        assert!(payload.seq.is_some() && payload.timestamp >= births[0].payload.timestamp, "{payload:?}");
        assert!(payload.metrics.iter().all(|it| it.timestamp <= payload.timestamp), "sent after it happened");
        assert!(payload.metrics.iter().all(|it| it.alias.is_some_and(|alias| alias >> 32 == 1)), "{payload:?}");
    }
    drop(daemon);
}

// covers: tck-id-operational-behavior-data-publish-nbirth-values
#[tokio::test]
async fn an_alarm_that_is_active_is_still_there_after_a_rebirth_and_in_the_next_session() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let tags = tag("level", "holding:0", "int16", "alarm = { high = 100.0 }");
    let home = Home::new(&(config(plc.line.address()) + &tags + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    let alias = host.of("NBIRTH")[0].payload.named("Node Info/Alarm").unwrap().alias;
    let said = |host: &Host| {
        let mut data = host.of("NDATA").into_iter().flat_map(|it| it.payload.metrics);
        data.rfind(|it| it.alias == alias)
    };
    plc.set(0, &[150]);
    host.until("the alarm", |host| said(host).is_some()).await;
    let alarm = said(&host).unwrap();
    host.command(None, vec![crate::commands::rebirth()]);
    host.count("NBIRTH", 2).await;
    host.cut();
    host.count("NBIRTH", 3).await;
    for birth in &host.of("NBIRTH")[1..] {
        let told = birth.payload.named("Node Info/Alarm").unwrap();
        assert_eq!((&told.value, told.timestamp), (&alarm.value, alarm.timestamp), "as it was said");
    }
    lawful(&host, &["plc"]);
    drop(daemon);
}

// covers: tck-id-payloads-propertyset-quality-value-type, tck-id-payloads-propertyset-quality-value-value
#[tokio::test]
async fn a_value_in_doubt_says_so_a_good_one_says_so_once_and_none_is_null_and_bad() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let tags = tag("level", "holding:0", "int16", "max = 100.0");
    let home = Home::new(&(config(plc.line.address()) + &tags + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    let level = |host: &Host| {
        let data = host.of("DDATA").into_iter().flat_map(|it| it.payload.metrics);
        data.filter(|it| it.is_historical != Some(true)).collect::<Vec<_>>()
    };
    let quality = |metric: &Metric| metric.property("Quality").map(|it| (it.kind, it.int));
    let is = |metric: &Metric, value| metric.value == Some(Value::Int(value));
    plc.set(0, &[150]);
    host.until("twice out of range", |host| level(host).iter().filter(|it| is(it, 150)).count() >= 2).await;
    plc.set(0, &[50]);
    host.until("three times good", |host| level(host).iter().filter(|it| is(it, 50)).count() >= 3).await;
    let (address, units) = (plc.line.address(), plc.units.clone());
    drop(plc);
    host.count("DDEATH", 1).await;
    let told = level(&host);
    assert!(told.iter().filter(|it| is(it, 150)).all(|it| quality(it) == Some((Some(INT32), Some(500)))), "{told:?}");
    let good: Vec<_> = told.iter().filter(|it| is(it, 50)).map(quality).collect();
    assert_eq!(good[..3], [Some((Some(INT32), Some(192))), None, None], "once, when it is good again");
    let last = told.last().unwrap();
    assert_eq!((last.is_null, &last.value, quality(last)), (Some(true), &None, Some((Some(INT32), Some(0)))));
    let plc = Plc::at(address, units).await;
    host.until("it is back", |host| {
        host.of("DBIRTH").last().is_some_and(|it| {
            let level = it.payload.named("level").unwrap();
            is(level, 50) && quality(level) == Some((Some(INT32), Some(192)))
        }) || level(host).last().is_some_and(|it| is(it, 50))
    })
    .await;
    lawful(&host, &["plc"]);
    drop((daemon, plc));
}

/// Beside a host that is as fast as it can be, for a while: no value that the local broker had is missing.
#[tokio::test]
async fn every_value_of_the_local_broker_is_at_the_host_with_its_own_time() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    let truth = crate::outage::Truth::of(&daemon).await;
    let counting = crate::outage::count_up(&plc);
    host.count("DDATA", 10).await;
    tokio::time::sleep(Duration::from_millis(500)).await; // some polls
    counting.abort();
    truth.is_at(&host, &["meter", "plc"]).await;
}
