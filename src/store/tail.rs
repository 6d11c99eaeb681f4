//! What is committed and not merged into a chunk yet, as a stream knows it: segments in memory, the same as in the tail
//! file, so that readers need no disk for what is new.
//!
//! Pure. Towards readers each run of numbers looks like one more chunk, under the name [`ChunkName::tail`]. A merge takes
//! segments out and moves the end of a real chunk in the same breath, so no number is ever in neither.

use std::collections::HashSet;
use std::sync::Arc;

use crate::disk::chunk::SegmentRow;
use crate::disk::directory::ChunkName;
use crate::disk::tail::TailRow;
use crate::model::number::Class;
use crate::model::time::{Boot, Stamp};

use super::cursor::{Position, Span};
use super::segment::{self, Place};
use super::state::State;
use super::stream::{Held, Stream};
use super::times::Times;

/// One segment that is not merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unmerged {
    pub(super) ordinal: i64,
    pub(super) row: Arc<SegmentRow>,
}

impl Unmerged {
    pub(super) fn span(&self) -> Span {
        Span { ordinal: self.ordinal, first: self.row.first, last: self.row.last }
    }
}

/// Segments without a hole between them, and all of one epoch.
pub(super) fn runs(tail: &[Unmerged]) -> Vec<&[Unmerged]> {
    tail.chunk_by(|one, next| one.ordinal == next.ordinal && one.row.last + 1 == next.row.first).collect()
}

/// A run in pieces of so many bytes, and of one segment at least.
pub(super) fn pieces(mut run: &[Unmerged], most: u64) -> impl Iterator<Item = &[Unmerged]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |unmerged: &&Unmerged| {
            bytes += unmerged.row.body.len() as u64;
            bytes <= most
        };
        let count = run.iter().take_while(fits).count().max(1);
        let (piece, rest) = run.split_at_checked(count)?;
        run = rest;
        Some(piece)
    })
}

impl Stream {
    /// Adds segments to the tail; in order, and behind everything there is.
    pub(super) fn hold_tail(&mut self, more: impl IntoIterator<Item = Unmerged>) {
        self.tail.extend(more);
        self.show_tail();
    }

    /// Everything of an epoch up to this number lies in a chunk: it leaves the tail.
    pub(super) fn merged(&mut self, ordinal: i64, upto: u64) {
        self.tail.retain(|unmerged| unmerged.ordinal != ordinal || unmerged.row.last > upto);
        self.show_tail();
    }

    /// The segment of the tail that has this number.
    pub(super) fn tail_at(&self, at: Position) -> Option<&Arc<SegmentRow>> {
        let place = self.tail.partition_point(|unmerged| (unmerged.ordinal, unmerged.row.last) < (at.ordinal, at.seq));
        self.tail.get(place).filter(|unmerged| unmerged.span().has(at)).map(|unmerged| &unmerged.row)
    }

    /// Has the tail a segment of this epoch that begins here?
    pub(super) fn is_in_tail(&self, epoch: u64, first: u64) -> bool {
        let ordinal = self.ordinal_of(epoch);
        self.tail.iter().any(|unmerged| Some(unmerged.ordinal) == ordinal && unmerged.row.first == first)
    }

    fn show_tail(&mut self) {
        let name = ChunkName::tail(self.class);
        self.chunks.retain(|held| held.name != name);
        for run in runs(&self.tail) {
            let [first, ..] = run else { continue };
            let last = run.last().unwrap_or(first);
            let times = run.iter().map(|unmerged| Times::of(&unmerged.row)).reduce(Times::and);
            let span = Span { last: last.row.last, ..first.span() };
            let Some(times) = times else { continue };
            let place = self.chunks.partition_point(|old| old.span < span);
            self.chunks.insert(place, Held { name, span, times });
        }
    }
}

/// Takes over what a tail file holds and chunks do not: whole segments of known epochs whose numbers are not in a chunk,
/// not evicted, not declared lost and, in an epoch that is over, not beyond its end.
pub(super) fn adopt(state: &mut State, found: &[TailRow]) {
    for class in Class::ALL {
        let stream = state.stream_mut(class);
        let mut new: Vec<Unmerged> = Vec::new();
        for TailRow { epoch, row, .. } in found.iter().filter(|row| row.class == class) {
            if let Some(ordinal) = stream.ordinal_of(*epoch)
                && segment::check(Place { class, epoch: *epoch }, row).is_ok()
                && is_needed(stream, Span { ordinal, first: row.first, last: row.last })
            {
                new.push(Unmerged { ordinal, row: Arc::clone(row) });
            }
        }
        new.sort_by_key(Unmerged::span);
        // A slot whose commit failed may have been written twice.
        let mut end = Position { ordinal: 0, seq: 0 };
        new.retain(|unmerged| {
            let span = unmerged.span();
            let is_new = Position { ordinal: span.ordinal, seq: span.first } > end;
            if is_new {
                end = Position { ordinal: span.ordinal, seq: span.last };
            }
            is_new
        });
        for span in new.iter().map(Unmerged::span) {
            if let Some(life) = stream.life_mut(span.ordinal) {
                life.last = life.last.max(span.last);
            }
        }
        stream.hold_tail(new);
    }
}

