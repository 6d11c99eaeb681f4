//! The bus of type `line`: one task that asks its instruments, or listens to them, and sends on what they say.
//!
//! Fed by the plan, emits to the hub. Promises: one question at a time, never cancelled halfway; a device that falls
//! silent costs its neighbours one probe in twenty parts of the bus's time; every loss of the connection and every
//! standing of a device is told once. Its tags are read-only: a command that comes all the same is refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::field::display;
use tracing::{debug, info};

use super::outcome::ITS_POLL;
use super::owed::Owed;
use super::talk::{NoAnswer, OPENED_WITHIN, Talk};
use crate::config::lines::Reader;
use crate::config::plan::{DevicePlan, LineMode, Plan};
use crate::field::adopt::Plans;
use crate::field::bus::{BusHandle, Shared, refuse_stopping};
use crate::field::carrier::{self, Opener, Who};
use crate::field::command::{COMMANDS_WAITING_MAX, FieldCommand};
use crate::field::devices::Seat;
use crate::field::envoy::{Envoy, ROUND, Site};
use crate::field::lane::turn_max;
use crate::field::schedule::May;
use crate::field::stats::BusStats;
use crate::field::switches::Switches;
use crate::field::tags::Tags;
use crate::flow::hub::Hub;
use crate::flow::notice::Notices;
use crate::flow::progress;
use crate::flow::stop::Stop;
use crate::model::command::{Outcome, Refusal};
use crate::model::quality::Cause;
use crate::model::tag::{BusIx, DeviceIx, TagIx};
use crate::model::time::micros;

/// One bus, built and then run.
pub struct LineBus {
    pub(super) envoy: Envoy,
    stop: Stop,
    commands: mpsc::Receiver<FieldCommand>,
    pub(super) mode: LineMode,
    response_timeout: Duration,
    pub(super) talk: Talk,
    pub(super) partners: Vec<Partner>,
    owed: Owed,
    next_round: Instant,
}

/// What a line bus knows of a device beside its seat.
pub(super) struct Partner {
    pub(super) reader: Reader,
    pub(super) period: Duration,
    pub(super) due: Instant,
    pub(super) heard: Instant,
    /// With listening: silent for longer than this it counts as silent.
    pub(super) silent_after: Option<Duration>,
}

/// The devices of a bus that say something, and what the bus knows of them.
fn speakers(plan: &Plan, bus: BusIx, now: Instant) -> (Vec<DeviceIx>, Vec<Partner>) {
    let speaker = |(ix, device): (DeviceIx, &DevicePlan)| {
        let reader = Reader::new(plan, ix)?;
        let of_device = || plan.tags_of(device).map(|(_, tag)| tag).filter(|tag| tag.is_of_device());
        let partner = Partner {
            reader,
            period: of_device().map(|tag| tag.poll).min().unwrap_or(ROUND),
            due: now,
            heard: now,
            silent_after: of_device().filter_map(|tag| tag.freshness.stale_after).min(),
        };
        Some((ix, partner))
    };
    plan.devices_on(bus).filter_map(speaker).unzip()
}

impl LineBus {
    /// A bus of the plan, not yet connected. `bus` must be one of the plan's, of type `line`.
    pub fn new(plan: Arc<Plan>, bus: BusIx, hub: &Hub, shared: Shared) -> (Self, BusHandle) {
        let opener = carrier::opener_of(&plan[bus], &shared.clock, Who::Gateway);
        Self::over(opener, plan, bus, hub, shared)
    }

