//! Retained values: any number at once, never stale, clients' own across a restart; and readers that are too slow.

use crate::sessions::More as _;
use crate::support;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ironbridge::config::plan::BrokerLimits;
use ironbridge::flow::clock::{Clock, FakeTime, Fix};
use ironbridge::model::sparkplug::Node;
use ironbridge::model::tag::TagIx;
use ironbridge::model::time::{Boot, Stamp};
use rumqttc::QoS;
use rumqttc::v5::mqttbytes::v5;
use support::*;

const MANY: usize = 10_000;
/// ms since 1970.
const NOON: i64 = 1_800_000_000_000;

fn values(round: u32) -> Vec<(Arc<str>, Bytes)> {
    (0..MANY).map(|n| (tag(n), Bytes::from(format!("{{\"value\":{round},\"quality\":\"good\"}}")))).collect()
}

async fn plant() -> Running {
    let broker = Running::with(Setup { tags: MANY, ..Setup::default() }).await;
    broker.publisher.retain_many(values(1));
    broker
}

#[tokio::test]
async fn ten_thousand_retained_tags_come_on_one_subscribe_at_every_qos() {
    let broker = plant().await;
    let mut old = broker.v4("old").await;
    old.subscribe("plant/#", QoS::AtMostOnce).await;
    let mut topics = HashSet::new();
    for _ in 0..MANY {
        let seen = old.message().await;
        assert!(seen.retain);
        assert!(topics.insert(seen.topic));
    }
    let mut new = Client5::connect(broker.address, "new", |wishes| wishes.properties.receive_maximum = Some(20)).await;
    new.subscribe(filter("#", 1), None).await;
    topics.clear();
    while topics.len() < MANY {
        let seen = new.message().await;
        new.send(v5::Packet::PubAck(v5::PubAck::new(seen.pkid, None))).await;
        let topic = String::from_utf8(seen.topic.to_vec()).expect("text");
        assert!(topic.starts_with("$SYS") || topics.insert(topic));
    }
    new.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_reader_that_reads_nothing_slows_nobody_and_then_sees_the_newest_of_each_tag() {
    let broker = plant().await;
    let mut slow = broker.v4("slow").await;
    slow.subscribe("plant/#", QoS::AtMostOnce).await;
    let before = worked();
    for round in 2..=30 {
        broker.publisher.retain_many(values(round));
        tokio::task::yield_now().await;
    }
    let took = worked().saturating_sub(before);
    assert!(took < Duration::from_secs(15), "the publisher does not work for it: {took:?}");
    let stats = broker.publisher.stats();
    assert!(stats.conflated.get() > 0 && stats.dropped_slow.get() == 0);
    let mut newest: HashMap<String, u32> = HashMap::new();
    while newest.len() < MANY || newest.values().any(|round| *round < 30) {
        let seen = slow.message().await;
        let round = std::str::from_utf8(&seen.payload[9..]).expect("text").split(',').next().expect("a number");
        let round = round.parse().expect("a number");
        let older = newest.insert(seen.topic, round);
        assert!(older < Some(round), "never an older value after a newer one: {older:?}, then {round}");
    }
    slow.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_slow_reader_of_other_messages_is_told_and_nobody_else_notices() {
    let broker = Running::start().await;
    let (mut slow, mut good) = (broker.v5("slow").await, broker.v5("good").await);
    slow.subscribe(filter("m", 0), None).await;
    good.subscribe(filter("n", 0), None).await;
    let stats = broker.publisher.stats();
    let payload = Bytes::from(vec![b'x'; 10_000]);
    // As much as the system's own buffers take, and then some.
    until("the slow reader is given up", || {
        for _ in 0..100 {
            broker.publisher.publish("m".into(), payload.clone());
        }
        stats.dropped_slow.get() > 0
    })
    .await;
    broker.publisher.publish("n".into(), "x".into());
    assert_eq!(good.message().await.topic, "n");
    assert_eq!(slow.disconnected().await, v5::DisconnectReasonCode::QuotaExceeded);
    broker.stop().await;
}

#[tokio::test]
async fn clients_retained_messages_outlive_a_restart_and_the_gateways_do_not() {
    let broker = plant().await;
    let mut client = broker.v5("c").await;
    for (topic, payload) in [("keep/é", "1"), ("keep/gone", "2"), ("keep/gone", "")] {
        let mut publish = message(topic, 1, payload);
        publish.retain = true;
        let user_properties = vec![("k".to_owned(), "v".to_owned())];
        let message_expiry_interval = Some(1000);
        publish.properties =
            Some(v5::PublishProperties { user_properties, message_expiry_interval, ..Default::default() });
        assert_eq!(client.publish(publish).await, v5::PubAckReason::NoMatchingSubscribers);
    }
    let dir = broker.stop().await;
    let broker = Running::at(Setup::default(), dir).await;
    let mut client = broker.v5("c").await;
    client.subscribe(filter("+/#", 1), None).await;
    let seen = client.message().await;
    assert_eq!((&seen.topic[..], &seen.payload[..], seen.retain), ("keep/é".as_bytes(), &b"1"[..], true));
    let properties = seen.properties.expect("properties");
    assert_eq!(properties.user_properties, [("k".to_owned(), "v".to_owned())]);
    assert_eq!(properties.message_expiry_interval, Some(1000), "the clock of this test stands still");
    client.ping().await;
    broker.stop().await;
}

/// Kept messages that live for an hour and for two, by a clock with or without a fix; restarted an hour and a half later.
async fn kept_over_a_restart_of_the_machine(began: Option<Fix>) -> (Running, Clock) {
    let clock = Clock::new(Arc::new(FakeTime::default()), Boot(1), NOON);
    if let Some(fix) = began {
        clock.learn(fix);
    }
    let broker = Running::with(Setup { clock, ..Setup::default() }).await;
    let mut client = broker.v5("c").await;
    for (topic, seconds) in [("keep/one", 3600), ("keep/two", 7200)] {
        let mut publish = message(topic, 1, "x");
        publish.retain = true;
        let message_expiry_interval = Some(seconds);
        publish.properties = Some(v5::PublishProperties { message_expiry_interval, ..Default::default() });
        client.publish(publish).await;
    }
    let dir = broker.stop().await;
    let clock = Clock::new(Arc::new(FakeTime::default()), Boot(2), NOON);
    clock.learn(Fix { at: Stamp { boot: Boot(1), micros: 0 }, unix_ms: NOON });
    let broker = Running::at(Setup { clock: clock.clone(), ..Setup::default() }, dir).await;
    (broker, clock)
}

#[tokio::test]
async fn how_long_a_kept_message_lives_is_judged_again_when_somebody_vouches_for_the_clock() {
    let fix = Fix { at: Stamp { boot: Boot(1), micros: 0 }, unix_ms: NOON };
    for began in [Some(fix), None] {
        let (broker, clock) = kept_over_a_restart_of_the_machine(began).await;
        assert_eq!(kept(&broker, "keep/one").await.as_deref(), Some("x"), "nobody knows what time it is");
        clock.learn(Fix { at: clock.now(), unix_ms: NOON + 5_400_000 });
        until("one of them is over", || broker.publisher.stats().dropped_expired.get() == 1).await;
        assert_eq!(kept(&broker, "keep/one").await, None);
        let mut late = broker.v5("late").await;
        late.subscribe(filter("keep/#", 0), None).await;
        let seen = late.message().await;
        let left = seen.properties.and_then(|told| told.message_expiry_interval).expect("an interval");
        assert!(seen.topic == "keep/two" && (1700..=1800).contains(&left), "{left}");
        late.ping().await;
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_retained_publish_that_cannot_be_kept_is_not_acknowledged_as_if_it_were() {
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    std::fs::create_dir(dir.path().join("broker.db")).expect("something in the way");
    let mut broker = Running::at(Setup::default(), dir).await;
    let (mut new, mut old) = (broker.v5("n").await, broker.v4("o").await);
    let mut publish = message("keep", 1, "x");
    publish.retain = true;
    assert_eq!(new.publish(publish).await, v5::PubAckReason::UnspecifiedError);
    let mut publish = rumqttc::mqttbytes::v4::Publish::new("keep", QoS::AtLeastOnce, "x");
    (publish.pkid, publish.retain) = (4, true);
    old.send(rumqttc::mqttbytes::v4::Packet::Publish(publish)).await;
    assert!(old.try_next().await.is_none());
    let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.expect("in time").expect("a notice");
    assert_eq!(told.event, "broker_retained_not_kept");
    broker.stop().await;
}

/// What a new subscriber to this topic is sent, if anything.
async fn kept(broker: &Running, topic: &str) -> Option<String> {
    let mut late = broker.v5("late").await;
    late.subscribe(filter(topic, 0), None).await;
    late.send(v5::Packet::PingReq(v5::PingReq)).await;
    let kept = match late.next().await {
        v5::Packet::Publish(publish) => Some(String::from_utf8(publish.payload.to_vec()).expect("text")),
        _ => None,
    };
    late.send(v5::Packet::Disconnect(v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection))).await;
    kept
}

#[tokio::test]
async fn where_there_is_no_more_room_for_retained_messages_nobody_is_silenced_and_none_that_is_old_stays() {
    let broker = Running::start().await;
    let retained = |topic: &str, qos, payload: &str| {
        let mut publish = message(topic, qos, payload);
        publish.retain = true;
        publish
    };
    let mut owner = broker.v5("owner").await;
    for topic in ["m/status", "m/level"] {
        assert_eq!(owner.publish(retained(topic, 1, "on")).await, v5::PubAckReason::NoMatchingSubscribers);
    }
    let mut greedy = broker.v5("greedy").await;
    let large = "x".repeat(200_000);
    let mut place = 0;
    while greedy.publish(retained(&format!("g/{place}"), 1, &large)).await != v5::PubAckReason::QuotaExceeded {
        place += 1;
        assert!(place < 1000, "there is a bound");
    }
    while greedy.publish(retained(&format!("g/{place}"), 1, "12345678")).await != v5::PubAckReason::QuotaExceeded {
        place += 1;
    }
    let (offline, level) = ("offline ".repeat(100), "12.5 ".repeat(100));
    let mut watch = broker.v5("watch").await;
    watch.subscribe(filter("m/#", 0), None).await;
    for _ in 0..2 {
        assert_eq!(watch.message().await.payload, "on");
    }
    let last_will = v5::LastWill::new("m/status", &*offline, rumqttc::v5::mqttbytes::QoS::AtLeastOnce, true, None);
    let mortal = Client5::connect(broker.address, "mortal", |wishes| wishes.will = Some(last_will)).await;
    drop(mortal);
    assert_eq!(watch.message().await.payload, &*offline, "those who are there hear it");
    assert_eq!(kept(&broker, "m/status").await, None, "and none is told that it is on");
    // At QoS 0 nobody can be told either.
    owner.send(v5::Packet::Publish(retained("m/level", 0, &level))).await;
    assert_eq!(watch.message().await.payload, &*level);
    assert_eq!(kept(&broker, "m/level").await, None);
    // Whoever waits for an acknowledgement is told, and nothing has happened.
    assert_eq!(owner.publish(retained("m/other", 1, &large)).await, v5::PubAckReason::QuotaExceeded);
    watch.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn what_a_client_has_left_on_a_topic_that_becomes_the_gateways_is_gone_for_good() {
    for published in [false, true] {
        let broker = Running::start().await;
        let mut client = broker.v5("c").await;
        for topic in ["line/speed", "spBv1.0/acme/NBIRTH/gw", "line/other"] {
            assert!(client.give(v5::Publish { retain: true, ..message(topic, 1, "10") }).await);
        }
        broker.ownership.replace([("line/speed".into(), TagIx(0))]);
        broker.ownership.stand_for(vec![Node::new("acme", "gw").expect("good ids")]);
        if published {
            broker.publisher.retain("line/speed".into(), "11".into()); // as fast as that
        }
        broker.control.reclaim();
        assert_eq!(kept(&broker, "line/speed").await.as_deref(), published.then_some("11"));
        broker.publisher.clear("line/speed".into());
        broker.ownership.replace([]);
        broker.ownership.stand_for(Vec::new());
        // Taken, and there is nothing to be cleared.
        assert!(client.give(v5::Publish { retain: true, ..message("line/speed", 1, "") }).await);
        assert_eq!(broker.publisher.stats().retained_dropped.get(), 2, "both are counted");
        let broker = Running::at(Setup::default(), broker.stop().await).await;
        for topic in ["line/speed", "spBv1.0/acme/NBIRTH/gw"] {
            assert_eq!(kept(&broker, topic).await, None, "{topic}");
        }
        assert_eq!(kept(&broker, "line/other").await.as_deref(), Some("10"));
        broker.stop().await;
    }
}

#[tokio::test]
async fn it_is_gone_for_good_where_retained_messages_are_not_available_too() {
    let broker = Running::start().await;
    let mut client = broker.v5("c").await;
    for topic in ["line/speed", "line/other"] {
        assert!(client.give(v5::Publish { retain: true, ..message(topic, 1, "10") }).await);
    }
    let limits = BrokerLimits { retain_available: false, ..BrokerLimits::default() };
    let broker = Running::at(Setup { limits, ..Setup::default() }, broker.stop().await).await;
    broker.ownership.replace([("line/speed".into(), TagIx(0))]);
    broker.control.reclaim();
    assert_eq!(broker.publisher.stats().retained_dropped.get(), 1);
    let broker = Running::at(Setup::default(), broker.stop().await).await;
    assert_eq!(kept(&broker, "line/speed").await, None);
    assert_eq!(kept(&broker, "line/other").await.as_deref(), Some("10"));
    broker.stop().await;
}

#[tokio::test]
async fn a_removed_tag_is_cleared_and_sys_says_what_is_there() {
    let broker = Running::start().await;
    broker.publisher.retain(tag(1), "1".into());
    let mut client = broker.v4("c").await;
    client.subscribe("plant/#", QoS::AtMostOnce).await;
    assert!(client.message().await.retain);
    broker.publisher.clear(tag(1));
    let seen = client.message().await;
    assert!(seen.payload.is_empty() && !seen.retain);
    let mut late = broker.v4("late").await;
    late.subscribe("plant/#", QoS::AtMostOnce).await;
    late.ping().await;
    late.subscribe("$SYS/broker/version", QoS::AtMostOnce).await;
    assert!(late.message().await.payload.starts_with(b"ironbridge version"));
    broker.stop().await;
}
