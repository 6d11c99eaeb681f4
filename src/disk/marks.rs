//! The high-water marks: the last committed number of each stream, kept apart from the chunks.
//!
//! A write-ahead log that is truncated or has flipped bits loses its tail silently; this file is how that is noticed.
//! It also knows its own inode, so that a store that was copied or restored from a backup is noticed too.
//!
//! ```text
//! file   = 2 blocks of 4096 bytes, written in turn and in place (one block write per commit, no metadata)
//! block  = magic "IBMARKS1" (8) | turn u64 | inode u64 | 4 × (epoch u64 | last u64) in class order | crc32 u32 | zeros
//!          all numbers little-endian; the CRC is over everything before it; the valid block with the higher turn counts
//! ```

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use super::fault::Fault;

const MAGIC: &[u8; 8] = b"IBMARKS1";
const BLOCK: u64 = 4096;
const USED: usize = 8 + 8 + 8 + 4 * 16 + 4;

/// One stream's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The epoch; 0 = none yet.
    pub epoch: u64,
    /// Its last committed number.
    pub last: u64,
}

/// What was found at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Marks of this very file.
    Marks([Mark; 4]),
    /// Marks written to another file: the directory is a copy, or came back from a backup.
    Copied([Mark; 4]),
    /// No file, or nothing readable in it.
    Nothing,
}

/// The open file.
#[derive(Debug)]
pub struct Marks {
    file: File,
    inode: u64,
    turn: u64,
}

impl Marks {
    /// Reads the marks, without changing anything.
    pub fn read(path: &Path) -> Found {
        let Ok(file) = File::open(path) else { return Found::Nothing };
        let inode = file.metadata().map_or(0, |about| about.ino());
        match newest(&file) {
            Some((_, owner, marks)) if owner == inode => Found::Marks(marks),
            Some((_, _, marks)) => Found::Copied(marks),
            None => Found::Nothing,
        }
    }

    /// Opens the file, making it if need be.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(2 * BLOCK)?;
        file.sync_all()?;
        let (turn, inode) = (newest(&file).map_or(0, |(turn, ..)| turn), file.metadata()?.ino());
        Ok(Self { file, inode, turn })
    }

    /// Writes all marks; durable when it returns.
    pub fn write(&mut self, marks: &[Mark; 4]) -> Result<(), Fault> {
        let turn = self.turn + 1;
        let mut block = Vec::with_capacity(4096);
        block.extend_from_slice(MAGIC);
        for number in [turn, self.inode].into_iter().chain(marks.iter().flat_map(|mark| [mark.epoch, mark.last])) {
            block.extend_from_slice(&number.to_le_bytes());
        }
        block.extend_from_slice(&crc32fast::hash(&block).to_le_bytes());
        block.resize(4096, 0);
        self.file.write_all_at(&block, (turn % 2) * BLOCK)?;
        self.file.sync_data()?;
        self.turn = turn;
        Ok(())
    }
}

fn newest(file: &File) -> Option<(u64, u64, [Mark; 4])> {
    let mut best: Option<(u64, u64, [Mark; 4])> = None;
    for place in [0, BLOCK] {
        let mut block = [0; USED];
        if file.read_exact_at(&mut block, place).is_err() {
            continue;
        }
        let (body, crc) = block.split_at(USED - 4);
        if &body[..8] != MAGIC || crc32fast::hash(body).to_le_bytes() != crc {
            continue;
        }
        let number =
            |n: usize| body[8 + n * 8..16 + n * 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let marks = std::array::from_fn(|class| Mark { epoch: number(2 + class * 2), last: number(3 + class * 2) });
        if best.is_none_or(|(turn, ..)| number(0) > turn) {
            best = Some((number(0), number(1), marks));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_block_falls_back_to_the_one_before_and_a_copy_is_recognised() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("marks");
        assert_eq!(Marks::read(&path), Found::Nothing);
        let mut marks = Marks::open(&path).expect("made");
        let at = |last| [Mark { epoch: 9, last }; 4];
        marks.write(&at(1)).expect("written");
        marks.write(&at(2)).expect("written");
        assert_eq!(Marks::read(&path), Found::Marks(at(2)));
        let copy = home.path().join("copy");
        std::fs::copy(&path, &copy).expect("copied");
        assert_eq!(Marks::read(&copy), Found::Copied(at(2)));
        File::options().write(true).open(&path).expect("open").write_all_at(&[7; 40], 0).expect("torn");
        assert_eq!(Marks::read(&path), Found::Marks(at(1)));
        std::fs::write(&path, b"").expect("emptied");
        assert_eq!(Marks::read(&path), Found::Nothing);
    }
}
