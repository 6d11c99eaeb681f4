//! Topic ids of all kinds, every QoS, subscriptions, rights.

use std::net::SocketAddr;

use ironbridge::broker::sn::{Again, Code, Filter, Kept, Message, Quality, Start, Topic};
use ironbridge::config::plan::{AclPlan, Anonymous, MqttSnPlan, UnaskedPlan};
use rumqttc::mqttbytes::QoS;
use tokio::time::Instant;

use crate::hmi::Hmi;
use crate::sensor::{Got, RETRY, Sensor, broker, broker_with, door, plain, plan};
use crate::support::{Running, Setup};

fn rule(user: &str, read: &[&str], write: &[&str]) -> AclPlan {
    let own = |filters: &[&str]| filters.iter().map(|&filter| filter.to_owned()).collect();
    AclPlan { user: user.to_owned(), read: own(read), write: own(write), operate: Vec::new() }
}

fn name(filter: &str) -> Filter {
    Filter::Name(filter.to_owned())
}

fn got(topic: &str, payload: &[u8], quality: Quality) -> Got {
    Got { topic: topic.to_owned(), payload: payload.to_vec(), quality, kept: Kept::No }
}

#[tokio::test]
async fn what_a_sensor_publishes_at_any_qos_and_by_any_kind_of_topic_comes_to_mqtt_clients() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("#", QoS::ExactlyOnce).await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    let (id, code) = sensor.register("tanks/one/level").await;
    assert_eq!(code, Code::Accepted);
    let topics =
        [(Topic::Id(id), "tanks/one/level"), (Topic::Predefined(2), "plant/known/two"), (Topic::Short(*b"t1"), "t1")];
    for (topic, name) in topics {
        for (quality, qos) in
            [(Quality::Zero, QoS::AtMostOnce), (Quality::One, QoS::AtLeastOnce), (Quality::Two, QoS::ExactlyOnce)]
        {
            assert_eq!(sensor.publish(topic, quality, b"4.2").await, Code::Accepted);
            let publish = client.message().await;
            assert_eq!((publish.topic.as_str(), &publish.payload[..], publish.qos), (name, &b"4.2"[..], qos));
        }
    }
    assert_eq!(sensor.register("tanks/one/level").await, (id, Code::Accepted), "a name has one id");
}

#[tokio::test]
async fn a_sensor_is_told_what_it_may_not_or_cannot_publish_on() {
    let (_running, gateway, _) = broker().await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    assert_eq!(sensor.publish(Topic::Id(4711), Quality::One, b"x").await, Code::InvalidTopicId);
    assert_eq!(sensor.publish(Topic::Predefined(99), Quality::Two, b"x").await, Code::InvalidTopicId);
    assert_eq!(sensor.publish(Topic::Short(*b"a#"), Quality::One, b"x").await, Code::NotSupported);
    assert_eq!(sensor.register("tanks/+/level").await.1, Code::NotSupported);
    assert_eq!(sensor.register("").await.1, Code::NotSupported);
    let (id, _) = sensor.register("plant/dev0/tag1").await; // the gateway's own
    assert_eq!(sensor.publish(Topic::Id(id), Quality::One, b"x").await, Code::NotSupported);
    let without_id = sensor.publication(Topic::Id(4711), Quality::Zero, b"x");
    sensor.send(&Message::Publish(without_id)).await;
    let refused = Message::Puback { topic_id: 4711, message_id: 0, code: Code::InvalidTopicId };
    assert_eq!(sensor.hear().await, refused, "at QoS 0, too: else it would go on for ever");
}

