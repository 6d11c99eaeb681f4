//! What an operator may forbid: long contents, high QoS, retained messages, clients without an id; and messages that were
//! left by somebody who may not write there any more.

use std::net::SocketAddr;
use std::sync::Arc;

use ironbridge::config::plan::{AclPlan, Anonymous, BrokerLimits, ListenerPlan};
use rumqttc::QoS;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};

use crate::access::{HASH, login, rule};
use crate::support::{Client4, Client5, Running, Setup, filter, message, tag};

async fn limited(limits: BrokerLimits) -> Running {
    Running::with(Setup { limits, ..Setup::default() }).await
}

fn retained(topic: &str, payload: &str) -> v5::Publish {
    let mut publish = message(topic, 1, payload);
    publish.retain = true;
    publish
}

/// How a CONNECT with this will is answered, in both versions.
async fn with_will(
    address: SocketAddr,
    payload: &str,
    qos: u8,
    retain: bool,
) -> (v5::ConnectReturnCode, v4::ConnectReturnCode) {
    let new = [QoS5::AtMostOnce, QoS5::AtLeastOnce, QoS5::ExactlyOnce][usize::from(qos)];
    let old = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos)];
    let will = v5::LastWill::new("will", payload.to_owned(), new, retain, None);
    let (_, new) = Client5::open(address, "new", |wishes| wishes.will = Some(will)).await;
    let mut connect = v4::Connect::new("old");
    connect.last_will = Some(v4::LastWill::new("will", payload.to_owned(), old, retain));
    let (_, old) = Client4::open(address, connect).await;
    (new.code, old.code)
}

const ADMITTED: (v5::ConnectReturnCode, v4::ConnectReturnCode) =
    (v5::ConnectReturnCode::Success, v4::ConnectReturnCode::Success);

#[tokio::test]
async fn a_content_that_is_too_long_is_not_sent_on_and_its_sender_stays() {
    let broker = limited(BrokerLimits { payload_bytes: 3, ..BrokerLimits::default() }).await;
    let (mut new, mut old, mut reader) = (broker.v5("n").await, broker.v4("o").await, broker.v5("r").await);
    reader.subscribe(filter("m/#", 0), None).await;
    new.send(v5::Packet::Publish(message("m/1", 1, "1234"))).await;
    let v5::Packet::PubAck(puback) = new.next().await else { panic!("a PUBACK") };
    assert_eq!(puback.reason, v5::PubAckReason::QuotaExceeded);
    let told = puback.properties.and_then(|told| told.reason_string).expect("why");
    assert!(told.contains("max_payload_size"), "{told}");
    new.send(v5::Packet::Publish(message("m/2", 2, "1234"))).await;
    let v5::Packet::PubRec(pubrec) = new.next().await else { panic!("a PUBREC") };
    assert_eq!(pubrec.reason, v5::PubRecReason::QuotaExceeded);
    new.publish(message("m/3", 0, "1234")).await;
    old.publish("m/4", QoS::AtMostOnce, "1234").await;
    old.publish("m/5", QoS::AtLeastOnce, "1234").await; // acknowledged all the same, as by mosquitto
    new.ping().await;
    new.publish(message("m/6", 1, "123")).await;
    assert_eq!(reader.message().await.topic, "m/6");
    old.publish("m/7", QoS::AtLeastOnce, "123").await;
    assert_eq!(reader.message().await.topic, "m/7");
    assert_eq!(broker.publisher.stats().publishes_refused.get(), 5);
    let refused = (v5::ConnectReturnCode::PacketTooLarge, v4::ConnectReturnCode::NotAuthorized);
    assert_eq!(with_will(broker.address, "1234", 0, false).await, refused);
    assert_eq!(with_will(broker.address, "123", 2, true).await, ADMITTED);
    broker.stop().await;
}

#[tokio::test]
async fn packets_may_be_held_to_twenty_bytes_and_a_connect_is_not_measured() {
    let broker = limited(BrokerLimits { packet_bytes: 20, ..BrokerLimits::default() }).await;
    let (mut client, connack) = Client5::open(broker.address, &"long".repeat(20), |_| {}).await;
    assert_eq!(connack.properties.expect("properties").max_packet_size, Some(20));
    client.subscribe(filter("a", 1), None).await;
    // 2 + 2 + 1 + 2 + 1 + 12
    client.send(v5::Packet::Publish(message("a", 1, "123456789012"))).await;
    let (mut acked, mut seen) = (false, false);
    while !(acked && seen) {
        match client.next().await {
            v5::Packet::PubAck(_) => acked = true,
            v5::Packet::Publish(publish) => seen = publish.payload.len() == 12,
            other => panic!("unexpected {other:?}"),
        }
    }
    client.send(v5::Packet::Publish(message("a", 1, "1234567890123"))).await;
    assert_eq!(client.disconnected().await, v5::DisconnectReasonCode::PacketTooLarge);
    broker.stop().await;
}

