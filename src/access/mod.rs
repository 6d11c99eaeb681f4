//! Who a client is and what it may do: asked by the broker's doors (and later by the status page).
//!
//! A door resolves an [`Identity`] once, at CONNECT; [`Access`] answers for that identity from then on. In this version
//! every identity is anonymous; users and certificates become further variants, the questions stay the same. What the
//! gateway owns is not decided here: `model::topic::Ownership` comes first, whatever a rule says.

mod acl;

use crate::config::plan::{AclPlan, Anonymous};
use acl::Rules;

/// The name that stands for clients without one in `[[broker.acl]]`.
pub const ANONYMOUS: &str = "anonymous";

/// What a client shows at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credentials<'a> {
    /// User name, if one was sent.
    pub user: Option<&'a str>,
    /// Password, if one was sent.
    pub password: Option<&'a [u8]>,
}

/// Who a client is, for as long as it is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Nobody in particular, with what its listener gives to such clients.
    Anonymous(Anonymous),
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

/// The rules of the plan; immutable, shared by all connections.
#[derive(Debug, Default)]
pub struct Access {
    anonymous: Rules,
}

impl Access {
    /// From `[[broker.acl]]`.
    pub fn new(acl: &[AclPlan]) -> Self {
        let mut anonymous = Rules::default();
        for rule in acl.iter().filter(|rule| rule.user == ANONYMOUS) {
            anonymous.add(rule);
        }
        Self { anonymous }
    }

    /// Who is at the door of a listener that treats nameless clients like this?
    ///
    /// A client that gives a name (or, in MQTT 5, a password alone) is never taken for an anonymous one: the day users exist it must not lose rights.
    pub fn admit(&self, door: Anonymous, shown: Credentials<'_>) -> Result<Identity, Refused> {
        if shown.user.is_some() || shown.password.is_some() {
            return Err(Refused::BadCredentials);
        }
        match door {
            Anonymous::None => Err(Refused::NotAuthorized),
            door => Ok(Identity::Anonymous(door)),
        }
    }

    /// May it subscribe to this filter (without `$share/<group>/`)?
    pub fn may_read(&self, who: Identity, filter: &str) -> bool {
        match who {
            Identity::Anonymous(Anonymous::Read | Anonymous::ReadWrite) => true,
            Identity::Anonymous(Anonymous::None) => self.anonymous.read(filter),
        }
    }

    /// May it publish on this topic? `…/set` is never covered by `read-write`, only by a rule.
    pub fn may_write(&self, who: Identity, topic: &str) -> bool {
        match who {
            Identity::Anonymous(Anonymous::ReadWrite) if !topic.ends_with("/set") => true,
            Identity::Anonymous(_) => self.anonymous.write(topic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let write = vec!["acme/+/pump-1/+/set".to_owned()];
        Access::new(&[AclPlan { user: ANONYMOUS.to_owned(), read: vec!["a/#".to_owned()], write }])
    }

    #[test]
    fn set_topics_need_a_rule_even_on_a_read_write_listener() {
        let (access, who) = (access(), Identity::Anonymous(Anonymous::ReadWrite));
        assert!(access.may_write(who, "machines/7"));
        assert!(!access.may_write(who, "acme/x/pump-2/speed/set"));
        assert!(access.may_write(who, "acme/x/pump-1/speed/set"));
        let reader = Identity::Anonymous(Anonymous::Read);
        assert!(access.may_write(reader, "acme/x/pump-1/speed/set"), "a rule adds to what the listener gives");
        assert!(!access.may_write(reader, "machines/7"));
    }

    #[test]
    fn reading_is_whole_for_admitted_clients_and_a_rules_worth_for_others() {
        let access = access();
        assert!(access.may_read(Identity::Anonymous(Anonymous::Read), "#"));
        assert!(access.may_read(Identity::Anonymous(Anonymous::Read), "$SYS/#"));
        assert!(access.may_read(Identity::Anonymous(Anonymous::None), "a/+/c"));
        assert!(!access.may_read(Identity::Anonymous(Anonymous::None), "#"));
    }

    #[test]
    fn a_name_nobody_knows_is_refused_and_not_taken_for_anonymous() {
        let access = access();
        let named = Credentials { user: Some("hmi"), password: Some(b"x") };
        assert_eq!(access.admit(Anonymous::Read, named), Err(Refused::BadCredentials));
        let token = Credentials { user: None, password: Some(b"x") };
        assert_eq!(access.admit(Anonymous::Read, token), Err(Refused::BadCredentials));
        assert_eq!(access.admit(Anonymous::None, Credentials::default()), Err(Refused::NotAuthorized));
        let read = Identity::Anonymous(Anonymous::Read);
        assert_eq!(access.admit(Anonymous::Read, Credentials::default()), Ok(read));
    }
}
