//! Connections that break in the middle of a handshake, and gateways that are started again there.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use super::*;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// What is done to the middle of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Connection,
    Gateway,
}

/// The client's connection is gone, without a word; or the whole gateway.
async fn cut(broker: Running, client: Client5, how: Cut) -> Running {
    drop(client);
    match how {
        Cut::Connection => broker,
        Cut::Gateway => again(broker).await,
    }
}

async fn both(mut test: impl AsyncFnMut(Cut)) {
    for how in [Cut::Connection, Cut::Gateway] {
        test(how).await;
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_with_its_packet_id_marked_as_such_and_before_what_is_newer() {
    both(async |how| {
        let broker = Running::start().await;
        let (mut reader, _) = back(&broker, "reader").await;
        reader.subscribe(filter("q", 2), None).await;
        let mut sender = broker.v5("sender").await;
        let mut first = Vec::new();
        for n in 0..20 {
            assert!(sender.give(message("q", 1 + n % 2, &format!("{n}"))).await);
            first.push(reader.message().await);
        }
        assert!(first.iter().all(|seen| !seen.dup));
        // One of them is acknowledged, out of its turn.
        let done = first.remove(4);
        assert_eq!(done.qos, QoS5::AtLeastOnce);
        reader.send(v5::Packet::PubAck(v5::PubAck::new(done.pkid, None))).await;
        reader.ping().await;
        let broker = cut(broker, reader, how).await;
        assert!(broker.v5("sender").await.give(message("q", 1, "newer")).await);
        let (mut reader, present) = back(&broker, "reader").await;
        assert!(present);
        for seen in &first {
            let once_more = reader.message().await;
            assert_eq!(
                (once_more.pkid, &once_more.payload, once_more.dup),
                (seen.pkid, &seen.payload, true),
                "{how:?}"
            );
        }
        let newer = reader.message().await;
        assert_eq!((&newer.payload[..], newer.dup), (&b"newer"[..], false));
        assert!(first.iter().all(|seen| seen.pkid != newer.pkid));
        broker.stop().await;
    })
    .await;
}

#[tokio::test]
async fn retained_messages_that_a_new_subscription_was_not_yet_sent_come_after_the_cut_and_only_those() {
    const MANY: usize = 500; // more than are on their way to a client at a time
    both(async |how| {
        let broker = Running::start().await;
        let mut sender = broker.v5("sender").await;
        for few in (0..MANY).collect::<Vec<_>>().chunks(50) {
            for (n, pkid) in few.iter().zip(1..) {
                let publish = v5::Publish { retain: true, pkid, ..message(&format!("r/{n}"), 1, "x") };
                sender.send(v5::Packet::Publish(publish)).await;
            }
            for _ in few {
                assert!(matches!(sender.next().await, v5::Packet::PubAck(_)));
            }
        }
        let mut all = HashSet::new();
        let (mut quick, _) = back(&broker, "quick").await;
        quick.subscribe(filter("r/#", 1), None).await;
        while all.len() < MANY {
            assert!(all.insert(quick.take().await.topic), "once");
        }
        quick.leave().await;
        let (mut slow, _) = back(&broker, "slow").await;
        slow.subscribe(filter("r/#", 1), None).await;
        let mut seen = HashSet::from([slow.take().await.topic]);
        let broker = cut(broker, slow, how).await;
        let (mut slow, present) = back(&broker, "slow").await;
        assert!(present);
        while seen != all {
            let next = slow.take().await;
            assert!(next.retain, "{how:?}");
            seen.insert(next.topic);
        }
        back(&broker, "quick").await.0.ping().await; // it had them all
        broker.stop().await;
    })
    .await;
}

/// Retained at QoS 1, and acknowledged.
async fn retain(sender: &mut Client5, topic: &str, text: &str) {
    assert!(sender.give(v5::Publish { retain: true, ..message(topic, 1, text) }).await);
}

#[tokio::test]
async fn what_was_replaced_at_qos_0_while_a_walk_was_cut_comes_once_as_it_is_now_and_nothing_older_after_it() {
    const MANY: usize = 300; // more than are on their way to a client at a time
    both(async |how| {
        let broker = Running::start().await;
        let mut sender = broker.v5("sender").await;
        for n in 0..MANY {
            retain(&mut sender, &format!("r/{n:03}"), "old").await;
        }
        let few = |wishes: &mut Wishes| {
            lasting(3600)(wishes);
            wishes.properties.receive_maximum = Some(5);
        };
        let mut slow = Client5::connect(broker.address, "slow", few).await;
        slow.subscribe(filter("r/#", 1), None).await;
        slow.message().await;
        // While it is connected, and cannot get it yet.
        sender.publish(v5::Publish { retain: true, ..message("r/297", 0, "new") }).await;
        sender.ping().await;
        drop(slow);
        let stats = broker.publisher.stats();
        until("it is away", || stats.clients.get() == 1).await;
        retain(&mut sender, "r/298", "between").await;
        for topic in ["r/298", "r/299"] {
            sender.publish(v5::Publish { retain: true, ..message(topic, 0, "new") }).await;
        }
        sender.ping().await;
        drop(sender);
        let broker = if how == Cut::Gateway { again(broker).await } else { broker };
        let (mut slow, present) = back(&broker, "slow").await;
        assert!(present);
        let (mut seen, mut ends) = (Vec::new(), HashSet::new());
        while ends.len() < 3 {
            let next = slow.take().await;
            if next.payload == "new" {
                assert!(next.retain && ends.insert(next.topic.clone()), "once");
            }
            seen.push((next.topic, next.payload));
        }
        slow.ping().await;
        let mut sender = broker.v5("sender").await;
        sender.publish(v5::Publish { retain: true, ..message("r/000", 0, "newer") }).await;
        assert!(sender.give(message("r/end", 1, "end")).await);
        while seen.last().is_none_or(|(topic, _)| topic != "r/end") {
            let next = slow.take().await;
            seen.push((next.topic, next.payload));
        }
        slow.ping().await;
        let of = |topic: &str| -> Vec<&[u8]> {
            seen.iter().filter(|(name, _)| name == topic).map(|(_, text)| &text[..]).collect()
        };
        assert!((0..MANY).all(|n| !of(&format!("r/{n:03}")).is_empty()), "{how:?}");
        for topic in ["r/297", "r/298", "r/299"] {
            let texts = of(topic);
            let news = texts.iter().filter(|text| **text == b"new").count();
            assert!(texts.last() == Some(&&b"new"[..]) && news == 1, "{topic} {texts:?} {how:?}");
        }
        assert_eq!(of("r/000").last(), Some(&&b"newer"[..]), "what comes now comes by itself, {how:?}");
        broker.stop().await;
    })
    .await;
}

/// How far the client has gone with a delivery of QoS 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Publish,
    PubrecSent,
    Pubrel,
    PubcompSent,
}

#[tokio::test]
async fn qos_2_reaches_a_client_once_wherever_the_handshake_is_cut() {
    for reached in [Reached::Publish, Reached::PubrecSent, Reached::Pubrel, Reached::PubcompSent] {
        both(async |how| {
            let broker = Running::start().await;
            let (mut reader, _) = back(&broker, "reader").await;
            reader.subscribe(filter("q", 2), None).await;
            assert!(broker.v5("sender").await.give(message("q", 2, "once")).await);
            let seen = reader.message().await;
            let (pubrec, pubrel) = (v5::PubRec::new(seen.pkid, None), v5::PubRel::new(seen.pkid, None));
            if reached != Reached::Publish {
                reader.send(v5::Packet::PubRec(pubrec.clone())).await;
            }
            if matches!(reached, Reached::Pubrel | Reached::PubcompSent) {
                assert_eq!(reader.next().await, v5::Packet::PubRel(pubrel.clone()));
            }
            if reached == Reached::PubcompSent {
                reader.send(v5::Packet::PubComp(v5::PubComp::new(seen.pkid, None))).await;
                reader.ping().await;
            }
            let broker = cut(broker, reader, how).await;
            let (mut reader, _) = back(&broker, "reader").await;
            let mut next = if reached == Reached::PubcompSent { None } else { Some(reader.next().await) };
            if let Some(v5::Packet::Publish(once_more)) = &next {
                // The same identifier: the client knows that it has it.
                assert!(matches!(reached, Reached::Publish | Reached::PubrecSent), "{reached:?} {how:?}");
                assert_eq!((once_more.pkid, once_more.dup, &once_more.payload[..]), (seen.pkid, true, &b"once"[..]));
                reader.send(v5::Packet::PubRec(pubrec)).await;
                next = Some(reader.next().await);
            }
            if let Some(next) = next {
                assert_eq!(next, v5::Packet::PubRel(pubrel), "{reached:?} {how:?}");
                reader.send(v5::Packet::PubComp(v5::PubComp::new(seen.pkid, None))).await;
            }
            reader.ping().await;
            let broker = cut(broker, reader, how).await;
            let (mut reader, _) = back(&broker, "reader").await;
            reader.ping().await;
            broker.stop().await;
        })
        .await;
    }
}

/// How far the client has gone with a publish of QoS 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    Published,
    Pubrec,
    Released,
    Pubcomp,
}

