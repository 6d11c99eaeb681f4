//! What comes down from another broker, as local clients see it.

use std::sync::Arc;

use ironbridge::broker::NotTaken;
use ironbridge::config::plan::BrokerLimits;
use ironbridge::flow::clock::{Clock, FakeTime};
use ironbridge::flow::forward::{ForwardEntry, Letter, Route, Wish};
use ironbridge::flow::hub::hub;
use ironbridge::model::mapping::Mapping;
use ironbridge::model::message::{ClientMessage, Kept, Properties};
use ironbridge::model::number::Class;
use ironbridge::model::time::{Boot, Stamp};
use rumqttc::v5::mqttbytes::v5;

use crate::support::{PATIENCE, Running, Setup, filter, message, tag};

/// Retained, at QoS 1.
fn letter(topic: &str, payload: &str) -> Letter {
    let (payload, properties) = (payload.as_bytes().into(), Properties::default());
    let message = ClientMessage { payload, kept: Kept::Yes, expiry_s: None, properties };
    let at = Stamp { boot: Boot(1), micros: 0 };
    Letter { topic: topic.into(), message, wish: Wish::Receipt, from: Some("far".into()), at }
}

#[tokio::test]
async fn what_cannot_be_kept_on_disk_for_now_is_seen_once_and_acknowledged_when_it_is_kept() {
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    let in_the_way = dir.path().join("broker.db");
    std::fs::create_dir(&in_the_way).expect("something in the way");
    let broker = Running::at(Setup::default(), dir).await;
    let mut client = broker.v5("c").await;
    client.subscribe(filter("keep/#", 1), None).await;
    let passed_on = broker.publisher.pass_on(letter("keep/1", "x"), None).expect("a topic for clients");
    let mut passed_on = tokio::spawn(passed_on);
    let seen = client.message().await;
    client.send(v5::Packet::PubAck(v5::PubAck::new(seen.pkid, None))).await;
    let asked_again = std::time::Duration::from_millis(2500);
    assert!(tokio::time::timeout(asked_again, &mut passed_on).await.is_err(), "it is waited for, and not given back");
    std::fs::remove_dir(&in_the_way).expect("out of the way");
    let told = tokio::time::timeout(PATIENCE, passed_on).await.expect("in time").expect("no panic");
    assert_eq!(told, Ok(()));
    client.ping().await;
    let broker = Running::at(Setup::default(), broker.stop().await).await;
    let mut late = broker.v5("late").await;
    late.subscribe(filter("keep/#", 0), None).await;
    assert_eq!(late.message().await.payload, "x");
    broker.stop().await;
}

