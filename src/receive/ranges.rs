//! A set of numbers as disjoint ranges: small as long as few are missing, which is the point of it.

use std::collections::BTreeMap;

/// Ranges that are kept apart; beyond that the oldest hole is closed and its size reported, so that memory stays bounded.
const RANGES_MAX: usize = 65_536;

/// Disjoint, not adjacent, inclusive ranges.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ranges {
    by_start: BTreeMap<u64, u64>,
}

impl Ranges {
    pub(super) fn contains(&self, number: u64) -> bool {
        self.by_start.range(..=number).next_back().is_some_and(|(_, end)| *end >= number)
    }

    /// How many ranges there are.
    pub(super) fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Adds `first..=last`; the size of a hole that had to be forgotten, else 0. Without `may_grow` the number of ranges
    /// stays what it is.
    pub(super) fn insert(&mut self, first: u64, last: u64, may_grow: bool) -> u64 {
        let (mut first, mut last) = (first, last);
        if first > last {
            return 0;
        }
        let limit = if may_grow { RANGES_MAX } else { self.by_start.len().max(1) };
        // every range that touches or overlaps is taken out and merged
        while let Some((&start, &end)) =
            self.by_start.range(..=last.saturating_add(1)).next_back().filter(|(_, end)| end.saturating_add(1) >= first)
        {
            self.by_start.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.by_start.insert(first, last);
        if self.by_start.len() <= limit {
            return 0;
        }
        let lowest = self.by_start.pop_first();
        match (lowest, self.by_start.pop_first()) {
            (Some((start, end)), Some((next, next_end))) => {
                self.by_start.insert(start, next_end);
                next - end - 1
            }
            _ => 0,
        }
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.by_start.first_key_value().map(|(first, _)| *first)
    }

    pub(super) fn last(&self) -> Option<u64> {
        self.by_start.last_key_value().map(|(_, last)| *last)
    }

    /// Holes within `from..=upto`.
    pub(super) fn holes(&self, from: u64, upto: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut next = from;
        let ends = std::iter::once((upto.saturating_add(1), upto.saturating_add(1)));
        self.by_start.iter().map(|(first, last)| (*first, *last)).chain(ends).filter_map(move |(first, last)| {
            let (first, last) = (first.min(upto.saturating_add(1)), last);
            let hole = (first > next).then(|| (next, first - 1));
            next = next.max(last.saturating_add(1));
            hole
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn behaves_like_a_plain_set() {
        for seed in 0..200 {
            let mut dice = StdRng::seed_from_u64(seed);
            let (mut ranges, mut model) = (Ranges::default(), std::collections::BTreeSet::new());
            for _ in 0..60 {
                let first = dice.random_range(1..100_u64);
                let last = first + dice.random_range(0..6);
                assert_eq!(ranges.insert(first, last, true), 0);
                model.extend(first..=last);
                for number in 0..110 {
                    assert_eq!(ranges.contains(number), model.contains(&number), "seed {seed}, number {number}");
                }
                let (from, upto) = (dice.random_range(1..40), dice.random_range(40..110));
                let holes: Vec<u64> = ranges.holes(from, upto).flat_map(|(first, last)| first..=last).collect();
                let expected: Vec<u64> = (from..=upto).filter(|number| !model.contains(number)).collect();
                assert_eq!(holes, expected, "seed {seed}, {from}..={upto}");
                assert_eq!((ranges.first(), ranges.last()), (model.first().copied(), model.last().copied()));
            }
        }
    }

    #[test]
    fn memory_stays_bounded_and_a_forgotten_hole_is_reported() {
        let mut ranges = Ranges::default();
        let forgotten: u64 = (0..RANGES_MAX as u64 + 3).map(|n| ranges.insert(n * 10, n * 10, true)).sum();
        assert_eq!(forgotten, 3 * 9);
        assert_eq!(ranges.by_start.len(), RANGES_MAX);
    }
}
