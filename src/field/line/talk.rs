//! The wire of a line bus: opened, read frame by frame, asked one question at a time, opened again with backoff.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::lines::{Framer, Heard};
use crate::config::plan::{FrameCut, LinePlan};
use crate::field::backoff::Backoff;
use crate::field::carrier::{Opener, Wire};
use crate::field::stats::BusStats;

/// Bytes taken from the wire at a time.
const READ_BYTES: usize = 512;
/// With nobody answering for this long a connection is opened anew, though it looks well.
const MUTE_MAX: Duration = Duration::from_secs(60);

/// Silence before a question: what the system still holds back of an older answer comes out in this time …
const SETTLE: Duration = Duration::from_millis(2);
/// … and the rest of a frame that has begun in this: adapters hand on bytes every 16 ms, and a byte at 300 baud takes 37.
const SETTLE_WITHIN: Duration = Duration::from_millis(60);
/// What comes sooner after opening may be the middle of a frame: the instrument did not wait for us, and a network takes
/// its time.
const OPENED_WITHIN: Duration = Duration::from_millis(500);
/// A frame does not pause for so long. What follows a half one may be its other half or the next one, so it is neither.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// Silence: count it against the device.
    #[error("no answer in time")]
    Timeout,
    /// Something came, but nothing that fits: count it against the device.
    #[error("no valid answer")]
    Protocol,
    /// Open it again.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
}

/// The wire and its frames.
pub(super) struct Talk {
    opener: Box<dyn Opener>,
    wire: Option<Box<dyn Wire>>,
    framer: Framer,
    idle: Option<Duration>,
    last_byte: Instant,
    last_answer: Instant,
    quiet_until: Instant,
    retry_at: Instant,
    backoff: Backoff,
    proven: bool,
    opened_before: bool,
    took: Option<Duration>,
    /// When it was opened; until the first byte.
    opened_at: Option<Instant>,
    stats: Arc<BusStats>,
}

