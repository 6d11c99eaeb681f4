//! Publishes per second, where a cloud counts them. Pure; time comes in as an argument.
//!
//! A token bucket of a tenth of a second: what is allowed per second is spread over it, so that no second, wherever the
//! cloud begins to count, has many more.

use std::time::Duration;

use tokio::time::Instant;

/// How far publishes may bunch.
const BUNCH: Duration = Duration::from_millis(100);

/// Of one uplink: it goes on over reconnects.
#[derive(Debug, Clone)]
pub(super) struct Rate {
    /// `None`: as many as there are.
    every: Option<Duration>,
    /// When the bucket is full again.
    full_at: Option<Instant>,
}

impl Rate {
    pub(super) fn new(per_second: Option<u32>) -> Self {
        Self { every: per_second.map(|count| Duration::from_secs(1) / count.max(1)), full_at: None }
    }

    /// One publish now; `Err`: not before then.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let Some(every) = self.every else { return Ok(()) };
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        let bunch = BUNCH.max(every);
        if full_at + every > now + bunch {
            return Err(full_at + every - bunch);
        }
        self.full_at = Some(full_at + every);
        Ok(())
    }

    /// One publish that cannot wait, because others went before it that belong to it: the next ones wait for it.
    pub(super) fn owe(&mut self, now: Instant) {
        if let Some(every) = self.every {
            self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + every);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_a_tenth_beyond_what_is_allowed_and_ten_have_all_of_it() {
        for per_second in [1, 10, 100, 997] {
            let (mut rate, begin) = (Rate::new(Some(per_second)), Instant::now());
            let (mut now, mut sent) = (begin, Vec::new());
            while now < begin + Duration::from_secs(10) {
                match rate.take(now) {
                    Ok(()) => sent.push(now),
                    Err(then) => {
                        assert!(then > now);
                        now = then;
                    }
                }
            }
            for (n, from) in sent.iter().enumerate() {
                let within = sent[n..].iter().take_while(|at| **at < *from + Duration::from_secs(1)).count();
                assert!(within <= per_second as usize + (per_second as usize / 10).max(1), "{within} of {per_second}");
            }
            assert!(sent.len() >= per_second as usize * 10, "{} of {per_second} in 10 s", sent.len());
        }
        assert_eq!(Rate::new(None).take(Instant::now()), Ok(()));
    }

    #[test]
    fn what_cannot_wait_is_paid_back_by_what_follows() {
        let (mut rate, now) = (Rate::new(Some(100)), Instant::now());
        (0..50).for_each(|_| rate.owe(now));
        assert_eq!(rate.take(now), Err(now + Duration::from_millis(410)));
        assert_eq!(rate.take(now + Duration::from_millis(410)), Ok(()));
        Rate::new(None).owe(now);
    }

    #[test]
    fn a_pause_is_not_saved_up() {
        let (mut rate, now) = (Rate::new(Some(100)), Instant::now());
        assert_eq!(rate.take(now), Ok(()));
        let later = now + Duration::from_secs(60);
        let at_once = (0..100).take_while(|_| rate.take(later).is_ok()).count();
        assert_eq!(at_once, 10);
    }
}
