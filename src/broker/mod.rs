//! The embedded broker: MQTT 3.1.1 and 5 for local clients, and the window on which every tag is seen.
//!
//! It is a window, not the truth: polling, storing and forwarding do not depend on it. The gateway publishes through
//! [`Publisher`], which has no socket and never waits; local clients come through the doors.
//!
//! `door` listeners, limits, the connection loop · `wire` packets · `session` one client's protocol state, pure ·
//! `core` who is connected, who wants what, the one place every message passes · `clients`, `tree`, `retained`, `will`
//! its parts · `message` what passes · `outbox` what waits for one client, bounded · `ruling` who may publish what · `carried`
//! what goes upstream and comes down · `sn` messages of MQTT-SN · `durable` a session's side of the ledger, `keeping` clients'
//! retained messages to and from disk · `publisher` the gateway's own way in · `sys` `$SYS/broker/…` · `stats` what is counted,
//! `talk` what the log hears of clients · `control` what the app may ask.
//!
//! Choices the standard leaves open. Overlapping subscriptions of a client give one message. A message nobody may
//! publish is acknowledged and dropped for 3.1.1 (as mosquitto does), refused with 0x87 for MQTT 5, counted for both.
//! A slow reader sees only the newest of the gateway's retained values; for anything else it is disconnected (0x97) once
//! 1 MiB waits, never silently thinned; only while 64 MiB wait for all, long messages at QoS 0 are left out, and counted. What
//! a client has left retained goes with its name: it is sent to a new subscription only while that client may still write
//! there, and gone for good once its topic is the gateway's.
//!
//! Sessions that outlive their connection (MQTT 5: Session Expiry Interval; 3.1.1: `clean_session = 0`, for
//! `session_expiry_max`) are owed every message above QoS 0 but the gateway's retained values; that lies on disk until the
//! client has acknowledged it, and a publish is acknowledged when it lies there. Of the gateway's values such a client
//! gets, when it comes back, the newest of each tag that has changed, with RETAIN 0. While it reads more slowly than it is
//! sent to, it is sent from disk instead of being disconnected. Beyond its bound on disk the newest message is not kept
//! for it: counted, noticed, and told at its next CONNACK (MQTT 5: user property `dropped`). Where it is the bound for all
//! that is reached, each session has a small share of its own; and whoever is there and keeps up is sent what it cannot be
//! owed, once: what of it has not arrived when the connection ends is dropped, and counted like the rest. QoS 0 is not
//! kept for an absent client. While the disk fails nothing that would be owed is taken, but clients stay and see what
//! comes: subscriptions are made and ended, and acknowledged, and put on disk once it works. Should the gateway die
//! before, a session has those it had. A QoS 1 or 2 message whose commit fails has been seen by those who are there; it is
//! refused to its sender, and they get it once more when that one sends it again.
//!
//! Of a shared subscription a member that is connected gets the message; if none is, it is owed to one that is not; who has
//! no room for it comes last, of them first whoever is there and keeps up. Of a member whose session ends with its connection
//! the others get what waited for it, and what it was sent at QoS 1 and has not acknowledged (4.8.2; at QoS 2 nobody else may);
//! if there is none, it is counted. What a lasting session is owed when it ends is dropped, and counted. A client id whose
//! session belongs to another identity is refused (0x85). Retained messages of clients that a new subscription has not yet
//! been sent are sent after a reconnect, also when the gateway was restarted meanwhile: from the first one on. Wills that
//! wait are sent when the gateway stops in order; a power cut is not their case.

mod carried;
mod clients;
mod control;
mod core;
mod door;
mod durable;
mod keeping;
mod message;
mod outbox;
mod publisher;
mod retained;
mod ruling;
mod session;
#[cfg(feature = "mqtt-sn")]
pub mod sn;
mod stats;
mod sys;
mod talk;
mod tree;
mod will;
mod wire;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use control::Control;
pub use core::{NotTaken, Rejudged};
pub use publisher::Publisher;
pub use retained::CLIENT_BYTES_MAX as RETAINED_BYTES_MAX;
pub use stats::{BrokerStats, SensorStats};

use crate::access::Access;
use crate::config::plan::BrokerPlan;
use crate::disk::ledger::{Found, Ledger};
use crate::flow::clock::Clock;
use crate::flow::command::CommandEntry;
use crate::flow::forward::ForwardEntry;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::flow::stop::Stop;
use crate::model::topic::Ownership;
pub use door::DoorList;
use door::Doors;
pub use door::files as certificate_files;

