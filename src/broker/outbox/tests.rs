//! The bounds of one client's queue, and what happens at each.

use bytes::Bytes;

use super::*;
use crate::broker::message::{Message, Owed, Retain, Stage};

fn delivery(topic: &str, payload: &[u8], keep: Keep) -> Delivery {
    let message = Arc::new(Message::own(topic.into(), Bytes::copy_from_slice(payload), keep));
    Delivery {
        message,
        qos: Qos::AtMostOnce,
        retain: Retain::No,
        ids: Vec::new(),
        owed: None,
        shared: None,
        held: None,
    }
}

fn empty() -> Outbox {
    Outbox::new(Arc::default(), 1 << 20)
}

fn drain(outbox: &Outbox) -> Vec<Delivery> {
    let mut taken = Vec::new();
    outbox.take(usize::MAX, usize::MAX, &mut taken);
    taken
}

#[test]
fn a_slow_reader_of_tags_holds_one_value_per_tag_and_it_is_the_newest() {
    let outbox = empty();
    let mut replaced = 0;
    for round in 0..1000_u32 {
        for tag in 0..100 {
            let put = outbox.put(delivery(&format!("t/{tag}"), &round.to_be_bytes(), Keep::Newest));
            replaced += usize::from(put == Put::Replaced);
        }
    }
    let taken = drain(&outbox);
    assert_eq!(taken.len() + replaced, 100_000, "every message is delivered or counted");
    assert!(taken.iter().map(|delivery| delivery.message.cost()).sum::<usize>() < CONFLATE_ABOVE + 100 * 200);
    for tag in 0..100 {
        let topic = format!("t/{tag}");
        let last = taken.iter().rev().find(|delivery| *delivery.message.topic == *topic).expect("each tag is there");
        assert_eq!(last.message.payload[..], 999_u32.to_be_bytes());
    }
    assert_eq!(outbox.put(delivery("t/1", b"x", Keep::Newest)), Put::Waits, "short again: every value counts");
}

#[test]
fn values_of_one_topic_never_overtake_each_other_while_a_queue_grows_and_shrinks() {
    let outbox = empty();
    let mut seen = HashMap::new();
    for round in 0..20_000_u32 {
        outbox.put(delivery(&format!("t/{}", round % 7), &round.to_be_bytes(), Keep::Newest));
        if round % 3 == 0 || round > 15_000 {
            let mut taken = Vec::new();
            outbox.take(if round > 15_000 { 3 } else { 1 }, 0, &mut taken);
            for delivery in taken {
                let value = u32::from_be_bytes(delivery.message.payload[..].try_into().expect("four bytes"));
                let before = seen.insert(delivery.message.topic.to_string(), value);
                assert!(before < Some(value));
            }
        }
    }
}

#[test]
fn many_readers_that_hang_are_given_up_before_they_fill_the_box_and_nothing_is_charged_for_ever() {
    let for_all = Arc::new(AtomicUsize::new(0));
    let outboxes: Vec<Outbox> = (0..300).map(|_| Outbox::new(Arc::clone(&for_all), 1 << 20)).collect();
    for tag in 0..2000 {
        let one = delivery(&format!("t/{tag}"), &[0; 100], Keep::Newest);
        for outbox in &outboxes {
            outbox.put(one.clone());
        }
    }
    let given_up = outboxes.iter().filter(|outbox| outbox.ending().is_some()).count();
    assert!((1..300).contains(&given_up), "{given_up}");
    assert!(for_all.load(Ordering::Relaxed) < WAITING_FOR_ALL_MAX + 300 * 300);
    assert!(!drain(&outboxes[299]).is_empty() || outboxes[299].ending().is_some());
    drop(outboxes);
    assert_eq!(for_all.load(Ordering::Relaxed), 0);
}

