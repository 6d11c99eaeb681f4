//! What is known of somebody at the door before the first packet: where it is, and what it has proven there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::UnixStream;

use super::certificates::Guest;
use crate::model::certificate::CertificateNames;

/// What the transport knows of a client. Nothing here was claimed by it alone.
#[derive(Debug)]
pub(super) struct Shown {
    /// The other end.
    pub peer: Peer,
    /// Its certificate, which was verified against `client_ca`; `None`: it has shown none.
    pub certificate: Option<Certificate>,
    /// The name under which its door has its client id in a list; for sensors, which can prove nothing.
    pub sensor: Option<Arc<str>>,
}

/// A verified certificate.
#[derive(Debug)]
pub(super) struct Certificate {
    /// Who it is for.
    pub names: CertificateNames,
    /// Its holder, who is sent away when it is not accepted any more.
    pub guest: Arc<Guest>,
}

/// The other end; written into logs as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// On the network.
    Address(SocketAddr),
    /// A process on this box, as the kernel vouches for it (`SO_PEERCRED`, unix(7)).
    Process { pid: i32, uid: u32 },
    /// On this box, gone before it could be asked who it is.
    Gone,
    /// The gateway itself.
    Inside,
}

impl Peer {
    /// Who is at the other end of a unix socket.
    pub(super) fn of(stream: &UnixStream) -> Self {
        match stream.peer_cred() {
            Ok(known) => Self::Process { pid: known.pid().unwrap_or(0), uid: known.uid() },
            Err(_) => Self::Gone,
        }
    }
}

impl Peer {
    /// Of the host at the other end; `None`: it is this one.
    pub(super) fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address.ip()),
            Self::Process { .. } | Self::Gone | Self::Inside => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Process { pid, uid } => write!(f, "process {pid} of user {uid}"),
            Self::Gone => f.write_str("a process"),
            Self::Inside => f.write_str("the gateway"),
        }
    }
}
