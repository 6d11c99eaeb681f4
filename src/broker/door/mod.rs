//! The doors: listeners, who is let in, and one task per connection.
//!
//! A listener that cannot be opened is tried again with growing pauses and noticed; it never ends the process. All that
//! a client can do happens in its own task: a handshake that stalls, a fault or a panic there is nobody else's matter.
//!
//! `limits` how many at once · `greeting` from the first byte to CONNECT · `welcome` from there to CONNACK ·
//! `intake` bytes to packets · `connection` from CONNACK to the end · `duty` what the connection does for each of the
//! session's actions · `errands` what it waits for meanwhile · `sending` what goes to the client.

mod connection;
mod duty;
mod errands;
mod greeting;
mod intake;
mod limits;
mod listening;
mod sending;
mod shown;
mod stream;
mod welcome;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::core::Shared;
use super::notice;
use super::talk::Trouble;
use crate::config::plan::{Anonymous, ListenerPlan};
use crate::flow::notice::{Notices, Phase};
use crate::flow::stop::Stop;
use crate::model::certificate::NameFrom;
use limits::Limits;
use listening::{Listening, Raw};
use shown::{Peer, Shown};
use stream::Stream;

/// First and longest pause between two attempts to open a listener.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Pause after an accept that failed: out of file descriptors, as a rule, which does not get better by trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// All listeners of the plan.
pub(super) struct Doors {
    doors: Vec<Door>,
}

struct Door {
    plan: ListenerPlan,
    listener: Option<Listening>,
    limits: Arc<Limits>,
    places: Arc<Semaphore>,
    shared: Arc<Shared>,
    notices: Notices,
}

/// What a connection's task is given.
struct Arrival {
    pub stream: Stream,
    pub shown: Shown,
    pub anonymous: Anonymous,
    /// What of its certificate is its name.
    pub identity: NameFrom,
    pub shared: Arc<Shared>,
    /// For long packets on their way in.
    pub places: Arc<Semaphore>,
    /// Cancelled when the gateway has nothing more to say.
    pub end: CancellationToken,
}

impl Doors {
    pub(super) fn new(listeners: Vec<ListenerPlan>, shared: &Arc<Shared>, notices: &Notices) -> Self {
        let (limits, places) = (Arc::new(Limits::from_system()), intake::places());
        let door = |plan| {
            let (limits, places) = (Arc::clone(&limits), Arc::clone(&places));
            Door { plan, listener: None, limits, places, shared: Arc::clone(shared), notices: notices.clone() }
        };
        Self { doors: listeners.into_iter().map(door).collect() }
    }

    pub(super) async fn bind(&mut self) -> Vec<Option<SocketAddr>> {
        let mut bound = Vec::new();
        for door in &mut self.doors {
            door.listener = Listening::open(&door.plan).await.ok();
            bound.push(door.listener.as_ref().and_then(Listening::address));
        }
        bound
    }

    /// Starts one task per listener; they end when stopping begins.
    pub(super) fn open(self, tracker: &TaskTracker, stop: &Stop, end: &CancellationToken) {
        for door in self.doors {
            let (connections, stop, end) = (tracker.clone(), stop.clone(), end.clone());
            tracker.spawn(async move {
                tokio::select! {
                    () = stop.begun() => {}
                    () = end.cancelled() => {}
                    () = door.serve(&connections, &end) => {}
                }
            });
        }
    }
}

impl Door {
    async fn serve(mut self, tracker: &TaskTracker, end: &CancellationToken) {
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => self.open_with_patience().await,
        };
        let address = listener.address().map_or_else(|| self.plan.listen.to_string(), |address| address.to_string());
        tracing::info!(%address, anonymous = ?self.plan.anonymous, "listening for MQTT clients");
        let (mut failing, mut turning_away) = (Trouble::default(), Trouble::default());
        loop {
            let raw = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if failing.is_news() {
                        tracing::error!(%error, "cannot take in connections, trying on");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            self.shared.stats.connections.one();
            let peer = raw.peer();
            let address = match peer {
                Peer::Address(address) => address.ip(),
                _ => IpAddr::from(Ipv4Addr::LOCALHOST),
            };
            let Some(pass) = self.limits.admit(address) else {
                self.shared.stats.turned_away.one();
                if turning_away.is_news() {
                    tracing::warn!(%peer, "too many connections, turning away");
                }
                continue;
            };
            let (shared, places) = (Arc::clone(&self.shared), Arc::clone(&self.places));
            if let Err(error) = raw.prepare() {
                tracing::debug!(%peer, %error, "connection gone at once");
                continue;
            }
            let stream = match raw {
                Raw::Tcp(stream, _) => Stream::Tcp(stream),
                Raw::Unix(stream) => Stream::Unix(stream),
            };
            let shown = Shown { peer, certificate: None };
            let (anonymous, identity) = (self.plan.anonymous, self.plan.identity);
            let arrival = Arrival { stream, shown, anonymous, identity, shared, places, end: end.clone() };
            tracker.spawn(async move {
                let _pass = pass;
                greeting::receive(arrival).await;
            });
        }
    }

    async fn open_with_patience(&self) -> Listening {
        let (mut pause, longest) = RETRY;
        let mut failed_at = None;
        loop {
            let error = match Listening::open(&self.plan).await {
                Ok(listener) => {
                    if failed_at.is_some() {
                        self.tell(Phase::Cleared, "open now".to_owned());
                    }
                    return listener;
                }
                Err(error) => error,
            };
            if failed_at.is_none() {
                failed_at = Some(Instant::now());
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
