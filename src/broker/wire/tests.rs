//! The codec against the one of `rumqttc`, which is not ours, and against bytes that nobody should send.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use tokio::time::Instant;

use super::encode::{self, Outgoing, Welcome};
use super::*;
use crate::broker::message::{Delivery, Forwarded, Holders, Keep, Message, Qos, Retain};

fn cut(bytes: &[u8]) -> Result<Frame, Fault> {
    let mut arrived = BytesMut::from(bytes);
    frame(&mut arrived, PACKET_BYTES_MAX).map(|frame| frame.expect("a whole packet"))
}

fn read(bytes: &[u8], version: Version) -> Result<Incoming, Fault> {
    decode(cut(bytes)?, version)
}

fn connect(bytes: &[u8]) -> Result<Connect, Fault> {
    Connect::read(cut(bytes)?).map_err(|not_served| not_served.fault)
}

#[test]
fn a_v5_publish_of_the_other_codec_is_read_with_all_it_carries() {
    let properties = v5::PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(60),
        topic_alias: Some(3),
        response_topic: Some("answers/é".to_owned()),
        correlation_data: Some(Bytes::from_static(b"id-7")),
        user_properties: vec![("k".to_owned(), "v".to_owned()), ("k".to_owned(), "w".to_owned())],
        content_type: Some("text/plain".to_owned()),
        ..v5::PublishProperties::default()
    };
    let mut sent = v5::Publish::new("é/x", rumqttc::v5::mqttbytes::QoS::AtLeastOnce, "payload", Some(properties));
    sent.pkid = 7;
    let mut bytes = BytesMut::new();
    sent.write(&mut bytes).expect("written");
    let Ok(Incoming::Publish(publish)) = read(&bytes, Version::V5) else { panic!("a publish") };
    assert_eq!((&*publish.topic, publish.packet_id, publish.qos), ("é/x", 7, Qos::AtLeastOnce));
    assert_eq!((publish.alias, publish.expiry, &publish.payload[..]), (Some(3), Some(60), &b"payload"[..]));
    let forwarded = publish.forwarded.expect("properties");
    assert_eq!(forwarded.response_topic.as_deref(), Some("answers/é"));
    assert_eq!(forwarded.correlation.as_deref(), Some(&b"id-7"[..]));
    assert_eq!(revive(forwarded.encoded.clone()).expect("revived"), forwarded);
}

#[test]
fn what_we_send_is_read_by_the_other_codec_and_v311_never_sees_a_property() {
    let forwarded =
        Forwarded { encoded: Bytes::from_static(&[1, 1, 38, 0, 1, b'k', 0, 1, b'v']), ..Forwarded::default() };
    let now = Instant::now();
    let message = Message {
        topic: "é/x".into(),
        payload: Bytes::from(vec![7; 200]),
        qos: Qos::AtLeastOnce,
        forwarded: Some(Box::new(forwarded)),
        expires: Some(now + std::time::Duration::from_millis(9_500)),
        keep: Keep::Every,
        holders: Holders::default(),
    };
    let delivery = Delivery {
        message: Arc::new(message),
        qos: Qos::AtLeastOnce,
        retain: Retain::Yes,
        ids: vec![1, 300],
        owed: None,
        shared: None,
        held: None,
    };
    let mut out = BytesMut::new();
    let outgoing = Outgoing::new(&delivery, (Version::V5, Naming::Full), || now);
    outgoing.write(&mut out, 9);
    assert_eq!(out.len(), outgoing.len());
    let Ok(v5::Packet::Publish(seen)) = v5::Packet::read(&mut out, None) else { panic!("a v5 publish") };
    let properties = seen.properties.expect("properties");
    assert_eq!(properties.user_properties, [("k".to_owned(), "v".to_owned())]);
    assert_eq!(properties.message_expiry_interval, Some(10), "what is left, rounded up");
    assert_eq!(properties.subscription_identifiers, [1, 300]);
    assert!(seen.retain && seen.pkid == 9 && seen.payload.len() == 200);
    let outgoing = Outgoing::new(&delivery, (Version::V311, Naming::Full), || now);
    outgoing.write(&mut out, 9);
    assert_eq!(out.len(), outgoing.len());
    let Ok(v4::Packet::Publish(seen)) = v4::Packet::read(&mut out, 1 << 20) else { panic!("a v4 publish") };
    assert!(seen.topic == "é/x" && seen.payload.len() == 200 && seen.retain);
}

