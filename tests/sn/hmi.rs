//! An MQTT client that finishes every handshake.

use std::net::SocketAddr;

use rumqttc::mqttbytes::{QoS, v4};

use super::support::Client4;

pub struct Hmi(Client4);

impl Hmi {
    pub async fn connect(mqtt: SocketAddr, id: &str) -> Self {
        Self(Client4::connect(mqtt, id).await)
    }

    pub async fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.0.subscribe(filter, qos).await;
    }

    /// The next message; acknowledged.
    pub async fn message(&mut self) -> v4::Publish {
        loop {
            match self.0.next().await {
                v4::Packet::Publish(publish) => {
                    match publish.qos {
                        QoS::AtMostOnce => {}
                        QoS::AtLeastOnce => self.0.send(v4::Packet::PubAck(v4::PubAck::new(publish.pkid))).await,
                        QoS::ExactlyOnce => self.0.send(v4::Packet::PubRec(v4::PubRec::new(publish.pkid))).await,
                    }
                    return publish;
                }
                v4::Packet::PubRel(release) => self.0.send(v4::Packet::PubComp(v4::PubComp::new(release.pkid))).await,
                other => panic!("a PUBLISH, not {other:?}"),
            }
        }
    }

    pub async fn publish(&mut self, topic: &str, qos: QoS, payload: &[u8]) {
        self.say(v4::Publish::new(topic, qos, payload)).await;
    }

    /// As [`Hmi::publish`], to be kept.
    pub async fn retain(&mut self, topic: &str, payload: &[u8]) {
        let publish = v4::Publish::new(topic, QoS::AtLeastOnce, payload);
        self.say(v4::Publish { retain: true, ..publish }).await;
    }

    async fn say(&mut self, mut publish: v4::Publish) {
        let qos = publish.qos;
        publish.pkid = 78;
        self.0.send(v4::Packet::Publish(publish)).await;
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => assert!(matches!(self.0.next().await, v4::Packet::PubAck(_))),
            QoS::ExactlyOnce => {
                assert!(matches!(self.0.next().await, v4::Packet::PubRec(_)));
                self.0.send(v4::Packet::PubRel(v4::PubRel::new(78))).await;
                assert!(matches!(self.0.next().await, v4::Packet::PubComp(_)));
            }
        }
    }

    /// A round trip.
    pub async fn ping(&mut self) {
        self.0.ping().await;
    }
}
