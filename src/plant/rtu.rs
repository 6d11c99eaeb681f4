//! A serial line on a pseudo-terminal, server side: RTU or ASCII, with the time that bytes take on a real line.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::blocks::frame_pause;
use crate::config::plan::{Framing, SerialPlan};

use super::behind::{Behind, Presence, Then, Utterance};
use super::conversation::{FRAME_PAUSE, WAITING_MAX, ended, post};
use super::frames::{FRAME_MAX, Frames, Request};
use super::pty::Pty;
use crate::flow::timer::Timer;
use crate::model::time::micros;

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
    /// Serves somebody as Modbus RTU; with `symlink` under that name too (see [`Pty::open`]). Must be called within a
    /// tokio runtime.
    pub fn serve(symlink: Option<&Path>, pace: Pace, behind: impl Behind + 'static) -> io::Result<Self> {
        Self::serve_as(Framing::Rtu, symlink, pace, behind)
    }

    /// The same in another framing. Whoever is unplugged comes back under the symlink; without one under a name that only
    /// the system knows.
    pub fn serve_as(
        framing: Framing,
        symlink: Option<&Path>,
        pace: Pace,
        behind: impl Behind + 'static,
    ) -> io::Result<Self> {
        let pty = Pty::open(symlink)?;
        let line = Self { path: pty.path().to_path_buf(), stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let (stop, symlink) = (line.stop.clone(), symlink.map(Path::to_path_buf));
        line.tasks.spawn(async move {
            let plugged = Plugged { framing, pace, behind: &behind, symlink: symlink.as_deref() };
            if let Some(Err(error)) = stop.run_until_cancelled(plugged.stay(pty)).await {
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

/// An adapter that can be pulled and plugged in again.
struct Plugged<'a> {
    framing: Framing,
    pace: Pace,
    behind: &'a dyn Behind,
    symlink: Option<&'a Path>,
}

impl Plugged<'_> {
    /// Serves for ever.
    async fn stay(&self, pty: Pty) -> io::Result<()> {
        let mut presence = self.behind.presence();
        let mut pty = Some(pty);
        loop {
            let begun = *presence.wait_for(|now| *now != Presence::Away).await.map_err(io::Error::other)?;
            let port = pty.take().map_or_else(|| Pty::open(self.symlink), Ok)?;
            let pulled = tokio::select! {
                pulled = self.talk(&port) => pulled?,
                () = ended(&mut presence, begun) => REPLUG,
            };
            drop(port); // who has the other side open reads the end, as from an adapter that was pulled
            sleep(pulled).await;
        }
    }

    /// Until it is pulled; for how long.
    async fn talk(&self, pty: &Pty) -> io::Result<Duration> {
        let (said, due) = mpsc::channel(WAITING_MAX);
        let end = Far { pty, framing: self.framing, pace: self.pace, behind: self.behind };
        tokio::select! {
            heard = end.listen(said) => heard.map(|()| REPLUG),
            pulled = end.speak(due) => pulled,
        }
    }
}

/// An adapter that only let go of its line is back after this.
const REPLUG: Duration = Duration::from_millis(500);

/// An utterance, and when the last bit of its request has passed the line and the unit has thought.
#[derive(Debug)]
struct Spoken {
    utterance: Utterance,
    not_before: Instant,
}

/// The far end of the line, where the devices are.
struct Far<'a> {
    pty: &'a Pty,
    framing: Framing,
    pace: Pace,
    behind: &'a dyn Behind,
}

impl Far<'_> {
    /// Reads requests for ever and hands the replies on.
    async fn listen(&self, said: mpsc::Sender<Spoken>) -> io::Result<()> {
        let mut frames = Frames::new(self.framing);
        let mut buffer = [0u8; FRAME_MAX];
        loop {
            let is_over = self.framing == Framing::Rtu && !frames.is_empty();
            match timeout(if is_over { FRAME_PAUSE } else { Duration::MAX }, self.pty.read(&mut buffer)).await {
                Ok(count) => frames.take(&buffer[..count?]),
                Err(_) => {
                    let (request, dropped) = frames.pause();
                    self.behind.stats().dropped.add(dropped as u64);
                    if let Some(request) = request {
                        self.answer(&request, &said);
                    }
                }
            }
            while let Some(request) = frames.request()? {
                self.answer(&request, &said);
            }
            self.behind.stats().dropped.add(frames.overflow() as u64);
        }
    }

    /// Hands what is said, if anything is, to the line: when its request has passed the wire and it is due.
    fn answer(&self, request: &Request, said: &mpsc::Sender<Spoken>) {
        for utterance in self.behind.hear(self.framing, request) {
            let (after, asking) = (utterance.after, self.pace.time(request.raw.len()));
            self.count(asking);
            let not_before = Instant::now() + after + asking + self.pace.pause();
            post(said, after, Spoken { utterance, not_before }, self.behind);
        }
    }

    /// Puts what is said on the line, each byte in its time, until the line is pulled; for how long.
    async fn speak(&self, mut due: mpsc::Receiver<Spoken>) -> io::Result<Duration> {
        // A millisecond late with each request would be a tenth of a fast line.
        let mut timer = Timer::new().ok();
        while let Some(Spoken { utterance, not_before }) = due.recv().await {
            let mut begun = not_before.max(Instant::now());
            for piece in &utterance.pieces {
                begun += piece.pause;
                begun = self.put(&piece.bytes, begun, &mut timer).await?;
            }
            match utterance.then {
                Then::Stay | Then::Mute => {} // a port has no connection that could stand without a device
                Then::Unplug(time) => return Ok(time),
                Then::HangUp | Then::Reset => return Ok(REPLUG),
            }
        }
        std::future::pending().await
    }

    /// Bytes from a moment on; the moment when the last one has passed.
    async fn put(&self, bytes: &[u8], begun: Instant, timer: &mut Option<Timer>) -> io::Result<Instant> {
        let crumb = if self.pace == Pace::Instant { FRAME_MAX } else { 8 };
        let (mut sent, mut moment) = (0, begun);
        for bytes in bytes.chunks(crumb) {
            sent += bytes.len();
            moment = begun + self.pace.time(sent);
            match timer {
                Some(timer) => timer.at(moment.into_std()).await,
                None => sleep_until(moment).await,
            }
            let written = self.pty.write(bytes)?;
            self.behind.stats().dropped.add((bytes.len() - written) as u64);
        }
        self.count(self.pace.time(sent));
        Ok(moment)
    }

    fn count(&self, taken: Duration) {
        self.behind.stats().busy_micros.add(micros(taken));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::Parity;

    #[test]
    fn bytes_take_the_time_of_their_line() {
        let serial = SerialPlan { baud: 9600, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        // 125 registers, 8E1: 8 characters out, 255 back
        assert_eq!(Pace::Line(serial).time(8 + 255).as_millis(), 301);
        assert_eq!(Pace::Instant.time(300), Duration::ZERO);
    }
}
