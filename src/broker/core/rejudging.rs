//! Whoever is connected, judged by rules that have changed: who would not be let in any more must go, what a client may
//! not read any more it gets no longer. Nobody else notices.

use super::{Shared, split};
use crate::broker::ruling::{self, Ruling};
use crate::broker::session::Ending;

/// What new rules came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rejudged {
    /// Clients that were told to go.
    pub clients: usize,
    /// Subscriptions that were taken away.
    pub subscriptions: usize,
}

impl Shared {
    /// Judges every client and every subscription by the rules as they are now.
    pub(in crate::broker) fn rejudge(&self) -> Rejudged {
        let mut rejudged = Rejudged::default();
        let mut guard = self.lock();
        let core = &mut *guard;
        for (key, client) in core.clients.all_mut() {
            if !self.access.is_admitted(&client.identity) {
                client.outbox.end(Ending::NotAllowed);
                rejudged.clients += 1;
            }
            // Whoever goes takes its will along only if it may still leave one.
            let may_leave = |topic| {
                let judged = ruling::judge(&self.access, &self.ownership, &client.identity, topic, false.into());
                matches!(judged, Ruling::Publish(_))
            };
            if client.will.as_ref().is_some_and(|will| !may_leave(will.topic())) {
                client.will = None;
            }
            for raw in client
                .filters
                .extract_if(|raw| split(raw).is_none_or(|(_, filter)| !self.access.may_read(&client.identity, filter)))
            {
                if let Some((group, filter)) = split(&raw) {
                    let levels = filter.split('/').count();
                    client.levels -= levels;
                    core.levels -= levels;
                    core.tree.remove(filter, group, key);
                }
                tracing::info!(
                    client = &*client.id,
                    filter = &*raw,
                    "subscription is not allowed any more, it is removed"
                );
                rejudged.subscriptions += 1;
            }
        }
        self.stats.subscriptions.set(core.tree.count() as u64);
        rejudged
    }
}
