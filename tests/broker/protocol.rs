//! MQTT 3.1.1 and 5 on one port, as a client sees it.

use crate::support;

use std::time::Duration;

use rumqttc::QoS;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};
use support::*;

#[tokio::test]
async fn both_versions_talk_to_each_other_on_one_port_at_every_qos() {
    let broker = Running::start().await;
    let mut old = broker.v4("a/b+#").await;
    let mut new = broker.v5("é").await;
    old.subscribe("x/é/#", QoS::ExactlyOnce).await;
    assert_eq!(new.subscribe(filter("x/é/+", 2), None).await, v5::SubscribeReasonCode::Success(QoS5::ExactlyOnce));
    new.publish(message("x/é/1", 0, "zero")).await;
    assert_eq!(new.message().await.payload, "zero");
    assert_eq!(old.message().await.topic, "x/é/1");
    new.send(v5::Packet::Publish(message("x/é/1", 1, "one"))).await;
    let (mut acked, mut mine) = (false, None);
    while !acked || mine.is_none() {
        match new.next().await {
            v5::Packet::PubAck(puback) => acked = puback.pkid == 77,
            v5::Packet::Publish(publish) => mine = Some(publish),
            other => panic!("unexpected {other:?}"),
        }
    }
    let seen = old.message().await;
    assert_eq!((seen.qos, &seen.payload[..]), (QoS::AtLeastOnce, &b"one"[..]));
    old.publish("x/é/2", QoS::AtMostOnce, "back").await;
    assert_eq!(new.message().await.payload, "back");
    broker.stop().await;
}

#[tokio::test]
async fn qos_2_is_delivered_once_through_the_whole_handshake() {
    let broker = Running::start().await;
    let (mut sender, mut reader) = (broker.v4("s").await, broker.v5("r").await);
    reader.subscribe(filter("q", 2), None).await;
    let mut publish = v4::Publish::new("q", QoS::ExactlyOnce, "two");
    publish.pkid = 5;
    for dup in [false, true] {
        publish.dup = dup;
        sender.send(v4::Packet::Publish(publish.clone())).await;
        assert_eq!(sender.next().await, v4::Packet::PubRec(v4::PubRec { pkid: 5 }));
    }
    sender.send(v4::Packet::PubRel(v4::PubRel { pkid: 5 })).await;
    assert_eq!(sender.next().await, v4::Packet::PubComp(v4::PubComp { pkid: 5 }));
    let seen = reader.message().await;
    assert_eq!((seen.qos, seen.dup), (QoS5::ExactlyOnce, false));
    reader.send(v5::Packet::PubRec(v5::PubRec::new(seen.pkid, None))).await;
    assert!(matches!(reader.next().await, v5::Packet::PubRel(pubrel) if pubrel.pkid == seen.pkid));
    reader.send(v5::Packet::PubComp(v5::PubComp::new(seen.pkid, None))).await;
    reader.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn v5_properties_reach_v5_subscribers_and_v311_ones_get_the_bare_message() {
    let broker = Running::start().await;
    let (mut old, mut new, mut sender) = (broker.v4("o").await, broker.v5("n").await, broker.v5("s").await);
    old.subscribe("p", QoS::AtMostOnce).await;
    new.subscribe(filter("p", 0), None).await;
    let properties = v5::PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(100),
        topic_alias: Some(4),
        response_topic: Some("answer".to_owned()),
        correlation_data: Some("7".into()),
        user_properties: vec![("k".to_owned(), "v".to_owned())],
        content_type: Some("text".to_owned()),
        subscription_identifiers: Vec::new(),
    };
    let mut publish = message("p", 0, "x");
    publish.properties = Some(properties.clone());
    sender.publish(publish.clone()).await;
    publish.topic = "".into();
    sender.publish(publish).await;
    for _ in 0..2 {
        let seen = new.message().await;
        assert_eq!(seen.topic, "p");
        assert_eq!(seen.properties, Some(v5::PublishProperties { topic_alias: None, ..properties.clone() }));
        assert_eq!(old.message().await.payload, "x");
    }
    broker.stop().await;
}

