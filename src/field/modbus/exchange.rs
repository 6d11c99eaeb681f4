//! The exchange under way on one wire: the request as it went out, what has come in since, and what of that is the answer.
//!
//! Owned by the gate, which is its only caller; judges with [`super::inbox`]. Promises: nothing but a whole valid answer
//! to the request under way is ever made ready; everything else is counted once and dropped.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::ascii;
use super::echo::{EchoHabit, Echoes};
use super::frame::{Expect, MBAP_BYTES, crc16};
use super::inbox::{Event, Inbox, OutOfStep, Question};
use super::timing::ModbusFraming;
use crate::config::plan::{AnswersAs, BusLink};
use crate::field::carrier::{Wire, hang_up};
use crate::field::stats::BusStats;

/// Why an exchange ended without an answer, as far as the wire or what came on it is the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireEnd {
    /// The wire says so, whatever its error is called: TLS has one word for all that can go wrong with it.
    #[error("the connection is gone")]
    Gone,
    /// A numbered stream that can be followed no more.
    #[error("no Modbus header where one should be")]
    OutOfStep,
    /// What came is no whole frame, and nothing more comes.
    #[error("a broken frame")]
    BrokenFrame,
    /// An answer that is none to this question.
    #[error("an answer of the wrong shape")]
    WrongShape,
    /// The question was not sent.
    #[error("an answer that is still to come could be taken for this one's")]
    Owing,
}

impl WireEnd {
    /// Is the wire of no use any more?
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Gone | Self::OutOfStep | Self::Owing)
    }
}

/// What came of a request that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abandoned {
    /// Something of the unit was heard, but no answer.
    pub heard: Heard,
    /// How much of the request went out.
    pub sent: Sent,
    /// When its last byte did.
    pub sent_at: Option<Instant>,
    /// Why it ended; `None`: nobody waited any longer.
    pub ended: Option<WireEnd>,
}

/// Whether a unit that gave no answer gave a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Broken frames, wrong lengths.
    Noise,
    /// Silence.
    Nothing,
}

/// How much of a request has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Not a byte.
    Nothing,
    /// Some of it: the stream is unusable.
    Part,
    /// All of it.
    All,
}

/// One wire and the one request on it.
pub struct Exchange {
    wire: Box<dyn Wire>,
    framing: ModbusFraming,
    settle: Duration,
    stats: Arc<BusStats>,
    /// Written by the crate, not yet begun.
    staged: Vec<u8>,
    /// The request as it goes on the wire.
    request: Vec<u8>,
    sent: usize,
    sent_at: Option<Instant>,
    expect: Option<Expect>,
    answers_as: AnswersAs,
    /// Of the request under way: the gate's own number, and the crate's.
    transaction: u16,
    crate_transaction: [u8; 2],
    inbox: Inbox,
    /// The answer, on its way to the crate.
    ready: Vec<u8>,
    taken: usize,
    echoes: Echoes,
    heard: Heard,
    /// Runs since a frame turned out broken: when the line stays still, there is no answer to wait for.
    broken: Option<Pin<Box<Sleep>>>,
    last_heard: Instant,
    ended: Option<WireEnd>,
}

impl Exchange {
    /// Nothing asked yet.
    pub fn new(wire: Box<dyn Wire>, link: &BusLink, settle: Duration, stats: Arc<BusStats>) -> Self {
        Self {
            wire,
            framing: link.framing.into(),
            settle,
            staged: Vec::new(),
            request: Vec::new(),
            sent: 0,
            sent_at: None,
            expect: None,
            answers_as: AnswersAs::Itself,
            // Another beginning on each connection: what is late from the one before must not fit.
            transaction: rand::random(),
            crate_transaction: [0; 2],
            inbox: Inbox::new(link, Arc::clone(&stats)),
            stats,
            ready: Vec::new(),
            taken: 0,
            echoes: Echoes::new(link.echo),
            heard: Heard::Nothing,
            broken: None,
            last_heard: Instant::now(),
            ended: None,
        }
    }

    /// When the last byte came.
    pub const fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Does the line echo?
    pub const fn echo_habit(&self) -> EchoHabit {
        self.echoes.habit()
    }

