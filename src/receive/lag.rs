//! How late records come: now minus the time of the newest sample, and how the delays of all new records are spread.
//!
//! Delays are counted in buckets an eighth of an octave wide, so percentiles are right to 12.5 %. Bucket n: n ms below 16;
//! above, 16 + 8 × (octaves above 16 ms) + eighths of the octave. What comes from the future (clocks differ) counts as 0.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::number::{Class, Epoch};

/// Epochs whose delays are kept; others go uncounted.
const EPOCHS_MAX: usize = 50_000;

/// The bucket of a delay.
pub fn bucket(delay_ms: i64) -> u32 {
    let ms = u64::try_from(delay_ms).unwrap_or(0);
    if ms < 16 {
        return u32::try_from(ms).unwrap_or(0);
    }
    let octave = ms.ilog2();
    let eighth = u32::try_from(ms >> (octave - 3) & 7).unwrap_or(0);
    16 + (octave - 4) * 8 + eighth
}

/// The lowest delay of a bucket, ms.
pub fn lowest_ms(bucket: u32) -> u64 {
    if bucket < 16 {
        return u64::from(bucket);
    }
    let (octave, eighth) = ((bucket - 16) / 8 + 4, (bucket - 16) % 8);
    if octave > 62 { u64::MAX } else { (8 + u64::from(eighth)) << (octave - 3) }
}

/// Of one epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delays {
    latest_ms: Option<i64>,
    counts: BTreeMap<u32, u64>,
}

impl Delays {
    /// What a database has kept.
    pub fn from_kept(latest_ms: Option<i64>, counts: impl IntoIterator<Item = (u32, u64)>) -> Self {
        Self { latest_ms, counts: counts.into_iter().collect() }
    }

    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.latest_ms = self.latest_ms.max(other.latest_ms);
        for (bucket, count) in &other.counts {
            *self.counts.entry(*bucket).or_default() += count;
        }
    }

    fn note(&mut self, time_ms: i64, now_ms: i64) {
        self.latest_ms = self.latest_ms.max(Some(time_ms));
        *self.counts.entry(bucket(now_ms.saturating_sub(time_ms))).or_default() += 1;
    }

    /// The delay that this part of all records (0 to 100) does not exceed, to a bucket.
    pub fn percentile_ms(&self, percent: u64) -> Option<u64> {
        let all: u64 = self.counts.values().sum();
        let rank = (all * percent).div_ceil(100).max(1);
        let mut below = 0;
        self.counts.iter().find_map(|(bucket, count)| {
            below += count;
            (below >= rank).then(|| lowest_ms(*bucket))
        })
    }
}

/// Of all epochs.
#[derive(Debug, Default)]
pub struct Lags {
    by_epoch: BTreeMap<(Class, Epoch), Delays>,
}

impl Lags {
    /// A new record of this time came.
    pub fn note(&mut self, of: (Class, Epoch), time_ms: i64, now_ms: i64) {
        if self.by_epoch.len() < EPOCHS_MAX || self.by_epoch.contains_key(&of) {
            self.by_epoch.entry(of).or_default().note(time_ms, now_ms);
        }
    }

    /// What was counted elsewhere.
    pub fn add(&mut self, of: (Class, Epoch), delays: &Delays) {
        if self.by_epoch.len() < EPOCHS_MAX || self.by_epoch.contains_key(&of) {
            self.by_epoch.entry(of).or_default().add(delays);
        }
    }

    /// As seen now.
    pub fn report(&self, now_ms: Option<i64>) -> Vec<LagReport> {
        let of = |((class, epoch), delays): (&(Class, Epoch), &Delays)| LagReport {
            stream: class.as_str(),
            epoch: epoch.0,
            newest_ago_ms: now_ms.zip(delays.latest_ms).map(|(now, latest)| now.saturating_sub(latest)),
            p50_ms: delays.percentile_ms(50),
            p99_ms: delays.percentile_ms(99),
        };
        self.by_epoch.iter().map(of).collect()
    }
}

/// How late one epoch is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LagReport {
    /// The class.
    pub stream: &'static str,
    /// The epoch.
    pub epoch: u64,
    /// Now minus the time of its newest sample; `None` while the time is not known.
    pub newest_ago_ms: Option<i64>,
    /// Half of all records came this late or earlier.
    pub p50_ms: Option<u64>,
    /// 99 of 100 did.
    pub p99_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_an_eighth_wide_and_know_their_lowest_delay() {
        let mut before = None;
        for ms in (0..5000).chain((1..50).map(|n| n * 86_400_000)).chain([i64::MAX]) {
            let bucket = bucket(ms);
            assert!(Some(bucket) >= before, "{ms}");
            before = Some(bucket);
            let lowest = lowest_ms(bucket);
            let ms = ms.unsigned_abs();
            assert!(lowest <= ms && ms - lowest <= lowest / 8, "{ms} is in bucket {bucket} from {lowest}");
        }
        assert_eq!(bucket(-5), 0);
    }

    #[test]
    fn percentiles_are_those_of_a_plain_list_to_a_bucket() {
        let mut lags = Lags::default();
        for delay in 1..=1000 {
            lags.note((Class::Bulk, Epoch(1)), 100_000 - delay, 100_000);
        }
        let report = &lags.report(Some(100_500))[0];
        assert_eq!(report.newest_ago_ms, Some(501));
        assert_eq!((report.p50_ms, report.p99_ms), (Some(480), Some(960)));
    }
}
