//! Topics that the broker forbids. Pure; time comes in as an argument. Fed by `withhold`.
//!
//! One forbidden topic must not stand in the way of all others. Only topics of tags count, never those of batches, gap
//! records, events and the status.
//!
//! * A topic is **suspect** when a record of it was refused as not authorized (0x87), or without a reason (0x80, 0x83), or
//!   when the broker closed over one (see `refusal`, falls). Its records are held back from then on, in their order and
//!   still owed, while others go. One of them is tried with the next round; where the broker closes the connection for it,
//!   not before a third of `after` has passed. A try has to be earned: by a record of another topic that was taken, so that
//!   others always come first. Where nothing else is taken, one topic is tried in each round.
//! * It is **forbidden** after [`TIMES`] refusals over at least `after`, each but the first with something else taken since
//!   the one before. If the broker takes nothing at all, no topic is ever forbidden, and nothing is given up.
//! * Records of a forbidden topic are declared by gap records instead of being sent. Every `after` one is tried: when that
//!   is taken, the topic is free again. So it costs at most one session in that time. After a day without a record it is
//!   forgotten.
//!
//! Gap records are the way out: while the broker does not take them, or [`DECLARED_MAX`] of them are under way, records are
//! held and not declared. What is known is of this run of the daemon: the next one finds it out anew, and loses nothing by it.

use std::time::{Duration, Instant};

use crate::model::number::Number;
use crate::store::Ack;

/// A person who edits an access list is done by then; and a topic that is tried so rarely costs 100 sessions a day at most.
pub(super) const AFTER: Duration = Duration::from_secs(15 * 60);
/// Topics that may be suspect or forbidden; refusals of any more are treated as if nobody knew the topic.
pub(super) const TOPICS_MAX: usize = 64;
/// Refusals before a topic is forbidden: one may be a broker that restarts, two a rule that is being edited.
const TIMES: u32 = 3;
/// Tries until then, where each costs a session.
const TRIES: u32 = 3;
/// Tries that can be saved up: one for each topic.
const EARNED_MAX: usize = TOPICS_MAX;
/// Records held back at once. Each may part a range of acknowledged numbers, and a cursor has room for twice as many.
const HELD_MAX: usize = 4096;
/// Times `after` without a record of a suspect topic: its tag is gone from the configuration, or its records were evicted.
const STALE: u32 = 4;
/// The same of a forbidden one: a day, for tags that seldom change.
const GONE: u32 = 96;
/// Gap records under way.
const DECLARED_MAX: usize = 1024;

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is sent.
    Send,
    /// It is held back; its topic is tried then at the earliest.
    Hold(Instant),
    /// A gap record is owed instead.
    Declare,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is known of its topic.
    None,
    /// Its topic was tried, and is suspect as before.
    Suspect,
    /// The topic is forbidden from now on, and this record is declared.
    Forbidden(String),
    /// It still is, and this record is declared.
    StillForbidden,
    /// The topic is free again; `told`: it was forbidden.
    Free { topic: String, told: bool },
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and they combine")]
struct Suspect {
    topic: String,
    forbidden: bool,
    first_at: Instant,
    times: u32,
    /// Something else was taken since the last refusal.
    others: bool,
    /// The broker closes the connection for it.
    closes: bool,
    /// Not tried before.
    due: Instant,
    /// Tried in this round or session.
    tried: bool,
    /// The record that it is tried with.
    trial: Option<Number>,
    /// The trial left for the broker.
    sent: bool,
    /// The record that was refused last.
    refused: Option<Number>,
    /// When there was a record of it.
    seen: Instant,
}

/// A refused record whose topic is learned when it comes again.
#[derive(Debug)]
struct Unknown {
    number: Number,
    at: Instant,
    closes: bool,
}

/// Of one uplink, over all its sessions.
#[derive(Debug)]
pub(super) struct Forbidden {
    after: Duration,
    suspects: Vec<Suspect>,
    unknown: Vec<Unknown>,
    /// The last record that was sent alone, for what a broker may fall over, with its topic.
    single: Option<(Number, String)>,
    /// What was refused last in this session.
    last: Option<(Number, Instant)>,
    earned: usize,
    /// One may be tried in this round though nothing was taken.
    free: bool,
    taken_in_round: bool,
    held: usize,
    declared: usize,
    gaps_taken: bool,
}

