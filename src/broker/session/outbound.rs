//! Publishes to the client: packet identifiers, the window, and the handshakes of QoS 1 and 2 (section 4.3).

use std::collections::HashMap;

use super::{Action, Ending};
use crate::broker::message::Qos;
use crate::broker::wire::{Ack, AckKind, Fault};

/// QoS 1 and 2 publishes a client may owe us an acknowledgement for, if its own Receive Maximum is not lower.
pub(in crate::broker) const WINDOW_MAX: u16 = 256;

/// What we wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Puback,
    Pubrec,
    Pubcomp,
}

#[derive(Debug)]
pub(super) struct Outbound {
    window: usize,
    last_id: u16,
    flights: HashMap<u16, Awaits>,
}

impl Outbound {
    pub(super) fn new(receive_maximum: u16) -> Self {
        Self { window: usize::from(receive_maximum.min(WINDOW_MAX)), last_id: 0, flights: HashMap::new() }
    }

    pub(super) fn room(&self) -> usize {
        self.window.saturating_sub(self.flights.len())
    }

    pub(super) fn launch(&mut self, qos: Qos) -> u16 {
        let awaits = match qos {
            Qos::AtMostOnce => return 0,
            Qos::AtLeastOnce => Awaits::Puback,
            Qos::ExactlyOnce => Awaits::Pubrec,
        };
        // The window is far smaller than the number of identifiers: a free one is near.
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.flights.contains_key(&self.last_id) {
                self.flights.insert(self.last_id, awaits);
                return self.last_id;
            }
        }
    }

    pub(super) fn ack(&mut self, ack: Ack) -> Option<Action> {
        let awaits = self.flights.get(&ack.packet_id).copied();
        match (ack.kind, awaits) {
            (AckKind::Puback, Some(Awaits::Puback)) | (AckKind::Pubcomp, Some(Awaits::Pubcomp)) => {
                self.flights.remove(&ack.packet_id);
                None
            }
            (AckKind::Pubrec, Some(Awaits::Pubrec)) if ack.reason >= 0x80 => {
                self.flights.remove(&ack.packet_id);
                None
            }
            (AckKind::Pubrec, Some(Awaits::Pubrec | Awaits::Pubcomp)) => {
                self.flights.insert(ack.packet_id, Awaits::Pubcomp);
                Some(pubrel(ack.packet_id, 0))
            }
            // 0x92: packet identifier not found. The client can forget it then.
            (AckKind::Pubrec, None) if ack.reason < 0x80 => Some(pubrel(ack.packet_id, 0x92)),
            // Left over from a session that is no more: nothing to do.
            (_, None) => None,
            (_, Some(_)) => {
                Some(Action::Close(Ending::Fault(Fault::Protocol("acknowledgement of another quality of service"))))
            }
        }
    }
}

fn pubrel(packet_id: u16, reason: u8) -> Action {
    Action::Ack { kind: AckKind::Pubrel, packet_id, reason, told: "" }
}
