//! What a run had to leave, and only the configuration that it replaced spoke of: kept in a file beside the new one, so that
//! the next run names it again until somebody has taken it away.
//!
//! ```text
//! factory-reset.left: each path, a zero byte, a line feed; a path is any bytes but zero
//! ```
//!
//! Written before anything goes, because a power cut may come at any time; gone when nothing of it is left. Names, no secrets.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const NAME: &str = "factory-reset.left";
const END: &[u8] = b"\0\n";

/// The file, beside the configuration.
pub(super) fn file(home: &Path) -> PathBuf {
    home.join(NAME)
}

/// What earlier runs left and is still there, in order.
pub(super) fn read(home: &Path) -> io::Result<Vec<PathBuf>> {
    let text = match fs::read(file(home)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let (mut left, mut rest) = (Vec::new(), &text[..]);
    while let Some(at) = rest.windows(END.len()).position(|bytes| bytes == END) {
        let path = PathBuf::from(OsStr::from_bytes(&rest[..at]));
        rest = &rest[at + END.len()..];
        if fs::symlink_metadata(&path).is_ok() {
            left.push(path);
        }
    }
    Ok(left)
}

/// Exactly these from now on, through a power cut, too.
pub(super) fn keep(home: &Path, paths: &[&Path]) -> io::Result<()> {
    let text: Vec<u8> = paths.iter().flat_map(|path| [path.as_os_str().as_bytes(), END].concat()).collect();
    let file = file(home);
    match fs::read(&file) {
        Ok(before) if before == text && !text.is_empty() => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && text.is_empty() => return Ok(()),
        _ => {}
    }
    if text.is_empty() {
        fs::remove_file(&file)?;
    } else {
        // What a power cut leaves of it goes with the next run, as a draft.
        let draft = home.join(format!(".{NAME}.{:08x}.new", rand::random::<u32>()));
        let mut new = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        new.write_all(&text)?;
        new.sync_all()?;
        fs::rename(&draft, &file)?;
    }
    File::open(home)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_named_until_it_is_gone_whatever_it_is_called() {
        let home = tempfile::tempdir().expect("a directory");
        let odd = home.path().join(OsStr::from_bytes(b"a\nkey \xff"));
        let plain = home.path().join("key");
        assert_eq!(read(home.path()).expect("none"), Vec::<PathBuf>::new());
        for path in [&odd, &plain] {
            fs::write(path, "").expect("written");
        }
        keep(home.path(), &[&odd, &plain]).expect("kept");
        assert_eq!(read(home.path()).expect("read"), [odd.clone(), plain.clone()]);
        fs::remove_file(&odd).expect("gone");
        assert_eq!(read(home.path()).expect("read"), [plain]);
        keep(home.path(), &[]).expect("gone");
        keep(home.path(), &[]).expect("there is none");
        assert!(!file(home.path()).exists());
    }
}
