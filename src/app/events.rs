//! Notices become events: stored (class event), numbered, and published locally with their number once committed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::broker::Publisher;
use crate::flow::clock::Clock;
use crate::flow::hub::{EventRecord, Hub};
use crate::flow::notice::{Later, Notice, Notices};
use crate::flow::progress;
use crate::flow::stop::Stop;
use crate::model::number::Class;
use crate::model::topic::GatewayTopics;
use crate::payload::{event, json};

/// How long events and alarms wait for their numbers before they are published without (the store is in trouble then).
pub(super) const NUMBER_WAIT_MAX: Duration = Duration::from_secs(3);

/// The store's lane and the number are both waited for, each for seconds; what takes longer than this never ends.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// Turns notices into events.
pub struct Events {
    /// Local topic of the gateway's events.
    pub topic: Arc<str>,
    /// Stamps them.
    pub clock: Clock,
    /// Publishes them.
    pub publisher: Publisher,
    /// What found the queue full.
    pub later: Arc<Later>,
}

impl Events {
    /// For the gateway with this name, and what is told there.
    pub fn new(gateway: &str, clock: Clock, publisher: Publisher, notices: &Notices) -> Self {
        Self { topic: GatewayTopics::new(gateway).event().into(), clock, publisher, later: notices.later() }
    }

    /// Runs until `end`, then stores what still waits and lets go of the hub, so that the store can finish.
    pub async fn run(self, mut notices: mpsc::Receiver<Notice>, hub: Hub, end: Stop) {
        loop {
            progress::rest();
            tokio::select! {
                biased;
                () = end.begun() => break,
                notice = self.next(&mut notices) => match notice {
                    Some(notice) => {
                        progress::step(TOLD_WITHIN);
                        self.tell(notice, &hub).await;
                    }
                    None => break,
                },
            }
        }
        while let Some(notice) = self.later.take(&mut notices) {
            self.record(&notice, &hub, None).await;
        }
    }

    /// What found the queue full is not waited for: while something is there, something is in the queue or was. Cancel-safe.
    async fn next(&self, notices: &mut mpsc::Receiver<Notice>) -> Option<Notice> {
        match self.later.take(notices) {
            None => notices.recv().await,
            waiting => waiting,
        }
    }

    async fn tell(&self, notice: Notice, hub: &Hub) {
        let (committed, number) = oneshot::channel();
        let body = self.record(&notice, hub, Some(committed)).await;
        let payload = match tokio::time::timeout(NUMBER_WAIT_MAX, number).await {
            Ok(Ok(number)) => json::numbered_event(&body, number, None),
            _ => body,
        };
        self.publisher.publish(Arc::clone(&self.topic), payload.into());
    }

    async fn record(
        &self,
        notice: &Notice,
        hub: &Hub,
        committed: Option<oneshot::Sender<crate::model::number::Number>>,
    ) -> Vec<u8> {
        let at = self.clock.now();
        let time = self.clock.wall(at);
        let body = serde_json::json!({
            "event": notice.event, "state": notice.phase.as_str(), "subject": notice.subject, "detail": notice.detail,
            "time": time.to_string(),
        });
        let body = body.to_string().into_bytes();
        let shown = event::dated(&body, time).into_owned();
        let record = EventRecord { topic: Arc::clone(&self.topic), body, class: Class::Event, at, committed };
        hub.emit_event(record).await;
        shown
    }
}
