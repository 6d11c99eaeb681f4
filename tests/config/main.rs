//! The configuration: what is read, meant, refused.

#[path = "../support/config.rs"]
mod support;

mod bridges;
mod check;
mod exchange;
mod files;
mod layout;
mod meaning;
mod profiles;
mod properties;
mod shipped;
mod sunspec;
mod wrong;
mod wrong_devices;
mod wrong_doors;
mod wrong_lines;
mod wrong_uplinks;
