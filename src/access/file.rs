//! The users file on disk: read with a look at who else may, and replaced whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// A file that is larger is not what was meant.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Permission bits of everybody: as for keys and passwords elsewhere.
const OTHERS: u32 = 0o007;

/// Why the file cannot be used. The text names the file.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    /// Not there, or not readable, or no disk.
    #[error("users_file {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A guess per second is all that protects a password whose hash everybody has.
    #[error("users_file {0}: everybody on this machine may use it (mode {1:03o}); chmod 640 {0}, or 600")]
    Open(String, u32),
    /// Not text, or too much of it.
    #[error("users_file {0}: is no text of at most 4 MiB")]
    NoText(String),
}

/// Reads the whole text; blocks for that long.
pub fn read(path: &Path) -> Result<String, BadFile> {
    let broken = |error| BadFile::Io { path: path.to_owned(), error };
    let file = File::open(path).map_err(broken)?;
    let mode = file.metadata().map_err(broken)?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(BadFile::Open(path.display().to_string(), mode));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(BadFile::NoText(path.display().to_string()));
    }
    let text = String::from_utf8(bytes).map_err(|_| BadFile::NoText(path.display().to_string()))?;
    Ok(unmarked(&text).to_owned())
}

/// Without the byte order mark that some editors begin a file with: it would be a part of the first name.
fn unmarked(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Reads the text, changes it and puts it back, with nobody else doing the same in between; a file that is not there is
/// empty. Blocks for that long.
pub fn change<T>(path: &Path, change: impl FnOnce(&str) -> (String, T)) -> Result<T, BadFile> {
    let broken = |error| BadFile::Io { path: path.to_owned(), error };
    let directory = File::open(directory_of(path)).map_err(broken)?;
    // The directory, because the file is another one afterwards. Gone with this handle.
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::LockExclusive).map_err(|error| broken(error.into()))?;
    let old = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        old => old.map_err(broken)?,
    };
    let (new, told) = change(unmarked(&old));
    if new != old || !path.exists() {
        replace(path, &new)?;
    }
    Ok(told)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Puts another text in its place: after a power cut there is the old one or the new one. With mode and owner of the old
/// file, but without the rights of everybody, so that root can write the file of a daemon that is not root. Where there was
/// none, the group of the directory may read it if that is not our own, for the same reason; else only we may.
pub fn replace(path: &Path, text: &str) -> Result<(), BadFile> {
    let broken = |error| BadFile::Io { path: path.to_owned(), error };
    // A link stays a link: what it points to is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let old = fs::metadata(&target).ok();
    let directory = directory_of(&target);
    let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let aside = directory.join(format!(".{name}.{:08x}.new", rand::random::<u32>()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        let mode = match old {
            Some(old) => {
                let new = file.metadata()?;
                if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                    fchown(&file, Some(old.uid()), Some(old.gid()))?;
                }
                old.permissions().mode() & 0o660
            }
            None if is_shared(&file, directory)? => 0o640,
            None => 0o600,
        };
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, &target)?;
        File::open(directory)?.sync_all()
    })();
    written.map_err(|error| {
        // It is the reason that counts, not what is left lying about; and after the rename nothing is.
        drop(fs::remove_file(&aside));
        broken(error)
    })
}

/// Gives a new file to the group of its directory, such as that of the daemon; `false`: it is our own, or not ours to give.
fn is_shared(file: &File, directory: &Path) -> io::Result<bool> {
    let group = fs::metadata(directory)?.gid();
    Ok(group != rustix::process::getegid().as_raw() && fchown(file, None, Some(group)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_whole_and_is_never_everybodys() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("users");
        replace(&path, "a").expect("written");
        assert_eq!((read(&path).expect("read").as_str(), mode(&path)), ("a", 0o600));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(read(&path), Err(BadFile::Open(_, 0o644))), "{:?}", read(&path));
        replace(&path, "b").expect("written");
        assert_eq!((read(&path).expect("read").as_str(), mode(&path)), ("b", 0o640));
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "nothing is left lying about");
        fs::write(&path, "\u{feff}hmi:x\n").expect("written");
        assert_eq!(read(&path).expect("read"), "hmi:x\n", "a byte order mark is no part of a name");
        change(&path, |old| (format!("{old}b:x\n"), ())).expect("changed");
        assert_eq!(fs::read_to_string(&path).expect("read"), "hmi:x\nb:x\n");
    }

    #[test]
    fn a_new_file_is_for_the_group_of_its_directory() {
        let dir = tempfile::tempdir().expect("dir");
        let ours = rustix::process::getegid().as_raw();
        let other = rustix::process::getgroups().unwrap_or_default().into_iter().map(rustix::fs::Gid::as_raw);
        let root = rustix::process::geteuid().is_root();
        let Some(other) = other.chain(root.then_some(ours + 1)).find(|group| *group != ours) else {
            return; // we can give it to nobody
        };
        std::os::unix::fs::chown(dir.path(), None, Some(other)).expect("chown");
        let path = dir.path().join("ironbridge.toml");
        replace(&path, "a").expect("written");
        assert_eq!((mode(&path), fs::metadata(&path).expect("there").gid()), (0o640, other));
    }

    #[test]
    fn a_link_stays_one_and_what_cannot_be_written_leaves_the_old_file() {
        let dir = tempfile::tempdir().expect("dir");
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        replace(&real, "a").expect("written");
        std::os::unix::fs::symlink(&real, &link).expect("link");
        replace(&link, "b").expect("written");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(read(&real).expect("read"), "b");
        assert!(matches!(replace(&dir.path().join("no/users"), "x"), Err(BadFile::Io { .. })));
        assert!(matches!(read(&dir.path().join("none")), Err(BadFile::Io { .. })));
    }
}
