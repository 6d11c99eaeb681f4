//! What the app may ask of a running broker: judge by rules that have changed, read certificates again.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use super::core::{Rejudged, Shared};

/// Cheap to clone; does nothing once the broker has ended.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
    certificates: watch::Sender<u64>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>, certificates: watch::Sender<u64>) -> Self {
        Self { shared, certificates }
    }

    /// Asks the doors to read their certificates again (they also look by themselves, once a minute). New ones serve the
    /// next client; of those connected only those go whose own certificate is not accepted any more.
    pub fn reload_certificates(&self) {
        self.certificates.send_modify(|asked| *asked += 1);
    }

    /// Resolves when the thread that keeps what outlives a restart has come to it, or says that its disk does not work.
    /// Cancel-safe.
    pub async fn disk_answers(&self) {
        drop(self.shared.disk.committed().await); // whether it could commit is told elsewhere
    }

    /// Judges whoever is connected by the rules as they are now: those who would not be let in any more are told to go
    /// (MQTT 5: 0x87), subscriptions that are not allowed any more end. Nobody else notices.
    pub fn rejudge(&self) -> Rejudged {
        self.shared.rejudge()
    }
}
