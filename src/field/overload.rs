//! Whether a bus has more work than time, said once. Pure; fed with the counts of each round.

/// Rounds in a row that must agree before anything is said: a restart or one slow device is no overload.
const ROUNDS: u8 = 6;
/// More skipped polls than this part of all are overload …
const SKIPPED_MANY: f64 = 0.05;
/// … and fewer than this are none.
const SKIPPED_FEW: f64 = 0.01;

/// What is news.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum News {
    /// For a minute already it skips this part of its polls.
    Overloaded(f64),
    /// It keeps up again.
    KeepsUp,
}

/// What was said, and how often something else was seen since.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overload {
    said: Said,
    rounds: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Said {
    #[default]
    Nothing,
    Overloaded,
}

impl Overload {
    /// One round: polls that were carried out, and polls that were skipped.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn round(&mut self, done: u64, skipped: u64) -> Option<News> {
        let part = skipped as f64 / (done + skipped).max(1) as f64;
        let otherwise = match self.said {
            Said::Nothing => part > SKIPPED_MANY,
            Said::Overloaded => part < SKIPPED_FEW,
        };
        self.rounds = if otherwise { self.rounds + 1 } else { 0 };
        if self.rounds < ROUNDS {
            return None;
        }
        self.rounds = 0;
        let (said, news) = match self.said {
            Said::Nothing => (Said::Overloaded, News::Overloaded(part)),
            Said::Overloaded => (Said::Nothing, News::KeepsUp),
        };
        self.said = said;
        Some(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_is_said_once_after_a_minute_and_so_is_its_end() {
        let mut overload = Overload::default();
        let mut said = Vec::new();
        for round in 0..40 {
            let skipped = if round == 0 || (10..25).contains(&round) { 300 } else { 0 };
            said.extend(overload.round(100, skipped).map(|news| (round, news)));
        }
        assert_eq!(said, [(15, News::Overloaded(0.75)), (30, News::KeepsUp)]);
        assert_eq!(Overload::default().round(0, 0), None);
    }
}
