//! `ironbridge run`: the daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::app;
use crate::config;
use crate::config::plan::Plan;
use crate::flow::stop::Stop;
use crate::host::journal;
use crate::host::signals::Signals;
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
    let plan = Arc::new(super::load(&args.config)?);
    journal::begin(journal::Verbosity::Daemon)
        .map_err(|error| Failed::Internal(format!("cannot begin logging: {error}")))?;
    super::block_on(serve(plan, &args.config))
}

async fn serve(plan: Arc<Plan>, config: &Path) -> Result<(), Failed> {
    let signals = Signals::new().map_err(|error| Failed::Internal(format!("cannot take signals over: {error}")))?;
    let stop = Stop::new();
    let mut running = app::start(plan, stop.clone(), Timing::default())
        .await
        .map_err(|error| Failed::TryAgain(format!("cannot start: {error}")))?;
    let (reloads, reloader) = (signals.reloads(), running.reloader());
    let driver = tokio::spawn(signals.drive(stop.clone()));
    let broken = tokio::select! {
        () = stop.begun() => None,
        what = running.broken() => Some(what),
        () = reload(reloads, reloader, config) => None,
    };
    running.stop().await;
    driver.abort();
    match broken {
        None => Ok(()),
        Some(what) => Err(Failed::Internal(format!("{what} ended on its own; see the log above"))),
    }
}

/// Reads the configuration again whenever that is asked for; until the gateway stops.
async fn reload(mut asked: watch::Receiver<()>, reloader: app::Reloader, config: &Path) {
    while asked.changed().await.is_ok() {
        tracing::info!("reloading");
        let (path, facts) = (config.to_owned(), super::host_facts());
        match tokio::task::spawn_blocking(move || config::load(&path, &facts)).await {
            Ok(Ok(loaded)) => reloader.apply(&loaded.plan).await,
            Ok(Err(problems)) => reloader.refuse(&problems),
            Err(error) => tracing::error!(%error, "the configuration could not be read again"),
        }
    }
    std::future::pending::<()>().await;
}
