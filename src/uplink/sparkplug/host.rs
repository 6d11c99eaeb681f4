//! The primary host: whether it is there (Sparkplug 3.0,
//! tck-id-message-flow-edge-node-birth-publish-phid-wait and what follows it), and from when on what it was sent counts. Pure; time
//! comes in as an argument, and UTC from the clock.
//!
//! ```text
//!            online, not older               offline, not older
//! Unknown ----------------------> Online ----------------------> Offline: NDEATH, DISCONNECT, the next server
//! ```
//!
//! What is older than what this server said before is passed over; so is a time more than [`AHEAD_MAX_MS`] ahead of ours, once
//! ours is known: after one such state nothing true would be newer. Servers are not compared: a host has a time for each of them
//! (tck-id-operational-behavior-host-application-multi-server-timestamp), that of its session there, however old.
//!
//! Where it says that it is not there, the next server is asked at once; when all have been asked in vain, each is watched for a
//! while, because a walk without a rest costs a connect with each step.
//!
//! A host that was there and says so again, with a newer time, has not gone as far as the specification knows: only an offline ends
//! the session. Most such hosts renew their state; births for each of them would be a storm. But one whose broker lost its
//! last will says the same when it begins anew. That one knows no births and asks for them: then what is proven and does not
//! count yet is owed again, because it may have been sent to nobody. At most once in two `host_timeout`, so that what goes
//! again comes to count.
//!
//! **Late deaths.** A host that is cut off is declared offline by its will only when the broker misses it: one and a half
//! times its keep alive later. All that the broker took meanwhile, and answered for, the host never saw. So what is proven
//! counts only when the host has been online for `host_timeout` longer; if it goes offline before, all of that goes
//! again, as historical: rather twice than not at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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

/// What was taken so long before it goes is no live value any more.
const LATE: Duration = Duration::from_secs(5);

/// When a person is told that everything waits: a host that is merely restarted is back before.
const AWAITED_LONG: Duration = Duration::from_secs(60);

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
    /// It was there in this session, and went since.
    broken: bool,
    /// Since when everything waits for it, in this session.
    waited_since: Option<Instant>,
    /// The same, over all sessions.
    away_since: Option<Instant>,
    /// Anything came on the topic of its state in this session.
    heard: bool,
    /// It was there, and said so again with a newer time.
    renewed: bool,
    /// When what did not count yet was owed again in one session last.
    again_at: Option<Instant>,
    /// Of this session, counted from 0.
    server: usize,
    /// By server, the newest state seen there.
    newest_ms: BTreeMap<usize, u64>,
    /// Servers that were left at once because it is not there, since it was there last.
    left: BTreeSet<usize>,
    proven: VecDeque<(Instant, Ack)>,
}

impl Host {
    pub(super) const fn new(timeout: Duration, clock: Clock) -> Self {
        Self {
            timeout,
            clock,
            standing: Standing::Unknown,
            broken: false,
            waited_since: None,
            away_since: None,
            heard: false,
            renewed: false,
            again_at: None,
            server: 0,
            newest_ms: BTreeMap::new(),
            left: BTreeSet::new(),
            proven: VecDeque::new(),
        }
    }

    /// A session with this server begins: what it retains will tell. What is proven and does not count yet is owed again.
    pub(super) fn begin(&mut self, server: usize) {
        self.server = server;
        (self.standing, self.broken, self.renewed) = (Standing::Unknown, false, false);
        (self.waited_since, self.heard) = (None, false);
        self.proven.clear();
    }

    /// Something came on the topic of its state, of whatever use.
    pub(super) const fn overhear(&mut self) {
        self.heard = true;
    }

    /// It says something.
    pub(super) fn hear(&mut self, state: State) {
        if !is_credible(state.timestamp_ms, &self.clock) {
            return;
        }
        // taken before we knew the time: it stands in nobody's way any more
        let before = self.newest_ms.get(&self.server).copied().filter(|newest| is_credible(*newest, &self.clock));
        if before.is_some_and(|newest| state.timestamp_ms < newest) {
            return;
        }
        self.broken |= self.standing == Standing::Online && !state.online;
        self.renewed |= self.standing == Standing::Online && before != Some(state.timestamp_ms);
        self.newest_ms.insert(self.server, state.timestamp_ms);
        if state.online {
            self.left.clear();
        }
        self.standing = if state.online { Standing::Online } else { Standing::Offline };
    }

    pub(super) const fn standing(&self) -> Standing {
        self.standing
    }

    /// Was it there in this session, and went since?
    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    /// It says that it is not there: is this one of several servers that is to be left for that at once? Once, until it is seen
    /// again, and not the last of them.
    pub(super) fn walks_on(&mut self, servers: usize) -> bool {
        self.standing == Standing::Offline && self.left.len() + 1 < servers && self.left.insert(self.server)
    }

    /// It is not there, and everything waits for it.
    pub(super) fn keep_waiting(&mut self, now: Instant) {
        self.waited_since.get_or_insert(now);
        self.away_since.get_or_insert(now);
    }

