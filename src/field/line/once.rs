//! A look at the instruments of one bus, once: each is asked its question, or all are listened to for a while.
//!
//! For people at the cabinet: what came of each tag, and the frames that nobody understood. Not for a gateway at work.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::talk::{NoAnswer, Talk};
use crate::config::lines::{Reader, Reading};
use crate::config::plan::{LineMode, Plan};
use crate::field::carrier::Opener;
use crate::field::stats::{BusStats, Noise};
use crate::model::tag::{BusIx, DeviceIx};

/// Who speaks by itself is listened to for so many of its periods …
const PERIODS: u32 = 3;
/// … and at least for so long, at most for so long.
const LISTEN_MIN: Duration = Duration::from_secs(3);
const LISTEN_MAX: Duration = Duration::from_secs(60);
/// Frames that no pattern fits are kept up to here.
const STRANGE_MAX: usize = 5;

/// What was heard on a bus.
#[derive(Debug)]
pub struct Heard {
    /// Of each device, in the order in which they were named.
    pub devices: Vec<Told>,
    /// Whole frames that no pattern fits.
    pub strange: Vec<Vec<u8>>,
    /// What else came: damaged frames, late ones, bytes that are no frame.
    pub noise: Noise,
}

/// What a device said.
#[derive(Debug)]
pub struct Told {
    /// Which.
    pub device: DeviceIx,
    /// The newest of each tag that it spoke of; empty: it said nothing that its patterns fit.
    pub readings: Vec<Reading>,
    /// How long it took to answer.
    pub took: Option<Duration>,
}

impl Told {
    fn add(&mut self, readings: Vec<Reading>) {
        for reading in readings {
            self.readings.retain(|known| known.tag != reading.tag);
            self.readings.push(reading);
        }
    }
}

/// Looks at these devices of a bus; an error when it cannot be opened, or its connection breaks. Cancelling it closes the bus.
pub async fn once(plan: &Plan, bus: BusIx, devices: &[DeviceIx], opener: Box<dyn Opener>) -> io::Result<Heard> {
    let of = plan.buses.get(bus.0 as usize).ok_or(io::ErrorKind::NotFound)?;
    let frames = of.line.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
    let stats = Arc::<BusStats>::default();
    let mut talk = Talk::new(opener, frames, Arc::clone(&stats));
    let readers: Vec<(DeviceIx, Reader)> =
        devices.iter().filter_map(|ix| Some((*ix, Reader::new(plan, *ix)?))).collect();
    let told = |(device, _): &(DeviceIx, Reader)| Told { device: *device, readings: Vec::new(), took: None };
    let mut heard = Heard { devices: readers.iter().map(told).collect(), strange: Vec::new(), noise: Noise::default() };
    match frames.mode {
        LineMode::Poll => {
            // Whoever asked there before may still be answered.
            talk.open(of.response_timeout).await?;
            ask(&mut talk, &readers, of.response_timeout, &mut heard).await?;
        }
        LineMode::Listen => {
            talk.open(Duration::ZERO).await?;
            let periods = readers.iter().filter_map(|(ix, _)| period(plan, *ix)).max().unwrap_or_default() * PERIODS;
            let until = Instant::now() + periods.clamp(LISTEN_MIN, LISTEN_MAX);
            listen(&mut talk, &readers, until, &mut heard).await?;
        }
    }
    heard.noise = stats.noise();
    Ok(heard)
}

fn period(plan: &Plan, ix: DeviceIx) -> Option<Duration> {
    let own = plan.tags.get(plan.devices.get(ix.0 as usize)?.tags.clone())?;
    own.iter().filter(|tag| tag.is_of_device()).map(|tag| tag.poll).min()
}

async fn ask(talk: &mut Talk, readers: &[(DeviceIx, Reader)], patience: Duration, heard: &mut Heard) -> io::Result<()> {
    for (place, (_, reader)) in readers.iter().enumerate() {
        while Instant::now() < talk.quiet_until() {
            talk.hear(talk.quiet_until()).await?;
        }
        let mut strange = Vec::new();
        let fits = |frame: &[u8]| {
            let readings = reader.read(frame);
            if readings.is_none() {
                strange.push(frame.to_vec());
            }
            readings
        };
        match talk.ask(reader.question(), patience, fits).await {
            Ok(readings) => {
                heard.devices[place].add(readings);
                heard.devices[place].took = talk.took();
            }
            Err(NoAnswer::Timeout | NoAnswer::Protocol) => {}
            Err(NoAnswer::Lost(error)) => return Err(error),
        }
        heard.strange.extend(strange);
        heard.strange.truncate(STRANGE_MAX);
    }
    Ok(())
}

/// Until then, or until everybody has spoken of every tag.
async fn listen(talk: &mut Talk, readers: &[(DeviceIx, Reader)], until: Instant, heard: &mut Heard) -> io::Result<()> {
    let is_complete = |heard: &Heard| {
        heard.devices.iter().zip(readers).all(|(told, (_, reader))| told.readings.len() == reader.tags().count())
    };
    while Instant::now() < until && !is_complete(heard) {
        for frame in talk.hear(until).await? {
            let read = readers.iter().enumerate().find_map(|(place, (_, reader))| Some((place, reader.read(&frame)?)));
            match read {
                Some((place, readings)) => heard.devices[place].add(readings),
                None if heard.strange.len() < STRANGE_MAX => heard.strange.push(frame),
                None => {}
            }
        }
    }
    Ok(())
}
