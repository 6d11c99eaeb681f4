//! Notices: what a room wants the operator to know. The app turns each into a stored event on
//! `ironbridge/<gateway>/event` and a log line. Bounded; a notice that finds the queue full is counted, never waited for.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::model::stats::Counter;

/// Notices that may wait for the app.
pub const NOTICES_WAITING_MAX: usize = 256;

/// Whether a condition begins, ends or is a single happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It holds from now on.
    Active,
    /// It is over.
    Cleared,
    /// It happened.
    Once,
}

impl Phase {
    /// The `"state"` of the event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Cleared => "cleared",
            Self::Once => "once",
        }
    }
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Snake-case name, such as `uplink_disabled` or `store_damaged`.
    pub event: &'static str,
    /// Begin, end or happening.
    pub phase: Phase,
    /// What it is about, such as the name of the uplink.
    pub subject: String,
    /// One sentence for a person; no secrets.
    pub detail: String,
}

/// Where notices are handed in; cheap to clone.
#[derive(Debug, Clone)]
pub struct Notices {
    queue: mpsc::Sender<Notice>,
    dropped: Arc<Counter>,
}

/// Makes the queue.
pub fn notices() -> (Notices, mpsc::Receiver<Notice>) {
    let (queue, taken) = mpsc::channel(NOTICES_WAITING_MAX);
    (Notices { queue, dropped: Arc::default() }, taken)
}

impl Notices {
    /// Hands one in; never waits.
    pub fn tell(&self, notice: Notice) {
        if self.queue.try_send(notice).is_err() {
            self.dropped.one();
        }
    }

    /// Notices that found the queue full or closed.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}
