//! The end of a command that runs until it is told: Ctrl-C, SIGTERM, or a time that was given.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::Failed;

/// Listens for Ctrl-C and SIGTERM from now on.
#[derive(Debug)]
pub struct Interrupt {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Interrupt {
    /// From now on the signals no longer end the process by themselves.
    pub fn listen() -> Result<Self, Failed> {
        let listen =
            |kind| signal(kind).map_err(|error| Failed::Internal(format!("cannot listen for signals: {error}")));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Resolves at the next signal. Cancel-safe.
    pub async fn came(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Resolves at the next signal, or after the time if there is one. Cancel-safe.
    pub async fn came_or_after(&mut self, time: Option<Duration>) {
        tokio::select! {
            () = self.came() => {}
            () = tokio::time::sleep(time.unwrap_or(Duration::MAX)) => {}
        }
    }
}
