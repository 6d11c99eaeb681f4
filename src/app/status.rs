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

/// Where it is, once it has been tried; the page itself runs until stopping, as one of the sources.
pub(super) async fn open(
    plan: &Plan,
    sources: Sources,
    quarters: &Quarters,
    (values, commands): (Option<Arc<Values>>, CommandEntry),
    (tasks, crew, stop, renew): (&mut JoinSet<()>, &Crew, &Stop, watch::Receiver<u64>),
) -> Result<Option<SocketAddr>, JoinError> {
    let (Some(page), Some(values)) = (plan.status.clone(), values) else { return Ok(None) };
    let operate = operate(&values, sources.buses.clone());
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
    let serving = quarters.spawn(crew.run("status", status.run(stop.clone())));
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