    /// What is known of it when everything has waited for it for long; `None`: it may still come by itself.
    pub(super) fn is_missed(&self, now: Instant) -> Option<&'static str> {
        self.away_since.filter(|since| now >= *since + AWAITED_LONG)?;
        Some(match self.standing {
            Standing::Online => return None,
            Standing::Offline => "which says that the host is not there",
            Standing::Unknown if self.heard => {
                "where only something came that cannot be used: no state, or one that is older than what was said before or far \
                 ahead of our clock"
            }
            Standing::Unknown => {
                "where nothing came (is primary_host exactly the name of the host, and may this uplink read that topic?)"
            }
        })
    }

    /// It is told everything from now on, whatever was before. Was it waited for so long that what came meanwhile is backlog, and
    /// nothing of it goes before what is new?
    pub(super) fn greet(&mut self, now: Instant) -> bool {
        self.broken = false;
        self.away_since = None;
        self.waited_since.take().is_some_and(|since| now >= since + LATE)
    }

    /// Somebody asks for births: was it a host that began anew without a word? Then nothing that did not count yet ever will, and
    /// all of it is to be sent again.
    pub(super) fn began_anew(&mut self, now: Instant) -> bool {
        let recent = self.again_at.is_some_and(|at| now < at + self.timeout * 2);
        if !std::mem::take(&mut self.renewed) || recent || self.proven.is_empty() {
            return false;
        }
        self.again_at = Some(now);
        self.proven.clear();
        true
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
    fn an_older_state_is_passed_over_and_each_server_has_times_of_its_own() {
        let mut host = host(Duration::ZERO).0;
        assert_eq!(host.standing(), Standing::Unknown);
        host.hear(state(true, 10));
        assert_eq!(host.standing(), Standing::Online);
        host.hear(state(false, 9));
        assert_eq!(host.standing(), Standing::Online, "the will of an older session");
        host.hear(state(false, 10));
        assert_eq!(host.standing(), Standing::Offline);
        host.begin(1);
        host.hear(state(true, 3));
        assert_eq!(host.standing(), Standing::Online, "it came to this server earlier, and is there");
        host.hear(state(false, 2));
        assert_eq!(host.standing(), Standing::Online, "of an older session with this server");
        host.begin(0);
        host.hear(state(true, 9));
        assert_eq!(host.standing(), Standing::Unknown, "the first server has said something newer before");
        host.hear(state(true, 11));
        assert_eq!(host.standing(), Standing::Online);
    }

    #[test]
    fn each_server_where_it_is_offline_is_left_at_once_until_all_were_asked_and_again_when_it_was_seen() {
        let mut host = host(Duration::ZERO).0;
        let mut walks = |server, said: Option<State>| {
            host.begin(server);
            if let Some(state) = said {
                host.hear(state);
            }
            (host.walks_on(3), host.walks_on(3))
        };
        assert_eq!(walks(0, None), (false, false), "it may still say something");
        assert_eq!(walks(0, Some(state(false, 5))), (true, false));
        assert_eq!(walks(1, Some(state(false, 5))), (true, false));
        assert_eq!(walks(2, Some(state(false, 5))), (false, false), "nobody has it: no storm of connects");
        assert_eq!(walks(0, Some(state(false, 5))), (false, false));
        assert_eq!(walks(1, Some(state(true, 6))), (false, false));
        assert_eq!(walks(0, Some(state(false, 5))), (true, false), "it was seen, and may be elsewhere now");
    }

    #[tokio::test(start_paused = true)]
    async fn that_it_is_missed_is_known_after_a_minute_over_all_servers_with_what_was_heard() {
        let mut host = host(Duration::ZERO).0;
        let second = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(host.is_missed(second(900)), None, "nothing has waited yet");
        host.keep_waiting(second(0));
        host.begin(1);
        host.keep_waiting(second(31));
        assert_eq!(host.is_missed(second(59)), None);
        let missed = |host: &Host| host.is_missed(second(60)).unwrap_or_default();
        assert!(missed(&host).starts_with("where nothing came"));
        host.overhear();
        assert!(missed(&host).contains("cannot be used"));
        host.hear(state(false, 5));
        assert!(missed(&host).contains("not there"));
        host.hear(state(true, 5));
        assert_eq!(host.is_missed(second(60)), None);
        host.greet(second(61));
        host.hear(state(false, 5));
        host.keep_waiting(second(62));
        assert_eq!(host.is_missed(second(121)), None, "another minute");
    }

    #[test]
    fn a_host_that_went_is_not_the_one_that_was_told_and_one_that_says_again_that_it_is_there_is() {
        let mut host = host(Duration::ZERO).0;
        host.hear(state(false, 5));
        for at in [6, 6, 7, 8] {
            host.hear(state(true, at));
            assert!(!host.is_broken(), "it came, and says so again");
        }
        host.begin(0);
        host.hear(state(true, 7));
        assert_eq!(host.standing(), Standing::Unknown, "older than what it said last");
        host.hear(state(true, 8));
        assert!(!host.is_broken(), "a new session knows it as it is");
        host.hear(state(false, 8));
        host.hear(state(true, 9));
        assert_eq!((host.is_broken(), host.standing()), (true, Standing::Online), "it went, however soon it is back");
    }

    #[tokio::test(start_paused = true)]
    async fn what_did_not_count_is_owed_again_to_a_host_that_renews_its_state_and_knows_no_births() {
        let (begin, wait) = (Instant::now(), Duration::from_secs(90));
        let mut host = host(wait).0;
        host.hear(state(true, 1));
        host.prove(Ack::Gap(1), begin);
        assert!(!host.began_anew(begin), "it has not said anything new");
        host.hear(state(true, 2));
        assert_eq!(host.counts(begin + wait), Some(Ack::Gap(1)), "a state that is renewed keeps nothing from counting");
        host.prove(Ack::Gap(2), begin + wait);
        assert!(host.began_anew(begin + wait));
        assert_eq!(host.counts(begin + wait * 9), None, "owed again");
        host.prove(Ack::Gap(2), begin + wait);
        host.hear(state(true, 3));
        assert!(!host.began_anew(begin + wait * 2), "or nothing would ever count");
        assert_eq!(host.counts(begin + wait * 2), Some(Ack::Gap(2)));
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
        host.begin(0);
        host.hear(state(true, 2));
        assert_eq!(host.counts(begin + wait * 3), None, "owed again");
    }
}
