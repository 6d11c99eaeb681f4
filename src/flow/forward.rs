//! The way of local clients' messages into the stores: which topics go upstream, and when their senders may be told.
//!
//! Fed by the broker with what clients publish, wills and what comes down from elsewhere; empties into the durable lane
//! of each store that a topic belongs to (`[[forward]]`: the gateway's own; a bridge has one for itself). Who submits is
//! told when every one of them has committed the message, or after [`Hub::patience`] that it was not: then it must not be
//! acknowledged, and it is taken back from each store that has not begun with it ([`Claim`]). One that has is waited for. A
//! message that nobody asks for (QoS 0) is told of as soon as it is in the lanes; one that finds no place there goes into
//! a gap record. Messages submitted one after the other are stored in that order.
//!
//! Bounded: so many bytes may wait for each store ([`WAITING_BYTES_MAX`]); who submits more to it waits, and nobody else. What
//! waits in all is counted in `unsettled`, and the broker reads no more long messages while it is very much.

mod unsettled;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::task::Poll;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout, timeout_at};

use crate::model::lock::HoldEither as _;
use crate::model::mapping::Mapping;
use crate::model::message::{ClientMessage, Kept};
use crate::model::number::{Class, Number};
use crate::model::time::Stamp;

use super::hub::{DURABLE_WAIT_MAX, Hub};
pub use unsettled::Unsettled;

/// Bytes of messages on their way into one store; a larger message goes alone. Into several stores a message goes without
/// being copied.
pub const WAITING_BYTES_MAX: u32 = 4 << 20;

/// One rule.
#[derive(Debug, Clone)]
pub struct Route {
    /// Which topics, and what they are called in the store.
    pub mapping: Mapping,
    /// The stream they are numbered in.
    pub class: Class,
    /// Which of the lanes; of several rules with the same one the first that matches counts.
    pub lane: usize,
    /// Where it leads to: what came from there does not go back.
    pub bridge: Option<Arc<str>>,
    /// Is what is to be retained here to be retained there?
    pub kept: Kept,
}

/// A message to be stored.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Local topic.
    pub topic: Arc<str>,
    /// The message.
    pub message: ClientMessage,
    /// Does its sender wait to be told?
    pub wish: Wish,
    /// The bridge it came from; `None`: from a local client.
    pub from: Option<Arc<str>>,
    /// When it arrived.
    pub at: Stamp,
}

/// Quality of service, as far as the way goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// QoS 1 and 2: tell me when it is on disk.
    Receipt,
    /// QoS 0.
    Nothing,
}

/// A client's message that is stored, numbered and forwarded as it is.
#[derive(Debug)]
pub struct MessageRecord {
    /// Local topic; an uplink puts its prefix before it. Of a bridge: the topic on the other side.
    pub topic: Arc<str>,
    /// The message.
    pub message: ClientMessage,
    /// Its stream.
    pub class: Class,
    /// When it arrived.
    pub at: Stamp,
    /// Told the number once it is committed, which is then made soon; dropped if the store cannot. Nobody waits for one
    /// of QoS 0.
    pub committed: Option<oneshot::Sender<Number>>,
    /// Whose it is: see [`MessageRecord::claim`].
    pub claim: Claim,
    /// Given back when the store has packed it.
    pub room: Room,
}

impl MessageRecord {
    /// The store gives it its number: from here on its sender waits for the commit, however long that takes. False: the
    /// sender has been told that it is not stored, and it must not be.
    pub fn claim(&self) -> bool {
        self.committed.is_none() || self.claim.take()
    }
}

/// A message that somebody waits for belongs to the store, or to a sender who has given up: to whoever takes it first.
#[derive(Debug, Clone, Default)]
pub struct Claim(Arc<AtomicBool>);

impl Claim {
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Memory that a message on its way was granted; given back when this is dropped.
#[derive(Debug, Default)]
pub struct Room {
    _granted: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// As granted.
    pub const fn of(granted: OwnedSemaphorePermit) -> Self {
        Self { _granted: Some(granted) }
    }
}

/// Not stored; it must not be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The stores had no room, or could not commit, for as long as a sender waits. Sent again it may be taken.
    #[error("the store could not take it in time")]
    Full,
    /// The gateway is stopping.
    #[error("the gateway is stopping")]
    Stopping,
}

