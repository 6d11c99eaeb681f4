//! Which MQTT to speak to a broker, found out by asking (`mqtt_version = "auto"`). Pure; time comes in as an argument.
//!
//! 5 first. A broker that says it does not speak 5 gets 3.1.1 at once, and for a day. One that just closes the connection
//! after CONNECT may be old, or the link may have died at that moment: 3.1.1 is tried at once, and what it shows counts
//! once it has been seen twice in a row. A broker that does not answer at all proves nothing; the next attempt, after
//! the usual wait, asks the other way, so that a black hole costs nothing extra.
//!
//! MQTT 5 lets the broker say how many publishes it takes at once, and mosquitto says 20 unless told otherwise: over a
//! satellite's 600 ms that is 33 a second, where 3.1.1 has no such limit. With a publish per record that decides how fast a
//! backlog goes, so an uplink that may choose chooses 3.1.1 then; `mqtt_version = "5"` or batches keep it with 5.

use std::time::{Duration, Instant};

use crate::config::plan::MqttVersion;

use super::client::Spoken;
use super::ended::Ended;
use super::session::{End, Outcome};

/// A broker may have been updated: 5 is asked for again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// Publishes per second that a choice of 5 must at least allow: what 256 kbit/s carry of single records.
const PUBLISHES_PER_S: u32 = 160;

/// Do so many publishes at once, with this round trip, allow too few of them in a second?
pub(super) fn is_narrow(receive_max: u16, round_trip: Duration) -> bool {
    round_trip * PUBLISHES_PER_S > Duration::from_secs(1) * u32::from(receive_max)
}

/// How a broker took our CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// It understood it, whether it wants us or not.
    Understood,
    /// It said that it does not speak this version.
    OtherVersion,
    /// It closed the connection.
    Closed,
    /// It did not answer.
    Silence,
}

/// When to connect again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Now: the broker is there, only the version was wrong.
    AtOnce,
    /// After the usual wait.
    Later,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belief {
    /// Speaks 5, or not known.
    Five,
    /// 3.1.1 is tried because 5 was met like this.
    Trying(Greeting),
    /// Speaks 3.1.1 only; 5 is asked for again at this time.
    Four { until: Instant },
}

/// What is known of one broker.
#[derive(Debug, Clone)]
pub(super) struct Version {
    wanted: MqttVersion,
    belief: Belief,
    /// How often in a row 5 was not understood and 3.1.1 was.
    seen: u8,
    /// 3.1.1 was tried because 5 was narrow, and does not work.
    only_five: bool,
}

impl Version {
    pub(super) fn new(wanted: MqttVersion) -> Self {
        Self { wanted, belief: Belief::Five, seen: 0, only_five: false }
    }

    /// What the next session speaks.
    pub(super) fn next(&self, now: Instant) -> Spoken {
        match (self.wanted, self.belief) {
            (MqttVersion::V311, _) => Spoken::V4,
            (MqttVersion::V5, _) => Spoken::V5,
            (MqttVersion::Auto, Belief::Trying(_)) => Spoken::V4,
            (MqttVersion::Auto, Belief::Four { until }) if now < until => Spoken::V4,
            (MqttVersion::Auto, Belief::Four { .. } | Belief::Five) => Spoken::V5,
        }
    }

    /// May a session with 5 be given up because it is narrow?
    fn may_narrow(&self) -> bool {
        self.wanted == MqttVersion::Auto && !self.only_five
    }

    /// 5 works, but too few publishes fit.
    fn narrowed(&mut self, now: Instant) -> Again {
        self.belief = Belief::Four { until: now + ASK_AGAIN };
        Again::AtOnce
    }

    /// What a session showed.
    pub(super) fn learn(&mut self, spoken: Spoken, greeting: Greeting, now: Instant) -> Again {
        if self.wanted != MqttVersion::Auto {
            return Again::Later;
        }
        match (spoken, greeting) {
            (Spoken::V5, Greeting::Understood) => {
                (self.belief, self.seen) = (Belief::Five, 0);
                Again::Later
            }
            (Spoken::V5, Greeting::Silence) => {
                self.belief = Belief::Trying(greeting);
                Again::Later
            }
            (Spoken::V5, Greeting::OtherVersion | Greeting::Closed) => {
                self.belief = Belief::Trying(greeting);
                Again::AtOnce
            }
            (Spoken::V4, Greeting::Understood) => {
                if let Belief::Trying(five) = self.belief {
                    self.seen = self.seen.saturating_add(1);
                    let sure = five == Greeting::OtherVersion || self.seen >= 2;
                    self.belief = Belief::Four { until: if sure { now + ASK_AGAIN } else { now } };
                }
                Again::Later
            }
            (Spoken::V4, Greeting::OtherVersion) if !matches!(self.belief, Belief::Trying(_)) => {
                (self.belief, self.only_five) = (Belief::Five, true);
                Again::AtOnce
            }
            (Spoken::V4, _) => {
                self.belief = Belief::Five;
                Again::Later
            }
        }
    }
}

/// What earlier sessions showed of a broker; forgotten at the end of the process.
#[derive(Debug, Clone)]
pub(super) struct Known {
    version: Version,
    /// It keeps retained messages.
    pub(super) retains: bool,
    /// It understands topic aliases as it says.
    pub(super) aliases: bool,
    /// What it has retained on topics that go both ways has not been read to its end.
    pub(super) unread: bool,
}

impl Known {
    pub(super) fn new(wanted: MqttVersion) -> Self {
        Self { version: Version::new(wanted), retains: true, aliases: true, unread: true }
    }

