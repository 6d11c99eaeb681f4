//! The routing of an uplink: which path the next session takes, what it may send, when it must end; what was counted and what
//! the operator is told. One for each uplink, shared with nobody.
//!
//! Here the pure parts meet: `failover` (health of each `path`, and return), `schedule` (windows), `able` (what each
//! may carry now), `allowance` (budgets: each a `budget`, its bytes in a `tally`), `costs` (what things will cost),
//! `births` (of an edge node, and what they cost). Fed by the uplink between sessions ([`Routing::next`]) and by the
//! feeder about once a second within ([`Routing::tick`]); the figures come from the road's meter of each path.
//! Promises: nothing is sent that a budget cannot pay with all that belongs to it; a session ends in order before its
//! budget does; an alarm may break a schedule, nothing else may.

mod able;
mod allowance;
mod births;
mod budget;
pub(super) mod costs;
mod failover;
mod path;
mod schedule;
mod tally;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::plan::UplinkPlan;
use crate::flow::clock::Clock;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::model::number::Class;
use crate::model::time::{Stamp, signed_micros};
use crate::road::Prober;
use crate::road::destination::Bind;
use crate::road::meter::Meter;
use crate::store::{Lane, MeterRow};
use crate::uplink::pack::Message;
use crate::uplink::stats::{PathFigures, UplinkStats};

use allowance::Allowance;
use births::BirthCost;
pub(super) use births::Born;
pub(super) use budget::{Need, Save};
pub use failover::PathState;
use failover::{Choice, Failover, Probed};
pub(super) use path::Step;
use path::{Leave, Path};
use schedule::{Window, window};
use tally::BELIEVED;

/// How often budgets, windows and paths are looked at. Meters are at most a second old, too.
pub(in crate::uplink) const TICK: Duration = Duration::from_secs(1);
/// A clock that was set by less, all in all, was corrected and not put.
const PUT_MS: u64 = 60_000;
/// Ticks after which the meter has surely seen what was sent, also on a busy machine.
const UNSETTLED: usize = 3;
/// A session that alarms alone keep alive stays this long after the last one: alarms come in groups.
const ALARM_LINGER: Duration = Duration::from_secs(5);
/// A session ends this long before its window closes, so that its goodbye is still inside; in short windows a tenth.
const WINDOW_LEAD: Duration = Duration::from_secs(5);

/// See the head of this file.
pub(in crate::uplink) struct Routing {
    uplink: String,
    paths: Vec<Path>,
    allowance: Allowance,
    failover: Failover,
    clock: Clock,
    notices: Notices,
    stats: Arc<UplinkStats>,
    /// What a connect costs: an estimate until one was measured.
    pub(in crate::uplink) connect: u64,
    /// Of an edge node.
    pub(in crate::uplink) births: BirthCost,
    /// Bytes of the current path when its connect began; `None` once it was measured.
    connecting_at: Option<u64>,
    /// Cost of what was sent since the last tick and in those before: the meter may not have seen it yet.
    unsettled: [u64; UNSETTLED],
    alarm_at: Option<Instant>,
    leaving: Option<Leave>,
    looked_at: Option<Instant>,
    /// When this boot began by the clock, ms since 1970, and since when it says so.
    steady: Option<(i64, Stamp)>,
    prober: Option<Prober>,
    probes: JoinSet<(usize, Probed)>,
    /// The path that the operator knows of.
    told: Option<usize>,
}

impl Routing {
    /// A path that was down must be `healthy` for so long before it is taken again.
    pub(in crate::uplink) fn new(
        plan: &UplinkPlan,
        healthy: Duration,
        clock: Clock,
        notices: Notices,
        stats: Arc<UplinkStats>,
    ) -> Self {
        let mut paths: Vec<Path> = plan.paths.iter().map(|path| Path::of(path, plan)).collect();
        if paths.is_empty() {
            paths.push(Path::any(plan));
        }
        let failover = Failover::new(paths.len(), healthy, Instant::now());
        let routing = Self {
            uplink: plan.name.clone(),
            paths,
            allowance: Allowance::new(plan),
            failover,
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
            steady: None,
            prober: None,
            probes: JoinSet::new(),
            told: None,
        };
        routing.show();
        routing
    }

