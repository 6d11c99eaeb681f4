//! What one uplink counts; read by anyone, written by the uplink alone.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::time::Instant;

use crate::config::plan::Budget;
use crate::flow::clock::Clock;
use crate::model::lock::Hold as _;
use crate::model::stats::{Counter, Gauge};
use crate::model::time::Stamp;
use crate::road::meter::Meter;

use super::routing::PathState;

/// Where an uplink stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum UplinkState {
    /// Trying, or waiting to try again.
    Connecting = 0,
    /// The broker has accepted us.
    Connected = 1,
    /// A file must be mended first.
    Disabled = 2,
    /// Ended.
    Stopped = 3,
    /// No path may carry anything now: a budget is used up, or a window is closed.
    Paused = 4,
}

impl UplinkState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Connecting, Self::Connected, Self::Disabled, Self::Stopped, Self::Paused];

    /// The word on the status page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Disabled => "disabled",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
        }
    }
}

/// One path and what went over it; at most a second old while connected.
#[derive(Debug, Clone, PartialEq)]
pub struct PathFigures {
    /// As in the plan; empty for an uplink without paths.
    pub path: String,
    /// How well it is.
    pub state: PathState,
    /// Does it carry the session now?
    pub current: bool,
    /// Wire bytes since the start, both directions.
    pub bytes: u64,
    /// Bytes used of each of its budgets in the period that runs.
    pub budgets: Vec<(Budget, u64)>,
}

/// Counters of one uplink.
#[derive(Debug, Default)]
pub struct UplinkStats {
    phase: AtomicU8,
    /// 1 while connected, else 0.
    pub connected: Gauge,
    /// Sessions the broker accepted.
    pub sessions: Counter,
    /// Connects that failed and sessions that were lost.
    pub failures: Counter,
    /// Records and gap records published, repetitions included.
    pub published: Counter,
    /// Records and gap records acknowledged.
    pub acknowledged: Counter,
    /// Records that no broker would take (their topic is none), given up.
    pub unsendable: Counter,
    /// Records that the broker would not take, given up and declared by a gap record.
    pub refused: Counter,
    /// Messages that the broker did not take, to be sent again.
    pub not_taken: Counter,
    /// Messages in flight.
    pub in_flight: Gauge,
    /// Items the source still owes.
    pub backlog: Gauge,
    /// About how long ago the oldest of them was taken, s; 0 without a backlog.
    pub backlog_age_s: Gauge,
    /// Protocol level of the session that stands or stood last: 4 is MQTT 3.1.1, 5 is MQTT 5, 0 before the first.
    pub mqtt_level: Gauge,
    /// Commands from upstream, refused ones included.
    pub commands: Counter,
    /// Commands from upstream that were refused.
    pub commands_refused: Counter,
    /// Publishes that the subscription brought and that are no command for a tag of ours.
    pub commands_foreign: Counter,
    /// Commands from upstream dropped because too many came at once.
    pub commands_dropped: Counter,
    /// Messages on topics that come down, and were handed on.
    pub down: Counter,
    /// Those that no rule means, that are too large, or whose topic belongs to the gateway.
    pub down_refused: Counter,
    /// Those to be retained on topics that go both ways in the place of which stays what was left here meanwhile. What is
    /// retained there is read again.
    pub down_superseded: Counter,
    /// Those of QoS 0 dropped because too many came at once.
    pub down_dropped: Counter,
    /// Clients' messages that had expired before they could be sent, and were not. Over a bridge one that was to be retained
    /// takes away what is retained there, each time that is sent.
    pub expired: Counter,
    /// Messages of a bridge that were not kept, or that the other broker would not take.
    pub bridge_lost: Counter,
    /// Answers to commands that found no session in time, that the broker refused, or that were under way when a session ended
    /// (the broker may have them all the same).
    pub replies_lost: Arc<Counter>,
    /// When the first of its certificates ends (own or CA), seconds since 1970; 0: there is none, or it is not known.
    pub certificate_ends: Gauge,
    /// 1 after an attempt to which no broker has said anything (no address, no connection, no answer), else 0.
    pub unreached: Gauge,
    /// Which of its servers it is, or was last, connected to: the first is 1; 0 before that.
    pub server: Gauge,
    paths: ArcSwap<Vec<PathFigures>>,
    budgets: ArcSwap<Vec<(Budget, u64)>>,
    last_error: ArcSwapOption<String>,
    last_acknowledged: ArcSwapOption<Stamp>,
    meter: Arc<Meter>,
    drain: Mutex<Drain>,
    since: Mutex<Option<Instant>>,
}

impl UplinkStats {
    pub(super) fn new(meter: Arc<Meter>) -> Self {
        Self { meter, ..Self::default() }
    }

    /// Where it stands.
    pub fn standing(&self) -> UplinkState {
        match self.phase.load(Ordering::Relaxed) {
            1 => UplinkState::Connected,
            2 => UplinkState::Disabled,
            3 => UplinkState::Stopped,
            4 => UplinkState::Paused,
            _ => UplinkState::Connecting,
        }
    }

    /// How long it has stood there; `None` before it began.
    pub fn standing_for(&self) -> Option<Duration> {
        self.since.hold().map(|since| since.elapsed())
    }

