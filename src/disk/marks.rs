//! The high-water marks: the last number used in each stream, committed or given up at a stop, kept apart from what they
//! measure.
//!
//! A write-ahead log that is truncated or has flipped bits loses its end silently; this file is how that is noticed.
//! It also knows its own inode, so that a store that was copied or restored from a backup is noticed too. And because a
//! block is written with each commit anyway, it carries where the uplinks stand: as many cursors as find room.
//!
//! ```text
//! file    2 blocks of 4096 bytes, written in turn and in place (one block write per commit, no metadata)
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
use std::path::Path;

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
    file: File,
    inode: u64,
    turn: u64,
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
        Ok(Self { file, inode, turn })
    }

    /// Writes all marks, and of the uplinks, in order, those that find room; durable when it returns. How many did.
    pub fn write(&mut self, marks: &PerClass<Mark>, uplinks: &[UplinkMark]) -> Result<usize, Fault> {
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
mod tests {
    use super::*;

    fn read(path: &Path) -> (Found, Vec<UplinkMark>) {
        Marks::read(path, Unreadable::TryAgain).expect("readable")
    }

    fn at(last: u64) -> PerClass<Mark> {
        PerClass::of(|_| Mark { epoch: 9, last, given_up: 0 })
    }

    #[test]
    fn a_torn_block_falls_back_to_the_one_before_and_a_copy_is_recognised() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("marks");
        assert_eq!(read(&path).0, Found::Nothing);
        let mut marks = Marks::open(&path, Unreadable::TryAgain).expect("made");
        marks.write(&at(1), &[]).expect("written");
        marks.write(&at(2), &[]).expect("written");
        assert_eq!(read(&path).0, Found::Marks(at(2)));
        let copy = home.path().join("copy");
        std::fs::copy(&path, &copy).expect("copied");
        assert_eq!(read(&copy).0, Found::Copied(at(2)));
        File::options().write(true).open(&path).expect("open").write_all_at(&[7; 40], 0).expect("torn");
        assert_eq!(read(&path).0, Found::Marks(at(1)));
        std::fs::write(&path, b"").expect("emptied");
        assert_eq!(read(&path).0, Found::Nothing);
    }

    #[test]
    fn a_block_whose_length_points_anywhere_is_no_block_and_the_one_before_counts() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("marks");
        let mut marks = Marks::open(&path, Unreadable::TryAgain).expect("made");
        marks.write(&at(1), &[]).expect("written");
        marks.write(&at(2), &[]).expect("written");
        let newer = File::options().write(true).open(&path).expect("open");
        for length in (1..=u16::MAX).step_by(7).chain([u16::MAX]) {
            newer.write_all_at(&length.to_le_bytes(), HEAD as u64).expect("damaged");
            assert_eq!(read(&path).0, Found::Marks(at(1)), "{length}");
        }
    }

    #[test]
    fn marks_of_the_version_before_are_read_and_carry_no_uplinks() {
        let mut block = MAGIC_BEFORE.to_vec();
        for number in [3u64, 5].into_iter().chain([9u64, 70].into_iter().cycle().take(8)) {
            block.extend_from_slice(&number.to_le_bytes());
        }
        block.extend_from_slice(&crc32fast::hash(&block).to_le_bytes());
        block.resize(4096, 0);
        let read = super::block(&block).expect("whole");
        assert_eq!((read.turn, read.inode, read.marks, read.uplinks), (3, 5, at(70), Vec::new()));
    }

    #[test]
    fn what_was_given_up_comes_back_and_a_block_that_ends_before_it_has_nothing_of_it() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("marks");
        let mut marks = Marks::open(&path, Unreadable::TryAgain).expect("made");
        let with = [3, 0, 700, u64::MAX].map(|given_up| Mark { epoch: 9, last: 50, given_up }).into();
        let uplinks = vec![UplinkMark { uplink: "cloud".into(), ..UplinkMark::default() }];
        marks.write(&with, &uplinks).expect("written");
        assert_eq!(read(&path), (Found::Marks(with), uplinks.clone()));
        // As a version without it writes it: zeros behind the first CRC. And as a torn one may look.
        let mut bytes = std::fs::read(&path).expect("read");
        let place = 4096 + HEAD + 2 + uplinks[0].uplink.len() + 2 + 4;
        for byte in [0, 7] {
            bytes[place..place + 10].fill(byte);
            std::fs::write(&path, &bytes).expect("written");
            assert_eq!(read(&path), (Found::Marks(at(50)), uplinks.clone()));
        }
    }

    #[test]
    fn uplinks_come_back_with_their_ranges_and_what_finds_no_room_is_left_out_whole() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("marks");
        let ranges: Vec<(u64, u64)> = (0..64).map(|n| (1_000_000 + n * 4000, 1_000_999 + n * 4000)).collect();
        let cursor =
            |ranges: &[(u64, u64)]| Some(AckedMark { epoch: (1 << 53) - 1, acked: 999_000, ranges: ranges.into() });
        let uplink = |n: usize, ranges: &[(u64, u64)]| UplinkMark {
            uplink: format!("uplink-{n}"),
            cursors: [cursor(ranges), None, cursor(&[]), cursor(ranges)].into(),
        };
        let mut marks = Marks::open(&path, Unreadable::TryAgain).expect("made");
        let few: Vec<_> = (0..4).map(|n| uplink(n, &ranges)).collect();
        assert_eq!(marks.write(&at(1), &few), Ok(4), "four uplinks with all the ranges they may have");
        assert_eq!(read(&path), (Found::Marks(at(1)), few));
        let many: Vec<_> = (0..40).map(|n| uplink(n, &ranges)).collect();
        let told = marks.write(&at(2), &many).expect("written");
        assert!((4..40).contains(&told), "{told}");
        assert_eq!(read(&path), (Found::Marks(at(2)), many[..told].to_vec()));
    }
}
