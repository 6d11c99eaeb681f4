//! How a simulated unit may misbehave, told to it while it runs.
//!
//! Each is one that real devices, adapters and gateways show. Some need a wire that can do it: see [`Fault::needs`].

use std::fmt;
use std::time::Duration;

use crate::config::plan::{BusLink, Carrier, Framing};
use crate::model::tag::Table;

/// What is wrong with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It hears nothing and says nothing.
    Dead,
    /// It hears and does what it is told, but its reply is lost.
    Lost,
    /// It answers rightly, but this much later. Requests that arrive meanwhile are answered on their own time, so that the
    /// late reply may meet the next question.
    Late(Duration),
    /// It answers everything with this Modbus exception.
    Exception(u8),
    /// It does not have these addresses: exception 2 for whoever reads or writes one of them.
    Hole {
        /// Where.
        table: Table,
        /// The first one.
        first: u16,
        /// The last one.
        last: u16,
    },
    /// It gives no more registers than these at a time: exception 3.
    Limit(u16),
    /// It answers, but damaged: one bit flipped on a serial line (the check sum shows it), a wrong transaction id on TCP, in
    /// what an instrument says a bit that no text has.
    Noise,
    /// One bit of the reply is another, anywhere.
    BitFlip,
    /// The reply breaks off.
    Truncated,
    /// Bytes that belong to nothing come before the reply.
    Garbage,
    /// The reply is signed by another unit.
    WrongUnit,
    /// The reply is one to another function.
    WrongFunction,
    /// So many registers are in the reply, however many were asked for.
    Registers(u8),
    /// The request's own bytes come back first, or alone when there is no reply.
    Echo,
    /// The reply has the transaction id of the question before.
    StaleNumber,
    /// The reply comes in four pieces, with this pause between them.
    Pieces(Duration),
    /// Instead of a reply the connection is closed in order.
    HangUp,
    /// Instead of a reply the connection is reset.
    Reset,
    /// From the first request on the connection stands and nothing is ever said on it again.
    BlackHole,
    /// Instead of a reply the serial adapter is pulled, and plugged in again after this long.
    Unplug(Duration),
    /// Its tags hold what they hold when there is no value: their sentinel, or NaN.
    NotANumber,
}

/// What a fault needs of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: every wire can do it.
    Nothing,
    /// Units with addresses that know exceptions.
    Modbus,
    /// A check sum, or nobody could tell that anything is wrong: RTU or ASCII.
    CheckSum,
    /// Bytes that can be told from an answer: RTU or ASCII.
    Echo,
    /// Transaction ids: Modbus TCP, UDP or TLS.
    Numbers,
    /// A connection that can end.
    Connection,
    /// A serial port.
    Port,
}

impl Needs {
    /// Does this wire have it?
    pub const fn has(self, link: &BusLink) -> bool {
        match self {
            Self::Nothing => true,
            Self::CheckSum => !link.framing.is_numbered(),
            _ if matches!(link.framing, Framing::Line) => false,
            Self::Modbus => true,
            Self::Echo => !link.framing.is_numbered(),
            Self::Numbers => link.framing.is_numbered(),
            Self::Connection => {
                matches!(link.carrier, Carrier::Tcp { .. } | Carrier::Tls(_) | Carrier::Listen { .. })
            }
            Self::Port => matches!(link.carrier, Carrier::Serial(_)),
        }
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "any bus",
            Self::Modbus => "Modbus",
            Self::CheckSum => {
                "a bus with check sums (RTU, ASCII): elsewhere a flipped bit is a value that nobody can doubt"
            }
            Self::Echo => "RTU or ASCII: nothing sends the frames of other types back",
            Self::Numbers => "a bus with transaction ids (modbus-tcp, -udp, -tls); on a serial line use late",
            Self::Connection => "a TCP connection (Modbus)",
            Self::Port => "a serial port (Modbus)",
        })
    }
}

impl Fault {
    /// Can an instrument on a bus of type line have it? They have no addresses and know no exceptions.
    pub const fn is_of_instruments(self) -> bool {
        matches!(self.needs(), Needs::Nothing | Needs::CheckSum)
    }

    /// What it needs.
    pub const fn needs(self) -> Needs {
        match self {
            Self::BitFlip => Needs::CheckSum,
            Self::Echo => Needs::Echo,
            Self::StaleNumber => Needs::Numbers,
            Self::HangUp | Self::Reset | Self::BlackHole => Needs::Connection,
            Self::Unplug(_) => Needs::Port,
            Self::Dead | Self::Lost | Self::Late(_) | Self::Noise | Self::Truncated | Self::Garbage => Needs::Nothing,
            _ => Needs::Modbus,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dead => f.write_str("dead"),
            Self::Lost => f.write_str("replies are lost"),
            Self::Late(by) => write!(f, "late by {} ms", by.as_millis()),
            Self::Exception(code) => write!(f, "answers exception {code}"),
            Self::Hole { table, first, last } => write!(f, "has no {}:{first} to {last}", table.as_str()),
            Self::Limit(count) => write!(f, "gives at most {count} registers at a time"),
            Self::Noise => f.write_str("damaged replies"),
            Self::BitFlip => f.write_str("flipped bits"),
            Self::Truncated => f.write_str("replies that break off"),
            Self::Garbage => f.write_str("garbage before replies"),
            Self::WrongUnit => f.write_str("replies of another unit"),
            Self::WrongFunction => f.write_str("replies to another function"),
            Self::Registers(count) => write!(f, "always {count} registers"),
            Self::Echo => f.write_str("echoes requests"),
            Self::StaleNumber => f.write_str("replies with the transaction id before"),
            Self::Pieces(pause) => write!(f, "replies in pieces, {} ms apart", pause.as_millis()),
            Self::HangUp => f.write_str("hangs up"),
            Self::Reset => f.write_str("resets connections"),
            Self::BlackHole => f.write_str("a black hole"),
            Self::Unplug(time) => write!(f, "unplugged for {} ms", time.as_millis()),
            Self::NotANumber => f.write_str("no values, only sentinels and NaN"),
        }
    }
}

/// A fault, and how often it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    /// What.
    pub fault: Fault,
    /// Of all requests.
    pub share: Share,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)?;
        if self.share == Share::ALWAYS { Ok(()) } else { write!(f, " ({} %)", f64::from(self.share.0) / 100.0) }
    }
}

/// A share of all requests, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u16);

impl Share {
    /// Every time.
    pub const ALWAYS: Self = Self(10_000);

    /// Of percent, 0.01 to 100.
    pub fn percent(percent: f64) -> Option<Self> {
        let share = (percent * 100.0).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10 000")]
        (1.0..=10_000.0).contains(&share).then_some(Self(share as u16))
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self { fault, share: Share::ALWAYS }
    }
}

/// Dice that fall alike each time (SplitMix64, Steele et al. 2014): a run with faults can be repeated.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Others for each unit.
    pub fn new(unit_id: u8) -> Self {
        Self(u64::from(unit_id))
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut number = self.0;
        number = (number ^ number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        number = (number ^ number >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        number ^ number >> 31
    }

    /// The next number below a bound that is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound.max(1) as u64).unwrap_or(0)
    }

    /// Does it happen this time?
    pub fn strikes(&mut self, share: Share) -> bool {
        self.roll() % 10_000 < u64::from(share.0)
    }
}
