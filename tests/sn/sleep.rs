//! Sensors that sleep: what comes for them waits, within bounds, and comes when they wake.

use std::time::Duration;

use ironbridge::broker::sn::{Code, Filter, Message, Quality, Start, Topic};
use ironbridge::config::plan::{BrokerLimits, MqttSnPlan};
use rumqttc::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5;

use crate::hmi::Hmi;
use crate::sensor::{RETRY, Radio, Sensor, broker, broker_with, plan};
use crate::support::{Client5, PATIENCE, Setup, message, until};

fn orders() -> Filter {
    Filter::Name("orders/#".to_owned())
}

#[tokio::test]
async fn what_comes_for_a_sleeping_sensor_waits_until_it_wakes_in_order_and_once() {
    let (running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    for start in [Start::Clean, Start::Kept] {
        assert_eq!(sensor.connect(start, 60).await, Code::Accepted);
        sensor.subscribe(orders(), Quality::Two).await;
        sensor.sleep(600).await;
        until("it sleeps", || running.publisher.stats().sensors.asleep.get() == 1).await;
        for n in 0..100u8 {
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(n % 3)];
            client.publish(&format!("orders/{}", n % 5), qos, &[n]).await;
        }
        client.ping().await;
        while let Ok(message) = tokio::time::timeout(RETRY * 5, sensor.hear()).await {
            let comes = matches!(message, Message::Publish(_) | Message::Register { .. });
            assert!(!comes, "it sleeps: {message:?}");
        }
        sensor.wake().await;
        assert_eq!(sensor.got.len(), 100, "PINGRESP comes after all of it");
        for n in 0..100u8 {
            assert_eq!(sensor.got.pop_front().expect("a message").payload, [n]);
        }
        sensor.wake().await;
        assert_eq!(sensor.got.len(), 0, "nothing twice");
        // Awake by CONNECT: its subscriptions are still there.
        assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
        client.publish("orders/1", QoS::AtLeastOnce, b"now").await;
        assert_eq!(sensor.next().await.payload, b"now");
        until("it is awake", || running.publisher.stats().sensors.asleep.get() == 0).await;
        sensor.goodbye().await;
        until("it has gone", || running.publisher.stats().clients.get() == 1).await;
    }
    assert_eq!(running.publisher.stats().dropped(), 0);
}

#[tokio::test]
async fn what_expires_while_a_sensor_sleeps_does_not_reach_it_and_is_counted() {
    let (running, gateway, mqtt) = broker().await;
    let mut client = Client5::connect(mqtt, "hmi", |_| {}).await;
    let mut sensor = Sensor::connected(gateway, "valve-1").await;
    for quality in [Quality::Zero, Quality::One] {
        sensor.subscribe(orders(), quality).await;
        sensor.sleep(600).await;
        until("it sleeps", || running.publisher.stats().sensors.asleep.get() == 1).await;
        for (n, expiry) in [("1", Some(1)), ("2", Some(1)), ("3", None), ("4", Some(600))] {
            let properties = v5::PublishProperties { message_expiry_interval: expiry, ..Default::default() };
            let open = v5::Publish { properties: Some(properties), ..message("orders/valve", 1, n) };
            client.publish(open).await;
        }
        tokio::time::sleep(Duration::from_millis(1100)).await; // that time passes is what it is about
        sensor.wake().await;
        let got: Vec<u8> = sensor.got.drain(..).map(|got| got.payload[0]).collect();
        assert_eq!(got, *b"34", "{quality:?}");
        assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
        until("it is awake", || running.publisher.stats().sensors.asleep.get() == 0).await;
    }
    let stats = running.publisher.stats();
    assert_eq!((stats.dropped_expired.get(), stats.sensors.refused.get()), (4, 0));
}