    /// Under which unit id the next answers may come.
    pub const fn expect_from(&mut self, answers_as: AnswersAs) {
        self.answers_as = answers_as;
    }

    /// Bytes of the next request, from the crate.
    pub fn stage(&mut self, bytes: &[u8]) {
        self.staged.extend_from_slice(bytes);
    }

    /// Gives the request up.
    pub fn abandon(&mut self) -> Abandoned {
        let sent = match (self.sent, self.request.len()) {
            (0, _) => Sent::Nothing,
            (sent, all) if sent < all => Sent::Part,
            _ => Sent::All,
        };
        if sent == Sent::All {
            self.echoes.learn(self.expect);
            // A broken frame was its answer, where nothing else can come.
            let was_answered = self.ended == Some(WireEnd::BrokenFrame) && self.inbox.owed.is_empty();
            if let Some(question) = self.expect.filter(|_| !was_answered) {
                self.inbox.owed.add(question);
            }
        }
        let abandoned = Abandoned { heard: self.heard, sent, sent_at: self.sent_at, ended: self.ended.take() };
        self.finish();
        self.staged.clear();
        self.ready.clear();
        abandoned
    }

    /// The wire is gone.
    fn gone(&mut self, error: io::Error) -> io::Error {
        self.ended = Some(WireEnd::Gone);
        error
    }

    /// What came is the reason.
    fn ends(&mut self, end: WireEnd) -> io::Error {
        self.ended = Some(end);
        io::Error::new(io::ErrorKind::InvalidData, end)
    }

