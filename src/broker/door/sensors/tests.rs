//! The translator against chance: whatever a sensor and the broker say in whatever order, it ends in bounds. `asleep`: what a
//! sensor that was away for long is told, and what not any more; `followed`: other rules while it is connected.

mod asleep;
mod followed;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

use super::inner::{Delivery, Heard};
use super::rules::Rules;
use super::translator::{Flow, Stage, Translator, WAITING_BYTES_MAX, WAITING_MAX};
use crate::broker::door::terms::Terms;
use crate::broker::message::{Qos, Retain};
use crate::broker::sn::{self, Asks, Code, Connect, Message, Quality, Start};
use crate::broker::wire::{Ack, AckKind};
use crate::config::plan::MqttSnPlan;

const RETRY: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_secs(360);

fn rules() -> Rules {
    let plan = MqttSnPlan {
        gateway_id: 1,
        advertise: None,
        retry: RETRY,
        retries: 3,
        wait: WAIT,
        datagram_bytes: 256,
        topics: vec![(1, "known".to_owned())],
        sensors: Vec::new(),
        publish: None,
    };
    Rules { plan: Arc::new(plan), terms: Terms::inside() }
}

fn connected(now: Instant) -> Translator {
    let said = Connect { start: Start::Clean, asks: Asks::NoWill, duration: 60, client_id: "t".to_owned() };
    let (mut translator, flow) = Translator::new(rules(), said, now);
    assert!(matches!(flow, Flow::Enter(_)));
    assert!(matches!(translator.packet(Heard::Connack { reason: 0 }, now), Flow::Entered));
    assert_eq!(std::mem::take(&mut translator.out), [Message::Connack(Code::Accepted)]);
    translator
}

fn delivery(packet_id: u16, qos: Qos, topic: &str) -> Heard {
    expiring(packet_id, qos, topic, None)
}

fn expiring(packet_id: u16, qos: Qos, topic: &str, expires: Option<Instant>) -> Heard {
    let (topic, payload) = (topic.to_owned(), Bytes::from_static(b"x"));
    Heard::Publish(Delivery { again: false, qos, retain: Retain::No, packet_id, topic, payload, expires })
}

#[test]
fn a_connect_that_is_repeated_because_connack_was_lost_only_gets_connack_again() {
    let now = Instant::now();
    let mut translator = connected(now);
    let said = translator.said.clone();
    assert!(matches!(translator.message(Message::Connect(said.clone()), now), Flow::On));
    assert_eq!(std::mem::take(&mut translator.out), [Message::Connack(Code::Accepted)]);
    translator.message(Message::WillMessage(Vec::new()), now);
    assert_eq!(
        std::mem::take(&mut translator.out),
        [Message::Connack(Code::Accepted)],
        "the end of the dialogue, again"
    );
    translator.message(Message::Ping(None), now);
    assert!(matches!(translator.message(Message::Connect(said), now), Flow::Renew(_)), "now it means to begin anew");
}

#[test]
fn a_message_is_sent_again_so_often_and_then_its_sensor_is_lost() {
    let mut now = Instant::now();
    let mut translator = connected(now);
    translator.packet(delivery(1, Qos::AtLeastOnce, "ab"), now);
    for again in 0..4 {
        assert_eq!(std::mem::take(&mut translator.out).len(), 1, "{again}");
        assert_eq!(translator.due(), now + RETRY);
        now += RETRY;
        let flow = translator.tick(now);
        assert_eq!(matches!(flow, Flow::End(_)), again == 3);
    }
}

#[test]
fn one_that_sleeps_is_sent_nothing_and_one_that_falls_asleep_again_keeps_its_message() {
    let mut now = Instant::now();
    let mut translator = connected(now);
    translator.message(Message::Disconnect(Some(600)), now);
    translator.out.clear();
    translator.packet(delivery(1, Qos::AtLeastOnce, "ab"), now);
    assert!(translator.out.is_empty());
    translator.message(Message::Ping(Some("t".to_owned())), now);
    for _ in 0..4 {
        now += RETRY;
        assert!(matches!(translator.tick(now), Flow::On));
    }
    assert_eq!(translator.stage, Stage::Asleep(600));
    translator.out.clear();
    translator.message(Message::Ping(Some("t".to_owned())), now);
    let [Message::Publish(publish)] = &translator.out[..] else { panic!("{:?}", translator.out) };
    assert_eq!((publish.again, publish.quality, publish.message_id), (sn::Again::Yes, Quality::One, 1));
}

