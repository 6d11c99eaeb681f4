//! Messages of lasting sessions that also go upstream: acknowledged when the store there has them, however often the
//! connection or the gateway breaks in between. The store is the test: it commits when told to.

use super::*;
use ironbridge::flow::forward::{ForwardEntry, MessageRecord, Room, Route};
use ironbridge::flow::hub::{Durable, DurableEnd, hub};
use ironbridge::model::mapping::Mapping;
use ironbridge::model::message::Kept;
use ironbridge::model::number::{Class, Epoch, Number, Seq};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A gateway that forwards `m/#`, and the store's end of it.
async fn forwarding(dir: std::sync::Arc<tempfile::TempDir>) -> (Running, DurableEnd) {
    let (lane, _, end) = hub(Vec::new());
    let route = Route { mapping: Mapping::plain("m/#"), class: Class::Bulk, lane: 0, bridge: None, kept: Kept::Yes };
    let setup = Setup { forward: ForwardEntry::new(vec![route], vec![lane]), ..Setup::default() };
    (Running::at(setup, dir).await, end)
}

/// What has come to the store.
async fn arrived(end: &mut DurableEnd) -> MessageRecord {
    match tokio::time::timeout(PATIENCE, end.records.recv()).await.expect("in time") {
        Some(Durable::Message(record)) => record,
        other => panic!("a message, not {other:?}"),
    }
}

fn commit(record: MessageRecord) {
    let number = Number { stream: Class::Bulk, epoch: Epoch(1), seq: Seq(1) };
    record.committed.expect("somebody asked").send(number).expect("somebody waits");
}

fn directory() -> std::sync::Arc<tempfile::TempDir> {
    std::sync::Arc::new(tempfile::tempdir().expect("a directory"))
}

fn numbered(pkid: u16, payload: &str, dup: bool) -> v5::Packet {
    let mut publish = message("m/1", 2, payload);
    (publish.pkid, publish.dup) = (pkid, dup);
    v5::Packet::Publish(publish)
}

/// PUBREC with success comes next; the exchange is finished.
async fn received(sender: &mut Client5, pkid: u16) {
    assert_eq!(sender.next().await, v5::Packet::PubRec(v5::PubRec::new(pkid, None)));
    sender.send(v5::Packet::PubRel(v5::PubRel::new(pkid, None))).await;
    assert_eq!(sender.next().await, v5::Packet::PubComp(v5::PubComp::new(pkid, None)));
}

#[tokio::test]
async fn a_qos_2_publish_cut_off_before_the_store_had_it_is_stored_when_it_comes_again_and_seen_once_here() {
    for gateway_too in [false, true] {
        let (mut broker, mut end) = forwarding(directory()).await;
        let (mut reader, _) = back(&broker, "reader").await;
        reader.subscribe(filter("m/#", 2), None).await;
        let (mut sender, _) = back(&broker, "sender").await;
        sender.send(numbered(7, "once", false)).await;
        assert_eq!(&reader.take().await.payload[..], b"once");
        reader.ping().await; // its PUBCOMP has arrived
        let _never_committed = arrived(&mut end).await;
        drop(sender);
        if gateway_too {
            drop(reader);
            (broker, end) = forwarding(broker.stop().await).await;
            reader = back(&broker, "reader").await.0;
        }

        let (mut sender, present) = back(&broker, "sender").await;
        assert!(present);
        sender.send(numbered(7, "once", true)).await;
        let again = arrived(&mut end).await;
        assert_eq!(&again.message.payload[..], b"once");
        sender.ping().await; // nothing before the commit
        commit(again);
        received(&mut sender, 7).await;
        reader.ping().await; // nothing came twice
        broker.stop().await;
    }
}

