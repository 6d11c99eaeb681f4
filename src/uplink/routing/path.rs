//! A path as the uplink needs it, and the words for what becomes of sessions on it.

use std::sync::Arc;

use crate::config::plan::{PathPlan, Schedule, UplinkPlan};
use crate::model::number::Class;
use crate::road::destination::Bind;
use crate::road::meter::Meter;

use crate::uplink::destinations::bind;

/// What the uplink does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::uplink) enum Step {
    /// Connect by the current path.
    Connect,
    /// Look again after a moment: what could be tried has been.
    Retry,
    /// No path may carry anything: look again after a [`super::TICK`].
    Pause,
}

/// Why a session ends in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::uplink) enum Leave {
    /// A budget is used up.
    Budget,
    /// The window of its path closes.
    Window,
    /// Another path is better.
    Path,
}

impl Leave {
    pub(in crate::uplink) const fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "a budget is used up",
            Self::Window => "the window of its path closes",
            Self::Path => "another path is better",
        }
    }
}

/// One path as the uplink needs it.
#[derive(Debug)]
pub(in crate::uplink) struct Path {
    pub(in crate::uplink) name: String,
    pub(in crate::uplink) bind: Bind,
    pub(in crate::uplink) classes: Vec<Class>,
    pub(in crate::uplink) schedule: Option<Schedule>,
    pub(in crate::uplink) max_rate: Option<u64>,
    pub(in crate::uplink) meter: Arc<Meter>,
    pub(in crate::uplink) counted: u64,
}

impl Path {
    pub(in crate::uplink) fn of(path: &PathPlan, uplink: &UplinkPlan) -> Self {
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
    pub(in crate::uplink) fn any(uplink: &UplinkPlan) -> Self {
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