/// PUBACK: it has no room for it.
fn congested() -> Message {
    Message::Puback { topic_id: 0, message_id: 1, code: Code::Congestion }
}

#[test]
fn one_that_has_no_room_gets_its_message_again_after_the_wait_as_often_as_any_and_is_then_lost() {
    let mut now = Instant::now();
    let mut translator = connected(now);
    translator.packet(delivery(1, Qos::AtLeastOnce, "ab"), now);
    for again in 0..4 {
        let [Message::Publish(_)] = &std::mem::take(&mut translator.out)[..] else { panic!("{again}") };
        translator.message(congested(), now);
        translator.message(congested(), now); // once more, for a message that came twice
        translator.heard = now + WAIT; // it pings meanwhile
        assert_eq!(translator.due(), (now + WAIT).min(translator.heard + Duration::from_secs(90)), "{again}");
        assert!(matches!(translator.tick(now + 5 * RETRY), Flow::On));
        assert!(translator.out.is_empty(), "{again}: not before");
        now += WAIT;
        assert_eq!(matches!(translator.tick(now), Flow::End(_)), again == 3);
    }
}

#[test]
fn one_that_wakes_without_room_may_sleep_on_and_gets_the_message_at_its_next_wake() {
    let now = Instant::now();
    let mut translator = connected(now);
    translator.message(Message::Disconnect(Some(600)), now);
    translator.packet(delivery(1, Qos::AtLeastOnce, "ab"), now);
    for _ in 0..10 {
        translator.out.clear();
        translator.message(Message::Ping(Some("t".to_owned())), now);
        assert!(matches!(translator.out[..], [Message::Publish(_)]));
        translator.message(congested(), now);
        assert_eq!((&translator.out[1..], translator.stage), (&[Message::Pong][..], Stage::Asleep(600)));
    }
}

#[test]
fn an_answer_of_the_broker_to_an_earlier_wake_says_nothing_about_this_one() {
    let now = Instant::now();
    let mut translator = connected(now);
    let ping = Message::Ping(Some("t".to_owned()));
    translator.message(Message::Disconnect(Some(600)), now);
    translator.message(ping.clone(), now);
    translator.message(ping.clone(), now); // it sleeps on in vain, and wakes
    translator.out.clear();
    translator.packet(Heard::Pong, now);
    assert!(translator.out.is_empty(), "more may have come meanwhile");
    translator.packet(delivery(1, Qos::AtMostOnce, "ab"), now);
    translator.packet(Heard::Pong, now);
    assert!(matches!(translator.out[..], [Message::Publish(_), Message::Pong]), "{:?}", translator.out);
    translator.out.clear();
    translator.packet(Heard::Pong, now);
    assert!(translator.out.is_empty());
    translator.packets.clear();
    translator.message(ping, now);
    assert!(!translator.packets.is_empty() && translator.out.is_empty(), "each wake asks anew");
}

#[test]
fn a_predefined_id_that_the_sensor_does_not_know_is_given_up_for_one_that_it_is_told() {
    let now = Instant::now();
    let mut translator = connected(now);
    translator.predefined.insert(1);
    translator.packet(delivery(1, Qos::AtLeastOnce, "known"), now);
    let [Message::Publish(publish)] = &std::mem::take(&mut translator.out)[..] else { panic!("PUBLISH") };
    assert_eq!(publish.topic, sn::Topic::Predefined(1));
    translator.message(Message::Puback { topic_id: 1, message_id: 1, code: Code::InvalidTopicId }, now);
    let [Message::Register { name, .. }] = &translator.out[..] else { panic!("{:?}", translator.out) };
    assert_eq!(name, "known");
    assert!(translator.learnt && translator.to_remember().predefined.is_empty());
}

