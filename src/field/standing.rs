//! How a device stands: answering, suspect, down. Pure; the bus brings time and outcomes.
//!
//! Answering → one failure → suspect: the same poll is tried once more (`retries`), its other polls wait → next failure → down:
//! only probes, after 2 s, doubling to 60 s → an answer → answering, everything is polled at once. Probes of all devices
//! together take at most a twentieth of the bus's time while anyone else answers ([`ProbeBudget`]). A device of which nothing
//! is polled has no answer to prove itself with: with a connection it stands well, until a command fails.

use std::time::{Duration, Instant};

use super::schedule::{May, PollIx};
use crate::config::plan::RETRIES;
use crate::flow::hub::Standing;

/// Wait before the first probe.
const PROBE_FIRST: Duration = Duration::from_secs(2);
/// Longest wait between probes.
const PROBE_LONGEST: Duration = Duration::from_secs(60);
/// A probe that took one part of the bus's time is followed by this many parts without one: 5 %.
const PROBE_PARTS: u32 = 19;

/// What an outcome changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing to tell.
    Same,
    /// The first failure: try the same poll again.
    Suspect,
    /// Down now, or still: every tag of the device is bad.
    Down,
    /// It was suspect, or never asked before, and answers.
    Recovered,
    /// It was down and answers: poll everything at once.
    Back,
}

/// One device.
#[derive(Debug, Clone)]
pub struct Unit {
    state: State,
    /// Failures that are forgiven.
    retries: u8,
    /// What the world has been told.
    told: Option<Standing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Answering,
    Suspect {
        poll: Option<PollIx>,
        failures: u8,
    },
    Down {
        probe_at: Instant,
        wait: Duration,
    },
    /// The whole bus has no connection.
    Cut,
    /// Somebody wants it left alone.
    Paused,
}

impl Default for Unit {
    /// Trusted until it fails; nothing told yet.
    fn default() -> Self {
        Self::new(RETRIES)
    }
}

impl Unit {
    /// Trusted until it fails; a request is repeated so many times before the unit is down.
    pub const fn new(retries: u8) -> Self {
        Self { state: State::Answering, retries, told: None }
    }

    /// Is a request of it being repeated?
    pub const fn is_suspect(&self) -> bool {
        matches!(self.state, State::Suspect { .. })
    }

    /// What is told to the world; `None` before the first outcome.
    pub const fn told(&self) -> Option<Standing> {
        self.told
    }

    /// Is it down, with or without a connection, or paused? Its tags are bad then.
    pub const fn is_down(&self) -> bool {
        matches!(self.state, State::Down { .. } | State::Cut | State::Paused)
    }

    /// Is it left alone because somebody wants that?
    pub const fn is_paused(&self) -> bool {
        matches!(self.state, State::Paused)
    }

    /// From now on nothing is asked of it.
    pub const fn pause(&mut self) {
        self.state = State::Paused;
        self.told = Some(Standing::Paused);
    }

    /// It is tried as if nothing had been, and told to be paused until it answers or fails.
    pub fn resume(&mut self) {
        if self.is_paused() {
            self.state = State::Answering;
        }
    }

    /// One that is down is tried without waiting for its next probe, and told to be down until it answers.
    pub fn try_now(&mut self) {
        if matches!(self.state, State::Down { .. }) {
            self.state = State::Answering;
        }
    }

    /// A valid answer came, an exception included.
    pub fn answered(&mut self) -> Change {
        if self.is_paused() {
            return Change::Same; // to what was asked before
        }
        let before = std::mem::replace(&mut self.state, State::Answering);
        let told = self.told.replace(Standing::Answering);
        match (before, told) {
            (State::Down { .. } | State::Cut, _) | (_, Some(Standing::Down)) => Change::Back,
            (State::Suspect { .. }, _) => Change::Recovered,
            _ if told != Some(Standing::Answering) => Change::Recovered,
            _ => Change::Same,
        }
    }

    /// It has a connection, and nothing is ever asked of it but by commands: unless one of these has failed, or somebody
    /// wants it left alone, it stands well.
    pub fn trusted(&mut self) -> Change {
        if self.state == State::Answering { self.answered() } else { Change::Same }
    }