#[tokio::test]
async fn whoever_comes_with_the_same_id_takes_over_and_the_will_is_sent() {
    let broker = Running::start().await;
    let mut watcher = broker.v4("watcher").await;
    watcher.subscribe("will/#", QoS::AtMostOnce).await;
    let will = |name: &str| v5::LastWill::new(format!("will/{name}"), "gone", QoS5::AtLeastOnce, true, None);
    let mut first = Client5::connect(broker.address, "same", |wishes| wishes.will = Some(will("first"))).await;
    let second = Client5::connect(broker.address, "same", |wishes| wishes.will = Some(will("second"))).await;
    assert_eq!(first.disconnected().await, v5::DisconnectReasonCode::SessionTakenOver);
    assert_eq!(watcher.message().await.topic, "will/first");
    drop(second);
    assert_eq!(watcher.message().await.topic, "will/second");
    let mut third = Client5::connect(broker.address, "same", |wishes| wishes.will = Some(will("third"))).await;
    third.stream.try_write(&[0xE0, 0]).expect("a DISCONNECT of length 0");
    assert!(third.try_next().await.is_none());
    watcher.ping().await;
    let mut late = broker.v4("late").await;
    late.subscribe("will/second", QoS::AtMostOnce).await;
    assert!(late.message().await.retain);
    broker.stop().await;
}

#[tokio::test]
async fn a_delayed_will_is_called_back_by_a_client_that_returns_and_sent_otherwise() {
    let broker = Running::start().await;
    let mut watcher = broker.v4("watcher").await;
    watcher.subscribe("will", QoS::AtMostOnce).await;
    let properties = v5::LastWillProperties {
        delay_interval: Some(2),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    let wish = |text: &'static str| {
        let properties = properties.clone();
        move |wishes: &mut Wishes| {
            wishes.will = Some(v5::LastWill::new("will", text, QoS5::AtMostOnce, false, Some(properties)));
            wishes.properties.session_expiry_interval = Some(60);
            wishes.connect.clean_start = false;
        }
    };
    let (client, connack) = Client5::open(broker.address, "c", wish("first")).await;
    assert_eq!(connack.properties.and_then(|properties| properties.session_expiry_interval), None, "as it asked for");
    drop(client);
    until("the client has gone", || broker.publisher.stats().clients.get() == 1).await;
    drop(Client5::connect(broker.address, "c", wish("second")).await);
    assert_eq!(watcher.message().await.payload, "second");
    broker.stop().await;
}

