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

struct Known {
    /// The number of this boot: that of its stamps, or where they have none the one that was learned since.
    boot: Boot,
    /// The latest of each boot.
    fixes: BTreeMap<Boot, Latest>,
    /// Boots of which a floor was recorded: UTC at their begin, at least, ms.
    floors: BTreeMap<Boot, i64>,
    /// For all others.
    floor_ms: i64,
}

/// The latest fix of a boot: those before it count no more.
#[derive(Debug, Clone, Copy)]
struct Latest {
    /// When it was.
    micros: i64,
    /// Moment to UTC minus moment (µs); UTC when the boot began.
    offset: i64,
}

impl Clock {
    /// A clock for this boot. `floor_ms` (build date, or the last time the store has seen): UTC is at least that.
    pub fn new(source: Arc<dyn TimeSource>, boot: Boot, floor_ms: i64) -> Self {
        let known = Known { boot, fixes: BTreeMap::new(), floors: BTreeMap::new(), floor_ms };
        Self { source, boot, known: Arc::new(RwLock::new(known)) }
    }

    /// This moment.
    pub fn now(&self) -> Stamp {
        Stamp { boot: self.boot, micros: self.source.boot_micros() }
    }

    /// UTC is now known to be this at that moment. Also used at start for the fixes and floors of earlier boots.
    pub fn learn(&self, fix: Fix) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let at = self.numbered_by(&known, fix.at);
        known.learn(Fix { at, ..fix });
    }

    /// What a store knows that could be opened only now: the number of this boot, how late it was when it was saved last
    /// (ms since 1970), and the fixes and floors of this and earlier boots. Stamps go on carrying boot 0, and are of this
    /// boot. No effect on a clock that had a number from the beginning.
    pub fn resume(&self, boot: Boot, seen_ms: Option<i64>, fixes: &[Fix]) {
        if self.boot != Boot(0) {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // The floor until now knew nothing of what the store has seen: it is left behind.
        known.floor_ms = known.floor_ms.max(seen_ms.unwrap_or(known.floor_ms));
        if let Some(fix) = known.fixes.remove(&Boot(0)) {
            known.fixes.insert(boot, fix);
        }
        known.boot = boot;
        for fix in fixes {
            known.learn(*fix);
        }
    }

    /// A moment with the number of its boot, where that became known only after the moment was stamped.
    pub fn numbered(&self, stamp: Stamp) -> Stamp {
        self.numbered_by(&self.known.read().unwrap_or_else(PoisonError::into_inner), stamp)
    }

    fn numbered_by(&self, known: &Known, stamp: Stamp) -> Stamp {
        if stamp.boot == self.boot { Stamp { boot: known.boot, ..stamp } } else { stamp }
    }

    /// Has this boot had a fix?
    pub fn is_fixed(&self) -> bool {
        self.wall_now().certainty.is_fixed()
    }

    /// UTC is later than that, whatever the moment: the release, or what the store has seen. ms since 1970.
    pub fn seen_ms(&self) -> i64 {
        self.known.read().unwrap_or_else(PoisonError::into_inner).floor_ms
    }

    /// UTC when this boot began, as far as is known without a fix: what the store must remember of it, if it is new.
    pub fn floor(&self) -> Option<Fix> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        (!known.floors.contains_key(&known.boot)).then(|| Fix::floor(known.boot, known.floor_ms))
    }

    /// UTC of a moment. The latest fix of its boot counts, for what came before it too: the boot-time clock is never
    /// stepped, so a later fix only corrects an earlier one, and the order of moments stays the order of times. Without a
    /// fix: the floor of that boot.
    pub fn wall(&self, stamp: Stamp) -> Wall {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.numbered_by(&known, stamp);
        let boot = stamp.boot;
        if let Some(Latest { offset, .. }) = known.fixes.get(&boot) {
            return Wall { unix_ms: (stamp.micros + offset).div_euclid(1000), certainty: Certainty::Fixed };
        }
        let floor = known.floors.get(&boot).copied().unwrap_or(known.floor_ms);
        if boot == known.boot {
            return Wall { unix_ms: floor + stamp.micros / 1000, certainty: Certainty::Floor };
        }
        // It was over when the next boot that had a fix began.
        let began = known.fixes.range(boot..).next().map(|(_, fix)| fix.offset / 1000);
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
        let (stamp, now) = (self.numbered(stamp), self.numbered(self.now()));
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

impl Known {
    fn learn(&mut self, fix: Fix) {
        let Stamp { boot, micros } = fix.at;
        if fix.is_floor() {
            self.floors.insert(boot, fix.unix_ms);
        } else if self.fixes.get(&boot).is_none_or(|latest| latest.micros <= micros) {
            self.fixes.insert(boot, Latest { micros, offset: fix.unix_ms * 1000 - micros });
        }
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
    fn a_boot_without_a_fix_ended_when_the_next_one_began_by_the_fix_that_corrected_that() {
        let (time, noon, day) = (Arc::new(FakeTime::default()), 1_800_000_000_000, 86_400_000);
        let clock = Clock::new(time.clone(), Boot(2), noon - 9 * day);
        let sample = Stamp { boot: Boot(1), micros: 5 };
        let learn = |unix_ms| clock.learn(Fix { at: clock.now(), unix_ms });
        time.advance(Duration::from_secs(100));
        learn(noon + day + 100_000); // by a battery that was a day ahead
        assert_eq!(clock.wall(sample).until_ms(), Some(noon + day));
        time.advance(Duration::from_secs(100));
        learn(noon + 200_000);
        assert_eq!((clock.wall(sample).until_ms(), clock.age(sample).as_secs()), (Some(noon), 200));
    }

    #[test]
    fn the_latest_fix_of_a_boot_is_all_that_is_kept_of_it_in_whatever_order_they_come() {
        let clock = Clock::new(Arc::new(FakeTime::default()), Boot(1), 0);
        let fix = |micros| Fix { at: Stamp { boot: Boot(1), micros }, unix_ms: 1_800_000_000_000 - micros };
        for minute in [3, 1, 1000, 2] {
            clock.learn(fix(minute * 60_000_000));
        }
        assert_eq!(clock.wall(fix(60_000_000_000).at).unix_ms, fix(60_000_000_000).unix_ms);
        assert_eq!(clock.known.read().expect("no panic").fixes.len(), 1);
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
    fn a_boot_that_gets_its_number_late_has_the_times_and_ages_it_would_have_had_from_the_beginning() {
        let (time, noon, hour) = (Arc::new(FakeTime::default()), 1_800_000_000_000, 3_600_000);
        let clock = Clock::new(time.clone(), Boot(0), 1_700_000_000_000);
        clock.learn(clock.floor().expect("it is new"));
        time.advance(Duration::from_secs(10));
        let early = clock.now();
        let at = |boot, seconds: i64| Stamp { boot: Boot(boot), micros: seconds * 1_000_000 };
        let stored = [Fix { at: at(5, 3), unix_ms: noon }, Fix::floor(Boot(6), noon + hour)];
        clock.resume(Boot(7), Some(noon + 2 * hour), &stored);
        assert_eq!(clock.wall(at(5, 4)), Wall { unix_ms: noon + 1000, certainty: Certainty::Fixed });
        let floor = Fix::floor(Boot(7), noon + 2 * hour);
        assert_eq!((clock.floor(), clock.wall(early).unix_ms), (Some(floor), noon + 2 * hour + 10_000));
        clock.learn(floor);
        assert_eq!((clock.numbered(early), clock.wall(at(7, 10))), (at(7, 10), clock.wall(early)));
        // A fix of stamps without a number is one of this boot, for what is stored of it as well; it ends the boot before.
        clock.learn(Fix { at: clock.now(), unix_ms: noon + 3 * hour + 10_000 });
        let fixed = Wall { unix_ms: noon + 3 * hour + 10_000, certainty: Certainty::Fixed };
        assert_eq!((clock.wall(early), clock.wall(at(7, 10))), (fixed, fixed));
        assert_eq!(clock.wall(at(6, 1)).certainty, Certainty::Until(noon + 3 * hour));
        time.advance(Duration::from_secs(60));
        assert_eq!((clock.age(at(7, 10)).as_secs(), clock.age(early).as_secs()), (60, 60));
        assert_eq!(clock.age(at(5, 3)).as_secs(), 3 * 3600 + 70);
    }

    #[test]
    fn a_fix_from_before_a_boot_got_its_number_stays_and_the_floor_of_that_boot_is_the_one_stored_first() {
        let time = Arc::new(FakeTime::default());
        let clock = Clock::new(time, Boot(0), 1_700_000_000_000);
        let fix = Fix { at: clock.now(), unix_ms: 1_800_000_000_000 };
        clock.learn(fix);
        clock.resume(Boot(7), None, &[Fix::floor(Boot(7), 1_790_000_000_000)]);
        assert_eq!((clock.floor(), clock.is_fixed()), (None, true));
        assert_eq!(clock.wall(clock.numbered(fix.at)).unix_ms, fix.unix_ms);
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
