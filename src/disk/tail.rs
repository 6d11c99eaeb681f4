//! The tail: what was committed and is not merged into a chunk yet, in a ring of blocks that is written in place.
//!
//! One commit is one slot, one write, one `fdatasync`; the file never changes its size, so the file system's journal is
//! not troubled. A slot is free again once all its segments lie in chunks: what a torn write can destroy is merged, or
//! was never acknowledged. Chunks are the truth: a segment that stands in a chunk as well is not looked at here, so that
//! slots need not be erased. That the newest slot is damaged is noticed by the `marks`, any other by a hole in the numbers.
//!
//! ```text
//! file    n blocks of 4096 bytes, each written once when the file is made
//! slot    1 or more blocks in a row, which lie within the file; its payload is that of its blocks, end to end
//! block   crc32 u32 over the rest of the block | magic "IBT1" (4) | turn u64: grows with each slot | index u16 of the block
//!         in its slot | blocks u16 of the slot | bytes u32 of the slot's payload | payload, at most 4072 bytes | zeros
//! payload per segment: class u8 | epoch u64 | first u64 | last u64 | boot u32 | earliest i64 | latest i64 | raw u32 |
//!         crc u32 | length u32 of the body | body: as in a chunk's row
//!         all numbers little-endian
//! ```
//!
//! Only whole blocks are looked at, each under its own header, so that no payload can pass for a slot. A file whose end
//! is cut off still gives what it has.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::model::number::Class;

use super::chunk::SegmentRow;
use super::database::DRAFT;
use super::fault::{Fault, Unreadable};

/// Bytes of a block: what a file system writes at least.
const BLOCK: usize = 4096;
const MAGIC: &[u8; 4] = b"IBT1";
const HEADER: usize = 24;
const PAYLOAD: usize = BLOCK - HEADER;
/// What stands before a segment's body.
const ROW: usize = 57;
/// Smaller files are not worth having, larger ones are not ours.
const BLOCKS: std::ops::RangeInclusive<u64> = 16..=1024;
/// A new file's blocks: not zeros, some flash layers keep no blocks for those.
const FILL: u8 = 0x54;

/// One segment of the tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailRow {
    /// Whose.
    pub class: Class,
    /// Of which epoch.
    pub epoch: u64,
    /// The segment.
    pub row: Arc<SegmentRow>,
}

/// Blocks whose segments are not all merged.
#[derive(Debug)]
struct Slot {
    start: usize,
    blocks: usize,
    /// Class, epoch, first and last of each segment that is not merged.
    waiting: Vec<(Class, u64, u64, u64)>,
}

impl Slot {
    fn new(start: usize, blocks: usize, rows: &[TailRow]) -> Self {
        let waiting = rows.iter().map(|row| (row.class, row.epoch, row.row.first, row.row.last)).collect();
        Self { start, blocks, waiting }
    }
}

/// The open file.
#[derive(Debug)]
pub struct TailFile {
    file: File,
    blocks: usize,
    /// Where the next slot goes if there is room.
    head: usize,
    turn: u64,
    slots: Vec<Slot>,
}

impl TailFile {
    /// Every segment of every whole slot, oldest first; nothing is changed. A file that is not there has none.
    pub fn read(path: &Path) -> Vec<TailRow> {
        let Ok(file) = File::open(path) else { return Vec::new() };
        content(&file, Unreadable::GiveUp)
            .map(|content| slots(&content))
            .unwrap_or_default()
            .into_iter()
            .flat_map(|found| found.rows)
            .collect()
    }

