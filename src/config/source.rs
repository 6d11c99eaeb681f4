//! The files a configuration consists of, and places in them.
//!
//! Every value remembers an [`At`]: eight bytes and a file number. Lines and columns are worked out only for what is
//! wrong. Texts stay in memory until the plan is made, not longer.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::Text;

/// Longest part of a line that is shown.
const SNIPPET_CHARS_MAX: usize = 160;

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
    /// The line without its end, or a part of it; tabs are blanks.
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
    /// First byte of each line; worked out when the first place is asked for.
    lines: OnceCell<Vec<usize>>,
}

impl Source {
    /// The line a byte is on, from 0, and where that line begins.
    fn line(&self, byte: usize) -> (usize, usize) {
        let lines = self.lines.get_or_init(|| {
            let behind = self.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(behind).collect()
        });
        let line = lines.partition_point(|start| *start <= byte).saturating_sub(1);
        (line, lines[line])
    }
}

/// All files of one configuration.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
    /// What files hold, where nothing is read from the disk.
    given: Option<HashMap<PathBuf, String>>,
}

impl Sources {
    /// None yet, and all that will be read is in these texts.
    pub fn given(texts: Vec<Text>) -> Self {
        Self { files: Vec::new(), given: Some(texts.into_iter().collect()) }
    }

    /// What files hold by their names, if nothing is read from the disk.
    pub fn instead_of_disk(&self) -> Option<&HashMap<PathBuf, String>> {
        self.given.as_ref()
    }

    /// Files and texts in the order they were read.
    pub fn into_texts(self) -> Vec<Text> {
        self.files.into_iter().map(|source| (source.path, source.text)).collect()
    }

    /// Takes a file in; `None` when there are more than anybody has (65 535) or it is too large to point into.
    pub fn add(&mut self, path: PathBuf, text: String) -> Option<FileIx> {
        let ix = u16::try_from(self.files.len()).ok()?;
        u32::try_from(text.len()).ok()?;
        self.files.push(Source { path, text, lines: OnceCell::new() });
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
        let (line, column, _) = self.locate(at);
        let from_one = |number: usize| u32::try_from(number + 1).unwrap_or(u32::MAX);
        Place { file: self.path(at.file).to_owned(), line: from_one(line), column: from_one(column) }
    }

    /// The line a stretch begins on, or the part of a very long line around it.
    pub fn snippet(&self, at: At) -> Snippet {
        let (_, before, line_start) = self.locate(at);
        let rest = self.text(at.file).get(line_start..).unwrap_or("");
        let line = rest.split('\n').next().unwrap_or("").trim_end_matches('\r');
        let skipped = if before > SNIPPET_CHARS_MAX / 2 { before - SNIPPET_CHARS_MAX / 4 } else { 0 };
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let line: String = line.chars().skip(skipped).take(SNIPPET_CHARS_MAX).map(clean).collect();
        let before = before - skipped;
        let length = self.excerpt(at).split('\n').next().unwrap_or("").chars().take(SNIPPET_CHARS_MAX).count();
        let width = length.min(line.chars().count().saturating_sub(before)).max(1);
        Snippet { line, before, width }
    }

    /// The whole line a stretch begins on.
    pub fn line_of(&self, at: At) -> &str {
        let (_, _, start) = self.locate(at);
        self.text(at.file).get(start..).and_then(|rest| rest.split('\n').next()).unwrap_or("")
    }

    /// Line and column from 0, and the first byte of that line.
    fn locate(&self, at: At) -> (usize, usize, usize) {
        let Some(source) = self.files.get(usize::from(at.file.0)) else { return (0, 0, 0) };
        let mut byte = (at.start as usize).min(source.text.len());
        while !source.text.is_char_boundary(byte) {
            byte -= 1;
        }
        let (line, start) = source.line(byte);
        (line, source.text[start..byte].chars().count(), start)
    }
}
