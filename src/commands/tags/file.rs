//! Writing a text file that somebody may have an older one of: never over it unasked, never half, never with other rights.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use super::super::Failed;

/// What becomes of a file that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// It stays.
    No,
    /// It is replaced.
    Yes,
}

/// Writes a file.
pub fn write(path: &Path, text: &str, overwrite: Overwrite) -> Result<(), Failed> {
    let cannot = |error: io::Error| Failed::TryAgain(format!("{} cannot be written: {error}", path.display()));
    match overwrite {
        Overwrite::Yes if path.exists() => replace(path, text).map_err(cannot),
        _ => match File::create_new(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Failed::Usage(format!("{} exists: --force replaces it", path.display())))
            }
            Err(error) => Err(cannot(error)),
            Ok(file) => fill(&file, text).inspect_err(|_| drop(fs::remove_file(path))).map_err(cannot),
        },
    }
}

fn fill(mut file: &File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Under another name until it is whole, with owner and rights of the old one; a link stays a link.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = path.canonicalize()?;
    let old = fs::metadata(&path)?;
    if !old.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    let draft = PathBuf::from(draft);
    let file = File::create(&draft)?;
    let filled = fill(&file, text).and_then(|()| {
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            chown(&draft, Some(old.uid()), Some(old.gid()))?;
        }
        fs::set_permissions(&draft, old.permissions())?;
        fs::rename(&draft, &path)
    });
    if filled.is_err() {
        drop(fs::remove_file(&draft));
    }
    filled
}
