//! A lane of a bus: what owns a driver, its schedule and the state of its tags. The loop; what its outcomes lead to is
//! in `outcome`.
//!
//! Fed by the plan and by the command queue, emits to the hub. Promises: at most one transaction at a time, never
//! cancelled halfway; commands go before polls, at most two in a row; every loss of the connection, every standing of a
//! device is told once; a stop is heard between two transactions, and commands still waiting are refused `stopping`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::adopt::{Plans, news};
use super::bus::{Shared, refuse_stopping};
use super::carrier::Opener;
use super::command::FieldCommand;
use super::devices::Seat;
use super::driver::{Driver, Pace};
use super::envoy::{Envoy, Site};
use super::memory::Memory;
use super::modbus::timing::Timing;
use super::rounds::Rounds;
use super::schedule::{Next, PollIx, Schedule};
use super::tags::Tags;
use crate::config::blocks::plan_blocks;
use crate::config::plan::Keep;
use crate::flow::hub::Hub;
use crate::flow::notice::Notices;
use crate::flow::progress;
use crate::flow::stop::Stop;
use crate::model::command::{Outcome, Refusal};
use crate::model::quality::Cause;
use crate::model::time::Stamp;

/// Commands that may go before a poll that is due.
const COMMANDS_IN_A_ROW_MAX: u8 = 2;

/// A turn that takes longer than this is one that never ends. Not counted in it: waiting for answers.
const STUCK_AFTER: Duration = Duration::from_secs(300);
/// Waits for an answer in one turn: a block, tried twice and taken apart to single registers.
const ANSWERS_IN_A_TURN: u32 = 40;

/// How long a turn of a bus may take whose devices may take so long to answer; and so, how long it may take to end.
pub fn turn_max(response_timeout: Duration) -> Duration {
    STUCK_AFTER.saturating_add(response_timeout.saturating_mul(ANSWERS_IN_A_TURN))
}

/// One connection and the devices behind it, built and then run.
pub(super) struct Lane {
    /// The devices behind it.
    pub(super) envoy: Envoy,
    stop: Stop,
    pub(super) keep: Keep,
    commands: mpsc::Receiver<FieldCommand>,
    waiting: Option<FieldCommand>,
    commands_in_a_row: u8,
    pub(super) driver: Driver,
    pub(super) schedule: Schedule,
    next_round: Instant,
    pub(super) rounds: Rounds,
    pub(super) memory: Option<Arc<dyn Memory>>,
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
        let plan = Arc::clone(&site.plan);
        let of = &plan[site.bus];
        let now = Instant::now();
        let mut blocks = plan_blocks(&plan, site.bus);
        blocks.retain(|block| site.devices.contains(&block.device));
        let tags = Tags::new(&plan, &blocks).resuming(&hub.active_alarms());
        let paces = Pace::of_units(site.devices.iter().filter_map(|ix| plan.device(*ix)));
        let driver = Driver::new(opener, Timing::new(of), paces, Arc::clone(&site.stats));
        let mut envoy = Envoy::new(site, hub, shared.clock, tags);
        envoy.roster.set_polls(&plan, blocks, &envoy.tags);
        let mut lane = Self {
            next_round: envoy.next_round(now),
            envoy,
            driver,
            schedule: Schedule::default(),
            rounds: Rounds::new(now),
            keep: of.habits.keep,
            memory: None,
            stop: shared.stop,
            commands,
            waiting: None,
            commands_in_a_row: 0,
        };
        lane.schedule = lane.scheduled(now);
        lane
    }

    /// See [`super::Bus::telling`].
    pub(super) fn telling(mut self, notices: Notices) -> Self {
        self.envoy.notices = Some(notices);
        self
    }

    /// See [`super::Bus::following`].
    pub(super) fn following(mut self, plans: Plans) -> Self {
        self.envoy.plans = Some(plans);
        self
    }

    /// See [`super::Bus::precise`].
    pub(super) fn precise(mut self) -> Self {
        self.driver.precise();
        self
    }

    /// All polls, due now.
    pub(super) fn scheduled(&self, now: Instant) -> Schedule {
        let periods = self.envoy.roster.periods();
        match self.keep {
            Keep::Open => Schedule::new(&periods, now.into_std()),
            Keep::CloseAfterCycle => Schedule::together(&periods, now.into_std()),
        }
    }

    /// Polls until the stop. Ends after the transaction under way. Not cancel-safe.
    pub(super) async fn run(mut self) {
        info!(bus = %self.envoy.name, polls = self.envoy.roster.polls.len(), "bus begins");
        while !self.stop.is_begun() {
            progress::step(self.turn_max());
            self.envoy.stats.turns.one();
            self.follow().await;
            self.heed_switches().await;
            let now = Instant::now();
            if now >= self.next_round {
                self.round().await;
                self.next_round = self.envoy.next_round(now);
            }
            match self.decide(now) {
                Turn::Open => self.open().await,
                Turn::Command(command) => self.command(command).await,
                Turn::Poll(ix) => self.poll(ix).await,
                Turn::Wait(until) => self.wait(until).await,
            }
        }
        self.refuse_waiting().await;
        self.envoy.leave().await;
    }

    /// What one turn may take at most, by the patience that the plan asks for.
    fn turn_max(&self) -> Duration {
        turn_max(self.envoy.plan[self.envoy.bus].response_timeout)
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
        let budget = self.envoy.probes.not_before();
        self.schedule.next(now.into_std(), |ix| {
            let seat = self.envoy.roster.polls[ix].seat;
            let device = &self.envoy.roster.devices[seat.0];
            let probe = if device.unit.is_down() { self.envoy.roster.probe_of(seat) } else { None };
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
            _ = self.envoy.switched.changed() => self.envoy.switched.mark_changed(),
            () = news(self.envoy.plans.as_mut()) => {}
            () = sleep_until(until) => {}
        }
    }

    async fn open(&mut self) {
        if self.envoy.open(&mut self.driver, &self.stop).await {
            if self.envoy.cut {
                let now = Instant::now().into_std();
                self.envoy.roster.devices.iter_mut().for_each(|device| device.unit.reconnected());
                (0..self.envoy.roster.polls.len()).for_each(|ix| self.schedule.begin_anew(ix, now));
            }
            self.envoy.connected();
        }
    }

    /// Every ten seconds: counts that changed, heartbeats of what is bad.
    async fn round(&mut self) {
        self.look_back();
        self.envoy.report();
        let at = self.envoy.clock.now();
        for place in 0..self.envoy.roster.devices.len() {
            if self.envoy.roster.devices[place].unit.is_down() {
                self.envoy.emit_bad(Seat(place), at).await;
            } else {
                self.envoy.look(Seat(place), at).await;
            }
        }
        self.tidy_up().await;
    }

    pub(super) async fn emit_bad_poll(&mut self, ix: PollIx, cause: Cause, at: Stamp) {
        let poll = &self.envoy.roster.polls[ix];
        let samples = self.envoy.tags.bad(poll.cuts.iter().map(|(slot, _)| *slot), cause, at);
        self.envoy.emit(poll.seat, samples).await;
    }

    async fn refuse_waiting(&mut self) {
        if let Some(command) = self.waiting.take() {
            drop(command.reply.send(Outcome::Refused(Refusal::Stopping))); // nobody may be waiting any more
        }
        refuse_stopping(&mut self.commands).await;
    }
}