    /// A request failed; `poll` is to be tried again if this was the first time.
    pub fn failed(&mut self, poll: Option<PollIx>, now: Instant) -> Change {
        match self.state {
            State::Answering if self.retries == 0 => self.down(now, PROBE_FIRST),
            State::Answering => {
                self.state = State::Suspect { poll, failures: 1 };
                if self.told == Some(Standing::Down) {
                    return Change::Same; // after a reconnect: down until it answers
                }
                self.told = Some(Standing::Suspect);
                Change::Suspect
            }
            State::Suspect { poll: tried, failures } if failures < self.retries => {
                self.state = State::Suspect { poll: tried, failures: failures + 1 };
                Change::Same
            }
            State::Suspect { .. } => self.down(now, PROBE_FIRST),
            // A command that failed is no probe: the next one comes when it comes.
            State::Down { .. } if poll.is_none() => Change::Same,
            State::Down { wait, .. } => self.down(now, (wait * 2).min(PROBE_LONGEST)),
            State::Cut | State::Paused => Change::Same,
        }
    }

    fn down(&mut self, now: Instant, wait: Duration) -> Change {
        self.state = State::Down { probe_at: now + wait, wait };
        self.told = Some(Standing::Down);
        Change::Down
    }

    /// The bus lost its connection.
    pub fn cut(&mut self) {
        if !self.is_paused() {
            self.state = State::Cut;
            self.told = Some(Standing::Down);
        }
    }

    /// The bus is connected again: the device is tried as if nothing had been, but told to be down until it answers.
    pub fn reconnected(&mut self) {
        if self.state == State::Cut {
            self.state = State::Answering;
        }
    }

    /// Its polls have other places now.
    pub fn renumbered(&mut self, place: impl Fn(PollIx) -> Option<PollIx>) {
        if let State::Suspect { poll, .. } = &mut self.state {
            *poll = poll.and_then(place);
        }
    }

    /// May this poll run? `probe` is the poll to use as a probe, `budget` the earliest moment of any probe.
    pub fn may(&self, poll: PollIx, probe: Option<PollIx>, budget: Instant) -> May {
        match self.state {
            State::Answering => May::Now,
            State::Suspect { poll: Some(retry), .. } if retry != poll => May::Not,
            State::Suspect { .. } => May::Now,
            State::Down { probe_at, .. } if probe == Some(poll) => May::From(probe_at.max(budget)),
            State::Down { .. } | State::Cut | State::Paused => May::Not,
        }
    }
}

/// Keeps the probes of one bus to their share of its time.
#[derive(Debug, Clone, Copy)]
pub struct ProbeBudget {
    not_before: Instant,
}

impl ProbeBudget {
    /// Nothing spent yet.
    pub const fn new(now: Instant) -> Self {
        Self { not_before: now }
    }

    /// A probe took this long, its silence included, and brought nothing.
    pub fn spent(&mut self, cost: Duration, now: Instant) {
        self.not_before = now + cost * PROBE_PARTS;
    }

