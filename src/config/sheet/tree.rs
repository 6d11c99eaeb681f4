//! From the tree of a TOML file to the lines of a sheet, with the comments that stand above them.

use super::super::csv::cell;
use super::super::csv::columns::{Column, Owner};
use super::super::raw::{Entry, Node, Table, Value};
use super::super::schema::{self, Key, Kind};
use super::super::source::Sources;
use super::{Cell, Line};

/// What stands above a header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Above {
    /// Comment lines right above it.
    pub comments: Vec<String>,
    /// A block of comments above those, with blank lines around it.
    pub head: Vec<String>,
    /// Where the comment lines begin; the header's line, when there are none.
    pub near: usize,
    /// Where all of that begins.
    pub start: usize,
}

/// A tag with the comments above its header.
pub fn line(node: &Node, sources: &Sources) -> Line {
    let Value::Table(table) = &node.value else { return Line::default() };
    let comments = if is_header(node, sources) {
        above(sources.text(node.at.file), node.at.start as usize).comments
    } else {
        Vec::new()
    };
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

/// Looks upwards from a header.
pub fn above(text: &str, header: usize) -> Above {
    let mut near = text[..header].rfind('\n').map_or(0, |end| end + 1);
    let comments = block(text, &mut near, |line| line.starts_with('#'));
    let mut higher = near;
    let is_apart = !block(text, &mut higher, str::is_empty).is_empty();
    let head = if is_apart { block(text, &mut higher, |line| line.starts_with('#')) } else { Vec::new() };
    let is_alone = previous(text, higher).is_none_or(|(_, line)| line.is_empty());
    if head.is_empty() || !is_alone {
        return Above { comments, head: Vec::new(), near, start: near };
    }
    Above { comments, head, near, start: higher }
}

/// The comments that a file begins with, unless they stand right above a header.
pub fn head(text: &str) -> Vec<String> {
    let is_comment = |line: &&str| line.starts_with('#');
    let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let head: Vec<String> = lines.by_ref().take_while(is_comment).map(ToOwned::to_owned).collect();
    let next = text.lines().map(str::trim).nth(head.len()).unwrap_or("");
    if next.starts_with('[') { Vec::new() } else { head }
}

/// The line that ends where another one begins: its first byte, and its text without blanks around it.
fn previous(text: &str, at: usize) -> Option<(usize, &str)> {
    let end = at.checked_sub(1)?;
    let begin = text[..end].rfind('\n').map_or(0, |end| end + 1);
    Some((begin, text[begin..end].trim()))
}

/// The lines upwards from `at` that are wanted; `at` moves to the first of them.
fn block(text: &str, at: &mut usize, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some((begin, line)) = previous(text, *at).filter(|(_, line)| wanted(line)) {
        lines.push(line.to_owned());
        *at = begin;
    }
    lines.reverse();
    lines
}
