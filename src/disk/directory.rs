//! The directory of a store: which files lie there, how big they are, and the moves that make or free space.
//!
//! Knows names and bytes, not their meaning. A database file is never opened here: closing a plain descriptor of it
//! would drop SQLite's locks (<https://sqlite.org/howtocorrupt.html>, section 2.2).

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::model::number::Class;

use super::database::DRAFT;
use super::fault::Fault;

/// A chunk's file: `chunk-<class>-<number>.db`. Numbers are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkName {
    /// Whose segments it holds.
    pub class: Class,
    /// Grows with each chunk of any class.
    pub number: u64,
}

impl ChunkName {
    /// Stands for the tail where a chunk is named: what of a class is not in a chunk yet.
    pub const fn tail(class: Class) -> Self {
        Self { class, number: 0 }
    }

    /// Is it the tail and no chunk? Chunks are numbered from 1.
    pub const fn is_tail(self) -> bool {
        self.number == 0
    }

    /// The file name.
    pub fn file_name(self) -> String {
        format!("chunk-{}-{:06}.db", self.class, self.number)
    }

    fn parse(name: &str) -> Option<Self> {
        let (class, number) = name.strip_prefix("chunk-")?.strip_suffix(".db")?.split_once('-')?;
        Some(Self { class: Class::from_name(class)?, number: number.parse().ok()? }).filter(|name| !name.is_tail())
    }
}

/// A store's directory.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

const QUARANTINE: &str = "quarantine";
const BALLAST: &str = "ballast";
/// One new database with its log and shared memory file.
const FULL_BELOW: u64 = 128 * 1024;
const LOCK: &str = "lock";
/// The end of the name of a quarantined chunk that was read to its end.
const SALVAGED: &str = ".salvaged";
/// What SQLite puts beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

impl Directory {
    /// Names a directory; nothing is touched.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates it and its quarantine, and proves that it can be written to.
    pub fn prepare(&self) -> Result<(), Fault> {
        fs::create_dir_all(self.path.join(QUARANTINE))?;
        let proof = self.path.join(".writable");
        fs::write(&proof, b"")?;
        fs::remove_file(&proof)?;
        self.sync()
    }

