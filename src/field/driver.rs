//! The driver: the connection of one bus, kept open, opened again with backoff, one request at a time.
//!
//! Fed by the bus and by the command under way. Promises: closes before it opens again; a connection that was found
//! closed between two requests is opened again at once, one that gives no answer at all only after a growing wait;
//! pauses that a device asks for are kept between any two of its requests.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::carrier::Opener;
use super::modbus::session::{Precision, Reading, Session, Trouble};
use super::modbus::timing::Timing;
use super::modbus::write::Write;
use super::stats::BusStats;
use crate::config::plan::{DevicePlan, Manners};
use crate::model::tag::Table;

/// With every unit silent for this long a connection is opened anew, though it looks well.
const MUTE_MAX: Duration = Duration::from_secs(60);

/// See [`Driver::patience`]: longer than the pause between two frames at 9600 baud, shorter than any transaction there.
const PATIENCE: Duration = Duration::from_millis(5);

/// How a unit wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// The unit.
    pub unit: u8,
    /// Its pauses, and under which id it answers.
    pub manners: Manners,
}

impl Pace {
    /// Of the units of these devices: one that is several devices of the plan as all of them together.
    pub fn of_units<'a>(devices: impl IntoIterator<Item = &'a DevicePlan>) -> Vec<Self> {
        let mut paces: Vec<Self> = Vec::new();
        for DevicePlan { unit_id, manners, .. } in devices {
            match paces.iter_mut().find(|pace| pace.unit == *unit_id) {
                Some(pace) => pace.manners = pace.manners.suiting(manners),
                None => paces.push(Self { unit: *unit_id, manners: manners.clone() }),
            }
        }
        paces
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resting {
    /// Nothing is due.
    Yes,
    /// It could not be opened, or was lost.
    No,
}

/// The connection of one bus.
pub struct Driver {
    opener: Box<dyn Opener>,
    timing: Timing,
    session: Option<Session>,
    /// The present connection has brought at least one answer.
    proven: bool,
    opened_before: bool,
    retry_at: Instant,
    /// Of any unit, or when the connection was opened.
    last_answer: Instant,
    backoff: Backoff,
    precision: Precision,
    /// And the end of each one's last request.
    paces: Vec<(Pace, Option<Instant>)>,
    /// Who was asked last.
    last_asked: Option<(u8, Instant)>,
    opened_at: Instant,
    resting: Resting,
    connection: u64,
    stats: Arc<BusStats>,
}

impl Driver {
    /// Not yet open. `paces`: its units.
    pub fn new(opener: Box<dyn Opener>, timing: Timing, paces: Vec<Pace>, stats: Arc<BusStats>) -> Self {
        let now = Instant::now();
        Self {
            opener,
            timing,
            session: None,
            proven: false,
            opened_before: false,
            retry_at: now,
            last_answer: now,
            backoff: Backoff::default(),
            precision: Precision::Runtime,
            paces: paces.into_iter().map(|pace| (pace, None)).collect(),
            last_asked: None,
            opened_at: now,
            resting: Resting::No,
            connection: 0,
            stats,
        }
    }

    /// Other units from now on; the pause after the last request to one that stays is kept.
    pub fn keep_pace(&mut self, paces: Vec<Pace>) {
        let before = std::mem::take(&mut self.paces);
        let last = |unit: u8| before.iter().find(|(pace, _)| pace.unit == unit).and_then(|(_, last)| *last);
        self.paces = paces.into_iter().map(|pace| (last(pace.unit), pace)).map(|(last, pace)| (pace, last)).collect();
    }

    /// Pauses of the line are waited out by the system's clock, to fractions of a millisecond.
    pub fn precise(&mut self) {
        self.precision = Precision::System;
    }

    /// The last part of a silence, which a request waits out itself because its timer is the better one; commands are not
    /// listened for meanwhile.
    pub fn patience(&self) -> Duration {
        match self.precision {
            Precision::Runtime => Duration::ZERO,
            Precision::System => PATIENCE,
        }
    }

    /// Is there a connection?
    pub const fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Is it closed until something is due?
    pub fn is_resting(&self) -> bool {
        self.resting == Resting::Yes
    }

    /// Closes a connection that is not needed for a while.
    pub fn rest(&mut self) {
        self.session = None;
        self.resting = Resting::Yes;
        self.retry_at = Instant::now();
    }

    /// When the next attempt to open is due.
    pub const fn retry_at(&self) -> Instant {
        self.retry_at
    }

    /// Another number for each connection; one that was only closed because nothing was due goes on under its number.
    pub const fn connection(&self) -> u64 {
        self.connection
    }

    /// Opens the connection; sets the time of the next attempt when it fails. Cancel-safe.
    pub async fn open(&mut self) -> io::Result<()> {
        self.session = None;
        let rested = std::mem::replace(&mut self.resting, Resting::No) == Resting::Yes;
        self.proven &= rested; // a connection that we closed ourselves is no loss, nor is the next one on trial
        match self.opener.open().await {
            Ok(wire) => {
                self.session =
                    Some(Session::new(wire, self.timing.clone(), Arc::clone(&self.stats)).waiting(self.precision));
                if std::mem::replace(&mut self.opened_before, true) && !rested {
                    self.stats.reconnects.one();
                }
                self.connection += u64::from(!rested);
                self.stats.connected.set(1);
                self.opened_at = Instant::now();
                self.last_answer = self.opened_at;
                self.last_asked = None;
                Ok(())
            }
            Err(error) => {
                self.retry_at = Instant::now() + self.backoff.next(rand::random());
                Err(error)
            }
        }
    }

    /// When this unit may be asked next, the silence of the line apart; `None`: whenever the line is free.
    pub fn held_until(&self, unit: u8) -> Option<Instant> {
        let held = self.session.as_ref().and_then(|session| session.held_until(unit));
        self.paced_until(unit).max(held)
    }

    /// Until when the line has to be silent, whoever is asked next.
    pub fn quiet_until(&self) -> Instant {
        self.session.as_ref().map_or(self.retry_at, Session::quiet_until)
    }

    fn pace(&self, unit: u8) -> Option<&(Pace, Option<Instant>)> {
        self.paces.iter().find(|(pace, _)| pace.unit == unit)
    }

    /// The pauses that the unit asks for.
    fn paced_until(&self, unit: u8) -> Option<Instant> {
        let (Pace { manners, .. }, last) = self.pace(unit)?;
        let between = last.filter(|_| !manners.delay_between_requests.is_zero());
        let connected = Some(self.opened_at).filter(|_| !manners.pause_after_connect.is_zero());
        let changed = self.last_asked.filter(|(last, _)| *last != unit && !manners.delay_on_unit_change.is_zero());
        let between = between.map(|end| end + manners.delay_between_requests);
        let connected = connected.map(|opened| opened + manners.pause_after_connect);
        between.max(connected).max(changed.map(|(_, end)| end + manners.delay_on_unit_change))
    }

    /// Waits until this unit may be asked. Cancel-safe.
    pub async fn settle(&mut self, unit: u8) -> Result<(), Trouble> {
        if let Some(next) = self.paced_until(unit).filter(|next| *next > Instant::now()) {
            sleep_until(next).await;
        }
        let answers_as = self.pace(unit).map(|(pace, _)| pace.manners.answers_as).unwrap_or_default();
        self.session_mut()?.expect_from(answers_as);
        let settled = self.session_mut()?.settle(unit).await;
        if settled.is_err() {
            self.close();
        }
        settled
    }

    /// Reads registers or bits. Not cancel-safe.
    pub async fn read(&mut self, unit: u8, table: Table, start: u16, count: u16) -> Result<Reading, Trouble> {
        self.settle(unit).await?;
        let read = self.session_mut()?.read(unit, table, start, count).await;
        self.seen(unit, read)
    }

    /// Writes. Not cancel-safe.
    pub async fn write(&mut self, unit: u8, write: &Write) -> Result<(), Trouble> {
        self.settle(unit).await?;
        let written = self.session_mut()?.write(unit, write).await;
        self.seen(unit, written)
    }

    /// Is a write to this unit one to all of a serial line, which nobody answers?
    pub const fn broadcasts(&self, unit: u8) -> bool {
        unit == 0 && !self.timing.is_numbered()
    }

    /// Writes to all units of a serial line. Not cancel-safe.
    pub async fn broadcast(&mut self, write: &Write) -> Result<(), Trouble> {
        let written = self.session_mut()?.broadcast(write).await;
        if written.is_err() {
            self.close();
        }
        written
    }

    /// How long the last answer took; `None`: the last request had none.
    pub fn last_response(&self) -> Option<Duration> {
        self.session.as_ref().and_then(Session::last_response)
    }

    /// See [`Session::must_learn_echo`].
    pub fn must_learn_echo(&self) -> bool {
        self.session.as_ref().is_some_and(Session::must_learn_echo)
    }

    fn session_mut(&mut self) -> Result<&mut Session, Trouble> {
        self.session.as_mut().ok_or_else(|| Trouble::Lost {
            error: io::ErrorKind::NotConnected.into(),
            sent: super::modbus::exchange::Sent::Nothing,
        })
    }

    /// Learns from how a request ended.
    fn seen<T>(&mut self, unit: u8, outcome: Result<T, Trouble>) -> Result<T, Trouble> {
        let now = Instant::now();
        if let Some((_, last)) = self.paces.iter_mut().find(|(pace, _)| pace.unit == unit) {
            *last = Some(now);
        }
        self.last_asked = Some((unit, now));
        match &outcome {
            Err(Trouble::Lost { .. }) => self.close(),
            Ok(_) | Err(Trouble::Exception(_)) => {
                self.last_answer = now;
                self.proven = true;
                self.backoff.reset();
            }
            Err(_) => {}
        }
        outcome
    }

    /// Nobody has answered for long: a server or an adapter may be stuck with this connection, so try another.
    pub fn renew_if_mute(&mut self) {
        if self.session.is_some() && self.last_answer.elapsed() > MUTE_MAX {
            self.close();
        }
    }

    /// A port must be closed before it can be opened again.
    fn close(&mut self) {
        self.session = None;
        self.stats.connected.set(0);
        let wait = if self.proven { Duration::ZERO } else { self.backoff.next(rand::random()) };
        self.retry_at = Instant::now() + wait;
    }

    /// True when the connection just lost had worked: opening it again at once is worth a try before anyone is told.
    pub const fn was_proven(&self) -> bool {
        self.proven
    }
}
