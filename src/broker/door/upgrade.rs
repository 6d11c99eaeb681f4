//! From HTTP to websocket (RFC 6455, section 4.2): the request is read, judged and answered.
//!
//! Any path does. The subprotocol must be offered, `mqtt`, or `mqttv3.1` as old clients call it (MQTT 3.1.1, section 6).
//! **Origin**: a browser names the page that connects. A program sends none, and is judged by its login alone. A page is
//! let in if `origins` lists it, or if it comes from this box: over plain TCP (loopback) that is a literal loopback address
//! or `localhost`, and the browser must have asked for one, so that no foreign name can be made to point here (DNS
//! rebinding); over TLS, where the certificate proves our name, and behind a unix socket, where a proxy of this box stands,
//! it is the host that the browser asked for, whatever its port.

use std::io;
use std::net::IpAddr;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::websocket::Frames;
use crate::config::plan::WebsocketPlan;
use crate::road::accept;

/// No request head is longer: browsers send cookies along.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Subprotocols, the usual one first.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What the name in `Host` is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// Plain TCP, so on loopback: any name may have been made to point here.
    Plainly,
    /// Our certificate, or a proxy of this box, stands for it.
    ByName,
}

/// A request that is not granted: status line, and a word for whoever reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal(&'static str, String);

/// Answers the request that comes. Errors are for the log; the client has been told. Not cancel-safe: the connection is
/// of no use any more.
pub(super) async fn upgrade<S>(mut below: S, plan: &WebsocketPlan, reached: Reached) -> io::Result<Frames<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut arrived = BytesMut::new();
    let judged = match head(&mut below, &mut arrived).await? {
        Some(head) => judge(&head, plan, reached),
        None => Err(refusal("431 Request Header Fields Too Large", "the request is too long")),
    };
    match judged {
        Ok(answer) => {
            below.write_all(answer.as_bytes()).await?;
            below.flush().await?;
            Ok(Frames::new(below, arrived))
        }
        Err(Refusal(status, why)) => {
            let length = why.len() + 1;
            let answer = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{why}\n"
            );
            below.write_all(answer.as_bytes()).await?;
            below.shutdown().await?;
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("no websocket: {why}")))
        }
    }
}

/// Reads to the empty line; what came behind it stays in `arrived`. `None`: it does not come.
async fn head<S: AsyncRead + Unpin>(below: &mut S, arrived: &mut BytesMut) -> io::Result<Option<String>> {
    let mut searched = 0;
    loop {
        if arrived.first().is_some_and(|first| !first.is_ascii_uppercase()) {
            return Ok(Some(String::new())); // no HTTP, so no end to wait for
        }
        let end = arrived[searched..].windows(4).position(|four| four == b"\r\n\r\n").map(|at| searched + at + 4);
        if let Some(end) = end {
            let head = arrived.split_to(end);
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        if arrived.len() > HEAD_BYTES_MAX {
            return Ok(None);
        }
        searched = arrived.len().saturating_sub(3);
        arrived.reserve(1024);
        if below.read_buf(arrived).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The answer that switches, or why there is none.
fn judge(head: &str, plan: &WebsocketPlan, reached: Reached) -> Result<String, Refusal> {
    let mut lines = head.split("\r\n");
    let mut request = lines.next().unwrap_or_default().split(' ');
    let (method, version) = (request.next(), request.nth(1));
    if !version.is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(refusal("400 Bad Request", "this is no HTTP/1.1 request"));
    }
    let fields: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let all = |name: &'static str| fields.iter().filter(move |(found, _)| found == name).map(|(_, value)| *value);
    let lists = |name: &'static str, word: &str| {
        all(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    };
    let only = |name: &'static str| {
        let mut values = all(name);
        values.next().filter(|_| values.next().is_none())
    };
    if method != Some("GET") {
        return Err(refusal("405 Method Not Allowed", "MQTT over websocket begins with GET"));
    }
    if !lists("upgrade", "websocket") || !lists("connection", "upgrade") {
        return Err(refusal("426 Upgrade Required", "here is MQTT over websocket, and no page"));
    }
    if only("sec-websocket-version") != Some("13") {
        return Err(refusal("426 Upgrade Required", "Sec-WebSocket-Version: 13 is spoken here"));
    }
    let Some(host) = only("host") else { return Err(refusal("400 Bad Request", "Host is missing")) };
    let key = only("sec-websocket-key").filter(|key| key.len() == 24);
    let Some(key) = key else { return Err(refusal("400 Bad Request", "Sec-WebSocket-Key is missing")) };
    let offered: Vec<&str> = all("sec-websocket-protocol").flat_map(|value| value.split(',')).map(str::trim).collect();
    let known = |protocol: &&str| offered.iter().copied().find(|offered| offered.eq_ignore_ascii_case(protocol));
    let Some(protocol) = PROTOCOLS.iter().find_map(known) else {
        return Err(refusal("400 Bad Request", "Sec-WebSocket-Protocol must offer mqtt"));
    };
    for origin in all("origin") {
        if !is_welcome(origin, host, plan, reached) {
            let shown: String = origin.chars().filter(|c| !c.is_control()).take(200).collect();
            let why = format!("pages of {shown} may not connect; `origins` of the listener lists those that may");
            return Err(Refusal("403 Forbidden", why));
        }
    }
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n\r\n",
        accept(key)
    ))
}

fn refusal(status: &'static str, why: &str) -> Refusal {
    Refusal(status, why.to_owned())
}

