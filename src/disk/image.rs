//! A database file read as a whole by plain reads: whether its content is damaged, beyond doubt.
//!
//! SQLite calls a read that the medium refuses inside a statement `SQLITE_CORRUPT` (`SQLITE_IOERR_CORRUPTFS` becomes that in
//! `sqlite3VdbeExec`): from its word alone nobody can tell a wrong content from a cable that is loose. Here the reading is ours
//! and each failure of it is [`Fault::Refused`]. Used only where something looks damaged.
//!
//! [`read`]: what SQLite says about the image in memory, it says about content that was read. That takes memory for the whole
//! file, a chunk is 32 MiB at most. [`surely`]: for files that may be larger, and nothing of them is kept; SQLite must say the
//! same twice, and the medium give all of it after each time.
//!
//! The log beside the file is laid over it as far as it is committed (sqlite.org/fileformat2.html, section 4):
//!
//! ```text
//! header 32 bytes   magic u32 0x377f0682 (checksums little-endian) or …83 (big-endian), version, page size, sequence, salt u64,
//!                   checksum u64 over the 24 bytes before
//! frame  24 bytes   page number u32, pages of the database after this commit u32 (0: no commit), salt u64, checksum u64 over
//!                   everything so far: the header's 24 bytes, then of each frame its first 8 bytes and its page
//!        + a page
//! ```
//!
//! A rollback journal is not applied: one is left only where a crash hit the change of the journal mode, and opening the file
//! in the ordinary way has rolled it back before anybody comes here.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::Connection;

use super::database::{PAGE, companion};
use super::fault::Fault;

/// Twice the largest chunk; what is larger was not written by us and does not go into memory.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MAGIC: u32 = 0x377f_0682;
/// Bytes 18 and 19 of a database say whether it is written and read by way of a log: an image has none.
const VERSIONS: [usize; 2] = [18, 19];

/// The whole content, open in memory.
pub(super) fn read(path: &Path) -> Result<Connection, Fault> {
    let before = Log::of(path)?;
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let bytes = before.pages.map_or(length, |pages| u64::from(pages) * PAGE);
    let size = usize::try_from(bytes).unwrap_or(usize::MAX);
    if size == 0 {
        return Err(Fault::Damaged("the file is empty".into()));
    }
    if bytes > BYTES_MAX {
        return Err(Fault::Damaged(format!("{bytes} bytes are more than any of these files has")));
    }
    let mut pages = Pages { file: &file, log: &before, bytes, at: 0, failed: None };
    let mut connection = Connection::open_in_memory()?;
    let taken = connection.deserialize_read_exact("main", &mut pages, size, true);
    if let Some(fault) = pages.failed {
        return Err(fault);
    }
    taken?;
    if Log::of(path)? != before || file.metadata()?.len() != length {
        return Err(Fault::Unavailable("it was written to while it was read".into()));
    }
    Ok(connection)
}

/// What `look` finds in the file, opening it; damage counts only if it is found twice, and the medium gives every page after
/// each time. Nothing of this process may have the file open when `look` has failed: closing another descriptor drops SQLite's
/// locks (<https://sqlite.org/howtocorrupt.html>, section 2.2).
pub(super) fn surely<T>(path: &Path, mut look: impl FnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    let mut judged = || match look() {
        Err(fault) if fault.is_damage() => read_through(path).and(Err(fault)),
        looked => looked,
    };
    match judged() {
        Err(fault) if fault.is_damage() => judged(),
        looked => looked,
    }
}

/// Every page of the file and of its log is read, one at a time as SQLite does.
fn read_through(path: &Path) -> Result<(), Fault> {
    for suffix in ["", "-wal"] {
        let file = match File::open(companion(path, suffix)) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            file => file?,
        };
        let (mut page, mut place) = ([0; 4096], 0);
        loop {
            match file.read_at(&mut page, place) {
                Ok(0) => break,
                Ok(bytes) => place += bytes as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(refused(&error)),
            }
        }
    }
    Ok(())
}

/// A file that could be opened, and not be read.
fn refused(error: &std::io::Error) -> Fault {
    Fault::Refused(error.to_string())
}

/// What the log beside a database says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Log {
    salt: [u8; 8],
    /// Pages of the database after the last commit; `None` when there is no log, or nothing committed in it.
    pages: Option<u32>,
    /// The newest committed content by page number.
    content: HashMap<u32, Vec<u8>>,
}

impl Log {
    fn of(path: &Path) -> Result<Self, Fault> {
        let file = match File::open(companion(path, "-wal")) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        let (mut log, mut header) = (Self::default(), [0; LOG_HEADER]);
        if !whole(&file, &mut header, 0)? || number(&header, 0) & !1 != MAGIC || u64::from(number(&header, 8)) != PAGE {
            return Ok(log);
        }
        let big = number(&header, 0) & 1 == 1;
        let mut sum = checksum((0, 0), &header[..24], big);
        if sum != (number(&header, 24), number(&header, 28)) {
            return Ok(log);
        }
        log.salt.copy_from_slice(&header[16..24]);
        let page = usize::try_from(PAGE).unwrap_or_default();
        let (mut place, mut frame) = (LOG_HEADER as u64, vec![0; FRAME_HEADER + page]);
        let mut open = HashMap::new(); // not committed yet
        while whole(&file, &mut frame, place)? && frame[8..16] == log.salt {
            sum = checksum(checksum(sum, &frame[..8], big), &frame[FRAME_HEADER..], big);
            if sum != (number(&frame, 16), number(&frame, 20)) {
                break;
            }
            open.insert(number(&frame, 0), frame[FRAME_HEADER..].to_vec());
            if number(&frame, 4) != 0 {
                log.pages = Some(number(&frame, 4));
                log.content.extend(open.drain());
            }
            place += frame.len() as u64;
        }
        Ok(log)
    }
}

