//! The doors: listeners, who is let in, and one task per connection.
//!
//! A listener that cannot be opened is tried again with growing pauses and noticed; it never ends the process. All that
//! a client can do happens in its own task: a handshake that stalls, a fault or a panic there is nobody else's matter.
//!
//! `listening` TCP ports and unix sockets, `taking` connections in · `limits` how many at once and how fast · `strangers`
//! those before CONNECT · `certificates` of doors with TLS · `threshold` from a socket to MQTT, through `websocket` and its
//! `upgrade` · `stream` the connection with its layers, `shown` what it says of the client · `greeting` from the first byte
//! to CONNECT · `welcome` from there to CONNACK, `terms` what it promises · `intake` bytes to packets · `connection` from CONNACK to the end · `duty`
//! what the connection does for each of the session's actions, `filters` for SUBSCRIBE and UNSUBSCRIBE · `errands` what it
//! waits for meanwhile · `sending` what goes to the client.

mod certificates;
mod connection;
mod duty;
mod errands;
mod filters;
mod greeting;
mod intake;
mod limits;
mod listening;
mod sending;
mod shown;
mod strangers;
mod stream;
mod taking;
mod terms;
mod threshold;
mod upgrade;
mod websocket;
mod welcome;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::core::Shared;
use super::notice;
use super::talk::Trouble;
use crate::config::plan::{Anonymous, BrokerPlan, ListenerPlan};
use crate::flow::notice::{Notices, Phase};
use crate::flow::progress;
use crate::flow::stop::Stop;
use crate::model::certificate::NameFrom;
pub use certificates::files;
use certificates::{Certificates, Reason, Secured};
use limits::Limits;
use listening::{Listening, Raw};
use shown::{Peer, Shown};
use strangers::{Room, Strangers};
use stream::Stream;
use taking::Taking;
use terms::Terms;
use threshold::Said;

/// First and longest pause between two attempts to open a listener.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// All listeners of the plan.
pub(super) struct Doors {
    all: Vec<Door>,
    certificates: Vec<Certificates>,
    asked: watch::Sender<u64>,
}

struct Door {
    plan: ListenerPlan,
    listener: Option<Listening>,
    secured: Option<Secured>,
    limits: Arc<Limits>,
    strangers: Arc<Strangers>,
    places: Arc<Semaphore>,
    shared: Arc<Shared>,
    notices: Notices,
    taking: Taking,
    turning_away: Trouble,
    crowded: Trouble,
}

/// What every connection of a door shares.
struct Porch {
    plan: ListenerPlan,
    /// For logs.
    name: String,
    secured: Option<Secured>,
    said: Said,
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    /// Cancelled when the gateway has nothing more to say.
    end: CancellationToken,
}

/// What a connection's task is given.
struct Arrival {
    pub stream: Stream,
    pub shown: Shown,
    pub anonymous: Anonymous,
    /// What of its certificate is its name.
    pub identity: NameFrom,
    /// Nobody is given an id here.
    pub require_client_id: bool,
    pub terms: Terms,
    pub shared: Arc<Shared>,
    /// For long packets on their way in.
    pub places: Arc<Semaphore>,
}

impl Doors {
    pub(super) fn new(plan: &BrokerPlan, shared: &Arc<Shared>, notices: &Notices) -> Self {
        let (limits, places) = (Arc::new(Limits::new(plan.limits)), intake::places());
        let (mut doors, mut certificates) = (Vec::new(), Vec::new());
        for listener in &plan.listeners {
            let (keeper, secured) = Certificates::new(listener, shared.clock.clone(), notices.clone()).unzip();
            certificates.extend(keeper);
            doors.push(Door {
                plan: listener.clone(),
                listener: None,
                secured,
                limits: Arc::clone(&limits),
                strangers: Strangers::new(limits.total_max, plan.listeners.len()),
                places: Arc::clone(&places),
                shared: Arc::clone(shared),
                notices: notices.clone(),
                taking: Taking::new(),
                turning_away: Trouble::default(),
                crowded: Trouble::default(),
            });
        }
        Self { all: doors, certificates, asked: watch::Sender::new(0) }
    }

    /// Each change of the number asks for certificates to be read again.
    pub(super) fn asked(&self) -> watch::Sender<u64> {
        self.asked.clone()
    }

    pub(super) async fn bind(&mut self) -> Vec<Option<SocketAddr>> {
        for certificates in &mut self.certificates {
            certificates.look(Reason::Time).await;
        }
        let mut bound = Vec::new();
        for door in &mut self.all {
            if door.secured.as_ref().is_none_or(|secured| secured.serving().is_some()) {
                door.listener = Listening::open(&door.plan).await.ok();
            }
            bound.push(door.listener.as_ref().and_then(Listening::address));
        }
        bound
    }

