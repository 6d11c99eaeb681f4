//! One client's protocol state, pure: a packet and the time go in, actions come out. No socket, no lock, no clock.
//!
//! `inbound` publishes from the client until we have acknowledged them · `outbound` publishes to the client until it has,
//! `aliases` the numbers in place of their topics.
//! The connection loop feeds it and carries the actions out. What is not here: subscriptions (tree), queued messages
//! (outbox), wills and retained messages (core).
//!
//! One of these lives as long as a connection. What a session keeps beyond it goes out with [`Session::carry`] and into
//! the next one; what the client is owed lies in the ledger (`course` brings it in order).

mod aliases;
mod course;
mod inbound;
mod outbound;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

pub(super) use aliases::Aliases;
pub(super) use course::{Course, Errands};
use inbound::Inbound;
pub(super) use inbound::{ALIASES_MAX, RECEIVE_MAXIMUM, Received, Token, Unreleased, Verdict};
use outbound::Outbound;
pub(super) use outbound::{Passing, WINDOW_MAX};

use super::message::{Delivery, Owed, Qos};
use super::wire::{AckKind, Connect, Fault, Incoming, Publish, Subscribe, Version};

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The client said DISCONNECT: the will is forgotten.
    Goodbye,
    /// The client said DISCONNECT and asked for its will to be sent (MQTT 5, reason 0x04 and above).
    GoodbyeWithWill,
    /// The socket closed or broke.
    Lost,
    /// It sent something that it may not.
    Fault(Fault),
    /// More unacknowledged publishes than our Receive Maximum.
    ReceiveMaximum,
    /// A topic alias of 0 or above our limit.
    TopicAlias,
    /// A publish above our Maximum QoS.
    QosNotSupported,
    /// A publish with RETAIN where there are no retained messages.
    RetainNotSupported,
    /// Nothing heard for one and a half keep alives.
    Silent,
    /// Somebody else connected with the same client id.
    TakenOver,
    /// It read too slowly for messages that may not be thinned.
    TooSlow,
    /// It has left a delivery unanswered for so long that another one needs its packet identifier.
    Unanswered,
    /// A publish could not be kept on disk and 3.1.1 has no way to say so.
    NotKept,
    /// Rules or users have changed, and it would not be let in any more.
    NotAllowed,
    /// The gateway stops.
    Stopping,
}

impl Ending {
    /// Reason code of the DISCONNECT we send (MQTT 5, section 3.14.2.1); `None`: nobody is there to read it.
    pub(super) const fn reason(self) -> Option<u8> {
        match self {
            Self::Goodbye | Self::GoodbyeWithWill | Self::Lost => None,
            Self::Fault(fault) => Some(fault.reason()),
            Self::ReceiveMaximum => Some(0x93),
            Self::TopicAlias => Some(0x94),
            Self::RetainNotSupported => Some(0x9A),
            Self::QosNotSupported => Some(0x9B),
            Self::Silent => Some(0x8D),
            Self::TakenOver => Some(0x8E),
            Self::TooSlow | Self::Unanswered => Some(0x97),
            Self::NotKept => Some(0x80),
            Self::NotAllowed => Some(0x87),
            Self::Stopping => Some(0x8B),
        }
    }
}

impl Ending {
    /// In a few words, for the reason string of DISCONNECT.
    pub(super) const fn told(self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.told(),
            Self::ReceiveMaximum => "more unacknowledged publishes than the Receive Maximum",
            Self::TopicAlias => "topic alias 0 or above the Topic Alias Maximum",
            Self::QosNotSupported => "QoS above the Maximum QoS",
            Self::RetainNotSupported => "no retained messages here",
            Self::Silent => "nothing heard for one and a half keep alives",
            Self::TakenOver => "another connection came with this client id",
            Self::TooSlow => "too much waits to be read",
            Self::Unanswered => "a message is left unacknowledged that was sent 32 767 messages ago",
            Self::NotKept => "could not be kept on disk",
            Self::NotAllowed => "no longer allowed here",
            Self::Stopping => "the gateway stops",
            Self::Goodbye | Self::GoodbyeWithWill | Self::Lost => "",
        }
    }
}