#[tokio::test]
async fn qos_2_from_a_client_is_taken_once_wherever_the_handshake_is_cut_and_its_identifier_is_free_afterwards() {
    for gone in [Gone::Published, Gone::Pubrec, Gone::Released, Gone::Pubcomp] {
        both(async |how| {
            let broker = Running::start().await;
            absent(&broker, "reader", "q", 2).await;
            let (mut sender, _) = back(&broker, "sender").await;
            let (release, complete) = (v5::PubRel::new(77, None), v5::PubComp::new(77, None));
            sender.send(v5::Packet::Publish(message("q", 2, "once"))).await;
            if gone != Gone::Published {
                assert_eq!(sender.next().await, v5::Packet::PubRec(v5::PubRec::new(77, None)));
            }
            if matches!(gone, Gone::Released | Gone::Pubcomp) {
                sender.send(v5::Packet::PubRel(release.clone())).await;
            }
            if gone == Gone::Pubcomp {
                assert_eq!(sender.next().await, v5::Packet::PubComp(complete.clone()));
            }
            if gone == Gone::Published {
                sender.ping_behind_acknowledgements().await;
            }
            let broker = cut(broker, sender, how).await;
            let (mut sender, present) = back(&broker, "sender").await;
            assert!(present);
            if gone == Gone::Published {
                let again = v5::Publish { dup: true, ..message("q", 2, "once") };
                sender.send(v5::Packet::Publish(again)).await;
                assert_eq!(sender.next().await, v5::Packet::PubRec(v5::PubRec::new(77, None)));
            }
            if gone != Gone::Pubcomp {
                sender.send(v5::Packet::PubRel(release)).await;
                // That it is not known any more is as good.
                assert!(matches!(sender.next().await, v5::Packet::PubComp(pubcomp) if pubcomp.pkid == 77));
            }
            assert!(sender.give(message("q", 2, "another, with the same identifier")).await);
            let (mut reader, _) = back(&broker, "reader").await;
            let texts = reader.take_texts(2).await;
            assert_eq!(texts, ["once", "another, with the same identifier"], "{gone:?} {how:?}");
            reader.ping().await;
            broker.stop().await;
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_client_that_has_forgotten_everything_publishes_under_an_identifier_of_before_is_a_new_message() {
    for gone in [Gone::Published, Gone::Pubrec] {
        both(async |how| {
            let broker = Running::start().await;
            absent(&broker, "reader", "q", 2).await;
            let (mut sender, _) = back(&broker, "sender").await;
            sender.send(v5::Packet::Publish(message("q", 2, "first"))).await;
            if gone == Gone::Pubrec {
                assert_eq!(sender.next().await, v5::Packet::PubRec(v5::PubRec::new(77, None)));
            } else {
                sender.ping_behind_acknowledgements().await;
            }
            let broker = cut(broker, sender, how).await;
            let (mut sender, present) = back(&broker, "sender").await;
            assert!(present);
            assert!(sender.give(message("q", 2, "second")).await);
            sender.send(v5::Packet::Publish(message("nobody", 2, "third"))).await;
            assert_eq!(sender.next().await, v5::Packet::PubRec(v5::PubRec::new(77, None)));
            let broker = cut(broker, sender, how).await;
            let (mut sender, _) = back(&broker, "sender").await;
            // Nobody was owed the third: after a restart nothing is known of it, nor of what had the identifier before.
            let fourth = v5::Publish { dup: how == Cut::Gateway, ..message("q", 2, "fourth") };
            assert!(sender.give(fourth).await);
            let (mut reader, _) = back(&broker, "reader").await;
            assert_eq!(reader.take_texts(3).await, ["first", "second", "fourth"], "{gone:?} {how:?}");
            reader.ping().await;
            broker.stop().await;
        })
        .await;
    }
}

trait Behind {
    /// A round trip; acknowledgements on the way are let by.
    async fn ping_behind_acknowledgements(&mut self);
}

impl Behind for Client5 {
    async fn ping_behind_acknowledgements(&mut self) {
        self.send(v5::Packet::PingReq(v5::PingReq)).await;
        while self.next().await != v5::Packet::PingResp(v5::PingResp) {}
    }
}

#[tokio::test]
async fn a_slow_reader_whose_session_lasts_is_not_disconnected_and_misses_nothing() {
    let broker = Running::start().await;
    let (mut slow, _) = back(&broker, "slow").await;
    slow.subscribe(filter("q", 1), None).await;
    let mut sender = broker.v5("sender").await;
    // 4 MB: more than its memory and the system's buffers take.
    let body = "x".repeat(20_000);
    for n in 0..200 {
        assert!(sender.give(message("q", 1, &format!("{n} {body}"))).await);
    }
    assert_eq!(broker.publisher.stats().dropped(), 0);
    for n in 0..200 {
        let seen = slow.take().await;
        let text = std::str::from_utf8(&seen.payload).expect("text");
        assert_eq!((text.split(' ').next(), seen.dup), (Some(&*n.to_string()), false));
    }
    assert!(sender.give(message("q", 1, "live")).await);
    assert_eq!(slow.take().await.payload, "live");
    broker.stop().await;
}

#[tokio::test]
async fn one_delivery_that_is_never_answered_ends_the_connection_before_it_silences_it_and_all_comes_on_the_next() {
    let broker = Running::start().await;
    let (mut reader, _) = back(&broker, "reader").await;
    reader.subscribe(filter("q", 1), None).await;
    let mut sender = broker.v5("sender").await;
    let (mut sent, mut seen) = (0_u32, 0_u32);
    let reason = 'all: loop {
        for pkid in 1..=100 {
            sender.send(v5::Packet::Publish(v5::Publish { pkid, ..message("q", 1, &sent.to_string()) })).await;
            sent += 1;
        }
        while seen < sent {
            match reader.next().await {
                v5::Packet::Publish(publish) => {
                    assert_eq!(publish.payload, seen.to_string());
                    if seen > 0 {
                        reader.send(v5::Packet::PubAck(v5::PubAck::new(publish.pkid, None))).await;
                    }
                    seen += 1;
                }
                v5::Packet::Disconnect(disconnect) => break 'all disconnect.reason_code,
                other => panic!("unexpected {other:?}"),
            }
        }
        for _ in 1..=100 {
            assert!(matches!(sender.next().await, v5::Packet::PubAck(_)));
        }
    };
    assert_eq!((reason, seen), (v5::DisconnectReasonCode::QuotaExceeded, 32_767));
    let (mut reader, present) = back(&broker, "reader").await;
    assert!(present);
    let first = reader.take().await;
    assert_eq!((&first.payload[..], first.dup), (&b"0"[..], true));
    for number in 32_767..sent {
        assert_eq!(reader.take().await.payload, number.to_string());
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_is_retained_at_qos_0_comes_behind_the_older_values_that_a_session_is_owed_when_it_subscribes_again() {
    for before in [0, 90, 300] {
        let broker = Running::start().await;
        absent(&broker, "hmi", "q/#", 1).await;
        let mut sender = broker.v5("sender").await;
        for number in 0..before {
            assert!(sender.give(message("q/other", 1, &number.to_string())).await);
        }
        for (qos, text) in [(1, "offline"), (0, "online")] {
            assert!(sender.give(v5::Publish { retain: true, ..message("q/state", qos, text) }).await);
        }
        sender.ping().await;
        // In one go, as a client may: before anything can have been read from the disk.
        let mut hmi = Client5 { stream: TcpStream::connect(broker.address).await.unwrap(), arrived: BytesMut::new() };
        let properties = v5::ConnectProperties { session_expiry_interval: Some(3600), ..v5::ConnectProperties::new() };
        let properties = Some(properties);
        let connect = v5::Connect { keep_alive: 0, client_id: "hmi".to_owned(), clean_start: false, properties };
        let again = v5::Subscribe { pkid: 9, filters: vec![filter("q/#", 1)], properties: None };
        let mut both = BytesMut::new();
        v5::Packet::Connect(connect, None, None).write(&mut both, None).unwrap();
        v5::Packet::Subscribe(again).write(&mut both, None).unwrap();
        hmi.stream.write_all(&both).await.unwrap();
        let mut states = Vec::new();
        while states.len() < 2 {
            if let v5::Packet::Publish(seen) = hmi.next().await {
                if seen.qos == QoS5::AtLeastOnce {
                    hmi.send(v5::Packet::PubAck(v5::PubAck::new(seen.pkid, None))).await;
                }
                states.extend((seen.topic == "q/state").then_some(seen.payload));
            }
        }
        assert_eq!(states, ["offline", "online"], "behind {before} others");
        broker.stop().await;
    }
}

/// As after kill -9 at this moment.
async fn cut_off_now(broker: &Running) -> Running {
    let dir = std::sync::Arc::new(tempfile::tempdir().expect("a directory"));
    for entry in std::fs::read_dir(broker.dir.path()).expect("a directory").flatten() {
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
    }
    Running::at(Setup::default(), dir).await
}

#[tokio::test]
async fn a_clean_start_that_was_confirmed_outlives_a_gateway_that_is_cut_off() {
    let broker = Running::start().await;
    for id in ["old", "new"] {
        absent(&broker, id, "q", 1).await;
    }
    assert!(broker.v5("sender").await.give(message("q", 1, "discarded")).await);
    let lasting_anew = |wishes: &mut Wishes| wishes.properties.session_expiry_interval = Some(3600);
    let (_new, connack) = Client5::open(broker.address, "new", lasting_anew).await;
    assert!(!connack.session_present);
    let other = cut_off_now(&broker).await;
    let (mut new, _) = back(&other, "new").await;
    new.ping().await; // nothing comes before
    other.stop().await;
    let _old = broker.v4("old").await;
    let other = cut_off_now(&broker).await;
    assert!(!back4(&other, "old").await.1);
    other.stop().await;
    broker.stop().await;
}