#[tokio::test]
async fn a_sensor_gets_what_it_has_subscribed_to_by_name_wildcard_id_and_short_name() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    let (quality, id, code) = sensor.subscribe(name("valves/one/set point"), Quality::One).await;
    assert_eq!((quality, code), (Quality::One, Code::Accepted));
    assert!(id > 0, "a name without wildcards has an id at once");
    assert_eq!(sensor.subscribe(name("pumps/+/speed"), Quality::Two).await, (Quality::Two, 0, Code::Accepted));
    assert_eq!(sensor.subscribe(Filter::Predefined(1), Quality::One).await, (Quality::One, 1, Code::Accepted));
    assert_eq!(sensor.subscribe(Filter::Short(*b"go"), Quality::Zero).await, (Quality::Zero, 0, Code::Accepted));
    assert_eq!(sensor.subscribe(Filter::Predefined(99), Quality::One).await.2, Code::InvalidTopicId);
    assert_eq!(sensor.subscribe(name("a/#/b"), Quality::One).await.2, Code::NotSupported);
    for topic in ["valves/one/set point", "pumps/1/speed", "pumps/2/speed", "plant/known/one", "go"] {
        client.publish(topic, QoS::ExactlyOnce, topic.as_bytes()).await;
    }
    let expected = [
        got("valves/one/set point", b"valves/one/set point", Quality::One),
        got("pumps/1/speed", b"pumps/1/speed", Quality::Two),
        got("pumps/2/speed", b"pumps/2/speed", Quality::Two),
        got("plant/known/one", b"plant/known/one", Quality::One),
        got("go", b"go", Quality::Zero),
    ];
    for expected in expected {
        assert_eq!(sensor.next().await, expected);
    }
    sensor.settle().await;
    assert_eq!(sensor.names.len(), 3, "predefined and short names are not registered: {:?}", sensor.names);
    let id = sensor.number();
    let unsubscribe = Message::Unsubscribe { message_id: id, filter: name("pumps/+/speed") };
    sensor.ask(&unsubscribe, |message| *message == Message::Unsuback(id)).await;
    client.publish("pumps/1/speed", QoS::AtLeastOnce, b"not any more").await;
    client.publish("go", QoS::AtMostOnce, b"last").await;
    assert_eq!(sensor.next().await.payload, b"last");
}

#[tokio::test]
async fn retained_values_come_to_a_sensor_with_retain_and_its_own_are_kept() {
    let (_running, gateway, mqtt) = broker().await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    let (id, _) = sensor.register("tanks/one/level").await;
    let mut publish = sensor.publication(Topic::Id(id), Quality::One, b"7");
    publish.kept = Kept::Yes;
    let message_id = publish.message_id;
    sensor
        .ask(
            &Message::Publish(publish),
            |message| matches!(message, Message::Puback { message_id: id, .. } if *id == message_id),
        )
        .await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("tanks/#", QoS::AtMostOnce).await;
    let kept = client.message().await;
    assert_eq!((kept.topic.as_str(), kept.retain), ("tanks/one/level", true));
    let mut other = Sensor::connected(gateway, "tank-2").await;
    other.subscribe(name("tanks/one/level"), Quality::One).await;
    assert_eq!(other.next().await, Got { kept: Kept::Yes, ..got("tanks/one/level", b"7", Quality::One) });
}

#[tokio::test]
async fn a_sensor_that_has_forgotten_a_topic_is_told_it_again_and_gets_the_message() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    sensor.subscribe(name("orders/#"), Quality::One).await;
    client.publish("orders/one", QoS::AtLeastOnce, b"1").await;
    assert_eq!(sensor.next().await, got("orders/one", b"1", Quality::One));
    sensor.names.clear();
    client.publish("orders/one", QoS::AtLeastOnce, b"2").await;
    assert_eq!(sensor.next().await, got("orders/one", b"2", Quality::One));
}

