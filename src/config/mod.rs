//! From files to a [`plan::Plan`]: the checked, immutable configuration.
//!
//! ```text
//! files ──raw──> tree with places ──merge──> one tree ──check──> Plan, or all Problems
//!           csv, profile: register maps become the same tree
//! ```
//!
//! `files` reads the main file and `ironbridge.d/*.toml` · `raw` is the tree, `csv` and `profile` (those in the binary:
//! `shipped`) what register maps add to it · `schema` lists every key · `section` reads one table and reports what is wrong
//! with it, `units` what stands in a value, `nearest` what a mistyped word may have meant, `places` where a key belongs,
//! `slip` what no TOML at all may have meant · `check` gives each table its
//! meaning, `expression` reads formulas, `lines` the frames of instruments that speak no Modbus · `problem` and `source` tell
//! where · `plan` is what everybody else uses, `difference` what a changed one touches · `blocks` which wire reads follow
//! from it, `preset` what a cloud allows, `births` how large those of Sparkplug are, `forecast` and `wire` what it will cost ·
//! `exchange` takes tags out to CSV and back in, `sheet` is what the two forms have in common.
//!
//! Only `files` and `profile` touch the disk; nothing here reads the environment or a clock: [`HostFacts`] come from the
//! caller. Promises: all problems at once, never a panic on any text, never a key silently ignored.

use std::path::{Path, PathBuf};

pub mod births;
pub mod blocks;
mod check;
mod csv;
pub mod difference;
pub mod exchange;
pub mod expression;
mod files;
pub mod forecast;
pub mod lines;
mod nearest;
mod places;
pub mod plan;
pub mod preset;
pub mod problem;
pub mod profile;
mod raw;
pub mod schema;
mod section;
mod sheet;
pub mod shipped;
mod slip;
mod source;
pub mod units;
pub mod wire;

pub use check::{GATEWAY, MODBUS_PORT, modicon};
pub use csv::{cell::quoted, known as csv_known};
pub use files::is_hollow;
use plan::Plan;
use problem::Findings;
pub use problem::{Problem, Problems};
pub use source::Place;

/// What the caller knows about the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// For `{hostname}`.
    pub hostname: String,
    /// `$CREDENTIALS_DIRECTORY` of systemd, if set.
    pub credentials_dir: Option<PathBuf>,
}

/// A configuration that is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What it means.
    pub plan: Plan,
    /// The files it came from: the main file, fragments, register maps (shipped ones as `<shipped profile>/….csv`).
    pub files: Vec<PathBuf>,
}

/// A file and what it holds.
pub type Text = (PathBuf, String);

/// Is it of a file? A shipped register map is in the program; the next version may have other words in it.
pub fn is_of_file((path, _): &Text) -> bool {
    path.is_absolute()
}

/// Reads a configuration: the file, `ironbridge.d/*.toml` beside it, and the register maps they name.
pub fn load(path: &Path, facts: &HostFacts) -> Result<Loaded, Problems> {
    let findings = Findings::default();
    let set = files::read(path, &findings);
    check::all(set, facts, findings)
}

/// The same, and the texts of its files, so that somebody else can read it who cannot open them: see [`given`].
pub fn load_with_texts(path: &Path, facts: &HostFacts) -> Result<(Loaded, Vec<Text>), Problems> {
    let findings = Findings::default();
    let set = files::read(path, &findings);
    check::all_with_texts(set, facts, findings)
}

/// Reads a configuration out of texts that were read already; opens no file.
pub fn given(path: &Path, texts: Vec<Text>, facts: &HostFacts) -> Result<Loaded, Problems> {
    let findings = Findings::default();
    let set = files::from_texts(path, texts, &findings);
    check::all(set, facts, findings)
}

/// Reads a configuration from a text that stands (or would stand) at `path`; without `ironbridge.d`.
pub fn parse(text: &str, path: &Path, facts: &HostFacts) -> Result<Loaded, Problems> {
    let findings = Findings::default();
    let set = files::from_text(path, text, &findings);
    check::all(set, facts, findings)
}
