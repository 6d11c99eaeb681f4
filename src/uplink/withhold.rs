//! Where the session asks [`super::forbidden`]: before a record is packed, when an answer came, when the broker closed; and
//! how records of forbidden topics become gap records.
//!
//! Numbers that follow each other are declared together, so that a device that is forbidden as a whole costs few gap
//! records; a record between two of them is not one of them, so that each gap record says exactly what is missing.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::number::{Class, Number, PerClass};
use crate::model::time::Stamp;
use crate::store::{Ack, Item};

use super::feeder::{Progress, give_up, named};
use super::forbidden::{Fate, Verdict};
use super::refusal::{Heard, Ruling};
use super::session::Session;
use super::source::Source;
use super::window::{Alone, Answer};

/// So long a declaration waits for numbers that follow: a receiver knows of a loss within a minute.
const DECLARE_AFTER: Duration = Duration::from_secs(60);

/// Numbers to be declared together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    ack: Ack,
    from: Stamp,
    to: Stamp,
    begun: Instant,
}

/// By class. Of one round; what was not declared in it comes again with the next.
#[derive(Debug, Default)]
pub(super) struct Declarations {
    runs: PerClass<Option<Run>>,
}

impl Declarations {
    /// One more; the run that it ends.
    fn add(&mut self, number: Number, at: Stamp, now: Instant) -> Option<Run> {
        let run = &mut self.runs[number.stream];
        if let Some(Run { ack: Ack::Records { epoch, last, .. }, to, .. }) = run
            && *epoch == number.epoch
            && last.0 + 1 == number.seq.0
        {
            (*last, *to) = (number.seq, at);
            return None;
        }
        run.replace(Run { ack: Ack::of(number), from: at, to: at, begun: now })
    }

    /// Something else of this class comes between; the run that it ends.
    fn ends(&mut self, class: Class) -> Option<Run> {
        self.runs[class].take()
    }

    /// When one of them has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.runs.values().flatten().map(|run| run.begun + DECLARE_AFTER).min()
    }

    /// All of them.
    pub(super) fn all(&mut self) -> Vec<Run> {
        std::mem::take(&mut self.runs).into_values().flatten().collect()
    }

    /// They come again.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl<S: Source> Session<'_, S> {
    /// Is this item kept from the packer? Then it is held back, or declared.
    pub(super) fn withholds(&mut self, item: &Item, progress: &mut Progress) -> bool {
        if self.forbidden.is_idle() {
            return false;
        }
        let Item::Record(owed) = item else { return false };
        let now = Instant::now();
        for topic in self.forbidden.gone(now.into_std()) {
            self.trouble.allowed(&topic, "nothing was recorded there for a day");
        }
        let fate = match self.packer.tag_topic(item) {
            Some(topic) => self.forbidden.fate(&topic, owed.number, now.into_std()),
            None => Fate::Send,
        };
        let ended = match fate {
            Fate::Declare => progress.declarations.add(owed.number, owed.at, now),
            Fate::Send | Fate::Hold(_) => progress.declarations.ends(owed.number.stream),
        };
        self.declare(ended);
        if let Fate::Hold(due) = fate {
            let at = Instant::from_std(due).max(now + self.timing.refused_again);
            progress.round_at = Some(progress.round_at.map_or(at, |before| before.min(at)));
        }
        fate != Fate::Send
    }

    /// A record that was refused before is sent without others.
    pub(super) fn goes_alone(&mut self, item: &Item) {
        if let (Some(topic), Item::Record(owed)) = (self.packer.tag_topic(item), item) {
            self.forbidden.goes_alone(&topic, owed.number);
        }
    }

    /// Gap records for these.
    pub(super) fn declare(&mut self, runs: impl IntoIterator<Item = Run>) {
        for Run { ack, from, to, .. } in runs {
            self.stats.refused.add(ack.count());
            tracing::debug!(uplink = self.plan.name, what = named(ack), "declared: its topic is forbidden");
            self.forbidden.declared();
            self.source.refuse(ack, Some((from, to)));
        }
    }

    /// Declares what has waited long enough.
    pub(super) fn declare_when_due(&mut self, progress: &mut Progress) {
        if progress.declarations.due().is_some_and(|due| due <= Instant::now()) {
            self.declare(progress.declarations.all());
        }
    }

    /// What follows from an answer; `None` when that is done.
    pub(super) fn ruling(&mut self, ack: Ack, answer: Answer, progress: &mut Progress) -> Option<Ruling> {
        let about_topic = matches!(answer, Answer::TryLater(0x80 | 0x83 | 0x87)) && self.packer.has_tag_topics();
        let verdict = if about_topic { self.forbidden.refused(ack, Instant::now().into_std()) } else { Verdict::None };
        match verdict {
            Verdict::None | Verdict::Free { .. } => Some(self.refusals.answered(ack, answer)),
            Verdict::Suspect => Some(Ruling::NextRound),
            Verdict::Forbidden(_) | Verdict::StillForbidden => {
                self.give_up_topic(ack, &verdict);
                progress.round_at = Some(Instant::now()); // what is held behind it is declared, too
                None
            }
        }
    }

    fn give_up_topic(&mut self, ack: Ack, verdict: &Verdict) {
        if let Verdict::Forbidden(topic) = verdict {
            tracing::error!(uplink = self.plan.name, topic, "topic given up: the broker takes others but not this one");
            self.trouble.forbidden(topic);
        }
        self.stats.refused.add(ack.count());
        self.forbidden.declared();
        self.source.refuse(ack, self.refusals.taken_at(ack).map(|at| (at, at)));
    }

    /// Something was taken: where its topic was suspect, what was held back of it goes now.
    pub(super) fn freed(&mut self, ack: Ack, progress: &mut Progress) {
        let Verdict::Free { topic, told } = self.forbidden.taken(ack) else { return };
        if told {
            tracing::info!(uplink = self.plan.name, topic, "the broker takes this topic again");
            self.trouble.allowed(&topic, "the broker takes it again");
        }
        progress.round_at = Some(Instant::now());
    }

    /// The broker closed the connection soon after it had said something, with this in flight.
    pub(super) fn fallen(&mut self, left: Option<(Ack, Alone)>, heard: Heard) {
        let now = Instant::now().into_std();
        if heard == Heard::Something
            && self.packer.has_tag_topics()
            && let Some((number, verdict)) = self.forbidden.closed(now)
        {
            if let Verdict::Forbidden(_) | Verdict::StillForbidden = verdict {
                self.give_up_topic(Ack::of(number), &verdict);
            }
            return; // it was this one, and not what was sent first
        }
        if let Some(ack) = self.refusals.ended(left, heard) {
            let at = self.refusals.taken_at(ack);
            give_up(self.source, self.plan, self.stats, ack, at);
            self.trouble.record_refused(&named(ack));
            self.forbidden.fell(ack, now);
        }
    }
}
