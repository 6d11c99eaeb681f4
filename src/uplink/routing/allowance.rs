//! The allowance of an uplink: its own purse and one for each of its paths. What may be sent now, what must stop, what the
//! operator is told, what goes to disk. Pure: bytes, time and what waits come in as arguments.

use std::time::Duration;

use crate::config::plan::{Budget, Overrun, UplinkPlan};
use crate::model::time::Wall;
use crate::store::MeterRow;

use super::budget::{Crossing, Need, Purse, Rules, Save};
use super::costs;

/// See the head of this file.
#[derive(Debug)]
pub(in crate::uplink) struct Allowance {
    uplink: Purse,
    /// In the order of the plan; one without a name and without a budget where the plan has none.
    paths: Vec<Purse>,
    overrun: Overrun,
    adopted: bool,
}

impl Allowance {
    pub(in crate::uplink) fn new(plan: &UplinkPlan) -> Self {
        let rules = Rules { reserve: plan.reserve, overrun: plan.overrun, goodbye: costs::LAST };
        let path = |path: &crate::config::plan::PathPlan| Purse::new(&plan.name, &path.name, &path.budgets, rules);
        Self {
            uplink: Purse::new(&plan.name, "", &plan.budgets, rules),
            paths: plan.paths.iter().map(path).collect(),
            overrun: plan.overrun,
            adopted: false,
        }
    }

    /// Goes on from what the disk says; once, as soon as the disk can be read.
    pub(in crate::uplink) fn adopt(&mut self, rows: &[MeterRow]) {
        self.adopted = true;
        self.purses().for_each(|purse| purse.adopt(rows));
    }

    pub(in crate::uplink) const fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// So many bytes more went over a path.
    pub(in crate::uplink) fn count(&mut self, path: usize, bytes: u64) {
        self.uplink.count(bytes);
        if let Some(purse) = self.paths.get_mut(path) {
            purse.count(bytes);
        }
    }

    /// Looks at the clock, which has gone for so long without being put, and the thresholds; what the operator is to be told.
    pub(in crate::uplink) fn look(&mut self, wall: Wall, steady: Duration) -> Vec<Crossing> {
        let mut news = Vec::new();
        for purse in self.purses() {
            news.extend(purse.turn(wall, steady));
            news.extend(purse.crossings(wall));
        }
        news
    }

    /// Bytes left for this on a path.
    pub(in crate::uplink) fn room(&self, path: usize, need: Need) -> u64 {
        let own = self.paths.get(path).map_or(u64::MAX, |purse| purse.room(need));
        own.min(self.uplink.room(need))
    }

    /// May something of this cost be begun while `open` bytes are under way and still to be paid? The way out stays
    /// paid for.
    pub(in crate::uplink) fn has_room(&self, path: usize, need: Need, cost: u64, open: u64) -> bool {
        self.room(path, need) >= cost.saturating_add(open).saturating_add(costs::LEAVE)
    }

    /// Must a session on this path end now? Staying costs a ping now and then; alarms that wait or are in flight may
    /// use what is for alarms only. What is in flight was paid for when it was sent.
    pub(in crate::uplink) fn must_leave(&self, path: usize, alarms: Alarms) -> bool {
        let need = if alarms == Alarms::Waiting && self.overrun == Overrun::Alarms { Need::Alarm } else { Need::Live };
        self.room(path, need) <= costs::LAST
    }

    /// Used bytes of each budget: of a path, or of the uplink itself.
    pub(in crate::uplink) fn used(&self, path: Option<usize>) -> Vec<(Budget, u64)> {
        match path {
            Some(path) => self.paths.get(path).map_or_else(Vec::new, |purse| purse.used().collect()),
            None => self.uplink.used().collect(),
        }
    }

    /// What is to be written now, while `open` bytes are under way on a path; nothing before the disk was read, or it
    /// would be overwritten.
    pub(in crate::uplink) fn rows(&mut self, save: Save, path: usize, open: u64) -> Vec<MeterRow> {
        if !self.adopted {
            return Vec::new();
        }
        let mut rows = self.uplink.rows(save, open);
        for (place, purse) in self.paths.iter_mut().enumerate() {
            rows.extend(purse.rows(save, if place == path { open } else { 0 }));
        }
        rows
    }

