//! The board of alarms on the local broker: `ironbridge/<gateway>/alarm/<device>/<tag>`.
//!
//! Fed by the alarm slots of the live lane. While a condition of a tag is active, the gravest one is retained on the tag's
//! alarm topic, with its number once the store has committed it; what else begins or ends is published there and not
//! kept; when the last one is over the topic is cleared. So whoever subscribes to `ironbridge/+/alarm/#` is given what
//! is active now, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::broker::Publisher;
use crate::config::plan::Plan;
use crate::flow::alarms::AlarmSlots;
use crate::model::alarm::{Condition, Level};
use crate::model::tag::TagIx;
use crate::model::topic::GatewayTopics;
use crate::payload::json;

/// How long alarms wait for their numbers before they are published without (the store is in trouble then).
const NUMBER_WAIT_MAX: Duration = Duration::from_secs(3);

/// What is active.
pub struct AlarmBoard {
    plan: Arc<Plan>,
    publisher: Publisher,
    topics: GatewayTopics,
    active: BTreeMap<TagIx, BTreeMap<Level, Bytes>>,
}

impl AlarmBoard {
    /// Nothing yet.
    pub fn new(plan: Arc<Plan>, publisher: Publisher) -> Self {
        let topics = GatewayTopics::new(&plan.gateway.name);
        Self { plan, publisher, topics, active: BTreeMap::new() }
    }

    /// Publishes what changes until the slots are closed.
    pub async fn run(mut self, slots: &AlarmSlots) {
        while let Some(news) = slots.take().await {
            let deadline = Instant::now() + NUMBER_WAIT_MAX;
            for ((tag, level), news) in news {
                let payload = match timeout_at(deadline, news.number).await {
                    Ok(Ok(number)) => json::numbered_event(&news.body, number, None),
                    _ => news.body,
                };
                self.show(tag, level, news.condition, payload.into());
            }
        }
    }

    fn show(&mut self, tag: TagIx, level: Level, condition: Condition, payload: Bytes) {
        let Some(plan) = self.plan.tags.get(tag.0 as usize) else { return };
        let device = &self.plan.devices[plan.device.0 as usize].name;
        let topic: Arc<str> = self.topics.alarm(device, &plan.name).into();
        let active = self.active.entry(tag).or_default();
        match condition {
            Condition::Active => _ = active.insert(level, payload.clone()),
            Condition::Cleared => _ = active.remove(&level),
        }
        let gravest = active.first_key_value();
        if gravest.is_none_or(|(gravest, _)| *gravest != level) {
            self.publisher.publish(Arc::clone(&topic), payload);
        }
        match (gravest, condition) {
            (Some((gravest, shown)), _) if *gravest == level || condition == Condition::Cleared && level < *gravest => {
                self.publisher.retain(topic, shown.clone());
            }
            (None, _) => self.publisher.clear(topic),
            (Some(_), _) => {} // a graver one stays as it is
        }
    }
}
