//! A line of instruments at work: on TCP, on a pseudo-terminal, or dialling in. Questions in, frames out when they are due.
//!
//! Frames leave in the order of due times; what waits is bounded, what finds no place is dropped and counted.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::instruments::{Instruments, Spoken};
use super::pty::Pty;
use super::rtu::Pace;

/// Frames of one connection that wait for their time; one more is dropped.
const WAITING_MAX: usize = 64;
/// Connections at a time; one more is closed at once, as a small serial server does.
const CONNECTIONS_MAX: usize = 8;
/// A client that takes nothing for so long is gone.
const SEND_MAX: Duration = Duration::from_secs(10);
/// Between two calls of a line that dials in.
const REDIAL: Duration = Duration::from_millis(500);
const BYTES: usize = 256;

/// A line of instruments. Dropping it closes the line.
#[derive(Debug)]
pub struct TalkLine {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl TalkLine {
    /// Behind a serial server at an address (port 0: the system chooses); where it listens.
    pub async fn serve(listen: SocketAddr, instruments: Instruments) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let line = Self::new();
        let (stop, tasks) = (line.stop.clone(), line.tasks.clone());
        line.begin(accept(listener, instruments, stop, tasks));
        Ok((line, address))
    }

    /// On a pseudo-terminal, under a symbolic link too if there is one; where that is. Within a tokio runtime.
    pub fn on_pty(link: Option<&Path>, pace: Pace, instruments: Instruments) -> io::Result<(Self, PathBuf)> {
        let pty = Pty::open(link)?;
        let path = pty.path().to_path_buf();
        let line = Self::new();
        line.begin(async move {
            if let Err(error) = talk(&mut Wire::Pty(pty), &instruments, pace).await {
                tracing::warn!(%error, "simulated line of instruments ended");
            }
        });
        Ok((line, path))
    }

    /// Behind a serial server that dials in there, as soon as somebody listens. Within a tokio runtime.
    pub fn dial(to: SocketAddr, instruments: Instruments) -> Self {
        let line = Self::new();
        line.begin(async move {
            loop {
                // While nobody listens, a call may get the called port as its own and reach itself.
                if let Ok(stream) = TcpStream::connect(to).await
                    && stream.local_addr().is_ok_and(|own| own != to)
                    && stream.set_nodelay(true).is_ok()
                {
                    let _ = talk(&mut Wire::Tcp(stream), &instruments, Pace::Instant).await; // over: dial again
                }
                sleep(REDIAL).await;
            }
        });
        line
    }

    /// Closes the line and waits until that has happened.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn new() -> Self {
        Self { stop: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    fn begin(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let _ = stop.run_until_cancelled_owned(work).await;
        });
    }
}

impl Drop for TalkLine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, instruments: Instruments, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        match listener.accept().await {
            // The tracker also counts this task.
            Ok((stream, _)) if tasks.len() <= CONNECTIONS_MAX && stream.set_nodelay(true).is_ok() => {
                let (instruments, stop) = (instruments.clone(), stop.clone());
                tasks.spawn(async move {
                    let mut wire = Wire::Tcp(stream);
                    let _ = stop.run_until_cancelled_owned(talk(&mut wire, &instruments, Pace::Instant)).await;
                });
            }
            Ok((refused, _)) => drop(refused),
            // Out of file descriptors, most likely: let others finish first.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

enum Wire {
    Tcp(TcpStream),
    Pty(Pty),
}

impl Wire {
    /// Cancel-safe.
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer).await,
            Self::Pty(pty) => pty.read(buffer).await,
        }
    }

    /// Each byte in its time; how many were lost because nobody takes them.
    async fn write(&mut self, bytes: &[u8], pace: Pace) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => {
                let sent = timeout(SEND_MAX, stream.write_all(bytes)).await;
                sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                Ok(0)
            }
            Self::Pty(pty) => {
                let (begun, mut sent, mut lost) = (Instant::now(), 0, 0);
                for piece in bytes.chunks(if pace == Pace::Instant { BYTES } else { 8 }) {
                    sent += piece.len();
                    if pace != Pace::Instant {
                        sleep_until(begun + pace.time(sent)).await;
                    }
                    lost += piece.len() - pty.write(piece)?;
                }
                Ok(lost)
            }
        }
    }
}

/// One connection until its client leaves.
async fn talk(wire: &mut Wire, instruments: &Instruments, pace: Pace) -> io::Result<()> {
    let mut desk = Desk::new(instruments);
    let mut buffer = [0; BYTES];
    loop {
        let read = tokio::select! {
            read = wire.read(&mut buffer) => Some(read?),
            () = sleep_until(desk.wake()) => None,
        };
        match read {
            Some(0) => return Ok(()),
            Some(count) => desk.hear(&buffer[..count], pace),
            None => {
                desk.turn();
                while let Some(frame) = desk.take() {
                    let lost = wire.write(&frame, pace).await?;
                    instruments.dropped().add(lost as u64);
                    desk.rest();
                }
            }
        }
    }
}

/// What one connection has to say, and when.
struct Desk<'i> {
    instruments: &'i Instruments,
    /// Half a question.
    heard: Vec<u8>,
    waiting: Vec<(Instant, Vec<u8>)>,
    /// When each instrument speaks by itself, and how often.
    turns: Vec<(Instant, Duration)>,
    /// Where silence ends frames: when the next one may begin.
    free_at: Instant,
}

impl<'i> Desk<'i> {
    fn new(instruments: &'i Instruments) -> Self {
        let now = Instant::now();
        let turns = instruments.periods().into_iter().map(|period| (now + period, period)).collect();
        Self { instruments, heard: Vec::new(), waiting: Vec::new(), turns, free_at: now }
    }

    /// When there is something to do.
    fn wake(&self) -> Instant {
        let frames = self.waiting.iter().map(|(due, _)| (*due).max(self.free_at));
        let turns = self.turns.iter().map(|(due, _)| *due);
        frames.chain(turns).min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    fn hear(&mut self, bytes: &[u8], pace: Pace) {
        let asking = pace.time(bytes.len());
        for spoken in self.instruments.answers(&mut self.heard, bytes) {
            self.post(spoken, asking);
        }
    }

    fn turn(&mut self) {
        let now = Instant::now();
        for place in 0..self.turns.len() {
            let (due, period) = self.turns[place];
            if due <= now {
                // What was missed is not made up for.
                self.turns[place].0 = if due + period > now { due + period } else { now + period };
                for spoken in self.instruments.speak(place) {
                    self.post(spoken, Duration::ZERO);
                }
            }
        }
    }

    fn post(&mut self, spoken: Spoken, asking: Duration) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push((Instant::now() + spoken.after + asking, spoken.frame));
        } else {
            self.instruments.dropped().one();
        }
    }

    /// The next frame that is due.
    fn take(&mut self) -> Option<Vec<u8>> {
        let now = Instant::now();
        let due = |(_, (due, _)): &(usize, &(Instant, Vec<u8>))| *due <= now;
        let next = self.waiting.iter().enumerate().filter(due).min_by_key(|(_, (due, _))| *due).map(|(at, _)| at);
        next.filter(|_| self.free_at <= now).map(|at| self.waiting.remove(at).1)
    }

    /// A frame was sent.
    fn rest(&mut self) {
        if let Some(idle) = self.instruments.idle() {
            self.free_at = Instant::now() + 3 * idle;
        }
    }
}
