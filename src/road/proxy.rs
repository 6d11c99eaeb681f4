//! Through a proxy: HTTP CONNECT (RFC 9110, section 9.3.6) or SOCKS 5 (RFC 1928), with user and password where it wants them
//! (Basic, RFC 7617; RFC 1929). The broker's name is sent as it is: the proxy resolves it. TLS begins only afterwards, with
//! the broker itself, so that a proxy sees no more than a name and a port.
//!
//! ```text
//! SOCKS 5   we     05 · count · methods (00 none, 02 password)
//!           proxy  05 · chosen (FF: none of them)
//!           we     01 · length · user · length · password              when 02 was chosen
//!           proxy  01 · 00 accepted
//!           we     05 · 01 CONNECT · 00 · address · port u16           address: 01 and 4 bytes, 03 length name, 04 and 16 bytes
//!           proxy  05 · 00 connected, else a reason · 00 · address · port
//! ```

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::destination::{Destination, Proxy, ProxyKind, RoadError};
use super::http;
use super::login::Login;

/// A proxy connects for us, over a link that may be slow, before it answers.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// RFC 1928 and 1929: a length is one byte.
const TEXT_BYTES_MAX: usize = 255;

/// Asks the proxy at the other end of `stream` for a connection to the broker. Afterwards the stream is that connection.
pub(super) async fn pass<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proxy: &Proxy,
    login: Option<&Login>,
    to: &Destination,
) -> Result<(), RoadError> {
    match proxy.kind {
        ProxyKind::Http => connect(stream, proxy, login, to).await,
        ProxyKind::Socks5 => {
            let passed = timeout(ANSWER_MAX, socks(stream, login, to)).await;
            let refused = passed.unwrap_or(Err(Refused::Late));
            refused.map_err(|refused| match &refused {
                Refused::Login | Refused::Method => RoadError::Distrusted(format!("{proxy}: {refused}")),
                Refused::Long(_) => RoadError::Disabled(format!("{proxy}: {refused}")),
                _ => RoadError::Unreachable(format!("{proxy}: {refused}")),
            })
        }
    }
}

