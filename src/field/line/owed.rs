//! Questions of a line bus whose answers may still come, because a network holds them back: what `modbus::owed` is to Modbus.
//!
//! A connection keeps order, and a serial server serves its line one byte after the other: any answer to a later question
//! says that the older ones are over. Here it takes a pattern to tell whose an answer is, and two may fit the same frame.

use super::bus::Partner;
use crate::config::plan::{Carrier, LineMode};
use crate::field::devices::Seat;

/// What is owed on the present connection, the oldest first.
pub(super) struct Owed {
    is_kept: bool,
    by: Vec<Seat>,
}

impl Owed {
    /// Nothing yet. On a serial port nothing ever is: what is late there is over soon.
    pub(super) const fn new(carrier: &Carrier, mode: LineMode) -> Self {
        Self { is_kept: matches!(mode, LineMode::Poll) && !matches!(carrier, Carrier::Serial(_)), by: Vec::new() }
    }

    /// It was asked, and has not answered.
    pub(super) fn add(&mut self, seat: Seat) {
        if self.is_kept {
            self.by.push(seat);
        }
    }

    /// Everything is over: an answer came that is nobody else's, or there is another connection.
    pub(super) fn clear(&mut self) {
        self.by.clear();
    }

    /// A frame came. True: it may be what one of them owes; that one and what was asked before are over, whosever it is.
    pub(super) fn heard(&mut self, frame: &[u8], partners: &[Partner]) -> bool {
        let first = self.by.iter().position(|seat| partners[seat.0].reader.read(frame).is_some());
        first.is_some_and(|at| self.by.drain(..=at).count() > 0)
    }

    /// Would any answer of this device be like one that is owed?
    pub(super) fn bars(&self, seat: Seat, partners: &[Partner]) -> bool {
        self.by.iter().any(|owed| partners[owed.0].reader.speaks_like(&partners[seat.0].reader))
    }
}
