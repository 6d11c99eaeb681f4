//! Who is connected: one slot each, found by key (from the tree) or by client id.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::access::Identity;

use super::outbox::Outbox;
use super::tree::ClientKey;
use super::will::LastWill;

/// A connected client, as the core sees it.
#[derive(Debug)]
pub(super) struct Client {
    pub id: Arc<str>,
    pub identity: Identity,
    pub outbox: Arc<Outbox>,
    pub will: Option<LastWill>,
    /// Filters as they came, `$share/…` included.
    pub filters: HashSet<Arc<str>>,
    /// Levels of all its filters together: what they cost the tree.
    pub levels: usize,
    /// Routing scratch: the last message that found it, and where its delivery lies.
    pub seen: (u64, usize),
}

#[derive(Debug, Default)]
pub(super) struct Clients {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_id: HashMap<Arc<str>, ClientKey>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    client: Option<Client>,
}

impl Clients {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Takes a client in. Nobody of this id is there: see [`Clients::with_id`].
    pub(super) fn add(&mut self, client: Client) -> ClientKey {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("the door admits far fewer than 2^32 clients")
        });
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        let key = ClientKey { slot, generation: place.generation };
        self.by_id.insert(Arc::clone(&client.id), key);
        place.client = Some(client);
        key
    }

    pub(super) fn with_id(&self, id: &str) -> Option<ClientKey> {
        self.by_id.get(id).copied()
    }

    pub(super) fn get(&mut self, key: ClientKey) -> Option<&mut Client> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation == key.generation { slot.client.as_mut() } else { None }
    }

    /// Takes a client out, unless it has been taken out before.
    pub(super) fn remove(&mut self, key: ClientKey) -> Option<Client> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        let client = if slot.generation == key.generation { slot.client.take()? } else { return None };
        self.free.push(key.slot);
        self.by_id.remove(&client.id);
        Some(client)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Client> {
        self.slots.iter().filter_map(|slot| slot.client.as_ref())
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = (ClientKey, &mut Client)> {
        (0..).zip(&mut self.slots).filter_map(|(slot, place)| {
            let key = ClientKey { slot, generation: place.generation };
            Some((key, place.client.as_mut()?))
        })
    }
}