#[tokio::test]
async fn a_door_with_a_maximum_qos_grants_no_more_and_others_are_not_held_to_it() {
    let door = |max_qos| {
        let plain = ListenerPlan::plain(SocketAddr::from(([127, 0, 0, 1], 0)), Anonymous::ReadWrite);
        ListenerPlan { max_qos, ..plain }
    };
    let broker = Running::with(Setup { doors: vec![door(1), door(0), door(2)], ..Setup::default() }).await;
    let addresses: Vec<SocketAddr> = broker.addresses.iter().flatten().copied().collect();
    let mut readers = Vec::new();
    for (address, most) in addresses.iter().zip([Some(1), Some(0), None]) {
        let (mut client, connack) = Client5::open(*address, &format!("{most:?}"), |_| {}).await;
        assert_eq!(connack.properties.expect("properties").max_qos, most);
        let granted = [QoS5::AtMostOnce, QoS5::AtLeastOnce, QoS5::ExactlyOnce][usize::from(most.unwrap_or(2))];
        assert_eq!(client.subscribe(filter("q", 2), None).await, v5::SubscribeReasonCode::Success(granted));
        readers.push((client, granted));
    }
    let mut sender = Client5::connect(addresses[2], "sender", |_| {}).await;
    sender.send(v5::Packet::Publish(message("q", 2, "x"))).await;
    assert!(matches!(sender.next().await, v5::Packet::PubRec(_)));
    for (reader, granted) in &mut readers {
        assert_eq!(reader.message().await.qos, *granted);
    }
    for (place, qos) in [(0, 2), (1, 1)] {
        let mut new = Client5::connect(addresses[place], "new", |_| {}).await;
        new.send(v5::Packet::Publish(message("other", qos, "x"))).await;
        assert_eq!(new.disconnected().await, v5::DisconnectReasonCode::QoSNotSupported);
        let mut old = Client4::connect(addresses[place], "old").await;
        let mut publish = v4::Publish::new("other", QoS::ExactlyOnce, "x");
        publish.pkid = 1;
        old.send(v4::Packet::Publish(publish)).await;
        assert!(old.try_next().await.is_none(), "3.1.1 has no other way to say it");
        let refused = (v5::ConnectReturnCode::QoSNotSupported, v4::ConnectReturnCode::NotAuthorized);
        assert_eq!(with_will(addresses[place], "x", qos, false).await, refused);
    }
    assert_eq!(with_will(addresses[0], "x", 1, false).await, ADMITTED);
    broker.stop().await;
}

#[tokio::test]
async fn where_retained_messages_are_not_available_only_the_gateways_own_are_there() {
    let broker = Running::start().await;
    broker.v5("c").await.publish(retained("kept/before", "x")).await;
    let dir = broker.stop().await;
    let limits = BrokerLimits { retain_available: false, ..BrokerLimits::default() };
    let broker = Running::at(Setup { limits, ..Setup::default() }, dir).await;
    broker.publisher.retain(tag(1), "1".into());
    let (mut new, connack) = Client5::open(broker.address, "new", |_| {}).await;
    assert_eq!(connack.properties.expect("properties").retain_available, Some(0));
    new.subscribe(filter("#", 1), None).await;
    assert_eq!(new.message().await.topic, &*tag(1));
    new.send(v5::Packet::Publish(retained("kept/now", "x"))).await;
    assert_eq!(new.disconnected().await, v5::DisconnectReasonCode::RetainNotSupported);
    let mut old = broker.v4("old").await;
    let mut publish = v4::Publish::new("kept/now", QoS::AtMostOnce, "x");
    publish.retain = true;
    old.send(v4::Packet::Publish(publish)).await;
    assert!(old.try_next().await.is_none());
    let refused = (v5::ConnectReturnCode::RetainNotSupported, v4::ConnectReturnCode::NotAuthorized);
    assert_eq!(with_will(broker.address, "x", 0, true).await, refused);
    assert_eq!(with_will(broker.address, "x", 1, false).await, ADMITTED);
    let dir = broker.stop().await;
    let broker = Running::at(Setup::default(), dir).await;
    assert_eq!(seen_by(&broker, |_| {}).await, ["kept/before"], "what lay on disk was left there");
    broker.stop().await;
}

#[tokio::test]
async fn a_door_that_requires_an_id_gives_none() {
    let plain = ListenerPlan::plain(SocketAddr::from(([127, 0, 0, 1], 0)), Anonymous::ReadWrite);
    let doors = vec![ListenerPlan { require_client_id: true, ..plain.clone() }, plain];
    let broker = Running::with(Setup { doors, ..Setup::default() }).await;
    let (strict, open) = (broker.address, broker.addresses[1].expect("open"));
    let (_, connack) = Client5::open(strict, "", |_| {}).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::UnspecifiedError);
    let told = connack.properties.and_then(|told| told.reason_string).expect("why");
    assert!(told.contains("client id"), "{told}");
    assert_eq!(Client4::open(strict, v4::Connect::new("")).await.1.code, v4::ConnectReturnCode::BadClientId);
    Client5::connect(strict, "an id", |_| {}).await.ping().await;
    Client4::connect(strict, "another").await.ping().await;
    let (_, connack) = Client5::open(open, "", |_| {}).await;
    assert!(connack.properties.is_some_and(|told| told.assigned_client_identifier.is_some()));
    broker.stop().await;
}

