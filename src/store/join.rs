//! How many gap records an uplink is owed: where there are many, neighbours are told as one.
//!
//! Pure. An uplink that is dead for a year would be owed one for each time the store could not take something, long after
//! the records around it are evicted. Gap records are joined only where no number lies between them, so that what they
//! declare together stays exactly what is missing; how many are left is bounded by what the store still holds.

use crate::disk::meta::{Edit, OwedRow};
use crate::model::number::{Class, PerClass};

use super::cursor::Span;
use super::state::{Ledger, Owing};
use super::stream::{Loss, Stream};

/// Of one stream; above this they are joined.
const GAPS_OWED_MAX: usize = 256;
/// They are joined again when there are so many more.
const MORE: usize = 64;
/// Names of joined gap records that an acknowledgement may still come for: a window is far smaller.
const NAMES_MAX: usize = 1024;

/// What is remembered of an uplink's joined gap records.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// How many were left, by class.
    left: PerClass<usize>,
    /// Those that are part of a longer one now.
    names: Vec<(i64, Class, Span)>,
}

impl Joined {
    /// The numbers of a gap record that may have been handed out before it was joined to its neighbour.
    pub(super) fn part(&self, id: i64) -> Option<(Class, Span)> {
        self.names.iter().find(|(name, ..)| *name == id).map(|(_, class, span)| (*class, *span))
    }
}

/// Joins an uplink's gap records of a stream where there are too many; what `meta.db` must learn.
pub(super) fn join(ledger: &mut Ledger, stream: &Stream, next_gap: &mut i64) -> Vec<Edit> {
    let class = stream.class;
    let count = ledger.gaps.iter().filter(|gap| gap.class == class).count();
    if count <= GAPS_OWED_MAX || count < ledger.joined.left[class] + MORE {
        return Vec::new();
    }
    let (mut mine, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut ledger.gaps).into_iter().partition(|gap| gap.class == class);
    ledger.gaps = others;
    mine.sort_unstable_by_key(|gap| gap.loss.span);
    let mut runs = in_runs(mine.into_iter().map(|gap| vec![gap]).collect(), |one, next| one.reason == next.reason);
    if runs.len() > GAPS_OWED_MAX {
        runs = in_runs(runs, |_, _| true);
    }
    let mut edits = Vec::new();
    ledger.joined.left[class] = runs.len();
    for run in runs {
        if let [alone] = run.as_slice() {
            ledger.gaps.push(alone.clone());
            continue;
        }
        let Some(loss) = whole(&run) else { continue };
        for part in &run {
            edits.push(Edit::DropOwed(part.id));
            ledger.joined.names.push((part.id, class, part.loss.span));
        }
        let id = *next_gap;
        *next_gap += 1;
        if let Some(row) = stream.loss_row(&loss) {
            edits.push(Edit::PutOwed(OwedRow { id, uplink: ledger.name.clone(), loss: row }));
        }
        ledger.gaps.push(Owing { id, class, loss });
    }
    let old = ledger.joined.names.len().saturating_sub(NAMES_MAX);
    ledger.joined.names.drain(..old);
    edits
}

/// Puts runs together that nothing lies between, where `belong` allows it.
fn in_runs(runs: Vec<Vec<Owing>>, belong: impl Fn(&Loss, &Loss) -> bool) -> Vec<Vec<Owing>> {
    let mut joined: Vec<Vec<Owing>> = Vec::new();
    for run in runs {
        let before = joined.last().and_then(|run| run.last());
        let goes_on = before.zip(run.first()).is_some_and(|(one, next)| {
            let (one, next) = (&one.loss, &next.loss);
            let touch = one.span.ordinal == next.span.ordinal && one.span.last + 1 == next.span.first;
            touch && belong(one, next)
        });
        match joined.last_mut().filter(|_| goes_on) {
            Some(before) => before.extend(run),
            None => joined.push(run),
        }
    }
    joined
}

