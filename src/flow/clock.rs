//! The clock handle: stamps now, wall time later.
//!
//! [`Clock::now`] reads the boot-time clock; [`Clock::wall`] works out UTC from the fixes recorded for that boot.
//! `host::clock` feeds the fixes; the store keeps them across restarts. Tests command a [`FakeTime`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::model::time::{Boot, Certainty, Stamp, Wall};

/// Where the boot-time clock comes from.
pub trait TimeSource: Send + Sync {
    /// Microseconds since boot; never goes back.
    fn boot_micros(&self) -> i64;
}

/// "At this moment of that boot, UTC was …".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fix {
    /// The moment.
    pub at: Stamp,
    /// UTC then, ms since 1970.
    pub unix_ms: i64,
}

impl Fix {
    /// "When that boot began, UTC was at least …": told apart by a moment before the boot, which no stamp has.
    pub const fn floor(boot: Boot, unix_ms: i64) -> Self {
        Self { at: Stamp { boot, micros: -1 }, unix_ms }
    }

    /// See [`Fix::floor`].
    pub const fn is_floor(&self) -> bool {
        self.at.micros < 0
    }
}

/// Shared by every room; cheap to clone.
#[derive(Clone)]
pub struct Clock {
    source: Arc<dyn TimeSource>,
    boot: Boot,
    known: Arc<RwLock<Known>>,
}

#[derive(Default)]
struct Known {
    /// Per boot: moment to UTC minus moment (µs).
    fixes: BTreeMap<(Boot, i64), i64>,
    /// Boots of which a floor was recorded: UTC at their begin, at least, ms.
    floors: BTreeMap<Boot, i64>,
    /// For all others.
    floor_ms: i64,
}

impl Clock {
    /// A clock for this boot. `floor_ms` (build date, or the last time the store has seen): UTC is at least that.
    pub fn new(source: Arc<dyn TimeSource>, boot: Boot, floor_ms: i64) -> Self {
        let known = Known { floor_ms, ..Known::default() };
        Self { source, boot, known: Arc::new(RwLock::new(known)) }
    }

    /// This moment.
    pub fn now(&self) -> Stamp {
        Stamp { boot: self.boot, micros: self.source.boot_micros() }
    }

    /// UTC is now known to be this at that moment. Also used at start for the fixes and floors of earlier boots.
    pub fn learn(&self, fix: Fix) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if fix.is_floor() {
            known.floors.insert(fix.at.boot, fix.unix_ms);
        } else {
            known.fixes.insert((fix.at.boot, fix.at.micros), fix.unix_ms * 1000 - fix.at.micros);
        }
    }

    /// Has this boot had a fix?
    pub fn is_fixed(&self) -> bool {
        self.wall_now().certainty.is_fixed()
    }

    /// UTC when this boot began, as far as is known without a fix: what the store must remember of it, if it is new.
    pub fn floor(&self) -> Option<Fix> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        (!known.floors.contains_key(&self.boot)).then(|| Fix::floor(self.boot, known.floor_ms))
    }

    /// UTC of a moment. The latest fix of its boot counts, for what came before it too: the boot-time clock is never
    /// stepped, so a later fix only corrects an earlier one, and the order of moments stays the order of times. Without a
    /// fix: the floor of that boot.
    pub fn wall(&self, stamp: Stamp) -> Wall {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let boot = stamp.boot;
        if let Some((_, offset)) = known.fixes.range((boot, 0)..=(boot, i64::MAX)).next_back() {
            return Wall { unix_ms: (stamp.micros + offset).div_euclid(1000), certainty: Certainty::Fixed };
        }
        let floor = known.floors.get(&boot).copied().unwrap_or(known.floor_ms);
        if boot == self.boot {
            return Wall { unix_ms: floor + stamp.micros / 1000, certainty: Certainty::Floor };
        }
        // It was over when the next boot that had a fix began.
        let began = known.fixes.range((Boot(boot.0.saturating_add(1)), 0)..).next().map(|(_, offset)| offset / 1000);
        let since = if known.floors.contains_key(&boot) { stamp.micros / 1000 } else { 0 };
        let estimate = floor + since;
        match began {
            Some(began) => Wall { unix_ms: estimate.min(began), certainty: Certainty::Until(began) },
            None => Wall { unix_ms: estimate, certainty: Certainty::Floor },
        }
    }

    /// How long ago that was, at least: of an earlier boot all of it where the times of both are known, and else what is
    /// certain.
    pub fn age(&self, stamp: Stamp) -> Duration {
        let now = self.now();
        if stamp.boot >= now.boot || stamp.boot == Boot(0) {
            return now.since(stamp);
        }
        let running = now.since(Stamp { micros: 0, ..now });
        let (then, wall) = (self.wall(stamp), self.wall(now));
        match then.certainty {
            Certainty::Fixed if wall.certainty.is_fixed() => between(then.unix_ms, wall.unix_ms).max(running),
            Certainty::Until(end) if wall.certainty.is_fixed() => between(end, wall.unix_ms).max(running),
            _ => running,
        }
    }

    /// UTC now.
    pub fn wall_now(&self) -> Wall {
        self.wall(self.now())
    }
}

/// From the first to the second, both ms since 1970; zero when that is not later.
fn between(earlier: i64, later: i64) -> Duration {
    Duration::from_millis(u64::try_from(later.saturating_sub(earlier)).unwrap_or(0))
}

