//! Problems of a configuration: all of them, each with its place, for people and for `--json`.
//!
//! While files are read and checked, [`Findings`] collects; at the end they become [`Problems`], sorted by place,
//! each said once. A finding that touches a secret shows neither value nor line.

use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;

use super::source::{At, Place, Snippet, Sources};

/// Longest value that is shown whole.
const VALUE_CHARS_MAX: usize = 120;

/// Longest line about one that stands in a text about something else.
const BRIEF_CHARS_MAX: usize = 300;

/// What a problem lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// In what a file says: it stays until somebody mends it.
    Text,
    /// In what it lies on: a disk that fails, or is mounted late. It may pass.
    Medium,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where; `None` only when there is no text to point at (a file that cannot be read).
    pub place: Option<Place>,
    /// The file, also when there is no place in it.
    pub file: PathBuf,
    /// `device[2].tag[5].address` (counted from 0 over all files), or row and column of a register map.
    pub path: String,
    /// The value as written.
    pub value: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
    /// What would be right.
    pub allowed: Option<String>,
    /// The other place, when two contradict each other.
    pub also: Option<Place>,
    /// The line, for people.
    pub snippet: Option<Snippet>,
    /// May it pass?
    pub cause: Cause,
}

impl Problem {
    /// Where and what, in one line; the value and the line it stands in are left out.
    pub fn brief(&self) -> String {
        let place = self.place.as_ref().map_or_else(|| self.file.display().to_string(), ToString::to_string);
        let path = if self.path.is_empty() { String::new() } else { format!("`{}`: ", self.path) };
        shorten(&format!("{place}: {path}{}", self.message), BRIEF_CHARS_MAX)
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    /// Each problem, by place.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// The same with other paths where there are better ones.
    #[must_use]
    pub fn renamed(mut self, better: impl Fn(&Problem) -> Option<String>) -> Self {
        for problem in &mut self.list {
            if let Some(path) = better(problem) {
                problem.path = path;
            }
        }
        self
    }

    /// May it pass without anybody who mends the configuration? What cannot be read makes other things wrong that refer to it,
    /// so one such problem is enough; what is wrong besides shows when it has passed.
    pub fn may_pass(&self) -> bool {
        self.list.iter().any(|problem| problem.cause == Cause::Medium)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.list.len()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            writeln!(f, "{problem}\n")?;
        }
        match self.list.len() {
            1 => write!(f, "1 problem in the configuration"),
            count => write!(f, "{count} problems in the configuration"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "error: {}", self.message)?;
        } else {
            write!(f, "error: `{}`: {}", self.path, self.message)?;
        }
        let Some(place) = &self.place else {
            return write!(f, "\n  --> {}", self.file.display());
        };
        write!(f, "\n  --> {place}")?;
        let margin = place.line.to_string().len();
        if let Some(snippet) = &self.snippet {
            write!(f, "\n{:margin$} |\n{} | {}", "", place.line, snippet.line)?;
            write!(f, "\n{:margin$} | {:before$}{}", "", "", "^".repeat(snippet.width), before = snippet.before)?;
        }
        if let Some(value) = &self.value {
            write!(f, "\n{:margin$} = value: {value}", "")?;
        }
        if let Some(allowed) = &self.allowed {
            write!(f, "\n{:margin$} = allowed: {allowed}", "")?;
        }
        if let Some(also) = &self.also {
            write!(f, "\n{:margin$} = the other place: {also}", "")?;
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Why there is no text of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// For people.
    pub message: String,
    /// May it pass?
    pub cause: Cause,
}

impl Unread {
    /// It is not what it should be.
    pub fn wrong(message: impl Into<String>) -> Self {
        Self { message: message.into(), cause: Cause::Text }
    }
}

/// A problem while it is being found: places are still byte positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    at: At,
    path: String,
    message: String,
    allowed: Option<String>,
    also: Option<At>,
    shown: Shown,
    cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Line and value.
    Value,
    /// The line only: the place is a key or a table header.
    Line,
    /// Nothing: it may hold a secret.
    Nothing,
}

impl Finding {
    /// A wrong value.
    pub fn value(at: At, path: impl fmt::Display, message: impl Into<String>) -> Self {
        let (path, message) = (path.to_string(), message.into());
        Self { at, path, message, allowed: None, also: None, shown: Shown::Value, cause: Cause::Text }
    }

