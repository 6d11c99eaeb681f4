//! What becomes of a message that the broker does not take. Pure.
//!
//! * "Busy", "quota exceeded": everything waits a while, longer with each round, and what was not taken is sent again.
//! * "Not authorized" and errors without a reason: a person or the broker can mend that. It is sent again now and then;
//!   others go on meanwhile, unless nothing at all is taken.
//! * "Invalid", "too large": a message of many records is halved until the one record is found; that one is given up
//!   after [`STRIKES`] refusals.
//! * A broker that closes the connection whenever it gets a particular record cannot say so (MQTT 3.1.1). Sessions that
//!   end [`ENDS_SUSPICIOUS`] times with the same message at the head of the line make it suspect: from then on one message
//!   at a time, halved, until a single record is what the broker fell over, [`FALLS`] times in sessions in which it had
//!   answered before. A link that breaks before anything is answered proves nothing.
//!
//! What is given up is declared by a gap record (reason `refused`), counted and told.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::number::{Class, Epoch, Number};
use crate::model::time::Stamp;
use crate::store::{Ack, Item};

use super::window::{Alone, Answer};

/// Refusals after which a single record is given up.
const STRIKES: u32 = 3;
/// Sessions with the same message at the head of the line before it is suspect.
const ENDS_SUSPICIOUS: u32 = 3;
/// Times that a broker may fall over a single record before that is given up.
const FALLS: u32 = 5;
/// Messages refused in a row, without one that was taken, after which the others wait too.
const ROW_MAX: u32 = 8;
/// Refused messages that are remembered; beyond that all wait until they were sent again.
const SUSPECTS_MAX: usize = 32;
/// Records sent alone whose times are remembered.
const SINGLES_MAX: usize = 512;
/// The first wait for a busy broker; doubles up to the last.
const BUSY_FIRST: Duration = Duration::from_secs(1);
const BUSY_LAST: Duration = Duration::from_secs(60);

/// What is to be done about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It was taken.
    Taken,
    /// Nothing more is sent for this long; then everything that was not taken is.
    Pause(Duration),
    /// Others go on; it is sent again with the next round.
    NextRound,
    /// Nothing more is sent before the next round.
    PauseForRound,
    /// It is given up.
    Declare,
}

/// Numbers of one stream that go in messages of at most `size` records.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    stream: Class,
    epoch: Epoch,
    first: u64,
    last: u64,
    size: u64,
    strikes: u32,
    /// The broker fell over it: one message at a time.
    careful: bool,
}

impl Suspect {
    fn of(ack: Ack, careful: bool) -> Option<Self> {
        let Ack::Records { stream, epoch, first, last } = ack else { return None };
        let size = (ack.count() / 2).max(1);
        Some(Self { stream, epoch, first: first.0, last: last.0, size, strikes: 0, careful })
    }

    fn has(&self, number: Number) -> bool {
        let Number { stream, epoch, seq } = number;
        self.stream == stream && self.epoch == epoch && (self.first..=self.last).contains(&seq.0)
    }

    fn covers(&self, other: &Self) -> bool {
        let same = self.stream == other.stream && self.epoch == other.epoch;
        same && self.first <= other.first && other.last <= self.last
    }
}

/// The message at the head of the line when sessions ended.
#[derive(Debug, Clone, Copy)]
struct Head {
    ack: Ack,
    ends: u32,
    falls: u32,
}

/// Of one uplink, over all its sessions.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    suspects: Vec<Suspect>,
    gaps: Vec<(i64, u32)>,
    head: Option<Head>,
    /// Rounds in a row that ended so.
    busy: u32,
    busy_in_round: bool,
    row: u32,
    /// Refused since the last round.
    round: usize,
    singles: VecDeque<(Number, Stamp)>,
}