/// Fills all of it; false where the file ends before.
fn whole(file: &File, bytes: &mut [u8], place: u64) -> Result<bool, Fault> {
    match file.read_exact_at(bytes, place) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(refused(&error)),
    }
}

fn number(bytes: &[u8], place: usize) -> u32 {
    bytes[place..place + 4].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

/// Section 4.2 there: pairs of 32-bit words.
fn checksum((mut one, mut two): (u32, u32), bytes: &[u8], big: bool) -> (u32, u32) {
    let word = |place: usize| if big { number(bytes, place) } else { number(bytes, place).swap_bytes() };
    for place in (0..bytes.len() / 8).map(|pair| pair * 8) {
        one = one.wrapping_add(word(place)).wrapping_add(two);
        two = two.wrapping_add(word(place + 4)).wrapping_add(one);
    }
    (one, two)
}

/// The database page by page, from its log where that has a page.
struct Pages<'a> {
    file: &'a File,
    log: &'a Log,
    bytes: u64,
    at: u64,
    failed: Option<Fault>,
}

impl Pages<'_> {
    fn page(&self) -> Result<Vec<u8>, Fault> {
        let length = usize::try_from((self.bytes - self.at).min(PAGE)).unwrap_or(0);
        let number = u32::try_from(self.at / PAGE + 1).unwrap_or(u32::MAX);
        let mut page = match self.log.content.get(&number) {
            Some(page) => page[..length].to_vec(),
            None => {
                let mut page = vec![0; length];
                whole(self.file, &mut page, self.at)?; // one that ends early is short of content: zeros
                page
            }
        };
        for byte in VERSIONS.into_iter().filter(|_| self.at == 0) {
            if let Some(version) = page.get_mut(byte) {
                *version = 1;
            }
        }
        Ok(page)
    }
}

impl Read for Pages<'_> {
    /// A page at a time; whoever reads has room for the whole file.
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.bytes {
            return Ok(0);
        }
        match self.page() {
            Ok(page) if page.len() <= into.len() => {
                into[..page.len()].copy_from_slice(&page);
                self.at += page.len() as u64;
                Ok(page.len())
            }
            Ok(_) => Err(ErrorKind::InvalidInput.into()),
            Err(fault) => {
                self.failed = Some(fault);
                Err(ErrorKind::Other.into())
            }
        }
    }
}

/// The memory of this process at address 0, where nothing lies: it can be opened, and a read is EIO.
#[cfg(test)]
pub(super) const REFUSING: &str = "/proc/self/mem";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::database;

    fn rows(connection: &Connection) -> Result<i64, Fault> {
        Ok(connection.query_row("SELECT sum(length(body)) FROM part", [], |row| row.get(0))?)
    }

    #[test]
    fn an_image_has_what_is_committed_in_the_log_as_well() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("file.db");
        let writer = database::open(&path).expect("made");
        writer.execute_batch("CREATE TABLE part (body BLOB); PRAGMA wal_checkpoint(TRUNCATE);").expect("a table");
        for round in 1..=40 {
            writer.execute("INSERT INTO part VALUES (zeroblob(9000))", []).expect("written");
            if round == 20 {
                database::checkpoint(&writer).expect("moved");
            }
            let image = read(&path).expect("readable");
            assert_eq!(rows(&image), Ok(round * 9000));
        }
    }

    #[test]
    fn a_medium_that_refuses_is_no_damage_and_a_content_that_is_wrong_is() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("file.db");
        std::fs::write(&path, vec![7; 3 * 4096]).expect("written");
        let fault = read(&path).and_then(|image| rows(&image)).expect_err("no database");
        assert!(fault.is_damage(), "{fault:?}");
        std::fs::remove_file(&path).expect("removed");
        // A directory can be opened, and each read of it is refused.
        std::fs::create_dir(&path).expect("made");
        let fault = read(&path).and_then(|image| rows(&image)).expect_err("not readable");
        assert!(matches!(fault, Fault::Refused(_)), "{fault:?}");
    }

    fn damaged() -> Result<(), Fault> {
        Err(Fault::Damaged("database disk image is malformed".into()))
    }

    #[test]
    fn damage_is_what_is_found_twice_in_a_file_that_the_medium_gives() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("file.db");
        std::fs::write(&path, vec![7; 3 * 4096]).expect("written");
        assert!(surely(&path, damaged).is_err_and(|fault| fault.is_damage()));
        let mut looks = 0;
        let once = || {
            looks += 1;
            if looks == 1 { damaged().map(|()| "") } else { Ok("whole") }
        };
        assert_eq!(surely(&path, once), Ok("whole"));
        let refusing = home.path().join("refused.db");
        for place in [&refusing, &companion(&path, "-wal")] {
            std::os::unix::fs::symlink(REFUSING, place).expect("made");
        }
        for path in [&refusing, &path] {
            let fault = surely(path, damaged).expect_err("refused");
            assert!(matches!(fault, Fault::Refused(_)), "{fault:?}");
        }
        let fault: Fault = database::open(&refusing).map(drop).expect_err("refused").into();
        assert!(matches!(fault, Fault::Refused(_)), "{fault:?}");
    }
}
