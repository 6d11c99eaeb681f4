//! Filters added and removed, within bounds: a filter is memory that a stranger makes us hold.

use std::sync::Arc;

use super::{Core, Shared, owing};
use crate::access::Identity;
use crate::broker::retained::Cursor;
use crate::broker::tree::{Added, ClientKey, Subscription};
use crate::broker::wire::{Filter, RetainHandling};
use crate::model::topic::{check_filter, split_share};

/// Topic levels of all filters of one client: what they cost in memory is about 150 bytes each.
const LEVELS_MAX: usize = 100_000;

/// And of everybody.
const LEVELS_OF_ALL_MAX: usize = 400_000;

/// Reason code of SUBACK: the client may not (MQTT 5, section 3.9.3).
pub(in crate::broker) const NOT_AUTHORIZED: u8 = 0x87;

/// A filter was added.
#[derive(Debug)]
pub(in crate::broker) struct Subscribed {
    pub subscription: Subscription,
    /// Retained messages to be sent, if any.
    pub cursor: Option<Cursor>,
}

impl Shared {
    /// Adds a filter of a client; the error is SUBACK's reason code (MQTT 5, section 3.9.3).
    pub(in crate::broker) fn subscribe(
        &self,
        key: ClientKey,
        who: &Identity,
        wanted: &Filter,
        id: Option<u32>,
    ) -> Result<Subscribed, u8> {
        let (group, filter) = split(&wanted.filter).ok_or(0x8F_u8)?;
        let levels = filter.split('/').count();
        let mut guard = self.lock();
        // Under the lock: whoever judges by new rules has it, too, and must find what was added by old ones.
        if !self.access.may_read(who, filter) {
            return Err(NOT_AUTHORIZED);
        }
        let core = &mut *guard;
        let everybody = core.levels;
        let client = core.clients.get_mut(key).ok_or(0x80_u8)?;
        let subscription = Subscription {
            client: key,
            qos: wanted.qos,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
            id,
        };
        if let Some(known) = client.filters.get_mut(&*wanted.filter) {
            *known = subscription;
        } else {
            let full = client.filters.len() >= self.limits.subscriptions || client.levels + levels > LEVELS_MAX;
            let crowded = client.durable.is_some() && self.disk.is_crowded();
            if full || crowded || everybody + levels > LEVELS_OF_ALL_MAX {
                return Err(0x97);
            }
            client.filters.insert(wanted.filter.as_str().into(), subscription);
            client.levels += levels;
            core.levels += levels;
        }
        let added = core.tree.add(filter, group, subscription);
        self.stats.subscriptions.set(core.tree.count() as u64);
        let send = match wanted.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => added == Added::New,
            RetainHandling::Never => false,
        };
        // A shared subscription gets none (section 4.8.2).
        let cursor = (send && group.is_none()).then(|| core.retained.cursor(filter));
        if let Some(durable) = &mut client.durable {
            let name: Arc<str> = wanted.filter.as_str().into();
            if cursor.is_some() && core.retained.has_of_clients() {
                durable.walking.insert(Arc::clone(&name));
            }
            let row = owing::row_of(durable, Arc::clone(&name), &subscription);
            self.disk.subscription(durable.tally.id, name, Some(row));
        }
        Ok(Subscribed { subscription, cursor })
    }

    /// Removes a filter; was it there?
    pub(in crate::broker) fn unsubscribe(&self, key: ClientKey, raw: &str) -> bool {
        let mut core = self.lock();
        let removed = self.remove_filter(&mut core, key, raw);
        self.stats.subscriptions.set(core.tree.count() as u64);
        removed
    }

    pub(super) fn remove_filter(&self, core: &mut Core, key: ClientKey, raw: &str) -> bool {
        let Some((group, filter)) = split(raw) else {
            return false;
        };
        let levels = filter.split('/').count();
        let Some(client) = core.clients.get_mut(key) else {
            return false;
        };
        if client.filters.remove(raw).is_none() {
            return false;
        }
        client.levels -= levels;
        if let Some(durable) = &mut client.durable {
            durable.walking.remove(raw);
            self.disk.subscription(durable.tally.id, raw.into(), None);
        }
        core.levels -= levels;
        core.tree.remove(filter, group, key)
    }
}

/// A filter as it came to (group, filter), if it is one.
pub(super) fn split(raw: &str) -> Option<(Option<&str>, &str)> {
    let (group, filter) = match split_share(raw).ok()? {
        Some((group, filter)) => (Some(group), filter),
        None => (None, raw),
    };
    check_filter(filter).ok()?;
    Some((group, filter))
}