impl Forbidden {
    /// A topic is forbidden after so long.
    pub(super) const fn new(after: Duration) -> Self {
        Self {
            after,
            suspects: Vec::new(),
            unknown: Vec::new(),
            single: None,
            last: None,
            earned: 0,
            free: false,
            taken_in_round: false,
            held: 0,
            declared: 0,
            gaps_taken: true,
        }
    }

    /// No topic needs to be looked at.
    pub(super) const fn is_idle(&self) -> bool {
        self.suspects.is_empty() && self.unknown.is_empty()
    }

    /// Is a topic suspect and not forbidden yet?
    pub(super) fn is_open(&self) -> bool {
        !self.unknown.is_empty() || self.suspects.iter().any(|suspect| !suspect.forbidden)
    }

    /// So many are held back that nothing more is pulled before the next round.
    pub(super) const fn is_full(&self) -> bool {
        self.held >= HELD_MAX
    }

    /// A session begins. What the broker closed over stands behind the others.
    pub(super) fn begin_session(&mut self, now: Instant) {
        (self.free, self.last) = (false, None);
        self.begin(now);
    }

    /// What was not taken comes again.
    pub(super) fn begin_round(&mut self, now: Instant) {
        if self.free
            && let Some(first) = self.suspects.iter_mut().min_by_key(|suspect| suspect.due)
        {
            first.due = first.due.max(now); // its turn was not used: it had nothing to send
        }
        self.free = !self.taken_in_round;
        self.begin(now);
    }

    fn begin(&mut self, now: Instant) {
        (self.taken_in_round, self.held) = (false, 0);
        let is_recent = |at: Instant| now.saturating_duration_since(at) < self.after * STALE;
        self.unknown.retain(|unknown| is_recent(unknown.at));
        self.suspects.retain(|suspect| suspect.forbidden || is_recent(suspect.seen));
        for suspect in &mut self.suspects {
            (suspect.tried, suspect.trial, suspect.sent) = (false, None, false);
        }
    }

    /// Forbidden topics without a record for so long that their tags may be gone: they make room for others.
    pub(super) fn gone(&mut self, now: Instant) -> Vec<String> {
        let (suspects, after) = (&mut self.suspects, self.after * GONE);
        let is_gone = |one: &mut Suspect| one.forbidden && now.saturating_duration_since(one.seen) >= after;
        suspects.extract_if(.., is_gone).map(|gone| gone.topic).collect()
    }

    /// What becomes of this record of a tag.
    pub(super) fn fate(&mut self, topic: &str, number: Number, now: Instant) -> Fate {
        if let Some(place) = self.unknown.iter().position(|unknown| unknown.number == number) {
            let Unknown { at, closes, .. } = self.unknown.swap_remove(place);
            self.suspect(topic, at, closes);
        }
        let Some(place) = self.suspects.iter().position(|suspect| suspect.topic == topic) else { return Fate::Send };
        let first = self.suspects.iter().map(|suspect| suspect.due).min().unwrap_or(now);
        let suspect = &mut self.suspects[place];
        suspect.seen = now;
        let may = suspect.trial.is_none() && (suspect.forbidden || !suspect.tried) && now >= suspect.due;
        if may && suspect.forbidden {
            // rare enough as it is
        } else if may && self.earned > 0 && (suspect.others || !suspect.closes) {
            self.earned -= 1;
        } else if may && self.free && suspect.due == first {
            self.free = false;
        } else if suspect.forbidden && suspect.trial.is_none() && self.gaps_taken && self.declared < DECLARED_MAX {
            return Fate::Declare;
        } else {
            self.held += 1;
            return Fate::Hold(suspect.due);
        }
        (suspect.tried, suspect.trial) = (true, Some(number));
        Fate::Send
    }

    fn suspect(&mut self, topic: &str, at: Instant, closes: bool) {
        if self.suspects.len() >= TOPICS_MAX || self.suspects.iter().any(|suspect| suspect.topic == topic) {
            return;
        }
        self.suspects.push(Suspect {
            topic: topic.to_owned(),
            forbidden: false,
            first_at: at,
            times: 1,
            others: false,
            closes,
            due: if closes { at + self.after / TRIES } else { at },
            tried: false,
            trial: None,
            sent: false,
            refused: None,
            seen: at,
        });
    }

