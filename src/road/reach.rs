//! From a socket to a connection with the broker: proxy, TLS, websocket, each inside the one before and with a limit of its
//! own, because each needs round trips (TCP 1, TLS 1 to 2, a proxy 1 to 3, the upgrade 1) and they may take 2 s each.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::destination::{Bind, Destination, Over, RoadError};
use super::inside::{InnerDoor, Whose};
use super::meter::{Meters, Tap};
use super::pace::Pace;
use super::wire::{Books, Duplex, Wire, WireBooks};
use super::{proxy, socket, websocket};

/// Limit of the TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(60);
/// Bytes that rustls keeps while the wire takes none (a full record); its own 64 KiB would make what is urgent wait.
const TLS_BYTES_MAX: usize = 16 << 10;

/// What every connection of a road shares.
#[derive(Clone, Default)]
pub(super) struct Terms {
    pub(super) bind: Bind,
    pub(super) meters: Meters,
    pub(super) pace: Pace,
    /// Into the broker of this program.
    pub(super) door: Option<InnerDoor>,
    #[cfg(feature = "quic")]
    pub(super) silent: super::quic::Silent,
}

/// A connection with a broker, and the books of what it costs.
pub(super) struct Reached {
    pub(super) far: Box<dyn Duplex>,
    pub(super) books: Box<dyn Books>,
}

/// Connects; with a configuration, through TLS. Cancel-safe.
pub(super) async fn reach(
    to: &Destination,
    config: Option<Arc<ClientConfig>>,
    terms: &Terms,
) -> Result<Reached, RoadError> {
    if let Over::Quic { keep_alive } = to.over {
        return quic(to, keep_alive, config, terms).await;
    }
    if to.whose == Whose::Own {
        let door = terms.door.as_ref();
        let door = door.ok_or_else(|| RoadError::Disabled("there is no broker in this program".to_owned()))?;
        let far = door.enter().ok_or_else(|| RoadError::Unreachable("the local broker does not open".to_owned()))?;
        return Ok(Reached { far: Box::new(far), books: Box::new(WireBooks::of_nothing()) });
    }
    let wire = match &to.proxy {
        None => wire(&to.host, to.port, terms).await?,
        Some(proxy) => {
            let login = proxy.login.read().await?;
            let reached = wire(&proxy.host, proxy.port, terms).await;
            let mut wire = reached.map_err(|error| match error {
                RoadError::Unreachable(why) => RoadError::Unreachable(format!("{proxy}: {why}")),
                other => other,
            })?;
            proxy::pass(&mut wire, proxy, login.as_ref(), to).await?;
            wire
        }
    };
    let books = Box::new(wire.books());
    let far: Box<dyn Duplex> = match config {
        None => Box::new(wire),
        Some(config) => Box::new(shake(wire, &to.host, &to.place(), config).await?),
    };
    let far = match &to.websocket {
        None => far,
        Some(path) => Box::new(websocket::upgrade(far, path, to).await?),
    };
    Ok(Reached { far, books })
}

#[cfg(feature = "quic")]
async fn quic(
    to: &Destination,
    keep_alive: Duration,
    config: Option<Arc<ClientConfig>>,
    terms: &Terms,
) -> Result<Reached, RoadError> {
    let config = config.ok_or_else(|| RoadError::Disabled("QUIC goes with TLS: there is no CA file".to_owned()))?;
    super::quic::connect(to, keep_alive, config, terms).await
}

#[cfg(not(feature = "quic"))]
#[expect(clippy::unused_async, reason = "as where there is QUIC")]
async fn quic(
    _to: &Destination,
    _keep_alive: Duration,
    _config: Option<Arc<ClientConfig>>,
    _terms: &Terms,
) -> Result<Reached, RoadError> {
    Err(RoadError::Disabled("this build has no QUIC".to_owned()))
}

/// Asks whoever stands first on the way whether it is there: a TCP connection that is closed again, or a datagram.
pub(super) async fn knock(to: &Destination, terms: &Terms) -> Result<(), RoadError> {
    #[cfg(feature = "quic")]
    if let Over::Quic { .. } = to.over {
        return super::quic::knock(to, terms).await;
    }
    if to.whose == Whose::Own {
        return Ok(());
    }
    let (host, port) = to.proxy.as_ref().map_or((&to.host, to.port), |proxy| (&proxy.host, proxy.port));
    wire(host, port, terms).await.map(drop)
}

async fn wire(host: &str, port: u16, terms: &Terms) -> Result<Wire, RoadError> {
    let stream = socket::connect(host, port, &terms.bind, &terms.meters).await?;
    let tap = Tap::new(&stream, &terms.bind, terms.meters.clone());
    Ok(Wire::new(stream, tap, terms.pace.clone()))
}

/// TLS with whoever has the certificate of this host; `place` is for people.
pub(super) async fn shake<T: AsyncRead + AsyncWrite + Unpin>(
    wire: T,
    host: &str,
    place: &str,
    config: Arc<ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<T>, RoadError> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| RoadError::Disabled(format!("{host:?} is neither a host name nor an address")))?;
    match timeout(HANDSHAKE_MAX, TlsConnector::from(config).connect(name, wire)).await {
        Ok(Ok(mut stream)) => {
            stream.get_mut().1.set_buffer_limit(Some(TLS_BYTES_MAX));
            Ok(stream)
        }
        Ok(Err(error)) => Err(handshake_error(place, &error)),
        Err(_) => Err(RoadError::Unreachable(format!("TLS handshake with {place} took too long"))),
    }
}

fn handshake_error(place: &str, error: &io::Error) -> RoadError {
    let text = format!("TLS handshake with {place} failed: {error}{}", hint(error));
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
        Some(Error::InvalidCertificate(Bad::BadSignature)) => {
            "; a CA in ca_file has the name of the one that signed the server's certificate, but another key"
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
    use rustls::Error;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => true,
        Some(Error::AlertReceived(alert)) => means_distrust(*alert),
        _ => false,
    }
}

/// Is an alert one side's refusal of the other's certificate (RFC 8446, section 6.2)?
pub(super) fn means_distrust(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
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
    )
}
