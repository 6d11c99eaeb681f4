//! How long a file is waited for whose medium refuses to give it: a cable, a controller or a bad sector.
//!
//! Pure. A read that fails is no damage: what is loose today is plugged in tomorrow, and the records are whole. A bad sector
//! fails for ever, and its loss must be declared at some time: after [`ATTEMPTS_MIN`] attempts over at least [`TIME_MIN`].
//! Attempts are counted by each run of the process anew.

use std::time::{Duration, Instant};

/// As often at least before a loss is declared.
const ATTEMPTS_MIN: u32 = 64;
/// And over this time at least.
const TIME_MIN: Duration = Duration::from_secs(3600);
/// The wait after the first attempt; each one is twice as long as the one before.
const FIRST: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST: Duration = Duration::from_secs(60);

/// One file that was refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused {
    since: Instant,
    attempts: u32,
    again_at: Instant,
}

impl Refused {
    /// For the first time.
    pub(super) fn first(now: Instant) -> Self {
        Self { since: now, attempts: 1, again_at: now + FIRST }
    }

    /// Once more.
    pub(super) fn again(&mut self, now: Instant) {
        self.attempts = self.attempts.saturating_add(1);
        self.again_at = now + (FIRST * 2u32.saturating_pow(self.attempts.min(16) - 1)).min(LONGEST);
    }

    /// Has it been tried for so long that nothing more is hoped for?
    pub(super) fn is_hopeless(&self, now: Instant) -> bool {
        self.attempts >= ATTEMPTS_MIN && now.duration_since(self.since) >= TIME_MIN
    }

    /// When it is tried again.
    pub(super) const fn again_at(&self) -> Instant {
        self.again_at
    }

    /// How long to wait before it is tried again; 0: it is time.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.again_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_refused_is_given_up_after_many_attempts_over_an_hour_and_not_before() {
        let began = Instant::now();
        let (mut now, mut attempts) = (began, 1);
        let mut refused = Refused::first(began);
        while !refused.is_hopeless(now) {
            assert!(refused.wait(now) <= LONGEST && refused.wait(now) >= FIRST);
            now += refused.wait(now);
            assert_eq!(refused.wait(now), Duration::ZERO);
            refused.again(now);
            attempts += 1;
        }
        assert!(attempts >= ATTEMPTS_MIN && now - began >= TIME_MIN);
        assert!(attempts <= 2 * ATTEMPTS_MIN && now - began <= 2 * TIME_MIN, "{attempts} in {:?}", now - began);
        let mut hasty = Refused::first(began);
        (0..1000).for_each(|_| hasty.again(began));
        assert!(!hasty.is_hopeless(began));
    }
}
