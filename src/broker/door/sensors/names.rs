//! The topic ids of one client: numbers that stand for names, given by us, at its wish or for a message to it.
//!
//! A number is made from its name: a digest of 16 bits, or the next one that no other name has or had. Which were given in
//! this session, and for which names (a digest of 64 bits each), outlives the connection and the gateway (`Remembered`). So
//! a client that still uses the numbers of an earlier connection, or of a gateway that was started anew since, meets the
//! same topic again, or none: "invalid topic id", and registers anew. Numbers in order of arrival would have let it publish
//! one topic's values on another, and so would a number that two names have a claim to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ring::digest::{SHA256, digest};

/// Ids of one client, and bytes of their names.
const IDS_MAX: usize = 1024;
const BYTES_MAX: usize = 64 * 1024;

/// Ids that are kept for their names in one session, also for names that have made room: ten bytes each on disk.
const GIVEN_MAX: usize = 2 * IDS_MAX;

/// The lowest bit of what is kept says whether the client has registered the name; the others are of the name's digest.
const BY_CLIENT: u64 = 1;

/// Does the client know what an id stands for?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It has not said so.
    NotYet,
    /// It has.
    Yes,
}

/// Who wanted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The client: kept as long as it is there.
    ByClient,
    /// We, for a message to it; makes room for others.
    ByUs,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    known: Known,
    wanted: Wanted,
    used: u64,
}

/// All ids of one client.
#[derive(Debug, Default)]
pub(super) struct Names {
    entries: HashMap<u16, Entry>,
    ids: HashMap<Arc<str>, u16>,
    bytes: usize,
    uses: u64,
    /// What each id stands for that the client may know, as [`digest_of`] has it.
    given: BTreeMap<u16, u64>,
    /// Is `given` another since that was last asked?
    learnt: bool,
}

impl Names {
    /// The session is gone on with: these were given in it.
    pub(super) fn remind(&mut self, given: BTreeMap<u16, u64>) {
        self.given = given;
    }

    /// What was given in this session so far.
    pub(super) fn given(&self) -> &BTreeMap<u16, u64> {
        &self.given
    }

    /// Is that more than it was when this was last asked?
    pub(super) fn take_learnt(&mut self) -> bool {
        std::mem::take(&mut self.learnt)
    }

    /// The client wants an id for this name; `None`: it has too many.
    pub(super) fn register(&mut self, name: &str) -> Option<u16> {
        let id = self.assign(name)?;
        let entry = self.entries.get_mut(&id)?;
        (entry.known, entry.wanted) = (Known::Yes, Wanted::ByClient);
        let given = self.given.get_mut(&id)?;
        self.learnt |= *given & BY_CLIENT == 0;
        *given |= BY_CLIENT;
        Some(id)
    }

    /// An id for a message to it; `None`: there is no room.
    pub(super) fn assign(&mut self, name: &str) -> Option<u16> {
        self.uses += 1;
        if let Some(id) = self.ids.get(name).copied() {
            self.entries.get_mut(&id)?.used = self.uses;
            return Some(id);
        }
        while self.entries.len() >= IDS_MAX || self.bytes + name.len() > BYTES_MAX {
            self.make_room()?;
        }
        let digest = digest_of(name);
        let id = match self.kept(digest) {
            Some(id) => id,
            None => self.give(name, digest)?,
        };
        let name: Arc<str> = name.into();
        self.bytes += name.len();
        self.ids.insert(Arc::clone(&name), id);
        self.entries.insert(id, Entry { name, known: Known::NotYet, wanted: Wanted::ByUs, used: self.uses });
        Some(id)
    }

    /// What an id stands for.
    pub(super) fn name(&self, id: u16) -> Option<&str> {
        self.entries.get(&id).map(|entry| &*entry.name)
    }

    /// Does the client know this id?
    pub(super) fn known(&self, id: u16) -> Known {
        self.entries.get(&id).map_or(Known::NotYet, |entry| entry.known)
    }

    /// The client has said that it knows it, or that it does not.
    pub(super) fn set_known(&mut self, id: u16, known: Known) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.known = known;
        }
    }

    /// The client may have forgotten all of them.
    pub(super) fn doubt(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.known = Known::NotYet);
    }

    /// The id that is kept for a name of this digest.
    fn kept(&self, digest: u64) -> Option<u16> {
        let mut kept = self.given.iter().filter(|(_, given)| **given & !BY_CLIENT == digest).map(|(id, _)| *id);
        kept.find(|id| !self.entries.contains_key(id))
    }

    /// The first one from the name's own on that is kept for no name, kept for this one now. 0 and 65535 are reserved
    /// (section 5.3.11).
    fn give(&mut self, name: &str, digest: u64) -> Option<u16> {
        if self.given.len() >= GIVEN_MAX {
            self.give_up()?;
        }
        let mut id = own(name);
        while matches!(id, 0 | u16::MAX) || self.given.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        self.given.insert(id, digest);
        self.learnt = true;
        Some(id)
    }

    /// Forgets the id of ours that was not used for longest.
    fn make_room(&mut self) -> Option<()> {
        let ours = self.entries.iter().filter(|(_, entry)| entry.wanted == Wanted::ByUs);
        let id = *ours.min_by_key(|(_, entry)| entry.used)?.0;
        let entry = self.entries.remove(&id)?;
        self.bytes -= entry.name.len();
        self.ids.remove(&entry.name);
        Some(())
    }

    /// An id that we gave, and that stands for nothing now, is kept for its name no more.
    fn give_up(&mut self) -> Option<()> {
        let is_idle = |(id, given): &(&u16, &u64)| **given & BY_CLIENT == 0 && !self.entries.contains_key(id);
        let id = *self.given.iter().find(is_idle)?.0;
        self.given.remove(&id);
        Some(())
    }
}

