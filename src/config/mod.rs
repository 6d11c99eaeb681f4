//! From files to a [`plan::Plan`]: the checked, immutable configuration.
//!
//! Two jumps: `raw` mirrors the TOML of the contract with the place of every value; `check` turns it into the plan or
//! into *all* problems, each with file, line, column, path, value and allowed range.

pub mod blocks;
pub mod plan;
