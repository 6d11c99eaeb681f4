//! Filters added and removed, within bounds: a filter is memory that a stranger makes us hold, and of a lasting session it lies
//! on disk besides, and is memory again after each restart.

use std::sync::Arc;

use super::places::Bound;
use super::{Core, Shared, owing};
use crate::access::Identity;
use crate::broker::message::Qos;
use crate::broker::retained::Cursor;
use crate::broker::tree::{self, Added, ClientKey, Subscription};
use crate::broker::wire::{Filter, RetainHandling};
use crate::disk::ledger::{FILTER_COST, FILTERS_BYTES_MAX, SubscriptionRow};
use crate::model::topic::{check_filter, split_share};

/// Bytes that all filters may take (`tree`). Whatever is within, the ledger reads at start, and counts half of it at most.
pub(super) const ALL_MAX: usize = 2 * FILTERS_BYTES_MAX;
const _: () = assert!(tree::SUBSCRIPTION_COST >= 2 * FILTER_COST);

/// And those of one client, if no other has the like.
const CLIENT_MAX: usize = ALL_MAX / 2;

/// Reason code of SUBACK: the client may not (MQTT 5, section 3.9.3).
pub(in crate::broker) const NOT_AUTHORIZED: u8 = 0x87;

/// A filter was added.
#[derive(Debug)]
pub(in crate::broker) struct Subscribed {
    pub subscription: Subscription,
    /// Retained messages to be sent, if any.
    pub cursor: Option<Cursor>,
    /// See [`crate::broker::retained::Walk`].
    pub owed_below: u64,
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
        let cost = tree::cost(filter, group);
        let mut guard = self.lock();
        // Under the lock: whoever judges by new rules has it, too, and must find what was added by old ones.
        if !self.access.may_read(who, filter) {
            return Err(NOT_AUTHORIZED);
        }
        let core = &mut *guard;
        let bound = core.bound_of_filters();
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
            let full = client.filters.len() >= self.limits.subscriptions || client.cost + cost > CLIENT_MAX;
            let crowded = client.durable.is_some() && self.disk.is_crowded();
            if full || crowded || !core.filters.has_room(&client.owner, cost, bound) {
                return Err(0x97);
            }
            client.filters.insert(wanted.filter.as_str().into(), subscription);
            client.cost += cost;
            core.filters.take(&client.owner, cost);
        }
        let added = core.tree.add(filter, group, subscription);
        self.stats.subscriptions.set(core.tree.count() as u64);
        let send = match wanted.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => added == Added::New,
            RetainHandling::Never => false,
        };
        // A shared subscription gets none (section 4.8.2).
        let mut cursor = (send && group.is_none()).then(|| core.retained.cursor(filter));
        let mut owed_below = 0;
        if let Some(durable) = &mut client.durable {
            (cursor, owed_below) = (cursor.map(Cursor::behind_what_is_owed), durable.next());
            let name: Arc<str> = wanted.filter.as_str().into();
            if cursor.is_some() && core.retained.has_of_clients() {
                durable.walking.insert(Arc::clone(&name));
            }
            let row = owing::row_of(durable, Arc::clone(&name), &subscription);
            self.disk.subscription(durable.tally.id, name, Some(row));
        }
        Ok(Subscribed { subscription, cursor, owed_below })
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
        let cost = tree::cost(filter, group);
        let Some(client) = core.clients.get_mut(key) else {
            return false;
        };
        if client.filters.remove(raw).is_none() {
            return false;
        }
        client.cost -= cost;
        core.filters.give_back(&client.owner, cost);
        if let Some(durable) = &mut client.durable {
            durable.walking.remove(raw);
            self.disk.subscription(durable.tally.id, raw.into(), None);
        }
        core.tree.remove(filter, group, key)
    }
}

impl Core {
    pub(super) fn bound_of_filters(&self) -> Bound {
        Bound { taken: self.tree.bytes(), most: ALL_MAX }
    }

    /// A subscription that was on disk, and is one. False: there is no room for it.
    pub(super) fn restore(&mut self, key: ClientKey, row: &SubscriptionRow) -> bool {
        let Some((group, filter)) = split(&row.filter) else { return true };
        let Some(qos) = Qos::from_bits(row.options & 3) else { return true };
        let (no_local, retain_as_published) = (row.options & 4 != 0, row.options & 8 != 0);
        let subscription = Subscription { client: key, qos, no_local, retain_as_published, id: row.identifier };
        let cost = tree::cost(filter, group);
        let Some(client) = self.clients.get_mut(key) else { return true };
        // Of whoever it is, it was taken before.
        if client.cost + cost > CLIENT_MAX || self.tree.bytes() + cost > ALL_MAX {
            return false;
        }
        client.filters.insert(Arc::clone(&row.filter), subscription);
        client.cost += cost;
        self.filters.take(&client.owner, cost);
        if row.options & owing::UNFINISHED != 0
            && let Some(durable) = &mut client.durable
        {
            durable.walking.insert(Arc::clone(&row.filter));
            client.carried.unfinished.push(self.retained.unfinished(filter));
        }
        self.tree.add(filter, group, subscription);
        true
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What so many filters take, and all of them together.
    fn taken(clients: u32, filters: impl Fn(u32) -> Vec<String>) -> (usize, usize) {
        let (mut tree, mut most) = (tree::Tree::default(), 0);
        for slot in 0..clients {
            let client = ClientKey { slot, generation: 0 };
            let qos = Qos::AtLeastOnce;
            let subscription = Subscription { client, qos, no_local: false, retain_as_published: false, id: None };
            let filters = filters(slot);
            most = most.max(filters.iter().map(|filter| tree::cost(filter, None)).sum());
            for filter in &filters {
                tree.add(filter, None, subscription);
            }
        }
        (most, tree.bytes())
    }

    #[test]
    fn a_large_plant_finds_room_though_all_of_it_is_one_owner() {
        let all = ALL_MAX - ALL_MAX / 8;
        let own = |client: u32| {
            (0..100).map(move |n| format!("plant/hall-07/line-{client:04}/machine-{n:04}/temperature-bearing-{n:03}"))
        };
        assert!(own(1).all(|name| name.len() == 60));
        let (most, bytes) = taken(1000, |client| own(client).collect());
        assert!(most <= CLIENT_MAX && bytes <= all, "each its own machines: {most}, {bytes}");
        let (_, bytes) = taken(1000, |_| own(1).collect());
        assert!(bytes <= all / 2, "all the same: {bytes}");
        let (most, bytes) = taken(1, |_| (0..16_384).map(|n| format!("plant/{n}/+")).collect());
        assert!(most <= CLIENT_MAX && bytes <= all, "one that wants very many: {most}, {bytes}");
    }
}
