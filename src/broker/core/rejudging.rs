//! Whoever is connected, judged by rules that have changed: who would not be let in any more must go, what a client may
//! not read any more it gets no longer. Nobody else notices.

use super::subscribing::split;
use super::{Core, Shared};
use crate::broker::clients::Presence;
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
            // Nobody knows yet what the client may who has not come since the gateway was started.
            let Some(identity) = &client.identity else { continue };
            // Whoever goes takes its will along only if it may still leave one.
            let may_leave = |topic| {
                let judged = ruling::judge(&self.access, &self.ownership, identity, topic, false.into());
                matches!(judged, Ruling::Publish(_))
            };
            if let Presence::Here(connected) = &mut client.presence {
                if !self.access.is_admitted(identity) {
                    connected.outbox.end(Ending::NotAllowed);
                    rejudged.clients += 1;
                }
                if connected.will.as_ref().is_some_and(|will| !may_leave(will.topic())) {
                    connected.will = None;
                }
            }
            for (raw, _) in client
                .filters
                .extract_if(|raw, _| split(raw).is_none_or(|(_, filter)| !self.access.may_read(identity, filter)))
            {
                if let Some(durable) = &client.durable {
                    self.disk.subscription(durable.tally.id, raw.clone(), None);
                }
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
        let Core { wills, clients, .. } = core;
        wills.keep_only(|id, will| {
            let identity = clients.with_id(id).and_then(|key| clients.get(key)?.identity.as_ref());
            identity.is_none_or(|identity| {
                let judged = ruling::judge(&self.access, &self.ownership, identity, will.topic(), false.into());
                self.access.is_admitted(identity) && matches!(judged, Ruling::Publish(_))
            })
        });
        self.stats.subscriptions.set(core.tree.count() as u64);
        rejudged
    }
}
