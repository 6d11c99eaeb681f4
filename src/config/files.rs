//! The files of a configuration, and how they become one tree.
//!
//! The main file first, then `ironbridge.d/*.toml` beside it by file name. Each parses alone; lists of tables are
//! appended, tables are joined key by key, and the same key twice is an error that names both places.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Text;
use super::problem::{Cause, Finding, Findings, Unread};
use super::raw::{self, Entry, Node, Table, Trail, Value};
use super::source::{At, FileIx, Sources};

/// The directory of fragments beside the main file.
const FRAGMENTS: &str = "ironbridge.d";
/// Larger than any configuration; a device file or a log named by mistake is not read to the end.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What was read.
#[derive(Debug)]
pub struct FileSet {
    /// All texts, for places.
    pub sources: Sources,
    /// One tree out of all files that parse.
    pub tree: Node,
    /// Whether all of them did.
    pub complete: Complete,
}

/// Whether names may be missing only because a file did not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complete {
    /// Every file was read and parsed.
    Yes,
    /// At least one was not, or buses stand in for those of another file; "no such bus" would be noise.
    No,
}

/// Reads the main file and its fragments.
pub fn read(path: &Path, findings: &Findings) -> FileSet {
    read_with(path, None, findings)
}

/// A text that stands for what a file holds.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// The file.
    pub path: &'a Path,
    /// What it is going to hold.
    pub text: &'a str,
}

/// Reads the main file and its fragments, one of them as it is going to be.
pub fn read_with(path: &Path, draft: Option<Draft<'_>>, findings: &Findings) -> FileSet {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut sources = Sources::default();
    let mut read = |path: &Path, part| match draft {
        Some(draft) if draft.path == path => take_in(path.to_owned(), draft.text.to_owned(), &mut sources, findings),
        _ => read_one(path, part, (&mut sources, findings)),
    };
    let mut trees = vec![read(&path, Part::Main)];
    for fragment in fragments(&path, findings) {
        trees.push(read(&fragment, Part::Fragment));
    }
    join(sources, trees, findings)
}

/// Takes one text for the whole configuration.
pub fn from_text(path: &Path, text: &str, findings: &Findings) -> FileSet {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut sources = Sources::default();
    let tree = take_in(path, text.to_owned(), &mut sources, findings);
    join(sources, vec![tree], findings)
}

/// Takes the main file, its fragments and what they name from these texts; the disk is not asked.
pub fn from_texts(path: &Path, texts: Vec<Text>, findings: &Findings) -> FileSet {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let fragments = fragments_of(&path);
    let is_fragment = |path: &&PathBuf| path.parent() == Some(&fragments) && is_read(path);
    let mut paths: Vec<PathBuf> = texts.iter().map(|(path, _)| path).filter(is_fragment).cloned().collect();
    paths.sort();
    let mut sources = Sources::given(texts);
    let mut trees = vec![read_one(&path, Part::Main, (&mut sources, findings))];
    for fragment in paths {
        trees.push(read_one(&fragment, Part::Fragment, (&mut sources, findings)));
    }
    join(sources, trees, findings)
}

/// What a file holds, from the disk or from the texts that stand for it.
pub fn text_of(path: &Path, sources: &Sources) -> Result<String, Unread> {
    let Some(given) = sources.instead_of_disk() else { return read_text(path) };
    given.get(path).cloned().ok_or_else(|| Unread::wrong("is not among the texts that were sent"))
}

/// A text file as a whole, or the reason why not. One that is missing with its directory may be on a disk that is not
/// mounted yet; one that is missing in it is misspelt.
pub fn read_text(path: &Path) -> Result<String, Unread> {
    let cause = |path: &Path| if path.parent().is_some_and(Path::is_dir) { Cause::Text } else { Cause::Medium };
    let about = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => Unread { message: "there is no such file".to_owned(), cause: cause(path) },
        _ => cannot_be_read(error),
    };
    let file = File::open(path).map_err(|error| about(&error))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| about(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Unread::wrong(format!("is longer than {FILE_BYTES_MAX} bytes: that is no configuration")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].split(|byte| *byte == b'\n').count();
        Unread::wrong(format!("is not UTF-8 text (line {line}): save it as UTF-8"))
    })
}

/// Rights that are missing and a directory in its place are for somebody to mend.
fn cannot_be_read(error: &io::Error) -> Unread {
    let cause = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => Cause::Text,
        _ => Cause::Medium,
    };
    Unread { message: format!("cannot be read: {error}"), cause }
}

fn fragments(main: &Path, findings: &Findings) -> Vec<PathBuf> {
    let directory = fragments_of(main);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            findings.unreadable(directory, cannot_be_read(&error));
            return Vec::new();
        }
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => paths.push(entry.path()),
            Err(error) => findings.unreadable(directory.clone(), cannot_be_read(&error)),
        }
    }
    paths.retain(|path| is_read(path));
    paths.sort();
    paths
}

