//! Who is logged in at the page: few sessions, in memory only, each with an end. Pure but for the clock of timers.
//!
//! A session is named by 256 random bits that only its browser has (as a cookie) and this table. It ends [`IDLE_MAX`] after
//! it was last used, [`LIFE_MAX`] after its begin, at a log-out, at a restart, and as soon as the users file does not know
//! its user and password any more. When there are too many the one goes that was not used for the longest time: nobody can
//! be kept out by sessions that others forgot.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::access::Identity;
use crate::model::lock::Hold as _;

/// A page that is open asks every second; so long after the last one was closed.
const IDLE_MAX: Duration = Duration::from_secs(30 * 60);

/// A shift.
const LIFE_MAX: Duration = Duration::from_secs(12 * 3600);

/// All of them, and those of one user.
const SESSIONS_MAX: usize = 64;
/// See above.
const SESSIONS_OF_A_USER_MAX: usize = 8;

/// Everybody who is logged in.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Session>>);

#[derive(Debug)]
struct Session {
    who: Identity,
    begun: Instant,
    used: Instant,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.used) >= IDLE_MAX || now.duration_since(self.begun) >= LIFE_MAX
    }
}

impl Sessions {
    /// Begins one; its name is the secret.
    pub(super) fn begin(&self, who: Identity, now: Instant) -> String {
        let name = random_name();
        let mut sessions = self.sessions();
        sessions.retain(|_, session| !session.is_over(now));
        let of_user = |session: &Session| session.who.name() == who.name();
        if sessions.values().filter(|session| of_user(session)).count() >= SESSIONS_OF_A_USER_MAX {
            drop_oldest(&mut sessions, of_user);
        }
        if sessions.len() >= SESSIONS_MAX {
            drop_oldest(&mut sessions, |_| true);
        }
        sessions.insert(name.clone(), Session { who, begun: now, used: now });
        name
    }

    /// Whose it is, while it lasts; that it was asked for is a use.
    pub(super) fn whose(&self, name: &str, now: Instant) -> Option<Identity> {
        let mut sessions = self.sessions();
        let session = sessions.get_mut(name)?;
        if session.is_over(now) {
            sessions.remove(name);
            return None;
        }
        session.used = now;
        Some(session.who.clone())
    }

    /// Ends one.
    pub(super) fn end(&self, name: &str) -> Option<Identity> {
        self.sessions().remove(name).map(|session| session.who)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.0.hold()
    }
}

/// 256 random bits as 64 letters.
pub(super) fn random_name() -> String {
    let bits: [u8; 32] = rand::random();
    bits.iter().fold(String::with_capacity(64), |mut name, byte| {
        let _ = write!(name, "{byte:02x}"); // memory takes everything
        name
    })
}

fn drop_oldest(sessions: &mut HashMap<String, Session>, which: impl Fn(&Session) -> bool) {
    let oldest = sessions.iter().filter(|(_, session)| which(session)).min_by_key(|(_, session)| session.used);
    if let Some(name) = oldest.map(|(name, _)| name.clone()) {
        sessions.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Who;

    fn user(name: &str) -> Identity {
        Identity::new(Who::User(name.into()), "status")
    }

    #[tokio::test]
    async fn a_session_ends_when_it_is_idle_when_it_is_old_and_when_it_is_ended() {
        let (sessions, begin) = (Sessions::default(), Instant::now());
        let name = sessions.begin(user("hmi"), begin);
        assert_eq!((name.len(), sessions.whose(&name, begin)), (64, Some(user("hmi"))));
        assert_eq!(sessions.whose("", begin), None);
        let mut now = begin;
        while now.duration_since(begin) + IDLE_MAX / 2 < LIFE_MAX {
            now += IDLE_MAX / 2;
            assert!(sessions.whose(&name, now).is_some(), "used all the time");
        }
        assert_eq!(sessions.whose(&name, begin + LIFE_MAX), None);
        let idle = sessions.begin(user("hmi"), begin);
        assert_eq!(sessions.whose(&idle, begin + IDLE_MAX), None);
        assert_eq!(sessions.whose(&idle, begin), None, "over is over");
        let ended = sessions.begin(user("hmi"), begin);
        assert_eq!(sessions.end(&ended), Some(user("hmi")));
        assert_eq!(sessions.whose(&ended, begin), None);
    }

    #[tokio::test]
    async fn there_are_few_and_who_was_not_seen_for_longest_goes_first() {
        let (sessions, begin) = (Sessions::default(), Instant::now());
        let other = sessions.begin(user("other"), begin);
        let second = |n: usize| begin + Duration::from_secs(n as u64);
        let own: Vec<String> = (0..20).map(|n| sessions.begin(user("hmi"), second(n))).collect();
        let alive = own.iter().filter(|name| sessions.whose(name, second(20)).is_some()).count();
        assert_eq!(alive, SESSIONS_OF_A_USER_MAX);
        assert!(sessions.whose(&own[19], second(20)).is_some() && sessions.whose(&own[0], second(20)).is_none());
        assert!(sessions.whose(&other, second(20)).is_some(), "one user does not log others out");
        for n in 0..200 {
            sessions.begin(user(&format!("user-{n}")), second(21));
        }
        assert!(sessions.sessions().len() <= SESSIONS_MAX);
    }
}
