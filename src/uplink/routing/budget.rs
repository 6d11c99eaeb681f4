//! A purse: the byte budgets of an uplink or of one of its paths, several at once, all of which must allow. Pure.
//!
//! ```text
//!  0 %                                   100 % − reserve          100 %        110 %
//!  |------------- everything -----------------|--- alarms, live -----|- alarms, -|
//!                                                                      if overrun = "alarms"
//! ```
//!
//! Counted are wire bytes, both directions, by the road's meter. What a purse has for something is what may still be
//! *counted*: whoever sends must know what it will cost, acknowledgements and goodbye included (`costs`).

use std::time::Duration;

use crate::config::plan::{Budget, Overrun, Period};
use crate::flow::notice::Phase;
use crate::model::time::{Certainty, Wall};
use crate::store::MeterRow;

use super::tally::{TOLD_80, TOLD_100, Tally, word};

/// What somebody wants to send: each may use a different part of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::uplink) enum Need {
    /// What has waited.
    Backlog,
    /// New values, and what keeps a session alive.
    Live,
    /// The class alarm, whatever its age.
    Alarm,
}

/// The part of a budget that `overrun = "alarms"` adds: 10 %.
const OVERRUN: f64 = 0.1;
/// What may be counted between two saves: this part of the smallest budget.
const AHEAD: f64 = 0.005;
/// And without any budget, so that the figures for `ironbridge cost` are about right after a crash.
const AHEAD_FREE: u64 = 256 << 10;

/// What is told, each with its bit in a tally.
const EVENTS: [(u8, &str); 2] = [(TOLD_80, "budget_80"), (TOLD_100, "budget_100")];

/// A threshold was passed, or it holds no more that it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::uplink) struct Crossing {
    /// `budget_80` or `budget_100`
    pub(in crate::uplink) event: &'static str,
    pub(in crate::uplink) phase: Phase,
    /// Of the uplink: `month`, or `PATH/month`. Each budget is a condition of its own.
    pub(in crate::uplink) of: String,
    /// One sentence.
    pub(in crate::uplink) detail: String,
}

/// How a budget is to be used.
#[derive(Debug, Clone, Copy)]
pub(in crate::uplink) struct Rules {
    /// 0.0 ..= 0.9
    pub(in crate::uplink) reserve: f64,
    pub(in crate::uplink) overrun: Overrun,
    /// What an orderly end costs: a budget that has less left is used up.
    pub(in crate::uplink) goodbye: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub(in crate::uplink) struct Purse {
    uplink: String,
    /// Empty for the uplink itself.
    path: String,
    rules: Rules,
    budgets: Vec<Budget>,
    tallies: [Tally; 2],
    /// What the disk allows for: bytes counted when the rows were last made, plus what was allowed ahead.
    saved: [Option<u64>; 2],
}

impl Purse {
    pub(in crate::uplink) fn new(uplink: &str, path: &str, budgets: &[Budget], rules: Rules) -> Self {
        Self {
            uplink: uplink.to_owned(),
            path: path.to_owned(),
            rules,
            budgets: budgets.to_vec(),
            tallies: [Tally::new(Period::Day), Tally::new(Period::Month)],
            saved: [None; 2],
        }
    }

    /// Goes on from saved rows.
    pub(in crate::uplink) fn adopt(&mut self, rows: &[MeterRow]) {
        for tally in &mut self.tallies {
            tally.adopt(rows, &self.path);
        }
    }

    /// Looks at the clock, which has gone for so long without being put: says which warnings are over because a new period
    /// began.
    pub(in crate::uplink) fn turn(&mut self, wall: Wall, steady: Duration) -> Vec<Crossing> {
        let mut over = Vec::new();
        for (place, tally) in self.tallies.iter_mut().enumerate() {
            let told = tally.told;
            if !tally.turn(wall, steady) {
                continue;
            }
            self.saved[place] = None;
            for (_, event) in EVENTS.into_iter().filter(|(bit, _)| told & bit != 0) {
                let detail = format!("{}: a new {} has begun", owner(&self.path), word(tally.period));
                over.push(Crossing { event, phase: Phase::Cleared, of: of(&self.path, tally.period), detail });
            }
        }
        over
    }

