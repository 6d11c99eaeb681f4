//! The ways of an uplink: which path the next session takes, what it may send, when it must end; what was counted and what
//! the operator is told. One for each uplink, shared with nobody.
//!
//! Here the pure parts meet: `allowance` (budgets), `schedule` (windows), `paths` (health, failover, return), `costs`. Fed
//! by the uplink between sessions ([`Ways::next`]) and by the feeder about once a second within ([`Ways::tick`]); the
//! figures come from the road's meter of each path. Promises: nothing is sent that a budget cannot pay with all that
//! belongs to it; a session ends in order before its budget does; an alarm may break a schedule, nothing else may.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::plan::UplinkPlan;
use crate::flow::clock::Clock;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::model::number::Class;
use crate::road::Prober;
use crate::road::destination::Bind;
use crate::road::meter::Meter;
use crate::store::{Lane, MeterRow};

use super::allowance::{Alarms, Allowance};
use super::births::BirthCost;
use super::budget::{Need, Save};
use super::costs;
use super::pack::Message;
use super::paths::{Choice, Paths, Probed};
use super::schedule::{Window, window};
use super::stats::{UplinkStats, WayFigures};
use super::way::{Leave, Step, Way};

/// How often budgets, windows and paths are looked at. Meters are at most a second old, too.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// Ticks after which the meter has surely seen what was sent, also on a busy machine.
const UNSETTLED: usize = 3;
/// A session that alarms alone keep alive stays this long after the last one: alarms come in groups.
const ALARM_LINGER: Duration = Duration::from_secs(5);
/// A session ends this long before its window closes, so that its goodbye is still inside; in short windows a tenth.
const WINDOW_LEAD: Duration = Duration::from_secs(5);

/// See the head of this file.
#[allow(clippy::struct_field_names, reason = "the ways are what it has")]
pub(super) struct Ways {
    uplink: String,
    ways: Vec<Way>,
    allowance: Allowance,
    paths: Paths,
    clock: Clock,
    notices: Notices,
    stats: Arc<UplinkStats>,
    /// What a connect costs: an estimate until one was measured.
    pub(super) connect: u64,
    /// Of an edge node.
    pub(super) births: BirthCost,
    /// Bytes of the current path when its connect began; `None` once it was measured.
    connecting_at: Option<u64>,
    /// Cost of what was sent since the last tick and in those before: the meter may not have seen it yet.
    unsettled: [u64; UNSETTLED],
    alarm_at: Option<Instant>,
    leaving: Option<Leave>,
    looked_at: Option<Instant>,
    prober: Option<Prober>,
    probes: JoinSet<(usize, Probed)>,
    /// The path that the operator knows of.
    told: Option<usize>,
}

impl Ways {
    /// A path that was down must be `healthy` for so long before it is taken again.
    pub(super) fn new(
        plan: &UplinkPlan,
        healthy: Duration,
        clock: Clock,
        notices: Notices,
        stats: Arc<UplinkStats>,
    ) -> Self {
        let mut ways: Vec<Way> = plan.paths.iter().map(|path| Way::of(path, plan)).collect();
        if ways.is_empty() {
            ways.push(Way::any(plan));
        }
        let paths = Paths::new(ways.len(), healthy, Instant::now());
        let ways = Self {
            uplink: plan.name.clone(),
            ways,
            allowance: Allowance::new(plan),
            paths,
            clock,
            notices,
            stats,
            connect: costs::connect(plan),
            births: BirthCost::default(),
            connecting_at: None,
            unsettled: [0; UNSETTLED],
            alarm_at: None,
            leaving: None,
            looked_at: None,
            prober: None,
            probes: JoinSet::new(),
            told: None,
        };
        ways.show();
        ways
    }

    /// Takes what was saved, once it can be read; returns what is to be saved now.
    pub(super) fn keep(&mut self, saved: impl FnOnce() -> Option<Vec<MeterRow>>, save: Save) -> Vec<MeterRow> {
        if !self.allowance.is_adopted()
            && let Some(rows) = saved()
        {
            self.allowance.adopt(&rows);
        }
        let handshake = if self.connecting_at.is_some() { self.connect } else { 0 };
        let open = self.unsettled.iter().sum::<u64>() + handshake + costs::LEAVE;
        let path = self.paths.current().unwrap_or(0);
        self.allowance.rows(save, path, open)
    }

    /// What to do now that no session stands and these classes wait.
    pub(super) fn next(&mut self, waiting: &[Class], now: Instant) -> Step {
        self.count();
        self.look(waiting, now);
        let able = self.able(waiting, now);
        match self.paths.choose(&able, now) {
            Choice::Take(path) => {
                self.announce(path);
                self.leaving = None;
                self.connecting_at = Some(self.way().meter.snapshot().total());
                Step::Connect
            }
            Choice::Wait => Step::Retry,
            Choice::None => Step::Pause,
        }
    }

    /// How the current path is gone by: what sockets are bound to, where bytes are counted, how fast.
    pub(super) fn terms(&self) -> (Bind, Arc<Meter>, Option<u64>) {
        let way = self.way();
        (way.bind.clone(), Arc::clone(&way.meter), way.max_rate)
    }

