//! Tasks without which the broker has no point: doors, who keeps their certificates, who opens others. One that panics ends
//! the broker, and whoever runs it with it: a door that nobody stands at any more would look open for ever.

use std::thread;

use tokio_util::sync::CancellationToken;

/// The task; a panic in it cancels the token on its way.
pub(super) fn needed<F: Future>(
    what: &'static str,
    name: &str,
    lost: &CancellationToken,
    task: F,
) -> impl Future<Output = F::Output> + use<F> {
    let sentry = Sentry { what, name: name.to_owned(), lost: lost.clone() };
    async move {
        let _sentry = sentry;
        task.await
    }
}

struct Sentry {
    what: &'static str,
    name: String,
    lost: CancellationToken,
}

impl Drop for Sentry {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!(task = self.what, name = self.name, "a task of the broker panicked");
            self.lost.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::access::Access;
    use crate::broker::{Broker, BrokerParts};
    use crate::config::plan::{Anonymous, BrokerLimits, BrokerPlan, ListenerPlan, SessionsPlan};
    use crate::flow::clock::{Clock, FakeTime};
    use crate::flow::forward::ForwardEntry;
    use crate::flow::stop::Stop;
    use crate::flow::{command, notice};
    use crate::model::time::Boot;
    use crate::model::topic::Ownership;

    #[tokio::test]
    async fn a_panic_is_told_and_an_end_is_not() {
        let lost = CancellationToken::new();
        assert_eq!(tokio::spawn(needed("door", "a", &lost, async { 7 })).await.expect("runs"), 7);
        assert!(!lost.is_cancelled());
        assert!(tokio::spawn(needed("door", "b", &lost, async { panic!("on purpose") })).await.is_err());
        assert!(lost.is_cancelled());
    }

    #[tokio::test]
    async fn a_broker_that_has_lost_a_door_by_a_panic_ends_before_its_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let listeners = vec![ListenerPlan::plain(([127, 0, 0, 1], 0).into(), Anonymous::None)];
        let (limits, sessions) = (BrokerLimits::default(), SessionsPlan::default());
        let plan = BrokerPlan { listeners, limits, users_file: None, acl: Vec::new(), sessions };
        let parts = BrokerParts {
            access: Arc::new(Access::new(&plan)),
            plan,
            ownership: Arc::new(Ownership::new([])),
            commands: command::road().0,
            forward: ForwardEntry::none(),
            clock: Clock::new(Arc::new(FakeTime::default()), Boot(1), 0),
            notices: notice::notices().0,
            ledger_path: dir.path().join("broker.db"),
        };
        let (mut broker, _publisher) = Broker::new(parts).expect("a broker");
        assert!(broker.bind().await[0].is_some());
        let lost = broker.shared.lost.clone();
        let (stop, end) = (Stop::new(), CancellationToken::new());
        let running = tokio::spawn(broker.run(stop.clone(), end.clone()));
        assert!(tokio::spawn(needed("door", "b", &lost, async { panic!("on purpose") })).await.is_err());
        running.await.expect("without a panic of its own");
        assert!(!end.is_cancelled() && !stop.is_begun(), "nobody asked it to");
    }
}