fn fragments_of(main: &Path) -> PathBuf {
    main.parent().unwrap_or(Path::new("/")).join(FRAGMENTS)
}

/// Is it a fragment? Editors leave .#file.toml and the like behind.
fn is_read(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    path.extension().is_some_and(|extension| extension == "toml") && !hidden
}

/// What a file is to the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Main,
    Fragment,
}

/// A file without a byte, or of nothing but zeros, is what a full disk or a power cut leaves of a copy. Taken for a configuration
/// it would be one that does nothing, and what every uplink in it is owed would be dropped.
pub fn is_hollow(text: &str) -> bool {
    text.bytes().all(|byte| byte == 0)
}

fn read_one(path: &Path, part: Part, (sources, findings): (&mut Sources, &Findings)) -> Option<Node> {
    let is_file = part == Part::Main || sources.instead_of_disk().is_some() || !is_special(path);
    let text =
        if is_file { text_of(path, sources) } else { Err(Unread::wrong("is no file: nothing can be read there")) };
    match text {
        Ok(text) if is_hollow(&text) => {
            let message =
                "is empty: was a copy cut short, or is the disk full? One that is to do nothing has a comment in it";
            findings.unreadable(path.to_owned(), Unread::wrong(message));
            None
        }
        Ok(text) => take_in(path.to_owned(), text, sources, findings),
        Err(unread) => {
            let is_missing = sources.instead_of_disk().is_none() && matches!(path.try_exists(), Ok(false));
            let missing = match part {
                Part::Main => Cause::Text,
                Part::Fragment => Cause::Medium, // it was listed
            };
            let cause = if is_missing { missing } else { unread.cause };
            findings.unreadable(path.to_owned(), Unread { cause, ..unread });
            None
        }
    }
}

/// A pipe is waited at for whoever writes into it, a device never ends. Only a person who names one may mean it.
fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir())
}

/// Takes a TOML text in and parses it; all its syntax errors are reported.
pub fn take_in(path: PathBuf, text: String, sources: &mut Sources, findings: &Findings) -> Option<Node> {
    let Some(file) = sources.add(path.clone(), text) else {
        findings.unreadable(path, Unread::wrong("too many or too large configuration files"));
        return None;
    };
    match raw::parse(file, sources.text(file)) {
        Ok(tree) => Some(tree),
        Err(errors) => {
            for error in errors {
                let finding = Finding::line(error.at, Trail::Root, format!("this is not TOML: {}", error.message));
                findings.report(match error.also {
                    Some(also) => finding.also(also),
                    None => finding,
                });
            }
            None
        }
    }
}

fn join(sources: Sources, trees: Vec<Option<Node>>, findings: &Findings) -> FileSet {
    let complete = if trees.iter().all(Option::is_some) { Complete::Yes } else { Complete::No };
    let mut trees = trees.into_iter().flatten();
    let empty = || Node { at: At { file: FileIx(0), start: 0, end: 0 }, value: Value::Table(Table::default()) };
    let mut tree = trees.next().unwrap_or_else(empty);
    for next in trees {
        if let (Value::Table(into), Value::Table(from)) = (&mut tree.value, next.value) {
            merge(into, from, &Trail::Root, findings);
        }
    }
    FileSet { sources, tree, complete }
}

/// One level at a time; what cannot be joined is reported with both places, and the first one stays.
fn merge(into: &mut Table, from: Table, trail: &Trail<'_>, findings: &Findings) {
    for entry in from.entries {
        let Some(present) = into.entries.iter_mut().find(|present| present.key == entry.key) else {
            into.entries.push(entry);
            continue;
        };
        let path = Trail::Key(trail, &present.key);
        let Entry { key_at, node, .. } = entry;
        match (&mut present.node.value, node.value) {
            (Value::Table(into), Value::Table(from)) => merge(into, from, &path, findings),
            (Value::List(into), Value::List(from)) if all_tables(into) && all_tables(&from) => into.extend(from),
            (Value::Table(_), Value::List(_)) | (Value::List(_), Value::Table(_)) => {
                let message = "is [[a list]] in one file and a [table] in another; what belongs to an entry of a list \
                               follows it in the same file";
                findings.report(Finding::line(key_at, path, message).also(present.key_at));
            }
            _ => {
                let message = "the same key is set in two files";
                findings.report(Finding::line(key_at, path, message).also(present.key_at));
            }
        }
    }
}

fn all_tables(list: &[Node]) -> bool {
    !list.is_empty() && list.iter().all(|node| matches!(node.value, Value::Table(_)))
}
