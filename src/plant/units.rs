//! The units behind one simulated line: who is addressed, what is wrong with it, what it answers and when.
//!
//! Fed by the lines (tcp, rtu) with request PDUs; faults are set from outside at any time. Values move when they are looked
//! at: a unit works out its image for the moment of each request, so that an unread plant costs nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::stats::Counter;

use super::faults::Fault;
use super::identity::{self, Identity};
use super::image::Image;
use super::life::Life;
use super::pdu;

/// A reply on its way to the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// When it leaves the unit, from now.
    pub after: Duration,
    /// Function code and data.
    pub pdu: Vec<u8>,
    /// Whether the line delivers it as it is.
    pub condition: Condition,
}

/// Whether a reply arrives as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// As sent.
    Sound,
    /// Damaged on the way ([`Fault::Noise`]).
    Damaged,
}

/// Who answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is such a unit and it answers.
    Reply(Reply),
    /// There is such a unit; it is dead.
    Silence,
    /// Nobody has this unit id.
    Nobody,
}

/// Counters of one line.
#[derive(Debug, Default)]
pub struct LineStats {
    /// Requests for a unit that exists.
    pub requests: Counter,
    /// Replies sent (exceptions included).
    pub replies: Counter,
    /// Writes carried out by clients.
    pub writes: Counter,
    /// Bytes that made no valid request, or replies that nobody took.
    pub dropped: Counter,
    /// On a paced line: the time that requests and replies took on it, microseconds.
    pub busy_micros: Counter,
}

/// All units of one line; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Units {
    units: Arc<Mutex<BTreeMap<u8, Unit>>>,
    stats: Arc<LineStats>,
}

#[derive(Debug)]
struct Unit {
    image: Image,
    life: Option<Life>,
    fault: Option<Fault>,
    identity: Option<Identity>,
    began: Instant,
}

impl Units {
    /// Nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a unit that just holds what it is given, or replaces it.
    pub fn insert(&self, unit_id: u8, image: Image) {
        self.lock().insert(unit_id, Unit::new(image, None));
    }

    /// Adds a unit whose values move, or replaces it.
    pub fn insert_living(&self, unit_id: u8, life: Life) {
        let mut image = Image::new();
        life.begin(&mut image);
        self.lock().insert(unit_id, Unit::new(image, Some(life)));
    }

    /// Tells a unit who it is; without that it does not know FC 43. False: there is no such unit.
    pub fn introduce(&self, unit_id: u8, identity: Identity) -> bool {
        self.lock().get_mut(&unit_id).map(|unit| unit.identity = Some(identity)).is_some()
    }

    /// Sets or heals a fault. False: there is no such unit.
    pub fn set_fault(&self, unit_id: u8, fault: Option<Fault>) -> bool {
        self.lock().get_mut(&unit_id).map(|unit| unit.fault = fault).is_some()
    }

    /// Looks at or changes the image of a unit, as somebody at the device would. `None`: there is no such unit.
    pub fn with_image<T>(&self, unit_id: u8, look: impl FnOnce(&mut Image) -> T) -> Option<T> {
        let mut units = self.lock();
        let unit = units.get_mut(&unit_id)?;
        unit.refresh();
        Some(look(&mut unit.image))
    }

    /// Looks at what a living unit has held so far. `None`: no such unit, or it does not live.
    pub fn with_life<T>(&self, unit_id: u8, look: impl FnOnce(&Life) -> T) -> Option<T> {
        self.lock().get(&unit_id).and_then(|unit| unit.life.as_ref()).map(look)
    }

    /// Counters.
    pub fn stats(&self) -> &LineStats {
        &self.stats
    }

    /// One request PDU for one unit.
    pub fn answer(&self, unit_id: u8, request: &[u8]) -> Answer {
        let mut units = self.lock();
        let Some(unit) = units.get_mut(&unit_id) else { return Answer::Nobody };
        self.stats.requests.one();
        let function = request.first().copied().unwrap_or(0);
        let (after, condition) = match unit.fault {
            Some(Fault::Dead) => return Answer::Silence,
            Some(Fault::Exception(code)) => {
                let pdu = pdu::exception(function, code);
                return Answer::Reply(Reply { after: Duration::ZERO, pdu, condition: Condition::Sound });
            }
            Some(Fault::Late(by)) => (by, Condition::Sound),
            Some(Fault::Noise) => (Duration::ZERO, Condition::Damaged),
            None => (Duration::ZERO, Condition::Sound),
        };
        let pdu = unit.answer(request);
        if pdu::is_write(request) && pdu.first() == Some(&function) {
            self.stats.writes.one();
        }
        Answer::Reply(Reply { after, pdu, condition })
    }

    /// A request to unit 0 of a serial line: everybody who lives carries it out, nobody answers (serial line V1.02, 2.1).
    pub fn broadcast(&self, request: &[u8]) {
        for unit in self.lock().values_mut().filter(|unit| unit.fault != Some(Fault::Dead)) {
            unit.answer(request);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u8, Unit>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unit {
    fn new(image: Image, life: Option<Life>) -> Self {
        Self { image, life, fault: None, identity: None, began: Instant::now() }
    }

    fn answer(&mut self, request: &[u8]) -> Vec<u8> {
        if let (Some(identity), Some(&identity::FUNCTION)) = (&self.identity, request.first()) {
            return identity.answer(request);
        }
        self.refresh();
        let response = pdu::answer(&mut self.image, request);
        if pdu::is_write(request)
            && let Some(life) = &mut self.life
        {
            life.witness(&self.image);
        }
        response
    }

    fn refresh(&mut self) {
        if let Some(life) = &mut self.life {
            life.advance(&mut self.image, self.began.elapsed());
        }
    }
}
