//! The bus of type `line`: one task that asks its instruments, or listens to them, and sends on what they say.
//!
//! Fed by the plan, emits to the hub. Promises: one question at a time, never cancelled halfway; a device that falls
//! silent costs its neighbours one probe in twenty parts of the bus's time; every loss of the connection and every
//! standing of a device is told once. Its tags are read-only: a command that comes all the same is refused.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::reader::{Reader, Reading};
use super::talk::{NoAnswer, Talk};
use crate::config::plan::{DevicePlan, LineMode, Plan};
use crate::field::bus::{BusHandle, Shared};
use crate::field::carrier::{self, Opener};
use crate::field::command::{COMMANDS_WAITING_MAX, FieldCommand};
use crate::field::devices::{Ending, Roster, Seat};
use crate::field::outlet;
use crate::field::schedule::May;
use crate::field::standing::{Change, ProbeBudget};
use crate::field::stats::BusStats;
use crate::field::tags::{Said, Tags};
use crate::flow::hub::Hub;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::model::command::{Outcome, Refusal};
use crate::model::quality::Cause;
use crate::model::tag::{BusIx, DeviceIx, TagIx};
use crate::pipeline::point::Harvest;

/// Reports, heartbeats of bad tags and silent tags are looked at this often, or more often where a tag needs it.
const ROUND: Duration = Duration::from_secs(10);
/// The only poll of a device.
const ITS_POLL: usize = 0;

/// One bus, built and then run.
pub struct LineBus {
    plan: Arc<Plan>,
    name: String,
    hub: Hub,
    shared: Shared,
    notices: Option<Notices>,
    commands: mpsc::Receiver<FieldCommand>,
    mode: LineMode,
    response_timeout: Duration,
    talk: Talk,
    cut: bool,
    roster: Roster,
    partners: Vec<Partner>,
    tags: Tags,
    probes: ProbeBudget,
    next_round: Instant,
    stats: Arc<BusStats>,
}

/// What a line bus knows of a device beside its seat.
struct Partner {
    reader: Reader,
    period: Duration,
    due: Instant,
    heard: Instant,
    /// With listening: silent for longer than this it counts as silent.
    silent_after: Option<Duration>,
}

/// The devices of a bus that say something, and what the bus knows of them.
fn speakers(plan: &Plan, bus: BusIx, tags: &Tags, now: Instant) -> (Vec<DeviceIx>, Vec<Partner>) {
    let own = (0..).map(DeviceIx).zip(&plan.devices).filter(|(_, device)| device.bus == Some(bus));
    let speaker = |(ix, device): (DeviceIx, &DevicePlan)| {
        let reader = Reader::new(plan, ix, tags)?;
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
        let (speakers, partners) = speakers(&plan, bus, &tags, now);
        let mut roster = Roster::new(&plan, &speakers, now);
        for (device, partner) in roster.devices.iter_mut().zip(&partners) {
            device.slots = partner.reader.slots().collect();
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
            commands,
            cut: false,
            roster,
            partners,
            tags,
            stats: Arc::clone(&stats),
        };
        (built, BusHandle { commands: sender, stats, others: Vec::new() })
    }

    /// Tells the operator there when the bus has no connection, and when it has one again.
    #[must_use]
    pub fn telling(self, notices: Notices) -> Self {
        Self { notices: Some(notices), ..self }
    }

    /// Asks or listens until the stop. Not cancel-safe.
    pub async fn run(mut self) {
        info!(bus = %self.name, devices = self.partners.len(), "bus begins");
        while !self.shared.stop.is_begun() {
            self.stats.turns.one();
            self.refuse(Refusal::Access);
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
        self.refuse(Refusal::Stopping);
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
            () = sleep_until(until) => {}
        }
    }

    async fn open(&mut self) {
        // Whoever asked there before us may still be answered: an answer does not say to whom.
        let listen_first = if self.mode == LineMode::Poll { self.response_timeout } else { Duration::ZERO };
        let opened = tokio::select! {
            opened = self.talk.open(listen_first) => opened,
            () = self.shared.stop.begun() => return,
        };
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
        }
        let reader = &partner.reader;
        let answer = self.talk.ask(reader.question(), self.response_timeout, |frame| reader.read(frame)).await;
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

    async fn said(&mut self, seat: Seat, readings: Vec<Reading>) {
        let at = self.shared.clock.now();
        self.partners[seat.0].heard = Instant::now();
        let mut harvest = Harvest::default();
        for Reading { slot, raw, doubt } in readings {
            self.tags.offer(slot, Said { raw, doubt }, at, &mut harvest);
        }
        if std::mem::take(&mut self.cut) {
            info!(bus = %self.name, "bus is connected again");
            self.notice(Phase::Cleared, "connected again".into());
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

    async fn failed(&mut self, seat: Seat, cause: Cause, begun: Instant) {
        let now = Instant::now();
        let device = &mut self.roster.devices[seat.0];
        device.count(if cause == Cause::Timeout { Ending::Timeout } else { Ending::Error });
        if device.unit.is_down() {
            self.probes.spent(now.duration_since(begun), now.into_std());
        }
        let change = device.unit.failed(Some(ITS_POLL), now.into_std());
        self.partners[seat.0].due = now; // a second try, or a probe: the standing says when
        self.fallen(seat, change, cause).await;
        if self.talk.is_mute() {
            self.talk.close();
        }
    }

    async fn fallen(&mut self, seat: Seat, change: Change, cause: Cause) {
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
    async fn lost(&mut self, error: &io::Error) {
        let was_proven = self.talk.was_proven();
        self.talk.close();
        if was_proven {
            debug!(bus = %self.name, error = %error, "connection lost");
        } else {
            self.tell_cut(error).await;
        }
    }

    async fn tell_cut(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.cut, true) {
            warn!(bus = %self.name, error = %error, "bus has no connection");
            self.notice(Phase::Active, format!("no connection: {error}"));
        }
        let at = self.shared.clock.now();
        for place in 0..self.partners.len() {
            let device = &mut self.roster.devices[place];
            device.unit.cut();
            device.cause = Cause::Transport;
            device.down_since.get_or_insert(at);
            self.emit_bad(Seat(place)).await;
        }
        self.report();
    }

    /// Counts that changed, heartbeats of what is bad, and who has fallen silent.
    async fn round(&mut self) {
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

    fn notice(&self, phase: Phase, detail: String) {
        if let Some(notices) = &self.notices {
            notices.tell(Notice { event: "bus_down", phase, subject: self.name.clone(), detail });
        }
    }

    fn report(&mut self) {
        (0..self.roster.devices.len()).for_each(|place| self.tell(Seat(place)));
    }

    fn tell(&mut self, seat: Seat) {
        let load = u8::try_from(self.stats.load_percent.get()).unwrap_or(100);
        if let Some(report) = self.roster.devices[seat.0].news(load) {
            self.hub.report(report);
        }
    }

    async fn emit_bad(&mut self, seat: Seat) {
        let (at, device) = (self.shared.clock.now(), &self.roster.devices[seat.0]);
        let harvest = self.tags.bad(device.slots.iter().copied(), device.cause, at);
        self.emit(seat, harvest).await;
    }

    async fn emit(&mut self, seat: Seat, harvest: Harvest) {
        outlet::send(&self.hub, &self.shared.clock, &self.plan, self.roster.devices[seat.0].ix, harvest).await;
    }

    fn refuse(&mut self, reason: Refusal) {
        while let Ok(command) = self.commands.try_recv() {
            drop(command.reply.send(Outcome::Refused(reason)));
        }
    }
}
