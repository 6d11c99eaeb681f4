//! A radio link that loses every fifth datagram, both ways: what QoS 1 and 2 promise holds.

use ironbridge::broker::sn::{Code, Filter, Message, Quality, Start, Topic};
use rumqttc::mqttbytes::QoS;

use crate::hmi::Hmi;
use crate::sensor::{Radio, Sensor, broker};

const MESSAGES: u32 = 60;

fn number(payload: &[u8]) -> u32 {
    std::str::from_utf8(payload).expect("text").parse().expect("a number")
}

#[tokio::test]
async fn with_every_fifth_datagram_lost_nothing_a_sensor_publishes_is_missing_and_at_qos_2_nothing_is_twice() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("tanks/#", QoS::ExactlyOnce).await;
    let radio = Radio::to(gateway, 20, 1).await;
    let mut sensor = Sensor::behind(&radio, "tank-1").await;
    assert_eq!(sensor.connect(Start::Clean, 60).await, Code::Accepted);
    let (one, _) = sensor.register("tanks/once").await;
    let (two, _) = sensor.register("tanks/exactly").await;
    for n in 0..MESSAGES {
        let payload = n.to_string();
        assert_eq!(sensor.publish(Topic::Id(one), Quality::One, payload.as_bytes()).await, Code::Accepted);
        assert_eq!(sensor.publish(Topic::Id(two), Quality::Two, payload.as_bytes()).await, Code::Accepted);
    }
    client.publish("tanks/end", QoS::AtMostOnce, b"").await;
    let (mut at_least, mut exactly) = (Vec::new(), Vec::new());
    loop {
        let publish = client.message().await;
        match publish.topic.as_str() {
            "tanks/once" => at_least.push(number(&publish.payload)),
            "tanks/exactly" => exactly.push(number(&publish.payload)),
            _ => break,
        }
    }
    assert_eq!(exactly, (0..MESSAGES).collect::<Vec<_>>());
    at_least.dedup();
    assert_eq!(at_least, (0..MESSAGES).collect::<Vec<_>>());
    assert!(sensor.repeats > 20 && radio.lost.load(std::sync::atomic::Ordering::Relaxed) > 50, "it was a bad link");
}

#[tokio::test]
async fn with_every_fifth_datagram_lost_a_sensor_gets_everything_and_at_qos_2_nothing_twice() {
    let (running, gateway, mqtt) = broker().await;
    let radio = Radio::to(gateway, 20, 2).await;
    let mut sensor = Sensor::behind(&radio, "tank-1").await;
    assert_eq!(sensor.connect(Start::Clean, 60).await, Code::Accepted);
    assert_eq!(sensor.subscribe(Filter::Name("orders/one/#".to_owned()), Quality::One).await.2, Code::Accepted);
    assert_eq!(sensor.subscribe(Filter::Name("orders/two/#".to_owned()), Quality::Two).await.2, Code::Accepted);
    let mut client = Hmi::connect(mqtt, "hmi").await;
    for n in 0..MESSAGES {
        let payload = n.to_string();
        client.publish(&format!("orders/one/{}", n % 7), QoS::AtLeastOnce, payload.as_bytes()).await;
        client.publish(&format!("orders/two/{}", n % 7), QoS::ExactlyOnce, payload.as_bytes()).await;
    }
    let (mut at_least, mut exactly) = (Vec::new(), Vec::new());
    while exactly.len() < MESSAGES as usize {
        let got = sensor.next().await;
        let n = number(&got.payload);
        assert!(got.topic.ends_with(&format!("/{}", n % 7)), "a value under another topic: {got:?}");
        if got.topic.starts_with("orders/one") { at_least.push(n) } else { exactly.push(n) }
    }
    sensor.settle().await;
    assert!(sensor.got.iter().all(|got| got.topic.starts_with("orders/one")), "twice: {:?}", sensor.got);
    assert_eq!(exactly, (0..MESSAGES).collect::<Vec<_>>());
    at_least.dedup();
    assert_eq!(at_least, (0..MESSAGES).collect::<Vec<_>>());
    assert!(running.publisher.stats().sensors.repeated.get() > 20, "it was a bad link");
}

#[tokio::test]
async fn a_sensor_that_comes_back_to_its_session_gets_what_came_while_it_was_lost() {
    let (running, gateway, mqtt) = broker().await;
    let radio = Radio::to(gateway, 0, 3).await;
    let mut sensor = Sensor::behind(&radio, "tank-1").await;
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    sensor.subscribe(Filter::Name("orders/#".to_owned()), Quality::Two).await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.publish("orders/a", QoS::ExactlyOnce, b"0").await;
    assert_eq!(sensor.next().await.payload, b"0");
    sensor.settle().await;
    radio.cut.store(true, std::sync::atomic::Ordering::Relaxed);
    for n in 1..=20 {
        client.publish("orders/a", QoS::ExactlyOnce, n.to_string().as_bytes()).await;
    }
    let lost = || running.publisher.stats().sensors.lost.get() == 1 && running.publisher.stats().clients.get() == 1;
    crate::support::until("it counts as lost", lost).await;
    radio.cut.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    for n in 1..=20 {
        assert_eq!(number(&sensor.next().await.payload), n);
    }
    sensor.settle().await;
    assert_eq!(sensor.got.len(), 0, "nothing twice");
}

#[tokio::test]
async fn the_first_value_of_a_sensor_that_was_reset_in_the_middle_of_qos_2_is_published() {
    let (_running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("ok", QoS::ExactlyOnce).await;
    let mut sensor = Sensor::new(gateway, "tank-1").await;
    assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted);
    for value in [b"1", b"2", b"3"] {
        let mut publish = sensor.publication(Topic::Short(*b"ok"), Quality::Two, value);
        publish.message_id = 1; // its first one, each time
        sensor.ask(&Message::Publish(publish), |message| *message == Message::Pubrec(1)).await;
        assert_eq!(client.message().await.payload[..], value[..]);
        assert_eq!(sensor.connect(Start::Kept, 60).await, Code::Accepted); // and no PUBREL before it
    }
    let mut publish = sensor.publication(Topic::Short(*b"ok"), Quality::Two, b"4");
    publish.message_id = 1;
    sensor.ask(&Message::Publish(publish), |message| *message == Message::Pubrec(1)).await;
    sensor.ask(&Message::Pubrel(1), |message| *message == Message::Pubcomp(1)).await;
    assert_eq!(client.message().await.payload[..], b"4"[..]);
}