    /// So many more bytes were counted.
    pub(in crate::uplink) fn count(&mut self, bytes: u64) {
        for tally in &mut self.tallies {
            tally.count(bytes);
        }
    }

    /// Which thresholds have been passed and not been told in this period by this run; which were told by an earlier one and
    /// are not reached any more, because the budget is another one now.
    pub(in crate::uplink) fn crossings(&mut self, wall: Wall) -> Vec<Crossing> {
        let mut news = Vec::new();
        for budget in &self.budgets {
            let marks = [part(budget.bytes, 0.8), budget.bytes.saturating_sub(self.rules.goodbye)];
            for ((bit, event), at) in EVENTS.into_iter().zip(marks) {
                let tally = &mut self.tallies[budget.period as usize];
                let phase = match (tally.bytes >= at, tally.told & bit != 0, tally.standing & bit != 0) {
                    (true, _, false) => Phase::Active,
                    (false, true, _) => Phase::Cleared,
                    _ => continue,
                };
                let before = tally.told;
                tally.tell(bit, phase);
                if tally.told != before {
                    self.saved[budget.period as usize] = None; // to be remembered at once
                }
                let detail = self.told(*budget, bit, phase, wall);
                news.push(Crossing { event, phase, of: of(&self.path, budget.period), detail });
            }
        }
        news
    }

    /// In words.
    fn told(&self, Budget { bytes, period }: Budget, bit: u8, phase: Phase, wall: Wall) -> String {
        let tally = &self.tallies[period as usize];
        let what = if bit == TOLD_80 { "80 % of the budget of this" } else { "the budget of this" };
        let (owner, period, used) = (owner(&self.path), word(period), tally.bytes);
        if phase == Phase::Cleared {
            return format!("{owner}: {what} {period} is not used up any more, {used} of {bytes} bytes");
        }
        let until = tally.ends_ms(wall).map_or_else(
            || "until the clock is known".to_owned(),
            |end| format!("until {}", Wall { unix_ms: end, certainty: Certainty::Fixed }),
        );
        format!("{owner}: {what} {period} is used up, {used} of {bytes} bytes; it lasts {until}")
    }

    /// Bytes left for this; all budgets must allow. `u64::MAX` without a budget.
    pub(in crate::uplink) fn room(&self, need: Need) -> u64 {
        let left = |budget: &Budget| {
            let limit = match need {
                Need::Backlog => part(budget.bytes, 1.0 - self.rules.reserve),
                Need::Alarm if self.rules.overrun == Overrun::Alarms => part(budget.bytes, 1.0 + OVERRUN),
                Need::Live | Need::Alarm => budget.bytes,
            };
            limit.saturating_sub(self.tallies[budget.period as usize].bytes)
        };
        self.budgets.iter().map(left).min().unwrap_or(u64::MAX)
    }

    /// Bytes of each budget: used, of.
    pub(in crate::uplink) fn used(&self) -> impl Iterator<Item = (Budget, u64)> {
        self.budgets.iter().map(|budget| (*budget, self.tallies[budget.period as usize].bytes))
    }

    /// Rows that are due because more was counted, or is `open` (under way), than the disk allows for; with `all`, exact
    /// ones of everything that differs from the disk.
    pub(in crate::uplink) fn rows(&mut self, all: Save, open: u64) -> Vec<MeterRow> {
        let smallest = self.budgets.iter().map(|budget| part(budget.bytes, AHEAD)).min();
        let more = smallest.unwrap_or(AHEAD_FREE);
        let ahead = if all == Save::Exact { 0 } else { open + more };
        let mut rows = Vec::new();
        for (tally, saved) in self.tallies.iter_mut().zip(&mut self.saved) {
            let own = tally.own();
            let due = match (all, *saved) {
                _ if tally.has_outdated_row() => true,
                (Save::Exact, saved) => saved != Some(own) && (own > 0 || saved.is_some()),
                (Save::Due, None) => own + open > 0,
                // Half of it is left for what goes out while the disk is slow.
                (Save::Due, Some(bound)) => own + open + more / 2 >= bound,
            };
            if due {
                rows.push(tally.row(&self.uplink, &self.path, ahead));
                rows.extend(tally.undated_row(&self.uplink, &self.path, ahead));
                *saved = Some(own + ahead);
            }
        }
        rows
    }
}

/// What is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::uplink) enum Save {
    /// What must be, with some more allowed for.
    Due,
    /// Everything as it is: nothing more will be counted.
    Exact,
}

