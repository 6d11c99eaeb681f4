//! A running gateway, and how it is taken down ("The stop" in `src/lib.rs`).
//!
//! Stopping follows the data: (1) doors and commands refuse, (2) buses finish the transaction in flight, (3) the store
//! commits, (4) uplinks send what is left until their deadline, (5) the broker says offline and goodbye, (6) the store
//! saves its cursors and ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::flow::latest::Latest;
use crate::flow::notice::Notices;
use crate::flow::progress::Progress;
use crate::flow::stop::Stop;
use crate::host::facts::RuntimeDir;
use crate::host::notify::{self, Notify};
use crate::store::StoreHandle;

use super::house::House;
use super::insight::Insight;
use super::publisher::LivePublisher;
use super::quarters::Quarters;
use super::reload::Reloader;
use super::roster::{PlanNow, UplinkRoster};
use super::supervisor::report;
use super::watchdog::{Line, Watchdog};

/// What stopping may take at most, as the unit file gives it (`TimeoutStopSec=`): a transaction with the longest timeout that
/// is common on slow lines (15 s), the store's last commit (5 s), acknowledgements (10 s) and farewells upstream (6 s) and
/// of local clients (3 s), then what the disk needs to save and close.
pub const STOP_MAX: Duration = Duration::from_secs(60);

/// Then it hurries by itself, as after a second SIGTERM: uplinks get no more time, the rest is the disk's.
const HURRY_AFTER: Duration = Duration::from_secs(35);

/// So long a reload that is under way may still take then; it is given up after that, as a power cut would end it.
const RELOAD_MAX: Duration = Duration::from_secs(10);

/// What runs besides the uplinks.
pub(super) struct Tasks {
    /// Buses, router, clock watch: they hear the stop signal.
    pub sources: JoinSet<()>,
    pub events: JoinHandle<()>,
    pub live: JoinHandle<LivePublisher>,
    pub store_watch: JoinHandle<()>,
    pub broker: JoinHandle<()>,
}

/// A running gateway; end it with [`Running::stop`].
pub struct Running {
    pub(super) stop: Stop,
    pub(super) tasks: Tasks,
    pub(super) events_end: Stop,
    pub(super) roster: UplinkRoster,
    pub(super) plan: PlanNow,
    pub(super) latest: Arc<Latest>,
    pub(super) broker_end: CancellationToken,
    pub(super) broke: watch::Receiver<Option<&'static str>>,
    pub(super) store: StoreHandle,
    pub(super) addresses: Vec<Option<SocketAddr>>,
    pub(super) status: Option<SocketAddr>,
    pub(super) insight: Insight,
    pub(super) run_dir: RuntimeDir,
    pub(super) store_dir: PathBuf,
    pub(super) reloader: Reloader,
    /// Of the uplinks and of the bridges.
    pub(super) farewell: [Stop; 2],
    pub(super) progress: Progress,
    pub(super) notices: Notices,
    /// Ends last.
    pub(super) _quarters: Quarters,
}

impl Running {
    /// Where local MQTT clients connect: one entry per listener, `None` while an address cannot be bound.
    pub fn mqtt_addresses(&self) -> &[Option<SocketAddr>] {
        &self.addresses
    }

