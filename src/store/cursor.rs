//! Where one uplink stands in one stream: everything up to `acked`, and acknowledged ranges above it.
//!
//! Pure. Acknowledgements may come out of order; `acked` moves over contiguous numbers only.

use crate::model::number::Class;

/// Ranges that are saved; more are forgotten at a crash (their records then go out twice).
pub(super) const RANGES_SAVED_MAX: usize = 64;
/// Ranges held at all; a window is far smaller than this.
const RANGES_MAX: usize = 8192;

/// A place in a stream: the epoch by its order, and a seq in it (0 = before the first).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) ordinal: i64,
    pub(super) seq: u64,
}

impl Position {
    /// The number after this one, in the same epoch.
    pub(super) const fn next(self) -> Self {
        Self { ordinal: self.ordinal, seq: self.seq + 1 }
    }
}

/// How far the streams had come at some moment, those that an uplink is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends(pub(super) Vec<(Class, Position)>);

/// Seqs `first..=last` of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) ordinal: i64,
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Span {
    pub(super) const fn len(self) -> u64 {
        (self.last + 1).saturating_sub(self.first)
    }

    pub(super) const fn has(self, at: Position) -> bool {
        self.ordinal == at.ordinal && self.first <= at.seq && at.seq <= self.last
    }

    /// What is left of `spans` when this one is taken out.
    pub(super) fn take_out_of(self, spans: Vec<Self>) -> Vec<Self> {
        let mut left = Vec::with_capacity(spans.len() + 1);
        for span in spans {
            if span.ordinal != self.ordinal || span.last < self.first || span.first > self.last {
                left.push(span);
                continue;
            }
            if span.first < self.first {
                left.push(Self { last: self.first - 1, ..span });
            }
            if span.last > self.last {
                left.push(Self { first: self.last + 1, ..span });
            }
        }
        left
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) acked: Position,
    /// Sorted, neither overlapping nor touching, all above `acked`.
    ranges: Vec<Span>,
}

impl Cursor {
    pub(super) const fn at(acked: Position) -> Self {
        Self { acked, ranges: Vec::new() }
    }

    pub(super) fn ranges(&self) -> &[Span] {
        &self.ranges
    }

    /// Is this number acknowledged?
    pub(super) fn has(&self, at: Position) -> bool {
        at <= self.acked || self.ranges.iter().any(|range| range.has(at))
    }

    /// The ranges that are saved, in order: where there are too many, those that would cost most to send again.
    pub(super) fn ranges_to_save(&self) -> Vec<Span> {
        let mut ranges = self.ranges.clone();
        if ranges.len() > RANGES_SAVED_MAX {
            ranges.sort_unstable_by_key(|range| std::cmp::Reverse(range.len()));
            ranges.truncate(RANGES_SAVED_MAX);
            ranges.sort_unstable();
        }
        ranges
    }

    /// This place, or the one behind what is acknowledged there.
    pub(super) fn after_acknowledged(&self, at: Position) -> Position {
        let at = at.max(self.acked.next());
        let range = self.ranges.iter().find(|range| range.has(at));
        range.map_or(at, |range| Position { seq: range.last + 1, ..at })
    }

    /// `upto`, or the last number before the next range.
    pub(super) fn before_acknowledged(&self, at: Position, upto: u64) -> u64 {
        let ahead = self.ranges.iter().filter(|range| range.ordinal == at.ordinal && range.first > at.seq);
        ahead.map(|range| range.first - 1).min().map_or(upto, |before| upto.min(before))
    }

    /// Acknowledges a span; true when that changed anything.
    pub(super) fn mark(&mut self, mut span: Span) -> bool {
        if span.ordinal < self.acked.ordinal {
            return false;
        }
        if span.ordinal == self.acked.ordinal {
            span.first = span.first.max(self.acked.seq + 1);
        }
        if span.len() == 0
            || self
                .ranges
                .iter()
                .any(|range| range.ordinal == span.ordinal && range.first <= span.first && span.last <= range.last)
        {
            return false;
        }
        let touches = |range: &Span| {
            range.ordinal == span.ordinal && range.first <= span.last + 1 && span.first <= range.last + 1
        };
        let mut merged = span;
        for range in self.ranges.iter().filter(|range| touches(range)) {
            merged.first = merged.first.min(range.first);
            merged.last = merged.last.max(range.last);
        }
        self.ranges.retain(|range| !touches(range));
        if self.ranges.len() >= RANGES_MAX {
            return false;
        }
        let place = self.ranges.partition_point(|range| *range < merged);
        self.ranges.insert(place, merged);
        true
    }

    /// Moves `acked` on. `ended` gives the last seq of an epoch that has a successor, and that successor's ordinal.
    pub(super) fn advance(&mut self, ended: impl Fn(i64) -> Option<(u64, i64)>) {
        loop {
            let next = Position { seq: self.acked.seq + 1, ..self.acked };
            if let Some(range) = self.ranges.first()
                && range.ordinal == next.ordinal
                && range.first <= next.seq
            {
                self.acked.seq = range.last.max(self.acked.seq);
                self.ranges.remove(0);
            } else if let Some((last, successor)) = ended(self.acked.ordinal)
                && self.acked.seq >= last
            {
                self.acked = Position { ordinal: successor, seq: 0 };
            } else {
                return;
            }
        }
    }

    /// What of a span is not acknowledged.
    pub(super) fn missing_of(&self, span: Span) -> Vec<Span> {
        if span.ordinal < self.acked.ordinal {
            return Vec::new();
        }
        let mut missing = vec![span];
        if span.ordinal == self.acked.ordinal {
            missing = Span { first: 0, last: self.acked.seq, ..span }.take_out_of(missing);
        }
        self.ranges.iter().fold(missing, |missing, range| range.take_out_of(missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn span(ordinal: i64, first: u64, last: u64) -> Span {
        Span { ordinal, first, last }
    }

    #[test]
    fn the_cursor_crosses_an_epoch_only_when_all_of_it_is_acknowledged() {
        let ended = |ordinal| (ordinal == 1).then_some((5, 2));
        let mut cursor = Cursor::at(Position { ordinal: 1, seq: 3 });
        assert!(cursor.mark(span(2, 1, 4)));
        cursor.advance(ended);
        assert_eq!(cursor.acked, Position { ordinal: 1, seq: 3 });
        assert!(cursor.mark(span(1, 5, 5)) && cursor.mark(span(1, 4, 4)));
        cursor.advance(ended);
        assert_eq!((cursor.acked, cursor.ranges()), (Position { ordinal: 2, seq: 4 }, &[][..]));
        assert!(!cursor.mark(span(1, 4, 4)), "late and twice");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_cursor_agrees_with_a_plain_set(marks in prop::collection::vec((1u64..60, 0u64..5), 0..80)) {
            let mut set = std::collections::BTreeSet::new();
            let mut cursor = Cursor::at(Position { ordinal: 0, seq: 0 });
            for (first, more) in marks {
                let new = (first..=first + more).filter(|seq| set.insert(*seq)).count() > 0;
                prop_assert_eq!(cursor.mark(span(0, first, first + more)), new);
                cursor.advance(|_| None);
                for seq in 1..70 {
                    prop_assert_eq!(cursor.has(Position { ordinal: 0, seq }), set.contains(&seq));
                }
                let missing: Vec<u64> = cursor.missing_of(span(0, 1, 69)).iter().flat_map(|s| s.first..=s.last).collect();
                let expected: Vec<u64> = (1..70).filter(|seq| !set.contains(seq)).collect();
                prop_assert_eq!(missing, expected);
            }
        }
    }
}
