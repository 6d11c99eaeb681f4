//! Which bus a plan asks for: Modbus, or instruments that speak lines of their own. Whoever runs buses sees one kind.

use std::sync::Arc;

use super::adopt::Plans;
use super::bus::{Bus, BusHandle, Shared};
use super::line::LineBus;
use super::memory::Memory;
use crate::config::plan::Plan;
use crate::flow::hub::Hub;
use crate::flow::notice::Notices;
use crate::model::tag::BusIx;

/// A bus of either kind, built and then run.
pub enum AnyBus {
    /// Any type of Modbus.
    Modbus(Box<Bus>),
    /// Type `line`.
    Line(Box<LineBus>),
}

impl AnyBus {
    /// A bus of the plan, not yet connected. `bus` must be one of the plan's.
    pub fn new(plan: Arc<Plan>, bus: BusIx, hub: &Hub, shared: Shared) -> (Self, BusHandle) {
        if plan[bus].line.is_some() {
            let (line, handle) = LineBus::new(plan, bus, hub, shared);
            return (Self::Line(Box::new(line)), handle);
        }
        let (modbus, handle) = Bus::new(plan, bus, hub, shared);
        (Self::Modbus(Box::new(modbus)), handle)
    }

    /// Tells the operator there when the bus has no connection, and when it has one again.
    #[must_use]
    pub fn telling(self, notices: &Notices) -> Self {
        match self {
            Self::Modbus(bus) => Self::Modbus(Box::new(bus.telling(notices))),
            Self::Line(bus) => Self::Line(Box::new(bus.telling(notices.clone()))),
        }
    }

    /// Keeps there what was learned about its devices. Of lines there is nothing to learn.
    #[must_use]
    pub fn remembering(self, memory: &Arc<dyn Memory>) -> Self {
        match self {
            Self::Modbus(bus) => Self::Modbus(Box::new(bus.remembering(memory))),
            line @ Self::Line(_) => line,
        }
    }

    /// Goes on with the devices of newer plans, where [`super::can_follow`] says so.
    #[must_use]
    pub fn following(self, plans: &Plans) -> Self {
        match self {
            Self::Modbus(bus) => Self::Modbus(Box::new(bus.following(plans))),
            Self::Line(bus) => Self::Line(Box::new(bus.expecting(plans.clone()))),
        }
    }

    /// Runs it until the stop. Not cancel-safe.
    pub async fn run(self) {
        match self {
            Self::Modbus(bus) => bus.run().await,
            Self::Line(bus) => bus.run().await,
        }
    }
}

impl From<Bus> for AnyBus {
    fn from(bus: Bus) -> Self {
        Self::Modbus(Box::new(bus))
    }
}
