//! From CSV to TOML: a register map or devices of their own, or the tags of a device in a configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::HostFacts;
use super::super::csv::cell::{Decimal, quoted};
use super::super::csv::columns::{Owner, Scope};
use super::super::csv::{self, Written};
use super::super::files::{self, Complete, FileSet};
use super::super::plan::{self, Plan, TagPlan};
use super::super::problem::{Findings, Problems, Unread};
use super::super::profile::RegisterMap;
use super::super::sheet::{Form, Sheet};
use super::super::source::{At, FileIx, Sources};
use super::{Draft, Refused, device, path_in_csv, splice, whole};

/// A CSV file to be read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// How its numbers are written.
    pub decimal: Decimal,
}

/// A TOML file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The file whose text this is to be; `None` where the caller says which.
    pub path: Option<PathBuf>,
    /// The text.
    pub toml: String,
    /// How many tags the CSV has.
    pub tags: usize,
    /// What becomes different in a configuration that was right before.
    pub changes: Option<Changes>,
}

/// Names of tags.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// New ones.
    pub added: Vec<String>,
    /// Those that mean something else now.
    pub changed: Vec<String>,
    /// Of these, where the ones stand that are read elsewhere now: `speed: holding:7 -> holding:8`.
    pub moved: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
}

/// A device to check a register map with, on its own.
const ANY_DEVICE: &str = "[gateway]\nname = \"import\"\n[[bus]]\nname = \"bus\"\ntype = \"modbus-tcp\"\nendpoint = \"localhost\"\n\
                          [[device]]\nname = \"device\"\nbus = \"bus\"\nunit_id = 1\n";

/// Makes a file of its own, `out`: a register map with `[[tag]]`s, or `[[device]]`s if the CSV has `device.` columns.
pub fn to_file(csv: Source<'_>, style: Option<&str>, out: &Path, facts: &HostFacts) -> Result<Imported, Refused> {
    of_text(csv, read_text(csv.path)?, style, out, facts)
}

/// The same for a text that stands (or would stand) in the file.
pub fn of_text(
    csv: Source<'_>,
    text: String,
    style: Option<&str>,
    out: &Path,
    facts: &HostFacts,
) -> Result<Imported, Refused> {
    match scope_of(&text) {
        Scope::Map => map_to_file(csv, text, style, out, facts),
        Scope::Devices if style.is_some() => Err(Refused::Asked(
            "this file has devices of its own: their style stands in its column device.address_style".to_owned(),
        )),
        Scope::Devices => whole::devices_to_file(csv, text, out, facts),
    }
}

fn read_text(path: &Path) -> Result<String, Refused> {
    files::read_text(path).map_err(|unread| {
        let findings = Findings::default();
        findings.unreadable(path.to_owned(), unread);
        match findings.finish(&Sources::default()) {
            Some(problems) => Refused::Problems(problems),
            None => Refused::Internal("a file that cannot be read has no problem".to_owned()),
        }
    })
}

fn scope_of(text: &str) -> Scope {
    let lines = csv::lines(FileIx(0), text, Scope::Devices, Decimal::Point, &Findings::default());
    let has_devices = lines.columns.iter().any(|column| column.owner == Owner::Device);
    if has_devices { Scope::Devices } else { Scope::Map }
}

/// Gives a device the tags of a CSV file, and the file as it was written.
fn take_over(draft: &mut Draft, device: usize, csv: Source<'_>, text: String) -> Sheet {
    let Some(file) = draft.sources.add(csv.path.to_owned(), text) else {
        draft.findings.unreadable(csv.path.to_owned(), Unread::wrong("is too large"));
        return Sheet::default();
    };
    let lines = csv::lines(file, draft.sources.text(file), Scope::Map, csv.decimal, &draft.findings);
    let tags = lines.rows.iter().map(Written::node).collect();
    draft.set_tags(device, At { file, start: 0, end: 0 }, tags);
    Sheet::of_map(&lines)
}

fn map_to_file(
    csv: Source<'_>,
    text: String,
    style: Option<&str>,
    out: &Path,
    facts: &HostFacts,
) -> Result<Imported, Refused> {
    let with_style = |style: &str| format!("{ANY_DEVICE}address_style = {}\n", quoted(style));
    let base = style.map_or_else(|| ANY_DEVICE.to_owned(), with_style);
    let draft = |findings: Findings| Draft::of(files::from_text(out, &base, &findings), findings);
    let mut with_csv = draft(Findings::default());
    let sheet = take_over(&mut with_csv, 0, csv, text);
    let plan = with_csv.finish(facts).map_err(|problems| problems.renamed(|problem| path_in_csv(problem, csv.path)))?;
    let toml = sheet.to_toml(Form::Map(style));
    let mut with_toml = draft(Findings::default());
    if let Some(tree) = files::take_in(out.to_owned(), toml.clone(), &mut with_toml.sources, &with_toml.findings) {
        with_toml.set_map(0, tree.at, RegisterMap::Toml(tree));
    }
    same(&plan, with_toml.finish(facts))?;
    Ok(Imported { path: None, toml, tags: plan.tags.len(), changes: None })
}

