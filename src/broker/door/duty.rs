//! What a connection does for each of its session's actions: publish, subscribe, hand in a command, acknowledge.
//!
//! Publishes that cannot be settled at once (a command waits for the journal, a retained message for its commit) are
//! settled in tasks of their own; the client's other packets go on meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::Seat;
use super::sending::Walk;
use crate::access::Identity;
use crate::broker::core::Shared;
use crate::broker::message::{Delivery, Keep, Message, Qos, Retain};
use crate::broker::outbox::Outbox;
use crate::broker::ruling::{self, Ruling};
use crate::broker::session::{Action, Aliases, Ending, Session, Token, Verdict};
use crate::broker::tree::ClientKey;
use crate::broker::wire::encode;
use crate::broker::wire::{Connect, Incoming, Publish, Subscribe, Version};
use crate::flow::command::{Admission, Redelivery, Request, Retained as CommandRetained};
use crate::model::command::Refusal;
use crate::model::tag::TagIx;
use crate::model::topic::{check_filter, split_share};

/// A connected client at work.
pub(super) struct Duty {
    pub(super) shared: Arc<Shared>,
    key: ClientKey,
    id: Arc<str>,
    identity: Identity,
    pub(super) version: Version,
    pub(super) session: Session,
    pub(super) outbox: Arc<Outbox>,
    pub(super) maximum_packet: usize,
    wants_reasons: bool,
    pub(super) aliases: Aliases,
    /// Retained messages still to be sent, by filter: subscribing again begins again.
    pub(super) walks: BTreeMap<Arc<str>, Walk>,
    /// Taken, but there was no room in the window yet.
    pub(super) taken: VecDeque<Delivery>,
    settling: JoinSet<(Token, Verdict)>,
    settled: Vec<(Token, Verdict)>,
    refused_before: bool,
}

impl Duty {
    pub(super) fn new(seat: &Seat, outbox: Arc<Outbox>, session: Session, client: (&Connect, Identity)) -> Self {
        let (connect, identity) = client;
        Self {
            shared: Arc::clone(&seat.shared),
            key: seat.key,
            id: Arc::clone(&seat.id),
            identity,
            version: connect.version,
            session,
            outbox,
            maximum_packet: connect.maximum_packet as usize,
            wants_reasons: connect.wants_reasons,
            aliases: Aliases::new(connect.alias_maximum),
            walks: BTreeMap::new(),
            taken: VecDeque::new(),
            settling: JoinSet::new(),
            settled: Vec::new(),
            refused_before: false,
        }
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Is so much waiting to be settled that no more should be read?
    pub(super) fn is_full(&self) -> bool {
        self.session.is_full(self.settling.len())
    }

    /// Nothing is read for now: the client cannot be heard.
    pub(super) fn excuse(&mut self) {
        self.session.excuse(Instant::now());
    }

    pub(super) fn silent_at(&self) -> Option<Instant> {
        self.session.silent_at()
    }

    /// Waits until something is settled; for ever when nothing waits. Cancel-safe.
    pub(super) async fn settled(&mut self) {
        match self.settling.join_next().await {
            Some(Ok(done)) => self.settled.push(done),
            // These tasks do not panic and are not cancelled; a publish lost that way would just not be acknowledged.
            Some(Err(error)) => tracing::error!(%error, "a publish could not be settled"),
            None => std::future::pending().await,
        }
    }

    /// Acknowledges what has been settled.
    pub(super) fn take_settled(&mut self, out: &mut BytesMut) -> Option<Ending> {
        for (token, verdict) in std::mem::take(&mut self.settled) {
            let actions = self.session.settle(token, verdict);
            if let ending @ Some(_) = self.carry_out(actions, out) {
                return ending;
            }
        }
        None
    }

    /// A packet has arrived.
    pub(super) fn packet(&mut self, packet: Incoming, out: &mut BytesMut) -> Option<Ending> {
        self.shared.stats.packets_received.one();
        let actions = self.session.step(packet, Instant::now());
        self.carry_out(actions, out)
    }

    fn carry_out(&mut self, actions: Vec<Action>, out: &mut BytesMut) -> Option<Ending> {
        for action in actions {
            match action {
                Action::Ack { kind, packet_id, reason, told } => {
                    let fits = self.wants_reasons && told.len() + 16 <= self.maximum_packet;
                    encode::ack(out, self.version, kind, (packet_id, reason, if fits { told } else { "" }));
                }
                Action::Pong => encode::pong(out),
                Action::Publish { token, publish } => {
                    if let Some(verdict) = self.publish(token, publish) {
                        let actions = self.session.settle(token, verdict);
                        if let ending @ Some(_) = self.carry_out(actions, out) {
                            return ending;
                        }
                    }
                    continue;
                }
                Action::Subscribe(subscribe) => self.subscribe(&subscribe, out),
                Action::Unsubscribe { packet_id, filters } => self.unsubscribe(packet_id, &filters, out),
                Action::Close(ending) => return Some(ending),
            }
            self.shared.stats.packets_sent.one();
        }
        None
    }

    /// The verdict, unless it has to be waited for.
    fn publish(&mut self, token: Token, publish: Publish) -> Option<Verdict> {
        let stats = &self.shared.stats;
        stats.publishes_received.one();
        stats.publish_bytes_received.add(publish.payload.len() as u64);
        let (access, ownership) = (&self.shared.access, &self.shared.ownership);
        match ruling::judge(access, ownership, &self.identity, &publish.topic, publish.retain) {
            Ruling::Refuse(told) => {
                stats.publishes_refused.one();
                if !self.refused_before && self.shared.talk.allows() {
                    tracing::warn!(client = &*self.id, topic = publish.topic, reason = told, "publish refused");
                }
                self.refused_before = true;
                Some(Verdict::Refused(0x87, told))
            }
            Ruling::Command(tag) => {
                let request = self.request(tag, &publish);
                // Shown to those who watch the topic; not kept, so there is always room for it.
                drop(self.shared.publish(&Arc::new(message(publish)), Retain::No, self.key));
                self.command(token, request)
            }
            Ruling::Publish(retain) => self.send_on(token, publish, retain),
        }
    }

    fn send_on(&mut self, token: Token, publish: Publish, retain: Retain) -> Option<Verdict> {
        let message = Arc::new(message(publish));
        let Ok(published) = self.shared.publish(&message, retain, self.key) else {
            self.shared.stats.publishes_refused.one();
            return Some(Verdict::NotKept(0x97, "no room for more retained messages"));
        };
        // 0x10: no matching subscribers. At QoS 2 left unsaid, as by mosquitto: its clients' authors know 0 only.
        let stored = self.shared.forward(&message, retain);
        let unseen = published.receivers == 0 && message.qos == Qos::AtLeastOnce && stored.is_none();
        let verdict = Verdict::Taken(if unseen { 0x10 } else { 0 });
        let committed = published.committed.filter(|_| message.qos != Qos::AtMostOnce);
        if committed.is_none() && stored.is_none() {
            return Some(verdict);
        }
        self.settling.spawn(async move {
            if let Some(stored) = stored
                && stored.await.is_err()
            {
                return (token, Verdict::NotKept(0x97, "could not be stored for upstream"));
            }
            let kept = match committed {
                Some(committed) => matches!(committed.await, Ok(Ok(()))),
                None => true,
            };
            (token, if kept { verdict } else { Verdict::NotKept(0x80, "could not be kept on disk") })
        });
        None
    }

    fn request(&self, tag: TagIx, publish: &Publish) -> Request {
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
            origin: format!("local:{}", self.id),
            replies: None,
            at: self.shared.clock.now(),
        }
    }