    /// Takes the directory for this process; given back when the file is dropped, or the process ends in any way.
    pub fn lock(&self) -> Result<File, Fault> {
        let file = File::options().write(true).create(true).truncate(false).open(self.path.join(LOCK))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Fault::InUse(self.path.display().to_string())),
            Err(error) => Err(Fault::Unavailable(error.to_string())),
        }
    }

    /// Is this lock still the one that lies here? If not, the directory was removed or moved, or another file system is mounted
    /// over it: what is written to open files is found by nobody.
    pub fn is_held_by(&self, lock: &File) -> bool {
        let place = |about: fs::Metadata| (about.dev(), about.ino());
        match (lock.metadata(), fs::metadata(self.path.join(LOCK))) {
            (Ok(held), Ok(here)) => place(held) == place(here),
            (_, Err(error)) => error.kind() != std::io::ErrorKind::NotFound,
            (Err(_), _) => true, // of that nothing can be said
        }
    }

    /// Removes new files that a crash left unfinished.
    pub fn remove_drafts(&self) -> Result<(), Fault> {
        for (name, _) in list(&self.path)?.iter().filter(|(name, _)| name.contains(DRAFT)) {
            remove(&self.path.join(name))?;
        }
        Ok(())
    }

    /// Makes created, renamed and removed names durable.
    pub fn sync(&self) -> Result<(), Fault> {
        Ok(File::open(&self.path)?.sync_all()?)
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The path of a chunk.
    pub fn chunk(&self, name: ChunkName) -> PathBuf {
        self.path.join(name.file_name())
    }

    /// All chunks, by class, then oldest first.
    pub fn chunks(&self) -> Result<Vec<ChunkName>, Fault> {
        let mut chunks: Vec<_> = list(&self.path)?.iter().filter_map(|(name, _)| ChunkName::parse(name)).collect();
        chunks.sort_unstable();
        Ok(chunks)
    }

    /// The highest chunk number ever seen here, quarantine included.
    pub fn highest_chunk_number(&self) -> Result<u64, Fault> {
        let kept = list(&self.path)?;
        let aside = list(&self.path.join(QUARANTINE))?;
        let names = kept.iter().chain(&aside).map(|(name, _)| name.split_once(".db").map_or("", |(stem, _)| stem));
        Ok(names.filter_map(|stem| stem.rsplit_once('-')?.1.parse().ok()).max().unwrap_or(0))
    }

    /// Bytes of all files, quarantine included.
    pub fn bytes(&self) -> u64 {
        [self.path.clone(), self.path.join(QUARANTINE)]
            .iter()
            .flat_map(|path| list(path).unwrap_or_default())
            .map(|(_, bytes)| bytes)
            .sum()
    }

    /// Bytes that the file system still has for us.
    pub fn bytes_free(&self) -> u64 {
        rustix::fs::statvfs(&self.path).map_or(u64::MAX, |space| space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// Is there so little space that any error may be for want of it? (Where a shared memory file cannot grow, SQLite
    /// reports an I/O error, not a full disk.)
    pub fn is_full(&self) -> bool {
        self.bytes_free() < FULL_BELOW
    }

    /// Removes a database and what SQLite put beside it.
    pub fn remove_database(&self, name: &str) -> Result<(), Fault> {
        for suffix in COMPANIONS {
            remove(&self.path.join(format!("{name}{suffix}")))?;
        }
        remove(&self.path.join(name))
    }

    /// Moves a database and its log aside, untouched; the new path is returned.
    pub fn set_aside(&self, name: &str) -> Result<PathBuf, Fault> {
        let aside = self.path.join(QUARANTINE);
        fs::create_dir_all(&aside)?;
        let mut target = name.to_owned();
        let mut copy = 1;
        while aside.join(&target).exists() {
            copy += 1;
            target = format!("{name}.{copy}");
        }
        let _ = remove(&self.path.join(format!("{name}-shm")));
        for suffix in ["-wal", "-journal"] {
            let log = self.path.join(format!("{name}{suffix}"));
            if log.try_exists()? {
                fs::rename(&log, aside.join(format!("{target}{suffix}")))?;
            }
        }
        if self.path.join(name).try_exists()? {
            fs::rename(self.path.join(name), aside.join(&target))?;
        }
        self.sync()?;
        Ok(aside.join(target))
    }

    /// The same in place of whatever was set aside under this name before: what is damaged again and again fills no disk.
    pub fn set_aside_alone(&self, name: &str) -> Result<PathBuf, Fault> {
        let aside = self.path.join(QUARANTINE);
        fs::create_dir_all(&aside)?;
        let is_older =
            |file: &str| file.strip_prefix(name).is_some_and(|end| end.is_empty() || end.starts_with(['.', '-']));
        for (older, _) in list(&aside)?.iter().filter(|(file, _)| is_older(file)) {
            remove(&aside.join(older))?;
        }
        self.set_aside(name)
    }

    /// Is there a write-ahead log beside this chunk?
    pub fn has_log(&self, name: ChunkName) -> bool {
        self.path.join(format!("{}-wal", name.file_name())).exists()
    }

    /// Chunks in quarantine that were not yet salvaged, with their class.
    pub fn chunks_aside(&self) -> Result<Vec<(Class, PathBuf)>, Fault> {
        let aside = self.path.join(QUARANTINE);
        let files = if aside.try_exists()? { list(&aside)? } else { Vec::new() };
        let alone = |name: &str| !name.ends_with(SALVAGED) && !COMPANIONS.iter().any(|suffix| name.ends_with(suffix));
        let waiting = files.iter().filter(|(name, _)| alone(name));
        let class = |name: &str| Class::from_name(name.strip_prefix("chunk-")?.split('-').next()?);
        Ok(waiting.filter_map(|(name, _)| Some((class(name)?, aside.join(name)))).collect())
    }

    /// A chunk in quarantine has given everything it had.
    pub fn mark_salvaged(&self, aside: &Path) -> Result<(), Fault> {
        let mut name = aside.as_os_str().to_owned();
        name.push(SALVAGED);
        Ok(fs::rename(aside, name)?)
    }

    /// Bytes in quarantine.
    pub fn bytes_aside(&self) -> u64 {
        list(&self.path.join(QUARANTINE)).unwrap_or_default().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Empties the quarantine; true when something was there.
    pub fn clear_aside(&self) -> bool {
        let files = list(&self.path.join(QUARANTINE)).unwrap_or_default();
        for (name, _) in &files {
            let _ = remove(&self.path.join(QUARANTINE).join(name));
        }
        !files.is_empty()
    }

    /// Lays the ballast down unless it lies there.
    pub fn lay_ballast(&self, bytes: u64) -> Result<(), Fault> {
        let path = self.path.join(BALLAST);
        if path.metadata().is_ok_and(|file| file.len() == bytes) {
            return Ok(());
        }
        let mut file = File::create(&path)?;
        let block = [0x42; 4096]; // not zeros: some flash layers keep no blocks for those
        for _ in 0..bytes.div_ceil(4096) {
            if let Err(error) = file.write_all(&block) {
                let _ = remove(&path);
                return Err(error.into());
            }
        }
        Ok(file.sync_all()?)
    }

    /// Throws the ballast away; true when there was any.
    pub fn drop_ballast(&self) -> bool {
        fs::remove_file(self.path.join(BALLAST)).is_ok()
    }
}

fn list(path: &Path) -> Result<Vec<(String, u64)>, Fault> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let bytes = match entry.metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue, // gone since
            // Passed over it would count as lost: whoever opens it hears what the medium says.
            Err(_) => 0,
            Ok(about) if about.is_file() => about.len(),
            Ok(_) => continue,
        };
        if let Ok(name) = entry.file_name().into_string() {
            files.push((name, bytes));
        }
    }
    Ok(files)
}

fn remove(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_names_read_back_and_their_numbers_are_found_in_quarantine_too() {
        let home = tempfile::tempdir().expect("a directory");
        let directory = Directory::at(home.path());
        directory.prepare().expect("writable");
        let name = ChunkName { class: Class::Bulk, number: 41 };
        assert_eq!(ChunkName::parse(&name.file_name()), Some(name));
        fs::write(directory.chunk(name), b"x").expect("written");
        assert_eq!(directory.chunks().expect("listed"), [name]);
        directory.set_aside(&name.file_name()).expect("moved");
        assert_eq!((directory.chunks().expect("listed").len(), directory.highest_chunk_number()), (0, Ok(41)));
        directory.lay_ballast(8192).expect("space");
        assert_eq!(directory.bytes(), 8193);
        assert!(directory.drop_ballast() && directory.clear_aside());
        assert_eq!(directory.bytes(), 0);
    }
}
