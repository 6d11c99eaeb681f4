//! The instruments behind one simulated line: who is asked, what is wrong with it, what it says and when.
//!
//! Fed by [`super::talk`] with the bytes that came and with the time; faults are set from outside at any time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::plan::{FrameCut, LineMode, LinePlan, Plan};
use crate::model::stats::Counter;
use crate::model::tag::{BusIx, DeviceIx};

use super::faults::Fault;
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
    fault: Option<Fault>,
    instrument: Instrument,
}

impl Instruments {
    /// Of a bus of type line; `None`: it is another one.
    pub fn of(plan: &Plan, bus: BusIx) -> Option<Result<Self, NoExample>> {
        let frames = plan.buses.get(bus.0 as usize)?.line.clone()?;
        let devices = (0u32..).map(DeviceIx).zip(&plan.devices).filter(|(_, device)| device.bus == Some(bus));
        let named = devices.map(|(ix, device)| {
            let instrument = Instrument::of(plan, ix).ok_or_else(|| NoExample { device: device.name.clone() })?;
            Ok(Named { name: device.name.clone(), fault: None, instrument })
        });
        Some(named.collect::<Result<Vec<_>, _>>().map(|there| Self {
            frames: Arc::new(frames),
            there: Arc::new(Mutex::new(there)),
            began: Instant::now(),
            dropped: Arc::default(),
        }))
    }

    /// Sets or heals a fault. False: there is no such instrument, or none that could have it: they know no exceptions.
    pub fn set_fault(&self, device: &str, fault: Option<Fault>) -> bool {
        let is_possible = !matches!(fault, Some(Fault::Exception(_)));
        let mut there = self.lock();
        let found = there.iter_mut().find(|named| named.name == device).filter(|_| is_possible);
        found.map(|named| named.fault = fault).is_some()
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
        let Some(Named { fault, instrument, .. }) = there.get_mut(place) else { return Vec::new() };
        let (after, is_damaged) = match fault {
            Some(Fault::Dead) => return Vec::new(),
            Some(Fault::Late(by)) => (*by, false),
            other => (Duration::ZERO, *other == Some(Fault::Noise)),
        };
        let said = instrument.period_of_frames(&self.frames, since_start, is_damaged);
        said.into_iter().map(|frame| Spoken { after, frame }).collect()
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
            if let Some(Named { fault, instrument, .. }) = asked {
                heard.clear();
                let (after, is_damaged) = match fault {
                    Some(Fault::Dead) => continue,
                    Some(Fault::Late(by)) => (*by, false),
                    other => (Duration::ZERO, *other == Some(Fault::Noise)),
                };
                answers.push(Spoken { after, frame: instrument.frame(&self.frames, since_start, is_damaged) });
            } else if heard.len() > longest {
                heard.remove(0);
                self.dropped.one();
            }
        }
        answers
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Named>> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
