//! The board: how everything stands at one moment, as the status page, health and `GET /api/status` show it.
//!
//! A plain value: the app gathers it from the counters of all rooms, this room only shows it. Its JSON is the answer of
//! `GET /api/status`; fields may be added, none is renamed. Times are RFC 3339 in UTC, ages and spans seconds, response
//! times milliseconds, sizes bytes; what is not known is null.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::health::Health;
use crate::model::lock::Hold as _;
use crate::model::tag::TagIx;

/// Everybody who asks within this time is told the same.
const FRESH_FOR: Duration = Duration::from_millis(200);

/// How everything stands.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Board {
    /// The gateway itself.
    pub gateway: Gateway,
    /// In the order of the configuration, as all lists but the last two.
    pub buses: Vec<Bus>,
    /// All devices, those of derived tags too.
    pub devices: Vec<Device>,
    /// Uplinks, then bridges.
    pub uplinks: Vec<Uplink>,
    /// The store.
    pub store: Store,
    /// The broker.
    pub broker: Broker,
    /// What is active now, the gravest first; of what whoever asks may see at most [`ALARMS_MAX`].
    pub alarms: Vec<Alarm>,
    /// How many there are, those that were cut off among them.
    pub alarms_total: usize,
    /// The newest, the last one first.
    pub events: Vec<Event>,
}

/// Alarms that are shown; a plant where more are active has other worries than the rest of the list.
pub const ALARMS_MAX: usize = 500;

impl Board {
    /// With those alarms only that somebody may see, and the gravest of these.
    pub fn with_alarms(&self, may_see: impl Fn(&Alarm) -> bool) -> Cow<'_, Self> {
        if self.alarms.len() <= ALARMS_MAX && self.alarms.iter().all(&may_see) {
            return Cow::Borrowed(self);
        }
        let mut alarms: Vec<&Alarm> = self.alarms.iter().filter(|alarm| may_see(alarm)).collect();
        let alarms_total = alarms.len();
        alarms.truncate(ALARMS_MAX);
        let alarms = alarms.into_iter().cloned().collect();
        let Self { gateway, buses, devices, uplinks, store, broker, events, .. } = self;
        Cow::Owned(Self {
            gateway: gateway.clone(),
            buses: buses.clone(),
            devices: devices.clone(),
            uplinks: uplinks.clone(),
            store: store.clone(),
            broker: broker.clone(),
            alarms,
            alarms_total,
            events: events.clone(),
        })
    }
}

/// The gateway itself.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Gateway {
    /// `[gateway] name`
    pub name: String,
    /// Of the program.
    pub version: &'static str,
    /// When it started.
    pub started: String,
    /// How long ago.
    pub uptime_s: u64,
    /// Now.
    pub time: String,
    /// `fixed` while the time is known (by whoever vouches for it; where nobody can be asked, by the system's clock), else
    /// `unknown`.
    pub clock: &'static str,
    /// Is all well?
    pub health: Health,
}

/// A bus.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Bus {
    /// Its name.
    pub name: String,
    /// `modbus-tcp` …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Address or port.
    pub endpoint: String,
    /// `connected`, or `down`.
    pub state: &'static str,
    /// It is for somebody on this box to mend that it is down; [`Health`] says so.
    #[serde(skip)]
    pub ours: bool,
    /// How much of its time was taken lately, percent.
    pub load: u64,
    /// How long its devices take to answer.
    pub response_ms: Option<Spread>,
    /// Polls left out because their time had passed.
    pub late: u64,
}

/// Two percentiles of response times, ms.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Spread {
    /// Half of them took no longer.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
}

/// A device.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its bus; null for derived tags.
    pub bus: Option<String>,
    /// `answering`, `suspect`, `down`, `paused`, or `starting` as long as nothing is known.
    pub state: &'static str,
    /// Its last valid answer.
    pub last_success: Option<String>,
    /// Requests sent to it.
    pub polls: u64,
    /// Those without an answer in time.
    pub timeouts: u64,
    /// Those answered by an exception.
    pub exceptions: u64,
    /// Broken frames, wrong lengths, lost connections.
    pub other_errors: u64,
    /// How long it takes to answer.
    pub response_ms: Option<Spread>,
}

/// An uplink, or a bridge.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its first server, without user and password.
    pub url: String,
    /// `connected`, `connecting`, `paused`, `disabled`, `stopped`.
    pub state: &'static str,
    /// Since when it is so.
    pub since: Option<String>,
    /// Why the last attempt or session ended; null while connected.
    pub error: Option<String>,
    /// The path it uses now; null where the system routes.
    pub path: Option<String>,
    /// Records it still owes.
    pub waiting_records: u64,
    /// About how many bytes they will be, by what records took so far; null before the first.
    pub waiting_bytes: Option<u64>,
    /// How long ago the oldest of them was taken.
    pub oldest_age_s: u64,
    /// How long it will take at the present rate; null while it does not become less.
    pub drain_s: Option<u64>,
    /// Bytes sent since the start, TLS included.
    pub sent_bytes: u64,
    /// Its own budgets, then those of its paths.
    pub budgets: Vec<Budget>,
    /// Until the first of its certificates ends; negative: so many days ago.
    pub certificate_days_left: Option<i64>,
}

