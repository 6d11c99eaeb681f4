//! Records that an owner wants gone: the oldest of a stream, up to a moment. For a store that nobody has open.
//!
//! Goes by segments, the unit in which records lie in a file: a segment goes when all of it was taken before the moment.
//! Whole chunk files are removed, of the one that is cut the segments in front. What is in the tail (the last minutes)
//! stays, and so does what lies behind numbers that somebody is owed and that are neither held nor declared: a damaged file
//! may have them, and what was read out of it would be thrown away if all up to a higher number counted as gone
//! ([`held_up`]). What an uplink had not acknowledged is declared to it in a gap record, reason `purged`; the gap record is on
//! disk before the records go, so that a crash in between loses nothing silently.

use std::path::Path;

use crate::disk::chunk::{ChunkReader, ChunkWriter, SegmentRow};
use crate::disk::directory::{ChunkName, Directory};
use crate::disk::fault::Fault;
use crate::disk::meta::Meta;
use crate::model::number::Class;
use crate::model::time::{Stamp, Wall};

use super::boot::META;
use super::cursor::{Position, Span};
use super::inspect::LookError;
use super::pages::Pages;
use super::state::State;
use super::stream::{Held, Loss};
use super::times::{self, Times};

/// Segments looked at in one query.
const SEGMENTS: usize = 16;
/// The log of a chunk that is cut, pages.
const LOG_PAGES: u64 = 500;
/// The word in the gap record.
const REASON: &str = "purged";

/// What is to go.
#[derive(Debug, Clone)]
pub struct Purge {
    /// Of which streams.
    pub classes: Vec<Class>,
    /// Taken before this moment, ms since 1970.
    pub before_ms: i64,
    /// Whether records go that somebody is still owed.
    pub owed: Owed,
}

/// See [`Purge::owed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// They go, declared in gap records.
    Goes,
    /// They stay, and what comes after them.
    Stays,
}

/// What goes of one stream, or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    /// Which.
    pub stream: Class,
    /// Records; what was declared lost before counts as well.
    pub records: u64,
    /// Those that some uplink had not acknowledged: they are declared to it.
    pub unacknowledged: u64,
    /// When the newest of them was taken.
    pub upto: Wall,
    /// Bytes of whole files, and of segments in front of the one that is cut.
    pub bytes: u64,
}

