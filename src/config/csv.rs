//! CSV register maps: a header row, every tag key is a column, tables flattened (`write.min`), `#` lines are comments.
//!
//! A list stands in its cell as `a|b`, a map as `0=off|1=on`.
//! Quoting as in RFC 4180; the separator is a comma, or the semicolon or tab that spreadsheets use instead, told from the
//! header. Own reader, because a wrong cell must be pointed at by byte, behind comments and quotes too. The rows become
//! the same nodes as `[[device.tag]]`, so that one check serves both.

use super::nearest;
use super::problem::{Finding, Findings};
use super::raw::{Entry, Node, Table, Trail, Value};
use super::schema::{self, Key, Kind};
use super::source::{At, FileIx};

/// One row of a register map: a table of tag keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Line in the file, from 1.
    pub line: u32,
    /// The tag.
    pub node: Node,
}

/// A cell without its quotes, and the bytes it stands in.
struct Cell {
    text: String,
    at: At,
}

struct Record {
    line: u32,
    at: At,
    cells: Vec<Cell>,
}

/// Where a column's cells go: a key of the tag, or of a table in it.
#[derive(Clone, Copy)]
struct Column {
    table: Option<&'static str>,
    key: &'static Key,
}

/// Reads a register map; what is wrong with the CSV itself and with its header is reported.
pub fn read(file: FileIx, text: &str, findings: &Findings) -> Vec<Row> {
    let mut records = records(file, text, findings).into_iter();
    let Some(header) = records.next() else {
        let at = At { file, start: 0, end: 0 };
        findings.report(Finding::line(at, Trail::Root, "a register map begins with a header row: name,address,type,…"));
        return Vec::new();
    };
    let columns = columns(&header, findings);
    for required in ["name", "address"] {
        if !header.cells.iter().any(|cell| cell.text == required) {
            let message = format!("the header has no column `{required}`");
            findings.report(Finding::line(header.at, Trail::Row(header.line), message));
            return Vec::new();
        }
    }
    let row = |record: Record| {
        if record.cells.len() > columns.len() {
            let message = format!(
                "{} cells under {} columns: quote a cell that has the separator in it",
                record.cells.len(),
                columns.len()
            );
            findings.report(Finding::line(record.at, Trail::Row(record.line), message));
        }
        Row { line: record.line, node: node(record, &columns) }
    };
    records.map(row).collect()
}

fn columns(header: &Record, findings: &Findings) -> Vec<Option<Column>> {
    let trail = Trail::Row(header.line);
    let mut columns = Vec::with_capacity(header.cells.len());
    for (position, cell) in header.cells.iter().enumerate() {
        if header.cells[..position].iter().any(|earlier| earlier.text == cell.text) {
            findings.report(Finding::value(cell.at, trail, "the same column twice"));
        }
        let column = column(&cell.text);
        if column.is_none() {
            let known = column_names();
            let message = format!("unknown column{}", nearest::hint(&cell.text, known.iter().map(String::as_str)));
            findings.report(Finding::value(cell.at, trail, message).allowed(known.join(", ")));
        }
        columns.push(column);
    }
    columns
}

fn column(name: &str) -> Option<Column> {
    let find = |keys: &'static [Key], name: &str| keys.iter().find(|key| key.name == name);
    match name.split_once('.') {
        None => find(schema::TAG, name)
            .filter(|key| !matches!(key.kind, Kind::Table(_)))
            .map(|key| Column { table: None, key }),
        Some((table, name)) => match find(schema::TAG, table)? {
            Key { name: table, kind: Kind::Table(keys), .. } => {
                find(keys, name).map(|key| Column { table: Some(table), key })
            }
            _ => None,
        },
    }
}

/// Every column a register map may have.
fn column_names() -> Vec<String> {
    let mut names = Vec::new();
    for key in schema::TAG {
        match key.kind {
            Kind::Table(below) => names.extend(below.iter().map(|below| format!("{}.{}", key.name, below.name))),
            _ => names.push(key.name.to_owned()),
        }
    }
    names
}

fn node(record: Record, columns: &[Option<Column>]) -> Node {
    let mut tag = Table::default();
    for (cell, column) in record.cells.into_iter().zip(columns) {
        let Some(column) = column else { continue };
        if cell.text.is_empty() {
            continue;
        }
        let at = cell.at;
        let value = Node { at, value: value(cell.text, column.key.kind, at) };
        let entry = Entry { key: column.key.name.to_owned(), key_at: at, node: value };
        let Some(table) = column.table else {
            tag.entries.push(entry);
            continue;
        };
        match tag.entries.iter_mut().find(|present| present.key == table).map(|present| &mut present.node.value) {
            Some(Value::Table(below)) => below.entries.push(entry),
            _ => {
                let below = Node { at, value: Value::Table(Table { entries: vec![entry] }) };
                tag.entries.push(Entry { key: table.to_owned(), key_at: at, node: below });
            }
        }
    }
    Node { at: record.at, value: Value::Table(tag) }
}

