//! What all clients of a door are held to, and as whom each comes in. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use crate::broker::door::Porch;
use crate::broker::door::terms::Terms;
use crate::config::plan::{Anonymous, Entrance, MqttSnPlan};

/// As they are now: the plan may become another one while the door is open.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub plan: Arc<MqttSnPlan>,
    pub terms: Terms,
}

/// As whom a client comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Guest {
    /// As this user, `sensor:` before it in rules.
    Sensor(Arc<str>),
    /// As nobody in particular.
    Anonymous,
}

impl Rules {
    pub(super) fn new(plan: Arc<MqttSnPlan>, porch: &Porch) -> Self {
        Self { plan, terms: Terms::new(porch.plan.max_qos, &porch.shared.limits) }
    }
}

/// By this plan, through a door that is open to so many without a name; `None`: not at all.
pub(super) fn guest(plan: &MqttSnPlan, door: Anonymous, (client_id, from): (&str, IpAddr)) -> Option<Guest> {
    match plan.entrance(client_id, from.to_canonical()) {
        _ if client_id.chars().any(char::is_control) => None, // as at the other doors
        Entrance::User(name) => Some(Guest::Sensor(name.into())),
        Entrance::Unknown if door != Anonymous::None => Some(Guest::Anonymous),
        Entrance::Elsewhere | Entrance::Unknown => None,
    }
}