#[tokio::test]
async fn a_sensor_has_the_rights_of_its_own_rules_and_none_of_those_for_people() {
    let acl = vec![
        rule("sensor:tanks", &["orders/%c/#"], &["tanks/%c/#"]),
        rule("*", &["#"], &["#"]),
        rule("anonymous", &["#"], &[]),
    ];
    let doors = vec![door(plan(), Anonymous::None), plain(Anonymous::Read)];
    let running = Running::with(Setup { doors, acl, ..Setup::default() }).await;
    let [gateway, mqtt] = [0, 1].map(|at| running.addresses[at].expect("open"));
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("tanks/#", QoS::AtMostOnce).await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    let (own, _) = sensor.register("tanks/tank-1/level").await;
    let (other, _) = sensor.register("tanks/tank-2/level").await;
    assert_eq!(sensor.publish(Topic::Id(other), Quality::One, b"forged").await, Code::NotSupported);
    assert_eq!(sensor.publish(Topic::Id(other), Quality::Two, b"forged").await, Code::NotSupported);
    assert_eq!(sensor.publish(Topic::Id(own), Quality::Two, b"1").await, Code::Accepted);
    assert_eq!(client.message().await.topic, "tanks/tank-1/level");
    assert_eq!(sensor.subscribe(name("#"), Quality::One).await.2, Code::NotSupported);
    assert_eq!(sensor.subscribe(name("orders/tank-1/+"), Quality::One).await.2, Code::Accepted);
    assert!(running.publisher.stats().publishes_refused.get() >= 2);
    let mut stranger = Sensor::new(gateway, "pump-1").await;
    assert_eq!(stranger.connect(Start::Clean, 60).await, Code::NotSupported, "it is on no list");
    assert_eq!(running.access.stats.refused.get(), 1 + stranger.repeats);
}

#[tokio::test]
async fn a_publish_without_a_connection_is_taken_by_predefined_and_short_topic_where_a_user_is_named_for_it() {
    let publish = Some(UnaskedPlan { user: "beacons".to_owned(), from: Vec::new() });
    let acl = vec![rule("sensor:beacons", &[], &["plant/known/one", "ok"])];
    let (running, gateway, mqtt) =
        broker_with(MqttSnPlan { publish, ..plan() }, Setup { acl, ..Setup::default() }).await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("#", QoS::AtLeastOnce).await;
    let mut beacon = Sensor::new(gateway, "").await;
    for topic in [Topic::Predefined(2), Topic::Short(*b"no"), Topic::Id(1), Topic::Predefined(1), Topic::Short(*b"ok")]
    {
        let publish = beacon.publication(topic, Quality::Unasked, b"here");
        beacon.send(&Message::Publish(publish)).await;
    }
    for topic in ["plant/known/one", "ok"] {
        assert_eq!(client.message().await.topic, topic);
    }
    let stats = &running.publisher.stats().sensors;
    assert_eq!((stats.unasked.get(), stats.unasked_refused.get()), (4, 1), "two more are refused by rules");
    assert_eq!(running.publisher.stats().publishes_refused.get(), 2);
}

#[tokio::test]
async fn nobody_can_take_the_place_of_those_who_publish_without_a_connection() {
    let publish = Some(UnaskedPlan { user: "beacons".to_owned(), from: Vec::new() });
    let acl = vec![rule("sensor:beacons", &[], &["ok"])];
    let (running, gateway, mqtt) =
        broker_with(MqttSnPlan { publish, ..plan() }, Setup { acl, ..Setup::default() }).await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("ok", QoS::AtLeastOnce).await;
    let _guess = Hmi::connect(mqtt, "mqtt-sn:udp:127.0.0.1:0").await;
    let mut thief = Sensor::new(gateway, "$ironbridge/mqtt-sn:udp:127.0.0.1:0").await;
    assert_eq!(thief.connect(Start::Kept, 60).await, Code::NotSupported);
    let mut beacon = Sensor::new(gateway, "").await;
    for payload in [b"1", b"2"] {
        let publish = beacon.publication(Topic::Short(*b"ok"), Quality::Unasked, payload);
        beacon.send(&Message::Publish(publish)).await;
        assert_eq!(&client.message().await.payload[..], payload);
    }
    let stats = &running.publisher.stats().sensors;
    assert_eq!((stats.unasked.get(), stats.unasked_refused.get()), (2, 0));
}

