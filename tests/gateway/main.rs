//! The whole program, from a config file to topics.

#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/cloud.rs"]
mod cloud;
#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/peers.rs"]
mod peers;

mod access;
mod attackers;
mod bridges;
mod commands;
mod conditions;
mod doors;
mod exchange;
mod lines;
mod local;
mod reload;
mod revised;
mod sparkplug;
mod upstream;
