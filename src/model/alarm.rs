//! Alarms: what a tag may be warned of, and a change of it.

use std::fmt;

use super::quality::Quality;
use super::tag::TagIx;
use super::time::Stamp;
use super::value::Value;

/// One condition of a tag, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Far too high.
    HighHigh,
    /// Far too low.
    LowLow,
    /// Too high.
    High,
    /// Too low.
    Low,
    /// A switch stands where it should not.
    State,
}

impl Level {
    /// All of them, the gravest first.
    pub const ALL: [Self; 5] = [Self::HighHigh, Self::LowLow, Self::High, Self::Low, Self::State];

    /// The `"event"` of its payload, and its key in the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HighHigh => "high_high",
            Self::LowLow => "low_low",
            Self::High => "high",
            Self::Low => "low",
            Self::State => "state",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a condition holds from now on, or no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It holds.
    Active,
    /// It is over.
    Cleared,
}

impl Condition {
    /// The `"state"` of its payload.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Cleared => "cleared",
        }
    }
}

/// A condition of a tag that begins or ends, with the value that decided it.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Whose.
    pub tag: TagIx,
    /// Which condition.
    pub level: Level,
    /// Begin or end.
    pub condition: Condition,
    /// The value that decided.
    pub value: Value,
    /// Its quality: good or uncertain.
    pub quality: Quality,
    /// The limit it was compared with, in engineering units, or the state that is an alarm.
    pub limit: Value,
    /// When that value was read.
    pub at: Stamp,
}