#[test]
fn a_long_message_is_charged_once_for_all_and_when_there_is_too_much_of_them_it_waits_for_nobody() {
    let for_all = Arc::new(AtomicUsize::new(0));
    let outboxes: Vec<Outbox> = (0..300).map(|_| Outbox::new(Arc::clone(&for_all), 1 << 20)).collect();
    let charged = || for_all.load(Ordering::Relaxed);
    let long = |topic: &str| delivery(topic, &vec![0; 1_000_000], Keep::Every);
    let one = long("to everybody");
    assert!(outboxes.iter().all(|outbox| outbox.put(one.clone()) == Put::Waits));
    drop(one);
    assert!((1_000_000..1_100_000).contains(&charged()), "{}", charged());
    for outbox in &outboxes {
        assert_eq!(drain(outbox).len(), 1);
    }
    assert_eq!(charged(), 0);
    let puts: Vec<Put> = outboxes.iter().zip(0..).map(|(outbox, n)| outbox.put(long(&format!("to {n}")))).collect();
    let waiting = puts.iter().filter(|put| **put == Put::Waits).count();
    assert!((60..70).contains(&waiting) && puts[waiting..].iter().all(|put| *put == Put::LeftOut), "{waiting}");
    assert!(charged() < WAITING_FOR_ALL_MAX + 1_100_000 && outboxes[299].ending().is_none());
    for (outbox, n) in outboxes[..waiting].iter().zip(0..) {
        assert_eq!(outbox.put(delivery("short", b"1", Keep::Every)), Put::Waits);
        assert_eq!(outbox.put(owed(n, &vec![0; 200_000])), Put::Behind, "it goes later");
    }
    let told = Delivery { qos: Qos::AtLeastOnce, ..long("QoS 1") };
    assert_eq!((outboxes[299].put(told), outboxes[299].ending()), (Put::Overflowed(1), Some(Ending::TooSlow)));
    let mut retained = long("retained");
    assert!(!outboxes[298].finds_place(&mut retained));
    drop(retained);
    // On their way to the client they are charged as well, until it has them.
    let on_their_way: Vec<Delivery> = outboxes[..waiting].iter().flat_map(drain).collect();
    assert!(outboxes[0].is_filling());
    drop(on_their_way);
    assert_eq!((charged(), outboxes[298].put(long("room again"))), (0, Put::Waits));
    drop(outboxes);
    assert_eq!(charged(), 0);
}

#[test]
fn other_messages_are_never_thinned_the_reader_is_told_instead() {
    let outbox = empty();
    let mut put = Put::Waits;
    while put == Put::Waits {
        put = outbox.put(delivery("m", &[0; 1000], Keep::Every));
    }
    assert!(matches!(put, Put::Overflowed(lost) if lost > 900));
    assert_eq!(outbox.ending(), Some(Ending::TooSlow));
    assert_eq!(outbox.numbers(), (0, 0));
    assert_eq!(outbox.put(delivery("m", b"", Keep::Every)), Put::Closed);
}

fn owed(ordinal: u64, payload: &[u8]) -> Delivery {
    let owed = Owed { ordinal, cost: 0, stage: Stage::Entered };
    Delivery { qos: Qos::AtLeastOnce, owed: Some(owed), ..delivery("owed", payload, Keep::Every) }
}

#[test]
fn what_stands_in_the_ledger_ends_no_connection_and_comes_through_again_when_it_is_caught_up() {
    let outbox = empty();
    let mut put = 0;
    while outbox.put(owed(put, &[0; 1000])) == Put::Waits {
        put += 1;
    }
    assert!((400..600).contains(&put));
    assert_eq!(outbox.behind(), Some(Behind { from: put, last: put, after: put }));
    assert_eq!(outbox.put(owed(put + 1, b"")), Put::Behind, "nothing overtakes");
    assert_eq!(outbox.put(delivery("tag", b"1", Keep::Newest)), Put::Waits);
    assert_eq!(outbox.put(delivery("m", b"1", Keep::Every)), Put::Waits);
    assert_eq!(drain(&outbox).len() as u64, put + 2);
    assert!(!outbox.catch_up(put + 1), "one more is there");
    assert!(outbox.leaves_to_ledger(put + 2));
    assert!(!outbox.catch_up(put + 2));
    assert_eq!(outbox.put(owed(put + 3, b"")), Put::Behind);
    assert!(outbox.catch_up(put + 4));
    assert_eq!(outbox.put(owed(put + 4, b"")), Put::Waits);
    assert_eq!(drain(&outbox).len(), 1);
    assert_eq!(outbox.ending(), None);
}

