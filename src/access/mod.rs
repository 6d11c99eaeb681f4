//! Who a client is and what it may do: asked by the broker's doors (and later by the status page).
//!
//! A door resolves an [`Identity`] once, at CONNECT; [`Access`] answers for that identity from then on, by the rules as
//! they are at that moment: they can be replaced while clients are connected. What the gateway owns is not decided here:
//! `model::topic::Ownership` comes first, whatever a rule says.
//!
//! `identity` who · `acl` what rules say.

mod acl;
mod identity;

use arc_swap::ArcSwap;

use crate::config::plan::{AclPlan, Anonymous, BrokerPlan};
use acl::Acl;
pub use acl::{ANONYMOUS, CERTIFICATE, EVERYONE};
pub use identity::{Identity, Who};

/// What a client shows at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credentials<'a> {
    /// User name, if one was sent.
    pub user: Option<&'a str>,
    /// Password, if one was sent.
    pub password: Option<&'a [u8]>,
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It gave no name and this listener wants one.
    #[error("this listener does not admit anonymous clients")]
    NotAuthorized,
    /// It gave a name, and nobody of that name is known.
    #[error("unknown user or wrong password")]
    BadCredentials,
}

/// The rules as they are now; shared by all connections.
#[derive(Debug, Default)]
pub struct Access {
    acl: ArcSwap<Acl>,
}

impl Access {
    /// From `[broker]`.
    pub fn new(plan: &BrokerPlan) -> Self {
        Self { acl: ArcSwap::from_pointee(Acl::new(&plan.acl)) }
    }

    /// Other rules from now on. Whoever is connected is judged anew by the broker.
    pub fn replace(&self, acl: &[AclPlan]) {
        self.acl.store(std::sync::Arc::new(Acl::new(acl)));
    }

    /// Who is at the door of a listener that treats nameless clients like this?
    ///
    /// A client that gives a name (or, in MQTT 5, a password alone) is never taken for an anonymous one: the day users exist it must not lose rights.
    #[expect(clippy::unused_async, reason = "passwords are looked at elsewhere")]
    pub async fn admit(&self, door: Anonymous, client: &str, shown: Credentials<'_>) -> Result<Identity, Refused> {
        if shown.user.is_some() || shown.password.is_some() {
            return Err(Refused::BadCredentials);
        }
        match door {
            Anonymous::None => Err(Refused::NotAuthorized),
            door => Ok(Identity::anonymous(door, client)),
        }
    }

    /// Could it still come in, as what it is?
    pub fn is_admitted(&self, who: &Identity) -> bool {
        matches!(who.who(), Who::Anonymous(_))
    }

    /// May it subscribe to this filter (without `$share/<group>/`)?
    pub fn may_read(&self, who: &Identity, filter: &str) -> bool {
        self.acl.load().read(who, filter)
    }

    /// May it publish on this topic? `…/set` is never covered by `read-write`, only by a rule.
    pub fn may_write(&self, who: &Identity, topic: &str) -> bool {
        self.acl.load().write(who, topic)
    }

    /// May it pause, poll and reset this device?
    pub fn may_operate(&self, who: &Identity, device: &str) -> bool {
        self.acl.load().operate(who, device)
    }
}
