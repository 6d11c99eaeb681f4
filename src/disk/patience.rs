//! How long a file is waited for that can be opened, and that the medium refuses to give ([`Fault::Refused`]).
//!
//! Pure. What is loose is plugged in again, and the file is whole; a bad sector refuses for ever, and nobody is to stand still
//! for it. Nothing that touches other files needs to be tried for that: where the whole disk is away, it cannot be set aside.
//!
//! [`Fault::Refused`]: super::fault::Fault::Refused

use std::time::{Duration, Instant};

/// Refused as often at least before it is given up.
const ATTEMPTS_MIN: u32 = 16;
/// And over this time at least.
const TIME_MIN: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(600) };
/// What lies this far apart has nothing to do with each other.
const APART: Duration = Duration::from_secs(3600);

/// What one file was refused.
#[derive(Debug, Default)]
pub(super) struct Patience {
    refused: Option<Refused>,
}

#[derive(Debug, Clone, Copy)]
struct Refused {
    first: Instant,
    last: Instant,
    attempts: u32,
}

impl Patience {
    /// It was refused (again). Has it been for so long that nothing more is hoped for?
    pub(super) fn refused(&mut self, now: Instant) -> bool {
        let before = self.refused.filter(|before| now.duration_since(before.last) < APART);
        let Refused { first, attempts, .. } = before.unwrap_or(Refused { first: now, last: now, attempts: 0 });
        let attempts = attempts.saturating_add(1);
        self.refused = Some(Refused { first, last: now, attempts });
        attempts >= ATTEMPTS_MIN && now.duration_since(first) >= TIME_MIN
    }

    /// Was it refused within this time? Then it need not be asked for again.
    pub(super) fn was_refused_within(&self, time: Duration, now: Instant) -> bool {
        self.refused.is_some_and(|refused| now.duration_since(refused.last) < time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_given_up_when_it_was_refused_often_and_for_long_without_a_pause() {
        let began = Instant::now();
        let mut patience = Patience::default();
        assert!((0..1000).all(|_| !patience.refused(began)), "often, and at once");
        assert!(patience.refused(began + TIME_MIN));
        let mut patience = Patience::default();
        assert!((0..ATTEMPTS_MIN - 1).all(|n| !patience.refused(began + TIME_MIN * n)), "for long, and seldom");
        assert!(patience.refused(began + TIME_MIN * ATTEMPTS_MIN));
        let later = began + TIME_MIN * ATTEMPTS_MIN + APART;
        assert!(!patience.refused(later), "something else");
        let moment = Duration::from_secs(1);
        assert!(patience.was_refused_within(moment, later) && !patience.was_refused_within(moment, later + moment));
    }
}
