//! What can change while the gateway runs. In this version: users and rules of the broker. Everything else of a changed
//! configuration needs a restart, and that is said.

use std::sync::Arc;

use super::gatekeeper::Gatekeeper;
use crate::config::Problems;
use crate::config::plan::Plan;
use crate::flow::notice::{Notice, Notices, Phase};

/// Takes new plans; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reloader {
    pub(super) plan: Arc<Plan>,
    pub(super) gatekeeper: Arc<Gatekeeper>,
    pub(super) notices: Notices,
}

impl Reloader {
    /// A configuration that was read anew and is right.
    pub async fn apply(&self, plan: &Plan) {
        if !self.differs_in_rights_only(plan) {
            tracing::warn!("the configuration has other changes too; they need a restart");
        }
        self.gatekeeper.reload(&plan.broker).await;
    }

    /// A configuration that was read anew and is wrong: nothing changes.
    pub fn refuse(&self, problems: &Problems) {
        for problem in problems {
            tracing::error!(problem = problem.to_string(), "reload refused, the configuration is wrong");
        }
        let detail = format!("nothing was changed: {} problems in the configuration", problems.count());
        let subject = "configuration".to_owned();
        self.notices.tell(Notice { event: "reload_refused", phase: Phase::Once, subject, detail });
    }

    fn differs_in_rights_only(&self, plan: &Plan) -> bool {
        let mut with_old_rights = plan.clone();
        with_old_rights.broker.acl.clone_from(&self.plan.broker.acl);
        with_old_rights.broker.users_file.clone_from(&self.plan.broker.users_file);
        with_old_rights == *self.plan
    }
}
