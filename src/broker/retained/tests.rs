//! Pages, bounds, and whose the messages are.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::broker::message::Qos;
use crate::broker::outbox::Behind;
use crate::broker::tree::Subscription;

fn message(topic: &str, keep: Keep) -> Arc<Message> {
    Arc::new(Message::own(topic.into(), Bytes::from_static(b"1"), keep))
}

fn look(most: usize) -> Look<'static> {
    let qos = Qos::ExactlyOnce;
    Look { most, qos, now: Instant::now(), stands: &|who, _| who.client() == "stands" }
}

fn all(retained: &Retained, filter: &str) -> Vec<String> {
    let (mut cursor, mut found) = (retained.cursor(filter), Vec::new());
    while retained.page(&mut cursor, &look(3), &mut found) == Rest::More {}
    let mut topics: Vec<String> = found.iter().map(|message| message.topic.to_string()).collect();
    topics.sort();
    topics
}

proptest! {
    #[test]
    fn the_pages_together_are_what_the_plain_rule_matches(
        topics in prop::collection::btree_set("[ab/é]{1,6}", 0..40),
        filter in prop::sample::select(vec!["#", "+", "a/#", "a/+", "+/b/#", "a", "a/b/#", "/#", "+/+", "a+"]),
    ) {
        let mut retained = Retained::default();
        for topic in &topics {
            prop_assert_eq!(retained.put(message(topic, Keep::Every), Author::Nobody), Ok(()));
        }
        let wanted: Vec<String> = topics.iter().filter(|topic| matches(filter, topic)).cloned().collect();
        prop_assert_eq!(all(&retained, filter), wanted);
    }
}