async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proxy: &Proxy,
    login: Option<&Login>,
    to: &Destination,
) -> Result<(), RoadError> {
    let place = to.place();
    let authorization = login.map_or_else(String::new, |login| {
        let text = STANDARD.encode(format!("{}:{}", login.username, login.password));
        format!("Proxy-Authorization: Basic {text}\r\n")
    });
    let request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{authorization}\r\n");
    let head = http::ask(stream, &request, ANSWER_MAX).await;
    let head = head.map_err(|error| RoadError::Unreachable(format!("{proxy}: {error}")))?;
    match head.status {
        200..=299 => Ok(()),
        407 if login.is_some() => Err(RoadError::Distrusted(format!("{proxy} refuses user name or password"))),
        407 => Err(RoadError::Distrusted(format!("{proxy} wants a user name and a password"))),
        status => Err(RoadError::Unreachable(format!("{proxy} does not connect to {place}: {status} {}", head.reason))),
    }
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no answer within {} s", ANSWER_MAX.as_secs())]
    Late,
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("what came is no SOCKS 5 answer")]
    NotSocks,
    #[error("it accepts none of our ways to log in")]
    Method,
    #[error("it refuses user name or password")]
    Login,
    #[error("{0} is longer than 255 bytes, or empty")]
    Long(&'static str),
    #[error("it does not connect to {0}: {1}")]
    Reason(String, &'static str),
}

async fn socks<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    login: Option<&Login>,
    to: &Destination,
) -> Result<(), Refused> {
    let greeting: &[u8] = if login.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
    send(stream, greeting).await?;
    match (take(stream).await?, login) {
        ([5, 0], _) => {}
        ([5, 2], Some(login)) => {
            let mut request = vec![1];
            push_text(&mut request, &login.username, "the user name")?;
            push_text(&mut request, &login.password, "the password")?;
            send(stream, &request).await?;
            match take(stream).await? {
                [1, 0] => {}
                [1, _] => return Err(Refused::Login),
                _ => return Err(Refused::NotSocks),
            }
        }
        ([5, _], _) => return Err(Refused::Method),
        _ => return Err(Refused::NotSocks),
    }
    let mut request = vec![5, 1, 0];
    match to.host.parse() {
        Ok(IpAddr::V4(ip)) => request.extend([1].into_iter().chain(ip.octets())),
        Ok(IpAddr::V6(ip)) => request.extend([4].into_iter().chain(ip.octets())),
        Err(_) => {
            request.push(3);
            push_text(&mut request, &to.host, "the host name")?;
        }
    }
    request.extend(to.port.to_be_bytes());
    send(stream, &request).await?;
    let [version, reply, _, kind]: [u8; 4] = take(stream).await?;
    if version != 5 {
        return Err(Refused::NotSocks);
    }
    if reply != 0 {
        return Err(Refused::Reason(to.place(), reason(reply)));
    }
    let address = match kind {
        1 => 4,
        3 => usize::from(stream.read_u8().await?),
        4 => 16,
        _ => return Err(Refused::NotSocks),
    };
    let mut bound = vec![0; address + 2]; // the proxy's own end of it, which nobody needs
    stream.read_exact(&mut bound).await?;
    Ok(())
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

async fn take<S: AsyncRead + Unpin, const N: usize>(stream: &mut S) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn push_text(into: &mut Vec<u8>, text: &str, what: &'static str) -> Result<(), Refused> {
    let length = Some(text.len()).filter(|length| (1..=TEXT_BYTES_MAX).contains(length));
    into.push(length.and_then(|length| u8::try_from(length).ok()).ok_or(Refused::Long(what))?);
    into.extend(text.as_bytes());
    Ok(())
}

/// RFC 1928, section 6.
fn reason(reply: u8) -> &'static str {
    match reply {
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable, or its name unknown",
        5 => "connection refused",
        6 => "it took too long",
        7 | 8 => "it cannot do that",
        _ => "general failure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::road::login::LoginFiles;
    use tokio::io::DuplexStream;

    fn proxy(kind: ProxyKind) -> Proxy {
        Proxy { kind, host: "proxy".into(), port: 3128, login: LoginFiles::default() }
    }

    fn login() -> Login {
        Login { username: "gw".into(), password: "secret".into() }
    }

    /// What we send before each answer of the proxy, and that answer.
    type Play<'a> = &'a [(&'a [u8], &'a [u8])];

    async fn play(mut far: DuplexStream, play: Play<'_>) -> DuplexStream {
        for (expected, answer) in play {
            let mut heard = vec![0; expected.len()];
            far.read_exact(&mut heard).await.expect("what is expected");
            assert_eq!(heard, *expected, "{}", String::from_utf8_lossy(&heard));
            far.write_all(answer).await.expect("taken");
        }
        far
    }

    async fn through(kind: ProxyKind, login: Option<Login>, host: &str, steps: Play<'_>) -> Result<(), RoadError> {
        let (mut near, far) = tokio::io::duplex(4096);
        let (proxy, to) = (proxy(kind), Destination::plain(host, 8883));
        let (passed, mut far) = tokio::join!(pass(&mut near, &proxy, login.as_ref(), &to), play(far, steps));
        if passed.is_ok() {
            far.write_all(b"from the broker").await.expect("taken");
            let mut first: [u8; 15] = [0; 15];
            near.read_exact(&mut first).await.expect("comes through");
            assert_eq!(&first, b"from the broker");
        }
        passed
    }

    fn is_distrusted(passed: &Result<(), RoadError>, why: &str) -> bool {
        matches!(passed, Err(RoadError::Distrusted(text)) if text.contains(why))
    }

    fn is_unreachable(passed: &Result<(), RoadError>, why: &str) -> bool {
        matches!(passed, Err(RoadError::Unreachable(text)) if text.contains(why) && !text.contains("secret"))
    }

    const V6: &[u8] = b"CONNECT [2001:db8::1]:8883 HTTP/1.1\r\nHost: [2001:db8::1]:8883\r\n\r\n";
    const NAME: &[u8] = b"CONNECT broker:8883 HTTP/1.1\r\nHost: broker:8883\r\n\r\n";
    const LOGIN: &[u8] =
        b"CONNECT broker:8883 HTTP/1.1\r\nHost: broker:8883\r\nProxy-Authorization: Basic Z3c6c2VjcmV0\r\n\r\n";

    #[tokio::test]
    async fn an_http_proxy_is_asked_by_name_with_basic_login_and_in_brackets() {
        use ProxyKind::Http;
        let ok: &[u8] = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n";
        assert_eq!(through(Http, None, "broker", &[(NAME, ok)]).await, Ok(()));
        assert_eq!(through(Http, Some(login()), "broker", &[(LOGIN, ok)]).await, Ok(()));
        assert_eq!(through(Http, None, "2001:db8::1", &[(V6, b"HTTP/1.0 200\r\n\r\n")]).await, Ok(()));
    }

    #[tokio::test]
    async fn an_http_proxy_that_refuses_is_understood() {
        use ProxyKind::Http;
        let wants: &[u8] = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n";
        assert!(is_distrusted(&through(Http, None, "broker", &[(NAME, wants)]).await, "wants a user name"));
        assert!(is_distrusted(&through(Http, Some(login()), "broker", &[(LOGIN, wants)]).await, "refuses user name"));
        let bad: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\n\r\n";
        assert!(is_unreachable(&through(Http, None, "broker", &[(NAME, bad)]).await, "502 Bad Gateway"));
        assert!(is_unreachable(&through(Http, None, "broker", &[(NAME, b"220 smtp ready\r\n")]).await, "no HTTP"));
    }

    const HELLO: &[u8] = &[5, 1, 0];
    const HELLO_LOGIN: &[u8] = &[5, 2, 0, 2];
    const SECRET: &[u8] = b"\x01\x02gw\x06secret";
    // CONNECT to a name of 6 letters, port 8883 = 22 B3
    const TO_NAME: &[u8] = b"\x05\x01\x00\x03\x06broker\x22\xB3";
    const TO_V4: &[u8] = &[5, 1, 0, 1, 10, 0, 0, 7, 0x22, 0xB3];
    const TO_V6: &[u8] = &[5, 1, 0, 4, 0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x22, 0xB3];
    const BOUND_V4: &[u8] = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    const BOUND_V6: &[u8] = &[5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const BOUND_NAME: &[u8] = b"\x05\x00\x00\x03\x05proxy\x00\x00";

    #[tokio::test]
    async fn a_socks_proxy_gets_names_and_addresses_of_both_families() {
        use ProxyKind::Socks5;
        let plain = |to: &'static [u8], bound: &'static [u8]| [(HELLO, [5, 0].as_slice()), (to, bound)];
        assert_eq!(through(Socks5, None, "broker", &plain(TO_NAME, BOUND_V4)).await, Ok(()));
        assert_eq!(through(Socks5, None, "10.0.0.7", &plain(TO_V4, BOUND_V6)).await, Ok(()));
        assert_eq!(through(Socks5, None, "2001:db8::1", &plain(TO_V6, BOUND_NAME)).await, Ok(()));
        let logged_in: Play = &[(HELLO_LOGIN, &[5, 2]), (SECRET, &[1, 0]), (TO_NAME, BOUND_V4)];
        assert_eq!(through(Socks5, Some(login()), "broker", logged_in).await, Ok(()));
        let waived: Play = &[(HELLO_LOGIN, &[5, 0]), (TO_NAME, BOUND_V4)];
        assert_eq!(through(Socks5, Some(login()), "broker", waived).await, Ok(()));
    }

    #[tokio::test]
    async fn a_socks_proxy_that_refuses_or_talks_nonsense_is_understood() {
        use ProxyKind::Socks5;
        assert!(is_distrusted(&through(Socks5, None, "broker", &[(HELLO, &[5, 0xFF])]).await, "none of our ways"));
        assert!(is_distrusted(&through(Socks5, None, "broker", &[(HELLO, &[5, 2])]).await, "none of our ways"));
        let wrong: Play = &[(HELLO_LOGIN, &[5, 2]), (SECRET, &[1, 1])];
        assert!(is_distrusted(&through(Socks5, Some(login()), "broker", wrong).await, "refuses user name"));
        let refused: Play = &[(HELLO, &[5, 0]), (TO_NAME, &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0])];
        assert!(is_unreachable(&through(Socks5, None, "broker", refused).await, "broker:8883: connection refused"));
        for nonsense in [b"HTTP/1.1 400".as_slice(), &[4, 90], &[5, 7]] {
            let passed = through(Socks5, None, "broker", &[(HELLO, nonsense)]).await;
            assert!(passed.is_err(), "{nonsense:?}");
        }
        let odd: Play = &[(HELLO, &[5, 0]), (TO_NAME, &[5, 0, 0, 9, 0, 0, 0, 0, 0, 0])];
        assert!(is_unreachable(&through(Socks5, None, "broker", odd).await, "no SOCKS 5"));
        let cut: Play = &[(HELLO, &[5, 0]), (TO_NAME, &[5, 0, 0, 1, 0])];
        let (mut near, far) = tokio::io::duplex(4096);
        let to = Destination::plain("broker", 8883);
        let proxy = proxy(Socks5);
        let (passed, ()) = tokio::join!(pass(&mut near, &proxy, None, &to), async { drop(play(far, cut).await) });
        assert!(is_unreachable(&passed, "eof"), "{passed:?}");
        let long = "x".repeat(256);
        assert!(matches!(through(Socks5, None, &long, &[(HELLO, &[5, 0])]).await, Err(RoadError::Disabled(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_says_nothing_costs_a_minute() {
        for kind in [ProxyKind::Http, ProxyKind::Socks5] {
            let began = tokio::time::Instant::now();
            let (mut near, _far) = tokio::io::duplex(4096);
            let passed = pass(&mut near, &proxy(kind), None, &Destination::plain("broker", 8883)).await;
            assert!(is_unreachable(&passed, "no answer within 60 s"), "{passed:?}");
            assert_eq!(began.elapsed().as_secs(), 60);
        }
    }
}
