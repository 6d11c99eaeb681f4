//! The bus of type `line`: one task that asks its instruments, or listens to them, and sends on what they say.
//!
//! Fed by the plan, emits to the hub. Promises: one question at a time, never cancelled halfway; a device that falls
//! silent costs its neighbours one probe in twenty parts of the bus's time; every loss of the connection and every
//! standing of a device is told once. Its tags are read-only: a command that comes all the same is refused.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::field::display;
use tracing::{debug, info};

use super::outcome::ITS_POLL;
use super::rounds::{Load, ROUND};
use super::talk::{NoAnswer, Talk};
use crate::config::lines::Reader;
use crate::config::plan::{DevicePlan, LineMode, Plan};
use crate::field::adopt::Plans;
use crate::field::backoff::{reopening, takes_long};
use crate::field::bus::{BusHandle, Shared};
use crate::field::carrier::{self, Opener};
use crate::field::command::{COMMANDS_WAITING_MAX, FieldCommand};
use crate::field::devices::{Roster, Seat};
use crate::field::lane::turn_max;
use crate::field::schedule::May;
use crate::field::standing::ProbeBudget;
use crate::field::stats::BusStats;
use crate::field::switches::Switches;
use crate::field::tags::Tags;
use crate::flow::hub::Hub;
use crate::flow::notice::Notices;
use crate::flow::progress;
use crate::model::command::{Outcome, Refusal};
use crate::model::quality::Cause;
use crate::model::tag::{BusIx, DeviceIx, TagIx};

/// One bus, built and then run.
pub struct LineBus {
    pub(super) plan: Arc<Plan>,
    pub(super) name: String,
    pub(super) hub: Hub,
    pub(super) shared: Shared,
    pub(super) notices: Option<Notices>,
    pub(super) plans: Option<Plans>,
    commands: mpsc::Receiver<FieldCommand>,
    pub(super) mode: LineMode,
    pub(super) response_timeout: Duration,
    pub(super) talk: Talk,
    pub(super) cut: bool,
    pub(super) roster: Roster,
    pub(super) partners: Vec<Partner>,
    pub(super) tags: Tags,
    pub(super) probes: ProbeBudget,
    next_round: Instant,
    pub(super) load: Load,
    pub(super) stats: Arc<BusStats>,
    pub(super) switches: Arc<Switches>,
    pub(super) switched: watch::Receiver<()>,
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
    let own = (0..).map(DeviceIx).zip(&plan.devices).filter(|(_, device)| device.bus == Some(bus));
    let speaker = |(ix, device): (DeviceIx, &DevicePlan)| {
        let reader = Reader::new(plan, ix)?;
        let of_device = || plan.tags[device.tags.clone()].iter().filter(|tag| tag.is_of_device());
        let partner = Partner {
            reader,
            period: of_device().map(|tag| tag.poll).min().unwrap_or(ROUND),
            due: now,
            heard: now,
            silent_after: of_device().filter_map(|tag| tag.freshness.stale_after).min(),
        };
        Some((ix, partner))
    };
    own.filter_map(speaker).unzip()
}

impl LineBus {
    /// A bus of the plan, not yet connected. `bus` must be one of the plan's, of type `line`.
    pub fn new(plan: Arc<Plan>, bus: BusIx, hub: &Hub, shared: Shared) -> (Self, BusHandle) {
        let opener = carrier::opener(&plan.buses[bus.0 as usize].link.carrier, &shared.clock);
        Self::over(opener, plan, bus, hub, shared)
    }

    /// A bus over a wire of the caller's choosing.
    pub fn over(opener: Box<dyn Opener>, plan: Arc<Plan>, bus: BusIx, hub: &Hub, shared: Shared) -> (Self, BusHandle) {
        let stats = Arc::<BusStats>::default();
        let (sender, commands) = mpsc::channel(COMMANDS_WAITING_MAX);
        let bus_plan = &plan.buses[bus.0 as usize];
        let line = bus_plan.line.clone().expect("the bus is of type line: whoever builds it has asked");
        let own = (0..).map(TagIx).zip(&plan.tags).filter(|(_, tag)| {
            tag.is_of_device() && plan.devices.get(tag.device.0 as usize).is_some_and(|device| device.bus == Some(bus))
        });
        let wanted: Vec<TagIx> = own.map(|(ix, _)| ix).collect();
        let tags = Tags::of(&plan, &wanted).resuming(&hub.active_alarms());
        let now = Instant::now();
        let (speakers, partners) = speakers(&plan, bus, now);
        let switches = Arc::new(Switches::new(&plan, speakers.iter().copied(), &shared.pauses));
        let mut roster = Roster::new(&plan, &speakers, now);
        for (device, partner) in roster.devices.iter_mut().zip(&partners) {
            device.slots = partner.reader.tags().filter_map(|tag| tags.slot(tag)).collect();
        }
        let built = Self {
            name: bus_plan.name.clone(),
            response_timeout: bus_plan.response_timeout,
            mode: line.mode,
            talk: Talk::new(opener, &line, Arc::clone(&stats)),
            probes: ProbeBudget::new(now.into_std()),
            next_round: now + tags.look_every().map_or(ROUND, |often| often.min(ROUND)),
            plan,
            hub: hub.clone(),
            shared,
            notices: None,
            plans: None,
            commands,
            cut: false,
            roster,
            partners,
            tags,
            load: Load::new(now),
            stats: Arc::clone(&stats),
            switched: switches.changes(),
            switches: Arc::clone(&switches),
        };
        (built, BusHandle { commands: sender, stats, others: Vec::new(), switches })
    }