/// What the connection has to do next, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Write an acknowledgement.
    Ack { kind: AckKind, packet_id: u16, reason: u8, told: &'static str },
    /// Write PINGRESP.
    Pong,
    /// Publish it, then [`Session::settle`] its token (at QoS 0, too).
    Publish { token: Token, publish: Publish },
    /// Local clients were sent it by an earlier connection: make sure of its commit, here and upstream, then settle the token.
    Confirm { token: Token, publish: Publish },
    /// What came with this packet identifier is over, the client knows nothing of it: another message comes with it next.
    Disown { packet_id: u16 },
    /// The ledger need not hold this any longer.
    Settle(Owed),
    /// Commit that it has arrived, then call [`Session::released`].
    Release { packet_id: u16, owed: Owed },
    /// Commit that the client's publish is over, then call [`Session::finished`].
    Finish { packet_id: u16 },
    /// Subscribe and write SUBACK.
    Subscribe(Subscribe),
    /// Unsubscribe and write UNSUBACK.
    Unsubscribe { packet_id: u16, filters: Vec<String> },
    /// End the connection.
    Close(Ending),
}

/// How long the session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// As long as this connection.
    Connection,
    /// Longer; it begins with this connection.
    Begun,
    /// Longer; there was a connection before.
    Resumed,
}

/// The state.
#[derive(Debug)]
pub(super) struct Session {
    version: Version,
    bridge: bool,
    silence_max: Option<Duration>,
    lifetime: Lifetime,
    /// CONNECT asked for a session that ends with the connection; DISCONNECT may not change that.
    ends_with_connection: bool,
    /// What DISCONNECT changed the session expiry interval to, seconds.
    expiry_changed: Option<u32>,
    heard: Instant,
    inbound: Inbound,
    outbound: Outbound,
}

impl Session {
    /// By what CONNECT asked for, and what the connection before has left.
    pub(super) fn new(connect: &Connect, lifetime: Lifetime, received: &[Unreleased], now: Instant) -> Self {
        // One and a half times the keep alive (3.1.2-22); 0 turns it off.
        let silence_max = (connect.keep_alive > 0).then(|| Duration::from_secs(connect.keep_alive.into()) * 3 / 2);
        Self {
            version: connect.version,
            bridge: connect.bridge,
            silence_max,
            lifetime,
            ends_with_connection: connect.session_expiry == 0,
            expiry_changed: None,
            heard: now,
            inbound: Inbound::new(connect.version, lifetime != Lifetime::Connection, received),
            outbound: Outbound::new(connect.receive_maximum, lifetime),
        }
    }

    /// A packet arrived.
    pub(super) fn step(&mut self, packet: Incoming, now: Instant) -> Vec<Action> {
        self.heard = now;
        match packet {
            Incoming::Publish(publish) => self.inbound.publish(publish),
            Incoming::Ack(ack) if ack.kind == AckKind::Pubrel => self.inbound.release(ack).into_iter().collect(),
            Incoming::Ack(ack) => self.outbound.ack(ack).into_iter().collect(),
            Incoming::Subscribe(mut subscribe) if self.bridge => {
                for filter in &mut subscribe.filters {
                    (filter.no_local, filter.retain_as_published) = (true, true); // 3.1.1 has no way to ask for it
                }
                vec![Action::Subscribe(subscribe)]
            }
            Incoming::Subscribe(subscribe) => vec![Action::Subscribe(subscribe)],
            Incoming::Unsubscribe { packet_id, filters } => vec![Action::Unsubscribe { packet_id, filters }],
            Incoming::Ping => vec![Action::Pong],
            // Section 3.14.2.2.2.
            Incoming::Disconnect { session_expiry: Some(1..), .. } if self.ends_with_connection => {
                vec![Action::Close(Ending::Fault(Fault::Protocol("a session that was to end now lives on")))]
            }
            Incoming::Disconnect { reason, session_expiry } => {
                self.expiry_changed = session_expiry;
                vec![Action::Close(if reason == 0 { Ending::Goodbye } else { Ending::GoodbyeWithWill })]
            }
        }
    }

    /// What the next connection of the session goes on with.
    pub(super) fn carry(&self) -> Vec<Unreleased> {
        if self.lifetime == Lifetime::Connection { Vec::new() } else { self.inbound.carry() }
    }

