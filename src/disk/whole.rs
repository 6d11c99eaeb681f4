//! A small file that is read and replaced as a whole: after a power cut it holds the old content or the new one.
//!
//! Blocking; whoever calls it from async code does so on a thread that may block.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// Largest file that is read and written, bytes: what is larger is not ours.
const BYTES_MAX: u64 = 16 << 20;

/// The content; `None` where there is no such file.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut content)?;
    bounded(&content)?;
    Ok(Some(content))
}

/// Replaces the content; when it returns, the new one is on the disk. What [`read`] would not take is not written.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    bounded(content)?;
    let draft = path.with_extension("draft");
    let mut file = File::create(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_names(path)
}

/// Removes it, if it is there; when it returns, that is on the disk, too.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_names(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn bounded(content: &[u8]) -> io::Result<()> {
    if content.len() as u64 > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {BYTES_MAX} bytes")));
    }
    Ok(())
}

fn sync_names(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_one_that_is_not_there_is_nothing() {
        let home = tempfile::TempDir::new().expect("a directory");
        let path = home.path().join("note.json");
        assert_eq!(read(&path).expect("readable"), None);
        replace(&path, b"one").expect("written");
        replace(&path, b"two").expect("replaced");
        assert_eq!(read(&path).expect("readable").as_deref(), Some(&b"two"[..]));
        assert_eq!(fs::read_dir(home.path()).expect("listed").count(), 1, "no draft is left");
        for _ in 0..2 {
            remove(&path).expect("removed");
            assert_eq!(read(&path).expect("readable"), None);
        }
    }

    #[test]
    fn what_would_not_be_read_is_not_written_and_the_old_content_stays() {
        let home = tempfile::TempDir::new().expect("a directory");
        let path = home.path().join("note.json");
        let largest = usize::try_from(BYTES_MAX).expect("memory");
        replace(&path, &vec![7; largest]).expect("written");
        assert_eq!(
            replace(&path, &vec![8; largest + 1]).map_err(|error| error.kind()),
            Err(io::ErrorKind::InvalidData)
        );
        let content = read(&path).expect("readable").expect("there");
        assert!(content.len() == largest && content.first() == Some(&7));
    }
}
