//! Epochs when a store is opened: which there are, which are over, and where a new one must begin.
//!
//! A stream's newest epoch ends when its tail is shorter than the high-water marks say, or when the store is a copy or
//! has lost its marks: then numbers may have been used that are not here, and a number is never used twice.

use std::collections::HashMap;

use crate::disk::chunk::ChunkInfo;
use crate::disk::directory::Directory;
use crate::disk::marks::{Found, Mark};
use crate::disk::meta::Contents;
use crate::model::number::{Class, PerClass};

use super::cursor::Span;
use super::state::State;
use super::stream::{Life, Loss, Stream};
use super::times::Neighbours;

/// The epochs that `meta.db` knows.
pub(super) fn take(state: &mut State, known: &Contents) {
    for row in &known.epochs {
        if let Some(class) = Class::from_code(row.class) {
            let (ordinal, epoch, previous) = (row.ordinal, row.epoch, row.previous);
            let life = Life { ordinal, epoch, previous, last: row.last, evicted: row.evicted };
            state.stream_mut(class).epochs.push(life);
        }
    }
}

/// Epochs of which nothing is left but their name: in the marks, or (when `meta.db` is new) in the chunk of the next
/// one. Whether everybody had their records is not known any more, so they are declared.
pub(super) fn recall(state: &mut State, found: &Found, rebuilt: bool) {
    for class in Class::ALL {
        let stream = state.stream_mut(class);
        let oldest = stream.epochs.first().and_then(|life| life.previous).filter(|_| rebuilt);
        if let Some((epoch, Some(last))) = oldest {
            for life in &mut stream.epochs {
                life.ordinal += 1;
            }
            for held in &mut stream.chunks {
                held.span.ordinal += 1;
            }
            stream.epochs.insert(0, Life { ordinal: 1, epoch, previous: None, last, evicted: 0 });
        }
        let marked = mark(found, class).filter(|mark| mark.epoch != 0 && stream.ordinal_of(mark.epoch).is_none());
        if let Some(mark) = marked {
            let previous = stream.newest().map(|life| (life.epoch, Some(life.last)));
            let ordinal = stream.end().ordinal + 1;
            stream.epochs.push(Life { ordinal, epoch: mark.epoch, previous, last: mark.last, evicted: 0 });
        }
    }
}

/// The last number of each stream's newest epoch that chunks, losses or evictions prove.
fn tails(state: &State) -> PerClass<u64> {
    PerClass::of(|class| {
        let stream = state.stream(class);
        let Some(life) = stream.newest() else { return 0 };
        let chunks = stream.chunks.iter().map(|held| held.span);
        let losses = stream.losses.iter().map(|loss| loss.span);
        let spans = chunks.chain(losses).filter(|span| span.ordinal == life.ordinal);
        spans.map(|span| span.last).max().unwrap_or(0).max(life.evicted)
    })
}

/// Numbers at the ends of streams that were used and have no record.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// They were committed: what they were written to is damaged.
    pub(super) damaged: Vec<(Class, Span)>,
    /// The last stop could not commit them, and said so.
    pub(super) given_up: Vec<(Class, Span)>,
}

/// Compares each tail with the high-water marks and draws new epochs where that is due. What is returned is lost.
pub(super) fn begin(state: &mut State, found: &Found, known: &Contents) -> Missing {
    let (mut missing, tails) = (Missing::default(), tails(state));
    for class in Class::ALL {
        let tail = tails[class];
        let stream = state.stream_mut(class);
        let Some(life) = stream.epochs.last_mut() else {
            start(stream, None);
            continue;
        };
        let (epoch, ordinal) = (life.epoch, life.ordinal);
        let saved = mark(found, class).filter(|mark| mark.epoch == epoch).unwrap_or_default();
        let acked = known.cursors.iter().filter(|row| row.class == class as u8 && row.epoch == epoch);
        let high = acked.map(|row| row.acked).chain([saved.last, life.last, tail]).max().unwrap_or(0);
        life.last = high;
        if high > tail {
            // A group of which nobody knew whether it had been committed counts as given up, and may be there all the same.
            let given_up = if saved.last == high { saved.given_up } else { 0 };
            let committed = high.saturating_sub(given_up).max(tail);
            if committed > tail {
                tracing::error!(class = %class, tail, committed, "committed records are missing at the end of a stream");
            }
            if !stream.salvaging {
                let span = |first, last| (first <= last).then_some((class, Span { ordinal, first, last }));
                missing.damaged.extend(span(tail + 1, committed));
                missing.given_up.extend(span(committed + 1, high));
            }
            start(stream, Some((epoch, Some(high))));
        } else if high > 0 && !matches!(found, Found::Marks(_)) {
            tracing::warn!(class = %class, "the store is a copy or lost its marks; a new epoch begins");
            start(stream, Some((epoch, None)));
        }
    }
    missing
}

/// Nothing is damaged by that, and the operator was told when the store could not commit.
pub(super) fn declare_given_up(state: &mut State, directory: &Directory, given_up: Vec<(Class, Span)>) {
    for (class, span) in given_up {
        let Span { first, last, .. } = span;
        tracing::warn!(class = %class, first, last, "a gap is declared for what the last stop could not commit");
        let (from, to) = Neighbours::of(state.stream(class), span).times(directory);
        state.declare(class, &Loss { span, reason: "store".into(), from, to });
    }
}

/// An epoch that only its chunks know: it goes before the one that names it, else to the end.
pub(super) fn adopt(stream: &mut Stream, info: &ChunkInfo, last: u64) -> i64 {
    let successor = stream.epochs.iter().position(|life| life.previous.is_some_and(|(epoch, _)| epoch == info.epoch));
    let place = successor.unwrap_or(stream.epochs.len());
    let life = Life {
        ordinal: 0,
        epoch: info.epoch,
        previous: info.previous,
        last,
        // What was evicted is not known any more: what is not held is declared.
        evicted: 0,
    };
    stream.epochs.insert(place, life);
    // Ordinals only order; chunks held so far keep pointing at their epoch.
    let mut moved = HashMap::new();
    for (n, life) in stream.epochs.iter_mut().enumerate().skip(place) {
        let ordinal = i64::try_from(n).unwrap_or(i64::MAX) + 1;
        if n > place {
            moved.insert(life.ordinal, ordinal);
        }
        life.ordinal = ordinal;
    }
    for held in &mut stream.chunks {
        held.span.ordinal = moved.get(&held.span.ordinal).copied().unwrap_or(held.span.ordinal);
    }
    stream.epochs[place].ordinal
}

fn start(stream: &mut Stream, previous: Option<(u64, Option<u64>)>) {
    let ordinal = stream.epochs.last().map_or(1, |life| life.ordinal + 1);
    stream.epochs.push(Life { ordinal, epoch: draw_epoch(), previous, last: 0, evicted: 0 });
}

fn mark(found: &Found, class: Class) -> Option<Mark> {
    match found {
        Found::Marks(marks) | Found::Copied(marks) => Some(marks[class]),
        Found::Nothing => None,
    }
}

/// A random epoch, 1 ..= 2^53 - 1.
fn draw_epoch() -> u64 {
    rand::random_range(1..1 << 53)
}