    /// Takes what was saved, once it can be read; returns what is to be saved now.
    pub(in crate::uplink) fn keep(
        &mut self,
        saved: impl FnOnce() -> Option<Vec<MeterRow>>,
        save: Save,
    ) -> Vec<MeterRow> {
        if !self.allowance.is_adopted()
            && let Some(rows) = saved()
        {
            self.allowance.adopt(&rows);
        }
        let handshake = if self.connecting_at.is_some() { self.connect } else { 0 };
        let open = self.unsettled.iter().sum::<u64>() + handshake + costs::LEAVE;
        let path = self.failover.current().unwrap_or(0);
        self.allowance.rows(save, path, open)
    }

    /// What to do now that no session stands and these classes wait.
    pub(in crate::uplink) fn next(&mut self, waiting: &[Class], now: Instant) -> Step {
        self.count();
        self.look(waiting, now);
        let able = self.able(waiting, now);
        match self.failover.choose(&able, now) {
            Choice::Take(path) => {
                self.announce(path);
                self.leaving = None;
                self.connecting_at = Some(self.path().meter.snapshot().total());
                Step::Connect
            }
            Choice::Wait => Step::Retry,
            Choice::None => Step::Pause,
        }
    }

    /// How the current path is gone by: what sockets are bound to, where bytes are counted, how fast.
    pub(in crate::uplink) fn terms(&self) -> (Bind, Arc<Meter>, Option<u64>) {
        let path = self.path();
        (path.bind.clone(), Arc::clone(&path.meter), path.max_rate)
    }

    /// What may go the current way.
    pub(in crate::uplink) fn classes(&self) -> &[Class] {
        &self.path().classes
    }

    /// The road is open; cheaper paths are probed from now on.
    pub(in crate::uplink) fn connected(&mut self, prober: Prober) {
        self.prober = Some(prober);
    }

    /// The broker has accepted the session.
    pub(in crate::uplink) fn stands(&mut self) {
        self.count();
        if let Some(begun) = self.connecting_at.take() {
            let cost = self.path().counted.saturating_sub(begun);
            // The meter may be a second old; what it has not seen yet is the end of the handshake.
            self.connect = self.connect.max(cost + cost / 4);
        }
        if let Some(path) = self.failover.current() {
            self.failover.stands(path);
        }
        self.show();
    }

    /// No connection, or the session was lost; `proved`: after it had carried something. True when another path can be
    /// tried at once.
    pub(in crate::uplink) fn failed(&mut self, proved: bool, waiting: &[Class], now: Instant) -> bool {
        self.ended();
        if let Some(path) = self.failover.current() {
            self.failover.failed(path, proved, now);
        }
        let able = self.able(waiting, now);
        self.show();
        self.paths.len() > 1 && self.failover.has_another(&able)
    }

    /// The session is over, for whatever reason.
    pub(in crate::uplink) fn ended(&mut self) {
        self.count();
        self.unsettled = [0; UNSETTLED];
        self.prober = None;
        self.probes.abort_all();
    }

    /// Why the session that has just ended was ended in order, if it was by us.
    pub(in crate::uplink) fn left(&mut self) -> Option<Leave> {
        self.leaving.take()
    }

