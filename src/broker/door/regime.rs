//! By what a door for sensors goes and may go differently while it stays open: who is let in, what predefined ids stand for, how
//! often something is sent again. `warden` says what counts; the door and the task of each sensor look at it as it is now.

use std::sync::Arc;

use tokio::sync::watch;

use super::warden::Step;
use crate::config::plan::{ListenerPlan, MqttSnPlan};

/// What counts now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only doors for sensors read it"))]
pub(super) struct Regime {
    pub plan: Arc<MqttSnPlan>,
    pub newcomers: Newcomers,
}

/// Whoever may come in and is not in yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newcomers {
    Welcome,
    /// Rights are about to change: nobody comes in by the new list with the old ones. They ask again.
    Wait,
}

impl Regime {
    /// Where that of a door can be changed; `None`: it has none.
    pub(super) fn of(plan: &ListenerPlan) -> Option<watch::Sender<Self>> {
        let plan = Arc::new(plan.mqtt_sn.clone()?);
        Some(watch::Sender::new(Self { plan, newcomers: Newcomers::Welcome }))
    }

    /// This counts from now on.
    pub(super) fn change(told: &watch::Sender<Self>, plan: &MqttSnPlan, step: Step) {
        let newcomers = match step {
            Step::Shut => Newcomers::Wait,
            Step::Open => Newcomers::Welcome,
        };
        told.send_if_modified(|now| {
            let differs = *now.plan != *plan || now.newcomers != newcomers;
            if differs {
                *now = Self { plan: Arc::new(plan.clone()), newcomers };
            }
            differs
        });
    }
}
