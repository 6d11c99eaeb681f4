//! The consumer side.

#[path = "../support/cloud.rs"]
mod cloud;
#[path = "../support/mosquitto.rs"]
mod mosquitto;
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

mod command;
mod database;
mod share;