#[test]
fn our_answers_are_read_by_the_other_codec() {
    let mut out = BytesMut::new();
    let told = Welcome {
        session_present: true,
        assigned_id: Some("x"),
        session_expiry: Some(60),
        receive_maximum: 64,
        alias_maximum: 32,
        dropped: 7,
        maximum_packet: PACKET_BYTES_MAX,
        keep_alive: Some(60),
        max_qos: Some(Qos::AtLeastOnce),
        no_retain: true,
    };
    encode::welcome(&mut out, Version::V5, &told);
    encode::ack(&mut out, Version::V5, AckKind::Puback, (5, 0x87, "because"));
    encode::suback(&mut out, Version::V5, (6, &[1, 0x87], "why not"));
    encode::unsuback(&mut out, Version::V5, 7, &[0, 0x11]);
    encode::pong(&mut out);
    encode::disconnect(&mut out, Version::V5, 0x8E, "somebody else came");
    let mut next = || v5::Packet::read(&mut out, None).expect("readable");
    let v5::Packet::ConnAck(connack) = next() else { panic!("a CONNACK") };
    let properties = connack.properties.expect("properties");
    assert!(connack.session_present);
    assert_eq!((properties.max_qos, properties.retain_available), (Some(1), Some(0)));
    assert_eq!(properties.session_expiry_interval, Some(60));
    assert_eq!(properties.user_properties, [("dropped".to_owned(), "7".to_owned())]);
    assert_eq!((properties.receive_max, properties.max_packet_size), (Some(64), Some(PACKET_BYTES_MAX)));
    assert_eq!((properties.topic_alias_max, properties.assigned_client_identifier.as_deref()), (Some(32), Some("x")));
    let v5::Packet::PubAck(puback) = next() else { panic!("a PUBACK") };
    assert_eq!(puback.reason, v5::PubAckReason::NotAuthorized);
    assert_eq!(puback.properties.expect("properties").reason_string.as_deref(), Some("because"));
    let v5::Packet::SubAck(suback) = next() else { panic!("a SUBACK") };
    assert_eq!(suback.return_codes.len(), 2);
    assert_eq!(suback.properties.expect("properties").reason_string.as_deref(), Some("why not"));
    assert!(matches!(next(), v5::Packet::UnsubAck(_)));
    assert!(matches!(next(), v5::Packet::PingResp(_)));
    let v5::Packet::Disconnect(disconnect) = next() else { panic!("a DISCONNECT") };
    assert_eq!(disconnect.reason_code, v5::DisconnectReasonCode::SessionTakenOver);
}

#[test]
fn short_v5_packets_that_the_other_codec_cannot_read_are_read() {
    let goodbye = Incoming::Disconnect { reason: 0, session_expiry: None };
    assert_eq!(read(&[0xE0, 0], Version::V5), Ok(goodbye.clone()));
    assert_eq!(read(&[0xE0, 1, 0], Version::V5), Ok(goodbye));
    let ack = Ack { kind: AckKind::Pubrec, packet_id: 9, reason: 0x10 };
    assert_eq!(read(&[0x50, 3, 0, 9, 0x10], Version::V5), Ok(Incoming::Ack(ack)));
}

#[test]
fn what_the_standard_forbids_is_refused() {
    let v311: &[(&str, &[u8])] = &[
        ("SUBSCRIBE with flags 0", &[0x80, 6, 0, 1, 0, 1, b'a', 0]),
        ("SUBSCRIBE with QoS 3", &[0x82, 6, 0, 1, 0, 1, b'a', 3]),
        ("SUBSCRIBE with v5 options", &[0x82, 6, 0, 1, 0, 1, b'a', 4]),
        ("SUBSCRIBE without filters", &[0x82, 2, 0, 1]),
        ("packet identifier 0", &[0x82, 6, 0, 0, 0, 1, b'a', 0]),
        ("PUBLISH with QoS 3", &[0x36, 5, 0, 1, b'a', 0, 1]),
        ("PUBLISH with DUP at QoS 0", &[0x38, 3, 0, 1, b'a']),
        ("PUBLISH on a wildcard", &[0x30, 3, 0, 1, b'#']),
        ("PUBLISH on nothing", &[0x30, 2, 0, 0]),
        ("PUBLISH on a topic with NUL", &[0x30, 3, 0, 1, 0]),
        ("PUBLISH on a topic that is not UTF-8", &[0x30, 3, 0, 1, 0xFF]),
        ("PUBLISH on a surrogate", &[0x30, 5, 0, 3, 0xED, 0xA0, 0x80]),
        ("PUBLISH cut in its topic", &[0x30, 3, 0, 9, b'a']),
        ("PUBREL with flags 0", &[0x60, 2, 0, 1]),
        ("PUBACK with a byte too many", &[0x40, 3, 0, 1, 0]),
        ("PINGREQ with a body", &[0xC0, 1, 0]),
        ("DISCONNECT with flags", &[0xE1, 0]),
        ("AUTH in 3.1.1", &[0xF0, 0]),
        ("type 0", &[0x00, 0]),
        ("a packet of servers", &[0x20, 2, 0, 0]),
    ];
    for (name, bytes) in v311 {
        assert!(read(bytes, Version::V311).is_err(), "{name}");
    }
    let v5: &[(&str, &[u8])] = &[
        ("a property twice", &[0x30, 8, 0, 1, b'a', 4, 1, 0, 1, 0]),
        ("a property past the properties' end", &[0x30, 6, 0, 1, b'a', 1, 1, 0]),
        ("a property that belongs to CONNECT", &[0x30, 7, 0, 1, b'a', 3, 33, 0, 1]),
        ("a subscription identifier from a client", &[0x30, 6, 0, 1, b'a', 2, 11, 1]),
        ("an unknown property", &[0x30, 6, 0, 1, b'a', 2, 99, 1]),
        ("neither topic nor alias", &[0x30, 3, 0, 0, 0]),
        ("a response topic with a wildcard", &[0x30, 8, 0, 1, b'a', 4, 8, 0, 1, b'+']),
        ("subscription identifier 0", &[0x82, 9, 0, 1, 2, 11, 0, 0, 1, b'a', 0]),
        ("retain handling 3", &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x30]),
        (
            "no local on a shared subscription",
            &[0x82, 16, 0, 1, 0, 0, 10, b'$', b's', b'h', b'a', b'r', b'e', b'/', b'g', b'/', b'a', 4],
        ),
        ("properties longer than the packet", &[0x30, 4, 0, 1, b'a', 0x7F]),
        ("a length longer than it needs", &[0x30, 5, 0, 1, b'a', 0x80, 0]),
        ("AUTH", &[0xF0, 0]),
    ];
    for (name, bytes) in v5 {
        assert!(read(bytes, Version::V5).is_err(), "{name}");
    }
}

