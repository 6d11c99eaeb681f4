//! Publishes to the client: packet identifiers, the window, and the handshakes of QoS 1 and 2 (section 4.3).
//!
//! A delivery that stands in the ledger has its identifier from its ordinal, so that it has the same one on the next
//! connection and after a crash; all others of such a session use the upper half. What the handshake means for the ledger
//! comes out as actions; PUBREL waits until the ledger has committed that the message has arrived.
//!
//! Of those others the next connection knows which identifier was given last, and for which PUBCOMP has not come ([`Passing`]):
//! the client may hold such an identifier, and must neither wait for PUBREL in vain nor take another message for the same one
//! (4.3.3, 4.4). In memory only: what waited when the gateway stops is counted as lost.

use std::collections::HashMap;

use super::{Action, Ending, Lifetime};
use crate::broker::message::{Delivery, Owed, Qos, Stage};
use crate::broker::wire::{Ack, AckKind, Fault};
use crate::disk::ledger::OWED_IDS;

/// QoS 1 and 2 publishes a client may owe us an acknowledgement for, if its own Receive Maximum is not lower.
pub(in crate::broker) const WINDOW_MAX: u16 = 256;

/// What we wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Puback,
    Pubrec,
    /// PUBREC has come; the ledger is being told.
    Commit,
    Pubcomp,
}

#[derive(Debug)]
struct Flight {
    awaits: Awaits,
    owed: Option<Owed>,
    /// See [`Outbound::mark_fleeting`].
    fleeting: bool,
    /// See [`Outbound::remember`].
    shared: Option<Box<Delivery>>,
}

/// What the next connection of the session goes on with, beside what stands in the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::broker) struct Passing {
    /// The identifier that was given last.
    last_id: u16,
    /// They have arrived, and nobody has heard that PUBREL has: in the order of their publishes.
    releasing: Vec<u16>,
}

impl Passing {
    /// Of what an earlier process has sent nobody knows anything: it is not begun where that one began.
    pub(in crate::broker) const fn unknown(random: u16) -> Self {
        Self { last_id: OWED_IDS + 1 + random / 2, releasing: Vec::new() }
    }

    /// How many messages are lost, should the client never hear PUBREL: it may wait for that before it takes them.
    pub(in crate::broker) fn lost(&self) -> u64 {
        self.releasing.len() as u64
    }
}

#[derive(Debug)]
pub(super) struct Outbound {
    window: usize,
    /// All identifiers up to this are for what stands in the ledger.
    reserved: u16,
    last_id: u16,
    flights: HashMap<u16, Flight>,
    /// There may be deliveries in the ledger that an earlier connection has sent and this one has not seen yet.
    unread: bool,
    /// PUBRELs that an earlier connection has sent and this one has not yet.
    releasing: Vec<u16>,
}

impl Outbound {
    pub(super) fn new(receive_maximum: u16, lifetime: Lifetime) -> Self {
        let reserved = if lifetime == Lifetime::Connection { 0 } else { OWED_IDS };
        let window = usize::from(receive_maximum.min(WINDOW_MAX));
        let (flights, releasing, unread) = (HashMap::new(), Vec::new(), lifetime == Lifetime::Resumed);
        Self { window, reserved, last_id: reserved, flights, unread, releasing }
    }

    /// Goes on where the connection before has ended. What is released again has its place in the window, as if it had been
    /// sent on this one: else more would be on the way than the client takes (MQTT 5, 3.3.4-9).
    pub(super) fn go_on(&mut self, passing: Passing) {
        self.last_id = self.last_id.max(passing.last_id);
        let flight = || Flight { awaits: Awaits::Pubcomp, owed: None, fleeting: true, shared: None };
        self.flights.extend(passing.releasing.iter().map(|id| (*id, flight())));
        self.releasing = passing.releasing;
    }

