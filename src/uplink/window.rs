//! The window: what was sent and is not yet acknowledged, under which packet id. Pure.
//!
//! Rate = window / round trip. 64 KiB fill 256 kbit/s at 2 s, and with records of about 200 bytes (topic, payload, MQTT)
//! carry 330 records per round trip: 550 records a second over a 600 ms satellite link, 3000 over LTE. More would only
//! lengthen the queue in front of a slow link and the list of duplicates after a cut.
//!
//! A fresh session opens it for one record; the first acknowledged one opens it fully, so that a link that comes and goes
//! at once costs one record and not a window.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::store::Ack;

/// Messages in flight.
pub(super) const MESSAGES_MAX: usize = 512;
/// Bytes in flight: topics, payloads and headers.
pub(super) const BYTES_MAX: usize = 64 << 10;
/// From the oldest unacknowledged message to the newest. A broker may acknowledge out of order; packet ids are used in a
/// circle of [`PACKET_IDS`], and one that comes round while still in flight would confuse rumqttc (rumqtt #1056).
const SPAN_MAX: u64 = 1024;
/// `inflight` of rumqttc, which is also its circle of packet ids: well above all of the above.
pub(super) const PACKET_IDS: u16 = 2048;

/// What a message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Something of the source.
    Owed(Ack),
    /// Our status.
    Status,
}

#[derive(Debug)]
struct Flying {
    what: Sent,
    bytes: usize,
    order: u64,
}

/// A packet id that does not fit what was sent: the session cannot be trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("packet id {0} does not belong to anything in flight")]
pub(super) struct Confused(pub(super) u16);

/// Of one session; a new session begins with a new one.
#[derive(Debug, Default)]
pub(super) struct Window {
    handed: VecDeque<Flying>,
    flying: HashMap<u16, Flying>,
    orders: BTreeSet<u64>,
    next_order: u64,
    bytes: usize,
    open: bool,
}

impl Window {
    /// How many more messages may be sent now.
    pub(super) fn room(&self) -> usize {
        let limit = if self.open { MESSAGES_MAX } else { 1 };
        let span = self.orders.first().map_or(0, |oldest| self.next_order - oldest);
        if self.bytes >= BYTES_MAX {
            return 0;
        }
        limit.saturating_sub(self.in_flight()).min(usize::try_from(SPAN_MAX.saturating_sub(span)).unwrap_or(0))
    }

    /// Messages in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.handed.len() + self.flying.len()
    }

    /// About to be handed to rumqttc, which sends in this order.
    pub(super) fn hand(&mut self, what: Sent, bytes: usize) {
        self.orders.insert(self.next_order);
        self.handed.push_back(Flying { what, bytes, order: self.next_order });
        self.next_order += 1;
        self.bytes += bytes;
    }

    /// `Outgoing::Publish(id)`: the oldest handed message has this id.
    pub(super) fn left(&mut self, id: u16) -> Result<(), Confused> {
        let flying = self.handed.pop_front().ok_or(Confused(id))?;
        match self.flying.insert(id, flying) {
            None => Ok(()),
            Some(_) => Err(Confused(id)),
        }
    }

    /// `PubAck(id)`: what it was.
    pub(super) fn acknowledged(&mut self, id: u16) -> Result<Sent, Confused> {
        let flying = self.flying.remove(&id).ok_or(Confused(id))?;
        self.orders.remove(&flying.order);
        self.bytes -= flying.bytes;
        self.open |= matches!(flying.what, Sent::Owed(_));
        Ok(flying.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn record(id: i64) -> Sent {
        Sent::Owed(Ack::Gap(id))
    }

    #[test]
    fn one_acknowledged_record_opens_the_window_a_status_does_not() {
        let mut window = Window::default();
        assert_eq!(window.room(), 1);
        window.hand(Sent::Status, 100);
        window.left(1).expect("handed");
        assert_eq!(window.acknowledged(1), Ok(Sent::Status));
        assert_eq!(window.room(), 1);
        window.hand(record(1), 100);
        window.left(2).expect("handed");
        assert_eq!(window.room(), 0);
        assert_eq!(window.acknowledged(2), Ok(record(1)));
        assert_eq!(window.room(), MESSAGES_MAX);
    }

    #[test]
    fn a_packet_id_nobody_used_is_noticed() {
        let mut window = Window::default();
        assert_eq!(window.left(1), Err(Confused(1)));
        assert_eq!(window.acknowledged(1), Err(Confused(1)));
        window.hand(record(1), 1);
        window.left(1).expect("handed");
        window.hand(record(2), 1);
        assert_eq!(window.left(1), Err(Confused(1)), "id still in flight");
    }

    /// Random sends and acknowledgements, in and out of order, against a plain list.
    #[test]
    fn behaves_like_a_plain_list_and_never_uses_more_than_its_limits() {
        for seed in 0..50 {
            let mut dice = StdRng::seed_from_u64(seed);
            let (mut window, mut model) = (Window::default(), Vec::<(u16, i64, usize, u64)>::new());
            let mut sent = 0_u64;
            let mut acknowledged = 0_usize;
            for step in 0..20_000 {
                let bytes: usize = model.iter().map(|flying| flying.2).sum();
                assert_eq!(window.in_flight(), model.len());
                if window.room() > 0 && dice.random_bool(0.6) {
                    assert!(bytes < BYTES_MAX && model.len() < MESSAGES_MAX);
                    let id = u16::try_from(sent % u64::from(PACKET_IDS)).expect("circle") + 1;
                    let size = dice.random_range(50..400);
                    window.hand(record(step), size);
                    window.left(id).expect("packet ids never collide");
                    model.push((id, step, size, sent));
                    sent += 1;
                    assert!(sent - model[0].3 <= SPAN_MAX);
                } else if !model.is_empty() {
                    let which = if dice.random_bool(0.9) { 0 } else { dice.random_range(0..model.len()) };
                    let (id, step, ..) = model.remove(which);
                    assert_eq!(window.acknowledged(id), Ok(record(step)));
                    acknowledged += 1;
                } else {
                    assert!(window.room() > 0, "an empty window has room");
                }
            }
            assert!(acknowledged > 1000, "seed {seed} did something");
        }
    }
}
