//! Clients' messages on their way up, numbered or over a bridge: what is left of their time, and RETAIN.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::owed;
use crate::rig;

use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::{MqttVersion, Notifications, Use};
use ironbridge::flow::clock::{Clock, FakeTime, Fix};
use ironbridge::model::message::{ClientMessage, Kept, Properties};
use ironbridge::model::time::{Boot, Stamp};
use rumqttc::v5::mqttbytes::v5::PublishProperties;

use cloud::{Arrived, Cloud};
use owed::{OwedList, letter};
use rig::Rig;

const BRIDGE: Use = Use::Bridge(Notifications::None);
const BOTH: [MqttVersion; 2] = [MqttVersion::V311, MqttVersion::V5];

fn message(expiry_s: Option<u32>) -> ClientMessage {
    ClientMessage { payload: b"x".as_slice().into(), kept: Kept::No, expiry_s, properties: Properties::default() }
}

pub fn at(boot: u32, seconds: i64) -> Stamp {
    Stamp { boot: Boot(boot), micros: seconds * 1_000_000 }
}

/// 100 s into the second boot; the first one began an hour before it.
pub fn clock() -> Clock {
    let time = Arc::new(FakeTime::default());
    time.advance(Duration::from_secs(100));
    let clock = Clock::new(time, Boot(2), 0);
    clock.learn(Fix { at: at(1, 0), unix_ms: rig::NOW_MS - 3_600_000 });
    clock.learn(Fix { at: at(2, 0), unix_ms: rig::NOW_MS });
    clock
}

fn start(cloud: &Cloud, owed: &OwedList, usage: Use, version: MqttVersion) -> Rig {
    Rig::start_with(cloud, owed, |parts| {
        (parts.plan.usage, parts.plan.mqtt_version, parts.clock) = (usage, version, clock());
    })
}

/// Two that are over, one of them since before the restart of the machine, and three that are not.
fn five() -> OwedList {
    let owed = OwedList::default();
    let letters = [
        ("m/over-before", at(1, 0), Some(600)),
        ("m/lives-on", at(1, 0), Some(7200)),
        ("m/over", at(2, 0), Some(100)),
        ("m/lives", at(2, 0), Some(101)),
        ("m/for-ever", at(1, 0), None),
    ];
    owed.push((1..).zip(letters).map(|(seq, (topic, at, expiry_s))| letter(topic, seq, at, message(expiry_s))));
    owed
}

/// What arrived of clients' messages: topic, and what is left of its time.
fn arrived(cloud: &Cloud) -> Vec<(String, Option<u32>)> {
    let left = |properties: Option<PublishProperties>| properties.and_then(|told| told.message_expiry_interval);
    let of_clients = |arrived: &Arrived| arrived.topic.starts_with("up/m/");
    let all = cloud.log().into_iter().filter(of_clients);
    all.map(|arrived| (arrived.topic, left(arrived.properties))).collect()
}

fn named(arrived: &[(&str, Option<u32>)]) -> Vec<(String, Option<u32>)> {
    arrived.iter().map(|(name, left)| (format!("up/m/{name}"), *left)).collect()
}

