//! The embedded broker, spoken to over real sockets.

#[path = "../support/broker.rs"]
mod support;

mod access;
mod commands;
mod forbidden;
mod greedy;
mod hostile;
mod lasting;
mod logins;
mod protocol;
mod retained;
mod sessions;
mod statements;