#[test]
fn so_it_is_at_qos_0_where_the_message_is_lost_and_counted_and_the_next_one_comes() {
    let now = Instant::now();
    let mut translator = connected(now);
    translator.predefined.insert(1);
    translator.packet(delivery(0, Qos::AtMostOnce, "known"), now);
    let [Message::Publish(publish)] = &std::mem::take(&mut translator.out)[..] else { panic!("PUBLISH") };
    assert_eq!((publish.topic, publish.message_id), (sn::Topic::Predefined(1), 0));
    translator.message(Message::Puback { topic_id: 1, message_id: 0, code: Code::InvalidTopicId }, now);
    assert_eq!((translator.refused, translator.out.len()), (1, 0));
    assert!(translator.learnt && translator.to_remember().predefined.is_empty());
    translator.packet(delivery(0, Qos::AtMostOnce, "known"), now);
    let [Message::Register { name, .. }] = &translator.out[..] else { panic!("{:?}", translator.out) };
    assert_eq!(name, "known");
}

fn publish(quality: Quality, payload: &[u8]) -> Message {
    let (again, kept, topic) = (sn::Again::No, sn::Kept::No, sn::Topic::Short(*b"ab"));
    Message::Publish(sn::Publish { again, quality, kept, topic, message_id: 1, payload: payload.to_vec() })
}

/// It says CONNECT, and is told that it goes on.
fn connect_again(translator: &mut Translator, now: Instant) {
    let said = Connect { start: Start::Kept, ..translator.said.clone() };
    translator.message(Message::Connect(said), now);
    assert_eq!(std::mem::take(&mut translator.out), [Message::Connack(Code::Accepted)]);
}

/// What the broker has been told since this was last asked: `false` for PUBREL, `true` for a publish of "b".
fn told_broker(translator: &mut Translator) -> Option<bool> {
    let packets = std::mem::take(&mut translator.packets);
    assert!(packets.is_empty() || packets[..] == [0x62, 2, 0, 1] || packets.ends_with(b"ab\0\x01\0b"), "{packets:?}");
    (!packets.is_empty()).then(|| packets.ends_with(b"b"))
}

#[test]
fn another_publish_under_an_id_that_a_sensor_left_unreleased_when_it_was_started_anew_is_handed_in() {
    let now = Instant::now();
    let answer = |kind| Heard::Ack(Ack { kind, packet_id: 1, reason: 0 });
    for is_answered in [true, false] {
        let mut translator = connected(now);
        translator.message(publish(Quality::Two, b"a"), now);
        translator.packets.clear();
        if is_answered {
            translator.packet(answer(AckKind::Pubrec), now);
            assert_eq!(std::mem::take(&mut translator.out), [Message::Pubrec(1)]);
        }
        connect_again(&mut translator, now);
        translator.message(publish(Quality::Two, b"b"), now);
        if !is_answered {
            assert_eq!(told_broker(&mut translator), None, "what was asked before is answered first");
            translator.packet(answer(AckKind::Pubrec), now);
        }
        assert_eq!((told_broker(&mut translator), translator.out.len()), (Some(false), 0));
        translator.message(publish(Quality::Two, b"b"), now); // it is impatient
        assert_eq!((told_broker(&mut translator), translator.out.len()), (None, 0));
        translator.packet(answer(AckKind::Pubcomp), now);
        assert_eq!((told_broker(&mut translator), translator.out.len()), (Some(true), 0));
        translator.packet(answer(AckKind::Pubrec), now);
        translator.message(Message::Pubrel(1), now);
        translator.packet(answer(AckKind::Pubcomp), now);
        assert_eq!(std::mem::take(&mut translator.out), [Message::Pubrec(1), Message::Pubcomp(1)]);
        assert!(translator.asked.is_empty() && translator.exchanges.is_empty() && translator.held.is_none());
    }
}

