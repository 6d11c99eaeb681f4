//! Who may publish what, and how a command on `…/set` is acknowledged.

use crate::support;

use std::time::Duration;

use ironbridge::config::plan::Anonymous;
use ironbridge::flow::command::{Admission, Redelivery, Retained, Submitted};
use ironbridge::model::command::Refusal;
use ironbridge::model::tag::TagIx;
use rumqttc::QoS;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use support::*;

async fn operated() -> Running {
    Running::with(Setup { write: vec!["plant/dev0/+/set".to_owned()], ..Setup::default() }).await
}

async fn asked(broker: &mut Running) -> Submitted {
    tokio::time::timeout(PATIENCE, broker.commands.recv()).await.expect("in time").expect("a command")
}

fn set_topic(n: usize) -> String {
    format!("{}/set", tag(n))
}

#[tokio::test]
async fn a_command_is_acknowledged_only_when_it_was_admitted_and_others_do_not_wait_for_it() {
    let mut broker = operated().await;
    let (mut client, mut watcher) = (broker.v5("op").await, broker.v4("watcher").await);
    watcher.subscribe("#", QoS::AtMostOnce).await;
    let mut publish = message(&set_topic(3), 1, "4.2");
    publish.dup = true;
    publish.properties = Some(v5::PublishProperties {
        message_expiry_interval: Some(5),
        response_topic: Some("answers/op".to_owned()),
        correlation_data: Some("abc".into()),
        ..Default::default()
    });
    client.send(v5::Packet::Publish(publish)).await;
    let mut other = message("client/topic", 1, "x");
    other.pkid = 78;
    client.send(v5::Packet::Publish(other)).await;
    // Both are seen by the watcher, and pings are answered, while the journal takes its time.
    assert_eq!(
        (watcher.message().await.topic, watcher.message().await.topic),
        (set_topic(3), "client/topic".to_owned())
    );
    client.ping().await;
    let Submitted { request, admitted } = asked(&mut broker).await;
    assert_eq!((request.tag, &request.payload[..]), (TagIx(3), &b"4.2"[..]));
    assert_eq!(request.origin, "local:anonymous as op", "what a client calls itself is the last");
    assert_eq!((request.retained, request.redelivery), (Retained::No, Redelivery::Again));
    assert_eq!((request.expiry, request.correlation), (Some(Duration::from_secs(5)), Some(b"abc".to_vec())));
    assert_eq!(request.response_topic.as_deref(), Some("answers/op"));
    admitted.send(Admission::Accepted).expect("the broker waits");
    for pkid in [77, 78] {
        assert!(matches!(client.next().await, v5::Packet::PubAck(puback) if puback.pkid == pkid), "in order");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_refused_command_is_told_to_v5_and_acknowledged_to_v311() {
    let mut broker = operated().await;
    let (mut new, mut old) = (broker.v5("n").await, broker.v4("o").await);
    let mut publish = message(&set_topic(3), 1, "4.2");
    publish.retain = true;
    new.send(v5::Packet::Publish(publish)).await;
    let Submitted { request, admitted } = asked(&mut broker).await;
    assert_eq!(request.retained, Retained::Yes);
    admitted.send(Admission::Refused(Refusal::Retained)).expect("the broker waits");
    let v5::Packet::PubAck(puback) = new.next().await else { panic!("a PUBACK") };
    assert_eq!(puback.reason, v5::PubAckReason::ImplementationSpecificError);
    assert_eq!(puback.properties.and_then(|told| told.reason_string).as_deref(), Some("retained"));
    let mut publish = v4::Publish::new(set_topic(3), QoS::AtLeastOnce, "5");
    publish.pkid = 6;
    old.send(v4::Packet::Publish(publish)).await;
    asked(&mut broker).await.admitted.send(Admission::Refused(Refusal::Busy)).expect("the broker waits");
    assert_eq!(old.next().await, v4::Packet::PubAck(v4::PubAck { pkid: 6 }));
    // The retained one was not kept.
    new.subscribe(filter("plant/#", 0), None).await;
    new.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn nobody_writes_the_gateways_topics_and_set_needs_a_rule() {
    let mut broker = operated().await;
    let (mut new, mut old, mut watcher) = (broker.v5("n").await, broker.v4("o").await, broker.v5("w").await);
    watcher.subscribe(filter("#", 0), None).await;
    watcher.subscribe(filter("$forged/#", 0), None).await;
    let result = format!("{}/set/result", tag(1));
    let topics = [&*tag(1), &result, "ironbridge/gw/status", "$forged/x", "plant/dev7/tag701/set", "any/set"];
    for topic in topics {
        assert_eq!(new.publish(message(topic, 1, "forged")).await, v5::PubAckReason::NotAuthorized, "{topic}");
        old.publish(topic, QoS::AtLeastOnce, "forged").await;
        old.publish(topic, QoS::AtMostOnce, "forged").await;
    }
    old.ping().await;
    watcher.ping().await;
    assert_eq!(broker.publisher.stats().publishes_refused.get(), 18);
    assert!(broker.commands.try_recv().is_err());
    broker.stop().await;
}

#[tokio::test]
async fn an_answer_goes_only_where_the_asker_itself_may_write() {
    let mut broker = operated().await;
    let mut client = broker.v5("op").await;
    let result = format!("{}/set/result", tag(1));
    for topic in [&*tag(1), &result, &set_topic(2), "ironbridge/gw/status", "other/set"] {
        let mut publish = message(&set_topic(1), 0, "1");
        let response_topic = Some(topic.to_owned());
        publish.properties = Some(v5::PublishProperties { response_topic, ..Default::default() });
        client.publish(publish).await;
        assert_eq!(asked(&mut broker).await.request.response_topic, None, "{topic}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_listener_for_readers_admits_reading_only_and_one_for_nobody_admits_nobody() {
    let broker = Running::with(Setup { anonymous: Anonymous::Read, ..Setup::default() }).await;
    let mut reader = broker.v5("r").await;
    reader.subscribe(filter("#", 0), None).await;
    assert_eq!(reader.publish(message("client/topic", 1, "x")).await, v5::PubAckReason::NotAuthorized);
    broker.stop().await;

    let write = vec!["#".to_owned()];
    let broker = Running::with(Setup { anonymous: Anonymous::None, write, ..Setup::default() }).await;
    let (_, connack) = Client5::open(broker.address, "x", |_| {}).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::NotAuthorized);
    let (mut old, connack) = Client4::open(broker.address, v4::Connect::new("x")).await;
    assert_eq!(connack.code, v4::ConnectReturnCode::NotAuthorized);
    assert!(old.try_next().await.is_none());
    broker.stop().await;
}

#[tokio::test]
async fn a_will_is_never_a_command_and_never_forges_a_tag() {
    let mut broker = operated().await;
    let mut watcher = broker.v4("w").await;
    watcher.subscribe("#", QoS::AtMostOnce).await;
    for topic in [set_topic(1), tag(1).to_string()] {
        let will = v5::LastWill::new(&topic, "1", rumqttc::v5::mqttbytes::QoS::AtMostOnce, true, None);
        drop(Client5::connect(broker.address, "mortal", |wishes| wishes.will = Some(will)).await);
    }
    until("both wills were refused", || broker.publisher.stats().publishes_refused.get() == 2).await;
    until("both have gone", || broker.publisher.stats().clients.get() == 1).await;
    watcher.ping().await;
    assert!(broker.commands.try_recv().is_err());
    broker.stop().await;
}

#[tokio::test]
async fn commands_without_an_answer_stop_only_their_sender() {
    let mut broker = operated().await;
    let (mut flood, mut other) = (broker.v4("flood").await, broker.v4("other").await);
    for _ in 0..500 {
        flood.publish(&set_topic(1), QoS::AtMostOnce, "1").await;
    }
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(asked(&mut broker).await);
    }
    other.ping().await;
    assert!(broker.commands.try_recv().is_err(), "the flooder is not read any more");
    drop(held);
    asked(&mut broker).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_reach_the_router_in_the_order_in_which_they_were_sent() {
    let mut broker = operated().await;
    let mut client = broker.v4("op").await;
    for round in 0..20 {
        for n in 0..50 {
            client.publish(&set_topic(n % 10), QoS::AtMostOnce, &n.to_string()).await;
        }
        for n in 0..50 {
            let Submitted { request, admitted } = asked(&mut broker).await;
            assert_eq!(request.payload, n.to_string().as_bytes(), "round {round}");
            admitted.send(Admission::Accepted).expect("the broker waits");
        }
    }
    broker.stop().await;
}
