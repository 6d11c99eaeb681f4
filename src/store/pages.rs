//! Records of a store for one who reads them from outside, also while it is used: what `store export` sees.
//!
//! A page is what one segment holds, so memory stays small whatever the size of the store. Only reads, over connections
//! of its own. Where to read, the tail included, is told by the same [`Stream::find`] that serves the uplinks; what
//! changed its place since the look (evicted, merged into another file) is looked for once more.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::chunk::{ChunkReader, SegmentRow};
use crate::disk::directory::ChunkName;
use crate::disk::meta::{Contents, StampRow};
use crate::flow::clock::{Clock, FakeTime, Fix};
use crate::model::number::Class;
use crate::model::time::{Boot, Stamp};
use crate::payload::json::Previous;

use super::cursor::Position;
use super::inspect::{self, Holdings, LookError};
use super::segment::{self, Place, Record};
use super::stream::{Found, Stream};
use super::times::Times;
use super::{DictionaryTag, dictionary, upkeep};

/// Segments read in one query.
const SEGMENTS: usize = 4;

/// Records `first ..` of one epoch.
pub(super) struct Page {
    pub(super) epoch: u64,
    /// What the first record of the epoch names.
    pub(super) previous: Option<Previous>,
    pub(super) first: u64,
    pub(super) records: Vec<Record>,
    /// Where to go on.
    pub(super) next: Position,
}

/// What lies at a place.
pub(super) enum Turned {
    /// Records.
    Page(Page),
    /// Nothing to read here; go on there. `lost` numbers could not be read and are not declared (yet).
    Skip { next: Position, lost: u64 },
    /// Nothing more.
    End,
}

/// A file with what was read ahead of it.
struct Open {
    name: ChunkName,
    chunk: ChunkReader,
    ahead: VecDeque<SegmentRow>,
}

/// Reads one store.
pub(super) struct Pages {
    dir: PathBuf,
    pub(super) now: Holdings,
    clock: Clock,
    tags: HashMap<u32, Arc<DictionaryTag>>,
    open: Option<Open>,
    /// Looked again since the last page.
    renewed: bool,
}

impl Pages {
    /// For one who does not ask for times.
    pub(super) fn open(dir: &Path) -> Result<Self, LookError> {
        Self::with_floor(dir, 0)
    }

    /// `floor_ms`: no honest clock is before this.
    pub(super) fn with_floor(dir: &Path, floor_ms: i64) -> Result<Self, LookError> {
        let now = inspect::look(dir)?;
        let (tags, clock) = (tags(&now), clock(&now.contents, floor_ms));
        Ok(Self { dir: dir.to_path_buf(), now, clock, tags, open: None, renewed: false })
    }

    /// Before the oldest record of a stream.
    pub(super) fn start(&self, class: Class) -> Position {
        self.stream(class).start()
    }

    /// A tag by its id in the dictionary.
    pub(super) fn tag(&self, id: u32) -> Option<Arc<DictionaryTag>> {
        self.tags.get(&id).cloned()
    }

    pub(super) fn stream(&self, class: Class) -> &Stream {
        self.now.state.stream(class)
    }

    /// The clock, with all that the store has learned.
    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// From when to when records with these times were taken, ms since 1970; `None`: not known, as they are of several boots.
    pub(super) fn walls(&self, times: Times) -> Option<RangeInclusive<i64>> {
        if times.first.boot != times.last.boot {
            return None;
        }
        Some(self.clock.wall(times.first).unix_ms..=self.clock.wall(times.last).unix_ms)
    }

    /// What lies at `at`, or next after it. `wanted` says, by [`Pages::walls`] of a file, whether it is worth opening.
    pub(super) fn turn(
        &mut self,
        class: Class,
        at: Position,
        wanted: &dyn Fn(Option<RangeInclusive<i64>>) -> bool,
    ) -> Result<Turned, LookError> {
        let (name, at, upto) = match self.stream(class).find(at) {
            Found::In { name, at, upto } => (name, at, upto),
            Found::Hole(span) => {
                return Ok(Turned::Skip {
                    next: Position { seq: span.last + 1, ..at_of(span.ordinal) },
                    lost: span.len(),
                });
            }
            Found::NotYet(_) => return Ok(Turned::End),
        };
        let beyond = Position { seq: upto + 1, ..at };
        let stream = self.stream(class);
        let held = stream.chunks.iter().find(|held| held.name == name && !name.is_tail() && held.span.has(at));
        if held.is_some_and(|held| !wanted(self.walls(held.times))) {
            return Ok(Turned::Skip { next: beyond, lost: 0 });
        }
        let Some(life) = stream.life(at.ordinal).copied() else { return Ok(Turned::End) };
        let place = Place { class, epoch: life.epoch };
        match self.read(name, place, at, upto) {
            Ok(Some((first, records))) => {
                self.renewed = false;
                let next = Position { seq: first + records.len() as u64, ..at };
                let previous = life.previous().filter(|_| first == 1);
                Ok(Turned::Page(Page { epoch: life.epoch, previous, first, records, next }))
            }
            Ok(None) => Ok(Turned::Skip { next: beyond, lost: beyond.seq - at.seq }),
            Err(Unread::Gone) if !self.renewed => {
                self.renewed = true;
                self.now = inspect::look(&self.dir)?;
                self.tags = tags(&self.now);
                Ok(Turned::Skip { next: at, lost: 0 })
            }
            Err(Unread::Gone) => Ok(Turned::Skip { next: beyond, lost: 0 }), // evicted, and declared where owed
            Err(Unread::Damaged(next)) => Ok(Turned::Skip { next: Position { seq: next, ..at }, lost: next - at.seq }),
        }
    }

