//! How fast a road is driven: a bucket of wire bytes in front of the kernel.
//!
//! Pure, but for the lock that its two users share: the owner sets the rate while bytes flow, the connection asks before
//! each write. A write is allowed while the bucket is not in debt and is paid for afterwards, headers included; what the
//! kernel then proves to have sent more (repetitions, acknowledgements) is charged as well, so that the rate holds on the
//! wire.

use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::lock::Hold as _;

/// A write lasts about this long at the rate, so that what is urgent waits no longer behind it.
const WRITE_LASTS: Duration = Duration::from_millis(100);
/// But is no smaller than a full segment.
const WRITE_MIN: u64 = 1448;
/// Nor larger than a TLS record, unless timers of a millisecond would be too coarse for the rate.
const WRITE_MAX: u64 = 16 << 10;
/// How long a fast rate may be driven from one write.
const TICK: Duration = Duration::from_millis(20);

/// Sets the rate of a road while it is driven; clones set the same one.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    bucket: Option<Bucket>,
    waiting: Option<Waker>,
}

impl Pace {
    /// Wire bytes per second from now on, 128 at least; `None`: as fast as the link goes.
    pub fn set(&self, rate: Option<u64>) {
        let mut shared = self.lock();
        let same = shared.bucket.as_ref().map(|bucket| bucket.rate) == rate;
        if same {
            return;
        }
        let now = Instant::now();
        shared.bucket = rate.map(|rate| Bucket::new(rate, now, shared.bucket.as_ref().map_or(0, |old| old.debt(now))));
        if let Some(waker) = shared.waiting.take() {
            waker.wake();
        }
    }

    /// The rate that is set.
    pub fn rate(&self) -> Option<u64> {
        self.lock().bucket.as_ref().map(|bucket| bucket.rate)
    }

    /// How many bytes may be written now, or from when on.
    pub(super) fn allow(&self, now: Instant, waker: &Waker) -> Result<usize, Instant> {
        let mut shared = self.lock();
        let allowed = shared.bucket.as_mut().map_or(Ok(usize::MAX), |bucket| bucket.allow(now));
        shared.waiting = allowed.is_err().then(|| waker.clone());
        allowed
    }

    /// So many wire bytes were sent.
    pub(super) fn spend(&self, bytes: u64) {
        if let Some(bucket) = self.lock().bucket.as_mut() {
            bucket.spend(bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.hold()
    }
}

/// Nanoseconds of the link's time instead of bytes: no rounding, at any rate.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    /// When everything that was sent is paid for.
    paid_at: Instant,
}

impl Bucket {
    fn new(rate: u64, now: Instant, debt: u64) -> Self {
        let mut bucket = Self { rate: rate.max(128), paid_at: now };
        bucket.spend(debt);
        bucket
    }

    /// Bytes of one write.
    fn write(&self) -> u64 {
        let in_time =
            |time: Duration| u64::try_from(u128::from(self.rate) * time.as_millis() / 1000).unwrap_or(u64::MAX);
        in_time(WRITE_LASTS).clamp(WRITE_MIN, WRITE_MAX).max(in_time(TICK))
    }

    fn allow(&mut self, now: Instant) -> Result<usize, Instant> {
        if self.paid_at > now {
            return Err(self.paid_at);
        }
        // What was not used is lost, but for a tick: the timer that woke us may have been late.
        self.paid_at = self.paid_at.max(now.checked_sub(TICK).unwrap_or(now));
        Ok(usize::try_from(self.write()).unwrap_or(usize::MAX))
    }

    fn spend(&mut self, bytes: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        self.paid_at += Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    }

    /// Bytes that are not paid for yet.
    fn debt(&self, now: Instant) -> u64 {
        let nanos = self.paid_at.saturating_duration_since(now).as_nanos() * u128::from(self.rate);
        u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that a greedy writer sends in so many seconds.
    fn sent(rate: u64, seconds: u64) -> u64 {
        let begin = Instant::now();
        let (mut bucket, mut now, mut sent) = (Bucket::new(rate, begin, 0), begin, 0);
        while now < begin + Duration::from_secs(seconds) {
            match bucket.allow(now) {
                Ok(bytes) => {
                    bucket.spend(bytes as u64);
                    sent += bytes as u64;
                }
                Err(at) => now = at,
            }
        }
        sent
    }

    #[test]
    fn every_rate_is_kept_over_a_minute_to_within_one_write() {
        for rate in [128, 1024, 32 << 10, 1 << 20, 1 << 30] {
            let (sent, due) = (sent(rate, 60), rate * 60);
            let write = Bucket::new(rate, Instant::now(), 0).write();
            assert!(sent >= due - due / 100 && sent <= due + due / 100 + write, "{sent} of {due}");
        }
    }

    #[test]
    fn a_pause_earns_no_burst() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(32 << 10, begin, 0);
        let later = begin + Duration::from_secs(3600);
        let mut burst = 0;
        while let Ok(bytes) = bucket.allow(later) {
            bucket.spend(bytes as u64);
            burst += bytes;
        }
        assert!(burst <= 8 << 10, "{burst}");
    }

    #[test]
    fn a_new_rate_counts_at_once_and_takes_the_debt_along() {
        let pace = Pace::default();
        let (now, waker) = (Instant::now(), Waker::noop());
        assert_eq!(pace.allow(now, waker), Ok(usize::MAX));
        pace.set(Some(1000));
        assert_eq!(pace.rate(), Some(1000));
        pace.spend(10_000);
        let wait = pace.allow(now, waker).expect_err("in debt") - now;
        assert!(wait > Duration::from_secs(9), "{wait:?}");
        pace.set(Some(10_000));
        let wait = pace.allow(now, waker).expect_err("in debt") - now;
        assert!(wait > Duration::from_millis(900) && wait < Duration::from_millis(1100), "{wait:?}");
        pace.set(None);
        assert_eq!(pace.allow(now, waker), Ok(usize::MAX));
    }
}
