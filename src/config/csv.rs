//! CSV register maps: a header row, every tag key is a column, tables flattened (`write.min`), `#` lines are comments.
//!
//! ```text
//! # Source: manual of the pump, page 12
//! name,address,type,scale,write.min,write.max,map
//! speed,holding:100,uint16,0.1,0,50,
//! mode,holding:101,uint16,,,,0=off|1=on
//! ```
//!
//! Quoting as in RFC 4180; the separator is a comma, or the semicolon or tab that spreadsheets use instead, told from the
//! header (`scan`). What a cell says: `cell`; what a column is: `columns`. Own reader, because a wrong cell must be pointed
//! at by byte, behind comments and quotes too. The rows become the same nodes as `[[device.tag]]`, so that one check serves
//! both. A file that `tags export` wrote for whole devices has `device.` columns besides; no register map has.

use std::ops::Range;

use super::nearest;
use super::problem::{Finding, Findings};
use super::raw::{Entry, Node, Table, Trail, Value};
use super::schema::Kind;
use super::source::{At, FileIx};
use cell::{Decimal, misread, pointed, value};
use columns::{Column, Owner, Scope};
use scan::{Record, scan};

pub mod cell;
pub mod columns;
mod scan;

/// One row of a register map: a table of tag keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Line in the file, from 1.
    pub line: u32,
    /// The tag.
    pub node: Node,
}

/// A cell that says something.
#[derive(Debug, Clone, PartialEq)]
pub struct Filled {
    /// In which column.
    pub column: Column,
    /// What; numbers with a point, whatever they had.
    pub text: String,
    /// Where.
    pub at: At,
}

/// A row as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Line in the file, from 1.
    pub line: u32,
    /// Where it stands.
    pub at: At,
    /// The comment lines before it.
    pub comments: Vec<String>,
    /// Its cells in the order of the header, without the empty ones.
    pub cells: Vec<Filled>,
}

/// A file as it was written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lines {
    /// The comments before the header.
    pub head: Vec<String>,
    /// The columns of the header that are known.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Written>,
    /// The comments after the last row.
    pub tail: Vec<String>,
}

/// Reads a register map; what is wrong with the CSV itself and with its header is reported.
pub fn read(file: FileIx, text: &str, findings: &Findings) -> Vec<Row> {
    let lines = lines(file, text, Scope::Map, Decimal::Point, findings);
    lines.rows.iter().map(|row| Row { line: row.line, node: row.node() }).collect()
}

/// The bytes of everything that stands in a column that there is and is what such a column holds, in order: the column's
/// name in the header, and its cells.
pub fn known(text: &str) -> Vec<Range<usize>> {
    let (file, findings) = (FileIx(0), Findings::default());
    let scanned = scan(file, text, &findings);
    let Some(header) = scanned.records.first() else { return Vec::new() };
    let columns = columns(header, Scope::Devices, &findings);
    let bytes = |record: &Record, is_header: bool| {
        let mut bytes = Vec::new();
        for (cell, column) in record.cells.iter().zip(&columns) {
            let Some(column) = column else { continue };
            let kind = column.key.kind;
            let is_text = matches!(value(&cell.text, kind, cell.at), Value::Text(_));
            if is_header || !is_text || matches!(kind, Kind::Text | Kind::Path) {
                bytes.push(cell.at.start as usize..cell.at.end as usize);
            }
        }
        bytes
    };
    scanned.records.iter().enumerate().flat_map(|(number, record)| bytes(record, number == 0)).collect()
}

/// Reads a file row by row.
pub fn lines(file: FileIx, text: &str, scope: Scope, decimal: Decimal, findings: &Findings) -> Lines {
    let scanned = scan(file, text, findings);
    let mut records = scanned.records.into_iter();
    let Some(header) = records.next() else {
        let at = At { file, start: 0, end: 0 };
        findings.report(Finding::line(at, Trail::Root, "a register map begins with a header row: name,address,type,…"));
        return Lines { head: scanned.tail, ..Lines::default() };
    };
    let columns = columns(&header, scope, findings);
    let known: Vec<Column> = columns.iter().copied().flatten().collect();
    let mut lines = Lines { head: header.comments, columns: known, rows: Vec::new(), tail: scanned.tail };
    let has = |name: &str| header.cells.iter().any(|cell| cell.text == name);
    for required in ["name", "address"] {
        // What is worked out, and what an instrument says in a line, has no address.
        if !has(required) && !(required == "address" && (has("expression") || has("field"))) {
            let message = format!("the header has no column `{required}`");
            findings.report(Finding::line(header.at, Trail::Row(header.line), message));
            return lines;
        }
    }
    lines.rows = records.map(|record| row(record, &columns, decimal, findings)).collect();
    lines
}

