//! Clients that want more than their share: of the processor, of memory, of everybody's attention.

use crate::sessions::More as _;
use crate::support;

use std::collections::HashSet;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::QoS;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Packets of a client that are dealt with before others get their turn, with some to spare.
const AT_A_TIME: u64 = 256;

/// On one thread: whoever else has something to do has to wait for so many packets, and no more.
#[tokio::test]
async fn a_client_with_very_much_to_say_lets_others_speak_every_few_packets() {
    let broker = Running::start().await;
    let greedy = broker.v4("greedy").await;
    let mut filters = BytesMut::new();
    for _ in 0..2000 {
        filters.extend_from_slice(&[0x82, 6, 0, 1, 0, 1, b'x', 0]);
        filters.extend_from_slice(&[0xA2, 5, 0, 1, 0, 1, b'x']);
    }
    let (stats, mut longest) = (broker.publisher.stats(), 0);
    let mut before = stats.packets_received.get();
    for _ in 0..20 {
        // As much as goes, so that there is always more; answers are read too, or it would be stopped for that.
        let mut sent = 0;
        while sent < filters.len() {
            match greedy.stream.try_write(&filters[sent..]) {
                Ok(count) => sent += count,
                Err(_) => drop(greedy.stream.try_read(&mut [0; 8192])),
            }
            tokio::task::yield_now().await;
            let now = stats.packets_received.get();
            longest = longest.max(now - before);
            before = now;
        }
    }
    assert!(longest > 0 && longest <= AT_A_TIME, "{longest} packets at a time");
    drop(greedy);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_without_a_pause_is_acknowledged_all_the_same() {
    let broker = Running::start().await;
    let lasting = |wishes: &mut Wishes| wishes.properties.session_expiry_interval = Some(60);
    let mut away = Client5::connect(broker.address, "away", lasting).await;
    away.subscribe(filter("owed", 1), None).await;
    drop(away);
    let sender = broker.v5("sender").await;
    let (mut reader, mut writer) = sender.stream.into_split();
    let (mut owed, mut flood) = (bytes::BytesMut::new(), bytes::BytesMut::new());
    message("owed", 1, "x").write(&mut owed).expect("encodable");
    for _ in 0..1000 {
        message("nobody", 0, "x").write(&mut flood).expect("encodable");
    }
    let flooding = tokio::spawn(async move {
        writer.write_all(&owed).await.expect("sent");
        while writer.write_all(&flood).await.is_ok() {}
    });
    let mut puback = [0; 4];
    tokio::time::timeout(PATIENCE, reader.read_exact(&mut puback)).await.expect("in time").expect("a PUBACK");
    assert_eq!(puback, [0x40, 2, 0, 77]);
    flooding.abort();
    broker.stop().await;
}

#[tokio::test]
async fn a_storm_of_takeovers_leaves_one_client_and_sends_every_will_but_one() {
    const STORM: usize = 200;
    let broker = Running::start().await;
    let mut reader = broker.v4("reader").await;
    reader.subscribe("will", QoS::AtLeastOnce).await;
    let mut storm = Vec::new();
    for n in 0..STORM {
        let will = v5::LastWill::new("will", n.to_string(), rumqttc::v5::mqttbytes::QoS::AtMostOnce, false, None);
        storm.push(Client5::connect(broker.address, "wanted/by+all#", |wishes| wishes.will = Some(will)).await);
    }
    for (n, thrown_out) in storm[..STORM - 1].iter_mut().enumerate() {
        assert_eq!(reader.message().await.payload, n.to_string());
        assert_eq!(thrown_out.disconnected().await, v5::DisconnectReasonCode::SessionTakenOver);
    }
    storm[STORM - 1].ping().await;
    assert_eq!(broker.publisher.stats().clients.get(), 2);
    broker.stop().await;
}

#[tokio::test]
async fn hundreds_of_wills_at_once_all_arrive_and_nobody_stays_behind() {
    const MANY: usize = 200;
    let broker = Running::start().await;
    let mut reader = broker.v4("reader").await;
    reader.subscribe("wills/#", QoS::AtLeastOnce).await;
    let mut clients = Vec::new();
    for n in 0..MANY {
        let qos = rumqttc::v5::mqttbytes::QoS::ExactlyOnce;
        let will = v5::LastWill::new(format!("wills/{n}"), "gone", qos, true, None);
        clients.push(Client5::connect(broker.address, &format!("c{n}"), |wishes| wishes.will = Some(will)).await);
    }
    drop(clients);
    let mut seen = HashSet::new();
    while seen.len() < MANY {
        let will = reader.message().await;
        reader.send(v4::Packet::PubAck(v4::PubAck::new(will.pkid))).await;
        assert!(seen.insert(will.topic), "each once");
    }
    until("all have gone", || broker.publisher.stats().clients.get() == 1).await;
    assert!(broker.publisher.stats().retained.get() >= MANY as u64);
    broker.stop().await;
}

#[tokio::test]
async fn long_wills_of_all_clients_together_are_bounded_and_whoever_leaves_a_short_one_or_none_comes_in() {
    const LONG: usize = 60_000;
    const ALL: usize = 8 * 1024 * 1024;
    let broker = Running::start().await;
    let address = broker.address;
    let leaving = |id: String, bytes: usize, delay: Option<u32>| async move {
        let (mut client, connack) = Client5::open(address, &id, |wishes| {
            let properties = v5::LastWillProperties { delay_interval: delay, ..no_will_properties() };
            let (qos, payload) = (rumqttc::v5::mqttbytes::QoS::AtMostOnce, "x".repeat(bytes));
            wishes.properties.session_expiry_interval = delay;
            wishes.connect.clean_start = delay.is_none();
            wishes.will = Some(v5::LastWill::new("w", payload, qos, false, Some(properties)));
        })
        .await;
        if connack.code == v5::ConnectReturnCode::Success {
            client.ping().await;
            return Some(client);
        }
        assert_eq!(connack.code, v5::ConnectReturnCode::QuotaExceeded);
        None
    };
    let mut inside = Vec::new();
    while let Some(client) = leaving(format!("c{}", inside.len()), LONG, Some(3600)).await {
        inside.push(client);
        assert!(inside.len() * LONG < ALL, "in the end there is no room");
    }
    assert!((inside.len() + 2) * LONG > ALL, "{} have come in", inside.len());
    assert!(leaving("short".into(), 2000, None).await.is_some());
    broker.v5("without").await.ping().await;
    // Whoever has gone and may come back has left its will still.
    let clients = broker.publisher.stats().clients.get();
    drop(inside.pop());
    until("it has gone", || broker.publisher.stats().clients.get() < clients).await;
    assert!(leaving("late".into(), LONG, None).await.is_none());
    let back = leaving(format!("c{}", inside.len()), LONG, Some(3600)).await;
    assert!(back.is_some(), "it leaves that one again");
    inside.pop().expect("another").leave().await;
    assert!(leaving("late".into(), LONG, None).await.is_some(), "the will of a goodbye is forgotten");
    broker.stop().await;
}

fn no_will_properties() -> v5::LastWillProperties {
    v5::LastWillProperties {
        delay_interval: None,
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    }
}

#[tokio::test]
async fn a_sender_that_never_reads_its_acknowledgements_stops_only_itself() {
    for qos in 1..=2 {
        let broker = Running::start().await;
        let (deaf, mut healthy) = (broker.v4("deaf").await, broker.v4("healthy").await);
        healthy.subscribe("good", QoS::AtMostOnce).await;
        let publish: Vec<u8> = (0..8000_u16)
            .flat_map(|n| [&[0x30 | qos << 1, 6, 0, 1, b'x'][..], &(n % 60 + 1).to_be_bytes(), b"1"].concat())
            .collect();
        let (mut refused, mut number) = (0, 0_u32);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while refused < 20 {
            assert!(tokio::time::Instant::now() < deadline, "the broker takes everything");
            match deaf.stream.try_write(&publish) {
                // Whole packets or not is all the same to one that is not heard for long.
                Ok(_) => refused = 0,
                Err(_) => refused += 1,
            }
            number += 1;
            broker.publisher.publish("good".into(), number.to_string().into());
            assert_eq!(healthy.message().await.payload, number.to_string());
        }
        drop(deaf);
        broker.stop().await;
    }
}

/// Each of them waits for the disk, and the broker takes in no more of them than a window at a time.
#[tokio::test]
async fn a_burst_beyond_every_window_is_all_acknowledged_though_nothing_more_is_sent() {
    const BURST: u16 = 1000;
    let broker = Running::start().await;
    let mut client = broker.v4("burst").await;
    let mut bytes = BytesMut::new();
    for n in 1..=BURST {
        let mut publish = v4::Publish::new(format!("kept/{}", n % 7), QoS::AtLeastOnce, n.to_string());
        (publish.pkid, publish.retain) = (n, true);
        publish.write(&mut bytes).expect("encodable");
    }
    client.stream.write_all(&bytes).await.expect("sent");
    for n in 1..=BURST {
        assert!(matches!(client.next().await, v4::Packet::PubAck(ack) if ack.pkid == n));
    }
    broker.stop().await;
}

#[tokio::test]
async fn packets_that_come_one_byte_at_a_time_are_packets_all_the_same() {
    let broker = Running::start().await;
    let mut reader = broker.v4("reader").await;
    reader.subscribe("drop/by/drop", QoS::AtMostOnce).await;
    let mut slow = broker.v5("slow").await;
    let mut bytes = BytesMut::new();
    for n in 0..50 {
        message("drop/by/drop", 1, &n.to_string()).write(&mut bytes).expect("encodable");
    }
    for byte in &bytes[..] {
        slow.stream.write_all(&[*byte]).await.expect("sent");
        tokio::task::yield_now().await;
    }
    for n in 0..50 {
        assert_eq!(reader.message().await.payload, n.to_string());
        assert!(matches!(slow.next().await, v5::Packet::PubAck(_)));
    }
    broker.stop().await;
}

#[tokio::test]
async fn readers_that_hang_on_long_messages_are_given_up_and_the_plant_is_seen_meanwhile() {
    let broker = Running::start().await;
    let mut plant = broker.v4("plant").await;
    plant.subscribe("plant/#", QoS::AtMostOnce).await;
    let mut hung = Vec::new();
    for n in 0..20 {
        let mut client = broker.v5(&format!("hung-{n}")).await;
        client.subscribe(filter("long", 1), None).await;
        hung.push(client);
    }
    let mut writer = broker.v5("writer").await;
    let long = "x".repeat(1_000_000);
    for n in 0..20 {
        writer.publish(message("long", 1, &long)).await;
        broker.publisher.retain(tag(0), n.to_string().into());
        assert_eq!(plant.message().await.payload, n.to_string());
    }
    until("those who hang are given up", || broker.publisher.stats().clients.get() == 2).await;
    assert!(broker.publisher.stats().dropped_slow.get() >= 20);
    plant.ping().await;
    broker.stop().await;
}

/// Each of them has a megabyte of its own on its way.
#[tokio::test]
async fn readers_that_hang_on_a_long_message_each_hold_so_much_together_and_not_for_long() {
    const MANY: usize = 100;
    let broker = Running::start().await;
    let long = |n: usize| bytes::Bytes::from(vec![u8::try_from(n).expect("a byte"); 1_000_000]);
    let mut hung = Vec::new();
    for n in 0..MANY {
        let mut client = broker.v5(&format!("hung-{n}")).await;
        client.subscribe(filter(&format!("long/{n}"), 0), None).await;
        hung.push(client);
    }
    let (mut healthy, mut told) = (broker.v4("healthy").await, broker.v5("told").await);
    healthy.subscribe("good", QoS::AtMostOnce).await;
    told.subscribe(filter("long/last", 1), None).await;
    let stats = broker.publisher.stats();
    // What the system's own buffers take does not wait.
    for round in 0.. {
        for n in 0..MANY {
            broker.publisher.publish(format!("long/{n}").into(), long(n));
        }
        broker.publisher.publish("good".into(), "1".into());
        assert_eq!(healthy.message().await.payload, "1");
        let waiting = broker.publisher.waiting_bytes();
        assert!(waiting < 67_200_000 && round < 50, "{waiting}");
        if waiting > 66_000_000 && stats.dropped_full.get() > 0 {
            break;
        }
    }
    broker.publisher.publish("long/last".into(), long(1));
    assert_eq!(told.disconnected().await, v5::DisconnectReasonCode::QuotaExceeded);
    // Those that hang are given up sooner than otherwise: somebody needs the room.
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    while broker.publisher.waiting_bytes() > 51_000_000 {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
        assert!(before.elapsed() < Duration::from_secs(40), "{:?}", before.elapsed());
    }
    tokio::time::resume();
    let mut again = broker.v5("again").await;
    again.subscribe(filter("long/last", 1), None).await;
    broker.publisher.publish("long/last".into(), long(2));
    assert_eq!(again.message().await.payload, long(2));
    drop((hung, again, told));
    until("nothing is charged for ever", || broker.publisher.waiting_bytes() == 0).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_long_message_comes_whole_to_very_many_at_once_with_what_is_before_and_behind_it() {
    const MANY: usize = 100;
    let broker = Running::start().await;
    let mut readers = Vec::new();
    for n in 0..MANY {
        let mut reader = broker.v5(&format!("reader-{n}")).await;
        reader.subscribe(filter("long/#", u8::try_from(n % 2).expect("0 or 1")), None).await;
        readers.push(reader);
    }
    let long: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let long = bytes::Bytes::from(long);
    broker.publisher.publish("long/before".into(), "1".into());
    broker.publisher.publish("long/it".into(), long.clone());
    broker.publisher.publish("long/behind".into(), "2".into());
    assert!(broker.publisher.waiting_bytes() < 1_200_000, "{}: it is there once", broker.publisher.waiting_bytes());
    for reader in &mut readers {
        reader.send(v5::Packet::PingReq(v5::PingReq)).await;
        for (topic, payload) in [("long/before", &b"1"[..]), ("long/it", &long), ("long/behind", b"2")] {
            let mut packet = reader.next().await;
            if matches!(packet, v5::Packet::PingResp(_)) {
                packet = reader.next().await;
            }
            let v5::Packet::Publish(seen) = packet else { panic!("{packet:?}") };
            assert!(seen.topic == topic && seen.payload == payload, "{topic}");
        }
    }
    assert_eq!((broker.publisher.waiting_bytes(), broker.publisher.stats().dropped()), (0, 0));
    broker.stop().await;
}

/// They are dealt with in one piece, and everybody else waits for that.
#[tokio::test]
async fn more_filters_in_one_packet_than_are_dealt_with_at_once_end_that_connection() {
    let broker = Running::start().await;
    let mut healthy = broker.v4("healthy").await;
    let packet = |first: u8, filter: &[u8], count: usize| {
        let mut length = 2 + filter.len() * count;
        let mut packet = vec![first];
        while length > 0x7F {
            packet.push(0x80 | u8::try_from(length & 0x7F).expect("seven bits"));
            length >>= 7;
        }
        packet.push(u8::try_from(length).expect("the rest"));
        packet.extend_from_slice(&[0, 1]);
        packet.extend_from_slice(&filter.repeat(count));
        packet
    };
    for (first, filter) in [(0x82, &[0, 1, b'z', 0][..]), (0xA2, &[0, 1, b'z'])] {
        let mut many = broker.v4("many").await;
        many.stream.write_all(&packet(first, filter, 16 * 1024)).await.expect("sent");
        let answer = many.next().await;
        assert!(matches!(answer, v4::Packet::SubAck(_) | v4::Packet::UnsubAck(_)), "{answer:?}");
        // The broker may have closed before it has all.
        drop(many.stream.write_all(&packet(first, filter, 250_000)).await);
        assert!(many.try_next().await.is_none());
        healthy.ping().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_flood_of_retained_messages_has_an_end_and_what_is_taken_back_makes_room() {
    let broker = Running::start().await;
    let mut greedy = broker.v5("greedy").await;
    let long = "x".repeat(250_000);
    let retain = |n: usize, payload: &str| {
        let mut publish = message(&format!("flood/{n}"), 1, payload);
        publish.retain = true;
        publish
    };
    let mut kept = 0;
    while greedy.publish(retain(kept, &long)).await != v5::PubAckReason::QuotaExceeded {
        kept += 1;
        assert!(kept < 500, "without an end");
    }
    assert!(kept > 60, "{kept}");
    // The gateway's own find room, and so does a shorter one in the place of a long one.
    broker.publisher.retain(tag(0), "1".into());
    assert_ne!(greedy.publish(retain(0, "short")).await, v5::PubAckReason::QuotaExceeded);
    assert_ne!(greedy.publish(retain(kept, &long[1000..])).await, v5::PubAckReason::QuotaExceeded);
    let mut reader = broker.v4("reader").await;
    reader.subscribe("plant/#", QoS::AtMostOnce).await;
    assert_eq!(reader.message().await.payload, "1");
    for n in 0..=kept {
        greedy.publish(retain(n, "")).await;
    }
    // The gateway's tag, and what it says of itself.
    assert!(broker.publisher.stats().retained.get() < kept as u64);
    broker.stop().await;
}

#[tokio::test]
async fn shared_groups_that_come_and_go_leave_nothing_and_disturb_nobody() {
    let broker = Running::start().await;
    let mut healthy = broker.v4("healthy").await;
    healthy.subscribe("good", QoS::AtMostOnce).await;
    let mut members = Vec::new();
    for n in 0..10 {
        members.push(broker.v5(&format!("member-{n}")).await);
    }
    for round in 0..50 {
        for (n, member) in members.iter_mut().enumerate() {
            let filters = (0..20).map(|group| filter(&format!("$share/{}/{group}/+/#", (group + n) % 7), 1)).collect();
            member.send(v5::Packet::Subscribe(v5::Subscribe { pkid: 1, filters, properties: None })).await;
            let filters = (0..20).map(|group| format!("$share/{}/{group}/+/#", (group + n) % 7)).collect();
            member.send(v5::Packet::Unsubscribe(v5::Unsubscribe { pkid: 2, filters, properties: None })).await;
        }
        broker.publisher.publish("good".into(), round.to_string().into());
        assert_eq!(healthy.message().await.payload, round.to_string());
        for member in &mut members {
            assert!(matches!(member.next().await, v5::Packet::SubAck(_)));
            assert!(matches!(member.next().await, v5::Packet::UnsubAck(_)));
        }
    }
    assert_eq!(broker.publisher.stats().subscriptions.get(), 1);
    broker.stop().await;
}

/// Every publish must be held against every filter that could match: wildcards are the dearest.
#[tokio::test]
async fn wildcards_at_every_level_times_ten_thousand_topics_do_not_hold_up_the_gateways_own() {
    let broker = Running::with(Setup { tags: 10_000, ..Setup::default() }).await;
    let mut healthy = broker.v4("healthy").await;
    healthy.subscribe("good", QoS::AtMostOnce).await;
    let levels = ["+", "plant", "dev1", "x"];
    let mut greedy = broker.v5("greedy").await;
    let filters = (0..1024_usize).map(|n| {
        let level = |place: u32| levels[n / 4_usize.pow(place) % 4];
        filter(&format!("{}/{}/{}/{}/{}/#", level(0), level(1), level(2), level(3), level(4)), 0)
    });
    let subscribe = v5::Subscribe { pkid: 1, filters: filters.collect(), properties: None };
    greedy.send(v5::Packet::Subscribe(subscribe)).await;
    assert!(matches!(greedy.next().await, v5::Packet::SubAck(_)));
    greedy.subscribe(filter("+/+/+/+/#", 0), None).await;
    let mut writer = broker.v5("writer").await;
    let mut bytes = BytesMut::new();
    for _ in 0..500 {
        message("plant/dev1/plant/dev1/x", 0, "1").write(&mut bytes).expect("encodable");
    }
    for n in 0..5 {
        writer.stream.write_all(&bytes).await.expect("sent");
        broker.publisher.retain_many((0..10_000).map(|n| (tag(n), "1".into())));
        broker.publisher.publish("good".into(), n.to_string().into());
        let seen = tokio::time::timeout(Duration::from_secs(10), healthy.message()).await;
        assert_eq!(seen.expect("soon").payload, n.to_string());
        tokio::task::yield_now().await;
    }
    broker.stop().await;
}
