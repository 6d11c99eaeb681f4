//! Who a client is, for as long as it is connected; and whose a session is, for as long as it is kept.

use std::fmt;
use std::sync::Arc;

use super::Holder;
use crate::config::plan::Anonymous;

/// Whose sessions of the gateway's own are; no name of a user or a certificate is written so.
const GATEWAY: &str = "gateway";

/// Made by [`super::Access::admit`] at CONNECT. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    who: Who,
    client: Arc<str>,
    /// Of the password it came in with.
    proof: u64,
}

/// How a client has shown who it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// Not at all; with what its listener gives to such clients.
    Anonymous(Anonymous),
    /// By name and password.
    User(Arc<str>),
    /// By a certificate of this name, verified by its listener.
    Certificate(Arc<str>),
    /// By a client id that its MQTT-SN listener has in its list, and where it comes from: a name, not a proof.
    Sensor(Arc<str>),
    /// It is the gateway itself, which came in through no listener: an edge node of Sparkplug on its own broker.
    Gateway,
}

impl Identity {
    /// A client with this id.
    pub fn new(who: Who, client: impl Into<Arc<str>>) -> Self {
        Self { who, client: client.into(), proof: 0 }
    }

    /// The gateway itself.
    pub fn gateway(client: impl Into<Arc<str>>) -> Self {
        Self::new(Who::Gateway, client)
    }

    /// Is it the gateway itself?
    pub const fn is_gateway(&self) -> bool {
        matches!(self.who, Who::Gateway)
    }

    /// Nobody in particular.
    pub fn anonymous(door: Anonymous, client: impl Into<Arc<str>>) -> Self {
        Self::new(Who::Anonymous(door), client)
    }

    /// A user, and the number of the password it came in with.
    pub(super) fn user(name: &str, proof: u64, client: &str) -> Self {
        Self { proof, ..Self::new(Who::User(name.into()), client) }
    }

    pub(super) fn proof(&self) -> u64 {
        self.proof
    }

    /// How it has shown who it is.
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// The client id: `%c` in a filter.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// The name of user, certificate or sensor: `%u` in a filter.
    pub fn name(&self) -> Option<&str> {
        match &self.who {
            Who::Anonymous(_) | Who::Gateway => None,
            Who::User(name) | Who::Certificate(name) | Who::Sensor(name) => Some(name),
        }
    }

    /// Who owns a session, as far as its owner's name says; `anonymous` is what such clients may do here at most.
    pub(super) fn of_holder(holder: Holder<'_>, anonymous: Anonymous) -> Self {
        let who = match holder.owner.split_once(':') {
            Some(("user", name)) => Who::User(name.into()),
            Some(("cert", name)) => Who::Certificate(name.into()),
            Some(("sensor", name)) => Who::Sensor(name.into()),
            _ => Who::Anonymous(anonymous),
        };
        Self::new(who, holder.client)
    }

    /// Whose its session is: a text that stays the same across restarts, `anonymous` (for all of them), `user:NAME`,
    /// `cert:NAME` or `sensor:NAME`. A session of another owner is none of its business.
    pub fn owner(&self) -> Arc<str> {
        self.to_string().into()
    }
}

/// As [`Identity::owner`].
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Anonymous(_) => f.write_str(super::ANONYMOUS),
            Who::User(name) => write!(f, "user:{name}"),
            Who::Certificate(name) => write!(f, "cert:{name}"),
            Who::Sensor(name) => write!(f, "sensor:{name}"),
            Who::Gateway => f.write_str(GATEWAY),
        }
    }
}
