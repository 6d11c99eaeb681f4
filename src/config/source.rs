//! The files a configuration consists of, and places in them.
//!
//! Every value remembers an [`At`]: eight bytes and a file number. Lines and columns are worked out only for what is
//! wrong. Texts stay in memory until the plan is made, not longer.

use std::path::{Path, PathBuf};

/// Position of a file in [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIx(pub u16);

/// A stretch of bytes in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// Which file.
    pub file: FileIx,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// Where something stands, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named.
    pub file: PathBuf,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// One line of a file with the part that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    /// The line without its end; tabs are blanks.
    pub line: String,
    /// Characters before the part that is meant.
    pub before: usize,
    /// Characters of that part, at least 1.
    pub width: usize,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    text: String,
}

/// All files of one configuration.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
}

impl Sources {
    /// Takes a file in; `None` when there are more than anybody has (65 535) or it is too large to point into.
    pub fn add(&mut self, path: PathBuf, text: String) -> Option<FileIx> {
        let ix = u16::try_from(self.files.len()).ok()?;
        u32::try_from(text.len()).ok()?;
        self.files.push(Source { path, text });
        Some(FileIx(ix))
    }

    /// Its text.
    pub fn text(&self, file: FileIx) -> &str {
        self.files.get(usize::from(file.0)).map_or("", |source| &source.text)
    }

    /// Its path.
    pub fn path(&self, file: FileIx) -> &Path {
        self.files.get(usize::from(file.0)).map_or(Path::new(""), |source| &source.path)
    }

    /// All paths in the order they were read.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|source| source.path.as_path())
    }

    /// The text at a place, as written.
    pub fn excerpt(&self, at: At) -> &str {
        self.text(at.file).get(at.start as usize..at.end as usize).unwrap_or("")
    }

    /// Line and column of the beginning of a stretch.
    pub fn place(&self, at: At) -> Place {
        let before = self.before(at);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Place {
            file: self.path(at.file).to_owned(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        }
    }

    /// The line a stretch begins on.
    pub fn snippet(&self, at: At) -> Snippet {
        let before = self.before(at);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = &self.text(at.file)[line_start..];
        let line = rest.split('\n').next().unwrap_or("").trim_end_matches('\r');
        let column = before[line_start..].chars().count();
        let length = self.excerpt(at).split('\n').next().unwrap_or("").chars().count();
        let width = length.min(line.chars().count().saturating_sub(column)).max(1);
        Snippet { line: line.replace(|c: char| c.is_control(), " "), before: column, width }
    }

    fn before(&self, at: At) -> &str {
        let text = self.text(at.file);
        let mut end = (at.start as usize).min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        &text[..end]
    }
}
