//! Which numbers came, which came twice, which were declared lost, and which are missing. Pure.
//!
//! Keyed by stream, epoch and gateway. A tag topic does not tell the gateway, so a record without one
//! goes to the epoch of that number that is known: an epoch is random, two gateways share one only where a disk was
//! copied, and those that say their names (in batches, gap records, the status) are kept apart even then. Missing =
//! numbers that must exist, did not come and were not declared in a gap record. A number must exist when a higher one of
//! its epoch came, or when the next epoch names it as the last of this one. Below the first that came, it depends on
//! [`Begin`]. What the gateway's status says it has stored, but has not come yet, is `outstanding`, not missing.

use std::collections::BTreeMap;

use crate::model::number::{Class, Epoch, Number, Seq};
use crate::payload::json::Previous;

use super::ranges::Ranges;
pub use super::report::{Report, StreamReport};

/// Epochs that are kept: 10 000 gateways with four streams, three times over.
const LIVES_MAX: usize = 131_072;
/// Ranges that are kept of all epochs together; beyond that holes are closed and their size reported.
const RANGES_MAX: usize = 2_000_000;
/// Holes that a report lists one by one.
const HOLES_LISTED_MAX: usize = 10;

/// What is expected of an epoch's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Begin {
    /// The receiver may have come late: what lies before the first number that came is not its concern.
    #[default]
    FirstSeen,
    /// The receiver was there before the gateway: every epoch is expected from number 1.
    One,
}

/// What an earlier run, or another receiver, has put away of one epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    /// A range of numbers.
    pub came: Option<(u64, u64)>,
    /// Records that came again.
    pub duplicates: u64,
    /// The epoch before.
    pub previous: Option<Previous>,
    /// The newest number that the gateway's status named.
    pub newest: Option<u64>,
}

/// Whether a record is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// Never seen before: use it.
    New,
    /// Seen: drop it.
    Duplicate,
}

#[derive(Debug, Default)]
struct Life {
    gateway: Option<String>,
    came: Ranges,
    declared: Ranges,
    received: u64,
    duplicates: u64,
    out_of_order: u64,
    forgotten: u64,
    /// Its last number, as the epoch after it said.
    ended_at: Option<u64>,
    newest: Option<u64>,
    previous: Option<Previous>,
}

/// The books of one receiver.
#[derive(Debug, Default)]
pub struct Ledger {
    begin: Begin,
    lives: BTreeMap<(Class, Epoch), Vec<Life>>,
    lives_kept: usize,
    ranges: usize,
    turned_away: u64,
}

impl Ledger {
    /// Nothing came yet.
    pub fn new(begin: Begin) -> Self {
        Self { begin, ..Self::default() }
    }

    /// A record came, from a gateway that did not say its name. `previous` is what it said about the epoch before its own.
    pub fn note(&mut self, number: Number, previous: Option<Previous>) -> Noted {
        self.note_from(None, number, previous)
    }

    /// A record came from this gateway.
    pub fn note_from(&mut self, gateway: Option<&str>, number: Number, previous: Option<Previous>) -> Noted {
        let limit = self.ranges < RANGES_MAX;
        let Some(life) = self.life(gateway, number.stream, number.epoch) else {
            return Noted::New; // cannot tell; a consumer would rather have it twice
        };
        if let Some(previous) = previous {
            life.previous = Some(previous);
        }
        let before = life.came.len();
        let noted = if life.came.contains(number.seq.0) {
            life.duplicates += 1;
            Noted::Duplicate
        } else {
            life.out_of_order += u64::from(life.came.last().is_some_and(|last| last > number.seq.0));
            life.received += 1;
            let forgotten = life.came.insert(number.seq.0, number.seq.0, limit);
            life.forgotten = life.forgotten.saturating_add(forgotten);
            Noted::New
        };
        let after = life.came.len();
        self.ranges = (self.ranges + after).saturating_sub(before);
        if let Some(Previous { epoch, seq: Some(seq) }) = previous
            && let Some(life) = self.life(gateway, number.stream, epoch)
        {
            life.ended_at = Some(seq.0);
        }
        noted
    }

    /// Numbers that an earlier run, or another receiver, has put away.
    pub fn note_kept(&mut self, gateway: Option<&str>, (stream, epoch): (Class, Epoch), kept: &Kept) {
        let limit = self.ranges < RANGES_MAX;
        let Some(life) = self.life(gateway, stream, epoch) else { return };
        life.duplicates += kept.duplicates;
        life.previous = kept.previous.or(life.previous);
        life.newest = life.newest.max(kept.newest);
        let before = life.came.len();
        if let Some((first, last)) = kept.came {
            let new: u64 = life.came.holes(first, last).map(|(first, last)| last - first + 1).sum();
            life.received += new;
            let forgotten = life.came.insert(first, last, limit);
            life.forgotten = life.forgotten.saturating_add(forgotten);
        }
        let after = life.came.len();
        self.ranges = (self.ranges + after).saturating_sub(before);
        if let Some(Previous { epoch, seq: Some(seq) }) = kept.previous
            && let Some(life) = self.life(gateway, stream, epoch)
        {
            life.ended_at = Some(seq.0);
        }
    }

