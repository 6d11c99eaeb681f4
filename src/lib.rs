//! Ironbridge: the tour. (Written in full with the first release of the spine.)

pub mod access;
pub mod app;
pub mod broker;
pub mod commands;
pub mod config;
pub mod disk;
pub mod field;
pub mod flow;
pub mod host;
pub mod model;
pub mod payload;
pub mod pipeline;
pub mod plant;
pub mod receive;
pub mod road;
pub mod store;
pub mod uplink;
