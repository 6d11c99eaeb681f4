//! The consumer side.

#[path = "../support/cloud.rs"]
mod cloud;
#[path = "../support/owed.rs"]
mod owed;
#[path = "../support/uplink_rig.rs"]
mod rig;

mod command;
mod database;
mod share;
