//! How the files of an uplink stand, before there is one: for `ironbridge check`.

use std::path::PathBuf;

use crate::config::plan::UplinkPlan;
use crate::config::preset;
use crate::flow::clock::Clock;
use crate::road::destination::RoadError;
use crate::road::{Now, Road};

use super::azure::{Device, Pass};
use super::destinations::destinations;

/// What would disable this uplink as its files are now: `ca_file`, certificate and key, passwords. Nothing is sent.
pub async fn disabled_by(plan: &UplinkPlan, clock: &Clock) -> Option<String> {
    let servers = destinations(plan, preset::limits(plan.preset).alpn_on_443);
    let host = servers.first().map_or_else(String::new, |server| server.host.clone());
    let proxy = servers.first().and_then(|server| server.proxy.clone());
    if let Some(secure) = servers.into_iter().find(|server| server.tls.is_some()) {
        let dates = clock.clone();
        let files = Road::new(secure, Now::new(move || dates.date_now()), PathBuf::new()).files().await;
        if files.fault.is_some() {
            return files.fault;
        }
    }
    let pass = Pass::get(plan, Device::new(plan).as_ref(), &host, clock).await.map(drop);
    let through = match proxy {
        Some(proxy) => proxy.login.read().await.map(drop),
        None => Ok(()),
    };
    match pass.and(through) {
        Err(RoadError::Disabled(why)) => Some(why),
        _ => None,
    }
}
