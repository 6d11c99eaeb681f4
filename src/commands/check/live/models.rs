//! Tags in SunSpec models, before the live check: each device with such tags is asked for its chain, and its tags get the
//! addresses where their models are now. What is nowhere is told and not read.

use std::sync::Arc;

use tokio::time::Instant;

use crate::commands::field::explain;
use crate::commands::field::models::absent;
use crate::config::plan::{BusPlan, DevicePlan, Plan, TagPlan};
use crate::field::carrier;
use crate::field::driver::{Driver, Pace};
use crate::field::modbus::timing::Timing;
use crate::field::sunspec::discovery::Discovery;
use crate::field::sunspec::guarded;
use crate::flow::clock::Clock;
use crate::model::sunspec::{ModelRef, TABLE};
use crate::model::tag::{Address, BusIx, DeviceIx};

/// Tags of a device that are nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// Their device.
    pub device: DeviceIx,
    /// How many.
    pub tags: usize,
    /// Why.
    pub why: String,
}

/// The plan with addresses for all tags whose models were found. A bus that does not open is left to the check itself.
pub async fn settle(plan: &Arc<Plan>, chosen: &[(BusIx, Vec<DeviceIx>)], clock: &Clock) -> (Arc<Plan>, Vec<Absent>) {
    let (mut settled, mut missing) = (Plan::clone(plan), Vec::new());
    for (bus, devices) in chosen {
        let modelled = |device: &&DeviceIx| tags(plan, **device).any(|(_, tag)| is_wanted(tag));
        let devices: Vec<DeviceIx> = devices.iter().filter(modelled).copied().collect();
        if devices.is_empty() {
            continue;
        }
        let mut driver = driver(plan, *bus, clock);
        if driver.open().await.is_err() {
            continue;
        }
        let of = &plan.buses[bus.0 as usize];
        for device in devices {
            let found = find(&mut driver, plan, of, device).await;
            for (ix, tag) in found.tags {
                settled.tags[ix] = tag;
            }
            missing.extend(found.missing);
        }
    }
    (Arc::new(settled), missing)
}

fn is_wanted(tag: &TagPlan) -> bool {
    tag.model().is_some() && tag.access.reads()
}

fn tags(plan: &Plan, device: DeviceIx) -> impl Iterator<Item = (usize, &TagPlan)> {
    let own = plan.devices[device.0 as usize].tags.clone();
    own.filter_map(|ix| Some((ix, plan.tags.get(ix)?)))
}

fn driver(plan: &Plan, ix: BusIx, clock: &Clock) -> Driver {
    let bus = &plan.buses[ix.0 as usize];
    let devices = plan.devices.iter().filter(|device| device.bus == Some(ix));
    let paces = devices.map(|device| Pace { unit: device.unit_id, manners: device.manners.clone() }).collect();
    Driver::new(carrier::opener(&bus.link.carrier, clock), Timing::new(bus), paces, Arc::default())
}

#[derive(Default)]
struct Found {
    tags: Vec<(usize, TagPlan)>,
    missing: Vec<Absent>,
}

async fn find(driver: &mut Driver, plan: &Plan, bus: &BusPlan, ix: DeviceIx) -> Found {
    let device: &DevicePlan = &plan.devices[ix.0 as usize];
    let wanted = || tags(plan, ix).filter(|(_, tag)| is_wanted(tag));
    let mut discovery = Discovery::default();
    let allows = |start: u16, count: u16| device.territory.allows(TABLE, start.into(), count.into());
    let walked = guarded::walk(driver, device.unit_id, &mut discovery, |ask| allows(ask.start, ask.count)).await;
    match walked {
        Ok(Some(chain)) => {
            discovery.settle(chain, driver.connection(), &[], Instant::now());
        }
        Ok(None) => {}
        Err(trouble) => {
            let place = Address { table: TABLE, start: 0, bit: None };
            let why = format!("its SunSpec models were not found: {}", explain::trouble(&trouble, &bus.link, place));
            return Found { tags: Vec::new(), missing: vec![Absent { device: ix, tags: wanted().count(), why }] };
        }
    }
    let mut found = Found::default();
    let mut missing: Vec<(ModelRef, usize, String)> = Vec::new();
    for (at, tag) in wanted() {
        let Some(reference) = tag.model() else { continue };
        let model = discovery.find(reference);
        let settled = model.and_then(|model| tag.settled(model.start, model.registers()));
        let allowed = settled.filter(|tag| {
            let place = tag.register().map_or(0, |place| place.start);
            allows(place, tag.data_type.registers())
        });
        match (allowed, model) {
            (Some(settled), _) => found.tags.push((at, settled)),
            (None, model) => {
                let why = || match model {
                    None => absent(reference, discovery.chain()),
                    Some(model) => {
                        format!("model {} ends after {} registers, or may not be read", model.number, model.registers())
                    }
                };
                match missing.iter_mut().find(|(known, ..)| *known == reference) {
                    Some((_, count, _)) => *count += 1,
                    None => missing.push((reference, 1, why())),
                }
            }
        }
    }
    found.missing = missing.into_iter().map(|(_, tags, why)| Absent { device: ix, tags, why }).collect();
    found
}