    /// The same, of publishes to the client.
    pub(super) fn passing(&self) -> Passing {
        if self.lifetime == Lifetime::Connection { Passing::default() } else { self.outbound.passing() }
    }

    /// Goes on with that.
    pub(super) fn go_on(&mut self, passing: Passing) {
        self.outbound.go_on(passing);
    }

    /// Packet identifiers for which PUBREL is to be sent again, once and before all that is published.
    pub(super) fn release_again(&mut self) -> Vec<u16> {
        self.outbound.release_again()
    }

    /// It is to outlive the connection after all.
    pub(super) fn outlive(&mut self) {
        (self.lifetime, self.ends_with_connection) = (Lifetime::Begun, false);
        self.inbound.outlive();
        self.outbound.outlive();
    }

    /// The session expiry interval that DISCONNECT has asked for, if it did.
    pub(super) fn expiry_changed(&self) -> Option<u32> {
        self.expiry_changed
    }

    /// Does the session end with this connection?
    pub(super) fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// A publish of the client has found its end: acknowledgements that may now go, in the order of their publishes.
    pub(super) fn settle(&mut self, token: Token, verdict: Verdict) -> Vec<Action> {
        self.inbound.settle(token, verdict)
    }

    /// It may be handed in once more if the connection ends before it is settled.
    pub(super) fn may_come_again(&mut self, token: Token) {
        self.inbound.may_come_again(token);
    }

    /// The ledger has committed that a publish of the client is over.
    pub(super) fn finished(&mut self, packet_id: u16) -> Option<Action> {
        self.inbound.finished(packet_id)
    }

    /// The ledger has committed that a delivery has arrived at QoS 2.
    pub(super) fn released(&mut self, packet_id: u16) -> Option<Action> {
        self.outbound.released(packet_id)
    }

    /// All that earlier connections left in the ledger has been read.
    pub(super) fn caught_up(&mut self) {
        self.outbound.caught_up();
    }

    /// Are there publishes in flight?
    pub(super) fn has_flights(&self) -> bool {
        self.outbound.has_flights()
    }

    /// Are there publishes in flight that the ledger does not hold?
    pub(super) fn has_passing(&self) -> bool {
        self.outbound.has_passing()
    }

    /// Are so many publishes waiting to be settled that no more should be read for now?
    pub(super) fn is_full(&self, unsettled: usize) -> bool {
        unsettled >= usize::from(RECEIVE_MAXIMUM)
            || self.version == Version::V311 && self.inbound.waiting() >= usize::from(RECEIVE_MAXIMUM)
    }

    /// How many more QoS 1 and 2 publishes the client takes now.
    pub(super) fn room(&self) -> usize {
        self.outbound.room()
    }

    /// A packet identifier for a publish to the client, which is in flight from now on; 0 at QoS 0. There must be
    /// [`Session::room`]. `None`: its identifier is still in use, it has to wait.
    pub(super) fn launch(&mut self, qos: Qos, owed: Option<Owed>) -> Option<u16> {
        self.outbound.launch(qos, owed)
    }

    /// What was just launched would be owed, had there been room: with the connection it is lost, unless it has arrived.
    pub(super) fn mark_fleeting(&mut self, packet_id: u16) {
        self.outbound.mark_fleeting(packet_id);
    }

    /// How many of those are not known to have arrived.
    pub(super) fn fleeting(&self) -> usize {
        self.outbound.fleeting()
    }

    /// Should what was just launched not arrive, another member of a shared group gets it.
    pub(super) fn remember(&mut self, packet_id: u16, delivery: &Delivery) {
        self.outbound.remember(packet_id, delivery);
    }

    /// Those that have not arrived, the oldest first.
    pub(super) fn left(&self) -> Vec<Delivery> {
        self.outbound.left()
    }

    /// The identifier that [`Session::launch`] will give next to what does not stand in the ledger, while there is room.
    pub(super) fn next_id(&self) -> Option<u16> {
        self.outbound.next_id()
    }

    /// We did not listen until now: its silence begins anew.
    pub(super) fn excuse(&mut self, now: Instant) {
        self.heard = now;
    }

    /// When the client will have been silent for too long.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        self.silence_max.map(|silence| self.heard + silence)
    }
}