    /// A gap record came: these numbers were lost by the gateway, and it says so. Repetitions do no harm.
    pub fn note_gap(&mut self, stream: Class, epoch: Epoch, first: Seq, last: Seq) {
        self.note_gap_from(None, (stream, epoch), first, last);
    }

    /// The same, from this gateway.
    pub fn note_gap_from(&mut self, gateway: Option<&str>, (stream, epoch): (Class, Epoch), first: Seq, last: Seq) {
        let limit = self.ranges < RANGES_MAX;
        if let Some(life) = self.life(gateway, stream, epoch) {
            let before = life.declared.len();
            let forgotten = life.declared.insert(first.0, last.0, limit);
            let after = life.declared.len();
            self.ranges = (self.ranges + after).saturating_sub(before);
            // What lay between two of them now counts as declared, and may not have been.
            self.turned_away += u64::from(forgotten > 0);
        }
    }

    /// The gateway's status says that this is its newest number.
    pub fn note_newest(&mut self, stream: Class, epoch: Epoch, seq: Seq) {
        self.note_newest_from(None, stream, epoch, seq);
    }

    /// The same, from this gateway.
    pub fn note_newest_from(&mut self, gateway: Option<&str>, stream: Class, epoch: Epoch, seq: Seq) {
        if let Some(life) = self.life(gateway, stream, epoch) {
            life.newest = life.newest.max(Some(seq.0));
        }
    }

    fn life(&mut self, gateway: Option<&str>, stream: Class, epoch: Epoch) -> Option<&mut Life> {
        let lives = self.lives.get(&(stream, epoch)).map_or(&[][..], Vec::as_slice);
        let mine = |life: &Life| gateway.is_none() || life.gateway.as_deref() == gateway;
        let place = lives.iter().position(mine).or_else(|| lives.iter().position(|life| life.gateway.is_none()));
        if place.is_none() && self.lives_kept >= LIVES_MAX {
            self.turned_away += 1;
            return None;
        }
        let lives = self.lives.entry((stream, epoch)).or_default();
        let place = place.unwrap_or_else(|| {
            self.lives_kept += 1;
            lives.push(Life::default());
            lives.len() - 1
        });
        let life = lives.get_mut(place)?;
        if life.gateway.is_none() {
            life.gateway = gateway.map(str::to_owned);
        }
        Some(life)
    }

    /// The sums, and each epoch.
    pub fn report(&self) -> Report {
        let all = self.lives.iter().flat_map(|(key, lives)| lives.iter().map(|life| self.stream(*key, life)));
        Report { not_tracked: self.turned_away, ..all.collect() }
    }

    fn stream(&self, (class, epoch): (Class, Epoch), life: &Life) -> StreamReport {
        let mut known = life.came.clone();
        let (mut declared_lost, mut forgotten) = (0, life.forgotten);
        for (first, last) in holes_of_declared(life) {
            forgotten = forgotten.saturating_add(known.insert(first, last, true));
            declared_lost += last - first + 1;
        }
        let seen_to = known.last().unwrap_or(0);
        let from = match self.begin {
            Begin::One => 1,
            Begin::FirstSeen => known.first().unwrap_or(life.ended_at.unwrap_or(0).saturating_add(1)),
        };
        let upto = seen_to.max(life.ended_at.unwrap_or(0));
        let (mut missing, mut holes) = (forgotten, Vec::new());
        for (first, last) in known.holes(from, upto) {
            missing = missing.saturating_add(last - first + 1);
            if holes.len() < HOLES_LISTED_MAX {
                holes.push((first, last));
            }
        }
        StreamReport {
            gateway: life.gateway.clone(),
            stream: class.as_str(),
            epoch: epoch.0,
            first: life.came.first(),
            last: life.came.last(),
            received: life.received,
            duplicates: life.duplicates,
            out_of_order: life.out_of_order,
            declared_lost,
            missing,
            holes,
            outstanding: match (self.begin, known.first()) {
                (Begin::FirstSeen, None) => 0, // all of it may have come before this receiver did
                _ => life.newest.map_or(0, |newest| newest.saturating_sub(upto.max(from.saturating_sub(1)))),
            },
            previous_epoch: life.previous.map(|previous| previous.epoch.0),
        }
    }
}

