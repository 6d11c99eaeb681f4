//! Profiles: register maps that several devices share, shipped in the binary or in files of the user.
//!
//! Shipped ones (`shipped`) are CSV, zero-based, with the source of the addresses in a comment. A map of
//! the user is a `.csv`, or a `.toml` with `[[tag]]` tables; its addresses are read in its own `address_style` if it
//! declares one, else in the style of the device that uses it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::csv::{self, Row};
use super::files;
use super::problem::{Finding, Findings, Unread};
use super::raw::{Node, Trail, Value};
use super::shipped;
use super::source::{At, Sources};

/// One register map, read but not checked.
#[derive(Debug)]
pub enum RegisterMap {
    /// From CSV; shipped ones are zero-based whatever the device says.
    Csv(Vec<Row>, Origin),
    /// From TOML: the tree of the file.
    Toml(Node),
}

/// Who wrote a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// We did.
    Shipped,
    /// The user did.
    User,
}

/// All maps that the devices of a configuration name.
#[derive(Debug, Default)]
pub struct Library {
    maps: HashMap<PathBuf, Option<RegisterMap>>,
    /// Which of them each `profile = …` means.
    meant: HashMap<At, PathBuf>,
}

impl Library {
    /// Reads every map that is named, each once.
    pub fn read(tree: &Node, sources: &mut Sources, findings: &Findings) -> Self {
        let mut library = Self::default();
        let Some(Value::List(devices)) = table_get(tree, "device").map(|node| &node.value) else {
            return library;
        };
        for (position, device) in devices.iter().enumerate() {
            let Some(Node { at, value: Value::Text(name) }) = table_get(device, "profile") else {
                continue;
            };
            let is_path = name.contains('/') || Path::new(name).extension().is_some();
            let path = if is_path {
                sources.path(at.file).parent().map(ToOwned::to_owned).unwrap_or_default().join(name)
            } else {
                PathBuf::from(format!("<shipped profile>/{name}.csv"))
            };
            if !library.maps.contains_key(&path) {
                let read = if is_path { user(&path, sources, findings) } else { ours(name, &path, sources, findings) };
                let read = read.map_err(|Unread { message, cause }| {
                    let trail = Trail::Key(&Trail::Root, "device");
                    let trail = Trail::Index(&trail, position);
                    let allowed =
                        "one that `ironbridge profiles` lists, or a path that ends with .csv or .toml".to_owned();
                    let finding = Finding::value(*at, Trail::Key(&trail, "profile"), message).allowed(allowed);
                    findings.report(finding.caused_by(cause));
                });
                library.maps.insert(path.clone(), read.ok().flatten());
            }
            library.meant.insert(*at, path);
        }
        library
    }

    /// Has the `profile` value at this place name a map that is given.
    pub fn put(&mut self, at: At, path: PathBuf, map: RegisterMap) {
        self.meant.insert(at, path.clone());
        self.maps.insert(path, Some(map));
    }

    /// The map that the `profile` value at this place names, if it could be read.
    pub fn get(&self, at: At) -> Option<&RegisterMap> {
        self.maps.get(self.meant.get(&at)?)?.as_ref()
    }
}

fn table_get<'a>(node: &'a Node, key: &str) -> Option<&'a Node> {
    match &node.value {
        Value::Table(table) => table.get(key),
        _ => None,
    }
}

type Read = Result<Option<RegisterMap>, Unread>;

fn ours(name: &str, path: &Path, sources: &mut Sources, findings: &Findings) -> Read {
    let text = shipped::find(name).map_err(Unread::wrong)?;
    Ok(read_csv(path, text.to_owned(), Origin::Shipped, sources, findings))
}

fn user(path: &Path, sources: &mut Sources, findings: &Findings) -> Read {
    let about = |Unread { message, cause }| {
        let message = format!("register map {}: {message}", path.display());
        Unread { message, cause }
    };
    let text = files::text_of(path, sources).map_err(about)?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => Ok(read_csv(path, text, Origin::User, sources, findings)),
        Some("toml") => Ok(files::take_in(path.to_owned(), text, sources, findings).map(RegisterMap::Toml)),
        _ => Err(Unread::wrong("a register map is a .csv or a .toml file")),
    }
}

fn read_csv(
    path: &Path,
    text: String,
    origin: Origin,
    sources: &mut Sources,
    findings: &Findings,
) -> Option<RegisterMap> {
    let Some(file) = sources.add(path.to_owned(), text) else {
        findings.unreadable(path.to_owned(), Unread::wrong("too many or too large register maps"));
        return None;
    };
    Some(RegisterMap::Csv(csv::read(file, sources.text(file), findings), origin))
}
