//! One client's protocol state, pure: a packet and the time go in, actions come out. No socket, no lock, no clock.
//!
//! `inbound` publishes from the client until we have acknowledged them · `outbound` publishes to the client until it has.
//! The connection loop feeds it and carries the actions out. What is not here: subscriptions (tree), queued messages
//! (outbox), wills and retained messages (core).
//!
//! In this version a session ends with its connection, so nothing is ever sent a second time and DUP is never set by us.

mod aliases;
mod inbound;
mod outbound;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

use inbound::Inbound;
pub(super) use aliases::Aliases;
pub(super) use inbound::{ALIASES_MAX, RECEIVE_MAXIMUM, Token, Verdict};
use outbound::Outbound;

use super::message::Qos;
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
    /// Nothing heard for one and a half keep alives.
    Silent,
    /// Somebody else connected with the same client id.
    TakenOver,
    /// It read too slowly for messages that may not be thinned.
    TooSlow,
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
            Self::Silent => Some(0x8D),
            Self::TakenOver => Some(0x8E),
            Self::TooSlow => Some(0x97),
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
            Self::Silent => "nothing heard for one and a half keep alives",
            Self::TakenOver => "another connection came with this client id",
            Self::TooSlow => "too much waits to be read",
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
    /// Subscribe and write SUBACK.
    Subscribe(Subscribe),
    /// Unsubscribe and write UNSUBACK.
    Unsubscribe { packet_id: u16, filters: Vec<String> },
    /// End the connection.
    Close(Ending),
}

/// The state.
#[derive(Debug)]
pub(super) struct Session {
    version: Version,
    bridge: bool,
    silence_max: Option<Duration>,
    /// CONNECT asked for a session that ends with the connection; DISCONNECT may not change that.
    ends_with_connection: bool,
    heard: Instant,
    inbound: Inbound,
    outbound: Outbound,
}

impl Session {
    /// A new session, by what CONNECT asked for.
    pub(super) fn new(connect: &Connect, now: Instant) -> Self {
        // One and a half times the keep alive (3.1.2-22); 0 turns it off.
        let silence_max = (connect.keep_alive > 0).then(|| Duration::from_secs(connect.keep_alive.into()) * 3 / 2);
        Self {
            version: connect.version,
            bridge: connect.bridge,
            silence_max,
            ends_with_connection: connect.session_expiry == 0,
            heard: now,
            inbound: Inbound::new(connect.version),
            outbound: Outbound::new(connect.receive_maximum),
        }
    }

    /// A packet arrived.
    pub(super) fn step(&mut self, packet: Incoming, now: Instant) -> Vec<Action> {
        self.heard = now;
        match packet {
            Incoming::Publish(publish) => self.inbound.publish(publish),
            Incoming::Ack(ack) if ack.kind == AckKind::Pubrel => vec![self.inbound.release(ack)],
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
            Incoming::Disconnect { reason: 0, .. } => vec![Action::Close(Ending::Goodbye)],
            Incoming::Disconnect { .. } => vec![Action::Close(Ending::GoodbyeWithWill)],
        }
    }

    /// A publish of the client has found its end: acknowledgements that may now go, in the order of their publishes.
    pub(super) fn settle(&mut self, token: Token, verdict: Verdict) -> Vec<Action> {
        self.inbound.settle(token, verdict)
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

    /// A packet identifier for a publish to the client, which is in flight from now on; 0 at QoS 0.
    /// There must be [`Session::room`].
    pub(super) fn launch(&mut self, qos: Qos) -> u16 {
        self.outbound.launch(qos)
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
