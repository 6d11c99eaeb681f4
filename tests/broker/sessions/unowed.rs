//! QoS 2 messages for which a session had no room, and which its client got all the same, being there: how their handshakes go
//! on when the connection breaks, and what is counted as lost.

use super::*;

use ironbridge::config::plan::SessionsPlan;

/// One session may fill 64 KiB.
fn small() -> Setup {
    let sessions = SessionsPlan { session_max_size: 64 << 10, ..SessionsPlan::default() };
    Setup { sessions, ..Setup::default() }
}

/// A reader that has acknowledged nothing, and the packet identifiers of what it is not owed, there being no more room.
async fn full(broker: &Running) -> (Client5, Vec<u16>) {
    let (mut reader, _) = back(broker, "reader").await;
    reader.subscribe(filter("q", 2), None).await;
    let (mut sender, body) = (broker.v5("sender").await, "x".repeat(1000));
    let mut ids = Vec::new();
    for n in 0..80 {
        assert!(sender.give(message("q", 2, &format!("{n} {body}"))).await);
        ids.push(reader.message().await.pkid);
    }
    ids.retain(|id| *id > 0x7FFF);
    assert!((10..40).contains(&ids.len()), "{ids:?}");
    (reader, ids)
}

fn pubrel(id: u16) -> v5::Packet {
    v5::Packet::PubRel(v5::PubRel::new(id, None))
}

/// These have arrived: PUBREL is said.
async fn receive(reader: &mut Client5, ids: &[u16]) {
    for id in ids {
        reader.send(v5::Packet::PubRec(v5::PubRec::new(*id, None))).await;
        assert_eq!(reader.next().await, pubrel(*id));
    }
}

async fn complete(reader: &mut Client5, id: u16) {
    reader.send(v5::Packet::PubComp(v5::PubComp::new(id, None))).await;
}

/// With so many on the way to it at most.
async fn narrow(broker: &Running, most: u16) -> Client5 {
    let wish = |wishes: &mut Wishes| {
        lasting(3600)(wishes);
        wishes.properties.receive_maximum = Some(most);
    };
    let (client, connack) = Client5::open(broker.address, "reader", wish).await;
    assert!(connack.session_present);
    client
}

/// Waits until this many messages that found no room are counted.
async fn lost(broker: &Running, count: usize) {
    let stats = broker.publisher.stats();
    until("what was lost is counted", || stats.dropped_full.get() == count as u64).await;
}

#[tokio::test]
async fn pubrel_of_what_a_session_was_not_owed_comes_again_after_a_reconnect_and_nothing_else_with_its_identifier() {
    let broker = Running::with(small()).await;
    let (mut reader, ids) = full(&broker).await;
    receive(&mut reader, &ids[..4]).await;
    complete(&mut reader, ids[1]).await;
    reader.ping().await;
    drop(reader);
    lost(&broker, ids.len() - 4).await;
    // They take their places in the window, as if they had been sent on this connection.
    let mut reader = narrow(&broker, 2).await;
    for id in [ids[0], ids[2], ids[3]] {
        assert_eq!(reader.next().await, pubrel(id), "in the order of their publishes");
    }
    complete(&mut reader, ids[2]).await;
    reader.ping().await;
    drop(reader);
    let (mut reader, present) = back(&broker, "reader").await;
    assert!(present);
    for id in [ids[0], ids[3]] {
        assert_eq!(reader.next().await, pubrel(id));
    }
    for n in 0..80 - ids.len() {
        let owed = reader.message().await;
        assert!(owed.dup && owed.pkid <= 0x7FFF && owed.payload.starts_with(format!("{n} ").as_bytes()));
    }
    let body = "y".repeat(1000);
    assert!(broker.v5("sender").await.give(message("q", 2, &body)).await);
    let new = reader.message().await;
    assert!(new.pkid > 0x7FFF && !new.dup && !ids.contains(&new.pkid), "{} of {ids:?}", new.pkid);
    receive(&mut reader, &[new.pkid]).await;
    for id in [ids[3], new.pkid, ids[0]] {
        complete(&mut reader, id).await;
    }
    reader.ping().await;
    reader.leave().await;
    lost(&broker, ids.len() - 4).await;
    let mut reader = narrow(&broker, 2).await;
    assert_eq!((reader.message().await.dup, reader.message().await.dup), (true, true), "of these none is left");
    reader.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn what_a_session_was_not_owed_and_waits_for_pubcomp_is_counted_when_nobody_knows_of_it_any_more() {
    for away in [true, false] {
        let broker = Running::with(small()).await;
        let (mut reader, ids) = full(&broker).await;
        receive(&mut reader, &ids[..3]).await;
        complete(&mut reader, ids[1]).await;
        reader.ping().await;
        let still_here = if away {
            drop(reader);
            lost(&broker, ids.len() - 3).await;
            None
        } else {
            Some(reader)
        };
        let broker = Running::at(small(), broker.stop().await).await;
        drop(still_here);
        let (reader, connack) = Client5::open(broker.address, "reader", lasting(3600)).await;
        let told = connack.properties.expect("properties").user_properties;
        assert_eq!(told, [("dropped".to_owned(), (ids.len() - 1).to_string())], "away: {away}");
        drop(reader);
        broker.stop().await;
    }
    let broker = Running::with(small()).await;
    let (mut reader, ids) = full(&broker).await;
    receive(&mut reader, &ids[..3]).await;
    drop(reader);
    lost(&broker, ids.len() - 3).await;
    let (_anew, connack) = Client5::open(broker.address, "reader", |wishes| wishes.connect.clean_start = true).await;
    assert!(!connack.session_present);
    assert_eq!(broker.publisher.stats().dropped_ended.get(), 80 - (ids.len() as u64) + 3);
    broker.stop().await;
}
