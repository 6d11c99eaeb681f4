//! The system's clocks: boot time for stamps, wall time only as a *fix* once it is believable.
//!
//! Gateways boot with a wrong clock, and some never learn the right time. So wall time counts only while somebody
//! vouches for it ([`super::sync`]): an NTP daemon that says it is synchronised, a file of the operator's choice, or,
//! where nobody could be asked, the system itself (of that [`Watch::unvouched`] tells). A step of the wall clock by more
//! than `STEP` makes a new fix; slewing does not, because the boot-time clock is slewed together with it
//! (clock_gettime(2)).
//!
//! `Watch::step` is pure; [`Watch::look`] feeds it. Nothing before this release is ever believed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::config::plan::TimeTrust;
use crate::flow::clock::{Clock, Fix, Seen, TimeSource};
use crate::model::time::{Boot, Stamp, signed_millis};

use super::sync::{self, Sync};

/// No honest clock is before this release: 2026-11-01T00:00:00Z. Moves with each release.
pub const RELEASE_MS: i64 = 1_793_491_200_000;
/// Nor so long after it: 30 years.
const HORIZON_MS: i64 = RELEASE_MS + 30 * 31_557_600_000;
/// A difference between wall clock and last fix that counts as a step.
const STEP: Duration = Duration::from_millis(50);
/// How often the wall clock is compared.
pub const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// An NTP daemon that has not shown itself this long after boot is not there.
const DAEMONS_UP_AFTER: Duration = Duration::from_secs(90);
/// Without a fix for this long somebody should know.
const UNSET_AFTER: Duration = Duration::from_secs(600);

/// CLOCK_BOOTTIME: never stepped, counts through suspend.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootTime;

impl TimeSource for BootTime {
    fn boot_micros(&self) -> i64 {
        let now = clock_gettime(ClockId::Boottime);
        now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000)
    }
}

/// A clock of this boot whose floor is the release date or what a store has seen, whichever is later.
pub fn system_clock(boot: Boot, seen: Seen) -> Clock {
    let clock = Clock::new(Arc::new(BootTime), boot, RELEASE_MS);
    clock.saw(seen);
    clock.vouch(false);
    clock
}

/// Milliseconds since 1970 by the system's wall clock, right or wrong.
#[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
fn system_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    signed_millis(since)
}

/// What a look at the clocks tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing new.
    Nothing,
    /// UTC is known, or was stepped.
    Fix(Fix),
    /// There has been no fix for long; said once.
    Unset(Sync),
    /// There is one after all.
    Set(Fix),
}

/// Watches the wall clock of this boot.
#[derive(Debug)]
pub struct Watch {
    trust: TimeTrust,
    told_unset: bool,
    /// Somebody has vouched for the last fix, and this process has heard it: of what an earlier one of this boot believed
    /// nobody knows why.
    vouched: bool,
    /// What counts is the system's own word.
    unvouched: Arc<AtomicBool>,
    asked: sync::Asked,
}

impl Watch {
    /// Nothing is known yet.
    pub fn new(trust: TimeTrust) -> Self {
        Self { trust, told_unset: false, vouched: false, unvouched: Arc::default(), asked: sync::Asked::default() }
    }

    /// True while the time is taken from the system as it is, because there is nobody to vouch for it.
    pub fn unvouched(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.unvouched)
    }

    /// Looks once; may wait a fraction of a second for an NTP daemon's answer.
    pub fn look(&mut self, clock: &Clock) -> News {
        let sync = self.asked.ask(&self.trust, Duration::from_micros(clock.now().micros.unsigned_abs()));
        let told = self.step(clock, clock.now(), system_unix_ms(), sync);
        clock.vouch(self.vouched);
        told
    }

    /// What the wall clock says at a moment, and who vouches for it, to what is new.
    fn step(&mut self, clock: &Clock, at: Stamp, unix_ms: i64, sync: Sync) -> News {
        let known = clock.wall(at);
        let fixed = known.certainty.is_fixed();
        let long = Duration::from_micros(at.micros.unsigned_abs()) >= UNSET_AFTER;
        let believed = match sync {
            Sync::Waiting => false,
            Sync::Synchronised => (RELEASE_MS..HORIZON_MS).contains(&unix_ms),
            // Nobody vouches for it: a clock that lost hours over a power cut is behind what the store has seen. But where
            // nobody vouched for that either it may have been ahead by years, and somebody has set it right: before long
            // another word of the same witness counts as much.
            Sync::Nobody if Duration::from_micros(at.micros.unsigned_abs()) < DAEMONS_UP_AFTER => false,
            Sync::Nobody => {
                let Seen { latest_ms, vouched_ms } = clock.seen();
                let seen = if long { vouched_ms } else { latest_ms };
                let floor = if fixed { RELEASE_MS } else { RELEASE_MS.max(seen.unwrap_or(0)) };
                (floor..HORIZON_MS).contains(&unix_ms)
            }
        };
        if !believed {
            if fixed || self.told_unset || !long {
                return News::Nothing;
            }
            self.told_unset = true;
            return News::Unset(sync);
        }
        let stays = fixed && Duration::from_millis(known.unix_ms.abs_diff(unix_ms)) < STEP;
        self.vouched = sync == Sync::Synchronised || (stays && self.vouched);
        self.unvouched.store(!self.vouched, Ordering::Relaxed);
        if stays {
            return News::Nothing;
        }
        let fix = Fix { at, unix_ms };
        if std::mem::take(&mut self.told_unset) { News::Set(fix) } else { News::Fix(fix) }
    }
}

