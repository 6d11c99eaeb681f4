//! From a configuration to CSV: one device as a register map, or all devices.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::check::{STYLES, Style, parse_field, restyled};
use super::super::csv::cell::Decimal;
use super::super::csv::columns::Scope;
use super::super::files;
use super::super::problem::Findings;
use super::super::profile::{Origin, RegisterMap};
use super::super::raw::{Node, Value};
use super::super::sheet::{self, Dialect, Layout, Line, Part, Sheet};
use super::super::source::FileIx;
use super::super::{HostFacts, csv};
use super::{Draft, Refused, device};

/// A CSV file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Its text.
    pub csv: String,
    /// How many tags are in it.
    pub tags: usize,
    /// How many devices.
    pub devices: usize,
}

/// Where a configuration is.
#[derive(Debug, Clone, Copy)]
pub enum From<'a> {
    /// In a file, with `ironbridge.d` beside it.
    File(&'a Path),
    /// In a text that stands (or would stand) in this file.
    Text(&'a Path, &'a str),
}

fn read(config: From<'_>, facts: &HostFacts) -> Result<Draft, Refused> {
    let findings = Findings::default();
    let set = match config {
        From::File(path) => files::read(path, &findings),
        From::Text(path, text) => files::from_text(path, text, &findings),
    };
    let draft = Draft::of(set, findings);
    draft.check(facts);
    if draft.findings.none() {
        return Ok(draft);
    }
    match draft.finish(facts) {
        Err(problems) => Err(problems.into()),
        Ok(_) => Err(Refused::Internal("a problem went away when it was looked at again".to_owned())),
    }
}

/// All tags of a device as a register map: those of its profile too, addresses in the device's style.
pub fn one_device(config: From<'_>, name: &str, decimal: Decimal, facts: &HostFacts) -> Result<Exported, Refused> {
    let draft = read(config, facts)?;
    let node = &device::all(&draft.tree)[device::find(&draft.tree, name)?];
    let style = style_of(node).unwrap_or(Style::ZeroBased);
    let mut sheet = map_of(&draft, node, style);
    let part = &mut sheet.parts[0];
    let tags = tags_of(node);
    let layout = Layout::of(&draft.tree, node.at.file, &draft.sources);
    if let Some(first) = sheet::tag_headers(node, &draft.sources).and_then(sheet::first_tag) {
        sheet.head.extend(layout.above(first).head);
    }
    part.lines.extend(tags.iter().map(|tag| sheet::line(tag, &draft.sources, &layout)));
    let tags = part.lines.len();
    Ok(Exported { csv: sheet.to_csv(Scope::Map, Dialect { decimal }), tags, devices: 1 })
}

/// All devices as they are written: their keys in `device.` columns, their own tags, their profiles by name.
pub fn all_devices(config: From<'_>, decimal: Decimal, facts: &HostFacts) -> Result<Exported, Refused> {
    let draft = read(config, facts)?;
    let sources = &draft.sources;
    let mut layouts: BTreeMap<FileIx, Layout<'_>> = BTreeMap::new();
    let part = |node: &Node| {
        let file = node.at.file;
        let layout = layouts.entry(file).or_insert_with(|| Layout::of(&draft.tree, file, sources));
        let is_header = sources.excerpt(node.at).starts_with('[');
        Part {
            comments: if is_header { layout.above(node.at.start as usize).comments } else { Vec::new() },
            cells: sheet::device_cells(node, sources),
            lines: tags_of(node).iter().map(|tag| sheet::line(tag, sources, layout)).collect(),
        }
    };
    let parts: Vec<Part> = device::all(&draft.tree).iter().map(part).collect();
    let (devices, tags) = (parts.len(), parts.iter().map(|part| part.lines.len()).sum());
    let sheet = Sheet { parts, ..Sheet::default() };
    Ok(Exported { csv: sheet.to_csv(Scope::Devices, Dialect { decimal }), tags, devices })
}

fn tags_of(node: &Node) -> &[Node] {
    match &node.value {
        Value::Table(table) => match table.get("tag").map(|tags| &tags.value) {
            Some(Value::List(tags)) => tags,
            _ => &[],
        },
        _ => &[],
    }
}

fn style_of(node: &Node) -> Option<Style> {
    let word = device::text(node, "address_style")?;
    STYLES.iter().find(|(name, _)| *name == word).map(|(_, style)| *style)
}

/// The map that a device names, in the device's style.
fn map_of(draft: &Draft, node: &Node, style: Style) -> Sheet {
    let empty = || Sheet { parts: vec![Part::default()], ..Sheet::default() };
    let Value::Table(table) = &node.value else { return empty() };
    let Some(map) = table.get("profile").and_then(|profile| draft.library.get(profile.at)) else { return empty() };
    let (mut sheet, own) = match map {
        RegisterMap::Csv(rows, origin) => {
            let Some(file) = rows.first().map(|row| row.node.at.file) else { return empty() };
            let unread = Findings::default(); // it was read before, without a finding
            let lines = csv::lines(file, draft.sources.text(file), Scope::Map, Decimal::Point, &unread);
            (Sheet::of_map(&lines), (*origin == Origin::Shipped).then_some(Style::ZeroBased))
        }
        RegisterMap::Toml(tree) => {
            let layout = Layout::of(tree, tree.at.file, &draft.sources);
            let lines: Vec<Line> = tags_of(tree).iter().map(|tag| sheet::line(tag, &draft.sources, &layout)).collect();
            let head = sheet::head(draft.sources.text(tree.at.file));
            let parts = vec![Part { lines, ..Part::default() }];
            (Sheet { head, parts, tail: Vec::new() }, style_of(tree))
        }
    };
    if let Some(own) = own.filter(|own| *own != style) {
        let cells = sheet.parts.iter_mut().flat_map(|part| &mut part.lines).flat_map(|line| &mut line.cells);
        for (_, address) in cells.filter(|(column, _)| column.is_tag("address")) {
            if let Ok((place, field)) = parse_field(address, own) {
                *address = restyled(place, field, style);
            }
        }
    }
    sheet
}
