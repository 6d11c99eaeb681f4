//! Who is told what, in which order, and who waits for whom.

use super::*;
use crate::flow::hub::{DURABLE_DEPTH, Durable, DurableEnd, hub};
use crate::model::message::Properties;
use crate::model::number::{Epoch, Seq};
use crate::model::time::Boot;

fn letter(topic: &str, payload: &[u8], wish: Wish) -> Letter {
    let message =
        ClientMessage { payload: payload.into(), kept: Kept::No, expiry_s: None, properties: Properties::default() };
    Letter { topic: topic.into(), message, wish, from: None, at: Stamp { boot: Boot(1), micros: 0 } }
}

fn entry(filter: &str, bridge: Option<&str>) -> (ForwardEntry, DurableEnd) {
    let (hub, _, end) = hub(Vec::new());
    let mapping = Mapping::plain(filter);
    let route = Route { mapping, class: Class::Bulk, lane: 0, bridge: bridge.map(Into::into), kept: Kept::Yes };
    (ForwardEntry::new(vec![route], vec![hub]), end)
}

fn taken(end: &mut DurableEnd) -> MessageRecord {
    match end.records.try_recv() {
        Ok(Durable::Message(record)) => record,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_sender_is_told_after_the_commit_and_never_when_there_is_none() {
    let (entry, mut end) = entry("m/#", None);
    assert!(entry.wants("m/1", None) && !entry.wants("n/1", None));
    let told = tokio::spawn(entry.submit(letter("m/1", b"x", Wish::Receipt)));
    tokio::task::yield_now().await;
    assert!(!told.is_finished(), "not committed yet");
    let number = Number { stream: Class::Bulk, epoch: Epoch(1), seq: Seq(1) };
    let committed = taken(&mut end).committed.expect("asked for");
    committed.send(number).expect("somebody waits");
    assert_eq!(told.await.expect("no panic"), Ok(()));
    let began = tokio::time::Instant::now();
    assert_eq!(entry.submit(letter("m/1", b"x", Wish::Receipt)).await, Err(Refused::Full));
    assert_eq!(began.elapsed(), DURABLE_WAIT_MAX);
    drop(taken(&mut end));
    assert_eq!(entry.submit(letter("m/1", b"x", Wish::Nothing)).await, Ok(()), "nobody waits for it");
    entry.close();
    assert_eq!(entry.submit(letter("m/1", b"x", Wish::Receipt)).await, Err(Refused::Stopping));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_and_finds_no_place_is_counted_for_a_gap_record() {
    let (entry, end) = entry("#", None);
    for _ in 0..=DURABLE_DEPTH {
        entry.submit(letter("m", b"x", Wish::Nothing)).await.expect("taken or counted");
    }
    assert_eq!(end.spill.take()[Class::Bulk].map(|lost| lost.count), Some(1));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_is_counted_too_when_its_sender_goes_while_it_waits() {
    let (entry, end) = entry("#", None);
    for _ in 0..DURABLE_DEPTH {
        entry.submit(letter("m", b"x", Wish::Nothing)).await.expect("taken");
    }
    let late = tokio::spawn(entry.submit(letter("m", b"x", Wish::Nothing)));
    tokio::task::yield_now().await;
    assert!(end.spill.take().values().all(Option::is_none), "it waits");
    late.abort();
    assert!(late.await.is_err_and(|gone| gone.is_cancelled()));
    assert_eq!(end.spill.take()[Class::Bulk].map(|lost| lost.count), Some(1));
}

#[tokio::test(start_paused = true)]
async fn so_many_bytes_wait_and_no_more() {
    let (entry, mut end) = entry("#", None);
    let large = vec![7; WAITING_BYTES_MAX as usize / 2];
    for _ in 0..2 {
        assert_eq!(entry.submit(letter("m", &large, Wish::Nothing)).await, Ok(()));
    }
    assert_eq!(entry.submit(letter("m", &large, Wish::Receipt)).await, Err(Refused::Full));
    drop(taken(&mut end));
    assert_eq!(entry.submit(letter("m", &large, Wish::Nothing)).await, Ok(()));
    assert!(end.spill.take().values().all(Option::is_none));
}

#[tokio::test]
async fn nothing_goes_back_where_it_came_from() {
    let (entry, _end) = entry("#", Some("site"));
    assert!(entry.wants("p", None) && entry.wants("p", Some("other")) && !entry.wants("p", Some("site")));
}

fn number() -> Number {
    Number { stream: Class::Bulk, epoch: Epoch(1), seq: Seq(1) }
}

/// Two lanes: `a/#` leads into the first, `b/#` into the second, `both` into either.
fn two_lanes() -> (ForwardEntry, [DurableEnd; 2]) {
    let ((first, _, first_end), (second, _, second_end)) = (hub(Vec::new()), hub(Vec::new()));
    let route = |(filter, lane)| {
        let mapping = Mapping::plain(filter);
        Route { mapping, class: Class::Bulk, lane, bridge: None, kept: Kept::Yes }
    };
    let routes = [("a/#", 0), ("b/#", 1), ("both", 0), ("both", 1)].map(route);
    (ForwardEntry::new(routes.into(), vec![first, second]), [first_end, second_end])
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_not_stored_and_what_the_store_has_begun_with_is_not_refused() {
    let (entry, mut end) = entry("#", None);
    assert_eq!(entry.submit(letter("m", b"x", Wish::Receipt)).await, Err(Refused::Full));
    assert!(!taken(&mut end).claim(), "its sender has been told");
    let told = tokio::spawn(entry.submit(letter("m", b"x", Wish::Receipt)));
    tokio::task::yield_now().await;
    let record = taken(&mut end);
    assert!(record.claim());
    tokio::time::sleep(DURABLE_WAIT_MAX * 5).await;
    assert!(!told.is_finished(), "refused although it is going to be stored");
    record.committed.expect("asked for").send(number()).expect("somebody waits");
    assert_eq!(told.await.expect("no panic"), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_one_store_refuses_is_taken_back_from_the_other() {
    let (entry, [first, mut second]) = two_lanes();
    let told = tokio::spawn(entry.submit(letter("both", b"x", Wish::Receipt)));
    tokio::task::yield_now().await;
    drop(first);
    assert_eq!(told.await.expect("no panic"), Err(Refused::Full));
    assert!(!taken(&mut second).claim());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_refused_while_a_store_is_going_to_be_opened_and_everything_is_stored_once_in_its_order() {
    let (entry, mut end) = entry("#", None);
    end.expect_store();
    let count = DURABLE_DEPTH + 10; // the last ones find no place at first
    let send = |n: usize| tokio::spawn(entry.submit(letter("m", &n.to_be_bytes(), Wish::Receipt)));
    let mut told: Vec<_> = (0..count).map(send).collect();
    tokio::time::sleep(DURABLE_WAIT_MAX * 10).await;
    assert!(told.iter().all(|told| !told.is_finished()), "refused meanwhile");
    entry.submit(letter("m", b"x", Wish::Nothing)).await.expect("counted");
    assert_eq!(end.spill.take()[Class::Bulk].map(|lost| lost.count), Some(1), "it does not wait");
    end.meet_store();
    for (n, told) in told.drain(..).enumerate() {
        let Some(Durable::Message(record)) = end.records.recv().await else { panic!("a message") };
        assert_eq!(&record.message.payload[..], n.to_be_bytes());
        assert!(record.claim());
        record.committed.expect("asked for").send(number()).expect("somebody waits");
        assert_eq!(told.await.expect("no panic"), Ok(()));
    }
    assert!(end.records.is_empty(), "nothing twice");
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_full_or_waits_for_its_store_holds_up_nobody_in_the_next_one() {
    for waits in [false, true] {
        let (entry, [first, mut second]) = two_lanes();
        if waits {
            first.expect_store();
        }
        let large = vec![7; WAITING_BYTES_MAX as usize];
        let stuck: Vec<_> = (0..3).map(|_| tokio::spawn(entry.submit(letter("a/1", &large, Wish::Receipt)))).collect();
        tokio::task::yield_now().await;
        let began = Instant::now();
        entry.submit(letter("b/1", &large, Wish::Nothing)).await.expect("in the lane");
        drop(taken(&mut second));
        let told = tokio::spawn(entry.submit(letter("b/1", b"x", Wish::Receipt)));
        tokio::task::yield_now().await;
        taken(&mut second).committed.expect("asked for").send(number()).expect("somebody waits");
        assert_eq!((told.await.expect("no panic"), began.elapsed()), (Ok(()), std::time::Duration::ZERO));
        entry.replace(Vec::new(), Vec::new());
        entry.close();
        assert_eq!(began.elapsed(), std::time::Duration::ZERO, "nor a reload or a stop");
        assert!(stuck.iter().all(|stuck| !stuck.is_finished()));
    }
}
