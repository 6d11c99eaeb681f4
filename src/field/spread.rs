//! How long answers took, in a few numbers: a histogram of fixed size. Pure.
//!
//! Four cells per doubling from 64 µs to about 70 s, so a percentile is right to a fifth; the longest is kept exactly.

use std::time::Duration;

use crate::flow::hub::Percentiles;
use crate::model::time::micros;

/// Everything shorter is in the first cell.
const FIRST_MICROS: u64 = 64;
/// Doublings from there.
const DOUBLINGS: usize = 20;
const CELLS_PER_DOUBLING: usize = 4;
const CELLS: usize = DOUBLINGS * CELLS_PER_DOUBLING;
/// After so many all counts are halved: what was a week ago counts less than what is today.
const COUNT_MAX: u32 = 100_000;

/// The answers of one device.
#[derive(Debug, Clone)]
pub struct Spread {
    cells: [u32; CELLS],
    count: u32,
    longest: Duration,
}

impl Default for Spread {
    fn default() -> Self {
        Self { cells: [0; CELLS], count: 0, longest: Duration::ZERO }
    }
}

impl Spread {
    /// One more answer.
    pub fn add(&mut self, took: Duration) {
        if self.count >= COUNT_MAX {
            self.cells.iter_mut().for_each(|cell| *cell /= 2);
            self.count = self.cells.iter().sum();
        }
        self.cells[cell_of(took)] += 1;
        self.count += 1;
        self.longest = self.longest.max(took);
    }

    /// `None` before the first answer.
    pub fn percentiles(&self) -> Option<Percentiles> {
        (self.count > 0).then(|| Percentiles {
            p50: self.at(50),
            p95: self.at(95),
            p99: self.at(99),
            longest: self.longest,
        })
    }

    /// The upper end of the cell in which this part of all answers is reached.
    fn at(&self, percent: u64) -> Duration {
        let wanted = (u64::from(self.count) * percent).div_ceil(100);
        let mut seen = 0;
        for (place, count) in self.cells.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return Duration::from_micros(upper_end(place)).min(self.longest);
            }
        }
        self.longest
    }
}

fn cell_of(took: Duration) -> usize {
    let micros = micros(took);
    let place = (0..CELLS).find(|place| micros < upper_end(*place));
    place.unwrap_or(CELLS - 1)
}

/// In quarters of a doubling, each a fourth of it: 64, 80, 96, 112, 128, 160 …
const fn upper_end(place: usize) -> u64 {
    let doubled = FIRST_MICROS << (place / CELLS_PER_DOUBLING);
    doubled + doubled / CELLS_PER_DOUBLING as u64 * (place % CELLS_PER_DOUBLING + 1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_a_fifth_and_the_longest_exactly() {
        let mut spread = Spread::default();
        assert_eq!(spread.percentiles(), None);
        (1..=1000).for_each(|millis| spread.add(Duration::from_millis(millis)));
        let found = spread.percentiles().expect("answers");
        for (found, right) in [(found.p50, 500.0), (found.p95, 950.0), (found.p99, 990.0)] {
            let ratio = found.as_secs_f64() * 1000.0 / right;
            assert!((0.99..1.25).contains(&ratio), "{found:?} for {right}");
        }
        assert_eq!(found.longest, Duration::from_secs(1));
    }

    #[test]
    fn any_time_has_a_cell_and_old_counts_fade() {
        let mut spread = Spread::default();
        for took in [Duration::ZERO, Duration::MAX] {
            spread.add(took);
        }
        let mut spread = Spread::default();
        (0..COUNT_MAX).for_each(|_| spread.add(Duration::from_millis(1)));
        (0..COUNT_MAX).for_each(|_| spread.add(Duration::from_millis(100)));
        let found = spread.percentiles().expect("answers");
        assert!(found.p50 > Duration::from_millis(90), "{found:?}");
        assert!(spread.count <= COUNT_MAX);
    }
}
