//! Where the tags of a device stand in the text of a configuration, and the text with others in their place.
//!
//! Everything else in the file stays as it is, byte by byte: comments, order, blanks.

use std::collections::HashMap;
use std::ops::Range;

use super::super::raw::{Node, Value};
use super::super::sheet::{self, Layout, Line};
use super::super::source::Sources;
use super::{Refused, device};

/// What of a text is going to be replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// The lines of `profile = …`.
    profile: Option<Range<usize>>,
    /// The tags with the comments above them; empty where there are none yet.
    tags: Range<usize>,
    /// Each tag with its text.
    lines: Vec<Line>,
}

/// Finds the tags of a device.
pub fn outline(tree: &Node, node: &Node, sources: &Sources) -> Result<Outline, Refused> {
    let layout = Layout::of(tree, node.at.file, sources);
    let text = layout.text();
    let name = device::text(node, "name").unwrap_or_default();
    let tags = sheet::tag_headers(node, sources).filter(|_| sources.excerpt(node.at).starts_with('['));
    let tags = tags.ok_or_else(|| {
        let message =
            "is not written as [[device]] with [[device.tag]]s below it, and is not changed in place: use --output";
        Refused::Shape(format!("the device {name} {message}"))
    })?;
    let mut headers = Vec::new();
    other_headers(tree, node, sources, &mut headers);
    let next = headers.into_iter().filter(|header| *header > node.at.start as usize).min();
    let end = layout.content_end(next.unwrap_or(text.len()));
    if tags.iter().any(|tag| tag.at.start as usize > end) {
        return Err(Refused::Shape(format!("the tags of the device {name} do not stand together")));
    }
    let begin = sheet::first_tag(tags).map_or(end, |first| layout.above(first).start);
    let lines = tags.iter().zip(1..).map(|(tag, next)| {
        let near = layout.above(tag.at.start as usize).near;
        let until = tags.get(next).map_or(end, |next| layout.content_end(next.at.start as usize));
        let verbatim = text.get(near..until).map(|text| text.replace("\r\n", "\n"));
        Line { verbatim, ..sheet::line(tag, sources, &layout) }
    });
    let lines = lines.collect();
    Ok(Outline { profile: profile(text, node), tags: begin..end, lines })
}

/// The headers of all tables in the device's file that are not its own.
fn other_headers(tree: &Node, device: &Node, sources: &Sources, headers: &mut Vec<usize>) {
    let inside: Vec<&Node> = match &tree.value {
        Value::Table(table) => table.entries.iter().map(|entry| &entry.node).collect(),
        Value::List(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    for node in inside {
        if matches!(node.value, Value::Table(_)) && node.at == device.at {
            continue;
        }
        let is_header = matches!(node.value, Value::Table(_)) && sources.excerpt(node.at).starts_with('[');
        if is_header && node.at.file == device.at.file {
            headers.push(node.at.start as usize);
        }
        other_headers(node, device, sources, headers);
    }
}

fn profile(text: &str, node: &Node) -> Option<Range<usize>> {
    let Value::Table(table) = &node.value else { return None };
    let entry = table.entry("profile")?;
    let (key, value) = (entry.key_at.start as usize, entry.node.at.end as usize);
    let begin = text[..key].rfind('\n').map_or(0, |end| end + 1);
    let end = text[value..].find('\n').map_or(text.len(), |end| value + end + 1);
    Some(begin..end)
}

impl Outline {
    /// Tags that say what they said before keep their text, with what no cell holds: comments in it, the order of its keys.
    pub fn keep(&self, lines: &mut [Line]) {
        let by_name: HashMap<&str, &Line> = self.lines.iter().filter_map(|line| Some((line.name()?, line))).collect();
        for line in lines {
            let before = line.name().and_then(|name| by_name.get(name)).filter(|before| before.is_same(line));
            line.verbatim = before.and_then(|before| before.verbatim.clone());
        }
    }

    /// The text with other tags.
    pub fn with_tags(&self, text: &str, tags: &str) -> String {
        let line_end = if text.contains("\r\n") { "\r\n" } else { "\n" };
        let mut out = match &self.profile {
            Some(profile) => [&text[..profile.start], &text[profile.end..self.tags.start]].concat(),
            None => text[..self.tags.start].to_owned(),
        };
        if !out.ends_with('\n') {
            out.push_str(line_end);
        }
        let is_apart = out.lines().next_back().is_some_and(|line| line.trim().is_empty());
        if !is_apart && !tags.is_empty() {
            out.push_str(line_end);
        }
        out.push_str(&tags.replace('\n', line_end));
        let rest = &text[self.tags.end..];
        if rest.trim_start_matches([' ', '\t']).starts_with('[') {
            out.push_str(line_end);
        }
        out.push_str(rest);
        out
    }
}
