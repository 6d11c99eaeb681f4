//! A publish on a tag's `…/set`: a command for a device.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::duty::Duty;
use super::errands::Done;
use crate::broker::message::Retain;
use crate::broker::ruling;
use crate::broker::session::{Token, Verdict};
use crate::broker::wire::Publish;
use crate::flow::command::{Admission, Redelivery, Request, Retained as CommandRetained};
use crate::model::command::Refusal;
use crate::model::tag::TagIx;

impl Duty {
    /// What the publish asks for.
    pub(super) fn request(&self, tag: TagIx, publish: &Publish) -> Request {
        let forwarded = publish.forwarded.as_deref();
        let response_topic = forwarded.and_then(|forwarded| forwarded.response_topic.clone());
        let (access, ownership) = (&self.shared.access, &self.shared.ownership);
        let answerable = |topic: &String| ruling::may_answer_on(access, ownership, &self.identity, topic);
        Request {
            tag,
            payload: publish.payload.to_vec(),
            retained: if publish.retain == Retain::Yes { CommandRetained::Yes } else { CommandRetained::No },
            redelivery: if publish.again { Redelivery::Again } else { Redelivery::First },
            expiry: publish.expiry.map(|seconds| Duration::from_secs(seconds.into())),
            correlation: forwarded.and_then(|forwarded| forwarded.correlation.as_ref()).map(|data| data.to_vec()),
            response_topic: response_topic.filter(answerable),
            origin: format!("local:{} as {}", self.identity, self.id),
            replies: None,
            at: self.shared.clock.now(),
        }
    }

    /// Hands a command in; acknowledged when it is journalled.
    pub(super) fn command(&mut self, token: Token, request: Request) -> Option<Verdict> {
        let (commands, bytes) = (self.shared.commands.clone(), request.payload.len());
        let mut answer = Box::pin(async move {
            match commands.submit(request).await {
                Admission::Accepted => Verdict::Taken(0),
                Admission::Refused(refusal) => Verdict::Refused(refusal_reason(refusal), refusal.as_str()),
            }
        });
        // Polled once here, which puts it into the queue: a task of its own might be overtaken by the next command's.
        if let Poll::Ready(verdict) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(verdict);
        }
        self.waits.task(bytes, async move { Done::Settled(token, answer.await) });
        None
    }
}

/// The MQTT 5 reason code that comes nearest (section 3.4.2.1); the reason string has the word itself.
const fn refusal_reason(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Access => 0x87,
        Refusal::Busy => 0x97,
        Refusal::Payload => 0x99,
        _ => 0x83,
    }
}