    /// What may go the current way.
    pub(super) fn classes(&self) -> &[Class] {
        &self.way().classes
    }

    /// The road is open; cheaper paths are probed from now on.
    pub(super) fn connected(&mut self, prober: Prober) {
        self.prober = Some(prober);
    }

    /// The broker has accepted the session.
    pub(super) fn stands(&mut self) {
        self.count();
        if let Some(begun) = self.connecting_at.take() {
            let cost = self.way().counted.saturating_sub(begun);
            // The meter may be a second old; what it has not seen yet is the end of the handshake.
            self.connect = self.connect.max(cost + cost / 4);
        }
        if let Some(path) = self.paths.current() {
            self.paths.stands(path);
        }
        self.show();
    }

    /// No connection, or the session was lost; `proved`: after it had carried something. True when another path can be
    /// tried at once.
    pub(super) fn failed(&mut self, proved: bool, waiting: &[Class], now: Instant) -> bool {
        self.ended();
        if let Some(path) = self.paths.current() {
            self.paths.failed(path, proved, now);
        }
        let able = self.able(waiting, now);
        self.show();
        self.ways.len() > 1 && self.paths.has_another(&able)
    }

    /// The session is over, for whatever reason.
    pub(super) fn ended(&mut self) {
        self.count();
        self.unsettled = [0; UNSETTLED];
        self.prober = None;
        self.probes.abort_all();
    }

    /// Why the session that has just ended was ended in order, if it was by us.
    pub(super) fn left(&mut self) -> Option<Leave> {
        self.leaving.take()
    }

