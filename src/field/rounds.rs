//! What a lane does every ten seconds: looks back at its load, and when it is idle tries whether its reads can be better.
//! A part of [`super::lane`].
//!
//! Better reads: a block that had to be split is read as a whole once, seldom, because the refusal may have been a mood
//! (a PLC that starts says no to everything); and when devices turn out to think longer or shorter than assumed, all
//! reads are planned anew. Neither is done while the bus has more to do than time, nor while a device is in doubt.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::devices::Seat;
use super::lane::Lane;
use super::memory::{Learned, Memory};
use super::modbus::bisect::split_at;
use super::modbus::session::Trouble;
use super::models::within;
use super::refusals::News;
use crate::config::blocks::{Block, device_blocks, gap_assumed, think_assumed};
use crate::config::plan::Keep;

/// Reads are planned anew at most this often, and first after so long.
const REPLAN_EVERY: Duration = Duration::from_secs(600);

/// What was seen last time.
#[derive(Debug)]
pub(super) struct Rounds {
    /// The bus kept up during the last round.
    idle: bool,
    /// Nothing was made of the last round yet.
    fresh: bool,
    replan_at: Instant,
}

impl Rounds {
    /// Nothing seen yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { idle: false, fresh: false, replan_at: now + REPLAN_EVERY }
    }
}

impl Lane {
    /// Begins with what is known of its devices.
    pub(super) fn remembering(mut self, memory: Arc<dyn Memory>) -> Self {
        let now = Instant::now();
        for device in &mut self.envoy.roster.devices {
            device.learned = Learned::recalled(memory.recall(&device.name, device.map));
            device.whole_again = now + device.learned.wait();
        }
        self.memory = Some(memory);
        let pieces = self.planned();
        self.replan(pieces, now);
        self
    }

    /// Keeps what was learned of a device.
    pub(super) fn keep_learned(&self, seat: Seat) {
        if let Some(memory) = &self.memory {
            let device = &self.envoy.roster.devices[seat.0];
            memory.keep(&device.name, device.map, device.learned.boundaries());
        }
    }

    /// Load and overload of the last round.
    pub(super) fn look_back(&mut self) {
        let Some(polls) = self.envoy.look_back() else { return };
        self.rounds.fresh = true;
        self.rounds.idle = polls.skipped == 0 && polls.done > 0;
        for device in &mut self.envoy.roster.devices {
            if let Some(News { count, registers }) = device.refusals.news() {
                warn!(bus = %self.envoy.name, device = %device.name, count, registers, "device refuses to be read there");
            }
        }
    }

    /// When there is time: tries one read as a whole, or plans anew.
    pub(super) async fn tidy_up(&mut self) {
        let doubt = self.envoy.roster.devices.iter().any(|device| device.unit.is_suspect());
        let fresh = std::mem::take(&mut self.rounds.fresh);
        if !fresh || !self.rounds.idle || doubt || !self.driver.is_open() {
            return;
        }
        let now = Instant::now();
        let due = |place: &usize| {
            let device = &self.envoy.roster.devices[*place];
            !device.unit.is_down() && !device.learned.boundaries().is_empty() && device.whole_again <= now
        };
        if let Some(place) = (0..self.envoy.roster.devices.len()).find(due) {
            return self.try_whole(Seat(place)).await;
        }
        if self.rounds.replan_at <= now {
            self.rounds.replan_at = now + REPLAN_EVERY;
            let pieces = self.planned();
            let places =
                |block: &Block| (block.device, block.table, block.model, block.start, block.count, block.period);
            let mut present: Vec<_> = self.envoy.roster.blocks().map(places).collect();
            let mut wanted: Vec<_> = pieces.iter().map(places).collect();
            present.sort_unstable();
            wanted.sort_unstable();
            if present != wanted {
                info!(bus = %self.envoy.name, before = present.len(), after = wanted.len(), "reads are planned anew");
                self.replan(pieces, now);
            }
        }
    }

    /// Reads one block whole that had to be split.
    async fn try_whole(&mut self, seat: Seat) {
        let device = &self.envoy.roster.devices[seat.0];
        let boundaries = device.learned.boundaries();
        let broken = |block: &Block| split_at(vec![block.clone()], boundaries, &self.envoy.plan) != [block.clone()];
        let Some(block) = self.whole(seat).into_iter().find(broken) else {
            // They are between blocks anyway, since the reads were planned anew.
            let (name, map) = (device.name.clone(), device.map);
            self.envoy.roster.devices[seat.0].learned = Learned::default();
            return self.memory.iter().for_each(|memory| memory.keep(&name, map, &[]));
        };
        let unit = device.unit_id;
        let (start, count) = match block.model.map(|wanted| device.discovery.find(wanted)) {
            None => (block.start, block.count),
            // Whether it is this model is seen when it is polled; here only the length is tried.
            Some(Some(model)) => (model.start.saturating_add(block.start), within(model, &block)),
            Some(None) => return, // another time
        };
        let read = if self.allows(seat, block.table, start, count) {
            self.driver.read(unit, block.table, start, count).await
        } else {
            Err(Trouble::TooLong)
        };
        let now = Instant::now();
        let device = &mut self.envoy.roster.devices[seat.0];
        match read {
            Ok(_) => {
                info!(bus = %self.envoy.name, device = %device.name, start = block.start, count = block.count, "block is whole again");
                device.learned.forget(&block);
                device.whole_again = now; // the next one in the next round
                self.keep_learned(seat);
                let pieces = self.planned();
                self.replan(pieces, now);
            }
            // One kind of trouble is like another: the polls of this device will tell it.
            Err(
                Trouble::Exception(_) | Trouble::Timeout | Trouble::Protocol | Trouble::TooLong | Trouble::Lost { .. },
            ) => {
                device.learned.tried_in_vain();
                device.whole_again = now + device.learned.wait();
            }
        }
    }

    /// The blocks of a device as they would be if it had never refused one.
    fn whole(&self, seat: Seat) -> Vec<Block> {
        let device = &self.envoy.roster.devices[seat.0];
        let (link, plan) = (&self.envoy.plan[self.envoy.bus].link, &self.envoy.plan);
        let Some(of) = plan.device(device.ix) else { return Vec::new() };
        let measured = of.max_gap.is_none().then(|| device.think.max_gap(link, of)).flatten();
        let gap = measured.unwrap_or_else(|| gap_assumed(link, of, think_assumed(link)));
        device_blocks(plan, device.ix, gap)
    }

    /// The blocks of all devices, as measured and learned.
    fn planned(&self) -> Vec<Block> {
        (0..self.envoy.roster.devices.len()).map(Seat).flat_map(|seat| self.pieces(seat)).collect()
    }

    /// Those of one device.
    pub(super) fn pieces(&self, seat: Seat) -> Vec<Block> {
        split_at(self.whole(seat), self.envoy.roster.devices[seat.0].learned.boundaries(), &self.envoy.plan)
    }

    /// After something learned was forgotten.
    pub(super) fn replan_as_learned(&mut self) {
        let pieces = self.planned();
        self.replan(pieces, Instant::now());
    }

    /// What is read as before goes on as before: better reads of one device are nothing to its neighbours.
    fn replan(&mut self, blocks: Vec<Block>, now: Instant) {
        let plan = Arc::clone(&self.envoy.plan);
        let before = std::mem::take(&mut self.envoy.roster.polls);
        self.envoy.roster.set_polls(&plan, blocks, &self.envoy.tags);
        self.go_on(before.into_iter().enumerate(), now);
        if self.keep == Keep::CloseAfterCycle {
            self.schedule = self.scheduled(now); // all in one go
        }
    }
}
