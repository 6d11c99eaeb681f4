//! Salvage: reads chunks that were set aside, in the background, and gives what is whole back to the writer.
//!
//! Its own thread; polling and commits go on meanwhile. Segments whose CRC is right go into a new chunk under their old
//! numbers and stay owed; when a file is read to its end, what is still missing is declared. A file that the medium refuses is
//! waited for (see `patience`); until then nothing of it is lost.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::disk::chunk::{ChunkReader, SegmentRow, TagRow};
use crate::disk::directory::ChunkName;
use crate::disk::fault::Fault;
use crate::flow::notice::Phase;
use crate::model::number::Class;

use super::cursor::Span;
use super::open::{Disk, OpenChunk};
use super::patience::Refused;
use super::segment::{self, Place};
use super::stream::{Held, Loss, Stream};
use super::times::{Neighbours, Times};
use super::writer::Writer;
use super::{Control, Shared, dictionary, room};

/// Segments handed over at a time.
const PIECE_SEGMENTS: usize = 32;

/// While it waits for a medium, the thread sees after this long that the store has ended.
const STEP: Duration = Duration::from_millis(500);

/// What the thread hands over.
pub(super) enum Piece {
    /// Whole segments of an epoch.
    Segments { class: Class, epoch: u64, tags: Vec<TagRow>, rows: Vec<SegmentRow> },
    /// One file is read to its end; `more` files of the class follow. The answer says whether all of it was taken; where it is
    /// read for the `last` time, what could not be written is lost.
    End { class: Class, path: PathBuf, more: bool, last: bool, taken: oneshot::Sender<bool> },
}

/// The chunk that salvaged segments go to.
pub(super) struct Target {
    open: OpenChunk,
    class: Class,
    spans: Vec<(Span, Times)>,
}

impl Target {
    pub(super) const fn name(&self) -> ChunkName {
        self.open.name
    }
}

