//! Opens the status page, on the threads of the local clients: who looks at it delays no bus.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::config::plan::Plan;
use crate::flow::stop::Stop;
use crate::status::{Status, StatusParts};

use super::board::Sources;
use super::figures;
use super::quarters::Quarters;

/// Where it is, once it has been tried; the page itself runs until stopping, as one of the sources.
pub(super) async fn open(
    plan: &Plan,
    sources: Sources,
    quarters: &Quarters,
    (tasks, stop, renew): (&mut JoinSet<()>, &Stop, watch::Receiver<u64>),
) -> Result<Option<SocketAddr>, JoinError> {
    let Some(page) = plan.status.clone() else { return Ok(None) };
    let parts = StatusParts {
        plan: page,
        access: Arc::clone(&sources.access),
        clock: sources.clock.clone(),
        notices: sources.notices.clone(),
        stats: Arc::clone(&sources.status),
        count: Arc::new({
            let sources = sources.clone();
            move || figures::all(&sources)
        }),
        gather: Arc::new({
            let sources = sources.clone();
            move || sources.board()
        }),
    };
    let mut status = Status::new(parts, renew);
    let (status, address) = quarters
        .spawn(async move {
            let address = status.bind().await;
            (status, address)
        })
        .await?;
    let serving = quarters.spawn(sources.progress.watch("status", "", status.run(stop.clone())));
    tasks.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the status page ended badly");
        }
    });
    Ok(address)
}
