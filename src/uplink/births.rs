//! Births of an edge node, and the budgets that pay for them.
//!
//! They are bytes like any others: counted by the road's meter, charged when they are handed over. Without them a session says
//! nothing that anybody understands, so
//!
//! * no session is begun that could not pay for connect and births together (from its second one on: the first learns what
//!   they cost), and one that finds this out ends in order before it sends any;
//! * births that somebody asks for in a session are paid for like live values, out of the reserve too; what cannot be paid is put
//!   off, and data go on with the births before it;
//! * either is told as `budget_births`, and so is its end.
//!
//! A single birth or death, of a device that came or went, is charged and never held: it is small, and data of it would
//! say nothing.

use super::allowance::Alarms;
use super::budget::Need;
use super::costs;
use super::way::Leave;
use super::ways::Ways;
use crate::flow::notice::{Notice, Phase};

use tokio::time::Instant;

/// Has this session had its births?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Born {
    Yes,
    No,
}

/// What births cost, and whether that could be paid.
#[derive(Debug, Default)]
pub(super) struct BirthCost {
    /// Wire bytes of all births; 0: there are none, or that is not known yet.
    pub(super) wire: u64,
    /// The operator knows that there is nothing to pay them with.
    told: bool,
    /// What the way had carried when it was looked at last.
    carried: u64,
}

/// A link that carries so many bytes from one look to the next is alive; pings are fewer.
const ALIVE: u64 = 256;

impl Ways {
    /// Does the link carry something? The birth of a large device is one message, and may take a thin link longer than any answer
    /// is waited for.
    pub(super) fn carries(&mut self) -> bool {
        let carried = self.way().counted;
        let more = carried.saturating_sub(self.births.carried);
        self.births.carried = carried;
        more >= ALIVE
    }

    /// Do the budgets pay for births of so many messages and bytes, while `open` bytes are under way? Where not, a session
    /// without births ends.
    pub(super) fn pays_births(&mut self, (messages, bytes): (usize, usize), open: u64, born: Born) -> bool {
        let wire = costs::births(messages, bytes);
        self.births.wire = wire;
        let need = if self.alarms(Instant::now()) == Alarms::Waiting { Need::Alarm } else { Need::Live };
        let pays = self.has_room(need, wire, open);
        if !pays && born == Born::No {
            self.leave(Leave::Budget);
        }
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
