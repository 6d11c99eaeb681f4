//! What devices and their connections are like, as far as they differ from what the standard expects: pauses, ranges
//! that may be read, units that answer under another address.
//!
//! The keys of a `[[bus]]` are its own or hold for each of its devices that says nothing else; a device in the plan has
//! what holds for it, wherever it was written.

use std::fmt;
use std::time::Duration;

use crate::model::tag::Table;

/// How often a request is repeated before its device counts as down, unless told otherwise.
pub const RETRIES: u8 = 1;
/// Silence of the line after a broadcast (Modbus over Serial Line 1.02, section 2.4.1: typically 100 to 200 ms).
pub const TURNAROUND: Duration = Duration::from_millis(100);

/// What a connection is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Habits {
    /// `close_after_cycle`
    pub keep: Keep,
    /// `max_connections`: 1 ..= 4 that a gateway serves at once. More than one only over a network.
    pub max_connections: u8,
    /// `turnaround`: how long a serial line is silent after a broadcast. 0 ..= 10 s.
    pub turnaround: Duration,
    /// For every device that says nothing else.
    pub manners: Manners,
}

impl Default for Habits {
    fn default() -> Self {
        Self { keep: Keep::Open, max_connections: 1, turnaround: TURNAROUND, manners: Manners::default() }
    }
}

/// Whether a connection outlives the work that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// It stays open.
    #[default]
    Open,
    /// It is closed when nothing is due, so that others can have it: some PLCs serve one client at a time.
    CloseAfterCycle,
}

/// How a device wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manners {
    /// Pause between a new connection and the first request. 0 ..= 60 s.
    pub pause_after_connect: Duration,
    /// Pause between two requests to this device (SDM72-like meters reboot without it). 0 ..= 60 s.
    pub delay_between_requests: Duration,
    /// Pause before a request when the one before it went to another unit of the same connection. 0 ..= 60 s.
    pub delay_on_unit_change: Duration,
    /// `ignore_unit_id`
    pub answers_as: AnswersAs,
    /// A request that failed is repeated so many times before the device is down. 0 ..= 5.
    pub retries: u8,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            pause_after_connect: Duration::ZERO,
            delay_between_requests: Duration::ZERO,
            delay_on_unit_change: Duration::ZERO,
            answers_as: AnswersAs::Itself,
            retries: RETRIES,
        }
    }
}

impl Manners {
    /// What suits two devices of the configuration that are one unit on the line.
    #[must_use]
    pub fn suiting(&self, other: &Self) -> Self {
        Self {
            pause_after_connect: self.pause_after_connect.max(other.pause_after_connect),
            delay_between_requests: self.delay_between_requests.max(other.delay_between_requests),
            delay_on_unit_change: self.delay_on_unit_change.max(other.delay_on_unit_change),
            answers_as: self.answers_as.max(other.answers_as),
            retries: self.retries.max(other.retries),
        }
    }
}

/// The unit id in the answers of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum AnswersAs {
    /// The one that was asked; what carries another is not for us.
    #[default]
    Itself,
    /// Any: a gateway that puts its own id there.
    Anyone,
}

/// How tags become reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grouping {
    /// As few reads as the device allows.
    #[default]
    Blocks,
    /// `one_request_per_tag`
    OneRequestPerTag,
}

/// A range of one table: `holding:0-99`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Which table.
    pub table: Table,
    /// Zero-based first register or bit.
    pub first: u16,
    /// Zero-based last one.
    pub last: u16,
}

/// `holding:0-99`
impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}-{}", self.table.as_str(), self.first, self.last)
    }
}

impl Extent {
    /// Has it all of these?
    pub const fn covers(&self, start: u32, count: u32) -> bool {
        start >= self.first as u32 && start + count <= self.last as u32 + 1
    }

    /// Has it any of these?
    pub const fn touches(&self, start: u32, count: u32) -> bool {
        start <= self.last as u32 && start + count > self.first as u32
    }
}

/// What of a device may be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Territory {
    /// `readable`: only what lies in one of these; empty: everything.
    pub readable: Vec<Extent>,
    /// `forbidden`: never these, not even in passing.
    pub forbidden: Vec<Extent>,
}

/// What a territory says to a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allowed,
    /// It touches this range.
    Forbidden(Extent),
    /// No readable range has all of it.
    Outside,
}

impl Territory {
    /// May one read cover this?
    pub fn allows(&self, table: Table, start: u32, count: u32) -> bool {
        self.verdict(table, start, count) == Verdict::Allowed
    }

    /// Whether, and if not why.
    pub fn verdict(&self, table: Table, start: u32, count: u32) -> Verdict {
        let of_table = |extent: &&Extent| extent.table == table;
        let forbidden = self.forbidden.iter().filter(of_table).find(|extent| extent.touches(start, count));
        let mut readable = self.readable.iter().filter(of_table);
        match forbidden {
            Some(extent) => Verdict::Forbidden(*extent),
            None if self.readable.is_empty() || readable.any(|extent| extent.covers(start, count)) => Verdict::Allowed,
            None => Verdict::Outside,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_stays_in_one_readable_range_and_off_every_forbidden_register() {
        let holding = |first, last| Extent { table: Table::Holding, first, last };
        let territory = Territory { readable: vec![holding(0, 99), holding(100, 199)], forbidden: vec![holding(7, 7)] };
        for (start, count, allowed) in [
            (0, 7, true),
            (0, 8, false),
            (8, 92, true),
            (8, 93, false), // into the next range: another piece of memory
            (100, 100, true),
            (199, 2, false),
        ] {
            assert_eq!(territory.allows(Table::Holding, start, count), allowed, "{start}+{count}");
        }
        assert!(!territory.allows(Table::Input, 0, 1), "no range of this table is readable");
        assert!(Territory::default().allows(Table::Input, 65_535, 1));
    }
}
