//! The other end: a UDP port for those who connect to us.
//!
//! The TLS configuration is handed in for each handshake, so that a renewed certificate serves the next one. Who cannot be
//! told from somebody who only claims to be there can be asked to prove its address first (a Retry packet; RFC 9000,
//! section 8.1.2): that costs a round trip and neither memory nor a place here. Early data is refused: see `quic`.
//!
//! A connection goes on through the socket that it came in by, so a port can be shut and kept for those who are inside.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, ServerConfig, TokioRuntime};
use rustls::pki_types::CertificateDer;

use super::first::Comers;
pub use super::leaving::Leaving;
use super::settings;
pub use super::stream::Stream;
use super::stream::Trouble;
use crate::road::server::Serving;

/// Connections that wait to be taken in: a plant that comes back after a power cut connects all at once.
const WAITING_MAX: usize = 256;
/// Bytes that each of them, and all together, may send meanwhile.
const EARLY_BYTES_MAX: u64 = 8 << 10;
const EARLY_BYTES_TOTAL_MAX: u64 = 512 << 10;

/// An open port; clones are the same.
#[derive(Debug, Clone)]
pub struct Port {
    endpoint: Endpoint,
    broken: Arc<AtomicBool>,
}

/// Somebody who has sent a first packet.
#[derive(Debug)]
pub struct Caller(Incoming);

/// A caller that has come in.
pub struct Entered {
    /// What it says.
    pub stream: Stream,
    /// Its certificates, verified, its own first; empty: it has shown none.
    pub chain: Vec<CertificateDer<'static>>,
    /// To be held until the stream is over.
    pub leaving: Leaving,
}

impl Port {
    /// Listens on this socket. To be called within a runtime.
    pub fn open(socket: std::net::UdpSocket, serving: &Serving) -> io::Result<Self> {
        let config = settings::server(serving.seed());
        let endpoint = Endpoint::new(config, Some(answer(serving)?), socket, Arc::new(TokioRuntime))?;
        Ok(Self { endpoint, broken: Arc::default() })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next caller. Cancel-safe.
    pub async fn next(&self) -> io::Result<Caller> {
        let incoming = self.endpoint.accept().await;
        incoming.map(Caller).ok_or_else(|| {
            self.broken.store(true, Ordering::Relaxed);
            io::Error::new(io::ErrorKind::NotConnected, "the port is closed")
        })
    }

    /// Nobody will come in here any more.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Whoever is inside stays, who waits is refused, and nobody else is answered until [`Port::admit`].
    pub fn shut(&self) {
        self.endpoint.set_server_config(None);
        let mut once = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(waiting)) = pin!(self.endpoint.accept()).poll(&mut once) {
            waiting.refuse();
        }
    }

    /// Callers are answered, again.
    pub fn admit(&self, serving: &Serving) -> io::Result<()> {
        self.endpoint.set_server_config(Some(answer(serving)?));
        Ok(())
    }

    /// Has the last connection ended, up to its last datagram?
    pub fn is_empty(&self) -> bool {
        self.endpoint.open_connections() == 0
    }

    /// Resolves when it has. Cancel-safe.
    pub async fn emptied(&self) {
        self.endpoint.wait_idle().await;
    }
}

impl Caller {
    /// Where it says it is.
    pub fn peer(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// Has it proven that?
    pub fn is_proven(&self) -> bool {
        self.0.remote_address_validated()
    }

    /// Asks for a proof; it comes back with one.
    pub fn ask_for_proof(self) {
        drop(self.0.retry()); // an error: it has proven it already
    }

    /// The handshake and the stream. Takes as long as the caller does; cancel-safe.
    pub async fn enter(self, serving: &Serving) -> io::Result<Entered> {
        let trouble = |error| io::Error::from(Trouble(error));
        let connecting = self.0.accept_with(Arc::new(answer(serving)?)).map_err(trouble)?;
        let connection = connecting.await.map_err(trouble)?;
        let chain = connection.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
        let (send, receive) = connection.accept_bi().await.map_err(trouble)?;
        let stream = Stream::new(connection, send, receive, settings::DOWN_BYTES_MAX);
        let leaving = stream.leaving();
        Ok(Entered { stream, chain: chain.map(|chain| *chain).unwrap_or_default(), leaving })
    }
}

/// How callers are answered.
fn answer(serving: &Serving) -> io::Result<ServerConfig> {
    let crypto = QuicServerConfig::try_from(Arc::clone(&serving.config)).map_err(io::Error::other)?;
    let mut config = ServerConfig::with_crypto(Arc::new(Comers(Arc::new(crypto))));
    config
        .transport_config(Arc::new(settings::coming()))
        .migration(true)
        .max_incoming(WAITING_MAX)
        .incoming_buffer_size(EARLY_BYTES_MAX)
        .incoming_buffer_size_total(EARLY_BYTES_TOTAL_MAX);
    Ok(config)
}
