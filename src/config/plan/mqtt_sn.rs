//! A listener that speaks MQTT-SN: what its gateway says, to whom it listens and under which names.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Longest client id of a sensor, bytes; the specification has 23 (section 5.3.1).
pub const SENSOR_ID_BYTES_MAX: usize = 256;

/// `mqtt_sn` and the tables beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttSnPlan {
    /// `gateway_id`: what ADVERTISE and GWINFO say.
    pub gateway_id: u8,
    /// `advertise` and `advertise_to`; `None`: it is never said unasked that there is a gateway.
    pub advertise: Option<AdvertisePlan>,
    /// `retry`: after this long without an answer a message is sent again.
    pub retry: Duration,
    /// `retries`: so often, then its client counts as lost.
    pub retries: u16,
    /// `wait`: after this long a message is sent again to a client that had no room for it; so often, too.
    pub wait: Duration,
    /// `max_datagram`: bytes, both ways.
    pub datagram_bytes: u16,
    /// `[[broker.listener.topic]]`
    pub topics: Vec<(u16, String)>,
    /// `[[broker.listener.sensor]]`
    pub sensors: Vec<SensorPlan>,
    /// `publish_user`; `None`: what comes at QoS −1 is not taken.
    pub publish: Option<UnaskedPlan>,
}

/// How a gateway makes itself known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdvertisePlan {
    /// How often; whole seconds.
    pub every: Duration,
    /// A broadcast or multicast address, or that of one forwarder.
    pub to: SocketAddr,
}

/// Clients that are let in, and what they are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SensorPlan {
    /// An id, or the beginning of ids with `*` behind it.
    pub client_id: String,
    /// The name in rules, behind `sensor:`; `None`: the client id.
    pub user: Option<String>,
    /// Where they may come from; empty: from anywhere.
    pub from: Vec<AddressRange>,
}

/// Who publishes at QoS −1, without a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnaskedPlan {
    /// The name in rules, behind `sensor:`.
    pub user: String,
    /// Where it may come from; empty: from anywhere.
    pub from: Vec<AddressRange>,
}

/// What a listener's list says of a client id and the address it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance<'a> {
    /// It is taken for this user, behind `sensor:` in rules.
    User(&'a str),
    /// The id is in the list, for other networks.
    Elsewhere,
    /// The id is not in the list.
    Unknown,
}

/// Addresses that begin alike: `10.0.0.0/24`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    address: IpAddr,
    bits: u8,
}

impl MqttSnPlan {
    /// Can a gateway that is at work by this plan go on by the other one? Its clients know it by its id, have been told how long
    /// a message may be, and look for it in the group that its port is in.
    pub fn may_become(&self, other: &Self) -> bool {
        let known = |plan: &Self| (plan.gateway_id, plan.datagram_bytes, plan.advertise.map(|plan| plan.to));
        known(self) == known(other)
    }

    /// Whom a client with this id, from there, is taken for. An id that is written out is nobody's but its entries': no
    /// pattern, and no door for everybody, lets it in from another network.
    pub fn entrance<'a>(&'a self, client_id: &'a str, from: IpAddr) -> Entrance<'a> {
        let exact = |sensor: &&SensorPlan| sensor.client_id == client_id && !sensor.client_id.ends_with('*');
        let begins =
            |sensor: &&SensorPlan| sensor.client_id.strip_suffix('*').is_some_and(|begin| client_id.starts_with(begin));
        let is_exact = self.sensors.iter().any(|sensor| exact(&sensor));
        let counts = |sensor: &&SensorPlan| if is_exact { exact(sensor) } else { begins(sensor) };
        let mut entries = self.sensors.iter().filter(counts).peekable();
        if entries.peek().is_none() {
            return Entrance::Unknown;
        }
        let admitting = entries.find(|sensor| admits(&sensor.from, from));
        admitting.map_or(Entrance::Elsewhere, |sensor| Entrance::User(sensor.user.as_deref().unwrap_or(client_id)))
    }

    /// The name of a predefined topic.
    pub fn topic(&self, id: u16) -> Option<&str> {
        self.topics.iter().find(|(known, _)| *known == id).map(|(_, name)| name.as_str())
    }
}

/// Is the address in one of these networks, if there are any?
pub fn admits(networks: &[AddressRange], address: IpAddr) -> bool {
    networks.is_empty() || networks.iter().any(|network| network.contains(address))
}

impl AddressRange {
    /// `10.0.0.0/24`, `fd00::/8`, `10.0.0.7`; nothing may be set behind the bits that count.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most))?;
        let network = Self { address, bits };
        (masked(address, bits) == address).then_some(network)
    }

    /// Is the address in it? One that an IPv6 socket shows for IPv4 is the one it maps.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.bits) == self.address
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_written_out_comes_in_from_its_own_network_only() {
        let sensor = |client_id: &str, user: Option<&str>, from: &str| SensorPlan {
            client_id: client_id.to_owned(),
            user: user.map(Into::into),
            from: vec![AddressRange::parse(from).expect("a network")],
        };
        let plan = MqttSnPlan {
            sensors: vec![sensor("tank-1", None, "10.0.7.5"), sensor("tank-*", Some("tanks"), "10.0.8.0/24")],
            gateway_id: 1,
            advertise: None,
            retry: Duration::from_secs(10),
            retries: 4,
            wait: Duration::from_secs(360),
            datagram_bytes: 1400,
            topics: Vec::new(),
            publish: None,
        };
        assert_eq!(plan.entrance("tank-1", address("10.0.7.5")), Entrance::User("tank-1"));
        assert_eq!(plan.entrance("tank-1", address("10.0.8.9")), Entrance::Elsewhere, "the pattern is not for it");
        assert_eq!(plan.entrance("tank-2", address("10.0.8.9")), Entrance::User("tanks"));
        assert_eq!(plan.entrance("tank-2", address("10.0.7.5")), Entrance::Elsewhere);
        assert_eq!(plan.entrance("pump-1", address("10.0.7.5")), Entrance::Unknown);
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_network_holds_what_begins_like_it_and_nothing_else() {
        let network = |text| AddressRange::parse(text);
        for bad in ["", "10.0.0.0/33", "10.0.0.1/24", "fd00::/129", "10.0.0/8", "ten/8", "10.0.0.0/"] {
            assert_eq!(network(bad), None, "{bad}");
        }
        let inside = |text, from| network(text).expect("a network").contains(address(from));
        assert!(inside("10.0.0.0/24", "10.0.0.255") && inside("10.0.0.0/24", "::ffff:10.0.0.7"));
        assert!(!inside("10.0.0.0/24", "10.0.1.0") && !inside("10.0.0.0/24", "fd00::1"));
        assert!(inside("10.0.0.7", "10.0.0.7") && !inside("10.0.0.7", "10.0.0.8"));
        assert!(inside("0.0.0.0/0", "192.0.2.1") && inside("fd00::/8", "fd12::1") && !inside("fd00::/8", "fe80::1"));
    }
}
