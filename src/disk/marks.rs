//! The high-water marks: the last number used in each stream, committed or given up at a stop, kept apart from what they
//! measure.
//!
//! A write-ahead log that is truncated or has flipped bits loses its end silently; this file is how that is noticed.
//! It also knows its own inode, so that a store that was copied or restored from a backup is noticed too. And because a
//! block is written with each commit anyway, it carries where the uplinks stand: as many cursors as find room.
//!
//! ```text
//! file    2 blocks of 4096 bytes, written in turn and in place (one block write per commit, no metadata); where the medium
//!         refuses that, a new file takes its place
//! block   magic "IBMARKS2" (8) | turn u64 | inode u64 | 4 × (epoch u64 | last u64) in class order | length u16 of the uplinks |
//!         uplinks | crc32 u32 | 4 × given up u64 in class order | crc32 u32 | zeros
//!         all numbers little-endian; each CRC is over everything before it; the valid block with the higher turn counts; where
//!         only the first CRC is right (earlier versions end there) nothing was given up
//! uplink  length u8 of the name | name | classes u8: bit 0 = alarm … bit 3 = bulk | per class that is set:
//!         epoch u64 | acked varint | ranges u8 | per range: numbers skipped varint | numbers acknowledged varint
//!         varint as in protobuf; ranges are of the same epoch, the first counts from acked, each next from the one before
//! ```
//! Blocks with magic "IBMARKS1" have neither length nor uplinks; they are read too.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::fault::{Fault, Unreadable};
use crate::model::number::PerClass;

const MAGIC: &[u8; 8] = b"IBMARKS2";
const MAGIC_BEFORE: &[u8; 8] = b"IBMARKS1";
const BLOCK: u64 = 4096;
/// Magic, turn, inode and marks.
const HEAD: usize = 8 + 8 + 8 + 4 * 16;
/// What was given up, with its CRC.
const GIVEN_UP: usize = 4 * 8 + 4;
/// What uplinks may take: a block without head, length, CRC and what was given up.
const UPLINKS_MAX: usize = 4096 - HEAD - 2 - 4 - GIVEN_UP;

/// One stream's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The epoch; 0 = none yet.
    pub epoch: u64,
    /// Its last number used.
    pub last: u64,
    /// So many numbers up to there were given up at a stop: never committed, and declared by the next start.
    pub given_up: u64,
}

/// Where an uplink stands in one stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AckedMark {
    /// In which epoch.
    pub epoch: u64,
    /// Everything up to here is acknowledged.
    pub acked: u64,
    /// Acknowledged above it, first and last, in order.
    pub ranges: Vec<(u64, u64)>,
}

/// Where an uplink stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UplinkMark {
    /// Its name.
    pub uplink: String,
    /// By class.
    pub cursors: PerClass<Option<AckedMark>>,
}

/// What was found at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Marks of this very file.
    Marks(PerClass<Mark>),
    /// Marks written to another file: the directory is a copy, or came back from a backup.
    Copied(PerClass<Mark>),
    /// No file, or nothing readable in it.
    Nothing,
}

/// The open file.
#[derive(Debug)]
pub struct Marks {
    path: PathBuf,
    file: File,
    inode: u64,
    turn: u64,
    /// It took the place of another, and that is not known to be durable.
    moved: bool,
}

impl Marks {
    /// Reads marks and uplinks, without changing anything. A block that cannot be read now is an error when somebody will
    /// try again, else as good as damaged.
    pub fn read(path: &Path, unreadable: Unreadable) -> Result<(Found, Vec<UplinkMark>), Fault> {
        let read = File::open(path).and_then(|file| Ok((file.metadata()?.ino(), newest(&file, unreadable)?)));
        match read {
            Ok((inode, Some(block))) if block.inode == inode => Ok((Found::Marks(block.marks), block.uplinks)),
            Ok((_, Some(block))) => Ok((Found::Copied(block.marks), block.uplinks)),
            Err(error) if unreadable == Unreadable::TryAgain && error.kind() != ErrorKind::NotFound => {
                Err(error.into())
            }
            Ok((_, None)) | Err(_) => Ok((Found::Nothing, Vec::new())),
        }
    }

