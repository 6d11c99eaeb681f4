//! Reading one table: every getter gives the value, or nothing after reporting what is wrong with it.
//!
//! So a check reads all its keys in a row and never stops at the first wrong one; the plan that comes out of defaults
//! standing in for wrong values is thrown away at the end. [`Section::open`] reports unknown keys.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::HostFacts;
use super::nearest;
use super::places;
use super::problem::{Finding, Findings};
use super::raw::{Node, Table, Trail, Value};
use super::schema::Key;
use super::source::{At, Sources};
use super::units;

/// What a key is refused with whose part was left out when this binary was built.
pub const NOT_BUILT_IN: &str = "not in this version";
/// Where systemd puts credentials of our unit when we are asked from outside of it.
const CREDENTIALS_DIRECTORY_OF_UNIT: &str = "/run/credentials/ironbridge.service";

/// What every check is given.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Where problems go.
    pub findings: &'a Findings,
    /// The files.
    pub sources: &'a Sources,
    /// What the caller knows about this machine.
    pub facts: &'a HostFacts,
}

/// A value with its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spot<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: At,
}

/// How a quantity with a unit is read and written.
struct Unit<T> {
    read: fn(&str) -> Option<T>,
    write: fn(T) -> String,
    name: &'static str,
    form: &'static str,
}

/// Where what this unknown key holds belongs: there is a key for a file with it.
fn file_for(unknown: &str, keys: &[Key]) -> Option<&'static str> {
    let file = keys.iter().map(|key| key.name).find(|name| name.strip_suffix("_file") == Some(unknown));
    file.or((unknown == "password").then_some("password_file"))
}

fn names(keys: &[Key]) -> String {
    keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

/// How the header of a table is written without its brackets: the way to it without positions.
fn header(trail: &Trail<'_>) -> String {
    let path = trail.to_string();
    path.split('[').map(|part| part.split_once(']').map_or(part, |(_, behind)| behind)).collect()
}

/// Was a table made by the header of one in it, `[[device.tag]]`, and not by its own? Its place is its part of the header then.
fn is_header_below(place: &str, line: &str) -> bool {
    line.trim_start().starts_with('[') && !place.starts_with(['[', '{'])
}

/// A number as a text.
fn is_number(value: &Value) -> bool {
    matches!(value, Value::Text(text) if text.trim().parse::<f64>().is_ok())
}

/// What to say of a value that should be a table.
fn no_table(cx: Context<'_>, node: &Node, trail: &Trail<'_>, keys: &[Key]) -> Finding {
    if cx.sources.excerpt(node.at).starts_with("[[") {
        let header = header(trail);
        let message = format!("expected a table, found a list: write [{header}], it is there once");
        return Finding::line(node.at, trail, message);
    }
    let message = format!("expected a table, found {}", node.value.kind());
    Finding::value(node.at, trail, message).allowed(format!("{{ … }} with {}", names(keys)))
}

/// One table being read.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a, 't> {
    /// What every check is given.
    pub cx: Context<'a>,
    /// The table's header, for what is missing in it.
    pub at: At,
    /// The way to it.
    pub trail: &'t Trail<'t>,
    table: &'a Table,
}

impl<'a, 't> Section<'a, 't> {
    /// Opens a table; reports a value that is none and unknown keys.
    pub fn open(cx: Context<'a>, node: &'a Node, trail: &'t Trail<'t>, keys: &[Key]) -> Option<Self> {
        let Value::Table(table) = &node.value else {
            cx.findings.report(no_table(cx, node, trail, keys));
            return None;
        };
        for entry in &table.entries {
            let path = Trail::Key(trail, &entry.key);
            if keys.iter().any(|key| key.name == entry.key) {
                continue;
            }
            let finding = if let Some(file) = file_for(&entry.key, keys) {
                let message = format!("secrets are never values: put it into a file and name that in `{file}`");
                Finding::line(entry.key_at, path, message).secret()
            } else {
                let message = format!("unknown key{}", places::hint(&entry.key, keys));
                Finding::line(entry.key_at, path, message).allowed(names(keys))
            };
            cx.findings.report(finding);
        }
        Some(Self { cx, at: node.at, trail, table })
    }

