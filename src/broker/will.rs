//! Last wills: a message left at CONNECT, published when the connection ends without a goodbye.
//!
//! With MQTT 5 it may wait for the client to come back: for the will delay, but not longer than its session lives. A
//! will is never a command: it would move a pump because of a broken cable, long after anybody asked for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::message::{Keep, Message, Retain};
use super::wire::{Connect, Will};
use crate::access::Identity;

/// Wills that may wait at once; one more is published at once.
const WAITING_MAX: usize = 1024;

/// A will, ready to be published.
#[derive(Debug, Clone)]
pub(super) struct LastWill {
    message: Message,
    expiry: Option<Duration>,
    retain: Retain,
    delay: Duration,
    /// Who leaves it.
    source: Identity,
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
        };
        Self {
            message,
            expiry: will.expiry.map(|seconds| Duration::from_secs(seconds.into())),
            retain: will.retain,
            delay: Duration::from_secs(will.delay.into()),
            source,
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
pub(super) struct Waiting(Vec<(Arc<str>, Instant, LastWill)>);

impl Waiting {
    /// Lets a will wait while the session lives, for so many seconds at most; given back when it must be published at
    /// once.
    pub(super) fn add(&mut self, id: Arc<str>, will: LastWill, expiry: u32, now: Instant) -> Option<LastWill> {
        let delay = will.delay.min(Duration::from_secs(expiry.into()));
        if delay.is_zero() || self.0.len() >= WAITING_MAX {
            return Some(will);
        }
        let due = now + delay;
        self.0.push((id, due, will));
        None
    }

    /// The client is back, or its session has ended.
    pub(super) fn call_back(&mut self, id: &str) -> Option<LastWill> {
        let place = self.0.iter().position(|(waiting, ..)| **waiting == *id)?;
        Some(self.0.swap_remove(place).2)
    }

    /// Keeps those that may be left still: asked with client id and topic.
    pub(super) fn retain(&mut self, may_stay: impl Fn(&str, &str) -> bool) {
        self.0.retain(|(id, _, will)| may_stay(id, will.topic()));
    }

    /// Those whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Vec<LastWill> {
        self.0.extract_if(.., |(_, due, _)| *due <= now).map(|(.., will)| will).collect()
    }

    /// All of them: the gateway stops.
    pub(super) fn all(&mut self) -> Vec<LastWill> {
        self.0.drain(..).map(|(.., will)| will).collect()
    }
}
