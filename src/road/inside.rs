//! The way to a broker in the same program: no network, no name, no certificate, no bill. The two ends of it: who wants to come
//! in, and the broker, which takes them one after the other.

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// Bytes on the way in one direction: as much as a socket holds.
const WAY_BYTES: usize = 64 << 10;
/// Who may stand before the door: as many as there are uplinks in anybody's plan.
const VISITS_MAX: usize = 16;

/// Somebody who comes in.
#[derive(Debug)]
pub struct Visit {
    /// What it says, MQTT from its first byte on.
    pub stream: DuplexStream,
}

/// Leads into the broker of this program. Cheap to clone.
#[derive(Debug, Clone)]
pub struct InnerDoor {
    visits: mpsc::Sender<Visit>,
}

/// What the broker takes visits from.
pub type Visits = mpsc::Receiver<Visit>;

impl InnerDoor {
    /// A door and what stands behind it.
    pub fn new() -> (Self, Visits) {
        let (visits, inside) = mpsc::channel(VISITS_MAX);
        (Self { visits }, inside)
    }

    /// Goes in; `None`: the broker is gone, or so busy that it does not open. Never waits.
    pub(super) fn enter(&self) -> Option<DuplexStream> {
        let (near, far) = tokio::io::duplex(WAY_BYTES);
        self.visits.try_send(Visit { stream: far }).ok()?;
        Some(near)
    }
}

/// Whose broker a road leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Whose {
    /// Somebody's, on the network.
    #[default]
    Elsewhere,
    /// The one in this program.
    Own,
}
