//! The units behind one simulated line: who is addressed, what is wrong with it, what it answers and when.
//!
//! Fed by the lines (tcp, rtu) with request PDUs; faults are set from outside at any time. Values move when they are looked
//! at: a unit works out its image for the moment of each request, so that an unread plant costs nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::plan::Framing;
use crate::model::lock::Hold as _;
use crate::model::stats::Counter;

use super::behind::{Behind, Presence, Utterance};
use super::damage;
use super::faults::{Dice, Fault, Trouble};
use super::frames::Request;
use super::identity::{self, Identity};
use super::image::Image;
use super::life::Life;
use super::pdu;

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
#[derive(Debug, Clone)]
pub struct Units {
    by_id: Arc<Mutex<BTreeMap<u8, Unit>>>,
    stats: Arc<LineStats>,
    presence: watch::Sender<Presence>,
}

impl Default for Units {
    fn default() -> Self {
        Self { by_id: Arc::default(), stats: Arc::default(), presence: watch::Sender::new(Presence::Here(0)) }
    }
}

#[derive(Debug)]
struct Unit {
    image: Image,
    life: Option<Life>,
    troubles: Vec<Trouble>,
    dice: Dice,
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
        self.lock().insert(unit_id, Unit::new(unit_id, image, None));
    }

    /// Adds a unit whose values move, or replaces it.
    pub fn insert_living(&self, unit_id: u8, life: Life) {
        let mut image = Image::new();
        life.begin(&mut image);
        self.lock().insert(unit_id, Unit::new(unit_id, image, Some(life)));
    }

    /// Tells a unit who it is; without that it does not know FC 43. False: there is no such unit.
    pub fn introduce(&self, unit_id: u8, identity: Identity) -> bool {
        self.lock().get_mut(&unit_id).map(|unit| unit.identity = Some(identity)).is_some()
    }

    /// Sets a fault that always shows and no other, or heals all. False: there is no such unit.
    pub fn set_fault(&self, unit_id: u8, fault: Option<Fault>) -> bool {
        self.set_troubles(unit_id, fault.into_iter().map(Trouble::from).collect())
    }

    /// Sets faults, each with its share. False: there is no such unit.
    pub fn set_troubles(&self, unit_id: u8, troubles: Vec<Trouble>) -> bool {
        self.lock().get_mut(&unit_id).map(|unit| unit.troubles = troubles).is_some()
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

    /// A request to unit 0 of a serial line: everybody who lives carries it out, nobody answers (serial line V1.02, 2.1).
    fn broadcast(&self, request: &[u8]) {
        for unit in self.lock().values_mut() {
            let dead = unit.troubles.iter().any(|trouble| trouble.fault == Fault::Dead);
            if !dead {
                unit.answer(request);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u8, Unit>> {
        self.by_id.hold()
    }
}

impl Behind for Units {
    fn hear(&self, framing: Framing, request: &Request) -> Vec<Utterance> {
        if request.unit_id == 0 && !framing.is_numbered() {
            self.broadcast(&request.pdu);
            return Vec::new();
        }
        let function = request.pdu.first().copied().unwrap_or(0);
        let mut units = self.lock();
        let Some(unit) = units.get_mut(&request.unit_id) else {
            let silent = pdu::exception(function, pdu::TARGET_SILENT);
            let frame = || Utterance::frame(Duration::ZERO, request.reply(framing, request.unit_id, &silent));
            return if framing.is_numbered() { vec![frame()] } else { Vec::new() };
        };
        self.stats.requests.one();
        let faults = unit.strike();
        if let Some(then) = damage::end(&faults) {
            return vec![Utterance::end(then)];
        }
        let is_dead = faults.contains(&Fault::Dead);
        let pdu = match damage::refusal(&faults, &request.pdu) {
            _ if is_dead => None,
            Some(code) => Some(pdu::exception(function, code)),
            None => {
                let pdu = match &unit.life {
                    Some(life) if faults.contains(&Fault::NotANumber) && !pdu::is_write(&request.pdu) => {
                        let mut blank = unit.image.clone();
                        life.blank(&mut blank);
                        pdu::answer(&mut blank, &request.pdu)
                    }
                    _ => unit.answer(&request.pdu),
                };
                if pdu::is_write(&request.pdu) && pdu.first() == Some(&function) {
                    self.stats.writes.one();
                }
                Some(damage::of_pdu(&faults, pdu))
            }
        };
        let pdu = pdu.filter(|_| !faults.contains(&Fault::Lost));
        damage::said(&faults, &mut unit.dice, (framing, request), pdu.as_deref()).into_iter().collect()
    }

    fn stats(&self) -> &LineStats {
        &self.stats
    }

    fn presence(&self) -> watch::Receiver<Presence> {
        self.presence.subscribe()
    }
}

impl Unit {
    fn new(unit_id: u8, image: Image, life: Option<Life>) -> Self {
        Self { image, life, troubles: Vec::new(), dice: Dice::new(unit_id), identity: None, began: Instant::now() }
    }

    /// The faults that show this time.
    fn strike(&mut self) -> Vec<Fault> {
        let dice = &mut self.dice;
        self.troubles.iter().filter(|trouble| dice.strikes(trouble.share)).map(|trouble| trouble.fault).collect()
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