#[test]
fn what_has_been_read_from_the_ledger_is_not_put_in_once_more_by_whoever_entered_it() {
    let outbox = empty();
    outbox.begin_behind(5);
    // The seventh was entered while the page was read, found in it, and is only now being put in.
    assert!(outbox.catch_up(8));
    assert_eq!(outbox.put(owed(7, b"")), Put::Behind);
    assert_eq!(outbox.put(owed(8, b"")), Put::Waits);
    let ordinals = drain(&outbox).into_iter().map(|delivery| delivery.owed.expect("owed").ordinal);
    assert_eq!(ordinals.collect::<Vec<_>>(), [8]);
}

#[test]
fn whoever_is_told_to_go_is_not_known_to_have_got_everything() {
    let outbox = empty();
    assert!(outbox.is_clear());
    outbox.begin_behind(5);
    outbox.put(delivery("tag", b"1", Keep::Newest));
    outbox.end(Ending::TakenOver);
    assert!(!outbox.is_clear(), "rows are owed, and a value was dropped");
}

#[test]
fn thousands_of_subscription_identifiers_are_charged_to_the_client_that_chose_them() {
    let outbox = empty();
    let with = |delivery: Delivery| Delivery { ids: vec![1; 4096], ..delivery };
    let mut put = 0;
    while outbox.put(with(delivery("m", b"x", Keep::Every))) == Put::Waits {
        put += 1;
    }
    assert!(put <= 64, "1 MiB, 16 KiB each: {put}");
    let outbox = empty();
    let mut put = 0;
    while outbox.put(with(owed(put, b"x"))) == Put::Waits {
        put += 1;
    }
    assert!(put <= 32, "{put}");
    drain(&outbox);
    assert_eq!(outbox.for_all.load(Ordering::Relaxed), 0);
}

#[test]
fn a_smaller_bound_holds_for_messages_and_for_the_newest_values_alike() {
    let outbox = Outbox::new(Arc::default(), 64 << 10);
    while outbox.put(delivery("m", &[0; 1000], Keep::Every)) == Put::Waits {}
    assert_eq!(outbox.ending(), Some(Ending::TooSlow));
    let outbox = Outbox::new(Arc::default(), 64 << 10);
    for round in 0..1000_u32 {
        outbox.put(delivery("t", &round.to_be_bytes(), Keep::Newest));
        outbox.put(delivery("u", &[0; 1000], Keep::Newest));
    }
    let taken = drain(&outbox);
    assert!(taken.iter().map(|delivery| delivery.message.cost()).sum::<usize>() < (64 << 10) + 2000);
    assert_eq!(
        taken.iter().rfind(|delivery| &*delivery.message.topic == "t").expect("a value").message.payload[..],
        999_u32.to_be_bytes()
    );
}

/// A socket that takes so many bytes a time.
struct Narrow {
    takes: usize,
    has: Mutex<Vec<u8>>,
}