/// The id that a name has unless another has it.
fn own(name: &str) -> u16 {
    let [a, b, c, d] = crc32fast::hash(name.as_bytes()).to_be_bytes();
    u16::from_be_bytes([a ^ c, b ^ d])
}

/// Tells names apart that have the same id; without [`BY_CLIENT`].
fn digest_of(name: &str) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&digest(&SHA256, name.as_bytes()).as_ref()[..8]);
    u64::from_be_bytes(first) & !BY_CLIENT
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three names with the same id of their own.
    fn colliding() -> [String; 3] {
        let mut by_id: HashMap<u16, Vec<String>> = HashMap::new();
        for n in 0.. {
            let name = format!("plant/tank{n}/level");
            let same = by_id.entry(own(&name)).or_default();
            same.push(name);
            if let [a, b, c] = &same[..] {
                return [a.clone(), b.clone(), c.clone()];
            }
        }
        unreachable!("there are more names than ids")
    }

    #[test]
    fn an_id_never_changes_its_owner_in_a_session_whoever_comes_first_after_a_restart() {
        let [a, b, c] = colliding();
        let mut before = Names::default();
        let ids = [&a, &b].map(|name| before.register(name).expect("room"));
        assert!(ids[0] != ids[1] && before.take_learnt());
        let mut after = Names::default();
        after.remind(before.given().clone());
        let other = after.register(&c).expect("room");
        assert!(!ids.contains(&other), "a name that nobody knew before gets none of theirs");
        assert_eq!(after.register(&b), Some(ids[1]), "{b} comes first");
        assert_eq!((after.name(ids[0]), after.name(ids[1])), (None, Some(&*b)));
        assert_eq!(after.register(&a), Some(ids[0]));
        after.take_learnt();
        after.register(&b);
        assert!(!after.take_learnt(), "nothing new");
    }

    #[test]
    fn an_id_that_a_client_has_registered_stands_for_no_other_name_however_many_come_and_over_restarts() {
        let mut names = Names::default();
        let own: Vec<(String, u16)> = (0..500)
            .map(|n| format!("own/{n}"))
            .map(|name| (name.clone(), names.register(&name).expect("room")))
            .collect();
        for restart in 0..5 {
            for n in 0..2 * GIVEN_MAX {
                let id = names.assign(&format!("other/{restart}/{n}")).expect("room is made");
                assert!(own.iter().all(|(_, own)| *own != id) && names.given().contains_key(&id));
            }
            assert_eq!(names.given().len(), GIVEN_MAX);
            let given = names.given().clone();
            names = Names::default();
            names.remind(given);
        }
        for (name, id) in own.iter().rev() {
            assert_eq!(names.register(name), Some(*id));
        }
    }

    #[test]
    fn an_id_that_could_not_be_kept_for_its_name_is_not_given() {
        let mut names = Names::default();
        for connection in 0..2 {
            for n in 0..IDS_MAX {
                assert!(names.register(&format!("{connection}/{n}")).is_some());
            }
            let given = names.given().clone();
            names = Names::default();
            names.remind(given);
        }
        assert_eq!((names.register("one more"), names.assign("another"), names.given().len()), (None, None, GIVEN_MAX));
        assert!(names.register("0/7").is_some(), "it has its own");
    }

    #[test]
    fn a_name_has_the_same_id_after_a_restart_in_whatever_order_names_come() {
        let (mut first, mut second) = (Names::default(), Names::default());
        let names: Vec<String> = (0..200).map(|n| format!("plant/tank{n}/level")).collect();
        let ids: Vec<u16> = names.iter().filter_map(|name| first.register(name)).collect();
        for name in names.iter().rev() {
            second.register(name);
        }
        for (name, id) in names.iter().zip(&ids) {
            assert_eq!(first.name(*id), Some(&**name));
            assert!(second.name(*id) == Some(name) || second.name(*id).is_none());
        }
        assert_eq!(second.register(&names[7]), Some(ids[7]));
    }

    #[test]
    fn ids_are_bounded_and_those_of_the_client_are_never_given_away() {
        let mut names = Names::default();
        let own = names.register("own").expect("room");
        for n in 0..3 * IDS_MAX {
            let id = names.assign(&format!("other/{n}")).expect("room is made");
            assert!(id != 0 && id != u16::MAX && names.known(id) == Known::NotYet);
        }
        assert_eq!((names.name(own), names.known(own)), (Some("own"), Known::Yes));
        assert!(names.entries.len() <= IDS_MAX && names.ids.len() == names.entries.len());
        let kept = (0..3 * IDS_MAX).filter_map(|n| names.register(&format!("mine/{n}"))).count();
        assert_eq!(kept, IDS_MAX - 1);
        assert_eq!(names.assign("one more"), None);
        let mut names = Names::default();
        assert_eq!((0..100).filter_map(|n| names.register(&format!("{n}{}", "x".repeat(4096)))).count(), 15);
    }
}