impl Refusals {
    /// What follows from an answer to something that is owed.
    pub(super) fn answered(&mut self, ack: Ack, answer: Answer) -> Ruling {
        match answer {
            Answer::Taken => {
                self.taken(ack);
                Ruling::Taken
            }
            Answer::TryLater(0x80 | 0x83 | 0x87) => self.others_go_on(),
            Answer::TryLater(_) => {
                // A whole window may be answered so: that is one time, not as many as there are messages in it.
                self.busy += u32::from(!std::mem::replace(&mut self.busy_in_round, true));
                Ruling::Pause(BUSY_LAST.min(BUSY_FIRST * 2_u32.pow(self.busy.saturating_sub(1).min(6))))
            }
            Answer::Refused(0x87) => self.others_go_on(),
            Answer::Refused(_) => self.refused(ack),
        }
    }

    /// A message of these records is larger than the broker takes, or one that it will not take.
    pub(super) fn refused(&mut self, ack: Ack) -> Ruling {
        let strikes = match Suspect::of(ack, false) {
            None => {
                let Ack::Gap(id) = ack else { return Ruling::NextRound };
                let strikes = 1 + self.gaps.iter().find(|gap| gap.0 == id).map_or(0, |gap| gap.1);
                self.gaps.retain(|gap| gap.0 != id);
                self.gaps.truncate(SUSPECTS_MAX);
                self.gaps.push((id, strikes));
                strikes
            }
            Some(mut new) => {
                let old =
                    self.suspects.iter().find(|old| old.first == new.first && old.covers(&new) && new.covers(old));
                new.strikes = old.map_or(0, |old| old.strikes) + u32::from(ack.count() == 1);
                self.suspect(new);
                new.strikes
            }
        };
        if strikes >= STRIKES {
            self.given_up(ack);
            return Ruling::Declare;
        }
        self.others_go_on()
    }

    fn suspect(&mut self, new: Suspect) {
        self.suspects.retain(|old| !new.covers(old));
        if self.suspects.len() >= SUSPECTS_MAX {
            self.suspects.remove(0);
        }
        // The smaller one is found first.
        let place = self.suspects.partition_point(|old| old.last - old.first < new.last - new.first);
        self.suspects.insert(place, new);
    }

    fn others_go_on(&mut self) -> Ruling {
        self.row += 1;
        self.round += 1;
        if self.row >= ROW_MAX || self.round >= SUSPECTS_MAX { Ruling::PauseForRound } else { Ruling::NextRound }
    }

    /// Everything that was not taken is sent again now.
    pub(super) fn next_round(&mut self) {
        (self.row, self.round, self.busy_in_round) = (0, 0, false);
    }

    fn taken(&mut self, ack: Ack) {
        (self.busy, self.busy_in_round, self.row) = (0, false, 0);
        if self.head.is_some_and(|head| head.ack == ack) {
            self.head = None;
        }
        if self.suspects.is_empty() && self.gaps.is_empty() {
            return;
        }
        self.given_up(ack);
    }

    /// The source has it back unsent: it is not what the next session begins with, nor will an answer ever clear it.
    pub(super) fn settled(&mut self, ack: Ack) {
        if self.head.is_some_and(|head| start(head.ack) == start(ack)) {
            self.head = None;
        }
        self.given_up(ack);
    }

    /// Nothing of it is suspect any more; records behind it still are.
    fn given_up(&mut self, ack: Ack) {
        if let Ack::Gap(id) = ack {
            self.gaps.retain(|gap| gap.0 != id);
        }
        let Some(done) = Suspect::of(ack, false) else { return };
        for old in &mut self.suspects {
            if old.stream == done.stream && old.epoch == done.epoch && done.first <= old.first && old.first <= done.last
            {
                old.first = done.last + 1;
            } else if old.covers(&done) && done.last == old.last {
                old.last = done.first - 1;
            }
        }
        self.suspects.retain(|old| old.first <= old.last);
    }

