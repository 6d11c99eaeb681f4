//! Questions and what came of them, out of recorded bytes.
//!
//! Fed with the events of a recording in their order. What is an answer is judged by the gateway's own gate
//! ([`crate::field::modbus::inbox`]), so that a recording is read exactly as the bus was. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::wires::link;
use crate::config::plan::{BusLink, Framing};
use crate::field::BusStats;
use crate::field::modbus::ascii::{self, Text};
use crate::field::modbus::frame::{EchoRule, Expect, MBAP_BYTES};
use crate::field::modbus::inbox::{Event as Heard, Inbox, Question};
use crate::recording::{By, Event, Line, What};

/// A question that stays without a next one for long holds up what came after it, but no more than this.
const WAITING_MAX: u64 = 10_000;

/// A question and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    /// When its first byte left, since the begin.
    pub at: Duration,
    /// Position of its line in the recording.
    pub line: u32,
    /// Which of the line's connections.
    pub connection: u32,
    /// Whom, and what; `None`: no whole request went out.
    pub asked: Option<Asked>,
    /// The bytes of the request.
    pub sent: Vec<u8>,
    /// What came in until the next question, times counted from the request's last byte.
    pub pieces: Vec<Piece>,
    /// What of it is the answer.
    pub found: Found,
    /// From the request's last byte to the answer's.
    pub answered_after: Option<Duration>,
    /// What else came.
    pub noise: Noise,
    /// The connection ended with it, and by whom; from the request's last byte.
    pub closed: Option<(Duration, By)>,
    /// Until the next question or the end of the connection, from the request's first byte.
    pub lasted: Duration,
    ended: Duration,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Unit id.
    pub unit: u8,
    /// Function and data.
    pub pdu: Vec<u8>,
    /// MBAP: its transaction id.
    pub number: u16,
}

/// Bytes that came in without a pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// From the request's last byte to its first.
    pub after: Duration,
    /// From its first byte to its last.
    pub took: Duration,
    /// They.
    pub bytes: Vec<u8>,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// An answer: function and data; an exception is one too.
    Answer(Vec<u8>),
    /// Nobody was expected to answer.
    Broadcast,
    /// A request that this program would not send, so it cannot tell what an answer is.
    NotJudged,
    /// Nothing came.
    Silence,
    /// Only the request's own bytes.
    Echo,
    /// Bytes that belong to no frame.
    Garbage,
    /// Frames of other units.
    Foreign,
    /// Frames that answer another question, or are of the wrong length.
    Stale,
    /// A frame that looks like the answer, with a wrong check sum.
    Broken,
    /// The right number, but no answer to the question.
    WrongShape,
    /// No Modbus at all on a numbered stream.
    OutOfStep,
}

/// Counted as the gateway counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noise {
    /// Wrong check sums.
    pub crc: u64,
    /// Frames that answer another question.
    pub stale: u64,
    /// Frames of other units.
    pub foreign: u64,
    /// Own requests that came back.
    pub echo: u64,
    /// Bytes of no frame.
    pub garbage: u64,
}

/// What is told of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A question and what came of it.
    Take(Box<Take>),
    /// Anything but the bytes of Modbus.
    Note(Event),
}

/// A line and its connection, each from 0.
type Key = (u32, u32);

/// One connection.
struct Connection {
    key: Key,
    framing: Framing,
    inbox: Inbox,
    stats: Arc<BusStats>,
    /// What the gate had counted when the question was asked.
    before: Noise,
    take: Option<Take>,
    expect: Option<Expect>,
    /// The last request whose echo could not be mistaken had one.
    echoes: bool,
}

/// The way from events to questions.
#[derive(Default)]
pub struct Takes {
    links: Vec<Option<BusLink>>,
    connections: BTreeMap<Key, Connection>,
    /// Known, but a question that was asked before may still get its answer.
    waiting: BTreeMap<(Duration, u64), Item>,
    numbered: u64,
}

impl Takes {
    /// One line more.
    pub fn line(&mut self, line: &Line) {
        self.links.push(link(line));
    }

