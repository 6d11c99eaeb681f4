//! What a line bus does when a person pauses, resumes, polls or resets one of its devices. A part of [`super::bus`].

use tokio::time::Instant;

use super::bus::LineBus;
use crate::field::devices::Seat;

impl LineBus {
    /// Does what was asked of its devices since it last looked.
    pub(super) async fn heed_switches(&mut self) {
        if !self.envoy.switched.has_changed().unwrap_or(false) {
            return;
        }
        self.envoy.switched.mark_unchanged();
        for place in 0..self.partners.len() {
            let (seat, now) = (Seat(place), Instant::now());
            let device = &mut self.envoy.roster.devices[place];
            let asked = self.envoy.switches.take(device.ix);
            if asked.reset() {
                device.forget();
            }
            match (device.unit.is_paused(), asked.is_paused()) {
                (false, true) => {
                    self.envoy.pause(seat).await;
                    continue;
                }
                (true, true) => {}
                (true, false) => {
                    self.envoy.resume(seat);
                    (self.partners[place].due, self.partners[place].heard) = (now, now);
                }
                (false, false) if asked.poll() || asked.reset() => {
                    device.unit.try_now();
                    self.partners[place].due = now;
                }
                (false, false) => {}
            }
            if asked.reset() {
                self.envoy.tell(seat);
            }
        }
    }
}
