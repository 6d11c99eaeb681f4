//! What a connection does for each of its session's actions: publish, subscribe, hand in a command, acknowledge.
//!
//! Publishes that cannot be settled at once (for the journal of commands, a commit) are waited for in `errands`; others go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::connection::Seat;
use super::errands::{Done, Waits, kept};
use super::terms::{Terms, Watch};
use crate::access::Identity;
use crate::broker::clients::Carried;
use crate::broker::core::{Company, Entered, Leaving, Origin, Refusal as Refused, Shared, Stored};
use crate::broker::durable::Tally;
use crate::broker::message::{Holders, Keep, Message, Qos, Retain};
use crate::broker::outbox::Outbox;
use crate::broker::retained::Walk;
use crate::broker::ruling::{self, Ruling};
use crate::broker::session::{Action, Aliases, Course, Ending, Lifetime, Session, Token, Verdict};
use crate::broker::tree::ClientKey;
use crate::broker::wire::{Connect, Fault, Frame, Incoming, Publish, Version, decode, encode};
use crate::disk::ledger::Committed;
use crate::road::inside::Pressure;

/// "An implementation or administrative imposed limit": PUBACK and PUBREC have no 0x95 (3.4.2-1, 3.5.2-1), and clients that
/// know their tables give a connection up that says it.
const QUOTA_EXCEEDED: u8 = 0x97;

/// A connected client at work.
pub(super) struct Duty {
    pub(super) shared: Arc<Shared>,
    pub(super) key: ClientKey,
    pub(super) id: Arc<str>,
    pub(super) identity: Identity,
    pub(super) version: Version,
    pub(super) terms: Terms,
    /// It speaks MQTT 3.1.
    legacy: bool,
    pub(super) session: Session,
    pub(super) outbox: Arc<Outbox>,
    pub(super) maximum_packet: usize,
    pub(super) wants_reasons: bool,
    pub(super) aliases: Aliases,
    /// Retained messages still to be sent, by filter: subscribing again begins again.
    pub(super) walks: BTreeMap<Arc<str>, Walk>,
    pub(super) course: Course,
    pub(super) waits: Waits,
    /// What the session is owed, if it outlives the connection.
    pub(super) tally: Option<Arc<Tally>>,
    /// Version of the retained messages when the client had got everything.
    pub(super) in_step: u64,
    /// SUBACKs that wait for their commit: no message goes before them.
    pub(super) unsaid: usize,
    /// Refusals so far: the first one is logged.
    pub(super) refusals: usize,
    /// It has published what others are owed, and probably goes on to.
    is_kept: bool,
    /// Publishes that wait for the turn of others, since this was last asked.
    sent_on: usize,
    /// How the packet came that is being dealt with.
    pub(super) company: Company,
    /// See [`Origin`].
    pub(super) pressure: Option<Arc<Pressure>>,
    /// PINGREQs that are answered when nothing is left for the client: see [`Watch::Doors`].
    pub(super) asked_for_rest: usize,
}

impl Duty {
    pub(super) fn new(seat: &Seat, entered: Entered, client: (&Connect, Identity), terms: Terms) -> Self {
        let (connect, identity) = client;
        let lifetime = match (&entered.tally, entered.present) {
            (None, _) => Lifetime::Connection,
            (Some(_), false) => Lifetime::Begun,
            (Some(_), true) => Lifetime::Resumed,
        };
        let mut session = Session::new(connect, lifetime, &entered.received, Instant::now());
        session.go_on(entered.passing);
        if seat.outbox.behind().is_none() {
            session.caught_up();
        }
        Self {
            shared: Arc::clone(&seat.shared),
            key: seat.key,
            id: Arc::clone(&seat.id),
            identity,
            version: connect.version,
            terms,
            legacy: connect.legacy,
            session,
            outbox: Arc::clone(&seat.outbox),
            maximum_packet: connect.maximum_packet as usize,
            wants_reasons: connect.wants_reasons,
            aliases: Aliases::new(connect.alias_maximum),
            walks: entered.walks.into_iter().map(|walk| (walk.cursor.filter(), walk)).collect(),
            course: entered.course,
            waits: Waits::default(),
            tally: entered.tally,
            in_step: entered.in_step,
            unsaid: 0,
            refusals: 0,
            is_kept: false,
            sent_on: 0,
            company: Company::InRow,
            pressure: None,
            asked_for_rest: 0,
        }
    }

