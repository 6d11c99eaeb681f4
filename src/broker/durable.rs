//! A session's side of the ledger: what it is owed is numbered here, counted and bounded.
//!
//! The bounds are on bytes on disk. What is owed to several sessions is charged to each of them, though its body lies there
//! once: so the file is never larger than the bounds say. That for all is no bound for a session that owes next to nothing:
//! each has a small share, whatever the others are owed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::clients::Presence;
use super::message::{Delivery, Message, Owed, ROW_COST, Stage};
use super::outbox::Outbox;
use super::session::{Course, WINDOW_MAX};
use crate::config::plan::SessionsPlan;
use crate::disk::ledger::{GivenUp, Kept, MessageRow, SessionId};

/// A power cut may take back the count of what was dropped within this time.
const COUNTED_EVERY: Duration = Duration::from_secs(60);

/// A session that the ledger knows.
#[derive(Debug)]
pub(super) struct Durable {
    pub tally: Arc<Tally>,
    /// The next ordinal.
    next: u64,
    /// Messages that found no room and of which the client has not been told.
    pub dropped: u64,
    /// Has it been noticed that there is no room, and how many had been dropped then?
    pub full: bool,
    pub noticed: u64,
    /// What the largest message would have been charged that found no room: there is room again when that fits.
    refused: u32,
    /// How many had been dropped when its row was written last, and when that was.
    written: (u64, Option<Instant>),
    /// When it was looked last whether anything it is owed has expired.
    pub looked: Option<Instant>,
    /// Lowest ordinal that no connection has sent.
    pub sent_below: u64,
    /// The gateway was cut off while the client was connected.
    cut_off: bool,
    /// When the client left, as it was put in the ledger: ms since 1970.
    pub left_unix_ms: Option<i64>,
    /// Protocol level of its last CONNECT.
    pub version: u8,
    /// Subscriptions whose rows say that clients' retained messages are still to be entered for them.
    pub walking: HashSet<Arc<str>>,
}

/// What one session is owed; its connection takes off what is settled.
#[derive(Debug)]
pub(super) struct Tally {
    pub id: SessionId,
    count: AtomicU64,
    bytes: AtomicU64,
    all: Arc<Total>,
}

