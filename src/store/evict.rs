//! Numbers that go on purpose: which nobody is owed any more, and what is remembered of those that went.
//!
//! Pure. What goes at the start of an epoch needs one mark: everything up to there was evicted. A chunk from the middle (all
//! uplinks have its live records, some wait for the backlog below it) is remembered as a loss that nobody is owed: the mark would
//! pass over what lies below.

use crate::disk::directory::ChunkName;
use crate::disk::meta::Edit;
use crate::model::number::Class;
use crate::model::time::Stamp;

use super::cursor::Span;
use super::state::State;
use super::stream::{Held, Loss, Stream};

impl State {
    /// Has every uplink that has the class acknowledged all of this span?
    pub(super) fn is_acknowledged(&self, class: Class, span: Span) -> bool {
        let mut cursors = self.ledgers.iter().filter_map(|ledger| ledger.cursors[class].as_ref());
        cursors.all(|cursor| cursor.missing_of(span).is_empty())
    }

    /// A chunk is gone from the disk on purpose: remembers that, and owes gap records where somebody had not acknowledged all
    /// of it; how many numbers that were, at most. `begins`: see [`State::owe`].
    pub(super) fn evict(&mut self, name: ChunkName, begins: &[(u64, Stamp)]) -> u64 {
        let stream = &mut self.streams[name.class];
        let Some(place) = stream.chunks.iter().position(|held| held.name == name) else { return 0 };
        let Held { span, times, .. } = stream.chunks.remove(place);
        let loss = Loss { span, reason: "evicted".into(), from: Some(times.first), to: Some(times.last) };
        if is_first(stream, span) {
            return self.forget(name.class, &loss, begins);
        }
        let owed = self.owe(name.class, &loss, begins);
        let whole = self.with_neighbours(name.class, loss);
        self.remember(name.class, &whole);
        owed
    }

    /// The first numbers of an epoch that are still held go on purpose; how many somebody had not acknowledged.
    pub(super) fn forget(&mut self, class: Class, loss: &Loss, begins: &[(u64, Stamp)]) -> u64 {
        let span = loss.span;
        if span.len() == 0 {
            return 0;
        }
        let owed = self.owe(class, loss, begins);
        let stream = &mut self.streams[class];
        if let Some(life) = stream.life_mut(span.ordinal) {
            life.evicted = life.evicted.max(span.last);
        }
        let gone = |loss: &Loss| loss.span.ordinal == span.ordinal && loss.span.last <= span.last;
        for loss in stream.losses.iter().filter(|loss| gone(loss)) {
            if let Some(row) = stream.loss_row(loss) {
                self.edits.push(Edit::DropLoss(row.class, row.epoch, row.first));
            }
        }
        stream.losses.retain(|loss| !gone(loss));
        self.edits.extend(stream.life(span.ordinal).map(|life| Edit::PutEpoch(stream.epoch_row(life))));
        owed
    }

    /// One loss of this, of those inside it, and of those beside it that have the same reason: there are never many more than
    /// chunks between them.
    fn with_neighbours(&mut self, class: Class, mut loss: Loss) -> Loss {
        let stream = &mut self.streams[class];
        let mine: Vec<Loss> =
            stream.losses.iter().filter(|old| old.span.ordinal == loss.span.ordinal).cloned().collect();
        for old in mine {
            let inside = loss.span.first <= old.span.first && old.span.last <= loss.span.last;
            let before = old.reason == loss.reason && old.span.last + 1 == loss.span.first;
            let after = old.reason == loss.reason && loss.span.last + 1 == old.span.first;
            if before {
                (loss.span.first, loss.from) = (old.span.first, old.from);
            }
            if after {
                (loss.span.last, loss.to) = (old.span.last, old.to);
            }
            if inside || before || after {
                self.edits.extend(stream.loss_row(&old).map(|row| Edit::DropLoss(row.class, row.epoch, row.first)));
                stream.losses.retain(|loss| loss.span != old.span);
            }
        }
        loss
    }
}

