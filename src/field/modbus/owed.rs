//! Questions that nobody has answered, and whose answers may still come: what is not to be asked on this connection. Pure.
//!
//! Kept by the inbox, on a network and where answers have no number. A device is late by its response time, a network by
//! minutes: it hands on all it has when it moves again, and an old answer looks like that to whatever was asked last. Rests on
//! one thing: a connection keeps order, and whoever serves it answers what it is asked one after the other. So an answer
//! to a later question says that the older ones are over. Promises: of all that is owed no answer fits two questions;
//! a question that it could fit is barred, and the next connection begins without debts.

use super::frame::Expect;
use crate::config::plan::{BusLink, Carrier};

/// What is owed on one connection, the oldest first.
#[derive(Debug, Default)]
pub struct Owed {
    /// On a serial line nothing is: what is late there is over soon.
    is_network: bool,
    questions: Vec<Expect>,
}

impl Owed {
    /// Nothing yet.
    pub fn new(link: &BusLink) -> Self {
        let is_network = !link.framing.is_numbered() && !matches!(link.carrier, Carrier::Serial(_));
        Self { is_network, questions: Vec::new() }
    }

    /// Is nothing?
    pub const fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }

    /// It went out, and there was no answer. To all at once there is none.
    pub fn add(&mut self, question: Expect) {
        if self.is_network && !question.is_to_all() {
            self.questions.push(question);
        }
    }

    /// A whole frame that nobody waited for: if it answers one of them, that one and what was asked before are over. A late
    /// echo may look like an answer, and ends nothing.
    pub fn heard(&mut self, unit: u8, pdu: &[u8]) {
        let answered =
            |question: &Expect| question.is_from(unit) && !question.answers_like_an_echo() && question.accepts(pdu);
        if let Some(at) = self.questions.iter().position(answered) {
            self.questions.drain(..=at);
        }
    }

    /// The same, of a whole RTU frame.
    pub fn heard_rtu(&mut self, frame: &[u8]) {
        if let [unit, pdu @ .., _, _] = frame {
            self.heard(*unit, pdu);
        }
    }

    /// The question under way was answered: all that was asked before it is over.
    pub fn clear(&mut self) {
        self.questions.clear();
    }

    /// Could an answer that is owed be taken for the answer to this one?
    pub fn bars(&self, question: Expect) -> bool {
        !question.is_to_all() && self.questions.iter().any(|owed| owed.is_answered_like(question))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{AnswersAs, Framing, Parity, SerialPlan};

    fn network() -> Owed {
        Owed::new(&BusLink::new(Framing::Rtu, Carrier::Tcp { endpoint: "gateway:4001".into() }))
    }

    fn reading(unit: u8, function: u8, start: u8) -> Expect {
        Expect::of_request(unit, &[function, 0, start, 0, 1]).expect("a read")
    }

    #[test]
    fn what_is_owed_bars_what_its_answer_could_be_taken_for_until_a_later_answer_came() {
        let mut owed = network();
        owed.add(reading(1, 3, 7));
        assert!(owed.bars(reading(1, 3, 7)), "the same question once more");
        let longer = Expect::of_request(1, &[3, 0, 9, 0, 2]).expect("a read");
        assert!(owed.bars(longer), "exceptions are of no length");
        assert!(!owed.bars(reading(1, 4, 7)) && !owed.bars(reading(2, 3, 7)));
        assert!(owed.bars(reading(2, 3, 7).answering_as(AnswersAs::Anyone)));
        owed.clear();
        assert!(!owed.bars(reading(1, 3, 7)));
    }

    #[test]
    fn a_late_answer_ends_its_question_and_the_older_ones() {
        let mut owed = network();
        for unit in 1..=3 {
            owed.add(reading(unit, 3, 7));
        }
        owed.heard(2, &[3, 4, 0, 0, 0, 0]);
        assert!(owed.bars(reading(1, 3, 7)), "of another length");
        owed.heard(2, &[3, 2, 0, 0]);
        assert_eq!([1, 2, 3].map(|unit| owed.bars(reading(unit, 3, 7))), [false, false, true]);
        owed.heard(3, &[0x83, 2]);
        assert!(owed.is_empty());
        let write = Expect::of_request(1, &[6, 0, 7, 0, 1]).expect("a write");
        owed.add(write);
        owed.heard(1, &[6, 0, 7, 0, 1]);
        assert!(owed.bars(write), "it may be an echo");
    }

    #[test]
    fn a_serial_line_numbers_and_broadcasts_owe_nothing() {
        let serial = SerialPlan { baud: 19_200, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        for link in [BusLink::rtu("/dev/ttyX", serial), BusLink::tcp("plc:502")] {
            let mut owed = Owed::new(&link);
            owed.add(reading(1, 3, 7));
            assert!(owed.is_empty());
        }
        let mut owed = network();
        owed.add(Expect::of_request(0, &[6, 0, 7, 0, 1]).expect("a write"));
        assert!(owed.is_empty());
    }
}