    /// Starts one task per listener, and one for its certificates; they end when stopping begins.
    pub(super) fn open(self, tracker: &TaskTracker, stop: &Stop, end: &CancellationToken) {
        for certificates in self.certificates {
            let (stop, asked) = (stop.clone(), self.asked.subscribe());
            tracker.spawn(async move {
                tokio::select! {
                    () = stop.begun() => {}
                    () = certificates.keep(asked) => {}
                }
            });
        }
        for door in self.all {
            let (connections, stop, end) = (tracker.clone(), stop.clone(), end.clone());
            let name = door.plan.listen.to_string();
            let serving = async move {
                tokio::select! {
                    () = stop.begun() => {}
                    () = end.cancelled() => {}
                    () = door.serve(&connections, &end) => {}
                }
            };
            tracker.spawn(progress::part("door", &name, serving));
        }
    }
}

impl Porch {
    fn arrival(&self, stream: Stream, shown: Shown) -> Arrival {
        let (shared, places) = (Arc::clone(&self.shared), Arc::clone(&self.places));
        let ListenerPlan { anonymous, identity, require_client_id, max_qos, .. } = self.plan;
        let terms = Terms::new(max_qos, &shared.limits);
        Arrival { stream, shown, anonymous, identity, require_client_id, terms, shared, places }
    }
}

impl Door {
    async fn serve(mut self, tracker: &TaskTracker, end: &CancellationToken) {
        let porch = Arc::new(Porch {
            plan: self.plan.clone(),
            name: self.plan.listen.to_string(),
            secured: self.secured.clone(),
            said: Said::default(),
            shared: Arc::clone(&self.shared),
            places: Arc::clone(&self.places),
            end: end.clone(),
        });
        loop {
            if let Some(secured) = &mut self.secured {
                secured.usable().await;
            }
            let listening = match self.listener.take() {
                Some(listening) => listening,
                None => self.open_with_patience().await,
            };
            let address = listening.address().map_or_else(|| porch.name.clone(), |address| address.to_string());
            tracing::info!(%address, listener = %self.plan, anonymous = ?self.plan.anonymous, "listening for MQTT clients");
            if let Err(error) = self.take_in_all(&listening, &porch, tracker).await {
                tracing::error!(%address, %error, "listener broke, opening it again");
                tokio::time::sleep(RETRY.0).await;
            }
        }
    }

    /// Until the door has no certificate any more, or its listener breaks.
    async fn take_in_all(&mut self, from: &Listening, porch: &Arc<Porch>, tracker: &TaskTracker) -> io::Result<()> {
        let mut secured = self.secured.clone();
        loop {
            let closed = async {
                match &mut secured {
                    Some(secured) => secured.gone().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                taken = self.taking.next(from) => self.take_in(taken?, porch, tracker).await,
                () = closed => return Ok(()),
            }
        }
    }

    async fn take_in(&mut self, raw: Raw, porch: &Arc<Porch>, tracker: &TaskTracker) {
        self.shared.stats.connections.one();
        let peer = raw.peer();
        let address = match peer {
            Peer::Address(address) => Some(address.ip()),
            Peer::Process { .. } | Peer::Gone => None,
        };
        let pass = match self.limits.admit(address, Instant::now()) {
            Ok(pass) => pass,
            Err(limit) => {
                self.shared.stats.turned_away.one();
                if self.turning_away.is_news() {
                    tracing::warn!(listener = porch.name, %peer, %limit, "too many connections, turning away");
                }
                return;
            }
        };
        if let Err(error) = raw.prepare() {
            tracing::debug!(%peer, %error, "connection gone at once");
            return;
        }
        let (stranger, room) = self.strangers.enter().await;
        if room == Room::WasMade && self.crowded.is_news() {
            tracing::warn!(listener = porch.name, %peer, "too many connections without CONNECT, the oldest make room");
        }
        let porch = Arc::clone(porch);
        tracker.spawn(async move {
            let _pass = pass;
            threshold::cross(raw, porch, stranger).await;
        });
    }

    async fn open_with_patience(&self) -> Listening {
        let (mut pause, longest) = RETRY;
        let mut failed = false;
        loop {
            let error = match Listening::open(&self.plan).await {
                Ok(listening) => {
                    if failed {
                        self.tell(Phase::Cleared, "open now".to_owned());
                    }
                    return listening;
                }
                Err(error) => error,
            };
            if !std::mem::replace(&mut failed, true) {
                tracing::error!(address = %self.plan.listen, %error, "cannot open listener, trying on");
                self.tell(Phase::Active, format!("cannot listen on {}: {error}", self.plan.listen));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    fn tell(&self, phase: Phase, detail: String) {
        self.notices.tell(notice("broker_listener_down", phase, &self.plan.listen.to_string(), detail));
    }
}
