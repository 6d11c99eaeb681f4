//! What comes to the port: who it is from, what can be said to it at once, and whose task gets it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::link::{Link, Post};
use super::multicast;
use super::port::{Port, Received};
use super::rules::{Guest, Rules, guest};
use super::unasked::Unasked;
use crate::access::Arriving;
use crate::broker::door::Porch;
use crate::broker::door::limits::Limits;
use crate::broker::door::regime::{Newcomers, Regime};
use crate::broker::sn::{self, Code, Message, Publish, Quality};
use crate::broker::stats::SensorStats;
use crate::broker::talk::Trouble;
use crate::config::difference::sensors_told;
use crate::config::plan::{AdvertisePlan, SENSOR_ID_BYTES_MAX};
use crate::model::topic::INSIDE_ID;

/// Longest address of a wireless node behind a forwarder, bytes.
const NODE_BYTES_MAX: usize = 64;

/// What a forwarder's envelope may add to a datagram.
const ENVELOPE_BYTES_MAX: usize = NODE_BYTES_MAX + 5;

/// Messages that may wait for the task of one client.
const MAILBOX: usize = 16;

/// Answers to strangers in a second, and at once.
const ANSWERS_EACH: Duration = Duration::from_millis(10);
const ANSWERS_AT_ONCE: u32 = 100;

/// Datagrams taken in before others get their turn: all of them may be for one client.
const AT_ONCE: usize = MAILBOX;

/// Pause after an error of the port.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a message is from; written into logs as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub address: SocketAddr,
    /// The wireless node behind the forwarder that has this address.
    pub node: Option<Box<[u8]>>,
    /// The address of ours that it speaks to, where there are several: it hears us from there.
    pub to: Option<IpAddr>,
}

/// A client that has a task.
struct Known {
    client_id: String,
    guest: Guest,
    mailbox: mpsc::Sender<Message>,
    gone: CancellationToken,
}

/// One door.
struct Gateway<'a> {
    limits: &'a Arc<Limits>,
    tracker: &'a TaskTracker,
    port: Arc<Port>,
    porch: &'a Arc<Porch>,
    regime: watch::Receiver<Regime>,
    rules: Rules,
    newcomers: Newcomers,
    known: HashMap<Source, Known>,
    /// Known clients at which those that have ended are looked for.
    sweep_at: usize,
    answers: Supply,
    unasked: Option<Unasked>,
    bad: Trouble,
    turning_away: Trouble,
    not_joined: Trouble,
}

/// Serves until the port is of no use any more.
pub(in crate::broker::door) async fn serve(
    (limits, tracker): (&Arc<Limits>, &TaskTracker),
    socket: &Arc<UdpSocket>,
    porch: &Arc<Porch>,
    mut regime: watch::Receiver<Regime>,
) -> io::Result<()> {
    let Regime { plan, newcomers } = regime.borrow_and_update().clone();
    let mut gateway = Gateway {
        limits,
        tracker,
        port: Arc::new(Port::new(socket)?),
        porch,
        regime,
        rules: Rules::new(plan, porch),
        newcomers,
        known: HashMap::new(),
        sweep_at: 64,
        answers: Supply::default(),
        unasked: None,
        bad: Trouble::default(),
        turning_away: Trouble::default(),
        not_joined: Trouble::default(),
    };
    gateway.follow_unasked();
    gateway.run().await
}

