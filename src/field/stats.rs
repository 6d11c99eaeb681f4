//! What a bus counts; the bus writes, anyone may read.
//!
//! Per-device counts are in the device reports; these are of the whole bus.

use crate::model::stats::{Counter, Gauge, Histogram};

/// What comes in besides answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noise {
    /// See [`BusStats::crc`].
    pub crc: u64,
    /// See [`BusStats::stale`].
    pub stale: u64,
    /// See [`BusStats::garbage`].
    pub garbage: u64,
    /// See [`BusStats::foreign`].
    pub foreign: u64,
}

impl Noise {
    /// What came since.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            crc: self.crc - before.crc,
            stale: self.stale - before.stale,
            garbage: self.garbage - before.garbage,
            foreign: self.foreign - before.foreign,
        }
    }
}

impl BusStats {
    /// What has come in besides answers so far.
    pub fn noise(&self) -> Noise {
        Noise { crc: self.crc.get(), stale: self.stale.get(), garbage: self.garbage.get(), foreign: self.foreign.get() }
    }
}

/// Counters of one connection of a bus since start.
#[derive(Debug, Default)]
pub struct BusStats {
    /// Requests that went out (or were about to when the connection broke).
    pub requests: Counter,
    /// Valid answers; exceptions are answers too.
    pub replies: Counter,
    /// Requests without an answer in time.
    pub timeouts: Counter,
    /// Answers that were exceptions.
    pub exceptions: Counter,
    /// Serial: frames that looked like the answer up to their CRC.
    pub crc: Counter,
    /// Whole frames that answer another question: late ones, wrong transaction ids, wrong lengths.
    pub stale: Counter,
    /// Bytes that belong to no frame.
    pub garbage: Counter,
    /// Our own requests, come back.
    pub echo: Counter,
    /// Whole frames of another unit.
    pub foreign: Counter,
    /// Connections or ports opened again: the old one was lost, or an answer was owed on it.
    pub reconnects: Counter,
    /// Missed periods of polls; they are skipped, never queued.
    pub polls_skipped: Counter,
    /// Requests to devices that are down, to see whether they are back.
    pub probes: Counter,
    /// Commands taken from the queue.
    pub commands: Counter,
    /// Time in transactions and the silences they need, microseconds.
    pub busy_micros: Counter,
    /// Panics that it was built anew after.
    pub restarts: Counter,
    /// Turns of the bus's loop: it stands still only when the bus is stuck, whatever the devices do.
    pub turns: Counter,
    /// Polls that were carried out, whatever came of them.
    pub polls: Counter,
    /// Values that were read while a reload took their tag away, or made it mean something else; they were dropped.
    pub overtaken: Counter,
    /// How long answers took, wire included; exceptions are answers too.
    pub response: Histogram,
    /// How much of its time was taken during the last ten seconds, percent.
    pub load_percent: Gauge,
    /// When the first of its certificates ends, seconds since 1970; 0: it has none, or nothing is known. Of several
    /// connections the first knows.
    pub certificate_ends: Gauge,
    /// 1 while what keeps it from connecting is on this box: a port that another program has, a certificate that cannot be
    /// used.
    pub ours: Gauge,
    /// 1 while there is a connection (or an open port), else 0.
    pub connected: Gauge,
}
