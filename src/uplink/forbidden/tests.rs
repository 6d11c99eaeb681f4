//! What counts as forbidden, step by step with a time that the test tells.

use super::*;
use crate::model::number::{Class, Epoch, Seq};

const BAD: &str = "acme/pump-1/bad";
const GOOD: &str = "acme/pump-1/good";
const MINUTE: Duration = Duration::from_secs(60);

fn number(seq: u64) -> Number {
    Number { stream: Class::Telemetry, epoch: Epoch(1), seq: Seq(seq) }
}

fn ack(seq: u64) -> Ack {
    Ack::of(number(seq))
}

/// A topic that was refused once and is tried every so often, with as many records of others taken in between.
struct Plant {
    forbidden: Forbidden,
    now: Instant,
    seq: u64,
}

impl Plant {
    fn new() -> Self {
        Self { forbidden: Forbidden::new(AFTER), now: Instant::now(), seq: 100 }
    }

    /// Its first record is refused, without anyone knowing its topic.
    fn first_refused(&mut self) {
        assert_eq!(self.forbidden.fate(BAD, number(1), self.now), Fate::Send);
        assert_eq!(self.forbidden.refused(ack(1), self.now), Verdict::None);
    }

    fn others_taken(&mut self, records: u64) {
        for _ in 0..records {
            self.seq += 1;
            assert_eq!(self.forbidden.fate(GOOD, number(self.seq), self.now), Fate::Send);
            assert_eq!(self.forbidden.taken(ack(self.seq)), Verdict::None);
        }
    }

    fn round_after(&mut self, time: Duration) {
        self.now += time;
        self.forbidden.begin_round(self.now);
    }

    /// Until it is forbidden.
    fn forbid(&mut self) {
        self.first_refused();
        for _ in 0..3 {
            self.others_taken(1);
            self.round_after(5 * MINUTE);
            assert_eq!(self.forbidden.fate(BAD, number(1), self.now), Fate::Send);
            if self.forbidden.refused(ack(1), self.now) == Verdict::Forbidden(BAD.into()) {
                return;
            }
        }
        panic!("not forbidden after 15 minutes");
    }
}

#[test]
fn a_topic_refused_for_a_quarter_of_an_hour_while_others_are_taken_is_forbidden_and_tried_every_quarter() {
    let mut plant = Plant::new();
    plant.forbid();
    assert!(!plant.forbidden.is_open());
    for minute in 0..15 {
        assert_eq!(plant.forbidden.fate(BAD, number(2), plant.now + minute * MINUTE), Fate::Declare);
    }
    plant.now += AFTER;
    assert_eq!(plant.forbidden.fate(BAD, number(3), plant.now), Fate::Send, "the one that is tried");
    assert!(matches!(plant.forbidden.fate(BAD, number(4), plant.now), Fate::Hold(_)), "until there is an answer");
    assert_eq!(plant.forbidden.refused(ack(3), plant.now), Verdict::StillForbidden);
    plant.round_after(Duration::ZERO);
    assert_eq!(plant.forbidden.fate(BAD, number(4), plant.now), Fate::Declare);
    plant.round_after(AFTER);
    assert_eq!(plant.forbidden.fate(BAD, number(5), plant.now), Fate::Send);
    assert_eq!(plant.forbidden.taken(ack(5)), Verdict::Free { topic: BAD.into(), told: true });
    assert_eq!(plant.forbidden.fate(BAD, number(6), plant.now), Fate::Send);
    assert!(plant.forbidden.is_idle());
}

#[test]
fn three_refusals_in_less_time_or_two_in_more_forbid_nothing() {
    for (rounds, apart) in [(20, MINUTE / 2), (1, 20 * MINUTE)] {
        let mut plant = Plant::new();
        plant.first_refused();
        for _ in 0..rounds {
            plant.others_taken(3);
            plant.round_after(apart);
            assert_eq!(plant.forbidden.fate(BAD, number(1), plant.now), Fate::Send);
            assert_eq!(plant.forbidden.refused(ack(1), plant.now), Verdict::Suspect);
            assert!(matches!(plant.forbidden.fate(BAD, number(2), plant.now), Fate::Hold(_)), "in its order, behind");
        }
    }
}

#[test]
fn a_broker_that_takes_nothing_at_all_never_makes_anything_given_up() {
    let mut plant = Plant::new();
    let topics: Vec<String> = (0..10).map(|topic| format!("acme/{topic}")).collect();
    let mut tries = 0;
    for _ in 0..500 {
        for (topic, seq) in topics.iter().zip(1..) {
            match plant.forbidden.fate(topic, number(seq), plant.now) {
                Fate::Send => {
                    tries += 1;
                    let verdict = plant.forbidden.refused(ack(seq), plant.now);
                    assert!(matches!(verdict, Verdict::None | Verdict::Suspect), "{verdict:?}");
                }
                Fate::Hold(_) => {}
                Fate::Declare => panic!("given up"),
            }
        }
        plant.round_after(MINUTE / 2);
    }
    assert!((450..550).contains(&tries), "about one in each round: {tries}");
    // once one is taken, each of the others is tried in its turn
    let mut free = 0;
    for _ in 0..40 {
        plant.round_after(MINUTE / 2);
        for (topic, seq) in topics.iter().zip(1..) {
            if plant.forbidden.fate(topic, number(seq), plant.now) == Fate::Send {
                free += u32::from(plant.forbidden.taken(ack(seq)) != Verdict::None);
            }
        }
    }
    assert_eq!(free, 10);
}