/// What all sessions are owed.
#[derive(Debug, Default)]
pub(super) struct Total {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl Total {
    /// Messages and their bytes.
    pub(super) fn now(&self) -> (u64, u64) {
        (self.count.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

impl Tally {
    fn more(&self, cost: u32) {
        for (count, bytes) in [(&self.count, &self.bytes), (&self.all.count, &self.all.bytes)] {
            count.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(cost.into(), Ordering::Relaxed);
        }
    }

    /// One is settled.
    pub(super) fn less(&self, cost: u32) {
        take_off(&self.count, &self.all.count, 1);
        take_off(&self.bytes, &self.all.bytes, cost.into());
    }

    /// These were to be owed and are not.
    pub(super) fn given_up(&self, given_up: GivenUp) {
        take_off(&self.count, &self.all.count, given_up.rows);
        let costs = given_up.rows.saturating_mul(ROW_COST.into());
        take_off(&self.bytes, &self.all.bytes, given_up.bytes.saturating_add(costs));
    }

    /// Only PUBREL is owed of one.
    pub(super) fn released(&self, owed: Owed) {
        take_off(&self.bytes, &self.all.bytes, (owed.cost - owed.released().cost).into());
    }

    /// Nothing is owed: mends what rows that were refused have left in the sum.
    pub(super) fn clear(&self) {
        take_off(&self.count, &self.all.count, u64::MAX);
        take_off(&self.bytes, &self.all.bytes, u64::MAX);
    }

    /// Messages and their bytes.
    pub(super) fn now(&self) -> (u64, u64) {
        (self.count.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// Takes off both sums what is there of it, so that neither ever wraps.
fn take_off(own: &AtomicU64, all: &AtomicU64, amount: u64) {
    let less = |now: u64| Some(now.saturating_sub(amount));
    let before = own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or_else(|now| now);
    let taken = before.min(amount);
    let less = |now: u64| Some(now.saturating_sub(taken));
    all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or_else(|now| now);
}

impl Durable {
    /// A new session.
    pub(super) fn new(id: SessionId, version: u8, all: &Arc<Total>) -> Self {
        let all = Arc::clone(all);
        let tally = Arc::new(Tally { id, count: AtomicU64::new(0), bytes: AtomicU64::new(0), all });
        let (next, dropped, noticed, full, written) = (0, 0, 0, false, (0, None));
        let (sent_below, cut_off, left_unix_ms) = (0, false, None);
        let walking = HashSet::new();
        let (looked, refused) = (None, 0);
        Self {
            tally,
            next,
            dropped,
            full,
            noticed,
            refused,
            written,
            looked,
            sent_below,
            cut_off,
            left_unix_ms,
            version,
            walking,
        }
    }

    /// As it was found on disk.
    pub(super) fn found(kept: &Kept, all: &Arc<Total>) -> Self {
        let mut durable = Self::new(kept.session.id, kept.session.version, all);
        let bytes = kept.owed_bytes.saturating_add(kept.owed_count.saturating_mul(ROW_COST.into()));
        for (count_sum, byte_sum) in [(&durable.tally.count, &durable.tally.bytes), (&all.count, &all.bytes)] {
            count_sum.fetch_add(kept.owed_count, Ordering::Relaxed);
            byte_sum.fetch_add(bytes, Ordering::Relaxed);
        }
        durable.next = kept.next_ordinal;
        (durable.dropped, durable.noticed) = (kept.session.dropped, kept.session.dropped);
        durable.written.0 = kept.session.dropped;
        durable.left_unix_ms = kept.session.left_unix_ms;
        (durable.sent_below, durable.cut_off) =
            (kept.session.sent_below.unwrap_or(0), kept.session.sent_below.is_none());
        durable
    }

    /// For its row.
    pub(super) fn sent_below_of(&self, presence: &Presence) -> Option<u64> {
        (matches!(presence, Presence::Away(_)) && !self.cut_off).then_some(self.sent_below)
    }

    /// All ordinals so far are below.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Is there room for one more message, with so many identifiers?
    pub(super) fn takes(&self, message: &Message, ids: usize, bounds: &SessionsPlan) -> bool {
        self.fits(charge(message, ids), bounds)
    }

    fn fits(&self, cost: u32, bounds: &SessionsPlan) -> bool {
        let fits = |sum: (u64, u64), bound: u64| sum.1 + u64::from(cost) <= bound;
        let (own, all) = (self.tally.now(), self.tally.all.now());
        fits(own, bounds.share()) || fits(own, bounds.session_max_size) && fits(all, bounds.sessions_max_size)
    }

    /// Numbers one more message; `None`: there is no room.
    pub(super) fn owe(&mut self, delivery: &Delivery, bounds: &SessionsPlan) -> Option<Owed> {
        let cost = charge(&delivery.message, delivery.ids.len());
        if !self.fits(cost, bounds) {
            self.refused = self.refused.max(cost);
            return None;
        }
        self.tally.more(cost);
        let ordinal = self.next;
        self.next += 1;
        Some(Owed { ordinal, cost, stage: Stage::Entered })
    }

    /// Is there room again for a good while, also for what was refused?
    pub(super) fn has_room(&self, bounds: &SessionsPlan) -> bool {
        let refused = u64::from(self.refused);
        let roomy = |sum: (u64, u64), bound: u64| sum.1 <= bound / 10 * 9 && sum.1 + refused <= bound;
        let (own, all) = (self.tally.now(), self.tally.all.now());
        roomy(own, bounds.share()) || roomy(own, bounds.session_max_size) && roomy(all, bounds.sessions_max_size)
    }

    /// It is told that there is room again.
    pub(super) fn roomy_again(&mut self) {
        (self.full, self.noticed, self.refused) = (false, self.dropped, 0);
    }

    /// Its row is written.
    pub(super) fn written(&mut self) {
        self.written = (self.dropped, Some(Instant::now()));
    }

    /// Does the row say another number of dropped messages?
    pub(super) fn is_miscounted(&self) -> bool {
        self.dropped != self.written.0
    }

    /// The same, and for so long that it should be written again: while there is no room the number rises all the time.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_miscounted() && self.written.1.is_none_or(|at| now.duration_since(at) >= COUNTED_EVERY)
    }

    /// The client is being told how many found no room: so many.
    pub(super) fn tell_dropped(&mut self) -> u64 {
        (self.noticed, self.refused) = (0, 0);
        std::mem::take(&mut self.dropped)
    }

    /// Prepares a connection: the outbox begins behind if anything was ever owed. What the sums say is not asked: should they
    /// ever be too low, a message that was acknowledged to its publisher would lie there unsent.
    pub(super) fn begin(&mut self, outbox: &Outbox) -> Course {
        if let Some(last) = self.next.checked_sub(1) {
            outbox.begin_behind(last);
        }
        let perhaps_sent = if std::mem::take(&mut self.cut_off) { usize::from(WINDOW_MAX) } else { 0 };
        Course::new(self.sent_below, perhaps_sent)
    }
}

/// What a row read from the ledger is charged.
pub(super) fn cost_of(row: &MessageRow, identifiers: &[u32]) -> u32 {
    cost(row.bytes_with(identifiers))
}

/// What a message is charged that is still to be entered.
fn charge(message: &Message, ids: usize) -> u32 {
    cost(message.topic.len() + message.payload.len() + message.properties().len() + ids * size_of::<u32>())
}

/// What so many bytes of content are charged.
pub(super) fn cost(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(ROW_COST)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::broker::keeping;
    use crate::broker::message::{Keep, Qos, Retain};
    use crate::disk::ledger::{OwedRow, SessionRow};
    use crate::flow::clock::{Clock, FakeTime};
    use crate::model::time::Boot;

    fn message(bytes: usize) -> Delivery {
        let message = Message::own("topic".into(), vec![b'x'; bytes].into(), Keep::Every);
        let (qos, retain, ids) = (Qos::AtLeastOnce, Retain::No, Vec::new());
        Delivery { message: Arc::new(message), qos, retain, ids, owed: None }
    }

    #[test]
    fn there_is_no_room_again_as_long_as_what_was_refused_does_not_fit() {
        let size = 64 << 10;
        let bounds = SessionsPlan {
            session_max_size: size,
            sessions_max_size: size,
            max_sessions: 8,
            ..SessionsPlan::default()
        };
        let all = Arc::new(Total::default());
        let mut greedy = Durable::new(SessionId(1), 5, &all);
        while greedy.owe(&message(1000), &bounds).is_some() {}
        let mut durable = Durable::new(SessionId(2), 5, &all);
        assert!(durable.owe(&message(1000), &bounds).is_some(), "of its share");
        assert!(durable.has_room(&bounds));
        assert!(durable.owe(&message(5000), &bounds).is_none(), "more than its share");
        assert!(!durable.has_room(&bounds), "or each tick would tell of another change");
        greedy.tally.clear();
        assert!(durable.has_room(&bounds));
        assert!(durable.owe(&message(100_000), &bounds).is_none(), "more than it may ever be owed");
        durable.tally.clear();
        assert!(!durable.has_room(&bounds));
        durable.tell_dropped();
        assert!(durable.has_room(&bounds), "its client knows");
    }

    #[test]
    fn a_message_with_many_identifiers_is_charged_the_same_when_it_comes_is_found_and_is_settled() {
        let clock = Clock::new(Arc::new(FakeTime::default()), Boot(1), 0);
        let message = Arc::new(Message::own("topic".into(), Bytes::from_static(b"x"), Keep::Every));
        let ids = vec![7; 4096];
        let delivery = Delivery { message, qos: Qos::AtLeastOnce, retain: Retain::No, ids, owed: None };
        let all = Arc::new(Total::default());
        let mut live = Durable::new(SessionId(1), 5, &all);
        let owed = live.owe(&delivery, &SessionsPlan::default()).expect("room");
        assert_eq!(live.tally.now(), (1, 64 + 6 + 4 * 4096));
        assert_eq!(all.now(), live.tally.now());
        let message = keeping::owed_row(&delivery.message, &clock);
        let (client_id, owner) = ("c".into(), "o".into());
        let session = SessionRow {
            id: SessionId(1),
            client_id,
            owner,
            version: 5,
            expiry_s: 9,
            left_unix_ms: None,
            dropped: 0,
            sent_below: None,
        };
        let owed_bytes = message.bytes_with(&delivery.ids) as u64;
        let (subscriptions, received, sensor) = (Vec::new(), Vec::new(), None);
        let kept = Kept { session, subscriptions, received, sensor, next_ordinal: 9, owed_count: 1, owed_bytes };
        let found = Durable::found(&kept, &Arc::default());
        assert_eq!(found.tally.now(), live.tally.now());
        let row =
            OwedRow { ordinal: 0, message, qos: 1, retain: false, identifiers: delivery.ids.clone(), released: false };
        let read = keeping::delivery(row, &clock).owed.expect("owed");
        assert_eq!(read.cost, owed.cost);
        found.tally.less(read.cost);
        assert_eq!(found.tally.now(), (0, 0));
    }
}