    /// The first segment in a file that holds `at` or follows it, and begins by `upto`.
    fn row(&mut self, name: ChunkName, at: Position, upto: u64) -> Result<Option<SegmentRow>, Unread> {
        let path = self.now.directory.chunk(name);
        let mut open = match self.open.take().filter(|open| open.name == name) {
            Some(open) => open,
            None => {
                let chunk = ChunkReader::open(&path).map_err(|_| Unread::at(&path, upto + 1))?;
                Open { name, chunk, ahead: VecDeque::new() }
            }
        };
        open.ahead.retain(|row| row.last >= at.seq);
        if open.ahead.is_empty() {
            let rows = open.chunk.segments_from(at.seq, SEGMENTS).map_err(|_| Unread::at(&path, upto + 1))?;
            // The first may be the one before the hole that `at` lies in.
            open.ahead.extend(rows.into_iter().filter(|row| row.last >= at.seq));
        }
        let here = open.ahead.front().is_some_and(|row| row.first <= upto);
        let row = if here { open.ahead.pop_front() } else { None };
        if let Some(row) = row.as_ref().filter(|row| row.last > upto) {
            open.ahead.push_front(row.clone()); // the rest of it comes after a declared loss
        }
        self.open = Some(open);
        Ok(row)
    }

    /// The first records at or after `at`, up to `upto`, that lie in this file.
    fn read(
        &mut self,
        name: ChunkName,
        place: Place,
        at: Position,
        upto: u64,
    ) -> Result<Option<(u64, Vec<Record>)>, Unread> {
        let row = if name.is_tail() {
            Some(SegmentRow::clone(self.stream(place.class).tail_at(at).ok_or(Unread::Gone)?))
        } else {
            self.row(name, at, upto)?
        };
        let Some(row) = row else { return Ok(None) };
        unpacked(place, &row, at, upto).map(Some)
    }
}

/// What a segment has from `at` up to `upto`: its first number, and the records.
fn unpacked(place: Place, row: &SegmentRow, at: Position, upto: u64) -> Result<(u64, Vec<Record>), Unread> {
    let Ok(mut records) = segment::unpack(place, row) else { return Err(Unread::Damaged(row.last.min(upto) + 1)) };
    let before = at.seq.saturating_sub(row.first);
    records.drain(..usize::try_from(before).unwrap_or(usize::MAX).min(records.len()));
    let first = row.first.max(at.seq);
    records.truncate(usize::try_from(upto + 1 - first).unwrap_or(usize::MAX));
    Ok((first, records))
}

/// Why a page is not there.
enum Unread {
    /// The file is not there any more.
    Gone,
    /// It cannot be read; go on at this number.
    Damaged(u64),
}

impl Unread {
    fn at(path: &Path, next: u64) -> Self {
        if path.exists() { Self::Damaged(next) } else { Self::Gone }
    }
}

fn tags(now: &Holdings) -> HashMap<u32, Arc<DictionaryTag>> {
    let tags = now.contents.tags.iter().cloned().filter_map(dictionary::tag);
    tags.map(|tag| (tag.id, Arc::new(tag))).collect()
}

/// The clock of a store, with all it has learned.
fn clock(contents: &Contents, floor_ms: i64) -> Clock {
    let boot = Boot(contents.boots.last().map_or(0, |(number, _)| *number));
    let seen = contents.values.iter().find(|(name, _)| name == upkeep::WALL).map_or(0, |(_, ms)| *ms);
    let clock = Clock::new(Arc::new(FakeTime::default()), boot, floor_ms.max(seen));
    for fix in &contents.fixes {
        clock.learn(Fix { at: stamp(fix.at), unix_ms: fix.unix_ms });
    }
    clock
}

const fn stamp((boot, micros): StampRow) -> Stamp {
    Stamp { boot: Boot(boot), micros }
}

const fn at_of(ordinal: i64) -> Position {
    Position { ordinal, seq: 0 }
}
