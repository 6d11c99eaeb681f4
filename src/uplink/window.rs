//! The window: what was sent and is not yet acknowledged, under which packet id. Pure; time comes in as an argument.
//!
//! Bytes in flight follow what the acknowledgements say of the link ([`super::pace`]). The backlog has that much and no
//! more; live records and the status may have the reserve beside it, so that a full window does not keep them. One
//! message may always go, however large it is. Beside bytes, messages are limited: what is in flight is what goes out
//! twice after a cut, and packet ids are few.
//!
//! A fresh session opens for one record; the first acknowledged one opens it, so that a link that comes and goes at once
//! costs one record and not a window.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use crate::store::{Ack, Lane};

use super::pace::{Departure, Pace};

/// Messages in flight.
pub(super) const MESSAGES_MAX: usize = 512;
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
    /// An answer to a command.
    Reply,
    /// What nobody misses: part of a summary, or a telegram for whose receipt another one stands.
    Aside,
}

/// Whether something is the only message in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alone {
    Yes,
    No,
}

/// What the broker answered to a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has it.
    Taken,
    /// Not now, with this reason code (MQTT 5, section 2.4: 0x89 server busy, 0x93 receive maximum exceeded, 0x97 quota
    /// exceeded and the like): the same again, later.
    TryLater(u8),
    /// Not this one, with this reason code (0x87 not authorized, 0x90 topic name invalid, 0x95 packet too large, 0x99
    /// payload format invalid).
    Refused(u8),
}

#[derive(Debug)]
struct Flying {
    what: Sent,
    lane: Lane,
    bytes: usize,
    order: u64,
    departure: Departure,
}

/// A packet id that does not fit what was sent: the session cannot be trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("packet id {0} does not belong to anything in flight")]
pub(super) struct Confused(pub(super) u16);

/// Of one session; a new session begins with a new one.
#[derive(Debug)]
pub(super) struct Window {
    handed: VecDeque<Flying>,
    flying: HashMap<u16, Flying>,
    orders: BTreeSet<u64>,
    next_order: u64,
    /// By lane.
    bytes: [usize; 2],
    pace: Pace,
    /// One message at a time.
    careful: bool,
    open: bool,
    /// What the broker takes at once, and the circle of packet ids that rumqttc makes of it.
    receive_max: u16,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            handed: VecDeque::new(),
            flying: HashMap::new(),
            orders: BTreeSet::new(),
            next_order: 0,
            bytes: [0; 2],
            pace: Pace::default(),
            careful: false,
            open: false,
            receive_max: u16::MAX,
        }
    }
}

impl Window {
    /// The broker takes so many unacknowledged messages (≥ 1; MQTT 5, Receive Maximum).
    pub(super) fn agree(&mut self, receive_max: u16) {
        self.receive_max = receive_max;
    }

    /// One message at a time, so that what is in flight is what the broker falls over.
    pub(super) const fn be_careful(&mut self, careful: bool) {
        self.careful = careful;
    }

    /// How many more messages of this lane may be sent now.
    pub(super) fn room(&self, lane: Lane) -> usize {
        // rumqttc's circle of packet ids is the smaller of both: an id must not come round while it is in flight. Where
        // the window is full it would also hold back our own acknowledgements, so one place stays free.
        let circle = usize::from(self.receive_max.saturating_sub(1).max(1));
        let limit = if self.open && !self.careful { MESSAGES_MAX.min(circle) } else { 1 };
        let span_max = SPAN_MAX.min(circle as u64);
        let span = self.orders.first().map_or(0, |oldest| self.next_order - oldest);
        let bytes = self.pace.limit();
        let all = bytes + usize::try_from(self.pace.reserve()).unwrap_or(0);
        if self.bytes[0] + self.bytes[1] >= all || lane == Lane::Backlog && self.bytes[lane as usize] >= bytes {
            return 0;
        }
        limit.saturating_sub(self.in_flight()).min(usize::try_from(span_max.saturating_sub(span)).unwrap_or(0))
    }

    /// See [`Pace::bound`].
    pub(super) fn bound(&mut self, bytes_max: usize) {
        self.pace.bound(bytes_max);
    }

    /// How large a message should be.
    pub(super) fn message_bytes(&self) -> usize {
        self.pace.message_bytes()
    }

