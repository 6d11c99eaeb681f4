//! The doors: listeners, who is let in, and one task per connection.
//!
//! A listener that cannot be opened is tried again with growing pauses and noticed; it never ends the process. All that
//! a client can do happens in its own task: a handshake that stalls, a fault or a panic there is nobody else's matter.
//!
//! `warden` opens and closes doors, `regime` what changes while one is open · `listening` TCP and unix sockets, `ports` QUIC,
//! `taking` connections in · `limits` how many and how fast · `strangers` those before CONNECT · `inside` the gateway's own
//! edge nodes · `certificates` of doors with TLS · `threshold` from a socket to MQTT, through `turnstile`, `websocket`,
//! `upgrade` · `stream` its layers, `shown` what it says of the client · `greeting` to CONNECT · `sensors` MQTT-SN ·
//! `welcome` to CONNACK, `terms` what it promises · `intake` bytes to packets · `connection` from CONNACK to the end, in `turns` ·
//! `duty` what its session asks for, `filters` SUBSCRIBE, `commanding` commands · `errands` what is waited for meanwhile ·
//! `sending` what goes out, by `output` · `needed` tasks that must not panic.

mod certificates;
mod commanding;
mod connection;
mod duty;
mod errands;
mod filters;
mod greeting;
mod inside;
mod intake;
mod limits;
mod listening;
mod needed;
mod output;
#[cfg(feature = "quic")]
mod ports;
mod regime;
mod sending;
#[cfg(feature = "mqtt-sn")]
mod sensors;
mod shown;
mod strangers;
mod stream;
mod taking;
mod terms;
mod threshold;
mod turns;
mod turnstile;
mod upgrade;
mod warden;
mod websocket;
mod welcome;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::core::Shared;
use super::notice;
use super::outbox::Outbox;
use super::talk::Trouble;
use super::tree::ClientKey;
use crate::config::plan::{Anonymous, BrokerPlan, ListenerPlan};
use crate::flow::notice::{Notices, Phase};
use crate::flow::stop::Stop;
use crate::model::certificate::NameFrom;
use crate::road::inside::{InnerDoor, Pressure, Visits};
use crate::road::renewal::Reason;
pub use certificates::files;
use certificates::{Certificates, Secured};
use limits::Limits;
use listening::{Listening, Ports, Raw};
use needed::needed;
use regime::Regime;
use shown::{Peer, Shown};
use strangers::{Room, Strangers};
use stream::Stream;
use taking::Taking;
use terms::Terms;
use threshold::Said;
use turnstile::Turnstile;
pub use warden::DoorList;
use warden::{DOWN, Warden};
pub(super) use warden::{Order, Step};

/// First and longest pause between two attempts to open a listener.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Orders that may wait for the warden.
const ORDERS_MAX: usize = 4;

/// All listeners of the plan.
pub(super) struct Doors {
    all: Vec<(Door, Option<Certificates>)>,
    site: Site,
    asked: watch::Sender<u64>,
    orders: mpsc::Sender<Order>,
    inbox: mpsc::Receiver<Order>,
    list: DoorList,
    inner: (InnerDoor, Visits),
}

/// What all doors share.
#[derive(Clone)]
struct Site {
    limits: Arc<Limits>,
    places: Arc<Semaphore>,
    turnstile: Turnstile,
    shared: Arc<Shared>,
    notices: Notices,
    ports: Ports,
}

struct Door {
    plan: ListenerPlan,
    listener: Option<Listening>,
    /// There is one.
    open: Arc<AtomicBool>,
    /// What may change while it is open.
    regime: Option<watch::Sender<Regime>>,
    secured: Option<Secured>,
    limits: Arc<Limits>,
    strangers: Arc<Strangers>,
    places: Arc<Semaphore>,
    turnstile: Turnstile,
    shared: Arc<Shared>,
    notices: Notices,
    ports: Ports,
    taking: Taking,
    turning_away: Trouble,
    crowded: Trouble,
}

