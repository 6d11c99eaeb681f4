//! Where a road leads, and what can be wrong with it.

use std::path::PathBuf;

/// A broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Host name or literal address (IPv6 without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// `None`: plain TCP.
    pub tls: Option<TlsFiles>,
}

/// PEM files; paths only, read at each connect, so that a renewed certificate is simply used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Bundle of trusted CAs.
    pub ca_file: PathBuf,
    /// Own certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why there is no connection; the variant says what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoadError {
    /// Something on this box must be mended by a person (a file, our own certificate, the socket directory). Nothing
    /// was sent. Tell the operator, look again now and then.
    #[error("{0}")]
    Disabled(String),
    /// One side does not accept the other's certificate. Tell the operator, retry with backoff.
    #[error("{0}")]
    Distrusted(String),
    /// Name, address or handshake failed, or took too long. Retry with backoff.
    #[error("{0}")]
    Unreachable(String),
}
