//! Whether a line sends our own bytes back: as it was told, or learned from requests whose echo cannot be mistaken. Pure.

use super::frame::{EchoRule, Expect};
use crate::config::plan::Echo;

/// After this many answers without an echo a line that echoed is taken to have stopped.
const CLEAN_ANSWERS: u8 = 3;

/// What is known about the line's habit of sending our own bytes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoHabit {
    /// No request has shown it yet.
    Unknown,
    /// It does not.
    Absent,
    /// It does, or did within the last few answers.
    Present {
        /// Answers since then without one.
        clean: u8,
    },
}

/// The habit of one line, and what the request under way has shown of it.
#[derive(Debug)]
pub struct Echoes {
    habit: EchoHabit,
    told: Echo,
    seen: bool,
}

impl Echoes {
    /// As it was told.
    pub const fn new(told: Echo) -> Self {
        let habit = match told {
            Echo::Auto => EchoHabit::Unknown,
            Echo::Yes => EchoHabit::Present { clean: 0 },
            Echo::No => EchoHabit::Absent,
        };
        Self { habit, told, seen: false }
    }

    /// Does the line echo?
    pub const fn habit(&self) -> EchoHabit {
        self.habit
    }

    /// A request goes out.
    pub const fn begin(&mut self) {
        self.seen = false;
    }

    /// It came back.
    pub const fn came(&mut self) {
        self.seen = true;
    }

    /// Where the request's own bytes are an answer, only the habit of the line tells it from an echo.
    pub fn rule(&self, expect: Expect) -> EchoRule {
        let strip = match self.habit {
            _ if !expect.answers_like_an_echo() => true,
            EchoHabit::Present { .. } => !self.seen,
            EchoHabit::Unknown | EchoHabit::Absent => false,
        };
        if strip { EchoRule::Strip } else { EchoRule::Answer }
    }

    /// Learns from a request whose echo cannot be mistaken.
    pub fn learn(&mut self, expect: Option<Expect>) {
        if self.told != Echo::Auto || expect.is_none_or(Expect::answers_like_an_echo) {
            return;
        }
        self.habit = match self.habit {
            _ if self.seen => EchoHabit::Present { clean: 0 },
            EchoHabit::Present { clean } if clean + 1 < CLEAN_ANSWERS => EchoHabit::Present { clean: clean + 1 },
            _ => EchoHabit::Absent,
        };
    }
}
