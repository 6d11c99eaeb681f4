//! The protocol state driven without a socket: handshakes by hand, then anything in any order.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::broker::message::Retain;
use crate::broker::wire::{Ack, Connect};

fn session(version: Version, keep_alive: u16, receive_maximum: u16) -> Session {
    of(Lifetime::Connection, version, keep_alive, receive_maximum)
}

fn of(lifetime: Lifetime, version: Version, keep_alive: u16, receive_maximum: u16) -> Session {
    let connect = Connect {
        version,
        legacy: false,
        bridge: false,
        client_id: "x".to_owned(),
        clean_start: true,
        keep_alive,
        session_expiry: 0,
        receive_maximum,
        alias_maximum: 0,
        maximum_packet: u32::MAX,
        wants_reasons: true,
        will: None,
        user: None,
        password: None,
    };
    Session::new(&connect, lifetime, &[], Instant::now())
}

fn publish(qos: Qos, packet_id: u16, alias: Option<u16>, topic: &str) -> Incoming {
    let (payload, topic) = (Bytes::new(), topic.to_owned());
    let (again, retain, expiry, forwarded) = (false, Retain::No, None, None);
    Incoming::Publish(Publish { again, qos, retain, topic, alias, packet_id, expiry, forwarded, payload })
}

fn ack(kind: AckKind, packet_id: u16, reason: u8) -> Incoming {
    Incoming::Ack(Ack { kind, packet_id, reason })
}

/// What a packet makes the session do.
fn step(session: &mut Session, packet: Incoming) -> Vec<Action> {
    session.step(packet, Instant::now())
}

/// Sends something that does not stand in the ledger.
fn launch(session: &mut Session, qos: Qos) -> u16 {
    session.launch(qos, None).expect("an identifier of its own")
}

fn token(actions: &[Action]) -> Token {
    let [Action::Publish { token, .. }] = actions else { panic!("one publish, not {actions:?}") };
    *token
}

fn sent(kind: AckKind, packet_id: u16, reason: u8) -> Action {
    Action::Ack { kind, packet_id, reason, told: "" }
}

#[test]
fn acknowledgements_keep_the_order_of_the_publishes_however_they_are_settled() {
    let mut session = session(Version::V5, 0, 10);
    let first = token(&step(&mut session, publish(Qos::AtLeastOnce, 5, None, "a")));
    let second = token(&step(&mut session, publish(Qos::ExactlyOnce, 6, None, "a")));
    let third = token(&step(&mut session, publish(Qos::AtLeastOnce, 7, None, "a")));
    assert_eq!(session.settle(third, Verdict::Taken(0x10)), []);
    assert_eq!(session.settle(second, Verdict::Taken(0)), []);
    let all = [sent(AckKind::Puback, 5, 0), sent(AckKind::Pubrec, 6, 0), sent(AckKind::Puback, 7, 0x10)];
    assert_eq!(session.settle(first, Verdict::Taken(0)), all);
}

#[test]
fn what_was_not_kept_and_never_told_is_a_new_publish_when_it_comes_again() {
    let mut first = of(Lifetime::Begun, Version::V5, 0, 10);
    let _waits = token(&step(&mut first, publish(Qos::ExactlyOnce, 5, None, "a")));
    let refused = token(&step(&mut first, publish(Qos::ExactlyOnce, 6, None, "a")));
    assert_eq!(first.settle(refused, Verdict::NotKept(0x97, "no room")), [], "behind the one that waits");
    let mut resumed = of(Lifetime::Resumed, Version::V5, 0, 10);
    resumed.inbound = Inbound::new(Version::V5, true, &first.carry());
    let again = step(&mut resumed, publish(Qos::ExactlyOnce, 6, None, "a"));
    assert!(matches!(again[..], [Action::Publish { .. }]), "{again:?}");
    let sent_on = step(&mut resumed, publish(Qos::ExactlyOnce, 5, None, "a"));
    assert!(matches!(sent_on[..], [Action::Confirm { .. }]), "{sent_on:?}");
}

