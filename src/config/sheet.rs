//! Tags as a table of texts: what CSV and TOML have in common when `tags export` and `tags import` go from one to the other.
//!
//! A cell holds what stands in a CSV cell without its quotes (`csv::cell` says what that means), so numbers keep the form
//! they were written in. Comments stay with the row above which they stood, those at the head of a file at the head. What is
//! not kept: comments behind a value or between the keys of one tag, and the order of the keys, which is that of the schema.
//! Fed by `exchange` with what the check found right; `tree` makes sheets of TOML, `text` makes TOML of sheets, `layout` finds the
//! comments.

mod layout;
mod text;
mod tree;

pub use layout::Layout;
pub use text::Form;
pub use tree::{device_cells, first_tag, head, line, tag_headers};

use super::csv::cell::{Decimal, whole_bit};
use super::csv::columns::{self, Column, Owner, Scope};
use super::csv::{Lines, Written};
use super::schema::Kind;

/// A key and what its cell says; never empty.
pub type Cell = (Column, String);

/// One tag.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Line {
    /// Comment lines above it, each with its `#`.
    pub comments: Vec<String>,
    /// Its keys.
    pub cells: Vec<Cell>,
    /// The text that it has in TOML already, comments included.
    pub verbatim: Option<String>,
}

/// The tags of one device.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Part {
    /// Comment lines above the device.
    pub comments: Vec<String>,
    /// The device's own keys; none in a register map.
    pub cells: Vec<Cell>,
    /// Its tags.
    pub lines: Vec<Line>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sheet {
    /// Comment lines at its head.
    pub head: Vec<String>,
    /// Its devices; exactly one in a register map.
    pub parts: Vec<Part>,
    /// Comment lines at its end.
    pub tail: Vec<String>,
}

/// How a CSV file is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// What stands in a number. With commas, the separator is a semicolon and the file begins with a byte order mark: so
    /// spreadsheets of the countries that have them open it without being asked.
    pub decimal: Decimal,
}

impl Line {
    /// A row of a CSV file: its tag.
    pub fn of(row: &Written) -> Self {
        Self { comments: row.comments.clone(), cells: cells(row, Owner::Tag), verbatim: None }
    }

    /// The tag's name.
    pub fn name(&self) -> Option<&str> {
        self.cells.iter().find(|(column, _)| column.is_tag("name")).map(|(_, name)| name.as_str())
    }

    /// Do both say the same, in whatever order?
    pub fn is_same(&self, other: &Self) -> bool {
        self.comments == other.comments
            && self.cells.len() == other.cells.len()
            && self.cells.iter().all(|cell| other.cells.contains(cell))
    }
}

fn cells(row: &Written, owner: Owner) -> Vec<Cell> {
    let own = row.cells.iter().filter(|cell| cell.column.owner == owner);
    own.map(|cell| (cell.column, cell.text.clone())).collect()
}

impl Sheet {
    /// A register map as it was written.
    pub fn of_map(lines: &Lines) -> Self {
        let part = Part { lines: lines.rows.iter().map(Line::of).collect(), ..Part::default() };
        Self { head: lines.head.clone(), parts: vec![part], tail: lines.tail.clone() }
    }

    /// The file as CSV: the columns that are used, in the order of the schema; name, address and type always.
    pub fn to_csv(&self, scope: Scope, dialect: Dialect) -> String {
        let used = |column: &Column| {
            let named = |cells: &[Cell]| cells.iter().any(|(used, _)| used == column);
            let parts = || self.parts.iter();
            ["name", "address", "type"].iter().any(|key| column.is_tag(key))
                || parts().any(|part| named(&part.cells) || part.lines.iter().any(|line| named(&line.cells)))
        };
        let columns: Vec<Column> = columns::all(scope).into_iter().filter(used).collect();
        let mut out = Csv::new(dialect);
        out.comments(&self.head);
        out.record(columns.iter().map(Column::name));
        for part in &self.parts {
            out.comments(&part.comments);
            let blank = [Line::default()];
            // A device without tags of its own still has a row.
            let is_bare = part.lines.is_empty() && !part.cells.is_empty();
            for (position, line) in if is_bare { &blank } else { part.lines.as_slice() }.iter().enumerate() {
                // The device's keys stand in its first row, its name in every one.
                let of_device = part.cells.iter().filter(|(column, _)| position == 0 || column.key.name == "name");
                let cells: Vec<&Cell> = of_device.chain(&line.cells).collect();
                out.comments(&line.comments);
                out.record(columns.iter().map(|column| {
                    let cell = cells.iter().find(|(used, _)| used == column);
                    cell.map_or_else(String::new, |(column, text)| localized(*column, text, dialect.decimal))
                }));
            }
        }
        out.comments(&self.tail);
        out.text
    }
}

/// A comment stays one line, whatever it was.
fn comment_line(comment: &str) -> String {
    comment.trim_end().replace(|c: char| c.is_control() && c != '\t', " ")
}

/// As a spreadsheet of that kind leaves it alone.
fn localized(column: Column, text: &str, decimal: Decimal) -> String {
    match (column.key.kind, decimal) {
        (Kind::Number, Decimal::Comma) => text.replacen('.', ",", 1),
        _ if column.is_tag("address") => whole_bit(text).unwrap_or_else(|| text.to_owned()),
        _ => text.to_owned(),
    }
}

/// CSV being written.
struct Csv {
    text: String,
    separator: char,
}

impl Csv {
    fn new(dialect: Dialect) -> Self {
        let (text, separator) = match dialect.decimal {
            Decimal::Point => ("", ','),
            Decimal::Comma => ("\u{feff}", ';'),
        };
        Self { text: text.to_owned(), separator }
    }

    fn comments(&mut self, comments: &[String]) {
        for comment in comments {
            self.text.push_str(&comment_line(comment));
            self.text.push('\n');
        }
    }

    fn record(&mut self, cells: impl Iterator<Item = String>) {
        let separator = self.separator;
        let cells: Vec<String> = cells.map(|cell| quoted(cell, separator)).collect();
        self.text.push_str(&cells.join(&separator.to_string()));
        self.text.push('\n');
    }
}

/// In quotes where it would be read as something else without (RFC 4180, section 2; blanks and `#` are ours).
fn quoted(cell: String, separator: char) -> String {
    let special = |c: char| c == separator || matches!(c, '"' | '\n' | '\r');
    let plain = !cell.contains(special) && cell.trim() == cell && !cell.starts_with(['#', '\u{feff}']);
    if plain { cell } else { format!("\"{}\"", cell.replace('"', "\"\"")) }
}
