//! The end of a connection: what is lost with it, and what other members of shared groups get instead.

use super::{Outbox, Put, Queue};
use crate::broker::message::{Delivery, Lost};
use crate::broker::session::Ending;

impl Outbox {
    /// Ends the connection; the first reason counts. What waits is dropped, but for an orderly stop.
    pub(in crate::broker) fn end(&self, ending: Ending) {
        self.change(|queue| self.sensor.end(queue, ending));
        self.bell.notify_one();
    }

    /// Why the connection must end, if it must.
    pub(in crate::broker) fn ending(&self) -> Option<Ending> {
        self.lock().ending
    }

    /// The connection has ended: of what waits, or waited then, so much must arrive and stands in no ledger.
    pub(in crate::broker) fn lost(&self) -> Lost {
        let queue = self.lock();
        Lost { all: queue.lost.all + queue.fleeting(), ..queue.lost }
    }

    /// The same: what other members of shared groups may get.
    pub(in crate::broker) fn for_others(&self) -> Vec<Delivery> {
        let mut queue = self.lock();
        let dropped = std::mem::take(&mut queue.for_others);
        dropped.into_iter().chain(queue.shared().cloned()).collect()
    }
}

impl Queue {
    fn fleeting(&self) -> u64 {
        self.waiting.iter().filter(|delivery| delivery.is_fleeting()).count() as u64
    }

    fn shared(&self) -> impl Iterator<Item = &Delivery> {
        self.waiting.iter().filter(|delivery| delivery.shared.is_some())
    }

    /// Too much: what waits is lost, and one more.
    pub(super) fn overflow(&mut self, delivery: &Delivery) -> Put {
        if self.ending.is_some() {
            return Put::Closed;
        }
        // What stands in the ledger is not lost, nor what others may get.
        let is_lost = |delivery: &&Delivery| delivery.owed.is_none() && delivery.shared.is_none();
        let lost = self.waiting.iter().chain([delivery]).filter(is_lost).count();
        let all = self.fleeting() + u64::from(delivery.is_fleeting());
        self.end(Ending::TooSlow);
        self.for_others.extend(delivery.shared.is_some().then(|| delivery.clone()));
        self.lost = Lost { all, counted: all };
        Put::Overflowed(lost)
    }

    pub(super) fn end(&mut self, ending: Ending) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(ending);
        if ending != Ending::Stopping {
            let (begun, launched) = (std::mem::take(&mut self.begun), self.launched);
            let (lost, for_others) = (Lost { all: self.fleeting(), counted: 0 }, self.shared().cloned().collect());
            *self = Self { ending: self.ending, begun, launched, lost, for_others, ..Self::default() };
        }
    }
}
