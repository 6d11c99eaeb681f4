//! The way in for what the subscription brings: from the poller to whoever takes it further.
//!
//! Commands never make the poller wait: what finds no room is dropped, so that none waits. Messages that come down do, for a
//! moment: the broker keeps them for us, and nothing of theirs is dropped at QoS 1. A poller that waits sends no pings and
//! reads no acknowledgements, so it does not wait for long: then the session ends, and the broker sends them again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::client::Arrival;
use super::sparkplug::Ears;
use super::stats::UplinkStats;
use crate::flow::clock::Clock;
use crate::model::stats::Counter;
use crate::model::time::Stamp;

/// Publishes that may wait; Receive Maximum in MQTT 5. What is on its way to the disk counts.
pub(super) const ARRIVALS_MAX: u16 = 64;
/// The same for topics that come down: an MQTT 3.1.1 broker cannot be told how many it may send.
const MESSAGES_MAX: usize = 1024;
/// And bytes of them; a larger one goes alone.
const BYTES_MAX: u32 = 4 << 20;
/// How long the poller waits for room, at most: less than any keep alive.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(3);

/// An arrival with its time.
pub(super) struct Arrived {
    pub(super) arrival: Arrival,
    pub(super) at: Stamp,
    /// Given back when this is dropped.
    _room: Option<OwnedSemaphorePermit>,
}

/// The poller's end of the way in.
pub(super) struct Intake {
    queue: mpsc::Sender<Arrived>,
    clock: Clock,
    stats: Arc<UplinkStats>,
    /// Of what comes down; commands are small.
    room: Option<Arc<Semaphore>>,
    /// Dropping has been logged in this session.
    told: AtomicBool,
    /// Of an edge node: hears of everything, also of what finds no room.
    ears: Option<Arc<Ears>>,
}

/// What became of an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It waits its turn, or was dropped and nobody will ask for it.
    Done,
    /// There is no room for it, and the broker sends it again with the next session: this one must end.
    Later,
}

impl Intake {
    /// For commands.
    pub(super) fn of_commands(clock: Clock, stats: Arc<UplinkStats>) -> (Self, mpsc::Receiver<Arrived>) {
        let (queue, arrivals) = mpsc::channel(usize::from(ARRIVALS_MAX));
        (Self { queue, clock, stats, room: None, told: AtomicBool::new(false), ears: None }, arrivals)
    }

    /// For topics that come down.
    pub(super) fn of_topics(clock: Clock, stats: Arc<UplinkStats>) -> (Self, mpsc::Receiver<Arrived>) {
        let (queue, arrivals) = mpsc::channel(MESSAGES_MAX);
        let room = Some(Arc::new(Semaphore::new(BYTES_MAX as usize)));
        (Self { queue, clock, stats, room, told: AtomicBool::new(false), ears: None }, arrivals)
    }

    /// The same, and an edge node hears of it first.
    pub(super) fn heard_by(self, ears: Arc<Ears>) -> Self {
        Self { ears: Some(ears), ..self }
    }

    /// Waits at most [`ROOM_WAIT_MAX`], and only for what comes down at QoS 1. A broker that keeps to what was agreed
    /// cannot fill the queue; what does not fit is not acknowledged.
    pub(super) async fn take(&self, arrival: Arrival) -> Taken {
        let owed = self.room.is_some() && arrival.is_owed();
        let at = self.clock.now();
        if let Some(ears) = &self.ears {
            ears.overhear(&arrival.topic, &arrival.payload);
        }
        if owed {
            return match timeout(ROOM_WAIT_MAX, self.queue_when_there_is_room(arrival, at)).await {
                Ok(()) => Taken::Done,
                Err(_) => Taken::Later,
            };
        }
        let room = self.room.as_ref().map(|room| Arc::clone(room).try_acquire_many_owned(bytes(&arrival)));
        let queued = match room.transpose() {
            Ok(room) => self.queue.try_send(Arrived { arrival, at, _room: room }).is_ok(),
            Err(_) => false,
        };
        if !queued {
            self.dropped();
        }
        Taken::Done
    }

    async fn queue_when_there_is_room(&self, arrival: Arrival, at: Stamp) {
        let mut granted = None;
        if let Some(room) = &self.room {
            granted = Arc::clone(room).acquire_many_owned(bytes(&arrival)).await.ok();
        }
        // An error means that the session is over.
        let _ = self.queue.send(Arrived { arrival, at, _room: granted }).await;
    }

    fn dropped(&self) {
        let dropped: &Counter =
            if self.room.is_none() { &self.stats.commands_dropped } else { &self.stats.down_dropped };
        dropped.one();
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!("messages from upstream dropped: too many at once");
        }
    }
}

/// Bytes of what may wait that one arrival takes.
fn bytes(arrival: &Arrival) -> u32 {
    u32::try_from(arrival.topic.len() + arrival.payload.len()).unwrap_or(u32::MAX).clamp(1, BYTES_MAX)
}
