//! The audit trail: what happened at the doors, as log lines with a stable id in the field `audit`.
//!
//! | `audit` | level | when | fields |
//! |---|---|---|---|
//! | `login` | info | a client with a name was let in | `from` `client` `identity` `unsaid` |
//! | `login_refused` | warn | somebody was not | `from` `client` `user` `reason` `unsaid` |
//! | `publish_refused` | warn | a client may not publish (or leave a last will) there | `identity` `client` `topic` `reason` `unsaid` |
//! | `subscribe_refused` | warn | a client may not subscribe to that | `identity` `client` `filter` `unsaid` |
//! | `client_removed` | warn | new users do not know it any more: told to go | `identity` `client` |
//! | `subscription_removed` | warn | new rules do not cover it any more | `identity` `client` `filter` |
//! | `logout` | info | somebody left the status page | `from` `identity` |
//! | `operated` | info | a command from the status page | `from` `identity` `device` `tag` `operation` `outcome` |
//! | `operate_refused` | warn | one that its sender has no right to, that names nothing there is, or that shows no login or not that it is of our page (then without `device` and `tag`) | as above, and `unsaid` |
//! | `command_ended` | info | a command for a device, wherever it came from, was carried out or failed; a warning in `app` where it was open when the gateway went down | `topic` `value` `origin` `outcome` `unsaid` |
//! | `command_refused` | warn | one was refused (also written in `uplink`, where a host of Sparkplug wants something that is not to be had) | `topic` `origin` `reason` `unsaid` |
//! | `access_reloaded` | info | users or rules were replaced | `users` `rules` `clients` `subscriptions` |
//! | `config_changed` | info | a reload changed a part (written in `app`, as the next two) | `part` `name` `how` `detail` |
//! | `config_refused` | warn, error | a reload was refused, the running configuration stays | `count` or `keys` |
//! | `config_rolled_back` | error | the new one made the gateway worse, the old one is back | `reason` |
//! | `factory_reset` | warn | state and secrets are deleted (by a command, so always in the journal) | `outcome` `paths` `uid` `login_uid` |
//!
//! `reason` of a login is one of `credentials`, `anonymous`, `busy`, `no_users_file`. `from` is an address or `unix`,
//! `identity` is `user:NAME`, `cert:NAME`, `sensor:NAME` or `anonymous`. `origin` is `local:IDENTITY as CLIENT`,
//! `page:NAME from ADDRESS` or `uplink:NAME`.
//!
//! A flood must not fill the journal: of lines that are alike (a login: who, with which id and from where; a refused one: same
//! address and reason; a refusal: same owner and topic; of a command without a login: same address) one a minute is
//! written, with how many there were since the one before (`unsaid`). Of commands that were carried out (same origin and
//! topic) it is the first ten of a minute: each has moved something. Whoever shows the same login with every request (HTTP
//! Basic) is said once a day, and again after a refusal. No password, hash or payload is ever written.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher as _};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::{Holder, Identity, Refused};
use crate::model::command::{Outcome, Refusal};
use crate::model::lock::Hold as _;
use crate::model::value::Value;

/// Refusals that are kept apart, of each kind; others share one line.
const REFUSALS_MAX: usize = 64;

/// Logins that are kept apart: as many as a broker has clients. Only who has a password can make so many lines.
const LOGINS_MAX: usize = 1024;

/// Pairs of origin and tag that are kept apart: a recipe may write many tags at once.
const COMMANDS_MAX: usize = 1024;

/// Of each pair so many lines in [`PERIOD`]; of everything else one.
const COMMANDS_EACH: u32 = 10;

/// One line per subject in this time.
const PERIOD: Duration = Duration::from_secs(60);

/// The same for who shows a login with every request, such as a scraper.
const PERIOD_OF_REQUESTS: Duration = Duration::from_secs(24 * 3600);

/// Longest text of a stranger that is repeated, characters.
const SHOWN_MAX: usize = 64;

/// The same of an origin: two names and an address.
const ORIGIN_SHOWN_MAX: usize = 192;

