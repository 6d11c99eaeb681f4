//! Sessions that outlive their connections, as the handshakes show them.

use crate::support::*;

use rumqttc::QoS;
use rumqttc::mqttbytes::v4;

/// A 3.1.1 client without `clean_session`; was its session there?
async fn lasting(broker: &Running, id: &str) -> (Client4, bool) {
    let mut connect = v4::Connect::new(id);
    (connect.keep_alive, connect.clean_session) = (0, false);
    let (client, connack) = Client4::open(broker.address, connect).await;
    assert_eq!(connack.code, v4::ConnectReturnCode::Success);
    (client, connack.session_present)
}

/// A whole QoS 2 handshake towards the broker.
async fn publish_exactly_once(client: &mut Client4, topic: &str, pkid: u16) {
    let mut publish = v4::Publish::new(topic, QoS::ExactlyOnce, "two");
    publish.pkid = pkid;
    client.send(v4::Packet::Publish(publish)).await;
    assert_eq!(client.next().await, v4::Packet::PubRec(v4::PubRec { pkid }));
    client.send(v4::Packet::PubRel(v4::PubRel { pkid })).await;
    assert_eq!(client.next().await, v4::Packet::PubComp(v4::PubComp { pkid }));
}

#[tokio::test]
async fn a_clean_publishers_qos_2_handshake_ends_though_the_message_is_owed_to_somebody_who_is_away() {
    let broker = Running::start().await;
    let (mut away, _) = lasting(&broker, "away").await;
    away.subscribe("owed/#", QoS::ExactlyOnce).await;
    away.send(v4::Packet::Disconnect).await;
    assert!(away.try_next().await.is_none());
    let mut sender = broker.v4("sender").await;
    publish_exactly_once(&mut sender, "owed/1", 7).await;
    publish_exactly_once(&mut sender, "owed/2", 7).await;
    let (mut back, present) = lasting(&broker, "away").await;
    assert!(present);
    for topic in ["owed/1", "owed/2"] {
        let seen = back.message().await;
        assert_eq!((seen.topic.as_str(), seen.qos), (topic, QoS::ExactlyOnce));
    }
    broker.stop().await;
}
