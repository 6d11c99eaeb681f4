//! Thrift: where a session asks the `routing` before each message and about once a second, and does what it says.

use tokio::time::Instant;

use super::line::Line;
use super::pack::Message;
use super::routing;
use super::routing::Save;
use super::routing::costs;
use super::session::Session;
use super::source::Source;

impl<S: Source> Session<'_, S> {
    /// May this message be handed over now? `Err`: not before then.
    pub(super) fn may_send(&mut self, message: &Message, line: &Line, now: Instant) -> Result<(), Instant> {
        if self.is_payable(message, line) { self.rate.take(now) } else { Err(now + routing::TICK) }
    }

    /// Do budgets and windows allow it?
    pub(super) fn is_payable(&self, message: &Message, line: &Line) -> bool {
        let (messages, bytes) = line.flying();
        self.routing.may_send(message, costs::in_flight(messages, bytes))
    }

    /// Counts, tells, probes; true when the session is to end in order.
    pub(super) fn must_leave(&mut self, now: Instant) -> bool {
        if self.routing.is_due(now) {
            let waiting = self.source.waiting();
            self.routing.tick(&waiting, now);
        }
        // Also after each burst: the disk allows for what is under way before it is counted.
        let rows = self.routing.keep(|| self.source.meters(), Save::Due);
        if !rows.is_empty() {
            self.source.save_meters(rows);
        }
        self.routing.is_leaving()
    }
}
