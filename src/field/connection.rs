//! The connection of a bus, whatever is spoken on it: opened, proven by an answer, lost, and opened again.
//!
//! Fed by who speaks on it: the [`super::driver`], or the talk of a line bus. Promises: what is open is closed before it is
//! opened again; a connection that brought an answer is opened again at once, any other after a wait that grows; closing
//! one that nothing is due on is no loss, and opening it again is none that was made good; giving one up for the answers that
//! are still owed on it is told to nobody, unless there is no other.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::{Backoff, reopening};
use super::carrier::{Opener, Wire};
use super::stats::BusStats;

/// With nobody answering for this long a connection is opened anew, though it looks well.
const MUTE_MAX: Duration = Duration::from_secs(60);

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resting {
    /// Nothing is due.
    Yes,
    /// It could not be opened, or was lost.
    No,
}

/// What speaks on a connection, and opens it.
pub(super) trait Speaks: Send {
    /// Opens it; an error sets the time of the next attempt. Cancel-safe.
    fn begin(&mut self) -> impl Future<Output = io::Result<()>> + Send;

    /// See [`Connection::untold_for`].
    fn untold_for(&self, response_timeout: Duration) -> Option<Duration>;
}

/// A `T` speaks on it while it is open.
pub(super) struct Connection<T> {
    opener: Box<dyn Opener>,
    open: Option<T>,
    /// The present one has brought at least one answer.
    proven: bool,
    /// See [`Self::give_up`]; until the next is to be opened.
    given_up: bool,
    opened_before: bool,
    resting: Resting,
    number: u64,
    retry_at: Instant,
    /// Of anybody, or when it was opened.
    last_answer: Instant,
    backoff: Backoff,
    stats: Arc<BusStats>,
}

impl<T> Connection<T> {
    /// Not yet open.
    pub(super) fn new(opener: Box<dyn Opener>, stats: Arc<BusStats>) -> Self {
        let now = Instant::now();
        Self {
            opener,
            open: None,
            proven: false,
            given_up: false,
            opened_before: false,
            resting: Resting::No,
            number: 0,
            retry_at: now,
            last_answer: now,
            backoff: Backoff::default(),
            stats,
        }
    }

    /// Opens it; an error sets the time of the next attempt. `speak`: what begins on the wire. Cancel-safe.
    pub(super) async fn open(&mut self, speak: impl FnOnce(Box<dyn Wire>) -> T) -> io::Result<()> {
        self.open = None;
        let rested = std::mem::replace(&mut self.resting, Resting::No) == Resting::Yes;
        self.given_up = false;
        self.proven &= rested; // a connection that we closed ourselves is no loss, nor is the next one on trial
        match self.opener.open().await {
            Ok(wire) => {
                self.open = Some(speak(wire));
                if std::mem::replace(&mut self.opened_before, true) && !rested {
                    self.stats.reconnects.one();
                }
                self.number += u64::from(!rested);
                self.stats.connected.set(1);
                self.last_answer = Instant::now();
                Ok(())
            }
            Err(error) => {
                self.retry_at = Instant::now() + self.backoff.next(rand::random());
                Err(error)
            }
        }
    }

    /// Lost, or given up: a port must be closed before it can be opened again.
    pub(super) fn close(&mut self) {
        self.open = None;
        self.stats.connected.set(0);
        let wait = if self.proven { Duration::ZERO } else { self.backoff.next(rand::random()) };
        self.retry_at = Instant::now() + wait;
    }

    /// Closes it, though it is open, because of what is still owed on it: the next one begins without. Of one that brought no
    /// answer the wait begins when it was opened, so that one device which never answers has its probes at their time.
    pub(super) fn give_up(&mut self) {
        let since = if self.proven { Duration::ZERO } else { self.last_answer.elapsed() };
        self.close();
        self.retry_at -= since;
        self.given_up = true;
    }

    /// Closes it while nothing is due.
    pub(super) fn rest(&mut self) {
        self.open = None;
        self.resting = Resting::Yes;
        self.retry_at = Instant::now();
    }

    /// Somebody answered.
    pub(super) fn prove(&mut self) {
        self.proven = true;
        self.last_answer = Instant::now();
        self.backoff.reset();
        self.opener.answered();
    }

    /// Who speaks on it; `None`: it is closed.
    pub(super) const fn speaker(&self) -> Option<&T> {
        self.open.as_ref()
    }

    /// The same, to speak.
    pub(super) fn speaker_mut(&mut self) -> io::Result<&mut T> {
        self.open.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Is there one?
    pub(super) const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Is it closed until something is due?
    pub(super) fn is_resting(&self) -> bool {
        self.resting == Resting::Yes
    }

    /// Has the present one, or the one just lost, brought an answer, or was it given up, with nothing wrong?
    pub(super) const fn was_proven(&self) -> bool {
        self.proven || self.given_up
    }

    /// See [`Self::give_up`].
    pub(super) const fn is_given_up(&self) -> bool {
        self.given_up
    }

    /// Nobody has answered for long: a server or an adapter may be stuck with this one, so try another.
    pub(super) fn is_mute(&self) -> bool {
        self.is_open() && self.last_answer.elapsed() > MUTE_MAX
    }

    /// When the next attempt to open is due.
    pub(super) const fn retry_at(&self) -> Instant {
        self.retry_at
    }

    /// Another for each one; one that only rested goes on under its number.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// See [`reopening`]; `None`: it is no loss of one that worked, and whatever opening brings is told.
    pub(super) fn untold_for(&self, response_timeout: Duration) -> Option<Duration> {
        (self.was_proven() && !self.is_resting()).then(|| reopening(response_timeout))
    }
}
