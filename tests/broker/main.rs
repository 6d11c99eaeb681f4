//! The embedded broker, spoken to over real sockets.

#[path = "../support/broker.rs"]
mod support;

mod access;
mod commands;
mod greedy;
mod hostile;
mod logins;
mod protocol;
mod retained;
mod sessions;