const LIVING: [(&str, Option<u32>); 3] = [("lives-on", Some(3500)), ("lives", Some(1)), ("for-ever", None)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_does_not_go_over_a_bridge_and_what_has_not_says_how_long_it_has() {
    for version in BOTH {
        let (cloud, owed) = (Cloud::start().await, five());
        let rig = start(&cloud, &owed, BRIDGE, version);
        cloud.until("all are settled", |_| owed.acknowledged() == 5).await;
        let without = |(name, _): &(&'static str, Option<u32>)| (*name, None);
        let living = if version == MqttVersion::V5 { LIVING.to_vec() } else { LIVING.iter().map(without).collect() };
        assert_eq!(arrived(&cloud), named(&living), "{version:?}");
        assert_eq!((rig.stats.expired.get(), owed.wrong_acks(), owed.refused()), (2, 0, Vec::new()));
        owed.end();
        rig.finished().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expired_before_it_could_be_retained_there_takes_away_what_it_was_to_replace() {
    let properties = Properties { content_type: Some("text/plain".into()), ..Properties::default() };
    let kept = |expiry_s| ClientMessage { kept: Kept::Yes, properties: properties.clone(), ..message(expiry_s) };
    for (version, keeps) in [(MqttVersion::V311, 1), (MqttVersion::V5, 1), (MqttVersion::V5, 0)] {
        let (cloud, owed) = (Cloud::start().await, OwedList::default());
        cloud.agrees(|agree| agree.retain_available = Some(keeps));
        owed.push([
            letter("m/1", 1, at(2, 0), kept(None)),
            letter("m/1", 2, at(2, 0), kept(Some(60))),
            letter("m/2", 3, at(2, 0), message(Some(60))),
        ]);
        let rig = start(&cloud, &owed, BRIDGE, version);
        cloud.until("all are settled", |_| owed.acknowledged() == 3).await;
        let seen: Vec<_> = cloud.on("up/m/1").into_iter().map(|seen| (seen.payload, seen.retain)).collect();
        let all = [(b"x".to_vec(), keeps == 1), (Vec::new(), true)];
        assert_eq!(seen, all[..if keeps == 1 { 2 } else { 1 }], "{version:?}");
        let beside = cloud.on("up/m/1").last().and_then(|last| last.properties.clone());
        let says_something = beside.is_some_and(|beside| beside.message_expiry_interval.is_some());
        assert_eq!((says_something, cloud.on("up/m/2").len(), rig.stats.expired.get()), (false, 0, 2));
        owed.end();
        rig.finished().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_that_have_expired_hold_nothing_up() {
    let (cloud, owed) = (Cloud::start().await, OwedList::default());
    owed.push((1..=5000).map(|seq| letter("m/over", seq, at(2, 0), message(Some(9)))));
    owed.push([letter("m/lives", 5001, at(2, 0), message(None))]);
    let rig = start(&cloud, &owed, BRIDGE, MqttVersion::V5);
    cloud.until("the last one", |_| owed.acknowledged() == 5001).await;
    assert_eq!((arrived(&cloud), rig.stats.expired.get()), (named(&[("lives", None)]), 5000));
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_numbered_message_that_has_expired_goes_with_a_second_left_where_its_number_goes_with_it() {
    let (cloud, owed) = (Cloud::start().await, five());
    let rig = start(&cloud, &owed, Use::Letters, MqttVersion::V5);
    cloud.until("all are settled", |_| owed.acknowledged() == 5).await;
    let all = [("over-before", Some(1)), LIVING[0], ("over", Some(1)), LIVING[1], LIVING[2]];
    assert_eq!((arrived(&cloud), rig.stats.expired.get()), (named(&all), 0));
    let seq = |arrived: &Arrived| {
        let user = arrived.properties.as_ref().map(|told| told.user_properties.clone()).unwrap_or_default();
        user.into_iter().find_map(|(name, value)| (name == "seq").then_some(value))
    };
    let seqs: Vec<_> = cloud.log().iter().filter_map(seq).collect();
    assert_eq!(seqs, ["1", "2", "3", "4", "5"], "no number is missing");
    owed.end();
    rig.finished().await;
    let (cloud, owed) = (Cloud::start().await, five());
    let rig = start(&cloud, &owed, Use::Letters, MqttVersion::V311);
    cloud.until("all are settled", |_| owed.acknowledged() == 5).await;
    let living = LIVING.map(|(name, _)| (name, None));
    assert_eq!((arrived(&cloud), rig.stats.expired.get()), (named(&living), 2), "3.1.1 carries no numbers");
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_sends_retain_only_to_a_broker_that_keeps_retained_messages() {
    for keeps in [1, 0] {
        let (cloud, owed) = (Cloud::start().await, OwedList::default());
        cloud.agrees(|agree| agree.retain_available = Some(keeps));
        owed.push([letter("m/kept", 1, at(2, 0), ClientMessage { kept: Kept::Yes, ..message(None) })]);
        let rig = start(&cloud, &owed, BRIDGE, MqttVersion::V5);
        cloud.until("it is there", |_| owed.acknowledged() == 1).await;
        assert_eq!(cloud.on("up/m/kept").iter().map(|arrived| arrived.retain).collect::<Vec<_>>(), [keeps == 1]);
        owed.end();
        rig.finished().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridges_state_that_the_other_broker_refuses_is_told_once_and_goes_again_until_it_is_taken() {
    const STATE: &str = "$SYS/broker/connection/gw/state";
    let (cloud, owed) = (Cloud::start().await, OwedList::default());
    cloud.deny(STATE, 0x87);
    let mut rig = Rig::start_with(&cloud, &owed, |parts| {
        parts.plan.usage = Use::Bridge(Notifications::Told);
        parts.plan.mqtt_version = MqttVersion::V5;
        parts.timing.refused_again = Duration::from_millis(50);
    });
    cloud.until("refused and tried again", |cloud| cloud.denied() >= 3).await;
    assert_eq!(rig.told(), ["uplink_not_taken once"]);
    cloud.deny(STATE, 0);
    cloud.until("a state", |cloud| !cloud.on(STATE).is_empty()).await;
    assert_eq!(cloud.on(STATE)[0].payload, b"1");
    owed.end();
    rig.finished().await;
    assert_eq!(cloud.connects().len(), 1, "all in one session");
}
