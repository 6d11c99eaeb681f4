//! Receipt for what has none: data of Sparkplug are QoS 0, so their arrival is shown by something that the broker must answer
//! and that it reads after them on the same connection. Pure.
//!
//! The barrier is an UNSUBSCRIBE of a filter that nobody has. A broker must answer it with UNSUBACK (MQTT 3.1.1, section
//! 3.10.4) and needs no right for it; its packet id tells which one was answered. What left before it has then been read
//! and passed on by the broker.
//!
//! ```text
//!  feeder    DDATA DDATA UNSUBSCRIBE(7)   DDATA UNSUBSCRIBE(8)
//!  broker                              UNSUBACK(7)          (cut)      the third is in doubt: it goes again, as historical
//! ```
//!
//! Measured before it was chosen, with a relay that cuts the connection at random, in the middle of packets too, and loses
//! answers; four barriers on the way, up to 40 messages of 220 bytes each, a subscriber that counts (`proven` and missing
//! there would be a lie):
//!
//! ```text
//!                mosquitto 2                              our own broker
//!                cuts  proven  not there  bytes  answer   cuts  proven  not there  bytes  answer
//! PINGREQ          49  20 000          0      4   44 ms     45  20 000          0      4   47 ms
//! UNSUBSCRIBE      44  20 000          0     11   43 ms     42  20 000          0     11   46 ms
//! QoS 1 marker     51  20 000          0     16   43 ms     42  20 000          0     16   44 ms
//! ```
//!
//! All three are sound. PINGREQ is the cheapest, but rumqttc 0.25.1 gives it to nobody, pings by itself and takes a second one
//! that is unanswered for a dead link; a PINGRESP has no id either. A marker at QoS 1 needs a topic that the broker's rules
//! allow and that every host with `spBv1.0/#` would get to see.

use std::collections::VecDeque;

use crate::uplink::window::Confused;

/// Ids of publishes that have none: above all that rumqttc uses.
const FIRST_ID: u16 = 0x8000;
/// So many, in a circle: more than are ever on the way.
const IDS: u16 = 0x4000;

/// Of one session.
#[derive(Debug, Default)]
pub(in crate::uplink) struct Barrier {
    next: u16,
    /// Left and not proven, oldest first.
    left: VecDeque<u16>,
    /// Of these, behind the last barrier.
    behind: usize,
    /// Barriers on the way: packet id, and how many publishes left between it and the one before.
    raised: VecDeque<(u16, usize)>,
}

impl Barrier {
    /// A publish without packet id has left: the id that it has here.
    pub(in crate::uplink) fn left(&mut self) -> u16 {
        let id = FIRST_ID + self.next;
        self.next = (self.next + 1) % IDS;
        self.left.push_back(id);
        self.behind += 1;
        id
    }

    /// A barrier has left with this packet id.
    pub(in crate::uplink) fn raised(&mut self, id: u16) {
        self.raised.push_back((id, self.behind));
        self.behind = 0;
    }

    /// The broker has answered a barrier: what it has. Barriers are answered in their order, or the session cannot be trusted.
    pub(in crate::uplink) fn passed(&mut self, id: u16) -> Result<Vec<u16>, Confused> {
        match self.raised.pop_front() {
            Some((raised, count)) if raised == id => Ok(self.left.drain(..count.min(self.left.len())).collect()),
            _ => Err(Confused(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_before_a_barrier_is_proven_by_its_answer_and_nothing_else_is() {
        let mut barrier = Barrier::default();
        let first: Vec<u16> = (0..3).map(|_| barrier.left()).collect();
        barrier.raised(7);
        let second = vec![barrier.left()];
        barrier.raised(8);
        let third = barrier.left();
        assert_eq!(barrier.passed(7), Ok(first));
        assert_eq!(barrier.passed(8), Ok(second));
        assert_eq!(barrier.passed(9), Err(Confused(9)), "none is on the way");
        barrier.raised(9);
        assert_eq!(barrier.passed(9), Ok(vec![third]));
        barrier.raised(10);
        assert_eq!(barrier.passed(10), Ok(Vec::new()), "nothing left since");
    }

    #[test]
    fn an_answer_out_of_order_is_not_believed_and_ids_never_meet_those_of_rumqttc() {
        let mut barrier = Barrier::default();
        barrier.left();
        barrier.raised(1);
        barrier.raised(2);
        assert_eq!(barrier.passed(2), Err(Confused(2)));
        let mut barrier = Barrier::default();
        for round in 0..100_000_u32 {
            assert!(barrier.left() >= FIRST_ID);
            let id = u16::try_from(round % 2048).expect("small");
            barrier.raised(id);
            assert_eq!(barrier.passed(id).map(|proven| proven.len()), Ok(1));
        }
    }
}
