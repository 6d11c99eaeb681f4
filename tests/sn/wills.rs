//! Wills: asked for, changed, sent when a sensor is lost and only then. And who takes whose place.

use ironbridge::broker::sn::Again::{No, Yes};
use ironbridge::broker::sn::{Asks, Code, Connect, Filter, Kept, Message, Quality, Start, Topic, WillTopic};
use ironbridge::config::plan::{BrokerLimits, MqttSnPlan};
use rumqttc::mqttbytes::QoS;

use crate::hmi::Hmi;
use crate::sensor::{Radio, Sensor, broker, broker_at, broker_with, plan};
use crate::support::{Running, Setup, until};

async fn watcher(mqtt: std::net::SocketAddr) -> Hmi {
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("wills/#", QoS::AtLeastOnce).await;
    client
}

#[tokio::test]
async fn a_sensor_that_does_not_acknowledge_is_lost_after_its_retries_and_its_will_is_sent() {
    let plan = MqttSnPlan { retries: 3, ..plan() };
    let (running, gateway, mqtt) = broker_with(plan, Setup::default()).await;
    let mut client = watcher(mqtt).await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect_with_will(Start::Clean, 60, "wills/tank-1", b"gone").await, Code::Accepted);
    sensor.subscribe(Filter::Short(*b"go"), Quality::One).await;
    sensor.willing = false;
    client.publish("go", QoS::AtLeastOnce, b"1").await;
    let mut heard = Vec::new();
    loop {
        match sensor.hear().await {
            Message::Publish(publish) => heard.push(publish.again),
            Message::Disconnect(None) => break,
            _ => {} // answered twice
        }
    }
    assert_eq!(heard, [No, Yes, Yes, Yes]);
    assert_eq!(&client.message().await.payload[..], b"gone");
    assert_eq!(running.publisher.stats().sensors.lost.get(), 1);
    assert!(running.publisher.stats().sensors.repeated.get() >= 3);
}

#[tokio::test]
async fn a_silent_sensor_is_lost_after_one_and_a_half_keep_alives_and_one_that_pings_is_not() {
    let (running, gateway, mqtt) = broker().await;
    let mut client = watcher(mqtt).await;
    let mut silent = Sensor::new(gateway, "tank-1").await;
    let mut alive = Sensor::new(gateway, "tank-2").await;
    for sensor in [&mut silent, &mut alive] {
        let topic = format!("wills/{}", sensor.id);
        assert_eq!(sensor.connect_with_will(Start::Clean, 3, &topic, b"gone").await, Code::Accepted);
    }
    let pinging = async {
        loop {
            alive.ask(&Message::Ping(None), |message| *message == Message::Pong).await;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    };
    tokio::select! {
        will = client.message() => assert_eq!(will.topic, "wills/tank-1"),
        () = pinging => {}
    }
    assert_eq!(running.publisher.stats().sensors.lost.get(), 1);
    alive.goodbye().await;
    until("it has gone", || running.publisher.stats().clients.get() == 1).await;
    client.publish("wills/last", QoS::AtMostOnce, b"").await;
    assert_eq!(client.message().await.topic, "wills/last", "no will of one that said goodbye");
}

#[tokio::test]
async fn a_will_can_be_changed_and_taken_back_while_connected() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = watcher(mqtt).await;
    let update = |name: &str| {
        Message::WillTopicUpdate(Some(WillTopic { name: name.to_owned(), quality: Quality::One, kept: Kept::No }))
    };
    let topic_answer = |message: &Message| matches!(message, Message::WillTopicResponse(_));
    let message_answer = |message: &Message| matches!(message, Message::WillMessageResponse(_));
    let mut changed = Sensor::new(gateway, "tank-1").await;
    assert_eq!(changed.connect_with_will(Start::Clean, 1, "wills/old", b"old").await, Code::Accepted);
    let answer = changed.ask(&update("wills/new"), topic_answer).await;
    assert_eq!(answer, Message::WillTopicResponse(Code::Accepted));
    let answer = changed.ask(&Message::WillMessageUpdate(b"new".to_vec()), message_answer).await;
    assert_eq!(answer, Message::WillMessageResponse(Code::Accepted));
    let answer = changed.ask(&update("wills/+"), topic_answer).await;
    assert_eq!(answer, Message::WillTopicResponse(Code::NotSupported));
    let mut without = Sensor::new(gateway, "tank-2").await;
    assert_eq!(without.connect_with_will(Start::Clean, 1, "wills/not", b"not").await, Code::Accepted);
    without.ask(&Message::WillTopicUpdate(None), topic_answer).await;
    let answer = without.ask(&Message::WillMessageUpdate(Vec::new()), message_answer).await;
    assert_eq!(answer, Message::WillMessageResponse(Code::NotSupported), "there is none");
    let will = client.message().await;
    assert_eq!((will.topic.as_str(), &will.payload[..]), ("wills/new", &b"new"[..]));
    without.told_to_go().await;
    client.publish("wills/last", QoS::AtMostOnce, b"").await;
    assert_eq!(client.message().await.topic, "wills/last");
}

