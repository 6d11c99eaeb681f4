//! The misbehaving broker's packets in both versions.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4::{self, Connect, ConnectReturnCode, LastWill};
use rumqttc::mqttbytes::{Error, Protocol, QoS};
use rumqttc::v5::mqttbytes::Error as Error5;
use rumqttc::v5::mqttbytes::v5::{self, ConnAckProperties, ConnectProperties, PublishProperties, RetainForwardRule};

use super::Arrived;

const PACKET_MAX: usize = 1 << 24;

/// What a client may send.
pub enum In {
    Connect(Connect, Option<ConnectProperties>),
    Publish(PublishIn),
    /// Filters, and of MQTT 5 what each asks for of what is retained.
    Subscribe(u16, Vec<(String, Option<RetainForwardRule>)>),
    Unsubscribe(u16, Vec<String>),
    PubAck(u16),
    Ping,
    Disconnect,
}

pub struct PublishIn {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub dup: bool,
    pub qos: QoS,
    pub id: u16,
    pub properties: Option<PublishProperties>,
}

/// The protocol level in a CONNECT that has arrived so far: after the fixed header, "MQTT" with its length.
pub fn protocol_of(bytes: &[u8]) -> Option<Protocol> {
    let length = 1 + bytes.get(1..)?.iter().position(|byte| byte & 0x80 == 0)?;
    match bytes.get(length + 7)? {
        4 => Some(Protocol::V4),
        5 => Some(Protocol::V5),
        other => panic!("the client asks for protocol level {other}"),
    }
}

pub fn read(version: Protocol, buffer: &mut BytesMut) -> Result<In, Error> {
    match version {
        Protocol::V4 => v4::Packet::read(buffer, PACKET_MAX).map(of_v4),
        Protocol::V5 if buffer.starts_with(&[0xE0, 0]) => {
            let _ = buffer.split_to(2);
            Ok(In::Disconnect)
        }
        Protocol::V5 => match v5::Packet::read(buffer, Some(u32::try_from(PACKET_MAX).unwrap())) {
            Ok(packet) => Ok(of_v5(packet)),
            Err(Error5::InsufficientBytes(more)) => Err(Error::InsufficientBytes(more)),
            Err(other) => panic!("the client sent nonsense: {other:?}"),
        },
    }
}

fn of_v4(packet: v4::Packet) -> In {
    match packet {
        v4::Packet::Connect(connect) => In::Connect(connect, None),
        v4::Packet::Publish(publish) => In::Publish(PublishIn {
            topic: publish.topic,
            payload: publish.payload.to_vec(),
            retain: publish.retain,
            dup: publish.dup,
            qos: publish.qos,
            id: publish.pkid,
            properties: None,
        }),
        v4::Packet::Subscribe(it) => {
            In::Subscribe(it.pkid, it.filters.into_iter().map(|filter| (filter.path, None)).collect())
        }
        v4::Packet::Unsubscribe(it) => In::Unsubscribe(it.pkid, it.topics),
        v4::Packet::PubAck(ack) => In::PubAck(ack.pkid),
        v4::Packet::PingReq => In::Ping,
        v4::Packet::Disconnect => In::Disconnect,
        other => panic!("the client sent {other:?}"),
    }
}

fn of_v5(packet: v5::Packet) -> In {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    match packet {
        v5::Packet::Connect(connect, will, login) => {
            let will = will.map(|will| LastWill {
                topic: text(&will.topic),
                message: will.message,
                qos: qos(will.qos),
                retain: will.retain,
            });
            let as_v4 = Connect {
                protocol: Protocol::V5,
                keep_alive: connect.keep_alive,
                client_id: connect.client_id,
                clean_session: connect.clean_start,
                last_will: will,
                login: login.map(|login| v4::Login { username: login.username, password: login.password }),
            };
            In::Connect(as_v4, connect.properties)
        }
        v5::Packet::Publish(publish) => In::Publish(PublishIn {
            topic: text(&publish.topic),
            payload: publish.payload.to_vec(),
            retain: publish.retain,
            dup: publish.dup,
            qos: qos(publish.qos),
            id: publish.pkid,
            properties: publish.properties,
        }),
        v5::Packet::Subscribe(it) => {
            let of = |filter: v5::Filter| (filter.path, Some(filter.retain_forward_rule));
            In::Subscribe(it.pkid, it.filters.into_iter().map(of).collect())
        }
        v5::Packet::Unsubscribe(it) => In::Unsubscribe(it.pkid, it.filters),
        v5::Packet::PubAck(ack) => In::PubAck(ack.pkid),
        v5::Packet::PingReq(_) => In::Ping,
        v5::Packet::Disconnect(_) => In::Disconnect,
        other => panic!("the client sent {other:?}"),
    }
}

