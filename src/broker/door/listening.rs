//! Where a door listens: a TCP port, perhaps of one interface only, a unix socket, or a UDP port (datagrams, or QUIC).
//!
//! A unix socket has mode 0660 from its first moment (made under a name of its own and then moved into place), so the
//! group of the process, or of a directory with mode 2…, decides who may connect. What is left of an earlier run is replaced;
//! a socket on which somebody listens, and a file that is no socket, are left alone. The directory is not made: its owner is
//! the administrator's choice (packages: `/run/ironbridge-clients` of a group that has no other rights).

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket, UnixListener, UnixStream};
use tokio::time::Instant;

use super::certificates::Secured;
#[cfg(feature = "quic")]
pub(super) use super::ports::Ports;
use super::shown::Peer;
use crate::config::plan::{Listen, ListenerPlan};
#[cfg(feature = "quic")]
use crate::road::quic::port::{Caller, Port};

/// Connections that wait to be taken in: a plant that comes back after a power cut connects all at once.
const BACKLOG: u32 = 1024;

/// Bytes that may wait in the kernel for their first transmission (`TCP_NOTSENT_LOWAT`, tcp(7)). It would take megabytes for
/// a slow reader, and what is there cannot be replaced by a newer value any more.
const NOT_SENT_MAX: u32 = 64 << 10;

/// Who may connect to a unix socket: owner and group.
const SOCKET_MODE: u32 = 0o660;

/// How long a port for datagrams may still be held by the door before, and how often that is looked at.
const HANDOVER_MAX: Duration = Duration::from_millis(500);
const HANDOVER_LOOK: Duration = Duration::from_millis(20);

/// An open door.
pub(super) enum Listening {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
    #[cfg(feature = "quic")]
    Quic(Arc<Port>),
    /// Datagrams have no connections: whoever serves them takes them from here.
    Udp(Arc<UdpSocket>),
}

/// A connection as it was taken in.
pub(super) enum Raw {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
    #[cfg(feature = "quic")]
    Quic(Box<Caller>),
}

/// The name of our socket; removed when the door closes, if it is still ours.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Listening {
    /// Opens it, once. What QUIC answers with when somebody comes is of use for nothing else, and so are its ports.
    pub(super) async fn open(plan: &ListenerPlan, secured: Option<&Secured>, ports: &Ports) -> io::Result<Self> {
        match plan.listen.clone() {
            Listen::Tcp(address) => tcp(address, plan.interface.as_deref()).map(Self::Tcp),
            Listen::Unix(path) => {
                let made = tokio::task::spawn_blocking(move || unix(&path)).await.map_err(io::Error::other)?;
                made.map(|(listener, file)| Self::Unix { listener, _file: file })
            }
            Listen::Quic(address) => quic((address, plan.interface.as_deref()), secured, ports).await,
            Listen::Udp(address) => udp(address, plan).await.map(|socket| Self::Udp(Arc::new(socket))),
        }
    }

    /// The address, if it is one.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix { .. } => None,
            #[cfg(feature = "quic")]
            Self::Quic(port) => port.address().ok(),
            Self::Udp(socket) => socket.local_addr().ok(),
        }
    }

    /// Do the connections that came in here go on through this very socket? Then it cannot be opened again before they end.
    pub(super) fn is_shared_with_clients(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix { .. } | Self::Udp(_) => false,
            #[cfg(feature = "quic")]
            Self::Quic(_) => true,
        }
    }

    /// The next connection. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<Raw> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Raw::Tcp(stream, peer)),
            Self::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| Raw::Unix(stream)),
            #[cfg(feature = "quic")]
            Self::Quic(port) => port.next().await.map(|caller| Raw::Quic(Box::new(caller))),
            Self::Udp(_) => std::future::pending().await,
        }
    }
}

impl Raw {
    pub(super) fn peer(&self) -> Peer {
        match self {
            Self::Tcp(_, peer) => Peer::Address(*peer),
            Self::Unix(stream) => Peer::of(stream),
            #[cfg(feature = "quic")]
            Self::Quic(caller) => Peer::Address(caller.peer()),
        }
    }

    /// Has it shown that it is where it says? Datagrams come from wherever their sender writes.
    pub(super) fn is_proven(&self) -> bool {
        match self {
            Self::Tcp(..) | Self::Unix(_) => true,
            #[cfg(feature = "quic")]
            Self::Quic(caller) => caller.is_proven(),
        }
    }

    /// Asks it to show that; it comes again.
    pub(super) fn ask_for_proof(self) {
        match self {
            Self::Tcp(..) | Self::Unix(_) => {}
            #[cfg(feature = "quic")]
            Self::Quic(caller) => caller.ask_for_proof(),
        }
    }

    /// Options for small packets both ways; without them every QoS 1 exchange would wait for a delayed TCP
    /// acknowledgement.
    /// And probes: a client without a keep alive that loses its power would else hold its place for ever.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let Self::Tcp(stream, _) = self else { return Ok(()) };
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let (silence, apart) = (Duration::from_secs(60), Duration::from_secs(10));
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(silence).with_interval(apart).with_retries(3))?;
        socket.set_tcp_notsent_lowat(NOT_SENT_MAX)
    }
}

