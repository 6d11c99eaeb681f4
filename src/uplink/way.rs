//! A path as the uplink needs it, and the words for what becomes of sessions on it.

use std::sync::Arc;

use crate::config::plan::{PathPlan, Schedule, UplinkPlan};
use crate::model::number::Class;
use crate::road::destination::Bind;
use crate::road::meter::Meter;

use super::destinations::bind;

/// What the uplink does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Connect by the current path.
    Connect,
    /// Look again after a moment: what could be tried has been.
    Retry,
    /// No path may carry anything: look again after a [`super::ways::TICK`].
    Pause,
}

/// Why a session ends in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// A budget is used up.
    Budget,
    /// The window of its path closes.
    Window,
    /// Another path is better.
    Path,
}

impl Leave {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "a budget is used up",
            Self::Window => "the window of its path closes",
            Self::Path => "another path is better",
        }
    }
}

/// One path as the uplink needs it.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) name: String,
    pub(super) bind: Bind,
    pub(super) classes: Vec<Class>,
    pub(super) schedule: Option<Schedule>,
    pub(super) max_rate: Option<u64>,
    pub(super) meter: Arc<Meter>,
    pub(super) counted: u64,
}

impl Way {
    pub(super) fn of(path: &PathPlan, uplink: &UplinkPlan) -> Self {
        let rates = [path.max_rate, uplink.max_rate];
        Self {
            name: path.name.clone(),
            bind: bind(&path.bind),
            classes: uplink.classes.iter().copied().filter(|class| path.classes.contains(class)).collect(),
            schedule: path.schedule,
            max_rate: rates.into_iter().flatten().min(),
            meter: Arc::default(),
            counted: 0,
        }
    }

    /// Whatever the system routes.
    pub(super) fn any(uplink: &UplinkPlan) -> Self {
        Self {
            name: String::new(),
            bind: Bind::System,
            classes: uplink.classes.clone(),
            schedule: None,
            max_rate: uplink.max_rate,
            meter: Arc::default(),
            counted: 0,
        }
    }
}