#[tokio::test]
async fn where_retained_messages_are_not_available_none_that_comes_down_is_kept() {
    let broker = Running::start().await;
    for topic in ["keep/1", "keep/2"] {
        let told = broker.publisher.pass_on(letter(topic, "of before"), None).expect("a topic for clients").await;
        assert_eq!(told, Ok(()));
    }
    let limits = BrokerLimits { retain_available: false, ..BrokerLimits::default() };
    let broker = Running::at(Setup { limits, ..Setup::default() }, broker.stop().await).await;
    let mut client = broker.v5("c").await;
    client.subscribe(v5::Filter { preserve_retain: true, ..filter("keep/#", 0) }, None).await;
    let told = broker.publisher.pass_on(letter("keep/1", "x"), None).expect("a topic for clients").await;
    assert_eq!(told, Ok(()));
    let seen = client.message().await;
    assert_eq!((&seen.payload[..], seen.retain), (&b"x"[..], false), "as a message like any other");
    client.subscribe(filter("keep/#", 0), None).await;
    client.ping().await;
    let broker = Running::at(Setup::default(), broker.stop().await).await;
    let mut late = broker.v5("late").await;
    late.subscribe(filter("keep/#", 0), None).await;
    let left = late.message().await;
    assert_eq!((&*left.topic, &left.payload[..]), (&b"keep/2"[..], &b"of before"[..]), "that of keep/1 is outdated");
    late.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn what_has_expired_before_it_could_be_handed_on_is_acknowledged_counted_and_seen_by_nobody() {
    let time = Arc::new(FakeTime::default());
    let clock = Clock::new(time.clone(), Boot(1), 0);
    let broker = Running::with(Setup { clock, ..Setup::default() }).await;
    let mut client = broker.v5("c").await;
    client.subscribe(filter("keep/#", 0), None).await;
    let short = || {
        let mut letter = letter("keep/1", "x");
        letter.message.expiry_s = Some(60);
        letter
    };
    time.advance(std::time::Duration::from_secs(20));
    let told = broker.publisher.pass_on(short(), None).expect("a topic for clients").await;
    assert_eq!(told, Ok(()));
    let left = client.message().await.properties.and_then(|properties| properties.message_expiry_interval);
    assert!(left.is_some_and(|left| (30..=40).contains(&left)), "{left:?}");
    time.advance(std::time::Duration::from_secs(40));
    let told = broker.publisher.pass_on(short(), None).expect("a topic for clients").await;
    assert_eq!((told, broker.publisher.stats().dropped_expired.get()), (Ok(()), 1));
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn what_is_retained_elsewhere_does_not_take_the_place_of_what_a_client_has_left_here_since() {
    let broker = Running::start().await;
    let mut client = broker.v5("c").await;
    let mut leave = async |topic: &str, payload: &str| {
        let mut publish = message(topic, 1, payload);
        publish.retain = true;
        client.publish(publish).await
    };
    leave("keep/1", "of before").await;
    leave("keep/2", "of before").await;
    let begun = broker.publisher.retained_version();
    leave("keep/2", "new").await;
    for topic in ["keep/1", "keep/2", "keep/3", "keep/3"] {
        match broker.publisher.pass_on(letter(topic, "from there"), Some(begun)) {
            Ok(told) => assert_eq!(told.await, Ok(())),
            Err(superseded) => assert_eq!((topic, superseded), ("keep/2", NotTaken::Superseded), "and that is said"),
        }
    }
    let mut late = broker.v5("late").await;
    late.subscribe(filter("keep/#", 0), None).await;
    for payload in ["from there", "new", "from there"] {
        assert_eq!(late.message().await.payload, payload);
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_one_bridge_brings_is_not_replaced_by_what_another_one_had_before() {
    let (lane, _, _end) = hub(Vec::new());
    let route = Route { mapping: Mapping::plain("keep/#"), class: Class::Bulk, lane: 0, bridge: None, kept: Kept::Yes };
    let broker = Running::with(Setup { forward: ForwardEntry::new(vec![route], vec![lane]), ..Setup::default() }).await;
    let begun = broker.publisher.retained_version();
    let pass_on = |topic: &str, payload: &str, bridge: &str| {
        let letter = Letter { wish: Wish::Nothing, from: Some(bridge.into()), ..letter(topic, payload) };
        drop(broker.publisher.pass_on(letter, Some(begun)));
    };
    for topic in ["keep/1", "keep/2", "keep/3"] {
        pass_on(topic, "of b", "b");
    }
    pass_on("keep/2", "", "b");
    for topic in ["keep/1", "keep/2"] {
        pass_on(topic, "of a", "a");
    }
    pass_on("keep/3", "of b again", "b");
    let mut late = broker.v5("late").await;
    late.subscribe(filter("keep/#", 0), None).await;
    for (topic, payload) in [("keep/1", "of b"), ("keep/3", "of b again")] {
        let seen = late.message().await;
        assert_eq!((&seen.topic[..], &seen.payload[..]), (topic.as_bytes(), payload.as_bytes()));
    }
    late.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn what_a_client_has_cleared_here_is_not_brought_back_by_what_was_retained_elsewhere_before() {
    let (lane, _, _end) = hub(Vec::new());
    let route = Route { mapping: Mapping::plain("keep/#"), class: Class::Bulk, lane: 0, bridge: None, kept: Kept::Yes };
    let broker = Running::with(Setup { forward: ForwardEntry::new(vec![route], vec![lane]), ..Setup::default() }).await;
    let mut client = broker.v5("c").await;
    let leave = |topic: &str, payload: &str| v5::Publish { retain: true, ..message(topic, 0, payload) };
    for topic in ["keep/1", "keep/2", "keep/3"] {
        client.send(v5::Packet::Publish(leave(topic, "of before"))).await;
    }
    client.ping().await;
    let begun = broker.publisher.retained_version();
    for topic in ["keep/1", "keep/2"] {
        client.send(v5::Packet::Publish(leave(topic, ""))).await;
    }
    client.ping().await;
    for (topic, newest) in [("keep/1", Some(begun)), ("keep/2", None), ("keep/3", Some(begun))] {
        let mut letter = letter(topic, "from there");
        (letter.wish, letter.from) = (Wish::Nothing, Some("far".into()));
        let taken = broker.publisher.pass_on(letter, newest).map(drop);
        assert_eq!(taken, if topic == "keep/1" { Err(NotTaken::Superseded) } else { Ok(()) });
    }
    let mut late = broker.v5("late").await;
    late.subscribe(filter("keep/#", 0), None).await;
    for topic in ["keep/2", "keep/3"] {
        let seen = late.message().await;
        assert_eq!((&seen.topic[..], &seen.payload[..]), (topic.as_bytes(), &b"from there"[..]));
    }
    late.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn what_has_expired_before_it_could_be_kept_leaves_nothing_standing_that_it_was_to_replace() {
    let time = Arc::new(FakeTime::default());
    let clock = Clock::new(time.clone(), Boot(1), 0);
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    for retain_available in [true, false] {
        let setup = || Setup { clock: clock.clone(), ..Setup::default() };
        let broker = Running::at(setup(), Arc::clone(&dir)).await;
        let told = broker.publisher.pass_on(letter("keep/1", "of before"), None).expect("a topic for clients").await;
        assert_eq!(told, Ok(()));
        broker.stop().await;
        let limits = BrokerLimits { retain_available, ..BrokerLimits::default() };
        let broker = Running::at(Setup { limits, ..setup() }, Arc::clone(&dir)).await;
        time.advance(std::time::Duration::from_secs(60));
        let mut short = letter("keep/1", "for a minute");
        short.message.expiry_s = Some(60); // it came at the beginning, and was handed in again all the time
        let told = broker.publisher.pass_on(short, None).expect("a topic for clients").await;
        assert_eq!((told, broker.publisher.stats().dropped_expired.get()), (Ok(()), 1));
        if retain_available {
            let mut late = broker.v5("late").await;
            late.subscribe(filter("keep/#", 0), None).await;
            late.ping().await;
        }
        broker.stop().await;
        let broker = Running::at(setup(), Arc::clone(&dir)).await;
        let mut late = broker.v5("late").await;
        late.subscribe(filter("keep/#", 0), None).await;
        late.ping().await;
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_topic_of_clients_may_end_in_set_and_comes_in_from_elsewhere_but_for_what_is_retained_there() {
    let broker = Running::start().await;
    let mut client = broker.v5("c").await;
    client.subscribe(filter("zigbee2mqtt/#", 1), None).await;
    let mut command = letter("zigbee2mqtt/lamp/set", "ON");
    command.message.kept = Kept::No;
    let told = broker.publisher.pass_on(command, None).expect("a topic for clients").await;
    assert_eq!(told, Ok(()));
    let seen = client.message().await;
    assert_eq!((&*seen.topic, &seen.payload[..]), (&b"zigbee2mqtt/lamp/set"[..], &b"ON"[..]));
    let refused = |topic: &str| broker.publisher.pass_on(letter(topic, "OFF"), None).is_err();
    assert!(refused("zigbee2mqtt/lamp/set"), "it may be of long ago, and comes again with each connection");
    for topic in [&*format!("{}/set", tag(1)), "zigbee2mqtt/lamp/set/result", "ironbridge/gw/event", &tag(1)] {
        assert!(refused(topic), "{topic}");
    }
    broker.stop().await;
}