#[test]
fn under_an_identifier_of_an_earlier_connection_another_message_is_published_and_the_same_is_not() {
    let begin = |carried: &[Unreleased]| {
        let mut resumed = of(Lifetime::Resumed, Version::V311, 0, 10);
        resumed.inbound = Inbound::new(Version::V311, true, carried);
        resumed
    };
    let with_dup = |packet| match packet {
        Incoming::Publish(publish) => Incoming::Publish(Publish { again: true, ..publish }),
        other => other,
    };
    let mut first = of(Lifetime::Begun, Version::V311, 0, 10);
    let taken = token(&step(&mut first, publish(Qos::ExactlyOnce, 6, None, "a")));
    assert_eq!(first.settle(taken, Verdict::Owed(0)), [sent(AckKind::Pubrec, 6, 0)]);
    let carried = first.carry();
    for same in [publish(Qos::ExactlyOnce, 6, None, "a"), with_dup(publish(Qos::ExactlyOnce, 6, None, "a"))] {
        assert_eq!(step(&mut begin(&carried), same), [sent(AckKind::Pubrec, 6, 0)]);
    }
    let restarted = [Unreleased { packet_id: 6, received: Received::Found, content: None }];
    let again = step(&mut begin(&restarted), with_dup(publish(Qos::ExactlyOnce, 6, None, "a")));
    assert!(matches!(again[..], [Action::Confirm { .. }]), "{again:?}");
    let lost_at_first = with_dup(publish(Qos::ExactlyOnce, 6, None, "b"));
    for (carried, topic, other) in [
        (&carried[..], "b", publish(Qos::ExactlyOnce, 6, None, "b")),
        (&carried[..], "b", lost_at_first),
        (&restarted[..], "a", publish(Qos::ExactlyOnce, 6, None, "a")),
    ] {
        let mut resumed = begin(carried);
        let another = step(&mut resumed, other);
        let [Action::Disown { packet_id: 6 }, published @ Action::Publish { .. }] = &another[..] else {
            panic!("the old one is over, and not {another:?}")
        };
        assert_eq!(step(&mut resumed, publish(Qos::ExactlyOnce, 6, None, topic)), [], "now it is this connection's");
        let taken = token(std::slice::from_ref(published));
        assert_eq!(resumed.settle(taken, Verdict::Taken(0)), [sent(AckKind::Pubrec, 6, 0)]);
        assert_eq!(step(&mut resumed, ack(AckKind::Pubrel, 6, 0)), [sent(AckKind::Pubcomp, 6, 0)]);
    }
}

#[test]
fn a_qos_2_publish_that_comes_again_is_published_once() {
    let mut session = session(Version::V311, 0, 10);
    let taken = token(&step(&mut session, publish(Qos::ExactlyOnce, 6, None, "a")));
    assert_eq!(step(&mut session, publish(Qos::ExactlyOnce, 6, None, "a")), []);
    assert_eq!(step(&mut session, ack(AckKind::Pubrel, 6, 0)), [sent(AckKind::Pubcomp, 6, 0x92)], "it is not over");
    assert_eq!(session.settle(taken, Verdict::Taken(0)), [sent(AckKind::Pubrec, 6, 0)]);
    assert_eq!(step(&mut session, publish(Qos::ExactlyOnce, 6, None, "a")), [sent(AckKind::Pubrec, 6, 0)]);
    assert_eq!(step(&mut session, ack(AckKind::Pubrel, 6, 0)), [sent(AckKind::Pubcomp, 6, 0)]);
    let lost = "a client whose PUBCOMP got lost is told that it is over";
    assert_eq!(step(&mut session, ack(AckKind::Pubrel, 6, 0)), [sent(AckKind::Pubcomp, 6, 0)], "{lost}");
    token(&step(&mut session, publish(Qos::ExactlyOnce, 6, None, "a")));
}