/// Did the text come out as what went in?
fn same(expected: &Plan, found: Result<Plan, Problems>) -> Result<(), Refused> {
    match found {
        Ok(found) if found == *expected => Ok(()),
        Ok(_) => Err(Refused::Internal("the TOML that came out means something else than the CSV".to_owned())),
        Err(problems) => Err(Refused::Internal(format!("the TOML that came out is wrong: {problems}"))),
    }
}

/// Replaces the tags of a device of a configuration by those of a CSV file, its profile included.
pub fn into_config(csv: Source<'_>, config: &Path, name: &str, facts: &HostFacts) -> Result<Imported, Refused> {
    let text = read_text(csv.path)?;
    if scope_of(&text) == Scope::Devices {
        return Err(Refused::Asked(
            "this file has devices of its own (columns that begin with device.): import it without --device".to_owned(),
        ));
    }
    let findings = Findings::default();
    let FileSet { sources, mut tree, complete } = files::read(config, &findings);
    let ix = match device::find(&tree, name) {
        Ok(ix) => ix,
        // It may stand in the file that is no TOML.
        Err(refused) if complete == Complete::Yes => return Err(refused),
        Err(_) => {
            return Draft::of(FileSet { sources, tree, complete }, findings).finish(facts).map_or_else(
                |problems| Err(problems.into()),
                |_| Err(Refused::Internal("a file that cannot be read has no problem".to_owned())),
            );
        }
    };
    let original = device::all(&tree)[ix].clone();
    let outline = splice::outline(&tree, &original, &sources);
    if let Some(table) = device::table_mut(&mut tree, ix) {
        device::strip(table);
    }
    let mut draft = Draft::of(FileSet { sources, tree, complete }, findings);
    let mut sheet = take_over(&mut draft, ix, csv, text);
    let target = draft.sources.path(original.at.file).to_owned();
    let before = draft.sources.text(original.at.file).to_owned();
    let plan = draft.finish(facts).map_err(|problems| problems.renamed(|problem| path_in_csv(problem, csv.path)))?;
    let outline = outline?;
    sheet.parts.iter_mut().for_each(|part| outline.keep(&mut part.lines));
    let toml = outline.with_tags(&before, &sheet.to_toml(Form::Tags));
    let findings = Findings::default();
    let draft = files::Draft { path: &target, text: &toml };
    let set = files::read_with(config, Some(draft), &findings);
    same(&plan, Draft::of(set, findings).finish(facts))?;
    let old = super::super::load(config, facts).ok().map(|loaded| loaded.plan);
    let changes = old.map(|old| changes(&old, &plan, ix));
    Ok(Imported { path: Some(target), toml, tags: tags(&plan, ix).len(), changes })
}

fn tags(plan: &Plan, device: usize) -> &[TagPlan] {
    plan.devices.get(device).and_then(|device| plan.tags.get(device.tags.clone())).unwrap_or_default()
}

/// What a tag means, wherever the others stand: they are named instead of numbered.
fn meaning<'a>(plan: &'a Plan, tag: &TagPlan) -> (TagPlan, Option<&'a str>) {
    let scale_from = tag.scale_from.and_then(|ix| plan.tag(ix)).map(|tag| tag.name.as_str());
    let mut tag = TagPlan { scale_from: None, ..tag.clone() };
    if let plan::Source::Derived(derivation) = &mut tag.source {
        derivation.inputs.clear(); // its text has their names
    }
    (tag, scale_from)
}

fn changes(old: &Plan, new: &Plan, device: usize) -> Changes {
    let mut before: BTreeMap<&str, &TagPlan> = tags(old, device).iter().map(|tag| (tag.name.as_str(), tag)).collect();
    let mut changes = Changes::default();
    for tag in tags(new, device) {
        match before.remove(tag.name.as_str()) {
            None => changes.added.push(tag.name.clone()),
            Some(before) if meaning(old, before) != meaning(new, tag) => {
                changes.changed.push(tag.name.clone());
                if let (Some(from), Some(to)) = (before.register(), tag.register())
                    && from != to
                {
                    changes.moved.push(format!("{}: {from} -> {to}", tag.name));
                }
            }
            Some(_) => {}
        }
    }
    let gone = tags(old, device).iter().filter(|tag| before.contains_key(tag.name.as_str()));
    changes.removed = gone.map(|tag| tag.name.clone()).collect();
    changes
}
