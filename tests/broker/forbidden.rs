//! What a client must not send, byte by byte, and how it is told; and what is not sent to a client that cannot take it.
//! Each case quotes the statement of MQTT 5 (or 3.1.1) that it is about.

use crate::support::*;

use rumqttc::v5::mqttbytes::v5;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that says what it is told to say.
struct Raw(TcpStream);

impl Raw {
    async fn open(broker: &Running, connect: &[u8]) -> Self {
        let mut stream = TcpStream::connect(broker.address).await.expect("a connection");
        stream.write_all(connect).await.expect("sent");
        Self(stream)
    }

    /// What comes until the other side closes.
    async fn rest(mut self) -> Vec<u8> {
        let mut told = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut told)).await.expect("closed in time");
        // A reset is an end, too.
        drop(read);
        told
    }

    /// What a short packet has after its head.
    async fn packet(&mut self) -> Vec<u8> {
        let mut head = [0; 2];
        let read = async {
            self.0.read_exact(&mut head).await.expect("a head");
            let mut body = vec![0; usize::from(head[1])];
            self.0.read_exact(&mut body).await.expect("a body");
            body
        };
        tokio::time::timeout(PATIENCE, read).await.expect("a packet in time")
    }
}

/// CONNECT: flags, properties, and what follows the client id `x`.
fn connect5(flags: u8, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, flags, 0, 0];
    body.push(u8::try_from(properties.len()).expect("short"));
    body.extend_from_slice(properties);
    body.extend_from_slice(&[0, 1, b'x']);
    body.extend_from_slice(payload);
    packet(0x10, &body)
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = match u8::try_from(body.len()).expect("below 256") {
        short @ 0..=0x7F => vec![first, short],
        long => vec![first, long, 1],
    };
    packet.extend_from_slice(body);
    packet
}

