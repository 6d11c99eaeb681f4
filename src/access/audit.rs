//! The audit trail: what happened at the doors, as log lines with a stable id in the field `audit`.
//!
//! | `audit` | when |
//! |---|---|
//! | `login` | a client with a name was let in |
//! | `login_refused` | somebody was not; `reason` says why |
//! | `publish_refused`, `subscribe_refused` | a client may not; the first per client and kind, then counted |
//! | `client_removed`, `subscription_removed` | new rules or users do not allow it any more |
//! | `access_reloaded` | users or rules were replaced; with counts |
//!
//! A flood must not fill the journal: of refusals that are alike (same address, same reason) one a minute is written, with
//! how many there were since the one before (`unsaid`). No password, hash or payload is ever written.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::{Identity, Refused};

/// Subjects that are kept apart; others share one line.
const SUBJECTS_MAX: usize = 256;

/// One line per subject in this time.
const PERIOD: Duration = Duration::from_secs(60);

/// Longest text of a stranger that is repeated, characters.
const SHOWN_MAX: usize = 64;

/// What was said lately.
#[derive(Debug, Default)]
pub(super) struct Quiet(HashMap<(Option<IpAddr>, Refused), Said>);

#[derive(Debug)]
struct Said {
    at: Instant,
    unsaid: u64,
}

impl Quiet {
    /// May it be said? Then with how many alike were not.
    fn may_say(&mut self, subject: (Option<IpAddr>, Refused), now: Instant) -> Option<u64> {
        let subject = if self.0.contains_key(&subject) || self.has_room(now) { subject } else { (None, subject.1) };
        match self.0.get_mut(&subject) {
            Some(said) if now.duration_since(said.at) < PERIOD => {
                said.unsaid += 1;
                None
            }
            said => {
                let unsaid = said.map_or(0, |said| said.unsaid);
                self.0.insert(subject, Said { at: now, unsaid: 0 });
                Some(unsaid)
            }
        }
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.0.len() >= SUBJECTS_MAX {
            self.0.retain(|_, said| now.duration_since(said.at) < PERIOD);
        }
        self.0.len() < SUBJECTS_MAX
    }

    /// Somebody was not let in.
    pub(super) fn login_refused(&mut self, from: Option<IpAddr>, who: (&str, Option<&str>), refused: Refused) {
        let (client, user) = who;
        if let Some(unsaid) = self.may_say((from, refused), Instant::now()) {
            let (client, user, reason) = (shown(client), shown(user.unwrap_or_default()), refused.as_str());
            let from = place(from);
            tracing::warn!(audit = "login_refused", from, client, user, reason, unsaid, "client refused");
        }
    }
}

/// A client was let in.
pub(super) fn login(from: Option<IpAddr>, identity: &Identity) {
    let (from, client) = (place(from), identity.client());
    tracing::info!(audit = "login", from, client, identity = identity.to_string(), "client logged in");
}

fn place(from: Option<IpAddr>) -> String {
    from.map_or_else(|| "unix".to_owned(), |from| from.to_canonical().to_string())
}

/// The front of a text that anybody may have chosen.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_is_one_line_a_minute_and_the_rest_is_counted() {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        let subject = (Some(IpAddr::from([10, 0, 0, 1])), Refused::BadCredentials);
        assert_eq!(quiet.may_say(subject, now), Some(0));
        for _ in 0..1000 {
            assert_eq!(quiet.may_say(subject, now + PERIOD / 2), None);
        }
        assert_eq!(quiet.may_say(subject, now + PERIOD), Some(1000));
        assert_eq!(quiet.may_say((subject.0, Refused::Busy), now), Some(0), "another reason is another line");
    }

    #[tokio::test]
    async fn a_flood_from_everywhere_is_bounded_too() {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        let lines = (0..10_000_u32).filter(|number| {
            let from = Some(std::net::Ipv4Addr::from_bits(*number).into());
            quiet.may_say((from, Refused::BadCredentials), now).is_some()
        });
        assert!(lines.count() <= SUBJECTS_MAX + 1);
        assert!(quiet.0.len() <= SUBJECTS_MAX + 1);
    }
}
