//! The translator against chance: whatever a sensor and the broker say in whatever order, it ends in bounds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

use super::inner::{Delivery, Heard};
use super::translator::{Flow, Rules, Stage, Translator, WAITING_BYTES_MAX, WAITING_MAX};
use crate::broker::message::{Qos, Retain};
use crate::broker::sn::{self, Asks, Code, Connect, Message, Quality, Start};
use crate::broker::wire::{Ack, AckKind};
use crate::config::plan::MqttSnPlan;

const RETRY: Duration = Duration::from_secs(1);

fn rules() -> Rules {
    let plan = MqttSnPlan {
        gateway_id: 1,
        advertise: None,
        retry: RETRY,
        retries: 3,
        datagram_bytes: 256,
        topics: vec![(1, "known".to_owned())],
        sensors: Vec::new(),
        publish: None,
    };
    Rules { plan: Arc::new(plan), max_qos: Qos::ExactlyOnce, retain_available: true }
}

fn connected(now: Instant) -> Translator {
    let said = Connect { start: Start::Clean, asks: Asks::NoWill, duration: 60, client_id: "t".to_owned() };
    let (mut translator, flow) = Translator::new(rules(), said, now);
    assert!(matches!(flow, Flow::Enter(_)));
    assert!(matches!(translator.packet(Heard::Connack { reason: 0 }, now), Flow::On));
    assert_eq!(std::mem::take(&mut translator.out), [Message::Connack(Code::Accepted)]);
    translator
}

fn delivery(packet_id: u16, qos: Qos, topic: &str) -> Heard {
    let (topic, payload) = (topic.to_owned(), Bytes::from_static(b"x"));
    Heard::Publish(Delivery { again: false, qos, retain: Retain::No, packet_id, topic, payload })
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
            if !matches!(flow, Flow::On | Flow::ChangeWill(_)) {
                break;
            }
        }
    }
}
