//! Publishes from the client: topic aliases, Receive Maximum, acknowledgements in the order of the publishes
//! (4.6.0-2, 4.6.0-3) however long each takes to settle, and QoS 2 exactly once.

use std::collections::{HashMap, VecDeque};

use super::{Action, Ending};
use crate::broker::message::Qos;
use crate::broker::wire::{Ack, AckKind, Fault, Publish, Version};

/// Unacknowledged QoS 1 and 2 publishes we take from a client. A command waits for the journal, a retained message for
/// a commit of a few milliseconds: with 64 on the way a client still does thousands a second.
pub(in crate::broker) const RECEIVE_MAXIMUM: u16 = 64;

/// Topic aliases a client may use towards us: at most 32 KiB per connection.
pub(in crate::broker) const ALIASES_MAX: u16 = 32;

/// Names a publish until it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::broker) struct Token(u64);

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Verdict {
    /// Done; MQTT 5 clients get this reason: 0, or 0x10 when nobody subscribes.
    Taken(u8),
    /// Refused with this MQTT 5 reason and text; a 3.1.1 client sees an ordinary acknowledgement, as from mosquitto.
    Refused(u8, &'static str),
    /// It could not be kept: MQTT 5 is told this reason and text, 3.1.1 must not be acknowledged.
    NotKept(u8, &'static str),
}

#[derive(Debug)]
struct Waiting {
    token: Token,
    packet_id: u16,
    qos: Qos,
    verdict: Option<Verdict>,
}

/// State of a QoS 2 publish between its PUBLISH and its PUBREL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Received {
    Unsettled,
    PubrecSent,
}

#[derive(Debug)]
pub(super) struct Inbound {
    version: Version,
    next: u64,
    waiting: VecDeque<Waiting>,
    received: HashMap<u16, Received>,
    aliases: HashMap<u16, String>,
}

impl Inbound {
    pub(super) fn new(version: Version) -> Self {
        let (waiting, received, aliases) = (VecDeque::new(), HashMap::new(), HashMap::new());
        Self { version, next: 0, waiting, received, aliases }
    }

    /// QoS 1 and 2 publishes that wait for their first acknowledgement.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn publish(&mut self, mut publish: Publish) -> Vec<Action> {
        if let Err(ending) = self.resolve_alias(&mut publish) {
            return vec![Action::Close(ending)];
        }
        if publish.qos == Qos::ExactlyOnce {
            match self.received.get(&publish.packet_id) {
                Some(Received::Unsettled) => return Vec::new(),
                Some(Received::PubrecSent) => return vec![ack(AckKind::Pubrec, publish.packet_id, 0, "")],
                None => {}
            }
        }
        let token = Token(self.next);
        self.next += 1;
        if publish.qos != Qos::AtMostOnce {
            if self.version == Version::V5 && self.unfinished() >= usize::from(RECEIVE_MAXIMUM) {
                return vec![Action::Close(Ending::ReceiveMaximum)];
            }
            let (packet_id, qos) = (publish.packet_id, publish.qos);
            if qos == Qos::ExactlyOnce {
                self.received.insert(packet_id, Received::Unsettled);
            }
            self.waiting.push_back(Waiting { token, packet_id, qos, verdict: None });
        }
        vec![Action::Publish { token, publish }]
    }

    /// PUBREL: the QoS 2 publish is finished on both sides.
    pub(super) fn release(&mut self, pubrel: Ack) -> Action {
        let known = self.received.get(&pubrel.packet_id) == Some(&Received::PubrecSent);
        if known {
            self.received.remove(&pubrel.packet_id);
        }
        // 0x92: packet identifier not found.
        ack(AckKind::Pubcomp, pubrel.packet_id, if known { 0 } else { 0x92 }, "")
    }

    pub(super) fn settle(&mut self, token: Token, verdict: Verdict) -> Vec<Action> {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.token == token) {
            waiting.verdict = Some(verdict);
        }
        let mut actions = Vec::new();
        while let Some(Waiting { packet_id, qos, verdict: Some(verdict), .. }) = self.waiting.front() {
            let (packet_id, qos, verdict) = (*packet_id, *qos, *verdict);
            self.waiting.pop_front();
            actions.push(self.acknowledge(packet_id, qos, verdict));
        }
        actions
    }

    fn acknowledge(&mut self, packet_id: u16, qos: Qos, verdict: Verdict) -> Action {
        let (reason, told) = match (verdict, self.version) {
            (Verdict::NotKept(..), Version::V311) => return Action::Close(Ending::NotKept),
            (Verdict::Taken(_) | Verdict::Refused(..), Version::V311) => (0, ""),
            (Verdict::Taken(reason), Version::V5) => (reason, ""),
            (Verdict::Refused(reason, told) | Verdict::NotKept(reason, told), Version::V5) => (reason, told),
        };
        if qos == Qos::ExactlyOnce {
            // With 0x80 or more the exchange is over and the identifier free (4.3.3-8, 3.5.2.1).
            if reason >= 0x80 {
                self.received.remove(&packet_id);
            } else {
                self.received.insert(packet_id, Received::PubrecSent);
            }
            ack(AckKind::Pubrec, packet_id, reason, told)
        } else {
            ack(AckKind::Puback, packet_id, reason, told)
        }
    }

    /// What counts against our Receive Maximum (section 4.9): QoS 2 until its PUBREL.
    fn unfinished(&self) -> usize {
        let only_waiting = self.waiting.iter().filter(|waiting| waiting.qos == Qos::AtLeastOnce).count();
        only_waiting + self.received.len()
    }

    /// Section 3.3.2.3.4.
    fn resolve_alias(&mut self, publish: &mut Publish) -> Result<(), Ending> {
        let Some(alias) = publish.alias.take() else {
            return Ok(());
        };
        if alias == 0 || alias > ALIASES_MAX {
            return Err(Ending::TopicAlias);
        }
        if publish.topic.is_empty() {
            let known = self.aliases.get(&alias);
            let known = known.ok_or(Ending::Fault(Fault::Protocol("topic alias not yet given")))?;
            publish.topic.clone_from(known);
        } else {
            self.aliases.insert(alias, publish.topic.clone());
        }
        Ok(())
    }
}

fn ack(kind: AckKind, packet_id: u16, reason: u8, told: &'static str) -> Action {
    Action::Ack { kind, packet_id, reason, told }
}