    /// Tells the operator there when the bus has no connection, and when it has one again.
    #[must_use]
    pub fn telling(self, notices: Notices) -> Self {
        Self { notices: Some(notices), ..self }
    }

    /// Takes nothing for a value any more that a plan which comes takes for another one.
    #[must_use]
    pub fn expecting(self, plans: Plans) -> Self {
        Self { plans: Some(plans), ..self }
    }

    /// Asks or listens until the stop. Not cancel-safe.
    pub async fn run(mut self) {
        info!(bus = %self.name, devices = self.partners.len(), "bus begins");
        while !self.shared.stop.is_begun() {
            progress::step(turn_max(self.response_timeout));
            self.stats.turns.one();
            self.refuse();
            self.heed_switches().await;
            let now = Instant::now();
            if now >= self.next_round {
                self.round().await;
                self.next_round = now + self.tags.look_every().map_or(ROUND, |often| often.min(ROUND));
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
        self.commands.close();
        // Whoever has a place in the queue already may still use it.
        while let Some(command) = self.commands.recv().await {
            drop(command.reply.send(Outcome::Refused(Refusal::Stopping))); // nobody may be waiting any more
        }
        for place in 0..self.partners.len() {
            let held = self.tags.flush(self.roster.devices[place].slots.iter().copied());
            self.emit(Seat(place), held).await;
        }
        self.report();
        info!(bus = %self.name, "bus ends");
    }

    async fn rest(&mut self, until: Instant) {
        tokio::select! {
            () = self.shared.stop.begun() => {}
            _ = self.switched.changed() => self.switched.mark_changed(),
            () = sleep_until(until) => {}
        }
    }

    async fn open(&mut self) {
        // Whoever asked there before us may still be answered: an answer does not say to whom.
        let listen_first = if self.mode == LineMode::Poll { self.response_timeout } else { Duration::ZERO };
        if self.talk.was_proven() && !self.cut {
            tokio::select! {
                opened = self.talk.open(listen_first) => return self.opened(opened).await,
                () = sleep(reopening(self.response_timeout)) => {}
                () = self.shared.stop.begun() => return,
            }
            self.tell_cut(&takes_long()).await;
        }
        let opened = tokio::select! {
            opened = self.talk.open(listen_first) => opened,
            () = self.shared.stop.begun() => return,
        };
        self.opened(opened).await;
    }

    async fn opened(&mut self, opened: io::Result<()>) {
        match opened {
            Ok(()) => {
                let now = Instant::now();
                self.roster.devices.iter_mut().for_each(|device| device.unit.reconnected());
                self.partners.iter_mut().for_each(|partner| (partner.due, partner.heard) = (now, now));
            }
            Err(error) => self.tell_cut(&error).await,
        }
    }

    /// The device to be asked next, and when.
    fn next_question(&self) -> Option<(Seat, Instant)> {
        if self.mode == LineMode::Listen {
            return None;
        }
        let when = |place: usize| {
            let (partner, unit) = (&self.partners[place], &self.roster.devices[place].unit);
            let due = partner.due.max(self.talk.quiet_until());
            match unit.may(ITS_POLL, Some(ITS_POLL), self.probes.not_before()) {
                May::Now => Some((Seat(place), due)),
                May::From(moment) => Some((Seat(place), due.max(Instant::from_std(moment)))),
                May::Not => None,
            }
        };
        (0..self.partners.len()).filter_map(when).min_by_key(|(_, due)| *due)
    }

    async fn question(&mut self, seat: Seat) {
        let begun = Instant::now();
        let partner = &mut self.partners[seat.0];
        let was_down = self.roster.devices[seat.0].unit.is_down();
        let late = begun.saturating_duration_since(partner.due).as_nanos() / partner.period.as_nanos().max(1);
        let skipped = u32::try_from(late).unwrap_or(u32::MAX);
        partner.due += partner.period.saturating_mul(skipped.saturating_add(1));
        if was_down {
            self.stats.probes.one();
        } else {
            self.stats.polls_skipped.add(skipped.into());
            self.roster.devices[seat.0].skipped(skipped.into());
        }
        let reader = &partner.reader;
        let before = self.stats.noise();
        let answer = self.talk.ask(reader.question(), self.response_timeout, |frame| reader.read(frame)).await;
        self.stats.polls.one();
        let device = &mut self.roster.devices[seat.0];
        device.heard(self.stats.noise().since(before));
        if let (Ok(_), Some(took)) = (&answer, self.talk.took()) {
            device.took(took);
            self.stats.response.add(took);
        }
        let (elapsed_ms, error) = (begun.elapsed().as_millis(), answer.as_ref().err().map(display));
        debug!(bus = %self.name, device = %device.name, elapsed_ms, error, "polled");
        self.stats.busy_micros.add(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
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
            _ = self.switched.changed() => return self.switched.mark_changed(),
            () = self.shared.stop.begun() => return,
        };
        match heard {
            Err(error) => self.lost(&error).await,
            Ok(frames) if self.mode == LineMode::Poll => self.stats.stale.add(frames.len() as u64),
            Ok(frames) => {
                for frame in frames {
                    let read = |(place, partner): (usize, &Partner)| Some((Seat(place), partner.reader.read(&frame)?));
                    let Some((seat, readings)) = self.partners.iter().enumerate().find_map(read) else {
                        self.stats.foreign.one();
                        continue;
                    };
                    self.stats.replies.one();
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
