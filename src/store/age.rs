//! `max_age`: records that are older go, acknowledged ones first, whole chunks at a time.
//!
//! The clock of a gateway is not to be trusted with deleting: nothing goes before UTC has been known for ten minutes, and
//! a step of the clock forward by more than a day makes nothing older that was there before. Where records of this boot
//! are concerned the boot-time clock counts, which is never stepped.

use std::time::Duration;

use crate::disk::directory::ChunkName;
use crate::flow::clock::Clock;
use crate::model::number::Class;
use crate::model::time::{Certainty, Stamp, signed_millis};

use super::open::Disk;
use super::room;
use super::times::Times;
use super::writer::Writer;

/// UTC must have been known for this long.
const KNOWN_FOR_MS: i64 = 600_000;
/// Ages are looked at this often, ms of the boot-time clock.
const EVERY_MS: i64 = 60_000;
/// A larger step forward is not believed.
const STEP_MS: i64 = 86_400_000;
/// A chunk spans at most this part of `max_age`, so that what goes with its newest record is not much older.
const CHUNK_PART: u32 = 8;

/// Steps that are remembered. A box that is switched off at each weekend makes one a week.
const STEPS_MAX: usize = 32;

/// The clock went forward: what was taken until `at`, ms since 1970, is younger by so many ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Forward {
    at: i64,
    by: i64,
}

/// What is known of the clock.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// Boot-time clock, ms, and UTC at the last look.
    seen: Option<(i64, i64)>,
    /// UTC when the store was closed, or saved last.
    earlier_ms: Option<i64>,
    /// Since when UTC is known, ms of the boot-time clock.
    known_since: Option<i64>,
    /// Oldest first.
    steps: Vec<Forward>,
}

/// What a look at the clock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Not yet.
    Wait,
    /// Ages count now.
    Count,
    /// The clock was put forward: to be remembered.
    Stepped,
}

impl Ages {
    /// Goes on from what an earlier run saved.
    pub(super) fn resume(earlier_ms: Option<i64>, values: &[(String, i64)]) -> Self {
        let value = |name: &str| values.iter().find(|(known, _)| known == name).map(|(_, number)| *number);
        let step = |[at, by]: [String; 2]| Some(Forward { at: value(&at)?, by: value(&by)? });
        Self { earlier_ms, steps: (0..STEPS_MAX).map_while(|place| step(names(place))).collect(), ..Self::default() }
    }

    /// What [`Ages::resume`] goes on from.
    fn values(&self) -> impl Iterator<Item = (String, i64)> {
        self.steps.iter().enumerate().flat_map(|(place, step)| names(place).into_iter().zip([step.at, step.by]))
    }

    /// Of more than can be remembered the oldest two become one, so that nothing goes too early.
    fn remember(&mut self, step: Forward) {
        self.steps.push(step);
        if self.steps.len() > STEPS_MAX {
            let oldest = self.steps.remove(0);
            self.steps[0].by += oldest.by;
        }
    }

    /// A look at the clock: both in ms, UTC if known.
    fn step(&mut self, boot_ms: i64, utc_ms: Option<i64>) -> Step {
        let Some(utc_ms) = utc_ms else {
            (self.known_since, self.seen) = (None, None);
            return Step::Wait;
        };
        let since = *self.known_since.get_or_insert(boot_ms);
        let (before, passed) = match self.seen.replace((boot_ms, utc_ms)) {
            Some((boot, utc)) => (Some(utc), boot_ms - boot),
            None => (self.earlier_ms.take(), 0),
        };
        if let Some(before) = before
            && utc_ms - before - passed > STEP_MS
        {
            self.remember(Forward { at: before + passed, by: utc_ms - before - passed });
            return Step::Stepped;
        }
        if boot_ms - since >= KNOWN_FOR_MS { Step::Count } else { Step::Wait }
    }

