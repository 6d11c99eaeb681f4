//! Messages of other clients in the plan: what goes upstream (`[[forward]]`), what comes down (`[[uplink.down]]`), and
//! plain bridges to other brokers (`[[bridge]]`).

use std::time::Duration;

use super::UplinkPlan;
use crate::model::mapping::Mapping;
use crate::model::number::Class;

/// `[[forward]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardPlan {
    /// Topics of local clients.
    pub filter: String,
    /// The stream they are stored and numbered in.
    pub class: Class,
    /// The uplinks they go to, by name: every one that carries the class.
    pub uplinks: Vec<String>,
}

/// `[[uplink.down]]`, and topics of a bridge that come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownPlan {
    /// What is subscribed to upstream (`topic_prefix` included), and what it is called here.
    pub mapping: Mapping,
    /// `qos`
    pub qos: ReceiveQos,
    /// `retain`
    pub retain: RetainHere,
    /// What is retained on its topics comes in, and goes out as well: which of the two is newer, neither side can say.
    /// Then MQTT 5 is spoken.
    pub both_ways: bool,
}

/// What is asked for upstream; what was published there at QoS 2 comes at 1, at least once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReceiveQos {
    /// Nothing is kept while the link is down.
    AtMostOnce,
    /// The broker upstream keeps it, for `session_expiry`.
    #[default]
    AtLeastOnce,
}

/// `retain`: whether what is retained on one side is retained on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetainHere {
    /// As it was published.
    #[default]
    AsPublished,
    /// Never.
    Never,
}

/// Topics of a bridge that go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutPlan {
    /// What they are called on either side.
    pub mapping: Mapping,
    /// `retain`
    pub retain: RetainHere,
}

/// `[[bridge]]`
#[derive(Debug, Clone, PartialEq)]
pub struct BridgePlan {
    /// Its connection: an uplink that carries nothing else. What comes in stands in its `downs`.
    pub uplink: UplinkPlan,
    /// What goes out.
    pub out: Vec<OutPlan>,
    /// `max_size`: of its own store, bytes.
    pub max_size: u64,
    /// `max_age` of what is in it.
    pub max_age: Option<Duration>,
    /// `notifications`
    pub notifications: Notifications,
}

/// `notifications`: is the state of the connection told on `$SYS/broker/connection/<client id>/state`?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Notifications {
    /// On both brokers, retained: 1 connected, 0 not.
    #[default]
    Told,
    /// Nowhere.
    None,
}
