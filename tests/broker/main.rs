//! The embedded broker, spoken to over real sockets.

#[path = "../support/gateway.rs"]
mod gateway;
use gateway::mqtt as support;
#[path = "../support/strace.rs"]
mod strace;

mod commands;
mod faults;
mod greedy;
mod hostile;
mod kill;
mod protocol;
mod retained;
mod sessions;
