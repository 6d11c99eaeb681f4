//! The embedded broker, spoken to over real sockets.

#[path = "../support/broker.rs"]
mod support;

mod commands;
mod greedy;
mod hostile;
mod protocol;
mod retained;
mod sessions;
