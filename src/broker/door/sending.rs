//! What goes to the client: retained messages for new subscriptions, then what its outbox or the ledger holds for it, as far
//! as its window and its socket take it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use tokio::time::Instant;

use super::duty::Duty;
use super::output::Output;
use super::terms::Watch;
use crate::access::{Access, Identity};
use crate::broker::keeping;
use crate::broker::message::{Delivery, Qos, Stage};
use crate::broker::outbox::{Line, Outbox, Socket};
use crate::broker::retained::{Rest, Walk};
use crate::broker::session::{Ending, Errands, Lifetime};
use crate::broker::wire::encode::{self, Outgoing};
use crate::broker::wire::{AckKind, Naming};
use crate::disk::ledger::OwedRow;

/// Pages of retained messages looked through before others get their turn.
const PAGES: usize = 8;

impl Duty {
    /// The short way to the client.
    pub(super) fn line(&self, socket: Arc<dyn Socket>) -> Line {
        Line { socket, version: self.version, maximum_packet: self.maximum_packet }
    }

    /// Nothing is on its way to the client or about to be: what comes next may be written by whoever has it. Not for sessions
    /// that last, which count what they have got, nor where topics have numbers.
    pub(super) fn lends(&self) -> bool {
        let passing = self.session.lifetime() == Lifetime::Connection;
        passing && self.unsaid == 0 && self.walks.is_empty() && self.course.is_empty() && self.aliases.are_none()
    }

    /// To be lent with the line.
    pub(super) fn next_id(&self) -> Option<u16> {
        self.session.next_id()
    }

    /// The identifier that was lent is used: nothing else has been launched since.
    pub(super) fn launched(&mut self, qos: Qos) {
        let launched = self.session.launch(qos, None);
        debug_assert!(launched.is_some(), "a free identifier stays free");
    }

    /// Encodes what waits for the client until there is enough of it, or no more room in the window.
    pub(super) fn send(&mut self, out: &mut Output, enough: usize) -> Rest {
        if self.unsaid > 0 || self.outbox.is_held() {
            return Rest::Nothing;
        }
        self.strike_out();
        for packet_id in self.session.release_again() {
            encode::ack(&mut out.bytes, self.version, AckKind::Pubrel, (packet_id, 0, ""));
            self.shared.stats.packets_sent.one();
        }
        let mut now = None;
        let version = self.shared.in_step.load(Ordering::Acquire);
        while !out.is_full(enough) {
            if self.course.is_empty() && self.take() == Rest::More {
                return Rest::More;
            }
            if !self.write(&mut now, out) {
                self.look_whether_in_step(version);
                return Rest::Nothing;
            }
        }
        Rest::Nothing
    }

    /// Retained messages first: whoever has just subscribed waits for them. More: come back when others had a turn.
    fn take(&mut self) -> Rest {
        let mut pages = 0;
        while let Some((filter, walk)) = next_walk(&mut self.walks, &self.outbox) {
            if pages == PAGES {
                return Rest::More;
            }
            pages += 1;
            let mut deliveries = Vec::new();
            let rest = self.shared.page((self.key, &self.outbox), walk, &mut deliveries);
            if rest == Rest::Nothing {
                self.walks.remove(&filter);
            }
            deliveries.retain_mut(|delivery| self.finds_place(delivery));
            if !deliveries.is_empty() {
                let errands = self.course.add(deliveries);
                self.run(errands);
                return Rest::Nothing;
            }
        }
        loop {
            let errands = self.course.fill(&self.outbox, self.session.room());
            self.run(errands);
            if !self.strike_out() || !self.course.is_empty() {
                return Rest::Nothing;
            }
        }
    }

    /// Does a retained message find a place on its way to the client? If not, it is counted, and above QoS 0 the client is told.
    fn finds_place(&self, delivery: &mut Delivery) -> bool {
        let finds_place = self.outbox.finds_place(delivery);
        if !finds_place && delivery.qos == Qos::AtMostOnce {
            self.shared.stats.dropped_full.one();
        } else if !finds_place {
            self.shared.stats.dropped_slow.one();
            self.outbox.end(Ending::TooSlow);
        }
        finds_place
    }

