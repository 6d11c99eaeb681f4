//! The way out of the field: what came of a device's values goes to the hub, in the order in which it may be read.
//!
//! Fed by the buses and by the derived tags. What is live goes out before anything waits for the store. Into the store
//! alarms go first: whoever reads them ahead of the value loses nothing, whoever reads them behind it is late. Samples
//! of a batch are sorted bytewise by tag name: they are numbered in this order, and an uplink's layout `device` counts
//! by it.

use std::sync::Arc;

use crate::config::plan::Plan;
use crate::flow::clock::Clock;
use crate::flow::hub::{EventRecord, Fate, Hub};
use crate::model::alarm::Change;
use crate::model::number::Class;
use crate::model::sample::{Batch, Sample};
use crate::model::tag::DeviceIx;
use crate::model::topic::GatewayTopics;
use crate::payload::json;
use crate::pipeline::point::Harvest;

/// Sends all of it. Waits for the store as [`Hub::emit`] does, for a lane that does not move once. Not cancel-safe.
pub async fn send(hub: &Hub, clock: &Clock, plan: &Plan, device: DeviceIx, harvest: Harvest) {
    let Harvest { alarms, mut earlier, mut samples, live } = harvest;
    hub.show(&live);
    hub.announce(&samples);
    let mut fate = Fate::Kept;
    for change in alarms {
        let key = (change.tag, change.level);
        if let Some(record) = record(clock, plan, &change) {
            fate = hub.emit_alarm(key, change.condition, record, fate).await;
        }
    }
    if !earlier.is_empty() {
        sort(plan, &mut earlier);
        hub.keep(Batch { device, samples: earlier }).await;
    }
    if !samples.is_empty() {
        sort(plan, &mut samples);
        hub.keep(Batch { device, samples }).await;
    }
}

fn sort(plan: &Plan, samples: &mut [Sample]) {
    let name = |sample: &Sample| plan.tag(sample.tag).map(|tag| tag.name.as_bytes());
    samples.sort_by(|one, other| name(one).cmp(&name(other)));
}

fn record(clock: &Clock, plan: &Plan, change: &Change) -> Option<EventRecord> {
    let tag = plan.tag(change.tag)?;
    let device = &plan.device(tag.device)?.name;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::config::plan::{DevicePlan, TagPlan};
    use crate::flow::clock::FakeTime;
    use crate::flow::hub::{DURABLE_DEPTH, DURABLE_WAIT_MAX, hub};
    use crate::model::alarm::{Condition, Level};
    use crate::model::quality::Quality;
    use crate::model::tag::{Address, BusIx, DataType, Table, TagIx};
    use crate::model::time::{Boot, Stamp};
    use crate::model::value::Value;

    const AT: Stamp = Stamp { boot: Boot(1), micros: 5 };

    fn sample(tag: TagIx) -> Sample {
        Sample { tag, value: Some(Value::Uint(1)), quality: Quality::Good, at: AT }
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_with_many_alarms_waits_for_a_store_that_stalls_once_and_is_live_before() {
        let tags: Vec<TagIx> = (0..40).map(TagIx).collect();
        let address = Address { table: Table::Holding, start: 0, bit: None };
        let plain = |ix: &TagIx| TagPlan::plain(&format!("t{}", ix.0), DeviceIx(0), address, DataType::Uint16);
        let devices = vec![DevicePlan { tags: 0..40, ..DevicePlan::plain("d", BusIx(0), 1) }];
        let plan = Plan { devices, tags: tags.iter().map(plain).collect(), ..Plan::empty("gw") };
        let (hub, latest, end) = hub(vec![Class::Telemetry; 40]);
        let clock = Clock::new(Arc::<FakeTime>::default(), Boot(1), 0);
        for _ in 0..DURABLE_DEPTH {
            hub.keep(Batch { device: DeviceIx(0), samples: vec![sample(TagIx(0))] }).await;
        }
        let (condition, level, quality) = (Condition::Active, Level::High, Quality::Good);
        let (value, limit) = (Value::Uint(1), Value::Uint(0));
        let alarm = |tag: &TagIx| Change {
            tag: *tag,
            level,
            condition,
            value: value.clone(),
            quality,
            limit: limit.clone(),
            at: AT,
        };
        let harvest = Harvest {
            alarms: tags.iter().map(alarm).collect(),
            samples: tags.iter().copied().map(sample).collect(),
            ..Harvest::default()
        };
        let began = Instant::now();
        let seen = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            latest.newest(tags.iter().copied()).iter().flatten().count()
        };
        let ((), seen) = tokio::join!(send(&hub, &clock, &plan, DeviceIx(0), harvest), seen);
        assert_eq!((seen, began.elapsed()), (40, DURABLE_WAIT_MAX));
        let lost = end.spill.take();
        let count = |class: Class| lost[class].map_or(0, |lost| lost.count);
        assert_eq!((count(Class::Alarm), count(Class::Telemetry)), (40, 40), "told as a gap");
        assert_eq!(latest.alarms.active().len(), 40);
    }
}
