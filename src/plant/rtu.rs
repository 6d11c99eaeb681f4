//! A serial line on a pseudo-terminal, server side: RTU or ASCII, with the time that bytes take on a real line.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::blocks::frame_pause;
use crate::config::plan::{Framing, SerialPlan};

use super::conversation::{FRAME_PAUSE, WAITING_MAX, post, reply};
use super::frames::{FRAME_MAX, Frames, Request};
use super::pty::Pty;
use super::units::Units;
use crate::flow::timer::Timer;

/// How fast bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the machine can.
    Instant,
    /// As on a line with these settings: the request's bytes and the reply's take their time.
    Line(SerialPlan),
}

impl Pace {
    /// The time that this many characters take.
    pub fn time(self, characters: usize) -> Duration {
        match self {
            Self::Instant => Duration::ZERO,
            Self::Line(serial) => {
                let bits = characters as u64 * u64::from(serial.bits_per_char());
                Duration::from_nanos(bits * 1_000_000_000 / u64::from(serial.baud.max(1)))
            }
        }
    }
}

impl Pace {
    /// The silence by which a unit knows that a request is over (Modbus over Serial Line 1.02, section 2.5.1.1).
    fn pause(self) -> Duration {
        match self {
            Self::Instant => Duration::ZERO,
            Self::Line(serial) => frame_pause(serial),
        }
    }
}

/// A serial line on a pseudo-terminal. Dropping it closes the line.
#[derive(Debug)]
pub struct RtuLine {
    path: PathBuf,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl RtuLine {
    /// Serves the units as Modbus RTU; with `symlink` under that name too (see [`Pty::open`]). Must be called within a
    /// tokio runtime.
    pub fn serve(symlink: Option<&Path>, pace: Pace, units: Units) -> io::Result<Self> {
        Self::serve_as(Framing::Rtu, symlink, pace, units)
    }

    /// The same in another framing.
    pub fn serve_as(framing: Framing, symlink: Option<&Path>, pace: Pace, units: Units) -> io::Result<Self> {
        let pty = Pty::open(symlink)?;
        let line = Self { path: pty.path().to_path_buf(), stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let stop = line.stop.clone();
        line.tasks.spawn(async move {
            let (replies, due) = mpsc::channel(WAITING_MAX);
            let end = Far { pty: &pty, framing, pace, units: &units };
            let talk = async { tokio::try_join!(end.listen(replies), end.speak(due)) };
            if let Some(Err(error)) = stop.run_until_cancelled(talk).await {
                tracing::warn!(%error, "simulated serial line ended");
            }
        });
        Ok(line)
    }

    /// What a client opens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the line and waits until that has happened.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for RtuLine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A reply, and when the last bit of its request has passed the line and the unit has thought.
#[derive(Debug)]
struct Spoken {
    frame: Vec<u8>,
    not_before: Instant,
}

/// The far end of the line, where the devices are.
struct Far<'a> {
    pty: &'a Pty,
    framing: Framing,
    pace: Pace,
    units: &'a Units,
}

impl Far<'_> {
    /// Reads requests for ever and hands the replies on.
    async fn listen(&self, replies: mpsc::Sender<Spoken>) -> io::Result<()> {
        let mut frames = Frames::new(self.framing);
        let mut buffer = [0u8; FRAME_MAX];
        loop {
            let is_over = self.framing == Framing::Rtu && !frames.is_empty();
            match timeout(if is_over { FRAME_PAUSE } else { Duration::MAX }, self.pty.read(&mut buffer)).await {
                Ok(count) => frames.take(&buffer[..count?]),
                Err(_) => {
                    let (request, dropped) = frames.pause();
                    self.units.stats().dropped.add(dropped as u64);
                    if let Some(request) = request {
                        self.answer(&request, &replies);
                    }
                }
            }
            while let Some(request) = frames.next()? {
                self.answer(&request, &replies);
            }
            self.units.stats().dropped.add(frames.overflow() as u64);
        }
    }

    /// Hands the reply, if there is one, to the line: when its request has passed the wire and it is due.
    fn answer(&self, request: &Request, replies: &mpsc::Sender<Spoken>) {
        if let Some((after, frame)) = reply(self.units, self.framing, request) {
            let asking = self.pace.time(request.length);
            self.count(asking);
            let not_before = Instant::now() + after + asking + self.pace.pause();
            post(replies, after, Spoken { frame, not_before }, self.units);
        }
    }

    /// Puts replies on the line, each byte in its time.
    async fn speak(&self, mut due: mpsc::Receiver<Spoken>) -> io::Result<()> {
        // A millisecond late with each request would be a tenth of a fast line.
        let mut timer = Timer::new().ok();
        while let Some(Spoken { frame, not_before }) = due.recv().await {
            let begun = not_before.max(Instant::now());
            let piece = if self.pace == Pace::Instant { FRAME_MAX } else { 8 };
            let mut sent = 0;
            for bytes in frame.chunks(piece) {
                sent += bytes.len();
                let moment = begun + self.pace.time(sent);
                match &mut timer {
                    Some(timer) => timer.at(moment.into_std()).await,
                    None => sleep_until(moment).await,
                }
                let written = self.pty.write(bytes)?;
                self.units.stats().dropped.add((bytes.len() - written) as u64);
            }
            self.count(self.pace.time(sent));
        }
        Ok(())
    }

    fn count(&self, taken: Duration) {
        self.units.stats().busy_micros.add(u64::try_from(taken.as_micros()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::Parity;

    #[test]
    fn bytes_take_the_time_of_their_line() {
        let serial = SerialPlan { baud: 9600, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        // field design: 125 registers, 8E1: 8 characters out, 255 back
        assert_eq!(Pace::Line(serial).time(8 + 255).as_millis(), 301);
        assert_eq!(Pace::Instant.time(300), Duration::ZERO);
    }
}
