//! Payload formats, one file each; encoding happens late, when something is about to be sent.
//!
//! `json` is the only one of this version (`batch` and `sparkplug` come with later ones).

pub mod json;
pub mod table;
