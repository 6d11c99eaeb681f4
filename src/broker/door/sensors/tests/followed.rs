//! The door goes by other rules while a sensor is connected.

use super::*;
use crate::broker::sn::{Again, Filter, Publish, Topic};

/// It has subscribed by the ids 1 and 2, and asked the broker for nothing else.
fn subscribed(now: Instant) -> Translator {
    let mut translator = connected(now);
    translator.follow(named(&[(1, "known"), (2, "other")]), now);
    for id in [1, 2] {
        subscribe(&mut translator, id, now);
        translator.packet(Heard::Suback { packet_id: id, reason: 1 }, now);
    }
    translator.out.clear();
    translator.packets.clear();
    translator.learnt = false;
    translator
}

fn subscribe(translator: &mut Translator, id: u16, now: Instant) {
    let filter = Filter::Predefined(id);
    let subscribe = Message::Subscribe { again: Again::No, quality: Quality::One, message_id: id, filter };
    translator.message(subscribe, now);
}

fn named(topics: &[(u16, &str)]) -> Arc<MqttSnPlan> {
    let topics = topics.iter().map(|(id, name)| (*id, (*name).to_owned())).collect();
    Arc::new(MqttSnPlan { topics, ..MqttSnPlan::clone(&rules().plan) })
}

#[test]
fn what_is_on_its_way_under_a_predefined_id_that_stands_for_something_else_goes_by_its_name_when_it_is_heard() {
    let now = Instant::now();
    for (sleeps, changed) in [(false, 1), (true, 1), (false, 2)] {
        let mut translator = subscribed(now);
        translator.packet(delivery(7, Qos::ExactlyOnce, "known"), now);
        let sent = std::mem::take(&mut translator.out);
        assert!(matches!(&sent[..], [Message::Publish(Publish { topic: Topic::Predefined(1), .. })]), "{sent:?}");
        if sleeps {
            translator.message(Message::Disconnect(Some(600)), now);
            translator.out.clear();
        }
        let topics = [(1, "known"), (2, "other")].map(|(id, name)| (id, if id == changed { "new" } else { name }));
        translator.follow(named(&topics), now);
        assert!(translator.learnt && !translator.predefined.contains(&changed) && translator.predefined.len() == 1);
        if sleeps {
            assert_eq!(std::mem::take(&mut translator.out), [], "it sleeps");
            translator.message(Message::Ping(Some("t".to_owned())), now);
        }
        match &translator.out[..] {
            [Message::Register { name, .. }] if changed == 1 => assert_eq!(name, "known"),
            [] if changed == 2 => {}
            other => panic!("{other:?}"),
        }
        assert_eq!((translator.waiting.len(), translator.waiting_bytes, translator.refused), (0, 0, 0));
    }
}

#[test]
fn a_subscribe_by_a_predefined_id_is_never_answered_for_what_it_stood_for_before() {
    let now = Instant::now();
    for was_answered in [true, false] {
        let mut translator = subscribed(now);
        subscribe(&mut translator, 1, now);
        if was_answered {
            translator.packet(Heard::Suback { packet_id: 1, reason: 1 }, now);
        }
        translator.out.clear();
        translator.follow(named(&[(1, "new"), (2, "other")]), now);
        if !was_answered {
            translator.packet(Heard::Suback { packet_id: 1, reason: 1 }, now);
            assert_eq!(std::mem::take(&mut translator.out), [], "that was for the old one");
        }
        translator.packets.clear();
        subscribe(&mut translator, 1, now);
        assert!(translator.packets.windows(3).any(|part| part == b"new"), "the broker is asked");
        translator.packet(Heard::Suback { packet_id: 1, reason: 1 }, now);
        assert!(matches!(translator.out[..], [Message::Suback { topic_id: 1, code: Code::Accepted, .. }]));
    }
}

#[test]
fn an_id_that_stands_for_the_same_as_before_and_other_times_disturb_nobody() {
    let now = Instant::now();
    let mut translator = subscribed(now);
    translator.packet(delivery(7, Qos::AtLeastOnce, "known"), now);
    translator.out.clear();
    let plan = MqttSnPlan { retries: 1, ..MqttSnPlan::clone(&named(&[(3, "more"), (2, "other"), (1, "known")])) };
    translator.follow(Arc::new(plan), now);
    assert!(translator.out.is_empty() && !translator.learnt && translator.predefined.len() == 2);
    let [first, second] = [1, 2].map(|times| now + RETRY * times);
    assert!(matches!(translator.tick(first), Flow::On));
    assert!(matches!(translator.tick(second), Flow::End(_)), "by the new number of retries");
}