#[test]
fn what_changed_after_the_subscription_is_left_to_the_subscription() {
    let mut retained = Retained::default();
    for topic in ["a", "b", "c"] {
        retained.put(message(topic, Keep::Newest), Author::Nobody).expect("room");
    }
    let (mut cursor, mut found) = (retained.cursor("#"), Vec::new());
    retained.put(message("b", Keep::Newest), Author::Nobody).expect("room");
    retained.put(message("bb", Keep::Newest), Author::Nobody).expect("room");
    assert!(retained.clear("c"));
    assert_eq!(retained.page(&mut cursor, &look(9), &mut found), Rest::Nothing);
    assert_eq!(found.iter().map(|message| &*message.topic).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn of_what_has_changed_since_a_walk_was_cut_what_nobody_is_owed_comes_at_its_end_and_the_rest_is_left_to_the_ledger() {
    let mut retained = Retained::default();
    let put = |retained: &mut Retained, topic: &str, qos| {
        let own = Message::own(topic.into(), Bytes::from_static(b"1"), Keep::Every);
        retained.put(Arc::new(Message { qos, ..own }), Author::Nobody).expect("room");
    };
    let pages = |retained: &Retained, cursor: &mut Cursor, most| {
        let mut pages = Vec::new();
        loop {
            let mut found = Vec::new();
            let rest = retained.page(cursor, &Look { qos: most, ..look(9) }, &mut found);
            pages.push(found.iter().map(|message| message.topic.to_string()).collect::<String>());
            if rest == Rest::Nothing {
                return pages;
            }
        }
    };
    for topic in ["a", "b", "c", "d", "e"] {
        put(&mut retained, topic, Qos::AtMostOnce);
    }
    let subscription = Subscription {
        client: crate::broker::tree::ClientKey::NOBODY,
        qos: Qos::AtLeastOnce,
        no_local: false,
        retain_as_published: true,
        id: None,
    };
    let walk = |cursor| Walk { cursor, subscription, after: 0, owed_below: 5 };
    let cut = walk(retained.cursor("+"));
    put(&mut retained, "b", Qos::AtLeastOnce);
    put(&mut retained, "c", Qos::AtMostOnce);
    let mut resumed = walk(retained.cursor_since("+", 0, Some(&cut.unfinished())));
    let whole = resumed.unfinished();
    put(&mut retained, "d", Qos::AtMostOnce);
    assert_eq!(pages(&retained, &mut resumed.cursor.clone(), Qos::AtLeastOnce), ["ae", "c"], "d comes by itself");
    assert_eq!(pages(&retained, &mut resumed.cursor.clone(), Qos::AtMostOnce), ["ae", "bc"], "nothing is owed");
    assert_eq!(retained.page(&mut resumed.cursor, &look(9), &mut Vec::new()), Rest::More);
    let behind = |from| Some(Behind { from, last: 9, after: 0 });
    assert!(resumed.is_due(0, None) && resumed.is_due(0, behind(5)) && !resumed.is_due(0, behind(4)));
    // Cut once more: all of it, or what was left.
    let since = |unfinished: &Unfinished| retained.cursor_since("+", 0, Some(unfinished));
    assert_eq!(pages(&retained, &mut since(&whole), Qos::AtLeastOnce), ["ae", "cd"]);
    assert_eq!(pages(&retained, &mut since(&resumed.unfinished()), Qos::AtLeastOnce), ["", "cd"]);
    let restarted = retained.unfinished("+");
    assert_eq!(pages(&retained, &mut since(&restarted), Qos::AtLeastOnce), ["b", "acde"], "when was it cut?");
    assert_eq!(pages(&retained, &mut retained.cursor_since("+", 0, None), Qos::AtLeastOnce), [""]);
}

#[test]
fn a_topic_that_a_client_has_cleared_is_newer_than_what_was_there_until_somebody_leaves_something_on_it() {
    let mut retained = Retained::default();
    retained.put(message("a", Keep::Every), Author::Nobody).expect("room");
    let before = retained.version();
    let client = Author::Client(Identity::anonymous(crate::config::plan::Anonymous::Read, "c"));
    assert!(retained.clear_by(&client, &"a".into()) && !retained.clear_by(&client, &"b".into()));
    let after = retained.version();
    let is_newer = |topic: &str, version| retained.is_newer(topic, version, Some("far"));
    for topic in ["a", "b"] {
        assert!(is_newer(topic, before) && !is_newer(topic, after), "{topic}");
    }
    retained.put(message("a", Keep::Every), Author::Nobody).expect("room");
    retained.clear("b");
    assert!(["a", "b"].iter().all(|topic| !retained.is_newer(topic, before, Some("far"))), "of which nobody knows");
    assert!(retained.cleared.order.is_empty() && retained.cleared.bytes == 0);
}

#[test]
fn what_one_bridge_has_brought_is_newer_than_what_another_one_had_before_and_not_than_what_it_has_itself() {
    let (mut retained, bridge) = (Retained::default(), Author::Bridge("a".into()));
    retained.put(message("left", Keep::Every), bridge.clone()).expect("room");
    retained.clear_by(&bridge, &"cleared".into());
    for topic in ["left", "cleared"] {
        assert!(retained.is_newer(topic, 0, Some("b")) && !retained.is_newer(topic, 0, Some("a")), "{topic}");
        assert!(!retained.is_newer(topic, retained.version(), Some("b")));
    }
}

#[test]
fn cleared_topics_are_not_remembered_without_end_and_the_oldest_go_first() {
    let mut retained = Retained::default();
    for n in 0..20_000 {
        retained.clear_by(&Author::Nobody, &format!("{n}").into());
    }
    let cleared = &retained.cleared;
    assert!(cleared.bytes <= CLEARED_BYTES_MAX && cleared.versions.len() > 2000);
    assert_eq!(cleared.versions.len(), cleared.order.len());
    assert!(retained.is_newer("19999", 0, None) && !retained.is_newer("0", 0, None));
}

#[test]
fn clients_find_no_room_beyond_their_bound_and_the_gateway_always_does() {
    let mut retained = Retained::default();
    let large = |n: usize| {
        let payload = Bytes::from(vec![0; 1024 * 1024]);
        Arc::new(Message::own(format!("{n}").into(), payload, Keep::Every))
    };
    let kept = (0..40).take_while(|n| retained.put(large(*n), Author::Nobody).is_ok()).count();
    assert_eq!(kept, 31);
    assert_eq!(retained.put(message("tag", Keep::Newest), Author::Nobody), Ok(()));
    assert_eq!(retained.put(large(0), Author::Nobody), Ok(()), "one in place of another of the same size");
    assert!(retained.clear("0"));
    assert_eq!(retained.put(large(99), Author::Nobody), Ok(()));
}

#[test]
fn one_owner_leaves_room_for_others_and_what_was_on_disk_is_taken_all_the_same() {
    let mut retained = Retained::default();
    let large = |n: usize| Message::own(format!("{n}").into(), vec![0; 1024 * 1024].into(), Keep::Every);
    let of = |client| Identity::anonymous(crate::config::plan::Anonymous::Read, client);
    let clients = [of("one"), of("two")]; // both are nobody in particular
    let more = |retained: &mut Retained, n: usize| {
        let source = &clients[n % 2];
        let room = retained.has_room(&large(n), Some(source));
        room && retained.put(Arc::new(large(n)), Author::Client(source.clone())).is_ok()
    };
    let kept = (0..40).take_while(|n| more(&mut retained, *n)).count();
    assert_eq!(kept, 27, "seven eighths");
    assert!(more(&mut retained, 1), "in place of its own");
    assert!(retained.has_room(&large(99), None), "of others");
    retained.put(Arc::new(large(1)), Author::Nobody).expect("room");
    assert!(more(&mut retained, 50), "what somebody else has replaced is that one's");
    assert_eq!(retained.put(Arc::new(large(51)), Author::Client(of("one"))), Ok(()), "as it was on disk");
    for n in 0..52 {
        retained.clear(&n.to_string());
    }
    assert!(retained.owners.is_empty());
}

#[test]
fn what_does_not_stand_any_more_is_passed_over_and_still_takes_its_room() {
    let mut retained = Retained::default();
    for (topic, client) in [("a", "stands"), ("b", "fell"), ("c", "stands")] {
        let source = Identity::anonymous(crate::config::plan::Anonymous::Read, client);
        retained.put(message(topic, Keep::Every), Author::Client(source)).expect("room");
    }
    assert_eq!(all(&retained, "+"), ["a", "c"]);
    assert_eq!((all(&retained, "b").len(), retained.client_count), (0, 3));
    retained.put(message("b", Keep::Every), Author::Nobody).expect("room");
    assert_eq!(all(&retained, "b"), ["b"], "whoever leaves it next counts");
    for topic in ["a", "b", "c"] {
        retained.clear(topic);
    }
    assert_eq!((retained.client_bytes, retained.client_count), (0, 0));
}
