//! The whole program, from a config file to topics.

#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/cloud.rs"]
mod cloud;
#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/mosquitto.rs"]
mod mosquitto;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/peers.rs"]
mod peers;
#[path = "../support/ports.rs"]
mod ports;
#[path = "../support/skip.rs"]
mod skip;
#[path = "../support/strace.rs"]
mod strace;

mod access;
mod attackers;
mod bridges;
mod commands;
mod conditions;
mod doors;
mod exchange;
mod lines;
mod local;
mod lone;
mod reload;
mod revised;
mod sparkplug;
mod unread;
mod upstream;