/// What every connection of a door shares.
struct Porch {
    /// As it was opened: `regime` may say otherwise since.
    plan: ListenerPlan,
    /// For logs.
    name: String,
    secured: Option<Secured>,
    said: Said,
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    /// For handshakes.
    turnstile: Turnstile,
    /// Cancelled when the gateway has nothing more to say.
    end: CancellationToken,
    /// Cancelled when there is no such door any more.
    closed: CancellationToken,
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
    /// See [`Porch`].
    pub closed: CancellationToken,
    /// Where its place in the core is noted, for whoever speaks for it.
    pub place: Option<Arc<OnceLock<Place>>>,
    /// Of the gateway itself: where it hears who has too much of it.
    pub pressure: Option<Arc<Pressure>>,
}

/// A connected client, as the core knows it.
type Place = (ClientKey, Arc<Outbox>);

impl Site {
    /// A door that is not open yet, one of so many.
    fn door(&self, listener: &ListenerPlan, doors: usize) -> (Door, Option<Certificates>) {
        let clock = self.shared.clock.clone();
        let (keeper, secured) = Certificates::new(listener, clock, self.notices.clone()).unzip();
        let door = Door {
            plan: listener.clone(),
            listener: None,
            open: Arc::default(),
            regime: Regime::of(listener),
            secured,
            limits: Arc::clone(&self.limits),
            strangers: Strangers::new(self.limits.total_max, doors),
            places: Arc::clone(&self.places),
            turnstile: self.turnstile.clone(),
            shared: Arc::clone(&self.shared),
            notices: self.notices.clone(),
            ports: self.ports.clone(),
            taking: Taking::new(),
            turning_away: Trouble::default(),
            crowded: Trouble::default(),
        };
        (door, keeper)
    }
}

impl Doors {
    pub(super) fn new(plan: &BrokerPlan, shared: &Arc<Shared>, notices: &Notices) -> Self {
        let (limits, places) = (Arc::new(Limits::new(plan.limits)), intake::places());
        let (shared, notices) = (Arc::clone(shared), notices.clone());
        let site = Site { limits, places, turnstile: Turnstile::new(), shared, notices, ports: Ports::default() };
        let all = plan.listeners.iter().map(|listener| site.door(listener, plan.listeners.len())).collect();
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let (list, inner) = (DoorList::default(), InnerDoor::new(plan.limits.queued_bytes));
        Self { all, site, asked: watch::Sender::new(0), orders, inbox, list, inner }
    }

    /// Each change of the number asks for certificates to be read again.
    pub(super) fn asked(&self) -> watch::Sender<u64> {
        self.asked.clone()
    }

    /// Where other doors are asked for, and which there are.
    pub(super) fn orders(&self) -> (mpsc::Sender<Order>, DoorList) {
        (self.orders.clone(), self.list.clone())
    }

    /// By which the gateway itself comes in; it is open as long as the broker runs.
    pub(super) fn inner(&self) -> InnerDoor {
        self.inner.0.clone()
    }

    pub(super) async fn bind(&mut self) -> Vec<Option<SocketAddr>> {
        let mut bound = Vec::new();
        for (door, certificates) in &mut self.all {
            bound.push(door.try_once(certificates.as_mut()).await);
        }
        bound
    }

    /// Starts one task per listener, and one for its certificates; they end when stopping begins. And the warden, who
    /// starts others.
    pub(super) fn open(self, tracker: &TaskTracker, stop: &Stop, end: &CancellationToken) {
        let Self { all, site, asked, orders: _, inbox, list, inner: (_, visits) } = self;
        let lost = site.shared.lost.clone();
        let inner = inside::serve(visits, Arc::clone(&site.shared), (tracker.clone(), end.clone()));
        tracker.spawn(needed("inner door", "", &lost, inner));
        let mut warden = Warden::new(site, asked, list, (tracker.clone(), stop.clone(), end.clone()));
        for (door, certificates) in all {
            warden.begin(door, certificates);
        }
        warden.work(inbox);
    }
}

