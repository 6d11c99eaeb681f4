//! A lane of a bus: what owns a driver, its schedule and the state of its tags. The loop; what its outcomes lead to is
//! in `outcome`.
//!
//! Fed by the plan and by the command queue, emits to the hub. Promises: at most one transaction at a time, never
//! cancelled halfway; commands go before polls, at most two in a row; every loss of the connection, every standing of a
//! device is told once; a stop is heard between two transactions, and commands still waiting are refused `stopping`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::adopt::{Plans, news};
use super::bus::Shared;
use super::carrier::Opener;
use super::command::FieldCommand;
use super::devices::{Roster, Seat};
use super::driver::{Driver, Pace};
use super::memory::Memory;
use super::modbus::timing::Timing;
use super::outlet;
use super::rounds::Rounds;
use super::schedule::{Next, PollIx, Schedule};
use super::standing::ProbeBudget;
use super::stats::BusStats;
use super::switches::Switches;
use super::tags::Tags;
use crate::config::blocks::plan_blocks;
use crate::config::plan::{Keep, Plan};
use crate::flow::clock::Clock;
use crate::flow::hub::Hub;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::flow::progress;
use crate::flow::stop::Stop;
use crate::model::command::{Outcome, Refusal};
use crate::model::quality::Cause;
use crate::model::tag::{BusIx, DeviceIx};
use crate::model::time::Stamp;
use crate::pipeline::point::Harvest;

/// Reports of counts, heartbeats of bad tags and tags that fell silent are looked at this often, or more often where a tag
/// may not be silent for long.
pub(super) const ROUND: Duration = Duration::from_secs(10);
/// For so long, or the response timeout if that is longer, the loss of a connection is nobody's business: a modem that dials
/// again. An attempt to open may take longer, and what was read before is not good meanwhile.
const REOPENING: Duration = Duration::from_secs(1);
/// Commands that may go before a poll that is due.
const COMMANDS_IN_A_ROW_MAX: u8 = 2;

/// A turn that takes longer than this is one that never ends. Not counted in it: waiting for answers.
const STUCK_AFTER: Duration = Duration::from_secs(300);
/// Waits for an answer in one turn: a block, tried twice and taken apart to single registers.
const ANSWERS_IN_A_TURN: u32 = 40;

/// How long a turn of a bus may take whose devices may take so long to answer.
pub(in crate::field) fn turn_max(response_timeout: Duration) -> Duration {
    STUCK_AFTER.saturating_add(response_timeout.saturating_mul(ANSWERS_IN_A_TURN))
}

/// What a lane is built for.
pub(super) struct Site {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Its bus.
    pub bus: BusIx,
    /// Which of the bus's lanes, from 0.
    pub place: usize,
    /// Whom it asks.
    pub devices: Vec<DeviceIx>,
    /// Where it counts.
    pub stats: Arc<BusStats>,
    /// What is asked of them.
    pub switches: Arc<Switches>,
}

/// One connection and the devices behind it, built and then run.
pub(super) struct Lane {
    pub(super) bus: BusIx,
    pub(super) plan: Arc<Plan>,
    pub(super) name: String,
    pub(super) hub: Hub,
    pub(super) clock: Clock,
    notices: Option<Notices>,
    pub(super) plans: Option<Plans>,
    pub(super) stop: Stop,
    keep: Keep,
    commands: mpsc::Receiver<FieldCommand>,
    waiting: Option<FieldCommand>,
    commands_in_a_row: u8,
    pub(super) driver: Driver,
    /// The loss of the connection has been told; until a device answers again.
    pub(super) cut: bool,
    pub(super) schedule: Schedule,
    pub(super) roster: Roster,
    pub(super) tags: Tags,
    pub(super) probes: ProbeBudget,
    next_round: Instant,
    pub(super) rounds: Rounds,
    pub(super) memory: Option<Arc<dyn Memory>>,
    pub(super) stats: Arc<BusStats>,
    pub(super) switches: Arc<Switches>,
    pub(super) switched: watch::Receiver<()>,
}

/// What the loop does next.
enum Turn {
    Open,
    Command(FieldCommand),
    Poll(PollIx),
    Wait(Instant),
}

