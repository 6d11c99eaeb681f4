//! The gate: `AsyncRead + AsyncWrite` between tokio-modbus and the wire, and the only way through.
//!
//! On write: drains and discards what is pending, remembers what the answer must look like, sends from a buffer of its
//! own, never calls tcdrain. On read: hunts for the answer (see [`super::frame`]) and hands over only whole valid
//! frames; what else comes is counted and dropped. Transaction ids are the gate's own: the crate begins again at 0 with
//! each new context, and a late answer to an old question must not fit a new one.
//!
//! Clones share one wire, so that a context can be dropped after an error without dropping the connection. One
//! transaction at a time; the session sees to that.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use super::frame::{EchoRule, Expect, Found, MBAP_BYTES, Mbap, hunt, next_mbap, whole_reply};
use super::timing::Framing;
use super::transport::Wire;
use crate::field::stats::BusStats;

/// Most bytes kept while looking for an answer: four of the longest frames. More is a line that babbles.
const INBOX_BYTES_MAX: usize = 1024;
/// After this many answers without an echo a line that echoed is taken to have stopped.
const CLEAN_ANSWERS: u8 = 3;

/// What is known about the line's habit of sending our own bytes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoHabit {
    /// No request has shown it yet.
    Unknown,
    /// It does not.
    Absent,
    /// It does, or did within the last few answers.
    Present {
        /// Answers since then without one.
        clean: u8,
    },
}

/// What came of a request that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abandoned {
    /// Something of the unit was heard, but no answer.
    pub heard: Heard,
    /// How much of the request went out.
    pub sent: Sent,
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

/// A handle to the gate of one connection.
#[derive(Clone)]
pub struct Gate {
    core: Arc<Mutex<Core>>,
}

struct Core {
    wire: Box<dyn Wire>,
    framing: Framing,
    settle: Duration,
    stats: Arc<BusStats>,
    /// Written by the crate, not yet begun.
    staged: Vec<u8>,
    /// The request as it goes on the wire.
    request: Vec<u8>,
    sent: usize,
    expect: Option<Expect>,
    /// Of the request under way: the gate's own number, and the crate's.
    transaction: u16,
    crate_transaction: [u8; 2],
    inbox: Vec<u8>,
    /// The answer, on its way to the crate.
    ready: Vec<u8>,
    taken: usize,
    echo: EchoHabit,
    echo_seen: bool,
    heard: Heard,
    /// Runs since a frame turned out broken: when the line stays still, there is no answer to wait for.
    broken: Option<Pin<Box<Sleep>>>,
    last_heard: Instant,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate over a connection or an open port. `settle`: how long a serial line must be still after a broken frame.
    pub fn new(wire: Box<dyn Wire>, framing: Framing, settle: Duration, stats: Arc<BusStats>) -> Self {
        let core = Core {
            wire,
            framing,
            settle,
            stats,
            staged: Vec::new(),
            request: Vec::new(),
            sent: 0,
            expect: None,
            transaction: 0,
            crate_transaction: [0; 2],
            inbox: Vec::new(),
            ready: Vec::new(),
            taken: 0,
            echo: EchoHabit::Unknown,
            echo_seen: false,
            heard: Heard::Nothing,
            broken: None,
            last_heard: Instant::now(),
        };
        Self { core: Arc::new(Mutex::new(core)) }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the request up after a timeout or an error. Drop the context too.
    pub fn abandon(&self) -> Abandoned {
        let mut core = self.core();
        let sent = match (core.sent, core.request.len()) {
            (0, _) => Sent::Nothing,
            (sent, all) if sent < all => Sent::Part,
            _ => Sent::All,
        };
        if sent == Sent::All && core.expect.is_some() {
            core.learn_echo();
        }
        let abandoned = Abandoned { heard: core.heard, sent };
        core.finish();
        core.staged.clear();
        core.ready.clear();
        abandoned
    }

    /// Listens until the deadline and discards what comes; an error means that the connection is gone. Cancel-safe.
    pub async fn overhear_until(&self, deadline: Instant) -> io::Result<()> {
        while let Ok(more) = timeout_at(deadline, poll_fn(|cx| self.core().poll_discard(cx))).await {
            more?;
        }
        Ok(())
    }

    /// When the last byte came.
    pub fn last_heard(&self) -> Instant {
        self.core().last_heard
    }

    /// Does the line echo?
    pub fn echo_habit(&self) -> EchoHabit {
        self.core().echo
    }
}

impl Core {
    /// Takes what the crate wrote as the next request.
    fn begin(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while let Poll::Ready(more) = self.poll_discard(cx) {
            more?;
        }
        self.request.clear();
        self.request.append(&mut self.staged);
        let expect = match self.framing {
            Framing::Rtu => self.request.split_last_chunk::<2>().and_then(|(body, _crc)| {
                let (unit, pdu) = body.split_first()?;
                Expect::of_request(*unit, pdu)
            }),
            Framing::Tcp => self.request.get(MBAP_BYTES - 1..).and_then(|tail| {
                let (unit, pdu) = tail.split_first()?;
                Expect::of_request(*unit, pdu)
            }),
        };
        let Some(expect) = expect else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a request this gate can judge the answer of"));
        };
        if self.framing == Framing::Tcp {
            self.transaction = self.transaction.wrapping_add(1);
            self.crate_transaction.copy_from_slice(&self.request[..2]);
            self.request[..2].copy_from_slice(&self.transaction.to_be_bytes());
        }
        (self.sent, self.expect) = (0, Some(expect));
        (self.echo_seen, self.heard, self.broken) = (false, Heard::Nothing, None);
        self.stats.requests.one();
        Ok(())
    }

