//! Who a client is and what it may do: asked by the broker's doors (and later by the status page).
//!
//! A door resolves an [`Identity`] once, at CONNECT; [`Access`] answers for that identity from then on, by the rules as
//! they are at that moment: users and rules can be replaced while clients are connected. What the gateway owns is not
//! decided here: `model::topic::Ownership` comes first, whatever a rule says.
//!
//! `identity` who · `acl` what rules say · `users` and `file` the users file, `hash` the passwords in it · `desk` where
//! passwords are checked, `queue` who is next, `memory` those that were right lately, `brake` those that were not · `audit`
//! what is logged · `seal` marks that only this process can make.
//!
//! **Certificates.** A certificate that a listener has verified is a login by itself: the client is `cert:NAME`. A user
//! name beside it changes nothing if it is the same name, and is not looked at further, as with mosquitto's
//! `use_identity_as_username`. Another user name needs that user's password, and then the client is that user: whoever has
//! a certificate is never taken for somebody else without a password.

mod acl;
mod audit;
mod brake;
mod desk;
mod file;
mod hash;
mod identity;
mod memory;
mod queue;
mod seal;
mod users;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use crate::config::plan::{Anonymous, BrokerPlan};
use crate::model::command::{Outcome, Refusal};
use crate::model::lock::Hold as _;
use crate::model::stats::Counter;
use crate::model::value::Value;
use acl::Acl;
pub use acl::{ANONYMOUS, CERTIFICATE, EVERYONE, SENSOR};
use audit::{Audit, Shows};
pub use audit::{Deed, logged_out, operated};
pub use brake::network;
use desk::{Checked, Desk, Login};
pub use file::{BadFile, change, read, replace};
pub use hash::{BadHash, NotHashed, check_hash, hash};
pub use identity::{Identity, Who};
pub use seal::Seal;
use users::Users;
pub use users::{NAME_BYTES_MAX, PASSWORD_BYTES_MAX, check_name};

/// Who holds a session, and need not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder<'a> {
    /// See [`Identity::owner`].
    pub owner: &'a str,
    /// The id that the client gave itself.
    pub client: &'a str,
}

/// What a client shows at the door.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Credentials<'a> {
    /// User name, if one was sent.
    pub user: Option<&'a str>,
    /// Password, if one was sent.
    pub password: Option<&'a [u8]>,
    /// The name in a certificate that the listener has verified.
    pub certificate: Option<&'a str>,
    /// The name under which an MQTT-SN listener has its client id in its list.
    pub sensor: Option<&'a str>,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, certificate, .. } = self;
        write!(f, "Credentials({user:?}, {certificate:?}, …)")
    }
}

/// Who stands at which door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arriving<'a> {
    /// What the listener gives to clients without a name.
    pub door: Anonymous,
    /// The client id, also one that we have chosen.
    pub client: &'a str,
    /// Where it comes from; `None`: a unix socket.
    pub from: Option<IpAddr>,
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// It gave no name and this listener wants one.
    #[error("nobody is let in here without a login: `users_file` of [broker], or `anonymous` of this door")]
    NotAuthorized,
    /// It gave a name: nobody of that name is known, or the password is wrong.
    #[error("unknown user or wrong password")]
    BadCredentials,
    /// Too many logins wait to be checked, or this one failed too often: later.
    #[error("too many logins, try again later")]
    Busy,
    /// The users file cannot be read.
    #[error("nobody can log in with a password: the users file cannot be read")]
    NoUsers,
}

impl Refused {
    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAuthorized => "anonymous",
            Self::BadCredentials => "credentials",
            Self::Busy => "busy",
            Self::NoUsers => "no_users_file",
        }
    }
}

/// Counters since start.
#[derive(Debug, Default)]
pub struct AccessStats {
    /// Clients with a name that were let in.
    pub logins: Counter,
    /// Unknown users and wrong passwords.
    pub wrong: Counter,
    /// Told to come back later.
    pub busy: Counter,
    /// Anonymous clients at doors that want a name, and logins without a users file.
    pub refused: Counter,
}

/// What came of reading the users file.
#[derive(Debug)]
pub enum Loading {
    /// The plan has none.
    NotWanted,
    /// So many users; and what is wrong with some of its lines, if anything is.
    Loaded(usize, Option<String>),
    /// It cannot be used. Users that were read before stay.
    Failed(BadFile),
}

#[derive(Debug)]
enum State {
    /// No `users_file`.
    Off,
    /// Configured, and not read yet.
    Unavailable,
    Loaded(Users),
}