fn row(record: Record, columns: &[Option<Column>], decimal: Decimal, findings: &Findings) -> Written {
    let trail = Trail::Row(record.line);
    if record.cells.len() > columns.len() && record.cells[columns.len()..].iter().any(|cell| !cell.text.is_empty()) {
        let (cells, columns) = (record.cells.len(), columns.len());
        let message = format!("{cells} cells under {columns} columns: quote a cell that has the separator in it");
        findings.report(Finding::line(record.at, trail, message));
    }
    let mut cells = Vec::new();
    for (cell, column) in record.cells.into_iter().zip(columns) {
        if cell.text.is_empty() {
            continue;
        }
        let Some(column) = *column else { continue };
        if let Some(message) = misread(&cell.text, column.key.kind, decimal) {
            findings.report(Finding::value(cell.at, Trail::Key(&trail, &column.name()), message));
        }
        if let Some(message) = column.is_tag("address").then(|| cell::clipped_bit(&cell.text)).flatten() {
            findings.report(Finding::value(cell.at, Trail::Key(&trail, &column.name()), message));
        }
        cells.push(Filled { column, text: pointed(cell.text, column.key.kind, decimal), at: cell.at });
    }
    Written { line: record.line, at: record.at, comments: record.comments, cells }
}

fn columns(header: &Record, scope: Scope, findings: &Findings) -> Vec<Option<Column>> {
    let trail = Trail::Row(header.line);
    // A spreadsheet fills the header up like every row.
    let width = header.cells.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
    let mut columns = Vec::with_capacity(width);
    for (position, cell) in header.cells[..width].iter().enumerate() {
        if header.cells[..position].iter().any(|earlier| earlier.text == cell.text) {
            findings.report(Finding::value(cell.at, trail, "the same column twice"));
        }
        let column = columns::find(&cell.text, scope);
        if column.is_none() {
            findings.report(unknown(&cell.text, cell.at, trail, scope));
        }
        columns.push(column);
    }
    columns
}

fn unknown(name: &str, at: At, trail: Trail<'_>, scope: Scope) -> Finding {
    if scope == Scope::Map && columns::find(name, Scope::Devices).is_some() {
        let message = "a register map says nothing about devices: `ironbridge tags import` takes files that do";
        return Finding::value(at, trail, message);
    }
    let known: Vec<String> = columns::all(scope).iter().map(Column::name).collect();
    let message = format!("unknown column{}", nearest::hint(name, known.iter().map(String::as_str)));
    Finding::value(at, trail, message).allowed(known.join(", "))
}

impl Written {
    /// The tag that these cells are.
    pub fn node(&self) -> Node {
        table(self.at, self.cells.iter().filter(|cell| cell.column.owner == Owner::Tag))
    }
}

/// The table that some cells are.
pub fn table<'a>(at: At, cells: impl Iterator<Item = &'a Filled>) -> Node {
    let mut whole = Table::default();
    for Filled { column, text, at } in cells {
        let at = *at;
        let value = Node { at, value: value(text, column.key.kind, at) };
        let entry = Entry { key: column.key.name.to_owned(), key_at: at, node: value };
        let Some(table) = column.table else {
            whole.entries.push(entry);
            continue;
        };
        match whole.entries.iter_mut().find(|present| present.key == table).map(|present| &mut present.node.value) {
            Some(Value::Table(below)) => below.entries.push(entry),
            _ => {
                let below = Node { at, value: Value::Table(Table { entries: vec![entry] }) };
                whole.entries.push(Entry { key: table.to_owned(), key_at: at, node: below });
            }
        }
    }
    Node { at, value: Value::Table(whole) }
}
