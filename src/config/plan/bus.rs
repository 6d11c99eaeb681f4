//! `[[bus]]` of the plan: what is spoken (`framing`) and what carries it (`carrier`), each without the other.
//!
//! Whoever needs to know something about a bus asks a method here instead of matching on the types of a configuration:
//! is it a serial line, how fast, how many bytes does a transaction have. A carrier knows no Modbus: any driver can use it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::habits::Habits;
use super::line::{LineMode, LinePlan};

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
    /// Frames of a bus of type `line`; `None` for all others.
    pub line: Option<LinePlan>,
}

impl BusPlan {
    /// A bus that has every default.
    pub fn plain(name: &str, link: BusLink) -> Self {
        Self {
            name: name.to_owned(),
            link,
            response_timeout: Duration::from_secs(1),
            habits: Habits::default(),
            line: None,
        }
    }

    /// The endpoint of a line on which this bus asks and answers have no number: whoever else asks there would be given the
    /// answers to this one, and this one theirs. A serial port has a lock for that.
    pub fn lone_line(&self) -> Option<&str> {
        let listens = self.line.as_ref().is_some_and(|line| line.mode == LineMode::Listen);
        match &self.link.carrier {
            Carrier::Tcp { endpoint } | Carrier::Udp { endpoint } if !(self.link.framing.is_numbered() || listens) => {
                Some(endpoint)
            }
            _ => None,
        }
    }
}

/// How a bus is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct BusLink {
    /// What is spoken.
    pub framing: Framing,
    /// What carries it.
    pub carrier: Carrier,
    /// `echo`: do the request's own bytes come back?
    pub echo: Echo,
}

impl BusLink {
    /// A carrier with the framing on it.
    pub const fn new(framing: Framing, carrier: Carrier) -> Self {
        Self { framing, carrier, echo: Echo::Auto }
    }

    /// `modbus-tcp`
    pub fn tcp(endpoint: &str) -> Self {
        Self::new(Framing::Mbap, Carrier::Tcp { endpoint: endpoint.to_owned() })
    }

    /// `modbus-rtu`
    pub fn rtu(port: impl Into<PathBuf>, line: SerialPlan) -> Self {
        Self::new(Framing::Rtu, Carrier::Serial(PortPlan::plain(port, line)))
    }

    /// The settings of the serial line that this machine itself drives.
    pub const fn line(&self) -> Option<SerialPlan> {
        match &self.carrier {
            Carrier::Serial(port) => Some(port.line),
            Carrier::Tcp { .. } | Carrier::Udp { .. } | Carrier::Tls(_) | Carrier::Listen { .. } => None,
        }
    }

    /// `type` as a configuration has it.
    pub const fn kind(&self) -> &'static str {
        match (self.framing, &self.carrier) {
            (Framing::Mbap, Carrier::Udp { .. }) => "modbus-udp",
            (Framing::Mbap, Carrier::Tls(_)) => "modbus-tls",
            (Framing::Mbap, _) => "modbus-tcp",
            (Framing::Rtu, Carrier::Serial(_)) => "modbus-rtu",
            (Framing::Rtu, Carrier::Udp { .. }) => "modbus-rtu-over-udp",
            (Framing::Rtu, _) => "modbus-rtu-over-tcp",
            (Framing::Ascii, Carrier::Serial(_)) => "modbus-ascii",
            (Framing::Ascii, _) => "modbus-ascii-over-tcp",
            (Framing::Line, _) => "line",
        }
    }
}

/// `modbus-tcp 192.168.0.10:502`, `modbus-rtu /dev/ttyUSB0 19200-8E1`
impl fmt::Display for BusLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.carrier)
    }
}

/// How a Modbus PDU becomes a frame; or that it is no Modbus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Transaction number, length, unit (Messaging on TCP/IP 1.0b, section 3.1.3).
    Mbap,
    /// Unit and CRC-16 (Modbus over Serial Line 1.02, section 2.5.1).
    Rtu,
    /// Hexadecimal text between `:` and a line end, with an LRC (section 2.5.2).
    Ascii,
    /// No Modbus at all: frames as [`LinePlan`] says. The Modbus room knows none: its `ModbusFraming`.
    Line,
}

impl Framing {
    /// Do answers carry the number of their question? Without one only silence tells a late answer from a prompt one.
    pub const fn is_numbered(self) -> bool {
        matches!(self, Self::Mbap)
    }