    /// A bus over a wire of the caller's choosing.
    pub fn over(opener: Box<dyn Opener>, plan: Arc<Plan>, bus: BusIx, hub: &Hub, shared: Shared) -> (Self, BusHandle) {
        let stats = Arc::<BusStats>::default();
        let (sender, commands) = mpsc::channel(COMMANDS_WAITING_MAX);
        let bus_plan = &plan[bus];
        let line = bus_plan.line.clone().expect("the bus is of type line: whoever builds it has asked");
        let own = plan.devices_on(bus).flat_map(|(_, device)| plan.tags_of(device));
        let wanted: Vec<TagIx> = own.filter(|(_, tag)| tag.is_of_device()).map(|(ix, _)| ix).collect();
        let tags = Tags::of(&plan, &wanted).resuming(&hub.active_alarms());
        let now = Instant::now();
        let (devices, partners) = speakers(&plan, bus, now);
        let switches = Arc::new(Switches::new(&plan, devices.iter().copied(), &shared.pauses));
        let handle = BusHandle {
            commands: sender,
            stats: Arc::clone(&stats),
            others: Vec::new(),
            switches: Arc::clone(&switches),
        };
        let (mode, response_timeout) = (line.mode, bus_plan.response_timeout);
        // Whoever asked there before us may still be answered: an answer does not say to whom. And one that comes too soon is
        // lost as half a frame, and then owed.
        let listen_first = if mode == LineMode::Poll { response_timeout.max(OPENED_WITHIN) } else { Duration::ZERO };
        let owed = Owed::new(&bus_plan.link.carrier, mode);
        let talk = Talk::new(opener, &line, listen_first, Arc::clone(&stats));
        let site = Site { plan, bus, place: 0, devices, stats, switches };
        let mut envoy = Envoy::new(site, hub.clone(), shared.clock, tags);
        for (device, partner) in envoy.roster.devices.iter_mut().zip(&partners) {
            device.slots = partner.reader.tags().filter_map(|tag| envoy.tags.slot(tag)).collect();
        }
        let (next_round, stop) = (envoy.next_round(now), shared.stop);
        (Self { envoy, stop, commands, mode, response_timeout, talk, partners, owed, next_round }, handle)
    }

    /// Tells the operator there when the bus has no connection, and when it has one again.
    #[must_use]
    pub fn telling(mut self, notices: Notices) -> Self {
        self.envoy.notices = Some(notices);
        self
    }

    /// Takes nothing for a value any more that a plan which comes takes for another one.
    #[must_use]
    pub fn expecting(mut self, plans: Plans) -> Self {
        self.envoy.plans = Some(plans);
        self
    }

    /// Asks or listens until the stop. Not cancel-safe.
    pub async fn run(mut self) {
        info!(bus = %self.envoy.name, devices = self.partners.len(), "bus begins");
        while !self.stop.is_begun() {
            progress::step(turn_max(self.response_timeout));
            self.envoy.stats.turns.one();
            self.refuse();
            self.heed_switches().await;
            let now = Instant::now();
            self.next_round = self.next_round.min(self.delay_over(now).unwrap_or(self.next_round));
            if now >= self.next_round {
                self.round().await;
                self.next_round = self.envoy.next_round(now);
            }
            if !self.talk.is_open() {
                if self.talk.retry_at() <= now {
                    self.open().await;
                } else {
                    self.rest(self.talk.retry_at().min(self.next_round)).await;
                }
                continue;
            }
            match self.next_question() {
                Some((seat, due)) if due <= now => self.question(seat).await,
                Some((_, due)) => self.listen(due.min(self.next_round)).await,
                None => self.listen(self.next_round).await,
            }
        }
        refuse_stopping(&mut self.commands).await;
        self.envoy.leave().await;
    }

    async fn rest(&mut self, until: Instant) {
        tokio::select! {
            () = self.stop.begun() => {}
            _ = self.envoy.switched.changed() => self.envoy.switched.mark_changed(),
            () = sleep_until(until) => {}
        }
    }

    async fn open(&mut self) {
        self.owed.clear();
        if self.envoy.open(&mut self.talk, &self.stop).await {
            let now = Instant::now();
            self.envoy.roster.devices.iter_mut().for_each(|device| device.unit.reconnected());
            self.partners.iter_mut().for_each(|partner| (partner.due, partner.heard) = (now, now));
        }
    }