/// What was said lately.
#[derive(Debug)]
pub(super) struct Audit {
    logins: Mutex<Quiet>,
    requests: Mutex<Quiet>,
    refused: Mutex<Quiet>,
    publishes: Mutex<Quiet>,
    strangers: Mutex<Quiet>,
    operations: Mutex<Quiet>,
    subscriptions: Mutex<Quiet>,
    commands: Mutex<Quiet>,
    commands_refused: Mutex<Quiet>,
}

/// When a client shows its login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shows {
    /// When it connects.
    AtFirst,
    /// With every request.
    Always,
}

/// A command from the status page.
#[derive(Debug, Clone, Copy)]
pub struct Deed<'a> {
    /// Who asked.
    pub who: &'a Identity,
    /// From where.
    pub from: IpAddr,
    /// For which device.
    pub device: &'a str,
    /// For which tag of it; empty: for all of it.
    pub tag: &'a str,
    /// `write`, `poll` …
    pub operation: &'static str,
    /// `done`, `asked`, `accepted`, or why not.
    pub outcome: &'static str,
}

/// Subjects, as hashes: what a stranger sends costs no more memory when it is long.
#[derive(Debug)]
struct Quiet {
    said: HashMap<u64, Said>,
    most: usize,
    /// Lines of one subject in `period`.
    each: u32,
    period: Duration,
    /// Lines left out of subjects that were forgotten; the next line has them.
    carried: u64,
}

#[derive(Debug)]
struct Said {
    since: Instant,
    lines: u32,
    unsaid: u64,
}

/// Stands for all subjects that are not kept apart.
const OTHERS: u64 = 0;

impl Quiet {
    fn new(most: usize, each: u32) -> Self {
        Self { said: HashMap::new(), most, each, period: PERIOD, carried: 0 }
    }

    /// The next line of it is said.
    fn forget(&mut self, subject: u64) {
        self.carried += self.said.remove(&subject).map_or(0, |said| said.unsaid);
    }

    /// May it be said? Then with how many alike were not.
    fn may_say(&mut self, subject: u64, now: Instant) -> Option<u64> {
        let subject = if self.said.contains_key(&subject) || self.has_room(now) { subject } else { OTHERS };
        match self.said.get_mut(&subject) {
            Some(said) if now.duration_since(said.since) < self.period => {
                if said.lines < self.each {
                    said.lines += 1;
                    return Some(0);
                }
                said.unsaid += 1;
                None
            }
            said => {
                let unsaid = said.map_or(0, |said| said.unsaid);
                self.said.insert(subject, Said { since: now, lines: 1, unsaid: 0 });
                Some(unsaid + std::mem::take(&mut self.carried))
            }
        }
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.said.len() >= self.most {
            let period = self.period;
            for (_, gone) in self.said.extract_if(|_, said| now.duration_since(said.since) >= period) {
                self.carried += gone.unsaid;
            }
        }
        self.said.len() < self.most
    }
}

impl Audit {
    pub(super) fn new() -> Self {
        let [refused, publishes, strangers, operations, subscriptions, commands_refused] =
            [(); 6].map(|()| Mutex::new(Quiet::new(REFUSALS_MAX, 1)));
        Self {
            logins: Mutex::new(Quiet::new(LOGINS_MAX, 1)),
            requests: Mutex::new(Quiet { period: PERIOD_OF_REQUESTS, ..Quiet::new(LOGINS_MAX, 1) }),
            commands: Mutex::new(Quiet::new(COMMANDS_MAX, COMMANDS_EACH)),
            refused,
            publishes,
            strangers,
            operations,
            subscriptions,
            commands_refused,
        }
    }

    /// A client with a name was let in.
    pub(super) fn login(&self, from: Option<IpAddr>, identity: &Identity, shows: Shows) {
        let unsaid = match shows {
            Shows::AtFirst => may_say(&self.logins, (from, identity.who(), identity.client())),
            Shows::Always => may_say(&self.requests, (from, identity.name(), identity.proof())),
        };
        if let Some(unsaid) = unsaid {
            let (from, client, identity) = (place(from), shown(identity.client()), identity.to_string());
            tracing::info!(audit = "login", from, client, identity, unsaid, "client logged in");
        }
    }

