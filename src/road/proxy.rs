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