    /// One message at a time?
    pub(super) fn careful(&self) -> bool {
        self.suspects.iter().any(|suspect| suspect.careful)
    }

    /// With how many others a record may share a message; `None`: as many as there are.
    pub(super) fn company(&mut self, item: &Item) -> Option<u64> {
        if self.suspects.is_empty() {
            return None;
        }
        let Item::Record(owed) = item else { return None };
        let size = self.suspects.iter().find(|suspect| suspect.has(owed.number))?.size;
        if size == 1 {
            if self.singles.len() >= SINGLES_MAX {
                self.singles.pop_front();
            }
            self.singles.push_back((owed.number, owed.at));
        }
        Some(size)
    }

    /// When a record that was sent alone was taken.
    pub(super) fn taken_at(&self, ack: Ack) -> Option<Stamp> {
        self.singles.iter().rev().find(|(number, _)| Ack::of(*number) == ack).map(|(_, at)| *at)
    }

    /// A session broke off with this in flight; `heard`: the broker had answered something in it. Says what is to be
    /// given up for it.
    pub(super) fn ended(&mut self, left: Option<(Ack, Alone)>, heard: Heard) -> Option<Ack> {
        let (ack, alone) = left.filter(|_| heard == Heard::Something)?;
        let was_careful = self.careful();
        let same = |head: &Head| start(head.ack) == start(ack);
        let mut head = self.head.filter(same).unwrap_or(Head { ack, ends: 0, falls: 0 });
        (head.ack, head.ends) = (ack, head.ends + 1);
        let fell = was_careful && alone == Alone::Yes;
        if fell && ack.count() == 1 {
            head.falls += 1;
        }
        self.head = Some(head);
        if head.falls >= FALLS {
            self.head = None;
            self.given_up(ack);
            return Some(ack);
        }
        if (head.ends >= ENDS_SUSPICIOUS || fell)
            && let Some(new) = Suspect::of(ack, true)
        {
            self.suspect(new);
        }
        None
    }
}

/// Whether the broker answered anything in a session, beside CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Something,
    Nothing,
}

fn start(ack: Ack) -> (u8, u64, i64) {
    match ack {
        Ack::Records { stream, epoch, first, .. } => (stream as u8, epoch.0, first.0.cast_signed()),
        Ack::Gap(id) => (u8::MAX, 0, id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::number::Seq;

    #[test]
    fn a_window_full_of_busy_is_one_wait_and_only_the_next_round_waits_longer() {
        let mut refusals = Refusals::default();
        let ask = |refusals: &mut Refusals, code| refusals.answered(Ack::Gap(1), Answer::TryLater(code));
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            for _ in 0..64 {
                assert_eq!(ask(&mut refusals, 0x97), Ruling::Pause(Duration::from_secs(wait)));
            }
            refusals.next_round();
        }
        assert_eq!(refusals.answered(Ack::Gap(1), Answer::Taken), Ruling::Taken);
        assert_eq!(ask(&mut refusals, 0x89), Ruling::Pause(BUSY_FIRST), "from the beginning");
    }

    #[test]
    fn what_expires_while_it_is_suspect_does_not_leave_the_others_going_one_by_one() {
        let number = |seq| Number { stream: Class::Event, epoch: Epoch(1), seq: Seq(seq) };
        let (expiring, behind) = (Ack::of(number(7)), Ack::of(number(8)));
        let mut refusals = Refusals::default();
        for _ in 0..ENDS_SUSPICIOUS {
            assert!(!refusals.careful());
            assert_eq!(refusals.ended(Some((expiring, Alone::No)), Heard::Something), None);
        }
        assert!(refusals.careful(), "one message at a time");
        refusals.settled(expiring);
        assert!(!refusals.careful(), "nobody will ever answer it");
        assert_eq!(refusals.ended(Some((behind, Alone::No)), Heard::Something), None);
        assert!(!refusals.careful(), "the next one begins with nothing against it");
    }
}
