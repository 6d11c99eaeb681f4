//! The board of alarms on the local broker: `ironbridge/<gateway>/alarm/<device>/<tag>`.
//!
//! Fed by the alarm slots of the live lane. While a condition of a tag is active, the gravest one is retained on the tag's
//! alarm topic, with its number once the store has committed it; what else begins or ends is published there and not
//! kept; when the last one is over the topic is cleared. So whoever subscribes to `ironbridge/+/alarm/#` is given what
//! is active now, and nothing else.
//!
//! What is active is remembered beside that, see `alarm_memory`: no alarm, no reload and no stop waits for that file. What
//! that file does not have is told again if it is still active, and stays active in the cloud if it ended meanwhile.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::broker::Publisher;
use crate::config::plan::Plan;
use crate::flow::alarms::AlarmSlots;
use crate::model::alarm::{Condition, Level};
use crate::model::lock::Hold as _;
use crate::model::tag::TagIx;
use crate::model::topic::GatewayTopics;
use crate::payload::json;

use super::alarm_memory::{Active, AlarmMemory, Remembered, settled};
use super::events::NUMBER_WAIT_MAX;
use super::turns::Turn;

/// What is active is remembered this often at most in the long run, for the sake of the flash.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// And so often in a row at once. Of what a storm of alarms has changed since, a crash leaves nothing here: what had begun is
/// told again, and shown, once its device has answered; if it ended before that it stays active in the cloud.
const AT_ONCE: u32 = 10;

/// At the stop it may take so long; after that the file is as it was, and what has changed since is told again, as above.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// What is active now, for whoever wants to look.
pub type Shown = Arc<Mutex<Active>>;

/// What is active.
pub struct AlarmBoard {
    plan: Arc<Plan>,
    publisher: Publisher,
    topics: GatewayTopics,
    memory: AlarmMemory,
    active: Shown,
    /// Something is remembered that does not hold any more, or the other way round.
    changed: bool,
}

impl AlarmBoard {
    /// With what was active when the gateway went down; what is gone is forgotten.
    pub fn new(plan: Arc<Plan>, publisher: Publisher, memory: AlarmMemory, remembered: Remembered) -> Self {
        let topics = GatewayTopics::new(&plan.gateway.name);
        let Remembered { active, gone } = remembered;
        let active = Arc::new(Mutex::new(active));
        Self { plan, publisher, topics, memory, active, changed: !gone.is_empty() }
    }

    /// What is active, now and later.
    pub fn shown(&self) -> Shown {
        Arc::clone(&self.active)
    }

    fn active(&self) -> MutexGuard<'_, Active> {
        self.active.hold()
    }

    /// Publishes what is active, and what changes until the slots are closed.
    pub async fn run(mut self, slots: &AlarmSlots, mut turns: mpsc::Receiver<Turn>) {
        for (tag, levels) in &*self.active() {
            if let (Some(topic), Some((_, shown))) = (self.topic(*tag), levels.first_key_value()) {
                self.publisher.retain(topic, shown.clone());
            }
        }
        let (mut writing, mut pace) = (None, Pace::begun(Instant::now()));
        loop {
            let news = tokio::select! {
                biased;
                Some(Turn { plan, done }) = turns.recv() => {
                    self.turn(plan);
                    let _ = done.send(()); // nobody may be waiting
                    continue;
                }
                () = written(&mut writing) => {
                    pace.step(Instant::now());
                    continue;
                }
                () = sleep_until(pace.0), if self.changed && writing.is_none() => {
                    writing = Some(self.remember());
                    continue;
                }
                news = slots.take() => news,
            };
            let Some(news) = news else { break };
            let deadline = Instant::now() + NUMBER_WAIT_MAX;
            for ((tag, level), news) in news {
                let payload = match timeout_at(deadline, news.number).await {
                    Ok(Ok(number)) => json::numbered_event(&news.body, number, None),
                    _ => news.body,
                };
                self.show(tag, level, news.condition, payload.into());
            }
            self.changed = true;
        }
        if timeout(WRITTEN_WITHIN, self.remember_last(writing)).await.is_err() {
            tracing::warn!("the disk takes long, and the last change of active alarms is not remembered");
        }
    }

    /// Another plan: alarms go with their tags, and what it has no more is cleared.
    fn turn(&mut self, plan: Arc<Plan>) {
        let before = std::mem::take(&mut *self.active());
        for (tag, levels) in before.into_iter().filter(|(_, levels)| !levels.is_empty()) {
            let Some(topic) = self.topic(tag) else { continue };
            let mut kept = None;
            for (level, shown) in levels {
                if let Some(place) = settled(&self.plan, &plan, (tag, level)) {
                    self.active().entry(place).or_default().insert(level, shown.clone());
                    kept.get_or_insert(shown);
                }
            }
            match kept {
                Some(shown) => self.publisher.retain(topic, shown),
                None => self.publisher.clear(topic),
            }
        }
        self.plan = plan;
        self.changed = true;
    }

    /// What is under way comes first: an older file must not take the place of a newer one.
    async fn remember_last(&mut self, mut writing: Option<JoinHandle<()>>) {
        if writing.is_some() {
            written(&mut writing).await;
        }
        if self.changed {
            written(&mut Some(self.remember())).await;
        }
    }

    /// The disk may be slow: it has a thread of its own for this. One at a time.
    fn remember(&mut self) -> JoinHandle<()> {
        self.changed = false;
        let (memory, active, plan) = (self.memory.clone(), self.active().clone(), Arc::clone(&self.plan));
        tokio::task::spawn_blocking(move || memory.write(&active, &plan))
    }

    fn topic(&self, tag: TagIx) -> Option<Arc<str>> {
        let plan = self.plan.live_tag(tag)?;
        let device = self.plan.device(plan.device)?;
        Some(self.topics.alarm(&device.name, &plan.name).into())
    }

    fn show(&mut self, tag: TagIx, level: Level, condition: Condition, payload: Bytes) {
        let Some(topic) = self.topic(tag) else { return };
        let mut all = self.active();
        let active = all.entry(tag).or_default();
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

/// When the next write is due.
struct Pace(Instant);

impl Pace {
    fn begun(now: Instant) -> Self {
        Self(now.checked_sub(WRITE_EVERY * (AT_ONCE - 1)).unwrap_or(now))
    }

    /// Another one is done.
    fn step(&mut self, now: Instant) {
        self.0 = self.0.max(Self::begun(now).0) + WRITE_EVERY;
    }
}

/// Resolves when what is under way has ended; where nothing is, never. Cancel-safe.
async fn written(writing: &mut Option<JoinHandle<()>>) {
    let Some(task) = writing else { return std::future::pending().await };
    if let Err(error) = task.await {
        tracing::error!(%error, "active alarms cannot be remembered");
    }
    *writing = None;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_that_come_one_after_another_are_remembered_each_at_once_and_those_of_a_storm_now_and_then() {
        let mut now = Instant::now() + WRITE_EVERY * AT_ONCE;
        let mut pace = Pace::begun(now);
        for round in 0..3 {
            let mut at_once = 0;
            while pace.0 <= now {
                pace.step(now);
                at_once += 1;
            }
            assert_eq!((at_once, pace.0), (AT_ONCE, now + WRITE_EVERY), "{round}");
            now += WRITE_EVERY;
            pace.step(now);
            assert_eq!(pace.0, now + WRITE_EVERY, "no more than that in a storm");
            now += Duration::from_secs(3600);
        }
    }
}
