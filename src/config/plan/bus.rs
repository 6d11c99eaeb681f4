//! `[[bus]]` of the plan.

use std::path::PathBuf;
use std::time::Duration;

use super::habits::Habits;

/// `[[bus]]`
#[derive(Debug, Clone, PartialEq)]
pub struct BusPlan {
    /// Unique.
    pub name: String,
    /// How to reach it.
    pub link: BusLink,
    /// How long a device may take to answer, wire time included. 10 ms ..= 60 s; default 1 s.
    pub response_timeout: Duration,
    /// Pauses, connections, and what its devices are given.
    pub habits: Habits,
}

impl BusPlan {
    /// A bus that has every default.
    pub fn plain(name: &str, link: BusLink) -> Self {
        Self { name: name.to_owned(), link, response_timeout: Duration::from_secs(1), habits: Habits::default() }
    }
}

/// How a bus is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum BusLink {
    /// `modbus-tcp`: `host:port`, resolved at each connect.
    ModbusTcp {
        /// `host:port`
        endpoint: String,
    },
    /// `modbus-rtu`
    ModbusRtu {
        /// Device path, best below `/dev/serial/by-id/`.
        port: PathBuf,
        /// Line settings.
        serial: SerialPlan,
    },
}

/// `serial = "19200-8E1"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SerialPlan {
    /// Bits per second, 300 ..= 4 000 000.
    pub baud: u32,
    /// 7 or 8 (RTU: 8).
    pub data_bits: u8,
    /// Parity.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

impl SerialPlan {
    /// Bits of one character on the wire: start, data, parity, stop.
    pub const fn bits_per_char(self) -> u8 {
        1 + self.data_bits + if matches!(self.parity, Parity::None) { 0 } else { 1 } + self.stop_bits
    }
}

/// Parity of a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// N
    None,
    /// E
    Even,
    /// O
    Odd,
}
