//! Hostile, broken and silent clients: they harm themselves.

use crate::ports::own_port;
use crate::support;

use bytes::BytesMut;
use ironbridge::flow::notice::Phase;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rumqttc::QoS;
use rumqttc::v5::mqttbytes::v5;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Good packets, to be spoiled: both versions' CONNECT, SUBSCRIBE, PUBLISH with properties, and the small ones.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [
        &[0x10, 15, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 3, b'b', b'a', b'd'][..],
        &[0x10, 16, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 3, b'b', b'a', b'd'],
        &[0x82, 8, 0, 1, 0, 3, b'a', b'/', b'#', 1],
        &[0x82, 9, 0, 1, 0, 0, 3, b'a', b'/', b'#', 1],
        &[0xA2, 7, 0, 1, 0, 3, b'a', b'/', b'#'],
        &[0x62, 2, 0, 1],
        &[0x40, 2, 0, 1],
        &[0x50, 2, 0, 1],
        &[0x70, 2, 0, 1],
        &[0xC0, 0],
        &[0xE0, 0],
        &[0xF0, 0],
    ]
    .iter()
    .map(|seed| seed.to_vec())
    .collect();
    for (qos, retain) in [(0, false), (1, true), (2, false)] {
        let mut publish = message("a/b", qos, "payload");
        publish.retain = retain;
        publish.properties = Some(v5::PublishProperties {
            topic_alias: Some(1),
            response_topic: Some("r".to_owned()),
            correlation_data: Some("c".into()),
            user_properties: vec![("k".to_owned(), "v".to_owned())],
            ..Default::default()
        });
        let mut bytes = BytesMut::new();
        publish.write(&mut bytes).expect("encodable");
        seeds.push(bytes.to_vec());
    }
    seeds
}

