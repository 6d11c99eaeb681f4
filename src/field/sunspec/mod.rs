//! SunSpec: where a device has put its models, and reading them without ever taking another register for one of theirs.
//!
//! Addresses in a model (`crate::model::sunspec`) say what is wanted, not where it is. `walk` asks a device for its chain, `chain`
//! is what was found, `discovery` says when it must be looked for again, `guarded` reads with a look at the model's header, so
//! that a chain that has moved shows before a value of it is believed. Walk, chain and discovery are pure; `field::models`
//! is what a lane does with them, and the commands `read` and `write` do the same in small.
//!
//! What the room promises: a value from a model was read together with that model's number and length, at one place, or
//! between two looks at them; when either is not what the walk found, nothing of the reading is used.

pub mod chain;
pub mod discovery;
pub mod guarded;
pub mod walk;