/// A cell that does not look like its column stays a text; the check says what it should have been.
fn value(text: String, kind: Kind, at: At) -> Value {
    match kind {
        Kind::List => Value::List(text.split('|').map(|item| node_of(item, at)).collect()),
        Kind::Words => words(&text, at).map_or(Value::Text(text), Value::Table),
        Kind::Number => match (text.parse::<i128>(), text.parse::<f64>()) {
            (Ok(whole), _) => Value::Whole(whole),
            (_, Ok(number)) => Value::Number(number),
            _ => Value::Text(text),
        },
        Kind::Bool if text.eq_ignore_ascii_case("true") => Value::Bool(true),
        Kind::Bool if text.eq_ignore_ascii_case("false") => Value::Bool(false),
        _ => Value::Text(text),
    }
}

fn node_of(text: &str, at: At) -> Node {
    Node { at, value: Value::Text(text.trim().to_owned()) }
}

/// `0=off|1=on`; `None` when a part has no `=`.
fn words(text: &str, at: At) -> Option<Table> {
    let entry = |part: &str| {
        let (key, word) = part.split_once('=')?;
        Some(Entry { key: key.trim().to_owned(), key_at: at, node: node_of(word, at) })
    };
    text.split('|').map(entry).collect::<Option<Vec<Entry>>>().map(|entries| Table { entries })
}

/// Reads records one by one; a byte position and a line number are all it carries along.
struct Scanner<'a> {
    file: FileIx,
    text: &'a str,
    separator: u8,
    next: usize,
    line: u32,
}

fn records(file: FileIx, text: &str, findings: &Findings) -> Vec<Record> {
    let next = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut scanner = Scanner { file, text, separator: separator(text), next, line: 1 };
    let mut records = Vec::new();
    while scanner.skip_to_record() {
        match scanner.record() {
            Ok(record) => records.push(record),
            Err((at, line, message)) => {
                findings.report(Finding::line(at, Trail::Row(line), message));
                scanner.skip_line();
            }
        }
    }
    records
}

/// The first of the three that stands in the header, or a comma.
fn separator(text: &str) -> u8 {
    let header = text.lines().find(|line| !line.starts_with('#') && !line.trim().is_empty()).unwrap_or("");
    header.bytes().find(|byte| matches!(byte, b',' | b';' | b'\t')).unwrap_or(b',')
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.next).copied()
    }

    fn at(&self, start: usize, end: usize) -> At {
        let clip = |byte: usize| u32::try_from(byte).unwrap_or(u32::MAX);
        At { file: self.file, start: clip(start), end: clip(end) }
    }

    fn skip_line(&mut self) {
        while self.peek().is_some_and(|byte| byte != b'\n') {
            self.next += 1;
        }
        if self.peek().is_some() {
            self.next += 1;
            self.line += 1;
        }
    }

    /// Over comments and blank lines; false at the end.
    fn skip_to_record(&mut self) -> bool {
        loop {
            let rest = &self.text[self.next..];
            let line = rest.split('\n').next().unwrap_or("");
            if rest.is_empty() {
                return false;
            }
            if !line.starts_with('#') && !line.trim().is_empty() {
                return true;
            }
            self.skip_line();
        }
    }

    fn record(&mut self) -> Result<Record, (At, u32, &'static str)> {
        let (start, line) = (self.next, self.line);
        let mut cells = Vec::new();
        loop {
            cells.push(self.cell()?);
            match self.peek() {
                Some(byte) if byte == self.separator => self.next += 1,
                _ => break,
            }
        }
        let at = self.at(start, self.next);
        self.skip_line();
        Ok(Record { line, at, cells })
    }

    fn cell(&mut self) -> Result<Cell, (At, u32, &'static str)> {
        self.skip_blanks();
        let start = self.next;
        if self.peek() != Some(b'"') {
            while self.peek().is_some_and(|byte| byte != self.separator && byte != b'\n') {
                self.next += 1;
            }
            let text = self.text[start..self.next].trim_end();
            return Ok(Cell { text: text.to_owned(), at: self.at(start, start + text.len()) });
        }
        let line = self.line;
        let mut text = String::new();
        loop {
            let inside = self.next + 1;
            let Some(length) = self.text[inside..].find('"') else {
                self.next = start;
                return Err((self.at(start, start + 1), line, "this quote is never closed"));
            };
            text.push_str(&self.text[inside..inside + length]);
            self.next = inside + length + 1;
            if self.peek() != Some(b'"') {
                break;
            }
            text.push('"'); // doubled: a quote inside
        }
        let at = self.at(start, self.next);
        self.line += u32::try_from(text.matches('\n').count()).unwrap_or(0);
        self.skip_blanks();
        match self.peek() {
            None | Some(b'\n' | b'\r') => Ok(Cell { text, at }),
            Some(byte) if byte == self.separator => Ok(Cell { text, at }),
            Some(_) => Err((at, line, "text behind the closing quote; a quote inside a cell is written twice")),
        }
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(|byte| byte == b' ' || byte == b'\t' && self.separator != b'\t') {
            self.next += 1;
        }
    }
}
