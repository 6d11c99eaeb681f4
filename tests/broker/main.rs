//! The embedded broker, spoken to over real sockets.

#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/broker.rs"]
mod support;

mod commands;
mod doors;
mod greedy;
mod hostile;
mod protocol;
mod retained;
mod sessions;
mod tls;
