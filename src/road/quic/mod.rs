//! MQTT over QUIC (RFC 9000, 9001): one bidirectional stream per connection, ALPN `mqtt`, TLS 1.3 with the same files and the
//! same rules as over TCP.
//!
//! `settings` what both ends ask of the library · `stream` the one stream, and what its errors mean · `socket` the UDP
//! socket whose datagrams are counted · `account` what they cost · `roam` notices that this box has another address, and
//! takes the connection along · `leaving` last words · `probe` is somebody there · `silence` who was not · `port` the other
//! end, for those who connect to us · `first` packets of theirs.
//!
//! Nothing is sent before the handshake is done (0-RTT): a CONNECT that somebody recorded and sends once more would take
//! over the session of its client. Sessions are resumed as over TCP, which saves the certificates. Packets are the
//! library's, but for a look at the first one; what is in the stream is MQTT's.

mod account;
mod first;
mod leaving;
pub mod port;
mod probe;
mod roam;
mod settings;
mod silence;
mod socket;
mod stream;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint, NoneTokenStore, TokioRuntime};
use rustls::ClientConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::{Instant, timeout};

use super::destination::{Bind, Destination, RoadError, place};
use super::reach::{Reached, Terms};
use super::socket::{CONNECT_ALL_MAX, Refusal, addresses, by, device, share};
use account::Account;
pub(super) use probe::knock;
use roam::Roaming;
use silence::Silence;
pub(super) use silence::Silent;
use socket::Counted;
use stream::{Paced, Stream};

/// One address is given this long: a first packet, two repetitions after 3 s, and a farewell, all of them padded and so not
/// cheap. The next repetitions would go out after 9 s.
const HANDSHAKE_MAX: Duration = Duration::from_secs(8);

/// Connects to the first address of the name that answers; after one of a family that kept silent no other of it is asked, and
/// another one first the next time. Cancel-safe.
pub(super) async fn connect(
    to: &Destination,
    keep_alive: Duration,
    config: Arc<ClientConfig>,
    terms: &Terms,
) -> Result<Reached, RoadError> {
    let crypto = QuicClientConfig::try_from(config)
        .map_err(|error| RoadError::Disabled(format!("TLS of this build does not do for QUIC: {error}")))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(settings::going(keep_alive)));
    config.token_store(Arc::new(NoneTokenStore));
    let found = addresses(&to.host, to.port, &terms.bind).await?;
    connect_any(&found, to, &config, terms).await
}

async fn connect_any(
    found: &[SocketAddr],
    to: &Destination,
    config: &quinn::ClientConfig,
    terms: &Terms,
) -> Result<Reached, RoadError> {
    let (until, mut failures) = (Instant::now() + CONNECT_ALL_MAX, Vec::new());
    let (found, mut silence) = (terms.silent.in_turn(found), Silence::new(&terms.silent));
    for (tried, address) in found.iter().enumerate() {
        if silence.covers(*address) {
            failures.push(format!("{address}: not tried, another of its family keeps silent"));
            continue;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            failures.push(format!("{} more not tried", found.len() - tried));
            break;
        }
        let share = share(left, found.len() - tried).min(HANDSHAKE_MAX);
        let account = Arc::new(Account::new(terms.meters.clone(), terms.pace.clone()));
        match timeout(share, connect_to(*address, to, config.clone(), (&terms.bind, &account))).await {
            Ok(Ok(reached)) => {
                silence.broken(*address);
                return Ok(reached);
            }
            Ok(Err(Failed::Box(text))) => return Err(RoadError::Disabled(text)),
            Ok(Err(Failed::Distrust(text))) => return Err(RoadError::Distrusted(text)),
            Ok(Err(Failed::Link(text))) => failures.push(format!("{address}: {text}")),
            Err(_) => {
                silence.note(*address, &account);
                failures.push(format!("{address}: no answer within {} s (is UDP blocked?)", share.as_secs()));
            }
        }
    }
    let (place, way) = (place(&to.host, to.port), by(&terms.bind));
    Err(RoadError::Unreachable(format!("no QUIC connection with {place}{way}: {}", failures.join("; "))))
}

/// Why one address did not work.
enum Failed {
    /// A person must change something on this box.
    Box(String),
    /// One side does not accept the other.
    Distrust(String),
    /// The link, or whoever is there.
    Link(String),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Box(text) => Self::Box(text),
            Refusal::Unsent(text) => Self::Link(text),
            Refusal::Link(error) => error.into(),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Link(error.to_string())
    }
}

