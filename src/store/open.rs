//! The files that are written to: the open chunk of each class, and the tail.
//!
//! A chunk is finished when it is large enough, when it spans too much time, or when what comes next does not follow on
//! what it has: inside a chunk numbers are missing only where they are declared lost.

use std::collections::HashSet;
use std::fs::File;
use std::time::Duration;

use tokio::time::Instant;

use crate::disk::chunk::{ChunkInfo, ChunkReader, ChunkWriter, SegmentRow, TagRow};
use crate::disk::database::PAGE;
use crate::disk::directory::ChunkName;
use crate::disk::fault::Fault;
use crate::disk::marks::Marks;
use crate::disk::meta::Meta;
use crate::disk::tail::TailFile;
use crate::model::number::{Class, PerClass};

use super::commit::Load;
use super::cursor::Span;
use super::stream::{Held, Stream};
use super::times::Times;
use super::writer::Writer;
use super::{age, boot, room, salvage};

/// How often a full disk is answered with more room at once.
const FULL_ATTEMPTS: usize = 4;
/// A tail that could not be made, or failed, is made anew after this long.
const TAIL_AGAIN: Duration = Duration::from_secs(60);
/// Pages of a commit besides those that are new: the end of the table, its root, the header.
const PAGES_AGAIN: u64 = 3;
/// What the log adds to a page (sqlite.org/fileformat2.html, section 4.2: the frame header).
const FRAME: u64 = 24;

/// What the thread holds of the directory.
pub(super) struct Disk {
    /// Held as long as anything here is written.
    pub(super) lock: File,
    pub(super) meta: Meta,
    pub(super) marks: Marks,
    pub(super) next_chunk: u64,
    /// `None`: there is no place for one, or it failed.
    pub(super) tail: Option<TailFile>,
    /// The chunk of each class that is written to.
    pub(super) open: PerClass<Option<OpenChunk>>,
    /// Chunks that failed: never written to again.
    pub(super) closed: HashSet<ChunkName>,
    pub(super) salvaged: Option<salvage::Target>,
    /// Something of the file that is being salvaged could not be written.
    pub(super) salvage_failed: bool,
    pub(super) tag_ids: Vec<u32>,
}

/// The chunk a class is being written to.
pub(super) struct OpenChunk {
    pub(super) name: ChunkName,
    pub(super) ordinal: i64,
    writer: ChunkWriter,
    /// Tags that stand in it.
    tags: HashSet<u32>,
    /// A group in it is not published yet: nobody knows of it, so it must not be evicted.
    pub(super) unpublished: bool,
}

impl OpenChunk {
    /// Does it name the epoch and all tags of these segments?
    pub(super) fn covers(&self, load: &Load) -> bool {
        self.ordinal == load.ordinal && load.tags.iter().all(|tag| self.tags.contains(tag))
    }

    /// Writes salvaged segments.
    pub(super) fn append(&mut self, tags: &[TagRow], rows: &[SegmentRow]) -> Result<(), Fault> {
        self.writer.append(tags, rows)
    }

    /// No more will be written to it.
    pub(super) fn finish(self) {
        self.writer.finish();
    }

    /// Empties its log.
    pub(super) fn checkpoint(&self) -> Result<(), Fault> {
        self.writer.checkpoint()
    }
}

