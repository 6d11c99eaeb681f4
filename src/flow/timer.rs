//! A timer that is right to fractions of a millisecond, for lines on which a millisecond counts.
//!
//! The runtime's own timers go by milliseconds and end late rather than early. This is the kernel's (`timerfd`), watched by
//! the same reactor: no thread, no spinning. It goes by the real monotonic clock, whatever time the runtime keeps.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// One timer.
#[derive(Debug)]
pub struct Timer {
    timer: AsyncFd<OwnedFd>,
}

impl Timer {
    /// Must be called within a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { timer: watch(timer)? })
    }

    /// Waits until this moment; not at all for one that has passed, or when the kernel refuses. Cancel-safe.
    pub async fn at(&mut self, moment: Instant) {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() || self.set(left).is_err() {
            return;
        }
        loop {
            let Ok(mut ready) = self.timer.readable().await else { return };
            // What an earlier, cancelled wait left behind is over once the moment is.
            if Instant::now() >= moment {
                let mut times = [0; 8];
                let _ = rustix::io::read(self.timer.get_ref(), &mut times); // how often it went off: once
                ready.clear_ready();
                return;
            }
            ready.clear_ready();
        }
    }

    fn set(&self, left: Duration) -> io::Result<()> {
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        let spec = Itimerspec { it_interval: never, it_value: once };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }
}

#[expect(
    deprecated,
    reason = "its successor is `unsafe` for types that may close their descriptor early; an OwnedFd cannot"
)]
fn watch(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_never_goes_off_early_and_can_be_set_again_after_a_wait_was_dropped() {
        let mut timer = Timer::new().expect("the kernel has such timers");
        for micros in [0, 1, 300, 1750, 5000] {
            let moment = Instant::now() + Duration::from_micros(micros);
            timer.at(moment).await;
            assert!(Instant::now() >= moment);
        }
        let soon = Instant::now() + Duration::from_millis(1);
        let dropped = tokio::time::timeout(Duration::ZERO, timer.at(soon)).await;
        assert!(dropped.is_err() || Instant::now() >= soon);
        let later = Instant::now() + Duration::from_millis(4);
        timer.at(later).await;
        assert!(Instant::now() >= later);
    }
}
