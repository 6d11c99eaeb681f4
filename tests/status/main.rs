//! The status page of a real gateway, asked over real connections.

#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/gateway.rs"]
mod gateway;

mod health;
mod metrics;
mod web;
