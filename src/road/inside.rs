//! The way to a broker in the same program: no network, no name, no certificate, no bill. The two ends of it: who wants to come
//! in, and the broker, which takes them one after the other.
//!
//! In memory everything is as quick as the processor, and who reads it at the other end of the broker is not. So the broker says
//! on this way, and no other has that, when somebody there has more waiting than is good: see [`Pressure`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::model::lock::Hold as _;

/// Bytes on the way in one direction: as much as a socket holds.
const WAY_BYTES: usize = 64 << 10;
/// Who may stand before the door: as many as there are uplinks in anybody's plan.
const VISITS_MAX: usize = 16;
/// A client that does not get rid of the half of what may wait for it in this time, although nothing is added that can wait
/// elsewhere, hangs or is too slow for what cannot: nobody waits for it any longer.
const PRESSED_MAX: Duration = Duration::from_secs(20);

/// Somebody who comes in.
#[derive(Debug)]
pub struct Visit {
    /// What it says, MQTT from its first byte on.
    pub stream: DuplexStream,
    /// Where it hears who has too much of it.
    pub pressure: Arc<Pressure>,
}

/// Leads into the broker of this program. Cheap to clone; a clone has the pressure of the one it was cloned from.
#[derive(Debug, Clone)]
pub struct InnerDoor {
    visits: mpsc::Sender<Visit>,
    queued_bytes: usize,
    pressure: Arc<Pressure>,
}

/// What the broker takes visits from.
pub type Visits = mpsc::Receiver<Visit>;

impl InnerDoor {
    /// A door and what stands behind it, where so many bytes may wait for each client.
    pub fn new(queued_bytes: usize) -> (Self, Visits) {
        let (visits, inside) = mpsc::channel(VISITS_MAX);
        (Self { visits, queued_bytes, pressure: Arc::default() }, inside)
    }

    /// The same door for somebody else: who has too much of one may well bear more of another.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { pressure: Arc::default(), ..self.clone() }
    }

    /// Who has too much of what came in here.
    pub fn pressure(&self) -> Arc<Pressure> {
        Arc::clone(&self.pressure)
    }

    /// Bytes that may be on the way in when a client is pressed, and still find room: of the half that it has left, a part.
    pub fn bytes_max(&self) -> usize {
        self.queued_bytes / 8
    }

    /// Goes in; `None`: the broker is gone, or so busy that it does not open. Never waits.
    pub(super) fn enter(&self) -> Option<DuplexStream> {
        let (near, far) = tokio::io::duplex(WAY_BYTES);
        self.visits.try_send(Visit { stream: far, pressure: self.pressure() }).ok()?;
        Some(near)
    }
}

/// Clients that hear what comes in by a door, and have more than half of what may wait for them still before them. What can wait where it
/// is, such as a backlog in the store, waits as long as there is such a client; but for nobody longer than 20 s.
#[derive(Debug, Default)]
pub struct Pressure {
    pressed: Mutex<Pressed>,
    relieved: Notify,
}

#[derive(Debug, Default)]
struct Pressed {
    /// Since when, by number.
    since: BTreeMap<u64, Instant>,
    next: u64,
}

/// One who is pressed, until it is dropped.
#[derive(Debug)]
pub struct Press {
    of: Arc<Pressure>,
    number: u64,
}

impl Pressure {
    /// One more is pressed from now on.
    pub fn press(self: &Arc<Self>) -> Press {
        let mut pressed = self.lock();
        let number = pressed.next;
        pressed.next += 1;
        pressed.since.insert(number, Instant::now());
        Press { of: Arc::clone(self), number }
    }

    /// Is somebody pressed who is worth waiting for?
    pub fn is_on(&self) -> bool {
        self.lock().since.values().any(|since| since.elapsed() < PRESSED_MAX)
    }

    /// Resolves when somebody is not pressed any more; one waiter only. Cancel-safe.
    pub async fn relieved(&self) {
        self.relieved.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Pressed> {
        self.pressed.hold()
    }
}

impl Press {
    /// Of this one?
    pub fn is_of(&self, pressure: &Arc<Pressure>) -> bool {
        Arc::ptr_eq(&self.of, pressure)
    }
}

impl Drop for Press {
    fn drop(&mut self) {
        self.of.lock().since.remove(&self.number);
        self.of.relieved.notify_one();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_who_takes_what_there_is_is_waited_for_and_one_who_hangs_is_not_for_long() {
        let pressure = Arc::<Pressure>::default();
        assert!(!pressure.is_on());
        let hangs = pressure.press();
        tokio::time::advance(PRESSED_MAX * 19 / 20).await;
        assert!(pressure.is_on());
        tokio::time::advance(PRESSED_MAX / 10).await;
        assert!(!pressure.is_on(), "for one who hangs nobody waits any longer");
        let slow = pressure.press();
        assert!(pressure.is_on(), "but for another one");
        drop(slow);
        pressure.relieved().await;
        assert!(!pressure.is_on());
        assert!(hangs.is_of(&pressure) && !hangs.is_of(&Arc::default()));
    }
}