/// Why nothing, or not everything, was purged.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// The store cannot be looked at.
    #[error(transparent)]
    Store(#[from] LookError),
    /// Somebody has it open: stop the gateway first.
    #[error("the gateway is running: stop it, purge, and start it again")]
    InUse,
    /// It cannot be written. What went is declared; what did not is still there.
    #[error("the store cannot be written: {0}")]
    Unwritable(#[from] Fault),
}

/// One file, whole or in front.
struct Cut {
    held: Held,
    epoch: u64,
    upto: u64,
    last: Stamp,
    bytes: u64,
}

impl Cut {
    fn is_whole(&self) -> bool {
        self.upto == self.held.span.last
    }

    fn span(&self) -> Span {
        Span { last: self.upto, ..self.held.span }
    }
}

/// What would go; changes nothing, and may be asked while the gateway runs.
pub fn preview(dir: &Path, purge: &Purge, floor_ms: i64) -> Result<Vec<Purged>, PurgeError> {
    let mut pages = Pages::with_floor(dir, floor_ms)?;
    Ok(act(&mut pages, purge, &mut |_, _| Ok(()))?)
}

/// Purges. `floor_ms`: no honest clock is before this.
pub fn purge(dir: &Path, purge: &Purge, floor_ms: i64) -> Result<Vec<Purged>, PurgeError> {
    let directory = Directory::at(dir);
    Pages::with_floor(dir, floor_ms)?; // is it a store at all?
    let _lock = directory.lock().map_err(|_| PurgeError::InUse)?;
    let mut pages = Pages::with_floor(dir, floor_ms)?;
    let (mut meta, _) = Meta::open(&directory.file(META))?;
    let mut remove = |state: &mut State, cut: &Cut| {
        meta.apply(&std::mem::take(&mut state.edits))?;
        if cut.is_whole() {
            return directory.remove_database(&cut.held.name.file_name());
        }
        let mut chunk = ChunkWriter::open(&directory.chunk(cut.held.name), LOG_PAGES)?;
        chunk.forget_upto(cut.upto)?;
        chunk.finish();
        Ok(())
    };
    let purged = act(&mut pages, purge, &mut remove)?;
    meta.checkpoint()?;
    directory.sync()?;
    Ok(purged)
}

/// Streams of which numbers are missing that the gateway is still to read out of a damaged file, or to declare: what lies
/// behind them stays until it has.
pub fn held_up(dir: &Path, purge: &Purge) -> Result<Vec<Class>, PurgeError> {
    let pages = Pages::open(dir)?;
    let behind = |class: Class, hole: Span| pages.stream(class).chunks.last().is_some_and(|last| hole < last.span);
    let is_held_up = |class: &Class| missing(&pages, *class).is_some_and(|hole| behind(*class, hole));
    Ok(purge.classes.iter().copied().filter(is_held_up).collect())
}

/// The first numbers of a stream that some uplink is owed and that are nowhere.
fn missing(pages: &Pages, class: Class) -> Option<Span> {
    let holes = pages.stream(class).holes().into_iter();
    holes.filter(|hole| !pages.now.state.is_acknowledged(class, *hole)).min()
}

type Remove<'a> = &'a mut dyn FnMut(&mut State, &Cut) -> Result<(), Fault>;

fn act(pages: &mut Pages, purge: &Purge, remove: Remove<'_>) -> Result<Vec<Purged>, Fault> {
    pages.now.state.edits.clear();
    let mut all = Vec::new();
    for class in &purge.classes {
        let mut purged: Option<Purged> = None;
        for cut in cuts(pages, *class, purge)? {
            let begins = begins(pages, &cut);
            let (from, to) = (Some(cut.held.times.first), Some(cut.last));
            let loss = Loss { span: cut.span(), reason: REASON.into(), from, to };
            let upto = pages.clock().wall(cut.last);
            let state = &mut pages.now.state;
            let unacknowledged = state.forget(*class, &loss, &begins);
            remove(state, &cut)?;
            let sum = purged.get_or_insert(Purged { stream: *class, records: 0, unacknowledged: 0, upto, bytes: 0 });
            sum.records += loss.span.len();
            sum.unacknowledged += unacknowledged;
            sum.bytes += cut.bytes;
            sum.upto = upto;
        }
        all.extend(purged);
    }
    Ok(all)
}

/// The files of a stream that go, from the oldest on, until something must stay or is missing.
fn cuts(pages: &Pages, class: Class, purge: &Purge) -> Result<Vec<Cut>, Fault> {
    let stream = pages.stream(class);
    let (mut cuts, missing) = (Vec::new(), missing(pages, class));
    for held in stream.chunks.iter().filter(|held| !held.name.is_tail()) {
        if missing.is_some_and(|hole| hole < held.span) {
            break;
        }
        let Some(life) = stream.life(held.span.ordinal) else { continue };
        let path = pages.now.directory.chunk(held.name);
        let may_all_go = purge.owed == Owed::Goes || pages.now.state.is_acknowledged(class, held.span);
        let is_old = |times: Times| pages.walls(times).is_some_and(|walls| *walls.end() < purge.before_ms);
        if may_all_go && is_old(held.times) {
            let (upto, last) = (held.span.last, held.times.last);
            let bytes = path.metadata().map_or(0, |about| about.len());
            cuts.push(Cut { held: *held, epoch: life.epoch, upto, last, bytes });
            continue;
        }
        let owed_from =
            if purge.owed == Owed::Goes { u64::MAX } else { owed_from(&pages.now.state, held.name, held.span) };
        let mut cut = Cut { held: *held, epoch: life.epoch, upto: 0, last: held.times.first, bytes: 0 };
        walk(&ChunkReader::open(&path)?, |row| {
            let goes = row.last < owed_from && is_old(Times::of(row));
            if goes {
                (cut.upto, cut.last) = (row.last, Times::of(row).last);
                cut.bytes += row.body.len() as u64;
            }
            goes
        })?;
        let is_whole = cut.is_whole();
        if cut.upto > 0 {
            cuts.push(cut);
        }
        if !is_whole {
            break; // what comes after is younger, or comes after what stays
        }
    }
    Ok(cuts)
}

/// The first number in a span that some uplink is owed.
fn owed_from(state: &State, name: ChunkName, span: Span) -> u64 {
    let cursors = state.ledgers.iter().filter_map(|ledger| ledger.cursors[name.class].as_ref());
    let next = cursors.map(|cursor| Position { seq: cursor.acked.seq + 1, ..cursor.acked });
    let inside = next.filter(|next| next.ordinal <= span.ordinal);
    inside.map(|next| if next.ordinal == span.ordinal { next.seq } else { 0 }).min().unwrap_or(u64::MAX)
}

/// Segments in order, until `goes` says no.
fn walk(chunk: &ChunkReader, mut goes: impl FnMut(&SegmentRow) -> bool) -> Result<(), Fault> {
    let mut seq = 0;
    loop {
        let rows = chunk.segments_from(seq, SEGMENTS)?;
        let rows: Vec<_> = rows.into_iter().filter(|row| row.first >= seq).collect();
        let Some(last) = rows.last() else { return Ok(()) };
        seq = last.first + 1;
        if !rows.iter().all(&mut goes) {
            return Ok(());
        }
    }
}

/// Where uplinks stand inside what goes, and when what follows was taken.
fn begins(pages: &Pages, cut: &Cut) -> Vec<(u64, Stamp)> {
    let seqs = pages.now.state.begins(cut.held.name.class, cut.span());
    let inside = seqs.into_iter().filter(|seq| *seq > cut.held.span.first);
    inside.map(|seq| (seq, times::since(&pages.now.directory, cut.held, cut.epoch, seq))).collect()
}
