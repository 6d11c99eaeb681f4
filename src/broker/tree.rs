//! Who wants what: filters in a tree of topic levels, with `+`, `#`, the `$` rule and shared groups.
//!
//! Overlapping subscriptions of one client give **one** message with the highest QoS among them and all their
//! subscription identifiers (3.3.4-2 allows that or several copies). A shared group gives each message to one member,
//! in turn (section 4.8.2); that is apart from what the same client subscribes to by itself.
//!
//! What all filters take is counted as they come and go, with what the client has of each: levels that many of them begin with
//! are there once, and are counted once.

use std::collections::HashMap;
use std::sync::Arc;

use super::message::Qos;

/// A client's place in the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClientKey {
    pub slot: u32,
    /// Tells a client from an earlier one in the same slot.
    pub generation: u32,
}

impl ClientKey {
    /// No client: what comes from elsewhere.
    pub(super) const NOBODY: Self = Self { slot: u32::MAX, generation: u32::MAX };
}

/// What a level takes, bytes beside its name: between those of a broad tree and of one where nothing branches.
const LEVEL_COST: usize = 224;
/// And a subscription beside its filter, in the tree and with its client.
pub(super) const SUBSCRIPTION_COST: usize = 160;
/// And a shared group beside its name and its filter.
const GROUP_COST: usize = 160;

/// What a filter takes at most, bytes: that of levels which no other has.
pub(super) fn cost(filter: &str, group: Option<&str>) -> usize {
    let levels = filter.split('/').count() * LEVEL_COST + filter.len();
    levels + subscription_cost(filter, group) + group.map_or(0, |name| group_cost(filter, name))
}

/// The filter is there as its client has it, and as long as it waits for the disk or for retained messages once more.
fn subscription_cost(filter: &str, group: Option<&str>) -> usize {
    SUBSCRIPTION_COST + 2 * (filter.len() + group.map_or(0, |name| "$share//".len() + name.len()))
}

fn group_cost(filter: &str, name: &str) -> usize {
    GROUP_COST + "$share//".len() + filter.len() + 2 * name.len()
}

/// What a client asked for with one filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subscription {
    pub client: ClientKey,
    pub qos: Qos,
    /// Not what the client itself published.
    pub no_local: bool,
    pub retain_as_published: bool,
    /// Subscription identifier.
    pub id: Option<u32>,
}

/// Was the filter there before?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    New,
    Replaced,
}

#[derive(Debug, Default)]
pub(super) struct Tree {
    root: Node,
    count: usize,
    shared: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// Boxed, for the places of a map that are free are as large as those that are taken.
    children: HashMap<Box<str>, Box<Node>>,
    single: Vec<Subscription>,
    /// In the order of their names: there may be very many.
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    name: Box<str>,
    /// With the filter, as clients have it.
    raw: Arc<str>,
    members: Vec<Subscription>,
    /// Whose turn it is, unless it is beyond the last: then the first one's.
    next: usize,
}

/// What a topic found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Of every matching filter; a client may be there several times.
    pub single: Vec<Subscription>,
    /// One member of each matching group, and the group as clients subscribe to it.
    pub shared: Vec<(Subscription, Arc<str>)>,
}

impl Tree {
    /// Subscriptions in all.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Of these, shared ones.
    pub(super) fn shared(&self) -> usize {
        self.shared
    }

    /// What they take, with what their clients have of them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds or replaces; `group` for a shared subscription. The filter is valid.
    pub(super) fn add(&mut self, filter: &str, group: Option<&str>, subscription: Subscription) -> Added {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = node.children.entry(level.into()).or_insert_with(|| {
                self.bytes += LEVEL_COST + level.len();
                Box::default()
            });
        }
        let list = match group {
            None => &mut node.single,
            Some(name) => node.group(name, filter, &mut self.bytes),
        };
        if let Some(old) = list.iter_mut().find(|old| old.client == subscription.client) {
            *old = subscription;
            return Added::Replaced;
        }
        list.reserve_exact(usize::from(list.is_empty())); // most have no other
        list.push(subscription);
        self.bytes += subscription_cost(filter, group);
        self.count += 1;
        self.shared += usize::from(group.is_some());
        Added::New
    }

    /// Removes; false when there was none.
    pub(super) fn remove(&mut self, filter: &str, group: Option<&str>, client: ClientKey) -> bool {
        let levels: Vec<&str> = filter.split('/').collect();
        let Some(freed) = self.root.remove(&levels, group, client) else { return false };
        let group_freed = group.filter(|_| freed.group).map_or(0, |name| group_cost(filter, name));
        self.bytes -= freed.levels + group_freed + subscription_cost(filter, group);
        self.count -= 1;
        self.shared -= usize::from(group.is_some());
        true
    }

    /// All that match a valid topic; `found` is cleared first, so that it can be used again without allocating. Of a shared
    /// group one of those is found who `stand` best.
    pub(super) fn find(&mut self, topic: &str, found: &mut Found, stand: &impl Fn(&Subscription) -> Standing) {
        found.single.clear();
        found.shared.clear();
        self.root.find(topic, topic.starts_with('$'), &mut Finding { found, stand });
    }

    /// The member of a group that has the next turn, if there is one who does not lose what it is given.
    pub(super) fn next_of(
        &mut self,
        filter: &str,
        group: &str,
        stand: &impl Fn(&Subscription) -> Standing,
    ) -> Option<Subscription> {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = node.children.get_mut(level)?;
        }
        let group = node.place(group).ok().and_then(|place| node.groups.get_mut(place))?;
        group.choose(stand).filter(|member| stand(member) != Standing::Full)
    }
}

