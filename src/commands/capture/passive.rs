//! Only listening: a port that is read and never written to, while somebody else asks on the line.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout};

use super::ear::{self, Said, Speaker};
use crate::commands::Failed;
use crate::commands::field::explain;
use crate::config::blocks::frame_pause;
use crate::config::plan::{BusLink, Carrier, SerialPlan};
use crate::field::BusStats;
use crate::field::carrier::{self, Wire};
use crate::flow::clock::Clock;
use crate::flow::stop::Stop;
use crate::recording::{By, Line, Tape, What};

/// A silence within a frame: USB adapters hand on what they have every 16 ms.
const ADAPTER: Duration = Duration::from_millis(20);

/// An open port.
pub struct Ear {
    wire: Box<dyn Wire>,
    link: BusLink,
    settings: SerialPlan,
    stats: Arc<BusStats>,
}

/// Opens it.
pub async fn open(port: &Path, settings: SerialPlan, clock: &Clock) -> Result<Ear, Failed> {
    let link = BusLink::rtu(port, settings);
    let wire = carrier::opener(&link.carrier, clock).open().await;
    let wire = wire.map_err(|error| Failed::TryAgain(explain::not_open(&link, &error)))?;
    let stats = Arc::<BusStats>::default();
    stats.connected.set(1);
    Ok(Ear { wire, link, settings, stats })
}

impl Ear {
    /// As the recording names it: after its port.
    pub fn line(&self) -> Line {
        let place = match &self.link.carrier {
            Carrier::Serial(port) => port.port.as_path(),
            _ => Path::new("line"),
        };
        Line {
            name: place.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            kind: self.link.kind().to_owned(),
            place: place.display().to_string(),
            settings: self.settings.to_string(),
            response_timeout: Duration::ZERO,
        }
    }

    /// What it has heard: requests, replies, exceptions, and requests without a reply as timeouts.
    pub fn stats(&self) -> Arc<BusStats> {
        Arc::clone(&self.stats)
    }

    /// Listens until the stop, or until the port is gone.
    pub async fn run(mut self, tape: Tape, stop: Stop) {
        tape.note(std::time::Instant::now(), What::Opened);
        let mut ear = ear::Ear::default();
        let mut is_answered = true;
        let mut buffer = [0u8; 512];
        let silence = frame_pause(self.settings).max(ADAPTER);
        let error = loop {
            let patience = if ear.is_waiting() { silence } else { Duration::MAX };
            let heard = tokio::select! {
                () = stop.begun() => break None,
                heard = timeout(patience, self.wire.read(&mut buffer)) => heard,
            };
            let said = match heard {
                Err(_silence) => ear.pause(),
                Ok(Ok(0)) => break Some("the port was closed".to_owned()),
                Ok(Ok(count)) => ear.hear(Instant::now().into_std(), &buffer[..count]),
                Ok(Err(error)) => break Some(error.to_string()),
            };
            for said in said {
                self.note(&tape, said, &mut is_answered);
            }
        };
        let by = if error.is_some() { By::System } else { By::Us };
        self.stats.connected.set(0);
        tape.note(std::time::Instant::now(), What::Closed { by, error: error.unwrap_or_default() });
    }

    fn note(&self, tape: &Tape, said: Said, is_answered: &mut bool) {
        let Said { at, took, by, bytes } = said;
        match by {
            Speaker::Master => {
                self.stats.requests.one();
                if !std::mem::replace(is_answered, false) {
                    self.stats.timeouts.one();
                }
                tape.note(at, What::Sent { took, bytes });
            }
            Speaker::Unit => {
                self.stats.replies.one();
                *is_answered = true;
                if bytes.get(1).is_some_and(|function| function & 0x80 != 0) {
                    self.stats.exceptions.one();
                }
                tape.note(at, What::Received { took, bytes });
            }
            Speaker::Noise => {
                self.stats.garbage.add(bytes.len() as u64);
                tape.note(at, What::Received { took, bytes });
            }
        }
    }
}