    /// Somebody who was let in as this user, with the password of this number, was not any more: said when it is again.
    pub(super) fn request_refused(&self, from: Option<IpAddr>, user: &str, proof: u64) {
        lock(&self.requests).forget(subject((from, Some(user), proof)));
    }

    /// Somebody was not let in.
    pub(super) fn login_refused(&self, from: Option<IpAddr>, (client, user): (&str, Option<&str>), refused: Refused) {
        if let Some(unsaid) = may_say(&self.refused, (from, refused)) {
            let (client, user, reason) = (shown(client), shown(user.unwrap_or_default()), refused.as_str());
            let from = place(from);
            tracing::warn!(audit = "login_refused", from, client, user, reason, unsaid, "client refused");
        }
    }

    /// A client may not publish there.
    pub(super) fn publish_refused(&self, who: &Identity, topic: &str, reason: &'static str) {
        if let Some(unsaid) = may_say(&self.publishes, (who.who(), topic)) {
            let (client, identity, topic) = (shown(who.client()), who.to_string(), shown(topic));
            tracing::warn!(audit = "publish_refused", identity, client, topic, reason, unsaid, "publish refused");
        }
    }

    /// One that went nowhere. Strangers share their lines by address: they cannot crowd out whoever is known.
    pub(super) fn operate_refused(&self, deed: &Deed<'_>) {
        let Deed { who, operation, outcome, .. } = *deed;
        let unsaid = match who.name() {
            None => may_say(&self.strangers, (deed.from, outcome)),
            Some(_) => may_say(&self.operations, (who.who(), deed.device, deed.tag)),
        };
        let Some(unsaid) = unsaid else { return };
        let (from, identity) = (place(Some(deed.from)), who.to_string());
        let (device, tag) = (shown(deed.device), shown(deed.tag));
        let message = "command from the page refused";
        tracing::warn!(audit = "operate_refused", from, identity, device, tag, operation, outcome, unsaid, "{message}");
    }

    /// A command that went to its bus has ended.
    pub(super) fn command_ended(&self, (origin, topic): (&str, &str), value: &Value, outcome: &Outcome) {
        if let Some(unsaid) = may_say(&self.commands, (origin, topic)) {
            let (origin, value, outcome) = (shown_origin(origin), shown(&value.to_string()), outcome.to_string());
            tracing::info!(audit = "command_ended", topic, value, origin, outcome, unsaid, "command ended");
        }
    }

    /// One that did not come so far.
    pub(super) fn command_refused(&self, (origin, topic): (&str, &str), reason: Refusal) {
        if let Some(unsaid) = may_say(&self.commands_refused, (origin, topic)) {
            let (origin, reason) = (shown_origin(origin), reason.as_str());
            tracing::warn!(audit = "command_refused", topic, origin, reason, unsaid, "command refused");
        }
    }

    /// A client may not subscribe to that.
    pub(super) fn subscribe_refused(&self, who: &Identity, filter: &str) {
        if let Some(unsaid) = may_say(&self.subscriptions, (who.who(), filter)) {
            let (client, identity, filter) = (shown(who.client()), who.to_string(), shown(filter));
            tracing::warn!(audit = "subscribe_refused", identity, client, filter, unsaid, "subscription refused");
        }
    }
}

fn may_say(quiet: &Mutex<Quiet>, about: impl Hash) -> Option<u64> {
    lock(quiet).may_say(subject(about), Instant::now())
}

fn subject(about: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    about.hash(&mut hasher);
    hasher.finish().max(OTHERS + 1)
}

fn lock(quiet: &Mutex<Quiet>) -> MutexGuard<'_, Quiet> {
    quiet.hold()
}

