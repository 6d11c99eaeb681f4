//! Which path carries the session: health of each, failover, return. Pure: what each path could carry, and time, come in.
//!
//! ```text
//!            a connect fails, or a session is lost                     a probe succeeds
//!   well ---------------------------------------------> down <---------------------+------> mending
//!    ^   (a session that had proved itself: one more try)  ^  a probe fails         |          |
//!    |                                                     +------------------------+----------+
//!    +------------------------- every probe succeeded for `need` (60 s, doubled while it flaps) +
//! ```
//!
//! The cheapest path that is well and may carry something that waits is taken. From one that is taken nobody moves to a
//! cheaper one before its dwell time, and never because of a single good probe. Where no path is well all are tried in order of
//! cost: a session that comes to stand makes its path well.

use std::time::Duration;

use tokio::time::Instant;

/// All times are worked out from the one for which a path must be healthy, 60 s. Dwell time:
/// a path is left for a cheaper one after as long. A path that keeps falling back must be healthy for up to
/// [`NEED_MOST`] times as long, until it has carried a session for [`STEADY`] times as long. Probes of a path that is down
/// begin at a third of it and are doubled up to [`PROBE_MOST`] times; one that succeeds is a TCP connection opened and
/// closed, about 360 bytes.
const NEED_MOST: u32 = 60;
const STEADY: u32 = 10;
const PROBE_FIRST: u32 = 3;
const PROBE_MOST: u32 = 5;

/// Where a path stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathState {
    /// Nothing is known against it.
    Well,
    /// Probes succeed again, but not for long enough.
    Mending,
    /// Connects fail or sessions are lost.
    Down,
}

impl PathState {
    /// The word in status and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Mending => "mending",
            Self::Down => "down",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Health {
    state: PathState,
    /// Since when it mends.
    since: Instant,
    need: Duration,
    probe_at: Instant,
    probe_every: Duration,
    /// One connect may fail after a good session was lost: brokers are restarted too.
    doubted: bool,
    /// Tried and failed since anything worked.
    tried: bool,
    /// It was down before: another failure soon after its return means that it flaps.
    returned: bool,
}

/// Where to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::uplink) enum Choice {
    /// This one.
    Take(usize),
    /// All that could be taken have failed in this round: wait a little, then choose again.
    Wait,
    /// None may carry anything now.
    None,
}

/// All paths of an uplink, cheapest first.
#[derive(Debug)]
pub(in crate::uplink) struct Failover {
    health: Vec<Health>,
    healthy: Duration,
    current: Option<(usize, Instant)>,
}

impl Failover {
    pub(in crate::uplink) fn new(count: usize, healthy: Duration, now: Instant) -> Self {
        let health = Health {
            state: PathState::Well,
            since: now,
            need: healthy,
            probe_at: now,
            probe_every: healthy / PROBE_FIRST,
            doubted: false,
            tried: false,
            returned: false,
        };
        Self { health: vec![health; count], healthy, current: None }
    }

    pub(in crate::uplink) fn state(&self, path: usize) -> PathState {
        self.health.get(path).map_or(PathState::Well, |health| health.state)
    }

    /// Which path carries, or carried, the session.
    pub(in crate::uplink) fn current(&self) -> Option<usize> {
        self.current.map(|(path, _)| path)
    }

    /// Chooses for a new session; `able` says which paths may carry something that waits. After [`Choice::Wait`] all
    /// get another try.
    pub(in crate::uplink) fn choose(&mut self, able: &[bool], now: Instant) -> Choice {
        self.mend(now);
        let can = |path: &usize| able.get(*path).copied().unwrap_or(false);
        let all = 0..self.health.len();
        let well = all.clone().filter(can).find(|path| self.health[*path].state == PathState::Well);
        let chosen = well.or_else(|| all.clone().filter(can).find(|path| !self.health[*path].tried));
        if let Some(path) = chosen {
            if self.current() != Some(path) {
                self.current = Some((path, now));
            }
            return Choice::Take(path);
        }
        for path in all.clone() {
            self.health[path].tried = false;
        }
        if all.filter(can).count() > 0 { Choice::Wait } else { Choice::None }
    }

    /// After a failure: is there one left to be tried in this round? If not, all get another try in the next.
    pub(in crate::uplink) fn has_another(&mut self, able: &[bool]) -> bool {
        let left = |(path, health): (usize, &Health)| able[path] && (health.state == PathState::Well || !health.tried);
        let another = self.health.iter().enumerate().any(left);
        if !another {
            self.health.iter_mut().for_each(|health| health.tried = false);
        }
        another
    }

