//! Names: one topic level each, unique where they must be.

use std::collections::HashMap;

use super::super::section::{Section, Spot};
use super::super::source::At;

/// Longest name, bytes: it stands in topics, logs and file names of the store.
pub const NAME_BYTES_MAX: usize = 128;

/// Is this text one level of a topic that reads the same everywhere? If not: why.
pub fn level_problem(name: &str) -> Option<String> {
    if let Some(bad) = name.chars().find(|c| matches!(c, '/' | '+' | '#')) {
        Some(format!("`{bad}` cannot stand here: the name is one level of MQTT topics"))
    } else if name.contains('\0') {
        Some("a NUL character cannot stand in a name".to_owned())
    } else if name.chars().any(char::is_control) {
        Some("control characters cannot stand in a name".to_owned())
    } else if name.len() > NAME_BYTES_MAX {
        Some(format!("is {} bytes long", name.len()))
    } else if name.trim() != name || name.is_empty() {
        Some("must not be empty, and must not begin or end with a blank".to_owned())
    } else {
        None
    }
}

/// What a name may be, for problems.
pub const NAME_ALLOWED: &str = "1 ..= 128 bytes of text without / + # and control characters";

/// Names seen so far.
#[derive(Debug, Default)]
pub struct Unique<'a> {
    seen: HashMap<&'a str, At>,
}

impl<'a> Unique<'a> {
    /// Reads the `name` of a table: required, one level, unique among those seen here.
    pub fn name(&mut self, section: &Section<'a, '_>, what: &str) -> Option<Spot<&'a str>> {
        let name = section.required_text("name", &format!("every {what} has a name"))?;
        if let Some(message) = level_problem(name.value) {
            section.report(section.wrong("name", name.at, message).allowed(NAME_ALLOWED));
            return None;
        }
        if let Some(first) = self.seen.get(name.value) {
            let message = format!("a {what} of this name exists already");
            section.report(section.wrong("name", name.at, message).also(*first));
            return None;
        }
        self.seen.insert(name.value, name.at);
        Some(name)
    }
}