impl Lane {
    /// Not yet connected.
    pub(super) fn new(
        opener: Box<dyn Opener>,
        site: Site,
        hub: Hub,
        shared: Shared,
        commands: mpsc::Receiver<FieldCommand>,
    ) -> Self {
        let Site { plan, bus, place, devices, stats, switches } = site;
        let of = &plan.buses[bus.0 as usize];
        let now = Instant::now();
        let blocks: Vec<_> =
            plan_blocks(&plan, bus).into_iter().filter(|block| devices.contains(&block.device)).collect();
        let tags = Tags::new(&plan, &blocks).resuming(&hub.active_alarms());
        let mut roster = Roster::new(&plan, &devices, now);
        roster.set_polls(&plan, blocks, &tags);
        let paces = Pace::of_units(devices.iter().filter_map(|ix| plan.devices.get(ix.0 as usize)));
        let mut lane = Self {
            bus,
            name: if place == 0 { of.name.clone() } else { format!("{}/{}", of.name, place + 1) },
            driver: Driver::new(opener, Timing::new(of), paces, Arc::clone(&stats)),
            schedule: Schedule::default(),
            probes: ProbeBudget::new(now.into_std()),
            next_round: now + ROUND,
            rounds: Rounds::new(now),
            keep: of.habits.keep,
            plan,
            hub,
            clock: shared.clock,
            notices: None,
            plans: None,
            memory: None,
            stop: shared.stop,
            commands,
            waiting: None,
            commands_in_a_row: 0,
            cut: false,
            roster,
            tags,
            stats,
            switched: switches.changes(),
            switches,
        };
        lane.schedule = lane.scheduled(now);
        lane
    }

    /// See [`super::Bus::telling`].
    pub(super) fn telling(self, notices: Notices) -> Self {
        Self { notices: Some(notices), ..self }
    }

    /// See [`super::Bus::following`].
    pub(super) fn following(self, plans: Plans) -> Self {
        Self { plans: Some(plans), ..self }
    }

    /// See [`super::Bus::precise`].
    pub(super) fn precise(mut self) -> Self {
        self.driver.precise();
        self
    }

    /// All polls, due now.
    pub(super) fn scheduled(&self, now: Instant) -> Schedule {
        let periods = self.roster.periods();
        match self.keep {
            Keep::Open => Schedule::new(&periods, now.into_std()),
            Keep::CloseAfterCycle => Schedule::together(&periods, now.into_std()),
        }
    }

    /// Polls until the stop. Ends after the transaction under way. Not cancel-safe.
    pub(super) async fn run(mut self) {
        info!(bus = %self.name, polls = self.roster.polls.len(), "bus begins");
        while !self.stop.is_begun() {
            progress::step(self.turn_max());
            self.stats.turns.one();
            self.follow().await;
            self.heed_switches().await;
            let now = Instant::now();
            if now >= self.next_round {
                self.round().await;
                self.next_round = now + self.tags.look_every().map_or(ROUND, |often| often.min(ROUND));
            }
            match self.decide(now) {
                Turn::Open => self.open().await,
                Turn::Command(command) => self.command(command).await,
                Turn::Poll(ix) => self.poll(ix).await,
                Turn::Wait(until) => self.wait(until).await,
            }
        }
        self.refuse_waiting().await;
        for place in 0..self.roster.devices.len() {
            let held = self.tags.flush(self.roster.devices[place].slots.iter().copied());
            self.emit(Seat(place), held).await;
        }
        self.report();
        info!(bus = %self.name, "bus ends");
    }

    /// What one turn may take at most, by the patience that the plan asks for.
    fn turn_max(&self) -> Duration {
        turn_max(self.plan.buses[self.bus.0 as usize].response_timeout)
    }

    fn decide(&mut self, now: Instant) -> Turn {
        let resting = self.driver.is_resting();
        if !self.driver.is_open() && !resting && self.driver.retry_at() <= now {
            return Turn::Open;
        }
        let next = self.next_poll(now);
        let polls_wait = matches!(next, Next::Poll(_));
        if (self.commands_in_a_row < COMMANDS_IN_A_ROW_MAX || !polls_wait)
            && let Some(command) = self.waiting.take().or_else(|| self.commands.try_recv().ok())
        {
            if resting {
                self.waiting = Some(command);
                return Turn::Open;
            }
            self.commands_in_a_row = self.commands_in_a_row.saturating_add(1);
            return Turn::Command(command);
        }
        let quiet = self.driver.quiet_until();
        match next {
            Next::Poll(_) if resting => Turn::Open,
            // The last moments are the session's: its timer may be the better one.
            Next::Poll(_) if quiet > now + self.driver.patience() => Turn::Wait(quiet - self.driver.patience()),
            Next::Poll(ix) => {
                self.commands_in_a_row = 0;
                Turn::Poll(ix)
            }
            Next::Wait(until) => {
                if self.keep == Keep::CloseAfterCycle && self.driver.is_open() {
                    self.driver.rest();
                }
                Turn::Wait(Instant::from_std(until).min(self.next_round))
            }
            Next::Idle if self.driver.is_open() => Turn::Wait(self.next_round),
            Next::Idle => Turn::Wait(self.driver.retry_at().min(self.next_round)),
        }
    }

    fn next_poll(&self, now: Instant) -> Next {
        if !self.driver.is_open() && !self.driver.is_resting() {
            return Next::Idle;
        }
        let budget = self.probes.not_before();
        self.schedule.next(now.into_std(), |ix| {
            let seat = self.roster.polls[ix].seat;
            let device = &self.roster.devices[seat.0];
            let probe = if device.unit.is_down() { self.roster.probe_of(seat) } else { None };
            let may = device.unit.may(ix, probe, budget);
            self.driver.held_until(device.unit_id).map_or(may, |held| may.no_sooner_than(held.into_std()))
        })
    }