/// What is being found, and how it is chosen.
struct Finding<'a, F> {
    found: &'a mut Found,
    stand: &'a F,
}

/// What becomes of a message with a member of a group, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is connected.
    Here,
    /// It is not, and will be owed it.
    Away,
    /// It is connected, and there is no room to owe it to it: sent once, it is lost should the connection break.
    Unowed,
    /// It would be lost.
    Full,
}

impl Group {
    /// The next of those who stand best.
    fn choose(&mut self, stand: &impl Fn(&Subscription) -> Standing) -> Option<Subscription> {
        let count = self.members.len();
        let turn = |step: usize| (self.next + step) % count.max(1);
        let find = |wanted: Standing| {
            (0..count).map(turn).find(|place| self.members.get(*place).is_some_and(|member| stand(member) == wanted))
        };
        let best = [Standing::Here, Standing::Away, Standing::Unowed].into_iter().find_map(find);
        let chosen = best.unwrap_or_else(|| turn(0));
        self.next = chosen + 1;
        self.members.get(chosen).copied()
    }
}

/// What went with a subscription.
#[derive(Default)]
struct Freed {
    /// Bytes of levels.
    levels: usize,
    /// It was the last of its group.
    group: bool,
}

impl Node {
    fn group(&mut self, name: &str, filter: &str, bytes: &mut usize) -> &mut Vec<Subscription> {
        let place = self.place(name).unwrap_or_else(|place| {
            *bytes += group_cost(filter, name);
            self.groups.reserve_exact(usize::from(self.groups.is_empty()));
            let raw = format!("$share/{name}/{filter}").into();
            self.groups.insert(place, Group { name: name.into(), raw, members: Vec::new(), next: 0 });
            place
        });
        &mut self.groups[place].members
    }

