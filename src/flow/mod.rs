//! How things move between rooms: every channel of the house is made here, bounded, with a rule for "full".
//!
//! `hub` forks samples into the live and the durable lane (what that has no room for: `spill`) · `latest` is the live
//! lane (newest wins), `alarms` that of alarms · `command` is the one road for a command, from broker, uplink or page ·
//! `operate` that of a wish to pause or poll a device · `forward` that of clients' messages into the stores · `notice`
//! what a room wants the operator to know · `progress` who is stuck · `clock` is the handle that rooms take instead of
//! asking the system · `timer` wakes to fractions of a millisecond · `stop` tells sources to end (everyone else ends
//! when the channel in front closes).

pub mod alarms;
pub mod clock;
pub mod command;
pub mod forward;
pub mod hub;
pub mod latest;
pub mod notice;
pub mod operate;
pub mod progress;
mod spill;
pub mod stop;
pub mod timer;