    /// Bytes of request and reply of a read together, with this many bytes of data in the reply.
    pub const fn transaction_bytes(self, data: u32) -> u32 {
        match self {
            // request: header 7, function, start, count; reply: header, function, length
            Self::Mbap => 12 + 9 + data,
            // request: unit, function, start, count, CRC; reply: unit, function, length, CRC
            Self::Rtu | Self::Line => 8 + 5 + data,
            // each byte as two characters, an LRC of one byte, and 3 for `:` and the line end
            Self::Ascii => (2 * 7 + 3) + (2 * 4 + 3) + 2 * data,
        }
    }

    /// Characters that a register's worth of data takes.
    pub const fn register_chars(self) -> u32 {
        match self {
            Self::Mbap | Self::Rtu | Self::Line => 2,
            Self::Ascii => 4,
        }
    }
}

/// What carries the frames of a bus.
#[derive(Debug, Clone, PartialEq)]
pub enum Carrier {
    /// A TCP connection that we open.
    Tcp {
        /// `host:port`, resolved at each connect.
        endpoint: String,
    },
    /// UDP: a datagram is a frame.
    Udp {
        /// `host:port`, resolved at each opening.
        endpoint: String,
    },
    /// TLS over a TCP connection that we open.
    Tls(TlsCarrier),
    /// A TCP connection that the other side opens, such as a serial server behind a mobile network.
    Listen {
        /// Where it dials in.
        listen: SocketAddr,
        /// From where it may; empty: from anywhere (loopback addresses only).
        allow: Vec<Network>,
    },
    /// A serial port.
    Serial(PortPlan),
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { endpoint } | Self::Udp { endpoint } => f.write_str(endpoint),
            Self::Tls(tls) => f.write_str(&tls.endpoint),
            Self::Listen { listen, .. } => write!(f, "listening on {listen}"),
            Self::Serial(port) => write!(f, "{} {}", port.port.display(), port.line),
        }
    }
}

/// TLS with a certificate on both sides (Modbus/TCP Security Protocol Specification v36, section 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsCarrier {
    /// `host:port`, resolved at each connect.
    pub endpoint: String,
    /// PEM file with the authorities that the device's certificate may come from.
    pub ca_file: PathBuf,
    /// PEM file with our certificate; our role for the device stands in it.
    pub certificate: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
    /// The name that the device's certificate must have; that of the endpoint unless told otherwise.
    pub server_name: String,
}

/// `10.0.0.0/8`: addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// One of them.
    pub address: IpAddr,
    /// How many bits they share: 0 ..= 32 or 128.
    pub prefix: u8,
}

impl Network {
    /// Is this address one of them?
    pub fn has(self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        let ((own, own_width), (other, other_width)) = (bits(self.address), bits(address));
        let rest = 128 - u32::from(self.prefix.min(own_width));
        own_width == other_width && own.checked_shr(rest) == other.checked_shr(rest)
    }
}

/// A serial port and how it is driven.
#[derive(Debug, Clone, PartialEq)]
pub struct PortPlan {
    /// Device path, best below `/dev/serial/by-id/`.
    pub port: PathBuf,
    /// Line settings.
    pub line: SerialPlan,
    /// `rs485`: the kernel's driver switches the transmitter.
    pub rs485: Option<Rs485>,
    /// `low_latency`: the kernel's driver hands bytes on at once.
    pub low_latency: bool,
}

impl PortPlan {
    /// A port as it comes.
    pub fn plain(port: impl Into<PathBuf>, line: SerialPlan) -> Self {
        Self { port: port.into(), line, rs485: None, low_latency: false }
    }
}

/// `rs485 = { … }`: how RTS switches the transmitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rs485 {
    /// The level of RTS while sending.
    pub rts_on_send: Level,
    /// From RTS to the first bit, 0 ..= 100 ms.
    pub delay_before_send: Duration,
    /// From the last bit to RTS, 0 ..= 100 ms.
    pub delay_after_send: Duration,
}

/// The level of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Asserted.
    High,
    /// Not asserted.
    Low,
}

/// `echo`: two-wire adapters send the request's own bytes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// Learned from requests whose echo cannot be mistaken.
    Auto,
    /// Always.
    Yes,
    /// Never.
    No,
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

/// `19200-8E1`
impl fmt::Display for SerialPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        write!(f, "{}-{}{parity}{}", self.baud, self.data_bits, self.stop_bits)
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
