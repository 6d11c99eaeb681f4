//! Instruments that speak in lines or small frames of their own: scales, GPS receivers, flow meters, barcode readers.
//!
//! Bytes → `framer` (where a frame begins and ends) → `checksum` → `reader` (groups of a pattern become values, a status text a
//! quality) → the bus in `bus`, which owns the wire, asks or listens, and sends on what came of it. All but `bus` is pure.
//!
//! Promises: noise costs frames, never a wrong value and never memory; a frame with a wrong checksum, or one that no
//! pattern fits, is counted and nothing else; in poll mode an answer that came too late is over before the next question
//! goes out. What the room does not do: write. Tags of a line bus are read-only.

pub mod bus;
pub mod checksum;
pub mod framer;
pub mod reader;
mod talk;

pub use bus::LineBus;
