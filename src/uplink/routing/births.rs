//! Births of an edge node, and the budgets that pay for them.
//!
//! They are bytes like any others: counted by the road's meter, charged when they are handed over. Without them a session says
//! nothing that anybody understands, so
//!
//! * no session is begun that could not pay for connect and births together, and one that finds this out, because more than
//!   was thought is used up, ends in order before it sends any;
//! * births that somebody asks for in a session are paid for like live values, out of the reserve too; what cannot be paid is put
//!   off, and data go on with the births before it;
//! * either is told as `budget_births`, and so is its end.
//!
//! A single birth or death, of a device that came or went, is charged and never held: it is small, and data of it would
//! say nothing.

use super::Routing;
use super::allowance::Alarms;
use super::budget::Need;
use super::costs;
use super::path::{Leave, Step};
use crate::flow::notice::{Notice, Phase};
use crate::model::number::Class;
use crate::uplink::sparkplug::EdgeNode;

use tokio::time::Instant;

/// Has this session had its births?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::uplink) enum Born {
    Yes,
    No,
}

/// What births cost, and whether that could be paid.
#[derive(Debug, Default)]
pub(in crate::uplink) struct BirthCost {
    /// Wire bytes of all births; 0: there are none, or that is not known yet.
    pub(in crate::uplink) wire: u64,
    /// The operator knows that there is nothing to pay them with.
    told: bool,
    /// What the way had carried when it was looked at last.
    carried: u64,
}

/// A link that carries so many bytes from one look to the next is alive; pings are fewer.
const ALIVE: u64 = 256;

impl Routing {
    /// Does the link carry something? The birth of a large device is one message, and may take a thin link longer than any answer
    /// is waited for.
    pub(in crate::uplink) fn carries(&mut self) -> bool {
        let carried = self.path().counted;
        let more = carried.saturating_sub(self.births.carried);
        self.births.carried = carried;
        more >= ALIVE
    }

    /// [`Routing::next`] of an uplink that may be an edge node: a session needs its births, of the plan that is in force now.
    pub(in crate::uplink) fn next_for(&mut self, node: Option<&mut EdgeNode>, waiting: &[Class], now: Instant) -> Step {
        if let Some(node) = node {
            self.weigh(node.births_cost(), self.connect + costs::LAST, Born::No);
        }
        self.next(waiting, now)
    }

    /// Do the budgets pay for births of so many messages and bytes, while `open` bytes are under way? Where not, a session
    /// without births ends.
    pub(in crate::uplink) fn pays_births(&mut self, births: (usize, usize), open: u64, born: Born) -> bool {
        let pays = self.weigh(births, open, born);
        if !pays && born == Born::No {
            self.leave(Leave::Budget);
        }
        pays
    }

    fn weigh(&mut self, (messages, bytes): (usize, usize), open: u64, born: Born) -> bool {
        let wire = costs::births(messages, bytes);
        self.births.wire = wire;
        let need = if self.alarms(Instant::now()) == Alarms::Waiting { Need::Alarm } else { Need::Live };
        let pays = self.has_room(need, wire, open);
        if pays != self.births.told {
            return pays;
        }
        self.births.told = !pays;
        let (phase, detail) = if pays {
            (Phase::Cleared, "the budget pays for births again".to_owned())
        } else {
            let then = if born == Born::No { "nothing is sent" } else { "data go on with those before" };
            (Phase::Active, format!("no budget has the {wire} bytes that births take: {then} until one has"))
        };
        tracing::warn!(uplink = self.name(), detail, "budget and births");
        let subject = self.name().to_owned();
        self.tell(Notice { event: "budget_births", phase, subject, detail });
        pays
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{Budget, Period, UplinkPlan};
    use crate::flow::clock::{Clock, FakeTime};
    use crate::flow::notice::notices;
    use crate::model::time::Boot;
    use std::sync::Arc;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn births_that_no_budget_pays_for_are_told_once_end_no_live_session_and_begin_none() {
        const SMALL: (usize, usize) = (10, 38_000);
        const LARGE: (usize, usize) = (10, 70_000);
        let budgets = vec![Budget { bytes: 64 << 10, period: Period::Day }];
        let plan = UplinkPlan { budgets, ..UplinkPlan::plain("cloud") };
        let (notices, mut waiting) = notices();
        let clock = Clock::new(Arc::<FakeTime>::default(), Boot(1), 0);
        let mut routing = Routing::new(&plan, Duration::ZERO, clock, notices, Arc::default());
        let mut told = || waiting.try_recv().ok().map(|notice| (notice.event, notice.phase));
        assert_eq!(routing.next(&[], Instant::now()), Step::Connect);
        assert!(routing.pays_births(SMALL, 0, Born::No));
        assert!(!routing.pays_births(SMALL, 30_000, Born::Yes), "what is under way has to be paid too");
        assert_eq!(told(), Some(("budget_births", Phase::Active)));
        assert!(!routing.pays_births(LARGE, 0, Born::Yes) && !routing.is_leaving(), "data go on");
        assert!(!routing.pays_births(LARGE, 0, Born::No) && routing.is_leaving(), "there is nothing to go on with");
        assert_eq!(told(), None, "it is told already");
        routing.ended();
        assert_eq!(routing.next(&[], Instant::now()), Step::Pause, "nobody connects for births that cannot be paid");
        assert!(routing.pays_births(SMALL, 0, Born::No));
        assert_eq!(told(), Some(("budget_births", Phase::Cleared)));
        assert_eq!(routing.next(&[], Instant::now()), Step::Connect);
    }
}