    /// How old something is that was taken at `taken_ms`: only steps after that count.
    fn age_ms(&self, utc_ms: i64, taken_ms: i64) -> i64 {
        let steps = self.steps.iter().filter(|step| taken_ms <= step.at).map(|step| step.by);
        utc_ms - taken_ms - steps.sum::<i64>()
    }
}

/// Of the step at this place among the values of `meta.db`: when, and by how much.
fn names(place: usize) -> [String; 2] {
    // the first one has the names of when there was but one
    let number = if place == 0 { String::new() } else { format!("_{}", place + 1) };
    ["at", "by"].map(|what| format!("clock_step{number}_{what}_ms"))
}

/// May nothing more be added to a chunk with these times, because it would span too much?
pub(super) fn spans_too_much(clock: &Clock, max_age: Option<Duration>, times: Times) -> bool {
    let Some(max_age) = max_age else { return false };
    let now = clock.numbered(clock.now());
    let span = if times.first.boot == now.boot {
        now.since(times.first)
    } else {
        let (first, now) = (clock.wall(times.first), clock.wall(now));
        let known = first.certainty == Certainty::Fixed && now.certainty == Certainty::Fixed;
        Duration::from_millis(if known { u64::try_from(now.unix_ms - first.unix_ms).unwrap_or(0) } else { 0 })
    };
    span > max_age / CHUNK_PART
}

impl Writer {
    /// Evicts what is too old, when it is time for a look. The clock is watched without a `max_age`, too: by the time it gets
    /// one nobody could say any more whether it was stepped or that much time went by.
    pub(super) fn age_due(&mut self) {
        let boot_ms = self.clock.now().micros / 1000;
        if self.ages.seen.is_some_and(|(at, _)| boot_ms - at < EVERY_MS) {
            return;
        }
        let wall = self.clock.wall_now();
        let utc_ms = (wall.certainty == Certainty::Fixed).then_some(wall.unix_ms);
        match self.ages.step(boot_ms, utc_ms) {
            Step::Wait => {}
            Step::Stepped => {
                let by_ms = self.ages.steps.last().map(|step| step.by);
                tracing::warn!(by_ms, "clock went forward by more than a day; nothing grows old by that");
                {
                    let mut state = self.shared.state();
                    for (name, number) in self.ages.values() {
                        state.put_value(name, number);
                    }
                }
                self.flush_edits(Vec::new());
            }
            Step::Count => {
                let Some(max_age) = self.opening.max_age else { return };
                let Some(mut disk) = self.disk.take() else { return };
                self.evict_older(&mut disk, max_age, wall.unix_ms);
                self.disk = Some(disk);
            }
        }
    }

    fn evict_older(&mut self, disk: &mut Disk, max_age: Duration, utc_ms: i64) {
        let max_ms = signed_millis(max_age);
        // At most once round: what cannot be removed stays.
        let chunks: usize = self.shared.state().streams.values().map(|stream| stream.chunks.len()).sum();
        for _ in 0..chunks {
            let too_old = |last: Stamp| self.age_ms(last, utc_ms).is_some_and(|age| age > max_ms);
            let Some(name) = self.oldest(disk, too_old) else { return };
            room::evict(self, disk, name);
        }
    }

    /// Age of what was taken then; `None` when that is not known.
    fn age_ms(&self, taken: Stamp, utc_ms: i64) -> Option<i64> {
        let now = self.clock.numbered(self.clock.now());
        if taken.boot == now.boot {
            return i64::try_from(now.since(taken).as_millis()).ok();
        }
        let wall = self.clock.wall(taken);
        (wall.certainty == Certainty::Fixed).then(|| self.ages.age_ms(utc_ms, wall.unix_ms))
    }

