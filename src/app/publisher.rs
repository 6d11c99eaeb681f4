//! The live side: what changed becomes retained JSON on the local broker. The broker is a values; nothing waits for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::broker::Publisher;
use crate::config::plan::Plan;
use crate::flow::clock::Clock;
use crate::flow::hub::DeviceReport;
use crate::flow::latest::{Fresh, Latest};
use crate::model::quality::{Cause, Quality};
use crate::model::topic::GatewayTopics;
use crate::payload::json;
use crate::status::values::Values;

use super::alarms::AlarmBoard;

/// Empties the live lane into the broker.
pub struct LivePublisher {
    plan: Arc<Plan>,
    clock: Clock,
    publisher: Publisher,
    topics: GatewayTopics,
    /// The status page's, if there is one.
    values: Option<Arc<Values>>,
}

impl LivePublisher {
    /// For one plan.
    pub fn new(plan: Arc<Plan>, clock: Clock, publisher: Publisher, values: Option<Arc<Values>>) -> Self {
        let topics = GatewayTopics::new(&plan.gateway.name);
        Self { plan, clock, publisher, topics, values }
    }

    /// At start: every tag null, bad, starting; the gateway online.
    pub fn begin(&self) {
        let now = self.clock.wall_now();
        let starting = Bytes::from(json::sample(None, Quality::Bad(Cause::Starting), now));
        self.publisher.retain_many(self.plan.tags.iter().map(|tag| (Arc::clone(&tag.topic), starting.clone())));
        self.status("online");
    }

    /// Empties the live lane in a task of its own until it closes; then the publisher comes back, for a last word.
    pub async fn run(self, latest: Arc<Latest>, alarms: AlarmBoard) -> Self {
        tokio::join!(self.values(&latest), alarms.run(&latest.alarms));
        self
    }

    async fn values(&self, latest: &Latest) {
        while let Some(Fresh { samples, devices }) = latest.take().await {
            if let Some(values) = &self.values {
                values.show(&samples);
            }
            let mut messages = Vec::with_capacity(samples.len() + devices.len());
            for sample in &samples {
                let topic = Arc::clone(&self.plan.tags[sample.tag.0 as usize].topic);
                let payload = json::sample(sample.value.as_ref(), sample.quality, self.clock.wall(sample.at));
                // To size: it is kept for as long as the value is.
                messages.push((topic, Bytes::from(payload.into_boxed_slice())));
            }
            messages.extend(devices.iter().map(|report| self.device(report)));
            self.publisher.retain_many(messages);
        }
    }

    /// The gateway's own retained status.
    pub fn status(&self, state: &str) {
        let time = self.clock.wall_now().to_string();
        let status = serde_json::json!({ "state": state, "time": time, "version": env!("CARGO_PKG_VERSION") });
        self.publisher.retain(self.topics.status().into(), status.to_string().into());
    }

    fn device(&self, report: &DeviceReport) -> (Arc<str>, Bytes) {
        let device = &self.plan.devices[report.device.0 as usize];
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
            "skipped": diagnosis.skipped,
            "exception_codes": codes,
            "response_ms": response,
            "bus_load_percent": diagnosis.bus_load,
            "time": self.clock.wall_now().to_string(),
        });
        (self.topics.device(&device.name).into(), status.to_string().into())
    }
}