#[test]
fn an_answer_to_what_a_sensor_asked_before_it_was_started_anew_does_not_pass_for_an_answer_to_what_it_asks_now() {
    let now = Instant::now();
    let mut translator = connected(now);
    translator.message(publish(Quality::One, b"a"), now);
    let subscribe = |filter: &str| {
        let filter = sn::Filter::Name(filter.to_owned());
        Message::Subscribe { again: sn::Again::No, quality: Quality::One, message_id: 1, filter }
    };
    translator.message(subscribe("old/#"), now);
    connect_again(&mut translator, now);
    translator.packets.clear();
    translator.message(publish(Quality::One, b"b"), now);
    translator.message(subscribe("new/#"), now);
    assert_eq!(told_broker(&mut translator), None);
    translator.packet(Heard::Suback { packet_id: 1, reason: 1 }, now);
    assert!(translator.out.is_empty(), "it asks again");
    let puback = || Heard::Ack(Ack { kind: AckKind::Puback, packet_id: 1, reason: 0 });
    translator.packet(puback(), now);
    assert_eq!((told_broker(&mut translator), translator.out.len()), (Some(true), 0));
    translator.packet(puback(), now);
    assert!(matches!(translator.out[..], [Message::Puback { message_id: 1, code: Code::Accepted, .. }]));
}

#[test]
fn a_publish_that_a_sensor_repeats_when_it_wakes_by_connect_is_the_same_one() {
    let now = Instant::now();
    let mut translator = connected(now);
    translator.message(publish(Quality::Two, b"b"), now);
    translator.packet(Heard::Ack(Ack { kind: AckKind::Pubrec, packet_id: 1, reason: 0 }), now);
    translator.message(Message::Disconnect(Some(600)), now);
    translator.out.clear();
    connect_again(&mut translator, now);
    translator.packets.clear();
    translator.message(publish(Quality::Two, b"b"), now);
    assert_eq!(told_broker(&mut translator), Some(true), "the broker knows it by its id");
    translator.packet(Heard::Ack(Ack { kind: AckKind::Pubrec, packet_id: 1, reason: 0 }), now);
    translator.message(Message::Pubrel(1), now);
    assert_eq!(told_broker(&mut translator), Some(false));
}

/// Something that a sensor may say, sensible or not.
fn said(random: &mut StdRng) -> Message {
    loop {
        let length = random.random_range(0..12);
        let mut bytes = vec![u8::try_from(length + 2).expect("short"), random.random_range(0..0x1E)];
        bytes.extend((0..length).map(|_| random.random_range(0..4u8)));
        if let Ok(message) = sn::read(&bytes) {
            return message;
        }
    }
}

fn told(random: &mut StdRng) -> Heard {
    let (packet_id, reason) = (random.random_range(0..4), [0, 1, 0x80, 0x97][random.random_range(0..4)]);
    let kinds = [AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp];
    match random.random_range(0..6) {
        0 => Heard::Ack(Ack { kind: kinds[random.random_range(0..4)], packet_id, reason }),
        1 => Heard::Suback { packet_id, reason },
        2 => Heard::Unsuback { packet_id },
        3 => Heard::Pong,
        _ => {
            let qos = Qos::from_bits(random.random_range(0..3)).expect("one of them");
            let topic = ["ab", "known", "long/name", "another/name"][random.random_range(0..4)];
            delivery(packet_id, qos, topic)
        }
    }
}

#[test]
fn whatever_is_said_in_whatever_order_there_is_no_panic_and_no_growth() {
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..300 {
        let mut now = Instant::now();
        let mut translator = connected(now);
        for _ in 0..200 {
            now += Duration::from_millis(random.random_range(0..700));
            let flow = match random.random_range(0..3) {
                0 => translator.message(said(&mut random), now),
                1 if translator.takes_more() => translator.packet(told(&mut random), now),
                _ => translator.tick(now),
            };
            assert!(translator.asked.len() <= 16 && translator.waiting_bytes <= WAITING_BYTES_MAX + 100);
            assert!(translator.waiting.len() <= WAITING_MAX + 200);
            assert!(translator.out.iter().all(|message| !sn::write(message).is_empty()));
            translator.out.clear();
            translator.packets.clear();
            if !matches!(flow, Flow::On | Flow::Entered | Flow::ChangeWill(..)) {
                break;
            }
        }
    }
}
