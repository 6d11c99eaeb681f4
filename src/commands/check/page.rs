//! What `ironbridge check` writes of a plan: its text, and beside it every warning with what it is about.
//!
//! A warning is a line with `!`: the configuration is right and the gateway starts with it, but a part would stay closed,
//! or something is about to go wrong. So it changes no exit code, unless a script asks for that with `--strict`.

use std::fmt::{self, Display, Write};

use serde_json::{Value, json};

use super::figures::counted;

/// A plan for people, as far as it is written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    about: String,
    warnings: Vec<Warning>,
}

#[derive(Debug)]
struct Warning {
    about: String,
    message: String,
}

impl Page {
    /// What follows is about this: `uplink cloud`.
    pub fn about(&mut self, about: impl Into<String>) {
        self.about = about.into();
    }

    /// A line with `!`.
    pub fn warn(&mut self, message: impl Display) -> fmt::Result {
        let (about, message) = (self.about.clone(), message.to_string());
        writeln!(self, "  ! {message}")?;
        self.warnings.push(Warning { about, message });
        Ok(())
    }

    /// How many there are.
    pub const fn warnings(&self) -> usize {
        self.warnings.len()
    }

    /// All of them, for scripts.
    pub fn warnings_json(&self) -> Value {
        self.warnings.iter().map(|one| json!({ "about": one.about, "message": one.message })).collect()
    }

    /// The text, with its last line.
    pub fn end(self) -> String {
        let verdict = match self.warnings() {
            0 => "no warnings".to_owned(),
            some => format!("{} (lines with `!`; with --strict the exit code is 1)", counted(some, "warning")),
        };
        format!("{}\nvalid, {verdict}\n", self.text)
    }
}

impl Write for Page {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.write_str(text)
    }
}
