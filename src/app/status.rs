//! Opens the status page, on the threads of the local clients: who looks at it delays no bus.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::config::plan::Plan;
use crate::flow::command::CommandEntry;
use crate::flow::operate::{Operate, Unwilling};
use crate::flow::stop::Stop;
use crate::model::tag::BusIx;
use crate::status::values::Values;
use crate::status::{Status, StatusParts};

use super::figures;
use super::quarters::Quarters;
use super::roster::Slots;
use super::sources::Sources;
use super::supervisor::Crew;

/// What the page shows, and leads to.
pub(super) struct Page {
    pub sources: Sources,
    pub values: Option<Arc<Values>>,
    pub commands: CommandEntry,
    /// Changes when its certificate is to be read again.
    pub renew: watch::Receiver<u64>,
    pub stop: Stop,
}

/// Where it is, once it has been tried; the page itself runs until stopping, as one of the sources.
pub(super) async fn open(
    plan: &Plan,
    page: Page,
    quarters: &Quarters,
    crew: &Crew,
    tasks: &mut JoinSet<()>,
) -> Result<Option<SocketAddr>, JoinError> {
    let Page { sources, values, commands, renew, stop } = page;
    let (Some(plan), Some(values)) = (plan.status.clone(), values) else { return Ok(None) };
    let operate = operate(&values, sources.buses.clone());
    let parts = StatusParts {
        plan,
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
        values,
        commands,
        operate,
    };
    let mut status = Status::new(parts, renew);
    let (status, address) = quarters
        .spawn(async move {
            let address = status.bind().await;
            (status, address)
        })
        .await?;
    let serving = quarters.spawn(crew.run("status", status.run(stop)));
    tasks.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the status page ended badly");
        }
    });
    Ok(address)
}

/// Finds the bus of a device, whichever life of it is running.
fn operate(values: &Arc<Values>, buses: Slots) -> Operate {
    let values = Arc::clone(values);
    Arc::new(move |device, operation| {
        let bus = values.plan().device(device).and_then(|device| device.bus);
        let buses = buses.load();
        let slot = bus.and_then(|BusIx(bus)| buses.get(bus as usize)?.as_ref()).ok_or(Unwilling::NoBus)?;
        let switches = Arc::clone(&slot.load().switches);
        switches.ask(device, operation)?;
        Ok(Box::pin(async move { switches.heeded(device).await }))
    })
}