/// How long clients may take at the end to read what waits for them.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// What the broker is made of.
pub struct BrokerParts {
    /// Listeners.
    pub plan: BrokerPlan,
    /// Who may what.
    pub access: Arc<Access>,
    /// Which topics are the gateway's.
    pub ownership: Arc<Ownership>,
    /// Where commands go.
    pub commands: CommandEntry,
    /// Where clients' messages go that are to go upstream.
    pub forward: ForwardEntry,
    /// For arrival times and message expiry across restarts.
    pub clock: Clock,
    /// For what the operator must know.
    pub notices: Notices,
    /// What outlives a restart; created if missing.
    pub ledger_path: PathBuf,
}

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The system gives no thread; try again later.
    #[error("cannot start the thread that keeps sessions and retained messages: {0}")]
    Thread(#[from] std::io::Error),
}

/// The broker, not yet running.
pub struct Broker {
    shared: Arc<core::Shared>,
    doors: Doors,
    notices: Notices,
}

impl Broker {
    /// Reads what was kept (blocks for that long) and opens nothing yet. The publisher works at once.
    /// A file that cannot be opened or is damaged does not stop the broker: it is noticed, and set aside or retried.
    pub fn new(parts: BrokerParts) -> Result<(Self, Publisher), BrokerError> {
        let BrokerParts { plan, access, ownership, commands, forward, clock, notices, ledger_path } = parts;
        let (disk, Found { rows, sessions, set_aside }) = Ledger::open(&ledger_path)?;
        if let Some(aside) = set_aside {
            tell_of_file_set_aside(&notices, &aside);
        }
        let (mut kept, mut unserved) = (Vec::new(), Vec::new());
        for row in rows {
            let topic = Arc::clone(&row.topic);
            if !plan.limits.retain_available {
                unserved.push(topic);
                continue;
            }
            match keeping::message(row, &clock, &ownership, &access) {
                Some(found) => kept.push(found),
                None => disk.change_at_leisure(topic, None),
            }
        }
        let around = core::Surroundings { access, ownership, commands, forward, clock, disk, bounds: plan.sessions };
        let mut shared = core::Shared::new(around, kept, sessions);
        shared.limits = plan.limits;
        shared.leave_unserved(unserved);
        let shared = Arc::new(shared);
        let publisher = Publisher::new(Arc::clone(&shared));
        let doors = Doors::new(&plan, &shared, &notices);
        Ok((Self { shared, doors, notices }, publisher))
    }

    /// The way to it while it runs.
    pub fn control(&self) -> Control {
        let (certificates, inner, (orders, doors)) = (self.doors.asked(), self.doors.inner(), self.doors.orders());
        Control { shared: Arc::clone(&self.shared), certificates, orders, doors, inner }
    }

    /// Tries once to open every listener, so that addresses are known; those that fail are retried by [`Broker::run`].
    /// One entry per listener of the plan.
    pub async fn bind(&mut self) -> Vec<Option<SocketAddr>> {
        self.doors.bind().await
    }

    /// Serves until `end` is cancelled. New clients are refused from `stop.begun()` on; those connected stay until
    /// `end`, get what waits for them (for at most 3 s) and a DISCONNECT 0x8B. Not cancel-safe: cancelled, clients are
    /// cut off without a word and the last retained messages may not be on disk.
    pub async fn run(self, stop: Stop, end: CancellationToken) {
        let tracker = TaskTracker::new();
        let Self { shared, doors, notices } = self;
        doors.open(&tracker, &stop, &end);
        tick(&shared, &notices, &end).await;
        shared.stop();
        tracker.close();
        if tokio::time::timeout(FAREWELL_MAX, tracker.wait()).await.is_err() {
            tracing::warn!(clients = tracker.len(), "clients were cut off, they did not read what waited for them");
        }
        if tokio::task::spawn_blocking(move || shared.disk.close()).await.is_err() {
            tracing::error!("the thread that keeps sessions and retained messages ended badly");
        }
    }
}

