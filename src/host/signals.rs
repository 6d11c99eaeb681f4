//! SIGTERM and SIGINT stop in order; the second one hurries. SIGHUP asks for a reload, if somebody listens.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::flow::stop::Stop;

/// Listens for the signals of a daemon.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    reload: watch::Sender<()>,
}

impl Signals {
    /// Takes the signals over from the default handlers; call once, early.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            reload: watch::Sender::new(()),
        })
    }

    /// Changes with each SIGHUP.
    pub fn reloads(&self) -> watch::Receiver<()> {
        self.reload.subscribe()
    }

    /// Resolves at SIGTERM or SIGINT; cancel-safe.
    pub async fn stop_asked(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {
                    // Asked twice while one is under way: once more afterwards.
                    if self.reload.send(()).is_err() {
                        tracing::warn!("there is nothing to reload here");
                    }
                }
            }
        }
    }

    /// First signal: stop in order. Second: hurry. Runs until dropped.
    pub async fn drive(mut self, stop: Stop) {
        self.stop_asked().await;
        tracing::info!("stopping in order; a second signal hurries");
        stop.begin();
        self.stop_asked().await;
        tracing::warn!("hurrying: what is stored stays stored, the uplinks get no more time");
        stop.hurry();
        std::future::pending::<()>().await;
    }
}
