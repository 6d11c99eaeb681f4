//! When records were taken that are not there any more: the time range of a gap record.
//!
//! Evicted records: of themselves. Damaged ones: the whole records on either side, between which they
//! were taken. Fed by whoever declares a loss; reads chunks only where a loss lies inside one. Best effort: what cannot be
//! read is not known, and a gap record is never held up by that.

use crate::disk::chunk::{ChunkReader, SegmentRow};
use crate::disk::directory::Directory;
use crate::model::time::{Boot, Stamp};

use super::cursor::Span;
use super::segment::{self, Place};
use super::stream::{Held, Stream};

/// The earliest and the latest of some records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) first: Stamp,
    pub(super) last: Stamp,
}

impl Times {
    pub(super) fn of(row: &SegmentRow) -> Self {
        let stamp = |micros| Stamp { boot: Boot(row.boot), micros };
        Self { first: stamp(row.earliest), last: stamp(row.latest) }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }
}

/// What lies on either side of missing numbers.
pub(super) struct Neighbours {
    span: Span,
    before: Option<(Held, u64)>,
    after: Option<(Held, u64)>,
}

impl Neighbours {
    /// The chunks to ask. Pure: what is slow is [`Neighbours::times`].
    pub(super) fn of(stream: &Stream, span: Span) -> Self {
        let epoch = |held: &Held| stream.life(held.span.ordinal).map_or(0, |life| life.epoch);
        let with_epoch = |held: &Held| (*held, epoch(held));
        let (begin, end) = ((span.ordinal, span.first), (span.ordinal, span.last));
        let before = stream.chunks.iter().rev().find(|held| (held.span.ordinal, held.span.first) < begin);
        let after = stream.chunks.iter().find(|held| (held.span.ordinal, held.span.last) > end);
        Self { span, before: before.map(with_epoch), after: after.map(with_epoch) }
    }

    /// When the record before was taken, and the one after.
    pub(super) fn times(&self, directory: &Directory) -> (Option<Stamp>, Option<Stamp>) {
        let Span { ordinal, first, last } = self.span;
        let before = self.before.map(|(held, epoch)| {
            if held.span.ordinal != ordinal || held.span.last < first {
                return held.times.last; // ends before it; otherwise the hole lies inside
            }
            let row = whole(directory, held, epoch, |chunk| chunk.segment_at(first - 1).ok()?);
            row.map_or(held.times.first, |times| times.last)
        });
        let after = self.after.map(|(held, epoch)| {
            if held.span.ordinal != ordinal || held.span.first > last {
                return held.times.first;
            }
            let next =
                |chunk: &ChunkReader| chunk.segments_from(last + 1, 2).ok()?.into_iter().find(|row| row.last > last);
            whole(directory, held, epoch, next).map_or(held.times.last, |times| times.first)
        });
        (before, after)
    }
}

/// From when on the records of a chunk were taken that have this number and those above.
pub(super) fn since(directory: &Directory, held: Held, epoch: u64, seq: u64) -> Stamp {
    let exact = || {
        let row = ChunkReader::open(&directory.chunk(held.name)).ok()?.segment_at(seq).ok()??;
        let records = segment::unpack(Place { class: held.name.class, epoch }, &row).ok()?;
        let skipped = usize::try_from(seq.saturating_sub(row.first)).unwrap_or(usize::MAX);
        records.iter().skip(skipped).map(|record| record.at).min()
    };
    exact().unwrap_or(held.times.first)
}

fn whole(
    directory: &Directory,
    held: Held,
    epoch: u64,
    find: impl FnOnce(&ChunkReader) -> Option<SegmentRow>,
) -> Option<Times> {
    let row = find(&ChunkReader::open(&directory.chunk(held.name)).ok()?)?;
    segment::check(Place { class: held.name.class, epoch }, &row).ok()?;
    Some(Times::of(&row))
}
