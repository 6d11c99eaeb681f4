//! How a simulated unit may misbehave, told to it while it runs.

use std::fmt;
use std::time::Duration;

/// What is wrong with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It hears nothing and says nothing.
    Dead,
    /// It answers rightly, but this much later. Requests that arrive meanwhile are answered on their own time, so that the
    /// late reply may meet the next question.
    Late(Duration),
    /// It answers everything with this Modbus exception.
    Exception(u8),
    /// It answers, but damaged: one bit flipped on a serial line (the CRC shows it), a wrong transaction id on TCP, a bit that
    /// no text has in what an instrument says.
    Noise,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dead => f.write_str("dead"),
            Self::Late(by) => write!(f, "late by {} ms", by.as_millis()),
            Self::Exception(code) => write!(f, "answers exception {code}"),
            Self::Noise => f.write_str("damaged replies"),
        }
    }
}
