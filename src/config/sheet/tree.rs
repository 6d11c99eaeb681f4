//! From the tree of a TOML file to the lines of a sheet, with the comments that stand above them (`layout` finds those).

use super::super::csv::cell;
use super::super::csv::columns::{Column, Owner};
use super::super::raw::{Entry, Node, Table, Value};
use super::super::schema::{self, Key, Kind};
use super::super::source::Sources;
use super::layout::Layout;
use super::{Cell, Line};

/// A tag with the comments above its header.
pub fn line(node: &Node, sources: &Sources, layout: &Layout<'_>) -> Line {
    let Value::Table(table) = &node.value else { return Line::default() };
    let comments = if is_header(node, sources) { layout.above(node.at.start as usize).comments } else { Vec::new() };
    Line { comments, cells: cells(table, Owner::Tag, schema::TAG, sources), verbatim: None }
}

/// The keys of a device without its tags.
pub fn device_cells(node: &Node, sources: &Sources) -> Vec<Cell> {
    match &node.value {
        Value::Table(table) => cells(table, Owner::Device, schema::DEVICE, sources),
        _ => Vec::new(),
    }
}

fn cells(table: &Table, owner: Owner, keys: &'static [Key], sources: &Sources) -> Vec<Cell> {
    let mut cells = Vec::new();
    for Entry { key, node, .. } in &table.entries {
        let Some(key) = keys.iter().find(|known| known.name == key) else { continue };
        match (key.kind, &node.value) {
            (Kind::Tables(_), _) => {}
            (Kind::Table(below), Value::Table(inner)) => {
                for Entry { key: name, node, .. } in &inner.entries {
                    let Some(inner) = below.iter().find(|known| known.name == name) else { continue };
                    let column = Column { owner, table: Some(key.name), key: inner };
                    cells.extend(cell::written(node, inner.kind, sources).map(|text| (column, text)));
                }
            }
            _ => {
                let column = Column { owner, table: None, key };
                cells.extend(cell::written(node, key.kind, sources).map(|text| (column, text)));
            }
        }
    }
    cells
}

/// Is it a table that begins with a header of its own, `[x]` or `[[x]]`?
fn is_header(node: &Node, sources: &Sources) -> bool {
    matches!(node.value, Value::Table(_)) && sources.excerpt(node.at).starts_with('[')
}

/// The tags of a device or of a register map, if each of them has a header of its own.
pub fn tag_headers<'a>(node: &'a Node, sources: &Sources) -> Option<&'a [Node]> {
    let Value::Table(table) = &node.value else { return None };
    match table.get("tag").map(|tags| &tags.value) {
        None => Some(&[]),
        Some(Value::List(tags)) if tags.iter().all(|tag| is_header(tag, sources)) => Some(tags),
        Some(_) => None,
    }
}

/// Where the first of some headers stands.
pub fn first_tag(tags: &[Node]) -> Option<usize> {
    tags.iter().map(|tag| tag.at.start as usize).min()
}

/// The comments that a file begins with, unless they stand right above a header.
pub fn head(text: &str) -> Vec<String> {
    let is_comment = |line: &&str| line.starts_with('#');
    let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let head: Vec<String> = lines.by_ref().take_while(is_comment).map(ToOwned::to_owned).collect();
    let next = text.lines().map(str::trim).nth(head.len()).unwrap_or("");
    if next.starts_with('[') { Vec::new() } else { head }
}