/// The topics of all retained messages that a new subscription is sent, sorted.
async fn seen_by(broker: &Running, wish: impl FnOnce(&mut crate::support::Wishes)) -> Vec<String> {
    let mut client = Client5::connect(broker.address, "late", wish).await;
    client.subscribe(filter("#", 0), None).await;
    client.send(v5::Packet::PingReq(v5::PingReq)).await;
    let mut topics = Vec::new();
    while let v5::Packet::Publish(publish) = client.next().await {
        topics.push(String::from_utf8(publish.topic.to_vec()).expect("text"));
    }
    topics.sort();
    topics
}

fn ruled(pump: &[&str]) -> Vec<AclPlan> {
    vec![rule("hmi", &["#"], &["#"]), rule("pump", &[], pump), rule("*", &[], &["of/%c"])]
}

fn users(acl: Vec<AclPlan>) -> Setup {
    let users_file = Some(format!("hmi:{HASH}\npump:{HASH}\n"));
    Setup { anonymous: Anonymous::None, acl, users_file, ..Setup::default() }
}

#[tokio::test]
async fn a_publisher_whose_session_is_taken_from_it_at_that_moment_is_known_all_the_same() {
    let acl = |write: &[&str]| vec![rule("anonymous", &["#"], write)];
    let broker = Running::with(Setup { anonymous: Anonymous::Acl, acl: acl(&["x/#"]), ..Setup::default() }).await;
    let mut held = Vec::new();
    for round in 0..20 {
        let id = format!("same {round}");
        let mut first = broker.v5(&id).await;
        let second = tokio::net::TcpStream::connect(broker.address).await.expect("a connection");
        broker.v5("in between").await.ping().await; // the second one has been taken in by now
        let mut connect = bytes::BytesMut::new();
        v4::Connect::new(id).write(&mut connect).expect("encodable");
        // Both at once; whichever is looked at first.
        second.try_write(&connect).expect("sent");
        first.send(v5::Packet::Publish(retained(&format!("x/{round}"), "x"))).await;
        held.push((first, second));
    }
    broker.v5("in between").await.ping().await;
    broker.access.reload(&ironbridge::config::plan::BrokerPlan { acl: acl(&[]), ..broker.plan.clone() });
    assert_eq!(seen_by(&broker, |_| {}).await, [""; 0]);
    broker.stop().await;
}

#[tokio::test]
async fn what_was_left_by_somebody_who_may_not_write_there_any_more_is_not_sent_to_new_subscriptions() {
    let broker = Running::with(users(ruled(&["x/#", "y"]))).await;
    let mut pump = Client5::connect(broker.address, "p-1", |wishes| {
        login("pump", "password")(wishes);
        wishes.will = Some(v5::LastWill::new("x/will", "x", QoS5::AtMostOnce, true, None));
    })
    .await;
    for topic in ["x/1", "y", "of/p-1"] {
        pump.publish(retained(topic, "x")).await;
    }
    let mut hmi = Client5::connect(broker.address, "h", login("hmi", "password")).await;
    hmi.publish(retained("x/2", "x")).await;
    hmi.subscribe(filter("x/will", 0), None).await;
    drop(pump);
    assert_eq!(hmi.message().await.topic, "x/will");
    let hmi_sees = async |broker: &Running| seen_by(broker, login("hmi", "password")).await;
    assert_eq!(hmi_sees(&broker).await, ["of/p-1", "x/1", "x/2", "x/will", "y"]);
    let reload = |acl| broker.access.reload(&ironbridge::config::plan::BrokerPlan { acl, ..broker.plan.clone() });
    reload(ruled(&["y"]));
    assert_eq!(hmi_sees(&broker).await, ["of/p-1", "x/2", "y"]);
    reload(ruled(&["x/#"]));
    assert_eq!(hmi_sees(&broker).await, ["of/p-1", "x/1", "x/2", "x/will"], "nothing of it was thrown away");
    let dir = broker.stop().await;
    let mut acl = ruled(&["y"]);
    acl.retain(|rule| rule.user != "*");
    let broker = Running::at(users(acl.clone()), Arc::clone(&dir)).await;
    assert_eq!(hmi_sees(&broker).await, ["x/2", "y"], "on disk it stands who has left it");
    hmi = Client5::connect(broker.address, "h", login("hmi", "password")).await;
    hmi.publish(retained("x/1", "by somebody else")).await;
    assert_eq!(hmi_sees(&broker).await, ["x/1", "x/2", "y"]);
    broker.stop().await;
    let limits = BrokerLimits { check_retain_source: false, ..BrokerLimits::default() };
    let broker = Running::at(Setup { limits, ..users(acl) }, dir).await;
    assert_eq!(hmi_sees(&broker).await, ["of/p-1", "x/1", "x/2", "x/will", "y"], "unless it is not to be checked");
    broker.stop().await;
}