    /// Is there a better one than the present, so that a session in order ends for it?
    pub(in crate::uplink) fn better(&mut self, able: &[bool], now: Instant) -> Option<usize> {
        self.mend(now);
        let (current, since) = self.current?;
        let able_now = able.get(current).copied().unwrap_or(false);
        let well = |path: &usize| able[*path] && self.health[*path].state == PathState::Well;
        if !able_now {
            return (0..self.health.len()).filter(|path| *path != current).find(well);
        }
        let dwelt = now.saturating_duration_since(since) >= self.healthy;
        (0..current).find(well).filter(|_| dwelt)
    }

    /// The session stands: this way works.
    pub(in crate::uplink) fn stands(&mut self, path: usize) {
        let health = &mut self.health[path];
        health.returned |= health.state != PathState::Well;
        (health.state, health.doubted) = (PathState::Well, false);
        for health in &mut self.health {
            health.tried = false;
        }
    }

    /// A connect failed, or a session was lost; `proved`: it had carried something.
    pub(in crate::uplink) fn failed(&mut self, path: usize, proved: bool, now: Instant) {
        let flapped = match self.current {
            Some((current, since)) if current == path => now.saturating_duration_since(since) < self.healthy * STEADY,
            _ => false,
        };
        let alone = self.health.len() == 1;
        let health = &mut self.health[path];
        if proved && !health.doubted && !alone {
            health.doubted = true;
            return;
        }
        health.need = match health.state {
            PathState::Well if flapped && health.returned => (health.need * 2).min(self.healthy * NEED_MOST),
            PathState::Well => self.healthy,
            PathState::Mending | PathState::Down => health.need,
        };
        (health.state, health.tried, health.doubted) = (PathState::Down, true, false);
        let first = self.healthy / PROBE_FIRST;
        (health.probe_every, health.probe_at) = (first, now + first);
    }

    /// The cheapest path above the present one that is to be probed now.
    pub(in crate::uplink) fn probe_due(&self, able: &[bool], now: Instant) -> Option<usize> {
        let (current, _) = self.current?;
        let due = |path: &usize| {
            let health = &self.health[*path];
            able[*path] && health.state != PathState::Well && now >= health.probe_at
        };
        (0..current).find(due)
    }

    /// What came of it.
    pub(in crate::uplink) fn probed(&mut self, path: usize, result: Probed, now: Instant) {
        let (first, most) = (self.healthy / PROBE_FIRST, self.healthy * PROBE_MOST);
        let health = &mut self.health[path];
        match (result, health.state) {
            (_, PathState::Well) => return,
            (Probed::Well, PathState::Down) => {
                (health.state, health.since) = (PathState::Mending, now);
                health.probe_every = first;
            }
            (Probed::Well, PathState::Mending) => {}
            (Probed::Down, _) => {
                health.state = PathState::Down;
                health.probe_every = (health.probe_every * 2).min(most);
            }
        }
        health.probe_at = now + health.probe_every;
        self.mend(now);
    }

    /// A path whose probes have all succeeded for long enough is well again; the last one must be fresh.
    fn mend(&mut self, now: Instant) {
        let first = self.healthy / PROBE_FIRST;
        for health in &mut self.health {
            let long_enough = now.saturating_duration_since(health.since) >= health.need;
            if health.state == PathState::Mending && long_enough && now < health.probe_at + first {
                (health.state, health.tried, health.returned) = (PathState::Well, false, true);
            }
        }
    }
}

