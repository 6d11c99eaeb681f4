//! When births are due again: at once for the first who asks, and then at most once in [`EVERY`], however many ask. Pure; time
//! comes in as an argument.
//!
//! A request during the wait is fulfilled by the next births, so nobody is forgotten; a host that asks on every message, or ten
//! that ask at once, cost one set of births in five seconds. Data go on during the wait: births began in the five seconds
//! before it. Here the gateway is not as the standard has it (tck-id-operational-behavior-data-commands-rebirth-action-1), for
//! the sake of other hosts; where births take longer than that, one that never stops asking holds data up all the same.

use std::time::Duration;

use tokio::time::Instant;

/// Births of 1000 tags are some 38 kB: more often they would fill a thin link.
const EVERY: Duration = Duration::from_secs(5);

/// Of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rebirth {
    /// When the last ones began that somebody asked for.
    last: Option<Instant>,
    asked: bool,
}

impl Rebirth {
    /// Somebody wants births.
    pub(super) const fn ask(&mut self) {
        self.asked = true;
    }

    /// Births begin now. Those that nobody asked for keep nobody waiting who does.
    pub(super) const fn begun(&mut self, now: Instant) {
        if self.asked {
            self.last = Some(now);
        }
        self.asked = false;
    }

    /// When births are due; `None`: nobody asks.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.asked.then(|| self.last.map_or(now, |last| last + EVERY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_requests_is_one_rebirth_in_five_seconds_and_the_last_request_is_fulfilled() {
        let (begin, mut rebirth, mut births) = (Instant::now(), Rebirth::default(), Vec::new());
        rebirth.begun(begin);
        for ms in 0..20_000 {
            let now = begin + Duration::from_millis(ms);
            if ms < 12_500 {
                rebirth.ask();
            }
            if rebirth.due(now).is_some_and(|due| due <= now) {
                rebirth.begun(now);
                births.push(ms);
            }
        }
        assert_eq!(births, [0, 5000, 10_000, 15_000]);
        assert_eq!(rebirth.due(begin), None);
    }
}