    /// Where a group is, or would be.
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.groups.binary_search_by(|group| (*group.name).cmp(name))
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.single.is_empty() && self.groups.is_empty()
    }

    /// `None`: there was none.
    fn remove(&mut self, levels: &[&str], group: Option<&str>, client: ClientKey) -> Option<Freed> {
        if let Some((level, rest)) = levels.split_first() {
            let child = self.children.get_mut(*level)?;
            let mut freed = child.remove(rest, group, client)?;
            if child.is_empty() {
                self.children.remove(*level);
                freed.levels += LEVEL_COST + level.len();
            }
            return Some(freed);
        }
        let place = group.map(|name| self.place(name)).transpose().ok()?;
        let list = place.map_or(&mut self.single, |place| &mut self.groups[place].members);
        let before = list.len();
        list.retain(|subscription| subscription.client != client);
        let removed = list.len() < before;
        let over = place.filter(|place| self.groups[*place].members.is_empty());
        let group = over.map(|place| self.groups.remove(place)).is_some();
        removed.then(|| Freed { group, ..Freed::default() })
    }

    /// `rest` is what of the topic lies below this node; wildcards do not match a first level that begins with `$`.
    fn find<F: Fn(&Subscription) -> Standing>(&mut self, rest: &str, dollar: bool, found: &mut Finding<'_, F>) {
        let (level, below) = match rest.split_once('/') {
            Some((level, below)) => (level, Some(below)),
            None => (rest, None),
        };
        if !dollar {
            if let Some(all) = self.children.get_mut("#") {
                all.take(found);
            }
            if let Some(any) = self.children.get_mut("+") {
                any.enter(below, found);
            }
        }
        if let Some(exact) = self.children.get_mut(level) {
            exact.enter(below, found);
        }
    }

    fn enter<F: Fn(&Subscription) -> Standing>(&mut self, below: Option<&str>, found: &mut Finding<'_, F>) {
        if let Some(below) = below {
            self.find(below, false, found);
            return;
        }
        self.take(found);
        // `a/#` matches `a` itself (section 4.7.1.2).
        if let Some(all) = self.children.get_mut("#") {
            all.take(found);
        }
    }

    fn take<F: Fn(&Subscription) -> Standing>(&mut self, finding: &mut Finding<'_, F>) {
        finding.found.single.extend_from_slice(&self.single);
        for group in &mut self.groups {
            finding.found.shared.extend(group.choose(finding.stand).map(|member| (member, Arc::clone(&group.raw))));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::topic::{check_filter, check_topic, matches};

    fn by(slot: u32) -> Subscription {
        let client = ClientKey { slot, generation: 0 };
        Subscription { client, qos: Qos::AtLeastOnce, no_local: false, retain_as_published: false, id: None }
    }

    fn who(tree: &mut Tree, topic: &str) -> Vec<u32> {
        let mut found = Found::default();
        tree.find(topic, &mut found, &|_| Standing::Here);
        let mut slots: Vec<u32> = found.single.iter().map(|subscription| subscription.client.slot).collect();
        slots.sort_unstable();
        slots
    }

    fn text() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "", "+", "#", "é", "$SYS"]);
        prop::collection::vec(level, 1..5).prop_map(|levels| levels.join("/"))
    }

    proptest! {
        #[test]
        fn the_tree_finds_exactly_what_the_plain_rule_matches(
            filters in prop::collection::vec(text(), 1..20),
            topics in prop::collection::vec(text(), 1..20),
            gone in prop::collection::vec(any::<bool>(), 20),
        ) {
            let mut tree = Tree::default();
            let filters: Vec<String> = filters.into_iter().filter(|filter| check_filter(filter).is_ok()).collect();
            for (slot, filter) in (0..).zip(&filters) {
                tree.add(filter, None, by(slot));
            }
            for ((slot, filter), gone) in (0..).zip(&filters).zip(&gone) {
                if *gone {
                    prop_assert!(tree.remove(filter, None, by(slot).client));
                    prop_assert!(!tree.remove(filter, None, by(slot).client));
                }
            }
            let count = filters.iter().zip(&gone).filter(|(_, gone)| !**gone).count();
            let most: usize = filters.iter().zip(&gone).filter(|(_, gone)| !**gone).map(|(filter, _)| cost(filter, None)).sum();
            prop_assert!(tree.bytes() <= most && tree.bytes() >= count * SUBSCRIPTION_COST, "{} of {}", tree.bytes(), most);
            for topic in topics.iter().filter(|topic| check_topic(topic).is_ok()) {
                let wanted: Vec<u32> = (0..).zip(filters.iter().zip(&gone))
                    .filter(|(_, (filter, gone))| !**gone && matches(filter, topic))
                    .map(|(slot, _)| slot)
                    .collect();
                prop_assert_eq!(who(&mut tree, topic), wanted, "{}", topic);
            }
        }
    }

    #[test]
    fn a_shared_group_takes_turns_and_an_emptied_tree_holds_nothing() {
        let mut tree = Tree::default();
        for slot in 0..3 {
            assert_eq!(tree.add("a/#", Some("g"), by(slot)), Added::New);
        }
        assert_eq!((tree.count(), tree.shared()), (3, 3));
        let mut found = Found::default();
        let mut turns = Vec::new();
        for _ in 0..6 {
            tree.find("a/b", &mut found, &|_| Standing::Here);
            assert!(found.single.is_empty());
            turns.extend(found.shared.iter().map(|(subscription, _)| subscription.client.slot));
        }
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
        for (best, worst, expected) in [
            ((2, Standing::Here), Standing::Away, [2, 2]),
            ((1, Standing::Here), Standing::Full, [1, 1]),
            ((0, Standing::Away), Standing::Full, [0, 0]),
            ((2, Standing::Away), Standing::Unowed, [2, 2]),
            ((1, Standing::Unowed), Standing::Full, [1, 1]),
            ((0, Standing::Full), Standing::Full, [2, 0]),
        ] {
            for turn in expected {
                let stand = |member: &Subscription| if member.client.slot == best.0 { best.1 } else { worst };
                tree.find("a/b", &mut found, &stand);
                let (member, raw) = &found.shared[0];
                assert_eq!((member.client.slot, &**raw), (turn, "$share/g/a/#"), "{best:?}");
            }
        }
        let mut next = |group, standing| tree.next_of("a/#", group, &|_| standing).map(|member| member.client.slot);
        assert_eq!((next("g", Standing::Here), next("g", Standing::Here)), (Some(1), Some(2)));
        assert_eq!((next("g", Standing::Full), next("h", Standing::Here)), (None, None));
        for slot in 0..3 {
            assert!(tree.remove("a/#", Some("g"), by(slot).client));
        }
        assert!(tree.root.is_empty());
        assert_eq!((tree.count(), tree.shared(), tree.bytes()), (0, 0, 0));
    }
}
