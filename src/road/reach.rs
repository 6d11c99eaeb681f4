//! From a name to a connection: DNS, each address in turn, socket options, TLS handshake.
//!
//! Made for links with round trips of 0.6 to 2 s that lose packets: each step has its own generous limit, because TCP
//! needs several retransmissions of its SYN (1, 3, 7, 15 s) and TLS two round trips more.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::destination::{Destination, RoadError};
use super::meter::{Meter, Metered};

/// Limit of a name lookup (the resolver's own retries take up to 20 s).
const RESOLVE_MAX: Duration = Duration::from_secs(30);
/// Limit of a TCP connect to one address: five SYNs.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// Limit of the TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(60);
/// A name may have many addresses; no more than these are tried in one go.
const ADDRESSES_MAX: usize = 8;
/// Sent bytes that nobody confirms for this long end the connection: a black hole sends no RST (TCP_USER_TIMEOUT, tcp(7)).
const UNCONFIRMED_MAX_MS: u32 = 60_000;
/// First TCP probe after this much silence. Longer than a usual MQTT keep alive, so that it costs nothing beside one.
const SILENCE_BEFORE_PROBE: Duration = Duration::from_secs(300);

/// Anything bytes go through, both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Connects; with a configuration, through TLS.
pub(super) async fn reach(
    to: &Destination,
    config: Option<Arc<ClientConfig>>,
    meter: Arc<Meter>,
) -> Result<Box<dyn Duplex>, RoadError> {
    let tcp = Metered::new(connect(to).await?, meter);
    let Some(config) = config else {
        return Ok(Box::new(tcp));
    };
    let name = ServerName::try_from(to.host.clone())
        .map_err(|_| RoadError::Disabled(format!("{:?} is neither a host name nor an address", to.host)))?;
    match timeout(HANDSHAKE_MAX, TlsConnector::from(config).connect(name, tcp)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(handshake_error(to, &error)),
        Err(_) => Err(RoadError::Unreachable(format!("TLS handshake with {} took too long", place(to)))),
    }
}

async fn connect(to: &Destination) -> Result<TcpStream, RoadError> {
    let found = match timeout(RESOLVE_MAX, lookup_host((to.host.as_str(), to.port))).await {
        Ok(Ok(found)) => found.take(ADDRESSES_MAX).collect::<Vec<_>>(),
        Ok(Err(error)) => return Err(RoadError::Unreachable(format!("cannot resolve {}: {error}", to.host))),
        Err(_) => return Err(RoadError::Unreachable(format!("resolving {} took too long", to.host))),
    };
    let mut failures = Vec::new();
    for address in found {
        match timeout(CONNECT_MAX, connect_to(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address}: no answer within {} s", CONNECT_MAX.as_secs())),
        }
    }
    if failures.is_empty() {
        failures.push("the name has no address".into());
    }
    Err(RoadError::Unreachable(format!("cannot connect to {}: {}", place(to), failures.join("; "))))
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(&stream, SILENCE_BEFORE_PROBE)?;
    rustix::net::sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(30))?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, UNCONFIRMED_MAX_MS)?;
    Ok(stream)
}

fn handshake_error(to: &Destination, error: &io::Error) -> RoadError {
    let text = format!("TLS handshake with {} failed: {error}{}", place(to), hint(error));
    if is_distrust(error) { RoadError::Distrusted(text) } else { RoadError::Unreachable(text) }
}

/// What a person can do about a `ca_file` of somebody else, and about the two kinds of server certificate that recipes on
/// the web make and WebPKI does not take.
fn hint(error: &io::Error) -> &'static str {
    use rustls::{CertificateError as Bad, Error};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) => {
            "; the server's certificate must carry the name of the url as subjectAltName (its CN is not looked at)"
        }
        Some(Error::InvalidCertificate(Bad::UnknownIssuer)) => "; no CA in ca_file signed the server's certificate",
        Some(Error::InvalidCertificate(Bad::Other(other))) if other.to_string().contains("UnsupportedCertVersion") => {
            "; the server's certificate is X.509 version 1, version 3 with a subjectAltName is needed \
             (openssl x509 -req -extfile …)"
        }
        _ => "",
    }
}

/// Does one side refuse the other's certificate? With TLS 1.3 the broker says so only after our side of the handshake
/// is done, so the relay asks this too.
pub(super) fn is_distrust(error: &io::Error) -> bool {
    use rustls::{AlertDescription as Alert, Error};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => true,
        Some(Error::AlertReceived(alert)) => matches!(
            alert,
            Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::DecryptError
                | Alert::CertificateRequired
        ),
        _ => false,
    }
}

fn place(to: &Destination) -> String {
    if to.host.contains(':') { format!("[{}]:{}", to.host, to.port) } else { format!("{}:{}", to.host, to.port) }
}