    /// The PUBRELs that are to be sent again (4.4), once. The window does not bound them (MQTT 5, 4.9).
    pub(super) fn release_again(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.releasing)
    }

    /// What the next connection goes on with.
    pub(super) fn passing(&self) -> Passing {
        let releasing = |flight: &Flight| flight.owed.is_none() && flight.awaits == Awaits::Pubcomp;
        let mut releasing: Vec<u16> =
            self.flights.iter().filter(|(_, flight)| releasing(flight)).map(|(id, _)| *id).collect();
        releasing.sort_unstable_by_key(|id| self.turn(*id));
        Passing { last_id: self.last_id, releasing }
    }

    /// Where an identifier that does not stand for anything in the ledger stands among the others: the oldest comes first.
    fn turn(&self, id: u16) -> u16 {
        id.wrapping_sub(self.last_id).wrapping_sub(1)
    }

    /// The session outlives its connection from now on: what stands in the ledger waits for an identifier that is in use.
    pub(super) fn outlive(&mut self) {
        self.reserved = OWED_IDS;
        self.last_id = self.last_id.max(OWED_IDS);
    }

    pub(super) fn room(&self) -> usize {
        self.window.saturating_sub(self.flights.len())
    }

    pub(super) fn has_flights(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Publishes in flight that do not stand in the ledger.
    pub(super) fn has_passing(&self) -> bool {
        self.flights.values().any(|flight| flight.owed.is_none())
    }

    /// This one would be owed, had there been room: with the connection it is lost, unless it has arrived.
    pub(super) fn mark_fleeting(&mut self, packet_id: u16) {
        if let Some(flight) = self.flights.get_mut(&packet_id) {
            flight.fleeting = true;
        }
    }

    /// How many of those are not known to have arrived.
    pub(super) fn fleeting(&self) -> usize {
        let on_its_way = |flight: &&Flight| flight.fleeting && flight.awaits != Awaits::Pubcomp;
        self.flights.values().filter(on_its_way).count()
    }

    /// Should it not arrive, another member of a shared group gets it. Not at QoS 2, where it may have arrived (4.8.2).
    pub(super) fn remember(&mut self, packet_id: u16, delivery: &Delivery) {
        if let Some(flight) = self.flights.get_mut(&packet_id).filter(|flight| flight.awaits == Awaits::Puback) {
            flight.shared = Some(Box::new(delivery.clone()));
        }
    }

    /// Those that have not arrived, the oldest first.
    pub(super) fn left(&self) -> Vec<Delivery> {
        let shared = self.flights.iter().filter_map(|(id, flight)| Some((*id, flight.shared.as_deref()?)));
        let mut left: Vec<(u16, &Delivery)> = shared.collect();
        left.sort_unstable_by_key(|(id, _)| self.turn(*id));
        left.into_iter().map(|(_, delivery)| delivery.clone()).collect()
    }

    /// Everything that earlier connections sent has been seen.
    pub(super) fn caught_up(&mut self) {
        self.unread = false;
    }

    pub(super) fn launch(&mut self, qos: Qos, owed: Option<Owed>) -> Option<u16> {
        let awaits = match (qos, owed) {
            (Qos::AtMostOnce, _) => return Some(0),
            (_, Some(Owed { stage: Stage::Released, .. })) => Awaits::Pubcomp,
            (Qos::AtLeastOnce, _) => Awaits::Puback,
            (Qos::ExactlyOnce, _) => Awaits::Pubrec,
        };
        let id = match owed {
            // Taken by the one that was sent 32 767 deliveries before, if the client has left that unanswered; by one that is in
            // no ledger, if the session has come to outlive its connection.
            Some(owed) => packet_id(owed.ordinal).filter(|id| !self.flights.contains_key(id))?,
            None => {
                self.last_id = self.free_id();
                self.last_id
            }
        };
        self.flights.insert(id, Flight { awaits, owed, fleeting: false, shared: None });
        Some(id)
    }

    /// The window is far smaller than the number of identifiers: a free one is near.
    fn free_id(&self) -> u16 {
        let mut id = self.last_id;
        loop {
            id = id.checked_add(1).unwrap_or(self.reserved + 1);
            if !self.flights.contains_key(&id) {
                return id;
            }
        }
    }

    /// The identifier of the next launch of what does not stand in the ledger.
    pub(super) fn next_id(&self) -> Option<u16> {
        (self.room() > 0).then(|| self.free_id())
    }

    pub(super) fn ack(&mut self, ack: Ack) -> Option<Action> {
        let packet_id = ack.packet_id;
        let flight = self.flights.get_mut(&packet_id);
        match (ack.kind, flight.as_ref().map(|flight| flight.awaits)) {
            (AckKind::Puback, Some(Awaits::Puback)) | (AckKind::Pubcomp, Some(Awaits::Pubcomp)) => self.land(packet_id),
            (AckKind::Pubrec, Some(Awaits::Pubrec)) if ack.reason >= 0x80 => self.land(packet_id),
            (AckKind::Pubrec, Some(Awaits::Pubrec)) => {
                let flight = flight?;
                let Some(owed) = flight.owed else {
                    flight.awaits = Awaits::Pubcomp;
                    return Some(pubrel(packet_id, 0));
                };
                (flight.awaits, flight.owed) = (Awaits::Commit, Some(owed.released()));
                Some(Action::Release { packet_id, owed })
            }
            (AckKind::Pubrec, Some(Awaits::Commit)) => None,
            (AckKind::Pubrec, Some(Awaits::Pubcomp)) => Some(pubrel(packet_id, 0)),
            // It answers what an earlier connection sent, and what it answers is still to be sent again.
            (AckKind::Pubrec, None) if self.unread && packet_id <= self.reserved => None,
            // 0x92: packet identifier not found. The client can forget it then.
            (AckKind::Pubrec, None) if ack.reason < 0x80 => Some(pubrel(packet_id, 0x92)),
            // Left over from a session that is no more: nothing to do.
            (_, None) => None,
            (_, Some(_)) => {
                Some(Action::Close(Ending::Fault(Fault::Protocol("acknowledgement of another quality of service"))))
            }
        }
    }

    /// The ledger has committed that the message has arrived.
    pub(super) fn released(&mut self, packet_id: u16) -> Option<Action> {
        let flight = self.flights.get_mut(&packet_id).filter(|flight| flight.awaits == Awaits::Commit)?;
        flight.awaits = Awaits::Pubcomp;
        Some(pubrel(packet_id, 0))
    }

    fn land(&mut self, packet_id: u16) -> Option<Action> {
        self.flights.remove(&packet_id)?.owed.map(Action::Settle)
    }
}

fn packet_id(ordinal: u64) -> Option<u16> {
    u16::try_from(1 + ordinal % u64::from(OWED_IDS)).ok()
}

fn pubrel(packet_id: u16, reason: u8) -> Action {
    Action::Ack { kind: AckKind::Pubrel, packet_id, reason, told: "" }
}
