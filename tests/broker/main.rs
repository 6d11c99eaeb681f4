//! The embedded broker, spoken to over real sockets.

#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/gateway.rs"]
mod gateway;
use gateway::mqtt as support;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/ports.rs"]
mod ports;
#[path = "../support/skip.rs"]
mod skip;
#[path = "../support/strace.rs"]
mod strace;

mod access;
mod commands;
mod doors;
mod faults;
mod forbidden;
mod goodbye;
mod greedy;
mod hostile;
mod kill;
mod lasting;
mod logins;
mod long;
mod passed_on;
mod places;
mod protocol;
mod retained;
mod sessions;
mod statements;
mod terms;
mod tls;