#[test]
fn pubrel_in_a_session_that_ends_with_its_connection_is_answered_at_once_though_others_are_owed_the_message() {
    let mut clean = session(Version::V311, 0, 10);
    let taken = token(&step(&mut clean, publish(Qos::ExactlyOnce, 6, None, "a")));
    assert_eq!(clean.settle(taken, Verdict::Owed(0)), [sent(AckKind::Pubrec, 6, 0)]);
    assert_eq!(step(&mut clean, ack(AckKind::Pubrel, 6, 0)), [sent(AckKind::Pubcomp, 6, 0)]);
    let mut lasting = of(Lifetime::Begun, Version::V311, 0, 10);
    let taken = token(&step(&mut lasting, publish(Qos::ExactlyOnce, 6, None, "a")));
    assert_eq!(lasting.settle(taken, Verdict::Owed(0)), [sent(AckKind::Pubrec, 6, 0)]);
    assert_eq!(step(&mut lasting, ack(AckKind::Pubrel, 6, 0)), [Action::Finish { packet_id: 6 }]);
}

#[test]
fn a_qos_2_publish_that_was_not_kept_is_a_new_one_when_it_comes_again() {
    let mut old = of(Lifetime::Begun, Version::V311, 0, 10);
    let lost = token(&step(&mut old, publish(Qos::ExactlyOnce, 6, None, "a")));
    assert_eq!(old.settle(lost, Verdict::NotKept(0x97, "no")), [Action::Close(Ending::NotKept)]);
    assert_eq!(old.carry(), [], "it was not sent on");
}

#[test]
fn what_was_not_kept_is_never_acknowledged() {
    let mut old = session(Version::V311, 0, 10);
    let lost = token(&step(&mut old, publish(Qos::AtLeastOnce, 5, None, "a")));
    assert_eq!(old.settle(lost, Verdict::NotKept(0x80, "no")), [Action::Close(Ending::NotKept)]);
    let mut new = session(Version::V5, 0, 10);
    let lost = token(&step(&mut new, publish(Qos::AtLeastOnce, 5, None, "a")));
    let told = "no";
    assert_eq!(
        new.settle(lost, Verdict::NotKept(0x80, "no")),
        [Action::Ack { kind: AckKind::Puback, packet_id: 5, reason: 0x80, told }]
    );
}

#[test]
fn a_refused_publish_is_an_ordinary_acknowledgement_in_3_1_1() {
    let mut session = session(Version::V311, 0, 10);
    let refused = token(&step(&mut session, publish(Qos::AtLeastOnce, 5, None, "a")));
    assert_eq!(session.settle(refused, Verdict::Refused(0x87, "no")), [sent(AckKind::Puback, 5, 0)]);
}

#[test]
fn more_than_our_receive_maximum_ends_a_v5_session_and_stops_reading_a_v311_one() {
    let (mut new, mut old) = (session(Version::V5, 0, 10), session(Version::V311, 0, 10));
    for packet_id in 1..=RECEIVE_MAXIMUM {
        token(&step(&mut new, publish(Qos::AtLeastOnce, packet_id, None, "a")));
        assert!(!old.is_full(0));
        token(&step(&mut old, publish(Qos::AtLeastOnce, packet_id, None, "a")));
    }
    assert!(old.is_full(0));
    assert!(new.is_full(usize::from(RECEIVE_MAXIMUM)), "commands at QoS 0 count, too");
    let one_more = publish(Qos::AtLeastOnce, RECEIVE_MAXIMUM + 1, None, "a");
    assert_eq!(step(&mut new, one_more), [Action::Close(Ending::ReceiveMaximum)]);
}

#[test]
fn topic_aliases_stand_for_what_they_were_given_for_and_for_nothing_else() {
    let mut session = session(Version::V5, 0, 10);
    let given = step(&mut session, publish(Qos::AtMostOnce, 0, Some(2), "long/topic"));
    assert!(matches!(&given[..], [Action::Publish { publish, .. }] if publish.topic == "long/topic"));
    let used = step(&mut session, publish(Qos::AtMostOnce, 0, Some(2), ""));
    assert!(matches!(&used[..], [Action::Publish { publish, .. }] if publish.topic == "long/topic"));
    for wrong in [0, ALIASES_MAX + 1] {
        let actions = step(&mut session, publish(Qos::AtMostOnce, 0, Some(wrong), "a"));
        assert_eq!(actions, [Action::Close(Ending::TopicAlias)]);
    }
    let unknown = step(&mut session, publish(Qos::AtMostOnce, 0, Some(3), ""));
    assert!(matches!(unknown[..], [Action::Close(Ending::Fault(Fault::Protocol(_)))]));
}