/// A clock that a test moves by hand.
#[derive(Debug, Default)]
pub struct FakeTime(AtomicI64);

impl FakeTime {
    /// Moves time on.
    pub fn advance(&self, by: std::time::Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

impl TimeSource for FakeTime {
    fn boot_micros(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_taken_before_the_first_fix_gets_its_right_time_afterwards() {
        let time = Arc::new(FakeTime::default());
        let clock = Clock::new(time.clone(), Boot(2), 1_700_000_000_000);
        let early = clock.now();
        assert_eq!(clock.wall(early).certainty, Certainty::Floor);
        assert_eq!(clock.wall(early).unix_ms, 1_700_000_000_000);
        time.advance(Duration::from_secs(10));
        clock.learn(Fix { at: clock.now(), unix_ms: 1_800_000_010_000 });
        assert_eq!(clock.wall(early), Wall { unix_ms: 1_800_000_000_000, certainty: Certainty::Fixed });
        let other_boot = Stamp { boot: Boot(1), micros: 5 };
        assert!(!clock.wall(other_boot).certainty.is_fixed());
    }

    #[test]
    fn steps_forward_and_back_by_hours_keep_the_order_and_end_with_the_right_times() {
        let time = Arc::new(FakeTime::default());
        let clock = Clock::new(time.clone(), Boot(1), 1_700_000_000_000);
        let mut stamps = Vec::new();
        // Wrong by two hours, then by minus three, then right.
        for unix_ms in [1_800_007_200_000, 1_799_989_200_000 + 10_000, 1_800_000_020_000] {
            stamps.push(clock.now());
            clock.learn(Fix { at: clock.now(), unix_ms });
            let times: Vec<i64> = stamps.iter().map(|stamp| clock.wall(*stamp).unix_ms).collect();
            assert!(times.is_sorted(), "{times:?}");
            time.advance(Duration::from_secs(10));
        }
        let times: Vec<i64> = stamps.iter().map(|stamp| clock.wall(*stamp).unix_ms).collect();
        assert_eq!(times, [1_800_000_000_000, 1_800_000_010_000, 1_800_000_020_000]);
    }

    #[test]
    fn a_boot_that_never_had_a_fix_keeps_its_order_and_its_bracket() {
        let time = Arc::new(FakeTime::default());
        let clock = Clock::new(time.clone(), Boot(3), 1_700_000_500_000);
        clock.learn(Fix::floor(Boot(1), 1_700_000_000_000));
        clock.learn(Fix::floor(Boot(2), 1_700_000_060_000));
        let at = |boot, seconds: i64| Stamp { boot: Boot(boot), micros: seconds * 1_000_000 };
        let moments = [at(1, 5), at(1, 50), at(2, 1), at(2, 400), at(3, 0)];
        let times: Vec<Wall> = moments.iter().map(|stamp| clock.wall(*stamp)).collect();
        assert!(times.iter().map(|wall| wall.unix_ms).is_sorted(), "{times:?}");
        assert!(times.iter().all(|wall| wall.certainty == Certainty::Floor));
        clock.learn(Fix { at: at(3, 100), unix_ms: 1_700_000_300_000 });
        let began = 1_700_000_200_000;
        assert_eq!(clock.wall(at(1, 5)), Wall { unix_ms: 1_700_000_005_000, certainty: Certainty::Until(began) });
        assert_eq!(clock.wall(at(2, 400)).unix_ms, began, "it was over when the next boot began");
    }

    #[test]
    fn a_restart_within_a_boot_goes_on_with_the_floor_of_that_boot() {
        let time = Arc::new(FakeTime::default());
        let before = Clock::new(time.clone(), Boot(1), 1_700_000_000_000);
        let floor = before.floor().expect("it is new");
        time.advance(Duration::from_secs(36_000));
        let sample = before.now();
        let seen = before.wall_now().unix_ms;
        let after = Clock::new(time, Boot(1), seen);
        after.learn(floor);
        assert_eq!((after.floor(), after.wall(sample)), (None, before.wall(sample)));
    }

    #[test]
    fn what_is_of_an_earlier_boot_is_as_old_as_is_known_and_never_younger_than_this_boot() {
        let (time, noon, hour) = (Arc::new(FakeTime::default()), 1_800_000_000_000, 3_600_000);
        let clock = Clock::new(time.clone(), Boot(3), noon);
        let at = |boot, seconds: i64| Stamp { boot: Boot(boot), micros: seconds * 1_000_000 };
        let seconds = |stamp| clock.age(stamp).as_secs();
        time.advance(Duration::from_secs(100));
        assert_eq!((seconds(at(3, 40)), seconds(at(2, 7)), seconds(at(1, 7))), (60, 100, 100));
        assert_eq!((seconds(at(0, 7)), seconds(at(4, 7)), seconds(at(3, 101))), (0, 0, 0), "no earlier boot at all");
        clock.learn(Fix { at: at(2, 0), unix_ms: noon });
        assert_eq!(seconds(at(2, 7)), 100, "nobody vouches for the clock of this boot");
        clock.learn(Fix { at: at(3, 0), unix_ms: noon + hour });
        assert_eq!((seconds(at(2, 7)), seconds(at(3, 40))), (3600 - 7 + 100, 60));
        assert_eq!(seconds(at(1, 7)), 3600 + 100, "it was over when the next one began");
    }
}
