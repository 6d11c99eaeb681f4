//! The simulated cloud: rumqttd, an MQTT broker that is not ours, behind a TLS door of ours.
//!
//! `certs` makes an authority and what it signs · `front` is the TLS door · `broker` is rumqttd. For `demo`,
//! `simulate --cloud` and the tests. MQTT 3.1.1 only: one version on both sides, because a 5 publisher can take rumqttd's
//! 3.1.1 side down.

pub mod broker;
pub mod certs;
pub mod front;

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::sync::watch;

use certs::{Authority, CertificateFiles, NotMade, Validity};
use front::{ClientCertificate, Front, server_config};

/// Why there is no cloud.
#[derive(Debug, thiserror::Error)]
pub enum NoCloud {
    /// Its files, ports or threads.
    #[error("the simulated cloud cannot start: {0}")]
    System(#[from] io::Error),
    /// Its certificates.
    #[error(transparent)]
    Certificate(#[from] NotMade),
    /// Its TLS.
    #[error("the simulated cloud cannot start: TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A running cloud. Dropping it closes the TLS door; the broker behind it ends with the process.
#[derive(Debug)]
pub struct Cloud {
    front: Front,
    broker: watch::Sender<SocketAddr>,
    files: CertificateFiles,
}

impl Cloud {
    /// Starts broker and door; writes `cloud-ca.pem`, `gateway.crt` and `gateway.key` into `directory`.
    pub async fn start(directory: &Path, clients: ClientCertificate) -> Result<Self, NoCloud> {
        let authority = Authority::new("Ironbridge simulated cloud")?;
        let server = authority.server(&["localhost", "127.0.0.1", "::1"], Validity::Valid)?;
        let client = authority.client("gateway", Validity::Valid)?;
        let files = certs::write(directory, &authority, &client)?;
        let (broker, target) = watch::channel(broker::start().await?);
        let front = Front::open(server_config(&authority, &server, clients)?, target).await?;
        Ok(Self { front, broker, files })
    }

    /// Where the TLS door is: `mqtts://` this.
    pub fn address(&self) -> SocketAddr {
        self.front.address()
    }

    /// Where the broker is without TLS: `mqtt://` this.
    pub fn plain_address(&self) -> SocketAddr {
        *self.broker.borrow()
    }

    /// Authority and client identity.
    pub fn files(&self) -> &CertificateFiles {
        &self.files
    }

    /// Replaces the broker by a new one that knows no session and no message, as a restart would; clients are thrown out.
    pub async fn restart_broker(&self) -> io::Result<()> {
        self.broker.send_replace(broker::start().await?);
        Ok(())
    }

    /// Closes the TLS door.
    pub async fn stop(self) {
        self.front.stop().await;
    }
}
