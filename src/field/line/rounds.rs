//! What a line bus does every ten seconds, or more often where a tag may not be silent for long: counts that changed are
//! reported, what is bad is said again, who fell silent is found, and its load is looked back at. Where it listens also
//! when the delay of an alarm is over: its instruments may speak of changes only. A part of [`super::bus`].

use tokio::time::Instant;

use super::bus::LineBus;
use crate::config::plan::LineMode;
use crate::field::devices::Seat;
use crate::model::quality::Cause;

impl LineBus {
    /// When a running delay of an alarm is over, which nothing need be heard at.
    pub(super) fn delay_over(&self, now: Instant) -> Option<Instant> {
        let due = self.envoy.tags.due().filter(|_| self.mode == LineMode::Listen)?;
        Some(now + due.since(self.envoy.clock.now()))
    }

    /// Counts that changed, heartbeats of what is bad, and who has fallen silent.
    pub(super) async fn round(&mut self) {
        self.envoy.look_back();
        self.envoy.report();
        let at = self.envoy.clock.now();
        for place in 0..self.partners.len() {
            let seat = Seat(place);
            if self.mode == LineMode::Listen {
                self.envoy.tick(seat, at).await;
            }
            let partner = &self.partners[place];
            let silent = partner.silent_after.is_some_and(|longest| partner.heard.elapsed() >= longest);
            let unit = &mut self.envoy.roster.devices[place].unit;
            if unit.is_down() {
                self.envoy.emit_bad(seat, at).await;
            } else {
                if self.mode == LineMode::Listen && silent && self.talk.is_open() {
                    let change = unit.failed(None, Instant::now().into_std());
                    self.envoy.fallen(seat, change, Cause::Stale).await;
                }
                self.envoy.look(seat, at).await;
            }
        }
    }
}