    /// Is the session to end?
    pub(super) const fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Is it time for [`Ways::tick`]?
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= TICK)
    }

    /// To be called about once a second while a session stands: counts, tells, probes, and says when it must end.
    pub(super) fn tick(&mut self, waiting: &[Class], now: Instant) {
        self.count();
        self.unsettled.rotate_right(1);
        self.unsettled[0] = 0;
        self.look(waiting, now);
        self.probe(waiting, now);
        if self.leaving.is_none() {
            self.leaving = self.must_leave(waiting, now);
        }
    }

    /// May this message go now, while `open` bytes are under way?
    pub(super) fn may_send(&self, message: &Message, open: u64) -> bool {
        let need = match (message.class, message.lane) {
            (Class::Alarm, _) => Need::Alarm,
            (_, Lane::Live) => Need::Live,
            (_, Lane::Backlog) => Need::Backlog,
        };
        self.is_open_for(need) && self.can_pay(need, message.bytes(), open)
    }

    /// Is the way open for this, whatever it costs?
    pub(super) fn is_open_for(&self, need: Need) -> bool {
        let closed = need != Need::Alarm && matches!(self.window(), Window::Closed(_));
        self.leaving.is_none() && !closed
    }

    /// Do the budgets allow a publish of so many bytes, while `open` bytes are under way?
    pub(super) fn can_pay(&self, need: Need, bytes: usize, open: u64) -> bool {
        self.has_room(need, costs::publish(bytes), open)
    }

    /// The same of a cost.
    pub(super) fn has_room(&self, need: Need, cost: u64, open: u64) -> bool {
        let open = open + self.unsettled.iter().sum::<u64>();
        self.allowance.has_room(self.paths.current().unwrap_or(0), need, cost, open)
    }

    /// Of the uplink.
    pub(super) fn name(&self) -> &str {
        &self.uplink
    }

    /// The operator is to know.
    pub(super) fn tell(&self, notice: Notice) {
        self.notices.tell(notice);
    }

    /// The session is to end in order.
    pub(super) fn leave(&mut self, why: Leave) {
        self.leaving.get_or_insert(why);
    }

    /// It was handed over.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.unsettled[0] = self.unsettled[0].saturating_add(costs::publish(bytes));
    }

    pub(super) fn way(&self) -> &Way {
        &self.ways[self.paths.current().unwrap_or(0)]
    }

    fn window(&self) -> Window {
        window(self.way().schedule, self.clock.wall_now().unix_ms)
    }

    /// Takes over what the meters show.
    fn count(&mut self) {
        for (path, way) in self.ways.iter_mut().enumerate() {
            let shown = way.meter.snapshot().total();
            let more = shown.saturating_sub(way.counted);
            if more > 0 {
                way.counted = shown;
                self.allowance.count(path, more);
            }
        }
    }

    /// Clock and thresholds; what the page shows.
    fn look(&mut self, waiting: &[Class], now: Instant) {
        self.looked_at = Some(now);
        if waiting.contains(&Class::Alarm) {
            self.alarm_at = Some(now);
        }
        for news in self.allowance.look(self.clock.wall_now()) {
            match news.phase {
                Phase::Cleared => tracing::info!(uplink = self.uplink, detail = news.detail, "budget warning over"),
                _ => tracing::warn!(uplink = self.uplink, detail = news.detail, "budget warning"),
            }
            let subject = self.uplink.clone();
            self.notices.tell(Notice { event: news.event, phase: news.phase, subject, detail: news.detail });
        }
        self.show();
    }

    fn show(&self) {
        let ways = self.ways.iter().enumerate().map(|(path, way)| WayFigures {
            path: way.name.clone(),
            state: self.paths.state(path),
            current: self.paths.current() == Some(path),
            bytes: way.counted,
            budgets: self.allowance.used(Some(path)),
        });
        self.stats.went(ways.collect(), self.allowance.used(None));
    }

    /// Tells when sessions go another way.
    fn announce(&mut self, path: usize) {
        let Some(before) = self.told.replace(path).filter(|before| *before != path) else { return };
        let name = &self.ways[path].name;
        let why = format!("{} is {}", self.ways[before].name, self.paths.state(before).as_str());
        tracing::info!(uplink = self.uplink, path = name, "uplink goes by this path");
        let detail = format!("the path is {name} now; {why}");
        let subject = self.uplink.clone();
        self.notices.tell(Notice { event: "path_changed", phase: Phase::Once, subject, detail });
    }

    pub(super) fn alarms(&self, now: Instant) -> Alarms {
        let fresh = |at: Instant| now.saturating_duration_since(at) < ALARM_LINGER;
        if self.alarm_at.is_some_and(fresh) { Alarms::Waiting } else { Alarms::None }
    }

    /// Which paths may carry something that waits. Where an alarm waits, those that may carry it, if there are any.
    fn able(&self, waiting: &[Class], now: Instant) -> Vec<bool> {
        let all: Vec<bool> = (0..self.ways.len()).map(|path| self.is_able(path, waiting, now)).collect();
        let alarm = |path: usize| all[path] && self.ways[path].classes.contains(&Class::Alarm);
        let alarmed: Vec<bool> = (0..self.ways.len()).map(alarm).collect();
        if waiting.contains(&Class::Alarm) && alarmed.contains(&true) { alarmed } else { all }
    }

    fn is_able(&self, path: usize, waiting: &[Class], now: Instant) -> bool {
        let way = &self.ways[path];
        let mine = |class: &Class| way.classes.contains(class);
        let alarm = waiting.contains(&Class::Alarm) && mine(&Class::Alarm);
        let standing = self.prober.is_some() && self.paths.current() == Some(path);
        // Nothing waits: a session stands by for what will, but nobody opens a window for it.
        let useful = waiting.iter().any(mine) || waiting.is_empty() && (way.schedule.is_none() || standing);
        let urgent = alarm || standing && mine(&Class::Alarm) && self.alarms(now) == Alarms::Waiting;
        let open = urgent || self.is_open(way);
        let need = if alarm { Need::Alarm } else { Need::Live };
        let affordable = if standing {
            !self.allowance.must_leave(path, if urgent { Alarms::Waiting } else { Alarms::None })
        } else {
            self.allowance.has_room(path, need, self.connect + self.births.wire + costs::LAST, 0)
        };
        useful && open && affordable
    }

    /// Is its window open, and for long enough that a goodbye finds time?
    fn is_open(&self, way: &Way) -> bool {
        let now_ms = self.clock.wall_now().unix_ms;
        match (window(way.schedule, now_ms), way.schedule) {
            (Window::Closed(_), _) => false,
            (Window::Open(Some(closes)), Some(schedule)) => {
                let lead = WINDOW_LEAD.min(schedule.lasts / 10);
                closes - now_ms > i64::try_from(lead.as_millis()).unwrap_or(0)
            }
            _ => true,
        }
    }

    fn must_leave(&mut self, waiting: &[Class], now: Instant) -> Option<Leave> {
        let path = self.paths.current()?;
        let alarms = self.alarms(now);
        if self.allowance.must_leave(path, alarms) {
            return Some(Leave::Budget);
        }
        let way = &self.ways[path];
        let for_alarms = alarms == Alarms::Waiting && way.classes.contains(&Class::Alarm);
        if !for_alarms && !self.is_open(way) {
            return Some(Leave::Window);
        }
        if self.ways.len() == 1 {
            return None;
        }
        let able = self.able(waiting, now);
        self.paths.better(&able, now).map(|_| Leave::Path)
    }

    /// Looks after cheaper paths that are down.
    fn probe(&mut self, waiting: &[Class], now: Instant) {
        while let Some(probed) = self.probes.try_join_next() {
            if let Ok((path, result)) = probed {
                self.paths.probed(path, result, now);
            }
        }
        let Some(prober) = self.prober.as_ref().filter(|_| self.probes.is_empty()) else { return };
        // Worth a probe is what could be paid for and is open, whatever waits.
        let able: Vec<bool> = (0..self.ways.len()).map(|path| self.is_able(path, waiting, now)).collect();
        if let Some(path) = self.paths.probe_due(&able, now) {
            let way = &self.ways[path];
            let probe = prober.probe(way.bind.clone(), Arc::clone(&way.meter));
            self.probes.spawn(async move { (path, if probe.await.is_ok() { Probed::Well } else { Probed::Down }) });
        }
    }
}
