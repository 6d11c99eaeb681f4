//! The way of local clients' messages into the stores: which topics go upstream, and when their senders may be told.
//!
//! Fed by the broker with what clients publish, wills and what comes down from elsewhere; empties into the durable lane
//! of each store that a topic belongs to (`[[forward]]`: the gateway's own; a bridge has one for itself). Who submits is
//! told when every one of them has committed the message, or after [`DURABLE_WAIT_MAX`] that it was not: then it must not
//! be acknowledged. A message that nobody asks for (QoS 0) is told of as soon as it is in the lanes; one that finds no
//! place there goes into a gap record. Messages submitted one after the other are stored in that order.
//!
//! Bounded: so many bytes may wait for the stores ([`WAITING_BYTES_MAX`]); who submits more waits.

use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::unconstrained;
use tokio::time::timeout;

use crate::model::mapping::Mapping;
use crate::model::message::{ClientMessage, Kept};
use crate::model::number::{Class, Number};
use crate::model::time::Stamp;
use crate::model::topic::matches;

use super::hub::{DURABLE_WAIT_MAX, Hub};

/// Bytes of messages on their way into all stores together; a larger message goes alone.
pub const WAITING_BYTES_MAX: u32 = 8 << 20;

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
    /// Given back when the store has packed it.
    pub room: Room,
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    routes: RwLock<Arc<[Route]>>,
    /// Taken away when the gateway stops. The lock is held while a message goes in, and given in the order of asking.
    lanes: Mutex<Option<Vec<Hub>>>,
    room: Arc<Semaphore>,
}

impl ForwardEntry {
    /// The rules in order, and the durable lanes they speak of.
    pub fn new(routes: Vec<Route>, lanes: Vec<Hub>) -> Self {
        let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX as usize));
        let routes = RwLock::new(routes.into());
        Self { shared: Arc::new(Shared { routes, lanes: Mutex::new(Some(lanes)), room }) }
    }

    /// Other rules and lanes from now on; a message that is just going in goes by the old ones. Nothing once it is closed.
    pub async fn replace(&self, routes: Vec<Route>, lanes: Vec<Hub>) {
        let mut present = self.shared.lanes.lock().await;
        if let Some(present) = present.as_mut() {
            *present = lanes;
            *self.shared.routes.write().unwrap_or_else(PoisonError::into_inner) = routes.into();
        }
    }

    /// For a gateway without such topics.
    pub fn none() -> Self {
        Self::new(Vec::new(), Vec::new())
    }

    /// Does this topic go anywhere? The gateway's own trees and commands never do, whatever the filters say.
    pub fn wants(&self, topic: &str, from: Option<&str>) -> bool {
        self.shared.routes().iter().any(|route| route.takes(topic, from)) && !is_never_forwarded(topic)
    }

    /// Stores a message, and waits until its sender may be told. The first poll takes its place in the order, whatever
    /// else the task has done in this turn; dropped after that, it may or may not be stored.
    pub fn submit(&self, letter: Letter) -> impl Future<Output = Result<(), Refused>> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        unconstrained(async move {
            match letter.wish {
                Wish::Nothing => shared.enter(&letter, |_| true).await.map(drop),
                Wish::Receipt => match timeout(DURABLE_WAIT_MAX, shared.keep(&letter)).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(Refused::Full),
                },
            }
        })
    }

    /// Stores a message for one bridge alone, without waiting for more than room: what was retained before it was there.
    pub async fn offer(&self, bridge: &str, letter: Letter) -> Result<(), Refused> {
        let letter = Letter { wish: Wish::Nothing, ..letter };
        let for_it = |route: &Route| route.bridge.as_deref() == Some(bridge);
        self.shared.enter(&letter, for_it).await.map(drop)
    }

    /// Nothing more is taken, and the lanes are given back. Waits for the message that is just going in.
    pub async fn close(&self) {
        self.shared.lanes.lock().await.take();
    }
}

impl Route {
    fn takes(&self, topic: &str, from: Option<&str>) -> bool {
        let back = from.is_some() && self.bridge.as_deref() == from;
        !back && self.mapping.to_remote(topic).is_some()
    }
}

fn is_never_forwarded(topic: &str) -> bool {
    topic.starts_with('$')
        || matches("ironbridge/#", topic)
        || topic.ends_with("/set")
        || topic.ends_with("/set/result")
}

impl Shared {
    fn routes(&self) -> Arc<[Route]> {
        Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn keep(&self, letter: &Letter) -> Result<(), Refused> {
        for committed in self.enter(letter, |_| true).await? {
            committed.await.map_err(|_| Refused::Full)?; // the store has given it up
        }
        Ok(())
    }

    /// Into each lane that it belongs to; what tells that it is committed there.
    async fn enter(
        &self,
        letter: &Letter,
        meant: impl Fn(&Route) -> bool,
    ) -> Result<Vec<oneshot::Receiver<Number>>, Refused> {
        let lanes = self.lanes.lock().await;
        let routes = self.routes();
        let lanes = lanes.as_ref().ok_or(Refused::Stopping)?;
        let mut receipts = Vec::new();
        let mut done = vec![false; lanes.len()];
        let takes = |route: &&Route| meant(route) && route.takes(&letter.topic, letter.from.as_deref());
        for route in routes.iter().filter(takes) {
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
                room: Room::default(),
            };
            if self.put(lane, record).await.is_err() {
                if asked {
                    return Err(Refused::Full);
                }
                lane.spill_message(route.class, letter.at);
            } else if asked {
                receipts.push(receipt);
            }
        }
        Ok(receipts)
    }