    /// What the next session speaks.
    pub(super) fn spoken(&self, now: Instant) -> Spoken {
        self.version.next(now)
    }

    /// May a session with 5 be given up because it is narrow?
    pub(super) fn may_narrow(&self, now: Instant) -> bool {
        self.version.may_narrow() && self.spoken(now) == Spoken::V5
    }

    /// What the session that `spoken` chose has shown.
    pub(super) fn learn(&mut self, spoken: Spoken, outcome: &Outcome, now: Instant) -> Again {
        match outcome.end {
            End::Ended(Ended::NoRetain) if self.retains => {
                self.retains = false;
                return Again::AtOnce;
            }
            End::Ended(Ended::BadAlias) => self.aliases = false,
            End::Ended(Ended::Narrow(_)) => return self.version.narrowed(now),
            _ => {}
        }
        outcome.greeting.map_or(Again::Later, |greeting| self.version.learn(spoken, greeting, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto() -> (Version, Instant) {
        (Version::new(MqttVersion::Auto), Instant::now())
    }

    #[test]
    fn what_is_wanted_is_spoken_whatever_the_broker_says() {
        for (wanted, spoken) in [(MqttVersion::V311, Spoken::V4), (MqttVersion::V5, Spoken::V5)] {
            let (mut version, now) = (Version::new(wanted), Instant::now());
            for greeting in [Greeting::OtherVersion, Greeting::Closed, Greeting::Silence, Greeting::Understood] {
                assert_eq!(version.learn(spoken, greeting, now), Again::Later);
                assert_eq!(version.next(now), spoken);
            }
        }
    }

    #[test]
    fn a_broker_that_says_it_is_old_gets_3_1_1_at_once_and_is_asked_again_after_a_day() {
        let (mut version, now) = auto();
        assert_eq!(version.next(now), Spoken::V5);
        assert_eq!(version.learn(Spoken::V5, Greeting::OtherVersion, now), Again::AtOnce);
        assert_eq!(version.next(now), Spoken::V4);
        version.learn(Spoken::V4, Greeting::Understood, now);
        assert_eq!(version.next(now + ASK_AGAIN.saturating_sub(Duration::from_secs(1))), Spoken::V4);
        assert_eq!(version.next(now + ASK_AGAIN), Spoken::V5);
        // and if it then no longer takes 3.1.1, it is asked for 5 at once
        assert_eq!(version.learn(Spoken::V4, Greeting::OtherVersion, now), Again::AtOnce);
        assert_eq!(version.next(now), Spoken::V5);
    }

    #[test]
    fn a_broker_that_just_closes_is_believed_the_second_time() {
        let (mut version, mut now) = auto();
        for _ in 0..2 {
            assert_eq!(version.next(now), Spoken::V5);
            assert_eq!(version.learn(Spoken::V5, Greeting::Closed, now), Again::AtOnce);
            assert_eq!(version.next(now), Spoken::V4);
            assert_eq!(version.learn(Spoken::V4, Greeting::Understood, now), Again::Later);
            now += Duration::from_secs(60);
        }
        assert_eq!(version.next(now), Spoken::V4);
    }

    #[test]
    fn a_dead_link_is_no_sign_of_an_old_broker() {
        let (mut version, now) = auto();
        for _ in 0..20 {
            assert_eq!(version.learn(Spoken::V5, Greeting::Closed, now), Again::AtOnce);
            assert_eq!(version.learn(Spoken::V4, Greeting::Closed, now), Again::Later, "one more try, then the wait");
            assert_eq!(version.next(now), Spoken::V5);
            assert_eq!(version.learn(Spoken::V5, Greeting::Silence, now), Again::Later);
            assert_eq!(version.learn(Spoken::V4, Greeting::Silence, now), Again::Later);
            assert_eq!(version.next(now), Spoken::V5);
        }
        // one bad moment, then a session with 5: forgotten
        version.learn(Spoken::V5, Greeting::Closed, now);
        version.learn(Spoken::V4, Greeting::Understood, now);
        version.learn(Spoken::V5, Greeting::Understood, now);
        version.learn(Spoken::V5, Greeting::Closed, now);
        version.learn(Spoken::V4, Greeting::Understood, now);
        assert_eq!(version.next(now), Spoken::V5, "not twice in a row");
    }

    #[test]
    fn a_narrow_session_is_given_up_for_3_1_1_once_unless_that_does_not_work() {
        assert!(is_narrow(20, Duration::from_millis(600)));
        assert!(!is_narrow(20, Duration::from_millis(50)));
        assert!(!is_narrow(u16::MAX, Duration::from_secs(30)));
        let (mut version, now) = auto();
        assert!(version.may_narrow());
        assert_eq!(version.narrowed(now), Again::AtOnce);
        assert_eq!(version.next(now), Spoken::V4);
        version.learn(Spoken::V4, Greeting::Understood, now);
        assert_eq!(version.next(now), Spoken::V4);
        assert_eq!(version.learn(Spoken::V4, Greeting::OtherVersion, now), Again::AtOnce);
        assert_eq!(version.next(now), Spoken::V5);
        assert!(!version.may_narrow(), "narrow is better than nothing");
        assert!(!Version::new(MqttVersion::V5).may_narrow());
    }

    #[test]
    fn two_versions_refused_in_turn_do_not_spin() {
        let (mut version, now) = auto();
        assert_eq!(version.learn(Spoken::V5, Greeting::OtherVersion, now), Again::AtOnce);
        assert_eq!(version.learn(Spoken::V4, Greeting::OtherVersion, now), Again::Later);
        assert_eq!(version.next(now), Spoken::V5);
    }
}
