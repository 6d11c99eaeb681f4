//! The derived tags: one task that listens to what the buses emit and works out what follows from it.
//!
//! Fed by the hub's tap with the newest sample of each tag that an expression names, emits to the hub like a bus. Promises:
//! it begins with what was known before a reload and with what needs no input. What arrives within 15 ms is taken
//! together: blocks of one poll come a few milliseconds apart, and an expression over two of them should not see half of
//! it. Like the live lane it may lose: of values that come faster than it looks, the newest counts. A stop is heard at
//! any time; what arrived before it is still worked out.

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
        // What is known from before, and what needs no input: neither has to be news again.
        self.work_out().await;
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
            self.work_out().await;
        }
        let held = self.derive.flush();
        self.send(held).await;
        self.derive
    }

    async fn work_out(&mut self) {
        let harvests = self.derive.work(self.clock.now());
        self.send(harvests).await;
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, HostFacts};
    use crate::flow::clock::FakeTime;
    use crate::flow::hub::hub;
    use crate::model::number::Class;
    use crate::model::quality::Quality;
    use crate::model::sample::Sample;
    use crate::model::tag::TagIx;
    use crate::model::time::{Boot, Stamp};
    use crate::model::value::Value;

    const PLANT: &str = r#"
        [[bus]]
        name = "net"
        type = "modbus-tcp"
        endpoint = "127.0.0.1:1"
        [[device]]
        name = "pump"
        bus = "net"
        unit_id = 1
        [[device.tag]]
        name = "flow"
        address = "input:0"
        type = "float32"
        [[device]]
        name = "station"
        [[device.tag]]
        name = "next"
        expression = "{pump/flow} + 1"
        alarm = { high = 6.5, delay = "6s" }
        [[device.tag]]
        name = "two"
        expression = "1 + 1"
    "#;

    fn plan(text: &str) -> Plan {
        let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
        config::parse(text, Path::new("plant.toml"), &facts).expect("checks").plan
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_from_before_and_what_needs_nothing_is_worked_out_before_any_input_has_news() {
        let (before, after) = (plan(PLANT), plan(&PLANT.replace("{pump/flow} + 1", "{pump/flow} + 2")));
        let at = Stamp { boot: Boot(1), micros: 1 };
        let mut earlier = Derive::new(&before).expect("there are some");
        earlier.learn(&Sample { tag: TagIx(0), value: Some(Value::Float(5.0)), quality: Quality::Good, at });
        earlier.work(at);
        let mut derive = Derive::new(&after).expect("there are some");
        derive.knowing(earlier, (&before, &after));

        let (hub, latest, _end) = hub(vec![Class::Telemetry; 3]);
        let (tap, stop) = (Arc::<Latest>::default(), Stop::new());
        let time = Arc::<FakeTime>::default();
        let clock = Clock::new(Arc::clone(&time) as Arc<_>, Boot(1), 0);
        let plan = Arc::new(after);
        let life = DerivedTags { plan, derive, tap, hub, clock, stop: stop.clone() };
        let task = tokio::spawn(life.run());
        sleep(Duration::from_secs(1)).await;
        let found: Vec<_> = latest.newest([TagIx(1), TagIx(2)].into_iter()).into_iter().map(|it| it?.value).collect();
        assert_eq!(found, [Some(Value::Float(7.0)), Some(Value::Float(2.0))]);
        time.advance(Duration::from_secs(7));
        sleep(Duration::from_secs(7)).await;
        assert_eq!(latest.alarms.active().len(), 1, "its delay was running");
        stop.begin();
        task.await.expect("it ends");
    }
}
