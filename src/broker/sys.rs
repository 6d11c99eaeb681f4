//! `$SYS/broker/…` under mosquitto's names: every ten seconds, what has changed, retained, so that dashboards made for
//! it work here. Not there: `heap/…`, since no allocator of ours counts.
//!
//! `load/…` are means per minute over about 1, 5 and 15 minutes, like the load of a Unix system: each period the figure
//! moves towards what was counted in it, `load += (counted per minute - load) * (1 - e^(-period/window))`. The first
//! period sets it, and is as long as the others: it was told for the first time just after the start.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::core::Shared;
use super::publisher::Publisher;
use super::stats::BrokerStats;
use crate::model::time::millis;

/// As mosquitto's `sys_interval`.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// A shorter period says nothing.
const PERIOD_MIN: Duration = Duration::from_secs(1);

const WINDOWS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// What has a load, and what is counted for it.
type Count = fn(&BrokerStats) -> u64;
const LOADS: [(&str, Count); 9] = [
    ("messages/received", |stats| stats.packets_received.get()),
    ("messages/sent", |stats| stats.packets_sent.get()),
    ("publish/dropped", BrokerStats::dropped),
    ("publish/received", |stats| stats.publishes_received.get()),
    ("publish/sent", |stats| stats.publishes_sent.get()),
    ("bytes/received", |stats| stats.bytes_received.get()),
    ("bytes/sent", |stats| stats.bytes_sent.get()),
    ("sockets", |stats| stats.connections.get()),
    ("connections", |stats| stats.connects.get()),
];

/// What was told last.
#[derive(Debug)]
pub(super) struct Sys {
    since: Instant,
    told: HashMap<String, String>,
    loads: [Load; LOADS.len()],
    /// When the loads' last period ended.
    looked: Instant,
}

impl Sys {
    pub(super) fn new(since: Instant) -> Self {
        Self { since, told: HashMap::new(), loads: Default::default(), looked: since }
    }

    /// Publishes what is not as it was.
    pub(super) fn tell(&mut self, shared: &Shared, publisher: &Publisher, now: Instant) {
        let mut figures = figures(shared, now.saturating_duration_since(self.since));
        figures.extend(self.loads(&shared.stats, now));
        let mut changed = Vec::new();
        for (name, value) in figures {
            if self.told.get(&name) != Some(&value) {
                let topic: Arc<str> = format!("$SYS/broker/{name}").into();
                changed.push((topic, Bytes::from(value.clone())));
                self.told.insert(name, value);
            }
        }
        publisher.retain_many(changed);
    }

    fn loads(&mut self, stats: &BrokerStats, now: Instant) -> Vec<(String, String)> {
        let period = now.saturating_duration_since(self.looked);
        let is_over = period >= PERIOD_MIN;
        if is_over {
            self.looked = now;
        }
        let mut figures = Vec::with_capacity(LOADS.len() * WINDOWS.len());
        for ((name, count), load) in LOADS.iter().zip(&mut self.loads) {
            if is_over {
                load.step(count(stats), period);
            }
            for ((window, _), mean) in WINDOWS.iter().zip(load.means) {
                figures.push((format!("load/{name}/{window}"), format!("{mean:.2}")));
            }
        }
        figures
    }
}

/// Means of one figure per minute.
#[derive(Debug, Default)]
struct Load {
    counted: u64,
    started: bool,
    means: [f64; WINDOWS.len()],
}

impl Load {
    /// The counter stands there, so long after the last look.
    fn step(&mut self, counted: u64, period: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people; exact below 2^53")]
        let rate = counted.saturating_sub(self.counted) as f64 * 60.0 / period.as_secs_f64();
        for ((_, window), mean) in WINDOWS.iter().zip(&mut self.means) {
            let weight = if self.started { 1.0 - (-period.as_secs_f64() / window).exp() } else { 1.0 };
            *mean += (rate - *mean) * weight;
        }
        (self.counted, self.started) = (counted, true);
    }
}

fn figures(shared: &Shared, uptime: Duration) -> Vec<(String, String)> {
    let stats = &shared.stats;
    let (owed_count, owed_bytes) = shared.owed.now();
    let ledger = shared.disk.figures();
    let version = concat!("ironbridge version ", env!("CARGO_PKG_VERSION")).to_owned();
    let (connected, away) = (stats.clients.get(), stats.sessions_away.get());
    let numbers = [
        ("clients/connected", connected),
        ("clients/active", connected), // an older name of the same
        ("clients/disconnected", away),
        ("clients/inactive", away), // likewise
        ("clients/total", connected + away),
        ("sessions/owed/count", owed_count),
        ("sessions/owed/bytes", owed_bytes),
        ("sessions/dropped", stats.dropped_full.get()),
        ("clients/maximum", stats.clients_max.get()),
        ("clients/expired", stats.sessions_expired.get()),
        ("subscriptions/count", stats.subscriptions.get()),
        ("shared_subscriptions/count", shared.shared_subscriptions() as u64),
        ("retained messages/count", stats.retained.get()),
        ("store/messages/count", stats.retained.get()),
        ("store/messages/bytes", shared.retained_bytes() as u64),
        ("messages/stored", stats.retained.get()), // an older name of store/messages/count
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
        ("ledger/commits", ledger.commits),
        ("ledger/rows", ledger.rows),
        ("ledger/refused", ledger.refused),
        ("ledger/written bytes", ledger.written_bytes),
        ("ledger/longest commit ms", millis(ledger.longest_commit)),
    ];
    let texts = [("version", version), ("uptime", format!("{} seconds", uptime.as_secs()))];
    let numbers = numbers.map(|(name, number)| (name, number.to_string()));
    texts.into_iter().chain(numbers).map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_a_rate_per_minute_that_settles_faster_over_a_shorter_window() {
        let mut load = Load::default();
        let told = |load: &Load| load.means.map(|mean| format!("{mean:.2}"));
        load.step(100, PERIOD);
        assert_eq!(told(&load), ["600.00"; 3], "the first period sets it");
        load.step(100, PERIOD);
        let [one, five, fifteen] = load.means;
        assert!(one < five && five < fifteen && fifteen < 600.0, "{:?}", load.means);
        assert!((one - 600.0 * (-1.0_f64 / 6.0).exp()).abs() < 1e-9, "{one}");
        for _ in 0..2000 {
            load.step(100, PERIOD);
        }
        assert_eq!(told(&load), ["0.00"; 3]);
    }

    #[test]
    fn the_look_just_after_the_start_is_no_period() {
        let (since, stats) = (Instant::now(), BrokerStats::default());
        let mut sys = Sys::new(since);
        let received = |figures: Vec<(String, String)>| -> Vec<String> {
            figures
                .into_iter()
                .filter(|(name, _)| name.starts_with("load/messages/received/"))
                .map(|(_, mean)| mean)
                .collect()
        };
        assert_eq!(received(sys.loads(&stats, since + Duration::from_micros(50))), ["0.00"; 3]);
        stats.packets_received.add(100);
        assert_eq!(received(sys.loads(&stats, since + PERIOD)), ["600.00"; 3]);
    }
}
