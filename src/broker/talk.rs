//! What the log hears of clients: enough to see who comes and goes, never so much that a client fills a disk with it, or
//! drowns what the gateway has to say of itself.
//!
//! Clients that come and go a thousand times a second would write as many lines. So there is a supply of lines for all of
//! them together; what it does not cover is left out and counted, and the next line that is written says how many.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::lock::Hold as _;

/// Lines at once: all clients of a plant that come back after a start.
const LINES_MAX: u32 = 100;

/// After this long there is one more: twenty a minute.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// A condition that comes and goes is told again only after so long without it.
const CALM: Duration = Duration::from_secs(60);

/// The supply of lines.
#[derive(Debug, Default)]
pub(super) struct Talk(Mutex<Supply>);

#[derive(Debug, Default)]
struct Supply {
    used: u32,
    /// When the supply was last added to; `None` as long as it is full.
    since: Option<Instant>,
    left_out: u64,
}

impl Talk {
    /// May one more line be written? Says itself what was left out before.
    pub(super) fn allows(&self) -> bool {
        let answer = self.0.hold().take(Instant::now());
        if let Some(lines @ 1..) = answer {
            tracing::info!(lines, "so many lines about clients were left out");
        }
        answer.is_some()
    }
}

impl Supply {
    /// A line; with it, how many were left out before.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if let Some(since) = self.since {
            let more = now.saturating_duration_since(since).as_secs() / LINE_EVERY.as_secs();
            self.used = self.used.saturating_sub(u32::try_from(more).unwrap_or(u32::MAX));
            self.since =
                if self.used == 0 { None } else { Some(since + Duration::from_secs(more * LINE_EVERY.as_secs())) };
        }
        if self.used >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.used += 1;
        self.since.get_or_insert(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

/// A condition that may come and go many times a second.
#[derive(Debug, Default)]
pub(super) struct Trouble(Option<Instant>);

impl Trouble {
    /// It is there; is that news?
    pub(super) fn is_news(&mut self) -> bool {
        let now = Instant::now();
        let last = self.0.replace(now);
        last.is_none_or(|last| now.saturating_duration_since(last) >= CALM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_its_lines_and_then_twenty_a_minute_and_nothing_is_left_out_unsaid() {
        let (mut supply, begun) = (Supply::default(), Instant::now());
        let (mut said, mut left_out, mut told) = (0, 0, 0);
        for tenth in 0..6000 {
            match supply.take(begun + Duration::from_millis(tenth * 100)) {
                Some(before) => {
                    said += 1;
                    told += before;
                }
                None => left_out += 1,
            }
        }
        assert!((295..=300).contains(&said), "{said} lines in ten minutes");
        assert!(told > 0 && left_out - told < 30, "{told} of {left_out}");
        let calm = begun + Duration::from_secs(3600);
        assert_eq!((0..200).filter(|_| supply.take(calm).is_some()).count(), 100, "it fills up again, and no further");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_and_goes_is_news_once_and_again_after_a_minute_without_it() {
        let mut trouble = Trouble::default();
        assert!(trouble.is_news());
        for _ in 0..10 {
            tokio::time::advance(CALM / 2).await;
            assert!(!trouble.is_news());
        }
        tokio::time::advance(CALM).await;
        assert!(trouble.is_news());
    }
}
