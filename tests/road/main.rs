//! The way to a broker: TLS, proxies, meters.

#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/cloud.rs"]
mod cloud;
#[path = "../support/far.rs"]
mod far;
#[path = "../support/owed.rs"]
mod owed;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/ports.rs"]
mod ports;
#[path = "../support/uplink_rig.rs"]
mod rig;
#[path = "../support/skip.rs"]
mod skip;

mod meter;
mod renewal;
mod uplink;
mod way;
