//! Uplinks and their cursors when a store is opened: known ones go on, new ones begin, removed ones are dropped.

use crate::config::plan::UplinkStart;
use crate::disk::meta::{Contents, CursorRow, Edit};
use crate::model::number::{Class, PerClass};

use super::Opening;
use super::cursor::{Cursor, Position, Span};
use super::join::Joined;
use super::state::{Ledger, Owing, State};
use super::stream::Stream;

/// Makes the ledgers. `known` is what `meta.db` held; without it (and not `fresh`) cursors are lost, and every uplink
/// begins at the oldest record: twice is better than never.
pub(super) fn take(state: &mut State, opening: &Opening, known: Option<&Contents>, fresh: bool) {
    let empty = Contents::default();
    let contents = known.unwrap_or(&empty);
    for route in &opening.uplinks {
        let cursors = PerClass::of(|class| {
            let stream = state.stream(class);
            let row = contents.cursors.iter().find(|row| row.uplink == route.name && row.class == class as u8);
            route.classes.contains(&class).then(|| match row {
                Some(row) => resume(stream, row),
                None if known.is_none() && !fresh => Cursor::at(stream.start()),
                None if route.start == UplinkStart::Oldest => Cursor::at(stream.start()),
                None => Cursor::at(stream.end()),
            })
        });
        let name = route.name.clone();
        state.ledgers.push(Ledger { name, cursors, gaps: Vec::new(), unsaved: 0, joined: Joined::default() });
    }
    take_gaps(state, contents);
    settle(state, contents);
    owe_earlier_losses(state);
    drop_removed(state, opening, contents);
}

pub(super) fn resume(stream: &Stream, row: &CursorRow) -> Cursor {
    let Some(ordinal) = stream.ordinal_of(row.epoch) else { return Cursor::at(stream.start()) };
    let mut cursor = Cursor::at(Position { ordinal, seq: row.acked });
    for range in row.ranges.split_whitespace() {
        let span = range.split_once(':').and_then(|(epoch, seqs)| {
            let (first, last) = seqs.split_once('-')?;
            let life = stream.life(stream.ordinal_of(epoch.parse().ok()?)?)?;
            let (ordinal, first, last) = (life.ordinal, first.parse().ok()?, last.parse().ok()?);
            // Numbers that nobody has used yet cannot have been acknowledged.
            (last <= life.last).then_some(Span { ordinal, first, last })
        });
        if let Some(span) = span {
            cursor.mark(span);
        }
    }
    cursor.advance(|ordinal| stream.ended(ordinal));
    cursor
}

pub(super) fn take_gaps(state: &mut State, contents: &Contents) {
    for owed in &contents.owed {
        state.next_gap = state.next_gap.max(owed.id + 1);
        let Some(class) = Class::from_code(owed.loss.class) else { continue };
        let loss = state.stream(class).loss_from(&owed.loss);
        let ledger = state.ledgers.iter_mut().find(|ledger| ledger.name == owed.uplink);
        match (ledger.filter(|ledger| ledger.cursors[class].is_some()), loss) {
            (Some(ledger), Some(loss)) => ledger.gaps.push(Owing { id: owed.id, class, loss }),
            _ => state.edits.push(Edit::DropOwed(owed.id)),
        }
    }
}

/// Lost or evicted numbers without a gap record that is owed were acknowledged: the gap record leaves `meta.db` at once,
/// the cursor follows some seconds later, and a crash may come between. Not so for a cursor that begins now.
fn settle(state: &mut State, known: &Contents) {
    let State { streams, ledgers, .. } = state;
    for ledger in ledgers {
        for (class, cursor) in ledger.cursors.iter_mut() {
            let (stream, Some(cursor)) = (&streams[class], cursor) else { continue };
            let evicted = stream.epochs.iter().filter(|life| life.evicted > 0);
            let evicted = evicted.map(|life| Span { ordinal: life.ordinal, first: 1, last: life.evicted });
            let is_known = |row: &CursorRow| row.uplink == ledger.name && row.class == stream.class as u8;
            let losses = stream.losses.iter().filter(|_| known.cursors.iter().any(is_known));
            let gone = evicted.chain(losses.map(|loss| loss.span)).collect();
            let owed = ledger.gaps.iter().filter(|gap| gap.class == stream.class);
            for span in owed.fold(gone, |gone, gap| gap.loss.span.take_out_of(gone)) {
                cursor.mark(span);
            }
            cursor.advance(|ordinal| stream.ended(ordinal));
        }
    }
}

/// An uplink that begins at the oldest record was not there when losses were declared: it is told of them now.
fn owe_earlier_losses(state: &mut State) {
    for class in Class::ALL {
        for loss in state.stream(class).losses.clone() {
            state.owe(class, &loss, &[]);
        }
    }
}

fn drop_removed(state: &mut State, opening: &Opening, contents: &Contents) {
    for row in &contents.cursors {
        let Some(class) = Class::from_code(row.class) else { continue };
        let routed = opening.uplinks.iter().any(|route| route.name == row.uplink && route.classes.contains(&class));
        if !routed {
            let stream = state.stream(class);
            let acked = resume(stream, row).acked;
            let owed: u64 =
                stream.epochs.iter().filter(|life| life.ordinal >= acked.ordinal).map(|life| life.last).sum();
            let owed = owed.saturating_sub(acked.seq);
            tracing::warn!(uplink = row.uplink, class = %class, owed, "uplink removed; what it was owed is dropped");
            state.edits.push(Edit::DropCursor(row.uplink.clone(), row.class));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::stream::{Life, Loss};

    #[test]
    fn a_gap_record_that_was_acknowledged_just_before_a_crash_does_not_hold_the_cursor_up() {
        let mut state = State::empty();
        let span = Span { ordinal: 1, first: 5, last: 9 };
        let stream = state.stream_mut(Class::Bulk);
        stream.epochs.push(Life { ordinal: 1, epoch: 7, previous: None, last: 20, evicted: 0 });
        stream.losses.push(Loss { span, reason: "store".into(), from: None, to: None });
        let cursor = Cursor::at(Position { ordinal: 1, seq: 4 });
        let cursors = [None, None, None, Some(cursor)].into();
        let loss = Loss { span: Span { first: 8, ..span }, reason: "store".into(), from: None, to: None };
        let gaps = vec![Owing { id: 1, class: Class::Bulk, loss }];
        state.ledgers.push(Ledger { name: "cloud".into(), cursors, gaps, unsaved: 0, joined: Joined::default() });
        let row =
            CursorRow { uplink: "cloud".into(), class: Class::Bulk as u8, epoch: 7, acked: 4, ranges: String::new() };
        let known = Contents { cursors: vec![row], ..Contents::default() };
        settle(&mut state, &known);
        let acked = |state: &State| state.ledgers[0].cursors[Class::Bulk].as_ref().map(|cursor| cursor.acked.seq);
        assert_eq!(acked(&state), Some(7), "what is still owed is not passed");
        state.ledgers[0].gaps.clear();
        settle(&mut state, &known);
        assert_eq!(acked(&state), Some(9));
    }
}
