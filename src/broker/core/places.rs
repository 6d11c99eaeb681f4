//! What all clients share and has a bound: sessions that outlive their connections, and what filters take.
//!
//! Whoever may read at all may take of both, and holds it for as long as a session lives. So the last eighth is for owners (a
//! user, or all who have no name) that have no more than an eighth with it: nobody else finds everything taken by one. That
//! somebody was refused for want of places is told, and so is that there are enough again.

use std::collections::HashMap;
use std::sync::Arc;

use super::Shared;
use super::subscribing::ALL_MAX;

/// Such a part of all is for owners that have no more.
const OTHERS_PART: usize = 8;

/// Places of one kind.
#[derive(Debug, Default)]
pub(super) struct Places {
    all: usize,
    owners: HashMap<Arc<str>, usize>,
    /// Somebody was refused since it was looked last.
    refused: bool,
    /// It was told that they are taken.
    told: bool,
}

/// How many are taken, and how many there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub taken: usize,
    pub most: usize,
}

/// Places of which kind have been taken, or are there again.
#[derive(Debug)]
pub(in crate::broker) struct Shortage {
    pub kind: PlaceKind,
    /// Who has the most, while they are taken.
    pub greediest: Option<Arc<str>>,
}

/// What there are places for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum PlaceKind {
    Sessions,
    Subscriptions,
}

impl Places {
    pub(super) fn all(&self) -> usize {
        self.all
    }

    pub(super) fn take(&mut self, owner: &Arc<str>, places: usize) {
        self.all += places;
        *self.owners.entry(Arc::clone(owner)).or_default() += places;
    }

    pub(super) fn give_back(&mut self, owner: &str, places: usize) {
        self.all -= places;
        if let Some(own) = self.owners.get_mut(owner) {
            *own -= places;
            if *own == 0 {
                self.owners.remove(owner);
            }
        }
    }

    /// May this owner take so many more? That it may not is remembered, and told.
    pub(super) fn has_room(&mut self, owner: &str, wanted: usize, bound: Bound) -> bool {
        let (after, others) = (bound.taken + wanted, bound.most / OTHERS_PART);
        let own = self.owners.get(owner).copied().unwrap_or(0) + wanted;
        let fits = after <= bound.most && (after <= bound.most - others || own <= others);
        self.refused |= !fits;
        fits
    }

    fn look(&mut self, kind: PlaceKind, bound: Bound) -> Option<Shortage> {
        let refused = std::mem::take(&mut self.refused);
        let greediest = if refused && !self.told {
            self.told = true;
            self.owners.iter().max_by_key(|(_, places)| **places).map(|(owner, _)| Arc::clone(owner))
        } else if self.told && !refused && bound.taken <= bound.most - bound.most.div_ceil(4) {
            self.told = false;
            None
        } else {
            return None;
        };
        Some(Shortage { kind, greediest })
    }
}

impl Shared {
    /// Whether there are places has changed.
    pub(in crate::broker) fn watch_places(&self) -> impl Iterator<Item = Shortage> {
        let mut core = self.lock();
        let sessions = Bound { taken: core.sessions.all(), most: self.bounds.max_sessions };
        let filters = Bound { taken: core.tree.bytes(), most: ALL_MAX };
        let sessions = core.sessions.look(PlaceKind::Sessions, sessions);
        let filters = core.filters.look(PlaceKind::Subscriptions, filters);
        sessions.into_iter().chain(filters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_leaves_an_eighth_to_the_others_and_all_together_stay_within_the_bound() {
        let mut places = Places::default();
        let mut take = |owner: &str| {
            let bound = Bound { taken: places.all(), most: 80 };
            let fits = places.has_room(owner, 1, bound);
            if fits {
                places.take(&owner.into(), 1);
            }
            fits
        };
        assert_eq!((0..100).filter(|_| take("greedy")).count(), 70);
        assert_eq!((0..100).filter(|_| take("other")).count(), 10);
        assert!(!take("third"), "there are no more than there are");
        places.give_back("other", 10);
        assert_eq!((places.all(), places.owners.len()), (70, 1));
    }

    #[test]
    fn few_places_are_for_whoever_comes_first() {
        let mut places = Places::default();
        assert!(places.has_room("one", 1, Bound { taken: 0, most: 1 }));
        assert!(!places.has_room("two", 1, Bound { taken: 1, most: 1 }));
    }

    #[test]
    fn that_places_are_taken_is_told_once_with_who_has_the_most_and_taken_back_when_there_are_enough() {
        let mut places = Places::default();
        places.take(&"a".into(), 1);
        places.take(&"b".into(), 2);
        let mut bound = Bound { taken: 3, most: 3 };
        assert!(places.look(PlaceKind::Sessions, bound).is_none(), "nobody was refused");
        for told in [true, false] {
            assert!(!places.has_room("a", 1, bound));
            let look = places.look(PlaceKind::Sessions, bound);
            assert_eq!(look.and_then(|shortage| shortage.greediest).as_deref(), told.then_some("b"));
        }
        assert!(places.look(PlaceKind::Sessions, bound).is_none(), "still so");
        bound.taken = 2;
        assert!(places.look(PlaceKind::Sessions, bound).is_some_and(|shortage| shortage.greediest.is_none()));
        assert!(places.look(PlaceKind::Sessions, bound).is_none(), "once");
    }
}
