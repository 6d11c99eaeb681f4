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

/// Why a text is no address of a broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// It makes no sense.
    #[error("{0}")]
    Wrong(String),
    /// A scheme that has not landed.
    #[error("{0}://")]
    NotYet(String),
}

impl Destination {
    /// `mqtt://host[:1883]`, or `mqtts://host[:8883]` with files; IPv6 in brackets.
    pub fn from_url(url: &str, tls: Option<TlsFiles>) -> Result<Self, BadUrl> {
        let wrong = |text: &str| BadUrl::Wrong(format!("{url}: {text}"));
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("expected mqtt://host or mqtts://host"))?;
        let (port, tls) = match (scheme, tls) {
            ("mqtt", None) => (1883, None),
            ("mqtt", Some(_)) => return Err(wrong("a CA file is for mqtts://")),
            ("mqtts", Some(tls)) => (8883, Some(tls)),
            ("mqtts", None) => {
                return Err(wrong("mqtts:// needs a CA file (public brokers: /etc/ssl/certs/ca-certificates.crt)"));
            }
            ("ws" | "wss", _) => return Err(BadUrl::NotYet(scheme.to_owned())),
            _ => return Err(wrong("expected mqtt:// or mqtts://")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '@', '?']) {
            return Err(wrong("only host and port, please: no path, no user"));
        }
        let (host, after) = match authority.strip_prefix('[') {
            Some(inner) => inner.split_once(']').ok_or_else(|| wrong("a bracket is not closed"))?,
            None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
        };
        let port = match after.strip_prefix(':') {
            Some(text) => text.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong("the port is 1 to 65535"))?,
            None if after.is_empty() => port,
            None => return Err(wrong("expected a port after the address")),
        };
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_people_write_them_and_refused_with_a_reason() {
        let tls = || Some(TlsFiles { ca_file: "ca.pem".into(), identity: None });
        for (url, tls, host, port) in [
            ("mqtt://localhost", None, "localhost", 1883),
            ("mqtt://10.0.0.1:1884/", None, "10.0.0.1", 1884),
            ("mqtts://broker.example.com", tls(), "broker.example.com", 8883),
            ("mqtts://[::1]:18883", tls(), "::1", 18883),
        ] {
            let to = Destination::from_url(url, tls).expect(url);
            assert_eq!((to.host.as_str(), to.port), (host, port), "{url}");
        }
        for url in [
            "localhost",
            "mqtt://",
            "mqtt://h:0",
            "mqtt://h:port",
            "mqtt://user@h",
            "mqtt://[::1",
            "mqtts://h",
            "http://h",
        ] {
            assert!(matches!(Destination::from_url(url, None), Err(BadUrl::Wrong(_))), "{url}");
        }
        assert_eq!(Destination::from_url("wss://h", None), Err(BadUrl::NotYet("wss".into())));
    }
}
