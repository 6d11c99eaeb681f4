//! The way out of the field: what came of a device's values goes to the hub, in the order in which it may be read.
//!
//! Fed by the buses and by the derived tags. Alarms first: whoever reads them ahead of the value loses nothing, whoever
//! reads them behind it is late. Samples of a batch are sorted bytewise by tag name: they are numbered in this order, and
//! an uplink's layout `device` counts by it.

use std::sync::Arc;

use crate::config::plan::Plan;
use crate::flow::clock::Clock;
use crate::flow::hub::{EventRecord, Hub};
use crate::model::alarm::Change;
use crate::model::number::Class;
use crate::model::sample::{Batch, Sample};
use crate::model::tag::DeviceIx;
use crate::model::topic::GatewayTopics;
use crate::payload::json;
use crate::pipeline::point::Harvest;

/// Sends all of it. Waits for the store as [`Hub::emit`] does. Not cancel-safe.
pub async fn send(hub: &Hub, clock: &Clock, plan: &Plan, device: DeviceIx, harvest: Harvest) {
    let Harvest { alarms, mut earlier, mut samples, live } = harvest;
    for change in alarms {
        let key = (change.tag, change.level);
        if let Some(record) = record(clock, plan, &change) {
            hub.emit_alarm(key, change.condition, record).await;
        }
    }
    hub.show(&live);
    if !earlier.is_empty() {
        sort(plan, &mut earlier);
        hub.keep(Batch { device, samples: earlier }).await;
    }
    if !samples.is_empty() {
        sort(plan, &mut samples);
        hub.emit(Batch { device, samples }).await;
    }
}

fn sort(plan: &Plan, samples: &mut [Sample]) {
    let name = |sample: &Sample| plan.tags.get(sample.tag.0 as usize).map(|tag| tag.name.as_bytes());
    samples.sort_by(|one, other| name(one).cmp(&name(other)));
}

fn record(clock: &Clock, plan: &Plan, change: &Change) -> Option<EventRecord> {
    let tag = plan.tags.get(change.tag.0 as usize)?;
    let device = &plan.devices.get(tag.device.0 as usize)?.name;
    let (condition, level) = (change.condition.as_str(), change.level.as_str());
    tracing::info!(device, tag = tag.name, alarm = level, state = condition, value = %change.value, "alarm changed");
    Some(EventRecord {
        topic: Arc::from(GatewayTopics::new(&plan.gateway.name).alarm(device, &tag.name)),
        body: json::alarm(change, &tag.unit, clock.wall(change.at)),
        class: tag.alarm.as_ref().map_or(Class::Alarm, |alarm| alarm.class),
        at: change.at,
        committed: None,
    })
}