/// What may be spent on the wire.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Budget {
    /// The path it is of; null: of the whole uplink.
    pub path: Option<String>,
    /// `day` or `month`.
    pub span: &'static str,
    /// Bytes in that time.
    pub limit_bytes: u64,
    /// Of them used.
    pub used_bytes: u64,
}

/// The store.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Store {
    /// Bytes on disk.
    pub bytes: u64,
    /// Never more than this.
    pub max_bytes: u64,
    /// Bytes handed to the disk in a day, by the time since the start; null during the first minute.
    pub written_per_day: Option<u64>,
    /// Why it cannot do its work; null while it can.
    pub trouble: Option<String>,
    /// Gap records that some uplink has not acknowledged.
    pub gaps: u64,
}

/// The broker.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Broker {
    /// Clients connected now.
    pub connections: u64,
    /// Sessions, those of absent clients included.
    pub sessions: u64,
    /// PUBLISH from clients since the start.
    pub messages_in: u64,
    /// PUBLISH to clients.
    pub messages_out: u64,
    /// What did not reach a client it was meant for.
    pub dropped: u64,
    /// Its listeners.
    pub listeners: Vec<Listener>,
}

/// A listener.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Listener {
    /// As in `mqtts://0.0.0.0:8883`.
    pub listen: String,
    /// `open` or `closed`.
    pub state: &'static str,
}

/// An alarm that is active.
#[derive(Debug, Clone, Serialize)]
pub struct Alarm {
    /// Name of the device.
    pub device: String,
    /// Name of the tag.
    pub tag: String,
    /// Its place in the plan.
    #[serde(skip)]
    pub ix: TagIx,
    /// `high`, `state` …
    pub event: String,
    /// `active`
    pub state: &'static str,
    /// The value it began with, as in its payload.
    pub value: serde_json::Value,
    /// When it began.
    pub since: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Event {
    /// When.
    pub time: String,
    /// `bus_down` …
    pub event: &'static str,
    /// `active`, `cleared`, or `once`.
    pub state: &'static str,
    /// What it is about.
    pub part: String,
    /// For a person.
    pub text: String,
}

/// Makes a board of this moment.
pub type Gather = Arc<dyn Fn() -> Board + Send + Sync>;

/// The last board, made anew when it is old. However many ask, the counters are not read more often.
pub(super) struct Boards {
    gather: Gather,
    last: Mutex<Option<(Instant, Arc<Board>)>>,
}

impl Boards {
    pub(super) fn new(gather: Gather) -> Self {
        Self { gather, last: Mutex::default() }
    }

    /// At most [`FRESH_FOR`] old.
    pub(super) fn now(&self) -> Arc<Board> {
        let mut last = self.last.hold();
        if let Some((made, board)) = &*last
            && made.elapsed() < FRESH_FOR
        {
            return Arc::clone(board);
        }
        let board = Arc::new((self.gather)());
        *last = Some((Instant::now(), Arc::clone(&board)));
        board
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn whoever_may_see_few_of_many_alarms_sees_all_of_these_and_who_sees_more_is_told_how_many_there_are() {
        let alarm = |n: u32| Alarm {
            device: "tank".to_owned(),
            tag: n.to_string(),
            ix: TagIx(n),
            event: "high".to_owned(),
            state: "active",
            value: n.into(),
            since: None,
        };
        let board = Board { alarms: (0..700).map(alarm).collect(), alarms_total: 700, ..Board::default() };
        let seen = |from: u32| {
            let seen = board.with_alarms(|alarm| alarm.ix.0 >= from);
            (seen.alarms.first().map(|alarm| alarm.ix.0), seen.alarms.len(), seen.alarms_total)
        };
        assert_eq!((seen(0), seen(680)), ((Some(0), ALARMS_MAX, 700), (Some(680), 20, 20)));
        assert_eq!(seen(700), (None, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_that_asks_costs_five_boards_a_second() {
        let made = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&made);
        let gather = move || {
            let uptime_s = counted.fetch_add(1, Ordering::Relaxed);
            Board { gateway: Gateway { uptime_s, ..Gateway::default() }, ..Board::default() }
        };
        let boards = Boards::new(Arc::new(gather));
        for _ in 0..1000 {
            assert_eq!(boards.now().gateway.uptime_s, made.load(Ordering::Relaxed) - 1);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(made.load(Ordering::Relaxed), 5);
    }
}
