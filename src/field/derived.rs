//! The derived tags: one task that listens to what the buses emit and works out what follows from it.
//!
//! Fed by the hub's tap with the newest sample of each tag that an expression names, emits to the hub like a bus. What
//! arrives within 15 ms is taken together: blocks of one poll come a few milliseconds apart, and an expression over
//! two of them should not see half of it. Like the live lane it may lose: of values that come faster than it looks, the
//! newest counts. A stop is heard at any time; what arrived before it is still worked out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::outlet;
use crate::config::plan::Plan;
use crate::flow::clock::Clock;
use crate::flow::hub::{DeviceReport, Hub, Standing};
use crate::flow::latest::{Fresh, Latest};
use crate::flow::stop::Stop;
use crate::model::tag::DeviceIx;
use crate::pipeline::derive::Derive;
use crate::pipeline::point::Harvest;

/// News that come this close together are one.
const SETTLE: Duration = Duration::from_millis(15);

/// When nothing is due and nothing comes.
const IDLE: Duration = Duration::from_secs(3600);

/// The task.
pub struct DerivedTags {
    /// For names.
    pub plan: Arc<Plan>,
    /// What there is to work out.
    pub derive: Derive,
    /// See [`Hub::tap`].
    pub tap: Arc<Latest>,
    /// Where samples go.
    pub hub: Hub,
    /// For stamps.
    pub clock: Clock,
    /// Ends it.
    pub stop: Stop,
}

impl DerivedTags {
    /// Works until the stop; gives back what it knew. Not cancel-safe.
    pub async fn run(mut self) -> Derive {
        self.derive.resume(&self.hub.active_alarms());
        self.report();
        while !self.stop.is_begun() {
            let idle = self.derive.idle(self.clock.now()).unwrap_or(IDLE);
            tokio::select! {
                fresh = self.tap.take() => {
                    self.learn(&fresh.unwrap_or_default());
                    tokio::select! {
                        () = self.stop.begun() => {}
                        () = sleep(SETTLE) => {}
                    }
                }
                () = sleep(idle) => {}
                () = self.stop.begun() => {}
            }
            self.learn_rest().await;
            let harvests = self.derive.work(self.clock.now());
            self.send(harvests).await;
        }
        let held = self.derive.flush();
        self.send(held).await;
        self.derive
    }

    /// Devices of which nobody asks anything always stand well; they have their topic like any other.
    fn report(&self) {
        let devices = (0..).map(DeviceIx).zip(&self.plan.devices).filter(|(_, device)| device.bus.is_none());
        for (device, _) in devices {
            self.hub.report(DeviceReport::unasked(device, Standing::Answering));
        }
    }

    /// What has come in the meantime, without waiting for more.
    async fn learn_rest(&mut self) {
        tokio::select! {
            biased;
            fresh = self.tap.take() => self.learn(&fresh.unwrap_or_default()),
            () = std::future::ready(()) => {}
        }
    }

    fn learn(&mut self, fresh: &Fresh) {
        fresh.samples.iter().for_each(|sample| self.derive.learn(sample));
    }

    async fn send(&self, harvests: BTreeMap<DeviceIx, Harvest>) {
        for (device, harvest) in harvests {
            outlet::send(&self.hub, &self.clock, &self.plan, device, harvest).await;
        }
    }
}
