//! A CSV file with `device.` columns: rows become devices with their keys and tags.
//!
//! The name of the device stands in every row or only in its first one; its other keys in any of its rows, at best in the
//! first. A row without a tag is a device that has none of its own.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::HostFacts;
use super::super::csv::cell::{Decimal, quoted};
use super::super::csv::columns::{Column, Owner, Scope};
use super::super::csv::{self, Filled, Lines, Written};
use super::super::files::{self, Complete, FileSet};
use super::super::problem::{Finding, Findings};
use super::super::raw::{Entry, Node, Trail, Value};
use super::super::sheet::{Form, Line, Part, Sheet};
use super::super::source::{At, FileIx};
use super::import::{Imported, Source};
use super::{Draft, Refused, path_in_csv};

const MODBUS: &str = "type = \"modbus-tcp\"\n";
const ASKED: &str = "type = \"line\"\nmode = \"poll\"\nframe_end = \"\\n\"\n";
const HEARD: &str = "type = \"line\"\nmode = \"listen\"\nframe_end = \"\\n\"\n";

/// The rows of one device.
struct Group<'a> {
    name: &'a str,
    at: At,
    cells: Vec<&'a Filled>,
    rows: Vec<&'a Written>,
}

/// Makes a file of `[[device]]`s; their buses are checked where the file is used.
pub fn devices_to_file(csv: Source<'_>, text: String, out: &Path, facts: &HostFacts) -> Result<Imported, Refused> {
    let findings = Findings::default();
    let base = buses(&text);
    let mut set = FileSet { complete: Complete::No, ..files::from_text(out, &base, &findings) };
    let Some(file) = set.sources.add(csv.path.to_owned(), text) else {
        return Err(Refused::Asked(format!("{} is too large", csv.path.display())));
    };
    let lines = csv::lines(file, set.sources.text(file), Scope::Devices, csv.decimal, &findings);
    let groups = groups(&lines, &findings);
    if let Value::Table(root) = &mut set.tree.value {
        let at = At { file, start: 0, end: 0 };
        let devices = Value::List(groups.iter().map(Group::node).collect());
        root.entries.push(Entry { key: "device".to_owned(), key_at: at, node: Node { at, value: devices } });
    }
    let checked = Draft::of(set, findings).finish(facts);
    let plan = checked.map_err(|problems| problems.renamed(|problem| path_in_csv(problem, csv.path)))?;
    let parts = groups.iter().map(Group::part).collect();
    let toml = Sheet { head: lines.head.clone(), parts, tail: lines.tail.clone() }.to_toml(Form::Devices);
    let findings = Findings::default();
    let written = FileSet { complete: Complete::No, ..files::from_text(out, &format!("{base}{toml}"), &findings) };
    // What may be wrong now is a profile that lies beside the one file and not beside the other.
    if Draft::of(written, findings).finish(facts)? != plan {
        return Err(Refused::Internal("the TOML that came out means something else than the CSV".to_owned()));
    }
    Ok(Imported { path: None, toml, tags: plan.tags.len(), changes: None })
}

/// Buses of the names that the devices use, so that these can be checked without them: of type `line` where a device says
/// what it understands, else Modbus.
fn buses(text: &str) -> String {
    let lines = csv::lines(FileIx(0), text, Scope::Devices, Decimal::Point, &Findings::default());
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    // Rows after the first one of a device may leave the bus out; a pattern stands beside it.
    for row in &lines.rows {
        let Some(bus) = device_cell(row, "bus") else { continue };
        let kind = match (device_cell(row, "match"), device_cell(row, "send")) {
            (None, _) => MODBUS,
            (Some(_), Some(_)) => ASKED,
            (Some(_), None) => HEARD,
        };
        let known = kinds.entry(&bus.text).or_insert(kind);
        if *known == MODBUS {
            *known = kind;
        }
    }
    let bus =
        |(name, kind): (&&str, &&str)| format!("[[bus]]\nname = {}\nendpoint = \"localhost:1\"\n{kind}", quoted(name));
    format!("[gateway]\nname = \"import\"\n{}", kinds.iter().map(bus).collect::<String>())
}

fn device_cell<'a>(row: &'a Written, key: &str) -> Option<&'a Filled> {
    let is = |column: &Column| column.owner == Owner::Device && column.table.is_none() && column.key.name == key;
    row.cells.iter().find(|cell| is(&cell.column))
}

fn groups<'a>(lines: &'a Lines, findings: &Findings) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut current = None;
    for row in &lines.rows {
        if let Some(cell) = device_cell(row, "name") {
            let found = groups.iter().position(|group| group.name == cell.text);
            current = Some(found.unwrap_or(groups.len()));
            if found.is_none() {
                groups.push(Group { name: &cell.text, at: row.at, cells: Vec::new(), rows: Vec::new() });
            }
        }
        let trail = Trail::Row(row.line);
        let Some(group) = current.and_then(|at| groups.get_mut(at)) else {
            let message = "is missing: the first row says which device it belongs to";
            findings.report(Finding::line(row.at, Trail::Key(&trail, "device.name"), message));
            continue;
        };
        for cell in row.cells.iter().filter(|cell| cell.column.owner == Owner::Device) {
            match group.cells.iter().find(|known| known.column == cell.column) {
                None => group.cells.push(cell),
                Some(known) if known.text == cell.text => {}
                Some(known) => {
                    let message = "another row of this device says something else";
                    let path = Trail::Key(&trail, &cell.column.name());
                    findings.report(Finding::value(cell.at, path, message).also(known.at));
                }
            }
        }
        group.rows.push(row);
    }
    groups
}

impl Group<'_> {
    fn with_tag(&self) -> impl Iterator<Item = &Written> {
        let has_tag = |row: &&&Written| row.cells.iter().any(|cell| cell.column.owner == Owner::Tag);
        self.rows.iter().filter(has_tag).copied()
    }

    fn node(&self) -> Node {
        let mut node = csv::table(self.at, self.cells.iter().copied());
        if let Value::Table(table) = &mut node.value {
            let tags: Vec<Node> = self.with_tag().map(Written::node).collect();
            let tags = Node { at: self.at, value: Value::List(tags) };
            table.entries.push(Entry { key: "tag".to_owned(), key_at: self.at, node: tags });
        }
        node
    }

    /// What stands above the first row stands above the device.
    fn part(&self) -> Part {
        let cells = self.cells.iter().map(|cell| (cell.column, cell.text.clone())).collect();
        let comments = self.rows.first().map(|row| row.comments.clone()).unwrap_or_default();
        let line = |row: &Written| {
            let is_first = row.at == self.at;
            Line { comments: if is_first { Vec::new() } else { row.comments.clone() }, ..Line::of(row) }
        };
        Part { comments, cells, lines: self.with_tag().map(line).collect() }
    }
}