    fn purses(&mut self) -> impl Iterator<Item = &mut Purse> {
        std::iter::once(&mut self.uplink).chain(&mut self.paths)
    }
}

/// Are there any that the broker does not have yet?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::uplink) enum Alarms {
    Waiting,
    None,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{Bind, PathPlan, Period};
    use crate::model::number::Class;
    use crate::model::time::Certainty;

    const NOW: Wall = Wall { unix_ms: 1_795_204_800_000, certainty: Certainty::Fixed };
    const KB: u64 = 1000;

    fn path(name: &str, kilobytes: u64) -> PathPlan {
        PathPlan {
            name: name.into(),
            bind: Bind::System,
            classes: Class::ALL.to_vec(),
            budgets: vec![Budget { bytes: kilobytes * KB, period: Period::Day }],
            max_rate: None,
            schedule: None,
            price_per_mib: None,
        }
    }

    fn allowance(overrun: Overrun) -> Allowance {
        let plan = UplinkPlan {
            budgets: vec![Budget { bytes: 500 * KB, period: Period::Month }],
            overrun,
            paths: vec![path("wired", 400), path("cellular", 100)],
            ..UplinkPlan::plain("cloud")
        };
        let mut allowance = Allowance::new(&plan);
        allowance.adopt(&[]);
        assert!(allowance.look(NOW, Duration::ZERO).is_empty());
        allowance
    }

    #[test]
    fn a_path_pays_from_its_own_purse_and_from_the_uplinks() {
        let mut allowance = allowance(Overrun::Stop);
        allowance.count(1, 60 * KB);
        assert_eq!(allowance.room(1, Need::Live), 40 * KB);
        assert_eq!(allowance.room(0, Need::Live), 400 * KB);
        allowance.count(0, 360 * KB);
        assert_eq!(allowance.room(0, Need::Live), 40 * KB);
        assert_eq!(allowance.room(1, Need::Live), 40 * KB);
        allowance.count(0, 30 * KB);
        assert_eq!(allowance.room(1, Need::Live), 40 * KB, "450 of 500 for all, 60 of 100 here");
        assert_eq!(allowance.room(1, Need::Backlog), 0, "450 of 500 is beyond the uplink's 80 %");
    }

    #[test]
    fn nothing_is_begun_that_would_leave_no_way_out() {
        let mut allowance = allowance(Overrun::Stop);
        allowance.count(1, 90 * KB);
        let left = 10 * KB - costs::LEAVE;
        assert!(allowance.has_room(1, Need::Live, left, 0));
        assert!(!allowance.has_room(1, Need::Live, left, 1), "what is under way will be counted too");
        assert!(!allowance.must_leave(1, Alarms::None));
        allowance.count(1, 10 * KB - costs::LAST);
        assert!(allowance.must_leave(1, Alarms::None), "there is no point in pings without a value");
        let told: Vec<_> = allowance.look(NOW, Duration::ZERO).iter().map(|news| news.event).collect();
        assert_eq!(told, ["budget_80", "budget_100"]);
    }

    #[test]
    fn a_session_without_an_alarm_ends_at_the_budget_and_one_with_an_alarm_at_the_cap() {
        let mut allowance = allowance(Overrun::Alarms);
        allowance.count(1, 99 * KB);
        assert!(allowance.must_leave(1, Alarms::None));
        assert!(!allowance.must_leave(1, Alarms::Waiting));
        allowance.count(1, 9 * KB);
        assert!(allowance.must_leave(1, Alarms::Waiting), "107 + goodbye reach 110");
    }

    #[test]
    fn nothing_is_written_before_the_disk_was_read_and_what_went_out_before_is_added() {
        let plan =
            UplinkPlan { budgets: vec![Budget { bytes: 500 * KB, period: Period::Day }], ..UplinkPlan::plain("cloud") };
        let mut first = Allowance::new(&plan);
        first.adopt(&[]);
        first.look(NOW, Duration::ZERO);
        first.count(0, 100 * KB);
        let rows = first.rows(Save::Exact, 0, 0);
        let mut allowance = Allowance::new(&plan);
        allowance.look(NOW, Duration::ZERO);
        allowance.count(0, 5 * KB);
        assert!(allowance.rows(Save::Exact, 0, 0).is_empty());
        allowance.adopt(&rows);
        assert_eq!(allowance.room(0, Need::Live), 395 * KB);
    }
}
