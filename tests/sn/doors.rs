//! The door itself: found by those who look for it, hard against strangers, opened and closed by a reload.

use std::net::SocketAddr;
use std::time::Duration;

use ironbridge::broker::sn::{self, Code, Filter, Message, Quality, Start, Topic};
use ironbridge::config::plan::{
    AddressRange, AdvertisePlan, Anonymous, BrokerLimits, MqttSnPlan, Rate, SensorPlan, UnaskedPlan,
};
use rumqttc::mqttbytes::QoS;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::hmi::Hmi;
use crate::sensor::{RETRY, Sensor, broker, broker_with, door, plain, plan};
use crate::support::{PATIENCE, Running, Setup, until};

#[tokio::test]
async fn a_gateway_makes_itself_known_and_answers_who_looks_for_it_not_too_often() {
    let ear = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let to = ear.local_addr().expect("its address");
    let advertise = Some(AdvertisePlan { every: Duration::from_secs(1), to });
    let (_running, gateway, _) = broker_with(MqttSnPlan { advertise, ..plan() }, Setup::default()).await;
    for _ in 0..2 {
        let mut datagram = [0; 64];
        let (length, from) = timeout(PATIENCE, ear.recv_from(&mut datagram)).await.expect("in time").expect("received");
        assert_eq!((&datagram[..length], from), (&b"\x05\x00\x07\x00\x01"[..], gateway), "id 7, every second");
    }
    let sensor = Sensor::new(gateway, "tank-1").await;
    sensor.send(&Message::SearchGateway { radius: 1 }).await;
    assert_eq!(sensor.hear().await, Message::GatewayInfo { gateway_id: 7, address: Vec::new() });
    for _ in 0..1000 {
        sensor.send(&Message::SearchGateway { radius: 1 }).await;
    }
    let mut answers = 0;
    while timeout(Duration::from_millis(100), sensor.hear()).await.is_ok() {
        answers += 1;
    }
    assert!((50..700).contains(&answers), "{answers} answers to 1000 questions");
}

