//! Who has a session: one slot each, found by key (from the tree) or by client id. A session has, or has not, a connection.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::access::{Holder, Identity};

use super::durable::Durable;
use super::message::Delivery;
use super::outbox::Outbox;
use super::retained::Unfinished;
use super::session::{Passing, Unreleased};
use super::tree::{ClientKey, Subscription};
use super::will::LastWill;
use super::wire::Will;

/// A client's session, as the core sees it.
#[derive(Debug)]
pub(super) struct Client {
    pub id: Arc<str>,
    /// Whose it is: nobody else gets at it.
    pub owner: Arc<str>,
    /// Who came last; `None`: nobody since the gateway was started.
    pub identity: Option<Identity>,
    /// Seconds it lives on without a connection; 0: it ends with it; `u32::MAX`: for ever.
    pub expiry: u32,
    pub presence: Presence,
    /// By filters as they came, `$share/…` included.
    pub filters: HashMap<Arc<str>, Subscription>,
    /// What its filters take, bytes, if no other client has the like.
    pub cost: usize,
    /// Routing scratch: the last message that found it, and where its delivery lies.
    pub seen: (u64, usize),
    /// What the next connection goes on with.
    pub carried: Carried,
    /// Of a sensor; `None`: nothing is known.
    pub sensor: Option<Box<Remembered>>,
    /// Its side of the ledger; there if it was begun to outlive its connection.
    pub durable: Option<Box<Durable>>,
}

/// Is it connected?
#[derive(Debug)]
pub(super) enum Presence {
    Here(Connected),
    Away(Away),
}

/// A session without connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Away {
    pub since: Instant,
    pub ends: Ends,
}

/// How long a session without connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    At(Instant),
    /// At this time, ms since 1970; not before somebody vouches for the clock: at boot it may be wrong by years.
    AtWall(i64),
    Never,
}

impl Away {
    /// Since now, for so many seconds; `u32::MAX`: for ever.
    pub(super) fn new(expiry: u32, now: Instant) -> Self {
        let at = Ends::At(now + Duration::from_secs(expiry.into()));
        Self { since: now, ends: if expiry == u32::MAX { Ends::Never } else { at } }
    }

    /// Is it over? `wall`: ms since 1970, if somebody vouches for it.
    pub(super) fn is_over(&self, now: Instant, wall: Option<i64>) -> bool {
        match self.ends {
            Ends::At(end) => end <= now,
            Ends::AtWall(end) => wall.is_some_and(|wall| end <= wall),
            Ends::Never => false,
        }
    }
}

/// The connection of a session.
#[derive(Debug)]
pub(super) struct Connected {
    pub outbox: Arc<Outbox>,
    pub will: Option<LastWill>,
}

/// What one connection hands on to the next.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// QoS 2 publishes of the client that it has not released yet.
    pub received: Vec<Unreleased>,
    /// Publishes to the client that do not stand in the ledger.
    pub passing: Passing,
    /// Retained messages it has subscribed to and not got yet.
    pub unfinished: Vec<Unfinished>,
    /// Version of the retained messages when it had got everything.
    pub in_step: u64,
    /// Lowest ordinal that was not sent; 0 says nothing.
    pub sent_below: u64,
    /// What its last connection had and it was not owed, there being no room, and what is not known to have arrived.
    pub lost: u64,
    /// What other members of shared groups get instead, since it goes on with nothing.
    pub left: Vec<Delivery>,
}

/// Has the broker taken it?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    No,
}

/// What goes on from one connection of a sensor to the next and MQTT has no word for (MQTT-SN 1.2, sections 6.3 and 6.10).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Remembered {
    /// As it was left last, sent since or not.
    pub will: Option<Will>,
    /// Topics it has subscribed to by their predefined ids.
    pub predefined: BTreeSet<u16>,
    /// Topic ids that it was given, and digests of the names that they stand for: no other name gets one of them.
    pub given: BTreeMap<u16, u64>,
}

impl Client {
    /// Who holds its session.
    pub(super) fn holder(&self) -> Holder<'_> {
        Holder { owner: &self.owner, client: &self.id }
    }

    /// The gateway stops: what it has got without being owed it, and has perhaps not taken yet, nobody will know of any more.
    /// So many are lost.
    pub(super) fn forget_passing(&mut self) -> u64 {
        let lost = std::mem::take(&mut self.carried.passing).lost();
        if let Some(durable) = &mut self.durable {
            durable.dropped += lost;
        }
        lost
    }

    /// Its connection, if there is one.
    pub(super) fn connected(&self) -> Option<&Connected> {
        match &self.presence {
            Presence::Here(connected) => Some(connected),
            Presence::Away(_) => None,
        }
    }
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
    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Takes a session in. There is none of this id: see [`Clients::with_id`].
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

    pub(super) fn get(&self, key: ClientKey) -> Option<&Client> {
        let slot = self.slots.get(key.slot as usize)?;
        if slot.generation == key.generation { slot.client.as_ref() } else { None }
    }

    pub(super) fn get_mut(&mut self, key: ClientKey) -> Option<&mut Client> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation == key.generation { slot.client.as_mut() } else { None }
    }

    /// Takes a session out, unless it has been taken out before.
    pub(super) fn remove(&mut self, key: ClientKey) -> Option<Client> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        let client = if slot.generation == key.generation { slot.client.take()? } else { return None };
        self.free.push(key.slot);
        self.by_id.remove(&client.id);
        Some(client)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = (ClientKey, &mut Client)> {
        (0..).zip(&mut self.slots).filter_map(|(slot, place)| {
            let key = ClientKey { slot, generation: place.generation };
            place.client.as_mut().map(|client| (key, client))
        })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (ClientKey, &Client)> {
        (0..).zip(&self.slots).filter_map(|(slot, place)| {
            let key = ClientKey { slot, generation: place.generation };
            place.client.as_ref().map(|client| (key, client))
        })
    }
}
