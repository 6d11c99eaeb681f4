//! Where Sparkplug messages go (specification, chapter 4): `spBv1.0/<group>/<type>/<edge node>[/<device>]`, and
//! `spBv1.0/STATE/<host>`.

use std::fmt;

use super::topic::TOPIC_BYTES_MAX;

/// The first level of every topic.
const NAMESPACE: &str = "spBv1.0";
/// The second level of a host's state.
const STATE: &str = "STATE";

/// What a message is. Those with D are about a device, those with N about the edge node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the specification's, and say it")]
pub enum Kind {
    NBirth,
    NData,
    NDeath,
    NCmd,
    DBirth,
    DData,
    DDeath,
    DCmd,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::NBirth, Self::NData, Self::NDeath, Self::NCmd, Self::DBirth, Self::DData, Self::DDeath, Self::DCmd];

    /// Its level in the topic.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NBirth => "NBIRTH",
            Self::NData => "NDATA",
            Self::NDeath => "NDEATH",
            Self::NCmd => "NCMD",
            Self::DBirth => "DBIRTH",
            Self::DData => "DDATA",
            Self::DDeath => "DDEATH",
            Self::DCmd => "DCMD",
        }
    }

    /// Is there a device behind the edge node?
    pub const fn of_device(self) -> bool {
        matches!(self, Self::DBirth | Self::DData | Self::DDeath | Self::DCmd)
    }
}

/// Why a text is no group, edge node, device or host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// Zero characters.
    #[error("an id of Sparkplug must not be empty")]
    Empty,
    /// It would be more than one level of a topic, or a wildcard.
    #[error("an id of Sparkplug is one level of a topic: it must not contain /, + or #")]
    Levels,
    /// A control character.
    #[error("an id of Sparkplug must not contain control characters")]
    Control,
    /// No topic would have room for it.
    #[error("an id of Sparkplug has at most 256 bytes")]
    Long,
    /// `STATE` as a group: its topics would be those of hosts.
    #[error("a group must not be called STATE: topics of hosts begin so")]
    State,
}

/// Four of them fit into the longest topic.
const ID_BYTES_MAX: usize = TOPIC_BYTES_MAX / 4;

/// Checks the id of a group, an edge node, a device or a host.
pub fn check_id(id: &str) -> Result<(), BadId> {
    if id.is_empty() {
        Err(BadId::Empty)
    } else if id.contains(['/', '+', '#']) {
        Err(BadId::Levels)
    } else if id.contains(char::is_control) {
        Err(BadId::Control)
    } else if id.len() > ID_BYTES_MAX {
        Err(BadId::Long)
    } else {
        Ok(())
    }
}

/// What a tag is called as a metric of its device: its topic below the device; where that is not in the topic, the tag's own name.
pub fn metric_name(topic: &str, device: &str, tag: &str) -> String {
    let mut levels = topic.split('/');
    let below = levels.find(|level| *level == device).map(|_| levels.collect::<Vec<_>>().join("/"));
    below.filter(|below| !below.is_empty()).unwrap_or_else(|| tag.to_owned())
}

/// An edge node: builds its topics.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    group: String,
    id: String,
}

impl Node {
    /// The node of these ids.
    pub fn new(group: &str, id: &str) -> Result<Self, BadId> {
        check_id(group)?;
        check_id(id)?;
        if group == STATE {
            return Err(BadId::State);
        }
        Ok(Self { group: group.to_owned(), id: id.to_owned() })
    }

    /// Its group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Its own id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The topic of a message about itself; `kind` is one of N.
    pub fn topic(&self, kind: Kind) -> String {
        Topic::Node { group: &self.group, kind, node: &self.id }.to_string()
    }

    /// The topic of a message about this device; `kind` is one of D.
    pub fn device_topic(&self, kind: Kind, device: &str) -> String {
        Topic::Device { group: &self.group, kind, node: &self.id, device }.to_string()
    }

    /// What a topic is to this node; `None`: it is none of its own, well-formed or not.
    pub fn claims(&self, topic: &str) -> Option<Claim> {
        let below = topic.strip_prefix(NAMESPACE)?.strip_prefix('/')?.strip_prefix(&self.group)?;
        let mut levels = below.strip_prefix('/')?.split('/');
        let kind = levels.next()?;
        let commands = [Kind::NCmd, Kind::DCmd].map(Kind::as_str);
        (levels.next()? == self.id).then(|| if commands.contains(&kind) { Claim::Command } else { Claim::Told })
    }

    /// The filter of all its topics: what it tells and what it is told.
    pub fn all_topics(&self) -> String {
        format!("{NAMESPACE}/{}/+/{}/#", self.group, self.id)
    }

    /// The filter of commands for all its devices.
    pub fn device_commands(&self) -> String {
        self.device_topic(Kind::DCmd, "+")
    }
}

/// Which way messages go on a topic of an edge node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// From it: births, data, deaths, and whatever else a later specification may put there.
    Told,
    /// To it: NCMD, DCMD.
    Command,
}

/// `spBv1.0/STATE/<host>`
pub fn state_topic(host: &str) -> String {
    Topic::State { host }.to_string()
}

/// A topic of Sparkplug, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic<'a> {
    /// About an edge node.
    Node {
        /// Its group.
        group: &'a str,
        /// One of N.
        kind: Kind,
        /// Its id.
        node: &'a str,
    },
    /// About a device of it.
    Device {
        /// Group of the edge node.
        group: &'a str,
        /// One of D.
        kind: Kind,
        /// Id of the edge node.
        node: &'a str,
        /// Id of the device.
        device: &'a str,
    },
    /// Of a host.
    State {
        /// Its id.
        host: &'a str,
    },
}