#[test]
fn the_version_is_told_from_connect() {
    let v4 = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 1, b'x'];
    assert_eq!(connect(&v4).map(|connect| (connect.version, connect.keep_alive)), Ok((Version::V311, 60)));
    let v31 = [0x10, 15, 0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3, 2, 0, 0, 0, 1, b'x'];
    assert_eq!(connect(&v31).map(|connect| connect.version), Ok(Version::V311));
    let v5 = [0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 1, b'x'];
    assert_eq!(connect(&v5).map(|connect| connect.version), Ok(Version::V5));
    let with = |place: usize, byte: u8| {
        let mut bytes = v4;
        bytes[place] = byte;
        connect(&bytes)
    };
    assert_eq!(with(8, 6), Err(Fault::Version(6)));
    assert!(with(4, b'X').is_err(), "another protocol");
    assert!(with(9, 3).is_err(), "reserved flag");
    assert!(with(9, 0x0A).is_err(), "will QoS without a will");
    assert!(with(9, 0x42).is_err(), "password without user name");
    assert!(with(13, 2).is_err(), "client id longer than the packet");
}

#[test]
fn a_password_is_not_in_what_is_shown_of_a_connect() {
    let bytes = [&[0x10, 24, 0, 4][..], b"MQTT", &[4, 0xC2, 0, 0], b"\0\x01x\0\x01u\0\x06canary"].concat();
    let connect = connect(&bytes).expect("a CONNECT");
    assert_eq!(connect.password.as_ref().map(|password| &*password.0), Some(&b"canary"[..]));
    let shown = format!("{connect:?}");
    let as_bytes = format!("{:?}", b"canary");
    assert!(!shown.contains("canary") && !shown.contains(&as_bytes[1..as_bytes.len() - 1]), "{shown}");
}

#[test]
fn a_packet_is_cut_only_when_whole_and_a_long_one_is_refused_by_its_head() {
    let mut arrived = BytesMut::from(&[0x30, 0x83][..]);
    assert_eq!(frame(&mut arrived, PACKET_BYTES_MAX), Ok(None));
    arrived.extend_from_slice(&[0x00, 1, 2]);
    assert_eq!(frame(&mut arrived, PACKET_BYTES_MAX), Ok(None));
    arrived.extend_from_slice(&[3, 0xC0]);
    assert_eq!(
        frame(&mut arrived, PACKET_BYTES_MAX),
        Ok(Some(Frame { first: 0x30, body: Bytes::from_static(&[1, 2, 3]) }))
    );
    assert_eq!(&arrived[..], [0xC0]);
    assert_eq!(frame(&mut BytesMut::from(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F][..]), PACKET_BYTES_MAX), Err(Fault::TooLarge));
    assert!(frame(&mut BytesMut::from(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF][..]), PACKET_BYTES_MAX).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn bytes_of_a_stranger_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), first in any::<u8>()) {
        let body = Bytes::from(bytes.clone());
        for version in [Version::V311, Version::V5] {
            drop(decode(Frame { first, body: body.clone() }, version));
        }
        drop(Connect::read(Frame { first: 0x10, body: body.clone() }));
        drop(revive(body));
        let mut arrived = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = frame(&mut arrived, PACKET_BYTES_MAX) {}
    }

    #[test]
    fn a_flipped_byte_in_a_good_packet_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let properties = [1, 1, 2, 0, 0, 0, 9, 8, 0, 1, b'r', 9, 0, 1, 7, 38, 0, 1, b'k', 0, 1, b'v'];
        let mut packet = vec![0, 3, b'a', b'/', b'b', 0, 1, 22];
        packet.extend_from_slice(&properties);
        packet.extend_from_slice(b"payload");
        let whole = decode(Frame { first: 0x32, body: packet.clone().into() }, Version::V5);
        prop_assert!(whole.is_ok());
        let at = at.index(packet.len());
        packet[at] = byte;
        drop(decode(Frame { first: 0x32, body: packet.into() }, Version::V5));
    }
}
