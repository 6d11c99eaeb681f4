//! What happens to the link, and when. Pure: a time since the start gives the link's state.

use std::time::Duration;

use crate::plant::link::LinkState;

/// One round of the story without `--for`; it is told again and again.
const ROUND: Duration = Duration::from_secs(90);

/// Shorter than this there is nothing to see, and an uplink's first reconnect may not fit.
pub const SHORTEST: Duration = Duration::from_secs(10);

/// Parts of a round in percent: from, to, state. The rest of it the link is up.
const EVENTS: [(u32, u32, LinkState); 2] = [(22, 52, LinkState::Cut), (66, 74, LinkState::BlackHole)];

/// The story of one demo.
#[derive(Debug, Clone, Copy)]
pub struct Timeline {
    length: Option<Duration>,
}

/// Where the story is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// How the link is now.
    pub link: LinkState,
    /// How long it stays so.
    pub remaining: Duration,
}

impl Timeline {
    /// For a demo of this length, or for one without an end.
    pub fn new(length: Option<Duration>) -> Self {
        Self { length }
    }

    /// How the link is at a time since the start.
    pub fn at(&self, elapsed: Duration) -> Moment {
        let round = self.length.unwrap_or(ROUND).max(Duration::from_millis(1));
        let at = Duration::from_nanos(u64::try_from(elapsed.as_nanos() % round.as_nanos()).unwrap_or(0));
        if self.is_over(elapsed) {
            return Moment { link: LinkState::Up, remaining: Duration::ZERO };
        }
        let edge = |percent: u32| round * percent / 100;
        for (from, to, link) in EVENTS {
            if at < edge(from) {
                return Moment { link: LinkState::Up, remaining: edge(from).saturating_sub(at) };
            }
            if at < edge(to) {
                return Moment { link, remaining: edge(to).saturating_sub(at) };
            }
        }
        Moment { link: LinkState::Up, remaining: round.saturating_sub(at) }
    }

    /// Has the story been told? Never without a length.
    pub fn is_over(&self, elapsed: Duration) -> bool {
        self.length.is_some_and(|length| elapsed >= length)
    }

    /// How much of it has been told, 0 ..= 100; of the current round without a length.
    pub fn percent(&self, elapsed: Duration) -> u64 {
        let round = self.length.unwrap_or(ROUND).as_millis().max(1);
        let at = if self.is_over(elapsed) { round } else { elapsed.as_millis() % round };
        u64::try_from(at * 100 / round).unwrap_or(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_cut_for_a_third_and_swallowed_for_a_while_and_returns() {
        let timeline = Timeline::new(Some(Duration::from_secs(100)));
        let link = |second| timeline.at(Duration::from_secs(second)).link;
        assert_eq!([0, 21, 22, 51, 52, 65].map(link), {
            use LinkState::{Cut, Up};
            [Up, Up, Cut, Cut, Up, Up]
        });
        assert_eq!([66, 73, 74, 99, 100, 500].map(link), {
            use LinkState::{BlackHole, Up};
            [BlackHole, BlackHole, Up, Up, Up, Up]
        });
        assert_eq!(timeline.at(Duration::from_secs(30)).remaining, Duration::from_secs(22));
        assert!(timeline.is_over(Duration::from_secs(100)) && !timeline.is_over(Duration::from_secs(99)));
        assert_eq!(timeline.percent(Duration::from_secs(250)), 100);
    }

    #[test]
    fn without_a_length_the_story_is_told_again() {
        let timeline = Timeline::new(None);
        let cut = ROUND * 30 / 100;
        assert_eq!(timeline.at(cut).link, LinkState::Cut);
        assert_eq!(timeline.at(cut + ROUND * 7).link, LinkState::Cut);
        assert!(!timeline.is_over(ROUND * 100));
    }
}