    /// The request is over, one way or the other.
    fn finish(&mut self) {
        (self.expect, self.broken, self.sent) = (None, None, 0);
        self.request.clear();
        if self.framing == Framing::Rtu {
            self.discard_inbox();
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.staged.is_empty() {
            self.begin(cx)?;
        }
        while self.sent < self.request.len() {
            match ready!(Pin::new(&mut self.wire).poll_write(cx, &self.request[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        // No flush: a TCP socket has none, and that of a serial port is tcdrain, which blocks the thread.
        Poll::Ready(Ok(()))
    }

    /// Reads what is there into the inbox; the end of the stream is an error, never "try again".
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 512];
        let mut space = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.wire).poll_read(cx, &mut space))?;
        if space.filled().is_empty() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the other side closed the connection",
            )));
        }
        self.inbox.extend_from_slice(space.filled());
        self.last_heard = Instant::now();
        Poll::Ready(Ok(()))
    }

    /// Reads and drops what nobody is waiting for.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_fill(cx))?;
        match self.framing {
            Framing::Rtu => self.discard_inbox(),
            // Frames only, so that the stream stays in step; the rest of a torn one is still to come.
            Framing::Tcp => drop(self.examine_tcp()?),
        }
        Poll::Ready(Ok(()))
    }

    fn discard_inbox(&mut self) {
        let mut at = 0;
        while at < self.inbox.len() {
            match whole_reply(&self.inbox[at..]) {
                Some(length) => {
                    self.stats.stale.one();
                    at += length;
                }
                None => {
                    self.stats.garbage.one();
                    at += 1;
                }
            }
        }
        self.inbox.clear();
    }

    /// Looks for the answer in the inbox; `true` when it is ready for the crate.
    fn examine(&mut self) -> io::Result<bool> {
        match self.framing {
            Framing::Rtu => Ok(self.examine_rtu()),
            Framing::Tcp => self.examine_tcp(),
        }
    }

    fn examine_rtu(&mut self) -> bool {
        let Some(expect) = self.expect else {
            return false;
        };
        while let Some(found) = hunt(&self.inbox, &self.request, expect, self.echo_rule(expect)) {
            let (count, range) = match found {
                Found::Answer(range) => {
                    self.stats.garbage.add(range.start as u64);
                    self.deliver(range.start, range.end);
                    return true;
                }
                Found::Echo(range) => {
                    self.echo_seen = true;
                    (&self.stats.echo, range)
                }
                Found::Stale(range) => {
                    self.heard = Heard::Noise;
                    (&self.stats.stale, range)
                }
                Found::Foreign(range) => (&self.stats.foreign, range),
                Found::Broken(range) => {
                    self.heard = Heard::Noise;
                    self.broken = Some(Box::pin(sleep(self.settle)));
                    (&self.stats.crc, range.start..range.start + 1)
                }
            };
            count.one();
            self.stats.garbage.add(range.start as u64);
            self.inbox.drain(..range.end);
        }
        if self.inbox.len() > INBOX_BYTES_MAX {
            self.stats.garbage.add(self.inbox.len() as u64 / 2);
            self.inbox.drain(..self.inbox.len() / 2);
        }
        false
    }

    fn examine_tcp(&mut self) -> io::Result<bool> {
        loop {
            let (transaction, unit, length) = match next_mbap(&self.inbox) {
                Mbap::Incomplete => return Ok(false),
                Mbap::OutOfStep => {
                    self.stats.garbage.add(self.inbox.len() as u64);
                    self.inbox.clear();
                    return Err(io::Error::new(io::ErrorKind::InvalidData, OUT_OF_STEP));
                }
                Mbap::Whole { transaction, unit, length } => (transaction, unit, length),
            };
            let ours = self.expect.filter(|_| transaction == self.transaction);
            let count = match ours {
                None => &self.stats.stale,
                Some(expect)
                    if self.inbox[..length] == self.request[..] && self.echo_rule(expect) == EchoRule::Strip =>
                {
                    self.echo_seen = true;
                    &self.stats.echo
                }
                Some(expect) if unit != expect.unit() => &self.stats.foreign,
                Some(expect) if expect.accepts(&self.inbox[MBAP_BYTES..length]) => {
                    self.inbox[..2].copy_from_slice(&self.crate_transaction);
                    self.deliver(0, length);
                    return Ok(true);
                }
                Some(_) => {
                    self.stats.garbage.add(length as u64);
                    self.inbox.drain(..length);
                    self.heard = Heard::Noise;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer of the wrong shape"));
                }
            };
            count.one();
            self.inbox.drain(..length);
        }
    }

    fn deliver(&mut self, start: usize, end: usize) {
        self.ready.clear();
        self.ready.extend_from_slice(&self.inbox[start..end]);
        self.taken = 0;
        self.inbox.drain(..end);
        self.learn_echo();
        self.stats.replies.one();
        self.finish();
    }

    /// FC 5 and 6 are answered with the request's own bytes: only the habit of the line tells the two apart.
    fn echo_rule(&self, expect: Expect) -> EchoRule {
        let strip = match self.echo {
            _ if !expect.answers_like_an_echo() => true,
            EchoHabit::Present { .. } => !self.echo_seen,
            EchoHabit::Unknown | EchoHabit::Absent => false,
        };
        if strip { EchoRule::Strip } else { EchoRule::Answer }
    }

    /// Learns from a request whose echo cannot be mistaken.
    fn learn_echo(&mut self) {
        if self.expect.is_none_or(|expect| expect.answers_like_an_echo()) {
            return;
        }
        self.echo = match self.echo {
            _ if self.echo_seen => EchoHabit::Present { clean: 0 },
            EchoHabit::Present { clean } if clean + 1 < CLEAN_ANSWERS => EchoHabit::Present { clean: clean + 1 },
            _ => EchoHabit::Absent,
        };
    }
}

/// The text of the one error after which a TCP connection cannot be used again.
pub const OUT_OF_STEP: &str = "no Modbus header where one should be";

impl AsyncRead for Gate {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let core = &mut *self.core();
        loop {
            if core.taken < core.ready.len() {
                let part = (core.ready.len() - core.taken).min(out.remaining());
                out.put_slice(&core.ready[core.taken..core.taken + part]);
                core.taken += part;
                return Poll::Ready(Ok(()));
            }
            if core.examine()? {
                continue;
            }
            match core.poll_fill(cx) {
                Poll::Ready(filled) => {
                    filled?;
                    if let Some(broken) = &mut core.broken {
                        broken.as_mut().reset(Instant::now() + core.settle);
                    }
                }
                Poll::Pending => {
                    if let Some(broken) = &mut core.broken {
                        ready!(broken.as_mut().poll(cx));
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a broken frame")));
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl AsyncWrite for Gate {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.core().staged.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.core().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.core().wire).poll_shutdown(cx)
    }
}