    /// Where the status page is; `None` where there is none, or its address cannot be bound.
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.status
    }

    /// How everything stands, for who asks on this box.
    pub fn insight(&self) -> Insight {
        self.insight.clone()
    }

    /// The store, for its newest numbers and counters. Dropped before [`Running::stop`], or the store cannot end.
    pub fn store(&self) -> &StoreHandle {
        &self.store
    }

    /// Where the store lies.
    pub fn store_dir(&self) -> &Path {
        &self.store_dir
    }

    /// Takes a configuration that has changed.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Begins to tell systemd that every worker makes progress, or that one does not; until what it returns is dropped.
    pub fn watchdog(&self, notify: Notify) -> std::io::Result<Watchdog> {
        let line = Line::new(Arc::clone(&self.plan), self.store.stats(), Arc::clone(&self.roster));
        let (progress, notices) = (self.progress.clone(), self.notices.clone());
        Watchdog::start(progress, notices, notify, notify::watchdog_interval(), move || line.now())
    }

    /// The counters of every uplink, by name, as a reload may have changed them.
    pub fn uplinks(&self) -> UplinkRoster {
        Arc::clone(&self.roster)
    }

    /// Resolves with its name when something ended that must not end. Cancel-safe.
    pub async fn broken(&mut self) -> &'static str {
        match self.broke.wait_for(Option::is_some).await {
            Ok(what) => what.unwrap_or("the gateway"),
            Err(_) => std::future::pending().await, // the watchers are gone: we are stopping
        }
    }

    /// Takes everything down in order; returns when all that was polled is committed and saved.
    pub async fn stop(self) {
        let Self { stop, mut tasks, events_end, latest, broker_end, store, run_dir, reloader, farewell, broke, .. } =
            self;
        let in_order = broke.borrow().is_none();
        stop.begin();
        let hurry = tokio::spawn(pass_hurry_on(stop.clone(), farewell)); // a reload may have the house
        let Some(house) = given(reloader.close(), &stop).await else { return hurry.abort() };
        let House { means, buses, uplinks, mut bridges, trial, fallback, .. } = house;
        buses.ended().await;
        drop(means); // lets go of the lanes into the store
        join_all(&mut tasks.sources, "a source").await;
        events_end.begin();
        report(tasks.events.await, "events");
        store.ended().await;
        for (stream, epoch, seq) in store.newest().into_iter().filter(|(_, _, seq)| seq.0 > 0) {
            tracing::info!(class = %stream, epoch = epoch.0, seq = seq.0, "everything polled is committed");
        }
        bridges.committed().await;
        uplinks.stop.begin();
        bridges.stop.begin();
        uplinks.ended().await;
        bridges.disconnected().await;
        latest.close();
        if let Ok(live) = tasks.live.await {
            live.status("offline");
        }
        broker_end.cancel();
        report(tasks.broker.await, "the broker");
        tasks.store_watch.abort();
        report(tasks.store_watch.await, "the store's watch");
        store.finish().await;
        bridges.finish().await;
        if trial.is_some() && in_order {
            fallback.forget(); // it did not come to a bad end: the next start goes by the file
        }
        hurry.abort();
        drop(run_dir);
        tracing::info!("stopped");
    }
}

async fn pass_hurry_on(from: Stop, to: [Stop; 2]) {
    if tokio::time::timeout(HURRY_AFTER, from.hurried()).await.is_err() {
        tracing::warn!("stopping takes long; the uplinks get no more time");
        from.hurry();
    }
    to.iter().for_each(Stop::hurry);
}

/// What a reload that is under way lets go of; `None` when it does not although it hurries.
async fn given<T>(house: impl Future<Output = Option<T>>, stop: &Stop) -> Option<T> {
    let late = async {
        stop.hurried().await;
        tokio::time::sleep(RELOAD_MAX).await;
    };
    tokio::select! {
        biased;
        house = house => house,
        () = late => {
            tracing::error!("a reload does not end, the gateway stops in the middle of it; what is committed stays");
            None
        }
    }
}

async fn join_all(tasks: &mut JoinSet<()>, what: &'static str) {
    while let Some(ended) = tasks.join_next().await {
        report(ended, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_behind_a_reload_hurries_in_time_and_does_not_wait_for_it_for_ever() {
        let (stop, farewell, began) = (Stop::new(), [Stop::new(), Stop::new()], tokio::time::Instant::now());
        stop.begin();
        let hurry = tokio::spawn(pass_hurry_on(stop.clone(), farewell.clone()));
        assert_eq!(given(std::future::pending::<Option<()>>(), &stop).await, None);
        assert!(farewell.iter().all(Stop::is_hurried), "the uplinks have been told");
        assert_eq!(began.elapsed().as_secs(), (HURRY_AFTER + RELOAD_MAX).as_secs());
        assert!(HURRY_AFTER + RELOAD_MAX < STOP_MAX);
        hurry.await.expect("runs");
        assert_eq!(given(std::future::ready(Some(7)), &stop).await, Some(7), "who has it gives it");
    }
}
