//! The one road for a command: whoever hears it (broker, later uplink and page) hands it in here; the router takes it.
//!
//! A command is acknowledged to its sender only after [`Admission`] says so: by then it is journalled on disk, or refused
//! with a result. The queue is bounded; when it is full, whoever hands in waits (and so does its client).

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::model::command::Refusal;
use crate::model::tag::TagIx;
use crate::model::time::Stamp;

/// Commands that may wait for the router.
pub const COMMANDS_WAITING_MAX: usize = 64;

/// A PUBLISH on a tag's `…/set` topic that the sender's ACL allows.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Whose `…/set` it was.
    pub tag: TagIx,
    /// As it came: a bare JSON value, or an object with value, id, expires.
    pub payload: Vec<u8>,
    /// RETAIN was set: will be refused.
    pub retained: Retained,
    /// DUP was set: refused unless there is an id.
    pub redelivery: Redelivery,
    /// MQTT 5 message expiry.
    pub expiry: Option<Duration>,
    /// MQTT 5 correlation data; serves as the id when the payload has none, and goes back with the response.
    pub correlation: Option<Vec<u8>>,
    /// MQTT 5 response topic, if the requester itself may write there and the gateway does not own it.
    pub response_topic: Option<String>,
    /// Who asked, for log and audit: `local:<client id>`.
    pub origin: String,
    /// When it arrived.
    pub at: Stamp,
}

/// RETAIN flag of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retained {
    /// Set.
    Yes,
    /// Not set.
    No,
}

/// DUP flag of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redelivery {
    /// DUP=1.
    Again,
    /// DUP=0.
    First,
}

/// What the sender may now be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Journalled (or answered from memory): acknowledge it. The outcome comes on the result topic.
    Accepted,
    /// Refused; the reason has been published on the result topic. Acknowledge it (MQTT 5: with an error code).
    Refused(Refusal),
}

/// A request on its way to the router.
#[derive(Debug)]
pub struct Submitted {
    /// The command.
    pub request: Request,
    /// To be answered once, after the journal's commit.
    pub admitted: oneshot::Sender<Admission>,
}

/// Where commands are handed in; cheap to clone.
#[derive(Debug, Clone)]
pub struct CommandEntry {
    queue: mpsc::Sender<Submitted>,
}

/// Makes the road.
pub fn road() -> (CommandEntry, mpsc::Receiver<Submitted>) {
    let (queue, commands) = mpsc::channel(COMMANDS_WAITING_MAX);
    (CommandEntry { queue }, commands)
}

impl CommandEntry {
    /// Hands a command in and waits until it may be acknowledged. Once it is handed in it runs, even if this is cancelled.
    /// Waits for room if need be: whoever hands in has a bound on how many may wait, and a command dropped here would be
    /// one without a result.
    pub async fn submit(&self, request: Request) -> Admission {
        let (admitted, answer) = oneshot::channel();
        match self.queue.send(Submitted { request, admitted }).await {
            Ok(()) => answer.await.unwrap_or(Admission::Refused(Refusal::Stopping)),
            Err(mpsc::error::SendError(_)) => Admission::Refused(Refusal::Stopping),
        }
    }
}
