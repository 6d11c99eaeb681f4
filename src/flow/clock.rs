//! The clock handle: stamps now, wall time later.
//!
//! [`Clock::now`] reads the boot-time clock; [`Clock::wall`] works out UTC from the fixes recorded for that boot.
//! `host::clock` feeds the fixes; the store keeps them across restarts. Tests command a [`FakeTime`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

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
    floor_ms: i64,
}

impl Clock {
    /// A clock for this boot. `floor_ms` (build date, or the last time the store has seen): UTC is at least that.
    pub fn new(source: Arc<dyn TimeSource>, boot: Boot, floor_ms: i64) -> Self {
        let known = Known { fixes: BTreeMap::new(), floor_ms };
        Self { source, boot, known: Arc::new(RwLock::new(known)) }
    }

    /// This moment.
    pub fn now(&self) -> Stamp {
        Stamp { boot: self.boot, micros: self.source.boot_micros() }
    }

    /// UTC is now known to be this at that moment. Also used at start for the fixes of earlier boots.
    pub fn learn(&self, fix: Fix) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.fixes.insert((fix.at.boot, fix.at.micros), fix.unix_ms * 1000 - fix.at.micros);
    }

    /// UTC of a moment: by the last fix of its boot before it, or else the first after it; without any, the floor.
    pub fn wall(&self, stamp: Stamp) -> Wall {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let boot = stamp.boot;
        let before = known.fixes.range((boot, i64::MIN)..=(boot, stamp.micros)).next_back();
        let fix = before.or_else(|| known.fixes.range((boot, stamp.micros)..=(boot, i64::MAX)).next());
        match fix {
            Some((_, offset)) => {
                Wall { unix_ms: (stamp.micros + offset).div_euclid(1000), certainty: Certainty::Fixed }
            }
            None => {
                let since = if boot == self.boot { stamp.micros / 1000 } else { 0 };
                Wall { unix_ms: known.floor_ms + since, certainty: Certainty::Floor }
            }
        }
    }

    /// UTC now.
    pub fn wall_now(&self) -> Wall {
        self.wall(self.now())
    }
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
    use std::time::Duration;

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
        assert_eq!(clock.wall(other_boot).certainty, Certainty::Floor);
    }
}
