//! Frames of instruments that speak in lines of their own, as a plan describes them: found in a stream, built, and read.
//!
//! `framer` finds frames in bytes, `checksum` says whether they are whole, `reader` what they say of the tags; `compose` goes
//! the other way, and `example` is what a configuration shows of an instrument's words. Pure; `check` proves examples with it,
//! the field room reads with it, the simulated plant speaks with it.

pub mod checksum;
pub mod compose;
pub mod example;
pub mod framer;
pub mod reader;

pub use framer::{Framer, Heard};
pub use reader::{Reader, Reading};
