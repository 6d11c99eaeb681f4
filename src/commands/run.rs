//! `ironbridge run`: the daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::app;
use crate::config;
use crate::config::plan::Plan;
use crate::flow::clock::TimeSource as _;
use crate::flow::stop::Stop;
use crate::host::journal;
use crate::host::lives::Lives;
use crate::host::notify::Notify;
use crate::host::signals::Signals;
use crate::host::{clock::BootTime, facts};
use crate::uplink::Timing;

use super::Failed;

/// Where the configuration is looked for when nobody says so.
pub const DEFAULT_CONFIG: &str = "/etc/ironbridge/ironbridge.toml";

/// Run the gateway
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file; fragments in ironbridge.d/*.toml beside it are read too
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// Runs until a signal says stop, or something critical ends.
pub fn run(args: &Args) -> Result<(), Failed> {
    facts::forbid_core_dumps();
    let plan = Arc::new(super::load(&args.config)?);
    journal::begin(journal::Verbosity::Daemon)
        .map_err(|error| Failed::Internal(format!("cannot begin logging: {error}")))?;
    super::block_on(serve(plan, &args.config))
}

async fn serve(plan: Arc<Plan>, config: &Path) -> Result<(), Failed> {
    let mut signals = Signals::new().map_err(|error| Failed::Internal(format!("cannot take signals over: {error}")))?;
    let stop = Stop::new();
    let notify = Notify::from_environment();
    let lives = Lives::in_dir(facts::systemd_runtime_dir().as_deref());
    if waits_in_vain(&lives, &notify, &mut signals).await {
        return Ok(());
    }
    let mut running = app::start(Arc::clone(&plan), stop.clone(), Timing::default())
        .await
        .map_err(|error| Failed::TryAgain(format!("cannot start: {error}")))?;
    let watchdog = running
        .watchdog(&plan, notify.clone())
        .map_err(|error| Failed::TryAgain(format!("cannot start the watchdog's thread: {error}")))?;
    notify.ready();
    let (reloads, reloader) = (signals.reloads(), running.reloader());
    let driver = tokio::spawn(signals.drive(stop.clone()));
    let broken = tokio::select! {
        () = stop.begun() => None,
        what = running.broken() => Some(what),
        () = reload(reloads, reloader, config, &notify) => None,
    };
    notify.stopping();
    running.stop().await;
    drop(watchdog);
    driver.abort();
    if broken.is_none() {
        lives.ended_in_order();
    }
    match broken {
        None => Ok(()),
        Some(what) => Err(Failed::Internal(format!("{what} ended on its own; see the log above"))),
    }
}

/// After several short lives in a row it waits before the next one; true if a stop was asked for meanwhile.
async fn waits_in_vain(lives: &Lives, notify: &Notify, signals: &mut Signals) -> bool {
    let since_boot = Duration::from_micros(BootTime.boot_micros().unsigned_abs());
    let pause = lives.begin(since_boot);
    if pause.is_zero() {
        return false;
    }
    let seconds = pause.as_secs();
    tracing::warn!(seconds, "ended badly several times in a row, waiting before the next start");
    notify.status(&format!("ended badly several times in a row; starts in {seconds} s"));
    tokio::select! {
        () = tokio::time::sleep(pause) => false,
        () = signals.stop_asked() => true,
    }
}

/// Reads the configuration again whenever that is asked for; until the gateway stops.
async fn reload(mut asked: watch::Receiver<()>, reloader: app::Reloader, config: &Path, notify: &Notify) {
    while asked.changed().await.is_ok() {
        notify.reloading();
        tracing::info!("reloading");
        let (path, facts) = (config.to_owned(), super::host_facts());
        match tokio::task::spawn_blocking(move || config::load(&path, &facts)).await {
            Ok(Ok(loaded)) => reloader.apply(&loaded.plan).await,
            Ok(Err(problems)) => reloader.refuse(&problems),
            Err(error) => tracing::error!(%error, "the configuration could not be read again"),
        }
        notify.ready(); // also with what it was before
    }
    std::future::pending::<()>().await;
}
