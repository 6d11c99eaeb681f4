//! TLS over a connection that somebody else made: for what is no broker, such as a field device.
//!
//! The same rules as for the road to a broker: files are read again each time, bad ones do not end a good configuration, a
//! box without the time accepts certificates that may be valid.

use tokio::io::{AsyncRead, AsyncWrite};

use super::destination::{RoadError, TlsFiles};
use super::reach::shake;
use super::tls::{Configs, Now, Whom};

/// A secured connection.
pub type Secured<T> = tokio_rustls::client::TlsStream<T>;

/// Remembers TLS sessions from one connection to the next.
pub struct Handshake(Configs);

impl Handshake {
    /// `now` dates certificates.
    pub fn new(now: Now) -> Self {
        Self(Configs::new(now))
    }

    /// Secures a connection to whom this name belongs (a host name or an address). Takes up to 60 s; cancel-safe.
    pub async fn shake<T>(&mut self, files: &TlsFiles, name: &str, wire: T) -> Result<Secured<T>, RoadError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let whom = Whom { place: name.to_owned(), over_quic: false, alpn: Vec::new() };
        let config = self.0.load(files, &whom).await?.config;
        shake(wire, name, name, config).await
    }
}
