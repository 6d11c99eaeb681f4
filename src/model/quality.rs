//! How far a value may be trusted: OPC UA's three qualities, each doubt with its cause.

use std::fmt;

/// Why a value is uncertain or bad. The text form is what consumers match on, and does not change: `"cause":"timeout"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// The gateway has just started and has not read the tag yet.
    Starting = 1,
    /// The device did not answer in time.
    Timeout = 2,
    /// The device answered with a Modbus exception.
    Exception = 3,
    /// The value lies outside `min..max` of the tag; it is kept.
    Range = 4,
    /// The device says that it has no value: NaN or infinite, a sentinel, digits or a time that are none.
    Nan = 5,
    /// Nothing new for longer than the tag allows.
    Stale = 6,
    /// The wall clock was not known when the sample was taken.
    Clock = 7,
    /// The configuration does not fit the device (for instance text in another encoding, or a scale factor that is none).
    Config = 8,
    /// No connection to the bus: port missing, connection refused or lost.
    Transport = 9,
    /// The device answered, but not in valid Modbus.
    Protocol = 10,
    /// Somebody paused the device; it is not asked.
    Paused = 11,
}

impl Cause {
    /// All causes, in the order of their stored codes.
    pub const ALL: [Self; 11] = [
        Self::Starting,
        Self::Timeout,
        Self::Exception,
        Self::Range,
        Self::Nan,
        Self::Stale,
        Self::Clock,
        Self::Config,
        Self::Transport,
        Self::Protocol,
        Self::Paused,
    ];

    /// The word in payloads and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Timeout => "timeout",
            Self::Exception => "exception",
            Self::Range => "range",
            Self::Nan => "nan",
            Self::Stale => "stale",
            Self::Clock => "clock",
            Self::Config => "config",
            Self::Transport => "transport",
            Self::Protocol => "protocol",
            Self::Paused => "paused",
        }
    }

    /// The cause with this stored code (1..=11).
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| *cause as u8 == code)
    }
}

/// Good, uncertain or bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quality {
    /// As the device said it, within limits, in time.
    Good,
    /// There is a value, but with a doubt.
    Uncertain(Cause),
    /// There is no value to rely on.
    Bad(Cause),
}

impl Quality {
    /// `good`, `uncertain` or `bad`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Uncertain(_) => "uncertain",
            Self::Bad(_) => "bad",
        }
    }

    /// The cause of a doubt.
    pub const fn cause(self) -> Option<Cause> {
        match self {
            Self::Good => None,
            Self::Uncertain(cause) | Self::Bad(cause) => Some(cause),
        }
    }

    /// The stored form: 0 good; 0x40 + cause uncertain; 0x80 + cause bad.
    pub const fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Uncertain(cause) => 0x40 | cause as u8,
            Self::Bad(cause) => 0x80 | cause as u8,
        }
    }

    /// Reads the stored form back.
    pub fn from_code(code: u8) -> Option<Self> {
        match code & 0xC0 {
            0 if code == 0 => Some(Self::Good),
            0x40 => Cause::from_code(code & 0x3F).map(Self::Uncertain),
            0x80 => Cause::from_code(code & 0x3F).map(Self::Bad),
            _ => None,
        }
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        self.cause().map_or(Ok(()), |cause| write!(f, " ({})", cause.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quality_survives_its_stored_form() {
        let mut all = vec![Quality::Good];
        for cause in Cause::ALL {
            all.extend([Quality::Uncertain(cause), Quality::Bad(cause)]);
        }
        for quality in all {
            assert_eq!(Quality::from_code(quality.code()), Some(quality));
        }
        for code in [1, 0x40, 0x80, 0xC1, 0x4C] {
            assert_eq!(Quality::from_code(code), None);
        }
    }
}