    /// The raw value of a key.
    pub fn get(&self, key: &str) -> Option<&'a Node> {
        self.table.get(key)
    }

    /// Reports a value of this table.
    pub fn wrong(&self, key: &str, at: At, message: impl Into<String>) -> Finding {
        Finding::value(at, Trail::Key(self.trail, key), message)
    }

    /// Notes a problem.
    pub fn report(&self, finding: Finding) {
        self.cx.findings.report(finding);
    }

    /// Reports a key that must be there.
    pub fn missing(&self, key: &str, why: &str) {
        let message = if why.is_empty() { "is missing".to_owned() } else { format!("is missing: {why}") };
        self.report(Finding::line(self.at, Trail::Key(self.trail, key), message));
    }

    /// What to say of a value of the wrong kind.
    fn wrong_kind(&self, key: &str, node: &Node, (expected, cure): (&str, &str)) -> Finding {
        let cure = if cure.is_empty() { String::new() } else { format!(": {cure}") };
        let message = format!("expected {expected}, found {}{cure}", node.value.kind());
        self.wrong(key, node.at, message)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Option<Spot<&'a str>> {
        let node = self.get(key)?;
        self.read_text(key, node).map_err(|finding| self.report(finding)).ok()
    }

    /// A text of a form that is told when it is none.
    pub fn text_like(&self, key: &str, form: &str) -> Option<Spot<&'a str>> {
        let node = self.get(key)?;
        self.read_text(key, node).map_err(|finding| self.report(finding.allowed(form))).ok()
    }

    fn read_text(&self, key: &str, node: &'a Node) -> Result<Spot<&'a str>, Finding> {
        let cure = match &node.value {
            Value::Text(value) => return Ok(Spot { value, at: node.at }),
            Value::Whole(_) | Value::Number(_) | Value::Bool(_) | Value::Time => "put it in quotes",
            Value::List(_) | Value::Table(_) => "",
        };
        Err(self.wrong_kind(key, node, ("a text in quotes", cure)))
    }

    /// A text that must be there and must not be empty.
    pub fn required_text(&self, key: &str, why: &str) -> Option<Spot<&'a str>> {
        if self.get(key).is_none() {
            self.missing(key, why);
        }
        let text = self.text(key)?;
        self.filled(key, text)
    }

    /// The same of a form that is told when it is none.
    pub fn required_text_like(&self, key: &str, form: &str) -> Option<Spot<&'a str>> {
        if self.get(key).is_none() {
            self.missing(key, form);
        }
        let text = self.text_like(key, form)?;
        self.filled(key, text)
    }

    fn filled(&self, key: &str, text: Spot<&'a str>) -> Option<Spot<&'a str>> {
        if text.value.is_empty() {
            self.report(self.wrong(key, text.at, "must not be empty"));
            return None;
        }
        Some(text)
    }

    /// A real number, finite; whole numbers count.
    #[expect(clippy::cast_precision_loss, reason = "a limit or factor beyond 2^53 is rounded like any literal")]
    pub fn number(&self, key: &str) -> Option<Spot<f64>> {
        let node = self.get(key)?;
        let value = match node.value {
            Value::Number(number) => number,
            Value::Whole(number) => number as f64,
            ref other => {
                let cure = if is_number(other) { "write it without quotes" } else { "" };
                self.report(self.wrong_kind(key, node, ("a number", cure)));
                return None;
            }
        };
        if !value.is_finite() {
            self.report(self.wrong(key, node.at, "must be a finite number"));
            return None;
        }
        Some(Spot { value, at: node.at })
    }

    /// A whole number in a range.
    pub fn whole(&self, key: &str, range: RangeInclusive<u16>) -> Option<u16> {
        let node = self.get(key)?;
        let number = match node.value {
            Value::Whole(number) => Ok(number),
            ref other => {
                let is_quoted = matches!(other, Value::Text(text) if text.trim().parse::<i64>().is_ok());
                let cure = if is_quoted { ": write it without quotes" } else { "" };
                Err(format!("expected a whole number, found {}{cure}", other.kind()))
            }
        };
        let in_range = |number| u16::try_from(number).ok().filter(|number| range.contains(number));
        let found = number.and_then(|number| in_range(number).ok_or_else(|| "out of range".to_owned()));
        let report = |message| {
            let allowed = format!("{} ..= {}", range.start(), range.end());
            self.report(self.wrong(key, node.at, message).allowed(allowed));
        };
        found.map_err(report).ok()
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str) -> Option<Spot<bool>> {
        let node = self.get(key)?;
        let Value::Bool(value) = node.value else {
            let is_quoted = matches!(&node.value, Value::Text(text) if matches!(text.as_str(), "true" | "false"));
            let cure = if is_quoted { "write it without quotes" } else { "" };
            self.report(self.wrong_kind(key, node, ("true or false", cure)));
            return None;
        };
        Some(Spot { value, at: node.at })
    }

    /// A duration in a range.
    pub fn duration(&self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.quantity(
            key,
            &range,
            &Unit {
                read: units::duration,
                write: units::write_duration,
                name: "a duration",
                form: units::DURATION_FORM,
            },
        )
    }

    /// A number of bytes in a range.
    pub fn size(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        self.quantity(
            key,
            &range,
            &Unit { read: units::size, write: units::write_size, name: "a size", form: units::SIZE_FORM },
        )
    }

    fn quantity<T: PartialOrd + Copy>(&self, key: &str, range: &RangeInclusive<T>, unit: &Unit<T>) -> Option<T> {
        let node = self.get(key)?;
        let message = match &node.value {
            Value::Text(text) => match (unit.read)(text) {
                Some(quantity) if range.contains(&quantity) => return Some(quantity),
                Some(_) => "out of range".to_owned(),
                None => format!("not {}: write {}", unit.name, unit.form),
            },
            other => format!("expected a text with its unit, found {}: write {}", other.kind(), unit.form),
        };
        let allowed = format!("{} ..= {}", (unit.write)(*range.start()), (unit.write)(*range.end()));
        self.report(self.wrong(key, node.at, message).allowed(allowed));
        None
    }

    /// One word of a list.
    pub fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<Spot<T>> {
        let known = words.iter().map(|(word, _)| *word);
        let allowed = known.clone().collect::<Vec<_>>().join(", ");
        let text = self.text_like(key, &allowed)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(Spot { value: *value, at: text.at });
        }
        let hint = nearest::hint(text.value, known);
        self.report(self.wrong(key, text.at, format!("unknown word{hint}")).allowed(allowed));
        None
    }

    /// One of `all`, by the word that it has itself.
    pub fn choice_of<T: Copy>(&self, key: &str, all: &[T], word: fn(T) -> &'static str) -> Option<Spot<T>> {
        let words: Vec<(&str, T)> = all.iter().map(|one| (word(*one), *one)).collect();
        self.choice(key, &words)
    }

    /// A list of texts, each with its place; what is no text is reported and left out. A text alone is reported, and read on
    /// as a list of one: all that is wrong with it at once.
    pub fn texts(&self, key: &str) -> Option<Vec<Spot<&'a str>>> {
        self.read_texts(key, |finding| finding)
    }

    /// The same of a form that is told when it is none.
    pub fn texts_like(&self, key: &str, form: &str) -> Option<Vec<Spot<&'a str>>> {
        self.read_texts(key, |finding| finding.allowed(form))
    }

    fn read_texts(&self, key: &str, told: impl Fn(Finding) -> Finding) -> Option<Vec<Spot<&'a str>>> {
        let node = self.get(key)?;
        let wrong = |cure| self.report(told(self.wrong_kind(key, node, ("a list of texts", cure))));
        let items = match &node.value {
            Value::List(items) => items,
            Value::Text(_) => {
                wrong("put it in [ ]");
                std::slice::from_ref(node)
            }
            _ => {
                wrong("");
                return None;
            }
        };
        let text = |item| self.read_text(key, item).map_err(|finding| self.report(told(finding))).ok();
        Some(items.iter().filter_map(text).collect())
    }

    /// The tables of `[[key]]`; a single table is reported with how to write it.
    pub fn tables(&self, key: &str) -> &'a [Node] {
        match self.get(key) {
            None => &[],
            Some(Node { value: Value::List(items), .. }) => items,
            Some(node) => {
                let trail = Trail::Key(self.trail, key);
                let header = header(&trail);
                let (kind, sources) = (node.value.kind(), self.cx.sources);
                self.report(match &node.value {
                    Value::Table(_) if is_header_below(sources.excerpt(node.at), sources.line_of(node.at)) => {
                        let message =
                            format!("this stands before any [[{header}]]: put it below the one it belongs to");
                        Finding::line(node.at, trail, message)
                    }
                    value => {
                        let message = format!("expected a list of tables, found {kind}: write [[{header}]]");
                        match value {
                            Value::Table(_) => Finding::line(node.at, trail, message),
                            _ => self.wrong(key, node.at, message),
                        }
                    }
                });
                &[]
            }
        }
    }

    /// A path: relative ones stand beside the file they are written in, `$CREDENTIALS_DIRECTORY/` is where systemd
    /// puts credentials.
    pub fn path(&self, key: &str) -> Option<Spot<PathBuf>> {
        let text = self.text(key)?;
        if text.value.is_empty() || text.value.contains('\0') {
            self.report(self.wrong(key, text.at, "must be a path"));
            return None;
        }
        Some(Spot { value: self.cx.resolve(text), at: text.at })
    }

    /// A path that must be there.
    pub fn required_path(&self, key: &str, why: &str) -> Option<PathBuf> {
        if self.get(key).is_none() {
            self.missing(key, why);
        }
        self.path(key).map(|path| path.value)
    }
}

impl Context<'_> {
    /// The absolute form of a path as written.
    pub fn resolve(&self, text: Spot<&str>) -> PathBuf {
        if let Some(rest) = text.value.strip_prefix("$CREDENTIALS_DIRECTORY/") {
            let directory = self.facts.credentials_dir.clone();
            return directory.unwrap_or_else(|| PathBuf::from(CREDENTIALS_DIRECTORY_OF_UNIT)).join(rest);
        }
        let beside = self.sources.path(text.at.file).parent().map(ToOwned::to_owned).unwrap_or_default();
        beside.join(text.value)
    }
}
