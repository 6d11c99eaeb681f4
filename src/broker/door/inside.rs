//! The inner door: an uplink of this gateway that leads to its own broker comes in here, in memory and as the gateway itself.
//!
//! From CONNECT on it is a client like any other: its will, its subscriptions and what it publishes go the ways that clients'
//! go, and a host on this broker cannot tell it from an edge node that came over the network. But nobody is in its way: it
//! counts against no limit of a listener, no reload closes its door, and it is served until the broker has nothing more to say.
//! And it is told who has more of it waiting than is good, because it is quicker than any client can be ([`Pressure`]).
//!
//! [`Pressure`]: crate::road::inside::Pressure

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Arrival;
use super::shown::{Peer, Shown};
use super::stream::Stream;
use super::terms::Terms;
use super::welcome::welcome;
use super::{greeting, intake};
use crate::broker::core::Shared;
use crate::config::plan::Anonymous;
use crate::model::certificate::NameFrom;
use crate::road::inside::{Visit, Visits};

/// Takes visits in until the end, each in a task of its own.
pub(super) async fn serve(mut visits: Visits, shared: Arc<Shared>, (tracker, end): (TaskTracker, CancellationToken)) {
    let places = intake::places(); // long packets of strangers do not hold up our own
    loop {
        let Visit { stream, pressure } = tokio::select! {
            () = end.cancelled() => return,
            visit = visits.recv() => match visit {
                Some(visit) => visit,
                None => return,
            },
        };
        shared.stats.connections.one();
        let mut arrival = Arrival {
            stream: Stream::layered(stream),
            shown: Shown { peer: Peer::Inside, certificate: None, sensor: None },
            anonymous: Anonymous::None,
            identity: NameFrom::default(),
            require_client_id: true,
            terms: Terms::inside(),
            shared: Arc::clone(&shared),
            places: Arc::clone(&places),
            closed: CancellationToken::new(), // never
            place: None,
            pressure: Some(pressure),
        };
        let end = end.clone();
        tracker.spawn(async move {
            let heard = tokio::select! {
                heard = greeting::hear(&mut arrival) => heard,
                () = end.cancelled() => None,
            };
            if let Some((connect, arrived)) = heard {
                welcome(arrival, connect, arrived).await;
            }
        });
    }
}