    /// A chunk whose newest record is too old: an acknowledged one if there is one, least important class first.
    fn oldest(&self, disk: &Disk, too_old: impl Fn(Stamp) -> bool) -> Option<ChunkName> {
        let state = self.shared.state();
        let of_class = |class: &Class| state.stream(*class).chunks.iter();
        let old: Vec<_> = Class::ALL
            .iter()
            .rev()
            .flat_map(of_class)
            .filter(|held| room::may_go(disk, held.name) && too_old(held.times.last))
            .collect();
        let acknowledged = old.iter().find(|held| state.is_acknowledged(held.name.class, held.span));
        acknowledged.or(old.first()).map(|held| held.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const MINUTE: i64 = 60_000;

    #[test]
    fn ages_count_ten_minutes_after_the_first_fix_and_a_step_of_over_a_day_makes_nothing_older() {
        let start = 1_800_000_000_000;
        let mut ages = Ages::resume(Some(start - 3 * MINUTE), &[]);
        assert_eq!(ages.step(0, None), Step::Wait);
        assert_eq!(ages.step(5 * MINUTE, Some(start)), Step::Wait);
        assert_eq!(ages.step(14 * MINUTE, Some(start + 9 * MINUTE)), Step::Wait);
        assert_eq!(ages.step(15 * MINUTE, Some(start + 10 * MINUTE)), Step::Count);
        let old = start - DAY;
        assert_eq!(ages.age_ms(start + 10 * MINUTE, old), DAY + 10 * MINUTE);
        let stepped = start + 400 * DAY;
        assert_eq!(ages.step(16 * MINUTE, Some(stepped)), Step::Stepped);
        assert_eq!(ages.step(17 * MINUTE, Some(stepped + MINUTE)), Step::Count);
        assert_eq!(ages.age_ms(stepped + MINUTE, old), DAY + 12 * MINUTE, "as if it had not been");
        assert_eq!(ages.age_ms(stepped + MINUTE, stepped), MINUTE);
        // Back again: nothing grows older by that either.
        assert_eq!(ages.step(18 * MINUTE, Some(start + 13 * MINUTE)), Step::Count);
        assert!(ages.age_ms(start + 13 * MINUTE, old) <= DAY + 13 * MINUTE);
    }

    #[test]
    fn a_step_over_a_restart_counts_as_one_and_is_remembered() {
        let start = 1_800_000_000_000;
        let mut ages = Ages::resume(Some(start), &[]);
        assert_eq!(ages.step(MINUTE, Some(start + 50 * DAY)), Step::Stepped);
        let values: Vec<_> = ages.values().collect();
        let mut again = Ages::resume(Some(start + 50 * DAY), &values);
        assert_eq!(again.step(0, Some(start + 50 * DAY + MINUTE)), Step::Wait);
        assert_eq!(again.age_ms(start + 50 * DAY, start - DAY), DAY);
    }
    #[test]
    fn a_box_that_is_off_at_weekends_forgets_what_is_older_than_the_time_it_ran() {
        let monday = |week: i64| 1_800_000_000_000 + week * 7 * DAY;
        let mut values = Vec::new();
        for week in 1..200 {
            // On from Monday to Friday: the weekend is a step, and what was taken in the weeks before is younger by those since.
            let mut ages = Ages::resume(Some(monday(week) - 2 * DAY - DAY / 2), &values);
            assert_eq!(ages.step(0, Some(monday(week))), Step::Stepped);
            values = ages.values().collect();
            assert!(ages.steps.len() <= STEPS_MAX);
            for since in 1..week.min(30) {
                let ran = since * (4 * DAY + DAY / 2);
                assert_eq!(ages.age_ms(monday(week), monday(week - since)), ran, "{since} weeks ago, in week {week}");
            }
        }
    }

    #[test]
    fn what_an_earlier_version_remembered_still_counts() {
        let (at, by) = (1_800_000_000_000, 50 * DAY);
        let values = [("clock_step_at_ms".to_owned(), at), ("clock_step_by_ms".to_owned(), by)];
        let ages = Ages::resume(None, &values);
        assert_eq!([at, at + 1].map(|taken| ages.age_ms(at + by + DAY, taken)), [DAY, by + DAY - 1]);
    }
}
