//! Publishes from the client: topic aliases, Receive Maximum, acknowledgements in the order of the publishes
//! (4.6.0-2, 4.6.0-3) however long each takes to settle, and QoS 2 exactly once.
//!
//! Packet identifiers of QoS 2 publishes that the client has not released belong to the session, not to the connection:
//! [`Inbound::carry`] hands them on. Those whose message left a row in the ledger lie there, too, and are taken out of
//! it, durably, before PUBCOMP: the client may use the identifier again from then on, and after a crash its next publish
//! must not be taken for the old one.
//!
//! A client that has lost what it knew begins again with its first packet identifiers, and may find one that an earlier
//! connection left: what comes under it then is another message, and is published. What is sent again says so with DUP
//! (3.3.1-1). Some clients do not set it (rumqttc 0.25): they are known by sending what they had sent, as by mosquitto.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Action, Ending};
use crate::broker::message::Qos;
use crate::broker::wire::{Ack, AckKind, Fault, Publish, Version};

/// Unacknowledged QoS 1 and 2 publishes we take from a client. A command waits for the journal, a retained message for
/// a commit of a few milliseconds: with 64 on the way a client still does thousands a second.
pub(in crate::broker) const RECEIVE_MAXIMUM: u16 = 64;

/// QoS 2 publishes of a client that wait for their PUBREL, of all its connections: beyond, something is wrong with it.
const UNRELEASED_MAX: usize = 1024;

/// Topic aliases a client may use towards us: as with mosquitto, and at most 10 KiB per connection.
pub(in crate::broker) const ALIASES_MAX: u16 = 10;