#[tokio::test]
async fn a_will_that_rules_or_bounds_forbid_is_refused_and_the_one_before_stands() {
    let limits = BrokerLimits { payload_bytes: 10, ..BrokerLimits::default() };
    let (_running, gateway, mqtt) = broker_with(plan(), Setup { limits, ..Setup::default() }).await;
    let mut client = watcher(mqtt).await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect_with_will(Start::Kept, 60, "wills/one", b"one").await, Code::Accepted);
    let name = "plant/dev0/tag1".to_owned(); // the gateway's own
    let update = Message::WillTopicUpdate(Some(WillTopic { name, quality: Quality::One, kept: Kept::No }));
    let answer = sensor.ask(&update, |message| matches!(message, Message::WillTopicResponse(_))).await;
    assert_eq!(answer, Message::WillTopicResponse(Code::NotSupported));
    let update = Message::WillMessageUpdate(b"longer than that".to_vec());
    let answer = sensor.ask(&update, |message| matches!(message, Message::WillMessageResponse(_))).await;
    assert_eq!(answer, Message::WillMessageResponse(Code::NotSupported));
    sensor.goodbye().await;
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    lose(&mut sensor).await;
    let will = client.message().await;
    assert_eq!((will.topic.as_str(), &will.payload[..]), ("wills/one", &b"one"[..]));
}

#[tokio::test]
async fn the_dialogue_about_a_will_survives_a_bad_link_and_a_connect_that_is_repeated_sends_no_will() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = watcher(mqtt).await;
    let radio = Radio::to(gateway, 30, 11).await;
    let mut sensor = Sensor::behind(&radio, "tank-1").await;
    for _ in 0..8 {
        assert_eq!(sensor.connect_with_will(Start::Clean, 60, "wills/tank-1", b"gone").await, Code::Accepted);
    }
    client.publish("wills/last", QoS::AtMostOnce, b"").await;
    assert_eq!(client.message().await.topic, "wills/last");
}

#[tokio::test]
async fn a_will_that_cannot_be_left_is_refused_with_the_connection() {
    let (_running, gateway, _) = broker().await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect_with_will(Start::Clean, 60, "wills/#", b"").await, Code::NotSupported);
    assert_eq!(sensor.connect_with_will(Start::Clean, 60, "wills/ok", b"").await, Code::Accepted);
}

#[tokio::test]
async fn who_asks_for_a_will_and_leaves_none_has_none() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = watcher(mqtt).await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    let client_id = sensor.id.clone();
    let hello = Message::Connect(Connect { start: Start::Clean, asks: Asks::ForWill, duration: 1, client_id });
    sensor.ask(&hello, |message| *message == Message::WillTopicRequest).await;
    let answer = sensor.ask(&Message::WillTopic(None), |message| matches!(message, Message::Connack(_))).await;
    assert_eq!(answer, Message::Connack(Code::Accepted));
    sensor.told_to_go().await;
    client.publish("wills/last", QoS::AtMostOnce, b"").await;
    assert_eq!(client.message().await.topic, "wills/last");
}

#[tokio::test]
async fn who_comes_from_elsewhere_with_the_same_id_takes_the_place_and_the_other_is_told() {
    let (running, gateway, mqtt) = broker().await;
    let first = Sensor::connected(gateway, "tank-1").await;
    let mut second = Sensor::connected(gateway, "tank-1").await;
    first.told_to_go().await;
    assert_eq!(second.publish(Topic::Short(*b"ok"), Quality::One, b"").await, Code::Accepted);
    // By MQTT, too: it is the same id of the same broker.
    let _third = Hmi::connect(mqtt, "tank-2").await;
    let mut fourth = Sensor::new(gateway, "tank-2").await;
    assert_eq!(fourth.connect(Start::Clean, 60).await, Code::NotSupported, "the session of somebody else");
    until("the first has gone", || running.publisher.stats().clients.get() == 2).await;
}

#[tokio::test]
async fn another_id_from_the_same_address_takes_the_address_over() {
    let (running, gateway, _) = broker().await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    sensor.id = "tank-2".to_owned();
    assert_eq!(sensor.connect(Start::Clean, 60).await, Code::Accepted);
    until("one has gone", || running.publisher.stats().clients.get() == 1).await;
    assert_eq!(sensor.publish(Topic::Short(*b"ok"), Quality::Two, b"").await, Code::Accepted);
}