#[tokio::test]
async fn what_the_store_upstream_refuses_leaves_nothing_behind_that_swallows_a_later_message() {
    let (broker, mut end) = forwarding(directory()).await;
    let (mut reader, _) = back(&broker, "reader").await;
    reader.subscribe(filter("m/#", 2), None).await;
    let (mut sender, _) = back(&broker, "sender").await;
    sender.send(numbered(7, "first", false)).await;
    drop(arrived(&mut end).await); // the store gives it up
    let v5::Packet::PubRec(refused) = sender.next().await else { panic!("a PUBREC") };
    assert_eq!((refused.pkid, refused.reason), (7, v5::PubRecReason::QuotaExceeded));
    assert_eq!(reader.take_texts(1).await, ["first"]);
    reader.ping().await; // its PUBCOMP has arrived
    drop((sender, reader));

    let (broker, mut end) = forwarding(broker.stop().await).await;
    let (mut reader, _) = back(&broker, "reader").await;
    let (mut sender, _) = back(&broker, "sender").await;
    sender.send(numbered(7, "second", false)).await;
    commit(arrived(&mut end).await);
    received(&mut sender, 7).await;
    assert_eq!(reader.take_texts(1).await, ["second"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_3_1_1_client_refused_by_the_store_is_stored_when_it_comes_again_and_seen_once_here() {
    let (broker, mut end) = forwarding(directory()).await;
    let (mut reader, _) = back(&broker, "reader").await;
    reader.subscribe(filter("m/#", 2), None).await;
    let (mut sender, _) = back4(&broker, "sender").await;
    let mut publish = v4::Publish::new("m/1", QoS::ExactlyOnce, "once");
    publish.pkid = 7;
    sender.send(v4::Packet::Publish(publish.clone())).await;
    drop(arrived(&mut end).await);
    assert!(sender.try_next().await.is_none(), "3.1.1 has no other way to say so");
    assert_eq!(reader.take_texts(1).await, ["once"]);

    let (mut sender, present) = back4(&broker, "sender").await;
    assert!(present);
    publish.dup = true;
    sender.send(v4::Packet::Publish(publish)).await;
    commit(arrived(&mut end).await);
    assert_eq!(sender.next().await, v4::Packet::PubRec(v4::PubRec::new(7)));
    reader.ping().await; // nothing came twice
    broker.stop().await;
}

#[tokio::test]
async fn clients_topics_that_end_in_set_go_upstream_and_the_gateways_own_and_commands_for_it_do_not() {
    let (lane, _, mut end) = hub(Vec::new());
    let route = Route { mapping: Mapping::plain("#"), class: Class::Bulk, lane: 0, bridge: None, kept: Kept::Yes };
    let forward = ForwardEntry::new(vec![route], vec![lane]);
    let broker = Running::with(Setup { forward, write: vec!["#".to_owned()], ..Setup::default() }).await;
    let mut client = broker.v5("c").await;
    for topic in ["ironbridge/gw/event", "x/set/result", "$SYS/x", &tag(1)] {
        assert_eq!(client.publish(message(topic, 1, "x")).await, v5::PubAckReason::NotAuthorized, "{topic}");
    }
    client.send(v5::Packet::Publish(message(&format!("{}/set", tag(1)), 0, "4"))).await;
    client.send(numbered_on("zigbee2mqtt/lamp/set", 7, "ON")).await;
    let record = arrived(&mut end).await;
    assert_eq!(&*record.topic, "zigbee2mqtt/lamp/set");
    commit(record);
    assert_eq!(client.next().await, v5::Packet::PubAck(v5::PubAck::new(7, None)));
    broker.stop().await;
}

/// At QoS 1.
fn numbered_on(topic: &str, pkid: u16, payload: &str) -> v5::Packet {
    v5::Packet::Publish(v5::Publish { pkid, ..message(topic, 1, payload) })
}

/// The store has begun with it, which may take for ever, and has made room for others.
fn begun(mut record: MessageRecord) -> MessageRecord {
    assert!(record.claim());
    record.room = Room::default();
    record
}

fn long(topic: &str, pkid: u16, bytes: usize) -> v5::Packet {
    numbered_on(topic, pkid, &"x".repeat(bytes))
}

#[tokio::test]
async fn of_a_client_a_mebibyte_waits_for_the_store_and_a_window_full_of_short_messages_and_it_goes_on_after_that() {
    const LONG: u16 = 12;
    const SHORT: u16 = 64;
    const BYTES: usize = 200_000;
    let (broker, mut end) = forwarding(directory()).await;
    let stats = broker.publisher.stats();
    let (mut reading, mut writing) = broker.v5("long").await.stream.into_split();
    let sending = tokio::spawn(async move {
        let mut out = bytes::BytesMut::new();
        for pkid in 1..=LONG {
            long("m/long", pkid, BYTES).write(&mut out, None).expect("encodable");
        }
        writing.write_all(&out).await.expect("sent");
        writing
    });
    let mut waiting = Vec::new();
    while waiting.len() < 5 {
        waiting.push(begun(arrived(&mut end).await));
    }
    // As many as ever, and at once.
    let mut short = broker.v5("short").await;
    for pkid in 1..=SHORT {
        short.send(numbered_on("m/short", pkid, "x")).await;
    }
    let mut window = Vec::new();
    while window.len() < usize::from(SHORT) {
        let record = begun(arrived(&mut end).await);
        assert_eq!(&*record.topic, "m/short", "no more than a mebibyte of the other's");
        window.push(record);
    }
    assert_eq!(stats.publishes_received.get(), 5 + u64::from(SHORT));
    window.into_iter().for_each(commit);
    for pkid in 1..=SHORT {
        assert_eq!(short.next().await, v5::Packet::PubAck(v5::PubAck::new(pkid, None)));
    }
    waiting.drain(..).for_each(commit);
    for _ in 5..LONG {
        commit(begun(arrived(&mut end).await));
    }
    let mut acks = [0; 4 * LONG as usize];
    tokio::time::timeout(PATIENCE, reading.read_exact(&mut acks)).await.expect("in time").expect("all of them");
    assert_eq!(acks[acks.len() - 2..], LONG.to_be_bytes());
    drop(sending.await.expect("sent"));
    broker.stop().await;
}

#[tokio::test]
async fn of_all_clients_so_much_waits_for_the_store_and_whoever_was_not_read_for_it_is_as_soon_as_it_is_less() {
    const BYTES: usize = 1_000_000;
    const CROWD: usize = 9;
    let (broker, mut end) = forwarding(directory()).await;
    let (mut crowd, mut records) = (Vec::new(), Vec::new());
    for n in 0..CROWD {
        let mut client = broker.v5(&format!("c{n}")).await;
        client.send(long("m/crowd", 1, BYTES)).await;
        crowd.push(client);
        records.push(begun(arrived(&mut end).await));
    }
    // It cannot be heard: it is not silent.
    let mut late = Vec::new();
    for id in ["late", "later"] {
        let client = Client5::connect(broker.address, id, |wishes| wishes.connect.keep_alive = 2).await;
        let (reading, mut writing) = client.stream.into_split();
        let sending = tokio::spawn(async move {
            let mut out = bytes::BytesMut::new();
            long("m/late", 7, BYTES).write(&mut out, None).expect("encodable");
            v5::Packet::PingReq(v5::PingReq).write(&mut out, None).expect("encodable");
            writing.write_all(&out).await.expect("sent");
            writing
        });
        late.push((reading, sending));
    }
    let (mut other, beginning) = (broker.v5("other").await, std::time::Instant::now());
    while beginning.elapsed() < std::time::Duration::from_secs(4) {
        other.send(numbered_on("m/other", 3, "little")).await;
        let record = arrived(&mut end).await;
        assert_eq!(&*record.topic, "m/other", "whoever brings little is not stopped, whoever brings much is");
        commit(record);
        assert_eq!(other.next().await, v5::Packet::PubAck(v5::PubAck::new(3, None)));
        other.ping().await;
    }
    // One that is settled, and one whose sender has gone.
    commit(records.pop().expect("one"));
    assert_eq!(crowd.pop().expect("one").next().await, v5::Packet::PubAck(v5::PubAck::new(1, None)));
    drop(crowd.pop());
    for _ in 0..2 {
        let record = begun(arrived(&mut end).await);
        assert_eq!(&*record.topic, "m/late");
        commit(record);
    }
    for (mut reading, sending) in late {
        let mut answers = [0; 6];
        tokio::time::timeout(PATIENCE, reading.read_exact(&mut answers)).await.expect("in time").expect("both");
        assert!(answers == [0x40, 2, 0, 7, 0xD0, 0] || answers == [0xD0, 0, 0x40, 2, 0, 7], "{answers:?}");
        drop(sending.await.expect("sent"));
    }
    broker.stop().await;
}