/// Where messages are handed in; cheap to clone.
#[derive(Debug, Clone)]
pub struct ForwardEntry {
    ways: Arc<RwLock<Arc<Ways>>>,
    unsettled: Arc<Unsettled>,
}

#[derive(Debug)]
struct Ways {
    routes: Vec<Route>,
    /// Taken away when the gateway stops.
    lanes: Option<Vec<Hub>>,
}

impl ForwardEntry {
    /// The rules in order, and the durable lanes they speak of.
    pub fn new(routes: Vec<Route>, lanes: Vec<Hub>) -> Self {
        let ways = Arc::new(RwLock::new(Arc::new(Ways { routes, lanes: Some(lanes) })));
        Self { ways, unsettled: Arc::default() }
    }

    /// Other rules and lanes from now on; a message that is just going in goes by the old ones. Nothing once it is closed.
    pub fn replace(&self, routes: Vec<Route>, lanes: Vec<Hub>) {
        let mut ways = self.ways.hold_write();
        if ways.lanes.is_some() {
            *ways = Arc::new(Ways { routes, lanes: Some(lanes) });
        }
    }

    /// For a gateway without such topics.
    pub fn none() -> Self {
        Self::new(Vec::new(), Vec::new())
    }

    /// Does any filter mean this topic? Whether it is one of clients at all, who asks must know.
    pub fn wants(&self, topic: &str, from: Option<&str>) -> bool {
        self.ways().routes.iter().any(|route| route.takes(topic, from))
    }

    /// Stores a message, and waits until its sender may be told. The first poll takes its place in the order, whatever
    /// else the task has done in this turn; dropped after that, it may or may not be stored. Of several stores one may have
    /// it although it is refused, where another cannot take it.
    pub fn submit(&self, letter: Letter) -> impl Future<Output = Result<(), Refused>> + Send + 'static {
        let entry = self.clone();
        // Who brings messages down from elsewhere waits by a bound of its own.
        let held = letter.from.is_none().then(|| self.unsettled.hold(letter.message.bytes()));
        unconstrained(async move {
            let _held = held;
            deliver(entry.ways().parcels(&letter, |_| true)?).await
        })
    }

    /// How much of what local senders submitted waits to be stored.
    pub const fn unsettled(&self) -> &Arc<Unsettled> {
        &self.unsettled
    }

    /// Stores a message for one bridge alone: what was retained before it was there. For whoever wishes a receipt, it and all
    /// that were offered before it are on disk then.
    pub async fn offer(&self, bridge: &str, letter: Letter) -> Result<(), Refused> {
        let for_it = |route: &Route| route.bridge.as_deref() == Some(bridge);
        deliver(self.ways().parcels(&letter, for_it)?).await
    }

    /// Nothing more is taken, and the lanes are given back, by a message that is just going in when it has.
    pub fn close(&self) {
        let mut ways = self.ways.hold_write();
        *ways = Arc::new(Ways { routes: ways.routes.clone(), lanes: None });
    }

    fn ways(&self) -> Arc<Ways> {
        Arc::clone(&self.ways.hold_read())
    }
}

impl Route {
    fn takes(&self, topic: &str, from: Option<&str>) -> bool {
        let back = from.is_some() && self.bridge.as_deref() == from;
        !back && self.mapping.to_remote(topic).is_some()
    }
}

impl Ways {
    /// One for each lane that it belongs to.
    fn parcels(&self, letter: &Letter, meant: impl Fn(&Route) -> bool) -> Result<Vec<Parcel>, Refused> {
        let lanes = self.lanes.as_ref().ok_or(Refused::Stopping)?;
        let mut parcels = Vec::new();
        let mut done = vec![false; lanes.len()];
        let takes = |route: &&Route| meant(route) && route.takes(&letter.topic, letter.from.as_deref());
        for route in self.routes.iter().filter(takes) {
            let (Some(lane), Some(done)) = (lanes.get(route.lane), done.get_mut(route.lane)) else { continue };
            if std::mem::replace(done, true) {
                continue;
            }
            let Some(topic) = route.mapping.to_remote(&letter.topic) else { continue };
            let (committed, receipt) = oneshot::channel();
            let asked = letter.wish == Wish::Receipt;
            let mut message = letter.message.clone();
            if route.kept == Kept::No {
                message.kept = Kept::No;
            }
            let record = MessageRecord {
                topic: topic.into(),
                message,
                class: route.class,
                at: letter.at,
                committed: asked.then_some(committed),
                claim: Claim::default(),
                room: Room::default(),
            };
            parcels.push(Parcel { lane: lane.clone(), record, receipt: asked.then_some(receipt) });
        }
        Ok(parcels)
    }
}

