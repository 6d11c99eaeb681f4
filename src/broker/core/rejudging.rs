//! Everybody judged by rules that have changed: who would not be let in any more must go, what a client may not read any
//! more it gets no longer, wills that it may not leave any more are dropped. Nobody else notices.
//!
//! What waits for a client already, and what a session is owed, is judged when it is sent.

use std::collections::HashMap;
use std::sync::Arc;

use super::subscribing::split;
use super::{Core, Shared};
use crate::access::Identity;
use crate::broker::clients::{Client, Presence};
use crate::broker::ruling::{self, Ruling};
use crate::broker::session::Ending;
use crate::broker::tree::ClientKey;

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
        let mut lost: Vec<(ClientKey, Arc<str>)> = Vec::new();
        for (key, client) in core.clients.all_mut() {
            rejudged.clients += usize::from(self.send_away(client));
            let may_read = |filter: &str| match &client.identity {
                Some(identity) => self.access.may_read(identity, filter),
                None => self.access.owner_may_read(client.holder(), filter),
            };
            for raw in client.filters.keys() {
                if split(raw).is_none_or(|(_, filter)| !may_read(filter)) {
                    self.access.subscription_removed(client.holder(), raw);
                    lost.push((key, Arc::clone(raw)));
                }
            }
        }
        for (key, raw) in &lost {
            self.remove_filter(core, *key, raw);
            if let Some(connected) = core.clients.get(*key).and_then(Client::connected) {
                connected.outbox.doubt();
            }
        }
        rejudged.subscriptions = lost.len();
        self.drop_wills(core);
        self.stats.subscriptions.set(core.tree.count() as u64);
        rejudged
    }

    /// Is this client told to go? Its will, if it goes or stays, must be one that it may still leave.
    fn send_away(&self, client: &mut Client) -> bool {
        let (Presence::Here(connected), Some(identity)) = (&mut client.presence, &client.identity) else {
            return false;
        };
        if connected.will.as_ref().is_some_and(|will| !self.may_leave(identity, will.topic())) {
            connected.will = None;
        }
        let leaves = !self.access.is_admitted(identity);
        if leaves {
            connected.outbox.end(Ending::NotAllowed);
            self.access.client_removed(identity);
        }
        leaves
    }

    /// Wills that wait for their clients to come back.
    fn drop_wills(&self, core: &mut Core) {
        let Core { clients, wills, .. } = core;
        let known: HashMap<&str, &Identity> =
            clients.all().filter_map(|(_, client)| Some((&*client.id, client.identity.as_ref()?))).collect();
        wills.retain(|id, topic| known.get(id).is_some_and(|identity| self.may_leave(identity, topic)));
    }

    fn may_leave(&self, identity: &Identity, topic: &str) -> bool {
        matches!(ruling::judge(&self.access, &self.ownership, identity, topic, false.into()), Ruling::Publish(_))
    }
}
