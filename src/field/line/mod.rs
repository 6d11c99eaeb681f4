//! Instruments that speak in lines or small frames of their own: scales, GPS receivers, flow meters, barcode readers.
//!
//! `talk` owns the wire, and takes frames out of its bytes · `bus` asks or listens · `outcome` is what answers, silence
//! and a lost connection lead to · `owed` which answers may still come · `rounds` what is done every ten seconds ·
//! `switches` what a person asked for. What a frame is and says: [`crate::config::lines`].
//!
//! Promises: noise costs frames, never a wrong value and never memory; a frame with a wrong checksum, or one that no
//! pattern fits, is counted and nothing else; in poll mode an answer that came too late is over before the next question
//! goes out, or is told from the answer to it, or that one goes out on another connection. What the room does not do:
//! write. Tags of a line bus are read-only.

pub mod bus;
mod outcome;
mod owed;
mod rounds;
mod switches;
mod talk;

pub use bus::LineBus;
