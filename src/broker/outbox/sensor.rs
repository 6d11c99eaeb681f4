//! The outbox of a sensor that sleeps for hours (see the door's `sensors`): what comes meanwhile stays here, where it can still
//! expire, be replaced by a newer value, or be left to the ledger. On its way to the sensor it could do nothing of that.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Outbox;

/// What only sensors need.
#[derive(Debug, Default)]
pub(super) struct Sensor {
    sleeps: AtomicBool,
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
}