fn spoil(packet: &mut Vec<u8>, chance: &mut StdRng) {
    for _ in 0..chance.random_range(0..4) {
        let at = chance.random_range(0..packet.len());
        match chance.random_range(0..4) {
            0 => packet[at] = chance.random(),
            1 => packet[at] ^= 1 << chance.random_range(0..8),
            2 => packet.insert(at, chance.random()),
            _ if packet.len() > 1 => drop(packet.remove(at)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn twenty_thousand_spoiled_packets_disturb_nobody() {
    let broker = Running::start().await;
    let mut healthy = broker.v4("healthy").await;
    healthy.subscribe("good", QoS::AtMostOnce).await;
    let mut chance = StdRng::seed_from_u64(7);
    let seeds = seeds();
    for round in 0..1000 {
        let mut stream = TcpStream::connect(broker.address).await.expect("the door is open");
        let mut bytes = seeds[chance.random_range(0..2)].clone();
        if chance.random_ratio(1, 20) {
            spoil(&mut bytes, &mut chance);
        }
        for _ in 0..20 {
            let mut packet = seeds[chance.random_range(2..seeds.len())].clone();
            spoil(&mut packet, &mut chance);
            bytes.extend_from_slice(&packet);
        }
        // The broker may hang up at any byte: that is the point.
        drop(stream.write_all(&bytes).await);
        if round % 2 == 0 {
            drop(stream.shutdown().await);
            let mut answer = Vec::new();
            drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is closed"));
        }
        if round % 50 == 0 {
            broker.publisher.publish("good".into(), round.to_string().into());
            assert_eq!(healthy.message().await.payload, round.to_string());
        }
    }
    healthy.ping().await;
    until("all others have gone", || broker.publisher.stats().clients.get() == 1).await;
    broker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_or_half_a_connect_is_turned_away_after_ten_seconds() {
    let broker = Running::start().await;
    for start in [&b""[..], &[0x10], &[0x10, 200, 0, 4, b'M', b'Q']] {
        let mut stream = TcpStream::connect(broker.address).await.expect("the door is open");
        stream.write_all(start).await.expect("sent");
        let before = tokio::time::Instant::now();
        assert_eq!(stream.read(&mut [0; 8]).await.expect("closed in order"), 0);
        assert_eq!(before.elapsed().as_secs(), 10);
    }
    assert_eq!(broker.publisher.stats().turned_away.get(), 3);
    broker.stop().await;
}

#[tokio::test]
async fn hundreds_of_silent_connections_keep_nobody_out() {
    let broker = Running::start().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(broker.address).await.expect("the door is open"));
    }
    let mut clients = Vec::new();
    for n in 0..100 {
        clients.push(broker.v5(&format!("client/{n}")).await);
    }
    for client in &mut clients {
        client.subscribe(filter("x", 0), None).await;
    }
    broker.publisher.publish("x".into(), "1".into());
    for client in &mut clients {
        assert_eq!(client.message().await.payload, "1");
    }
    drop(clients);
    until("all have gone", || broker.publisher.stats().clients.get() == 0).await;
    assert_eq!(broker.publisher.stats().subscriptions.get(), 0);
    drop(silent);
    broker.stop().await;
}

#[tokio::test]
async fn a_packet_that_says_it_is_huge_is_refused_before_it_comes() {
    let broker = Running::start().await;
    let mut client = broker.v5("c").await;
    client.stream.write_all(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).await.expect("sent");
    assert_eq!(client.disconnected().await, v5::DisconnectReasonCode::PacketTooLarge);
    broker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_in_line_with_a_long_packet_is_not_taken_for_silent_and_has_its_turn() {
    const PLACES: usize = 16;
    let broker = Running::start().await;
    let mut idle = broker.v4("idle").await;
    let mut long = BytesMut::new();
    message("long", 1, &"x".repeat(40_000)).write(&mut long).expect("encodable");
    let (begin, rest) = long.split_at(100);
    let mut before = Vec::new();
    for n in 0..PLACES {
        let mut client = broker.v5(&format!("before-{n}")).await;
        client.stream.write_all(begin).await.expect("sent");
        idle.ping().await;
        before.push(client);
    }
    let mut in_line = Client5::connect(broker.address, "in line", |wishes| wishes.connect.keep_alive = 1).await;
    in_line.stream.write_all(begin).await.expect("sent");
    for _ in 0..10 {
        idle.ping().await;
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
    }
    assert_eq!(broker.publisher.stats().clients.get(), PLACES as u64 + 2);
    before.pop();
    in_line.stream.write_all(rest).await.expect("sent");
    let v5::Packet::PubAck(puback) = in_line.next().await else { panic!("a PUBACK") };
    assert_eq!(puback.pkid, 77);
    for client in &mut before {
        client.stream.write_all(rest).await.expect("sent");
        assert!(matches!(client.next().await, v5::Packet::PubAck(_)), "in time, too");
    }
    broker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_begins_long_packets_and_never_ends_them_has_his_place_for_a_while_and_the_next_one_too() {
    let broker = Running::start().await;
    let mut long = BytesMut::new();
    message("long", 1, &"x".repeat(40_000)).write(&mut long).expect("encodable");
    let mut hanging = Vec::new();
    for n in 0..40 {
        let mut client =
            Client5::connect(broker.address, &format!("hangs-{n}"), |wishes| wishes.connect.keep_alive = 5).await;
        client.stream.write_all(&long[..100]).await.expect("sent");
        client.stream.flush().await.expect("sent");
        hanging.push(client);
    }
    let mut honest = broker.v5("honest").await;
    honest.stream.write_all(&long).await.expect("sent");
    let before = tokio::time::Instant::now();
    // 40 in 16 places, each for its keep alive and a half at the longest.
    let answer = tokio::time::timeout(std::time::Duration::from_secs(60), honest.next()).await;
    assert!(matches!(answer, Ok(v5::Packet::PubAck(_))), "after {:?}: {answer:?}", before.elapsed());
    for client in &mut hanging {
        client.disconnected().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_and_never_reads_stops_only_itself() {
    let broker = Running::start().await;
    let deaf = broker.v4("deaf").await;
    let mut healthy = broker.v4("healthy").await;
    let pings = [0xC0, 0].repeat(16 * 1024);
    // Every ping is owed an answer that is never read: sooner or later nothing more is taken.
    let mut refused = 0;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while refused < 50 {
        assert!(tokio::time::Instant::now() < deadline, "the broker takes everything");
        match deaf.stream.try_write(&pings) {
            Ok(_) => refused = 0,
            Err(_) => {
                refused += 1;
                healthy.ping().await;
            }
        }
        tokio::task::yield_now().await;
    }
    healthy.ping().await;
    drop(deaf);
    broker.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_noticed_and_tried_again() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", own_port())).expect("a port");
    let listen = taken.local_addr().expect("an address");
    let mut broker = Running::with(Setup { listen, ..Setup::default() }).await;
    let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.expect("in time").expect("a notice");
    assert_eq!((told.event, told.phase, told.subject), ("broker_listener_down", Phase::Active, listen.to_string()));
    drop(taken);
    let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.expect("in time").expect("a notice");
    assert_eq!(told.phase, Phase::Cleared);
    broker.v4("c").await.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn what_was_sent_before_a_goodbye_counts_even_if_the_sender_is_gone_at_once() {
    let broker = Running::start().await;
    let mut reader = broker.v4("reader").await;
    reader.subscribe("#", QoS::AtMostOnce).await;
    let will = v5::LastWill::new("will", "gone", rumqttc::v5::mqttbytes::QoS::AtMostOnce, false, None);
    let mut hasty = Client5::connect(broker.address, "hasty", |wishes| wishes.will = Some(will)).await;
    let mut bytes = BytesMut::new();
    for n in 0..5000 {
        message("burst", 0, &n.to_string()).write(&mut bytes).expect("encodable");
    }
    bytes.extend_from_slice(&[0xE0, 0]);
    hasty.stream.write_all(&bytes).await.expect("sent");
    drop(hasty);
    for n in 0..5000 {
        let seen = reader.message().await;
        assert_eq!((&*seen.topic, &seen.payload[..]), ("burst", n.to_string().as_bytes()));
    }
    until("the sender has gone", || broker.publisher.stats().clients.get() == 1).await;
    reader.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_client_with_thousands_of_filters_that_match_nothing_slows_nobody() {
    let broker = Running::with(Setup { tags: 10_000, ..Setup::default() }).await;
    broker.publisher.retain_many((0..10_000).map(|n| (tag(n), "1".into())));
    let mut healthy = broker.v4("healthy").await;
    healthy.subscribe("good", QoS::AtMostOnce).await;
    let mut greedy = broker.v5("greedy").await;
    for packet in 0..10 {
        let filters = (0..2000).map(|n| filter(&format!("+/{packet}/{n}/#"), 0)).collect();
        greedy.send(v5::Packet::Subscribe(v5::Subscribe { pkid: 1, filters, properties: None })).await;
    }
    let mut slowest = std::time::Duration::ZERO;
    for n in 0..50 {
        let before = worked();
        broker.publisher.publish("good".into(), n.to_string().into());
        assert_eq!(healthy.message().await.payload, n.to_string());
        slowest = slowest.max(worked().saturating_sub(before));
    }
    assert!(slowest.as_millis() < 2000, "{slowest:?}");
    // The last of twenty thousand filters were too many.
    for packet in 0..10 {
        let v5::Packet::SubAck(suback) = greedy.next().await else { panic!("a SUBACK") };
        let refused = v5::SubscribeReasonCode::QuotaExceeded;
        assert_eq!(suback.return_codes.last() == Some(&refused), packet > 7, "{packet}");
    }
    broker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_idle_for_minutes_is_served_and_one_that_takes_nothing_for_a_minute_is_not() {
    let broker = Running::start().await;
    let (mut idle, mut hung) = (broker.v4("idle").await, broker.v5("hung").await);
    idle.subscribe("x", QoS::AtMostOnce).await;
    for n in 0..20 {
        tokio::time::advance(std::time::Duration::from_secs(150)).await;
        broker.publisher.publish("x".into(), n.to_string().into());
        assert_eq!(idle.message().await.payload, n.to_string());
        idle.ping().await;
    }
    hung.subscribe(filter("plant/#", 0), None).await;
    // More than the system's buffers hold; these values may be thinned, so nothing but the clock ends it.
    let value = bytes::Bytes::from(vec![b'x'; 100_000]);
    for _ in 0..100 {
        broker.publisher.retain_many((0..10).map(|n| (tag(n), value.clone())));
        idle.ping().await;
    }
    for _ in 0..40 {
        assert_eq!(broker.publisher.stats().dropped_slow.get(), 0);
        idle.ping().await;
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
    }
    until("it is given up", || broker.publisher.stats().clients.get() == 1).await;
    idle.ping().await;
    broker.stop().await;
}