    /// Takes an event; tells what is known by now, in the order of its time.
    pub fn push(&mut self, event: Event, tell: &mut dyn FnMut(Item)) {
        let key = (event.line, event.connection);
        let Some(link) = self.links.get(event.line as usize).and_then(Option::as_ref) else {
            return tell(Item::Note(event)); // no Modbus: bytes are bytes
        };
        match event.what {
            What::Sent { took, bytes } => {
                let connection = self.connections.entry(key).or_insert_with(|| Connection::new(key, link));
                let before = connection.settle(event.at, None);
                connection.ask(event.at, took, bytes);
                self.know(before.map(Item::take));
            }
            What::Received { took, bytes } => {
                if let Some(connection) = self.connections.get_mut(&key) {
                    connection.hear(event.at, took, bytes);
                }
            }
            What::Closed { by, .. } => {
                let connection = self.connections.remove(&key);
                let closed = (by != By::Us).then_some(by);
                let take = connection.and_then(|mut connection| connection.settle(event.at, closed));
                self.know(take.map(Item::take));
                self.know(Some(Item::Note(event)));
            }
            What::Opened | What::NotOpened(_) | What::Missed(_) => self.know(Some(Item::Note(event))),
        }
        let open = self.connections.values().filter_map(|connection| connection.take.as_ref()).map(|take| take.at);
        let before = open.min().unwrap_or(Duration::MAX);
        while let Some(first) = self.waiting.first_entry()
            && (first.key().0 < before || self.numbered - first.key().1 > WAITING_MAX)
        {
            tell(first.remove());
        }
    }

    fn know(&mut self, item: Option<Item>) {
        let Some(item) = item else { return };
        self.numbered += 1;
        self.waiting.insert((item.at(), self.numbered), item);
    }

    /// The recording is over.
    pub fn finish(mut self, tell: &mut dyn FnMut(Item)) {
        for mut connection in std::mem::take(&mut self.connections).into_values() {
            let last = connection.take.as_ref().map(Take::last);
            self.know(last.and_then(|last| connection.settle(last, None)).map(Item::take));
        }
        self.waiting.into_values().for_each(tell);
    }
}

impl Noise {
    fn of(stats: &BusStats) -> Self {
        Self {
            crc: stats.crc.get(),
            stale: stats.stale.get(),
            foreign: stats.foreign.get(),
            echo: stats.echo.get(),
            garbage: stats.garbage.get(),
        }
    }

    const fn since(self, before: Self) -> Self {
        Self {
            crc: self.crc - before.crc,
            stale: self.stale - before.stale,
            foreign: self.foreign - before.foreign,
            echo: self.echo - before.echo,
            garbage: self.garbage - before.garbage,
        }
    }
}

impl Item {
    /// Position of its line.
    pub fn line(&self) -> u32 {
        match self {
            Self::Take(take) => take.line,
            Self::Note(event) => event.line,
        }
    }

    /// When it was, or began.
    const fn at(&self) -> Duration {
        match self {
            Self::Take(take) => take.at,
            Self::Note(event) => event.at,
        }
    }

    fn take(take: Take) -> Self {
        Self::Take(Box::new(take))
    }
}

impl Take {
    /// When the last of it happened, since the begin.
    fn last(&self) -> Duration {
        self.pieces.last().map_or(self.ended, |piece| self.ended + piece.after + piece.took)
    }
}

impl Connection {
    fn new(key: Key, link: &BusLink) -> Self {
        let stats = Arc::<BusStats>::default();
        Self {
            key,
            framing: link.framing,
            inbox: Inbox::new(link, Arc::clone(&stats)),
            stats,
            before: Noise::default(),
            take: None,
            expect: None,
            echoes: false,
        }
    }

