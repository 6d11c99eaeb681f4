//! A whole plan served: each bus of it on 127.0.0.1 at a free port, or on a pseudo-terminal; for a bus that listens a line
//! that dials in there.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::plan::{DevicePlan, Plan};
use crate::model::tag::BusIx;
use crate::model::value::Value;

use super::chain::Layout;
use super::faults::{Fault, Trouble};
pub use super::front::Place;
use super::front::{Door, Doors};
use super::identity::Identity;
use super::instruments::Instruments;
use super::life::{Follow, Life};
use super::units::Units;

/// A bus could not be served.
#[derive(Debug, thiserror::Error)]
#[error("bus {bus}: cannot serve it: {source}")]
pub struct NotServed {
    /// Which one.
    pub bus: String,
    /// Why.
    pub source: io::Error,
}

/// How to serve.
#[derive(Debug, Clone, Default)]
pub struct SiteOptions {
    /// Serial lines take the time of their baud rate.
    pub paced: bool,
    /// Tags that follow others, with the name of their device.
    pub follows: Vec<(String, Follow)>,
    /// Where the certificates for buses with TLS are written; `None`: such a bus cannot be served.
    pub certificates: Option<PathBuf>,
    /// Where symbolic links to the pseudo-terminals are put (named after the bus); `None`: no links.
    pub links: Option<PathBuf>,
}

/// All buses of a plan, served until dropped or stopped.
#[derive(Debug)]
pub struct Site {
    buses: Vec<ServedBus>,
    devices: Vec<ServedDevice>,
}

/// One served bus.
#[derive(Debug)]
pub struct ServedBus {
    /// As in the plan.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// Who is there; on a bus of type line nobody with an address …
    pub units: Units,
    /// … but these.
    pub instruments: Option<Instruments>,
    door: Door,
}

#[derive(Debug)]
struct ServedDevice {
    name: String,
    bus: usize,
    unit_id: u8,
}

impl Site {
    /// Serves every bus of the plan with its devices. Must be called within a tokio runtime.
    pub async fn serve(plan: &Plan, options: &SiteOptions) -> Result<Self, NotServed> {
        let mut site = Self { buses: Vec::new(), devices: Vec::new() };
        let mut doors = Doors::new(options.paced, options.certificates.clone(), options.links.clone());
        for (at, (ix, bus)) in plan.numbered_buses().enumerate() {
            let units = Units::new();
            let not_served = |source| NotServed { bus: bus.name.clone(), source };
            let instruments = Instruments::of(plan, ix).transpose();
            let instruments = instruments.map_err(|error| not_served(io::Error::other(error)))?;
            let mut lives: BTreeMap<u8, Life> = BTreeMap::new();
            for (_, device) in plan.devices_on(ix) {
                let own = options.follows.iter().filter(|(name, _)| *name == device.name);
                let follows: Vec<Follow> = own.map(|(_, follow)| follow.clone()).collect();
                if instruments.is_none() {
                    let same = |other: &&DevicePlan| other.bus == device.bus && other.unit_id == device.unit_id;
                    let layout = || Layout::of(plan, plan.devices.iter().filter(same));
                    let life = lives.entry(device.unit_id).or_insert_with(|| Life::laid_out(layout()));
                    life.add(plan, device, &follows);
                }
                site.devices.push(ServedDevice { name: device.name.clone(), bus: at, unit_id: device.unit_id });
            }
            for (unit_id, life) in lives {
                units.insert_living(unit_id, life);
                units.introduce(unit_id, introduction(plan, ix, unit_id));
            }
            let door = match &instruments {
                Some(instruments) => doors.open_talk(&bus.name, &bus.link, instruments.clone()).await,
                None => doors.open(&bus.name, &bus.link, Arc::new(units.clone())).await,
            };
            let door = door.map_err(not_served)?;
            site.buses.push(ServedBus { name: bus.name.clone(), place: door.place.clone(), units, instruments, door });
        }
        Ok(site)
    }

    /// The buses, in plan order.
    pub fn buses(&self) -> &[ServedBus] {
        &self.buses
    }

    /// Where a bus is found.
    pub fn place(&self, bus: &str) -> Option<&Place> {
        self.buses.iter().find(|served| served.name == bus).map(|served| &served.place)
    }

    /// Sets or heals the fault of a device. False: there is no such device, or none that could have it.
    pub fn set_fault(&self, device: &str, fault: Option<Fault>) -> bool {
        let troubles: Vec<Trouble> = fault.into_iter().map(Trouble::from).collect();
        self.set_troubles(device, &troubles)
    }

    /// Sets the faults of a device, each with its share. False: there is no such device, or none that could have them.
    pub fn set_troubles(&self, device: &str, troubles: &[Trouble]) -> bool {
        let Some(served) = self.devices.iter().find(|served| served.name == device) else { return false };
        let bus = &self.buses[served.bus];
        match &bus.instruments {
            Some(instruments) => instruments.set_troubles(device, troubles),
            None => bus.units.set_troubles(served.unit_id, troubles.to_vec()),
        }
    }

    /// Did the tag with this local topic ever hold this value? `None`: no tag has this topic.
    pub fn held(&self, topic: &str, value: &Value) -> Option<bool> {
        self.devices.iter().find_map(|served| {
            self.buses[served.bus].units.with_life(served.unit_id, |life| life.held(topic, value)).flatten()
        })
    }

    /// Closes all lines and waits until that has happened.
    pub async fn stop(self) {
        for bus in self.buses {
            bus.door.stop().await;
        }
    }
}

/// What a simulated unit says of itself: that it is one, and which devices of the plan it stands for.
fn introduction(plan: &Plan, bus: BusIx, unit_id: u8) -> Identity {
    let own = plan.devices_on(bus).filter(|(_, device)| device.unit_id == unit_id);
    let names = own.map(|(_, device)| device.name.as_str()).collect::<Vec<_>>().join(", ");
    Identity::new("Ironbridge simulator", &names, env!("CARGO_PKG_VERSION"))
}
