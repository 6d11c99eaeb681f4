//! Where a road leads, and what can be wrong with it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::inside::Whose;
use super::login::LoginFiles;
use super::tls::Whom;

/// A broker and what stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Host name or literal address (IPv6 without brackets).
    pub host: String,
    /// TCP port, or with QUIC the UDP port.
    pub port: u16,
    /// What carries everything else.
    pub over: Over,
    /// MQTT in websocket frames, at this path (with its leading slash). `None`: MQTT at once.
    pub websocket: Option<String>,
    /// `None`: plain TCP.
    pub tls: Option<TlsFiles>,
    /// Protocols offered in the TLS handshake (RFC 7301); empty: the extension is not sent.
    pub alpn: Vec<Vec<u8>>,
    /// Who is asked to connect for us.
    pub proxy: Option<Proxy>,
    /// Own: all the rest says nothing.
    pub whose: Whose,
}

/// What lies between IP and the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Over {
    /// TCP.
    #[default]
    Tcp,
    /// QUIC (RFC 9000): always with TLS, never through a proxy, without websocket.
    Quic {
        /// The longest silence that is normal: MQTT's keep alive.
        keep_alive: Duration,
    },
}

/// The protocol that is offered in QUIC's handshake, always: brokers and clients of others have it so too.
pub const QUIC_ALPN: &[u8] = b"mqtt";
/// UDP port of MQTT over QUIC where none is written: the one that other brokers took first.
const QUIC_PORT: u16 = 14567;
/// MQTT's keep alive where nobody says another.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Somebody who connects for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Host name or literal address (IPv6 without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Its user, if it wants one.
    pub login: LoginFiles,
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP CONNECT (RFC 9110, section 9.3.6).
    Http,
    /// SOCKS 5 (RFC 1928); it resolves the broker's name.
    Socks5,
}

/// What our sockets are bound to. Names are resolved by the system's resolver, whatever is chosen here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Bind {
    /// Whatever the system routes.
    #[default]
    System,
    /// A network interface by name (`SO_BINDTODEVICE`, socket(7)).
    Interface(String),
    /// A local address.
    Source(IpAddr),
}

/// Why a text is no address of a broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadUrl(pub String);

impl Destination {
    /// A broker on plain TCP, reached without a proxy.
    pub fn plain(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
            over: Over::Tcp,
            websocket: None,
            tls: None,
            alpn: Vec::new(),
            proxy: None,
            whose: Whose::Elsewhere,
        }
    }

    /// `mqtt://host[:1883]`, `ws://host[:80][/mqtt]`, or with files `mqtts://host[:8883]`, `wss://host[:443][/mqtt]`,
    /// `quic://host[:14567]`; IPv6 in brackets.
    pub fn from_url(url: &str, tls: Option<TlsFiles>) -> Result<Self, BadUrl> {
        let wrong = |text: &str| BadUrl(format!("{url}: {text}"));
        let expected = "expected mqtt://host, mqtts://host, ws://host/path, wss://host/path or quic://host";
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong(expected))?;
        let port = match scheme {
            "mqtt" => 1883,
            "mqtts" => 8883,
            "ws" => 80,
            "wss" => 443,
            "quic" if !cfg!(feature = "quic") => return Err(wrong("this build has no QUIC")),
            "quic" => QUIC_PORT,
            _ => return Err(wrong(expected)),
        };
        match (["mqtts", "wss", "quic"].contains(&scheme), &tls) {
            (false, Some(_)) => return Err(wrong("a CA file is for mqtts://, wss:// and quic://")),
            (true, None) => {
                let text = format!("{scheme}:// needs a CA file (public brokers: /etc/ssl/certs/ca-certificates.crt)");
                return Err(wrong(&text));
            }
            _ => {}
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let websocket = match (scheme.starts_with("ws"), path) {
            (true, "" | "/") => Some("/mqtt".to_owned()),
            (true, path) if path.chars().all(|c| c.is_ascii_graphic() && c != '#') => Some(path.to_owned()),
            (true, _) => return Err(wrong("a path has printable ASCII characters and no #")),
            (false, "" | "/") => None,
            (false, _) => return Err(wrong("only host and port, please: no path, no user")),
        };
        if authority.contains(['@', '?', '#']) {
            return Err(wrong("only host and port, please: no user"));
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
        let plain = Self { websocket, tls, ..Self::plain(host, port) };
        Ok(if scheme == "quic" { plain.over_quic(KEEP_ALIVE) } else { plain })
    }

    /// The same, over QUIC; `keep_alive` is MQTT's.
    #[must_use]
    pub fn over_quic(self, keep_alive: Duration) -> Self {
        Self { over: Over::Quic { keep_alive }, alpn: vec![QUIC_ALPN.to_vec()], ..self }
    }

    /// Whose TLS sessions are of use there.
    pub(super) fn whom(&self) -> Whom {
        let over_quic = matches!(self.over, Over::Quic { .. });
        Whom { place: self.place(), over_quic, alpn: self.alpn.clone() }
    }

    /// `host:port`, IPv6 in brackets.
    pub(super) fn place(&self) -> String {
        place(&self.host, self.port)
    }
}

/// `host:port`, IPv6 in brackets.
pub(super) fn place(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ProxyKind::Http => "http",
            ProxyKind::Socks5 => "socks5",
        };
        write!(f, "proxy {kind}://{}", place(&self.host, self.port))
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
    /// Something on this box must be mended by a person (a file, our own certificate, the socket directory, a right).
    /// Nothing was sent. Tell the operator, look again now and then.
    #[error("{0}")]
    Disabled(String),
    /// One side does not accept the other: a certificate, or the proxy our login. Tell the operator, retry with backoff.
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
        for (url, tls, host, port, path) in [
            ("mqtt://localhost", None, "localhost", 1883, None),
            ("mqtt://10.0.0.1:1884/", None, "10.0.0.1", 1884, None),
            ("mqtts://broker.example.com", tls(), "broker.example.com", 8883, None),
            ("mqtts://[::1]:18883", tls(), "::1", 18883, None),
            ("ws://localhost", None, "localhost", 80, Some("/mqtt")),
            ("ws://[::1]:9001/", None, "::1", 9001, Some("/mqtt")),
            ("wss://broker.example.com/a/b?token=1", tls(), "broker.example.com", 443, Some("/a/b?token=1")),
        ] {
            let to = Destination::from_url(url, tls).expect(url);
            assert_eq!((to.host.as_str(), to.port, to.websocket.as_deref()), (host, port, path), "{url}");
        }
        for url in [
            "localhost",
            "mqtt://",
            "mqtt://h:0",
            "mqtt://h:port",
            "mqtt://user@h",
            "mqtt://h/path",
            "mqtt://[::1",
            "mqtts://h",
            "wss://h",
            "ws://h/a b",
            "ws://h/a\r\nX: y",
            "ws://user@h/a",
            "http://h",
        ] {
            assert!(Destination::from_url(url, None).is_err(), "{url}");
        }
        assert!(Destination::from_url("ws://h", tls()).is_err(), "a CA file without TLS");
    }
}
