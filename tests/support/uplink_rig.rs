//! An uplink under test: started, told to stop, waited for.

#![allow(dead_code)] // every test file uses its own part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::{ServerPlan, Transport, UplinkPlan};
use ironbridge::flow::clock::{Clock, FakeTime, Fix};
use ironbridge::flow::notice::{Notice, notices};
use ironbridge::flow::stop::Stop;
use ironbridge::model::time::Boot;
use ironbridge::uplink::{Timing, Uplink, UplinkParts, UplinkStats};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cloud::Cloud;
use crate::owed::{ListReader, OwedList};

/// 2026-11-20T20:00:00Z
pub const NOW_MS: i64 = 1_795_204_800_000;

pub struct Rig {
    pub stats: Arc<UplinkStats>,
    pub stop: Stop,
    notices: mpsc::Receiver<Notice>,
    task: JoinHandle<()>,
    run_dir: tempfile::TempDir,
}

/// A plan for an uplink to this address.
pub fn plan(address: SocketAddr) -> UplinkPlan {
    let host = address.ip().to_string();
    UplinkPlan {
        client_id: "gw".into(),
        topic_prefix: "up/".into(),
        servers: vec![ServerPlan { host, port: address.port(), transport: Transport::Tcp }],
        ..UplinkPlan::plain("cloud")
    }
}

/// A clock with a fix.
pub fn clock() -> Clock {
    let clock = Clock::new(Arc::new(FakeTime::default()), Boot(1), 0);
    clock.learn(Fix { at: clock.now(), unix_ms: NOW_MS });
    clock
}

impl Rig {
    pub fn start(cloud: &Cloud, owed: &OwedList) -> Self {
        Self::start_with(cloud, owed, |_| {})
    }

    /// With impatient timing; `change` may change it and the plan.
    pub fn start_with(cloud: &Cloud, owed: &OwedList, change: impl FnOnce(&mut UplinkParts<ListReader>)) -> Self {
        Self::start_at(cloud.address, owed, change)
    }

    /// The same, to any broker.
    pub fn start_at(to: SocketAddr, owed: &OwedList, change: impl FnOnce(&mut UplinkParts<ListReader>)) -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let (hand_in, notices) = notices();
        let timing = Timing {
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_millis(400),
            files_again: Duration::from_millis(100),
            stalled: Duration::from_secs(2),
            ..Timing::default()
        };
        let mut parts = UplinkParts {
            plan: plan(to),
            gateway: "gw".into(),
            source: owed.reader(),
            clock: clock(),
            notices: hand_in,
            commands: None,
            pass_on: None,
            run_dir: run_dir.path().to_owned(),
            timing,
        };
        change(&mut parts);
        let (uplink, stats) = Uplink::new(parts);
        let stop = Stop::new();
        let task = tokio::spawn(uplink.run(stop.clone()));
        Self { stats, stop, notices, task, run_dir }
    }

    /// Notices so far, as `event state`.
    pub fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(notice) = self.notices.try_recv() {
            told.push(format!("{} {}", notice.event, notice.phase.as_str()));
        }
        told
    }

    /// Waits for its end; panics after 20 s. Leaves nothing behind.
    pub async fn finished(self) {
        tokio::time::timeout(Duration::from_secs(120), self.task).await.expect("ends in time").expect("does not panic");
        assert_eq!(std::fs::read_dir(self.run_dir.path()).unwrap().count(), 0, "no socket is left behind");
    }
}