/// Users and rules as they are now; shared by all connections.
#[derive(Debug)]
pub struct Access {
    acl: ArcSwap<Acl>,
    users: ArcSwap<State>,
    file: Mutex<Option<PathBuf>>,
    /// What the most generous listener gives to clients without a name.
    anonymous: ArcSwap<Anonymous>,
    desk: Desk,
    audit: Audit,
    /// What happened at the doors.
    pub stats: AccessStats,
}

impl Access {
    /// From `[broker]`. The users file is not read yet: see [`Access::load_users`].
    pub fn new(plan: &BrokerPlan) -> Self {
        let users = if plan.users_file.is_some() { State::Unavailable } else { State::Off };
        Self {
            acl: ArcSwap::from_pointee(Acl::new(&plan.acl)),
            users: ArcSwap::from_pointee(users),
            file: Mutex::new(plan.users_file.clone()),
            anonymous: ArcSwap::from_pointee(most(plan)),
            desk: Desk::new(),
            audit: Audit::new(),
            stats: AccessStats::default(),
        }
    }

    /// Reads the users file (blocks for that long); nothing changes if it cannot be used.
    pub fn load_users(&self) -> Loading {
        let file = self.file.hold().clone();
        let Some(file) = file else {
            self.users.store(Arc::new(State::Off));
            return Loading::NotWanted;
        };
        match file::read(&file) {
            Ok(text) => {
                let (users, wrong) = Users::parse(&text);
                let count = users.count();
                self.users.store(Arc::new(State::Loaded(users)));
                Loading::Loaded(count, wrong)
            }
            Err(bad) => Loading::Failed(bad),
        }
    }

    /// The rules and the users file of another plan, read anew (blocks for that long). Whoever is connected keeps what it
    /// has until the broker judges anew.
    pub fn reload(&self, plan: &BrokerPlan) -> Loading {
        self.acl.store(Arc::new(Acl::new(&plan.acl)));
        self.anonymous.store(Arc::new(most(plan)));
        self.file.hold().clone_from(&plan.users_file);
        if plan.users_file.is_some() && matches!(**self.users.load(), State::Off) {
            self.users.store(Arc::new(State::Unavailable));
        }
        self.load_users()
    }

    /// Who is at the door? Takes as long as checking a password takes.
    ///
    /// Where there are users, a client that gives a name (or, in MQTT 5, a password alone) is never taken for an anonymous
    /// one. Where there are none, and no file of them, a name is not looked at.
    pub async fn admit(&self, arriving: Arriving<'_>, shown: Credentials<'_>) -> Result<Identity, Refused> {
        let admitted = self.judge(arriving, shown).await;
        self.note(arriving, shown, &admitted, Shows::AtFirst);
        admitted
    }

    /// The same of a client that shows its login with every request: for the audit trail that is one login.
    pub async fn admit_request(&self, arriving: Arriving<'_>, shown: Credentials<'_>) -> Result<Identity, Refused> {
        let admitted = self.judge(arriving, shown).await;
        self.note(arriving, shown, &admitted, Shows::Always);
        if let (Err(_), Some(name), State::Loaded(users)) = (&admitted, shown.user, &**self.users.load())
            && let Some(user) = users.find(name)
        {
            self.audit.request_refused(arriving.from, name, user.proof);
        }
        admitted
    }

    fn note(
        &self,
        Arriving { client, from, .. }: Arriving<'_>,
        shown: Credentials<'_>,
        admitted: &Result<Identity, Refused>,
        shows: Shows,
    ) {
        match admitted {
            Ok(identity) if identity.name().is_none() => {}
            Ok(identity) => {
                self.stats.logins.one();
                self.audit.login(from, identity, shows);
            }
            Err(refused) => {
                match refused {
                    Refused::BadCredentials => self.stats.wrong.one(),
                    Refused::Busy => self.stats.busy.one(),
                    Refused::NotAuthorized | Refused::NoUsers => self.stats.refused.one(),
                }
                self.audit.login_refused(from, (client, shown.user), *refused);
            }
        }
    }

    /// A door does not know it at all: counted and audited as any other.
    pub fn turn_away(&self, arriving: Arriving<'_>) {
        self.stats.refused.one();
        self.audit.login_refused(arriving.from, (arriving.client, None), Refused::NotAuthorized);
    }