    /// Opens the file of an earlier run with all its segments, oldest first. `None` for the file where there is none, or
    /// one that should be made anew.
    pub fn open(path: &Path, unreadable: Unreadable) -> Result<(Option<Self>, Vec<TailRow>), Fault> {
        let file = match File::options().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((None, Vec::new())),
            Err(error) => return Err(error.into()),
        };
        let length = file.metadata()?.len();
        let content = content(&file, unreadable)?;
        let found = slots(&content);
        let ours = length.is_multiple_of(BLOCK as u64) && BLOCKS.contains(&(length / BLOCK as u64));
        let blocks = usize::try_from(length).unwrap_or(0) / BLOCK;
        let head = found.last().map_or(0, |newest| newest.start + newest.blocks);
        // Above that of any block, so that none of a torn slot can ever pass for one of a new slot.
        let turn = content.chunks_exact(BLOCK).filter_map(block).map(|block| block.turn).max().unwrap_or(0);
        let slots = found.iter().map(|found| Slot::new(found.start, found.blocks, &found.rows)).collect();
        let rows = found.into_iter().flat_map(|found| found.rows).collect();
        Ok((ours.then_some(Self { file, blocks, head, turn, slots }), rows))
    }

    /// Makes a new file in the place of any other; durable, with all its blocks, when it returns.
    pub fn create(path: &Path, bytes: u64) -> Result<Self, Fault> {
        let blocks = (bytes / BLOCK as u64).clamp(*BLOCKS.start(), *BLOCKS.end());
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let draft = path.with_file_name(format!("{name}{DRAFT}"));
        let made = fill(&draft, blocks).and_then(|file| {
            std::fs::rename(&draft, path)?;
            if let Some(home) = path.parent() {
                File::open(home)?.sync_all()?;
            }
            Ok(file)
        });
        match made {
            Ok(file) => {
                let blocks = usize::try_from(blocks).unwrap_or(0);
                Ok(Self { file, blocks, head: 0, turn: 0, slots: Vec::new() })
            }
            Err(error) => {
                drop(std::fs::remove_file(&draft)); // as good as it gets on a full disk
                Err(error.into())
            }
        }
    }

    /// Bytes of the file.
    pub const fn bytes(&self) -> u64 {
        (self.blocks * BLOCK) as u64
    }

    /// Bytes that a slot with these segments takes.
    pub fn slot_bytes(rows: &[TailRow]) -> u64 {
        (blocks_of(rows) * BLOCK) as u64
    }

    /// Is there room for these segments now?
    pub fn has_room(&self, rows: &[TailRow]) -> bool {
        self.place(blocks_of(rows)).is_some()
    }

    /// Writes the segments as one slot; durable when it returns true, not written for want of room when it returns false.
    /// After an error nothing more may be written to this file: what of it is on disk is not known.
    pub fn write(&mut self, rows: &[TailRow]) -> Result<bool, Fault> {
        let blocks = blocks_of(rows);
        let Some(start) = self.place(blocks) else { return Ok(false) };
        let turn = self.turn + 1;
        self.file.write_all_at(&encode(rows, turn), (start * BLOCK) as u64)?;
        self.file.sync_data()?;
        self.turn = turn;
        self.head = start + blocks;
        self.slots.push(Slot::new(start, blocks, rows));
        Ok(true)
    }

    /// These numbers lie in a chunk now: slots without others are free.
    pub fn merged(&mut self, class: Class, epoch: u64, upto: u64) {
        self.keep(|of, in_epoch, _, last| of != class || in_epoch != epoch || last > upto);
    }

    /// Keeps only the segments (class, epoch, first, last) that are said to be needed still.
    pub fn keep(&mut self, needed: impl Fn(Class, u64, u64, u64) -> bool) {
        for slot in &mut self.slots {
            slot.waiting.retain(|(class, epoch, first, last)| needed(*class, *epoch, *first, *last));
        }
        self.slots.retain(|slot| !slot.waiting.is_empty());
    }

    /// Blocks in a row that no slot in use overlaps: behind the newest, else at the beginning of the file.
    fn place(&self, blocks: usize) -> Option<usize> {
        let is_free = |start: usize| {
            let in_use = |slot: &Slot| slot.start < start + blocks && start < slot.start + slot.blocks;
            blocks > 0 && start + blocks <= self.blocks && !self.slots.iter().any(in_use)
        };
        [self.head, 0].into_iter().find(|start| is_free(*start))
    }
}

fn fill(draft: &Path, blocks: u64) -> std::io::Result<File> {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(draft)?;
    for _ in 0..blocks {
        file.write_all(&[FILL; BLOCK])?;
    }
    file.sync_all()?;
    Ok(file)
}