    /// Waits for the moment, a command or the stop.
    async fn wait(&mut self, until: Instant) {
        let listen = self.waiting.is_none() && !(self.commands.is_closed() && self.commands.is_empty());
        tokio::select! {
            command = self.commands.recv(), if listen => self.waiting = command,
            () = self.stop.begun() => {}
            _ = self.switched.changed() => self.switched.mark_changed(),
            () = news(self.plans.as_mut()) => {}
            () = sleep_until(until) => {}
        }
    }

    async fn open(&mut self) {
        if self.driver.was_proven() && !self.cut && !self.driver.is_resting() {
            let patience = self.plan.buses[self.bus.0 as usize].response_timeout.max(REOPENING);
            tokio::select! {
                opened = self.driver.open() => return self.opened(opened).await,
                () = sleep(patience) => {}
                () = self.stop.begun() => return,
            }
            let text = "the connection was lost, and opening it again takes long";
            self.tell_cut(&std::io::Error::new(std::io::ErrorKind::TimedOut, text)).await;
        }
        let opened = tokio::select! {
            opened = self.driver.open() => opened,
            () = self.stop.begun() => return,
        };
        self.opened(opened).await;
    }

    async fn opened(&mut self, opened: std::io::Result<()>) {
        match opened {
            Ok(()) => {
                if self.cut {
                    let now = Instant::now().into_std();
                    self.roster.devices.iter_mut().for_each(|device| device.unit.reconnected());
                    (0..self.roster.polls.len()).for_each(|ix| self.schedule.begin_anew(ix, now));
                }
            }
            Err(error) => self.tell_cut(&error).await,
        }
    }

    /// No connection: every device is down, every tag bad. Told once; again only as a heartbeat.
    pub(super) async fn tell_cut(&mut self, error: &std::io::Error) {
        if !std::mem::replace(&mut self.cut, true) {
            let carrier = &self.plan.buses[self.bus.0 as usize].link.carrier;
            warn!(bus = %self.name, %carrier, error = %error, "bus has no connection");
            self.notice("bus_down", Phase::Active, format!("no connection: {carrier}: {error}"));
        }
        let at = self.clock.now();
        for place in 0..self.roster.devices.len() {
            let device = &mut self.roster.devices[place];
            if device.unit.is_paused() {
                continue;
            }
            device.unit.cut();
            device.cause = Cause::Transport;
            device.down_since.get_or_insert(at);
            self.emit_bad(Seat(place), at).await;
        }
        self.report();
    }

    pub(super) fn notice(&self, event: &'static str, phase: Phase, detail: String) {
        if let Some(notices) = &self.notices {
            notices.tell(Notice { event, phase, subject: self.name.clone(), detail });
        }
    }

    /// Every ten seconds: counts that changed, heartbeats of what is bad.
    async fn round(&mut self) {
        self.look_back();
        self.report();
        let at = self.clock.now();
        for place in 0..self.roster.devices.len() {
            if self.roster.devices[place].unit.is_down() {
                self.emit_bad(Seat(place), at).await;
            } else if !self.is_overtaken(self.tags.of_slots(&self.roster.devices[place].slots)) {
                let silent = self.tags.look(self.roster.devices[place].slots.iter().copied(), at);
                self.emit(Seat(place), silent).await;
            }
        }
        self.tidy_up().await;
    }

    pub(super) fn report(&mut self) {
        (0..self.roster.devices.len()).for_each(|place| self.tell(Seat(place)));
    }

    pub(super) fn tell(&mut self, seat: Seat) {
        let load = u8::try_from(self.stats.load_percent.get()).unwrap_or(u8::MAX);
        if let Some(report) = self.roster.devices[seat.0].news(load) {
            self.hub.report(report);
        }
    }

    pub(super) async fn emit_bad(&mut self, seat: Seat, at: Stamp) {
        let device = &self.roster.devices[seat.0];
        let samples = self.tags.bad(device.slots.iter().copied(), device.cause, at);
        self.emit(seat, samples).await;
    }

    pub(super) async fn emit_bad_poll(&mut self, ix: PollIx, cause: Cause, at: Stamp) {
        let poll = &self.roster.polls[ix];
        let samples = self.tags.bad(poll.cuts.iter().map(|(slot, _)| *slot), cause, at);
        self.emit(poll.seat, samples).await;
    }

    /// Sends on what came of a device's values.
    pub(super) async fn emit(&mut self, seat: Seat, harvest: Harvest) {
        outlet::send(&self.hub, &self.clock, &self.plan, self.roster.devices[seat.0].ix, harvest).await;
    }

    /// Those, too, for which the router holds a place while they are still being journalled: it waits for an answer to each.
    async fn refuse_waiting(&mut self) {
        let refuse = |command: FieldCommand| drop(command.reply.send(Outcome::Refused(Refusal::Stopping)));
        if let Some(command) = self.waiting.take() {
            refuse(command);
        }
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            refuse(command);
        }
    }
}
