//! One stream as the store knows it in memory: its epochs, the chunks that hold it, the numbers that are lost.
//!
//! Pure. Everything here is committed: a number that stands here may be handed out.

use crate::disk::directory::ChunkName;
use crate::disk::meta::{EpochRow, LossRow};
use crate::model::number::{Class, Epoch, Seq};
use crate::model::time::{Boot, Stamp};
use crate::payload::json::Previous;

use super::cursor::{Position, Span};
use super::tail::Unmerged;
use super::times::Times;

/// One epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) ordinal: i64,
    pub(super) epoch: u64,
    pub(super) previous: Option<(u64, Option<u64>)>,
    /// Last number used.
    pub(super) last: u64,
    /// Everything up to here was evicted.
    pub(super) evicted: u64,
}

/// What a chunk holds; inside it there may be holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) name: ChunkName,
    pub(super) span: Span,
    pub(super) times: Times,
}

/// Numbers without records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) span: Span,
    pub(super) reason: String,
    pub(super) from: Option<Stamp>,
    pub(super) to: Option<Stamp>,
}

/// Where a number is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// In this chunk; it has the numbers from the position up to this one.
    In { name: ChunkName, at: Position, upto: u64 },
    /// Nowhere, and nobody has said so yet.
    Hole(Span),
    /// Not written yet, or still being salvaged; ask again from here.
    NotYet(Position),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) class: Class,
    /// In order.
    pub(super) epochs: Vec<Life>,
    /// By position; what is not merged yet is among them, under the name of the tail.
    pub(super) chunks: Vec<Held>,
    /// By position; changed by `tail` only.
    pub(super) tail: Vec<Unmerged>,
    /// By position.
    pub(super) losses: Vec<Loss>,
    /// A damaged chunk is being read: holes may still be filled.
    pub(super) salvaging: bool,
}

impl Stream {
    pub(super) const fn new(class: Class) -> Self {
        Self { class, epochs: Vec::new(), chunks: Vec::new(), tail: Vec::new(), losses: Vec::new(), salvaging: false }
    }

    pub(super) fn life(&self, ordinal: i64) -> Option<&Life> {
        self.epochs.iter().find(|life| life.ordinal == ordinal)
    }

    pub(super) fn life_mut(&mut self, ordinal: i64) -> Option<&mut Life> {
        self.epochs.iter_mut().find(|life| life.ordinal == ordinal)
    }

    pub(super) fn ordinal_of(&self, epoch: u64) -> Option<i64> {
        self.epochs.iter().find(|life| life.epoch == epoch).map(|life| life.ordinal)
    }

    /// The epoch being written.
    pub(super) fn newest(&self) -> Option<&Life> {
        self.epochs.last()
    }

    /// The end of the stream; before everything when there is no epoch yet.
    pub(super) fn end(&self) -> Position {
        self.newest().map_or(Position { ordinal: 0, seq: 0 }, |life| Position { ordinal: life.ordinal, seq: life.last })
    }

    /// Before the oldest number that is still held.
    pub(super) fn start(&self) -> Position {
        let first = self.epochs.first();
        first.map_or(Position { ordinal: 0, seq: 0 }, |life| Position { ordinal: life.ordinal, seq: life.evicted })
    }

    /// For [`super::cursor::Cursor::advance`].
    pub(super) fn ended(&self, ordinal: i64) -> Option<(u64, i64)> {
        let place = self.epochs.iter().position(|life| life.ordinal >= ordinal)?;
        if self.epochs[place].ordinal > ordinal {
            return Some((0, self.epochs[place].ordinal)); // long forgotten
        }
        self.epochs.get(place + 1).map(|next| (self.epochs[place].last, next.ordinal))
    }

    /// Finds the number at `at`, or the next one there is.
    pub(super) fn find(&self, mut at: Position) -> Found {
        loop {
            let Some(life) = self.life(at.ordinal) else {
                match self.epochs.iter().find(|life| life.ordinal > at.ordinal) {
                    Some(life) => at = Position { ordinal: life.ordinal, seq: 1 },
                    None => return Found::NotYet(at),
                }
                continue;
            };
            if at.seq > life.last {
                let Some((_, ordinal)) = self.ended(at.ordinal) else { return Found::NotYet(at) };
                at = Position { ordinal, seq: 1 };
            } else if at.seq <= life.evicted {
                at.seq = life.evicted + 1;
            } else if let Some(held) = self.chunks.iter().rev().find(|held| held.span.has(at)) {
                let missing = self.losses.iter().map(|loss| loss.span).find(|span| span.has(at));
                match missing {
                    Some(span) => at.seq = span.last + 1,
                    None => {
                        let next = self.losses.iter().map(|loss| loss.span).filter(|span| span.ordinal == at.ordinal);
                        let before = next.map(|span| span.first).filter(|first| *first > at.seq).min();
                        let upto = before.map_or(held.span.last, |first| held.span.last.min(first - 1));
                        return Found::In { name: held.name, at, upto };
                    }
                }
            } else if let Some(loss) = self.losses.iter().find(|loss| loss.span.has(at)) {
                at.seq = loss.span.last + 1;
            } else if self.salvaging {
                return Found::NotYet(at);
            } else {
                return Found::Hole(self.hole(at, life.last));
            }
        }
    }

    /// About when the number at this place, or the next one there is, was taken.
    pub(super) fn taken_at(&self, at: Position) -> Option<Stamp> {
        let Found::In { name, at, .. } = self.find(at) else { return None };
        let Held { span, times, .. } = self.chunks.iter().find(|held| held.name == name)?;
        if times.first.boot != times.last.boot {
            return Some(times.first);
        }
        let (all, mine) = (i128::from(span.len()), i128::from(at.seq.saturating_sub(span.first)));
        let took = i128::from(times.last.micros - times.first.micros) * mine / all.max(1);
        Some(Stamp { micros: times.first.micros + i64::try_from(took).unwrap_or(0), ..times.first })
    }

