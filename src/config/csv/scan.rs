//! Records of a CSV file one by one, as people, spreadsheets and scripts write them; every cell knows its bytes.
//!
//! ```text
//! file      = [byte order mark] ["sep=" separator] { comment | blank | record }
//! record    = cell { separator cell }     the first one is the header
//! cell      = text without separator and line end, blanks around it dropped
//!           | '"' text with every '"' doubled '"'
//! separator = "," | ";" | tab             the first of them that stands in the header
//! comment   = a line that begins with #
//! ```
//!
//! A spreadsheet that saved the file left traces: lines filled up with separators, a comment in quotes because there was a
//! separator in it, rows of separators only. All of that is read as what it was before.

use super::super::problem::{Finding, Findings};
use super::super::raw::Trail;
use super::super::source::{At, FileIx};

/// A cell without its quotes, and the bytes it stands in.
pub struct Cell {
    /// What it says.
    pub text: String,
    /// Where.
    pub at: At,
}

/// One line of cells; more lines if there are line ends in quotes.
pub struct Record {
    /// Line in the file, from 1.
    pub line: u32,
    /// Where it stands.
    pub at: At,
    /// The comment lines before it, with their `#`.
    pub comments: Vec<String>,
    /// Its cells.
    pub cells: Vec<Cell>,
}

/// A file as records.
pub struct Scanned {
    /// The header, and the rows behind it.
    pub records: Vec<Record>,
    /// The comments after the last row.
    pub tail: Vec<String>,
}

/// Reads records one by one; a byte position and a line number are all it carries along.
struct Scanner<'a> {
    file: FileIx,
    text: &'a str,
    separator: u8,
    next: usize,
    line: u32,
}

/// Reads all records; a quote that does not close costs its line.
pub fn scan(file: FileIx, text: &str, findings: &Findings) -> Scanned {
    let begin = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let declared = declared(&text[begin..]);
    let separator = declared.unwrap_or_else(|| separator(&text[begin..]));
    let mut scanner = Scanner { file, text, separator, next: begin, line: 1 };
    if declared.is_some() {
        scanner.skip_line();
    }
    let (mut records, mut comments) = (Vec::<Record>::new(), Vec::new());
    while scanner.skip_to_record(&mut comments) {
        let quoted = scanner.peek() == Some(b'"');
        match scanner.record() {
            Ok(record) if record.cells.iter().all(|cell| cell.text.is_empty()) => {}
            Ok(mut record) if quoted && is_comment(&record, records.first()) => {
                comments.push(record.cells.swap_remove(0).text);
            }
            Ok(record) => records.push(Record { comments: std::mem::take(&mut comments), ..record }),
            Err((at, line, message)) => {
                findings.report(Finding::line(at, Trail::Row(line), message));
                scanner.skip_line();
            }
        }
    }
    let width = records.first().map_or(0, |header| header.cells.len());
    for comment in records.iter_mut().flat_map(|record| &mut record.comments).chain(&mut comments) {
        unpad(comment, separator, width);
    }
    Scanned { records, tail: comments }
}

/// `sep=;` in the first line, which spreadsheets understand.
fn declared(text: &str) -> Option<u8> {
    let first = text.lines().next()?.trim_matches(['"', '\r']);
    match *first.as_bytes() {
        [b's' | b'S', b'e' | b'E', b'p' | b'P', b'=', separator @ (b',' | b';' | b'\t')] => Some(separator),
        _ => None,
    }
}

/// The first of the three that stands in the header, or a comma.
fn separator(text: &str) -> u8 {
    let is_header = |line: &&str| !line.starts_with(['#']) && !line.starts_with("\"#") && !line.trim().is_empty();
    let header = text.lines().find(is_header).unwrap_or("");
    header.bytes().find(|byte| matches!(byte, b',' | b';' | b'\t')).unwrap_or(b',')
}

/// No name begins with `#`, so a quoted one in the place of a name is a comment.
fn is_comment(record: &Record, header: Option<&Record>) -> bool {
    let names_first = header.is_none_or(|header| header.cells[0].text.ends_with("name"));
    names_first && record.cells[0].text.starts_with('#') && record.cells[1..].iter().all(|cell| cell.text.is_empty())
}

/// Takes the separators away that fill a comment up to the width of the table.
fn unpad(comment: &mut String, separator: u8, width: usize) {
    let separator = char::from(separator);
    if comment.ends_with(separator) && comment.matches(separator).count() + 1 == width {
        comment.truncate(comment.trim_end_matches(separator).len());
    }
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

    /// Over blank lines, and over comments, which are kept; false at the end.
    fn skip_to_record(&mut self, comments: &mut Vec<String>) -> bool {
        loop {
            let rest = &self.text[self.next..];
            let line = rest.split('\n').next().unwrap_or("");
            if rest.is_empty() {
                return false;
            }
            if line.starts_with('#') {
                comments.push(line.trim_end().to_owned());
            } else if !line.trim().is_empty() {
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
        Ok(Record { line, at, comments: Vec::new(), cells })
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