impl<'a> Topic<'a> {
    /// What a topic says; `None` if it is none of Sparkplug.
    pub fn parse(topic: &'a str) -> Option<Self> {
        let mut levels = topic.strip_prefix(NAMESPACE)?.strip_prefix('/')?.split('/');
        let group = levels.next().filter(|group| check_id(group).is_ok())?;
        if group == STATE {
            let host = levels.next().filter(|host| check_id(host).is_ok())?;
            return levels.next().is_none().then_some(Self::State { host });
        }
        let kind = levels.next()?;
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
        let node = levels.next().filter(|node| check_id(node).is_ok())?;
        let device = levels.next();
        if levels.next().is_some() {
            return None;
        }
        match device {
            None if !kind.of_device() => Some(Self::Node { group, kind, node }),
            Some(device) if kind.of_device() && check_id(device).is_ok() => {
                Some(Self::Device { group, kind, node, device })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Topic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { group, kind, node } => write!(f, "{NAMESPACE}/{group}/{}/{node}", kind.as_str()),
            Self::Device { group, kind, node, device } => {
                write!(f, "{NAMESPACE}/{group}/{}/{node}/{device}", kind.as_str())
            }
            Self::State { host } => write!(f, "{NAMESPACE}/{STATE}/{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_is_read_back_as_it_was_built_and_no_other_is_one() {
        let node = Node::new("Acme Süd", "pump-station-7").expect("good ids");
        for kind in Kind::ALL {
            let topic = if kind.of_device() { node.device_topic(kind, "pump 1") } else { node.topic(kind) };
            let parsed = Topic::parse(&topic).expect("ours");
            assert_eq!(parsed.to_string(), topic);
            let (own, foreign) = match parsed {
                Topic::Node { group, kind, node } => ((group, node, kind), None),
                Topic::Device { group, kind, node, device } => ((group, node, kind), Some(device)),
                Topic::State { .. } => panic!("{topic}"),
            };
            assert_eq!(own, ("Acme Süd", "pump-station-7", kind));
            assert_eq!(foreign, kind.of_device().then_some("pump 1"));
        }
        assert_eq!(node.topic(Kind::NBirth), "spBv1.0/Acme Süd/NBIRTH/pump-station-7");
        assert_eq!(node.device_commands(), "spBv1.0/Acme Süd/DCMD/pump-station-7/+");
        assert_eq!(Topic::parse(&state_topic("scada")), Some(Topic::State { host: "scada" }));
        for wrong in [
            "",
            "spBv1.0",
            "spBv1.0/",
            "spAv1.0/G/NBIRTH/N",
            "spBv1.0/G/NBIRTH",
            "spBv1.0/G/NBIRTH/",
            "spBv1.0/G/NBIRTH/N/D",
            "spBv1.0/G/DCMD/N",
            "spBv1.0/G/DCMD/N/D/E",
            "spBv1.0/G/dcmd/N/D",
            "spBv1.0//DCMD/N/D",
            "spBv1.0/STATE",
            "spBv1.0/STATE/a/b",
            "STATE/scada",
        ] {
            assert_eq!(Topic::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_node_claims_its_own_topics_and_nobody_elses() {
        let node = Node::new("acme", "gw").expect("good ids");
        for told in ["NBIRTH/gw", "NDEATH/gw", "DDATA/gw/pump", "DDATA/gw/a/b", "NRECORD/gw"] {
            assert_eq!(node.claims(&format!("spBv1.0/acme/{told}")), Some(Claim::Told), "{told}");
        }
        for command in ["NCMD/gw", "DCMD/gw/pump"] {
            assert_eq!(node.claims(&format!("spBv1.0/acme/{command}")), Some(Claim::Command), "{command}");
        }
        for other in ["spBv1.0/acme/NBIRTH/gw2", "spBv1.0/acme2/NBIRTH/gw", "spBv1.0/acme/NBIRTH", "acme/NBIRTH/gw"] {
            assert_eq!(node.claims(other), None, "{other}");
        }
        assert_eq!(node.claims(&state_topic("gw")), None);
        assert_eq!(node.all_topics(), "spBv1.0/acme/+/gw/#");
    }

    #[test]
    fn an_id_is_one_level_that_a_topic_can_have() {
        for (id, why) in [
            ("", BadId::Empty),
            ("a/b", BadId::Levels),
            ("a+", BadId::Levels),
            ("#", BadId::Levels),
            ("a\0", BadId::Control),
            (&"x".repeat(257), BadId::Long),
        ] {
            assert_eq!(check_id(id), Err(why));
            assert_eq!(Node::new("g", id), Err(why));
        }
        assert_eq!(check_id("Straße 1 – links"), Ok(()));
        assert_eq!(Node::new("STATE", "n"), Err(BadId::State));
    }

    #[test]
    fn a_metric_is_called_as_its_topic_below_the_device() {
        assert_eq!(metric_name("acme/gw/pump-1/flow", "pump-1", "flow"), "flow");
        assert_eq!(metric_name("acme/pump-1/hydraulics/flow", "pump-1", "flow"), "hydraulics/flow");
        assert_eq!(metric_name("acme/hydraulics-flow", "pump-1", "flow"), "flow");
        assert_eq!(metric_name("acme/flow/pump-1", "pump-1", "flow"), "flow");
    }
}
