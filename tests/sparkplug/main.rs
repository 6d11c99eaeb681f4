//! The gateway as an edge node of Sparkplug B 3.0, before a host and broker that misbehave on command.
//!
//! `checklist.csv` has the requirements of the specification by their ids; each test names those it covers, and
//! `checklist.md` is made of that: `IRONBRIDGE_WRITE=1 cargo test --test sparkplug checklist`.

#[path = "../support/gateway.rs"]
mod gateway;
mod host;
mod law;
mod payload;

mod births;
mod checklist;
mod commands;
mod data;
mod hour;
mod local;
mod outage;
#[path = "../support/patience.rs"]
mod patience;
mod primary;
mod scan;
mod slow;
#[path = "../support/slow_link.rs"]
mod slow_link;
mod thin;
