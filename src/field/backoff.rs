//! How long to wait before opening a bus again, and how long opening it may take before anyone is told. Pure: chance is
//! an argument.

use std::io;
use std::time::Duration;

/// The first wait, before jitter.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait, before jitter.
const LONGEST: Duration = Duration::from_secs(30);
/// See [`reopening`].
const REOPENING: Duration = Duration::from_secs(1);

/// For so long the loss of a connection that worked is nobody's business: a modem that dials again. An attempt to open may
/// take longer, and what was read before is not good meanwhile.
pub fn reopening(response_timeout: Duration) -> Duration {
    response_timeout.max(REOPENING)
}

/// What is told when opening takes longer than that.
pub fn takes_long() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the connection was lost, and opening it again takes long")
}

/// Waits that double from 0.5 s to 30 s, each shortened by up to a half so that ten gateways behind one switch that came
/// back do not knock together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Opened, and answered: begin anew.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// One more failure; how long to wait now. `chance` in 0.0 ..= 1.0.
    pub fn next(&mut self, chance: f64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_thirty_seconds_and_chance_takes_half_at_most() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(backoff.next(1.0), Duration::from_secs(15));
        backoff.reset();
        assert_eq!(backoff.next(0.5), Duration::from_millis(375));
        (0..100).for_each(|_| assert!(backoff.next(0.0) <= LONGEST));
    }
}
