//! Publishes to the client: packet identifiers, the window, and the handshakes of QoS 1 and 2 (section 4.3).
//!
//! A delivery that stands in the ledger has its identifier from its ordinal, so that it has the same one on the next
//! connection and after a crash; all others of such a session use the upper half. What the handshake means for the ledger
//! comes out as actions; PUBREL waits until the ledger has committed that the message has arrived.

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

#[derive(Debug)]
pub(super) struct Outbound {
    window: usize,
    /// All identifiers up to this are for what stands in the ledger.
    reserved: u16,
    last_id: u16,
    flights: HashMap<u16, Flight>,
    /// There may be deliveries in the ledger that an earlier connection has sent and this one has not seen yet.
    unread: bool,
}

impl Outbound {
    pub(super) fn new(receive_maximum: u16, lifetime: Lifetime) -> Self {
        let reserved = if lifetime == Lifetime::Connection { 0 } else { OWED_IDS };
        let window = usize::from(receive_maximum.min(WINDOW_MAX));
        Self { window, reserved, last_id: reserved, flights: HashMap::new(), unread: lifetime == Lifetime::Resumed }
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
        left.sort_unstable_by_key(|(id, _)| id.wrapping_sub(self.last_id).wrapping_sub(1));
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
            // Taken for as long as a client leaves the one unanswered that was sent 32 767 deliveries before.
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