    async fn judge(&self, arriving: Arriving<'_>, shown: Credentials<'_>) -> Result<Identity, Refused> {
        let Arriving { door, client, from } = arriving;
        if let Some(sensor) = shown.sensor {
            return Ok(Identity::new(Who::Sensor(sensor.into()), client));
        }
        match (shown.certificate, shown.user) {
            (Some(certificate), user) if user.is_none_or(|user| user == certificate) => {
                Ok(Identity::new(Who::Certificate(certificate.into()), client))
            }
            // Many are set up with a name that nobody asks for.
            (None, _) if door != Anonymous::None && !self.has_users() => Ok(Identity::anonymous(door, client)),
            (_, Some(name)) => {
                let from = from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                // An empty password proves nothing, even where its hash stands in the file (as with mosquitto).
                let password = shown.password.filter(|password| !password.is_empty());
                let proof = self.check(Login { name, password, from }).await?;
                Ok(Identity::user(name, proof, client))
            }
            (None, None) if shown.password.is_some() => Err(Refused::BadCredentials),
            _ if door == Anonymous::None => Err(Refused::NotAuthorized),
            _ => Ok(Identity::anonymous(door, client)),
        }
    }

    async fn check(&self, login: Login<'_>) -> Result<u64, Refused> {
        let state = self.users.load_full();
        let checked = match &*state {
            State::Loaded(users) => self.desk.check(users, login).await,
            State::Off => self.desk.check(&Users::default(), login).await,
            State::Unavailable => return Err(Refused::NoUsers),
        };
        match checked {
            Checked::Right(proof) => Ok(proof),
            Checked::Wrong => Err(Refused::BadCredentials),
            Checked::Busy => Err(Refused::Busy),
        }
    }

    /// Could it still come in, as what it is? Not a user who is gone or has another password by now.
    pub fn is_admitted(&self, who: &Identity) -> bool {
        let Who::User(name) = who.who() else { return true };
        match &**self.users.load() {
            State::Loaded(users) => users.find(name).is_some_and(|user| user.proof == who.proof()),
            State::Off | State::Unavailable => false,
        }
    }

    /// Whoever that is, as far as it says. Of clients without a name it is not known by which listener they come: it is the
    /// most generous one.
    pub fn owner(&self, holder: Holder<'_>) -> Identity {
        Identity::of_holder(holder, **self.anonymous.load())
    }

    /// May whoever owns this session read this, as far as can be said before they come?
    pub fn owner_may_read(&self, holder: Holder<'_>, filter: &str) -> bool {
        self.may_read(&self.owner(holder), filter)
    }

    /// May it subscribe to this filter (without `$share/<group>/`)? One rule must cover all that the filter would bring;
    /// a filter that is covered only in part is refused, and so is one that only several rules together would cover.
    pub fn may_read(&self, who: &Identity, filter: &str) -> bool {
        self.acl.load().read(who, filter)
    }

    /// May it publish on this topic? `…/set` is never covered by `read-write`, only by a rule.
    pub fn may_write(&self, who: &Identity, topic: &str) -> bool {
        self.acl.load().write(who, topic)
    }

    /// May it send a command on this topic, which a rule must match and a listener's `read-write` does not cover?
    pub fn may_command(&self, who: &Identity, topic: &str) -> bool {
        self.acl.load().command(who, topic)
    }

    /// For the audit trail: it was refused this topic.
    pub fn publish_refused(&self, who: &Identity, topic: &str, reason: &'static str) {
        self.audit.publish_refused(who, topic, reason);
    }

    /// For the audit trail: it was refused this filter.
    pub fn subscribe_refused(&self, who: &Identity, filter: &str) {
        self.audit.subscribe_refused(who, filter);
    }

    /// For the audit trail: it is connected and would not be let in any more.
    pub fn client_removed(&self, who: &Identity) {
        audit::client_removed(who);
    }

    /// For the audit trail: the owner of this session has a subscription that is not allowed any more.
    pub fn subscription_removed(&self, holder: Holder<'_>, filter: &str) {
        audit::subscription_removed(holder, filter);
    }

    /// Is there anybody who could log in with a password?
    pub fn has_users(&self) -> bool {
        !matches!(**self.users.load(), State::Off)
    }

    /// For the audit trail: how a command ended that went to its bus; whose it was, and the topic of its tag.
    pub fn command_ended(&self, command: (&str, &str), value: &Value, outcome: &Outcome) {
        self.audit.command_ended(command, value, outcome);
    }

    /// For the audit trail: one that did not come so far.
    pub fn command_refused(&self, command: (&str, &str), reason: Refusal) {
        self.audit.command_refused(command, reason);
    }

    /// For the audit trail: one that nothing came of, for want of a right or a login.
    pub fn operate_refused(&self, deed: Deed<'_>) {
        self.audit.operate_refused(&deed);
    }

    /// May it pause, poll and reset this device?
    pub fn may_operate(&self, who: &Identity, device: &str) -> bool {
        self.acl.load().operate(who, device)
    }
}

/// What clients without a name may do at any door.
fn most(plan: &BrokerPlan) -> Anonymous {
    plan.listeners.iter().map(|door| door.anonymous).max().unwrap_or_default()
}