/// A message on its way into one lane.
struct Parcel {
    lane: Hub,
    record: MessageRecord,
    receipt: Option<oneshot::Receiver<Number>>,
}

impl Parcel {
    /// Into its lane, and on disk if somebody asks. Its first poll takes its place in the order.
    async fn deliver(self) -> Result<(), Refused> {
        let Self { lane, record, receipt } = self;
        let Some(mut receipt) = receipt else {
            let mut loss = Loss { lane: lane.clone(), class: record.class, at: record.at, is_in: false };
            loss.is_in = timeout(DURABLE_WAIT_MAX, enter(lane, record)).await == Ok(Ok(()));
            return Ok(());
        };
        let (deadline, claim) = (Instant::now() + lane.patience(), record.claim.clone());
        let Ok(Ok(())) = timeout_at(deadline, enter(lane, record)).await else { return Err(Refused::Full) };
        let told = match timeout_at(deadline, &mut receipt).await {
            Ok(told) => told,
            Err(_) if claim.take() => return Err(Refused::Full),
            Err(_) => receipt.await, // the store has begun with it
        };
        told.map(drop).map_err(|_| Refused::Full) // the store has given it up
    }
}

/// A message nobody will send again. Counted for a gap record unless it gets in: also when its sender goes, and this with it.
struct Loss {
    lane: Hub,
    class: Class,
    at: Stamp,
    is_in: bool,
}

impl Drop for Loss {
    fn drop(&mut self) {
        if !self.is_in {
            self.lane.spill_message(self.class, self.at);
        }
    }
}

/// Each into its lane, at the same time. What one lane refuses is taken back from those that have not begun with it.
async fn deliver(mut parcels: Vec<Parcel>) -> Result<(), Refused> {
    if parcels.len() < 2 {
        return match parcels.pop() {
            Some(parcel) => parcel.deliver().await,
            None => Ok(()),
        };
    }
    let claims: Vec<Claim> = parcels.iter().map(|parcel| parcel.record.claim.clone()).collect();
    let mut going: Vec<Pin<Box<_>>> = parcels.into_iter().map(|parcel| Box::pin(parcel.deliver())).collect();
    let outcome = std::future::poll_fn(|context| {
        let mut refused = None;
        going.retain_mut(|delivery| match delivery.as_mut().poll(context) {
            Poll::Ready(outcome) => {
                refused = refused.or(outcome.err());
                false
            }
            Poll::Pending => true,
        });
        match refused {
            Some(refused) => Poll::Ready(Err(refused)),
            None if going.is_empty() => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    });
    let outcome = outcome.await;
    if outcome.is_err() {
        for claim in claims {
            claim.take(); // a store that has begun with it has it nevertheless
        }
    }
    outcome
}

/// Behind those who came before. What nobody asks for waits for no store that is only going to be opened.
async fn enter(lane: Hub, mut record: MessageRecord) -> Result<(), NoPlace> {
    let bytes = u32::try_from(record.message.bytes()).unwrap_or(u32::MAX).min(WAITING_BYTES_MAX);
    let way = lane.way();
    let room = Arc::clone(&way.room);
    let (_turn, room) = if record.committed.is_none() && lane.is_opening() {
        let turn = way.turn.try_lock().map_err(|_| NoPlace)?;
        (turn, room.try_acquire_many_owned(bytes).map_err(|_| NoPlace)?)
    } else {
        let turn = way.turn.lock().await;
        (turn, room.acquire_many_owned(bytes).await.map_err(|_| NoPlace)?)
    };
    record.room = Room::of(room);
    lane.emit_message(record).await.map_err(|_| NoPlace)
}

/// The lane did not take it.
#[derive(Debug, PartialEq, Eq)]
struct NoPlace;

#[cfg(test)]
mod tests;
