//! The one road for a command: whoever hears it (broker, later uplink and page) hands it in here; the router takes it.
//!
//! A command is acknowledged to its sender only after [`Admission`] says so: by then it is journalled on disk, or refused
//! with a result. The queue is bounded; when it is full, whoever hands in waits (and so does its client).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::unconstrained;

use crate::model::command::Refusal;
use crate::model::stats::Counter;
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
    /// Who asked, for log and audit: `local:<identity> as <client id>`, `page:<user> from <address>`, `uplink:<name>`.
    pub origin: String,
    /// Where answers go besides the local broker: back to the uplink it came from.
    pub replies: Option<Replies>,
    /// When it arrived.
    pub at: Stamp,
}

/// An answer on its way to the uplink that the command came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// `<tag topic>/set/result`.
    pub result_topic: String,
    /// As on the result topic.
    pub result: Vec<u8>,
    /// Whether it also goes upstream as an event of the store.
    pub stored: Stored,
    /// As in the request.
    pub response_topic: Option<String>,
    /// As in the request.
    pub correlation: Option<Vec<u8>>,
}

/// Is a result a record of the store? Outcomes are; refusals and repeated answers are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Every uplink with the class event gets it.
    Yes,
    /// Nobody else will say it.
    No,
}

/// Where replies are handed in; cheap to clone.
#[derive(Debug, Clone)]
pub struct Replies {
    queue: mpsc::Sender<Reply>,
    lost: Arc<Counter>,
}

/// Makes a road back. Replies that nobody fetches in time are dropped and counted in `lost`.
pub fn replies(lost: Arc<Counter>) -> (Replies, mpsc::Receiver<Reply>) {
    let (queue, replies) = mpsc::channel(COMMANDS_WAITING_MAX);
    (Replies { queue, lost }, replies)
}

impl Replies {
    /// Hands one in.
    pub fn tell(&self, reply: Reply) {
        if self.queue.try_send(reply).is_err() {
            self.lost.one();
        }
    }
}

impl PartialEq for Replies {
    fn eq(&self, other: &Self) -> bool {
        self.queue.same_channel(&other.queue)
    }
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
    /// one without a result. The first poll takes a place in the queue, whatever else the task has done in this turn
    /// (tokio's budget is set aside for it), so that commands polled in order arrive in order.
    pub async fn submit(&self, request: Request) -> Admission {
        let (admitted, answer) = oneshot::channel();
        match unconstrained(self.queue.send(Submitted { request, admitted })).await {
            Ok(()) => answer.await.unwrap_or(Admission::Refused(Refusal::Stopping)),
            Err(mpsc::error::SendError(_)) => Admission::Refused(Refusal::Stopping),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::model::time::Boot;

    fn request(tag: u32) -> Request {
        Request {
            tag: TagIx(tag),
            payload: Vec::new(),
            retained: Retained::No,
            redelivery: Redelivery::First,
            expiry: None,
            correlation: None,
            response_topic: None,
            origin: "test".to_owned(),
            replies: None,
            at: Stamp { boot: Boot(1), micros: 0 },
        }
    }

    #[tokio::test]
    async fn the_first_poll_takes_a_place_even_when_the_task_has_used_up_its_turn() {
        let (entry, mut commands) = road();
        let (busy, mut done) = mpsc::channel(1000);
        for n in 0..1000 {
            busy.try_send(n).expect("room");
        }
        // Uses up the budget: the next poll of a tokio resource would be pending, ready or not.
        while pin!(done.recv()).poll(&mut Context::from_waker(Waker::noop())).is_ready() {}
        let mut first = pin!(entry.submit(request(1)));
        assert_eq!(first.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
        assert_eq!(commands.try_recv().expect("it is in the queue").request.tag, TagIx(1));
    }
}