/// All of a run; the reason is that of its longest part.
fn whole(run: &[Owing]) -> Option<Loss> {
    let (first, last) = (run.first()?, run.last()?);
    let longest = run.iter().max_by_key(|gap| gap.loss.span.len())?;
    let span = Span { last: last.loss.span.last, ..first.loss.span };
    Some(Loss { span, reason: longest.loss.reason.clone(), from: first.loss.from, to: last.loss.to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::number::{Epoch, Seq};
    use crate::store::Ack;
    use crate::store::cursor::{Cursor, Position};
    use crate::store::state::State;
    use crate::store::stream::Life;

    const CLASS: Class = Class::Telemetry;

    fn owing(last: u64) -> State {
        let mut state = State::empty();
        let life = Life { ordinal: 1, epoch: 7, previous: None, last, evicted: 0 };
        state.stream_mut(CLASS).epochs.push(life);
        let cursors = [None, None, Some(Cursor::at(Position { ordinal: 1, seq: 0 })), None].into();
        let name = "cloud".into();
        state.ledgers.push(Ledger { name, cursors, gaps: Vec::new(), unsaved: 0, joined: Joined::default() });
        state
    }

    fn loss(first: u64, last: u64, reason: &str) -> Loss {
        Loss { span: Span { ordinal: 1, first, last }, reason: reason.into(), from: None, to: None }
    }

    fn declared(state: &State) -> u64 {
        state.ledgers[0].gaps.iter().map(|gap| gap.loss.span.len()).sum()
    }

    #[test]
    fn many_neighbouring_gaps_become_few_and_what_they_declare_stays_exact() {
        let mut state = owing(20_000);
        // One number in ten is lost, for a long time; then what lies between is evicted, and again.
        for n in 0..1000 {
            state.declare(CLASS, &loss(n * 10 + 4, n * 10 + 4, if n % 2 == 0 { "store" } else { "damaged" }));
            assert_eq!(declared(&state), n + 1);
        }
        assert_eq!(state.ledgers[0].gaps.len(), 1000, "records lie between them");
        state.forget(CLASS, &loss(1, 5000, "evicted"), &[]);
        assert_eq!(declared(&state), 5500);
        state.forget(CLASS, &loss(5001, 12_000, "evicted"), &[]);
        assert_eq!(declared(&state), 12_000);
        let [all] = state.ledgers[0].gaps.as_slice() else { panic!("{} gaps", state.ledgers[0].gaps.len()) };
        assert_eq!((all.loss.span.first, all.loss.span.last, all.loss.reason.as_str()), (1, 12_000, "evicted"));
        // On disk it is the same.
        let mut rows = std::collections::BTreeMap::new();
        for edit in &state.edits {
            match edit {
                Edit::PutOwed(row) => drop(rows.insert(row.id, (row.loss.first, row.loss.last))),
                Edit::DropOwed(id) => drop(rows.remove(id)),
                _ => {}
            }
        }
        assert_eq!(rows.into_values().collect::<Vec<_>>(), [(1, 12_000)]);
    }

    #[test]
    fn the_acknowledgement_of_a_gap_that_was_joined_meanwhile_counts_for_its_numbers() {
        let mut state = owing(10_000);
        let count = GAPS_OWED_MAX as u64;
        for n in 1..=count {
            state.declare(CLASS, &loss(n, n, if n % 2 == 0 { "store" } else { "damaged" }));
        }
        let ids: Vec<i64> = state.ledgers[0].gaps.iter().map(|gap| gap.id).collect();
        assert_eq!(ids.len(), GAPS_OWED_MAX);
        state.declare(CLASS, &loss(count + 1, count + 1, "clock"));
        assert_eq!(state.ledgers[0].gaps.len(), 1);
        let acked = |state: &State| state.ledgers[0].cursors[CLASS].as_ref().map(|cursor| cursor.acked.seq);
        for id in ids {
            state.acknowledge(0, Ack::Gap(id));
        }
        assert_eq!((acked(&state), declared(&state)), (Some(count), count + 1), "it is still owed, whole");
        let (epoch, last) = (Epoch(7), Seq(count + 2));
        state.acknowledge(0, Ack::Records { stream: CLASS, epoch, first: last, last });
        let id = state.ledgers[0].gaps[0].id;
        state.acknowledge(0, Ack::Gap(id));
        assert_eq!((acked(&state), declared(&state)), (Some(count + 2), 0));
    }
}