    /// Takes what the crate wrote as the next request.
    fn begin(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.ended = None;
        while let Poll::Ready(more) = self.poll_discard(cx) {
            more?;
        }
        self.request.clear();
        self.request.append(&mut self.staged);
        let addressed = match self.framing {
            ModbusFraming::Mbap => self.request.get(MBAP_BYTES - 1..),
            ModbusFraming::Rtu | ModbusFraming::Ascii => self.request.split_last_chunk::<2>().map(|(body, _crc)| body),
        };
        let expect = addressed.and_then(<[u8]>::split_first).and_then(|(unit, pdu)| Expect::of_request(*unit, pdu));
        let Some(expect) = expect else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a request this gate can judge the answer of"));
        };
        let expect = expect.answering_as(self.answers_as);
        if self.inbox.owed.bars(expect) {
            return Err(self.ends(WireEnd::Owing));
        }
        match self.framing {
            ModbusFraming::Mbap => {
                self.transaction = self.transaction.wrapping_add(1);
                self.crate_transaction.copy_from_slice(&self.request[..2]);
                self.request[..2].copy_from_slice(&self.transaction.to_be_bytes());
            }
            ModbusFraming::Ascii => self.request = ascii::from_rtu(&self.request).unwrap_or_default(),
            ModbusFraming::Rtu => {}
        }
        self.ready.clear();
        self.taken = 0;
        (self.sent, self.sent_at, self.expect) = (0, None, Some(expect));
        (self.heard, self.broken) = (Heard::Nothing, None);
        self.echoes.begin();
        self.stats.requests.one();
        Ok(())
    }

    /// The request is over, one way or the other.
    fn finish(&mut self) {
        (self.expect, self.broken, self.sent) = (None, None, 0);
        self.request.clear();
        if !self.framing.is_numbered() {
            let _ = self.inbox.discard(); // only a numbered stream can be out of step
        }
    }

    /// Sends the staged request; what is pending before it is discarded.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.staged.is_empty() {
            self.begin(cx)?;
        }
        while self.sent < self.request.len() {
            match ready!(Pin::new(&mut self.wire).poll_write(cx, &self.request[self.sent..])) {
                Ok(0) => return Poll::Ready(Err(self.gone(io::ErrorKind::WriteZero.into()))),
                Ok(written) => self.sent += written,
                Err(error) => return Poll::Ready(Err(self.gone(error))),
            }
            self.sent_at = (self.sent == self.request.len()).then(Instant::now);
        }
        // For TLS. A socket has nothing to flush, and a serial port does not get to hear of it (see `serial`).
        let flushed = ready!(Pin::new(&mut self.wire).poll_flush(cx));
        Poll::Ready(flushed.map_err(|error| self.gone(error)))
    }

    /// Reads what is there into the inbox; the end of the stream is an error, never "try again".
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 512];
        let mut space = ReadBuf::new(&mut space);
        if let Err(error) = ready!(Pin::new(&mut self.wire).poll_read(cx, &mut space)) {
            return Poll::Ready(Err(self.gone(error)));
        }
        if space.filled().is_empty() {
            let closed = io::Error::new(io::ErrorKind::UnexpectedEof, "the other side closed the connection");
            return Poll::Ready(Err(self.gone(closed)));
        }
        self.inbox.fill(space.filled());
        self.last_heard = Instant::now();
        Poll::Ready(Ok(()))
    }

    /// Reads and drops what nobody is waiting for.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_fill(cx))?;
        Poll::Ready(self.inbox.discard().map_err(|OutOfStep| self.ends(WireEnd::OutOfStep)))
    }

    /// Hands the answer to the crate, once there is one.
    pub fn poll_answer(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.taken < self.ready.len() {
                let part = (self.ready.len() - self.taken).min(out.remaining());
                out.put_slice(&self.ready[self.taken..self.taken + part]);
                self.taken += part;
                return Poll::Ready(Ok(()));
            }
            if self.examine()? {
                continue;
            }
            match (self.poll_fill(cx), &mut self.broken) {
                (Poll::Ready(filled), broken) => {
                    filled?;
                    if let Some(broken) = broken {
                        broken.as_mut().reset(Instant::now() + self.settle);
                    }
                }
                (Poll::Pending, Some(broken)) => {
                    ready!(broken.as_mut().poll(cx));
                    return Poll::Ready(Err(self.ends(WireEnd::BrokenFrame)));
                }
                (Poll::Pending, None) => return Poll::Pending,
            }
        }
    }

    /// Looks for the answer in the inbox; `true` when it is ready for the crate.
    fn examine(&mut self) -> io::Result<bool> {
        let Some(expect) = self.expect else {
            return Ok(false);
        };
        loop {
            let (transaction, echo) = (self.transaction, self.echoes.rule(expect));
            let question = Question { request: &self.request, expect, transaction, echo };
            let event = self.inbox.next(question, &mut self.ready);
            match event.map_err(|OutOfStep| self.ends(WireEnd::OutOfStep))? {
                None => return Ok(false),
                Some(Event::Answer) => {
                    self.deliver();
                    return Ok(true);
                }
                Some(Event::Echo) => self.echoes.came(),
                Some(Event::Stale) if self.framing.is_numbered() => {} // to another question, of whatever unit
                Some(Event::Stale) => self.heard = Heard::Noise,
                Some(Event::Foreign) => {}
                Some(Event::Broken) => {
                    self.heard = Heard::Noise;
                    self.broken = Some(Box::pin(sleep(self.settle)));
                }
                Some(Event::WrongShape) => {
                    self.heard = Heard::Noise;
                    return Err(self.ends(WireEnd::WrongShape));
                }
            }
        }
    }

    /// The answer is in `ready`.
    fn deliver(&mut self) {
        if self.framing.is_numbered() {
            self.ready[..2].copy_from_slice(&self.crate_transaction);
        }
        if let Some(expect) = self.expect {
            self.sign(expect.unit());
        }
        self.echoes.learn(self.expect);
        self.finish();
    }

    /// Puts the unit that was asked into an answer that came under another id: the crate would refuse it.
    fn sign(&mut self, unit: u8) {
        let place = if self.framing.is_numbered() { MBAP_BYTES - 1 } else { 0 };
        match self.ready.get_mut(place) {
            Some(signed) if *signed != unit => *signed = unit,
            _ => return,
        }
        if !self.framing.is_numbered()
            && let Some((body, crc)) = self.ready.split_last_chunk_mut::<2>()
        {
            *crc = crc16(body).to_le_bytes();
        }
    }
}

/// What the other side has not sent yet it does not have to.
impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.inbox.owed.is_empty() {
            hang_up(&*self.wire);
        }
    }
}