/// Once a second: wills, expiry, `$SYS`, the state of the disk.
async fn tick(shared: &Arc<core::Shared>, notices: &Notices, end: &CancellationToken) {
    let publisher = Publisher::new(Arc::clone(shared));
    let mut sys = sys::Sys::new(Instant::now());
    let mut next_sys = Instant::now();
    let (mut trouble, mut left_out) = (None, 0);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            () = shared.lost.cancelled() => return, // whoever runs the broker sees that it ended before its time
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        if shared.disk.is_damaged() {
            let was_read = shared.disk.is_known();
            let lost = shared.begin_anew();
            tell_of_damage(notices, was_read.then_some(lost));
        }
        for (client, room) in shared.tick(now) {
            tell_of_room(notices, &client, room);
        }
        for shortage in shared.watch_places() {
            tell_of_places(notices, shortage);
        }
        if let Some(aside) = shared.take_found_late() {
            tell_of_file_set_aside(notices, &aside);
        }
        let found = shared.stats.subscriptions_left_out.get();
        if found > left_out {
            tell_of_subscriptions(notices, found - left_out);
        }
        left_out = found;
        if now >= next_sys {
            sys.tell(shared, &publisher, now);
            next_sys = now + sys::PERIOD;
        }
        let found = shared.disk.trouble();
        if found.is_some() != trouble.is_some() {
            tell_of_disk(notices, found.as_deref());
        }
        trouble = found;
    }
}

/// At start, or when it could be read at last.
fn tell_of_file_set_aside(notices: &Notices, aside: &Path) {
    tracing::error!(file = %aside.display(), "retained messages and sessions of clients were damaged, file set aside");
    let detail =
        format!("retained messages and sessions were damaged and are lost; the file was kept as {}", aside.display());
    notices.tell(notice("broker_retained_damaged", Phase::Once, "retained", detail));
}

/// `lost`: messages that were owed; `None` when the file could never be read.
fn tell_of_damage(notices: &Notices, lost: Option<u64>) {
    let detail = if let Some(lost) = lost {
        tracing::error!(
            lost,
            "the file of retained messages and sessions was damaged while in use, a new one is begun"
        );
        format!("broker.db was damaged while in use and begun anew; {lost} messages that were owed are lost")
    } else {
        tracing::error!("the file of retained messages and sessions could not be read for long, a new one is begun");
        "broker.db could not be read for long and was begun anew; the sessions and retained messages in it are lost"
            .to_owned()
    };
    notices.tell(notice("broker_retained_damaged", Phase::Once, "retained", detail));
}

fn tell_of_room(notices: &Notices, client: &str, room: core::Room) {
    let event = "broker_session_full";
    match room {
        core::Room::Full { dropped } => {
            tracing::warn!(client, dropped, "no room for more of what a session is owed");
            let detail =
                format!("what {client} is owed has reached its bound; {dropped} messages were not kept for it");
            notices.tell(notice(event, Phase::Active, client, detail));
        }
        core::Room::Again => {
            tracing::info!(client, "room again for what a session is owed");
            notices.tell(notice(event, Phase::Cleared, client, "there is room again".to_owned()));
        }
        core::Room::Ended => notices.tell(notice(event, Phase::Cleared, client, "its session has ended".to_owned())),
    }
}

fn tell_of_places(notices: &Notices, shortage: core::Shortage) {
    let (event, subject) = match shortage.kind {
        core::PlaceKind::Sessions => ("broker_no_more_sessions", "sessions"),
        core::PlaceKind::Subscriptions => ("broker_no_more_subscriptions", "subscriptions"),
    };
    if let Some(owner) = shortage.greediest {
        tracing::warn!(kind = subject, owner = &*owner, "no more places, clients are refused");
        let detail =
            format!("their bound for all clients has been reached, and some are refused; {owner} has the most");
        notices.tell(notice(event, Phase::Active, subject, detail));
    } else {
        tracing::info!(kind = subject, "there are places again");
        notices.tell(notice(event, Phase::Cleared, subject, "there is room again".to_owned()));
    }
}

fn tell_of_subscriptions(notices: &Notices, left_out: u64) {
    let detail = format!(
        "{left_out} subscriptions of sessions were on disk and are no more: an earlier version took more, and longer ones, \
         than there is room for"
    );
    notices.tell(notice("broker_subscriptions_left_out", Phase::Once, "subscriptions", detail));
}

fn tell_of_disk(notices: &Notices, trouble: Option<&str>) {
    let event = "broker_retained_not_kept";
    if let Some(error) = trouble {
        tracing::error!(
            error,
            "sessions and retained messages of clients cannot be kept on disk, what is owed is refused"
        );
        notices.tell(notice(event, Phase::Active, "retained", error.to_owned()));
    } else {
        tracing::info!("sessions and retained messages of clients are kept on disk again");
        notices.tell(notice(event, Phase::Cleared, "retained", "kept on disk again".to_owned()));
    }
}

fn notice(event: &'static str, phase: Phase, subject: &str, detail: String) -> Notice {
    Notice { event, phase, subject: subject.to_owned(), detail }
}