#[test]
fn others_that_were_taken_before_the_last_refusal_only_are_no_proof() {
    let mut plant = Plant::new();
    plant.first_refused();
    plant.others_taken(50);
    for _ in 0..50 {
        plant.round_after(5 * MINUTE);
        assert_eq!(plant.forbidden.fate(BAD, number(1), plant.now), Fate::Send);
        assert_eq!(plant.forbidden.refused(ack(1), plant.now), Verdict::Suspect);
    }
}

#[test]
fn a_record_that_the_broker_closed_for_stands_behind_the_others_and_costs_few_sessions() {
    let mut plant = Plant::new();
    let (mut sessions, begun) = (0, plant.now);
    let mut forbidden_at = None;
    while plant.now < begun + 60 * MINUTE {
        plant.forbidden.begin_session(plant.now);
        // in the same session others go on until its turn comes
        loop {
            match plant.forbidden.fate(BAD, number(1), plant.now) {
                Fate::Send => break,
                Fate::Hold(due) => assert!(due > plant.now, "not before the others"),
                Fate::Declare => {}
            }
            plant.others_taken(10);
            plant.round_after(MINUTE / 2);
        }
        sessions += 1;
        plant.forbidden.sent(ack(1));
        if let Verdict::Forbidden(_) = plant.forbidden.refused(ack(1), plant.now) {
            forbidden_at = Some(plant.now - begun);
        }
        let closed_for = plant.forbidden.closed(plant.now);
        assert_eq!(closed_for, Some((number(1), Verdict::Suspect)), "the answer has said it");
    }
    assert!((15..=17).contains(&(forbidden_at.expect("it is forbidden").as_secs() / 60)), "{forbidden_at:?}");
    assert!(sessions <= 4 + 4, "{sessions} in an hour");
}

#[test]
fn a_broker_that_closes_without_a_word_makes_a_topic_forbidden_too() {
    let mut plant = Plant::new();
    plant.forbidden.goes_alone(BAD, number(1));
    plant.forbidden.fell(ack(1), plant.now);
    let mut seq = 1;
    loop {
        plant.forbidden.begin_session(plant.now);
        assert!(!matches!(plant.forbidden.fate(BAD, number(seq + 1), plant.now), Fate::Declare));
        plant.forbidden.begin_session(plant.now);
        plant.others_taken(1);
        plant.round_after(5 * MINUTE);
        seq += 1;
        assert_eq!(plant.forbidden.fate(BAD, number(seq), plant.now), Fate::Send);
        plant.forbidden.sent(ack(seq));
        let (closed_for, verdict) = plant.forbidden.closed(plant.now).expect("the trial is what it closed for");
        assert_eq!(closed_for, number(seq));
        if verdict == Verdict::Forbidden(BAD.into()) {
            break;
        }
        assert_eq!(verdict, Verdict::Suspect);
    }
    assert_eq!(plant.forbidden.fate(BAD, number(seq + 1), plant.now), Fate::Declare);
}

#[test]
fn while_gap_records_are_not_taken_or_too_many_are_under_way_records_are_held() {
    let mut plant = Plant::new();
    plant.forbid();
    assert_eq!(plant.forbidden.refused(Ack::Gap(1), plant.now), Verdict::None);
    assert!(matches!(plant.forbidden.fate(BAD, number(2), plant.now), Fate::Hold(_)));
    plant.forbidden.taken(Ack::Gap(1));
    for _ in 0..DECLARED_MAX {
        assert_eq!(plant.forbidden.fate(BAD, number(2), plant.now), Fate::Declare);
        plant.forbidden.declared();
    }
    assert!(matches!(plant.forbidden.fate(BAD, number(2), plant.now), Fate::Hold(_)));
}

#[test]
fn topics_and_records_that_are_held_are_limited() {
    let mut plant = Plant::new();
    for topic in 0..200 {
        plant.forbidden.refused(ack(topic), plant.now);
        plant.forbidden.fate(&format!("acme/{topic}"), number(topic), plant.now);
    }
    assert_eq!(plant.forbidden.suspects.len(), TOPICS_MAX);
    assert_eq!(plant.forbidden.fate("acme/199", number(199), plant.now), Fate::Send, "as if nobody knew it");
    for seq in 1000..1000 + HELD_MAX as u64 {
        assert!(matches!(plant.forbidden.fate("acme/1", number(seq), plant.now), Fate::Hold(_)));
    }
    assert!(plant.forbidden.is_full());
    plant.round_after(MINUTE);
    assert!(!plant.forbidden.is_full());
    plant.round_after(10 * AFTER);
    assert!(plant.forbidden.is_idle(), "topics without records are forgotten");
}

#[test]
fn a_forbidden_topic_without_a_record_for_a_day_is_forgotten_and_makes_room() {
    let mut plant = Plant::new();
    plant.forbid();
    plant.now += 23 * 60 * MINUTE;
    assert!(plant.forbidden.gone(plant.now).is_empty());
    plant.forbidden.fate(BAD, number(2), plant.now);
    plant.now += 23 * 60 * MINUTE;
    assert!(plant.forbidden.gone(plant.now).is_empty(), "there was a record since");
    plant.now += 60 * MINUTE;
    assert_eq!(plant.forbidden.gone(plant.now), [BAD]);
    assert!(plant.forbidden.is_idle());
}
