//! The ledger: promises, written down on another medium as they are made.
//!
//! A file is made short again after each audit, whole under its name or not at all; standard output only grows.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::promises::Promises;
use crate::commands::Failed;

/// Where promises go.
pub(super) enum Ledger {
    /// Nowhere: they are kept in memory.
    None,
    /// To standard output.
    Out,
    /// To a file.
    File(PathBuf, File),
}

fn failed(path: &Path, error: &std::io::Error) -> Failed {
    Failed::TryAgain(format!("ledger {}: {error}", path.display()))
}

impl Ledger {
    /// Opens it; on a resume what it says is taken first.
    pub(super) fn open(path: Option<&Path>, resume: bool, promises: &mut Promises) -> Result<Self, Failed> {
        let Some(path) = path else { return Ok(Self::None) };
        let standard = path == Path::new("-");
        if resume {
            let mut text = String::new();
            let read = if standard {
                std::io::stdin().read_to_string(&mut text)
            } else {
                File::open(path).and_then(|mut file| file.read_to_string(&mut text))
            };
            read.map_err(|error| failed(path, &error))?;
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            whole.lines().for_each(|line| promises.take(line));
            if promises.count() == 0 {
                return Err(Failed::Usage(format!("ledger {} promises nothing", path.display())));
            }
        }
        if standard {
            return Ok(Self::Out);
        }
        let file = File::options().create(true).append(true).open(path).map_err(|error| failed(path, &error))?;
        if !resume {
            file.set_len(0).map_err(|error| failed(path, &error))?;
        }
        Ok(Self::File(path.to_path_buf(), file))
    }

    /// Adds a line of the child.
    pub(super) fn write(&mut self, line: &str) -> Result<(), Failed> {
        let line = format!("{line}\n");
        match self {
            Self::None => Ok(()),
            Self::Out => {
                let mut out = std::io::stdout().lock();
                let written = out.write_all(line.as_bytes()).and_then(|()| out.flush());
                written.map_err(|error| failed(Path::new("-"), &error))
            }
            // Not synced: it is meant to lie where the power is not cut.
            Self::File(path, file) => file.write_all(line.as_bytes()).map_err(|error| failed(path, &error)),
        }
    }

    /// Writes all promises, and nothing else, to a file.
    pub(super) fn rewrite(&mut self, promises: &Promises) -> Result<(), Failed> {
        match self {
            Self::None => Ok(()),
            Self::Out => {
                // What the audit itself has stored is promised too; the rest was said already.
                let last = promises.runs.iter().filter_map(|(stream, runs)| Some((stream, runs.last()?)));
                let lines: Vec<_> = last
                    .map(|((class, epoch), run)| {
                        let id = run.id + run.last - run.first;
                        format!("commit {class} {epoch} {} {} {id}", run.last, run.last)
                    })
                    .collect();
                lines.iter().try_for_each(|line| self.write(line))
            }
            Self::File(path, file) => {
                let draft = path.with_extension("draft");
                let write = || {
                    let mut new = File::create(&draft)?;
                    new.write_all(promises.text().as_bytes())?;
                    new.sync_all()?;
                    std::fs::rename(&draft, &*path)?;
                    File::options().append(true).open(&*path)
                };
                *file = write().map_err(|error| failed(path, &error))?;
                Ok(())
            }
        }
    }
}
