//! Tags out of a configuration into CSV and back: what `tags export` and `tags import` do, without writing a file.
//!
//! ```text
//! export   configuration ──check──> Sheet ──> CSV            of one device a register map, of all with `device.` columns
//! import   CSV ──check in the place it goes to──> Sheet ──> TOML ──check again: the same plan?──> text to be written
//! ```
//!
//! Both promise the same: what comes out means exactly what went in, or there are problems and nothing comes out. The
//! second check is of the text itself, so a mistake in writing never reaches a file.
//!
//! `export` and `import` are the two ways · `whole` a file of all devices · `device` a device in the tree, `splice` its tags
//! in the text.

mod device;
mod export;
mod import;
mod splice;
mod whole;

use std::path::Path;

use super::HostFacts;
use super::check::{self, Whole};
use super::files::{Complete, FileSet};
use super::plan::Plan;
use super::problem::{Findings, Problem, Problems};
use super::profile::{Library, RegisterMap};
use super::raw::{Entry, Node, Value};
use super::source::{At, Sources};

pub use super::csv::cell::Decimal;
pub use export::{Exported, From, all_devices, one_device};
pub use import::{Changes, Imported, Source, into_config, of_text, to_file};

/// The words of `address_style`.
pub const STYLES: [&str; 3] = [check::STYLES[0].0, check::STYLES[1].0, check::STYLES[2].0];

/// Why nothing came out.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Something is wrong in a file; every problem is named with its place.
    #[error(transparent)]
    Problems(#[from] Problems),
    /// What was asked for is not there, or does not go together.
    #[error("{0}")]
    Asked(String),
    /// The configuration is right, but written in a way that cannot be changed in place.
    #[error("{0}")]
    Shape(String),
    /// The text that was made does not mean what it should: a fault of ours, and nothing was written.
    #[error("{0}")]
    Internal(String),
}

/// A configuration on its way: files, tree, register maps, and what is wrong so far.
struct Draft {
    sources: Sources,
    tree: Node,
    library: Library,
    complete: Complete,
    findings: Findings,
}

impl Draft {
    /// Takes files in with the maps they name.
    fn of(set: FileSet, findings: Findings) -> Self {
        let FileSet { mut sources, tree, complete } = set;
        let library = Library::read(&tree, &mut sources, &findings);
        Self { sources, tree, library, complete, findings }
    }

    /// Gives a device these tags and no others.
    fn set_tags(&mut self, device: usize, at: At, tags: Vec<Node>) {
        if let Some(table) = device::table_mut(&mut self.tree, device) {
            device::strip(table);
            let node = Node { at, value: Value::List(tags) };
            table.entries.push(Entry { key: "tag".to_owned(), key_at: at, node });
        }
    }

    /// Gives a device the tags of this map and no others.
    fn set_map(&mut self, device: usize, at: At, map: RegisterMap) {
        let path = self.sources.path(at.file).to_owned();
        if let Some(table) = device::table_mut(&mut self.tree, device) {
            device::strip(table);
            let node = Node { at, value: Value::Text(String::new()) };
            table.entries.push(Entry { key: "profile".to_owned(), key_at: at, node });
            self.library.put(at, path, map);
        }
    }

    fn check(&self, facts: &HostFacts) -> Option<Plan> {
        let whole = Whole { tree: &self.tree, sources: &self.sources, library: &self.library, complete: self.complete };
        check::plan(whole, facts, &self.findings)
    }

    /// The plan, or everything that is wrong.
    fn finish(self, facts: &HostFacts) -> Result<Plan, Problems> {
        let plan = self.check(facts);
        match (self.findings.finish(&self.sources), plan) {
            (None, Some(plan)) => Ok(plan),
            (Some(problems), _) => Err(problems),
            (None, None) => unreachable!("a plan is missing only where a problem was reported"),
        }
    }
}

/// `device[0].tag[3].address` is a place in TOML; in CSV it is a row and a column.
fn path_in_csv(problem: &Problem, csv: &Path) -> Option<String> {
    let place = problem.place.as_ref().filter(|place| place.file == csv)?;
    let rest = problem.path.strip_prefix("device[")?;
    let (_, key) = rest.split_once("].")?;
    let column = match key.strip_prefix("tag[").and_then(|tag| tag.split_once("].")) {
        Some((_, key)) => key.to_owned(),
        None => format!("device.{key}"),
    };
    Some(format!("row {}, column {column}", place.line))
}
