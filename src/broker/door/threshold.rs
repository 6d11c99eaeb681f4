//! From a socket to MQTT: what lies between them (TLS, websocket), then CONNECT, all in the connection's own task, in
//! time, and as a stranger who may have to make room.
//!
//! Nothing is allocated for a handshake before its first byte has come.

use std::io;
use std::sync::{Arc, Mutex};
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
use crate::model::lock::Hold as _;
use crate::road::names;
use crate::road::server::Serving;

/// TLS and upgrade may take this long, first byte included: five round trips of a satellite.
const HANDSHAKE_MAX: Duration = Duration::from_secs(15);

/// What was said last by QUIC is brought over in this time, or not at all; and in this, if it is the gateway that stops.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
const HASTY_FAREWELL_MAX: Duration = Duration::from_millis(400);

/// Bytes that rustls keeps while the socket takes none: a full record.
const TLS_BYTES_MAX: usize = 16 * 1024;

/// Failed handshakes are said at most so often: somebody with a wrong certificate may try for ever.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Serves one connection from its first byte to its last.
pub(super) async fn cross(raw: Raw, porch: Arc<Porch>, stranger: Stranger) {
    let peer = raw.peer();
    let (end, closed) = (porch.end.clone(), porch.closed.clone());
    let early = async {
        let entered = timeout(HANDSHAKE_MAX, enter(raw, &porch)).await.map_err(|_| io::ErrorKind::TimedOut.into());
        let Entered { stream, known, leaving } = match entered.flatten() {
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
        Some((heard.map(|(connect, arrived)| (arrival, connect, arrived)), leaving))
    };
    let crossed = tokio::select! {
        crossed = early => crossed,
        () = end.cancelled() => None,
        () = closed.cancelled() => None,
        () = stranger.evicted.cancelled() => {
            porch.shared.stats.turned_away.one();
            tracing::debug!(%peer, "no CONNECT, made room for others");
            None
        }
    };
    drop(stranger);
    let Some((heard, leaving)) = crossed else { return };
    if let Some((arrival, connect, arrived)) = heard {
        welcome(arrival, connect, arrived).await;
    }
    leaving.depart(if end.is_cancelled() { HASTY_FAREWELL_MAX } else { FAREWELL_MAX }).await;
}

/// Somebody that is through the layers of this door.
struct Entered {
    stream: Stream,
    known: Option<Certificate>,
    leaving: Leaving,
}

/// What is left to do when the stream is over: a socket brings over what was said last by itself, a QUIC connection has to
/// be held until then.
enum Leaving {
    ByItself,
    #[cfg(feature = "quic")]
    Quic(crate::road::quic::port::Leaving),
}

impl Leaving {
    #[cfg_attr(not(feature = "quic"), expect(clippy::unused_async, reason = "only QUIC has to wait"))]
    #[cfg_attr(not(feature = "quic"), expect(unused_variables, reason = "only QUIC has to wait"))]
    async fn depart(self, most: Duration) {
        match self {
            Self::ByItself => {}
            #[cfg(feature = "quic")]
            Self::Quic(leaving) => leaving.depart(most).await,
        }
    }
}

/// Through the layers of this door.
async fn enter(raw: Raw, porch: &Porch) -> io::Result<Entered> {
    #[cfg(feature = "quic")]
    if let Raw::Quic(caller) = raw {
        return enter_by_quic(*caller, porch).await;
    }
    let (stream, known) = enter_by_socket(raw, porch).await?;
    Ok(Entered { stream, known, leaving: Leaving::ByItself })
}

#[cfg(feature = "quic")]
async fn enter_by_quic(caller: crate::road::quic::port::Caller, porch: &Porch) -> io::Result<Entered> {
    let secured = porch.secured.as_ref().ok_or_else(closed)?;
    let serving = secured.serving().ok_or_else(closed)?;
    let entered = porch.turnstile.pass(caller.enter(&serving)).await?;
    let known = recognise(&entered.chain, secured, &serving)?;
    Ok(Entered { stream: Stream::layered(entered.stream), known, leaving: Leaving::Quic(entered.leaving) })
}

async fn enter_by_socket(raw: Raw, porch: &Porch) -> io::Result<(Stream, Option<Certificate>)> {
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
        #[cfg(feature = "quic")]
        (Raw::Quic(_), ..) => return Err(io::ErrorKind::Unsupported.into()), // it has come in by its own way
    };
    Ok(entered)
}

async fn secure(
    stream: TcpStream,
    (secured, turnstile): (&Secured, &Turnstile),
) -> io::Result<(TlsStream<TcpStream>, Option<Certificate>)> {
    stream.ready(Interest::READABLE).await?;
    let serving = secured.serving().ok_or_else(closed)?;
    let acceptor = TlsAcceptor::from(Arc::clone(&serving.config));
    let mut stream = turnstile.pass(acceptor.accept(stream)).await?;
    let session = stream.get_mut().1;
    session.set_buffer_limit(Some(TLS_BYTES_MAX));
    let chain = session.peer_certificates().map(|chain| chain.iter().cloned().map(CertificateDer::into_owned));
    let chain: Vec<_> = chain.into_iter().flatten().collect();
    let known = recognise(&chain, secured, &serving)?;
    Ok((stream, known))
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the listener is closed")
}

/// Who it is that has shown these certificates, which were verified against what was in force when the handshake began.
fn recognise(
    chain: &[CertificateDer<'static>],
    secured: &Secured,
    serving: &Serving,
) -> io::Result<Option<Certificate>> {
    let Some(names) = chain.first().map(|leaf| names(leaf)) else { return Ok(None) };
    let guest = secured.guests.note(chain.to_vec());
    // From here on whoever is not accepted any more is sent away; a handshake may have begun before that was known.
    let now = secured.serving().ok_or_else(closed)?;
    if now.edition != serving.edition && !now.accepts(chain) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "its certificate is not accepted any more"));
    }
    Ok(Some(Certificate { names, guest }))
}

/// When a failed handshake was last said, and how many were not.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<(Option<Instant>, u64)>);

impl Said {
    /// How many were kept silent before, if this one may be said. Who just goes, or says nothing, is not worth a word.
    fn may_speak(&self, now: Instant, error: &io::Error) -> Option<u64> {
        let gone = [io::ErrorKind::UnexpectedEof, io::ErrorKind::TimedOut, io::ErrorKind::ConnectionReset];
        let mut said = self.0.hold();
        if gone.contains(&error.kind()) || said.0.is_some_and(|last| now < last + SAID_EVERY) {
            said.1 += 1;
            return None;
        }
        said.0 = Some(now);
        Some(std::mem::take(&mut said.1))
    }
}
