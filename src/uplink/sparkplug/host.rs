//! The primary host: whether it is there (Sparkplug 3.0,
//! tck-id-message-flow-edge-node-birth-publish-phid-wait and what follows it), and from when on what it was sent counts. Pure; time
//! comes in as an argument.
//!
//! ```text
//!            online, not older               offline, not older
//! Unknown ----------------------> Online ----------------------> Offline: NDEATH, DISCONNECT, the next server
//! ```
//!
//! What is older than what was seen before, on this server or another, is passed over. A host that was there and is there since
//! another time than before began anew, although nobody said that it went: its broker may have died with its last will. It knows
//! no birth of this session, and what was sent since it went was sent to nobody; so the session ends, and another one begins.
//!
//! **Late deaths.** A host that is cut off is declared offline by its will only when the broker misses it: one and a half
//! times its keep alive later. All that the broker took meanwhile, and answered for, the host never saw. So what is proven
//! counts only when the host has been online for `host_timeout` longer; if it goes offline before, all of that goes
//! again, as historical: rather twice than not at all.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::payload::sparkplug::State;
use crate::store::Ack;

/// Proven records that wait for the host: beyond that the oldest count early (a message is many records).
const WAITING_MAX: usize = 1 << 16;

/// Where the primary host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing is known of it in this session: births wait.
    Unknown,
    /// It is there.
    Online,
    /// It was there and is gone, or says that it is not there.
    Offline,
}

/// Of one uplink; outlives its sessions.
#[derive(Debug)]
pub(super) struct Host {
    timeout: Duration,
    standing: Standing,
    /// It was there in this session, and went since or began anew.
    broken: bool,
    /// The newest state seen, on any server.
    newest_ms: Option<u64>,
    proven: VecDeque<(Instant, Ack)>,
}

impl Host {
    pub(super) const fn new(timeout: Duration) -> Self {
        Self { timeout, standing: Standing::Unknown, broken: false, newest_ms: None, proven: VecDeque::new() }
    }

    /// A session begins: what the broker retains will tell. What is proven and does not count yet is owed again.
    pub(super) fn begin(&mut self) {
        (self.standing, self.broken) = (Standing::Unknown, false);
        self.proven.clear();
    }

    /// It says something.
    pub(super) fn hear(&mut self, state: State) {
        if self.newest_ms.is_some_and(|newest| state.timestamp_ms < newest) {
            return;
        }
        let since_another_time = self.newest_ms != Some(state.timestamp_ms);
        self.broken |= self.standing == Standing::Online && (!state.online || since_another_time);
        self.newest_ms = Some(state.timestamp_ms);
        self.standing = if state.online { Standing::Online } else { Standing::Offline };
    }

    pub(super) const fn standing(&self) -> Standing {
        self.standing
    }

    /// Was it there in this session, and went since or began anew?
    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    /// It is told everything from now on, whatever was before.
    pub(super) const fn greet(&mut self) {
        self.broken = false;
    }

    /// The broker has this.
    pub(super) fn prove(&mut self, ack: Ack, now: Instant) {
        self.proven.push_back((now, ack));
    }

    /// What counts by now.
    pub(super) fn counts(&mut self, now: Instant) -> Option<Ack> {
        let (at, _) = self.proven.front()?;
        let over = *at + self.timeout <= now && self.standing == Standing::Online && !self.broken;
        if over || self.proven.len() > WAITING_MAX { self.proven.pop_front().map(|(_, ack)| ack) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(online: bool, timestamp_ms: u64) -> State {
        State { online, timestamp_ms }
    }

    #[test]
    fn an_older_state_is_passed_over_on_every_server() {
        let mut host = Host::new(Duration::ZERO);
        assert_eq!(host.standing(), Standing::Unknown);
        host.hear(state(true, 10));
        assert_eq!(host.standing(), Standing::Online);
        host.hear(state(false, 9));
        assert_eq!(host.standing(), Standing::Online, "the will of an older session");
        host.hear(state(false, 10));
        assert_eq!(host.standing(), Standing::Offline);
        host.begin();
        host.hear(state(true, 9));
        assert_eq!(host.standing(), Standing::Unknown, "what another server still retains");
        host.hear(state(true, 11));
        assert_eq!(host.standing(), Standing::Online);
    }

    #[test]
    fn a_host_that_went_or_began_anew_is_not_the_one_that_was_told() {
        let mut host = Host::new(Duration::ZERO);
        host.hear(state(false, 5));
        host.hear(state(true, 6));
        host.hear(state(true, 6));
        assert!(!host.is_broken(), "it came, and said so twice");
        host.prove(Ack::Gap(1), Instant::now());
        host.hear(state(true, 7));
        assert!(host.is_broken(), "began anew");
        assert_eq!((host.standing(), host.counts(Instant::now())), (Standing::Online, None));
        host.begin();
        host.hear(state(true, 7));
        assert!(!host.is_broken(), "a new session knows it as it is");
        host.hear(state(false, 7));
        host.hear(state(true, 8));
        assert_eq!((host.is_broken(), host.standing()), (true, Standing::Online), "it went, however soon it is back");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_proven_counts_when_the_host_was_there_long_enough_after_it_and_never_if_it_went() {
        let (begin, wait) = (Instant::now(), Duration::from_secs(90));
        let mut host = Host::new(wait);
        host.hear(state(true, 1));
        host.prove(Ack::Gap(1), begin);
        host.prove(Ack::Gap(2), begin + wait / 2);
        assert_eq!(host.counts(begin + wait / 2), None);
        assert_eq!(host.counts(begin + wait), Some(Ack::Gap(1)));
        assert_eq!(host.counts(begin + wait), None);
        host.hear(state(false, 1));
        assert_eq!(host.counts(begin + wait * 2), None, "it may never have seen it");
        host.begin();
        host.hear(state(true, 2));
        assert_eq!(host.counts(begin + wait * 3), None, "owed again");
    }
}