    /// The earliest moment of the next probe.
    pub const fn not_before(&self) -> Instant {
        self.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn two_failures_bring_a_unit_down_and_one_answer_brings_it_back() {
        let start = Instant::now();
        let mut unit = Unit::default();
        assert_eq!(unit.told(), None);
        assert_eq!(unit.answered(), Change::Recovered, "the first answer is news");
        assert_eq!(unit.answered(), Change::Same);
        assert_eq!(unit.failed(Some(3), start), Change::Suspect);
        assert_eq!(unit.may(3, None, start), May::Now, "the retry");
        assert_eq!(unit.may(4, None, start), May::Not, "its other blocks wait");
        assert_eq!(unit.answered(), Change::Recovered);
        unit.failed(Some(3), start);
        assert_eq!(unit.failed(Some(3), start), Change::Down);
        assert_eq!(unit.told(), Some(Standing::Down));
        assert_eq!(unit.may(3, Some(5), start), May::Not);
        assert_eq!(unit.may(5, Some(5), start), May::From(start + 2 * SECOND));
        assert_eq!(unit.answered(), Change::Back);
        assert_eq!(unit.may(4, None, start), May::Now);
    }

    #[test]
    fn a_device_is_given_the_retries_it_is_said_to_need() {
        let now = Instant::now();
        let mut patient = Unit::new(3);
        patient.answered();
        let changes: Vec<_> = (0..4).map(|_| patient.failed(Some(7), now)).collect();
        assert_eq!(changes, [Change::Suspect, Change::Same, Change::Same, Change::Down]);
        assert_eq!(patient.answered(), Change::Back);
        assert_eq!(Unit::new(0).failed(Some(7), now), Change::Down);
    }

    #[test]
    fn probes_back_off_from_two_seconds_to_sixty_and_failed_commands_are_none() {
        let mut now = Instant::now();
        let mut unit = Unit::default();
        unit.failed(Some(0), now);
        unit.failed(Some(0), now);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let May::From(at) = unit.may(0, Some(0), now) else { panic!("probed") };
            waits.push(at.duration_since(now).as_secs());
            now = at;
            assert_eq!(unit.failed(None, now), Change::Same);
            assert_eq!(unit.failed(Some(0), now), Change::Down);
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn probes_take_a_twentieth_of_the_bus() {
        let start = Instant::now();
        let mut budget = ProbeBudget::new(start);
        budget.spent(SECOND, start);
        assert_eq!(budget.not_before(), start + 19 * SECOND);
        let mut unit = Unit::default();
        unit.failed(Some(0), start);
        unit.failed(Some(0), start);
        assert_eq!(unit.may(0, Some(0), budget.not_before()), May::From(start + 19 * SECOND));
    }

    #[test]
    fn a_paused_unit_is_left_alone_whatever_happens_and_then_tried_at_once() {
        let now = Instant::now();
        let mut unit = Unit::default();
        unit.answered();
        unit.pause();
        assert_eq!((unit.told(), unit.may(0, Some(0), now)), (Some(Standing::Paused), May::Not));
        unit.cut();
        unit.reconnected();
        unit.try_now();
        assert_eq!((unit.failed(Some(0), now), unit.answered()), (Change::Same, Change::Same));
        assert!(unit.is_paused() && unit.is_down());
        unit.resume();
        assert_eq!((unit.told(), unit.may(7, None, now)), (Some(Standing::Paused), May::Now));
        let mut dead = unit.clone();
        assert_eq!(unit.answered(), Change::Recovered);
        assert_eq!((dead.failed(Some(7), now), dead.failed(Some(7), now)), (Change::Suspect, Change::Down));
        assert_ne!(dead.may(7, Some(7), now), May::Now);
        dead.try_now();
        assert_eq!((dead.told(), dead.may(7, Some(7), now)), (Some(Standing::Down), May::Now));
        assert_eq!(dead.answered(), Change::Back);
    }

    #[test]
    fn a_unit_that_is_only_written_stands_well_with_a_connection_until_a_command_fails_or_somebody_pauses_it() {
        let now = Instant::now();
        let mut unit = Unit::default();
        assert_eq!((unit.trusted(), unit.told()), (Change::Recovered, Some(Standing::Answering)));
        assert_eq!(unit.trusted(), Change::Same);
        unit.cut();
        assert_eq!((unit.trusted(), unit.told()), (Change::Same, Some(Standing::Down)));
        unit.reconnected();
        assert_eq!((unit.trusted(), unit.told()), (Change::Back, Some(Standing::Answering)));
        unit.pause();
        assert_eq!((unit.trusted(), unit.told()), (Change::Same, Some(Standing::Paused)));
        unit.resume();
        assert_eq!((unit.trusted(), unit.told()), (Change::Recovered, Some(Standing::Answering)));
        unit.failed(None, now);
        assert_eq!(unit.failed(None, now), Change::Down);
        assert_eq!((unit.trusted(), unit.told()), (Change::Same, Some(Standing::Down)));
    }

    #[test]
    fn after_a_reconnect_a_unit_is_tried_at_once_and_stays_down_until_it_answers() {
        let now = Instant::now();
        let mut unit = Unit::default();
        unit.answered();
        unit.cut();
        assert_eq!((unit.told(), unit.may(0, Some(0), now)), (Some(Standing::Down), May::Not));
        unit.reconnected();
        assert_eq!((unit.told(), unit.may(7, Some(0), now)), (Some(Standing::Down), May::Now));
        assert_eq!(unit.failed(Some(7), now), Change::Same);
        assert_eq!(unit.failed(Some(7), now), Change::Down);
        unit.cut();
        unit.reconnected();
        assert_eq!(unit.answered(), Change::Back);
    }
}