fn is_welcome(origin: &str, host: &str, plan: &WebsocketPlan, reached: Reached) -> bool {
    if plan.origins.iter().any(|listed| listed.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let Some((_, page)) = origin.split_once("://") else { return false };
    let (page, host) = (name(page), name(host));
    match reached {
        Reached::Plainly => is_loopback(page) && is_loopback(host),
        Reached::ByName => !page.is_empty() && page.eq_ignore_ascii_case(host),
    }
}

/// A host without its port and brackets.
fn name(place: &str) -> &str {
    match place.strip_prefix('[') {
        Some(inside) => inside.split(']').next().unwrap_or_default(),
        None => place.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request of RFC 6455, section 1.2, in MQTT's words.
    const GOOD: &str = "GET /chat?x=1 HTTP/1.1\r\nHost: localhost:9001\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://127.0.0.1:8000\r\n\
                        Sec-WebSocket-Protocol: chat, mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n";

    fn answered(head: &str, origins: &[&str], reached: Reached) -> Result<String, &'static str> {
        let plan = WebsocketPlan { origins: origins.iter().map(|origin| (*origin).to_owned()).collect() };
        judge(head, &plan, reached).map_err(|refusal| refusal.0)
    }

    #[test]
    fn a_good_request_is_answered_as_the_standard_shows_it() {
        let answer = answered(GOOD, &[], Reached::Plainly).expect("granted");
        assert!(answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        assert!(answer.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
        let old = answered(&GOOD.replace("chat, mqtt", "mqttv3.1"), &[], Reached::Plainly).expect("granted");
        assert!(old.contains("\r\nSec-WebSocket-Protocol: mqttv3.1\r\n"), "{old}");
    }

    #[test]
    fn each_thing_that_is_missing_has_its_status() {
        for (old, new, status) in [
            ("GET /chat?x=1 HTTP/1.1", "\u{10}\u{c}", "400 Bad Request"),
            ("GET", "POST", "405 Method Not Allowed"),
            ("Upgrade: WebSocket", "Upgrade: h2c", "426 Upgrade Required"),
            (", Upgrade", "", "426 Upgrade Required"),
            ("Version: 13", "Version: 8", "426 Upgrade Required"),
            ("Host: localhost:9001\r\n", "", "400 Bad Request"),
            ("Host: localhost:9001\r\n", "Host: localhost\r\nHost: evil.example\r\n", "400 Bad Request"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short", "400 Bad Request"),
            ("chat, mqtt", "chat", "400 Bad Request"),
        ] {
            assert_eq!(answered(&GOOD.replace(old, new), &[], Reached::Plainly), Err(status), "{old} -> {new}");
        }
    }

    #[test]
    fn pages_of_this_box_and_listed_ones_are_let_in_and_others_are_not() {
        use Reached::{ByName, Plainly};
        let asked = |origin: &str, host: &str, origins: &[&str], reached| {
            let head =
                GOOD.replace("http://127.0.0.1:8000", origin).replace("Host: localhost:9001", &format!("Host: {host}"));
            answered(&head, origins, reached).is_ok()
        };
        for (origin, host) in [
            ("http://localhost:1880", "127.0.0.1:9001"),
            ("http://[::1]:1880", "[::1]:9001"),
            ("https://LOCALHOST", "localhost"),
        ] {
            assert!(asked(origin, host, &[], Plainly), "{origin} at {host}");
        }
        for (origin, host) in [
            ("http://evil.example", "127.0.0.1:9001"),
            ("http://evil.example:9001", "evil.example:9001"), // a name that was made to point here
            ("http://localhost", "evil.example:9001"),
            ("null", "localhost"),
            ("http://localhost.evil.example", "localhost"),
            ("http://127.0.0.1@evil.example", "127.0.0.1"),
        ] {
            assert!(!asked(origin, host, &[], Plainly), "{origin} at {host}");
        }
        assert!(asked("https://gateway.plant:8443", "gateway.plant:9001", &[], ByName));
        assert!(!asked("https://evil.example", "gateway.plant:9001", &[], ByName));
        assert!(!asked("https://", "", &[], ByName));
        let listed = ["https://hmi.example", "null"];
        assert!(
            asked("https://hmi.example", "gateway.plant", &listed, ByName)
                && asked("null", "localhost", &listed, Plainly)
        );
        assert!(!asked("https://hmi.example:444", "gateway.plant", &listed, ByName), "an origin has its port");
        let without = GOOD.replace("Origin: http://127.0.0.1:8000\r\n", "");
        assert!(answered(&without, &[], Reached::Plainly).is_ok(), "no page, but a program");
    }

    #[tokio::test]
    async fn what_comes_behind_the_request_is_kept_and_a_flood_or_another_protocol_is_told_off() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let frame = [0x82, 0x81, 0, 0, 0, 0, b'x'];
        far.write_all(&[GOOD.as_bytes(), &frame].concat()).await.expect("room");
        let mut frames = upgrade(near, &WebsocketPlan::default(), Reached::Plainly).await.expect("granted");
        assert_eq!(frames.read_u8().await.expect("payload"), b'x');
        for wrong in [vec![b'x'; HEAD_BYTES_MAX + 4096], b"\x10\x0c\x00\x04MQTT\r\n\r\n".to_vec()] {
            let (near, mut far) = tokio::io::duplex(1 << 16);
            far.write_all(&wrong).await.expect("room");
            assert!(upgrade(near, &WebsocketPlan::default(), Reached::Plainly).await.is_err());
            let mut told = String::new();
            far.read_to_string(&mut told).await.expect("text");
            assert!(told.starts_with("HTTP/1.1 4"), "{told}");
        }
    }
}