/// Is nothing left that comes before this in its epoch, neither held nor perhaps salvaged?
fn is_first(stream: &Stream, span: Span) -> bool {
    let before = |held: &Held| held.span.ordinal == span.ordinal && held.span.first < span.first;
    !stream.salvaging && !stream.chunks.iter().any(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Boot;
    use crate::store::cursor::{Cursor, Position};
    use crate::store::join::Joined;
    use crate::store::state::Ledger;
    use crate::store::stream::{Found, Life};
    use crate::store::times::Times;

    const CLASS: Class = Class::Bulk;

    const fn span(first: u64, last: u64) -> Span {
        Span { ordinal: 1, first, last }
    }

    const fn chunk(number: u64) -> ChunkName {
        ChunkName { class: CLASS, number }
    }

    /// Four chunks of ten; an uplink has those in the middle.
    fn with_backlog() -> State {
        let mut state = State::empty();
        let mut cursor = Cursor::at(Position { ordinal: 1, seq: 0 });
        assert!(cursor.mark(span(11, 30)));
        let (cursors, joined) = ([None, None, None, Some(cursor)].into(), Joined::default());
        state.ledgers.push(Ledger { name: "cloud".into(), cursors, gaps: Vec::new(), unsaved: 0, joined });
        let stream = state.stream_mut(CLASS);
        stream.epochs.push(Life { ordinal: 1, epoch: 70, previous: None, last: 40, evicted: 0 });
        for number in 1..=4 {
            let at = Stamp { boot: Boot(1), micros: i64::try_from(number).expect("small") };
            let times = Times { first: at, last: at };
            stream.hold(Held { name: chunk(number), span: span(number * 10 - 9, number * 10), times });
        }
        state
    }

    fn losses(state: &State) -> Vec<Span> {
        state.stream(CLASS).losses.iter().map(|loss| loss.span).collect()
    }

    #[test]
    fn what_is_acknowledged_ahead_of_a_backlog_goes_without_touching_the_backlog() {
        let mut state = with_backlog();
        let acknowledged = [1, 2, 3, 4].map(|n| u8::from(state.is_acknowledged(CLASS, span(n * 10 - 9, n * 10))));
        assert_eq!(acknowledged, [0, 1, 1, 0]);
        assert_eq!((state.evict(chunk(2), &[]), losses(&state)), (0, vec![span(11, 20)]));
        assert_eq!((state.evict(chunk(3), &[]), losses(&state)), (0, vec![span(11, 30)]), "neighbours are one");
        let at = |seq| Position { ordinal: 1, seq };
        let found = |state: &State, seq| state.stream(CLASS).find(at(seq));
        assert_eq!(found(&state, 1), Found::In { name: chunk(1), at: at(1), upto: 10 });
        assert_eq!(found(&state, 11), Found::In { name: chunk(4), at: at(31), upto: 40 });
        assert!(state.ledgers[0].gaps.is_empty() && state.stream(CLASS).holes().is_empty());
        assert_eq!(state.backlog(0), 20);
        // In meta.db as it is here: one row is left.
        let rows = state.edits.iter().fold(Vec::new(), |mut rows, edit| {
            match edit {
                Edit::PutLoss(row) => rows.push((row.first, row.last)),
                Edit::DropLoss(_, _, first) => rows.retain(|row| row.0 != *first),
                _ => {}
            }
            rows
        });
        assert_eq!(rows, [(11, 30)]);
    }

    #[test]
    fn what_goes_from_the_middle_unacknowledged_is_owed_and_what_lies_below_stays() {
        let mut state = with_backlog();
        assert_eq!(state.evict(chunk(4), &[]), 10, "too old, and the first one is of unknown age");
        let gaps = |state: &State| state.ledgers[0].gaps.iter().map(|gap| gap.loss.span).collect::<Vec<_>>();
        assert_eq!((gaps(&state), losses(&state)), (vec![span(31, 40)], vec![span(31, 40)]));
        assert_eq!(state.stream(CLASS).life(1).map(|life| life.evicted), Some(0));
        assert_eq!((state.evict(chunk(1), &[]), losses(&state)), (10, vec![span(31, 40)]));
        assert_eq!(state.stream(CLASS).life(1).map(|life| life.evicted), Some(10));
        assert_eq!((state.evict(chunk(2), &[]), state.evict(chunk(3), &[])), (0, 0));
        assert_eq!((gaps(&state).len(), state.backlog(0)), (2, 2));
    }
}
