//! What a line bus does every ten seconds, or more often where a tag may not be silent for long: counts that changed are
//! reported, what is bad is said again, who fell silent is found, and its load is looked back at. A part of [`super::bus`].

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::bus::LineBus;
use crate::config::plan::LineMode;
use crate::field::devices::Seat;
use crate::field::overload::{News, Overload};
use crate::flow::notice::Phase;
use crate::model::quality::Cause;

/// See above.
pub(super) const ROUND: Duration = Duration::from_secs(10);

/// What was seen last time.
#[derive(Debug)]
pub(super) struct Load {
    at: Instant,
    busy_micros: u64,
    polls: u64,
    skipped: u64,
    overload: Overload,
}

impl Load {
    /// Nothing seen yet.
    pub(super) fn new(at: Instant) -> Self {
        Self { at, busy_micros: 0, polls: 0, skipped: 0, overload: Overload::default() }
    }
}

impl LineBus {
    /// Counts that changed, heartbeats of what is bad, and who has fallen silent.
    pub(super) async fn round(&mut self) {
        self.look_back();
        self.report();
        let at = self.shared.clock.now();
        for place in 0..self.partners.len() {
            let (seat, partner) = (Seat(place), &self.partners[place]);
            let silent = partner.silent_after.is_some_and(|longest| partner.heard.elapsed() >= longest);
            let device = &mut self.roster.devices[place];
            if device.unit.is_down() {
                self.emit_bad(seat).await;
            } else {
                if self.mode == LineMode::Listen && silent && self.talk.is_open() {
                    let change = device.unit.failed(None, Instant::now().into_std());
                    self.fallen(seat, change, Cause::Stale).await;
                }
                let silent = self.tags.look(self.roster.devices[place].slots.iter().copied(), at);
                self.emit(seat, silent).await;
            }
        }
    }

    pub(super) fn report(&mut self) {
        (0..self.roster.devices.len()).for_each(|place| self.tell(Seat(place)));
    }

    pub(super) fn tell(&mut self, seat: Seat) {
        let load = u8::try_from(self.stats.load_percent.get()).unwrap_or(100);
        if let Some(report) = self.roster.devices[seat.0].news(load) {
            self.hub.report(report);
        }
    }

    /// Load and overload of the last round.
    fn look_back(&mut self) {
        let (stats, load, now) = (&self.stats, &mut self.load, Instant::now());
        let (busy, polls, skipped) = (stats.busy_micros.get(), stats.polls.get(), stats.polls_skipped.get());
        if now.duration_since(load.at) < ROUND {
            return; // a round that only looked for silent tags
        }
        let passed = u64::try_from(now.duration_since(load.at).as_micros()).unwrap_or(u64::MAX).max(1);
        stats.load_percent.set(((busy - load.busy_micros).saturating_mul(100) / passed).min(100));
        let news = load.overload.round(polls - load.polls, skipped - load.skipped);
        (load.at, load.busy_micros, load.polls, load.skipped) = (now, busy, polls, skipped);
        match news {
            Some(News::Overloaded(part)) => {
                let percent = (part * 100.0).round();
                warn!(bus = %self.name, percent, "bus has more work than time, polls are skipped");
                let detail = format!("{percent} % of its polls are skipped: raise `poll`, or split the bus");
                self.notice("bus_overloaded", Phase::Active, detail);
            }
            Some(News::KeepsUp) => {
                info!(bus = %self.name, "bus keeps up again");
                self.notice("bus_overloaded", Phase::Cleared, "no polls are skipped any more".into());
            }
            None => {}
        }
    }
}
