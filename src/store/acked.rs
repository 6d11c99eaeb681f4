//! Where uplinks stand, in the marks: written with each commit, so that a crash makes few records go out twice.
//!
//! Pure. `meta.db` has the same, later, and all of it. Of a stream that both know, the marks are believed, for they have a
//! checksum: a number in `meta.db` that is wrong could pass over records that nobody was sent. It is older by moments only,
//! and at the end of a store by nothing.

use std::fmt::Write as _;

use crate::disk::marks::{AckedMark, Mark, UplinkMark};
use crate::disk::meta::{Contents, CursorRow};
use crate::model::number::{Class, PerClass};

use super::cursor::Cursor;
use super::state::State;
use super::stream::Stream;

/// The marks that belong to a state.
pub(super) fn marks_of(state: &State) -> PerClass<Mark> {
    PerClass::of(|class| {
        state.stream(class).newest().map_or(Mark::default(), |life| Mark {
            epoch: life.epoch,
            last: life.last,
            given_up: 0,
        })
    })
}

/// Where all uplinks stand.
pub(super) fn uplinks_of(state: &State) -> Vec<UplinkMark> {
    let of_class = |class: Class, cursor: Option<&Cursor>| cursor.and_then(|cursor| mark(state.stream(class), cursor));
    let uplinks = state.ledgers.iter().filter(|ledger| !ledger.name.is_empty()).map(|ledger| UplinkMark {
        uplink: ledger.name.clone(),
        cursors: PerClass::of(|class| of_class(class, ledger.cursors[class].as_ref())),
    });
    uplinks.collect()
}

fn mark(stream: &Stream, cursor: &Cursor) -> Option<AckedMark> {
    let epoch = stream.life(cursor.acked.ordinal)?.epoch;
    let ranges = cursor.ranges_to_save().into_iter().filter(|range| range.ordinal == cursor.acked.ordinal);
    let ranges = ranges.map(|range| (range.first, range.last)).collect();
    Some(AckedMark { epoch, acked: cursor.acked.seq, ranges })
}

/// Puts the cursors that `meta.db` had where the marks saw them.
pub(super) fn recall(contents: &mut Contents, state: &State, uplinks: &[UplinkMark]) {
    for uplink in uplinks {
        for (class, mark) in uplink.cursors.iter() {
            let Some(mark) = mark else { continue };
            let stream = state.stream(class);
            let Some(ordinal) = stream.ordinal_of(mark.epoch) else { continue };
            let is_it = |row: &CursorRow| row.uplink == uplink.uplink && row.class == class as u8;
            match contents.cursors.iter_mut().find(|row| is_it(row)) {
                Some(row) => put(row, stream.ordinal_of(row.epoch), (ordinal, mark)),
                None => contents.cursors.push(CursorRow {
                    uplink: uplink.uplink.clone(),
                    class: class as u8,
                    epoch: mark.epoch,
                    acked: mark.acked,
                    ranges: text(mark),
                }),
            }
        }
    }
}

/// A row of a later epoch stays: it crossed over since. Ranges in other epochs the marks do not have.
fn put(row: &mut CursorRow, row_ordinal: Option<i64>, (ordinal, mark): (i64, &AckedMark)) {
    if row_ordinal.is_some_and(|row_ordinal| row_ordinal > ordinal) {
        return;
    }
    let of_mark = format!("{}:", mark.epoch);
    let others = row.ranges.split_whitespace().filter(|range| !range.starts_with(&of_mark));
    row.ranges = others.collect::<Vec<_>>().join(" ") + &text(mark);
    (row.epoch, row.acked) = (mark.epoch, mark.acked);
}

fn text(mark: &AckedMark) -> String {
    mark.ranges.iter().fold(String::new(), |mut text, (first, last)| {
        let _ = write!(text, " {}:{first}-{last}", mark.epoch); // into memory
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cursor::Position;
    use crate::store::routes;
    use crate::store::stream::Life;

    #[test]
    fn the_marks_are_believed_and_ranges_that_they_cannot_have_are_kept() {
        let mut state = State::empty();
        let life = |ordinal, epoch| Life { ordinal, epoch, previous: None, last: 500, evicted: 0 };
        state.stream_mut(Class::Bulk).epochs = vec![life(1, 70), life(2, 71)];
        let row = |epoch, acked, ranges: &str| CursorRow {
            uplink: "cloud".into(),
            class: Class::Bulk as u8,
            epoch,
            acked,
            ranges: ranges.into(),
        };
        let mark = |epoch, acked, ranges| UplinkMark {
            uplink: "cloud".into(),
            cursors: [None, None, None, Some(AckedMark { epoch, acked, ranges })].into(),
        };
        let cases = [
            (row(71, 10, "71:20-29"), mark(71, 15, vec![(30, 39)]), (2, 15), vec![(30, 39)]),
            (row(71, 19, "71:20-29"), mark(71, 15, vec![(17, 18)]), (2, 15), vec![(17, 18)]),
            (row(70, 400, "71:3-9"), mark(71, 2, vec![(12, 13)]), (2, 2), vec![(12, 13)]),
            (row(70, 400, "71:3-9 71:499-501 70:402-402"), mark(70, 4, vec![(6, 7)]), (1, 4), vec![(6, 7), (3, 9)]),
            (row(71, 1, ""), mark(70, 499, vec![]), (2, 1), vec![]),
            (row(71, 1, ""), mark(99, 5, vec![]), (2, 1), vec![]),
        ];
        for (row, mark, acked, ranges) in cases {
            let mut contents = Contents { cursors: vec![row], ..Contents::default() };
            recall(&mut contents, &state, &[mark]);
            let cursor = routes::resume(state.stream(Class::Bulk), &contents.cursors[0]);
            assert_eq!(cursor.acked, Position { ordinal: acked.0, seq: acked.1 });
            let found: Vec<_> = cursor.ranges().iter().map(|range| (range.first, range.last)).collect();
            assert_eq!(found, ranges);
        }
        let mut contents = Contents::default();
        recall(&mut contents, &state, &[mark(70, 12, vec![])]);
        assert_eq!(contents.cursors, [row(70, 12, "")]);
    }
}