impl Writer {
    /// Writes segments to their class's chunk and commits; where the disk is full, room is made and a new chunk begun.
    pub(super) fn append(&mut self, disk: &mut Disk, class: Class, load: &Load) -> Result<Held, Fault> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.try_append(disk, class, load) {
                Err(fault)
                    if attempt < FULL_ATTEMPTS
                        && (matches!(fault, Fault::Full(_)) || self.shared.directory.is_full()) =>
                {
                    tracing::warn!(class = %class, error = %fault, "disk full; making room");
                    if !room::make_some(self, disk) {
                        return Err(fault);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    fn try_append(&mut self, disk: &mut Disk, class: Class, load: &Load) -> Result<Held, Fault> {
        let times = load.rows.iter().map(|row| Times::of(row)).reduce(Times::and);
        room::make(self, disk, load.bytes())?;
        self.ensure_chunk(disk, class, load)?;
        let (Some(open), Some(times)) = (&mut disk.open[class], times) else {
            return Err(Fault::Unavailable("no chunk to write to".into()));
        };
        // All tags used so far: a new chunk is soon complete, and the tail may be used.
        let used = &mut self.tags_used[class];
        used.extend(&load.tags);
        let new: Vec<u32> = used.iter().copied().filter(|tag| !open.tags.contains(tag)).collect();
        let rows: Vec<_> = {
            let state = self.shared.state();
            new.iter().filter_map(|id| state.tag_row(*id)).collect()
        };
        let before = open.writer.bytes()?;
        if let Err(fault) = open.writer.append(&rows, &load.rows) {
            // Outcome unknown: closed for writing, for good.
            tracing::error!(file = open.name.file_name(), error = %fault, "commit failed; a new chunk will be begun");
            self.shared.stats.commit_failures.one();
            disk.closed.insert(open.name);
            disk.open[class] = None;
            return Err(fault);
        }
        open.tags.extend(new);
        open.unpublished = true;
        // Each page goes to the log, and later into the database.
        let pages = open.writer.bytes().unwrap_or(before).saturating_sub(before) / PAGE + PAGES_AGAIN;
        self.shared.stats.written_bytes.add(pages * (2 * PAGE + FRAME));
        let span = Span { ordinal: load.ordinal, first: load.first, last: load.last };
        Ok(Held { name: open.name, span, times })
    }

    /// Sees to it that the class has a chunk that these segments may go to.
    fn ensure_chunk(&mut self, disk: &mut Disk, class: Class, load: &Load) -> Result<(), Fault> {
        let limit = room::chunk_bytes_max(self.opening.max_size);
        if let Some(open) = &disk.open[class] {
            let large = open.writer.bytes()? + load.bytes() > limit;
            if open.ordinal == load.ordinal && !large && self.goes_on(open.name, class, load) {
                return Ok(());
            }
            if let Some(open) = disk.open[class].take() {
                open.writer.finish();
            }
        } else if let Some(open) = self.resume(disk, class, load, limit.saturating_sub(load.bytes())) {
            disk.open[class] = Some(open);
            return Ok(());
        }
        disk.open[class] = Some(self.begin_chunk(disk, class, load.ordinal)?);
        Ok(())
    }

    /// Do these segments follow on what the chunk has, and soon enough?
    fn goes_on(&self, name: ChunkName, class: Class, load: &Load) -> bool {
        let state = self.shared.state();
        let stream = state.stream(class);
        let Some(held) = stream.chunks.iter().find(|held| held.name == name) else { return true };
        let follows = held.span.ordinal == load.ordinal && is_explained(stream, held.span, load.first);
        follows && !age::spans_too_much(&self.clock, self.opening.max_age, held.times)
    }

    /// Goes on with the last chunk of an earlier run.
    fn resume(&self, disk: &Disk, class: Class, load: &Load, limit: u64) -> Option<OpenChunk> {
        let held = {
            let state = self.shared.state();
            let chunks = &state.stream(class).chunks;
            chunks.iter().rev().find(|held| !held.name.is_tail()).copied()?
        };
        let path = self.shared.directory.chunk(held.name);
        if disk.closed.contains(&held.name)
            || held.span.ordinal != load.ordinal
            || !self.goes_on(held.name, class, load)
            || path.metadata().map_or(u64::MAX, |about| about.len()) > limit
        {
            return None;
        }
        let rows = ChunkReader::open(&path).and_then(|chunk| chunk.tags()).ok()?;
        let tags = {
            let state = self.shared.state();
            // One whose topic has changed is written again.
            rows.into_iter().filter(|row| state.tag_row(row.id).as_ref() == Some(row)).map(|row| row.id).collect()
        };
        let writer = ChunkWriter::open(&path, room::log_pages(self.opening.max_size)).ok()?;
        Some(OpenChunk { name: held.name, ordinal: load.ordinal, writer, tags, unpublished: false })
    }

    /// Makes a new chunk file, durable with its name.
    pub(super) fn begin_chunk(&self, disk: &mut Disk, class: Class, ordinal: i64) -> Result<OpenChunk, Fault> {
        let number = disk.next_chunk;
        disk.next_chunk += 1;
        let name = ChunkName { class, number };
        let (epoch, previous) = {
            let state = self.shared.state();
            state.stream(class).life(ordinal).map_or((0, None), |life| (life.epoch, life.previous))
        };
        let path = self.shared.directory.chunk(name);
        let info = ChunkInfo { class, number, epoch, previous };
        let made = ChunkWriter::create(&path, &info, room::log_pages(self.opening.max_size));
        match made {
            Ok(writer) => Ok(OpenChunk { name, ordinal, writer, tags: HashSet::new(), unpublished: false }),
            Err(fault) => {
                let _ = self.shared.directory.remove_database(&name.file_name());
                Err(fault)
            }
        }
    }

    /// Makes a new tail where there is none: at the start, or after it failed and all it had is merged.
    pub(super) fn renew_tail(&mut self, disk: &mut Disk) {
        if disk.tail.is_some() || self.tail_tried.is_some_and(|at| at.elapsed() < TAIL_AGAIN) {
            return;
        }
        self.tail_tried = Some(Instant::now());
        if self.shared.state().streams.values().any(|stream| !stream.tail.is_empty())
            && let Err(fault) = self.merge_all(disk)
        {
            tracing::warn!(error = %fault, "what a failed tail had could not be merged");
            return;
        }
        let Some(bytes) = room::tail_bytes(self) else { return };
        match TailFile::create(&self.shared.directory.file(boot::TAIL), bytes) {
            Ok(tail) => {
                self.shared.stats.written_bytes.add(bytes);
                disk.tail = Some(tail);
            }
            Err(fault) => tracing::warn!(error = %fault, "no tail; commits go straight to chunks"),
        }
    }
}

/// Are the numbers between a span and the one that begins at `first` declared lost, or none?
fn is_explained(stream: &Stream, before: Span, first: u64) -> bool {
    let between = Span { first: before.last + 1, last: first.saturating_sub(1), ..before };
    if first <= before.last {
        return false;
    }
    let losses = stream.losses.iter().map(|loss| loss.span);
    let left = losses.fold(vec![between], |left, loss| loss.take_out_of(left));
    left.iter().all(|span| span.len() == 0)
}