#[test]
fn the_clients_receive_maximum_is_the_window_and_qos_2_holds_its_place_until_pubcomp() {
    let mut session = session(Version::V5, 0, 2);
    let (first, second) = (launch(&mut session, Qos::ExactlyOnce), launch(&mut session, Qos::AtLeastOnce));
    assert_eq!(session.room(), 0);
    assert_eq!(launch(&mut session, Qos::AtMostOnce), 0);
    assert_eq!(step(&mut session, ack(AckKind::Pubrec, first, 0)), [sent(AckKind::Pubrel, first, 0)]);
    assert_eq!(step(&mut session, ack(AckKind::Pubrec, first, 0)), [sent(AckKind::Pubrel, first, 0)]);
    assert_eq!(session.room(), 0);
    assert_eq!(step(&mut session, ack(AckKind::Pubcomp, first, 0)), []);
    assert_eq!(step(&mut session, ack(AckKind::Puback, second, 0x80)), []);
    assert_eq!(session.room(), 2);
    let third = launch(&mut session, Qos::ExactlyOnce);
    assert_eq!(step(&mut session, ack(AckKind::Pubrec, third, 0x97)), []);
    assert_eq!(session.room(), 2);
    assert_eq!(step(&mut session, ack(AckKind::Puback, 999, 0)), [], "a leftover is nobody's harm");
}

#[test]
fn what_the_ledger_does_not_hold_keeps_its_identifier_and_its_place_in_the_window_until_pubcomp_also_after_a_reconnect()
{
    let mut first = of(Lifetime::Begun, Version::V5, 0, 10);
    first.go_on(Passing::unknown(u16::MAX - 3)); // the next one is the last there is
    let ids: Vec<u16> = (0..4).map(|_| launch(&mut first, Qos::ExactlyOnce)).collect();
    assert_eq!(ids, [0xFFFF, 0x8000, 0x8001, 0x8002]);
    for id in [0x8001, 0xFFFF, 0x8000] {
        assert_eq!(step(&mut first, ack(AckKind::Pubrec, id, 0)), [sent(AckKind::Pubrel, id, 0)]);
    }
    let carried = first.passing();
    let mut next = of(Lifetime::Resumed, Version::V5, 0, 2);
    next.go_on(carried.clone());
    assert_eq!((next.release_again(), next.room(), next.fleeting()), (ids[..3].to_vec(), 0, 0));
    assert_eq!(
        (next.release_again(), next.passing(), carried.lost()),
        (Vec::new(), carried, 3),
        "and again, if need be"
    );
    assert_eq!(step(&mut next, ack(AckKind::Pubrec, 0x8000, 0)), [sent(AckKind::Pubrel, 0x8000, 0)]);
    for (id, reason, room) in [(0x8000, 0, 0), (0xFFFF, 0x92, 1), (0x8001, 0, 2)] {
        assert_eq!(step(&mut next, ack(AckKind::Pubcomp, id, reason)), []);
        assert_eq!(next.room(), room);
    }
    assert_eq!((launch(&mut next, Qos::ExactlyOnce), next.passing().lost()), (0x8003, 0));
}

#[test]
fn a_goodbye_forgets_the_will_unless_it_says_otherwise_and_may_not_prolong_the_session() {
    let goodbye = |reason, session_expiry| Incoming::Disconnect { reason, session_expiry };
    let mut session = session(Version::V5, 0, 1);
    assert_eq!(step(&mut session, goodbye(0, Some(0))), [Action::Close(Ending::Goodbye)]);
    assert_eq!(step(&mut session, goodbye(4, None)), [Action::Close(Ending::GoodbyeWithWill)]);
    let prolonged = step(&mut session, goodbye(0, Some(9)));
    assert!(matches!(prolonged[..], [Action::Close(Ending::Fault(Fault::Protocol(_)))]));
}