/// Declared lost and indeed not received (a record may have got through before its store lost it).
fn holes_of_declared(life: &Life) -> Vec<(u64, u64)> {
    let (Some(first), Some(last)) = (life.declared.first(), life.declared.last()) else {
        return Vec::new();
    };
    let undeclared: Vec<(u64, u64)> = life.declared.holes(first, last).collect();
    let mut either = life.came.clone();
    for (first, last) in undeclared {
        either.insert(first, last, true);
    }
    either.holes(first, last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(epoch: u64, seq: u64) -> Number {
        Number { stream: Class::Telemetry, epoch: Epoch(epoch), seq: Seq(seq) }
    }

    fn came(ledger: &mut Ledger, epoch: u64, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            ledger.note(number(epoch, seq), None);
        }
    }

    #[test]
    fn holes_are_missing_and_repetitions_are_duplicates() {
        let mut ledger = Ledger::new(Begin::FirstSeen);
        came(&mut ledger, 7, [5, 6, 9, 6, 10]);
        assert_eq!(ledger.note(number(7, 10), None), Noted::Duplicate);
        let report = ledger.report();
        assert_eq!((report.received, report.duplicates, report.missing), (4, 2, 2));
        assert_eq!(report.streams[0].holes, [(7, 8)]);
        came(&mut ledger, 7, [7, 8]);
        let report = ledger.report();
        assert_eq!((report.missing, report.out_of_order), (0, 2));
        assert!(report.is_complete());
    }

    #[test]
    fn a_receiver_that_was_there_first_expects_every_epoch_from_one() {
        for (begin, missing) in [(Begin::One, 4), (Begin::FirstSeen, 0)] {
            let mut ledger = Ledger::new(begin);
            came(&mut ledger, 7, 5..=8);
            assert_eq!(ledger.report().missing, missing);
        }
    }

    #[test]
    fn what_was_declared_lost_is_not_missing_and_what_came_anyway_is_not_lost() {
        let mut ledger = Ledger::new(Begin::One);
        came(&mut ledger, 7, (1..=10).chain(21..=30));
        ledger.note_gap(Class::Telemetry, Epoch(7), Seq(8), Seq(18));
        ledger.note_gap(Class::Telemetry, Epoch(7), Seq(8), Seq(18));
        let report = ledger.report();
        assert_eq!((report.declared_lost, report.missing), (8, 2));
        assert_eq!(report.streams[0].holes, [(19, 20)]);
    }

    #[test]
    fn gap_records_beyond_the_limit_hide_no_hole() {
        let mut ledger = Ledger::new(Begin::One);
        (1..=65_540).for_each(|n| ledger.note_gap(Class::Telemetry, Epoch(7), Seq(n * 10), Seq(n * 10)));
        assert!(!ledger.report().is_complete());
        assert!(ledger.report().not_tracked > 0);
    }

    #[test]
    fn a_gap_at_the_end_and_a_gap_before_anything_came_count() {
        let mut ledger = Ledger::new(Begin::One);
        ledger.note_gap(Class::Telemetry, Epoch(7), Seq(1), Seq(3));
        came(&mut ledger, 7, 4..=6);
        ledger.note_gap(Class::Telemetry, Epoch(7), Seq(7), Seq(9));
        let report = ledger.report();
        assert_eq!((report.received, report.declared_lost, report.missing), (3, 6, 0));
    }

    #[test]
    fn the_next_epoch_tells_where_the_one_before_should_have_ended() {
        let mut ledger = Ledger::new(Begin::One);
        came(&mut ledger, 7, 1..=90);
        ledger.note(number(8, 1), Some(Previous { epoch: Epoch(7), seq: Some(Seq(100)) }));
        let report = ledger.report();
        assert_eq!(report.missing, 10);
        assert_eq!(report.streams[0].holes, [(91, 100)]);
        assert_eq!(report.streams[1].previous_epoch, Some(7));
        ledger.note_gap(Class::Telemetry, Epoch(7), Seq(91), Seq(100));
        assert_eq!(ledger.report().missing, 0);
    }

    #[test]
    fn an_epoch_known_by_name_only_is_missing_whole_for_one_who_was_there() {
        for (begin, missing) in [(Begin::One, 100), (Begin::FirstSeen, 0)] {
            let mut ledger = Ledger::new(begin);
            ledger.note(number(8, 1), Some(Previous { epoch: Epoch(7), seq: Some(Seq(100)) }));
            assert_eq!(ledger.report().missing, missing);
        }
    }

    #[test]
    fn what_the_status_announces_is_outstanding_until_it_comes() {
        for (begin, outstanding) in [(Begin::One, 12), (Begin::FirstSeen, 0)] {
            let mut ledger = Ledger::new(begin);
            ledger.note_newest(Class::Telemetry, Epoch(7), Seq(12));
            assert_eq!(ledger.report().outstanding, outstanding);
        }
        let mut ledger = Ledger::new(Begin::FirstSeen);
        ledger.note_newest(Class::Telemetry, Epoch(7), Seq(12));
        came(&mut ledger, 7, 1..=10);
        ledger.note_newest(Class::Telemetry, Epoch(7), Seq(11));
        let report = ledger.report();
        assert_eq!((report.outstanding, report.missing), (2, 0));
    }

    #[test]
    fn streams_are_counted_apart() {
        let mut ledger = Ledger::new(Begin::One);
        came(&mut ledger, 7, 1..=3);
        ledger.note(Number { stream: Class::Alarm, ..number(7, 1) }, None);
        assert_eq!(ledger.report().streams.len(), 2);
        assert_eq!(ledger.report().received, 4);
    }
}