/// Starts the thread.
pub(super) fn start(shared: Arc<Shared>, control: mpsc::WeakSender<Control>, files: Vec<(Class, PathBuf)>) {
    let run = move || {
        let mut files: VecDeque<_> = files.into_iter().map(|(class, path)| (class, path, None::<Refused>)).collect();
        while let Some((class, path, mut refused)) = files.pop_front() {
            if !wait(&shared, &control, refused) {
                return;
            }
            let opened = open(&path, &mut refused);
            let mut done = opened.is_some();
            if let Some(chunk) = opened {
                read(&shared, &control, (class, &path), chunk);
                let more = files.iter().any(|(later, ..)| *later == class);
                let last = refused.is_some_and(|refused| refused.is_hopeless(Instant::now()));
                let (taken, answer) = oneshot::channel();
                if !send(&control, Piece::End { class, path: path.clone(), more, last, taken }) {
                    return;
                }
                done = answer.blocking_recv().unwrap_or(false);
                if !done {
                    refuse(&mut refused);
                }
            }
            if !done {
                files.push_back((class, path, refused));
                // Those that wait least come first.
                files.make_contiguous().sort_by_key(|(.., refused)| refused.map(|refused| refused.again_at()));
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("store-salvage".into()).spawn(run) {
        tracing::error!(error = %error, "salvage thread cannot start");
    }
}

/// False when the store has ended.
fn send(control: &mpsc::WeakSender<Control>, piece: Piece) -> bool {
    control.upgrade().is_some_and(|control| control.blocking_send(Control::Salvaged(piece)).is_ok())
}

/// Waits for the next attempt; false when the store has ended.
fn wait(shared: &Shared, control: &mpsc::WeakSender<Control>, refused: Option<Refused>) -> bool {
    let left = || refused.map_or(Duration::ZERO, |refused| refused.wait(Instant::now()));
    let stalls = |stalled: bool| {
        shared.state().stalled = stalled;
        shared.wake_readers();
    };
    if left().is_zero() {
        return true;
    }
    stalls(true);
    while !left().is_zero() && control.upgrade().is_some() {
        std::thread::sleep(left().min(STEP));
    }
    stalls(false);
    control.upgrade().is_some()
}

/// Opens a file, as it was read in one piece. `None`: the medium refuses it; it stays as it is until it is tried again. When it
/// was refused for long, what SQLite can reach of it is all there will be.
fn open(path: &Path, refused: &mut Option<Refused>) -> Option<Result<ChunkReader, Fault>> {
    match ChunkReader::of_content(path) {
        Ok(chunk) => Some(Ok(chunk)),
        Err(fault) if fault.is_damage() => Some(ChunkReader::open(path)),
        Err(fault) => {
            if refused.is_none() {
                tracing::warn!(file = %path.display(), error = %fault, "file in quarantine cannot be read now; trying again");
            }
            refuse(refused);
            refused.is_some_and(|refused| refused.is_hopeless(Instant::now())).then(|| ChunkReader::open(path))
        }
    }
}

fn refuse(refused: &mut Option<Refused>) {
    let now = Instant::now();
    match refused {
        Some(refused) => refused.again(now),
        None => *refused = Some(Refused::first(now)),
    }
}

fn read(
    shared: &Shared,
    control: &mpsc::WeakSender<Control>,
    (class, path): (Class, &Path),
    chunk: Result<ChunkReader, Fault>,
) {
    let chunk = match chunk {
        Ok(chunk) => chunk,
        Err(fault) => {
            tracing::error!(file = %path.display(), error = %fault, "nothing can be salvaged");
            return;
        }
    };
    // The CRC covers the epoch: it also says which of the known ones a segment belongs to.
    let mut epochs: Vec<u64> = chunk.info().ok().map(|info| info.epoch).into_iter().collect();
    epochs.extend(shared.state().stream(class).epochs.iter().map(|life| life.epoch));
    let tags = chunk.tags().unwrap_or_default();
    let (mut rows, mut epoch, mut seen) = (Vec::new(), 0, HashSet::new());
    let mut alive = true;
    let mut flush = |epoch: u64, rows: &mut Vec<SegmentRow>| {
        if !rows.is_empty() {
            let rows = std::mem::take(rows);
            alive &= send(control, Piece::Segments { class, epoch, tags: tags.clone(), rows });
        }
    };
    chunk.salvage(&mut |row| {
        let found = epochs.iter().copied().find(|epoch| segment::check(Place { class, epoch: *epoch }, &row).is_ok());
        let Some(found) = found else { return };
        if !seen.insert((found, row.first)) {
            return;
        }
        if rows.len() >= PIECE_SEGMENTS || found != epoch {
            flush(epoch, &mut rows);
            epoch = found;
        }
        rows.push(row);
    });
    flush(epoch, &mut rows);
    tracing::info!(file = %path.display(), segments = seen.len(), "damaged chunk salvaged");
}

/// The writer takes a piece.
pub(super) fn take(writer: &mut Writer, piece: Piece) {
    let Some(mut disk) = writer.disk.take() else { return };
    match piece {
        Piece::Segments { class, epoch, tags, rows } => store(writer, &mut disk, (class, epoch), (tags, rows)),
        Piece::End { class, path, more, last, taken } => {
            let failed = std::mem::take(&mut disk.salvage_failed);
            if !failed || last {
                close_target(writer, &mut disk);
                if let Err(fault) = writer.shared.directory.mark_salvaged(&path) {
                    tracing::warn!(error = %fault, "salvaged file cannot be renamed; it will be read again");
                }
                if !more {
                    finish(writer, class);
                }
            }
            let _ = taken.send(!failed || last); // nobody listens when the store ends
        }
    }
    writer.disk = Some(disk);
    writer.flush_edits(Vec::new());
    writer.shared.wake_readers();
}

/// Writes the segments that are not held otherwise. Where a write fails the file will come again, whole; what finds no space
/// stays missing and is declared at the end.
fn store(
    writer: &mut Writer,
    disk: &mut Disk,
    (class, epoch): (Class, u64),
    (tags, mut rows): (Vec<TagRow>, Vec<SegmentRow>),
) {
    let Some(ordinal) = writer.shared.state().stream(class).ordinal_of(epoch) else { return };
    if disk.salvage_failed {
        return;
    }
    rows.retain(|row| wanted(writer.shared.state().stream(class), ordinal, row));
    if rows.is_empty() {
        return;
    }
    if disk.salvaged.as_ref().is_some_and(|target| target.class != class || target.open.ordinal != ordinal) {
        close_target(writer, disk);
    }
    let bytes: u64 = rows.iter().map(|row| row.body.len() as u64).sum();
    let written = room::make(writer, disk, bytes).and_then(|()| {
        if disk.salvaged.is_none() {
            let open = writer.begin_chunk(disk, class, ordinal)?;
            disk.salvaged = Some(Target { open, class, spans: Vec::new() });
        }
        let Some(target) = &mut disk.salvaged else { return Ok(()) };
        target.open.append(&tags, &rows)?;
        target
            .spans
            .extend(rows.iter().map(|row| (Span { ordinal, first: row.first, last: row.last }, Times::of(row))));
        Ok(())
    });
    if let Err(fault) = written {
        tracing::error!(error = %fault, class = %class, "salvaged segments could not be written");
        if !matches!(fault, Fault::Full(_)) && !writer.shared.directory.is_full() {
            disk.salvage_failed = true;
            drop_target(writer, disk);
        }
    }
    let mut state = writer.shared.state();
    for tag in tags.into_iter().filter_map(dictionary::tag) {
        state.dictionary.entry(tag.id).or_insert_with(|| Arc::new(tag));
    }
}

fn wanted(stream: &Stream, ordinal: i64, row: &SegmentRow) -> bool {
    // Numbers above the epoch's last were never told to anyone: the next epoch has named its end already.
    stream.life(ordinal).is_some_and(|life| row.first > life.evicted && row.last <= life.last)
        && !stream
            .chunks
            .iter()
            .any(|held| held.span.ordinal == ordinal && held.span.first <= row.first && row.last <= held.span.last)
}

/// Nobody knows of the target chunk yet, and what it has will come again.
fn drop_target(writer: &Writer, disk: &mut Disk) {
    let Some(Target { open, .. }) = disk.salvaged.take() else { return };
    let name = open.name.file_name();
    drop(open);
    if let Err(fault) = writer.shared.directory.remove_database(&name) {
        tracing::warn!(file = name, error = %fault, "an unfinished file could not be removed");
    }
}

/// The target chunk is whole: readers may have it, and what is missing inside it is declared.
fn close_target(writer: &mut Writer, disk: &mut Disk) {
    let Some(Target { open, class, mut spans }) = disk.salvaged.take() else { return };
    let (name, ordinal) = (open.name, open.ordinal);
    open.finish();
    spans.sort_unstable_by_key(|(span, _)| *span);
    let (Some((first, _)), Some(last)) = (spans.first(), spans.iter().map(|(span, _)| span.last).max()) else { return };
    let whole = Span { ordinal, first: first.first, last };
    let Some(times) = spans.iter().map(|(_, times)| *times).reduce(Times::and) else { return };
    let held = Held { name, span: whole, times };
    let mut stream = writer.shared.state().stream(class).clone();
    let mut missing = vec![whole];
    let others = stream.chunks.iter().map(|held| held.span);
    for span in spans.into_iter().map(|(span, _)| span).chain(others) {
        missing = span.take_out_of(missing);
    }
    stream.hold(held);
    let losses = losses(writer, &stream, missing);
    let mut state = writer.shared.state();
    state.stream_mut(class).hold(held);
    for loss in losses {
        state.declare(class, &loss);
    }
}

/// Missing numbers as losses, with what is known of when they were taken. Reads chunks, so not under the lock.
fn losses(writer: &Writer, stream: &Stream, missing: Vec<Span>) -> Vec<Loss> {
    let losses = missing.into_iter().map(|span| {
        let class = stream.class;
        tracing::error!(class = %class, first = span.first, last = span.last, "records cannot be read; a gap is declared");
        writer.shared.stats.damaged[class].add(span.len());
        let (from, to) = Neighbours::of(stream, span).times(&writer.shared.directory);
        Loss { span, reason: "damaged".into(), from, to }
    });
    losses.collect()
}

impl Writer {
    /// A reader came upon numbers that cannot be read: declares them lost.
    pub(super) fn declare_unreadable(&mut self, class: Class, span: Span) {
        let stream = self.shared.state().stream(class).clone();
        // Readers ask again until they see it declared, and several may come upon the same damage.
        let new = stream.losses.iter().fold(vec![span], |left, old| old.span.take_out_of(left));
        if new.is_empty() {
            return;
        }
        self.tell("store_damaged", Phase::Once, format!("{} records of stream {class} are lost", span.len()));
        for loss in losses(self, &stream, new) {
            self.shared.state().declare(class, &loss);
        }
        self.flush_edits(Vec::new());
        self.shared.wake_readers();
    }
}

/// All damaged chunks of a class are read: what is missing now is lost.
fn finish(writer: &mut Writer, class: Class) {
    let stream = writer.shared.state().stream(class).clone();
    let losses = losses(writer, &stream, stream.holes());
    let mut state = writer.shared.state();
    state.stream_mut(class).salvaging = false;
    for loss in losses {
        state.declare(class, &loss);
    }
}
