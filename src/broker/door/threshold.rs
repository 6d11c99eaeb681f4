//! From a socket to MQTT: what lies between them (TLS, websocket), then CONNECT, all in the connection's own task, in
//! time, and as a stranger who may have to make room.
//!
//! Nothing is allocated for a handshake before its first byte has come.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::Secured;
use super::listening::Raw;
use super::shown::{Certificate, Shown};
use super::strangers::Stranger;
use super::stream::Stream;
use super::turnstile::Turnstile;
use super::upgrade::{Reached, upgrade};
use super::welcome::welcome;
use super::{Porch, greeting};
use crate::road::names;

/// TLS and upgrade may take this long, first byte included: five round trips of a satellite.
const HANDSHAKE_MAX: Duration = Duration::from_secs(15);

/// Bytes that rustls keeps while the socket takes none: a full record.
const TLS_BYTES_MAX: usize = 16 * 1024;

/// Failed handshakes are said at most so often: somebody with a wrong certificate may try for ever.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Serves one connection from its first byte to its last.
pub(super) async fn cross(raw: Raw, porch: Arc<Porch>, stranger: Stranger) {
    let peer = raw.peer();
    let end = porch.end.clone();
    let early = async {
        let entered = timeout(HANDSHAKE_MAX, enter(raw, &porch)).await.map_err(|_| io::ErrorKind::TimedOut.into());
        let (stream, known) = match entered.flatten() {
            Ok(entered) => entered,
            Err(error) => {
                porch.shared.stats.turned_away.one();
                if let Some(silent) = porch.said.may_speak(Instant::now(), &error) {
                    tracing::info!(listener = porch.name, %peer, %error, others = silent, "handshake failed");
                } else {
                    tracing::debug!(%peer, %error, "handshake failed");
                }
                return None;
            }
        };
        let mut arrival = porch.arrival(stream, Shown { peer, certificate: known, sensor: None });
        let heard = greeting::hear(&mut arrival).await;
        heard.map(|(connect, arrived)| (arrival, connect, arrived))
    };
    let heard = tokio::select! {
        heard = early => heard,
        () = end.cancelled() => None,
        () = stranger.evicted.cancelled() => {
            porch.shared.stats.turned_away.one();
            tracing::debug!(%peer, "no CONNECT, made room for others");
            None
        }
    };
    drop(stranger);
    if let Some((arrival, connect, arrived)) = heard {
        welcome(arrival, connect, arrived).await;
    }
}

/// Through the layers of this door.
async fn enter(raw: Raw, porch: &Porch) -> io::Result<(Stream, Option<Certificate>)> {
    let websocket = porch.plan.websocket.as_ref();
    let entered = match (raw, &porch.secured, websocket) {
        (Raw::Tcp(stream, _), None, None) => (Stream::Tcp(stream), None),
        (Raw::Unix(stream), _, None) => (Stream::Unix(stream), None),
        (Raw::Tcp(stream, _), None, Some(plan)) => {
            (Stream::layered(upgrade(stream, plan, Reached::Plainly).await?), None)
        }
        (Raw::Unix(stream), _, Some(plan)) => (Stream::layered(upgrade(stream, plan, Reached::ByName).await?), None),
        (Raw::Tcp(stream, _), Some(secured), websocket) => {
            let (stream, known) = secure(stream, (secured, &porch.turnstile)).await?;
            match websocket {
                None => (Stream::layered(stream), known),
                Some(plan) => (Stream::layered(upgrade(stream, plan, Reached::ByName).await?), known),
            }
        }
    };
    Ok(entered)
}

async fn secure(
    stream: TcpStream,
    (secured, turnstile): (&Secured, &Turnstile),
) -> io::Result<(TlsStream<TcpStream>, Option<Certificate>)> {
    stream.ready(Interest::READABLE).await?;
    let closed = || io::Error::new(io::ErrorKind::NotConnected, "the listener is closed");
    let serving = secured.serving().ok_or_else(closed)?;
    let acceptor = TlsAcceptor::from(Arc::clone(&serving.config));
    let mut stream = turnstile.pass(acceptor.accept(stream)).await?;
    let session = stream.get_mut().1;
    session.set_buffer_limit(Some(TLS_BYTES_MAX));
    let chain = session.peer_certificates().map(|chain| chain.iter().cloned().map(CertificateDer::into_owned));
    let chain: Vec<_> = chain.into_iter().flatten().collect();
    let Some(names) = chain.first().map(|leaf| names(leaf)) else { return Ok((stream, None)) };
    let guest = secured.guests.note(chain.clone());
    // From here on whoever is not accepted any more is sent away; a handshake may have begun before that was known.
    let now = secured.serving().ok_or_else(closed)?;
    if now.edition != serving.edition && !now.accepts(&chain) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "its certificate is not accepted any more"));
    }
    Ok((stream, Some(Certificate { names, guest })))
}

/// When a failed handshake was last said, and how many were not.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<(Option<Instant>, u64)>);

impl Said {
    /// How many were kept silent before, if this one may be said. Who just goes, or says nothing, is not worth a word.
    fn may_speak(&self, now: Instant, error: &io::Error) -> Option<u64> {
        let gone = [io::ErrorKind::UnexpectedEof, io::ErrorKind::TimedOut, io::ErrorKind::ConnectionReset];
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if gone.contains(&error.kind()) || said.0.is_some_and(|last| now < last + SAID_EVERY) {
            said.1 += 1;
            return None;
        }
        said.0 = Some(now);
        Some(std::mem::take(&mut said.1))
    }
}
