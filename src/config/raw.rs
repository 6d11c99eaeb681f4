//! The TOML as it was written: a tree in which every key and every value knows its place.
//!
//! It is not a set of structs filled by serde, because serde stops at the first wrong value and the promise is to name
//! all of them; which keys exist stands in `schema`. Cells of CSV register maps become
//! the same nodes, so that one check serves both.

use std::fmt;

use serde_spanned::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::slip::{self, Slip};
use super::source::{At, FileIx};

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it stands.
    pub at: At,
    /// What it is.
    pub value: Value,
}

/// The kinds of TOML.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// An integer; beyond 64 bit it is pinned to the end of the range, which no key allows.
    Whole(i128),
    /// A float.
    Number(f64),
    /// A boolean.
    Bool(bool),
    /// A date or time: no key has one.
    Time,
    /// An array, also of tables.
    List(Vec<Node>),
    /// A table.
    Table(Table),
}

impl Value {
    /// For "expected …, found …".
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Whole(_) => "a whole number",
            Self::Number(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::Time => "a date or time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// A table in the order of its keys' names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Its entries.
    pub entries: Vec<Entry>,
}

/// One key and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_at: At,
    /// Its value.
    pub node: Node,
}

impl Table {
    /// The entry of a key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }
}

/// A syntax error and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where.
    pub at: At,
    /// What is wrong.
    pub message: String,
    /// What it collides with.
    pub also: Option<At>,
}

/// More of a file than this is explained to nobody: each is looked up in all that stands above it.
const EXPLAINED_MAX: usize = 50;

/// Reads one file; all syntax errors at once, one for each line.
pub fn parse(file: FileIx, text: &str) -> Result<Node, Vec<SyntaxError>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let at = at(file, 0..0);
        return Ok(Node { at, value: Value::Table(convert_table(file, table.into_inner())) });
    }
    let whole = text.len().saturating_sub(1)..text.len();
    let span = |error: &toml::de::Error| error.span().unwrap_or_else(|| whole.clone());
    let mut errors: Vec<_> = errors.iter().map(|error| (span(error), error.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    // What comes after the first on a line is mostly because of it.
    errors.dedup_by(|later, kept| text.get(kept.0.start..later.0.start).is_some_and(|between| !between.contains('\n')));
    let told = errors.into_iter().enumerate().map(|(ix, (span, said))| {
        let slip = if ix < EXPLAINED_MAX { slip::meant(text, span.clone(), said) } else { None };
        match slip {
            Some(Slip { message, at: place, also }) => {
                SyntaxError { at: at(file, place), message, also: also.map(|also| at(file, also)) }
            }
            None => SyntaxError { at: at(file, span), message: said.replace('\n', ", "), also: None },
        }
    });
    Err(told.collect())
}

fn at(file: FileIx, span: std::ops::Range<usize>) -> At {
    let clip = |byte: usize| u32::try_from(byte).unwrap_or(u32::MAX);
    At { file, start: clip(span.start), end: clip(span.end) }
}

/// Takes the parser's table apart as it goes: both trees of a large file side by side would take twice the memory.
fn convert_table(file: FileIx, table: DeTable<'_>) -> Table {
    let entries = table.into_iter().map(|(key, value)| {
        let key_at = at(file, key.span());
        Entry { key: key.into_inner().into_owned(), key_at, node: convert(file, value) }
    });
    Table { entries: entries.collect() }
}

fn convert(file: FileIx, value: Spanned<DeValue<'_>>) -> Node {
    let at = at(file, value.span());
    let converted = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => Value::Whole(whole(&number)),
        DeValue::Float(number) => Value::Number(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Bool(flag),
        DeValue::Datetime(_) => Value::Time,
        DeValue::Array(items) => Value::List(items.into_iter().map(|item| convert(file, item)).collect()),
        DeValue::Table(table) => Value::Table(convert_table(file, table)),
    };
    Node { at, value: converted }
}

/// More digits than 128 bits hold are out of every range just the same.
fn whole(number: &DeInteger<'_>) -> i128 {
    let text = number.as_str();
    let pinned = if text.starts_with('-') { i128::MIN } else { i128::MAX };
    i128::from_str_radix(text, number.radix()).unwrap_or(pinned)
}

/// The way to a value: `device[2].tag[5].address`, or row and column of a register map. Written out only for problems.
#[derive(Debug, Clone, Copy)]
pub enum Trail<'a> {
    /// The top of a file.
    Root,
    /// A key below.
    Key(&'a Trail<'a>, &'a str),
    /// A position in a list, from 0.
    Index(&'a Trail<'a>, usize),
    /// A row of a CSV file: its line, from 1.
    Row(u32),
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Row(row) => write!(f, "row {row}"),
            Self::Index(list, position) => write!(f, "{list}[{position}]"),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(row @ Self::Row(_), key) => write!(f, "{row}, column {key}"),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
        }
    }
}