    /// Opens the file, making it if need be; one that cannot be read is made anew when nobody will try again.
    pub fn open(path: &Path, unreadable: Unreadable) -> Result<Self, Fault> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        // Both blocks have their place from the beginning, not only their length: on a disk that is full by then a hole could
        // not be written.
        let length = file.metadata()?.len();
        for place in [0, BLOCK].into_iter().filter(|place| length < place + BLOCK) {
            file.write_all_at(&[0; 4096], place)?;
        }
        file.set_len(2 * BLOCK)?;
        file.sync_all()?;
        // Not from 0 again because a block cannot be read just now: the other one would go on counting as the newer.
        let newest = match newest(&file, Unreadable::TryAgain) {
            Err(_) if unreadable == Unreadable::GiveUp => {
                std::fs::remove_file(path)?;
                return Self::open(path, Unreadable::TryAgain);
            }
            newest => newest?,
        };
        let (turn, inode) = (newest.map_or(0, |block| block.turn), file.metadata()?.ino());
        Ok(Self { path: path.to_owned(), file, inode, turn, moved: false })
    }

    /// Writes all marks, and of the uplinks, in order, those that find room; durable when it returns. How many did. A file that
    /// refuses it is left for a new one: this place is written most of all, and after a failed sync nobody knows what it holds.
    pub fn write(&mut self, marks: &PerClass<Mark>, uplinks: &[UplinkMark]) -> Result<usize, Fault> {
        let fault = match self.put(marks, uplinks) {
            Err(fault) => fault,
            told => return told,
        };
        let draft = self.path.with_extension("draft");
        let _ = std::fs::remove_file(&draft); // of the time before
        let mut anew = Self { turn: self.turn, ..Self::open(&draft, Unreadable::TryAgain)? };
        let told = anew.put(marks, uplinks)?;
        std::fs::rename(&draft, &self.path)?;
        tracing::warn!(error = %fault, "the medium refuses the store's marks; they go on in a new file");
        *self = Self { path: std::mem::take(&mut self.path), moved: true, ..anew };
        self.settle()?;
        Ok(told)
    }

    /// Makes a new name durable.
    fn settle(&mut self) -> Result<(), Fault> {
        if self.moved {
            File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
            self.moved = false;
        }
        Ok(())
    }

    fn put(&mut self, marks: &PerClass<Mark>, uplinks: &[UplinkMark]) -> Result<usize, Fault> {
        let turn = self.turn + 1;
        let (encoded, told) = encode(uplinks);
        let mut block = Vec::with_capacity(4096);
        block.extend_from_slice(MAGIC);
        for number in [turn, self.inode].into_iter().chain(marks.values().flat_map(|mark| [mark.epoch, mark.last])) {
            block.extend_from_slice(&number.to_le_bytes());
        }
        block.extend_from_slice(&u16::try_from(encoded.len()).unwrap_or(0).to_le_bytes());
        block.extend_from_slice(&encoded);
        block.extend_from_slice(&crc32fast::hash(&block).to_le_bytes());
        for mark in marks.values() {
            block.extend_from_slice(&mark.given_up.to_le_bytes());
        }
        block.extend_from_slice(&crc32fast::hash(&block).to_le_bytes());
        block.resize(4096, 0);
        self.file.write_all_at(&block, (turn % 2) * BLOCK)?;
        self.file.sync_data()?;
        self.settle()?;
        self.turn = turn;
        Ok(told)
    }

    /// Bytes of one write.
    pub const BYTES: u64 = BLOCK;
}

/// Whole uplinks, as many as find room, and how many that are.
fn encode(uplinks: &[UplinkMark]) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    for (told, mark) in uplinks.iter().enumerate() {
        let before = bytes.len();
        let Ok(length) = u8::try_from(mark.uplink.len()) else { return (bytes, told) };
        bytes.push(length);
        bytes.extend_from_slice(mark.uplink.as_bytes());
        let classes = mark.cursors.iter().filter(|(_, cursor)| cursor.is_some());
        bytes.push(classes.fold(0, |set, (class, _)| set | 1 << class as u8));
        for cursor in mark.cursors.values().flatten() {
            bytes.extend_from_slice(&cursor.epoch.to_le_bytes());
            put_varint(cursor.acked, &mut bytes);
            let ranges = &cursor.ranges[..cursor.ranges.len().min(usize::from(u8::MAX))];
            bytes.push(u8::try_from(ranges.len()).unwrap_or(u8::MAX));
            let mut before = cursor.acked;
            for (first, last) in ranges {
                put_varint(first.saturating_sub(before + 1), &mut bytes);
                put_varint((last + 1).saturating_sub(*first), &mut bytes);
                before = *last;
            }
        }
        if bytes.len() > UPLINKS_MAX {
            bytes.truncate(before);
            return (bytes, told);
        }
    }
    (bytes, uplinks.len())
}