    /// How many bytes should be in flight.
    pub(super) fn bytes_max(&self) -> usize {
        self.pace.limit()
    }

    /// What was sent first of all that is owed and not answered, and whether nothing else is in flight.
    pub(super) fn oldest(&self) -> Option<(Ack, Alone)> {
        let alone = if self.in_flight() == 1 { Alone::Yes } else { Alone::No };
        let owed = self.handed.iter().chain(self.flying.values());
        let acks = owed.filter_map(|flying| match flying.what {
            Sent::Owed(ack) => Some((flying.order, ack)),
            Sent::Status | Sent::Reply | Sent::Aside => None,
        });
        acks.min_by_key(|(order, _)| *order).map(|(_, ack)| (ack, alone))
    }

    /// Records and gap records in flight.
    pub(super) fn owed(&self) -> u64 {
        let count = |flying: &Flying| match flying.what {
            Sent::Owed(ack) => ack.count(),
            Sent::Status | Sent::Reply | Sent::Aside => 0,
        };
        self.handed.iter().chain(self.flying.values()).map(count).sum()
    }

    /// Answers to commands that are in flight.
    pub(super) fn replies(&self) -> usize {
        let flying = self.handed.iter().chain(self.flying.values());
        flying.filter(|flying| flying.what == Sent::Reply).count()
    }

