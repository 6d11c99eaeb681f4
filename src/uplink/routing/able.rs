//! What a path may carry now: whether its window is open, its purse pays, and anything waits that may go by it. And the reason to
//! leave it.

use tokio::time::Instant;

use super::allowance::Alarms;
use super::path::{Leave, Path};
use super::schedule::{Window, window};
use super::{ALARM_LINGER, Need, Routing, WINDOW_LEAD, costs};
use crate::model::number::Class;

impl Routing {
    /// Is an alarm waiting, or was one a moment ago?
    pub(super) fn alarms(&self, now: Instant) -> Alarms {
        let fresh = |at: Instant| now.saturating_duration_since(at) < ALARM_LINGER;
        if self.alarm_at.is_some_and(fresh) { Alarms::Waiting } else { Alarms::None }
    }

    /// Which paths may carry something that waits. Where an alarm waits, those that may carry it, if there are any.
    pub(super) fn able(&self, waiting: &[Class], now: Instant) -> Vec<bool> {
        let all: Vec<bool> = (0..self.paths.len()).map(|path| self.is_able(path, waiting, now)).collect();
        let alarm = |path: usize| all[path] && self.paths[path].classes.contains(&Class::Alarm);
        let alarmed: Vec<bool> = (0..self.paths.len()).map(alarm).collect();
        if waiting.contains(&Class::Alarm) && alarmed.contains(&true) { alarmed } else { all }
    }

    pub(super) fn is_able(&self, path: usize, waiting: &[Class], now: Instant) -> bool {
        let own = &self.paths[path];
        let mine = |class: &Class| own.classes.contains(class);
        let alarm = waiting.contains(&Class::Alarm) && mine(&Class::Alarm);
        let standing = self.prober.is_some() && self.failover.current() == Some(path);
        // Nothing waits: a session stands by for what will, but nobody opens a window for it.
        let useful = waiting.iter().any(mine) || waiting.is_empty() && (own.schedule.is_none() || standing);
        let urgent = alarm || standing && mine(&Class::Alarm) && self.alarms(now) == Alarms::Waiting;
        let open = urgent || self.is_open(own);
        let need = if alarm { Need::Alarm } else { Need::Live };
        let affordable = if standing {
            !self.allowance.must_leave(path, if urgent { Alarms::Waiting } else { Alarms::None })
        } else {
            self.allowance.has_room(path, need, self.connect + self.births.wire + costs::LAST, 0)
        };
        useful && open && affordable
    }

    /// Is its window open, and for long enough that a goodbye finds time?
    fn is_open(&self, path: &Path) -> bool {
        let now_ms = self.clock.wall_now().unix_ms;
        match (window(path.schedule, now_ms), path.schedule) {
            (Window::Closed(_), _) => false,
            (Window::Open(Some(closes)), Some(schedule)) => {
                let lead = WINDOW_LEAD.min(schedule.lasts / 10);
                closes - now_ms > i64::try_from(lead.as_millis()).unwrap_or(0)
            }
            _ => true,
        }
    }

    pub(super) fn must_leave(&mut self, waiting: &[Class], now: Instant) -> Option<Leave> {
        let path = self.failover.current()?;
        let alarms = self.alarms(now);
        if self.allowance.must_leave(path, alarms) {
            return Some(Leave::Budget);
        }
        let own = &self.paths[path];
        let for_alarms = alarms == Alarms::Waiting && own.classes.contains(&Class::Alarm);
        if !for_alarms && !self.is_open(own) {
            return Some(Leave::Window);
        }
        if self.paths.len() == 1 {
            return None;
        }
        let able = self.able(waiting, now);
        self.failover.better(&able, now).map(|_| Leave::Path)
    }
}