/// Names a publish until it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::broker) struct Token(u64);

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Verdict {
    /// Done; MQTT 5 clients get this reason: 0, or 0x10 when nobody subscribes.
    Taken(u8),
    /// The same; a row of the ledger, committed, holds it and, if the session outlives its connection, its packet
    /// identifier.
    Owed(u8),
    /// Refused with this MQTT 5 reason and text; a 3.1.1 client sees an ordinary acknowledgement, as from mosquitto.
    Refused(u8, &'static str),
    /// It could not be kept: MQTT 5 is told this reason and text, 3.1.1 must not be acknowledged.
    NotKept(u8, &'static str),
    /// The same; local clients have it nevertheless, what is missing is the store for upstream.
    NotForwarded,
}

impl Verdict {
    /// What it is when its commit has failed.
    pub(in crate::broker) fn not_kept(self) -> Self {
        match self {
            // 0x97, quota exceeded: what a client must take for "later".
            Self::Owed(_) => Self::NotKept(0x97, "could not be kept for all who are owed it"),
            _ => Self::NotKept(0x80, "could not be kept on disk"),
        }
    }
}

#[derive(Debug)]
struct Waiting {
    token: Token,
    packet_id: u16,
    qos: Qos,
    verdict: Option<Verdict>,
    /// See [`Inbound::may_come_again`].
    may_come_again: bool,
}

/// A QoS 2 publish between its PUBLISH and its PUBREL, as a session keeps it from connection to connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) struct Unreleased {
    pub packet_id: u16,
    pub received: Received,
    /// `None`: the gateway was restarted since.
    pub content: Option<Content>,
}

/// Topic and payload, as far as a hash tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) struct Content(u64);

impl Content {
    fn of(publish: &Publish) -> Self {
        let mut hasher = DefaultHasher::new();
        (&publish.topic, &publish.payload).hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Received {
    /// Sent on; the connection ended before it was known to be settled. It may stand in the ledger.
    SentOn,
    /// PUBREC was sent.
    Taken,
    /// The same, and the ledger knows it.
    Owed,
    /// The ledger knew it when the gateway began. Whether PUBREC was sent is not known, nor whether a store upstream has
    /// the message: that is committed apart.
    Found,
}

/// The same, on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Unsettled,
    Received(Received),
    /// PUBREL has come; the ledger is being told.
    Finishing,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    stage: Stage,
    content: Option<Content>,
    /// Published on this connection: only that counts against Receive Maximum (section 4.9).
    counts: bool,
}

#[derive(Debug)]
pub(super) struct Inbound {
    version: Version,
    /// The session outlives its connection: the ledger knows its packet identifiers.
    lasting: bool,
    next: u64,
    waiting: VecDeque<Waiting>,
    received: HashMap<u16, Entry>,
    aliases: HashMap<u16, String>,
}

impl Inbound {
    /// Goes on with what an earlier connection of the session left.
    pub(super) fn new(version: Version, lasting: bool, carried: &[Unreleased]) -> Self {
        let known = |Unreleased { packet_id, received, content }: &Unreleased| {
            (*packet_id, Entry { stage: Stage::Received(*received), content: *content, counts: false })
        };
        let (waiting, received, aliases) = (VecDeque::new(), carried.iter().map(known).collect(), HashMap::new());
        Self { version, lasting, next: 0, waiting, received, aliases }
    }

    /// The session outlives its connection from now on.
    pub(super) fn outlive(&mut self) {
        self.lasting = true;
    }

    /// What the next connection of the session has to know.
    pub(super) fn carry(&self) -> Vec<Unreleased> {
        // What was refused, and stands behind another one that is not settled, was never told: it is judged anew.
        let anew = |waiting: &&Waiting| {
            waiting.may_come_again || matches!(waiting.verdict, Some(Verdict::NotKept(..) | Verdict::Refused(..)))
        };
        let again: Vec<u16> = self.waiting.iter().filter(anew).map(|waiting| waiting.packet_id).collect();
        let of = |(packet_id, entry): (&u16, &Entry)| {
            let received = match entry.stage {
                Stage::Unsettled if again.contains(packet_id) => return None,
                Stage::Unsettled => Received::SentOn,
                Stage::Received(received) => received,
                // Not known to be committed: the PUBREL that comes again asks once more.
                Stage::Finishing => Received::Owed,
            };
            Some(Unreleased { packet_id: *packet_id, received, content: entry.content })
        };
        self.received.iter().filter_map(of).collect()
    }

    /// This publish may be handed in once more if the connection ends before it is settled: nothing is done twice then.
    pub(super) fn may_come_again(&mut self, token: Token) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.token == token) {
            waiting.may_come_again = true;
        }
    }

    /// QoS 1 and 2 publishes that wait for their first acknowledgement.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn publish(&mut self, mut publish: Publish) -> Vec<Action> {
        if let Err(ending) = self.resolve_alias(&mut publish) {
            return vec![Action::Close(ending)];
        }
        let (mut sent_on, is_another) = (false, self.is_another(&publish));
        if publish.qos == Qos::ExactlyOnce && !is_another {
            match self.received.get(&publish.packet_id).map(|entry| entry.stage) {
                Some(Stage::Unsettled) => return Vec::new(),
                Some(Stage::Received(Received::SentOn | Received::Found)) => sent_on = true,
                Some(Stage::Received(_) | Stage::Finishing) => {
                    return vec![ack(AckKind::Pubrec, publish.packet_id, 0, "")];
                }
                None if self.received.len() >= UNRELEASED_MAX => return vec![Action::Close(Ending::ReceiveMaximum)],
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
                let content = Some(Content::of(&publish));
                self.received.insert(packet_id, Entry { stage: Stage::Unsettled, content, counts: true });
            }
            self.waiting.push_back(Waiting { token, packet_id, qos, verdict: None, may_come_again: false });
        }
        match publish.packet_id {
            packet_id if is_another => vec![Action::Disown { packet_id }, Action::Publish { token, publish }],
            _ if sent_on => vec![Action::Confirm { token, publish }],
            _ => vec![Action::Publish { token, publish }],
        }
    }

    /// Does its packet identifier stand for another message, which an earlier connection left? What is in it says so, not DUP,
    /// which the new message has too if its first packet got lost; DUP says it only where the content is not known any more.
    fn is_another(&self, publish: &Publish) -> bool {
        let left = self.received.get(&publish.packet_id).filter(|entry| !entry.counts);
        let left = left.filter(|entry| matches!(entry.stage, Stage::Received(_)));
        let differs = |left: &Entry| left.content.map_or(!publish.again, |content| content != Content::of(publish));
        publish.qos == Qos::ExactlyOnce && left.is_some_and(differs)
    }

    /// PUBREL: the QoS 2 publish is finished on both sides.
    pub(super) fn release(&mut self, pubrel: Ack) -> Option<Action> {
        let packet_id = pubrel.packet_id;
        match self.received.get_mut(&packet_id).map(|entry| &mut entry.stage) {
            Some(Stage::Received(Received::Taken)) => {
                self.received.remove(&packet_id);
                Some(ack(AckKind::Pubcomp, packet_id, 0, ""))
            }
            Some(stage @ Stage::Received(Received::Owed | Received::Found)) => {
                *stage = Stage::Finishing;
                Some(Action::Finish { packet_id })
            }
            Some(Stage::Finishing) => None,
            // 0x92, packet identifier not found: there is no PUBREC that this could answer.
            Some(Stage::Unsettled | Stage::Received(Received::SentOn)) => {
                Some(ack(AckKind::Pubcomp, packet_id, 0x92, ""))
            }
            // Its PUBCOMP got lost, and it is over. Told 0x92, clients give the identifier back and not its place in their
            // window (rumqttc 0.25); mosquitto says 0 as well.
            None => Some(ack(AckKind::Pubcomp, packet_id, 0, "")),
        }
    }

    /// The ledger has forgotten it.
    pub(super) fn finished(&mut self, packet_id: u16) -> Option<Action> {
        let finishing = self.received.get(&packet_id).is_some_and(|entry| entry.stage == Stage::Finishing);
        finishing.then(|| {
            self.received.remove(&packet_id);
            ack(AckKind::Pubcomp, packet_id, 0, "")
        })
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
            (Verdict::NotKept(..), Version::V311) => {
                // When it comes again it is a new one. Refused at once, it was not sent on; where its commit has failed,
                // who is there has seen it, and sees it twice: what they got and what is owed are not told apart here.
                if qos == Qos::ExactlyOnce {
                    self.received.remove(&packet_id);
                }
                return Action::Close(Ending::NotKept);
            }
            // When it comes again only the store is asked again.
            (Verdict::NotForwarded, Version::V311) => return Action::Close(Ending::NotKept),
            (Verdict::Taken(_) | Verdict::Owed(_) | Verdict::Refused(..), Version::V311) => (0, ""),
            (Verdict::Taken(reason) | Verdict::Owed(reason), Version::V5) => (reason, ""),
            (Verdict::Refused(reason, told) | Verdict::NotKept(reason, told), Version::V5) => (reason, told),
            (Verdict::NotForwarded, Version::V5) => (0x97, "could not be stored for upstream"),
        };
        if qos == Qos::ExactlyOnce {
            // With 0x80 or more the exchange is over and the identifier free (4.3.3-8, 3.5.2.1).
            if reason >= 0x80 {
                self.received.remove(&packet_id);
            } else {
                let known = self.lasting && matches!(verdict, Verdict::Owed(_));
                let received = if known { Received::Owed } else { Received::Taken };
                if let Some(entry) = self.received.get_mut(&packet_id) {
                    entry.stage = Stage::Received(received);
                }
            }
            ack(AckKind::Pubrec, packet_id, reason, told)
        } else {
            ack(AckKind::Puback, packet_id, reason, told)
        }
    }

    /// What counts against our Receive Maximum (section 4.9): QoS 2 until its PUBREL.
    fn unfinished(&self) -> usize {
        let only_waiting = self.waiting.iter().filter(|waiting| waiting.qos == Qos::AtLeastOnce).count();
        only_waiting + self.received.values().filter(|entry| entry.counts).count()
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