    /// Messages in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.handed.len() + self.flying.len()
    }

    /// Bytes in flight.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes[0] + self.bytes[1]
    }

    /// About to be handed to rumqttc, which sends in this order.
    pub(super) fn hand(&mut self, what: Sent, lane: Lane, bytes: usize, now: Instant) {
        let order = self.next_order;
        self.orders.insert(order);
        self.bytes[lane as usize] += bytes;
        let departure = self.pace.leaves(order, self.bytes[0] + self.bytes[1], bytes, now);
        self.handed.push_back(Flying { what, lane, bytes, order, departure });
        self.next_order += 1;
    }

    /// Something else takes the next packet id: the circle comes round one earlier.
    pub(super) fn skip(&mut self) {
        self.next_order += 1;
    }

    /// `Outgoing::Publish(id)`: the oldest handed message has this id.
    pub(super) fn left(&mut self, id: u16) -> Result<(), Confused> {
        let flying = self.handed.pop_front().ok_or(Confused(id))?;
        match self.flying.insert(id, flying) {
            None => Ok(()),
            Some(_) => Err(Confused(id)),
        }
    }

    /// `PubAck(id)` with this answer: what it was.
    pub(super) fn answered(&mut self, id: u16, answer: Answer, now: Instant) -> Result<Sent, Confused> {
        let flying = self.flying.remove(&id).ok_or(Confused(id))?;
        self.orders.remove(&flying.order);
        self.bytes[flying.lane as usize] -= flying.bytes;
        self.open |= matches!((flying.what, answer), (Sent::Owed(_), Answer::Taken));
        self.pace.arrived(&flying.departure, flying.bytes, self.next_order, now);
        Ok(flying.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::pace;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::time::Duration;

    fn record(id: i64) -> Sent {
        Sent::Owed(Ack::Gap(id))
    }

    #[test]
    fn one_acknowledged_record_opens_the_window_a_status_does_not() {
        let (mut window, now) = (Window::default(), Instant::now());
        assert_eq!(window.room(Lane::Backlog), 1);
        window.hand(Sent::Status, Lane::Backlog, 100, now);
        window.left(1).expect("handed");
        assert_eq!(window.answered(1, Answer::Taken, now), Ok(Sent::Status));
        assert_eq!(window.room(Lane::Backlog), 1);
        window.hand(record(1), Lane::Backlog, 100, now);
        window.left(2).expect("handed");
        assert_eq!(window.room(Lane::Backlog), 0);
        assert_eq!(window.answered(2, Answer::Taken, now), Ok(record(1)));
        assert_eq!(window.room(Lane::Backlog), MESSAGES_MAX);
    }

    #[test]
    fn a_packet_id_nobody_used_is_noticed() {
        let (mut window, now) = (Window::default(), Instant::now());
        assert_eq!(window.left(1), Err(Confused(1)));
        assert_eq!(window.answered(1, Answer::Taken, now), Err(Confused(1)));
        window.hand(record(1), Lane::Backlog, 1, now);
        window.left(1).expect("handed");
        window.hand(record(2), Lane::Backlog, 1, now);
        assert_eq!(window.left(1), Err(Confused(1)), "id still in flight");
    }

    /// Random sends and acknowledgements, in and out of order, against a plain list.
    #[test]
    fn behaves_like_a_plain_list_and_never_uses_more_than_its_limits() {
        for seed in 0..10 {
            let mut dice = StdRng::seed_from_u64(seed);
            let (mut window, mut model) = (Window::default(), Vec::<(u16, i64, usize, u64)>::new());
            let (mut sent, mut acknowledged, now) = (0_u64, 0_usize, Instant::now());
            for step in 0..20_000 {
                let bytes: usize = model.iter().map(|flying| flying.2).sum();
                assert_eq!(window.in_flight(), model.len());
                if window.room(Lane::Backlog) > 0 && dice.random_bool(0.6) {
                    assert!(bytes < pace::MOST && model.len() < MESSAGES_MAX);
                    let id = u16::try_from(sent % u64::from(PACKET_IDS)).expect("circle") + 1;
                    let size = dice.random_range(50..400);
                    window.hand(record(step), Lane::Backlog, size, now);
                    window.left(id).expect("packet ids never collide");
                    model.push((id, step, size, sent));
                    sent += 1;
                    assert!(sent - model[0].3 <= SPAN_MAX);
                } else if !model.is_empty() {
                    let which = if dice.random_bool(0.9) { 0 } else { dice.random_range(0..model.len()) };
                    let (id, step, ..) = model.remove(which);
                    assert_eq!(window.answered(id, Answer::Taken, now), Ok(record(step)));
                    acknowledged += 1;
                } else {
                    assert!(window.room(Lane::Backlog) > 0, "an empty window has room");
                }
            }
            assert!(acknowledged > 1000, "seed {seed} did something");
        }
    }

    /// A link that carries so many bytes a second with this round trip, for two minutes: bytes acknowledged, and the
    /// longest time a message took in the second minute (a ping would take as long).
    fn over_a_link(bytes_per_s: u32, round_trip: Duration) -> (usize, Duration) {
        const RECORD: usize = 200;
        let begin = Instant::now();
        let (mut window, mut now, mut link_free) = (Window::default(), begin, begin);
        let mut coming = VecDeque::new();
        let (mut sent, mut acknowledged, mut longest) = (0_u64, 0, Duration::ZERO);
        while now < begin + Duration::from_secs(120) {
            while window.room(Lane::Backlog) > 0 {
                let id = u16::try_from(sent % u64::from(PACKET_IDS)).expect("circle") + 1;
                window.hand(record(1), Lane::Backlog, RECORD, now);
                window.left(id).expect("packet ids never collide");
                link_free = link_free.max(now) + Duration::from_secs(RECORD as u64) / bytes_per_s;
                coming.push_back((link_free + round_trip, id, now));
                sent += 1;
            }
            let (arrives, id, left) = coming.pop_front().expect("something is in flight");
            now = arrives;
            window.answered(id, Answer::Taken, now).expect("in flight");
            acknowledged += RECORD;
            if now > begin + Duration::from_secs(60) {
                longest = longest.max(now - left);
            }
        }
        (acknowledged, longest)
    }

    #[test]
    fn a_satellite_link_is_kept_full_and_a_link_of_a_few_kilobits_does_not_queue_for_a_minute() {
        let (carried, longest) = over_a_link(32_000, Duration::from_millis(600));
        assert!(carried > 32_000 * 120 * 96 / 100, "{carried} bytes in 120 s at 32 kB/s");
        assert!(longest < Duration::from_secs(2), "{longest:?}");
        let (carried, longest) = over_a_link(1000, Duration::from_secs(1));
        assert!(carried > 1000 * 120 * 90 / 100, "{carried} bytes in 120 s at 1 kB/s");
        assert!(longest < Duration::from_secs(10), "{longest:?}");
        let (carried, _) = over_a_link(200_000, Duration::from_millis(50));
        assert!(carried > 200_000 * 115, "{carried} bytes in 120 s at 200 kB/s");
    }
}