impl Door {
    /// Tries to open it, so that its address is known. What fails is tried again by [`Door::serve`].
    async fn try_once(&mut self, certificates: Option<&mut Certificates>) -> Option<SocketAddr> {
        if let Some(certificates) = certificates {
            certificates.look(Reason::Time).await;
        }
        if self.secured.as_ref().is_none_or(|secured| secured.serving().is_some()) {
            self.listener = Listening::open(&self.plan, self.secured.as_ref(), &self.ports).await.ok();
        }
        self.open.store(self.listener.is_some(), Ordering::Relaxed);
        self.listener.as_ref().and_then(Listening::address)
    }

    async fn serve(mut self, tracker: &TaskTracker, end: &CancellationToken, closed: &CancellationToken) {
        let porch = Arc::new(Porch {
            plan: self.plan.clone(),
            name: self.plan.place(),
            secured: self.secured.clone(),
            said: Said::default(),
            shared: Arc::clone(&self.shared),
            places: Arc::clone(&self.places),
            turnstile: self.turnstile.clone(),
            end: end.clone(),
            closed: closed.clone(),
        });
        loop {
            if let Some(secured) = &mut self.secured {
                secured.usable().await;
            }
            let listening = match self.listener.take() {
                Some(listening) => listening,
                None => self.open_with_patience().await,
            };
            self.open.store(true, Ordering::Relaxed);
            let address = listening.address().map_or_else(|| porch.name.clone(), |address| address.to_string());
            tracing::info!(%address, listener = %self.plan, anonymous = ?self.plan.anonymous, "listening for MQTT clients");
            let ended = self.take_in_all(&listening, &porch, tracker).await;
            self.open.store(false, Ordering::Relaxed);
            drop(listening);
            if let Err(error) = ended {
                tracing::error!(%address, %error, "listener broke, opening it again");
                tokio::time::sleep(RETRY.0).await;
            }
        }
    }

    /// Until the door has no certificate any more, or its listener breaks.
    async fn take_in_all(&mut self, from: &Listening, porch: &Arc<Porch>, tracker: &TaskTracker) -> io::Result<()> {
        #[cfg(feature = "mqtt-sn")]
        if let (Listening::Udp(socket), Some(regime)) = (from, &self.regime) {
            return sensors::serve((&self.limits, tracker), socket, porch, regime.subscribe()).await;
        }
        let mut secured = self.secured.clone();
        loop {
            let open = &self.open;
            let closed = async {
                match &mut secured {
                    // Its clients hold the port for as long as they stay, so it is kept until there is a certificate again.
                    Some(secured) if from.is_shared_with_clients() => loop {
                        secured.gone().await;
                        open.store(false, Ordering::Relaxed);
                        secured.usable().await;
                        open.store(true, Ordering::Relaxed);
                    },
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
        if !raw.is_proven() && self.strangers.are_many() {
            self.shared.stats.asked_for_proof.one();
            return raw.ask_for_proof();
        }
        self.shared.stats.connections.one();
        let peer = raw.peer();
        let address = match peer {
            Peer::Address(address) => Some(address.ip()),
            Peer::Process { .. } | Peer::Gone | Peer::Inside => None,
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
        let (stranger, room) = self.strangers.enter(address).await;
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
            let error = match Listening::open(&self.plan, self.secured.as_ref(), &self.ports).await {
                Ok(listening) => {
                    if failed {
                        self.tell(Phase::Cleared, "open now".to_owned());
                    }
                    return listening;
                }
                Err(error) => error,
            };
            if !std::mem::replace(&mut failed, true) {
                tracing::error!(address = self.plan.place(), %error, "cannot open listener, trying on");
                self.tell(Phase::Active, format!("cannot listen on {}: {error}", self.plan.place()));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    fn tell(&self, phase: Phase, detail: String) {
        self.notices.tell(notice(DOWN, phase, &self.plan.place(), detail));
    }
}