    /// Hands a command in; acknowledged when it is journalled.
    fn command(&mut self, token: Token, request: Request) -> Option<Verdict> {
        let commands = self.shared.commands.clone();
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
        self.settling.spawn(async move { (token, answer.await) });
        None
    }

    fn subscribe(&mut self, subscribe: &Subscribe, out: &mut BytesMut) {
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for wanted in &subscribe.filters {
            match self.shared.subscribe(self.key, &self.identity, wanted, subscribe.id) {
                Ok(subscribed) => {
                    codes.push(wanted.qos.bits());
                    if let Some(cursor) = subscribed.cursor {
                        let (_, after) = self.outbox.numbers();
                        let walk = Walk { cursor, subscription: subscribed.subscription, after };
                        self.walks.insert(walk.cursor.filter(), walk);
                    }
                }
                Err(reason) => {
                    if !self.refused_before && self.shared.talk.allows() {
                        tracing::warn!(client = &*self.id, filter = wanted.filter, reason, "subscription refused");
                    }
                    self.refused_before = true;
                    codes.push(reason);
                }
            }
        }
        encode::suback(out, self.version, subscribe.packet_id, &codes);
    }

    fn unsubscribe(&mut self, packet_id: u16, filters: &[String], out: &mut BytesMut) {
        let mut codes = Vec::with_capacity(filters.len());
        for filter in filters {
            self.walks.remove(filter.as_str());
            codes.push(match self.shared.unsubscribe(self.key, filter) {
                true => 0,
                false if is_filter(filter) => 0x11, // no subscription existed
                false => 0x8F,
            });
        }
        encode::unsuback(out, self.version, packet_id, &codes);
    }
}

/// Could there be a subscription of this name?
fn is_filter(raw: &str) -> bool {
    split_share(raw).is_ok_and(|shared| check_filter(shared.map_or(raw, |(_, filter)| filter)).is_ok())
}

fn message(publish: Publish) -> Message {
    let expires = publish.expiry.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    Message {
        topic: publish.topic.into(),
        payload: publish.payload,
        qos: publish.qos,
        forwarded: publish.forwarded,
        expires,
        keep: Keep::Every,
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