    fn ask(&mut self, at: Duration, took: Duration, sent: Vec<u8>) {
        let (framing, (line, connection)) = (self.framing, self.key);
        let asked = request(framing, &sent);
        self.expect = asked.as_ref().and_then(|asked| Expect::of_request(asked.unit, &asked.pdu));
        let found = match &asked {
            Some(asked) if asked.unit == 0 && !framing.is_numbered() => Found::Broadcast,
            Some(_) if self.expect.is_none() => Found::NotJudged,
            _ => Found::Silence,
        };
        if !framing.is_numbered() {
            let _ = self.inbox.discard(); // only a numbered stream can be out of step
        }
        self.before = Noise::of(&self.stats);
        self.take = Some(Take {
            at,
            line,
            connection,
            asked,
            sent,
            pieces: Vec::new(),
            found,
            answered_after: None,
            noise: Noise::default(),
            closed: None,
            lasted: Duration::ZERO,
            ended: at + took,
        });
    }

    fn hear(&mut self, at: Duration, took: Duration, bytes: Vec<u8>) {
        self.inbox.fill(&bytes);
        let Some(take) = &mut self.take else {
            let _ = self.inbox.discard();
            return;
        };
        let after = at.saturating_sub(take.ended);
        take.pieces.push(Piece { after, took, bytes });
        let (Some(expect), Some(asked)) = (self.expect.filter(|_| take.found != Found::Broadcast), &take.asked) else {
            return;
        };
        if matches!(take.found, Found::Answer(_)) {
            let _ = self.inbox.discard();
            return;
        }
        let mut ready = Vec::new();
        loop {
            let is_echo_known =
                !expect.answers_like_an_echo() || self.echoes && self.stats.echo.get() == self.before.echo;
            let echo = if is_echo_known { EchoRule::Strip } else { EchoRule::Answer };
            let question = Question { request: &take.sent, expect, transaction: asked.number, echo };
            match self.inbox.next(question, &mut ready) {
                Ok(None) => break,
                Ok(Some(Heard::Answer)) => {
                    take.found = Found::Answer(pdu_of(self.framing, &ready));
                    take.answered_after = Some(after + took);
                    if !expect.answers_like_an_echo() {
                        self.echoes = self.stats.echo.get() > self.before.echo;
                    }
                    let _ = self.inbox.discard();
                    break;
                }
                Ok(Some(Heard::WrongShape)) => take.found = Found::WrongShape,
                Ok(Some(_)) => {}
                Err(_) => {
                    take.found = Found::OutOfStep;
                    break;
                }
            }
        }
    }

    /// The question is over, and so may be the connection.
    fn settle(&mut self, at: Duration, closed: Option<By>) -> Option<Take> {
        let mut take = self.take.take()?;
        take.noise = Noise::of(&self.stats).since(self.before);
        if take.found == Found::Silence {
            let noise = take.noise;
            take.found = match () {
                () if noise.crc > 0 => Found::Broken,
                () if noise.stale > 0 => Found::Stale,
                () if noise.foreign > 0 => Found::Foreign,
                () if noise.echo > 0 => Found::Echo,
                () if !take.pieces.is_empty() => Found::Garbage,
                () => Found::Silence,
            };
        }
        take.closed = closed.map(|by| (at.saturating_sub(take.ended), by));
        take.lasted = at.saturating_sub(take.at);
        Some(take)
    }
}

/// Whom a request was for, and what it said.
fn request(framing: Framing, bytes: &[u8]) -> Option<Asked> {
    let asked = |body: &[u8], number| {
        let (unit, pdu) = body.split_first().filter(|(_, pdu)| !pdu.is_empty())?;
        Some(Asked { unit: *unit, pdu: pdu.to_vec(), number })
    };
    match framing {
        Framing::Mbap => asked(bytes.get(MBAP_BYTES - 1..)?, u16::from_be_bytes([bytes[0], bytes[1]])),
        Framing::Rtu | Framing::Line => asked(bytes.split_last_chunk::<2>()?.0, 0),
        Framing::Ascii => match ascii::first(bytes)? {
            Text::Frame(_, body) => asked(&body, 0),
            Text::Broken(_) => None,
        },
    }
}

/// Function and data of an answer, as the gate hands it over: MBAP, or RTU for both others.
fn pdu_of(framing: Framing, ready: &[u8]) -> Vec<u8> {
    let pdu = if framing.is_numbered() { ready.get(MBAP_BYTES..) } else { ready.get(1..ready.len().saturating_sub(2)) };
    pdu.unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests;
