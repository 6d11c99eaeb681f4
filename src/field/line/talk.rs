//! The wire of a line bus: opened, read frame by frame, asked one question at a time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::lines::{Framer, Heard};
use crate::config::plan::{FrameCut, LinePlan};
use crate::field::carrier::{Opener, Wire, hang_up};
use crate::field::connection::{Connection, Speaks};
use crate::field::stats::BusStats;

/// Bytes taken from the wire at a time.
const READ_BYTES: usize = 512;

/// Silence before a question: what the system still holds back of an older answer comes out in this time …
const SETTLE: Duration = Duration::from_millis(2);
/// … and the rest of a frame that has begun in this: adapters hand on bytes every 16 ms, and a byte at 300 baud takes 37.
const SETTLE_WITHIN: Duration = Duration::from_millis(60);
/// What comes sooner after opening may be the middle of a frame: the instrument did not wait for us, and a network takes
/// its time.
pub(super) const OPENED_WITHIN: Duration = Duration::from_millis(500);
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
    connection: Connection<Box<dyn Wire>>,
    framer: Framer,
    idle: Option<Duration>,
    last_byte: Instant,
    /// After opening nothing is asked for so long.
    listen_first: Duration,
    quiet_until: Instant,
    took: Option<Duration>,
    /// When it was opened; until the first byte.
    opened_at: Option<Instant>,
    stats: Arc<BusStats>,
}

impl Talk {
    /// Not yet open.
    pub(super) fn new(opener: Box<dyn Opener>, plan: &LinePlan, listen_first: Duration, stats: Arc<BusStats>) -> Self {
        let now = Instant::now();
        let idle = match plan.cut {
            FrameCut::Idle(idle) => Some(idle),
            FrameCut::Marks { .. } | FrameCut::Length { .. } => None,
        };
        Self {
            connection: Connection::new(opener, Arc::clone(&stats)),
            framer: Framer::new(plan),
            idle,
            last_byte: now,
            listen_first,
            quiet_until: now,
            opened_at: None,
            took: None,
            stats,
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.connection.is_open()
    }

    /// When the next attempt to open is due.
    pub(super) const fn retry_at(&self) -> Instant {
        self.connection.retry_at()
    }

    /// Until when nothing may be asked: what was asked before may still be answered.
    pub(super) const fn quiet_until(&self) -> Instant {
        self.quiet_until
    }

    /// Has this connection brought anything?
    pub(super) const fn was_proven(&self) -> bool {
        self.connection.was_proven()
    }

    /// Closes it; one that worked is opened again at once.
    pub(super) fn close(&mut self) {
        self.hang_up();
        self.connection.close();
        self.framer.clear();
    }

    /// Closes it because of what is still owed on it.
    pub(super) fn give_up(&mut self) {
        self.hang_up();
        self.connection.give_up();
        self.framer.clear();
    }

    fn hang_up(&self) {
        if let Some(wire) = self.connection.speaker() {
            hang_up(&**wire);
        }
    }

    /// From the last question to the end of its answer.
    pub(super) const fn took(&self) -> Option<Duration> {
        self.took
    }

    /// A frame of one of our devices came.
    pub(super) fn prove(&mut self) {
        self.connection.prove();
    }

    /// Has nobody answered for so long that another connection is worth a try?
    pub(super) fn is_mute(&self) -> bool {
        self.connection.is_mute()
    }

    /// Whole frames that come until then; returns with the first bytes, or at the time. Cancel-safe.
    pub(super) async fn hear(&mut self, until: Instant) -> io::Result<Vec<Vec<u8>>> {
        let silence = self.idle.filter(|_| self.framer.held() > 0).map(|idle| self.last_byte + idle);
        let wake = silence.map_or(until, |silence| silence.min(until));
        let mut buffer = [0; READ_BYTES];
        let wire = self.connection.speaker_mut()?;
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
        mut fits: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<T, NoAnswer> {
        self.drain(patience).await?;
        self.stats.requests.one();
        let wire = self.connection.speaker_mut()?;
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

impl Speaks for Talk {
    async fn begin(&mut self) -> io::Result<()> {
        self.framer.clear();
        self.connection.open(std::convert::identity).await?;
        let now = Instant::now();
        self.opened_at = Some(now);
        self.quiet_until = now + self.listen_first;
        Ok(())
    }

    fn untold_for(&self, response_timeout: Duration) -> Option<Duration> {
        self.connection.untold_for(response_timeout)
    }
}
