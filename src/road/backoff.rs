//! When to try again: exponential with full jitter, so that a thousand gateways behind one fallen broker do not come back
//! in the same second. Pure: randomness comes in as an argument.

use std::time::Duration;

use rand::Rng;

/// No wait is shorter, so that a broker that closes at once is not asked in a tight loop.
const WAIT_MIN: Duration = Duration::from_millis(50);

/// Counts failures since the last success.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// `first` is the ceiling of the first wait, `max` that of all waits.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// Another failure: wait between nothing and first × 2^failures, at most max, evenly distributed.
    pub fn next(&mut self, dice: &mut impl Rng) -> Duration {
        let ceiling = self.first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(self.max);
        self.failures = (self.failures + 1).min(31);
        ceiling.mul_f64(dice.random::<f64>()).max(WAIT_MIN.min(ceiling))
    }

    /// It worked, and was proved to.
    pub fn reset(&mut self) {
        self.count_as(0);
    }

    /// The next wait is as after so many failures, whatever there was.
    pub fn count_as(&mut self, failures: u32) {
        self.failures = failures.min(31);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const FIRST: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(900);

    #[test]
    fn waits_fill_the_whole_range_up_to_a_ceiling_that_doubles_from_one_second_to_fifteen_minutes() {
        let mut dice = StdRng::seed_from_u64(7);
        for failures in 0..40_u32 {
            let ceiling = FIRST.saturating_mul(1 << failures.min(20)).min(MAX);
            let mut waits: Vec<Duration> = Vec::new();
            for _ in 0..500 {
                let mut backoff = Backoff::new(FIRST, MAX);
                for _ in 0..failures {
                    backoff.next(&mut dice);
                }
                waits.push(backoff.next(&mut dice));
            }
            let (least, most) = (waits.iter().min().expect("some"), waits.iter().max().expect("some"));
            assert!(*most <= ceiling && *most > ceiling.mul_f64(0.95), "{failures}: {most:?} of {ceiling:?}");
            assert!(
                *least < ceiling.mul_f64(0.06),
                "{failures}: {least:?} of {ceiling:?}: full jitter begins at nothing"
            );
        }
    }

    #[test]
    fn success_starts_again_at_one_second() {
        let mut dice = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(FIRST, MAX);
        for _ in 0..100 {
            backoff.next(&mut dice);
        }
        backoff.reset();
        assert!(backoff.next(&mut dice) <= FIRST);
    }
}
