//! The retained messages, ours and the clients', all in memory; sent to a subscriber page by page, any number of them.
//!
//! A [`Cursor`] is one subscriber's walk through them. It remembers how old the newest message was when it subscribed:
//! what changed since then has reached it through its subscription and is skipped, so that nothing is sent twice, and
//! no value after a newer one. Between pages nothing is held but the place. `walks`: which of them each is to get, and what
//! becomes of a walk that was cut.
//!
//! What has come from a bridge is known by it: on its way down from another one may be what is older. That a topic which goes
//! upstream was cleared is remembered for a while, for the same reason.
//!
//! A client's message goes with who left it: whoever sends it asks whether that one may still write there. One owner (a user,
//! or all who have no name) leaves some room for the others.

mod walks;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use tokio::time::Instant;

use super::message::{Keep, Message};
use crate::access::Identity;
use crate::model::topic::matches;
pub(super) use walks::{Cursor, Look, Rest, Unfinished, Walk};

/// Bytes that clients may leave retained: they share a small box with everybody else.
pub const CLIENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// And in number.
pub(super) const CLIENT_COUNT_MAX: usize = 100_000;

/// One owner may have all but such a part of both bounds.
const OTHERS_PART: usize = 8;

/// Bytes of topics of which it is remembered that they were cleared; the oldest are forgotten first.
const CLEARED_BYTES_MAX: usize = 256 * 1024;
/// What one takes beside its name.
const CLEARED_COST: usize = 100;

/// Topics looked at for one page, so that nobody waits long for the lock.
const LOOK_MAX: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Retained {
    kept: HashMap<Arc<str>, Kept>,
    order: BTreeSet<Arc<str>>,
    version: u64,
    client_bytes: usize,
    client_count: usize,
    /// What of it each owner has left: bytes and number.
    owners: HashMap<Arc<str>, (usize, usize)>,
    cleared: Cleared,
}

/// Topics that were cleared and nobody has left anything on since, each with the version it would have, and the bridge that
/// the clearing came from.
#[derive(Debug, Default)]
struct Cleared {
    versions: HashMap<Arc<str>, (u64, Option<Arc<str>>)>,
    order: BTreeMap<u64, Arc<str>>,
    bytes: usize,
}

impl Cleared {
    fn note(&mut self, topic: &Arc<str>, version: u64, bridge: Option<Arc<str>>) {
        self.forget(topic);
        self.versions.insert(Arc::clone(topic), (version, bridge));
        self.order.insert(version, Arc::clone(topic));
        self.bytes += topic.len() + CLEARED_COST;
        while self.bytes > CLEARED_BYTES_MAX
            && let Some((_, oldest)) = self.order.first_key_value()
        {
            self.forget(&Arc::clone(oldest));
        }
    }

    fn forget(&mut self, topic: &str) {
        if let Some((version, _)) = self.versions.remove(topic) {
            self.order.remove(&version);
            self.bytes -= topic.len() + CLEARED_COST;
        }
    }
}

/// Who has left a message, or cleared its topic.
#[derive(Debug, Clone)]
pub(super) enum Author {
    /// The gateway, or nobody knows.
    Nobody,
    Client(Identity),
    /// It came from the other side of this one.
    Bridge(Arc<str>),
}

impl Author {
    pub(super) const fn client(&self) -> Option<&Identity> {
        if let Self::Client(who) = self { Some(who) } else { None }
    }

    pub(super) const fn bridge(&self) -> Option<&Arc<str>> {
        if let Self::Bridge(name) = self { Some(name) } else { None }
    }
}

#[derive(Debug)]
struct Kept {
    message: Arc<Message>,
    author: Author,
    owner: Option<Arc<str>>,
    version: u64,
}

impl Kept {
    fn charge(&self) -> (usize, usize) {
        charge(&self.message, self.author.client())
    }
}

