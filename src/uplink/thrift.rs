//! Thrift: where a session asks its ways (`ways`) before each message and about once a second, and does what they say.

use tokio::time::Instant;

use crate::config::plan::Delivery;
use crate::model::number::Class;

use super::budget::Save;
use super::costs;
use super::line::Line;
use super::pack::Message;
use super::session::Session;
use super::source::{Lane, Source};

/// What may not be sent now and waits for a budget or a window; of one session.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Withheld([[bool; 4]; 2]);

impl Withheld {
    /// This lane and class may not.
    pub(super) fn add(&mut self, lane: Lane, class: Class) {
        self.0[lane as usize][class as usize] = true;
    }

    /// What stands behind something withheld waits, too: order is kept.
    pub(super) fn has(self, lane: Lane, class: Class) -> bool {
        self.0[lane as usize][class as usize]
    }

    /// Anything of this class, in whatever lane.
    fn has_any_of(self, class: Class) -> bool {
        self.0.iter().any(|lane| lane[class as usize])
    }

    /// Nothing of the backlog that is worth pulling.
    pub(super) fn has_backlog(self) -> bool {
        self.0[Lane::Backlog as usize].contains(&true)
    }
}

impl<S: Source> Session<'_, S> {
    /// May this message be handed over now? `Err`: not before then.
    pub(super) fn may_send(&self, message: &Message, line: &Line, now: Instant) -> Result<(), Instant> {
        let (messages, bytes) = line.flying();
        self.ways.may_send(message, costs::in_flight(messages, bytes), now)
    }

    /// Counts, tells, probes; true when the session is to end in order.
    pub(super) fn must_leave(&mut self, now: Instant) -> bool {
        if self.ways.is_due(now) {
            let waiting = self.source.waiting();
            let leave = self.ways.tick(&waiting, now);
            if leave.is_some() {
                self.source.only(&[]); // what is packed waits for the next session, and so does everything else
            }
        }
        // Also after each burst: the disk allows for what is under way before it is counted.
        let rows = self.ways.keep(|| self.source.meters(), Save::Due);
        if !rows.is_empty() {
            self.source.save_meters(rows);
        }
        self.ways.is_leaving()
    }

    /// Pulls nothing that would only wait: in strict order a class of which something is withheld waits as a whole.
    pub(super) fn pull_only(&mut self, withheld: Withheld) {
        let may = |class: &Class| match self.plan.delivery {
            Delivery::Strict => !withheld.has_any_of(*class),
            Delivery::LiveFirst => !withheld.has(Lane::Live, *class),
        };
        let classes: Vec<Class> = self.ways.classes().iter().copied().filter(may).collect();
        self.source.only(&classes);
    }
}
