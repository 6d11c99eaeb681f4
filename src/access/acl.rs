//! The filters of `[[broker.acl]]` for one name: does one of them cover a subscription, does one match a topic?
//!
//! Several rules for one name add up; there is nothing that takes away.

use crate::config::plan::AclPlan;
use crate::model::topic::{covers, matches};

/// Everything the plan allows one name.
#[derive(Debug, Default)]
pub(super) struct Rules {
    read: Vec<String>,
    write: Vec<String>,
}

impl Rules {
    /// Adds one `[[broker.acl]]`.
    pub(super) fn add(&mut self, rule: &AclPlan) {
        self.read.extend(rule.read.iter().cloned());
        self.write.extend(rule.write.iter().cloned());
    }

    /// Does a rule cover everything this filter would bring?
    pub(super) fn read(&self, filter: &str) -> bool {
        self.read.iter().any(|rule| covers(rule, filter))
    }

    /// Does a rule match this topic?
    pub(super) fn write(&self, topic: &str) -> bool {
        self.write.iter().any(|rule| matches(rule, topic))
    }
}