    /// What the session goes on with when this connection has ended.
    pub(super) fn leaving(&self, ending: Ending) -> Leaving {
        let carried = match self.session.lifetime() {
            Lifetime::Connection => Carried {
                left: self.session.left().into_iter().chain(self.course.left()).collect(),
                ..Carried::default()
            },
            Lifetime::Begun | Lifetime::Resumed => Carried {
                received: self.session.carry(),
                passing: self.session.passing(),
                unfinished: self.walks.values().map(Walk::unfinished).collect(),
                in_step: self.in_step,
                sent_below: self.course.sent_below(),
                lost: (self.session.fleeting() + self.course.fleeting()) as u64,
                left: Vec::new(),
            },
        };
        Leaving { ending, expiry: self.session.expiry_changed(), carried }
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Reads a packet as the client's version has it.
    pub(super) fn decode(&self, frame: Frame) -> Result<Incoming, Fault> {
        decode(if self.legacy { frame.without_dup() } else { frame }, self.version)
    }

    /// Is so much waiting to be settled, or for the disk, that no more should be read? `next`: bytes of the packet that comes.
    pub(super) fn is_full(&mut self, next: usize) -> bool {
        if self.is_kept && !self.waits.is_pausing() && self.shared.disk.is_behind() {
            self.waits.pause(self.shared.disk.committed());
        }
        let is_busy = self.waits.is_pausing() || self.session.is_full(self.waits.len());
        is_busy || !self.waits.has_room(next, self.shared.forward.unsettled())
    }

    /// How many publishes wait for the turn of other clients, since this was last asked.
    pub(super) fn take_sent_on(&mut self) -> usize {
        std::mem::take(&mut self.sent_on)
    }

    /// Nothing is read for now: the client cannot be heard.
    pub(super) fn excuse(&mut self) {
        self.session.excuse(Instant::now());
    }

    pub(super) fn silent_at(&self) -> Option<Instant> {
        self.session.silent_at()
    }

    /// Waits until something that was waited for is done; for ever when nothing is. Cancel-safe.
    pub(super) async fn settled(&mut self) {
        self.waits.any(&self.shared).await;
    }

    /// Goes on with what is done.
    pub(super) fn take_settled(&mut self, out: &mut BytesMut) -> Option<Ending> {
        self.waits.look(&self.shared);
        for done in self.waits.take_done() {
            let actions = match done {
                Done::Settled(token, verdict) => self.session.settle(token, verdict),
                Done::Released(packet_id) => self.session.released(packet_id).into_iter().collect(),
                Done::Finished(packet_id) => self.session.finished(packet_id).into_iter().collect(),
                Done::Say(words) => {
                    self.unsaid = self.unsaid.saturating_sub(1);
                    out.extend_from_slice(&words);
                    Vec::new()
                }
                Done::Page(rows) => {
                    self.page(rows);
                    Vec::new()
                }
                Done::Committed => {
                    self.course.committed();
                    Vec::new()
                }
                Done::Paused => Vec::new(),
                Done::Failed => return Some(Ending::NotKept),
            };
            if let ending @ Some(_) = self.carry_out(actions, out) {
                return ending;
            }
        }
        None
    }

    /// A packet has arrived.
    pub(super) fn packet(&mut self, mut packet: Incoming, out: &mut BytesMut) -> Option<Ending> {
        self.shared.stats.packets_received.one();
        if let Err(ending) = self.terms.judge(&mut packet) {
            return Some(ending);
        }
        self.hear_whether_it_lasts();
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
                Action::Pong if self.terms.watch == Watch::Doors => {
                    self.asked_for_rest += 1;
                    continue;
                }
                Action::Pong => encode::pong(out),
                Action::Publish { token, publish } => {
                    if let Some(verdict) = self.publish(token, publish) {
                        self.hear_whether_it_lasts(); // what the verdict says of the ledger may come of that
                        let actions = self.session.settle(token, verdict);
                        if let ending @ Some(_) = self.carry_out(actions, out) {
                            return ending;
                        }
                    }
                    continue;
                }
                Action::Confirm { token, publish } => {
                    self.confirm(token, publish);
                    continue;
                }
                Action::Disown { .. } | Action::Settle(_) | Action::Release { .. } | Action::Finish { .. } => {
                    self.account(&action);
                    continue;
                }
                Action::Subscribe(subscribe) if self.fits(subscribe.filters.len()) => self.subscribe(&subscribe, out),
                Action::Unsubscribe { packet_id, filters } if self.fits(filters.len()) => {
                    self.unsubscribe(packet_id, &filters, out);
                }
                // It could not be told what became of it.
                Action::Subscribe(_) | Action::Unsubscribe { .. } => return Some(Ending::Fault(Fault::NoRoom)),
                Action::Close(ending) => return Some(ending),
            }
            self.shared.stats.packets_sent.one();
        }
        None
    }

    /// Tells the ledger.
    fn account(&mut self, action: &Action) {
        let Some(tally) = &self.tally else {
            return;
        };
        match action {
            Action::Disown { packet_id } => self.shared.disown(tally, *packet_id),
            Action::Settle(owed) => self.shared.settle(tally, *owed),
            Action::Release { packet_id, owed } => {
                self.waits.commit(self.shared.release(tally, *owed), Done::Released(*packet_id));
            }
            Action::Finish { packet_id } => {
                self.waits.commit(self.shared.finish(tally, *packet_id), Done::Finished(*packet_id));
            }
            _ => {}
        }
    }

    /// The verdict, unless it has to be waited for.
    fn publish(&mut self, token: Token, publish: Publish) -> Option<Verdict> {
        let stats = &self.shared.stats;
        stats.publishes_received.one();
        stats.publish_bytes_received.add(publish.payload.len() as u64);
        if self.terms.is_too_long(&publish.payload) {
            stats.publishes_refused.one();
            self.refusals += 1;
            if self.refusals == 1 && self.shared.talk.allows() {
                tracing::warn!(client = &*self.id, topic = publish.topic, "content longer than max_payload_size");
            }
            return Some(Verdict::Refused(QUOTA_EXCEEDED, "content longer than max_payload_size"));
        }
        let (access, ownership) = (&self.shared.access, &self.shared.ownership);
        match ruling::judge(access, ownership, &self.identity, &publish.topic, publish.retain) {
            Ruling::Refuse(told) => {
                stats.publishes_refused.one();
                access.publish_refused(&self.identity, &publish.topic, told);
                Some(Verdict::Refused(0x87, told))
            }
            Ruling::Command(tag) => {
                let request = self.request(tag, &publish);
                // Shown to those who watch the topic, as far as it can be. The journal decides what becomes of it, and knows
                // a command that comes again.
                let origin = Origin { company: Company::InRow, ..self.origin(None) };
                drop(self.shared.publish(&Arc::new(message(publish)), Retain::No, origin));
                self.session.may_come_again(token);
                self.command(token, request)
            }
            Ruling::Publish(retain) => self.send_on(token, publish, retain),
        }
    }

    fn origin(&self, packet_id: Option<u16>) -> Origin<'_> {
        let Self { key: client, company, .. } = *self;
        Origin { client, who: Some(&self.identity), packet_id, company, pressure: self.pressure.as_ref(), bridge: None }
    }

    fn send_on(&mut self, token: Token, publish: Publish, retain: Retain) -> Option<Verdict> {
        let packet_id = (publish.qos == Qos::ExactlyOnce).then_some(publish.packet_id);
        let message = Arc::new(message(publish));
        let published = match self.shared.publish(&message, retain, self.origin(packet_id)) {
            Ok(published) => published,
            Err(refused) => {
                self.shared.stats.publishes_refused.one();
                let told = match refused {
                    Refused::NoRoom => "no room for more retained messages",
                    Refused::Disk => "could not be kept for all who are owed it",
                };
                return Some(Verdict::NotKept(0x97, told));
            }
        };
        self.is_kept |= published.owed;
        self.sent_on += usize::from(published.waits);
        let stored = self.shared.forward(&message, retain);
        // 0x10: no matching subscribers. At QoS 2 left unsaid, as by mosquitto: its clients' authors know 0 only.
        let unseen = !published.wanted && message.qos == Qos::AtLeastOnce && stored.is_none();
        let reason = if unseen { 0x10 } else { 0 };
        let verdict = if published.owed { Verdict::Owed(reason) } else { Verdict::Taken(reason) };
        let committed = published.committed.filter(|_| message.qos != Qos::AtMostOnce);
        match (stored, committed) {
            (None, None) => return Some(verdict),
            (None, Some(committed)) => self.waits.commit(committed, Done::Settled(token, verdict)),
            (Some(stored), committed) => {
                self.wait_for_both((token, message.cost()), packet_id, stored, (committed, verdict));
            }
        }
        None
    }

    /// A QoS 2 publish that an earlier connection sent on to local clients, and whose PUBREC never went: is it committed?
    /// The store upstream is asked once more, since it may not have had the time; there it may come twice.
    fn confirm(&mut self, token: Token, publish: Publish) {
        let packet_id = publish.packet_id;
        let committed = match &self.tally {
            Some(tally) => self.shared.disk.confirm(tally.id, packet_id),
            None => self.shared.disk.committed(),
        };
        let (access, ownership, bytes) = (&self.shared.access, &self.shared.ownership, publish.payload.len());
        let stored = match ruling::judge(access, ownership, &self.identity, &publish.topic, publish.retain) {
            Ruling::Publish(retain) => self.shared.forward(&message(publish), retain),
            Ruling::Refuse(_) | Ruling::Command(_) => None,
        };
        let verdict = Verdict::Owed(0);
        match stored {
            None => self.waits.commit(committed, Done::Settled(token, verdict)),
            Some(stored) => self.wait_for_both((token, bytes), Some(packet_id), stored, (Some(committed), verdict)),
        }
    }

    /// Settled when the store upstream and the ledger have it. What the store refuses is published anew under any packet
    /// identifier, so the ledger must forget this one first: after a restart it would pass for one that has arrived.
    fn wait_for_both(
        &mut self,
        (token, bytes): (Token, usize),
        packet_id: Option<u16>,
        stored: Stored,
        local: (Option<Committed>, Verdict),
    ) {
        let (shared, tally) = (Arc::clone(&self.shared), self.tally.clone());
        self.waits.task(bytes, async move {
            let (committed, verdict) = local;
            let verdict = match stored.await {
                Ok(()) => kept(committed, verdict).await,
                Err(_refused) => {
                    if let (Some(tally), Some(packet_id), Verdict::Owed(_)) = (tally, packet_id, verdict) {
                        let _forgotten = shared.finish(&tally, packet_id).await; // a disk that fails has kept neither
                    }
                    Verdict::NotForwarded
                }
            };
            Done::Settled(token, verdict)
        });
    }
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
        holders: Holders::default(),
    }
}
