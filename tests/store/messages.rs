//! Clients' messages: what a sender was told is what is stored.

use crate::rig as support;

use ironbridge::flow::clock::{Clock, FakeTime};
use ironbridge::flow::forward::{ForwardEntry, Letter, Refused, Route, Wish};
use ironbridge::flow::hub::hub;
use ironbridge::flow::notice::notices;
use ironbridge::model::mapping::Mapping;
use ironbridge::model::message::{ClientMessage, Kept, Properties};
use ironbridge::model::number::Class;
use ironbridge::store::{Item, Opening, OwedBody, open};
use support::*;

#[tokio::test]
async fn a_message_whose_sender_was_told_that_it_is_not_stored_is_not_stored_afterwards() {
    let home = tempfile::tempdir().expect("a directory");
    let (hub, _, end) = hub(Vec::new());
    let route = Route { mapping: Mapping::plain("#"), class: Class::Bulk, lane: 0, bridge: None, kept: Kept::Yes };
    let entry = ForwardEntry::new(vec![route], vec![hub]);
    let (store, (tell, _told)) = (open(opening(home.path())), notices());
    let clock = Clock::new(std::sync::Arc::new(FakeTime::default()), store.boot(), 0);
    let submit = |payload: &[u8]| {
        let properties = Properties::default();
        let message = ClientMessage { payload: payload.into(), kept: Kept::No, expiry_s: None, properties };
        entry.submit(Letter { topic: "m".into(), message, wish: Wish::Receipt, from: None, at: clock.now() })
    };
    assert_eq!(submit(b"refused").await, Err(Refused::Full), "the store does not take anything yet");
    let store = store.start(end, clock.clone(), tell);
    assert_eq!(submit(b"taken").await, Ok(()));
    let mut reader = store.reader("cloud").expect("routed");
    let items = next(&mut reader, 10).await.expect("the message");
    let [Item::Record(owed)] = &items[..] else { panic!("one message, not {items:?}") };
    let OwedBody::Message { message, .. } = &owed.body else { panic!("{owed:?}") };
    assert_eq!((owed.number.seq.0, &message.payload[..]), (1, &b"taken"[..]));
    entry.close();
    drop(reader);
    tokio::time::timeout(PATIENCE, store.ended()).await.expect("ends");
    tokio::time::timeout(PATIENCE, store.finish()).await.expect("finishes");
}

#[tokio::test]
async fn what_waits_for_the_commit_interval_is_owed_as_soon_as_somebody_asks_unless_the_store_cannot_commit() {
    const LONG: std::time::Duration = std::time::Duration::from_secs(3600);
    let home = tempfile::tempdir().expect("a directory");
    let running = start(Opening { commit_interval: LONG, ..opening(&home.path().join("store")) });
    let reader = running.store.reader("cloud").expect("routed");
    let settled = || async { tokio::time::timeout(PATIENCE, running.store.settle()).await.expect("told") };
    assert_eq!((settled().await, reader.backlog()), (Ok(true), 0), "nothing waits");
    for round in 1..=3 {
        running.emit(Class::Telemetry, 0..2000).await;
        assert_eq!((settled().await, reader.backlog()), (Ok(true), round * 2000));
    }
    drop(reader);
    running.close().await;
    let in_the_way = home.path().join("file");
    std::fs::write(&in_the_way, "").expect("written");
    let running = start(Opening { commit_interval: LONG, ..opening(&in_the_way) });
    running.emit(Class::Telemetry, 0..1).await;
    assert_eq!(tokio::time::timeout(PATIENCE, running.store.settle()).await.expect("told"), Ok(false));
}
