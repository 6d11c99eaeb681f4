//! The topic ids of one client: numbers that stand for names, given by us, at its wish or for a message to it.
//!
//! A number is made from its name (a digest of 16 bits, and the next free one if another name has it). So a client that
//! still uses the numbers of an earlier connection, or of a gateway that was started anew since, meets the same topic
//! again, or none: "invalid topic id", and registers anew. Numbers in order of arrival would have let it publish one
//! topic's values on another.

use std::collections::HashMap;
use std::sync::Arc;

/// Ids of one client, and bytes of their names.
const IDS_MAX: usize = 1024;
const BYTES_MAX: usize = 64 * 1024;

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
}

impl Names {
    /// The client wants an id for this name; `None`: it has too many.
    pub(super) fn register(&mut self, name: &str) -> Option<u16> {
        let id = self.assign(name)?;
        let entry = self.entries.get_mut(&id)?;
        (entry.known, entry.wanted) = (Known::Yes, Wanted::ByClient);
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
        let id = self.free(name);
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

    /// The first one from the name's own on that no other name has. 0 and 65535 are reserved (section 5.3.11).
    fn free(&self, name: &str) -> u16 {
        let digest = crc32fast::hash(name.as_bytes());
        let [a, b, c, d] = digest.to_be_bytes();
        let mut id = u16::from_be_bytes([a ^ c, b ^ d]);
        while matches!(id, 0 | u16::MAX) || self.entries.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        id
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