    /// The device to be asked next, and when.
    fn next_question(&self) -> Option<(Seat, Instant)> {
        if self.mode == LineMode::Listen {
            return None;
        }
        let when = |place: usize| {
            let (partner, unit) = (&self.partners[place], &self.envoy.roster.devices[place].unit);
            let due = partner.due.max(self.talk.quiet_until());
            match unit.may(ITS_POLL, Some(ITS_POLL), self.envoy.probes.not_before()) {
                May::Now => Some((Seat(place), due)),
                May::From(moment) => Some((Seat(place), due.max(Instant::from_std(moment)))),
                May::Not => None,
            }
        };
        (0..self.partners.len()).filter_map(when).min_by_key(|(_, due)| *due)
    }

    async fn question(&mut self, seat: Seat) {
        if self.owed.bars(seat, &self.partners) {
            return self.talk.give_up(); // the loop opens the next one
        }
        let begun = Instant::now();
        let partner = &mut self.partners[seat.0];
        let was_down = self.envoy.roster.devices[seat.0].unit.is_down();
        let late = begun.saturating_duration_since(partner.due).as_nanos() / partner.period.as_nanos().max(1);
        let skipped = u32::try_from(late).unwrap_or(u32::MAX);
        partner.due += partner.period.saturating_mul(skipped.saturating_add(1));
        if was_down {
            self.envoy.stats.probes.one();
        } else {
            self.envoy.stats.polls_skipped.add(skipped.into());
            self.envoy.roster.devices[seat.0].skipped(skipped.into());
        }
        let (partners, owed) = (&self.partners, &mut self.owed);
        let reader = &partners[seat.0].reader;
        let fits = |frame: &[u8]| {
            let is_late = owed.heard(frame, partners);
            reader.read(frame).filter(|_| !is_late)
        };
        let before = self.envoy.stats.noise();
        let answer = self.talk.ask(reader.question(), self.response_timeout, fits).await;
        match &answer {
            Ok(_) => self.owed.clear(),
            Err(_) => self.owed.add(seat),
        }
        self.envoy.stats.polls.one();
        let device = &mut self.envoy.roster.devices[seat.0];
        device.heard(self.envoy.stats.noise().since(before));
        if let (Ok(_), Some(took)) = (&answer, self.talk.took()) {
            device.took(took);
            self.envoy.stats.response.add(took);
        }
        let (elapsed_ms, error) = (begun.elapsed().as_millis(), answer.as_ref().err().map(display));
        debug!(bus = %self.envoy.name, device = %device.name, elapsed_ms, error, "polled");
        self.envoy.stats.busy_micros.add(micros(begun.elapsed()));
        match answer {
            Ok(readings) => self.said(seat, readings).await,
            Err(NoAnswer::Timeout) => self.failed(seat, Cause::Timeout, begun).await,
            Err(NoAnswer::Protocol) => self.failed(seat, Cause::Protocol, begun).await,
            Err(NoAnswer::Lost(error)) => self.lost(&error).await,
        }
    }

    /// Hears what comes until then. Of a device that was not asked it is a value only where the bus listens.
    async fn listen(&mut self, until: Instant) {
        let heard = tokio::select! {
            heard = self.talk.hear(until) => heard,
            _ = self.envoy.switched.changed() => return self.envoy.switched.mark_changed(),
            () = self.stop.begun() => return,
        };
        match heard {
            Err(error) => self.lost(&error).await,
            Ok(frames) if self.mode == LineMode::Poll => {
                self.envoy.stats.stale.add(frames.len() as u64);
                for frame in &frames {
                    self.owed.heard(frame, &self.partners);
                }
            }
            Ok(frames) => {
                for frame in frames {
                    let read = |(place, partner): (usize, &Partner)| Some((Seat(place), partner.reader.read(&frame)?));
                    let Some((seat, readings)) = self.partners.iter().enumerate().find_map(read) else {
                        self.envoy.stats.foreign.one();
                        continue;
                    };
                    self.envoy.stats.replies.one();
                    self.talk.prove();
                    self.said(seat, readings).await;
                }
            }
        }
    }

    /// Nothing here is ever written.
    fn refuse(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            drop(command.reply.send(Outcome::Refused(Refusal::Access))); // nobody may be waiting any more
        }
    }
}