    /// Takes out what of that which is at hand may not be sent any more, if rights have changed: is there such?
    fn strike_out(&mut self) -> bool {
        if !self.outbox.is_doubtful() {
            return false;
        }
        let Self { shared, identity, course, .. } = self;
        let struck = course.take_out(|delivery| !is_readable(&shared.access, identity, delivery));
        self.take_back(&struck);
        !struck.is_empty()
    }

    /// A session may come to outlive its connection. Asked before anything is dealt with that the ledger knows of.
    pub(super) fn hear_whether_it_lasts(&mut self) {
        if self.tally.is_none()
            && let Some(tally) = self.outbox.lasting()
        {
            self.tally = Some(Arc::clone(tally));
            self.session.outlive();
        }
    }

    fn run(&mut self, errands: Errands) {
        self.hear_whether_it_lasts();
        if errands.commit {
            self.waits.gate(self.shared.disk.committed());
        }
        if let (Some(from), Some(tally)) = (errands.page_from, &self.tally) {
            self.waits.read(&self.shared, tally, from);
        }
    }

    /// Writes the next; false when nothing may be sent now. The time is asked once for all that is written in a row.
    fn write(&mut self, now: &mut Option<Instant>, out: &mut Output) -> bool {
        let stats = &self.shared.stats;
        let Some(delivery) = self.course.next(&self.session) else {
            return false;
        };
        if delivery.owed.is_some_and(|owed| owed.stage == Stage::Released) {
            let Some(packet_id) = self.session.launch(delivery.qos, delivery.owed) else {
                self.wait_for_identifier();
                return false;
            };
            self.waits.has_identifier();
            encode::ack(&mut out.bytes, self.version, AckKind::Pubrel, (packet_id, 0, ""));
            stats.packets_sent.one();
            self.course.sent();
            return true;
        }
        let now = *now.get_or_insert_with(Instant::now);
        let topic = &delivery.message.topic;
        let mut naming = self.aliases.look(topic);
        let mut outgoing = Outgoing::new(delivery, (self.version, naming), || now);
        if outgoing.len() > self.maximum_packet && matches!(naming, Naming::Given(_)) {
            naming = Naming::Full; // without the alias it may fit
            outgoing = Outgoing::new(delivery, (self.version, naming), || now);
        }
        let expired = delivery.is_expired(now);
        if expired || outgoing.len() > self.maximum_packet {
            // 3.1.2-25: one that is too large for the client counts as sent.
            if expired { &stats.dropped_expired } else { &stats.dropped_too_large }.one();
            if let (Some(owed), Some(tally)) = (self.course.sent().and_then(|sent| sent.owed), &self.tally) {
                self.shared.settle(tally, owed);
            }
            return true;
        }
        let Some(packet_id) = self.session.launch(delivery.qos, delivery.owed) else {
            self.wait_for_identifier();
            return false;
        };
        self.waits.has_identifier();
        if delivery.is_fleeting() {
            self.session.mark_fleeting(packet_id);
        }
        if delivery.shared.is_some() {
            self.session.remember(packet_id, delivery);
        }
        let is_long = delivery.message.is_long();
        if is_long {
            outgoing.write_head(&mut out.bytes, packet_id);
        } else {
            outgoing.write(&mut out.bytes, packet_id);
        }
        self.aliases.written(topic, naming);
        stats.packets_sent.one();
        stats.publishes_sent.one();
        stats.publish_bytes_sent.add(delivery.message.payload.len() as u64);
        if let Some(sent) = self.course.sent().filter(|_| is_long) {
            out.follow(sent, now);
        }
        true
    }