/// All blocks; one that cannot be read is as good as damaged once it was tried often enough.
fn content(file: &File, unreadable: Unreadable) -> Result<Vec<u8>, Fault> {
    let length = usize::try_from(file.metadata()?.len().min(BLOCKS.end() * BLOCK as u64)).unwrap_or(0);
    let mut content = vec![0; length / BLOCK * BLOCK];
    for (n, block) in (0u64..).zip(content.chunks_exact_mut(BLOCK)) {
        match file.read_exact_at(block, n * BLOCK as u64) {
            Err(error) if unreadable == Unreadable::TryAgain => return Err(error.into()),
            Err(_) => block.fill(0),
            Ok(()) => {}
        }
    }
    Ok(content)
}

fn blocks_of(rows: &[TailRow]) -> usize {
    rows.iter().map(|row| ROW + row.row.body.len()).sum::<usize>().div_ceil(PAYLOAD)
}

fn encode(rows: &[TailRow], turn: u64) -> Vec<u8> {
    let mut payload = Vec::with_capacity(rows.iter().map(|row| ROW + row.row.body.len()).sum());
    for TailRow { class, epoch, row } in rows {
        payload.push(*class as u8);
        for number in [*epoch, row.first, row.last] {
            payload.extend_from_slice(&number.to_le_bytes());
        }
        payload.extend_from_slice(&row.boot.to_le_bytes());
        payload.extend_from_slice(&row.earliest.to_le_bytes());
        payload.extend_from_slice(&row.latest.to_le_bytes());
        payload.extend_from_slice(&row.raw.to_le_bytes());
        payload.extend_from_slice(&row.crc.to_le_bytes());
        payload.extend_from_slice(&u32::try_from(row.body.len()).unwrap_or(u32::MAX).to_le_bytes());
        payload.extend_from_slice(&row.body);
    }
    let blocks = payload.chunks(PAYLOAD);
    let count = u16::try_from(blocks.len()).unwrap_or(u16::MAX);
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut slot = Vec::with_capacity(blocks.len() * BLOCK);
    for (index, part) in (0u16..).zip(blocks) {
        let mut block = Vec::with_capacity(BLOCK);
        block.extend_from_slice(MAGIC);
        block.extend_from_slice(&turn.to_le_bytes());
        block.extend_from_slice(&index.to_le_bytes());
        block.extend_from_slice(&count.to_le_bytes());
        block.extend_from_slice(&length.to_le_bytes());
        block.extend_from_slice(part);
        block.resize(BLOCK - 4, 0);
        slot.extend_from_slice(&crc32fast::hash(&block).to_le_bytes());
        slot.extend_from_slice(&block);
    }
    slot
}

/// A slot as it lies in a file.
struct FoundSlot {
    turn: u64,
    start: usize,
    blocks: usize,
    rows: Vec<TailRow>,
}

/// A block whose CRC is right.
struct Block<'a> {
    turn: u64,
    index: u16,
    blocks: u16,
    bytes: u32,
    payload: &'a [u8],
}

/// All whole slots, oldest first.
fn slots(content: &[u8]) -> Vec<FoundSlot> {
    let blocks: Vec<_> = content.chunks_exact(BLOCK).map(block).collect();
    let mut found: Vec<FoundSlot> = (0..blocks.len()).filter_map(|start| slot(&blocks, start)).collect();
    found.sort_by_key(|slot| slot.turn);
    found
}

fn block(bytes: &[u8]) -> Option<Block<'_>> {
    let mut fields = Fields(bytes);
    let crc = fields.u32()?;
    if crc32fast::hash(fields.0) != crc || fields.take(4)? != MAGIC {
        return None;
    }
    let (turn, index, blocks, bytes) = (fields.u64()?, fields.u16()?, fields.u16()?, fields.u32()?);
    Some(Block { turn, index, blocks, bytes, payload: fields.0 })
}

