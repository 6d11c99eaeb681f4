//! Looking for the answer among whatever comes off a wire, in every framing.
//!
//! Promises: an answer is one (unit, function, length, check sum), it really came, it is no echo; what is kept is bounded; when
//! the line was swept, the next right answer is found.

use std::sync::Arc;

use ironbridge::config::plan::{AnswersAs, BusLink, Carrier, Framing, Parity, SerialPlan};
use ironbridge::field::modbus::frame::{EchoRule, Expect};
use ironbridge::field::modbus::inbox::{BYTES_MAX, Event, Inbox, Question};
use ironbridge::field::stats::BusStats;

use super::Bytes;
use super::question::{Asked, ascii, mbap, rtu};

/// The longest piece that is fed at once.
const PIECE_MAX: usize = 64;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Rtu,
    Ascii,
    Stream,
    Datagrams,
}

struct Line {
    kind: Kind,
    asked: Asked,
    transaction: u16,
    echo: EchoRule,
    answers_as: AnswersAs,
    inbox: Inbox,
    stats: Arc<BusStats>,
    /// Everything that came since the last sweep.
    came: Vec<u8>,
}

impl Line {
    fn framed(&self, body: &[u8], transaction: u16) -> Vec<u8> {
        match self.kind {
            Kind::Rtu => rtu(body),
            Kind::Ascii => ascii(body),
            Kind::Stream | Kind::Datagrams => mbap(transaction, body),
        }
    }

    fn new_inbox(&mut self) {
        let serial = SerialPlan { baud: 9600, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        let link = match self.kind {
            Kind::Rtu => BusLink::rtu("/dev/x", serial),
            Kind::Ascii => BusLink { framing: Framing::Ascii, ..BusLink::rtu("/dev/x", serial) },
            Kind::Stream => BusLink::tcp("h:502"),
            Kind::Datagrams => BusLink::new(Framing::Mbap, Carrier::Udp { endpoint: "h:502".to_owned() }),
        };
        (self.inbox, self.came) = (Inbox::new(&link, Arc::clone(&self.stats)), Vec::new());
    }

    /// Feeds some bytes; what of them was the answer.
    fn feed(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut answer = None;
        let longest = if self.kind == Kind::Datagrams { bytes.len().max(1) } else { PIECE_MAX };
        for piece in bytes.chunks(longest) {
            self.inbox.fill(piece);
            self.came.extend_from_slice(piece);
            answer = self.look().or(answer);
            assert!(self.inbox.held() <= BYTES_MAX + piece.len(), "{} bytes kept", self.inbox.held());
        }
        answer
    }

    fn look(&mut self) -> Option<Vec<u8>> {
        let request = self.framed(&self.asked.body, self.transaction);
        let expect = Expect::of_request(self.asked.body[0], &self.asked.body[1..]).expect("one of ours");
        let expect = expect.answering_as(self.answers_as);
        let question = Question { request: &request, expect, transaction: self.transaction, echo: self.echo };
        let mut answer = None;
        loop {
            let mut ready = Vec::new();
            match self.inbox.next(question, &mut ready) {
                Ok(Some(Event::Answer)) => {
                    self.judge(&ready, &request);
                    answer = Some(ready);
                }
                Ok(Some(_)) => assert!(ready.is_empty(), "something is ready that is no answer"),
                Ok(None) => return answer,
                Err(_) => {
                    assert!(self.kind == Kind::Stream, "only a numbered stream gets out of step");
                    self.new_inbox();
                    return answer;
                }
            }
        }
    }

    fn judge(&self, ready: &[u8], request: &[u8]) {
        let body = match self.kind {
            Kind::Rtu | Kind::Ascii => {
                let body = &ready[..ready.len() - 2];
                assert_eq!(ready, rtu(body), "a wrong CRC");
                body
            }
            Kind::Stream | Kind::Datagrams => {
                let body = &ready[6..];
                assert_eq!(ready, mbap(self.transaction, body), "a wrong header");
                body
            }
        };
        assert!(self.asked.is_answered_by(body), "{body:02X?} does not answer {:02X?}", self.asked.body);
        assert!(body[0] == self.asked.body[0] || self.answers_as == AnswersAs::Anyone, "another unit");
        let wire = self.framed(body, self.transaction);
        let same = |part: &[u8]| part.eq_ignore_ascii_case(&wire);
        let came = self.came.windows(wire.len()).any(same);
        // LF alone ends a frame too.
        let short = self.kind == Kind::Ascii && {
            let wire = [&wire[..wire.len() - 2], b"\n"].concat();
            self.came.windows(wire.len()).any(|part| part.eq_ignore_ascii_case(&wire))
        };
        assert!(came || short, "an answer that never came: {body:02X?}");
        assert!(self.echo == EchoRule::Answer || wire != *request, "an echo for an answer");
    }
}

/// One line, and what happens on it.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let kind = [Kind::Rtu, Kind::Ascii, Kind::Stream, Kind::Datagrams][usize::from(bytes.byte() % 4)];
    let rules = bytes.byte();
    let stats = Arc::new(BusStats::default());
    let mut line = Line {
        kind,
        transaction: bytes.word(),
        asked: Asked::of(&mut bytes),
        echo: if rules & 1 == 0 { EchoRule::Strip } else { EchoRule::Answer },
        answers_as: if rules & 2 == 0 { AnswersAs::Itself } else { AnswersAs::Anyone },
        inbox: Inbox::new(&BusLink::tcp("h"), Arc::clone(&stats)),
        stats,
        came: Vec::new(),
    };
    line.new_inbox();
    while !bytes.is_empty() {
        let what = bytes.byte();
        let fill = bytes.byte();
        let mut answer = line.asked.answer(fill, (what & 0x40 != 0).then_some(fill));
        match what & 0x07 {
            0 => drop(line.feed(bytes.take(usize::from(fill)))),
            1 => drop(line.feed(&line.framed(&answer, line.transaction))),
            2 => drop(line.feed(&line.framed(&line.asked.body.clone(), line.transaction))),
            3 => {
                let mut broken = line.framed(&answer, line.transaction);
                let bit = usize::from(bytes.word()) % (broken.len() * 8);
                broken[bit / 8] ^= 1 << (bit % 8);
                drop(line.feed(&broken));
            }
            4 => {
                answer[usize::from(what >> 4 & 1)] = bytes.byte();
                drop(line.feed(&line.framed(&answer, line.transaction)));
            }
            5 => drop(line.feed(&line.framed(&answer, bytes.word()))),
            6 => {
                let whole = line.framed(&answer, line.transaction);
                drop(line.feed(&whole[..usize::from(fill) % whole.len()]));
            }
            _ => sweep(&mut line, &answer),
        }
    }
    let answer = line.asked.answer(7, None);
    sweep(&mut line, &answer);
}

/// After a silence, or on a new connection, a right answer is one.
fn sweep(line: &mut Line, answer: &[u8]) {
    if line.inbox.discard().is_err() || line.inbox.held() > 0 {
        line.new_inbox(); // the rest of a torn frame is still to come: nobody can promise anything
    }
    line.came.clear();
    let wire = line.framed(answer, line.transaction);
    let is_echo = line.echo == EchoRule::Strip && wire == line.framed(&line.asked.body, line.transaction);
    let found = line.feed(&wire);
    assert_eq!(found.is_some(), !is_echo, "{answer:02X?} after a silence");
}