#[tokio::test(start_paused = true)]
async fn silence_is_one_and_a_half_keep_alives_and_zero_is_for_ever() {
    assert_eq!(session(Version::V5, 0, 1).silent_at(), None);
    let mut session = session(Version::V5, 10, 1);
    tokio::time::advance(Duration::from_secs(7)).await;
    assert_eq!(step(&mut session, Incoming::Ping), [Action::Pong]);
    assert_eq!(session.silent_at(), Some(Instant::now() + Duration::from_secs(15)));
}

#[derive(Debug, Clone)]
enum Op {
    Packet(Incoming),
    Settle(prop::sample::Index, Verdict),
    Launch(Qos),
}

fn ops() -> impl Strategy<Value = Op> {
    let qos = || prop::sample::select(vec![Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]);
    let kind = prop::sample::select(vec![AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp]);
    let verdict = prop::sample::select(vec![
        Verdict::Taken(0),
        Verdict::Taken(0x10),
        Verdict::Refused(0x87, "no"),
        Verdict::NotKept(0x80, "no"),
    ]);
    prop_oneof![
        3 => (qos(), 1..6_u16, prop::option::of(0..4_u16), prop::bool::ANY).prop_map(|(qos, id, alias, named)| {
            let topic = if named || alias.is_none() { "a/b" } else { "" };
            Op::Packet(publish(qos, if qos == Qos::AtMostOnce { 0 } else { id }, alias, topic))
        }),
        3 => (kind, 1..12_u16, prop::sample::select(vec![0, 0x92, 0x97]))
            .prop_map(|(kind, id, reason)| Op::Packet(ack(kind, id, reason))),
        3 => (any::<prop::sample::Index>(), verdict).prop_map(|(which, verdict)| Op::Settle(which, verdict)),
        2 => qos().prop_map(Op::Launch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_a_client_sends_breaks_the_rules_on_our_side(
        ops in prop::collection::vec(ops(), 0..200),
        window in 1..8_u16,
        version in prop::sample::select(vec![Version::V311, Version::V5]),
    ) {
        let mut session = session(version, 0, window);
        let mut unsettled: Vec<Token> = Vec::new();
        // Packet identifiers that wait for their first acknowledgement, in order. A client may use one identifier at both
        // levels at once (it should not); a PUBREC that is sent again then looks like the one it was sent for.
        let mut owed: Vec<(u16, Qos)> = Vec::new();
        let mut in_flight: HashMap<u16, Qos> = HashMap::new();
        for op in ops {
            let actions = match op {
                Op::Packet(packet) => step(&mut session, packet),
                Op::Settle(which, verdict) if !unsettled.is_empty() => {
                    let token = unsettled.remove(which.index(unsettled.len()));
                    session.settle(token, verdict)
                }
                Op::Launch(qos) if session.room() > 0 => {
                    let id = launch(&mut session, qos);
                    prop_assert_eq!(id == 0, qos == Qos::AtMostOnce);
                    if id > 0 {
                        in_flight.insert(id, qos);
                    }
                    Vec::new()
                }
                Op::Settle(..) | Op::Launch(_) => Vec::new(),
            };
            for action in actions {
                match action {
                    Action::Publish { token, publish } => {
                        prop_assert!(!publish.topic.is_empty() && publish.alias.is_none());
                        unsettled.push(token);
                        if publish.qos != Qos::AtMostOnce {
                            owed.push((publish.packet_id, publish.qos));
                        }
                    }
                    Action::Ack { kind: AckKind::Puback, packet_id, .. } => {
                        prop_assert_eq!(owed.first(), Some(&(packet_id, Qos::AtLeastOnce)));
                        owed.remove(0);
                    }
                    Action::Ack { kind: AckKind::Pubrec, packet_id, .. }
                        if owed.first() == Some(&(packet_id, Qos::ExactlyOnce)) =>
                    {
                        owed.remove(0);
                    }
                    Action::Ack { kind: AckKind::Pubrel, packet_id, reason: 0, .. } => {
                        prop_assert_eq!(in_flight.get(&packet_id), Some(&Qos::ExactlyOnce));
                    }
                    Action::Close(_) => return Ok(()),
                    _ => {}
                }
            }
            prop_assert!(session.room() <= usize::from(window));
        }
    }
}