    async fn put(&self, lane: &Hub, mut record: MessageRecord) -> Result<(), ()> {
        let bytes = u32::try_from(record.message.bytes()).unwrap_or(u32::MAX).min(WAITING_BYTES_MAX);
        let room = timeout(DURABLE_WAIT_MAX, Arc::clone(&self.room).acquire_many_owned(bytes)).await;
        let Ok(Ok(room)) = room else { return Err(()) };
        record.room = Room::of(room);
        lane.emit_message(record).await.map_err(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::hub::{DURABLE_DEPTH, Durable, DurableEnd, hub};
    use crate::model::message::Properties;
    use crate::model::number::{Epoch, Seq};
    use crate::model::time::Boot;

    fn letter(topic: &str, payload: &[u8], wish: Wish) -> Letter {
        let message = ClientMessage {
            payload: payload.into(),
            kept: Kept::No,
            expiry_s: None,
            properties: Properties::default(),
        };
        Letter { topic: topic.into(), message, wish, from: None, at: Stamp { boot: Boot(1), micros: 0 } }
    }

    fn entry(filter: &str, bridge: Option<&str>) -> (ForwardEntry, DurableEnd) {
        let (hub, _, end) = hub(Vec::new());
        let mapping = Mapping::plain(filter);
        let route = Route { mapping, class: Class::Bulk, lane: 0, bridge: bridge.map(Into::into), kept: Kept::Yes };
        (ForwardEntry::new(vec![route], vec![hub]), end)
    }

    fn taken(end: &mut DurableEnd) -> MessageRecord {
        match end.records.try_recv() {
            Ok(Durable::Message(record)) => record,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_is_told_after_the_commit_and_never_when_there_is_none() {
        let (entry, mut end) = entry("m/#", None);
        assert!(entry.wants("m/1", None) && !entry.wants("n/1", None));
        let told = tokio::spawn(entry.submit(letter("m/1", b"x", Wish::Receipt)));
        tokio::task::yield_now().await;
        assert!(!told.is_finished(), "not committed yet");
        let number = Number { stream: Class::Bulk, epoch: Epoch(1), seq: Seq(1) };
        let committed = taken(&mut end).committed.expect("asked for");
        committed.send(number).expect("somebody waits");
        assert_eq!(told.await.expect("no panic"), Ok(()));
        let began = tokio::time::Instant::now();
        assert_eq!(entry.submit(letter("m/1", b"x", Wish::Receipt)).await, Err(Refused::Full));
        assert_eq!(began.elapsed(), DURABLE_WAIT_MAX);
        drop(taken(&mut end));
        assert_eq!(entry.submit(letter("m/1", b"x", Wish::Nothing)).await, Ok(()), "nobody waits for it");
        entry.close().await;
        assert_eq!(entry.submit(letter("m/1", b"x", Wish::Receipt)).await, Err(Refused::Stopping));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_and_finds_no_place_is_counted_for_a_gap_record() {
        let (entry, end) = entry("#", None);
        for _ in 0..=DURABLE_DEPTH {
            entry.submit(letter("m", b"x", Wish::Nothing)).await.expect("taken or counted");
        }
        assert_eq!(end.spill.take()[Class::Bulk as usize].map(|lost| lost.count), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_bytes_wait_and_no_more() {
        let (entry, mut end) = entry("#", None);
        let large = vec![7; WAITING_BYTES_MAX as usize / 2];
        for _ in 0..2 {
            assert_eq!(entry.submit(letter("m", &large, Wish::Nothing)).await, Ok(()));
        }
        assert_eq!(entry.submit(letter("m", &large, Wish::Receipt)).await, Err(Refused::Full));
        drop(taken(&mut end));
        assert_eq!(entry.submit(letter("m", &large, Wish::Nothing)).await, Ok(()));
        assert!(end.spill.take().iter().all(Option::is_none));
    }

    #[tokio::test]
    async fn neither_commands_nor_the_gateways_own_trees_are_forwarded_and_nothing_goes_back_where_it_came_from() {
        let (entry, _end) = entry("#", Some("site"));
        for topic in ["p/set", "p/set/result", "ironbridge/gw/event", "ironbridge", "$SYS/broker/uptime"] {
            assert!(!entry.wants(topic, None), "{topic}");
        }
        assert!(entry.wants("p", None) && entry.wants("p", Some("other")) && !entry.wants("p", Some("site")));
    }
}