fn qos(qos: rumqttc::v5::mqttbytes::QoS) -> QoS {
    use rumqttc::v5::mqttbytes::QoS as QoS5;
    match qos {
        QoS5::AtMostOnce => QoS::AtMostOnce,
        QoS5::AtLeastOnce => QoS::AtLeastOnce,
        QoS5::ExactlyOnce => QoS::ExactlyOnce,
    }
}

pub fn welcome(version: Protocol, agree: Option<&ConnAckProperties>) -> Vec<u8> {
    match version {
        Protocol::V4 => vec![0x20, 2, 0, 0],
        Protocol::V5 => {
            let code = v5::ConnectReturnCode::Success;
            let mut bytes = BytesMut::new();
            let ack = v5::ConnAck { session_present: false, code, properties: agree.cloned() };
            ack.write(&mut bytes).unwrap();
            bytes.to_vec()
        }
    }
}

/// CONNACK with the code, or its like in MQTT 5.
pub fn refusal(version: Protocol, code: ConnectReturnCode) -> Vec<u8> {
    let (old, new) = match code {
        ConnectReturnCode::Success => (0, 0),
        ConnectReturnCode::RefusedProtocolVersion => (1, 0x84),
        ConnectReturnCode::BadClientId => (2, 0x85),
        ConnectReturnCode::ServiceUnavailable => (3, 0x88),
        ConnectReturnCode::BadUserNamePassword => (4, 0x86),
        ConnectReturnCode::NotAuthorized => (5, 0x87),
    };
    match version {
        Protocol::V4 => vec![0x20, 2, 0, old],
        Protocol::V5 => vec![0x20, 3, 0, new, 0],
    }
}

pub fn suback(version: Protocol, id: u16, granted: &[u8]) -> Vec<u8> {
    let properties: &[u8] = if version == Protocol::V5 { &[0] } else { &[] };
    let length = u8::try_from(2 + properties.len() + granted.len()).unwrap();
    [&[0x90, length], id.to_be_bytes().as_slice(), properties, granted].concat()
}

/// For one filter.
pub fn unsuback(version: Protocol, id: u16) -> Vec<u8> {
    match version {
        Protocol::V4 => [[0xB0, 2], id.to_be_bytes()].concat(),
        Protocol::V5 => [[0xB0, 4].as_slice(), &id.to_be_bytes(), &[0, 0]].concat(),
    }
}

pub fn puback(id: u16, reason: u8) -> Vec<u8> {
    match reason {
        0 => [[0x40, 2], id.to_be_bytes()].concat(),
        _ => [[0x40, 3].as_slice(), &id.to_be_bytes(), &[reason]].concat(),
    }
}

pub fn publish(version: Protocol, id: u16, arrived: &Arrived) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    match version {
        Protocol::V4 => {
            let mut publish = v4::Publish::new(&arrived.topic, QoS::AtLeastOnce, arrived.payload.clone());
            (publish.pkid, publish.retain, publish.dup) = (id, arrived.retain, arrived.dup);
            publish.write(&mut bytes).unwrap();
        }
        Protocol::V5 => {
            let mut properties = arrived.properties.clone();
            if let Some(properties) = &mut properties {
                properties.topic_alias = None;
            }
            let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
            let mut publish = v5::Publish::new(arrived.topic.clone(), qos, arrived.payload.clone(), properties);
            (publish.pkid, publish.retain, publish.dup) = (id, arrived.retain, arrived.dup);
            publish.write(&mut bytes).unwrap();
        }
    }
    bytes.to_vec()
}

pub fn no_properties() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}