    /// Bytes sent, TLS included.
    pub fn bytes_up(&self) -> u64 {
        self.meter.up.get()
    }

    /// How often a QUIC connection went on from another address of this box.
    pub fn moves(&self) -> u64 {
        self.meter.moves.get()
    }

    /// Bytes received, TLS included.
    pub fn bytes_down(&self) -> u64 {
        self.meter.down.get()
    }

    /// The paths in the order of the plan, at least one.
    pub fn paths(&self) -> Arc<Vec<PathFigures>> {
        self.paths.load_full()
    }

    /// Bytes used of each budget of the uplink itself.
    pub fn budgets(&self) -> Arc<Vec<(Budget, u64)>> {
        self.budgets.load_full()
    }

    pub(super) fn went(&self, paths: Vec<PathFigures>, budgets: Vec<(Budget, u64)>) {
        self.paths.store(Arc::new(paths));
        self.budgets.store(Arc::new(budgets));
    }

    /// Why the last attempt or session ended; `None` while connected.
    pub fn last_error(&self) -> Option<Arc<String>> {
        self.last_error.load_full()
    }

    /// When the broker last acknowledged a record or gap record.
    pub fn last_acknowledged(&self) -> Option<Stamp> {
        self.last_acknowledged.load_full().map(|at| *at)
    }

    pub(super) fn state(&self, phase: UplinkState) {
        let before = self.phase.swap(phase as u8, Ordering::Relaxed);
        let mut since = self.since.hold();
        if before != phase as u8 || since.is_none() {
            *since = Some(Instant::now());
        }
        self.connected.set(u64::from(phase == UplinkState::Connected));
    }

    pub(super) fn accepted(&self) {
        self.state(UplinkState::Connected);
        self.sessions.one();
        self.unreached.set(0);
        self.last_error.store(None);
    }

    pub(super) fn failed(&self, reason: String) {
        self.state(UplinkState::Connecting);
        self.failures.one();
        self.last_error.store(Some(Arc::new(reason)));
    }

    /// How long the backlog will last at the present rate; `None` when it does not become smaller.
    pub fn drain_estimate(&self) -> Option<Duration> {
        self.drain.hold().left()
    }

    /// What the source owes now, and since when.
    pub(super) fn owes(&self, backlog: u64, oldest: Option<Stamp>, clock: &Clock) {
        self.backlog.set(backlog);
        let age = oldest.map_or(0, |at| clock.wall_now().unix_ms - clock.wall(at).unix_ms);
        self.backlog_age_s.set(u64::try_from(age / 1000).unwrap_or(0));
        self.drain.hold().note(backlog, Instant::now());
    }

    pub(super) fn acknowledged_at(&self, at: Stamp, count: u64) {
        self.acknowledged.add(count);
        self.last_acknowledged.store(Some(Arc::new(at)));
    }
}

/// How fast a backlog becomes smaller, over the last half minute or so.
#[derive(Debug, Default)]
struct Drain {
    last: Option<(u64, Instant)>,
    /// Records a second; what came in is already taken off.
    rate: Option<f64>,
}

/// A new figure counts by how much of this time it covers.
const DRAIN_MEMORY_S: f64 = 30.0;
/// Figures closer together say nothing.
const DRAIN_EVERY: Duration = Duration::from_millis(900);

impl Drain {
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    fn note(&mut self, backlog: u64, now: Instant) {
        let Some((before, at)) = self.last else {
            self.last = Some((backlog, now));
            return;
        };
        let took = now.saturating_duration_since(at);
        if backlog > 0 && took < DRAIN_EVERY {
            return;
        }
        self.last = Some((backlog, now));
        let seconds = took.as_secs_f64().max(0.001);
        let new = (before as f64 - backlog as f64) / seconds;
        let part = (seconds / DRAIN_MEMORY_S).min(1.0);
        self.rate = if backlog == 0 { None } else { Some(self.rate.map_or(new, |old| old + (new - old) * part)) };
    }

    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    fn left(&self) -> Option<Duration> {
        let (backlog, _) = self.last?;
        if backlog == 0 {
            return Some(Duration::ZERO);
        }
        let rate = self.rate.filter(|rate| *rate > 0.0)?;
        Duration::try_from_secs_f64(backlog as f64 / rate).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drain_estimate_follows_the_rate_and_is_none_while_the_backlog_grows() {
        let (mut drain, begin) = (Drain::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        drain.note(10_000, at(0));
        assert_eq!(drain.left(), None);
        drain.note(9_900, at(1));
        assert_eq!(drain.left(), Some(Duration::from_secs(99)));
        (2..120).for_each(|second| drain.note(9_900 - (second - 1) * 50, at(second)));
        let left = drain.left().expect("it becomes smaller").as_secs();
        assert!((70..90).contains(&left), "{left}: 4000 at 50 a second");
        (120..300).for_each(|second| drain.note(4_000 + second * 10, at(second)));
        assert_eq!(drain.left(), None, "it grows");
        drain.note(0, at(301));
        assert_eq!(drain.left(), Some(Duration::ZERO));
    }
}