impl Gateway<'_> {
    async fn run(mut self) -> io::Result<()> {
        // One byte more than is taken: what fills it is too long.
        let mut datagram = vec![0; usize::from(self.rules.plan.datagram_bytes) + ENVELOPE_BYTES_MAX + 1];
        let (mut advertise, mut timer) = (self.rules.plan.advertise, self.timer());
        let mut count = 0;
        loop {
            tokio::select! {
                biased;
                Ok(()) = self.regime.changed() => {
                    self.follow();
                    if self.rules.plan.advertise != advertise {
                        (advertise, timer) = (self.rules.plan.advertise, self.timer());
                    }
                }
                _ = timer.tick(), if advertise.is_some() => if let Some(plan) = advertise {
                    self.advertise(plan).await;
                },
                received = self.port.receive(&mut datagram) => match received {
                    Ok(received) => self.datagram(&datagram[..received.length], received).await,
                    Err(error) if is_passing(&error) => {
                        tracing::debug!(%error, "the network has refused a datagram of ours");
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(error) => return Err(error),
                },
            }
            count += 1;
            if count % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn stats(&self) -> &SensorStats {
        &self.porch.shared.stats.sensors
    }

    /// Of ADVERTISE.
    fn timer(&self) -> Interval {
        let every = self.rules.plan.advertise.map_or(Duration::from_secs(3600), |plan| plan.every);
        let mut timer = tokio::time::interval(every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer
    }

    /// Goes by what counts now. The task of a client hears of it as this does, and tells the client to go if it has to: here
    /// it is forgotten before, so that it may come again at once as what it is now.
    fn follow(&mut self) {
        let Regime { plan, newcomers } = self.regime.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.rules.plan, plan);
        self.newcomers = newcomers;
        self.follow_unasked();
        let plan = &self.rules.plan;
        if before == *plan {
            return;
        }
        let (door, mut gone) = (self.porch.plan.anonymous, 0);
        self.known.retain(|source, known| {
            let stays = guest(plan, door, (&known.client_id, source.address.ip())).as_ref() == Some(&known.guest);
            gone += usize::from(!stays && !known.mailbox.is_closed());
            stays
        });
        let (listener, what) = (&self.porch.name, sensors_told(&before, plan));
        tracing::info!(
            listener,
            what,
            gone,
            stay = self.known.len(),
            "a listener that stays open has other rules for sensors"
        );
    }

    /// While rights change nobody publishes who did not before.
    fn follow_unasked(&mut self) {
        let (before, plan) = (self.unasked.take(), self.rules.plan.publish.as_ref());
        self.unasked = match self.newcomers {
            Newcomers::Wait => before.filter(|before| plan.is_some_and(|plan| before.is_of(&plan.user))),
            Newcomers::Welcome => plan.map(|plan| Unasked::follow(before, plan, self.porch, self.tracker)),
        };
    }

    async fn advertise(&mut self, plan: AdvertisePlan) {
        let interface = self.porch.plan.interface.as_deref();
        if let Err(error) = multicast::join(self.port.socket(), plan.to, interface)
            && self.not_joined.is_news()
        {
            let (listener, group) = (&self.porch.name, plan.to.ip());
            tracing::warn!(listener, %group, %error, "sensors that look for a gateway there are not heard, trying on");
        }
        let duration = u16::try_from(plan.every.as_secs()).unwrap_or(u16::MAX);
        let message = Message::Advertise { gateway_id: self.rules.plan.gateway_id, duration };
        self.answer(&Source { address: plan.to, node: None, to: None }, &message).await;
    }

    async fn datagram(&mut self, datagram: &[u8], received: Received) {
        let Received { from: address, to, .. } = received;
        self.stats().received.one();
        let (node, message) = match self.read(datagram) {
            Ok(read) => read,
            Err(error) => {
                self.stats().bad.one();
                if self.bad.is_news() {
                    tracing::info!(listener = self.porch.name, peer = %address, %error, "a datagram that is no message of MQTT-SN");
                }
                return;
            }
        };
        let source = Source { address, node: node.map(Into::into), to };
        match message {
            Message::SearchGateway { .. } => {
                let info = Message::GatewayInfo { gateway_id: self.rules.plan.gateway_id, address: Vec::new() };
                if self.answers.take(Instant::now()) {
                    self.answer(&source, &info).await;
                }
            }
            Message::Advertise { .. } | Message::GatewayInfo { .. } => {} // another gateway
            Message::Publish(publish) if publish.quality == Quality::Unasked => self.take_unasked(publish, &source),
            Message::Connect(connect) => self.connect(source, connect).await,
            message => self.hand_over(source, message).await,
        }
    }

    fn read<'b>(&self, datagram: &'b [u8]) -> Result<(Option<&'b [u8]>, Message), sn::BadMessage> {
        let (node, inner) = sn::open(datagram)?;
        let too_long = inner.len() > usize::from(self.rules.plan.datagram_bytes);
        if too_long || node.is_some_and(|node| node.len() > NODE_BYTES_MAX) {
            return Err(sn::BadMessage::Length);
        }
        Ok((node, sn::read(inner)?))
    }

    /// To its client's task; who is nobody's client is told so.
    async fn hand_over(&mut self, source: Source, message: Message) {
        let Some(known) = self.known.get(&source) else { return self.stranger(&source, &message).await };
        match known.mailbox.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(message)) => {
                tokio::task::yield_now().await; // its task may only have had no turn yet
                if known.mailbox.try_send(message).is_err() {
                    self.stats().crowded.one();
                }
            }
            Err(TrySendError::Closed(message)) => {
                self.known.remove(&source);
                self.stranger(&source, &message).await;
            }
        }
    }

    /// DISCONNECT tells it to connect (the gateway may have been started anew). What a gateway may send itself is not answered:
    /// two of them would never stop.
    async fn stranger(&mut self, source: &Source, message: &Message) {
        self.stats().strangers.one();
        let from_client = matches!(
            message,
            Message::Register { .. }
                | Message::Publish(_)
                | Message::Subscribe { .. }
                | Message::Unsubscribe { .. }
                | Message::Ping(_)
                | Message::Disconnect(Some(_))
                | Message::WillTopic(_)
                | Message::WillMessage(_)
                | Message::WillTopicUpdate(_)
                | Message::WillMessageUpdate(_)
        );
        if from_client && self.answers.take(Instant::now()) {
            self.answer(source, &Message::Disconnect(None)).await;
        }
    }

    async fn connect(&mut self, source: Source, connect: sn::Connect) {
        if let Some(known) = self.known.get(&source).filter(|known| !known.mailbox.is_closed()) {
            if known.client_id == connect.client_id {
                return self.hand_over(source, Message::Connect(connect)).await;
            }
            known.gone.cancel(); // another sensor has this address now
            self.known.remove(&source);
        }
        if self.newcomers == Newcomers::Wait {
            return self.stats().crowded.one(); // it says that again
        }
        match self.admit(&source, &connect) {
            Ok(link) => {
                self.tracker.spawn(link.run(connect));
            }
            Err(code) if self.answers.take(Instant::now()) => self.answer(&source, &Message::Connack(code)).await,
            Err(_) => {}
        }
    }

    fn admit(&mut self, source: &Source, connect: &sn::Connect) -> Result<Link, Code> {
        let (id, from) = (&connect.client_id, source.address.ip().to_canonical());
        let shared = &self.porch.shared;
        if id.is_empty() || id.len() > SENSOR_ID_BYTES_MAX || id.starts_with(INSIDE_ID) {
            return Err(Code::NotSupported);
        }
        let door = self.porch.plan.anonymous;
        let Some(guest) = guest(&self.rules.plan, door, (id, from)) else {
            shared.stats.connects_refused.one();
            shared.access.turn_away(Arriving { door, client: id, from: Some(from) });
            return Err(Code::NotSupported);
        };
        shared.stats.connections.one();
        let pass = match self.limits.admit_sensor(from, Instant::now()) {
            Ok(pass) => Arc::new(pass),
            Err(limit) => {
                shared.stats.turned_away.one();
                if self.turning_away.is_news() {
                    tracing::warn!(listener = self.porch.name, peer = %source, %limit, "too many connections, turning away");
                }
                return Err(Code::Congestion);
            }
        };
        let (mailbox, gone) = (mpsc::channel(MAILBOX), CancellationToken::new());
        let known = Known { client_id: id.clone(), guest: guest.clone(), mailbox: mailbox.0, gone: gone.clone() };
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, known| !known.mailbox.is_closed());
            self.sweep_at = (2 * self.known.len()).max(64);
        }
        self.known.insert(source.clone(), known);
        Ok(Link {
            post: Some(Post { port: Arc::clone(&self.port), source: source.clone() }),
            porch: Arc::clone(self.porch),
            tracker: self.tracker.clone(),
            regime: self.regime.clone(),
            mailbox: mailbox.1,
            gone,
            guest,
            pass,
        })
    }

    fn take_unasked(&self, publish: Publish, source: &Source) {
        let taken = self.unasked.as_ref().is_some_and(|road| road.take(publish, source.address.ip(), &self.rules));
        if !taken {
            self.stats().unasked_refused.one();
        }
    }

    async fn answer(&self, to: &Source, message: &Message) {
        Post { port: Arc::clone(&self.port), source: to.clone() }.send(message).await;
        self.stats().sent.one();
    }
}

/// Answers to strangers, as a leaky bucket.
#[derive(Debug, Default)]
struct Supply(Option<Instant>);

impl Supply {
    fn take(&mut self, now: Instant) -> bool {
        let empty_at = self.0.map_or(now, |empty_at| empty_at.max(now));
        if empty_at > now + ANSWERS_EACH * ANSWERS_AT_ONCE {
            return false;
        }
        self.0 = Some(empty_at + ANSWERS_EACH);
        true
    }
}

/// Does the error concern a datagram that was sent, or the moment?
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    !matches!(number, None | Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::FAULT))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        match &self.node {
            Some(node) => write!(f, " node {node:02x?}"),
            None => Ok(()),
        }
    }
}