/// A block whose CRC is right.
struct Block {
    turn: u64,
    inode: u64,
    marks: PerClass<Mark>,
    uplinks: Vec<UplinkMark>,
}

fn newest(file: &File, unreadable: Unreadable) -> std::io::Result<Option<Block>> {
    let mut best: Option<Block> = None;
    for place in [0, BLOCK] {
        let mut bytes = [0; 4096];
        match file.read_exact_at(&mut bytes, place) {
            Ok(()) => {}
            Err(error) if unreadable == Unreadable::TryAgain && error.kind() != ErrorKind::UnexpectedEof => {
                return Err(error);
            }
            Err(_) => continue,
        }
        if let Some(block) = block(&bytes)
            && best.as_ref().is_none_or(|best| block.turn > best.turn)
        {
            best = Some(block);
        }
    }
    Ok(best)
}

fn block(bytes: &[u8]) -> Option<Block> {
    let uplinks = match &bytes[..8] {
        magic if magic == MAGIC => {
            let length = u16::from_le_bytes(bytes[HEAD..HEAD + 2].try_into().ok()?);
            HEAD + 2..HEAD + 2 + usize::from(length)
        }
        magic if magic == MAGIC_BEFORE => HEAD..HEAD,
        _ => return None,
    };
    if !is_checked(bytes, uplinks.end)? {
        return None;
    }
    let given_up = given_up(bytes, uplinks.end + 4).unwrap_or_default();
    let number = |n: usize| bytes[8 + n * 8..16 + n * 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let marks = PerClass::of(|class| {
        let at = 2 + class as usize * 2;
        Mark { epoch: number(at), last: number(at + 1), given_up: given_up[class] }
    });
    let uplinks = decode(&bytes[uplinks]).unwrap_or_default();
    Some(Block { turn: number(0), inode: number(1), marks, uplinks })
}

/// Is the CRC at this place right? `None`: there is none.
fn is_checked(bytes: &[u8], place: usize) -> Option<bool> {
    Some(crc32fast::hash(bytes.get(..place)?).to_le_bytes() == bytes.get(place..place + 4)?)
}

fn given_up(bytes: &[u8], place: usize) -> Option<PerClass<u64>> {
    let numbers = bytes.get(place..place + 4 * 8)?;
    let number = |class: usize| Some(u64::from_le_bytes(numbers[class * 8..][..8].try_into().ok()?));
    is_checked(bytes, place + 4 * 8)?.then_some([number(0)?, number(1)?, number(2)?, number(3)?].into())
}

fn decode(mut bytes: &[u8]) -> Option<Vec<UplinkMark>> {
    let mut uplinks = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (classes, rest) = rest.split_first()?;
        bytes = rest;
        let mut mark = UplinkMark { uplink: std::str::from_utf8(name).ok()?.to_owned(), ..UplinkMark::default() };
        for (class, cursor) in mark.cursors.iter_mut() {
            if classes & 1 << class as u8 != 0 {
                *cursor = Some(acked(&mut bytes)?);
            }
        }
        uplinks.push(mark);
    }
    Some(uplinks)
}

fn acked(bytes: &mut &[u8]) -> Option<AckedMark> {
    let (epoch, rest) = bytes.split_at_checked(8)?;
    *bytes = rest;
    let epoch = u64::from_le_bytes(epoch.try_into().ok()?);
    let acked = varint(bytes)?;
    let (count, rest) = bytes.split_first()?;
    *bytes = rest;
    let (mut ranges, mut before) = (Vec::with_capacity(usize::from(*count)), acked);
    for _ in 0..*count {
        let first = before.checked_add(1)?.checked_add(varint(bytes)?)?;
        let last = first.checked_add(varint(bytes)?)?.checked_sub(1)?;
        ranges.push((first, last));
        before = last;
    }
    Some(AckedMark { epoch, acked, ranges })
}

fn put_varint(mut number: u64, bytes: &mut Vec<u8>) {
    while let [low, _, ..] = number.to_le_bytes()
        && number >= 0x80
    {
        bytes.push(low | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests;
