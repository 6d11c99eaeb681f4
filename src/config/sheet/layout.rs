//! Where things stand in the text of a TOML file that the tree does not hold: comments, blank lines, the ends of tables.
//!
//! A line that looks like a comment may be the end of a text of several lines. So nothing is taken for a comment that stands
//! before the end of the last value.

use super::super::raw::{Node, Value};
use super::super::source::{FileIx, Sources};

/// One file: its text, and where its values end.
pub struct Layout<'a> {
    text: &'a str,
    /// Of every value and every header, in rising order.
    ends: Vec<usize>,
}

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

impl<'a> Layout<'a> {
    /// The layout of a file that is in the tree, alone or with others.
    pub fn of(tree: &Node, file: FileIx, sources: &'a Sources) -> Self {
        let mut ends = Vec::new();
        collect(tree, file, &mut ends);
        ends.sort_unstable();
        Self { text: sources.text(file), ends }
    }

    /// The text.
    pub const fn text(&self) -> &'a str {
        self.text
    }

    /// Behind the line on which the last value before `byte` ends.
    pub fn content_end(&self, byte: usize) -> usize {
        let Some(last) = self.ends.partition_point(|end| *end <= byte).checked_sub(1) else { return 0 };
        let end = self.ends[last];
        self.text[end..].find('\n').map_or(self.text.len(), |line_end| end + line_end + 1)
    }

    /// Looks upwards from a header.
    pub fn above(&self, header: usize) -> Above {
        let floor = self.content_end(header);
        let mut near = self.text[..header].rfind('\n').map_or(0, |end| end + 1);
        let comments = self.block(floor, &mut near, |line| line.starts_with('#'));
        let mut higher = near;
        let is_apart = !self.block(floor, &mut higher, str::is_empty).is_empty();
        let head = if is_apart { self.block(floor, &mut higher, |line| line.starts_with('#')) } else { Vec::new() };
        let is_alone = self.previous(floor, higher).map_or(higher == 0, |(_, line)| line.is_empty());
        if head.is_empty() || !is_alone {
            return Above { comments, head: Vec::new(), near, start: near };
        }
        Above { comments, head, near, start: higher }
    }

    /// The line that ends where another one begins: its first byte, and its text without blanks around it.
    fn previous(&self, floor: usize, at: usize) -> Option<(usize, &'a str)> {
        let end = at.checked_sub(1).filter(|end| *end >= floor)?;
        let begin = self.text[..end].rfind('\n').map_or(0, |end| end + 1);
        Some((begin, self.text[begin..end].trim()))
    }

    /// The lines upwards from `at` that are wanted; `at` moves to the first of them.
    fn block(&self, floor: usize, at: &mut usize, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some((begin, line)) = self.previous(floor, *at).filter(|(_, line)| wanted(line)) {
            lines.push(line.to_owned());
            *at = begin;
        }
        lines.reverse();
        lines
    }
}

fn collect(node: &Node, file: FileIx, ends: &mut Vec<usize>) {
    if node.at.file == file {
        ends.push(node.at.end as usize);
    }
    match &node.value {
        Value::Table(table) => table.entries.iter().for_each(|entry| collect(&entry.node, file, ends)),
        Value::List(items) => items.iter().for_each(|item| collect(item, file, ends)),
        _ => {}
    }
}