    fn hole(&self, at: Position, last: u64) -> Span {
        let chunks = self.chunks.iter().map(|held| held.span);
        let known = chunks.chain(self.losses.iter().map(|loss| loss.span));
        let next = known.filter(|span| span.ordinal == at.ordinal && span.first > at.seq).map(|span| span.first).min();
        Span { ordinal: at.ordinal, first: at.seq, last: next.map_or(last, |next| next - 1) }
    }

    /// All numbers between chunks that nobody has declared.
    pub(super) fn holes(&self) -> Vec<Span> {
        let mut holes = Vec::new();
        for life in &self.epochs {
            let mut left = vec![Span { ordinal: life.ordinal, first: life.evicted + 1, last: life.last }];
            left.retain(|span| span.len() > 0);
            let chunks = self.chunks.iter().map(|held| held.span);
            for known in chunks.chain(self.losses.iter().map(|loss| loss.span)) {
                left = known.take_out_of(left);
            }
            holes.extend(left);
        }
        holes
    }

    /// Adds a chunk that lies on the disk: its numbers were not evicted, whatever `meta.db` says of its epoch. A number there
    /// that is wrong must not pass over records; a chunk whose eviction a crash cut short is evicted once more.
    pub(super) fn found(&mut self, held: Held) {
        let Span { ordinal, first, .. } = held.span;
        let class = self.class;
        if let Some(life) = self.life_mut(ordinal).filter(|life| life.evicted >= first) {
            tracing::warn!(class = %class, first, evicted = life.evicted, "what counts as evicted is there");
            life.evicted = first.saturating_sub(1);
        }
        self.hold(held);
    }

    /// Adds a chunk, or moves the end of one.
    pub(super) fn hold(&mut self, held: Held) {
        self.chunks.retain(|old| old.name != held.name);
        let place = self.chunks.partition_point(|old| old.span < held.span);
        self.chunks.insert(place, held);
    }

    pub(super) fn epoch_row(&self, life: &Life) -> EpochRow {
        let Life { ordinal, epoch, previous, last, evicted } = *life;
        EpochRow { class: self.class as u8, ordinal, epoch, previous, last, evicted }
    }

    pub(super) fn loss_row(&self, loss: &Loss) -> Option<LossRow> {
        let stamp = |stamp: Stamp| (stamp.boot.0, stamp.micros);
        Some(LossRow {
            class: self.class as u8,
            epoch: self.life(loss.span.ordinal)?.epoch,
            first: loss.span.first,
            last: loss.span.last,
            reason: loss.reason.clone(),
            from: loss.from.map(stamp),
            to: loss.to.map(stamp),
        })
    }

    /// Reads a loss back; `None` when its epoch is forgotten.
    pub(super) fn loss_from(&self, row: &LossRow) -> Option<Loss> {
        let stamp = |(boot, micros): (u32, i64)| Stamp { boot: Boot(boot), micros };
        let ordinal = self.ordinal_of(row.epoch)?;
        let span = Span { ordinal, first: row.first, last: row.last };
        let valid = row.first >= 1 && row.last >= row.first;
        valid.then(|| Loss { span, reason: row.reason.clone(), from: row.from.map(stamp), to: row.to.map(stamp) })
    }
}

impl Life {
    /// What the first record of this epoch names.
    pub(super) fn previous(&self) -> Option<Previous> {
        self.previous.map(|(epoch, seq)| Previous { epoch: Epoch(epoch), seq: seq.map(Seq) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_neither_a_chunk_nor_a_loss_explains_is_a_hole_unless_it_may_still_be_salvaged() {
        let mut stream = Stream::new(Class::Bulk);
        let life = |ordinal, last| Life { ordinal, epoch: 70, previous: None, last, evicted: 4 };
        stream.epochs = vec![life(1, 40), life(2, 9)];
        let span = |first, last| Span { ordinal: 1, first, last };
        for (number, first, last) in [(1, 5, 10), (2, 21, 30)] {
            let (name, now) = (ChunkName { class: Class::Bulk, number }, Stamp { boot: Boot(1), micros: 0 });
            stream.hold(Held { name, span: span(first, last), times: Times { first: now, last: now } });
        }
        stream.losses.push(Loss { span: span(25, 26), reason: "store".into(), from: None, to: None });
        let at = |seq| Position { ordinal: 1, seq };
        let found = |stream: &Stream, seq| stream.find(at(seq));
        let name = |number| ChunkName { class: Class::Bulk, number };
        assert_eq!(found(&stream, 1), Found::In { name: name(1), at: at(5), upto: 10 });
        assert_eq!(found(&stream, 11), Found::Hole(span(11, 20)));
        assert_eq!(found(&stream, 22), Found::In { name: name(2), at: at(22), upto: 24 });
        assert_eq!(found(&stream, 25), Found::In { name: name(2), at: at(27), upto: 30 });
        assert_eq!(found(&stream, 31), Found::Hole(span(31, 40)));
        assert_eq!(stream.holes().len(), 3, "two in the first epoch, one in the second");
        stream.salvaging = true;
        assert_eq!(found(&stream, 11), Found::NotYet(at(11)));
        assert_eq!(stream.find(Position { ordinal: 2, seq: 10 }), Found::NotYet(Position { ordinal: 2, seq: 10 }));
    }
}