    /// Is the session to end?
    pub(in crate::uplink) const fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Is it time for [`Routing::tick`]?
    pub(in crate::uplink) fn is_due(&self, now: Instant) -> bool {
        self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= TICK)
    }

    /// To be called about once a second while a session stands: counts, tells, probes, and says when it must end.
    pub(in crate::uplink) fn tick(&mut self, waiting: &[Class], now: Instant) {
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
    pub(in crate::uplink) fn may_send(&self, message: &Message, open: u64) -> bool {
        let need = match (message.class, message.lane) {
            (Class::Alarm, _) => Need::Alarm,
            (_, Lane::Live) => Need::Live,
            (_, Lane::Backlog) => Need::Backlog,
        };
        self.is_open_for(need) && self.can_pay(need, message.bytes(), open)
    }

    /// Is the way open for this, whatever it costs?
    pub(in crate::uplink) fn is_open_for(&self, need: Need) -> bool {
        let closed = need != Need::Alarm && matches!(self.window(), Window::Closed(_));
        self.leaving.is_none() && !closed
    }

    /// Do the budgets allow a publish of so many bytes, while `open` bytes are under way?
    pub(in crate::uplink) fn can_pay(&self, need: Need, bytes: usize, open: u64) -> bool {
        self.has_room(need, costs::publish(bytes), open)
    }

    /// The same of a cost.
    pub(in crate::uplink) fn has_room(&self, need: Need, cost: u64, open: u64) -> bool {
        let open = open + self.unsettled.iter().sum::<u64>();
        self.allowance.has_room(self.failover.current().unwrap_or(0), need, cost, open)
    }

    /// Of the uplink.
    pub(in crate::uplink) fn name(&self) -> &str {
        &self.uplink
    }

    /// The operator is to know.
    pub(in crate::uplink) fn tell(&self, notice: Notice) {
        self.notices.tell(notice);
    }

    /// The session is to end in order.
    pub(in crate::uplink) fn leave(&mut self, why: Leave) {
        self.leaving.get_or_insert(why);
    }

    /// It was handed over.
    pub(in crate::uplink) fn sent(&mut self, bytes: usize) {
        self.unsettled[0] = self.unsettled[0].saturating_add(costs::publish(bytes));
    }

    pub(in crate::uplink) fn path(&self) -> &Path {
        &self.paths[self.failover.current().unwrap_or(0)]
    }

    fn window(&self) -> Window {
        window(self.path().schedule, self.clock.wall_now().unix_ms)
    }

    /// Takes over what the meters show.
    fn count(&mut self) {
        for (index, path) in self.paths.iter_mut().enumerate() {
            let shown = path.meter.snapshot().total();
            let more = shown.saturating_sub(path.counted);
            if more > 0 {
                path.counted = shown;
                self.allowance.count(index, more);
            }
        }
    }

    /// Clock and thresholds; what the page shows.
    fn look(&mut self, waiting: &[Class], now: Instant) {
        self.looked_at = Some(now);
        if waiting.contains(&Class::Alarm) {
            self.alarm_at = Some(now);
        }
        let wall = self.clock.wall_now(); // first: what the clock is put by in between is seen by the next look
        let steady = self.steady();
        for news in self.allowance.look(wall, steady) {
            match news.phase {
                Phase::Cleared => tracing::info!(uplink = self.uplink, detail = news.detail, "budget warning over"),
                _ => tracing::warn!(uplink = self.uplink, detail = news.detail, "budget warning"),
            }
            let subject = format!("{}/{}", self.uplink, news.of);
            self.notices.tell(Notice { event: news.event, phase: news.phase, subject, detail: news.detail });
        }
        self.show();
    }

    /// For how long the clock has gone without being put. The first that it says is believed.
    fn steady(&mut self) -> Duration {
        let Some(began) = self.clock.began_ms() else { return Duration::ZERO };
        let now = self.clock.now();
        let since = match self.steady {
            Some((known, since)) if known.abs_diff(began) < PUT_MS => return now.since(since),
            Some(_) => now,
            None => Stamp { micros: now.micros - signed_micros(BELIEVED), ..now },
        };
        self.steady = Some((began, since));
        now.since(since)
    }

    fn show(&self) {
        let paths = self.paths.iter().enumerate().map(|(index, path)| PathFigures {
            path: path.name.clone(),
            state: self.failover.state(index),
            current: self.failover.current() == Some(index),
            bytes: path.counted,
            budgets: self.allowance.used(Some(index)),
        });
        self.stats.went(paths.collect(), self.allowance.used(None));
    }

    /// Tells when sessions go by another path.
    fn announce(&mut self, path: usize) {
        let Some(before) = self.told.replace(path).filter(|before| *before != path) else { return };
        let name = &self.paths[path].name;
        let why = format!("{} is {}", self.paths[before].name, self.failover.state(before).as_str());
        tracing::info!(uplink = self.uplink, path = name, "uplink goes by this path");
        let detail = format!("the path is {name} now; {why}");
        let subject = self.uplink.clone();
        self.notices.tell(Notice { event: "path_changed", phase: Phase::Once, subject, detail });
    }

    /// Looks after cheaper paths that are down.
    fn probe(&mut self, waiting: &[Class], now: Instant) {
        while let Some(probed) = self.probes.try_join_next() {
            if let Ok((path, result)) = probed {
                self.failover.probed(path, result, now);
            }
        }
        let Some(prober) = self.prober.as_ref().filter(|_| self.probes.is_empty()) else { return };
        // Worth a probe is what could be paid for and is open, whatever waits.
        let able: Vec<bool> = (0..self.paths.len()).map(|path| self.is_able(path, waiting, now)).collect();
        if let Some(path) = self.failover.probe_due(&able, now) {
            let own = &self.paths[path];
            let probe = prober.probe(own.bind.clone(), Arc::clone(&own.meter));
            self.probes.spawn(async move { (path, if probe.await.is_ok() { Probed::Well } else { Probed::Down }) });
        }
    }
}
