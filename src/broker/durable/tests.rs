//! What is charged, and what there is room for.

use bytes::Bytes;

use super::*;
use crate::broker::keeping;
use crate::broker::message::{Keep, Qos, Retain};
use crate::disk::ledger::{OwedRow, SessionRow};
use crate::flow::clock::{Clock, FakeTime};
use crate::model::time::Boot;

fn message(bytes: usize) -> Delivery {
    let message = Message::own("topic".into(), vec![b'x'; bytes].into(), Keep::Every);
    let (qos, retain, ids) = (Qos::AtLeastOnce, Retain::No, Vec::new());
    Delivery { message: Arc::new(message), qos, retain, ids, owed: None, shared: None, held: None }
}

#[test]
fn what_all_are_owed_passes_its_bound_by_the_shares_of_those_only_that_came_when_it_was_reached() {
    let bounds = SessionsPlan {
        session_max_size: 40 << 10,
        sessions_max_size: 64 << 10,
        max_sessions: 8,
        ..SessionsPlan::default()
    };
    let all = Arc::new(Total::new(&bounds));
    let fill = |durable: &mut Durable| while durable.owe(&message(200), &bounds).is_some() {};
    let mut sessions: Vec<Durable> = (0..4).map(|id| Durable::new(SessionId(id), 5, &all)).collect();
    sessions.iter_mut().for_each(fill);
    assert!((62 << 10..=64 << 10).contains(&all.now().1), "{:?}", all.now());
    assert!(sessions.iter().all(|durable| durable.tally.now().1 > bounds.share() - 300), "the first has not taken all");
    let mut late = Durable::new(SessionId(4), 5, &all);
    fill(&mut late);
    assert!((3 << 10..=bounds.share()).contains(&late.tally.now().1), "its share");
    assert!(all.now().1 <= (64 << 10) + bounds.share());
    // What is settled gives room to others, in whatever order it went up.
    sessions[0].tally.clear();
    late.tally.clear();
    drop(late);
    let before = sessions[3].tally.now().1;
    fill(&mut sessions[3]);
    assert!(sessions[3].tally.now().1 > before + (8 << 10));
    for durable in &sessions {
        durable.tally.clear();
    }
    assert_eq!((all.now(), all.beyond(&bounds)), ((0, 0), (0, (64 << 10) - 4 * bounds.share())));
}

#[test]
fn there_is_no_room_again_as_long_as_what_was_refused_does_not_fit() {
    let size = 64 << 10;
    let bounds =
        SessionsPlan { session_max_size: size, sessions_max_size: size, max_sessions: 8, ..SessionsPlan::default() };
    let all = Arc::new(Total::new(&bounds));
    let mut greedy = Durable::new(SessionId(1), 5, &all);
    while greedy.owe(&message(1000), &bounds).is_some() {}
    let mut durable = Durable::new(SessionId(2), 5, &all);
    assert!(durable.owe(&message(1000), &bounds).is_some(), "of its share");
    assert!(durable.has_room(&bounds));
    assert!(durable.owe(&message(5000), &bounds).is_none(), "more than its share");
    assert!(!durable.has_room(&bounds), "or each tick would tell of another change");
    greedy.tally.clear();
    assert!(durable.has_room(&bounds));
    assert!(durable.owe(&message(100_000), &bounds).is_none(), "more than it may ever be owed");
    durable.tally.clear();
    assert!(!durable.has_room(&bounds));
    durable.tell_dropped();
    assert!(durable.has_room(&bounds), "its client knows");
}

#[test]
fn a_message_with_many_identifiers_is_charged_the_same_when_it_comes_is_found_and_is_settled() {
    let clock = Clock::new(Arc::new(FakeTime::default()), Boot(1), 0);
    let message = Arc::new(Message::own("topic".into(), Bytes::from_static(b"x"), Keep::Every));
    let ids = vec![7; 4096];
    let delivery =
        Delivery { message, qos: Qos::AtLeastOnce, retain: Retain::No, ids, owed: None, shared: None, held: None };
    let all = Arc::new(Total::default());
    let mut live = Durable::new(SessionId(1), 5, &all);
    let owed = live.owe(&delivery, &SessionsPlan::default()).expect("room");
    assert_eq!(live.tally.now(), (1, 64 + 6 + 4 * 4096));
    assert_eq!(all.now(), live.tally.now());
    let message = keeping::owed_row(&delivery.message, &clock);
    let (client_id, owner) = ("c".into(), "o".into());
    let session = SessionRow {
        id: SessionId(1),
        client_id,
        owner,
        version: 5,
        expiry_s: 9,
        left_unix_ms: None,
        dropped: 0,
        sent_below: None,
    };
    let owed_bytes = message.bytes_with(&delivery.ids) as u64;
    let (subscriptions, received, sensor) = (Vec::new(), Vec::new(), None);
    let (left_out, next_ordinal, owed_count) = (0, 9, 1);
    let kept = Kept { session, subscriptions, left_out, received, sensor, next_ordinal, owed_count, owed_bytes };
    let found = Durable::found(&kept, &Arc::default());
    assert_eq!(found.tally.now(), live.tally.now());
    let row =
        OwedRow { ordinal: 0, message, qos: 1, retain: false, identifiers: delivery.ids.clone(), released: false };
    let read = keeping::delivery(row, &clock).owed.expect("owed");
    assert_eq!(read.cost, owed.cost);
    found.tally.less(read.cost);
    assert_eq!(found.tally.now(), (0, 0));
}
