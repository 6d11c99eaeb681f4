//! Which poll is next: earliest deadline first. Pure; the bus brings the time.
//!
//! Every poll has a grid of moments, one period apart, staggered over the period so that the bus is loaded evenly. A
//! poll is due at the next moment of its grid and late one period after it. Promises: of what is due, what is late first is
//! taken; periods that were missed coalesce into the one read and are counted, never queued; the first read of
//! everything is due at once.

use std::time::{Duration, Instant};

/// A place in the schedule; valid as long as the schedule.
pub type PollIx = usize;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Read this.
    Poll(PollIx),
    /// Nothing before this moment.
    Wait(Instant),
    /// Nothing at all.
    Idle,
}

/// Whether a poll may run, as its device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// As soon as it is due.
    Now,
    /// Not before this moment, which may have passed.
    From(Instant),
    /// Not until the device stands differently.
    Not,
}

impl May {
    /// The same, but not before this moment.
    #[must_use]
    pub fn no_sooner_than(self, moment: Instant) -> Self {
        match self {
            Self::Now => Self::From(moment),
            Self::From(from) => Self::From(from.max(moment)),
            Self::Not => Self::Not,
        }
    }
}

/// The polls of one bus.
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    polls: Vec<Poll>,
}

#[derive(Debug, Clone)]
struct Poll {
    period: Duration,
    /// A moment of the grid.
    anchor: Instant,
    due: Instant,
}

impl Schedule {
    /// A schedule for these periods, all due at `now` and staggered from then on.
    pub fn new(periods: &[Duration], now: Instant) -> Self {
        let count = u32::try_from(periods.len()).unwrap_or(u32::MAX).max(1);
        let polls = (0u32..).zip(periods).map(|(place, period)| Poll {
            period: *period,
            anchor: now + *period / count * place,
            due: now,
        });
        Self { polls: polls.collect() }
    }

    /// The same, but not spread over the period: what is due together comes in one go, for connections that are closed in
    /// between.
    pub fn together(periods: &[Duration], now: Instant) -> Self {
        let poll = |period: &Duration| Poll { period: *period, anchor: now, due: now };
        Self { polls: periods.iter().map(poll).collect() }
    }

    /// What to do now, if `may` is what each poll's device allows.
    pub fn next(&self, now: Instant, may: impl Fn(PollIx) -> May) -> Next {
        let mut ready: Option<(Instant, PollIx)> = None;
        let mut soonest: Option<Instant> = None;
        for (ix, poll) in self.polls.iter().enumerate() {
            let start = match may(ix) {
                May::Now => poll.due,
                May::From(from) => poll.due.max(from),
                May::Not => continue,
            };
            if start > now {
                soonest = Some(soonest.map_or(start, |soonest| soonest.min(start)));
            } else if ready.is_none_or(|(deadline, _)| poll.due + poll.period < deadline) {
                ready = Some((poll.due + poll.period, ix));
            }
        }
        match (ready, soonest) {
            (Some((_, ix)), _) => Next::Poll(ix),
            (None, Some(soonest)) => Next::Wait(soonest),
            (None, None) => Next::Idle,
        }
    }

