//! One question to one unit, and what came of it. Every question of a scan goes through here: none of them writes.
//!
//! On the field room's own session, so that its gate and its silences hold: one question at a time, quiet after a timeout.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::plan::{BusPlan, Framing};
use crate::field::BusStats;
use crate::field::carrier::{self, Opener, Who};
use crate::field::modbus::exchange::Sent;
use crate::field::modbus::session::{Reading, Session, Trouble};
use crate::field::modbus::timing::Timing;
use crate::field::stats::Noise;
use crate::flow::clock::Clock;
use crate::model::tag::Address;

/// What a unit, or whoever is there instead, said to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// A valid answer.
    Data(Reading),
    /// A valid exception, which only somebody who is there can send.
    Exception(u8),
    /// Whole, of the right unit and undamaged, but not what the standard has as an answer.
    Odd,
    /// Under another unit id, on a network: the number of the question was right.
    OtherId,
    /// Bytes that are no frame, or damaged ones.
    Noise,
    /// Exceptions 10 and 11: a gateway says that nobody is behind it.
    Absent(u8),
    /// Nothing.
    Silence,
    /// The connection was closed, or the port went away.
    HungUp(String),
}

impl Sign {
    /// Is there a device?
    pub const fn is_found(&self) -> bool {
        matches!(self, Self::Data(_) | Self::Exception(_) | Self::Odd | Self::OtherId)
    }
}

/// A sign, and what else came meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The sign.
    pub sign: Sign,
    /// Broken frames, and bytes that belong to nothing.
    pub noise: Noise,
    /// Whole frames that answer something else: late ones, or another master's.
    pub late: u64,
    /// From question to answer.
    pub took: Duration,
}

/// One bus, asked by nobody else.
pub struct Prober {
    bus: BusPlan,
    opener: Box<dyn Opener>,
    session: Option<Session>,
    stats: Arc<BusStats>,
}

impl Prober {
    /// Not yet open.
    pub fn new(bus: BusPlan, clock: &Clock) -> Self {
        let opener = carrier::opener_of(&bus, clock, Who::Tool);
        Self { bus, opener, session: None, stats: Arc::default() }
    }

    /// How it is reached, and with which patience.
    pub const fn bus(&self) -> &BusPlan {
        &self.bus
    }

    /// From the next opening on, how long to wait for an answer.
    pub fn be_patient(&mut self, timeout: Duration) {
        self.bus.response_timeout = timeout;
        self.session = None;
    }

    /// Opens it, if it is closed.
    pub async fn open(&mut self) -> io::Result<()> {
        if self.session.is_none() {
            let wire = self.opener.open().await?;
            self.session = Some(Session::new(wire, Timing::new(&self.bus), Arc::clone(&self.stats)));
        }
        Ok(())
    }

    /// The session, if it is open.
    pub const fn session(&mut self) -> Option<&mut Session> {
        self.session.as_mut()
    }

    /// Waits until the line may be used; what came on it unasked.
    pub async fn listen(&mut self, unit: u8) -> Result<Noise, String> {
        let before = self.stats.noise();
        match &mut self.session {
            None => Err("the connection is closed".into()),
            Some(session) => match session.settle(unit).await {
                Ok(()) => Ok(self.stats.noise().since(before)),
                Err(trouble) => Err(self.lost(&trouble)),
            },
        }
    }

    /// Reads one register or bit.
    pub async fn ask(&mut self, unit: u8, place: Address) -> Heard {
        self.ask_for(unit, place, 1).await
    }

    /// Reads several.
    pub async fn ask_for(&mut self, unit: u8, place: Address, count: u16) -> Heard {
        // What is still coming from before must not be taken for a sign of this unit.
        let pending = match self.listen(unit).await {
            Ok(pending) => pending.stale,
            Err(why) => {
                return Heard { sign: Sign::HungUp(why), noise: Noise::default(), late: 0, took: Duration::ZERO };
            }
        };
        let (before, foreign) = (self.stats.noise(), self.stats.foreign.get());
        let mut asked = Instant::now();
        let mut read = self.read(unit, place, count).await;
        if self.session.as_ref().is_some_and(Session::is_spent) {
            if let Err(trouble) = self.renew(unit).await {
                return Heard {
                    sign: Sign::HungUp(self.lost(&trouble)),
                    noise: Noise::default(),
                    late: 0,
                    took: Duration::ZERO,
                };
            }
            asked = Instant::now();
            read = self.read(unit, place, count).await;
        }
        let took = asked.elapsed();
        let noise = self.stats.noise().since(before);
        let numbered = self.bus.link.framing == Framing::Mbap;
        let sign = match read {
            Ok(reading) => Sign::Data(reading),
            Err(Trouble::Exception(code @ (10 | 11))) => Sign::Absent(code),
            Err(Trouble::Exception(code)) => Sign::Exception(code),
            // Without a broken frame it was a whole one of this unit that made it no silence.
            Err(Trouble::Protocol) if noise.crc == 0 && (numbered || noise.stale > 0) => Sign::Odd,
            Err(Trouble::Timeout) if numbered && self.stats.foreign.get() > foreign => Sign::OtherId,
            Err(Trouble::Protocol) => Sign::Noise,
            Err(Trouble::Timeout) if noise.garbage >= NOISE_MIN => Sign::Noise,
            Err(Trouble::Timeout | Trouble::TooLong) => Sign::Silence,
            Err(trouble @ Trouble::Lost { .. }) => Sign::HungUp(self.lost(&trouble)),
        };
        let others = if numbered { noise.stale } else { self.stats.foreign.get() - foreign };
        Heard { sign, noise, late: pending + others, took }
    }

    /// A connection on which nothing is owed, ready to ask this unit.
    async fn renew(&mut self, unit: u8) -> Result<(), Trouble> {
        self.session = None;
        self.open().await.map_err(|error| Trouble::Lost { error, sent: Sent::Nothing })?;
        match &mut self.session {
            Some(session) => session.settle(unit).await,
            None => Ok(()),
        }
    }

    async fn read(&mut self, unit: u8, place: Address, count: u16) -> Result<Reading, Trouble> {
        match &mut self.session {
            Some(session) => session.read(unit, place.table, place.start, count).await,
            None => Err(Trouble::Protocol),
        }
    }

    /// Closes what is of no use any more; why.
    pub fn lost(&mut self, trouble: &Trouble) -> String {
        self.session = None;
        match trouble {
            Trouble::Lost { error, .. } => error.to_string(),
            other => other.to_string(),
        }
    }
}

/// A transceiver that is switched leaves a byte or two that nobody sent.
const NOISE_MIN: u64 = 3;
