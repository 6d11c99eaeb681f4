//! Who speaks for the devices behind a connection: knows them and their tags, and sends word of them out: values and
//! reports to the hub, notices to the operator, changes to the log.
//!
//! Fed by the loop that owns the connection, a [`super::lane`] or a bus of type `line`, which says what came of asking.
//! Promises: every loss of the connection and every standing of a device is told once; while it lasts, what is bad is only
//! said again. What it does not do: ask, or say who is asked when.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::adopt::Plans;
use super::backoff::takes_long;
use super::carrier;
use super::connection::Speaks;
use super::devices::{Poll, Roster, Seat};
use super::outlet;
use super::overload::{News, Overload};
use super::standing::{Change, ProbeBudget};
use super::stats::BusStats;
use super::switches::Switches;
use super::tags::Tags;
use crate::config::plan::Plan;
use crate::flow::clock::Clock;
use crate::flow::hub::Hub;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::flow::stop::Stop;
use crate::model::quality::Cause;
use crate::model::tag::{BusIx, DeviceIx, TagIx};
use crate::model::time::{Stamp, micros, millis};
use crate::pipeline::point::Harvest;

/// Reports of counts, heartbeats of bad tags and tags that fell silent are looked at this often, or more often where a tag
/// may not be silent for long.
pub(super) const ROUND: Duration = Duration::from_secs(10);

/// What a connection is for.
pub(super) struct Site {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Its bus.
    pub bus: BusIx,
    /// Which of the bus's connections, from 0.
    pub place: usize,
    /// Whom it asks.
    pub devices: Vec<DeviceIx>,
    /// Where it counts.
    pub stats: Arc<BusStats>,
    /// What is asked of them.
    pub switches: Arc<Switches>,
}

/// See above.
pub(super) struct Envoy {
    /// The plan that holds.
    pub plan: Arc<Plan>,
    /// Its bus.
    pub bus: BusIx,
    /// The bus's name, with a number from the second connection on.
    pub name: String,
    /// Where values and reports go.
    pub hub: Hub,
    /// The time.
    pub clock: Clock,
    /// Where the operator is told.
    pub notices: Option<Notices>,
    /// The plans that come.
    pub plans: Option<Plans>,
    /// Its devices and their polls.
    pub roster: Roster,
    /// Their tags.
    pub tags: Tags,
    /// The time that is left for those that are down.
    pub probes: ProbeBudget,
    /// Where it counts.
    pub stats: Arc<BusStats>,
    /// What a person asks of its devices …
    pub switches: Arc<Switches>,
    /// … and when that changes.
    pub switched: watch::Receiver<()>,
    /// The loss of the connection has been told; until a device answers again, if one is asked.
    pub cut: bool,
    /// It was told as one that somebody on this box has to mend.
    told_ours: bool,
    load: Load,
}

/// The counts at the last look, and what was said of them.
#[derive(Debug)]
struct Load {
    at: Instant,
    busy_micros: u64,
    polls: u64,
    skipped: u64,
    overload: Overload,
}

/// The polls of a round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Polls {
    /// Carried out.
    pub done: u64,
    /// Left out, because there was no time.
    pub skipped: u64,
}

impl Envoy {
    /// Nobody was asked yet.
    pub(super) fn new(site: Site, hub: Hub, clock: Clock, tags: Tags) -> Self {
        let Site { plan, bus, place, devices, stats, switches } = site;
        let now = Instant::now();
        let of = &plan[bus];
        Self {
            name: if place == 0 { of.name.clone() } else { format!("{}/{}", of.name, place + 1) },
            roster: Roster::new(&plan, &devices, now),
            probes: ProbeBudget::new(now.into_std()),
            switched: switches.changes(),
            load: Load { at: now, busy_micros: 0, polls: 0, skipped: 0, overload: Overload::default() },
            notices: None,
            plans: None,
            cut: false,
            told_ours: false,
            plan,
            bus,
            hub,
            clock,
            tags,
            stats,
            switches,
        }
    }

    /// When the round after this moment is due.
    pub(super) fn next_round(&self, now: Instant) -> Instant {
        now + self.tags.look_every().map_or(ROUND, |often| often.min(ROUND))
    }

