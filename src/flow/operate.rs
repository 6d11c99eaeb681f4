//! The way of a wish from the status page to the bus of a device: pause, resume, poll, reset. Writes go by `command`.
//!
//! The app gives the page one [`Operate`]; it knows which bus a device is on, the page does not. Whether somebody may ask is
//! decided before, by `access`.

use std::pin::Pin;
use std::sync::Arc;

use crate::model::tag::DeviceIx;

/// What may be asked of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Read all of it now; one that is down is tried now.
    Poll,
    /// Send nothing to it until it is resumed, or the gateway starts anew.
    Pause,
    /// Poll it again.
    Resume,
    /// Forget its counts and what was learned of it, and begin anew.
    Reset,
}

impl Operation {
    /// The word in the API and in the audit trail.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
        }
    }

    /// The operation of this name.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Poll, Self::Pause, Self::Resume, Self::Reset].into_iter().find(|operation| operation.as_str() == word)
    }
}

/// Why it was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwilling {
    /// Its tags are derived; nothing is ever asked of it.
    #[error("this device is on no bus: there is nothing to pause, poll or reset")]
    NoBus,
    /// Nothing is sent to a device that is paused.
    #[error("this device is paused: resume it first")]
    Paused,
}

impl Unwilling {
    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoBus => "no_bus",
            Self::Paused => "paused",
        }
    }
}

/// Resolves when the bus has taken note, which it does after the transaction under way: from then on a paused device is
/// sent nothing. Never, if that bus ends before. Cancel-safe.
pub type Heeded = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Hands a wish to the bus of a device; returns at once.
pub type Operate = Arc<dyn Fn(DeviceIx, Operation) -> Result<Heeded, Unwilling> + Send + Sync>;
