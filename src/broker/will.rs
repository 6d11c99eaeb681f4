//! Last wills: a message left at CONNECT, published when the connection ends without a goodbye.
//!
//! With MQTT 5 it may wait for the client to come back: for the will delay, but not longer than its session lives. A
//! will is never a command: it would move a pump because of a broken cable, long after anybody asked for it.
//!
//! A CONNECT may have a long one, and a thousand idle clients would fill a small box with theirs: together they may take
//! [`BYTES_MAX`], and short ones always have room, since the number of clients is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::message::{Holders, Keep, Message, Retain};
use super::wire::{Connect, Will};
use crate::access::Identity;

/// Wills that may wait at once; one more is published at once.
const WAITING_MAX: usize = 1024;

/// What the wills of all clients may take, bytes, also of those that have gone and whose wills wait.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// A will of up to so many bytes is taken all the same: nobody who leaves what a plant's clients leave is kept out.
const SHORT_BYTES: usize = 4 * 1024;

/// Bytes of all wills.
#[derive(Debug, Clone, Default)]
pub(super) struct Room(Arc<AtomicUsize>);

/// What a will is charged; given back when this is dropped.
#[derive(Debug)]
struct Charge(Room, usize);

impl Room {
    /// Charges a will that takes the place of so many bytes. False: there is no room for it.
    pub(super) fn charge(&self, will: &mut LastWill, instead_of: usize) -> bool {
        // What stands in its properties is held decoded, too.
        let bytes = will.message.cost() + will.message.properties().len();
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let charge = Charge(self.clone(), bytes);
        if bytes > SHORT_BYTES && before + bytes > BYTES_MAX + instead_of {
            return false;
        }
        will.charge = Some(charge);
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// A will, ready to be published.
#[derive(Debug)]
pub(super) struct LastWill {
    message: Message,
    expiry: Option<Duration>,
    retain: Retain,
    delay: Duration,
    /// Who leaves it.
    source: Identity,
    charge: Option<Charge>,
}

impl LastWill {
    /// Of a client that asked for this.
    pub(super) fn new(will: Will, source: Identity) -> Self {
        let message = Message {
            topic: will.topic.into(),
            payload: will.payload,
            qos: will.qos,
            forwarded: will.forwarded,
            expires: None,
            keep: Keep::Every,
            holders: Holders::default(),
        };
        Self {
            message,
            expiry: will.expiry.map(|seconds| Duration::from_secs(seconds.into())),
            retain: will.retain,
            delay: Duration::from_secs(will.delay.into()),
            source,
            charge: None,
        }
    }

    /// From CONNECT.
    pub(super) fn of(connect: &mut Connect, source: &Identity) -> Option<Self> {
        connect.will.take().map(|will| Self::new(will, source.clone()))
    }

    pub(super) fn topic(&self) -> &str {
        &self.message.topic
    }

    pub(super) fn source(&self) -> &Identity {
        &self.source
    }

    pub(super) fn retain(&self) -> Retain {
        self.retain
    }

    pub(super) fn set_retain(&mut self, retain: Retain) {
        self.retain = retain;
    }

    /// Its life begins when it is published (3.1.3.2.4). And who has left it.
    pub(super) fn publish(mut self, now: Instant) -> (Arc<Message>, Retain, Identity) {
        self.message.expires = self.expiry.map(|expiry| now + expiry);
        (Arc::new(self.message), self.retain, self.source)
    }
}

/// Wills of clients that may come back.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    wills: Vec<(Arc<str>, Instant, LastWill)>,
    /// For these, and for those of whoever is connected.
    pub room: Room,
}

impl Waiting {
    /// Charges the will of a client that comes in; one that waits for it is called back then.
    pub(super) fn charge(&self, id: &str, will: Option<&mut LastWill>) -> bool {
        let Some(will) = will else { return true };
        let before = self.wills.iter().find(|(waiting, ..)| **waiting == *id);
        let before = before.and_then(|(.., will)| will.charge.as_ref());
        self.room.charge(will, before.map_or(0, |charge| charge.1))
    }

    /// Lets a will wait while the session lives, for so many seconds at most; given back when it must be published at
    /// once.
    pub(super) fn add(&mut self, id: Arc<str>, will: LastWill, expiry: u32, now: Instant) -> Option<LastWill> {
        let delay = will.delay.min(Duration::from_secs(expiry.into()));
        if delay.is_zero() || self.wills.len() >= WAITING_MAX {
            return Some(will);
        }
        let due = now + delay;
        self.wills.push((id, due, will));
        None
    }

    /// The client is back, or its session has ended.
    pub(super) fn call_back(&mut self, id: &str) -> Option<LastWill> {
        let place = self.wills.iter().position(|(waiting, ..)| **waiting == *id)?;
        Some(self.wills.swap_remove(place).2)
    }

    /// Keeps those that may be left still: asked with client id and topic.
    pub(super) fn retain(&mut self, may_stay: impl Fn(&str, &str) -> bool) {
        self.wills.retain(|(id, _, will)| may_stay(id, will.topic()));
    }

    /// Those whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Vec<LastWill> {
        self.wills.extract_if(.., |(_, due, _)| *due <= now).map(|(.., will)| will).collect()
    }

    /// All of them: the gateway stops.
    pub(super) fn all(&mut self) -> Vec<LastWill> {
        self.wills.drain(..).map(|(.., will)| will).collect()
    }
}