/// Of what a tail file holds, what is not in these chunks (class, epoch, numbers) and still needed.
pub(super) fn beside(mut state: State, chunks: &[(Class, u64, Span)], found: &[TailRow]) -> Vec<TailRow> {
    let nowhen = Stamp { boot: Boot(0), micros: 0 };
    let times = Times { first: nowhen, last: nowhen };
    for (number, &(class, epoch, span)) in (1u64..).zip(chunks) {
        let stream = state.stream_mut(class);
        if let Some(ordinal) = stream.ordinal_of(epoch) {
            stream.hold(Held { name: ChunkName { class, number }, span: Span { ordinal, ..span }, times });
        }
    }
    adopt(&mut state, found);
    let is_needed = |row: &&TailRow| state.stream(row.class).is_in_tail(row.epoch, row.row.first);
    let mut seen = HashSet::new();
    found.iter().filter(is_needed).filter(|row| seen.insert((row.class, row.epoch, row.row.first))).cloned().collect()
}

fn is_needed(stream: &Stream, span: Span) -> bool {
    let touches = |other: Span| other.ordinal == span.ordinal && other.first <= span.last && span.first <= other.last;
    let over = stream.newest().is_some_and(|newest| newest.ordinal != span.ordinal);
    let life = stream.life(span.ordinal);
    life.is_some_and(|life| span.first > life.evicted && (!over || span.last <= life.last))
        && !stream.chunks.iter().any(|held| touches(held.span))
        && !stream.losses.iter().any(|loss| touches(loss.span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::quality::Quality;
    use crate::store::segment::{Body, Record};
    use crate::store::stream::{Found, Life, Loss};

    const CLASS: Class = Class::Bulk;

    fn row(epoch: u64, first: u64, count: u64) -> TailRow {
        let at = Stamp { boot: Boot(1), micros: 5 };
        let record = Record { body: Body::Sample { tag: 1, value: None, quality: Quality::Good }, at };
        let records: Vec<_> = (0..count).map(|_| record.clone()).collect();
        TailRow { class: CLASS, epoch, row: Arc::new(segment::pack(Place { class: CLASS, epoch }, first, &records)) }
    }

    #[test]
    fn a_run_is_cut_into_pieces_that_a_small_store_has_room_for_and_nothing_of_it_is_left_out() {
        let run: Vec<_> = (0..10).map(|n| Unmerged { ordinal: 1, row: row(1, 1 + n * 50, 50).row }).collect();
        let one = run[0].row.body.len() as u64;
        let lengths = |most| pieces(&run, most).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(u64::MAX), [10]);
        assert_eq!(lengths(one / 2), [1; 10], "one that is too large goes alone");
        assert_eq!(lengths(4 * (one + 8)).iter().sum::<usize>(), 10);
        assert_eq!(pieces(&[], 1).count(), 0);
    }

    #[test]
    fn only_what_is_nowhere_else_is_taken_over_and_a_merge_moves_it_without_a_gap() {
        let mut state = State::empty();
        let stream = state.stream_mut(CLASS);
        let life = |ordinal, epoch, last| Life { ordinal, epoch, previous: None, last, evicted: 4 };
        stream.epochs = vec![life(1, 70, 40), life(2, 71, 60)];
        let at = |ordinal, seq| Position { ordinal, seq };
        let span = |ordinal, first, last| Span { ordinal, first, last };
        let now = Stamp { boot: Boot(1), micros: 0 };
        let times = Times { first: now, last: now };
        let chunk = ChunkName { class: CLASS, number: 3 };
        stream.hold(Held { name: chunk, span: span(2, 5, 60), times });
        stream.losses.push(Loss { span: span(2, 81, 90), reason: "store".into(), from: None, to: None });
        let mut hurt = row(71, 120, 10);
        Arc::make_mut(&mut hurt.row).body[3] ^= 1;
        let found = [
            row(71, 71, 10),  // above the chunk
            row(71, 61, 10),  // the one before it, found later
            row(71, 61, 10),  // written twice
            row(71, 51, 10),  // merged
            row(70, 1, 4),    // evicted
            row(70, 31, 10),  // of an epoch before, nowhere else
            row(70, 41, 10),  // beyond the end of that
            row(71, 85, 4),   // declared lost
            row(72, 1, 10),   // of another store
            row(71, 101, 10), // behind a hole
            hurt,
        ];
        adopt(&mut state, &found);
        let stream = state.stream_mut(CLASS);
        let spans: Vec<_> = stream.tail.iter().map(Unmerged::span).collect();
        assert_eq!(spans, [span(1, 31, 40), span(2, 61, 70), span(2, 71, 80), span(2, 101, 110)]);
        assert_eq!(stream.newest().map(|life| life.last), Some(110));
        let tail = ChunkName::tail(CLASS);
        assert_eq!(stream.find(at(2, 61)), Found::In { name: tail, at: at(2, 61), upto: 80 });
        assert_eq!(stream.find(at(2, 91)), Found::Hole(span(2, 91, 100)));
        assert_eq!(stream.tail_at(at(2, 75)).map(|row| row.first), Some(71));
        assert!(stream.tail_at(at(2, 81)).is_none() && stream.tail_at(at(1, 1)).is_none());
        stream.hold(Held { name: chunk, span: span(2, 5, 80), times });
        stream.merged(2, 80);
        assert_eq!(stream.find(at(2, 61)), Found::In { name: chunk, at: at(2, 61), upto: 80 });
        assert_eq!(stream.find(at(2, 101)), Found::In { name: tail, at: at(2, 101), upto: 110 });
        assert_eq!(stream.find(at(1, 31)), Found::In { name: tail, at: at(1, 31), upto: 40 });
    }
}
