//! An uplink that is an edge node of Sparkplug, in the plan.

use std::time::Duration;

use crate::model::sparkplug::Node;

/// `host_timeout` when it is not written: a host with the usual keep alive of 60 s is missed after 90.
pub const HOST_TIMEOUT: Duration = Duration::from_secs(90);

/// `format = "sparkplug"`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparkplugPlan {
    /// `group_id`, `edge_node_id`
    pub node: Node,
    /// `primary_host`: births wait for it, and nothing counts as received while it is away.
    pub primary_host: Option<String>,
    /// `host_timeout`: how long it may be gone before the broker says so. 0 ..= 1 h; default [`HOST_TIMEOUT`].
    pub host_timeout: Duration,
    /// `datatypes`
    pub datatypes: Datatypes,
}

/// `datatypes`: where a metric says its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Datatypes {
    /// In births, as the specification has it.
    #[default]
    Births,
    /// In data too: two bytes a sample, for hosts that remember no births.
    Always,
}
