//! What is packed and waits for the window: by lane, and in it by class. Pure.
//!
//! Live goes before the backlog, but of every four bytes that are sent while both wait the backlog has one: it never
//! starves. In strict order there is one lane.

use std::collections::VecDeque;

use crate::config::plan::Delivery;
use crate::model::number::{Class, PerClass};

use super::pack::Message;
use super::source::Lane;

/// The live lane has this many bytes for each of the backlog.
const LIVE_SHARE: u64 = 3;
/// So far the backlog's share may be behind: what it missed before it waited does not count.
const BEHIND_MAX: u64 = 64 << 10;
/// Packed messages that wait; what is encoded early uses an old idea of the time.
pub(super) const WAITING_MAX: usize = 64;

/// Of one session.
pub(super) struct Lanes {
    waiting: [PerClass<VecDeque<Message>>; 2],
    delivery: Delivery,
    sent: [u64; 2],
    /// The lane of what was pulled last.
    last: Lane,
}

impl Lanes {
    pub(super) fn new(delivery: Delivery) -> Self {
        Self { waiting: Default::default(), delivery, sent: [0; 2], last: Lane::Backlog }
    }

    /// The queue of a lane.
    fn lane(&self, lane: Lane) -> usize {
        if self.delivery == Delivery::Strict { Lane::Backlog as usize } else { lane as usize }
    }

    pub(super) fn push(&mut self, message: Message) {
        self.waiting[self.lane(message.lane)][message.class].push_back(message);
    }

    /// It comes first again.
    pub(super) fn push_back(&mut self, message: Message) {
        self.waiting[self.lane(message.lane)][message.class].push_front(message);
    }

    /// In strict order: is the next pull of another lane than the one before?
    pub(super) fn changes_to(&mut self, lane: Lane) -> bool {
        std::mem::replace(&mut self.last, lane) != lane && self.delivery == Delivery::Strict
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.iter().flat_map(PerClass::values).map(VecDeque::len).sum()
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> usize {
        self.waiting.iter().flat_map(PerClass::values).flatten().map(Message::bytes).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.iter().flat_map(PerClass::values).all(VecDeque::is_empty)
    }

    pub(super) fn clear(&mut self) {
        self.waiting = Default::default();
    }

    /// The most urgent class that waits in a lane.
    pub(super) fn first(&self, lane: Lane) -> Option<Class> {
        let queues = &self.waiting[self.lane(lane)];
        Class::ALL.into_iter().find(|class| !queues[*class].is_empty())
    }

    /// The lanes in the order in which they are to be asked for a message.
    pub(super) fn order(&self) -> [Lane; 2] {
        if self.sent[Lane::Live as usize] > self.sent[Lane::Backlog as usize] * LIVE_SHARE {
            [Lane::Backlog, Lane::Live]
        } else {
            [Lane::Live, Lane::Backlog]
        }
    }

    /// The next message of this lane and class.
    pub(super) fn pop(&mut self, lane: Lane, class: Class) -> Option<Message> {
        let lane_at = if self.delivery == Delivery::Strict && lane == Lane::Live { return None } else { lane as usize };
        self.waiting[lane_at][class].pop_front()
    }

    /// It was sent.
    pub(super) fn sent(&mut self, lane: Lane, bytes: usize) {
        self.sent[lane as usize] += bytes as u64;
        let [live, backlog] = &mut self.sent;
        *live = (*live).min(*backlog * LIVE_SHARE + BEHIND_MAX);
        *backlog = (*backlog).min(*live / LIVE_SHARE + BEHIND_MAX);
        let base = (*live / LIVE_SHARE).min(*backlog);
        (*live, *backlog) = (*live - base * LIVE_SHARE, *backlog - base);
    }
}