fn slot(blocks: &[Option<Block<'_>>], start: usize) -> Option<FoundSlot> {
    let first = blocks[start].as_ref().filter(|block| block.index == 0)?;
    let count = usize::from(first.blocks);
    let mut payload = Vec::with_capacity(count * PAYLOAD);
    for (index, block) in (0u16..).zip(blocks.get(start..start + count)?) {
        let of_slot = |block: &&Block<'_>| block.turn == first.turn && block.index == index;
        payload.extend_from_slice(block.as_ref().filter(of_slot)?.payload);
    }
    let mut fields = Fields(payload.get(..first.bytes as usize)?);
    let mut rows = Vec::new();
    while !fields.0.is_empty() {
        let (class, epoch, first, last) =
            (Class::from_code(fields.take(1)?[0])?, fields.u64()?, fields.u64()?, fields.u64()?);
        let (boot, earliest, latest) = (fields.u32()?, fields.u64()?.cast_signed(), fields.u64()?.cast_signed());
        let (raw, crc, length) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let body = fields.take(length as usize)?.to_vec();
        let row = Arc::new(SegmentRow { first, last, boot, earliest, latest, raw, crc, body });
        rows.push(TailRow { class, epoch, row });
    }
    Some(FoundSlot { turn: first.turn, start, blocks: count, rows })
}

/// What is left to read of some bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(first: u64, bytes: usize) -> Vec<TailRow> {
        let body = vec![first.to_le_bytes()[0]; bytes];
        let row = SegmentRow { first, last: first + 9, boot: 1, earliest: -5, latest: 7, raw: 3, crc: 4, body };
        vec![TailRow { class: Class::Event, epoch: 77, row: Arc::new(row) }]
    }

    #[test]
    fn slots_come_back_oldest_first_and_are_used_again_only_once_they_are_merged() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("tail");
        assert_eq!(TailFile::read(&path), []);
        let mut tail = TailFile::create(&path, 16 * 4096).expect("made");
        let large = PAYLOAD - ROW + 1; // two blocks
        for n in 0..8 {
            assert_eq!(tail.write(&rows(n * 10 + 1, large)), Ok(true));
        }
        assert_eq!(tail.write(&rows(81, 1)), Ok(false), "full");
        tail.merged(Class::Event, 77, 20);
        tail.merged(Class::Event, 76, 80);
        assert!(!tail.has_room(&rows(81, 5 * large)), "two slots are free, ten blocks are not");
        assert_eq!(tail.write(&rows(81, 1)), Ok(true));
        let firsts = |rows: &[TailRow]| rows.iter().map(|row| row.row.first).collect::<Vec<_>>();
        // The second slot is merged, but still there: its numbers are in a chunk, so nobody looks at it.
        assert_eq!(firsts(&TailFile::read(&path)), [11, 21, 31, 41, 51, 61, 71, 81]);
        assert_eq!(TailFile::read(&path)[7], rows(81, 1)[0]);
        drop(tail);
        let (tail, found) = TailFile::open(&path, Unreadable::TryAgain).expect("there");
        let mut tail = tail.expect("whole");
        assert_eq!(firsts(&found).len(), 8);
        assert_eq!(tail.write(&rows(91, 1)), Ok(true), "one block was left behind the newest");
        assert_eq!(tail.write(&rows(91, 1)), Ok(false));
        tail.keep(|_, _, first, _| first >= 21);
        assert_eq!(tail.write(&rows(91, large)), Ok(true));
    }

    #[test]
    fn a_slot_with_a_wrong_bit_or_a_missing_block_does_not_count_and_the_others_do() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("tail");
        let mut tail = TailFile::create(&path, 16 * 4096).expect("made");
        for n in 0..3 {
            tail.write(&rows(n * 10 + 1, 5000)).expect("written");
        }
        let whole = std::fs::read(&path).expect("read");
        for (block, left) in [(0, [11, 21]), (1, [11, 21]), (2, [1, 21]), (5, [1, 11])] {
            for place in [0, 9, 40, BLOCK - 1] {
                let mut hurt = whole.clone();
                hurt[block * BLOCK + place] ^= 0x10;
                std::fs::write(&path, hurt).expect("written");
                let found: Vec<u64> = TailFile::read(&path).iter().map(|row| row.row.first).collect();
                assert_eq!(found, left, "block {block} byte {place}");
            }
        }
        std::fs::write(&path, &whole[..3 * BLOCK + 100]).expect("cut off");
        let (file, found) = TailFile::open(&path, Unreadable::TryAgain).expect("there");
        assert!(file.is_none(), "not to be written to");
        assert_eq!(found.len(), 1);
    }
}