    /// Load and overload of the last round; `None` if it was one that only looked for silent tags.
    pub(super) fn look_back(&mut self) -> Option<Polls> {
        let (stats, load, now) = (&self.stats, &mut self.load, Instant::now());
        let (busy, polls, skipped) = (stats.busy_micros.get(), stats.polls.get(), stats.polls_skipped.get());
        if now.duration_since(load.at) < ROUND {
            return None;
        }
        let passed = micros(now.duration_since(load.at)).max(1);
        stats.load_percent.set(((busy - load.busy_micros).saturating_mul(100) / passed).min(100));
        let round = Polls { done: polls - load.polls, skipped: skipped - load.skipped };
        (load.at, load.busy_micros, load.polls, load.skipped) = (now, busy, polls, skipped);
        match load.overload.round(round.done, round.skipped) {
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
        Some(round)
    }

    /// Opens the connection; true once it is open. The loss of one that worked is not told at once; what fails is.
    /// Ends with the stop.
    pub(super) async fn open(&mut self, speaker: &mut impl Speaks, stop: &Stop) -> bool {
        let untold = speaker.untold_for(self.plan[self.bus].response_timeout);
        if let Some(untold) = untold.filter(|_| !self.cut) {
            tokio::select! {
                opened = speaker.begin() => return self.opened(opened).await,
                () = sleep(untold) => {}
                () = stop.begun() => return false,
            }
            self.tell_cut(&takes_long()).await;
        }
        tokio::select! {
            opened = speaker.begin() => self.opened(opened).await,
            () = stop.begun() => false,
        }
    }

    async fn opened(&mut self, opened: io::Result<()>) -> bool {
        match &opened {
            Ok(()) => self.stats.ours.set(0),
            Err(error) => self.tell_cut(error).await,
        }
        opened.is_ok()
    }

    /// No connection: every device is down, every tag bad. Told once; again only as a heartbeat, and when it is for somebody
    /// else to mend than was told.
    pub(super) async fn tell_cut(&mut self, error: &io::Error) {
        let ours = carrier::is_ours(error);
        self.stats.ours.set(ours.into());
        let turned = std::mem::replace(&mut self.told_ours, ours) != ours;
        if !std::mem::replace(&mut self.cut, true) || turned {
            let carrier = &self.plan[self.bus].link.carrier;
            warn!(bus = %self.name, %carrier, error = %error, "bus has no connection");
            self.notice("bus_down", Phase::Active, format!("no connection: {carrier}: {error}"));
        }
        let at = self.clock.now();
        for place in 0..self.roster.devices.len() {
            if !self.roster.devices[place].unit.is_paused() {
                self.cut_off(Seat(place), at).await;
            }
        }
        self.report();
    }

    /// One device has no connection.
    pub(super) async fn cut_off(&mut self, seat: Seat, at: Stamp) {
        let device = &mut self.roster.devices[seat.0];
        device.unit.cut();
        device.cause = Cause::Transport;
        device.down_since.get_or_insert(at);
        self.emit_bad(seat, at).await;
    }

    /// There is a connection. That is all there is to know of devices of which nothing is polled; and of the bus, where
    /// nobody is asked anything.
    pub(super) fn connected(&mut self) {
        let asked = |poll: &Poll| !self.roster.devices[poll.seat.0].unit.is_paused();
        if !self.roster.polls.iter().any(asked) {
            self.mend();
        }
        for place in 0..self.roster.devices.len() {
            let device = &mut self.roster.devices[place];
            if device.polls.is_empty() && device.unit.trusted() != Change::Same {
                device.down_since = None;
                self.tell(Seat(place));
            }
        }
    }

    /// The connection is worth something again.
    fn mend(&mut self) {
        if std::mem::take(&mut self.cut) {
            info!(bus = %self.name, "bus is connected again");
            self.notice("bus_down", Phase::Cleared, "connected again".into());
        }
    }

    /// A device answered: tells if that is news.
    pub(super) fn answered(&mut self, seat: Seat) -> Change {
        self.mend();
        let device = &mut self.roster.devices[seat.0];
        let change = device.unit.answered();
        if change == Change::Back {
            let down = device.down_since.take().map(|since| self.clock.now().since(since));
            let elapsed_ms = down.map(millis);
            info!(bus = %self.name, device = %device.name, elapsed_ms, "device answers again");
        }
        if change != Change::Same {
            self.tell(seat);
        }
        change
    }

    /// Tells what a failure changed.
    pub(super) async fn fallen(&mut self, seat: Seat, change: Change, cause: Cause) {
        if change == Change::Down {
            let at = self.clock.now();
            let device = &mut self.roster.devices[seat.0];
            if device.down_since.is_none() {
                warn!(bus = %self.name, device = %device.name, cause = cause.as_str(), "device is down");
                device.down_since = Some(at);
            }
            device.cause = cause;
            self.emit_bad(seat, at).await;
        }
        if matches!(change, Change::Down | Change::Suspect) {
            self.tell(seat);
        }
    }

    /// A person wants it left alone.
    pub(super) async fn pause(&mut self, seat: Seat) {
        let device = &mut self.roster.devices[seat.0];
        info!(bus = %self.name, device = %device.name, "device is paused");
        device.unit.pause();
        (device.cause, device.down_since) = (Cause::Paused, None);
        self.tell(seat);
        let at = self.clock.now();
        self.emit_bad(seat, at).await;
    }

    /// No more.
    pub(super) fn resume(&mut self, seat: Seat) {
        let device = &mut self.roster.devices[seat.0];
        info!(bus = %self.name, device = %device.name, "device is polled again");
        device.unit.resume();
    }

    /// The end of the connection's loop: nothing is held back any more.
    pub(super) async fn leave(&mut self) {
        for place in 0..self.roster.devices.len() {
            self.flush(Seat(place)).await;
        }
        self.report();
        info!(bus = %self.name, "bus ends");
    }

    /// Sends what is held back of a device's values.
    pub(super) async fn flush(&mut self, seat: Seat) {
        let held = self.tags.flush(self.roster.devices[seat.0].slots.iter().copied());
        self.emit(seat, held).await;
    }

    /// What is wrong with the connection, or no longer.
    fn notice(&self, event: &'static str, phase: Phase, detail: String) {
        if let Some(notices) = &self.notices {
            notices.tell(Notice { event, phase, subject: self.name.clone(), detail });
        }
    }

    /// The reports of all devices that have changed.
    pub(super) fn report(&mut self) {
        (0..self.roster.devices.len()).for_each(|place| self.tell(Seat(place)));
    }

    /// The report of one, if it has.
    pub(super) fn tell(&mut self, seat: Seat) {
        let load = u8::try_from(self.stats.load_percent.get()).unwrap_or(100); // more it cannot be: see `look_back`
        if let Some(report) = self.roster.devices[seat.0].news(load) {
            self.hub.report(report);
        }
    }

    /// All tags of a device are bad, for its cause.
    pub(super) async fn emit_bad(&mut self, seat: Seat, at: Stamp) {
        let device = &self.roster.devices[seat.0];
        let samples = self.tags.bad(device.slots.iter().copied(), device.cause, at);
        self.emit(seat, samples).await;
    }

    /// Those that fell silent are stale, unless their device begins anew in a moment.
    pub(super) async fn look(&mut self, seat: Seat, at: Stamp) {
        let slots = &self.roster.devices[seat.0].slots;
        if !self.is_overtaken(self.tags.of_slots(slots)) {
            let silent = self.tags.look(slots.iter().copied(), at);
            self.emit(seat, silent).await;
        }
    }

    /// Alarms of a device whose delays are over.
    pub(super) async fn tick(&mut self, seat: Seat, at: Stamp) {
        let over = self.tags.tick(self.roster.devices[seat.0].slots.iter().copied(), at);
        self.emit(seat, over).await;
    }

    /// Sends on what came of a device's values. Where another plan comes for a tag no alarm of it begins or ends by this one:
    /// what is active has moved by then. Its device begins anew and raises it.
    pub(super) async fn emit(&mut self, seat: Seat, mut harvest: Harvest) {
        harvest.alarms.retain(|change| !self.is_overtaken([change.tag]));
        outlet::send(&self.hub, &self.clock, &self.plan, self.roster.devices[seat.0].ix, harvest).await;
    }

    /// What is read of this tag is a value of it in a moment, too; if not, it is counted.
    pub(super) fn keeps(&self, tag: TagIx) -> bool {
        let keeps = self.plans.as_ref().is_none_or(|plans| plans.keep(&self.plan, tag));
        if !keeps {
            self.stats.overtaken.one();
        }
        keeps
    }

    /// Are any of these tags others in a moment, or elsewhere?
    pub(super) fn is_overtaken(&self, tags: impl IntoIterator<Item = TagIx>) -> bool {
        self.plans.as_ref().is_some_and(|plans| plans.overtake(&self.plan, tags))
    }
}
