//! Who owns which topic: what clients may not write, whatever their rules say, and what is a command.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

use super::is_gateways;
use crate::model::lock::HoldEither as _;
use crate::model::sparkplug::{Claim, Node};
use crate::model::tag::TagIx;

/// What a topic is to a client that wants to publish on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Tag topics, results, `ironbridge/…`, `$…`: no client writes them, whatever its ACL.
    Gateway,
    /// `<tag topic>/set` of this tag: a command.
    Command(TagIx),
    /// Any other topic ending in `/set`: a client topic, but never covered by `anonymous = "read-write"`, and never retained.
    ClientSet,
    /// `…/set` where only tags of one device are, and none of them has this name: a command that would be heard by nobody.
    NoTag,
    /// What an edge node of Sparkplug tells that the gateway itself is on its own broker: nobody else tells it.
    EdgeNode,
    /// A command for that edge node: never covered by `anonymous = "read-write"` either.
    EdgeCommand,
    /// Anything else.
    Client,
}

impl Owner {
    /// Do clients talk to each other there? Then it may come from elsewhere and go there, by bridges and uplinks.
    pub const fn is_clients(self) -> bool {
        matches!(self, Self::Client | Self::ClientSet)
    }
}

/// Which topics belong to the gateway; built from a plan, shared by broker and uplinks, and replaced by a reload.
#[derive(Debug, Default)]
pub struct Ownership {
    tags: RwLock<HashMap<Arc<str>, TagIx>>,
    /// What of the topics of tags stands before their name, where that is the place of one device.
    places: RwLock<HashSet<Box<str>>>,
    nodes: RwLock<Vec<Node>>,
}

impl Ownership {
    /// From the topic of every tag.
    pub fn new(tags: impl IntoIterator<Item = (Arc<str>, TagIx)>) -> Self {
        Self { tags: RwLock::new(tags.into_iter().collect()), ..Self::default() }
    }

    /// From now on these tags, and no others.
    pub fn replace(&self, tags: impl IntoIterator<Item = (Arc<str>, TagIx)>) {
        let tags = tags.into_iter().collect();
        *self.tags.hold_write() = tags;
    }

    /// From now on devices have their tags at these places.
    pub fn settle(&self, places: HashSet<Box<str>>) {
        *self.places.hold_write() = places;
    }

    fn is_of_device(&self, topic: &str) -> bool {
        let place = topic.rsplit_once('/').map(|(place, _)| place);
        place.is_some_and(|place| self.places.hold_read().contains(place))
    }

    /// From now on these are the edge nodes that the gateway is on its own broker.
    pub fn stand_for(&self, nodes: Vec<Node>) {
        *self.nodes.hold_write() = nodes;
    }

    fn of_nodes(&self, topic: &str) -> Option<Owner> {
        let nodes = self.nodes.hold_read();
        nodes.iter().find_map(|node| node.claims(topic)).map(|claim| match claim {
            Claim::Told => Owner::EdgeNode,
            Claim::Command => Owner::EdgeCommand,
        })
    }

    /// Who owns this topic.
    pub fn of(&self, topic: &str) -> Owner {
        let tags = self.tags.hold_read();
        if is_gateways(topic) || tags.contains_key(topic) {
            return Owner::Gateway;
        }
        if let Some(owner) = self.of_nodes(topic) {
            return owner;
        }
        match topic.strip_suffix("/set") {
            Some(tag_topic) => match tags.get(tag_topic) {
                Some(tag) => Owner::Command(*tag),
                None if self.is_of_device(tag_topic) => Owner::NoTag,
                None => Owner::ClientSet,
            },
            None => Owner::Client,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_owns_tags_results_and_its_own_tree() {
        let own = Ownership::new([("p/pump/pressure".into(), TagIx(3))]);
        for topic in ["p/pump/pressure", "p/pump/pressure/set/result", "ironbridge/x/status", "$SYS/broker/load"] {
            assert_eq!(own.of(topic), Owner::Gateway, "{topic}");
        }
        assert_eq!(own.of("p/pump/pressure/set"), Owner::Command(TagIx(3)));
        assert_eq!(own.of("other/set"), Owner::ClientSet);
        assert_eq!(own.of("p/pump"), Owner::Client);
        assert_eq!(own.of("p/pump/presure/set"), Owner::ClientSet, "nobody says that p/pump is a device's");
        own.settle(HashSet::from(["p/pump".into()]));
        assert_eq!(own.of("p/pump/presure/set"), Owner::NoTag);
        assert_eq!(own.of("p/pump/pressure/set"), Owner::Command(TagIx(3)));
        assert_eq!((own.of("p/other/set"), own.of("p/pump/presure")), (Owner::ClientSet, Owner::Client));
        let birth = "spBv1.0/acme/NBIRTH/gw";
        assert_eq!(own.of(birth), Owner::Client, "it is no edge node here");
        own.stand_for(vec![Node::new("acme", "gw").expect("good ids")]);
        assert_eq!((own.of(birth), own.of("spBv1.0/acme/NBIRTH/gw2")), (Owner::EdgeNode, Owner::Client));
        assert_eq!(own.of("spBv1.0/acme/DCMD/gw/pump"), Owner::EdgeCommand);
        assert_eq!(own.of("spBv1.0/STATE/scada"), Owner::Client);
        for topic in ["p/pump/pressure", "p/pump/pressure/set", "p/pump/presure/set", birth, "x/set/result"] {
            assert!(!own.of(topic).is_clients(), "{topic}");
        }
        assert!(own.of("zigbee2mqtt/lamp/set").is_clients() && own.of("zigbee2mqtt/lamp").is_clients());
    }
}
