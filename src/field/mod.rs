//! The field: one task per bus polls its devices, turns what they say into samples and writes what it is told to.
//!
//! Data: `schedule` says which poll is next → `driver` reads its block over `modbus` and a `carrier` → `tags` makes
//! samples of it → `flow::hub`. Around it: `standing` (answering, suspect, down) keeps a dead device from slowing its
//! neighbours, `devices` holds what is known of each, `command` carries out one write, `connection` is opened and
//! opened again, `backoff` says when, `stats` counts, `outlet` sends on, `spread` how long answers take, `think`
//! which holes are worth reading over, `overload` whether there is more work than time, `memory` what is wanted
//! again after a restart, `switches` what a person asks of a device, `pauses` which are left alone, `sunspec` where
//! a device has its models (`models`: the lane's part of it). A `bus` has a `lane` for each of its connections, the
//! loop that feeds them all, and `certificates` beside them where it speaks TLS; its
//! `envoy` speaks for the devices behind it, `outcome` is what its requests lead to,
//! `rounds` what it does every ten seconds, `refusals` what a device refuses, `adopt` how it goes on with other
//! devices after a reload. Schedule, standing, backoff, spread, think, overload and the frames of Modbus are pure.
//! Instruments that speak no Modbus have a bus of their own in `line`; `kind` chooses. `derived` works out what
//! follows from others' tags.
//!
//! What the room promises: a value with quality good is what the device said, in answer to this very question; a
//! failure is a quality, never a zero or an old value; a dead device costs its neighbours nothing worth measuring.
//! What it does not do: decide who may write what (the app's router), publish, store, or say what the time is.

mod adopt;
pub mod backoff;
pub mod bus;
pub mod carrier;
mod certificates;
pub mod command;
mod connection;
pub mod derived;
pub mod devices;
pub mod driver;
mod envoy;
pub mod kind;
mod lane;
pub mod line;
pub mod memory;
pub mod modbus;
mod models;
mod outcome;
mod outlet;
pub mod overload;
pub mod pauses;
mod refusals;
mod rounds;
pub mod schedule;
pub mod spread;
pub mod standing;
pub mod stats;
pub mod sunspec;
pub mod switches;
pub mod tags;
pub mod think;

pub use adopt::{Plans, can_follow};
pub use bus::{Bus, BusHandle, Shared};
pub use certificates::certificate_subject;
pub use command::FieldCommand;
pub use derived::DerivedTags;
pub use kind::AnyBus;
pub use lane::turn_max;
pub use pauses::Pauses;
pub use stats::BusStats;
pub use switches::Switches;
