//! Messages of lasting sessions that also go upstream: acknowledged when the store there has them, however often the
//! connection or the gateway breaks in between. The store is the test: it commits when told to.

use super::*;
use ironbridge::flow::forward::{ForwardEntry, MessageRecord, Route};
use ironbridge::flow::hub::{Durable, DurableEnd, hub};
use ironbridge::model::mapping::Mapping;
use ironbridge::model::message::Kept;
use ironbridge::model::number::{Class, Epoch, Number, Seq};

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