/// For commands that run for a moment and only show times: the wall clock as it is, if it can be right at all.
pub fn plain_fix(clock: &Clock) -> Option<Fix> {
    let unix_ms = system_unix_ms();
    (RELEASE_MS..HORIZON_MS).contains(&unix_ms).then(|| Fix { at: clock.now(), unix_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::clock::FakeTime;

    const HOUR_MS: i64 = 3_600_000;

    /// A box whose clocks the test commands.
    struct Machine {
        time: Arc<FakeTime>,
        clock: Clock,
        watch: Watch,
    }

    impl Machine {
        fn booted(trust: TimeTrust, seen_ms: i64) -> Self {
            let time = Arc::new(FakeTime::default());
            let clock = Clock::new(time.clone(), Boot(1), RELEASE_MS.max(seen_ms));
            Self { time, clock, watch: Watch::new(trust) }
        }

        /// So much later the wall clock shows this.
        fn sees(&mut self, seconds: u64, unix_ms: i64, sync: Sync) -> News {
            self.time.advance(Duration::from_secs(seconds));
            let told = self.watch.step(&self.clock, self.clock.now(), unix_ms, sync);
            if let News::Fix(fix) | News::Set(fix) = told {
                self.clock.learn(fix);
            }
            told
        }

        fn wall_ms(&self) -> i64 {
            self.clock.wall_now().unix_ms
        }
    }

    #[test]
    fn a_clock_that_nobody_has_set_is_no_fix_however_plausible() {
        let mut machine = Machine::booted(TimeTrust::Auto, RELEASE_MS + HOUR_MS);
        let early = machine.clock.now();
        assert_eq!(machine.sees(200, RELEASE_MS + 2 * HOUR_MS, Sync::Waiting), News::Nothing);
        assert!(!machine.clock.is_fixed());
        assert_eq!(machine.sees(500, RELEASE_MS + 2 * HOUR_MS, Sync::Waiting), News::Unset(Sync::Waiting));
        assert_eq!(machine.sees(1, RELEASE_MS + 2 * HOUR_MS, Sync::Waiting), News::Nothing, "said once");
        let right = RELEASE_MS + 50 * HOUR_MS;
        assert!(matches!(machine.sees(1, right, Sync::Synchronised), News::Set(_)));
        assert_eq!(machine.clock.wall(early).unix_ms, right - 702_000, "what came before is right now");
    }

    #[test]
    fn never_1970_and_never_the_far_future() {
        for sync in [Sync::Waiting, Sync::Synchronised, Sync::Nobody] {
            let mut machine = Machine::booted(TimeTrust::Auto, 0);
            for unix_ms in [0, 5, RELEASE_MS - 1, HORIZON_MS, i64::MAX] {
                assert_eq!(machine.sees(100, unix_ms, sync), News::Nothing);
                assert!(machine.wall_ms() >= RELEASE_MS && !machine.clock.is_fixed());
            }
        }
    }

    #[test]
    fn where_nobody_can_be_asked_the_system_is_believed_but_not_before_what_was_seen() {
        let seen = RELEASE_MS + 100 * HOUR_MS;
        let mut machine = Machine::booted(TimeTrust::Auto, seen);
        assert_eq!(machine.sees(30, seen + HOUR_MS, Sync::Nobody), News::Nothing, "a daemon may still be starting");
        assert_eq!(machine.sees(70, seen - HOUR_MS, Sync::Nobody), News::Nothing, "it has lost time");
        assert!(matches!(machine.sees(10, seen + HOUR_MS, Sync::Nobody), News::Fix(_)));
        assert!(
            matches!(machine.sees(10, seen - HOUR_MS, Sync::Nobody), News::Fix(_)),
            "set back by hand, while running"
        );
    }

    #[test]
    fn a_clock_that_is_taken_as_it_is_counts_as_such_until_somebody_vouches_for_it_or_for_another_time() {
        let unvouched = |machine: &Machine| machine.watch.unvouched().load(Ordering::Relaxed);
        let mut machine = Machine::booted(TimeTrust::Auto, 0);
        let at = RELEASE_MS + HOUR_MS;
        assert!(matches!(machine.sees(100, at, Sync::Nobody), News::Fix(_)));
        assert!(unvouched(&machine));
        assert_eq!(machine.sees(1, at + 1000, Sync::Synchronised), News::Nothing, "it was right");
        assert!(!unvouched(&machine));
        assert_eq!(machine.sees(1, at + 2000, Sync::Nobody), News::Nothing, "the daemon has gone, what it said stays");
        assert!(!unvouched(&machine));
        assert!(matches!(machine.sees(1, at + 2 * HOUR_MS, Sync::Nobody), News::Fix(_)));
        assert!(unvouched(&machine), "somebody set it by hand");
    }

    #[test]
    fn what_nobody_vouched_for_is_vouched_for_by_no_restart() {
        let mut machine = Machine::booted(TimeTrust::Auto, 0);
        let ahead = RELEASE_MS + 20_000 * HOUR_MS;
        assert!(matches!(machine.sees(100, ahead, Sync::Nobody), News::Fix(_)));
        // The next process of this boot learns that fix from the store.
        for sync in [Sync::Waiting, Sync::Nobody] {
            machine.watch = Watch::new(TimeTrust::Auto);
            assert_eq!(machine.sees(1, machine.wall_ms() + 1000, sync), News::Nothing);
            assert!(!machine.watch.vouched, "{sync:?}");
        }
        assert!(machine.watch.unvouched().load(Ordering::Relaxed), "and that is told again");
        assert_eq!(machine.sees(1, machine.wall_ms() + 1000, Sync::Synchronised), News::Nothing);
        assert!(machine.watch.vouched && !machine.watch.unvouched().load(Ordering::Relaxed));
        assert_eq!(system_clock(Boot(1), Seen::default()).vouched_ms(), None);
    }

    #[test]
    fn a_clock_that_is_behind_what_a_store_that_opened_late_has_seen_is_not_believed_either() {
        let (time, seen) = (Arc::new(FakeTime::default()), RELEASE_MS + 100 * HOUR_MS);
        let clock = Clock::new(time.clone(), Boot(0), RELEASE_MS);
        let mut machine = Machine { time, clock, watch: Watch::new(TimeTrust::Auto) };
        machine.clock.resume(Boot(2), Seen::vouched(seen), &[]);
        assert_eq!(machine.sees(100, seen - HOUR_MS, Sync::Nobody), News::Nothing, "it has lost time");
        assert!(matches!(machine.sees(1, seen + HOUR_MS, Sync::Nobody), News::Fix(_)));
    }

    #[test]
    fn a_clock_that_was_ahead_by_years_and_nobodys_word_delays_the_right_time_and_shuts_no_door_meanwhile() {
        let (right, ahead) = (RELEASE_MS + HOUR_MS, RELEASE_MS + 20 * 365 * 24 * HOUR_MS);
        let mut machine = Machine::booted(TimeTrust::Auto, 0);
        machine.clock.saw(Seen { latest_ms: Some(ahead), vouched_ms: None });
        assert_eq!(machine.sees(100, right, Sync::Nobody), News::Nothing, "it may have lost time");
        assert!(machine.wall_ms() >= ahead && machine.clock.date_now().unix_ms < right);
        assert!(matches!(machine.sees(500, right, Sync::Nobody), News::Fix(_)));
        assert_eq!((machine.wall_ms(), machine.clock.date_now()), (right, machine.clock.wall_now()));
        // What somebody vouched for stays: no time before that is believed, however long it takes.
        let mut machine = Machine::booted(TimeTrust::Auto, right + HOUR_MS);
        assert_eq!(machine.sees(6000, right, Sync::Nobody), News::Unset(Sync::Nobody));
    }

    #[test]
    fn a_synchronised_clock_is_believed_even_when_the_one_before_was_in_the_future() {
        let poisoned = RELEASE_MS + 20_000 * HOUR_MS;
        let mut machine = Machine::booted(TimeTrust::Auto, poisoned);
        let right = RELEASE_MS + 10 * HOUR_MS;
        assert!(matches!(machine.sees(5, right, Sync::Synchronised), News::Fix(_)));
        assert_eq!(machine.wall_ms(), right);
        assert_eq!(machine.sees(60, right + 60_010, Sync::Synchronised), News::Nothing, "slewing is no step");
        assert!(matches!(machine.sees(1, right - HOUR_MS, Sync::Synchronised), News::Fix(_)));
        assert_eq!(machine.wall_ms(), right - HOUR_MS);
    }

    #[test]
    fn a_fix_outlives_the_daemon_that_gave_it() {
        let mut machine = Machine::booted(TimeTrust::Auto, 0);
        assert!(matches!(machine.sees(5, RELEASE_MS + HOUR_MS, Sync::Synchronised), News::Fix(_)));
        assert_eq!(machine.sees(3600, RELEASE_MS + 9 * HOUR_MS, Sync::Waiting), News::Nothing);
        assert_eq!(machine.wall_ms(), RELEASE_MS + 2 * HOUR_MS, "a step that nobody vouches for is ignored");
    }

    #[test]
    fn boot_time_goes_forward() {
        let (one, two) = (BootTime.boot_micros(), BootTime.boot_micros());
        assert!(one > 0 && two >= one);
    }
}
