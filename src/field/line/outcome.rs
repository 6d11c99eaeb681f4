//! What answers, silence and a lost connection lead to: samples, standings, notices. The other half of [`super::bus`].

use std::io;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::bus::LineBus;
use crate::config::lines::Reading;
use crate::field::devices::{Ending, Seat};
use crate::field::outlet;
use crate::field::standing::Change;
use crate::field::tags::Said;
use crate::flow::notice::{Notice, Phase};
use crate::model::quality::Cause;
use crate::pipeline::point::Harvest;

/// The only poll of a device.
pub(super) const ITS_POLL: usize = 0;

impl LineBus {
    pub(super) async fn said(&mut self, seat: Seat, readings: Vec<Reading>) {
        if self.roster.devices[seat.0].unit.is_paused() {
            return; // what it says unasked
        }
        let at = self.shared.clock.now();
        self.partners[seat.0].heard = Instant::now();
        let mut harvest = Harvest::default();
        for Reading { tag, raw, doubt } in readings {
            let overtaken = self.plans.as_ref().is_some_and(|plans| plans.overtake(&self.plan, [tag]));
            if let Some(slot) = self.tags.slot(tag).filter(|_| !overtaken) {
                self.tags.offer(slot, Said { raw, doubt }, at, &mut harvest);
            }
        }
        if std::mem::take(&mut self.cut) {
            info!(bus = %self.name, "bus is connected again");
            self.notice("bus_down", Phase::Cleared, "connected again".into());
        }
        let device = &mut self.roster.devices[seat.0];
        device.count(Ending::Answer(at));
        let change = device.unit.answered();
        if change == Change::Back {
            let down = device.down_since.take().map(|since| at.since(since));
            let elapsed_ms = down.map(|down| u64::try_from(down.as_millis()).unwrap_or(u64::MAX));
            info!(bus = %self.name, device = %device.name, elapsed_ms, "device answers again");
        }
        if change != Change::Same {
            self.tell(seat);
        }
        self.emit(seat, harvest).await;
    }

    pub(super) async fn failed(&mut self, seat: Seat, cause: Cause, begun: Instant) {
        let now = Instant::now();
        let device = &mut self.roster.devices[seat.0];
        device.count(if cause == Cause::Timeout { Ending::Timeout } else { Ending::Error });
        let was_down = device.unit.is_down();
        let change = device.unit.failed(Some(ITS_POLL), now.into_std());
        if was_down && !self.roster.devices.iter().all(|device| device.unit.is_down()) {
            // Whoever answers has most of the time.
            let silence = self.talk.quiet_until().saturating_duration_since(now);
            self.probes.spent(now.duration_since(begun) + silence, now.into_std());
        }
        self.partners[seat.0].due = now; // a second try, or a probe: the standing says when
        self.fallen(seat, change, cause).await;
        if self.talk.is_mute() {
            self.talk.close();
        }
    }

    pub(super) async fn fallen(&mut self, seat: Seat, change: Change, cause: Cause) {
        let at = self.shared.clock.now();
        if change == Change::Down {
            let device = &mut self.roster.devices[seat.0];
            if device.down_since.is_none() {
                warn!(bus = %self.name, device = %device.name, cause = cause.as_str(), "device is down");
                device.down_since = Some(at);
            }
            device.cause = cause;
            self.emit_bad(seat).await;
        }
        if matches!(change, Change::Down | Change::Suspect) {
            self.tell(seat);
        }
    }

    /// A connection that worked is opened again at once, and only if that fails anyone is told.
    pub(super) async fn lost(&mut self, error: &io::Error) {
        let was_proven = self.talk.was_proven();
        self.talk.close();
        if was_proven {
            debug!(bus = %self.name, error = %error, "connection lost");
        } else {
            self.tell_cut(error).await;
        }
    }

    pub(super) async fn tell_cut(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.cut, true) {
            let own = self.plan.buses.iter().find(|bus| bus.name == self.name);
            let carrier = own.map_or_else(String::new, |bus| bus.link.carrier.to_string());
            warn!(bus = %self.name, carrier, error = %error, "bus has no connection");
            self.notice("bus_down", Phase::Active, format!("no connection: {carrier}: {error}"));
        }
        let at = self.shared.clock.now();
        for place in 0..self.partners.len() {
            let device = &mut self.roster.devices[place];
            if device.unit.is_paused() {
                continue;
            }
            device.unit.cut();
            device.cause = Cause::Transport;
            device.down_since.get_or_insert(at);
            self.emit_bad(Seat(place)).await;
        }
        self.report();
    }

    pub(super) fn notice(&self, event: &'static str, phase: Phase, detail: String) {
        if let Some(notices) = &self.notices {
            notices.tell(Notice { event, phase, subject: self.name.clone(), detail });
        }
    }

    pub(super) async fn emit_bad(&mut self, seat: Seat) {
        let (at, device) = (self.shared.clock.now(), &self.roster.devices[seat.0]);
        let harvest = self.tags.bad(device.slots.iter().copied(), device.cause, at);
        self.emit(seat, harvest).await;
    }

    pub(super) async fn emit(&mut self, seat: Seat, harvest: Harvest) {
        outlet::send(&self.hub, &self.shared.clock, &self.plan, self.roster.devices[seat.0].ix, harvest).await;
    }
}
