//! The primary host: whether it is there (Sparkplug 3.0,
//! tck-id-message-flow-edge-node-birth-publish-phid-wait and what follows it), and from when on what it was sent counts. Pure; time
//! comes in as an argument, and UTC from the clock.
//!
//! ```text
//!            online, not older               offline, not older
//! Unknown ----------------------> Online ----------------------> Offline: NDEATH, DISCONNECT, the next server
//! ```
//!
//! What is older than what was seen before, on this server or another, is passed over; so is a time more than [`AHEAD_MAX_MS`]
//! ahead of ours, once ours is known: after one such state nothing true would be newer. A host that was there and is there since
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

use super::ms;
use crate::flow::clock::Clock;
use crate::payload::sparkplug::State;
use crate::store::Ack;

/// Proven records that wait for the host: beyond that the oldest count early (a message is many records).
const WAITING_MAX: usize = 1 << 16;

/// A host's clock may be wrong by a time zone. 24 h.
const AHEAD_MAX_MS: u64 = 24 * 3_600_000;

/// Can a host have said this, as far as we know what time it is?
pub(super) fn is_credible(timestamp_ms: u64, clock: &Clock) -> bool {
    let now = clock.wall_now();
    !now.certainty.is_fixed() || timestamp_ms <= ms(now.unix_ms).saturating_add(AHEAD_MAX_MS)
}

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
pub(super) struct Host {
    timeout: Duration,
    clock: Clock,
    standing: Standing,
    /// It was there in this session, and went since or began anew.
    broken: bool,
    /// The newest state seen, on any server.
    newest_ms: Option<u64>,
    proven: VecDeque<(Instant, Ack)>,
}

impl Host {
    pub(super) const fn new(timeout: Duration, clock: Clock) -> Self {
        Self { timeout, clock, standing: Standing::Unknown, broken: false, newest_ms: None, proven: VecDeque::new() }
    }

    /// A session begins: what the broker retains will tell. What is proven and does not count yet is owed again.
    pub(super) fn begin(&mut self) {
        (self.standing, self.broken) = (Standing::Unknown, false);
        self.proven.clear();
    }

    /// It says something.
    pub(super) fn hear(&mut self, state: State) {
        if !is_credible(state.timestamp_ms, &self.clock) {
            return;
        }
        // taken before we knew the time: it stands in nobody's way any more
        self.newest_ms = self.newest_ms.filter(|newest| is_credible(*newest, &self.clock));
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
    use crate::flow::clock::{FakeTime, Fix};
    use crate::model::time::Boot;

    fn host(timeout: Duration) -> (Host, Clock) {
        let clock = Clock::new(std::sync::Arc::<FakeTime>::default(), Boot(1), 0);
        (Host::new(timeout, clock.clone()), clock)
    }

    #[test]
    fn a_state_of_the_far_future_hides_no_true_one_whether_it_came_before_the_time_was_known_or_after() {
        let (mut host, clock) = host(Duration::ZERO);
        host.hear(state(false, 9_000_000_000_000_000));
        assert_eq!(host.standing(), Standing::Offline, "nobody knows better yet");
        clock.learn(Fix { at: clock.now(), unix_ms: 1_795_204_800_000 });
        host.hear(state(true, 1_795_204_800_000));
        assert_eq!(host.standing(), Standing::Online);
        host.hear(state(false, 9_000_000_000_000_000));
        assert_eq!(host.standing(), Standing::Online);
        host.hear(state(false, 1_795_204_800_000 + AHEAD_MAX_MS));
        assert_eq!(host.standing(), Standing::Offline, "its time zone is wrong");
    }

    fn state(online: bool, timestamp_ms: u64) -> State {
        State { online, timestamp_ms }
    }

    #[test]
    fn an_older_state_is_passed_over_on_every_server() {
        let mut host = host(Duration::ZERO).0;
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
        let mut host = host(Duration::ZERO).0;
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
        let mut host = host(wait).0;
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
