//! Words for the person at the terminal: on standard error, beside the results on standard output.

use std::fmt::Display;
use std::io::{self, Write as _};

/// A line on standard error. Who closed it wants to hear nothing: what was begun goes on and ends as it would have, where
/// `eprintln!` would panic.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
