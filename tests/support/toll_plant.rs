//! A store with one uplink behind a toll station, for tests of budgets, paths and schedules: stopped, reopened, killed.

#![allow(dead_code)] // every test file uses its own part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::{Bind, Budget, PathPlan, Period, ServerPlan, Transport, UplinkPlan};
use ironbridge::flow::clock::Fix;
use ironbridge::flow::notice::{Notice, notices};
use ironbridge::flow::stop::Stop;
use ironbridge::model::number::Class;
use ironbridge::uplink::{StoreSource, Timing, Uplink, UplinkParts, UplinkStats};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::store::{self, Running};

/// 2026-11-20T20:00:00Z
pub const NOW_MS: i64 = 1_795_204_800_000;

pub struct Plant {
    pub running: Running,
    pub stats: Arc<UplinkStats>,
    pub stop: Stop,
    told: mpsc::Receiver<Notice>,
    task: JoinHandle<()>,
    _run_dir: tempfile::TempDir,
}

/// A plan for an uplink to this address.
pub fn plan(to: SocketAddr) -> UplinkPlan {
    let host = to.ip().to_string();
    UplinkPlan {
        servers: vec![ServerPlan { host, port: to.port(), transport: Transport::Tcp }],
        ..UplinkPlan::plain("cloud")
    }
}

pub fn path(name: &str, source: &str) -> PathPlan {
    PathPlan {
        name: name.into(),
        bind: Bind::Source(source.parse().unwrap()),
        classes: Class::ALL.to_vec(),
        budgets: Vec::new(),
        max_rate: None,
        schedule: None,
        price_per_mib: None,
    }
}

pub fn per_day(bytes: u64) -> Budget {
    Budget { bytes, period: Period::Day }
}

impl Plant {
    /// The wall clock stands at [`NOW_MS`] + `later`.
    pub fn start(dir: &Path, plan: UplinkPlan, later: Duration) -> Self {
        let running = store::start(store::opening(dir));
        let now = NOW_MS + i64::try_from(later.as_millis()).unwrap();
        running.clock.learn(Fix { at: running.clock.now(), unix_ms: now });
        Self::beside(running, plan)
    }

    /// An uplink on a store that runs.
    fn beside(running: Running, plan: UplinkPlan) -> Self {
        let (hand_in, told) = notices();
        let run_dir = tempfile::tempdir().unwrap();
        let timing = Timing {
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_millis(400),
            stalled: Duration::from_secs(20),
            path_healthy: Duration::from_secs(3),
            stop_wait: Duration::from_secs(1), // its source does not end before it: see `close`
            ..Timing::default()
        };
        let (uplink, stats) = Uplink::new(UplinkParts {
            source: StoreSource::new(running.store.clone(), &plan.name).expect("routed"),
            plan,
            gateway: "gw".into(),
            clock: running.clock.clone(),
            notices: hand_in,
            commands: None,
            pass_on: None,
            run_dir: run_dir.path().to_owned(),
            timing,
        });
        let stop = Stop::new();
        let task = tokio::spawn(uplink.run(stop.clone()));
        Self { running, stats, stop, told, task, _run_dir: run_dir }
    }

    /// Notices so far, as `event state`.
    pub fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(notice) = self.told.try_recv() {
            assert_eq!(notice.subject.split('/').next(), Some("cloud")); // of a budget: cloud/day
            told.push(format!("{} {}", notice.event, notice.phase.as_str()));
        }
        told
    }

    /// Wire bytes as the uplink counts them.
    pub fn counted(&self) -> u64 {
        self.stats.paths().iter().map(|way| way.bytes).sum()
    }

    /// A reload has changed the uplink: it ends in order, and another begins on the same store.
    pub async fn reload(self, plan: UplinkPlan) -> Self {
        self.stop.begin();
        tokio::time::timeout(Duration::from_secs(120), self.task).await.expect("ends in time").expect("does not panic");
        Self::beside(self.running, plan)
    }

    /// Stops in order.
    pub async fn close(self) {
        self.stop.begin();
        tokio::time::timeout(Duration::from_secs(120), self.task).await.expect("ends in time").expect("does not panic");
        self.running.close().await;
    }

    /// The uplink is gone from one moment to the next, as after a power cut; the store closes.
    pub async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
        self.running.close().await;
    }
}
