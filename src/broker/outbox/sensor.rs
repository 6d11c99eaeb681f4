//! The outbox of a sensor that sleeps for hours (see the door's `sensors`): what comes meanwhile stays here, where it can still
//! expire, be replaced by a newer value, or be left to the ledger. On its way to the sensor it could do nothing of that.
//!
//! And the session of a sensor may come to outlive its connection while that stands, which its connection hears here.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::{Outbox, Queue};
use crate::broker::durable::Tally;
use crate::broker::message::{Delivery, Qos};
use crate::broker::session::Ending;

/// What only sensors need.
#[derive(Debug, Default)]
pub(super) struct Sensor {
    sleeps: AtomicBool,
    /// What was dropped at the end, it being asleep, at QoS 0.
    missed: AtomicU64,
    lasts: OnceLock<Arc<Tally>>,
}

impl Sensor {
    /// The connection ends. What waits for one that sleeps would have been sent to anybody else.
    pub(super) fn end(&self, queue: &mut Queue, ending: Ending) {
        if self.sleeps.load(Ordering::Acquire) && ending != Ending::Stopping {
            self.missed.fetch_add(passing(queue), Ordering::Relaxed);
        }
        queue.end(ending);
    }
}

impl Outbox {
    /// The client sleeps: nothing is sent to it until it goes on.
    #[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only its clients sleep"))]
    pub(in crate::broker) fn hold(&self) {
        self.sensor.sleeps.store(true, Ordering::Release);
    }

    /// It hears again.
    #[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only its clients sleep"))]
    pub(in crate::broker) fn go_on(&self) {
        if self.sensor.sleeps.swap(false, Ordering::AcqRel) {
            self.bell.notify_one();
        }
    }

    /// Does it sleep?
    pub(in crate::broker) fn is_held(&self) -> bool {
        self.sensor.sleeps.load(Ordering::Acquire)
    }

    /// The session lasts from now on, and this is what it is owed. Said before it is owed anything.
    #[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only its clients can ask for it"))]
    pub(in crate::broker) fn outlives(&self, tally: Arc<Tally>) {
        let _ = self.sensor.lasts.set(tally); // it does so once
    }

    /// What a session is owed that has come to last.
    pub(in crate::broker) fn lasting(&self) -> Option<&Arc<Tally>> {
        self.sensor.lasts.get()
    }

    /// The connection ends, or has ended: so many messages at QoS 0 were not sent because its client slept.
    #[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only its clients sleep"))]
    pub(in crate::broker) fn missed(&self) -> u64 {
        let queue = self.lock();
        let waiting = if self.is_held() { passing(&queue) } else { 0 };
        waiting + self.sensor.missed.load(Ordering::Relaxed)
    }
}

/// What waits and would be gone with the connection, whatever its session is owed, and goes to nobody else of its group.
fn passing(queue: &Queue) -> u64 {
    let passes = |delivery: &&Delivery| delivery.qos == Qos::AtMostOnce && delivery.shared.is_none();
    queue.waiting.iter().filter(passes).count() as u64
}