#[tokio::test]
async fn without_a_user_for_it_a_publish_without_a_connection_is_dropped_and_counted() {
    let (running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("#", QoS::AtLeastOnce).await;
    let mut beacon = Sensor::connected(gateway, "tank-1").await;
    let publish = beacon.publication(Topic::Predefined(1), Quality::Unasked, b"here");
    beacon.send(&Message::Publish(publish)).await;
    beacon.publish(Topic::Short(*b"ok"), Quality::One, b"1").await;
    assert_eq!(client.message().await.topic, "ok");
    assert_eq!(running.publisher.stats().sensors.unasked_refused.get(), 1);
}

#[tokio::test]
async fn a_busy_sensor_is_asked_to_wait_and_one_that_says_never_is_not_asked_again() {
    let (running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    sensor.subscribe(name("orders/#"), Quality::One).await;
    sensor.willing = false;
    client.publish("orders/one", QoS::AtLeastOnce, b"1").await;
    let (topic_id, message_id) = match sensor.hear().await {
        Message::Register { topic_id, message_id, .. } => (topic_id, message_id),
        other => panic!("{other:?}"),
    };
    sensor.send(&Message::Regack { topic_id, message_id, code: Code::Congestion }).await;
    let again = sensor.hear().await;
    assert!(matches!(again, Message::Register { message_id: id, .. } if id == message_id), "{again:?}");
    sensor.send(&Message::Regack { topic_id, message_id, code: Code::NotSupported }).await;
    client.publish("go", QoS::AtLeastOnce, b"2").await;
    sensor.willing = true;
    sensor.subscribe(Filter::Short(*b"go"), Quality::One).await;
    client.publish("go", QoS::AtLeastOnce, b"3").await;
    assert_eq!(sensor.next().await, got("go", b"3", Quality::One));
    assert_eq!(running.publisher.stats().sensors.refused.get(), 1);
}

#[tokio::test]
async fn a_predefined_topic_has_its_id_still_when_the_session_is_gone_on_with() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    assert_eq!(sensor.subscribe(Filter::Predefined(1), Quality::One).await.2, Code::Accepted);
    assert_eq!(sensor.subscribe(name("plant/known/two"), Quality::One).await.2, Code::Accepted);
    for n in 0..3u8 {
        sensor.goodbye().await;
        sensor.names.clear();
        client.publish("plant/known/one", QoS::AtLeastOnce, &[n]).await;
        assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
        assert_eq!(sensor.next().await, got("plant/known/one", &[n], Quality::One));
        assert!(sensor.names.is_empty(), "it needed no REGISTER: {:?}", sensor.names);
        client.publish("plant/known/two", QoS::AtLeastOnce, &[n]).await;
        assert_eq!(sensor.next().await, got("plant/known/two", &[n], Quality::One));
        assert_eq!(sensor.names.len(), 1, "by its name it was subscribed to, so a name it has");
    }
}

#[tokio::test]
async fn a_predefined_topic_has_its_id_still_when_the_gateway_was_started_anew() {
    let mut running = Running::with(sessions()).await;
    for again in [false, true] {
        let [gateway, mqtt] = [0, 1].map(|at| running.addresses[at].expect("open"));
        let mut sensor = Sensor::new(gateway, "tank-1").await;
        assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
        if again {
            assert_eq!(sensor.next().await, got("plant/known/one", b"1", Quality::One));
            assert!(sensor.names.is_empty(), "it needed no REGISTER: {:?}", sensor.names);
            return;
        }
        assert_eq!(sensor.subscribe(Filter::Predefined(1), Quality::One).await.2, Code::Accepted);
        sensor.goodbye().await;
        let mut client = Hmi::connect(mqtt, "hmi").await;
        client.publish("plant/known/one", QoS::AtLeastOnce, b"1").await;
        drop(client);
        running = Running::at(sessions(), running.stop().await).await;
    }
}

#[tokio::test]
async fn a_topic_id_stands_for_the_same_name_or_none_after_a_restart_whoever_registers_first() {
    let [first, second] = colliding();
    let mut running = Running::with(sessions()).await;
    let (gateway, _) = doors(&running);
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    let (of_first, _) = sensor.register(&first).await;
    let (of_second, _) = sensor.register(&second).await;
    assert_eq!(of_second, of_first + 1, "they collide");
    running = Running::at(sessions(), running.stop().await).await;
    let (gateway, mqtt) = doors(&running);
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("#", QoS::AtLeastOnce).await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    assert_eq!(sensor.publish(Topic::Id(of_second), Quality::One, b"2").await, Code::InvalidTopicId);
    assert_eq!(sensor.register(&second).await, (of_second, Code::Accepted));
    assert_eq!(sensor.publish(Topic::Id(of_first), Quality::One, b"1").await, Code::InvalidTopicId, "of no other name");
    assert_eq!(sensor.register(&first).await, (of_first, Code::Accepted));
    assert_eq!(sensor.publish(Topic::Id(of_first), Quality::One, b"1").await, Code::Accepted);
    assert_eq!(client.message().await.topic, first);
}

/// Two names that would have the same id.
fn colliding() -> [String; 2] {
    let mut ids = std::collections::HashMap::new();
    for n in 0.. {
        let name = format!("plant/tank{n}/level");
        let digest = crc32fast::hash(name.as_bytes());
        let id = (digest >> 16) ^ (digest & 0xFFFF);
        if let Some(first) = ids.insert(id, name.clone()).filter(|_| (1..0xFFFE).contains(&id)) {
            return [first, name];
        }
    }
    unreachable!("there are more names than ids")
}

/// With a door for sensors whose sessions are kept, and one for MQTT.
fn sessions() -> Setup {
    Setup {
        doors: vec![door(plan(), Anonymous::ReadWrite), plain(Anonymous::ReadWrite)],
        acl: vec![rule("sensor:tanks", &["#"], &["#"])],
        ..Setup::default()
    }
}

fn doors(running: &Running) -> (SocketAddr, SocketAddr) {
    (running.addresses[0].expect("open"), running.addresses[1].expect("open"))
}

#[tokio::test]
async fn a_subscribe_that_is_repeated_because_suback_was_lost_brings_suback_again_and_no_retained_values() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.retain("orders/kept", b"kept").await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    for id in 1..4 {
        let subscribe = |again| Message::Subscribe {
            again,
            quality: Quality::One,
            message_id: id,
            filter: name(if id < 3 { "orders/+" } else { "orders/kept" }),
        };
        let suback = |message: &Message| matches!(message, Message::Suback { message_id, .. } if *message_id == id);
        let first = sensor.ask(&subscribe(Again::No), suback).await;
        assert_eq!(sensor.next().await.payload, b"kept", "{id}: a new SUBSCRIBE brings them");
        for _ in 0..3 {
            assert_eq!(sensor.ask(&subscribe(Again::Yes), suback).await, first);
        }
        client.publish("orders/new", QoS::AtLeastOnce, b"new").await;
        assert_eq!(sensor.next().await.payload, b"new", "{id}: and nothing else before it");
    }
}

#[tokio::test]
async fn a_sensor_that_has_no_room_gets_its_message_again_after_the_wait_and_is_not_lost_for_saying_so() {
    let wait = RETRY * 5;
    let (running, gateway, mqtt) = broker_with(MqttSnPlan { retries: 3, wait, ..plan() }, Setup::default()).await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    sensor.subscribe(Filter::Short(*b"go"), Quality::One).await;
    client.publish("go", QoS::AtLeastOnce, b"1").await;
    let mut said = None;
    for _ in 0..3 {
        let Message::Publish(publish) = sensor.hear().await else { panic!("the message") };
        assert!(said.is_none_or(|said: Instant| said.elapsed() >= wait));
        let code = Code::Congestion;
        sensor.send(&Message::Puback { topic_id: 0, message_id: publish.message_id, code }).await;
        said = Some(Instant::now());
    }
    assert_eq!(sensor.publish(Topic::Short(*b"ok"), Quality::One, b"").await, Code::Accepted, "meanwhile");
    assert_eq!(sensor.next().await, got("go", b"1", Quality::One));
    let stats = &running.publisher.stats().sensors;
    assert_eq!((stats.lost.get(), stats.refused.get()), (0, 0));
}
