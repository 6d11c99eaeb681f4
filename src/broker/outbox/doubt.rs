//! Rights have changed: what waits, and what the connection has taken already, may not be for this client any more. Nothing is
//! taken out here, where numbers count: the connection asks before it sends.

use super::Outbox;

impl Outbox {
    /// What has been put in by now is to be judged before it is sent.
    pub(in crate::broker) fn doubt(&self) {
        let mut queue = self.lock();
        queue.doubtful_below = Some(queue.first + queue.waiting.len() as u64);
    }

    /// Must the connection judge what it has at hand? To be asked again whenever it has taken more.
    pub(in crate::broker) fn is_doubtful(&self) -> bool {
        let mut queue = self.lock();
        let below = queue.doubtful_below;
        queue.doubtful_below = below.filter(|below| queue.first < *below);
        below.is_some()
    }
}