#[tokio::test]
async fn overlapping_subscriptions_give_one_message_with_the_highest_qos_and_all_identifiers() {
    let broker = Running::start().await;
    let mut client = broker.v5("c").await;
    client.subscribe(filter("a/#", 0), Some(3)).await;
    client.subscribe(filter("a/b", 1), Some(300)).await;
    broker.publisher.publish("a/b".into(), "x".into());
    let seen = client.message().await;
    assert_eq!(seen.qos, QoS5::AtLeastOnce);
    let mut ids = seen.properties.expect("identifiers").subscription_identifiers;
    ids.sort_unstable();
    assert_eq!(ids, [3, 300]);
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn no_local_retain_as_published_and_retain_handling_do_as_they_say() {
    let broker = Running::start().await;
    let mut client = broker.v5("c").await;
    let mut keep = message("r", 1, "kept");
    keep.retain = true;
    client.publish(keep.clone()).await;
    let with = |handling, as_published, no_local| {
        let mut wanted = filter("r", 0);
        wanted.retain_forward_rule = handling;
        wanted.preserve_retain = as_published;
        wanted.nolocal = no_local;
        wanted
    };
    client.subscribe(with(v5::RetainForwardRule::Never, false, true), None).await;
    client.ping().await;
    client.subscribe(with(v5::RetainForwardRule::OnNewSubscribe, false, true), None).await;
    client.ping().await;
    client.subscribe(with(v5::RetainForwardRule::OnEverySubscribe, false, true), None).await;
    assert!(client.message().await.retain);
    client.publish(message("r", 0, "mine")).await;
    client.ping().await;
    client.subscribe(with(v5::RetainForwardRule::Never, true, false), None).await;
    keep.qos = QoS5::AtMostOnce;
    client.send(v5::Packet::Publish(keep)).await;
    assert!(client.message().await.retain, "as published");
    client.subscribe(with(v5::RetainForwardRule::Never, false, false), None).await;
    let mut clear = message("r", 0, "");
    clear.retain = true;
    client.send(v5::Packet::Publish(clear)).await;
    assert!(!client.message().await.retain);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_wants_nothing_of_its_own_is_not_owed_its_own_will() {
    let broker = Running::start().await;
    let mut watch = broker.v5("watch").await;
    watch.subscribe(filter("w", 1), None).await;
    let lasting = |will: bool| {
        move |wishes: &mut Wishes| {
            (wishes.connect.clean_start, wishes.properties.session_expiry_interval) = (false, Some(1000));
            wishes.will = will.then(|| v5::LastWill::new("w", "gone", QoS5::AtLeastOnce, false, None));
        }
    };
    let mut client = Client5::connect(broker.address, "c", lasting(true)).await;
    client.subscribe(v5::Filter { nolocal: true, ..filter("w", 1) }, None).await;
    drop(client);
    assert_eq!(watch.message().await.payload, "gone");
    let (mut client, connack) = Client5::open(broker.address, "c", lasting(false)).await;
    assert!(connack.session_present);
    client.ping().await;
    let mut other = broker.v5("other").await;
    assert_eq!(other.publish(message("w", 1, "of another")).await, v5::PubAckReason::Success);
    assert_eq!(client.message().await.payload, "of another");
    broker.stop().await;
}

#[tokio::test]
async fn a_shared_subscription_gives_each_message_to_one_member() {
    let broker = Running::start().await;
    let (mut one, mut two) = (broker.v5("one").await, broker.v5("two").await);
    for client in [&mut one, &mut two] {
        client.subscribe(filter("$share/g/jobs/#", 1), None).await;
    }
    for n in 0..10 {
        broker.publisher.publish("jobs/x".into(), n.to_string().into());
    }
    for client in [&mut one, &mut two] {
        for _ in 0..5 {
            let seen = client.message().await;
            client.send(v5::Packet::PubAck(v5::PubAck::new(seen.pkid, None))).await;
        }
        client.ping().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn unsubscribing_from_what_was_never_subscribed_is_answered() {
    let broker = Running::start().await;
    let (mut new, mut old) = (broker.v5("n").await, broker.v4("o").await);
    new.subscribe(filter("a", 0), None).await;
    let filters = vec!["a".to_owned(), "b".to_owned(), "c#".to_owned()];
    new.send(v5::Packet::Unsubscribe(v5::Unsubscribe { pkid: 3, filters, properties: None })).await;
    let v5::Packet::UnsubAck(unsuback) = new.next().await else { panic!("an UNSUBACK") };
    let (none, bad) = (v5::UnsubAckReason::NoSubscriptionExisted, v5::UnsubAckReason::TopicFilterInvalid);
    assert_eq!(unsuback.reasons, [v5::UnsubAckReason::Success, none, bad]);
    old.send(v4::Packet::Unsubscribe(v4::Unsubscribe { pkid: 4, topics: vec!["b".to_owned()] })).await;
    assert_eq!(old.next().await, v4::Packet::UnsubAck(v4::UnsubAck { pkid: 4 }));
    broker.publisher.publish("a".into(), "x".into());
    new.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_clients_receive_maximum_and_packet_size_are_kept() {
    let broker = Running::start().await;
    let mut client = Client5::connect(broker.address, "c", |wishes| {
        wishes.properties.receive_maximum = Some(1);
        wishes.properties.max_packet_size = Some(100);
    })
    .await;
    client.subscribe(filter("#", 1), None).await;
    broker.publisher.publish("a".into(), vec![b'x'; 200].into());
    broker.publisher.publish("a".into(), "1".into());
    broker.publisher.publish("a".into(), "2".into());
    let first = client.message().await;
    assert_eq!(first.payload, "1", "the long one is skipped");
    client.ping().await;
    client.send(v5::Packet::PubAck(v5::PubAck::new(first.pkid, None))).await;
    assert_eq!(client.message().await.payload, "2");
    assert_eq!(broker.publisher.stats().dropped_too_large.get(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn an_expired_message_is_not_sent_and_a_living_one_says_how_long_it_has() {
    let broker = Running::start().await;
    let mut client = broker.v5("c").await;
    for (topic, seconds) in [("e/short", 1), ("e/long", 1000)] {
        let mut publish = message(topic, 1, "x");
        publish.retain = true;
        let interval = Some(seconds);
        publish.properties = Some(v5::PublishProperties { message_expiry_interval: interval, ..Default::default() });
        client.publish(publish).await;
    }
    until("the short one has expired", || broker.publisher.stats().dropped_expired.get() == 1).await;
    client.subscribe(filter("e/#", 0), None).await;
    let seen = client.message().await;
    let left = seen.properties.and_then(|properties| properties.message_expiry_interval).expect("an interval");
    assert!(seen.topic == "e/long" && (900..=1000).contains(&left), "{left}");
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_falls_silent_is_disconnected_and_keep_alive_zero_is_not() {
    let broker = Running::start().await;
    let mut patient = broker.v4("patient").await;
    let mut silent = Client5::connect(broker.address, "silent", |wishes| wishes.connect.keep_alive = 1).await;
    let before = std::time::Instant::now();
    assert_eq!(silent.disconnected().await, v5::DisconnectReasonCode::KeepAliveTimeout);
    assert!(before.elapsed() > Duration::from_millis(1400));
    patient.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn an_id_is_assigned_where_none_was_given_and_refused_where_it_must_not_be_missing() {
    let broker = Running::start().await;
    let (_client, connack) = Client5::open(broker.address, "", |_| {}).await;
    let assigned = connack.properties.expect("properties").assigned_client_identifier.expect("an id");
    assert!(assigned.starts_with("auto-"), "{assigned}");
    let mut connect = v4::Connect::new("");
    let (_client, connack) = Client4::open(broker.address, connect.clone()).await;
    assert_eq!((connack.code, connack.session_present), (v4::ConnectReturnCode::Success, false));
    connect.clean_session = false;
    let (_client, connack) = Client4::open(broker.address, connect).await;
    assert_eq!(connack.code, v4::ConnectReturnCode::BadClientId);
    broker.stop().await;
}

#[tokio::test]
async fn a_stop_is_told_to_everyone_after_what_was_waiting_and_the_doors_are_shut_before() {
    let broker = Running::start().await;
    let (mut new, mut old) = (broker.v5("n").await, broker.v4("o").await);
    new.subscribe(filter("#", 0), None).await;
    old.subscribe("#", QoS::AtMostOnce).await;
    broker.stop.begin();
    let mut refused = false;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !refused && tokio::time::Instant::now() < deadline {
        refused = tokio::net::TcpStream::connect(broker.address).await.is_err();
        tokio::task::yield_now().await;
    }
    assert!(refused, "doors are shut");
    new.ping().await;
    broker.publisher.publish("last/words".into(), "x".into());
    broker.end.cancel();
    assert_eq!(new.message().await.topic, "last/words");
    assert_eq!(new.disconnected().await, v5::DisconnectReasonCode::ServerShuttingDown);
    assert_eq!(old.message().await.topic, "last/words");
    assert!(old.try_next().await.is_none());
    broker.stop().await;
}
