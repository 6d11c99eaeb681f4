//! What is counted: plain atomic counters that a room owns and anyone may read.
//!
//! Every loss has a counter (which: "Where pressure goes" in `src/lib.rs`). Counters only grow; a reader works out rates.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// Some more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down, such as a backlog.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// The number now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// One more than it was.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less; whoever says so has said [`Gauge::up`] before.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper ends of the cells of a [`Histogram`], microseconds: 1, 2, 5 to a decade, from what a PLC on a switch takes to what a
/// worn flash card does. What is longer has a cell of its own.
pub const UPPER_ENDS_MICROS: [u64; 14] = [
    1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
    10_000_000, 30_000_000,
];

/// How long something took, counted in cells of fixed width: bounded, without a lock.
#[derive(Debug, Default)]
pub struct Histogram {
    cells: [AtomicU64; UPPER_ENDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

/// What a [`Histogram`] holds at a moment, or several of them together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Times {
    /// By cell; the last one has no upper end.
    pub cells: [u64; UPPER_ENDS_MICROS.len() + 1],
    /// All of them together, microseconds.
    pub sum_micros: u64,
}

impl Histogram {
    /// One more.
    pub fn add(&self, took: Duration) {
        let micros = super::time::micros(took);
        let cell = UPPER_ENDS_MICROS.partition_point(|end| *end < micros);
        self.cells[cell].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What it holds now.
    pub fn times(&self) -> Times {
        let cells = std::array::from_fn(|cell| self.cells[cell].load(Ordering::Relaxed));
        Times { cells, sum_micros: self.sum_micros.load(Ordering::Relaxed) }
    }
}

impl Times {
    /// How many.
    pub fn count(&self) -> u64 {
        self.cells.iter().sum()
    }

    /// Both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let cells = std::array::from_fn(|cell| self.cells[cell] + other.cells[cell]);
        Self { cells, sum_micros: self.sum_micros.saturating_add(other.sum_micros) }
    }

    /// About how long that part of them (percent) took at most, worked out within the cell it lies in; `None` before the
    /// first. What has no upper end counts as twice the last one.
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let wanted = (self.count() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (cell, count) in self.cells.iter().enumerate() {
            if seen + count >= wanted {
                let from = if cell == 0 { 0 } else { UPPER_ENDS_MICROS[cell - 1] };
                let to = UPPER_ENDS_MICROS.get(cell).copied().unwrap_or(from * 2);
                let part = (wanted - seen) as f64 / *count as f64;
                return Some(Duration::from_micros(from) + Duration::from_micros(to - from).mul_f64(part));
            }
            seen += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_cell_and_a_limit_belongs_to_the_cell_it_ends() {
        let histogram = Histogram::default();
        for took in [Duration::ZERO, Duration::from_millis(1), Duration::from_micros(1_001), Duration::from_secs(99)] {
            histogram.add(took);
        }
        let times = histogram.times();
        assert_eq!((times.cells[0], times.cells[1], times.cells[14], times.count()), (2, 1, 1, 4));
        assert_eq!(times.sum_micros, 99_002_001);
        histogram.add(Duration::MAX);
        assert_eq!(histogram.times().count(), 5);
    }

    #[test]
    fn percentiles_are_right_to_the_width_of_a_cell() {
        let histogram = Histogram::default();
        assert_eq!(histogram.times().percentile(50), None);
        (1..=1000).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        for (percent, right) in [(50, 500.0), (99, 990.0), (100, 1000.0)] {
            let found = histogram.times().percentile(percent).expect("some").as_secs_f64() * 1000.0;
            assert!((found / right - 1.0).abs() < 0.02, "{percent}: {found}");
        }
        assert_eq!(histogram.times().and(&histogram.times()).count(), 2000);
    }
}
