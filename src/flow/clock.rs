//! The clock handle: stamps now, wall time later.
//!
//! [`Clock::now`] reads the boot-time clock; [`Clock::wall`] works out UTC from the fixes recorded for that boot.
//! `host::clock` feeds the fixes; the store keeps them across restarts. Tests command a [`FakeTime`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use crate::model::lock::HoldEither as _;
use crate::model::time::{Boot, Certainty, Stamp, Wall, signed_micros};

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
    /// What somebody vouched for: a later floor is that of a clock which nobody did.
    vouched_ms: i64,
    /// Nobody vouches for the latest fix of this boot.
    unvouched: bool,
}

/// How late it was when a store was saved last, ms since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// By the clock as it was.
    pub latest_ms: Option<i64>,
    /// By the last one that somebody vouched for: the other may have been ahead by years.
    pub vouched_ms: Option<i64>,
}

impl Seen {
    /// Both by a clock that somebody vouched for.
    pub const fn vouched(unix_ms: i64) -> Self {
        Self { latest_ms: Some(unix_ms), vouched_ms: Some(unix_ms) }
    }
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
        let (fixes, floors) = (BTreeMap::new(), BTreeMap::new());
        let known = Known { boot, fixes, floors, floor_ms, vouched_ms: floor_ms, unvouched: false };
        Self { source, boot, known: Arc::new(RwLock::new(known)) }
    }

    /// This moment.
    pub fn now(&self) -> Stamp {
        Stamp { boot: self.boot, micros: self.source.boot_micros() }
    }

    /// UTC is now known to be this at that moment. Also used at start for the fixes and floors of earlier boots.
    pub fn learn(&self, fix: Fix) {
        let mut known = self.known.hold_write();
        let at = self.numbered_by(&known, fix.at);
        known.learn(Fix { at, ..fix });
    }

    /// How late it was for a store that was opened just now.
    pub fn saw(&self, seen: Seen) {
        self.known.hold_write().saw(seen);
    }

    /// What a store knows that could be opened only now: the number of this boot, how late it was when it was saved last, and
    /// the fixes and floors of this and earlier boots. Stamps go on carrying boot 0, and are of this boot. No effect on a
    /// clock that had a number from the beginning.
    pub fn resume(&self, boot: Boot, seen: Seen, fixes: &[Fix]) {
        if self.boot != Boot(0) {
            return;
        }
        let mut known = self.known.hold_write();
        // The floor until now knew nothing of what the store has seen: it is left behind.
        known.saw(seen);
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
        self.numbered_by(&self.known.hold_read(), stamp)
    }

    fn numbered_by(&self, known: &Known, stamp: Stamp) -> Stamp {
        if stamp.boot == self.boot { Stamp { boot: known.boot, ..stamp } } else { stamp }
    }

    /// Is the number of this boot known?
    pub fn is_numbered(&self) -> bool {
        self.numbered(self.now()).boot != Boot(0)
    }

    /// Has this boot had a fix?
    pub fn is_fixed(&self) -> bool {
        self.wall_now().certainty.is_fixed()
    }

    /// UTC is later than that, whatever the moment: the release, or what the store has seen. ms since 1970. What it has seen by
    /// a clock that nobody vouched for counts in the first only.
    pub fn seen(&self) -> Seen {
        let known = self.known.hold_read();
        Seen { latest_ms: Some(known.floor_ms), vouched_ms: Some(known.vouched_ms) }
    }

    /// Does somebody vouch for the latest fix of this boot?
    pub fn vouch(&self, vouched: bool) {
        self.known.hold_write().unvouched = !vouched;
    }

    /// UTC now, if somebody vouches for it: ms since 1970, for the store to remember.
    pub fn vouched_ms(&self) -> Option<i64> {
        let unvouched = self.known.hold_read().unvouched;
        let wall = self.wall_now();
        (wall.certainty.is_fixed() && !unvouched).then_some(wall.unix_ms)
    }

    /// UTC now, for who shuts a door by it. Without a fix it is at least what somebody vouched for: what the store has seen by a
    /// clock that once was ahead by years keeps nobody out.
    pub fn date_now(&self) -> Wall {
        let (now, wall) = (self.now(), self.wall_now());
        if wall.certainty.is_fixed() {
            return wall;
        }
        let vouched_ms = self.known.hold_read().vouched_ms;
        Wall { unix_ms: wall.unix_ms.min(vouched_ms + now.micros / 1000), ..wall }
    }

    /// UTC when this boot began, as far as is known without a fix: what the store must remember of it, if it is new.
    pub fn floor(&self) -> Option<Fix> {
        let known = self.known.hold_read();
        (!known.floors.contains_key(&known.boot)).then(|| Fix::floor(known.boot, known.floor_ms))
    }

    /// UTC of a moment. The latest fix of its boot counts, for what came before it too: the boot-time clock is never
    /// stepped, so a later fix only corrects an earlier one, and the order of moments stays the order of times. Without a
    /// fix: the floor of that boot.
    pub fn wall(&self, stamp: Stamp) -> Wall {
        let known = self.known.hold_read();
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

    /// UTC when this boot began, by the latest fix, ms since 1970: it changes when the clock is put, and only then.
    pub fn began_ms(&self) -> Option<i64> {
        let wall = self.wall(Stamp { boot: self.boot, micros: 0 });
        wall.certainty.is_fixed().then_some(wall.unix_ms)
    }

    /// UTC now.
    pub fn wall_now(&self) -> Wall {
        self.wall(self.now())
    }
}

impl Known {
    fn saw(&mut self, seen: Seen) {
        self.floor_ms = self.floor_ms.max(seen.latest_ms.unwrap_or(self.floor_ms));
        self.vouched_ms = self.vouched_ms.max(seen.vouched_ms.unwrap_or(self.vouched_ms));
    }

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
        self.0.fetch_add(signed_micros(by), Ordering::Relaxed);
    }
}

impl TimeSource for FakeTime {
    fn boot_micros(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