    /// What is next needs a packet identifier that is in use. While it waits nothing is sent, and the client would take the
    /// last values it got for the present ones. So it does not wait for ever: the next connection sends the old one again.
    /// Where our own doors watch their clients they repeat what is not answered, and end it themselves.
    fn wait_for_identifier(&mut self) {
        if self.terms.watch == Watch::Ours && self.waits.has_waited_for_identifier() {
            self.outbox.end(Ending::Unanswered);
        }
    }

    /// Answers who has asked to be told when nothing is left for it: nothing waits here or in the ledger, and whatever was
    /// sent is acknowledged.
    pub(super) fn tell_rest(&mut self, out: &mut BytesMut) {
        if self.asked_for_rest == 0 {
            return;
        }
        let sent = self.unsaid == 0 && self.walks.is_empty() && self.course.is_empty();
        if !sent || self.session.has_flights() || !self.outbox.is_clear() {
            return;
        }
        for _ in 0..std::mem::take(&mut self.asked_for_rest) {
            encode::pong(out);
            self.shared.stats.packets_sent.one();
        }
    }

    /// A page of what the session is owed has been read.
    pub(super) fn page(&mut self, rows: Vec<OwedRow>) {
        let last = rows.last().map(|row| row.ordinal);
        let deliveries = self.readable(rows);
        self.course.page((deliveries, last), &self.outbox, &mut self.session);
    }

    /// What of a page may still be sent: rights may have changed since it was owed. Of the rest it is owed nothing any more.
    fn readable(&self, rows: Vec<OwedRow>) -> Vec<Delivery> {
        let Self { shared, identity, .. } = self;
        let deliveries = rows.into_iter().map(|row| keeping::delivery(row, &shared.clock));
        let (mut readable, others): (Vec<_>, Vec<_>) =
            deliveries.partition(|delivery| is_readable(&shared.access, identity, delivery));
        self.take_back(&others);
        for delivery in &mut readable {
            delivery.hold(&shared.waiting);
        }
        readable
    }

    /// What its client may not read any more: it is owed nothing of that, and others of its group get it.
    fn take_back(&self, deliveries: &[Delivery]) {
        let (shared, tally) = (&self.shared, self.tally.as_ref());
        let (for_others, dropped): (Vec<_>, Vec<_>) = deliveries.iter().partition(|delivery| delivery.shared.is_some());
        shared.hand_on(&for_others.into_iter().cloned().collect::<Vec<_>>());
        for delivery in dropped {
            shared.stats.dropped_ended.one();
            if let (Some(tally), Some(owed)) = (tally, delivery.owed) {
                shared.settle(tally, owed);
            }
        }
    }

    /// Nothing is left to be sent or acknowledged: what a session is owed and has seen is known for certain now.
    /// `version`: of the retained messages, before it was looked whether any is waiting.
    fn look_whether_in_step(&mut self, version: u64) {
        let lasting = self.session.lifetime() != Lifetime::Connection;
        if !lasting || !self.walks.is_empty() || !self.course.is_empty() || self.session.has_passing() {
            return;
        }
        if self.outbox.is_clear() {
            self.in_step = version;
            if let Some(tally) = self.tally.as_ref().filter(|_| !self.session.has_flights()) {
                self.shared.nothing_is_owed(tally, &self.outbox);
            }
        }
    }
}

/// The first of those that may go on.
fn next_walk<'a>(walks: &'a mut BTreeMap<Arc<str>, Walk>, outbox: &Outbox) -> Option<(Arc<str>, &'a mut Walk)> {
    if walks.is_empty() {
        return None;
    }
    let ((taken, _), behind) = (outbox.numbers(), outbox.behind());
    let (filter, walk) = walks.iter_mut().find(|(_, walk)| walk.is_due(taken, behind))?;
    Some((Arc::clone(filter), walk))
}

/// May it still be sent to this client? PUBREL may: nothing is in it.
fn is_readable(access: &Access, who: &Identity, delivery: &Delivery) -> bool {
    let released = delivery.owed.is_some_and(|owed| owed.stage == Stage::Released);
    released || access.may_read(who, &delivery.message.topic)
}
