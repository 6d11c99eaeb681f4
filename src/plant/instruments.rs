//! The instruments behind one simulated line: who is asked, what is wrong with it, what it says and when.
//!
//! Fed by [`super::talk`] with the bytes that came and with the time; faults are set from outside at any time.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::plan::{FrameCut, LineMode, LinePlan, Plan};
use crate::model::lock::Hold as _;
use crate::model::stats::Counter;
use crate::model::tag::BusIx;

use super::faults::{Dice, Fault, Trouble};
use super::instrument::Instrument;

/// A device has no `example` of what it says.
#[derive(Debug, thiserror::Error)]
#[error("device {device} has no `example` of what it says, and nothing can be made up for it")]
pub struct NoExample {
    device: String,
}

/// A frame on its way to the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// When it leaves the instrument, from now.
    pub after: Duration,
    /// With its marks and checksum.
    pub frame: Vec<u8>,
}

/// All instruments of one line; cheap to clone.
#[derive(Debug, Clone)]
pub struct Instruments {
    frames: Arc<LinePlan>,
    there: Arc<Mutex<Vec<Named>>>,
    began: Instant,
    dropped: Arc<Counter>,
}

#[derive(Debug)]
struct Named {
    name: String,
    troubles: Vec<Trouble>,
    dice: Dice,
    instrument: Instrument,
}

/// Longest garbage before a frame.
const GARBAGE_MAX: usize = 8;
/// A bit that no text has.
const DAMAGE: u8 = 0x80;

impl Named {
    /// A frame as the troubles that show this time leave it; `None`: nothing is heard.
    fn spoil(&mut self, mut frame: Vec<u8>) -> Option<Spoken> {
        let mut after = Duration::ZERO;
        for trouble in &self.troubles {
            if !self.dice.strikes(trouble.share) {
                continue;
            }
            match trouble.fault {
                Fault::Dead | Fault::Lost => return None,
                Fault::Late(by) => after += by,
                Fault::Noise | Fault::BitFlip => {
                    let middle = frame.len() / 2;
                    frame[middle] ^= DAMAGE;
                }
                Fault::Truncated => frame.truncate(1 + self.dice.below(frame.len() - 1)),
                Fault::Garbage => {
                    let bytes = 1 + self.dice.below(GARBAGE_MAX);
                    let garbage = (0..bytes).map(|_| self.dice.roll().to_be_bytes()[0] | DAMAGE);
                    frame = garbage.chain(frame.iter().copied()).collect();
                }
                _ => {} // not of instruments: nobody could set it
            }
        }
        Some(Spoken { after, frame })
    }
}

impl Instruments {
    /// Of a bus of type line; `None`: it is another one.
    pub fn of(plan: &Plan, bus: BusIx) -> Option<Result<Self, NoExample>> {
        let frames = plan.bus(bus)?.line.clone()?;
        let named = plan.devices_on(bus).map(|(ix, device)| {
            let instrument = Instrument::of(plan, ix).ok_or_else(|| NoExample { device: device.name.clone() })?;
            let dice = Dice::new(u8::try_from(ix.0 % 256).unwrap_or(0));
            Ok(Named { name: device.name.clone(), troubles: Vec::new(), dice, instrument })
        });
        Some(named.collect::<Result<Vec<_>, _>>().map(|there| Self {
            frames: Arc::new(frames),
            there: Arc::new(Mutex::new(there)),
            began: Instant::now(),
            dropped: Arc::default(),
        }))
    }

    /// Sets faults, each with its share. False: there is no such instrument, or none that could have them.
    pub fn set_troubles(&self, device: &str, troubles: &[Trouble]) -> bool {
        let are_possible = troubles.iter().all(|trouble| trouble.fault.is_of_instruments());
        let mut there = self.lock();
        let found = there.iter_mut().find(|named| named.name == device).filter(|_| are_possible);
        found.map(|named| named.troubles = troubles.to_vec()).is_some()
    }

    /// Bytes that were no question, or frames that found no place.
    pub fn dropped(&self) -> &Counter {
        &self.dropped
    }

    /// The silence that ends a frame here, if that is what ends it.
    pub fn idle(&self) -> Option<Duration> {
        if let FrameCut::Idle(idle) = self.frames.cut { Some(idle) } else { None }
    }

    /// How often each of them speaks by itself; empty where they are asked.
    pub fn periods(&self) -> Vec<Duration> {
        match self.frames.mode {
            LineMode::Poll => Vec::new(),
            LineMode::Listen => self.lock().iter().map(|named| named.instrument.period()).collect(),
        }
    }

    /// What one of them says by itself now.
    pub fn speak(&self, place: usize) -> Vec<Spoken> {
        let since_start = self.began.elapsed();
        let mut there = self.lock();
        let Some(named) = there.get_mut(place) else { return Vec::new() };
        let said = named.instrument.period_of_frames(&self.frames, since_start);
        said.into_iter().filter_map(|frame| named.spoil(frame)).collect()
    }

    /// What is answered to bytes that came; `heard` is what has come before and was no whole question.
    pub fn answers(&self, heard: &mut Vec<u8>, bytes: &[u8]) -> Vec<Spoken> {
        let since_start = self.began.elapsed();
        let mut there = self.lock();
        let longest = there.iter().map(|named| named.instrument.question().len()).max().unwrap_or(0);
        let mut answers = Vec::new();
        for byte in bytes {
            heard.push(*byte);
            let asked = |named: &&mut Named| {
                let question = named.instrument.question();
                !question.is_empty() && heard.ends_with(question)
            };
            let asked = there.iter_mut().filter(asked).max_by_key(|named| named.instrument.question().len());
            if let Some(named) = asked {
                heard.clear();
                let frame = named.instrument.frame(&self.frames, since_start);
                answers.extend(named.spoil(frame));
            } else if heard.len() > longest {
                heard.remove(0);
                self.dropped.one();
            }
        }
        answers
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Named>> {
        self.there.hold()
    }
}
