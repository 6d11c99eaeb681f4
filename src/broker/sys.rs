//! `$SYS/broker/…` as mosquitto names it: every ten seconds, what has changed, retained.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::core::Shared;
use super::publisher::Publisher;

/// As mosquitto's `sys_interval`.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// What was told last.
#[derive(Debug)]
pub(super) struct Sys {
    since: Instant,
    told: HashMap<&'static str, String>,
}

impl Sys {
    pub(super) fn new(since: Instant) -> Self {
        Self { since, told: HashMap::new() }
    }

    /// Publishes what is not as it was.
    pub(super) fn tell(&mut self, shared: &Shared, publisher: &Publisher, now: Instant) {
        let mut changed = Vec::new();
        for (name, value) in figures(shared, now.saturating_duration_since(self.since)) {
            if self.told.get(name) != Some(&value) {
                let topic: Arc<str> = format!("$SYS/broker/{name}").into();
                changed.push((topic, Bytes::from(value.clone())));
                self.told.insert(name, value);
            }
        }
        publisher.retain_many(changed);
    }
}

fn figures(shared: &Shared, uptime: Duration) -> Vec<(&'static str, String)> {
    let stats = &shared.stats;
    let (owed_count, owed_bytes) = shared.owed.now();
    let version = concat!("ironbridge version ", env!("CARGO_PKG_VERSION")).to_owned();
    let numbers = [
        ("clients/connected", stats.clients.get()),
        ("clients/total", stats.sessions.get()),
        ("clients/disconnected", stats.sessions.get().saturating_sub(stats.clients.get())),
        ("clients/inactive", stats.sessions.get().saturating_sub(stats.clients.get())),
        ("sessions/owed/count", owed_count),
        ("sessions/owed/bytes", owed_bytes),
        ("sessions/dropped", stats.dropped_full.get()),
        ("clients/maximum", stats.clients_max.get()),
        ("subscriptions/count", stats.subscriptions.get()),
        ("retained messages/count", stats.retained.get()),
        ("store/messages/count", stats.retained.get()),
        ("store/messages/bytes", shared.retained_bytes() as u64),
        ("messages/received", stats.packets_received.get()),
        ("messages/sent", stats.packets_sent.get()),
        ("publish/messages/received", stats.publishes_received.get()),
        ("publish/messages/sent", stats.publishes_sent.get()),
        ("publish/messages/dropped", stats.dropped()),
        ("publish/bytes/received", stats.publish_bytes_received.get()),
        ("publish/bytes/sent", stats.publish_bytes_sent.get()),
        ("bytes/received", stats.bytes_received.get()),
        ("bytes/sent", stats.bytes_sent.get()),
        ("connections/socket/count", stats.connections.get()),
    ];
    let texts = [("version", version), ("uptime", format!("{} seconds", uptime.as_secs()))];
    texts.into_iter().chain(numbers.map(|(name, number)| (name, number.to_string()))).collect()
}
