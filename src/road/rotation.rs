//! Which of several servers is tried next: in the order of the list, from the first again after the last.
//!
//! ```text
//!         failed                       failed
//! first ----------> second ---- … ----> last ----> first, after a wait (backoff counts rounds, not servers)
//!   ^                  |
//!   +------------------+  a later server that works is left for the first after DWELL, twice as long each time the first
//!                         does not work then, at most 24 times: nobody flaps
//! ```
//!
//! A session that had carried something and broke is a matter of the link: the same server is asked once more.
//! Pure: time comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

/// A later server is kept at least this long before the first is tried again: a change costs a TLS handshake.
pub const DWELL: Duration = Duration::from_secs(3600);
/// At most so many times the shortest: a day for an hour.
const DWELLS_MAX: u32 = 24;

/// When the next attempt is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once: not every server has been tried.
    Now,
    /// After a wait: none of them works.
    AfterBackoff,
}

/// Of one uplink.
#[derive(Debug)]
pub struct Rotation {
    servers: usize,
    at: usize,
    /// Failures since one worked.
    failed: usize,
    shortest: Duration,
    dwell: Duration,
    /// When a later server is left for the first.
    leave_at: Option<Instant>,
    /// The server that was left for the first.
    left: Option<usize>,
}

impl Rotation {
    /// So many servers; begins with the first. `dwell`: how long a later one is kept, usually [`DWELL`].
    pub fn new(servers: usize, dwell: Duration) -> Self {
        Self { servers: servers.max(1), at: 0, failed: 0, shortest: dwell, dwell, leave_at: None, left: None }
    }

    /// The server to try, counted from 0.
    pub fn server(&self) -> usize {
        self.at
    }

    /// No connection with it, or no session that carried anything.
    pub fn failed(&mut self) -> Next {
        self.failed += 1;
        self.leave_at = None;
        self.at = match self.left.take() {
            Some(left) => {
                self.dwell = (self.dwell * 2).min(self.shortest * DWELLS_MAX);
                left
            }
            None => (self.at + 1) % self.servers,
        };
        if self.failed < self.servers {
            return Next::Now;
        }
        self.failed = 0;
        Next::AfterBackoff
    }

    /// There is a connection with it; what it is worth has to be seen.
    pub fn connected(&mut self, now: Instant) {
        if self.at != 0 {
            self.leave_at.get_or_insert(now + self.dwell);
        }
    }

    /// A session with it carried something.
    pub fn worked(&mut self) {
        self.failed = 0;
        self.left = None;
        if self.at == 0 {
            self.dwell = self.shortest;
        }
    }

    /// When the session with a later server should end in order, so that the first is tried; `None` with the first.
    pub fn leave_at(&self) -> Option<Instant> {
        self.leave_at
    }

    /// The session with a later server has been ended for the first.
    pub fn back_to_first(&mut self) {
        self.left = Some(self.at).filter(|at| *at != 0);
        self.leave_at = None;
        self.at = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_tried_once_before_there_is_a_wait() {
        use Next::{AfterBackoff, Now};
        let mut rotation = Rotation::new(3, DWELL);
        let mut tried = Vec::new();
        for _ in 0..7 {
            tried.push((rotation.server(), rotation.failed()));
        }
        let round = [(0, Now), (1, Now), (2, AfterBackoff)];
        assert_eq!(tried, [round, round, [(0, Now); 3]].concat()[..7]);
        assert_eq!(Rotation::new(1, DWELL).failed(), AfterBackoff);
        assert_eq!(Rotation::new(0, DWELL).failed(), AfterBackoff);
    }

    #[test]
    fn a_server_that_worked_is_asked_again_before_the_next() {
        let mut rotation = Rotation::new(2, DWELL);
        for _ in 0..3 {
            rotation.worked();
            assert_eq!(rotation.server(), 0);
        }
        assert_eq!((rotation.failed(), rotation.server()), (Next::Now, 1));
        rotation.worked();
        assert_eq!(rotation.server(), 1);
        assert_eq!((rotation.failed(), rotation.server()), (Next::Now, 0));
        assert_eq!((rotation.failed(), rotation.server()), (Next::AfterBackoff, 1));
    }

    #[test]
    fn a_later_server_is_kept_for_an_hour_and_longer_each_time_the_first_does_not_work() {
        let mut now = Instant::now();
        let mut rotation = Rotation::new(3, DWELL);
        rotation.connected(now);
        assert_eq!(rotation.leave_at(), None, "nothing is better than the first");
        assert_eq!(rotation.failed(), Next::Now);
        for hours in [1, 2, 4, 8, 16, 24, 24] {
            rotation.connected(now);
            rotation.worked();
            rotation.connected(now + Duration::from_secs(60));
            assert_eq!(rotation.leave_at(), Some(now + Duration::from_secs(3600 * hours)));
            now += Duration::from_secs(3600 * hours);
            rotation.back_to_first();
            assert_eq!((rotation.server(), rotation.leave_at()), (0, None));
            rotation.connected(now);
            assert_eq!((rotation.failed(), rotation.server()), (Next::Now, 1), "the one that worked");
        }
        rotation.connected(now);
        rotation.worked();
        rotation.back_to_first();
        rotation.connected(now);
        rotation.worked();
        assert_eq!((rotation.server(), rotation.leave_at()), (0, None));
        assert_eq!(rotation.failed(), Next::Now);
        rotation.connected(now);
        assert_eq!(rotation.leave_at(), Some(now + DWELL), "the first has worked: the dwell is short again");
    }
}