/// No more room for clients' messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Retained {
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn has(&self, topic: &str) -> bool {
        self.kept.contains_key(topic)
    }

    /// Has a client left what is kept of this topic?
    pub(super) fn is_of_client(&self, topic: &str) -> bool {
        self.has_of_clients() && self.kept.get(topic).is_some_and(|kept| kept.message.keep == Keep::Every)
    }

    /// Grows with every message put in, and with every topic cleared that is remembered.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Since there was this version, has a client left something on this topic, or cleared it, or another bridge brought that?
    pub(super) fn is_newer(&self, topic: &str, version: u64, than_from: Option<&str>) -> bool {
        let elsewhere = |bridge: Option<&Arc<str>>| bridge.is_none_or(|bridge| Some(&**bridge) != than_from);
        let kept = self.kept.get(topic).filter(|kept| !matches!(kept.author, Author::Nobody));
        kept.is_some_and(|kept| kept.version > version && elsewhere(kept.author.bridge()))
            || self.cleared.versions.get(topic).is_some_and(|(at, bridge)| *at > version && elsewhere(bridge.as_ref()))
    }

    /// The clearing is remembered; was there something?
    pub(super) fn clear_by(&mut self, author: &Author, topic: &Arc<str>) -> bool {
        let was_there = self.clear(topic);
        self.version += 1;
        self.cleared.note(topic, self.version, author.bridge().cloned());
        was_there
    }

    pub(super) fn bytes(&self) -> usize {
        self.kept.values().map(|kept| kept.message.payload.len()).sum()
    }

    /// Is there room for it, or does it clear its topic?
    pub(super) fn has_room(&self, message: &Message, source: Option<&Identity>) -> bool {
        message.payload.is_empty() || self.charged(message, source).is_ok() && self.leaves_room(message, source)
    }

    /// Is it, with all else that its owner has left, so little that others have room?
    fn leaves_room(&self, message: &Message, source: Option<&Identity>) -> bool {
        let Some(owner) = source.map(Identity::owner) else { return true };
        let own = self.owners.get(&owner).copied().unwrap_or_default();
        let old = self.kept.get(&message.topic).filter(|kept| kept.owner.as_ref() == Some(&owner));
        let (old, new) = (old.map_or((0, 0), Kept::charge), charge(message, source));
        let most = |bound: usize| bound - bound / OTHERS_PART;
        own.0 - old.0 + new.0 <= most(CLIENT_BYTES_MAX) && own.1 - old.1 + new.1 <= most(CLIENT_COUNT_MAX)
    }

    /// What clients' messages take with this one in place of an older one: bytes and number.
    fn charged(&self, message: &Message, source: Option<&Identity>) -> Result<(usize, usize), Full> {
        let old = self.kept.get(&message.topic).map_or((0, 0), Kept::charge);
        let new = charge(message, source);
        let (bytes, count) = (self.client_bytes - old.0 + new.0, self.client_count - old.1 + new.1);
        let full = new.1 > 0 && (bytes > CLIENT_BYTES_MAX || count > CLIENT_COUNT_MAX);
        if full { Err(Full) } else { Ok((bytes, count)) }
    }

    /// Keeps a message in place of an older one; the gateway's own ([`Keep::Newest`]) always find room. That its owner leaves
    /// room for others has been seen to, or it was taken before: on disk there may be more of it.
    pub(super) fn put(&mut self, message: Arc<Message>, author: Author) -> Result<(), Full> {
        (self.client_bytes, self.client_count) = self.charged(&message, author.client())?;
        self.version += 1;
        self.cleared.forget(&message.topic);
        let owner = author.client().map(Identity::owner);
        let kept = Kept { message, author, owner, version: self.version };
        if let Some(owner) = &kept.owner {
            let (own, new) = (self.owners.entry(Arc::clone(owner)).or_default(), kept.charge());
            *own = (own.0 + new.0, own.1 + new.1);
        }
        if let Some(place) = self.kept.get_mut(&kept.message.topic) {
            let old = std::mem::replace(place, kept);
            self.disown(&old);
        } else {
            let topic = Arc::clone(&kept.message.topic);
            self.order.insert(Arc::clone(&topic));
            self.kept.insert(topic, kept);
        }
        Ok(())
    }

    /// This version of what is kept of a topic, if it is kept still, ends then.
    pub(super) fn ends(&mut self, topic: &str, version: u64, expires: Option<Instant>) {
        if let Some(kept) = self.kept.get_mut(topic).filter(|kept| kept.version == version) {
            Arc::make_mut(&mut kept.message).expires = expires;
        }
    }

    /// A walk of which nobody knows how far it had come, nor when it began: to all that clients have left here by now.
    pub(super) fn unfinished(&self, filter: &str) -> Unfinished {
        Unfinished { filter: filter.into(), clients: Some(self.version), missed: Some(0) }
    }

    /// Have clients left anything here?
    pub(super) fn has_of_clients(&self) -> bool {
        self.client_count > 0
    }

    /// What clients have left here, and which.
    pub(super) fn of_clients(&self) -> impl Iterator<Item = (&Arc<Message>, Option<&Identity>)> {
        let of_clients = self.kept.values().filter(|kept| kept.message.keep == Keep::Every);
        of_clients.map(|kept| (&kept.message, kept.author.client()))
    }

    /// Forgets a topic; was there something?
    pub(super) fn clear(&mut self, topic: &str) -> bool {
        self.cleared.forget(topic);
        let Some(kept) = self.kept.remove(topic) else {
            return false;
        };
        let (bytes, count) = kept.charge();
        self.client_bytes -= bytes;
        self.client_count -= count;
        self.disown(&kept);
        self.order.remove(topic);
        true
    }

    /// Its owner has it here no more.
    fn disown(&mut self, kept: &Kept) {
        let Some(owner) = &kept.owner else { return };
        let Some(own) = self.owners.get_mut(owner) else { return };
        let old = kept.charge();
        *own = (own.0 - old.0, own.1 - old.1);
        if own.1 == 0 {
            self.owners.remove(owner);
        }
    }

    /// Forgets what has expired and names it.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Arc<str>> {
        if self.client_count == 0 {
            return Vec::new(); // the gateway's own do not expire, and there may be ten thousand of them
        }
        let expired = self.kept.iter().filter(|(_, kept)| kept.message.is_expired(now));
        let expired: Vec<Arc<str>> = expired.map(|(topic, _)| Arc::clone(topic)).collect();
        for topic in &expired {
            self.clear(topic);
        }
        expired
    }

    /// A walk for someone who subscribes now.
    pub(super) fn cursor(&self, filter: &str) -> Cursor {
        Cursor::new(filter, self.version)
    }

    /// A walk for someone who comes back to a subscription and has seen what was there at version `since`: the gateway's
    /// own values that have changed, and what a walk had left to do.
    pub(super) fn cursor_since(&self, filter: &str, since: u64, unfinished: Option<&Unfinished>) -> Cursor {
        Cursor::since(filter, (since, self.version), unfinished)
    }

    /// The next of them.
    pub(super) fn page(&self, cursor: &mut Cursor, look: &Look<'_>, into: &mut Vec<Arc<Message>>) -> Rest {
        match self.go_on(cursor, look, into) {
            Rest::More => Rest::More,
            Rest::Nothing => cursor.turn(),
        }
    }

    fn go_on(&self, cursor: &mut Cursor, look: &Look<'_>, into: &mut Vec<Arc<Message>>) -> Rest {
        let Some(wildcard) = cursor.filter.find(['+', '#']) else {
            into.extend(self.wanted(&cursor.filter, cursor, look));
            return Rest::Nothing;
        };
        // `a/#` matches `a` as well, so the beginning that all share ends before the slash.
        let beginning = cursor.filter[..wildcard].trim_end_matches('/').to_owned();
        let from = match &cursor.after {
            Some(after) => Bound::Excluded(&**after),
            None => Bound::Included(&*beginning),
        };
        let mut left = look.most;
        let mut last: Option<&Arc<str>> = None;
        for (looked, topic) in self.order.range::<str, _>((from, Bound::Unbounded)).enumerate() {
            if !topic.starts_with(&beginning) {
                return Rest::Nothing;
            }
            if left == 0 || looked == LOOK_MAX {
                cursor.after = last.cloned();
                return Rest::More;
            }
            if matches(&cursor.filter, topic)
                && let Some(message) = self.wanted(topic, cursor, look)
            {
                // A long one is the last of its page: what is on a page is held until the client has taken it.
                left = if message.is_long() { 0 } else { left - 1 };
                into.push(message);
            }
            last = Some(topic);
        }
        Rest::Nothing
    }

    fn wanted(&self, topic: &str, cursor: &Cursor, look: &Look<'_>) -> Option<Arc<Message>> {
        let kept = self.kept.get(topic)?;
        let wanted = cursor.wants(kept, look.qos);
        let stands = || kept.author.client().is_none_or(|source| (look.stands)(source, topic));
        (wanted && !kept.message.is_expired(look.now) && stands()).then(|| Arc::clone(&kept.message))
    }
}

/// What a message takes of the clients' room: bytes and number. After a restart each has its publisher's names to itself.
fn charge(message: &Message, source: Option<&Identity>) -> (usize, usize) {
    let names = |source: &Identity| source.client().len() + source.name().map_or(0, str::len);
    match message.keep {
        Keep::Newest => (0, 0),
        Keep::Every => (message.cost() + source.map_or(0, names), 1),
    }
}

#[cfg(test)]
mod tests;