async fn connect_to(
    address: SocketAddr,
    to: &Destination,
    config: quinn::ClientConfig,
    (bind, account): (&Bind, &Arc<Account>),
) -> Result<Reached, Failed> {
    let socket = Counted::new(open(address, bind)?, Arc::clone(account))?;
    let endpoint =
        Endpoint::new_with_abstract_socket(settings::client(), None, Arc::new(socket), Arc::new(TokioRuntime))?;
    let connecting = endpoint
        .connect_with(config, address, &to.host)
        .map_err(|error| Failed::Box(format!("{:?} cannot be reached by QUIC: {error}", to.host)))?;
    let failed = |error: ConnectionError| {
        let text = format!("QUIC handshake with {} failed: {}", to.place(), stream::told(&error));
        if stream::is_distrust(&error) { Failed::Distrust(text) } else { Failed::Link(text) }
    };
    let connection = connecting.await.map_err(failed)?;
    // Whether our certificate does is said after our side of the handshake is done: here, or to the relay.
    let (send, receive) = connection.open_bi().await.map_err(failed)?;
    let stream = Stream::new(connection.clone(), send, receive, settings::UP_BYTES_MAX);
    let far = Paced::new(stream, Arc::clone(account));
    let books = Roaming::new(endpoint, connection, bind.clone(), Arc::clone(account));
    Ok(Reached { far: Box::new(far), books: Box::new(books) })
}

/// A socket that can reach that address, as the way wants it. It is not connected: the system chooses the sender's address
/// for each datagram, so that a new one of the interface is used at once.
fn open(to: SocketAddr, bind: &Bind) -> Result<std::net::UdpSocket, Refusal> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    let from = match bind {
        Bind::System => any,
        Bind::Interface(name) => {
            socket.bind_device(Some(name.as_bytes())).map_err(|error| device(name, &error))?;
            any
        }
        Bind::Source(source) => *source,
    };
    let failed = |error: io::Error| Refusal::Unsent(format!("source address {from}: {error}"));
    socket.bind(&SocketAddr::from((from, 0)).into()).map_err(failed)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::road::destination::Over;
    use tokio::net::UdpSocket;

    #[tokio::test(start_paused = true)]
    async fn where_udp_is_blocked_one_address_of_a_family_is_asked_and_paid_for_and_no_other() {
        let silent =
            [UdpSocket::bind("127.0.0.1:0").await.expect("free"), UdpSocket::bind("127.0.0.1:0").await.expect("free")];
        let ports = silent.each_ref().map(|socket| socket.local_addr().expect("bound"));
        let unsendable = SocketAddr::from((Ipv4Addr::BROADCAST, 9)); // not without asking the system for it
        let found = [unsendable, ports[0], ports[1]];
        let over = Over::Quic { keep_alive: Duration::from_secs(60) };
        let to = Destination { over, ..Destination::plain("localhost", ports[0].port()) };
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("known")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("does for QUIC")));
        config.transport_config(Arc::new(settings::going(Duration::from_secs(60))));
        let terms = Terms::default();
        let begun = Instant::now();
        let Err(RoadError::Unreachable(why)) = connect_any(&found, &to, &config, &terms).await else {
            panic!("nobody is there")
        };
        assert!(why.contains(&format!("{}: no answer", ports[0])), "{why}");
        assert!(why.contains(&format!("{}: not tried", ports[1])), "{why}");
        assert!(begun.elapsed() <= 2 * HANDSHAKE_MAX, "{:?}", begun.elapsed());
        let mut bytes = [0; 2048];
        assert!(silent[0].try_recv(&mut bytes).is_ok());
        assert!(silent[1].try_recv(&mut bytes).is_err());
        let sent = terms.meters.road.snapshot().sent;
        assert!((3 * 1228..=4 * 1228).contains(&sent), "{sent}");
        let Err(RoadError::Unreachable(why)) = connect_any(&found, &to, &config, &terms).await else {
            panic!("nobody is there")
        };
        assert!(why.contains(&format!("{}: no answer", ports[1])), "only one of them may be dead: {why}");
        assert!(why.contains(&format!("{}: not tried", ports[0])), "{why}");
    }
}