#[tokio::test]
async fn a_flood_of_nonsense_is_counted_and_neither_sensors_nor_clients_notice() {
    let (running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("ok", QoS::AtMostOnce).await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    sensor.again = RETRY; // the kernel has no room for all of it
    let flood = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    for n in 0..5000u32 {
        let [a, b, ..] = n.to_le_bytes();
        let nonsense = [a, b, 0, 9, 2, 3, 4, 5]; // a CONNECT among them is of no protocol that there is
        flood.send_to(&nonsense[..usize::from(a % 9)], gateway).await.expect("sent");
    }
    assert_eq!(sensor.publish(Topic::Short(*b"ok"), Quality::Two, b"1").await, Code::Accepted);
    assert_eq!(client.message().await.topic, "ok");
    let stats = &running.publisher.stats().sensors;
    assert!(stats.bad.get() > 200 && stats.sent.get() < 500, "{stats:?}");
    assert_eq!(running.publisher.stats().clients.get(), 2);
}

#[tokio::test]
async fn a_stranger_is_told_to_connect_with_less_than_it_sent_and_gateways_do_not_talk_to_each_other() {
    let (running, gateway, _) = broker().await;
    let mut stranger = Sensor::new(gateway, "tank-1").await;
    let publish = stranger.publication(Topic::Short(*b"ok"), Quality::One, b"");
    for message in [Message::Publish(publish), Message::Ping(None), Message::Disconnect(Some(9))] {
        let length = sn::write(&message).len();
        stranger.send(&message).await;
        let answer = stranger.hear().await;
        assert_eq!(answer, Message::Disconnect(None));
        assert!(sn::write(&answer).len() <= length);
    }
    for message in [Message::Disconnect(None), Message::Pong, Message::Advertise { gateway_id: 9, duration: 9 }] {
        stranger.send(&message).await;
    }
    until("they have come", || running.publisher.stats().sensors.received.get() == 6).await;
    assert!(timeout(Duration::from_millis(100), stranger.hear()).await.is_err(), "no answer");
}

#[tokio::test]
async fn only_listed_ids_from_listed_networks_are_let_in_and_a_full_door_says_so() {
    let from = |text: &str| vec![AddressRange::parse(text).expect("a network")];
    let sensor = |id: &str, networks| SensorPlan { client_id: id.to_owned(), user: None, from: networks };
    let sensors =
        vec![sensor("near", from("127.0.0.0/8")), sensor("far", from("10.0.0.0/8")), sensor("t-*", Vec::new())];
    let limits = BrokerLimits { connections: 6, rate: Rate(1000), ..BrokerLimits::default() };
    let doors = vec![door(MqttSnPlan { sensors, ..plan() }, Anonymous::None), plain(Anonymous::Read)];
    let running = Running::with(Setup { doors, limits, ..Setup::default() }).await;
    let gateway = running.addresses[0].expect("open");
    let mut stay = Vec::new();
    for (id, code) in [
        ("near", Code::Accepted),
        ("far", Code::NotSupported),
        ("", Code::NotSupported),
        ("t-1", Code::Accepted),
        ("x-1", Code::NotSupported),
        ("t-2", Code::Accepted),
        ("t-3", Code::Congestion),
    ] {
        let mut sensor = Sensor::new(gateway, id).await;
        assert_eq!(sensor.connect(Start::Clean, 60).await, code, "{id}");
        stay.push(sensor);
    }
    stay[0].goodbye().await;
    while stay[6].connect(Start::Clean, 60).await == Code::Congestion {}
    assert_eq!(running.publisher.stats().clients.get(), 3);
}

#[tokio::test]
async fn sensors_behind_a_forwarder_are_kept_apart_by_their_nodes() {
    let (running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let forwarder = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let hear = async || {
        let mut datagram = [0; 256];
        let received = timeout(PATIENCE, forwarder.recv_from(&mut datagram)).await.expect("in time");
        let (length, _) = received.expect("received");
        let (node, inner) = sn::open(&datagram[..length]).expect("an envelope");
        (node.expect("a node").to_vec(), sn::read(inner).expect("a message"))
    };
    let say = async |node: &[u8], message: &Message| {
        forwarder.send_to(&sn::enclose(node, &sn::write(message)), gateway).await.expect("sent");
    };
    for (node, id) in [(&b"\x01\x02"[..], "tank-1"), (b"\x01\x03", "tank-2")] {
        let sensor = Sensor::new(gateway, id).await;
        say(node, &sensor.hello(Start::Clean, 60)).await;
        assert_eq!(hear().await, (node.to_vec(), Message::Connack(Code::Accepted)));
    }
    assert_eq!(running.publisher.stats().clients.get(), 3);
    let filter = Filter::Short(*b"go");
    let subscribe = Message::Subscribe { again: sn::Again::No, quality: Quality::Zero, message_id: 1, filter };
    say(b"\x01\x03", &subscribe).await;
    assert!(matches!(hear().await.1, Message::Suback { code: Code::Accepted, .. }));
    client.publish("go", QoS::AtMostOnce, b"1").await;
    let (node, message) = hear().await;
    assert!(node == b"\x01\x03" && matches!(message, Message::Publish(_)));
}

#[tokio::test]
async fn a_door_that_is_closed_tells_its_sensors_and_its_port_is_free_for_the_next_at_once() {
    let (running, gateway, _) = broker().await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    let same = |plan: MqttSnPlan, address: SocketAddr| {
        let listen = ironbridge::config::plan::Listen::Udp(address);
        ironbridge::config::plan::ListenerPlan { listen, ..door(plan, Anonymous::ReadWrite) }
    };
    let changed = MqttSnPlan { gateway_id: 9, ..plan() };
    running.control.listen(vec![same(changed, gateway)]).await;
    sensor.told_to_go().await;
    assert!(running.control.doors().iter().all(|(_, open)| *open), "it is open again");
    assert_eq!(sensor.connect(Start::Clean, 60).await, Code::Accepted);
    running.control.listen(vec![plain(Anonymous::Read)]).await;
    sensor.told_to_go().await;
    until("the port is free", || std::net::UdpSocket::bind(gateway).is_ok()).await;
}

#[tokio::test]
async fn when_the_gateway_stops_sensors_are_told() {
    let (running, gateway, _) = broker().await;
    let sensor = Sensor::connected(gateway, "tank-1").await;
    running.stop.begin();
    running.end.cancel();
    sensor.told_to_go().await;
}

#[tokio::test]
async fn what_is_longer_than_a_datagram_may_be_is_not_sent_and_counted() {
    let (running, gateway, mqtt) = broker_with(MqttSnPlan { datagram_bytes: 128, ..plan() }, Setup::default()).await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    sensor.subscribe(Filter::Short(*b"go"), Quality::One).await;
    client.publish("go", QoS::AtLeastOnce, &[b'x'; 200]).await;
    client.publish("go", QoS::AtLeastOnce, &[b'y'; 100]).await;
    assert_eq!(sensor.next().await.payload, [b'y'; 100]);
    assert_eq!(running.publisher.stats().dropped_too_large.get(), 1);
    let long = sensor.publication(Topic::Short(*b"ok"), Quality::Zero, &[b'z'; 200]);
    sensor.send(&Message::Publish(long)).await;
    until("it is counted", || running.publisher.stats().sensors.bad.get() == 1).await;
}

#[tokio::test]
async fn a_burst_from_one_sensor_loses_nothing_at_qos_0_in_a_gateway_that_has_time() {
    let (running, gateway, mqtt) = broker().await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("ok", QoS::AtMostOnce).await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    for n in 0..100u8 {
        let value = sensor.publication(Topic::Short(*b"ok"), Quality::Zero, &[n]);
        sensor.send(&Message::Publish(value)).await; // nobody else has a turn meanwhile
    }
    for n in 0..100u8 {
        assert_eq!(client.message().await.payload[..], [n]);
    }
    assert_eq!(running.publisher.stats().sensors.crowded.get(), 0);
}

#[tokio::test]
async fn a_content_that_is_never_taken_is_refused_for_good_at_every_qos_and_counted() {
    let limits = BrokerLimits { payload_bytes: 256, ..BrokerLimits::default() };
    let (running, gateway, _) = broker_with(plan(), Setup { limits, ..Setup::default() }).await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    for quality in [Quality::Zero, Quality::One, Quality::Two] {
        let publish = sensor.publication(Topic::Short(*b"ok"), quality, &[b'x'; 300]);
        let (topic_id, message_id) = (u16::from_be_bytes(*b"ok"), publish.message_id);
        let refused = Message::Puback { topic_id, message_id, code: Code::NotSupported };
        sensor.ask(&Message::Publish(publish), |message| *message == refused).await;
    }
    assert_eq!(running.publisher.stats().publishes_refused.get(), 3);
    assert_eq!(sensor.publish(Topic::Short(*b"ok"), Quality::One, &[b'x'; 256]).await, Code::Accepted);
}

#[tokio::test]
async fn a_datagram_that_the_door_takes_is_no_packet_that_is_too_long() {
    let limits = BrokerLimits { packet_bytes: 128, ..BrokerLimits::default() };
    let publish = Some(UnaskedPlan { user: "tanks".to_owned(), from: Vec::new() });
    let plan = MqttSnPlan { publish, topics: vec![(1, "x".repeat(1000))], ..plan() };
    let (running, gateway, mqtt) = broker_with(plan, Setup { limits, ..Setup::default() }).await;
    let mut client = Hmi::connect(mqtt, "hmi").await;
    client.subscribe("#", QoS::AtMostOnce).await;
    let mut sensor = Sensor::connected(gateway, "tank-1").await;
    for quality in [Quality::Unasked, Quality::One] {
        for topic in [Topic::Predefined(1), Topic::Short(*b"ok")] {
            let publish = sensor.publication(topic, quality, &[b'x'; 1300]);
            sensor.send(&Message::Publish(publish)).await;
            assert_eq!(client.message().await.payload.len(), 1300, "{quality:?} {topic:?}");
        }
    }
    assert_eq!(running.publisher.stats().sensors.unasked_refused.get(), 0);
}
