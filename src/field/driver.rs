//! The driver: what speaks Modbus on the connection of one bus, one request at a time.
//!
//! Fed by the bus and by the command under way. Promises: a connection that fails is closed, and opened again as
//! `connection` says; pauses that a device asks for are kept between any two of its requests.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::carrier::Opener;
use super::connection::{Connection, Speaks};
use super::modbus::session::{Precision, Reading, Session, Trouble};
use super::modbus::timing::Timing;
use super::modbus::write::Write;
use super::stats::BusStats;
use crate::config::plan::{DevicePlan, Manners};
use crate::model::tag::Table;

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

/// Speaks on the connection of one bus.
pub struct Driver {
    connection: Connection<Session>,
    timing: Timing,
    precision: Precision,
    /// And the end of each one's last request.
    paces: Vec<(Pace, Option<Instant>)>,
    /// Who was asked last.
    last_asked: Option<(u8, Instant)>,
    opened_at: Instant,
    stats: Arc<BusStats>,
}

impl Driver {
    /// Not yet open. `paces`: its units.
    pub fn new(opener: Box<dyn Opener>, timing: Timing, paces: Vec<Pace>, stats: Arc<BusStats>) -> Self {
        Self {
            connection: Connection::new(opener, Arc::clone(&stats)),
            timing,
            precision: Precision::Runtime,
            paces: paces.into_iter().map(|pace| (pace, None)).collect(),
            last_asked: None,
            opened_at: Instant::now(),
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
        self.connection.is_open()
    }

    /// Is it closed until something is due?
    pub fn is_resting(&self) -> bool {
        self.connection.is_resting()
    }

    /// Closes a connection that is not needed for a while.
    pub fn rest(&mut self) {
        self.connection.rest();
    }

    /// When the next attempt to open is due.
    pub const fn retry_at(&self) -> Instant {
        self.connection.retry_at()
    }

    /// Another number for each connection; one that was only closed because nothing was due goes on under its number.
    pub const fn connection(&self) -> u64 {
        self.connection.number()
    }

    /// Opens the connection; sets the time of the next attempt when it fails. Cancel-safe.
    pub async fn open(&mut self) -> io::Result<()> {
        let (timing, stats) = (self.timing.clone(), Arc::clone(&self.stats));
        self.connection.open(|wire| Session::new(wire, timing, stats).waiting(self.precision)).await?;
        self.opened_at = Instant::now();
        self.last_asked = None;
        Ok(())
    }

    /// When this unit may be asked next, the silence of the line apart; `None`: whenever the line is free.
    pub fn held_until(&self, unit: u8) -> Option<Instant> {
        let held = self.connection.speaker().and_then(|session| session.held_until(unit));
        self.paced_until(unit).max(held)
    }

    /// Until when the line has to be silent, whoever is asked next.
    pub fn quiet_until(&self) -> Instant {
        self.connection.speaker().map_or(self.retry_at(), Session::quiet_until)
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
            self.connection.close();
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
            self.connection.close();
        }
        written
    }

    /// How long the last answer took; `None`: the last request had none.
    pub fn last_response(&self) -> Option<Duration> {
        self.connection.speaker().and_then(Session::last_response)
    }

    /// See [`Session::must_learn_echo`].
    pub fn must_learn_echo(&self) -> bool {
        self.connection.speaker().is_some_and(Session::must_learn_echo)
    }

    fn session_mut(&mut self) -> Result<&mut Session, Trouble> {
        let nothing = super::modbus::exchange::Sent::Nothing;
        self.connection.speaker_mut().map_err(|error| Trouble::Lost { error, sent: nothing })
    }

    /// Learns from how a request ended.
    fn seen<T>(&mut self, unit: u8, outcome: Result<T, Trouble>) -> Result<T, Trouble> {
        let now = Instant::now();
        if let Some((_, last)) = self.paces.iter_mut().find(|(pace, _)| pace.unit == unit) {
            *last = Some(now);
        }
        self.last_asked = Some((unit, now));
        match &outcome {
            Err(Trouble::Lost { .. }) if self.is_spent() => self.connection.give_up(),
            Err(Trouble::Lost { .. }) => self.connection.close(),
            Ok(_) | Err(Trouble::Exception(_)) => self.connection.prove(),
            Err(_) => {}
        }
        outcome
    }

    fn is_spent(&self) -> bool {
        self.connection.speaker().is_some_and(Session::is_spent)
    }

    /// If the last question was not sent for what is owed on this connection, and for nothing else: opens the next one. True
    /// once it is open.
    pub async fn renewed(&mut self) -> bool {
        self.connection.is_given_up() && self.open().await.is_ok()
    }

    /// Nobody has answered for long: a server or an adapter may be stuck with this connection, so try another.
    pub fn renew_if_mute(&mut self) {
        if self.connection.is_mute() {
            self.connection.close();
        }
    }

    /// True when the connection just lost had worked, or had nothing wrong: opening it again at once is worth a try before anyone is told.
    pub const fn was_proven(&self) -> bool {
        self.connection.was_proven()
    }
}

impl Speaks for Driver {
    async fn begin(&mut self) -> io::Result<()> {
        self.open().await
    }

    fn untold_for(&self, response_timeout: Duration) -> Option<Duration> {
        self.connection.untold_for(response_timeout)
    }
}