#[tokio::test]
async fn what_a_client_must_not_send_ends_its_connection_with_the_reason_the_standard_has_for_it() {
    let slashes = [b'/'; 201];
    let deep_topic = [b"\x00\xc9", &slashes[..], b"\x00"].concat();
    let deep_filter = [b"\x00\x01\x00\x00\xc9", &slashes[..], b"\x00"].concat();
    let share = b"\x00\x01\x00\x00\x0a$share/g/a\x04";
    let cases: &[(&str, u8, &[u8], u8)] = &[
        ("3.1.0-2: a second CONNECT", 0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01x", 0x82),
        ("4.12: AUTH, and no method was agreed on", 0xF0, b"\x18\x00", 0x82),
        ("3.3.2-2: PUBLISH on a wildcard", 0x30, b"\x00\x03a/#\x00", 0x90),
        ("4.7.3-1: PUBLISH on nothing, without an alias", 0x30, b"\x00\x00\x00", 0x82),
        ("1.5.4-1: a topic that is not UTF-8", 0x30, b"\x00\x02a\xFF\x00", 0x81),
        ("1.5.4-1: a topic with a surrogate", 0x30, b"\x00\x03\xED\xA0\x80\x00", 0x81),
        ("1.5.4-2: a topic with U+0000", 0x30, b"\x00\x02a\x00\x00", 0x81),
        ("3.3.1-4: QoS 3", 0x36, b"\x00\x01a\x00\x01\x00", 0x81),
        ("3.3.1-2: DUP at QoS 0", 0x38, b"\x00\x01a\x00", 0x81),
        ("2.2.1-3: packet identifier 0", 0x32, b"\x00\x01a\x00\x00\x00", 0x81),
        ("3.3.4-6: a subscription identifier from a client", 0x30, b"\x00\x01a\x02\x0b\x01", 0x82),
        ("3.3.2-8: topic alias 0", 0x30, b"\x00\x01a\x03\x23\x00\x00", 0x94),
        ("3.3.2-9: a topic alias above our maximum", 0x30, b"\x00\x01a\x03\x23\x00\x21", 0x94),
        ("3.3.2.3.4: an alias that stands for nothing yet", 0x30, b"\x00\x00\x03\x23\x00\x05", 0x82),
        ("3.3.2-14: a response topic with a wildcard", 0x30, b"\x00\x01a\x04\x08\x00\x01+", 0x90),
        ("3.8.3-4: no local on a shared subscription", 0x82, share, 0x82),
        ("3.8.3-2: SUBSCRIBE without a filter", 0x82, b"\x00\x01\x00", 0x82),
        ("3.8.3-5: reserved bits of the options", 0x82, b"\x00\x01\x00\x00\x01a\x40", 0x81),
        ("3.8.1-1: SUBSCRIBE with other flags", 0x80, b"\x00\x01\x00\x00\x01a\x00", 0x81),
        ("4.7.3-1: a filter of no characters", 0x82, b"\x00\x01\x00\x00\x00\x00", 0x81),
        ("4.7.3: more than 200 levels, PUBLISH", 0x30, &deep_topic, 0x82),
        ("4.7.3: more than 200 levels, SUBSCRIBE", 0x82, &deep_filter, 0x81),
        ("3.8.2.1.2: subscription identifier 0", 0x82, b"\x00\x01\x02\x0b\x00\x00\x01a\x00", 0x82),
        ("3.10.3-2: UNSUBSCRIBE without a filter", 0xA2, b"\x00\x01\x00", 0x82),
        ("3.10.1-1: UNSUBSCRIBE with other flags", 0xA0, b"\x00\x01\x00\x00\x01a", 0x81),
        ("3.6.1-1: PUBREL with other flags", 0x60, b"\x00\x01", 0x81),
        ("3.14.2-2: a session that was to end lives on", 0xE0, b"\x00\x05\x11\x00\x00\x00\x3c", 0x82),
        ("3.14.1-1: DISCONNECT with flags", 0xE1, b"", 0x81),
        ("2.2.2.2: a property of another packet", 0x30, b"\x00\x01a\x03\x21\x00\x05", 0x81),
        ("2.2.2.2: a property twice", 0x30, b"\x00\x01a\x04\x01\x00\x01\x00", 0x82),
        ("a packet that only servers send", 0x20, b"\x00\x00\x00", 0x82),
    ];
    let broker = Running::start().await;
    for (statement, first, body, reason) in cases {
        let mut raw = Raw::open(&broker, &connect5(2, &[], &[])).await;
        assert_eq!(raw.packet().await[1], 0, "{statement}");
        raw.0.write_all(&packet(*first, body)).await.expect("sent");
        let told = raw.rest().await;
        assert!(told.len() > 2 && told[0] == 0xE0, "{statement}: {told:x?}");
        assert_eq!(told[2], *reason, "{statement}: {told:x?}");
        assert!(told.len() > 7 && told[4] == 31, "{statement}: with a reason string, {told:x?}");
    }
    assert_eq!(broker.publisher.stats().faults.get(), cases.len() as u64 - 2, "alias limits are no faults of form");
    broker.stop().await;
}

#[tokio::test]
async fn a_connect_that_breaks_the_rules_is_refused_with_a_reason_in_5_and_without_a_word_in_3_1_1() {
    let will = b"\x00\x00\x01w\x00\x00";
    let cases: &[(&str, Vec<u8>, u8)] = &[
        ("3.1.2-3: the reserved flag", connect5(3, &[], &[]), 0x81),
        ("3.1.2-12: will QoS 3", connect5(0x1E, &[], will), 0x81),
        ("3.1.2-11: will QoS without a will", connect5(0x0A, &[], &[]), 0x81),
        ("3.1.2-13: will retain without a will", connect5(0x22, &[], &[]), 0x81),
        ("3.1.3-11: a will topic that is not UTF-8", connect5(6, &[], b"\x00\x00\x01\xFF\x00\x00"), 0x81),
        ("3.3.2-2: a will on a wildcard", connect5(6, &[], b"\x00\x00\x01#\x00\x00"), 0x90),
        ("4.12: a method of authentication we do not have", connect5(2, b"\x15\x00\x01m", &[]), 0x8C),
        ("3.1.2.11.10: authentication data without a method", connect5(2, b"\x16\x00\x01d", &[]), 0x82),
        ("3.1.2.11.3: Receive Maximum 0", connect5(2, b"\x21\x00\x00", &[]), 0x82),
        ("3.1.2.11.4: Maximum Packet Size 0", connect5(2, b"\x27\x00\x00\x00\x00", &[]), 0x82),
        ("3.1.2.11.7: Request Problem Information 2", connect5(2, b"\x17\x02", &[]), 0x82),
        ("2.2.2.2: Session Expiry twice", connect5(2, b"\x11\x00\x00\x00\x01\x11\x00\x00\x00\x02", &[]), 0x82),
        ("2.2.2.2: a property of PUBLISH", connect5(2, b"\x23\x00\x01", &[]), 0x81),
        ("3.1.2-2: version 6", packet(0x10, b"\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x01x"), 0x84),
    ];
    let broker = Running::start().await;
    for (statement, connect, reason) in cases {
        let told = Raw::open(&broker, connect).await.rest().await;
        assert!(told.len() >= 5 && told[0] == 0x20 && told[3] == *reason, "{statement}: {told:x?}");
    }
    let silent: &[(&str, &[u8])] = &[
        ("3.1.2-3: the reserved flag", b"\x00\x04MQTT\x04\x03\x00\x00\x00\x01x"),
        ("3.1.2-14: will QoS 3", b"\x00\x04MQTT\x04\x1e\x00\x00\x00\x01x\x00\x01w\x00\x00"),
        ("3.1.2-15: will retain without a will", b"\x00\x04MQTT\x04\x22\x00\x00\x00\x01x"),
        ("3.1.2-22: a password without a name", b"\x00\x04MQTT\x04\x42\x00\x00\x00\x01x\x00\x01p"),
        ("3.1.3-4: a client id that is not UTF-8", b"\x00\x04MQTT\x04\x02\x00\x00\x00\x01\xff"),
        ("3.1.2-1: another protocol", b"\x00\x04MQXX\x04\x02\x00\x00\x00\x01x"),
    ];
    for (statement, body) in silent {
        let told = Raw::open(&broker, &packet(0x10, body)).await.rest().await;
        assert!(told.is_empty(), "{statement}: {told:x?}");
    }
    let told = Raw::open(&broker, &packet(0x10, b"\x00\x04MQTT\x03\x02\x00\x00\x00\x01x")).await.rest().await;
    assert_eq!(told, [0x20, 2, 0, 1], "3.1.2-2: a level between the two is told, in the words of 3.1.1");
    broker.stop().await;
}

#[tokio::test]
async fn mqtt_3_1_is_served_and_told_nothing_of_sessions() {
    let broker = Running::start().await;
    for _ in 0..2 {
        let mut raw = Raw::open(&broker, &packet(0x10, b"\x00\x06MQIsdp\x03\x00\x00\x00\x00\x03old")).await;
        assert_eq!(raw.packet().await, [0, 0], "the byte is reserved in 3.1, though the session was there");
        // It marks what it sends again, in packets where 3.1.1 has nothing to be marked.
        for again in [&[0x34, 5, 0, 1, b'a', 0, 7][..], &[0x6A, 2, 0, 7]] {
            raw.0.write_all(again).await.expect("sent");
            assert_eq!(raw.packet().await, [0, 7], "PUBREC, PUBCOMP");
        }
        raw.0.write_all(&packet(0xE0, &[])).await.expect("sent");
        assert!(raw.rest().await.is_empty());
    }
    let long = b"\x00\x06MQIsdp\x03\x02\x00\x00\x00\x18twenty-four-characters!!";
    assert_eq!(Raw::open(&broker, &packet(0x10, long)).await.rest().await, [0x20, 2, 0, 2], "3.1: 23 at most");
    broker.stop().await;
}

#[tokio::test]
async fn no_answer_is_longer_than_the_client_takes() {
    let broker = Running::start().await;
    // 3.1.2-24; a CONNACK with an assigned id has 60 bytes.
    let nameless = packet(0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x05\x27\x00\x00\x00\x28\x00\x00");
    assert!(Raw::open(&broker, &nameless).await.rest().await.is_empty());
    let size = |most| move |wishes: &mut Wishes| wishes.properties.max_packet_size = Some(most);
    let mut client = Client5::connect(broker.address, "c", size(30)).await;
    client.subscribe(filter("a#", 0), None).await;
    let filters = (0..40).map(|n| filter(&n.to_string(), 0)).collect();
    client.send(v5::Packet::Subscribe(v5::Subscribe { pkid: 5, filters, properties: None })).await;
    assert_eq!(Raw(client.stream).rest().await, [0xE0, 1, 0x95], "packet too large");
    broker.stop().await;
}

#[tokio::test]
async fn more_than_we_take_at_once_ends_the_connection_and_so_does_a_packet_that_is_too_long() {
    let broker = Running::start().await;
    let (mut client, connack) = Client5::open(broker.address, "c", |_| {}).await;
    let most = connack.properties.expect("properties").receive_max.expect("a maximum");
    // 3.3.4-7: none of them is released.
    for pkid in 1..=most + 1 {
        let mut publish = message("q", 2, "x");
        publish.pkid = pkid;
        client.send(v5::Packet::Publish(publish)).await;
    }
    assert_eq!(client.disconnected().await, v5::DisconnectReasonCode::ReceiveMaximumExceeded);
    let (mut client, connack) = Client5::open(broker.address, "c", |_| {}).await;
    let most = connack.properties.expect("properties").max_packet_size.expect("a maximum");
    let seven = |shift: u32| u8::try_from((most >> shift) & 0x7F).expect("seven bits");
    let head = [0x30, 0x80 | seven(0), 0x80 | seven(7), seven(14)];
    client.stream.write_all(&head).await.expect("sent");
    assert_eq!(client.disconnected().await, v5::DisconnectReasonCode::PacketTooLarge);
    broker.stop().await;
}
