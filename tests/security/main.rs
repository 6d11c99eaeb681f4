//! The security baseline: what README.md beside this file promises row by row, and the tests that are only about it.

#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/ports.rs"]
mod ports;

mod canary;
mod old_tls;
mod reset;
mod table;