impl Socket for Narrow {
    fn try_write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = bytes.len().min(self.takes);
        self.has.lock().expect("no panic").extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

#[test]
fn what_a_session_loses_with_its_connection_is_known_however_that_ends() {
    let one = || Delivery { qos: Qos::AtLeastOnce, ..delivery("t", &[7; 1000], Keep::Every) };
    let outbox = empty();
    let mut put = 0;
    let lost = loop {
        put += 1;
        match outbox.put(one()) {
            Put::Overflowed(lost) => break lost as u64,
            other => assert_eq!(other, Put::Waits),
        }
    };
    assert_eq!((lost, outbox.lost()), (put, Lost { all: put, counted: put }), "counted where readers are too slow");
    let outbox = empty();
    outbox.put(one());
    outbox.put(delivery("t", &[7; 1000], Keep::Every)); // at QoS 0
    outbox.end(Ending::TakenOver);
    assert_eq!(outbox.lost(), Lost { all: 1, counted: 0 });
}

#[test]
fn a_lent_line_serves_who_would_not_wait_and_what_it_does_not_take_of_a_packet_goes_first_afterwards() {
    let socket = Arc::new(Narrow { takes: 5, has: Mutex::default() });
    let line = Line { socket: socket.clone(), version: crate::broker::wire::Version::V311, maximum_packet: 1000 };
    let (outbox, mut out) = (empty(), BytesMut::new());
    let one = |payload: &[u8]| delivery("t", payload, Keep::Every);
    assert_eq!(outbox.send_at_once(&one(b"")), None, "no line");
    outbox.lend(&line, None);
    assert_eq!(outbox.send_at_once(&one(&[7; 2000])), None, "too long for the client");
    assert_eq!(outbox.send_at_once(&one(b"")), Some(5));
    outbox.put(one(b"waits"));
    assert_eq!(outbox.send_at_once(&one(b"")), None, "it would overtake");
    assert_eq!(drain(&outbox).len(), 1);
    assert_eq!(outbox.send_at_once(&one(b"long")), Some(5), "a part of it");
    assert_eq!(outbox.send_at_once(&one(b"")), None, "it would go into the midst of it");
    outbox.end(Ending::TooSlow);
    assert_eq!(outbox.take_back(&mut out), None);
    assert_eq!(out[..], b"long"[..], "the packet is finished before any last words");
    assert_eq!(socket.has.lock().expect("no panic")[..], [0x30, 3, 0, 1, b't', 0x30, 7, 0, 1, b't']);
    outbox.lend(&line, None);
    assert_eq!(outbox.send_at_once(&one(b"")), None, "it has ended");
}

#[test]
fn with_the_line_goes_one_packet_identifier_and_the_session_hears_what_it_was_used_for() {
    let socket = Arc::new(Narrow { takes: 9, has: Mutex::default() });
    let line = Line { socket: socket.clone(), version: crate::broker::wire::Version::V311, maximum_packet: 1000 };
    let (outbox, mut out) = (empty(), BytesMut::new());
    let one = |qos| Delivery { qos, ..delivery("t", b"x", Keep::Every) };
    outbox.lend(&line, None);
    assert_eq!(outbox.send_at_once(&one(Qos::AtLeastOnce)), None, "no room in its window");
    assert_eq!(outbox.take_back(&mut out), None);
    outbox.lend(&line, Some(0x0102));
    assert_eq!(outbox.send_at_once(&one(Qos::ExactlyOnce)), Some(8));
    assert_eq!(outbox.send_at_once(&one(Qos::AtLeastOnce)), None, "the next takes the long way");
    assert_eq!(outbox.send_at_once(&one(Qos::AtMostOnce)), Some(6), "this one needs no identifier");
    assert_eq!(outbox.take_back(&mut out), Some(Qos::ExactlyOnce));
    let sent = [0x34, 6, 0, 1, b't', 1, 2, b'x', 0x30, 4, 0, 1, b't', b'x'];
    assert_eq!((&socket.has.lock().expect("no panic")[..], &out[..]), (&sent[..], &[][..]));
    outbox.lend(&line, Some(0x0103));
    assert_eq!(outbox.send_at_once(&one(Qos::AtLeastOnce)), Some(8));
    outbox.end(Ending::TooSlow);
    assert_eq!(outbox.take_back(&mut out), Some(Qos::AtLeastOnce), "also when the connection is told to go");
    assert_eq!(outbox.take_back(&mut out), None, "once");
}
