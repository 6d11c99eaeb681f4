//! Sessions that outlive their connections, as the handshakes show them.

use crate::support::*;

use ironbridge::config::plan::SessionsPlan;
use rumqttc::QoS;
use rumqttc::mqttbytes::v4;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
async fn a_client_is_as_fast_as_the_disk_though_all_it_has_under_way_is_more_than_may_wait_for_one_commit() {
    const BYTES: usize = 900_000;
    let sessions = SessionsPlan { session_max_size: 1 << 30, sessions_max_size: 1 << 30, ..SessionsPlan::default() };
    let broker = Running::with(Setup { sessions, ..Setup::default() }).await;
    let (mut away, _) = lasting(&broker, "away").await;
    away.subscribe("owed", QoS::AtLeastOnce).await;
    away.send(v4::Packet::Disconnect).await;
    assert!(away.try_next().await.is_none());
    let sender = broker.v4("sender").await;
    let (mut reader, mut writer) = sender.stream.into_split();
    let sends = tokio::spawn(async move {
        for pkid in 1..=64 {
            let mut publish = v4::Publish::new("owed", QoS::AtLeastOnce, vec![b'x'; BYTES]);
            publish.pkid = pkid;
            let mut bytes = bytes::BytesMut::new();
            publish.write(&mut bytes).expect("encodable");
            writer.write_all(&bytes).await.expect("it is heard in the end");
        }
        writer
    });
    for pkid in 1..=64 {
        let mut puback = [0; 4];
        let read = tokio::time::timeout(PATIENCE, reader.read_exact(&mut puback)).await;
        read.expect("in time").expect("nobody is thrown out for being faster than the disk");
        assert_eq!(puback, [0x40, 2, 0, pkid]);
    }
    drop(sends.await.expect("all sent"));
    let (mut back, _) = lasting(&broker, "away").await;
    for n in 1..=64 {
        let seen = back.message().await;
        assert_eq!(seen.payload.len(), BYTES, "{n}");
        back.send(v4::Packet::PubAck(v4::PubAck { pkid: seen.pkid })).await;
    }
    broker.stop().await;
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