    /// Something wrong at a key, a header or a stretch of text that is no value.
    pub fn line(at: At, path: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { shown: Shown::Line, ..Self::value(at, path, message) }
    }

    /// The same place with what is wrong there, once that is known.
    #[must_use]
    pub fn saying(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..self }
    }

    /// What would be right.
    #[must_use]
    pub fn allowed(self, allowed: impl Into<String>) -> Self {
        Self { allowed: Some(allowed.into()), ..self }
    }

    /// The other place of a contradiction.
    #[must_use]
    pub fn also(self, also: At) -> Self {
        Self { also: Some(also), ..self }
    }

    /// Why, if not because of what is written there.
    #[must_use]
    pub fn caused_by(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    /// Neither value nor line are shown.
    #[must_use]
    pub fn secret(self) -> Self {
        Self { shown: Shown::Nothing, ..self }
    }

    fn resolve(self, sources: &Sources) -> Problem {
        let tells = tells_a_secret(sources.line_of(self.at));
        let value = (self.shown == Shown::Value && !tells).then(|| shorten(sources.excerpt(self.at), VALUE_CHARS_MAX));
        Problem {
            place: Some(sources.place(self.at)),
            file: sources.path(self.at.file).to_owned(),
            path: shorten(&self.path, VALUE_CHARS_MAX),
            value: value.filter(|value| !value.is_empty()),
            message: one_line(&self.message),
            allowed: self.allowed,
            also: self.also.map(|at| sources.place(at)),
            snippet: (self.shown != Shown::Nothing && !tells).then(|| sources.snippet(self.at)),
            cause: self.cause,
        }
    }
}

/// May a line hold a secret, because it sets a key that sounds like one, or has a user in a URL? Such a line is wrong more
/// often than not, and what is wrong with it is asked about in public.
fn tells_a_secret(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    let words =
        ["passw", "passphrase", "secret", "token", "api_key", "apikey", "access_key", "accesskey", "sas_key", "saskey"];
    let sets = |word: &str| {
        lower.split(word).skip(1).any(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let value = rest[end..].trim_start_matches(['"', '\'']);
            !rest[..end].ends_with("_file") && value.starts_with(['=', ':', ' ', '\t'])
        })
    };
    words.iter().any(|word| sets(word)) || lower.split("://").skip(1).any(|rest| rest.contains('@'))
}

/// What a user wrote is repeated, but never as control characters.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

fn shorten(text: &str, most: usize) -> String {
    let one_line = one_line(text);
    if one_line.chars().count() <= most {
        return one_line;
    }
    one_line.chars().take(most).chain("…".chars()).collect()
}

/// Where problems are collected while reading and checking go on.
#[derive(Debug, Default)]
pub struct Findings {
    found: RefCell<Vec<Finding>>,
    unreadable: RefCell<Vec<Problem>>,
}

impl Findings {
    /// Notes one.
    pub fn report(&self, finding: Finding) {
        self.found.borrow_mut().push(finding);
    }

    /// Notes a file that is not there, may not be read or is no text.
    pub fn unreadable(&self, file: PathBuf, unread: Unread) {
        let (path, value, allowed, also) = (String::new(), None, None, None);
        let Unread { message, cause } = unread;
        let problem = Problem { place: None, file, path, value, message, allowed, also, snippet: None, cause };
        self.unreadable.borrow_mut().push(problem);
    }

    /// Is everything well so far?
    pub fn none(&self) -> bool {
        self.found.borrow().is_empty() && self.unreadable.borrow().is_empty()
    }

    /// All of it by place, each once; `None` when there is nothing.
    pub fn finish(self, sources: &Sources) -> Option<Problems> {
        let mut found = self.found.into_inner();
        found.sort_by(|a, b| (a.at, &a.message, &a.path).cmp(&(b.at, &b.message, &b.path)));
        // A register map that several devices use is wrong once, not once per device.
        found.dedup_by(|a, b| a.at == b.at && a.message == b.message);
        let mut list = self.unreadable.into_inner();
        list.dedup();
        list.extend(found.into_iter().map(|finding| finding.resolve(sources)));
        (!list.is_empty()).then_some(Problems { list })
    }
}
