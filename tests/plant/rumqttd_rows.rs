//! Why rumqttd is the cloud and not the plant's door: two of its limits, shown against the version in use.
//!
//! Should one of these fail one day, rumqttd has changed and the decision for a broker of our own is due for another look.
#![cfg(feature = "demo")]

use std::time::Duration;

use ironbridge::plant::cloud::broker;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::time::timeout;

/// Nothing takes this long, on a busy machine either.
const PATIENCE: Duration = Duration::from_secs(60);

fn client(id: &str, address: std::net::SocketAddr) -> (AsyncClient, EventLoop) {
    AsyncClient::new(MqttOptions::new(id, address.ip().to_string(), address.port()), 10)
}

async fn until(events: &mut EventLoop, wanted: impl Fn(&Packet) -> bool) {
    loop {
        if let Event::Incoming(packet) = events.poll().await.expect("broker")
            && wanted(&packet)
        {
            return;
        }
    }
}

#[tokio::test]
async fn a_topic_that_begins_with_a_letter_beyond_ascii_still_kills_rumqttd() {
    let address = broker::start().await.expect("broker");
    let (subscriber, mut events) = client("any", address);
    subscriber.subscribe("+/x", QoS::AtMostOnce).await.expect("asked");
    until(&mut events, |packet| matches!(packet, Packet::SubAck(_))).await;

    let (publisher, mut sent) = client("fatal", address);
    publisher.publish("é/x", QoS::AtLeastOnce, false, "1").await.expect("queued");
    let answered = timeout(PATIENCE, until_ack(&mut sent)).await;
    assert_eq!(answered, Ok(false), "rumqttd has survived such a topic, or is only slow");

    // It let one in before; who comes now waits in vain, and how long is for it to choose.
    let (_other, mut knocking) = client("other", address);
    let welcome = timeout(Duration::from_secs(10), knocking.poll()).await;
    assert!(!matches!(welcome, Ok(Ok(_))), "rumqttd still lets clients in: {welcome:?}");
}

/// True once a PUBACK came, false when the connection broke.
async fn until_ack(events: &mut EventLoop) -> bool {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

#[tokio::test]
async fn of_a_thousand_retained_values_rumqttd_still_delivers_two_hundred() {
    let address = broker::start().await.expect("broker");
    let (publisher, mut sent) = client("publisher", address);
    let acknowledged = tokio::spawn(async move {
        for _ in 0..1000 {
            until(&mut sent, |packet| matches!(packet, Packet::PubAck(_))).await;
        }
    });
    for number in 0..1000 {
        publisher.publish(format!("tag/{number}"), QoS::AtLeastOnce, true, "1").await.expect("queued");
    }
    acknowledged.await.expect("all acknowledged");

    let (subscriber, mut events) = client("subscriber", address);
    subscriber.subscribe("tag/#", QoS::AtMostOnce).await.expect("asked");
    let mut delivered = 0;
    while let Ok(event) = timeout(Duration::from_secs(1), events.poll()).await {
        if matches!(event.expect("broker"), Event::Incoming(Packet::Publish(_))) {
            delivered += 1;
        }
    }
    assert_eq!(delivered, 200, "rumqttd delivers another number of retained values now");
}
