//! Who walks through the retained messages, how far, and what a walk that was cut goes on with.
//!
//! Clients' messages that came after the subscription are left to it: a session is owed them. But not at QoS 0, and a client
//! that was away has neither got what was there when it subscribed nor what has taken its place. So a walk that goes on looks
//! for those at its end, as they are by then. What the ledger has had for the client when it came back, or subscribed, goes
//! before them: among it may be older values of the same topics.

use std::sync::Arc;

use tokio::time::Instant;

use super::Kept;
use crate::access::Identity;
use crate::broker::message::{Keep, Qos};
use crate::broker::outbox::Behind;
use crate::broker::tree::Subscription;

/// What is to come of a look at them.
pub(in crate::broker) struct Look<'a> {
    /// So many at most.
    pub most: usize,
    /// At most: of a subscription at QoS 0 nothing is owed.
    pub qos: Qos,
    pub now: Instant,
    /// Is what this client has left on this topic still to be sent?
    pub stands: &'a dyn Fn(&Identity, &str) -> bool,
}

/// Is there more to come after a page?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Rest {
    More,
    Nothing,
}

/// A walk through the messages that match one filter.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Cursor {
    pub(super) filter: Arc<str>,
    /// Of the gateway's own: what is newer than the first and not newer than the second.
    own: (u64, u64),
    /// Of the clients': what is not newer than this; `None`: nothing.
    clients: Option<u64>,
    /// Of the clients', at the end: what nobody is owed, is newer than the first, and not newer than the second.
    missed: Option<(u64, u64)>,
    /// Is it at that?
    late: bool,
    pub(super) after: Option<Arc<str>>,
}

/// A walk for one subscriber.
#[derive(Debug)]
pub(in crate::broker) struct Walk {
    pub cursor: Cursor,
    /// What it makes of the messages.
    pub subscription: Subscription,
    /// What had been put into the outbox before goes first: values of an earlier subscription that covers the same
    /// topics are older than the retained ones.
    pub after: u64,
    /// What the ledger has below this ordinal goes before what was missed.
    pub owed_below: u64,
}

/// A walk that was not at its end when the connection was; it begins anew on the next one.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Unfinished {
    pub filter: Arc<str>,
    pub(super) clients: Option<u64>,
    /// What came at QoS 0 is missed if it is newer than this.
    pub(super) missed: Option<u64>,
}

impl Walk {
    pub(in crate::broker) fn unfinished(&self) -> Unfinished {
        let Cursor { filter, clients, missed, late, .. } = &self.cursor;
        // It is not entered in the ledger a second time.
        let clients = if *late { None } else { *clients };
        let missed = missed.map(|(above, _)| above).or(clients);
        Unfinished { filter: Arc::clone(filter), clients, missed }
    }

    /// May it go on? `taken`: messages ever taken out of the outbox; everything at hand has been sent.
    pub(in crate::broker) fn is_due(&self, taken: u64, behind: Option<Behind>) -> bool {
        self.after <= taken && (!self.cursor.late || behind.is_none_or(|behind| behind.from >= self.owed_below))
    }
}

impl Cursor {
    /// For someone who subscribes now, when the newest is of this version.
    pub(super) fn new(filter: &str, version: u64) -> Self {
        let (own, clients) = ((0, version), Some(version));
        Self { filter: filter.into(), own, clients, missed: None, late: false, after: None }
    }

    /// The same for a session that the ledger may have something for: what is older may be among it, so what came at QoS 0, and
    /// is owed to nobody, comes at the end.
    pub(in crate::broker) fn behind_what_is_owed(self) -> Self {
        Self { missed: self.clients.map(|last| (0, last)), ..self }
    }

    /// For someone who comes back now and has seen the gateway's own values up to version `since`.
    pub(super) fn since(filter: &str, (since, version): (u64, u64), unfinished: Option<&Unfinished>) -> Self {
        let since = if unfinished.is_some() { 0 } else { since };
        let clients = unfinished.and_then(|unfinished| unfinished.clients);
        let missed = unfinished.and_then(|unfinished| Some((unfinished.missed?, version)));
        Self { filter: filter.into(), own: (since, version), clients, missed, late: false, after: None }
    }

    pub(in crate::broker) fn filter(&self) -> Arc<str> {
        Arc::clone(&self.filter)
    }

    /// It has come to the end of what it was at: is there something that was missed?
    pub(super) fn turn(&mut self) -> Rest {
        if self.late || self.missed.is_none() {
            return Rest::Nothing;
        }
        (self.late, self.after) = (true, None);
        Rest::More
    }

    pub(super) fn wants(&self, kept: &Kept, qos: Qos) -> bool {
        let missed = kept.message.qos.min(qos) == Qos::AtMostOnce
            && self.missed.is_some_and(|(above, last)| kept.version > above && kept.version <= last);
        match kept.message.keep {
            Keep::Newest => !self.late && kept.version > self.own.0 && kept.version <= self.own.1,
            Keep::Every if self.late => missed,
            Keep::Every => !missed && self.clients.is_some_and(|last| kept.version <= last),
        }
    }
}
