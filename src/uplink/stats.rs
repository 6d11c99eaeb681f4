//! What one uplink counts; read by anyone, written by the uplink alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::ArcSwapOption;

use crate::model::stats::{Counter, Gauge};
use crate::model::time::Stamp;
use crate::road::meter::Meter;

/// Where an uplink stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum UplinkState {
    /// Trying, or waiting to try again.
    Connecting = 0,
    /// The broker has accepted us.
    Connected = 1,
    /// A file must be mended first.
    Disabled = 2,
    /// Ended.
    Stopped = 3,
}

impl UplinkState {
    /// The word on the status page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Disabled => "disabled",
            Self::Stopped => "stopped",
        }
    }
}

/// Counters of one uplink.
#[derive(Debug, Default)]
pub struct UplinkStats {
    phase: AtomicU8,
    /// 1 while connected, else 0.
    pub connected: Gauge,
    /// Sessions the broker accepted.
    pub sessions: Counter,
    /// Connects that failed and sessions that were lost.
    pub failures: Counter,
    /// Records and gap records published, repetitions included.
    pub published: Counter,
    /// Records and gap records acknowledged.
    pub acknowledged: Counter,
    /// Records that no broker would take (their topic is none), given up.
    pub unsendable: Counter,
    /// Messages in flight.
    pub in_flight: Gauge,
    /// Items the source still owes.
    pub backlog: Gauge,
    /// Commands from upstream, refused ones included.
    pub commands: Counter,
    /// Commands from upstream that were refused.
    pub commands_refused: Counter,
    /// Publishes that the subscription brought and that are no command for a tag of ours.
    pub commands_foreign: Counter,
    /// Commands from upstream dropped because too many came at once.
    pub commands_dropped: Counter,
    /// Answers to commands that found no session in time.
    pub replies_lost: Arc<Counter>,
    /// When the first of its certificates ends (own or CA), seconds since 1970; 0: there is none, or it is not known.
    pub certificate_ends: Gauge,
    last_error: ArcSwapOption<String>,
    last_acknowledged: ArcSwapOption<Stamp>,
    meter: Arc<Meter>,
}

impl UplinkStats {
    pub(super) fn new(meter: Arc<Meter>) -> Self {
        Self { meter, ..Self::default() }
    }

    /// Where it stands.
    pub fn standing(&self) -> UplinkState {
        match self.phase.load(Ordering::Relaxed) {
            1 => UplinkState::Connected,
            2 => UplinkState::Disabled,
            3 => UplinkState::Stopped,
            _ => UplinkState::Connecting,
        }
    }

    /// Bytes sent, TLS included.
    pub fn bytes_up(&self) -> u64 {
        self.meter.up.get()
    }

    /// Bytes received, TLS included.
    pub fn bytes_down(&self) -> u64 {
        self.meter.down.get()
    }

    /// Why the last attempt or session ended; `None` while connected.
    pub fn last_error(&self) -> Option<Arc<String>> {
        self.last_error.load_full()
    }

    /// When the broker last acknowledged a record or gap record.
    pub fn last_acknowledged(&self) -> Option<Stamp> {
        self.last_acknowledged.load_full().map(|at| *at)
    }

    pub(super) fn state(&self, phase: UplinkState) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.connected.set(u64::from(phase == UplinkState::Connected));
    }

    pub(super) fn accepted(&self) {
        self.state(UplinkState::Connected);
        self.sessions.one();
        self.last_error.store(None);
    }

    pub(super) fn failed(&self, reason: String) {
        self.state(UplinkState::Connecting);
        self.failures.one();
        self.last_error.store(Some(Arc::new(reason)));
    }

    pub(super) fn acknowledged_at(&self, at: Stamp, count: u64) {
        self.acknowledged.add(count);
        self.last_acknowledged.store(Some(Arc::new(at)));
    }
}