fn tcp(address: SocketAddr, interface: Option<&str>) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?; // else a restart would wait for connections of the last run (TIME_WAIT)
    if let Some(name) = interface {
        socket.bind_device(Some(name.as_bytes())).map_err(|error| device(name, &error))?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(feature = "quic")]
async fn quic(at: (SocketAddr, Option<&str>), secured: Option<&Secured>, ports: &Ports) -> io::Result<Listening> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "there is no certificate that can be used");
    let serving = secured.and_then(Secured::serving).ok_or_else(none)?;
    ports.open(at.0, at.1, &serving).await.map(Listening::Quic)
}

/// There are none.
#[cfg(not(feature = "quic"))]
#[derive(Debug, Clone, Default)]
pub(super) struct Ports(());

#[cfg(not(feature = "quic"))]
#[allow(clippy::unused_self, reason = "as where there is QUIC")]
impl Ports {
    /// See where there is QUIC.
    pub(super) fn shut(&self) {}

    /// See where there is QUIC.
    pub(super) async fn clear(&self) -> std::convert::Infallible {
        std::future::pending().await
    }
}

#[cfg(not(feature = "quic"))]
#[expect(clippy::unused_async, reason = "as where there is QUIC")]
async fn quic(_at: (SocketAddr, Option<&str>), _secured: Option<&Secured>, _ports: &Ports) -> io::Result<Listening> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this build has no QUIC"))
}

/// A port for MQTT-SN.
async fn udp(address: SocketAddr, plan: &ListenerPlan) -> io::Result<UdpSocket> {
    let socket = UdpSocket::from_std(datagrams(address, plan.interface.as_deref()).await?.into())?;
    if plan.mqtt_sn.as_ref().and_then(|plan| plan.advertise).is_some_and(|plan| plan.to.is_ipv4()) {
        socket.set_broadcast(true)?; // a group is joined by whoever makes itself known there
    }
    Ok(socket)
}

/// A port for datagrams. Another process may just be ending there, or the clients of a door that was just closed say goodbye.
pub(super) async fn datagrams(listen: SocketAddr, interface: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if let Some(name) = interface {
        socket.bind_device(Some(name.as_bytes())).map_err(|error| device(name, &error))?;
    }
    let until = Instant::now() + HANDOVER_MAX;
    loop {
        match socket.bind(&listen.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                tokio::time::sleep(HANDOVER_LOOK).await;
            }
            bound => return bound.map(|()| socket),
        }
    }
}

fn device(name: &str, error: &io::Error) -> io::Error {
    let text = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::PERM) => format!(
            "interface {name}: this kernel lets only programs with CAP_NET_RAW bind to an interface \
             (systemd: AmbientCapabilities=CAP_NET_RAW)"
        ),
        Some(rustix::io::Errno::NODEV) => format!("there is no interface {name}"),
        _ => format!("interface {name}: {error}"),
    };
    io::Error::new(error.kind(), text)
}

fn unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    make_room(path)?;
    let mut own = path.as_os_str().to_owned();
    own.push(format!(".{}", std::process::id()));
    let own = PathBuf::from(own);
    drop(std::fs::remove_file(&own)); // of a crashed process that had our number
    let made = UnixListener::bind(&own).and_then(|listener| {
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(SOCKET_MODE))?;
        let identity = identity(&own)?;
        std::fs::rename(&own, path)?;
        Ok((listener, SocketFile { path: path.to_owned(), identity }))
    });
    made.map_err(|error| {
        drop(std::fs::remove_file(&own)); // if it was made at all
        match error.kind() {
            io::ErrorKind::NotFound => {
                let directory = path.parent().unwrap_or(path).display();
                io::Error::new(
                    error.kind(),
                    format!("there is no directory {directory} (systemd makes one with RuntimeDirectory=)"),
                )
            }
            _ => error,
        }
    })
}

/// Makes sure that nothing of value is replaced.
fn make_room(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file of that name, and it is no socket"));
    }
    // Not waiting for it: one that hangs, with its queue full, would hold up the start of the whole gateway.
    let asking = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match asking.connect(&SockAddr::unix(path)?) {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody else listens there")),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            drop(std::fs::remove_file(&self.path)); // otherwise the next start replaces it
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_loses_its_power_is_noticed_although_it_asked_for_no_keep_alive() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("its address")).await.expect("a connection");
        let (stream, peer) = listener.accept().await.expect("taken in");
        let raw = Raw::Tcp(stream, peer);
        raw.prepare().expect("set");
        let Raw::Tcp(stream, _) = &raw else { panic!("it is TCP") };
        assert!(SockRef::from(stream).keepalive().expect("readable"));
        drop(client);
    }

    #[test]
    fn a_process_that_hangs_on_the_socket_does_not_hold_up_the_start() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("mqtt.sock");
        // It never accepts, and its queue is full.
        let hung = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        hung.bind(&SockAddr::unix(&path).expect("short enough")).expect("bound");
        hung.listen(0).expect("listening");
        let mut waiting = Vec::new();
        loop {
            let client = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).expect("a socket");
            if client.connect(&SockAddr::unix(&path).expect("short enough")).is_err() {
                break;
            }
            waiting.push(client);
        }
        assert_eq!(make_room(&path).expect_err("it is taken").kind(), io::ErrorKind::AddrInUse);
    }
}