impl Talk {
    /// Not yet open.
    pub(super) fn new(opener: Box<dyn Opener>, plan: &LinePlan, stats: Arc<BusStats>) -> Self {
        let now = Instant::now();
        let idle = match plan.cut {
            FrameCut::Idle(idle) => Some(idle),
            FrameCut::Marks { .. } | FrameCut::Length { .. } => None,
        };
        Self {
            opener,
            wire: None,
            framer: Framer::new(plan),
            idle,
            last_byte: now,
            last_answer: now,
            quiet_until: now,
            retry_at: now,
            backoff: Backoff::default(),
            proven: false,
            opened_before: false,
            opened_at: None,
            took: None,
            stats,
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.wire.is_some()
    }

    /// When the next attempt to open is due.
    pub(super) const fn retry_at(&self) -> Instant {
        self.retry_at
    }

    /// Until when nothing may be asked: what was asked before may still be answered.
    pub(super) const fn quiet_until(&self) -> Instant {
        self.quiet_until
    }

    /// Has this connection brought anything?
    pub(super) const fn was_proven(&self) -> bool {
        self.proven
    }

    /// Opens it; an error sets the time of the next attempt. Cancel-safe.
    pub(super) async fn open(&mut self, listen_first: Duration) -> io::Result<()> {
        self.framer.clear();
        self.proven = false;
        match self.opener.open().await {
            Ok(wire) => {
                self.wire = Some(wire);
                if std::mem::replace(&mut self.opened_before, true) {
                    self.stats.reconnects.one();
                }
                self.stats.connected.set(1);
                let now = Instant::now();
                self.opened_at = Some(now);
                (self.last_answer, self.quiet_until) = (now, now + listen_first);
                Ok(())
            }
            Err(error) => {
                self.retry_at = Instant::now() + self.backoff.next(rand::random());
                Err(error)
            }
        }
    }

    /// Closes it; one that worked is opened again at once.
    pub(super) fn close(&mut self) {
        self.wire = None;
        self.framer.clear();
        self.stats.connected.set(0);
        let wait = if self.proven { Duration::ZERO } else { self.backoff.next(rand::random()) };
        self.retry_at = Instant::now() + wait;
    }

    /// From the last question to the end of its answer.
    pub(super) const fn took(&self) -> Option<Duration> {
        self.took
    }

    /// A frame of one of our devices came.
    pub(super) fn prove(&mut self) {
        self.proven = true;
        self.last_answer = Instant::now();
        self.backoff.reset();
    }

    /// Has nobody answered for so long that another connection is worth a try?
    pub(super) fn is_mute(&self) -> bool {
        self.wire.is_some() && self.last_answer.elapsed() > MUTE_MAX
    }

    /// Whole frames that come until then; returns with the first bytes, or at the time. Cancel-safe.
    pub(super) async fn hear(&mut self, until: Instant) -> io::Result<Vec<Vec<u8>>> {
        let silence = self.idle.filter(|_| self.framer.held() > 0).map(|idle| self.last_byte + idle);
        let wake = silence.map_or(until, |silence| silence.min(until));
        let mut buffer = [0; READ_BYTES];
        let wire = self.wire.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let count = tokio::select! {
            biased;
            read = wire.read(&mut buffer) => Some(read?),
            () = sleep_until(wake) => None,
        };
        let heard: Vec<Heard> = match count {
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(count) => {
                self.begin();
                self.framer.push(&buffer[..count]).collect()
            }
            None if silence.is_some_and(|silence| silence <= wake) => self.framer.silence().into_iter().collect(),
            None => Vec::new(),
        };
        Ok(heard.into_iter().filter_map(|heard| self.count(heard)).collect())
    }

    /// Bytes have come: are they the beginning of something?
    fn begin(&mut self) {
        let now = Instant::now();
        let held = self.framer.held();
        if self.opened_at.take().is_some_and(|opened| now - opened < OPENED_WITHIN) {
            self.framer.lose();
        } else if held > 0 && self.idle.is_none() && now - self.last_byte > PAUSE_MAX {
            self.stats.garbage.add(u64::try_from(held).unwrap_or(u64::MAX));
            // Line ends in another form than expected, and what a transmitter makes of being switched, begin no frame.
            if self.framer.holds_text() { self.framer.lose() } else { self.framer.clear() }
        }
        self.last_byte = now;
    }

    fn count(&self, heard: Heard) -> Option<Vec<u8>> {
        match heard {
            Heard::Frame(frame) => return Some(frame),
            Heard::Damaged => self.stats.crc.one(),
            Heard::Noise(bytes) => self.stats.garbage.add(u64::try_from(bytes).unwrap_or(u64::MAX)),
        }
        None
    }

    /// Asks, and waits for the first frame that fits. What came before the question is no answer to it. Not cancel-safe.
    pub(super) async fn ask<T>(
        &mut self,
        question: &[u8],
        patience: Duration,
        fits: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, NoAnswer> {
        self.drain(patience).await?;
        self.stats.requests.one();
        let wire = self.wire.as_mut().ok_or(io::ErrorKind::NotConnected).map_err(io::Error::from)?;
        let sent = timeout(patience, async {
            wire.write_all(question).await?;
            wire.flush().await
        });
        sent.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the request could not be sent"))??;
        let asked = Instant::now();
        let deadline = asked + patience;
        let troubles = || (self.stats.crc.get(), self.stats.garbage.get(), self.stats.foreign.get());
        let before = troubles();
        loop {
            for frame in self.hear(deadline).await? {
                if let Some(answer) = fits(&frame) {
                    self.stats.replies.one();
                    self.prove();
                    self.took = Some(asked.elapsed());
                    return Ok(answer);
                }
                self.stats.foreign.one();
            }
            let now = Instant::now();
            if now >= deadline {
                self.framer.clear();
                self.quiet_until = now + patience;
                self.stats.timeouts.one();
                let after = (self.stats.crc.get(), self.stats.garbage.get(), self.stats.foreign.get());
                return Err(if after == before { NoAnswer::Timeout } else { NoAnswer::Protocol });
            }
        }
    }

    /// Takes what has come already, half frames too; for a line that never stops talking not for longer than this.
    async fn drain(&mut self, at_most: Duration) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            let last = self.last_byte;
            let settled = if self.framer.held() > 0 { last + SETTLE_WITHIN } else { last };
            let stale = self.hear(settled.max(Instant::now() + SETTLE)).await?.len();
            self.stats.stale.add(u64::try_from(stale).unwrap_or(u64::MAX));
            if self.last_byte == last {
                self.framer.clear();
                return Ok(());
            }
            if begun.elapsed() >= at_most {
                self.framer.lose();
                return Ok(());
            }
        }
    }
}
