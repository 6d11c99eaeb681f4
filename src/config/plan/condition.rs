//! What is watched and what is kept of a tag: `alarm`, `compression`, `stale_after`, `unchanged_for`.

use std::time::Duration;

use crate::model::alarm::Level;
use crate::model::number::Class;

/// `alarm = { high = 12.0, hysteresis = 0.2, delay = "2s" }`
#[derive(Debug, Clone, PartialEq)]
pub struct AlarmPlan {
    /// Limits in engineering units, at most one per level; at the limit it is an alarm already. At least one of these
    /// or `state`.
    pub limits: Vec<(Level, f64)>,
    /// The state of a switch that is an alarm.
    pub state: Option<bool>,
    /// How far a value has to come back behind its limit. 0 or more.
    pub hysteresis: f64,
    /// It is an alarm only after this long. 0 s ..= 1 d.
    pub delay: Duration,
    /// It is over only after this long. 0 s ..= 1 d.
    pub off_delay: Duration,
    /// Class of its records.
    pub class: Class,
}

impl AlarmPlan {
    /// An alarm without any limit yet.
    pub const fn plain() -> Self {
        Self {
            limits: Vec::new(),
            state: None,
            hysteresis: 0.0,
            delay: Duration::ZERO,
            off_delay: Duration::ZERO,
            class: Class::Alarm,
        }
    }
}

/// `compression = { swing = 0.5, max_gap = "10m" }`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compression {
    /// How far a straight line between two stored samples may be from what was read between them. Above 0.
    pub swing: f64,
    /// A sample is stored after this long in any case. 1 s ..= 30 d.
    pub max_gap: Duration,
}

/// When a value that does not come, or does not move, is no longer believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freshness {
    /// `stale_after`: nothing usable was read for this long: bad, cause stale. 100 ms ..= 30 d.
    pub stale_after: Option<Duration>,
    /// `unchanged_for`: the same value for this long: uncertain, cause stale. 1 s ..= 30 d.
    pub unchanged_for: Option<Duration>,
}