/// Result of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::uplink) enum Probed {
    Well,
    Down,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTHY: Duration = Duration::from_secs(60);
    const BOTH: [bool; 2] = [true, true];

    struct Bench {
        paths: Failover,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            Self { paths: Failover::new(2, HEALTHY, now), now }
        }

        fn later(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        fn choose(&mut self) -> Choice {
            self.paths.choose(&BOTH, self.now)
        }

        fn better(&mut self) -> Option<usize> {
            self.paths.better(&BOTH, self.now)
        }

        fn fail(&mut self, path: usize) {
            self.paths.failed(path, false, self.now);
        }

        /// Probes as they fall due; how many there were.
        fn probe(&mut self, seconds: u64, result: Probed) -> u32 {
            let mut probes = 0;
            for _ in 0..seconds {
                self.later(1);
                if let Some(path) = self.paths.probe_due(&BOTH, self.now) {
                    self.paths.probed(path, result, self.now);
                    probes += 1;
                }
            }
            probes
        }
    }

    #[test]
    fn the_cheapest_is_taken_and_the_next_when_it_fails() {
        let mut bench = Bench::new();
        assert_eq!(bench.choose(), Choice::Take(0));
        bench.fail(0);
        assert_eq!((bench.choose(), bench.paths.state(0)), (Choice::Take(1), PathState::Down));
        bench.paths.stands(1);
        assert_eq!(bench.better(), None);
    }

    #[test]
    fn all_down_means_one_try_each_in_order_and_then_a_pause() {
        let mut bench = Bench::new();
        for _ in 0..3 {
            for path in [0, 1] {
                assert_eq!(bench.choose(), Choice::Take(path));
                bench.fail(path);
            }
            assert_eq!(bench.choose(), Choice::Wait);
        }
        assert_eq!(bench.choose(), Choice::Take(0));
        bench.paths.stands(0);
        assert_eq!(bench.paths.state(0), PathState::Well, "a session proves more than a probe");
    }

    #[test]
    fn a_cheaper_path_is_taken_again_after_it_was_healthy_for_a_minute_and_not_before() {
        let mut bench = Bench::new();
        bench.choose();
        bench.fail(0);
        bench.choose();
        bench.paths.stands(1);
        assert!(bench.probe(600, Probed::Down) <= 6, "a dead path is not asked all the time");
        bench.later(300);
        bench.paths.probed(0, Probed::Well, bench.now);
        bench.probe(59, Probed::Well);
        assert_eq!((bench.better(), bench.paths.state(0)), (None, PathState::Mending));
        bench.probe(2, Probed::Well);
        assert_eq!(bench.better(), Some(0));
        assert_eq!(bench.choose(), Choice::Take(0));
    }

    #[test]
    fn one_bad_probe_begins_the_minute_again() {
        let mut bench = Bench::new();
        bench.choose();
        bench.fail(0);
        bench.choose();
        bench.probe(50, Probed::Well);
        bench.paths.probed(0, Probed::Down, bench.now);
        assert_eq!((bench.probe(45, Probed::Well) > 0, bench.better()), (true, None));
    }

    #[test]
    fn a_path_that_keeps_falling_back_is_waited_for_longer_and_longer() {
        let mut bench = Bench::new();
        let mut waits = Vec::new();
        bench.choose();
        for _ in 0..4 {
            bench.fail(0);
            bench.choose();
            bench.paths.stands(1);
            let mut waited = 0;
            while bench.better().is_none() {
                bench.probe(1, Probed::Well);
                waited += 1;
                assert!(waited < 7200);
            }
            waits.push(waited);
            assert_eq!(bench.choose(), Choice::Take(0));
            bench.paths.stands(0);
            bench.later(5);
        }
        assert!(waits.windows(2).all(|pair| pair[1] > pair[0] + 50), "{waits:?}");
        bench.later(3600);
        bench.fail(0);
        assert_eq!(bench.paths.health[0].need, HEALTHY, "an hour without trouble is forgiven");
    }

    #[test]
    fn nobody_moves_before_the_dwell_time_unless_the_present_path_can_carry_nothing() {
        let mut bench = Bench::new();
        assert_eq!(bench.paths.choose(&[false, true], bench.now), Choice::Take(1), "its window is closed");
        bench.paths.stands(1);
        bench.later(59);
        assert_eq!(bench.better(), None);
        bench.later(1);
        assert_eq!(bench.better(), Some(0));
        let mut bench = Bench::new();
        bench.choose();
        assert_eq!(bench.paths.better(&[false, true], bench.now), Some(1));
        assert_eq!(bench.paths.better(&[false, false], bench.now), None);
        assert_eq!(bench.paths.choose(&[false, false], bench.now), Choice::None);
    }

    #[test]
    fn a_good_session_that_breaks_is_tried_once_more_on_its_path() {
        let mut bench = Bench::new();
        bench.choose();
        bench.paths.stands(0);
        bench.paths.failed(0, true, bench.now);
        assert_eq!(bench.choose(), Choice::Take(0), "the broker may have been restarted");
        bench.fail(0);
        assert_eq!(bench.choose(), Choice::Take(1));
    }

    #[test]
    fn a_single_path_is_simply_tried_again_with_a_pause() {
        let now = Instant::now();
        let mut paths = Failover::new(1, HEALTHY, now);
        for _ in 0..3 {
            assert_eq!(paths.choose(&[true], now), Choice::Take(0));
            paths.failed(0, true, now);
            assert_eq!(paths.choose(&[true], now), Choice::Wait);
        }
    }
}
