//! The live side: what changed becomes retained JSON on the local broker. The broker is a window; nothing waits for it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::broker::Publisher;
use crate::config::difference::kept;
use crate::config::plan::Plan;
use crate::flow::clock::Clock;
use crate::flow::hub::DeviceReport;
use crate::flow::latest::{Fresh, Latest};
use crate::model::quality::{Cause, Quality};
use crate::model::tag::TagIx;
use crate::model::topic::GatewayTopics;
use crate::payload::json;
use crate::status::values::Values;

use super::alarms::AlarmBoard;
use super::turns::{Turn, TurnsTaken};

/// What the status says of the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Configuration {
    /// As it was at the start, or reloaded and proved.
    #[default]
    InForce,
    /// Reloaded, and may yet be taken back.
    OnTrial,
    /// The one before the last reload.
    RolledBack,
}

impl Configuration {
    /// The word in the payload.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InForce => "in force",
            Self::OnTrial => "on trial",
            Self::RolledBack => "rolled back",
        }
    }
}

/// The payload of the gateway's status.
pub fn status(clock: &Clock, state: &str, configuration: Configuration) -> Bytes {
    let time = clock.wall_now().to_string();
    let (version, configuration) = (env!("CARGO_PKG_VERSION"), configuration.as_str());
    let status =
        serde_json::json!({ "state": state, "time": time, "version": version, "configuration": configuration });
    status.to_string().into()
}

/// Empties the live lane into the broker.
pub struct LivePublisher {
    plan: Arc<Plan>,
    clock: Clock,
    publisher: Publisher,
    topics: GatewayTopics,
    configuration: watch::Receiver<Configuration>,
    /// The status page's, if there is one.
    values: Option<Arc<Values>>,
}

impl LivePublisher {
    /// For one plan.
    pub fn new(
        plan: Arc<Plan>,
        clock: Clock,
        publisher: Publisher,
        configuration: watch::Receiver<Configuration>,
        values: Option<Arc<Values>>,
    ) -> Self {
        let topics = GatewayTopics::new(&plan.gateway.name);
        Self { plan, clock, publisher, topics, configuration, values }
    }

    /// At start: every tag null, bad, starting; the gateway online.
    pub fn begin(&self) {
        self.starting(&self.plan, |_| true);
        self.status("online");
    }

    fn starting(&self, plan: &Plan, which: impl Fn(TagIx) -> bool) {
        let now = self.clock.wall_now();
        let starting = Bytes::from(json::sample(None, Quality::Bad(Cause::Starting), now));
        let numbered = plan.live_tags().filter(|(ix, _)| which(*ix));
        self.publisher.retain_many(numbered.map(|(_, tag)| (Arc::clone(&tag.topic), starting.clone())));
    }

    /// Empties the live lane in a task of its own until it closes; then the publisher comes back, for a last word.
    pub async fn run(mut self, latest: Arc<Latest>, alarms: AlarmBoard, [values, of_alarms]: TurnsTaken) -> Self {
        tokio::join!(self.values(&latest, values), alarms.run(&latest.alarms, of_alarms));
        self
    }

    async fn values(&mut self, latest: &Latest, mut turns: mpsc::Receiver<Turn>) {
        loop {
            let fresh = tokio::select! {
                biased;
                Some(Turn { plan, done }) = turns.recv() => {
                    self.turn(plan);
                    let _ = done.send(()); // nobody may be waiting
                    continue;
                }
                fresh = latest.take() => fresh,
            };
            let Some(fresh) = fresh else { return };
            self.show(&fresh);
        }
    }

    /// What belongs to nothing any more is cleared, what is new begins, and so does what means something else or is not read
    /// any more. Values of the former that are still on their way have no topic.
    fn turn(&mut self, plan: Arc<Plan>) {
        let kept = kept(&self.plan, &plan);
        self.starting(&plan, |ix| !kept.contains(&ix));
        let (old, new) = (topics(&self.plan), topics(&plan));
        let gone: Vec<Arc<str>> = old.difference(&new).map(|topic| Arc::clone(topic)).collect();
        let devices =
            |plan: &Plan| -> HashSet<String> { plan.live_devices().map(|(_, device)| device.name.clone()).collect() };
        let (before, kept) = (devices(&self.plan), devices(&plan));
        let gone_devices = before.into_iter().filter(|name| !kept.contains(name));
        let gone = gone.into_iter().chain(gone_devices.map(|name| self.topics.device(&name).into()));
        self.publisher.retain_many(gone.map(|topic| (topic, Bytes::new())));
        if let Some(values) = &self.values {
            values.show_plan(Arc::clone(&plan));
        }
        self.plan = plan;
    }

    fn show(&self, Fresh { samples, devices }: &Fresh) {
        if let Some(values) = &self.values {
            values.show(samples);
        }
        let mut messages = Vec::with_capacity(samples.len() + devices.len());
        for sample in samples {
            let tag = self.plan.tag(sample.tag).filter(|tag| tag.has_values());
            let Some(topic) = tag.map(|tag| Arc::clone(&tag.topic)) else { continue };
            let payload = json::sample(sample.value.as_ref(), sample.quality, self.clock.wall(sample.at));
            // To size: it is kept for as long as the value is.
            messages.push((topic, Bytes::from(payload.into_boxed_slice())));
        }
        messages.extend(devices.iter().filter_map(|report| self.device(report)));
        self.publisher.retain_many(messages);
    }

    /// The gateway's own retained status.
    pub fn status(&self, state: &str) {
        let topic = self.topics.status().into();
        self.publisher.retain(topic, status(&self.clock, state, *self.configuration.borrow()));
    }

    fn device(&self, report: &DeviceReport) -> Option<(Arc<str>, Bytes)> {
        let device = self.plan.live_device(report.device)?;
        let diagnosis = &report.diagnosis;
        let tenths = |took: Duration| (took.as_secs_f64() * 10_000.0).round() / 10.0;
        let response = diagnosis.response.map(|took| {
            let [p50, p95, p99, longest] = [took.p50, took.p95, took.p99, took.longest].map(tenths);
            serde_json::json!({ "p50": p50, "p95": p95, "p99": p99, "max": longest })
        });
        let codes: serde_json::Map<_, _> =
            diagnosis.exception_codes.iter().map(|(code, count)| (code.to_string(), (*count).into())).collect();
        let status = serde_json::json!({
            "state": report.standing.as_str(),
            "last_success": report.last_success.map(|at| self.clock.wall(at).to_string()),
            "requests": report.requests,
            "timeouts": report.timeouts,
            "exceptions": report.exceptions,
            "errors": report.errors,
            "crc": diagnosis.crc,
            "stale": diagnosis.stale,
            "garbage": diagnosis.garbage,
            "foreign": diagnosis.foreign,
            "skipped": diagnosis.skipped,
            "exception_codes": codes,
            "response_ms": response,
            "bus_load_percent": diagnosis.bus_load,
            "time": self.clock.wall_now().to_string(),
        });
        Some((self.topics.device(&device.name).into(), status.to_string().into()))
    }
}

fn topics(plan: &Plan) -> HashSet<&Arc<str>> {
    plan.live_tags().map(|(_, tag)| &tag.topic).collect()
}
