//! A sensor that slept, or was started anew meanwhile.

use super::*;
use crate::broker::door::sensors::inner;
use crate::broker::wire::Frame;

#[test]
fn what_expires_while_a_sensor_sleeps_is_not_sent_to_it_and_the_broker_is_told_that_it_is_settled() {
    let begun = Instant::now();
    let soon = Some(begun + Duration::from_secs(30));
    let late = begun + Duration::from_secs(3600);
    for wakes_by_ping in [true, false] {
        let mut translator = connected(begun);
        translator.packet(expiring(1, Qos::AtLeastOnce, "long/name", soon), begun); // REGISTER is on its way
        translator.message(Message::Disconnect(Some(7200)), begun);
        translator.out.clear();
        for (id, qos) in [(0, Qos::AtMostOnce), (2, Qos::AtLeastOnce), (3, Qos::ExactlyOnce)] {
            translator.packet(expiring(id, qos, "ab", soon), begun);
        }
        translator.packet(delivery(4, Qos::AtLeastOnce, "ab"), begun);
        translator.heard = late;
        if wakes_by_ping {
            translator.message(Message::Ping(Some("t".to_owned())), late);
        } else {
            let said = Connect { start: Start::Kept, ..translator.said.clone() };
            translator.message(Message::Connect(said), late);
            translator.tick(late);
            assert_eq!(translator.out.remove(0), Message::Connack(Code::Accepted));
        }
        let [Message::Publish(publish)] = &translator.out[..] else { panic!("{:?}", translator.out) };
        assert_eq!((publish.message_id, translator.expired, translator.refused), (4, 4, 0));
        assert!(translator.packets.starts_with(&[0x40, 3, 0, 1, 0x83, 0x40, 3, 0, 2, 0x83, 0x50, 3, 0, 3, 0x83]));
    }
}

#[test]
fn the_expiry_of_a_message_is_read_wherever_it_stands_in_its_properties() {
    let now = Instant::now();
    let publish = |properties: &[u8]| {
        let length = u8::try_from(properties.len()).expect("short");
        let body = [&[0, 2, b'a', b'b', length][..], properties, b"x"].concat().into();
        match inner::read(Frame { first: 0x30, body }, now) {
            Some(Heard::Publish(delivery)) => (delivery.expires, delivery.payload),
            other => panic!("{other:?}"),
        }
    };
    let payload = Bytes::from_static(b"x");
    let in_30_s = (Some(now + Duration::from_secs(30)), payload.clone());
    assert_eq!(publish(&[2, 0, 0, 0, 30]), in_30_s);
    assert_eq!(publish(&[1, 1, 38, 0, 1, b'k', 0, 0, 8, 0, 1, b'r', 9, 0, 1, 2, 3, 0, 0, 2, 0, 0, 0, 30]), in_30_s);
    for none in [&[][..], &[1, 1], &[3, 0, 1, 2], &[2, 0, 0], &[38, 0, 9]] {
        assert_eq!(publish(none), (None, payload.clone()));
    }
}

#[test]
fn a_sensor_that_says_connect_is_told_topics_anew_also_after_a_sleep_and_at_qos_0_and_one_that_pings_is_not() {
    let now = Instant::now();
    for was_started_anew in [true, false] {
        let mut translator = connected(now);
        translator.message(Message::Register { topic_id: 0, message_id: 1, name: "long/name".to_owned() }, now);
        translator.message(Message::Disconnect(Some(600)), now);
        translator.out.clear();
        if was_started_anew {
            connect_again(&mut translator, now);
        } else {
            translator.message(Message::Ping(Some("t".to_owned())), now);
        }
        translator.packet(delivery(0, Qos::AtMostOnce, "long/name"), now);
        match &translator.out[..] {
            [Message::Register { name, .. }] if was_started_anew => assert_eq!(name, "long/name"),
            [Message::Publish(_)] if !was_started_anew => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_sensor_is_not_lost_for_a_question_about_its_will_that_it_has_taken_back_or_never_heard() {
    let begun = Instant::now();
    let with_will =
        |asks| Message::Connect(Connect { start: Start::Kept, asks, duration: 60, client_id: "t".to_owned() });
    for (sleeps, asks_again) in [(false, true), (true, false), (false, false)] {
        let (mut now, mut translator) = (begun, connected(begun));
        if sleeps {
            translator.message(Message::Disconnect(Some(600)), now);
        }
        translator.out.clear();
        translator.message(with_will(Asks::ForWill), now);
        assert_eq!(std::mem::take(&mut translator.out), [Message::WillTopicRequest]);
        if asks_again {
            translator.message(with_will(Asks::NoWill), now);
            assert_eq!(std::mem::take(&mut translator.out), [Message::Connack(Code::Accepted)]);
            assert!(translator.question.is_none());
        }
        let stage = translator.stage;
        for _ in 0..5 {
            now += RETRY;
            translator.heard = now; // it talks
            assert!(matches!(translator.tick(now), Flow::On));
        }
        assert_eq!((translator.question.is_none(), translator.stage), (true, stage));
        translator.out.clear();
        translator.message(with_will(Asks::ForWill), now);
        assert_eq!(std::mem::take(&mut translator.out), [Message::WillTopicRequest], "it is asked when it comes again");
    }
}