/// Another client speaks from its address: it counts as lost at once.
async fn lose(sensor: &mut Sensor) {
    let id = std::mem::replace(&mut sensor.id, "tank-9".to_owned());
    assert_eq!(sensor.connect(Start::Clean, 60).await, Code::Accepted);
    sensor.id = id;
}

#[tokio::test]
async fn a_will_is_kept_with_its_session_until_it_is_taken_back_or_the_session_begins_anew() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = watcher(mqtt).await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect_with_will(Start::Kept, 60, "wills/one", b"one").await, Code::Accepted);
    sensor.goodbye().await;
    for _ in 0..2 {
        assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
        lose(&mut sensor).await;
        let will = client.message().await;
        assert_eq!((will.topic.as_str(), &will.payload[..]), ("wills/one", &b"one"[..]), "also after it was sent");
    }
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    let update = Message::WillMessageUpdate(b"two".to_vec());
    let answer = sensor.ask(&update, |message| matches!(message, Message::WillMessageResponse(_))).await;
    assert_eq!(answer, Message::WillMessageResponse(Code::Accepted), "its topic is known still");
    sensor.goodbye().await;
    let mut moved = Sensor::new(gateway, "tank-1").await;
    assert_eq!(moved.connect(Start::Kept, 60).await, Code::Accepted);
    lose(&mut moved).await;
    let will = client.message().await;
    assert_eq!((will.topic.as_str(), &will.payload[..]), ("wills/one", &b"two"[..]));
    // Taken back by an empty WILLTOPICUPD, by an empty WILLTOPIC, and by a clean start.
    for how in 0..3 {
        assert_eq!(sensor.connect_with_will(Start::Kept, 60, "wills/not", b"not").await, Code::Accepted);
        match how {
            0 => {
                let answers = |message: &Message| matches!(message, Message::WillTopicResponse(_));
                sensor.ask(&Message::WillTopicUpdate(None), answers).await;
                sensor.goodbye().await;
            }
            1 => {
                sensor.goodbye().await;
                let client_id = sensor.id.clone();
                let hello =
                    Message::Connect(Connect { start: Start::Kept, asks: Asks::ForWill, duration: 60, client_id });
                sensor.ask(&hello, |message| *message == Message::WillTopicRequest).await;
                sensor.ask(&Message::WillTopic(None), |message| matches!(message, Message::Connack(_))).await;
                sensor.goodbye().await;
            }
            _ => {
                sensor.goodbye().await;
                assert_eq!(sensor.connect(Start::Clean, 60).await, Code::Accepted);
                sensor.goodbye().await;
            }
        }
        assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
        lose(&mut sensor).await;
        client.publish("wills/last", QoS::AtMostOnce, b"").await;
        assert_eq!(client.message().await.topic, "wills/last", "{how}");
    }
}

#[tokio::test]
async fn a_will_is_kept_with_its_session_while_the_gateway_is_started_anew() {
    let (running, gateway, _) = broker().await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect_with_will(Start::Kept, 60, "wills/one", b"one").await, Code::Accepted);
    let (running, gateway, mqtt) = restarted(running).await;
    let mut client = watcher(mqtt).await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    lose(&mut sensor).await;
    let will = client.message().await;
    assert_eq!((will.topic.as_str(), &will.payload[..]), ("wills/one", &b"one"[..]));
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    sensor.ask(&Message::WillTopicUpdate(None), |message| matches!(message, Message::WillTopicResponse(_))).await;
    sensor.goodbye().await;
    let (_running, gateway, mqtt) = restarted(running).await;
    let mut client = watcher(mqtt).await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    lose(&mut sensor).await;
    client.publish("wills/last", QoS::AtMostOnce, b"").await;
    assert_eq!(client.message().await.topic, "wills/last", "taken back is taken back");
}

/// The gateway goes on with what lies on its disk.
async fn restarted(running: Running) -> (Running, std::net::SocketAddr, std::net::SocketAddr) {
    let at = running.stop().await;
    broker_at(plan(), Setup::default(), at).await
}

#[tokio::test]
async fn a_connect_that_comes_while_the_link_before_it_ends_is_answered_and_need_not_be_repeated() {
    let (_running, gateway, _) = broker().await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    for round in 0..40 {
        sensor.send(&Message::Disconnect(None)).await;
        sensor.send(&sensor.hello(Start::Clean, 60)).await;
        assert_eq!(sensor.hear().await, Message::Disconnect(None), "{round}");
        assert_eq!(sensor.hear().await, Message::Connack(Code::Accepted), "{round}");
        assert_eq!(sensor.publish(Topic::Short(*b"ok"), Quality::One, b"").await, Code::Accepted);
    }
}