    /// A poll begins now: it serves every moment of its grid up to now. Returns how many periods it missed.
    pub fn begin(&mut self, ix: PollIx, now: Instant) -> u64 {
        let Some(Poll { period, anchor, due }) = self.polls.get(ix).cloned() else {
            return 0;
        };
        let missed = now.saturating_duration_since(due).as_nanos() / period.as_nanos().max(1);
        let next = if anchor > now {
            anchor
        } else {
            let periods = now.duration_since(anchor).as_nanos() / period.as_nanos().max(1);
            anchor + period.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX)) + period
        };
        // The grid moves along, so that its arithmetic stays small however long the bus runs.
        self.polls[ix].anchor = next;
        self.polls[ix].due = next;
        u64::try_from(missed).unwrap_or(u64::MAX)
    }

    /// Due at once: after a command, when a device is back, for a retry.
    pub fn hasten(&mut self, ix: PollIx, now: Instant) {
        if let Some(poll) = self.polls.get_mut(ix) {
            poll.due = poll.due.min(now);
        }
    }

    /// Due at once and as if never missed: its device was away.
    pub fn begin_anew(&mut self, ix: PollIx, now: Instant) {
        if let Some(poll) = self.polls.get_mut(ix) {
            poll.due = now;
        }
    }

    /// Not due before this moment.
    pub fn put_off(&mut self, ix: PollIx, until: Instant) {
        if let Some(poll) = self.polls.get_mut(ix) {
            poll.due = poll.due.max(until);
        }
    }

    /// A poll of an earlier schedule goes on here, when it would have been due there.
    pub fn go_on(&mut self, ix: PollIx, (earlier, was): (&Self, PollIx)) {
        if let (Some(poll), Some(before)) = (self.polls.get_mut(ix), earlier.polls.get(was)) {
            *poll = before.clone();
        }
    }

    /// Splits a poll in two, both due at once: the poll keeps its place, the returned place is new.
    pub fn split(&mut self, ix: PollIx, now: Instant) -> Option<PollIx> {
        self.hasten(ix, now);
        let twin = self.polls.get(ix)?.clone();
        self.polls.push(twin);
        Some(self.polls.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn always(_: PollIx) -> May {
        May::Now
    }

    #[test]
    fn everything_is_read_at_once_and_then_spread_over_the_period() {
        let start = Instant::now();
        let mut schedule = Schedule::new(&[100 * MS; 4], start);
        for ix in 0..4 {
            assert_eq!(schedule.next(start, always), Next::Poll(ix));
            assert_eq!(schedule.begin(ix, start), 0);
        }
        let moments: Vec<_> = (0..8)
            .map(|_| {
                let Next::Wait(at) = schedule.next(start, always) else { panic!("nothing is due") };
                let Next::Poll(ix) = schedule.next(at, always) else { panic!("something is due") };
                assert_eq!(schedule.begin(ix, at), 0);
                at.duration_since(start).as_millis()
            })
            .collect();
        assert_eq!(moments, [25, 50, 75, 100, 125, 150, 175, 200]);
    }

    #[test]
    fn the_poll_that_is_late_first_goes_first() {
        let start = Instant::now();
        let schedule = Schedule::new(&[1000 * MS, 100 * MS, 500 * MS], start);
        assert_eq!(schedule.next(start, always), Next::Poll(1));
        let not_the_fast_one = |ix| if ix == 1 { May::Not } else { May::From(start) };
        assert_eq!(schedule.next(start, not_the_fast_one), Next::Poll(2));
        let later = |ix| if ix == 0 { May::From(start + 7 * MS) } else { May::Not };
        assert_eq!(schedule.next(start, later), Next::Wait(start + 7 * MS));
        assert_eq!(schedule.next(start, |_| May::Not), Next::Idle);
    }

    #[test]
    fn missed_periods_coalesce_into_one_read_and_are_counted() {
        let start = Instant::now();
        let mut schedule = Schedule::new(&[100 * MS], start);
        assert_eq!(schedule.begin(0, start), 0);
        assert_eq!(schedule.begin(0, start + 450 * MS), 3, "100 is served late; 200, 300 and 400 are gone");
        assert_eq!(schedule.next(start + 450 * MS, always), Next::Wait(start + 500 * MS));
    }

    #[test]
    fn a_slow_bus_starves_nobody() {
        let start = Instant::now();
        let mut schedule = Schedule::new(&[10 * MS, 10 * MS, 10 * MS, 1000 * MS], start);
        let mut now = start;
        let mut reads = [0; 4];
        for _ in 0..400 {
            let Next::Poll(ix) = schedule.next(now, always) else { panic!("always busy") };
            schedule.begin(ix, now);
            reads[ix] += 1;
            now += 20 * MS;
        }
        assert!(reads[3] >= 4, "late by a period on a bus asked for six times what it can do: {reads:?}");
        assert!(reads[..3].iter().all(|count| (120..=140).contains(count)), "{reads:?}");
    }

    #[test]
    fn polls_are_hastened_put_off_and_split() {
        let start = Instant::now();
        let mut schedule = Schedule::new(&[100 * MS], start);
        schedule.begin(0, start);
        schedule.hasten(0, start + 5 * MS);
        assert_eq!(schedule.next(start + 5 * MS, always), Next::Poll(0));
        schedule.put_off(0, start + 60 * MS);
        assert_eq!(schedule.next(start + 5 * MS, always), Next::Wait(start + 60 * MS));
        assert_eq!(schedule.split(0, start + 6 * MS), Some(1));
        schedule.begin(0, start + 6 * MS);
        assert_eq!(schedule.next(start + 6 * MS, always), Next::Poll(1));
    }
}
