//! What answers, silence and a lost connection lead to: samples, standings, notices. The other half of [`super::bus`].

use std::io;

use tokio::time::Instant;
use tracing::debug;

use super::bus::LineBus;
use crate::config::lines::Reading;
use crate::field::devices::{Ending, Seat};
use crate::field::tags::Said;
use crate::model::quality::Cause;
use crate::pipeline::point::Harvest;

/// The only poll of a device.
pub(super) const ITS_POLL: usize = 0;

impl LineBus {
    pub(super) async fn said(&mut self, seat: Seat, readings: Vec<Reading>) {
        if self.envoy.roster.devices[seat.0].unit.is_paused() {
            return; // what it says unasked
        }
        let at = self.envoy.clock.now();
        self.partners[seat.0].heard = Instant::now();
        let mut harvest = Harvest::default();
        for Reading { tag, raw, doubt } in readings {
            if let Some(slot) = self.envoy.tags.slot(tag).filter(|_| self.envoy.keeps(tag)) {
                self.envoy.tags.offer(slot, Said { raw, doubt }, at, &mut harvest);
            }
        }
        self.envoy.roster.devices[seat.0].count(Ending::Answer(at));
        self.envoy.answered(seat);
        self.envoy.emit(seat, harvest).await;
    }

    pub(super) async fn failed(&mut self, seat: Seat, cause: Cause, begun: Instant) {
        let now = Instant::now();
        let device = &mut self.envoy.roster.devices[seat.0];
        device.count(if cause == Cause::Timeout { Ending::Timeout } else { Ending::Error });
        let was_down = device.unit.is_down();
        let change = device.unit.failed(Some(ITS_POLL), now.into_std());
        if was_down && !self.envoy.roster.devices.iter().all(|device| device.unit.is_down()) {
            // Whoever answers has most of the time.
            let silence = self.talk.quiet_until().saturating_duration_since(now);
            self.envoy.probes.spent(now.duration_since(begun) + silence, now.into_std());
        }
        self.partners[seat.0].due = now; // a second try, or a probe: the standing says when
        self.envoy.fallen(seat, change, cause).await;
        if self.talk.is_mute() {
            self.talk.close();
        }
    }

    /// A connection that worked is opened again at once, and only if that fails anyone is told.
    pub(super) async fn lost(&mut self, error: &io::Error) {
        let was_proven = self.talk.was_proven();
        self.talk.close();
        if was_proven {
            debug!(bus = %self.envoy.name, error = %error, "connection lost");
        } else {
            self.envoy.tell_cut(error).await;
        }
    }
}
