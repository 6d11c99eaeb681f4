//! A session's side of the ledger: what it is owed is numbered here, counted and bounded.
//!
//! The bounds are on bytes on disk. What is owed to several sessions is charged to each of them, though its body lies there
//! once: so the file is never larger than the bounds say. That for all is no bound for a session that owes next to nothing:
//! each has a small share, whatever the others are owed. What goes beyond the shares has what all shares leave of it; so it is
//! passed by the shares of those sessions only that began when it was reached.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::clients::Presence;
use super::message::{Delivery, Message, Owed, ROW_COST, Stage};
use super::outbox::Outbox;
use super::session::{Course, WINDOW_MAX};
use crate::config::plan::SessionsPlan;
use crate::disk::ledger::{GivenUp, Kept, MessageRow, SessionId};
use crate::model::time::Stamp;

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
    /// When, if that was in this process.
    pub left_at: Option<Stamp>,
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
    /// Of each session, bytes.
    share: u64,
    count: AtomicU64,
    bytes: AtomicU64,
    /// What is owed beyond the shares, bytes: a sum of changes that arrive in any order, and so below 0 at times.
    beyond: AtomicI64,
    sessions: AtomicU64,
}

impl Total {
    pub(super) fn new(bounds: &SessionsPlan) -> Self {
        Self { share: bounds.share(), ..Self::default() }
    }

    /// Messages and their bytes.
    pub(super) fn now(&self) -> (u64, u64) {
        (self.count.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// What is owed beyond the shares, and what may be, bytes.
    fn beyond(&self, bounds: &SessionsPlan) -> (u64, u64) {
        let shares = self.share.saturating_mul(self.sessions.load(Ordering::Relaxed));
        let beyond = u64::try_from(self.beyond.load(Ordering::Relaxed)).unwrap_or(0);
        (beyond, bounds.sessions_max_size.saturating_sub(shares))
    }

    /// A session is owed so many bytes, and was owed so many.
    fn goes(&self, from: u64, to: u64) {
        let beyond = |bytes: u64| bytes.saturating_sub(self.share).cast_signed();
        self.beyond.fetch_add(beyond(to) - beyond(from), Ordering::Relaxed);
    }
}

impl Tally {
    fn new(id: SessionId, all: &Arc<Total>) -> Self {
        all.sessions.fetch_add(1, Ordering::Relaxed);
        Self { id, count: AtomicU64::new(0), bytes: AtomicU64::new(0), all: Arc::clone(all) }
    }

    fn more(&self, count: u64, bytes: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
        self.all.count.fetch_add(count, Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.all.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.all.goes(before, before + bytes);
    }

    fn fewer(&self, count: u64, bytes: u64) {
        take_off(&self.count, &self.all.count, count);
        let (before, after) = take_off(&self.bytes, &self.all.bytes, bytes);
        self.all.goes(before, after);
    }

    /// One is settled.
    pub(super) fn less(&self, cost: u32) {
        self.fewer(1, cost.into());
    }

    /// These were to be owed and are not.
    pub(super) fn given_up(&self, given_up: GivenUp) {
        let costs = given_up.rows.saturating_mul(ROW_COST.into());
        self.fewer(given_up.rows, given_up.bytes.saturating_add(costs));
    }

    /// Only PUBREL is owed of one.
    pub(super) fn released(&self, owed: Owed) {
        self.fewer(0, (owed.cost - owed.released().cost).into());
    }

    /// Nothing is owed: mends what rows that were refused have left in the sum.
    pub(super) fn clear(&self) {
        self.fewer(u64::MAX, u64::MAX);
    }

    /// Messages and their bytes.
    pub(super) fn now(&self) -> (u64, u64) {
        (self.count.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.all.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes off both sums what is there of it, so that neither ever wraps: what its own was and is.
fn take_off(own: &AtomicU64, all: &AtomicU64, amount: u64) -> (u64, u64) {
    let less = |now: u64| Some(now.saturating_sub(amount));
    let before = own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or_else(|now| now);
    let taken = before.min(amount);
    let less = |now: u64| Some(now.saturating_sub(taken));
    all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or_else(|now| now);
    (before, before - taken)
}

impl Durable {
    /// A new session.
    pub(super) fn new(id: SessionId, version: u8, all: &Arc<Total>) -> Self {
        let tally = Arc::new(Tally::new(id, all));
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
            left_at: None,
            version,
            walking,
        }
    }

    /// As it was found on disk.
    pub(super) fn found(kept: &Kept, all: &Arc<Total>) -> Self {
        let mut durable = Self::new(kept.session.id, kept.session.version, all);
        let bytes = kept.owed_bytes.saturating_add(kept.owed_count.saturating_mul(ROW_COST.into()));
        durable.tally.more(kept.owed_count, bytes);
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
        self.has(bounds, |sum, bound| sum + u64::from(cost) <= bound)
    }

    /// Is there so much room in its share, or in its bound and in what is left for what goes beyond the shares?
    fn has(&self, bounds: &SessionsPlan, room: impl Fn(u64, u64) -> bool) -> bool {
        let ((_, own), (beyond, left)) = (self.tally.now(), self.tally.all.beyond(bounds));
        room(own, bounds.share()) || room(own, bounds.session_max_size) && room(beyond, left)
    }

    /// Numbers one more message; `None`: there is no room.
    pub(super) fn owe(&mut self, delivery: &Delivery, bounds: &SessionsPlan) -> Option<Owed> {
        let cost = charge(&delivery.message, delivery.ids.len());
        if !self.fits(cost, bounds) {
            self.refused = self.refused.max(cost);
            return None;
        }
        self.tally.more(1, cost.into());
        let ordinal = self.next;
        self.next += 1;
        Some(Owed { ordinal, cost, stage: Stage::Entered })
    }

    /// Is there room again for a good while, also for what was refused?
    pub(super) fn has_room(&self, bounds: &SessionsPlan) -> bool {
        let refused = u64::from(self.refused.max(ROW_COST));
        self.has(bounds, |sum, bound| sum <= bound / 10 * 9 && sum + refused <= bound)
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
mod tests;
