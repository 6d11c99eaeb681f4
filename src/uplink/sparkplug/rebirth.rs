//! When births are due again: at once for the first who asks; then not before the last births that somebody asked for have been
//! out for [`EVERY`], or for as long as they took where that is longer, however many ask. Pure; time comes in as an argument.
//!
//! ```text
//!  asks  asks                     asks  accepted
//!   |births ... out|------ data ---+-----|births ... out|------ data ------
//!                   <- max(5 s, births) ->
//! ```
//!
//! A request is accepted when births are due for it, and from then on data wait until all births are out
//! (tck-id-operational-behavior-data-commands-rebirth-action-1). One that comes earlier is put off, not forgotten: the next
//! births fulfil it, and data go on until then, because a host that never stops asking must not keep data from the others.
//! So such a host costs half of the link at most, and one set of births in five seconds.

use std::time::Duration;

use tokio::time::Instant;

/// Births of 1000 tags are some 38 kB: more often they would fill a thin link.
const EVERY: Duration = Duration::from_secs(5);

/// Of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rebirth {
    asked: bool,
    /// When those that are on their way began, and whether somebody had asked for them.
    begun: Option<(Instant, Asked)>,
    /// Nothing that somebody asks for begins before.
    not_before: Option<Instant>,
}

/// Did somebody want these births?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Yes,
    No,
}

impl Rebirth {
    /// Somebody wants births.
    pub(super) const fn ask(&mut self) {
        self.asked = true;
    }

    /// Births begin now.
    pub(super) const fn begin(&mut self, now: Instant) {
        self.begun = Some((now, if self.asked { Asked::Yes } else { Asked::No }));
        self.asked = false;
    }

    /// The last of them was handed over. Those that nobody asked for keep nobody waiting who does.
    pub(super) fn end(&mut self, now: Instant) {
        if let Some((begun, Asked::Yes)) = self.begun.take() {
            self.not_before = Some(now + EVERY.max(now.saturating_duration_since(begun)));
        }
    }

    /// Nothing can be begun before then.
    pub(super) fn put_off(&mut self, until: Instant) {
        self.not_before = self.not_before.max(Some(until));
    }

    /// When births are due; `None`: nobody asks, or they are on their way.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        (self.asked && self.begun.is_none()).then(|| self.not_before.unwrap_or(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody asks every ms for so long; births take so long. When they began.
    fn storm(asks: u64, take: u64) -> Vec<u64> {
        let (begin, mut rebirth, mut births) = (Instant::now(), Rebirth::default(), Vec::new());
        let mut out_at = 0;
        rebirth.begin(begin);
        for ms in 0..asks + 60_000 {
            let now = begin + Duration::from_millis(ms);
            if ms < asks {
                rebirth.ask();
            }
            if ms == out_at {
                rebirth.end(now);
            }
            if rebirth.due(now).is_some_and(|due| due <= now) {
                rebirth.begin(now);
                births.push(ms);
                out_at = ms + take;
            }
        }
        assert_eq!(rebirth.due(begin), None, "the last request is fulfilled");
        births
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_requests_is_one_rebirth_in_five_seconds_and_the_last_request_is_fulfilled() {
        assert_eq!(storm(12_500, 1), [0, 5001, 10_002, 15_003]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_requests_leaves_data_as_much_time_as_births_take() {
        assert_eq!(storm(70_000, 20_000), [0, 40_000, 80_000], "20 s of births, 20 s of data");
    }
}
