//! `[[broker.listener]]` and the limits of `[broker]`, resolved.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::MqttSnPlan;
use crate::model::certificate::NameFrom;

/// `[[broker.listener]]`
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerPlan {
    /// Where.
    pub listen: Listen,
    /// What clients without a name may do. Only with a loopback address and without websocket.
    pub anonymous: Anonymous,
    /// `tls`; always there when other machines can reach the address.
    pub tls: Option<ListenerTls>,
    /// `websocket = true`
    pub websocket: Option<WebsocketPlan>,
    /// `identity`: what of a client's certificate is its name.
    pub identity: NameFrom,
    /// `interface`: packets that came another way are not heard.
    pub interface: Option<String>,
    /// `max_qos`: 0, 1 or 2; clients may publish up to it and are granted no more when they subscribe.
    pub max_qos: u8,
    /// `require_client_id`: whoever brings none is refused instead of being given one.
    pub require_client_id: bool,
    /// `protocol = "mqtt-sn"`
    pub mqtt_sn: Option<MqttSnPlan>,
}

impl ListenerPlan {
    /// MQTT on TCP, and nothing else.
    pub fn plain(address: SocketAddr, anonymous: Anonymous) -> Self {
        Self {
            listen: Listen::Tcp(address),
            anonymous,
            tls: None,
            websocket: None,
            identity: NameFrom::default(),
            interface: None,
            max_qos: 2,
            require_client_id: false,
            mqtt_sn: None,
        }
    }

    /// Can one that is open by this plan stay open and go by the other one? Then whoever is still let in stays. Only what is
    /// said of sensors may differ.
    pub fn may_become(&self, other: &Self) -> bool {
        let (Some(old), Some(new)) = (&self.mqtt_sn, &other.mqtt_sn) else { return false };
        old.may_become(new) && Self { mqtt_sn: self.mqtt_sn.clone(), ..other.clone() } == *self
    }

    /// What it is known by where it is told about: two may have the same address, on different interfaces.
    pub fn place(&self) -> String {
        match &self.interface {
            Some(interface) => format!("{} on {interface}", self.listen),
            None => self.listen.to_string(),
        }
    }
}

/// `mqtt://127.0.0.1:1883`, `wss://0.0.0.0:9001`, `mqtt+unix:/run/ironbridge/mqtt.sock`
impl fmt::Display for ListenerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (&self.websocket, &self.tls) {
            (None, None) => "mqtt",
            (None, Some(_)) => "mqtts",
            (Some(_), None) => "ws",
            (Some(_), Some(_)) => "wss",
        };
        match &self.listen {
            Listen::Tcp(address) => write!(f, "{scheme}://{address}"),
            unix @ Listen::Unix(_) => write!(f, "{scheme}+{unix}"),
            Listen::Udp(address) => write!(f, "mqtt-sn://{address}"),
            Listen::Quic(address) => write!(f, "quic://{address}"),
        }
    }
}

/// `listen`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A literal address. Port 0: the system chooses (the bound address is logged).
    Tcp(SocketAddr),
    /// `unix:/path`, absolute.
    Unix(PathBuf),
    /// `udp:` and a literal address.
    Udp(SocketAddr),
    /// A literal address and a UDP port for QUIC: `quic = true`, always with TLS.
    Quic(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Quic(address) => write!(f, "quic:{address}"),
        }
    }
}

/// What anonymous clients may do on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Anonymous {
    /// They are refused at CONNECT.
    #[default]
    None,
    /// They are let in, with what `[[broker.acl]] user = "anonymous"` gives and nothing else.
    Acl,
    /// Read tag topics, client topics, `ironbridge/` and `$SYS/`.
    Read,
    /// And write client topics; never `…/set`, which needs its own ACL rule.
    ReadWrite,
}

/// As it is written in the configuration.
impl fmt::Display for Anonymous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Acl => "acl",
            Self::Read => "read",
            Self::ReadWrite => "read-write",
        })
    }
}

/// `tls` of a listener; files are read again whenever they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// Our chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM; not for everybody to read.
    pub key: PathBuf,
    /// Who signs clients' certificates; without it none is asked for.
    pub client_ca: Option<PathBuf>,
    /// What of a client that shows none.
    pub client_certificate: ClientCertificate,
}

/// `client_certificate`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificate {
    /// It is refused in the handshake.
    #[default]
    Required,
    /// It may log in with name and password.
    Optional,
}

/// A listener that speaks MQTT in websocket frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebsocketPlan {
    /// `origins`: pages that may connect besides those of this box, as browsers write them (`https://hmi.example.com`).
    pub origins: Vec<String>,
}

/// The limits of `[broker]`, for each client or for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerLimits {
    /// `max_connections`: all listeners together; never more than half of the file descriptors that the system gives.
    pub connections: usize,
    /// `max_connections_per_address`: from one address that is not loopback.
    pub per_address: usize,
    /// `max_connect_rate`: new connections, all together.
    pub rate: Rate,
    /// `max_connect_rate_per_address`: from one address that is not loopback.
    pub rate_per_address: Rate,
    /// `max_packet_size`: bytes of a packet that a client may send.
    pub packet_bytes: u32,
    /// `max_payload_size`: bytes of a message's content.
    pub payload_bytes: u32,
    /// `retain_available`: clients may leave retained messages, and get those of other clients.
    pub retain_available: bool,
    /// `check_retain_source`: a retained message is sent only while its publisher may still write there.
    pub check_retain_source: bool,
    /// `max_inflight`: publishes that may be on the way to a client unacknowledged.
    pub inflight: u16,
    /// `max_queued_size`: bytes that may wait for one connected client.
    pub queued_bytes: usize,
    /// `max_subscriptions`: of one client.
    pub subscriptions: usize,
    /// `keep_alive_max`, seconds: MQTT 5 clients that want a longer one, or none, are told to use this; 3.1.1 has no way
    /// to tell.
    pub keep_alive_max: Option<u16>,
}

/// New connections per second; a burst of as many in five seconds is let through at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u16);

impl Default for BrokerLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            per_address: 256,
            rate: Rate(500),
            rate_per_address: Rate(50),
            packet_bytes: 1 << 20,
            payload_bytes: 1 << 20,
            retain_available: true,
            check_retain_source: true,
            inflight: 256,
            queued_bytes: 1 << 20,
            subscriptions: 16_384,
            keep_alive_max: None,
        }
    }
}