    /// A record that may be what the broker falls over is sent alone.
    pub(super) fn goes_alone(&mut self, topic: &str, number: Number) {
        self.single = Some((number, topic.to_owned()));
    }

    /// The broker fell over this record so often that it was given up.
    pub(super) fn fell(&mut self, ack: Ack, now: Instant) {
        if let Some((number, topic)) = self.single.take()
            && begins(ack) == Some(number)
        {
            self.suspect(&topic, now, false);
        }
    }

    /// A gap record is owed for records of a forbidden topic.
    pub(super) const fn declared(&mut self) {
        self.declared += 1;
    }

    /// It is handed to the connection.
    pub(super) fn sent(&mut self, ack: Ack) {
        if let Some(place) = self.trial(ack) {
            self.suspects[place].sent = true;
        }
    }

    fn trial(&self, ack: Ack) -> Option<usize> {
        let number = begins(ack)?;
        self.suspects.iter().position(|suspect| suspect.trial == Some(number))
    }

    /// The broker has it.
    pub(super) fn taken(&mut self, ack: Ack) -> Verdict {
        let Some(number) = begins(ack) else {
            (self.declared, self.gaps_taken) = (self.declared.saturating_sub(1), true);
            return Verdict::None;
        };
        let trial = self.trial(ack);
        (self.taken_in_round, self.last) = (true, None);
        self.earned = EARNED_MAX.min(self.earned + 1);
        for suspect in &mut self.suspects {
            suspect.others = true;
        }
        self.unknown.retain(|unknown| unknown.number != number);
        let Some(place) = trial else { return Verdict::None };
        let free = self.suspects.remove(place);
        Verdict::Free { topic: free.topic, told: free.forbidden }
    }

    /// The broker does not take it for a reason that may be its topic.
    pub(super) fn refused(&mut self, ack: Ack, now: Instant) -> Verdict {
        let Some(number) = begins(ack) else {
            self.gaps_taken = false;
            return Verdict::None;
        };
        self.last = Some((number, now));
        if let Some(place) = self.trial(ack) {
            self.suspects[place].refused = Some(number);
            return self.count(place, now);
        }
        let known = self.unknown.iter().any(|unknown| unknown.number == number);
        if !known && self.suspects.len() + self.unknown.len() < TOPICS_MAX {
            self.unknown.push(Unknown { number, at: now, closes: false });
        }
        Verdict::None
    }

    fn count(&mut self, place: usize, now: Instant) -> Verdict {
        let suspect = &mut self.suspects[place];
        (suspect.trial, suspect.sent) = (None, false);
        suspect.times += u32::from(std::mem::take(&mut suspect.others));
        if suspect.forbidden {
            suspect.due = now + self.after;
            return Verdict::StillForbidden;
        }
        if suspect.times >= TIMES && now.saturating_duration_since(suspect.first_at) >= self.after {
            (suspect.forbidden, suspect.due) = (true, now + self.after);
            return Verdict::Forbidden(suspect.topic.clone());
        }
        suspect.due = if suspect.closes { now + self.after / TRIES } else { now };
        Verdict::Suspect
    }

    /// The broker closed the connection just after it had said something. What it had refused last is what it closed for;
    /// a trial without an answer counts as refused. Says what it closed for, and what follows.
    pub(super) fn closed(&mut self, now: Instant) -> Option<(Number, Verdict)> {
        if let Some(place) = self.suspects.iter().position(|suspect| suspect.sent) {
            let suspect = &mut self.suspects[place];
            suspect.closes = true;
            let number = suspect.trial?;
            return Some((number, self.count(place, now)));
        }
        let (last, at) = self.last.take()?;
        if let Some(unknown) = self.unknown.iter_mut().find(|unknown| unknown.number == last) {
            unknown.closes = true;
            return Some((last, Verdict::Suspect));
        } else if let Some(suspect) = self.suspects.iter_mut().find(|suspect| suspect.refused == Some(last)) {
            suspect.closes = true;
            suspect.due = suspect.due.max(at + self.after / TRIES);
            return Some((last, Verdict::Suspect));
        }
        None
    }
}

/// The first number; `None` for a gap record.
fn begins(ack: Ack) -> Option<Number> {
    let Ack::Records { stream, epoch, first: seq, .. } = ack else { return None };
    Some(Number { stream, epoch, seq })
}

#[cfg(test)]
mod tests;
