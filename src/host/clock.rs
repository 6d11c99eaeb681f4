//! The system's clocks: boot time for stamps, wall time only as a *fix* once it is believable.
//!
//! Gateways boot with a wrong clock. Wall time is believed when it is not before the floor: this release's date, or the
//! latest time the store has seen. A step of the wall clock by more than [`STEP`] makes a new fix; slewing does not,
//! because the boot-time clock is slewed together with it (clock_gettime(2)).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::flow::clock::{Clock, Fix, TimeSource};
use crate::model::time::{Boot, Certainty, Stamp};

/// No honest clock is before this release: 2026-11-01T00:00:00Z. Moves with each release.
pub const RELEASE_MS: i64 = 1_793_491_200_000;

/// A difference between wall clock and last fix that counts as a step.
const STEP: Duration = Duration::from_millis(50);

/// How often the wall clock is compared.
pub const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// CLOCK_BOOTTIME: never stepped, counts through suspend.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootTime;

impl TimeSource for BootTime {
    fn boot_micros(&self) -> i64 {
        let now = clock_gettime(ClockId::Boottime);
        now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000)
    }
}

/// A clock of this boot whose floor is the release date or `seen_ms`, whichever is later.
pub fn system_clock(boot: Boot, seen_ms: Option<i64>) -> Clock {
    Clock::new(Arc::new(BootTime), boot, floor(seen_ms))
}

fn floor(seen_ms: Option<i64>) -> i64 {
    seen_ms.unwrap_or(0).max(RELEASE_MS)
}

/// Milliseconds since 1970 by the system's wall clock, right or wrong.
#[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
fn system_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Looks at the wall clock once: a fix to record, if it tells anything new.
pub fn look(clock: &Clock, seen_ms: Option<i64>) -> Option<Fix> {
    new_fix(clock, clock.now(), system_unix_ms(), floor(seen_ms))
}

/// Pure part of [`look`].
fn new_fix(clock: &Clock, at: Stamp, unix_ms: i64, floor_ms: i64) -> Option<Fix> {
    if unix_ms < floor_ms {
        return None;
    }
    let known = clock.wall(at);
    let same = known.certainty == Certainty::Fixed && Duration::from_millis(known.unix_ms.abs_diff(unix_ms)) < STEP;
    (!same).then_some(Fix { at, unix_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::clock::FakeTime;

    #[test]
    fn a_clock_before_this_release_is_no_fix_and_a_step_makes_a_new_one() {
        let time = Arc::new(FakeTime::default());
        let clock = Clock::new(time.clone(), Boot(1), RELEASE_MS);
        assert_eq!(new_fix(&clock, clock.now(), 5, RELEASE_MS), None, "1970 is not believed");
        let first = new_fix(&clock, clock.now(), RELEASE_MS + 1000, RELEASE_MS).expect("believable");
        clock.learn(first);
        time.advance(Duration::from_secs(60));
        assert_eq!(new_fix(&clock, clock.now(), RELEASE_MS + 61_010, RELEASE_MS), None, "no step");
        let second = new_fix(&clock, clock.now(), RELEASE_MS + 7_261_000, RELEASE_MS).expect("stepped by two hours");
        clock.learn(second);
        assert_eq!(clock.wall(first.at).unix_ms, RELEASE_MS + 1000, "what was said before the step stays");
    }

    #[test]
    fn boot_time_goes_forward() {
        let (one, two) = (BootTime.boot_micros(), BootTime.boot_micros());
        assert!(one > 0 && two >= one);
    }
}
