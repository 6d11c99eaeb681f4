//! Commands: a write asked for from a local client or from upstream, and how it ended (their walk: `src/lib.rs`).

use std::fmt;

use super::value::Value;

/// Why a command was not carried out; the text form is the `"reason"` of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The command had RETAIN set.
    Retained,
    /// DUP=1 without an id: it may have been done already.
    Duplicate,
    /// The payload is no command: not JSON, unknown keys, a value of the wrong kind.
    Payload,
    /// The tag's `access` does not allow writes.
    Access,
    /// Outside the tag's `write` limits or the type's range.
    Range,
    /// The deadline has passed.
    Expired,
    /// `expires` was given and the wall clock is not known.
    Clock,
    /// The device does not have the SunSpec model that the tag is in, or not where it was.
    Absent,
    /// Its device is paused: nothing is sent to it.
    Paused,
    /// The queue to the bus is full, or a reload is just changing the device: later.
    Busy,
    /// The gateway is stopping. A bus that ends says so, too; the router knows whether only a reload ends it.
    Stopping,
    /// The journal could not be written, so the command was not accepted.
    Journal,
}

impl Refusal {
    /// The word in the result.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retained => "retained",
            Self::Duplicate => "duplicate",
            Self::Payload => "payload",
            Self::Access => "access",
            Self::Range => "range",
            Self::Expired => "expired",
            Self::Clock => "clock",
            Self::Absent => "absent",
            Self::Paused => "paused",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
            Self::Journal => "journal",
        }
    }
}

/// Why a command that was accepted did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The device did not answer, or said that it takes long, and does not hold it yet: the write may or may not have happened.
    Timeout,
    /// The device answered with this Modbus exception code.
    Exception(u8),
    /// No connection to the device; nothing was sent.
    Transport,
    /// An answer that is not valid Modbus.
    Protocol,
    /// Confirmed, but the value read back is another one; or there is none, for the device refuses the reading.
    Verify,
    /// The gateway stopped between write and result; it is not known whether it happened. Never written twice.
    Unknown,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timeout"),
            Self::Exception(code) => write!(f, "exception {code}"),
            Self::Transport => f.write_str("transport"),
            Self::Protocol => f.write_str("protocol"),
            Self::Verify => f.write_str("verify"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Written, and read back where the tag can be read.
    Done {
        /// The value read back, scaled.
        read_back: Option<Value>,
    },
    /// Never sent to the device.
    Refused(Refusal),
    /// Sent, or about to be sent, without success.
    Failed {
        /// Why.
        reason: Failure,
        /// What the device holds instead, when `verify` found a difference.
        read_back: Option<Value>,
    },
}

impl fmt::Display for Outcome {
    /// For logs: `done`, `refused: range`, `failed: exception 2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done { .. } => f.write_str("done"),
            Self::Refused(reason) => write!(f, "refused: {}", reason.as_str()),
            Self::Failed { reason, .. } => write!(f, "failed: {reason}"),
        }
    }
}
