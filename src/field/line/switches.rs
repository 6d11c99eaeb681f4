//! What a line bus does when a person pauses, resumes, polls or resets one of its devices. A part of [`super::bus`].

use tokio::time::Instant;
use tracing::info;

use super::bus::LineBus;
use crate::field::devices::Seat;
use crate::model::quality::Cause;

impl LineBus {
    /// Does what was asked of its devices since it last looked.
    pub(super) async fn heed_switches(&mut self) {
        if !self.switched.has_changed().unwrap_or(false) {
            return;
        }
        self.switched.mark_unchanged();
        for place in 0..self.partners.len() {
            let (seat, now) = (Seat(place), Instant::now());
            let device = &mut self.roster.devices[place];
            let asked = self.switches.take(device.ix);
            if asked.reset() {
                device.forget();
            }
            match (device.unit.is_paused(), asked.is_paused()) {
                (false, true) => {
                    info!(bus = %self.name, device = %device.name, "device is paused");
                    device.unit.pause();
                    (device.cause, device.down_since) = (Cause::Paused, None);
                    self.tell(seat);
                    self.emit_bad(seat).await;
                    continue;
                }
                (true, true) => {}
                (true, false) => {
                    info!(bus = %self.name, device = %device.name, "device is polled again");
                    device.unit.resume();
                    (self.partners[place].due, self.partners[place].heard) = (now, now);
                }
                (false, false) if asked.poll() || asked.reset() => {
                    device.unit.try_now();
                    self.partners[place].due = now;
                }
                (false, false) => {}
            }
            if asked.reset() {
                self.tell(seat);
            }
        }
    }
}