#[tokio::test]
async fn what_was_on_its_way_to_a_sensor_when_it_fell_asleep_expires_as_everything_else() {
    let plan = MqttSnPlan { retry: PATIENCE, ..plan() };
    let (running, gateway, mqtt) = broker_with(plan, Setup::default()).await;
    let mut client = Client5::connect(mqtt, "hmi", |_| {}).await;
    let mut sensor = Sensor::connected(gateway, "valve-1").await;
    sensor.willing = false; // REGISTER stays without an answer, and the rest waits behind it
    sensor.subscribe(orders(), Quality::Zero).await;
    let old = 200; // more than is taken from the broker for a sensor that does not answer
    for n in 0..old {
        let expiry = if n < 50 { None } else { Some(1) };
        let properties = v5::PublishProperties { message_expiry_interval: expiry, ..Default::default() };
        client
            .publish(v5::Publish { properties: Some(properties), ..message("orders/valve", 1, &n.to_string()) })
            .await;
    }
    sensor.ask(&Message::Ping(None), |message| *message == Message::Pong).await;
    sensor.sleep(600).await;
    tokio::time::sleep(Duration::from_millis(1100)).await; // that time passes is what it is about
    sensor.willing = true;
    sensor.wake().await;
    let got: Vec<String> = sensor.got.drain(..).map(|got| String::from_utf8(got.payload).expect("a number")).collect();
    assert_eq!(got, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    let stats = running.publisher.stats();
    assert_eq!((stats.dropped_expired.get(), stats.sensors.refused.get()), (old - 50, 0));
}

#[tokio::test]
async fn what_waited_at_qos_0_for_a_sleeper_that_wakes_elsewhere_is_counted() {
    let (running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    sensor.subscribe(orders(), Quality::Zero).await;
    sensor.sleep(600).await;
    until("it sleeps", || running.publisher.stats().sensors.asleep.get() == 1).await;
    for n in 0..50u8 {
        client.publish("orders/a", QoS::AtLeastOnce, &[n]).await;
    }
    let mut moved = Sensor::new(gateway, "tank-1").await;
    assert_eq!(moved.connect(Start::Kept, 60).await, Code::Accepted);
    until("all of it", || running.publisher.stats().sensors.refused.get() == 50).await;
    assert_eq!(moved.got.len(), 0);
}

#[tokio::test]
async fn a_session_that_began_clean_lasts_from_the_connect_that_asks_for_it_with_all_it_has() {
    let (running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    sensor.subscribe(orders(), Quality::Two).await;
    sensor.sleep(600).await;
    until("it sleeps", || running.publisher.stats().sensors.asleep.get() == 1).await;
    client.publish("orders/a", QoS::AtLeastOnce, &[0]).await;
    client.publish("orders/a", QoS::ExactlyOnce, &[1]).await;
    assert_eq!(sensor.connect(Start::Kept, 1).await, Code::Accepted);
    client.publish("orders/b", QoS::ExactlyOnce, &[2]).await;
    client.publish("orders/b", QoS::AtLeastOnce, &[3]).await;
    for n in 0..4u8 {
        assert_eq!(sensor.next().await.payload, [n]);
    }
    sensor.settle().await;
    for (lost, n) in [(1, 4), (2, 5)] {
        until("its radio is gone", || running.publisher.stats().sensors.lost.get() == lost).await;
        client.publish("orders/a", QoS::AtLeastOnce, &[n]).await;
        client.publish("orders/b", QoS::ExactlyOnce, &[n + 10]).await;
        assert_eq!(sensor.connect(Start::Kept, 1).await, Code::Accepted);
        assert_eq!(sensor.next().await.payload, [n], "it has its subscriptions, and nothing comes twice");
        assert_eq!(sensor.next().await.payload, [n + 10]);
        sensor.settle().await;
    }
    assert_eq!(sensor.connect(Start::Clean, 60).await, Code::Accepted);
    client.publish("orders/a", QoS::AtLeastOnce, &[9]).await;
    client.ping().await;
    sensor.ask(&Message::Ping(None), |message| *message == Message::Pong).await;
    assert_eq!(sensor.got.len(), 0, "a clean start ends it");
}

#[tokio::test]
async fn a_sensor_that_wakes_on_a_bad_link_gets_everything_exactly_once() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let radio = Radio::to(gateway, 20, 5).await;
    let mut sensor = Sensor::behind(&radio, "tank-1").await;
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    sensor.subscribe(orders(), Quality::Two).await;
    for round in 0..4u8 {
        sensor.sleep(600).await;
        for n in 0..10u8 {
            client.publish("orders/a", QoS::ExactlyOnce, &[round, n]).await;
        }
        client.ping().await;
        sensor.wake().await;
        assert_eq!(sensor.got.len(), 10, "PINGRESP comes after all of it");
        for n in 0..10u8 {
            assert_eq!(sensor.got.pop_front().expect("a message").payload, [round, n]);
        }
    }
    sensor.wake().await;
    assert_eq!(sensor.got.len(), 0);
}

#[tokio::test]
async fn what_waits_for_a_sleeper_is_bounded_and_what_is_too_much_is_counted_and_told() {
    let limits = BrokerLimits { queued_bytes: 64 << 10, ..BrokerLimits::default() };
    let (running, gateway, mqtt) = broker_with(plan(), Setup { limits, ..Setup::default() }).await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    sensor.subscribe(orders(), Quality::Zero).await;
    sensor.sleep(600).await;
    let payload = [b'x'; 1000];
    for _ in 0..400 {
        client.publish("orders/a", QoS::AtLeastOnce, &payload).await;
    }
    until("it is too much", || running.publisher.stats().dropped_slow.get() > 0).await;
    until("its place is free", || running.publisher.stats().sensors.asleep.get() == 0).await;
    let ping = Message::Ping(Some(sensor.id.clone()));
    sensor.ask(&ping, |message| *message == Message::Disconnect(None)).await;
}

#[tokio::test]
async fn a_sleeper_that_does_not_wake_in_time_is_lost_and_its_will_is_sent() {
    let (running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("wills/#", QoS::AtLeastOnce).await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect_with_will(Start::Clean, 60, "wills/tank-1", b"gone").await, Code::Accepted);
    sensor.sleep(1).await;
    let begun = std::time::Instant::now();
    assert_eq!(&client.message().await.payload[..], b"gone");
    assert!(begun.elapsed().as_millis() > 1400, "one and a half times its sleep");
    assert_eq!(running.publisher.stats().sensors.lost.get(), 1);
}

#[tokio::test]
async fn a_sleeper_that_wakes_elsewhere_has_to_connect_and_then_has_its_session() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    sensor.subscribe(orders(), Quality::One).await;
    sensor.sleep(600).await;
    client.publish("orders/a", QoS::AtLeastOnce, b"1").await;
    let mut moved = Sensor::new(gateway, "tank-1").await;
    let ping = Message::Ping(Some(moved.id.clone()));
    moved.ask(&ping, |message| *message == Message::Disconnect(None)).await;
    assert_eq!(moved.connect(Start::Kept, 60).await, Code::Accepted);
    assert_eq!(moved.next().await.payload, b"1");
    sensor.told_to_go().await;
    assert_eq!(moved.publish(Topic::Short(*b"ok"), Quality::One, b"").await, Code::Accepted);
}

#[tokio::test]
async fn one_wake_brings_all_that_waits_also_what_only_the_disk_has_and_pingresp_comes_last() {
    let limits = BrokerLimits { queued_bytes: 64 << 10, ..BrokerLimits::default() };
    let (_running, gateway, mqtt) = broker_with(plan(), Setup { limits, ..Setup::default() }).await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    sensor.subscribe(orders(), Quality::Two).await;
    for round in 0..2u8 {
        sensor.sleep(600).await;
        let mut payload = [round; 1000];
        for n in 0..120u8 {
            payload[0] = n;
            let qos = if n % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
            client.publish("orders/a", qos, &payload).await;
        }
        client.ping().await;
        sensor.wake().await;
        let got: Vec<_> = sensor.got.drain(..).map(|got| (got.payload[0], got.payload[1])).collect();
        assert_eq!(got, (0..120).map(|n| (n, round)).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_sensor_that_wakes_and_takes_nothing_sleeps_again_and_gets_all_of_it_at_the_next_wake() {
    let plan = MqttSnPlan { retries: 2, ..plan() };
    let (running, gateway, mqtt) = broker_with(plan, Setup::default()).await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    sensor.subscribe(Filter::Short(*b"go"), Quality::One).await;
    for _ in 0..3 {
        sensor.sleep(600).await;
        for n in 0..5u8 {
            client.publish("go", QoS::AtLeastOnce, &[n]).await;
        }
        client.ping().await;
        sensor.send(&Message::Ping(Some(sensor.id.clone()))).await;
        for _ in 0..3 {
            let message = sensor.hear().await;
            assert!(matches!(&message, Message::Publish(publish) if publish.payload == [0]), "{message:?}");
        }
        let silence = tokio::time::timeout(RETRY * 5, sensor.hear()).await;
        assert!(silence.is_err(), "it sleeps, and there is more to come: {silence:?}");
        sensor.wake().await;
        let got: Vec<u8> = sensor.got.drain(..).map(|got| got.payload[0]).collect();
        assert_eq!(got, [0, 1, 2, 3, 4]);
    }
    assert_eq!(running.publisher.stats().sensors.lost.get(), 0);
}

#[tokio::test]
async fn what_a_sensor_says_before_it_sleeps_is_published_at_once_however_much_waits_for_it() {
    let plan = MqttSnPlan { retry: PATIENCE, ..plan() };
    let (_running, gateway, mqtt) = broker_with(plan, Setup::default()).await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("ok", QoS::AtMostOnce).await;
    for round in 0..8u8 {
        let mut sensor = Sensor::connected(gateway, &format!("tank-{round}")).await;
        sensor.willing = false; // REGISTER stays without an answer, and the rest waits behind it
        sensor.subscribe(orders(), Quality::Zero).await;
        let orders = if round % 2 == 0 { 60 } else { 200 }; // more than the broker writes, too
        for _ in 0..orders {
            client.publish("orders/a", QoS::AtMostOnce, &[b'x'; 1000]).await;
        }
        client.ping().await;
        for _ in 0..4 {
            sensor.ask(&Message::Ping(None), |message| *message == Message::Pong).await;
        }
        let value = sensor.publication(Topic::Short(*b"ok"), Quality::Zero, &[round]);
        sensor.send(&Message::Publish(value)).await;
        sensor.send(&Message::Disconnect(Some(3600))).await;
        assert_eq!(client.message().await.payload[..], [round]);
    }
}
