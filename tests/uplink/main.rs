//! The uplink: windows, budgets, ways, sessions.

#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/cloud.rs"]
mod cloud;
#[path = "../support/mosquitto.rs"]
mod foreign_broker;
#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/owed.rs"]
mod owed;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/toll_plant.rs"]
mod plant;
#[path = "../support/ports.rs"]
mod ports;
#[path = "../support/uplink_rig.rs"]
mod rig;
#[path = "../support/skip.rs"]
mod skip;
#[path = "../support/slow_link.rs"]
mod slow_link;
#[path = "../support/store.rs"]
mod store;
#[path = "../support/toll.rs"]
mod toll;

mod budget;
mod commands;
mod down;
mod forbidden;
mod from_store;
mod letters;
mod live_first;
mod mosquitto;
mod mqtt5;
mod presets;
mod session;
mod summary;
mod tls;
mod wire;