fn owner(path: &str) -> String {
    if path.is_empty() { "all paths together".to_owned() } else { format!("path {path}") }
}

fn of(path: &str, period: Period) -> String {
    if path.is_empty() { word(period).to_owned() } else { format!("{path}/{}", word(period)) }
}

/// A part of a budget, rounded down.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "budgets stay far below 2^52 and parts are positive"
)]
pub(in crate::uplink) fn part(bytes: u64, of: f64) -> u64 {
    (bytes as f64 * of) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;
    /// The clock has not been put for so long.
    const SINCE: Duration = super::super::tally::BELIEVED;
    const NOW: Wall = Wall { unix_ms: 1_795_204_800_000, certainty: Certainty::Fixed };

    fn purse(overrun: Overrun) -> Purse {
        let budgets =
            [Budget { bytes: 100_000, period: Period::Day }, Budget { bytes: 250_000, period: Period::Month }];
        let mut purse = Purse::new("cloud", "", &budgets, Rules { reserve: 0.2, overrun, goodbye: 1000 });
        assert!(purse.turn(NOW, SINCE).is_empty());
        purse
    }

    fn days_later(days: i64) -> Wall {
        Wall { unix_ms: NOW.unix_ms + days * DAY_MS, ..NOW }
    }

    fn told(news: &[Crossing]) -> Vec<(&'static str, Phase)> {
        news.iter().map(|news| (news.event, news.phase)).collect()
    }

    #[test]
    fn above_the_reserve_only_alarms_and_live_values_go_and_at_the_end_nothing() {
        let mut purse = purse(Overrun::Stop);
        assert_eq!([Need::Backlog, Need::Live, Need::Alarm].map(|need| purse.room(need)), [80_000, 100_000, 100_000]);
        purse.count(80_000);
        assert_eq!([Need::Backlog, Need::Live, Need::Alarm].map(|need| purse.room(need)), [0, 20_000, 20_000]);
        purse.count(30_000);
        assert_eq!([Need::Backlog, Need::Live, Need::Alarm].map(|need| purse.room(need)), [0, 0, 0]);
    }

    #[test]
    fn overrun_is_for_alarms_and_is_capped_at_a_tenth() {
        let mut purse = purse(Overrun::Alarms);
        purse.count(100_000);
        assert_eq!([Need::Backlog, Need::Live, Need::Alarm].map(|need| purse.room(need)), [0, 0, 10_000]);
        purse.count(10_000);
        assert_eq!(purse.room(Need::Alarm), 0);
    }

    #[test]
    fn all_budgets_must_allow_and_each_comes_back_with_its_own_period() {
        let mut purse = purse(Overrun::Stop);
        for day in 1..=2 {
            purse.count(100_000);
            assert_eq!(purse.room(Need::Live), 0);
            purse.turn(days_later(day), SINCE);
        }
        assert_eq!(purse.room(Need::Live), 50_000, "of the month");
        assert_eq!(purse.room(Need::Backlog), 0, "200 kB of the month are its 80 %");
        purse.count(50_000);
        purse.turn(days_later(3), SINCE);
        assert_eq!(purse.room(Need::Alarm), 0, "a new day does not help");
        purse.turn(days_later(11), SINCE);
        assert_eq!(purse.room(Need::Live), 100_000);
    }

    #[test]
    fn eighty_and_a_hundred_percent_are_told_once_in_each_period_by_each_run() {
        let mut purse = purse(Overrun::Stop);
        purse.count(79_999);
        assert!(purse.crossings(NOW).is_empty());
        purse.count(1);
        let news = purse.crossings(NOW);
        assert_eq!(told(&news), [("budget_80", Phase::Active)]);
        assert!(
            news[0].detail.contains("80000 of 100000") && news[0].detail.contains("2026-11-21T00:00:00"),
            "{news:?}"
        );
        assert!(purse.crossings(NOW).is_empty());
        purse.count(19_000);
        assert_eq!(told(&purse.crossings(NOW)), [("budget_100", Phase::Active)]);
        let rows = purse.rows(Save::Exact, 0);
        let mut again = self::purse(Overrun::Stop);
        again.adopt(&rows);
        assert!(again.turn(NOW, SINCE).is_empty());
        let still = [("budget_80", Phase::Active), ("budget_100", Phase::Active)];
        assert_eq!(told(&again.crossings(NOW)), still, "what was known of it went with the run before");
        assert!(again.crossings(NOW).is_empty());
        let over = again.turn(days_later(1), SINCE);
        assert_eq!(told(&over), [("budget_80", Phase::Cleared), ("budget_100", Phase::Cleared)]);
        again.count(80_000);
        assert_eq!(told(&again.crossings(days_later(1))), [("budget_80", Phase::Active)]);
    }

    #[test]
    fn with_a_larger_budget_what_was_told_of_the_smaller_one_is_over_and_the_larger_one_is_told_too() {
        let mut purse = purse(Overrun::Stop);
        purse.count(100_000);
        assert_eq!(purse.crossings(NOW).len(), 2);
        let larger = [Budget { bytes: 200_000, period: Period::Day }];
        let mut again = Purse::new("cloud", "", &larger, purse.rules);
        again.adopt(&purse.rows(Save::Exact, 0));
        again.turn(NOW, SINCE);
        assert_eq!(told(&again.crossings(NOW)), [("budget_80", Phase::Cleared), ("budget_100", Phase::Cleared)]);
        assert!(again.crossings(NOW).is_empty());
        again.count(60_000);
        assert_eq!(told(&again.crossings(NOW)), [("budget_80", Phase::Active)]);
        let mut once_more = Purse::new("cloud", "", &larger, again.rules);
        once_more.adopt(&again.rows(Save::Exact, 0));
        assert_eq!(told(&once_more.crossings(NOW)), [("budget_80", Phase::Active)], "the disk knows, too");
    }

    #[test]
    fn each_budget_is_a_condition_of_its_own_a_new_day_does_not_end_that_of_the_month() {
        let budgets = [Period::Month, Period::Day].map(|period| Budget { bytes: 100_000, period });
        let mut purse =
            Purse::new("cloud", "lte", &budgets, Rules { reserve: 0.2, overrun: Overrun::Stop, goodbye: 0 });
        purse.turn(NOW, SINCE);
        purse.count(80_000);
        let of = |news: Vec<Crossing>| news.into_iter().map(|news| news.of).collect::<Vec<_>>();
        assert_eq!(of(purse.crossings(NOW)), ["lte/month", "lte/day"]);
        assert_eq!(of(purse.turn(days_later(1), SINCE)), ["lte/day"]);
        assert!(purse.crossings(days_later(1)).is_empty());
    }

    #[test]
    fn the_disk_always_allows_for_what_was_counted_and_is_seldom_asked() {
        let mut purse = purse(Overrun::Stop);
        let (mut bound, mut saves) = (0, 0);
        for _ in 0..1000 {
            purse.count(100);
            for row in purse.rows(Save::Due, 0).iter().filter(|row| row.period == 0) {
                (bound, saves) = (row.bound, saves + 1);
                assert!(row.bound - row.bytes <= 500, "half a percent");
            }
            assert!(bound >= purse.tallies[0].bytes + 100, "room for what goes out while it is written");
        }
        assert!(saves <= 401, "{saves}");
        let rows = purse.rows(Save::Exact, 0);
        assert!(rows.iter().all(|row| row.bytes == 100_000 && row.bound == row.bytes));
        assert!(purse.rows(Save::Exact, 0).is_empty());
    }
}
