//! The timekeeper: compares the wall clock with what is known of it, and hands every fix to the clock and the store.
//!
//! Tells the operator when nobody has vouched for the wall clock for long, because values stay uncertain until then. Where
//! there is nobody to ask the system's clock is taken as it is: that is a line of the log, and stands in `/health`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::flow::clock::{Clock, Fix};
use crate::flow::notice::{Notice, Notices, Phase};
use crate::flow::progress;
use crate::flow::stop::Stop;
use crate::host::clock::{COMPARE_EVERY, News, Watch};
use crate::store::StoreHandle;

/// A look takes a fraction of a second, and a thread for what blocks; where there is none for so long there never will be.
const LOOKED_WITHIN: Duration = Duration::from_secs(120);

/// What is said while there is nobody to ask.
pub(super) const UNVOUCHED: &str = "nobody vouches for the time; the system's clock is taken as it is";

/// Who learns of the time.
pub(super) struct Timekeeper {
    pub(super) clock: Clock,
    pub(super) store: StoreHandle,
    pub(super) notices: Notices,
}

impl Timekeeper {
    /// Watches until stopping begins.
    pub(super) async fn run(self, mut watch: Watch, stop: Stop) {
        let (unvouched, mut was_unvouched) = (watch.unvouched(), false);
        loop {
            let is_unvouched = unvouched.load(Ordering::Relaxed);
            if is_unvouched && !was_unvouched {
                tracing::info!("{UNVOUCHED}");
            }
            was_unvouched = is_unvouched;
            progress::step(LOOKED_WITHIN);
            tokio::select! {
                () = stop.begun() => return,
                () = tokio::time::sleep(COMPARE_EVERY) => {}
            }
            // It may wait for an answer of chronyd.
            let clock = self.clock.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let told = watch.look(&clock);
                (watch, told)
            });
            let Ok((back, told)) = looked.await else { return };
            watch = back;
            self.take(told);
        }
    }

    fn take(&self, told: News) {
        match told {
            News::Nothing => {}
            News::Fix(fix) => self.learn(fix),
            News::Set(fix) => {
                self.learn(fix);
                self.tell(Phase::Cleared, "the wall clock is known; times are right again".to_owned());
            }
            News::Unset(sync) => {
                let detail = format!(
                    "nobody has vouched for the wall clock yet ({sync}): values are uncertain, cause clock, until \
                     somebody does; gateway.time_source says who is asked (\"system\": the clock as it is)"
                );
                tracing::warn!("wall clock is not known");
                self.tell(Phase::Active, detail);
            }
        }
    }

    fn learn(&self, fix: Fix) {
        tracing::info!(unix_ms = fix.unix_ms, "wall clock is known or was stepped");
        self.clock.learn(fix);
        self.store.record_fix(fix);
    }

    fn tell(&self, phase: Phase, detail: String) {
        self.notices.tell(Notice { event: "clock_unset", phase, subject: "clock".to_owned(), detail });
    }
}
