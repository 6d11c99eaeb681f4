//! In which order a client gets what it is owed: from the outbox while it keeps up, from the ledger when it has come back
//! or has fallen behind, and never a delivery before one with a lower ordinal. Pure: what must be waited for (a page of
//! the ledger, a commit) goes out as errands and comes back with the answer.
//!
//! A QoS 2 delivery is sent only when its row is committed: the client remembers its packet identifier, so the same one
//! must mean the same message after a crash.

use std::collections::VecDeque;

use super::Session;
use crate::broker::message::{Delivery, Qos, Stage};
use crate::broker::outbox::Outbox;

/// Messages taken out of the outbox at a time: a window full.
const TAKE: usize = super::WINDOW_MAX as usize;

/// What has to be done before more can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::broker) struct Errands {
    /// Read a page of what is owed from this ordinal on, then call [`Course::page`].
    pub page_from: Option<u64>,
    /// Wait until all that was entered in the ledger up to now is committed, then call [`Course::committed`]; whoever waits
    /// already begins anew.
    pub commit: bool,
}

/// What is next for one connection.
#[derive(Debug)]
pub(in crate::broker) struct Course {
    /// Taken, and not sent yet.
    taken: VecDeque<Delivery>,
    /// A page is being read; it covers everything up to this ordinal that has no row in it.
    reading: Option<u64>,
    /// An earlier connection may have sent what has a lower ordinal.
    sent_below: u64,
    /// So many more may have been sent before the gateway was cut off.
    perhaps_sent: usize,
}

impl Course {
    /// For a connection. `sent_below`: lowest ordinal that no connection of the session has sent; `perhaps_sent`: after a
    /// crash, how many were perhaps sent of which we do not know.
    pub(in crate::broker) fn new(sent_below: u64, perhaps_sent: usize) -> Self {
        Self { taken: VecDeque::new(), reading: None, sent_below, perhaps_sent }
    }

    /// Lowest ordinal that has not been sent.
    pub(in crate::broker) fn sent_below(&self) -> u64 {
        self.sent_below
    }

    /// Is there nothing at hand?
    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Of what is at hand, what would be owed, had there been room.
    pub(in crate::broker) fn fleeting(&self) -> usize {
        self.taken.iter().filter(|delivery| delivery.is_fleeting()).count()
    }

    /// Of what is at hand, what other members of shared groups may get.
    pub(in crate::broker) fn left(&self) -> impl Iterator<Item = Delivery> + '_ {
        self.taken.iter().filter(|delivery| delivery.shared.is_some()).cloned()
    }

    /// Retained messages, for one who has just subscribed.
    pub(in crate::broker) fn add(&mut self, deliveries: impl IntoIterator<Item = Delivery>) -> Errands {
        let before = self.taken.len();
        self.taken.extend(deliveries);
        Errands { page_from: None, commit: self.needs_commit(before) }
    }

    /// Takes what is there, when nothing is at hand.
    pub(in crate::broker) fn fill(&mut self, outbox: &Outbox, room: usize) -> Errands {
        let mut errands = Errands::default();
        if self.reading.is_none()
            && let Some(behind) = outbox.behind()
            && outbox.numbers().0 >= behind.after
        {
            self.reading = Some(behind.last);
            errands.page_from = Some(behind.from);
        }
        let mut taken = Vec::new();
        outbox.take(TAKE, room, &mut taken);
        let before = self.taken.len();
        self.taken.extend(taken);
        errands.commit = self.needs_commit(before);
        errands
    }

    /// A page has been read: rows in the order of their ordinals, all that there are between the one asked for and `last`;
    /// `None`: there are no more.
    pub(in crate::broker) fn page(
        &mut self,
        (rows, last): (Vec<Delivery>, Option<u64>),
        outbox: &Outbox,
        session: &mut Session,
    ) {
        let Some(through) = self.reading.take() else {
            return;
        };
        let last = last.unwrap_or(through);
        for mut row in rows {
            if let Some(owed) = &mut row.owed {
                let perhaps = self.perhaps_sent > 0;
                self.perhaps_sent = self.perhaps_sent.saturating_sub(1);
                if owed.stage != Stage::Released {
                    let before = perhaps || owed.ordinal < self.sent_below;
                    owed.stage = if before { Stage::SentBefore } else { Stage::Committed };
                }
            }
            self.taken.push_back(row);
        }
        if outbox.catch_up(last + 1) {
            session.caught_up();
        }
    }

    /// Takes out what must not be sent.
    pub(in crate::broker) fn take_out(&mut self, must_not: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let (out, stays): (Vec<_>, Vec<_>) = std::mem::take(&mut self.taken).into_iter().partition(must_not);
        self.taken = stays.into();
        out
    }

    /// Everything at hand is committed.
    pub(in crate::broker) fn committed(&mut self) {
        for owed in self.taken.iter_mut().filter_map(|delivery| delivery.owed.as_mut()) {
            if owed.stage == Stage::Entered {
                owed.stage = Stage::Committed;
            }
        }
    }

    /// The next delivery, if it may be sent now.
    pub(in crate::broker) fn next(&self, session: &Session) -> Option<&Delivery> {
        let next = self.taken.front()?;
        (next.qos == Qos::AtMostOnce || session.room() > 0 && !waits_for_commit(next)).then_some(next)
    }

    /// It is on its way.
    pub(in crate::broker) fn sent(&mut self) -> Option<Delivery> {
        let sent = self.taken.pop_front()?;
        if let Some(owed) = sent.owed {
            self.sent_below = self.sent_below.max(owed.ordinal + 1);
        }
        Some(sent)
    }

    fn needs_commit(&self, before: usize) -> bool {
        self.taken.iter().skip(before).any(waits_for_commit)
    }
}

fn waits_for_commit(delivery: &Delivery) -> bool {
    delivery.qos == Qos::ExactlyOnce && delivery.owed.is_some_and(|owed| owed.stage == Stage::Entered)
}
