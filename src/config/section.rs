//! Reading one table: every getter gives the value, or nothing after reporting what is wrong with it.
//!
//! So a check reads all its keys in a row and never stops at the first wrong one; the plan that comes out of defaults
//! standing in for wrong values is thrown away at the end. [`Section::open`] reports unknown keys.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::HostFacts;
use super::nearest;
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
            let message = format!("expected a table, found {}", node.value.kind());
            cx.findings.report(Finding::value(node.at, trail, message));
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
                let message = format!("unknown key{}", nearest::hint(&entry.key, keys.iter().map(|key| key.name)));
                let allowed = keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
                Finding::line(entry.key_at, path, message).allowed(allowed)
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

    /// Reports a value of the wrong kind.
    fn wrong_kind(&self, key: &str, node: &Node, expected: &str) {
        let message = format!("expected {expected}, found {}", node.value.kind());
        self.report(self.wrong(key, node.at, message));
    }

    /// A text.
    pub fn text(&self, key: &str) -> Option<Spot<&'a str>> {
        let node = self.get(key)?;
        match &node.value {
            Value::Text(text) => Some(Spot { value: text, at: node.at }),
            _ => {
                self.wrong_kind(key, node, "a text in quotes");
                None
            }
        }
    }

    /// A text that must be there and must not be empty.
    pub fn required_text(&self, key: &str, why: &str) -> Option<Spot<&'a str>> {
        if self.get(key).is_none() {
            self.missing(key, why);
        }
        let text = self.text(key)?;
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
            _ => {
                self.wrong_kind(key, node, "a number");
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
            ref other => Err(format!("expected a whole number, found {}", other.kind())),
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
            self.wrong_kind(key, node, "true or false");
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
        let text = self.text(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(Spot { value: *value, at: text.at });
        }
        let known = words.iter().map(|(word, _)| *word);
        let hint = nearest::hint(text.value, known.clone());
        let allowed = known.collect::<Vec<_>>().join(", ");
        self.report(self.wrong(key, text.at, format!("unknown word{hint}")).allowed(allowed));
        None
    }

    /// One of `all`, by the word that it has itself.
    pub fn choice_of<T: Copy>(&self, key: &str, all: &[T], word: fn(T) -> &'static str) -> Option<Spot<T>> {
        let words: Vec<(&str, T)> = all.iter().map(|one| (word(*one), *one)).collect();
        self.choice(key, &words)
    }

    /// A list of texts, each with its place; what is no text is reported and left out.
    pub fn texts(&self, key: &str) -> Option<Vec<Spot<&'a str>>> {
        let node = self.get(key)?;
        let Value::List(items) = &node.value else {
            self.wrong_kind(key, node, "a list of texts, such as [\"a\", \"b\"]");
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Value::Text(text) => texts.push(Spot { value: text.as_str(), at: item.at }),
                _ => self.wrong_kind(key, item, "a text in quotes"),
            }
        }
        Some(texts)
    }

    /// The tables of `[[key]]`; a single table is reported with how to write it.
    pub fn tables(&self, key: &str) -> &'a [Node] {
        match self.get(key) {
            None => &[],
            Some(Node { value: Value::List(items), .. }) => items,
            Some(node) => {
                let message =
                    format!("expected a list of tables, found {}: write [[{}]]", node.value.kind(), self.header(key));
                let finding = match &node.value {
                    Value::Table(_) => Finding::line(node.at, Trail::Key(self.trail, key), message),
                    _ => self.wrong(key, node.at, message),
                };
                self.report(finding);
                &[]
            }
        }
    }

    /// How the header of a list of tables below this one is written: the trail without positions.
    fn header(&self, key: &str) -> String {
        let path = Trail::Key(self.trail, key).to_string();
        path.split('[').map(|part| part.split_once(']').map_or(part, |(_, behind)| behind)).collect()
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
