//! When an outage has left a long backlog: a summary is made of it beside the session, and goes before the raw samples.
//!
//! The backlog waits for it, but not for long, and once in an outage: whoever waits for the raw samples gets them whatever becomes
//! of the summary, also where each session is shorter than the reading.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::plan::UplinkPlan;
use crate::flow::clock::Clock;
use crate::model::number::Class;
use crate::store::preview::preview;

use super::summary::Summary;

/// So long the backlog waits for its summary.
const PATIENCE: Duration = Duration::from_secs(60);
/// Reading ends a little earlier, with what was seen until then.
const READING_MAX: Duration = Duration::from_secs(50);
/// What the clock is asked after.
const LOOK_EVERY: u64 = 65_536;
/// What is summarised; alarms and events are not many, and each of them counts.
const CLASSES: [Class; 2] = [HELD_FROM, Class::Bulk];
/// The most urgent class that waits for the summary.
pub(super) const HELD_FROM: Class = Class::Telemetry;

/// Where one uplink stands.
#[derive(Debug)]
pub(super) struct Outage {
    after: Option<Duration>,
    uplink: String,
    classes: Vec<Class>,
    stands: Stands,
}

#[derive(Debug)]
enum Stands {
    /// There is no long backlog.
    Current,
    /// The backlog is being read.
    Reading { made: oneshot::Receiver<Vec<Vec<u8>>>, give_up_at: Instant },
    /// Parts wait to be sent.
    Telling(VecDeque<Vec<u8>>),
    /// It was told of, or cannot be: until the backlog is gone there is no other attempt.
    Told,
}

impl Outage {
    pub(super) fn new(plan: &UplinkPlan) -> Self {
        let classes = CLASSES.into_iter().filter(|class| plan.classes.contains(class)).collect();
        Self { after: plan.summary_after, uplink: plan.name.clone(), classes, stands: Stands::Current }
    }

    /// A session stands, and the oldest record that is owed is so old: begins a summary if that is long, and forgets the
    /// last one once the backlog is gone. Of classes that the path does not carry nothing is told on it.
    pub(super) fn look(&mut self, age: Duration, carried: &[Class], store: Option<PathBuf>, clock: &Clock) {
        let Some(after) = self.after else { return };
        match self.stands {
            Stands::Current if age >= after => {}
            Stands::Told if age < after / 2 => return self.stands = Stands::Current,
            _ => return,
        }
        let classes: Vec<Class> = self.classes.iter().copied().filter(|class| carried.contains(class)).collect();
        if classes.is_empty() {
            return;
        }
        let Some(dir) = store else { return self.stands = Stands::Told };
        let (made, received) = oneshot::channel();
        let (uplink, clock) = (self.uplink.clone(), clock.clone());
        tokio::task::spawn_blocking(move || {
            let summary = read(&dir, &uplink, &classes, &clock, &|| made.is_closed());
            drop(made.send(summary)); // the session may be over
        });
        self.stands = Stands::Reading { made: received, give_up_at: Instant::now() + PATIENCE };
    }

    /// Does the backlog wait?
    pub(super) const fn holds_backlog(&self) -> bool {
        matches!(self.stands, Stands::Reading { .. } | Stands::Telling(_))
    }

    /// Resolves when there is something to send, or nothing any more to wait for; never else. Cancel-safe.
    pub(super) async fn ready(&mut self) {
        let Stands::Reading { made, give_up_at } = &mut self.stands else { return std::future::pending().await };
        let parts = match tokio::time::timeout_at(*give_up_at, made).await {
            Ok(Ok(parts)) => parts,
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        self.stands = if parts.is_empty() { Stands::Told } else { Stands::Telling(parts.into()) };
    }

    /// The next part.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let Stands::Telling(parts) = &mut self.stands else { return None };
        let part = parts.pop_front();
        if parts.is_empty() {
            self.stands = Stands::Told;
        }
        part
    }

    /// What is left of it is not sent: the raw samples follow anyway.
    pub(super) fn drop_rest(&mut self) {
        self.stands = Stands::Told;
    }

    /// The link is gone again: what was not sent is out of date. A second attempt would hold up the backlog as long as the
    /// first, and on a link that comes and goes for ever.
    pub(super) fn interrupted(&mut self) {
        if self.holds_backlog() {
            self.stands = Stands::Told;
        }
    }
}

/// Reads the backlog until its end, until it took too long, or until nobody waits for it any more.
fn read(dir: &Path, uplink: &str, classes: &[Class], clock: &Clock, is_unwanted: &dyn Fn() -> bool) -> Vec<Vec<u8>> {
    let (mut summary, mut seen, mut complete, until) = (Summary::default(), 0_u64, true, Instant::now() + READING_MAX);
    let read = preview(dir, uplink, classes, &mut |sample| {
        summary.take(sample.tag, sample.value, sample.quality, clock.wall(sample.at));
        seen += 1;
        if seen.is_multiple_of(LOOK_EVERY) && (is_unwanted() || Instant::now() >= until) {
            complete = false;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    if is_unwanted() {
        return Vec::new();
    }
    if let Err(error) = read {
        tracing::warn!(uplink, error = %error, "no summary of the outage");
        return Vec::new();
    }
    tracing::info!(uplink, samples = seen, complete, "backlog summarised");
    summary.payloads(uplink, complete)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::clock::FakeTime;
    use crate::model::time::Boot;

    const LONG: Duration = Duration::from_secs(7200);

    fn outage(stands: Stands) -> Outage {
        Outage { after: Some(LONG / 2), uplink: "cloud".to_owned(), classes: CLASSES.to_vec(), stands }
    }

    #[tokio::test]
    async fn an_interrupted_session_leaves_no_second_attempt_in_the_same_outage() {
        let clock = Clock::new(std::sync::Arc::new(FakeTime::default()), Boot(1), 0);
        let (made, received) = oneshot::channel();
        let reading = Stands::Reading { made: received, give_up_at: Instant::now() + PATIENCE };
        for stands in [reading, Stands::Telling(VecDeque::from([b"part".to_vec()]))] {
            let mut outage = outage(stands);
            assert!(outage.holds_backlog());
            outage.interrupted();
            assert!(!outage.holds_backlog(), "the backlog goes at once in the next session");
            let store = tempfile::tempdir().expect("a directory");
            outage.look(LONG, &Class::ALL, Some(store.path().to_owned()), &clock);
            assert!(!outage.holds_backlog(), "and goes on when its first record was acknowledged");
            outage.look(Duration::ZERO, &Class::ALL, None, &clock);
            assert!(matches!(outage.stands, Stands::Current), "the next outage has its summary");
        }
        assert!(made.is_closed(), "who reads for nobody sees it");
    }
}