/// A command from the status page, done or refused.
pub fn operated(deed: &Deed<'_>) {
    let Deed { operation, outcome, .. } = *deed;
    let (from, identity) = (place(Some(deed.from)), deed.who.to_string());
    let (device, tag) = (shown(deed.device), shown(deed.tag));
    tracing::info!(audit = "operated", from, identity, device, tag, operation, outcome, "command from the page");
}

/// Somebody left the status page.
pub fn logged_out(who: &Identity, from: IpAddr) {
    let (from, identity) = (place(Some(from)), who.to_string());
    tracing::info!(audit = "logout", from, identity, "user logged out");
}

/// New users do not know this client any more.
pub(super) fn client_removed(who: &Identity) {
    let (client, identity) = (shown(who.client()), who.to_string());
    tracing::warn!(audit = "client_removed", identity, client, "client is not allowed any more, it must go");
}

/// New rules do not cover this subscription any more.
pub(super) fn subscription_removed(holder: Holder<'_>, filter: &str) {
    let (identity, client, filter) = (holder.owner, shown(holder.client), shown(filter));
    tracing::warn!(
        audit = "subscription_removed",
        identity,
        client,
        filter,
        "subscription is not allowed any more, it is removed"
    );
}

fn place(from: Option<IpAddr>) -> String {
    from.map_or_else(|| "unix".to_owned(), |from| from.to_canonical().to_string())
}

/// The front of a text that anybody may have chosen.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

/// Who it is stands first in an origin; what a client says of itself, last.
fn shown_origin(origin: &str) -> String {
    origin.chars().take(ORIGIN_SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_is_one_line_a_minute_and_the_rest_is_counted() {
        let (mut quiet, now) = (Quiet::new(64, 1), Instant::now());
        assert_eq!(quiet.may_say(7, now), Some(0));
        for _ in 0..1000 {
            assert_eq!(quiet.may_say(7, now + PERIOD / 2), None);
        }
        assert_eq!(quiet.may_say(7, now + PERIOD), Some(1000));
        assert_eq!(quiet.may_say(8, now), Some(0), "another subject is another line");
    }

    #[tokio::test]
    async fn a_login_with_every_request_is_one_line_a_day_and_one_after_a_refusal() {
        let mut quiet = Quiet { period: PERIOD_OF_REQUESTS, ..Quiet::new(64, 1) };
        let (now, minute) = (Instant::now(), Duration::from_secs(60));
        assert_eq!(quiet.may_say(7, now), Some(0));
        let day = (1..24 * 60).filter_map(|minutes| quiet.may_say(7, now + minute * minutes));
        assert_eq!(day.count(), 0);
        quiet.forget(7);
        assert_eq!(quiet.may_say(7, now + minute), Some(24 * 60 - 1), "with those that were not said");
        assert_eq!(quiet.may_say(7, now + minute * 2), None);
        assert_eq!(quiet.may_say(7, now + minute + PERIOD_OF_REQUESTS), Some(1));
    }

    #[tokio::test]
    async fn of_commands_the_first_ten_of_a_minute_are_said() {
        let (mut quiet, now) = (Quiet::new(64, 10), Instant::now());
        let said = |quiet: &mut Quiet, now| (0..100).filter_map(|_| quiet.may_say(7, now)).collect::<Vec<_>>();
        assert_eq!(said(&mut quiet, now), [0; 10]);
        assert_eq!(said(&mut quiet, now + PERIOD), [90, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[tokio::test]
    async fn a_flood_from_everywhere_is_bounded_and_counted_too() {
        let (mut quiet, now) = (Quiet::new(64, 1), Instant::now());
        let flood = |quiet: &mut Quiet, from: u64, now| {
            (from..from + 10_000).filter_map(|subject| quiet.may_say(subject, now)).collect::<Vec<_>>()
        };
        assert!(flood(&mut quiet, 1, now).len() <= 65);
        let later = flood(&mut quiet, 20_000, now + 2 * PERIOD);
        assert!(later.len() <= 65 && later.iter().sum::<u64>() > 9000, "{later:?}");
        assert!(quiet.said.len() <= 65);
    }
}
