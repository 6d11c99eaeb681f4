//! The status page of a real gateway, asked over real connections.

#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/ports.rs"]
mod ports;

mod bus_certificates;
mod certificates;
mod health;
mod login;
mod metrics;
mod operate;
mod page;
mod visit;
mod web;
