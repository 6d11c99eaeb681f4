//! How long things take on one bus: characters, the silence between frames, the time to wait for an answer. Pure.

use std::time::Duration;

use crate::config::blocks::{char_time, frame_pause, wire_time};
use crate::config::plan::{BusLink, BusPlan, Carrier, Framing};

/// A reply that takes longer than this much of its own wire time has not come: USB adapters and their buffers.
const ADAPTER_SLACK: Duration = Duration::from_millis(20);
/// A serial server sends on what came in pieces, over a network that may be a mobile one.
const NETWORK_SLACK: Duration = Duration::from_millis(200);
/// A network may deliver a datagram twice (RFC 8085, section 3.3), and without a number the second looks like the answer
/// to the next question: this long it is listened for.
const TWIN_PAUSE: Duration = Duration::from_millis(5);

/// How a Modbus PDU becomes a frame: [`Framing`] without what is no Modbus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModbusFraming {
    /// See [`Framing::Mbap`].
    Mbap,
    /// See [`Framing::Rtu`].
    Rtu,
    /// See [`Framing::Ascii`].
    Ascii,
}

impl ModbusFraming {
    /// See [`Framing::is_numbered`].
    pub const fn is_numbered(self) -> bool {
        matches!(self, Self::Mbap)
    }
}

impl From<Framing> for ModbusFraming {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Mbap => Self::Mbap,
            Framing::Ascii => Self::Ascii,
            // Instruments have a room of their own (`field::kind` chooses): their bus never comes here.
            Framing::Rtu | Framing::Line => Self::Rtu,
        }
    }
}

/// The times of one bus.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    link: BusLink,
    response_timeout: Duration,
    turnaround: Duration,
}

impl Timing {
    /// From the plan of the bus.
    pub fn new(bus: &BusPlan) -> Self {
        Self { link: bus.link.clone(), response_timeout: bus.response_timeout, turnaround: bus.habits.turnaround }
    }

    /// How the bus is reached, and what is spoken on it.
    pub const fn link(&self) -> &BusLink {
        &self.link
    }

    /// What a frame looks like.
    pub fn framing(&self) -> ModbusFraming {
        self.link.framing.into()
    }

    /// Do answers carry the number of their question? Otherwise only silence tells late ones from prompt ones.
    pub const fn is_numbered(&self) -> bool {
        self.link.framing.is_numbered()
    }

    /// How long to wait for an answer, as configured.
    pub const fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// How long to wait for the answer of a transaction of this many bytes: what is configured, but never less than the
    /// bytes themselves take on a slow line.
    pub fn wait(&self, bytes: u32) -> Duration {
        if self.link.line().is_none() {
            return self.response_timeout;
        }
        let wire = wire_time(&self.link, bytes);
        self.response_timeout.max(wire + wire / 4 + ADAPTER_SLACK)
    }

    /// How long a broadcast with this much data takes, and then is carried out by those who heard it.
    pub fn turnaround(&self, data: u32) -> Duration {
        let bytes = self.link.framing.transaction_bytes(data);
        self.turnaround + self.link.line().map_or(Duration::ZERO, |_| wire_time(&self.link, bytes))
    }

    /// The silence before every frame. On a line t3.5 (Modbus over Serial Line 1.02, section 2.5.1.1); on a network none,
    /// where nothing comes twice or twins are told apart.
    pub fn pause(&self) -> Duration {
        match (&self.link.carrier, self.link.line()) {
            (_, Some(line)) => frame_pause(line),
            (Carrier::Udp { .. }, None) if !self.is_numbered() => TWIN_PAUSE,
            _ => Duration::ZERO,
        }
    }

    /// How long the line has to be still before a torn frame is over.
    pub fn settle(&self) -> Duration {
        self.link.line().map_or(NETWORK_SLACK, |line| ADAPTER_SLACK + char_time(line) * 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{Parity, SerialPlan};

    #[test]
    fn a_slow_line_is_given_the_time_its_bytes_take() {
        let serial = SerialPlan { baud: 1200, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        let link = BusLink::rtu("/dev/ttyX", serial);
        let timing = Timing::new(&BusPlan::plain("line", link));
        assert_eq!(timing.wait(20), Duration::from_secs(1));
        assert!(timing.wait(263) > Duration::from_millis(2410), "263 characters of 9.2 ms");
        assert_eq!(timing.pause(), Duration::from_nanos(9_166_666 * 7 / 2));
    }
}
