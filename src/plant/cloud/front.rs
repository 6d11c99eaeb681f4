//! The cloud's TLS door: TLS outside, plain TCP to the broker inside.
//!
//! rumqttd's own TLS listener lets one silent connection keep everybody else out; here each handshake has its own task and
//! a deadline. When the broker behind is replaced, all connections are closed, as by a restart.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::certs::{Authority, Identity};

/// A client has this long for its TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Connections at a time; further ones wait.
const CONNECTIONS_MAX: usize = 256;

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificate {
    /// Nobody is asked.
    #[default]
    None,
    /// Without one of our authority there is no way in.
    Required,
}

/// The TLS listener. Dropping it closes the door and all connections.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Front {
    /// Listens on 127.0.0.1 at a free port and passes what it decrypts to `target`, whatever that is at the time.
    pub async fn open(tls: Arc<ServerConfig>, target: watch::Receiver<SocketAddr>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let front = Self { address, stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let (stop, tasks) = (front.stop.clone(), front.tasks.clone());
        front.tasks.spawn(async move {
            let door = Door { listener, acceptor: TlsAcceptor::from(tls), target };
            let _ = stop.clone().run_until_cancelled_owned(door.accept(stop, tasks)).await;
        });
        Ok(front)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the door and all connections, and waits until that has happened.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Door {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    target: watch::Receiver<SocketAddr>,
}

impl Door {
    async fn accept(self, stop: CancellationToken, tasks: TaskTracker) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, _)) = self.listener.accept().await else {
                sleep(Duration::from_millis(100)).await; // out of file descriptors, most likely
                continue;
            };
            let (acceptor, target, stop) = (self.acceptor.clone(), self.target.clone(), stop.clone());
            tasks.spawn(async move {
                let carried = stop.run_until_cancelled_owned(carry(stream, acceptor, target)).await;
                if let Some(Err(error)) = carried {
                    tracing::debug!(%error, "cloud connection ended");
                }
                drop(place);
            });
        }
    }
}

/// One connection until either side ends it or the broker behind is replaced.
async fn carry(stream: TcpStream, acceptor: TlsAcceptor, mut target: watch::Receiver<SocketAddr>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut near = timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await??;
    let address = *target.borrow_and_update();
    let mut far = TcpStream::connect(address).await?;
    far.set_nodelay(true)?;
    tokio::select! {
        ended = copy_bidirectional(&mut near, &mut far) => ended.map(|_| ()),
        _ = target.changed() => Ok(()),
    }
}

/// The server side of TLS for one identity of an authority.
pub fn server_config(
    authority: &Authority,
    server: &Identity,
    clients: ClientCertificate,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let unreadable = |_| rustls::Error::General("unreadable PEM".into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match clients {
        ClientCertificate::None => builder.with_no_client_auth(),
        ClientCertificate::Required => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).map_err(unreadable)?)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let certificate = CertificateDer::from_pem_slice(server.certificate.as_bytes()).map_err(unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).map_err(unreadable)?;
    Ok(Arc::new(builder.with_single_cert(vec![certificate], key)?))
}
